//! SELinux: whether containers get labels, and why not.

use engine::selinux::{Mode, Policy, Unused};

use super::finding::Finding;
use crate::{assemble, config::Config};

/// The name of this part.
const AREA: &str = "selinux";

/// All of it.
pub(super) fn check(config: &Config) -> Finding {
    let enabled = config.selinux.enabled;
    judge(enabled, engine::selinux::look(assemble::selinux(config)))
}

fn judge(enabled: Option<bool>, found: Result<Policy, Unused>) -> Finding {
    let why = match found {
        Ok(policy) => {
            let mode = match policy.mode {
                Mode::Enforcing => "enforcing",
                Mode::Permissive => "permissive",
            };
            let kind = policy.labels.process.kind;
            return Finding::ok(AREA, format!("{mode}; containers run as {kind}"));
        }
        Err(why) => why,
    };
    let text = why.to_string();
    match (why, enabled) {
        (_, Some(true)) => Finding::fail(
            AREA,
            format!("{text}, and `selinux.enabled` demands it"),
            "boot with a policy that knows containers, or set `selinux.enabled: null`",
        ),
        (Unused::Unknown(_), _) => Finding::warn(
            AREA,
            text,
            "install container-selinux, or set `selinux.enabled: false`",
        ),
        (Unused::Inactive | Unused::TurnedOff, _) => Finding::ok(AREA, text),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::check::finding::Level;

    fn policy() -> Policy {
        Policy {
            mode: Mode::Enforcing,
            labels: spec::selinux::PolicyLabels::default(),
            categories: 1024,
        }
    }

    #[rstest]
    #[case::active(
        None,
        Ok(policy()),
        Level::Ok,
        "enforcing; containers run as container_t"
    )]
    #[case::inactive(None, Err(Unused::Inactive), Level::Ok, "not active")]
    #[case::turned_off(Some(false), Err(Unused::TurnedOff), Level::Ok, "turns labels off")]
    #[case::demanded(Some(true), Err(Unused::Inactive), Level::Fail, "demands it")]
    #[case::poor_policy(None, Err(Unused::Unknown("a:b:c".to_owned())), Level::Warn, "does not know a:b:c")]
    fn findings(
        #[case] enabled: Option<bool>,
        #[case] found: Result<Policy, Unused>,
        #[case] level: Level,
        #[case] words: &str,
    ) {
        let finding = judge(enabled, found);
        assert_eq!(finding.level, level);
        assert!(finding.found.contains(words), "{finding:?}");
    }
}
