//! SELinux labels of a container's process and of its files.

use crate::model::SelinuxLabel;

/// The two labels of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelinuxContext {
    /// `user:role:type:level` of the process.
    pub process: String,
    /// `user:role:type:level` of the root filesystem and relabelled volumes.
    pub mount: String,
}

/// The labels for what was asked: missing parts are those of an ordinary container, and `level` (the pod's MCS
/// categories, such as `s0:c12,c900`) stands in for a missing level.
pub fn context(asked: &SelinuxLabel, level: &str) -> SelinuxContext {
    let or = |part: &str, default: &str| if part.is_empty() { default } else { part }.to_owned();
    let user = or(&asked.user, "system_u");
    let level = or(&asked.level, level);
    SelinuxContext {
        process: format!(
            "{user}:{}:{}:{level}",
            or(&asked.role, "system_r"),
            or(&asked.kind, "container_t")
        ),
        // Files never carry the process' role or type: the policy labels what a container may write this way.
        mount: format!("{user}:object_r:container_file_t:{level}"),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn missing_parts_are_those_of_an_ordinary_container() {
        let labels = context(&SelinuxLabel::default(), "s0:c1,c2");
        assert_eq!(labels.process, "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(labels.mount, "system_u:object_r:container_file_t:s0:c1,c2");
    }

    #[test]
    fn given_parts_win() {
        let asked = SelinuxLabel {
            kind: "spc_t".to_owned(),
            level: "s0:c7,c8".to_owned(),
            ..SelinuxLabel::default()
        };
        let labels = context(&asked, "s0:c1,c2");
        assert_eq!(labels.process, "system_u:system_r:spc_t:s0:c7,c8");
        assert_eq!(labels.mount, "system_u:object_r:container_file_t:s0:c7,c8");
    }
}
