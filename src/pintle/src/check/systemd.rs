//! systemd, where it is the cgroup driver.

use std::path::Path;

use systemd::Systemd;

use super::finding::Finding;
use crate::{
    config::{CgroupDriver, Config},
    exit::in_full,
};

/// Oldest version whose properties are all that is used (`CPUQuotaPeriodUSec`, `AllowedCPUs`, `CollectMode`).
const OLDEST: u32 = 244;

/// What is said of it; nothing where neither the configuration nor the node has to do with it.
pub(super) async fn check(config: &Config) -> Option<Finding> {
    if config.cgroup.driver == CgroupDriver::Systemd {
        let systemd = Systemd::of_node();
        return Some(match systemd.version().await {
            Ok(version) => of_version(&version),
            Err(error) => Finding::fail(
                "systemd",
                format!(
                    "`cgroup.driver` is systemd, which does not answer: {}",
                    in_full(&error)
                ),
                "start systemd and its D-Bus, or set `cgroup.driver: cgroupfs`",
            ),
        });
    }
    runs_here().then(|| {
        Finding::warn(
            "systemd",
            "systemd runs here, and `cgroup.driver` is cgroupfs: both manage cgroups, and neither knows of the other",
            "set `cgroup.driver: systemd`",
        )
    })
}

/// As sd_booted(3) finds out.
fn runs_here() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn of_version(version: &str) -> Finding {
    let digits = version
        .split(|c: char| !c.is_ascii_digit())
        .find(|part| !part.is_empty());
    match digits.and_then(|digits| digits.parse::<u32>().ok()) {
        Some(number) if number < OLDEST => Finding::warn(
            "systemd",
            format!(
                "version {version}: not all limits can be told to it, and a reload may lose them"
            ),
            format!("install systemd {OLDEST} or later, or set `cgroup.driver: cgroupfs`"),
        ),
        _ => Finding::ok("systemd", format!("version {version}")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::check::finding::Level;

    #[rstest]
    #[case("252 (252.39-1~deb12u2)", Level::Ok)]
    #[case("v257.3", Level::Ok)]
    #[case("237", Level::Warn)]
    #[case("unknown", Level::Ok)]
    fn versions(#[case] version: &str, #[case] level: Level) {
        assert_eq!(of_version(version).level, level);
    }
}
