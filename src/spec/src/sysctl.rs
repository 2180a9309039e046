//! Which kernel parameters a pod may set: those that belong to a namespace of its own.

use std::collections::BTreeMap;

use crate::error::SpecError;
use crate::model::{NamespaceMode, Namespaces, PodConfig};

/// Why a sysctl is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SysctlProblem {
    #[error("is not the name of a sysctl")]
    Name,
    #[error("the value must not contain NUL or line feed")]
    Value,
    #[error("belongs to the whole node, not to a namespace")]
    NotNamespaced,
    #[error("belongs to the network namespace, which the pod shares with the node")]
    NodeNetwork,
    #[error("belongs to the IPC namespace, which the pod shares with the node")]
    NodeIpc,
    #[error("the host name is set by config.hostname")]
    Hostname,
}

/// Parameters of the IPC namespace below `kernel`.
const IPC: &[&str] = &[
    "kernel.auto_msgmni",
    "kernel.msg_next_id",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.sem_next_id",
    "kernel.shm_next_id",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// The segments of a name. Like sysctl(8): where a slash comes before any dot, slashes part and dots are letters (as in
/// `net/ipv4/conf/eth0.100/forwarding`).
fn segments(name: &str) -> Vec<String> {
    let slashes = name
        .find(['.', '/'])
        .is_some_and(|at| name.as_bytes()[at] == b'/');
    let parts = name.split(if slashes { '/' } else { '.' });
    // In dotted form a slash stands for a dot inside an interface name.
    parts
        .map(|part| {
            if slashes {
                part.to_owned()
            } else {
                part.replace('/', ".")
            }
        })
        .collect()
}

/// Where the parameter is below `/proc/sys`, such as `net/ipv4/ip_forward`. `None` for what cannot be a name.
pub fn proc_path(name: &str) -> Option<String> {
    let segments = segments(name);
    let fine = segments.len() > 1
        && name.len() <= 256
        && segments.iter().all(|segment| {
            !matches!(segment.as_str(), "" | "." | "..")
                && segment
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && byte != b'/')
        });
    fine.then(|| segments.join("/"))
}

fn problem(name: &str, value: &str, namespaces: &Namespaces) -> Option<SysctlProblem> {
    let Some(path) = proc_path(name) else {
        return Some(SysctlProblem::Name);
    };
    if value.contains(['\0', '\n']) {
        return Some(SysctlProblem::Value);
    }
    let dotted = path.replace('/', ".");
    if path.starts_with("net/") {
        return (namespaces.network == NamespaceMode::Node).then_some(SysctlProblem::NodeNetwork);
    }
    if path.starts_with("fs/mqueue/") || IPC.contains(&dotted.as_str()) {
        return (namespaces.ipc == NamespaceMode::Node).then_some(SysctlProblem::NodeIpc);
    }
    if matches!(dotted.as_str(), "kernel.hostname" | "kernel.domainname") {
        return Some(SysctlProblem::Hostname);
    }
    Some(SysctlProblem::NotNamespaced)
}

/// Whether a pod with these namespaces may set this.
pub fn validate(name: &str, value: &str, namespaces: &Namespaces) -> Result<(), SpecError> {
    match problem(name, value, namespaces) {
        None => Ok(()),
        Some(problem) => Err(SpecError::Sysctl {
            name: name.chars().take(128).collect(),
            problem,
        }),
    }
}

