//! What the node's policy calls containers and their files: `lxc_contexts`, which every container tool reads.

use super::Context;

/// Longest such file that is looked at. Real ones have a few hundred bytes.
pub const MAX_FILE_BYTES: usize = 64 << 10;

/// The contexts of ordinary containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyLabels {
    /// Of processes. Its level is empty if the policy has none.
    pub process: Context,
    /// Of files that one container may write.
    pub file: Context,
    /// Of files that every container may read.
    pub readonly_file: Context,
    /// Of the monitors of virtual machines that are containers.
    pub machine: Option<Context>,
}

impl Default for PolicyLabels {
    fn default() -> Self {
        let context = |role: &str, kind: &str| Context {
            user: "system_u".to_owned(),
            role: role.to_owned(),
            kind: kind.to_owned(),
            level: "s0".to_owned(),
        };
        let file = context("object_r", "container_file_t");
        Self {
            process: context("system_r", "container_t"),
            readonly_file: file.clone(),
            file,
            machine: None,
        }
    }
}

impl PolicyLabels {
    /// Reads lines such as `process = "system_u:system_r:container_t:s0"`. What is not there, or cannot be read, has the
    /// usual name.
    pub fn parse(text: &str) -> Self {
        let find = |wanted: &str| {
            text.lines()
                .map(str::trim)
                .filter(|line| !line.starts_with(['#', ';']))
                .filter_map(|line| line.split_once('='))
                .filter(|(key, _)| key.trim() == wanted)
                .find_map(|(_, value)| value.trim().trim_matches('"').parse().ok())
        };
        let usual = Self::default();
        let file: Context = find("file").unwrap_or(usual.file);
        Self {
            process: find("process").unwrap_or(usual.process),
            readonly_file: find("ro_file").unwrap_or_else(|| file.clone()),
            machine: find("kvm_process"),
            file,
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_usual_file_is_read() {
        let text = r#"
            # a comment
            process = "system_u:system_r:container_t:s0"
            content = "system_u:object_r:virt_var_lib_t:s0"
            file="system_u:object_r:container_file_t:s0"
            ro_file = "system_u:object_r:container_ro_file_t:s0"
            ;process = "a:b:c:d"
            sandbox_kvm_process = "system_u:system_r:svirt_qemu_net_t:s0"
            kvm_process = "system_u:system_r:container_kvm_t:s0"
        "#;
        let labels = PolicyLabels::parse(text);
        let usual = PolicyLabels::default();
        assert_eq!(labels.process, usual.process);
        assert_eq!(labels.file, usual.file);
        assert_eq!(labels.readonly_file.kind, "container_ro_file_t");
        let machine = labels.machine.map(|machine| machine.kind);
        assert_eq!(machine.as_deref(), Some("container_kvm_t"));
    }

    #[test]
    fn a_policy_without_levels_says_so() {
        let labels =
            PolicyLabels::parse("process = \"u:r:svirt_lxc_t\"\nfile = \"u:object_r:f_t\"");
        assert_eq!(labels.process.level, "");
        assert_eq!(labels.readonly_file, labels.file);
    }

    #[test]
    fn what_cannot_be_read_is_as_usual() {
        for text in ["", "process", "process = \"nonsense\"", "=\n==\n\0"] {
            assert_eq!(
                PolicyLabels::parse(text),
                PolicyLabels::default(),
                "{text:?}"
            );
        }
    }
}
