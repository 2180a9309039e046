//! The kernel: version, namespaces, system call filters, settings.

use std::{fs, path::Path};

use sys::kernel::Version;

use super::finding::Finding;

/// Without these the server or its monitor cannot work: openat2, pidfd_getfd.
const NEEDED: Version = Version { major: 5, minor: 6 };
/// Volatile overlays (5.10) and mount_setattr for mounts that are read-only all the way down (5.12).
const WANTED: Version = Version {
    major: 5,
    minor: 12,
};
/// Every namespace that pods and containers are made of.
const NAMESPACES: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
/// Each pod's runtime, kubelet and many programs in pods take an inotify instance.
const INOTIFY_INSTANCES_WANTED: u64 = 512;

/// All of it.
pub(super) fn check() -> Vec<Finding> {
    let mut findings = vec![version(sys::kernel::version(), &sys::kernel::release())];
    let absent: Vec<&str> = NAMESPACES
        .into_iter()
        .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
        .collect();
    findings.push(namespaces(&absent));
    findings.push(seccomp(
        read("/proc/sys/kernel/seccomp/actions_avail").as_deref(),
    ));
    findings.push(forwarding(read("/proc/sys/net/ipv4/ip_forward").as_deref()));
    findings.push(bridge_filter(
        read("/proc/sys/net/bridge/bridge-nf-call-iptables").as_deref(),
    ));
    findings.push(inotify(
        read("/proc/sys/fs/inotify/max_user_instances").as_deref(),
    ));
    findings
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn version(found: Version, release: &str) -> Finding {
    let text = format!("Linux {release}");
    if found < NEEDED {
        Finding::fail("kernel", text, format!("install Linux {NEEDED} or later"))
    } else if found < WANTED {
        Finding::warn(
            "kernel",
            format!("{text} has no recursive read-only mounts, or no volatile overlays"),
            format!("install Linux {WANTED} or later"),
        )
    } else {
        Finding::ok("kernel", text)
    }
}

fn namespaces(absent: &[&str]) -> Finding {
    if absent.is_empty() {
        Finding::ok("namespaces", NAMESPACES.join(", "))
    } else {
        Finding::fail(
            "namespaces",
            format!("missing: {}", absent.join(", ")),
            "use a kernel built with CONFIG_NAMESPACES and all kinds below it",
        )
    }
}

fn seccomp(actions: Option<&str>) -> Finding {
    match actions {
        Some(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            Finding::ok("seccomp", "system call filters work")
        }
        _ => Finding::warn(
            "seccomp",
            "no system call filters: pods that ask for one will not start",
            "use a kernel built with CONFIG_SECCOMP_FILTER",
        ),
    }
}

fn forwarding(value: Option<&str>) -> Finding {
    if value == Some("1") {
        Finding::ok("forwarding", "net.ipv4.ip_forward is 1")
    } else {
        Finding::warn(
            "forwarding",
            "net.ipv4.ip_forward is not 1: pods may not reach other nodes",
            "sysctl -w net.ipv4.ip_forward=1, and put it into /etc/sysctl.d",
        )
    }
}

fn bridge_filter(value: Option<&str>) -> Finding {
    match value {
        Some("1") => Finding::ok("bridge", "bridged traffic passes iptables"),
        Some(_) => Finding::warn(
            "bridge",
            "bridged traffic does not pass iptables: kube-proxy's rules miss traffic between pods of one node",
            "sysctl -w net.bridge.bridge-nf-call-iptables=1, unless your network plugin does without",
        ),
        None => Finding::warn(
            "bridge",
            "br_netfilter is not there: kube-proxy's rules miss traffic between pods of one node",
            "modprobe br_netfilter, unless your network plugin does without",
        ),
    }
}

fn inotify(value: Option<&str>) -> Finding {
    match value.and_then(|text| text.parse::<u64>().ok()) {
        Some(instances) if instances < INOTIFY_INSTANCES_WANTED => Finding::warn(
            "inotify",
            format!("{instances} instances per user: too few for many pods"),
            format!("sysctl -w fs.inotify.max_user_instances={INOTIFY_INSTANCES_WANTED} or more"),
        ),
        Some(instances) => Finding::ok("inotify", format!("{instances} instances per user")),
        None => Finding::warn(
            "inotify",
            "no inotify: changes of the CNI configuration are not seen",
            "use a kernel built with CONFIG_INOTIFY_USER",
        ),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use sys::kernel::Version;

    use super::{bridge_filter, forwarding, inotify, namespaces, seccomp, version};
    use crate::check::finding::Level;

    #[rstest]
    #[case(6, 18, Level::Ok)]
    #[case(5, 12, Level::Ok)]
    #[case(5, 11, Level::Warn)]
    #[case(5, 6, Level::Warn)]
    #[case(5, 5, Level::Fail)]
    #[case(4, 19, Level::Fail)]
    fn versions(#[case] major: u32, #[case] minor: u32, #[case] expected: Level) {
        let finding = version(Version { major, minor }, "x");
        assert_eq!(finding.level, expected);
        assert_eq!(finding.mend.is_some(), expected != Level::Ok);
    }

    #[rstest]
    #[case(namespaces(&[]), Level::Ok)]
    #[case(namespaces(&["net"]), Level::Fail)]
    #[case(seccomp(Some("kill_process errno allow")), Level::Ok)]
    #[case(seccomp(None), Level::Warn)]
    #[case(forwarding(Some("1")), Level::Ok)]
    #[case(forwarding(Some("0")), Level::Warn)]
    #[case(bridge_filter(Some("1")), Level::Ok)]
    #[case(bridge_filter(Some("0")), Level::Warn)]
    #[case(bridge_filter(None), Level::Warn)]
    #[case(inotify(Some("128")), Level::Warn)]
    #[case(inotify(Some("8192")), Level::Ok)]
    #[case(inotify(None), Level::Warn)]
    fn settings(#[case] finding: crate::check::finding::Finding, #[case] expected: Level) {
        assert_eq!(finding.level, expected, "{finding:?}");
    }
}