/// What is to be set in a pod's namespaces, by dotted name: its own parameters, which must all be allowed, and those of
/// the configuration that its namespaces have.
pub fn effective(
    pod: &PodConfig,
    defaults: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, SpecError> {
    let namespaces = &pod.security.namespaces;
    let key = |name: &str| -> String {
        // The interface-name form is kept, for only the slashes say which dots are letters.
        if segments(name).iter().any(|segment| segment.contains('.')) {
            name.to_owned()
        } else {
            segments(name).join(".")
        }
    };
    let mut result: BTreeMap<String, String> = defaults
        .iter()
        .filter(|(name, value)| problem(name, value, namespaces).is_none())
        .map(|(name, value)| {
            let name = key(name);
            let value = fitting(&name, value, namespaces);
            (name, value)
        })
        .collect();
    for (name, value) in &pod.sysctls {
        validate(name, value, namespaces)?;
        result.insert(key(name), value.clone());
    }
    Ok(result)
}

/// The value of a default in the pod's user namespace: the kernel refuses groups that are nobody there, and "all groups" is
/// a usual default.
fn fitting(name: &str, value: &str, namespaces: &Namespaces) -> String {
    const PING_GROUPS: &str = "net.ipv4.ping_group_range";
    let Some(last) = namespaces.user.as_ref().and_then(|user| {
        let end = |range: &crate::model::IdMapping| range.container_id + (range.length - 1);
        user.gids.iter().map(end).max()
    }) else {
        return value.to_owned();
    };
    let words: Vec<u64> = value
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    match words.as_slice() {
        &[from, to] if name == PING_GROUPS && from <= u64::from(last) => {
            format!("{from} {}", to.min(u64::from(last)))
        }
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("net.ipv4.ping_group_range", "0 2147483647", true, "0 65535")]
    #[case("net.ipv4.ping_group_range", "0 1000", true, "0 1000")]
    #[case("net.ipv4.ping_group_range", "1 0", true, "1 0")]
    #[case("net.ipv4.ping_group_range", "0 2147483647", false, "0 2147483647")]
    #[case("net.ipv4.ip_local_port_range", "1024 999999", true, "1024 999999")]
    fn defaults_fit_into_a_user_namespace(
        #[case] name: &str,
        #[case] value: &str,
        #[case] user: bool,
        #[case] expected: &str,
    ) {
        let range = vec![crate::model::IdMapping {
            host_id: 100_000,
            container_id: 0,
            length: 65_536,
        }];
        let mut pod = PodConfig::default();
        pod.security.namespaces.user = user.then(|| crate::model::UserNamespace {
            uids: range.clone(),
            gids: range,
        });
        let defaults = [(name.to_owned(), value.to_owned())].into();
        assert_eq!(effective(&pod, &defaults).unwrap()[name], expected);
    }

    #[rstest]
    #[case("net.ipv4.ip_forward", Some("net/ipv4/ip_forward"))]
    #[case("net/ipv4/ip_forward", Some("net/ipv4/ip_forward"))]
    #[case(
        "net/ipv4/conf/eth0.100/forwarding",
        Some("net/ipv4/conf/eth0.100/forwarding")
    )]
    #[case(
        "net.ipv4.conf.eth0/100.forwarding",
        Some("net/ipv4/conf/eth0.100/forwarding")
    )]
    #[case("", None)]
    #[case("kernel", None)]
    #[case("net..x", None)]
    #[case("net/../kernel/hostname", None)]
    #[case("net.//.kernel", None)]
    #[case("/net/x", None)]
    #[case("net.a b", None)]
    fn names(#[case] name: &str, #[case] path: Option<&str>) {
        assert_eq!(proc_path(name).as_deref(), path);
    }

    #[rstest]
    #[case("net.core.somaxconn", None)]
    #[case("kernel.shm_rmid_forced", None)]
    #[case("kernel/shmmax", None)]
    #[case("fs.mqueue.msg_max", None)]
    #[case("kernel.panic", Some(SysctlProblem::NotNamespaced))]
    #[case("kernel.shmnew", Some(SysctlProblem::NotNamespaced))]
    #[case("vm.overcommit_memory", Some(SysctlProblem::NotNamespaced))]
    #[case("user.max_user_namespaces", Some(SysctlProblem::NotNamespaced))]
    #[case("kernel.hostname", Some(SysctlProblem::Hostname))]
    #[case("network.x", Some(SysctlProblem::NotNamespaced))]
    #[case("x", Some(SysctlProblem::Name))]
    fn a_pod_of_its_own(#[case] name: &str, #[case] expected: Option<SysctlProblem>) {
        assert_eq!(problem(name, "1", &Namespaces::default()), expected);
    }

    #[test]
    fn namespaces_shared_with_the_node_are_out_of_bounds() {
        let node = Namespaces {
            network: NamespaceMode::Node,
            ipc: NamespaceMode::Node,
            ..Namespaces::default()
        };
        let network = problem("net.core.somaxconn", "1", &node);
        assert_eq!(network, Some(SysctlProblem::NodeNetwork));
        let ipc = problem("fs.mqueue.msg_max", "1", &node);
        assert_eq!(ipc, Some(SysctlProblem::NodeIpc));
        let value = problem("net.core.somaxconn", "1\n2", &Namespaces::default());
        assert_eq!(value, Some(SysctlProblem::Value));
    }

    #[test]
    fn the_pod_wins_over_the_configuration() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        let defaults = map(&[
            ("net.ipv4.ip_unprivileged_port_start", "0"),
            ("kernel.shmmni", "1"),
        ]);
        let mut pod = PodConfig {
            sysctls: map(&[("kernel/shmmni", "9")]),
            ..PodConfig::default()
        };
        pod.security.namespaces.network = NamespaceMode::Node;
        assert_eq!(
            effective(&pod, &defaults).unwrap(),
            map(&[("kernel.shmmni", "9")])
        );
        pod.sysctls = map(&[("vm.swappiness", "1")]);
        let error = effective(&pod, &defaults).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("config.linux.sysctls[vm.swappiness]: belongs")
        );
    }
}
