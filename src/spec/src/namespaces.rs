//! Which namespaces a process joins, makes, or shares with the node.

use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType,
};
use std::path::PathBuf;

use crate::error::SpecError;
use crate::input::{CgroupVersion, NamespacePaths, NodeFacts};
use crate::model::{IdMapping, NamespaceMode, Namespaces, PodConfig};

/// Why a choice of namespaces is impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceProblem {
    /// A mode that this kind of namespace does not have.
    #[error("only POD and NODE are possible")]
    Mode,
    /// `TARGET` without a container.
    #[error("TARGET needs a target_id")]
    NoTarget,
    /// A pod cannot be the target.
    #[error("TARGET is only possible for a container")]
    TargetOfPod,
    /// Not one mapping.
    #[error("exactly one mapping is needed, not {0}")]
    MappingCount(usize),
    /// Root would be nobody.
    #[error("id 0 of the container must be mapped")]
    RootUnmapped,
    /// Ids past the end.
    #[error("the mapping is empty or goes past the last id")]
    MappingRange,
    /// User and group ids must be mapped alike.
    #[error("uids and gids must be mapped alike")]
    MappingsDiffer,
    /// The container wants another user namespace than its pod.
    #[error("the container's user namespace must be the pod's")]
    NotThePods,
    /// Namespaces that the pod's root has no say in.
    #[error("a pod with a user namespace cannot have the node's")]
    NodeWithUser,
    /// An id that is nobody in the pod's user namespace.
    #[error("id {0} is outside of the pod's user namespace")]
    NotMapped(u32),
    /// The pod should have a namespace, and the caller gave none.
    #[error("the pod's namespace has not been made")]
    NotMade,
}

fn refuse(field: impl Into<String>, problem: NamespaceProblem) -> SpecError {
    SpecError::Namespace {
        field: field.into(),
        problem,
    }
}

fn check_user(field: &str, namespaces: &Namespaces) -> Result<(), SpecError> {
    let Some(user) = &namespaces.user else {
        return Ok(());
    };
    for (name, mappings) in [("uids", &user.uids), ("gids", &user.gids)] {
        let field = format!("{field}.userns_options.{name}");
        let [mapping] = mappings.as_slice() else {
            return Err(refuse(
                field,
                NamespaceProblem::MappingCount(mappings.len()),
            ));
        };
        if mapping.container_id != 0 {
            return Err(refuse(field, NamespaceProblem::RootUnmapped));
        }
        if mapping.length == 0 || mapping.host_id.checked_add(mapping.length).is_none() {
            return Err(refuse(field, NamespaceProblem::MappingRange));
        }
    }
    if user.uids != user.gids {
        return Err(refuse(
            format!("{field}.userns_options"),
            NamespaceProblem::MappingsDiffer,
        ));
    }
    Ok(())
}

fn check(field: &str, namespaces: &Namespaces) -> Result<(), SpecError> {
    for (name, mode) in [("network", &namespaces.network), ("ipc", &namespaces.ipc)] {
        if !matches!(mode, NamespaceMode::Pod | NamespaceMode::Node) {
            return Err(refuse(format!("{field}.{name}"), NamespaceProblem::Mode));
        }
    }
    check_user(field, namespaces)
}

/// Whether a pod's choice of namespaces is possible: for `engine`, before it makes them.
pub fn check_pod(namespaces: &Namespaces) -> Result<(), SpecError> {
    const FIELD: &str = "config.linux.security_context.namespace_options";
    if matches!(namespaces.pid, NamespaceMode::Target(_)) {
        return Err(refuse(
            format!("{FIELD}.pid"),
            NamespaceProblem::TargetOfPod,
        ));
    }
    check(FIELD, namespaces)?;
    check_owned(FIELD, namespaces, namespaces)
}

/// The kernel shows PIDs and message queues only to who rules over their namespaces: the root of the node's.
fn check_owned(field: &str, asked: &Namespaces, pod: &Namespaces) -> Result<(), SpecError> {
    if pod.user.is_none() {
        return Ok(());
    }
    for (name, mode) in [("pid", &asked.pid), ("ipc", &asked.ipc)] {
        if *mode == NamespaceMode::Node {
            return Err(refuse(
                format!("{field}.{name}"),
                NamespaceProblem::NodeWithUser,
            ));
        }
    }
    Ok(())
}

/// Whether all of these ids are somebody in the pod's user namespace.
pub(crate) fn check_ids(
    pod: &Namespaces,
    user: &crate::user::ResolvedUser,
) -> Result<(), SpecError> {
    const FIELD: &str = "config.linux.security_context";
    let Some(namespace) = &pod.user else {
        return Ok(());
    };
    if !is_in(&namespace.uids, user.uid) {
        return Err(refuse(
            format!("{FIELD}.run_as_user"),
            NamespaceProblem::NotMapped(user.uid),
        ));
    }
    let groups = user.groups.iter().chain([&user.gid]).copied();
    check_groups(pod, groups, &format!("{FIELD}.supplemental_groups"))
}

/// Whether the pod's user namespace has these groups, which `field` asks for.
pub(crate) fn check_groups(
    pod: &Namespaces,
    groups: impl IntoIterator<Item = u32>,
    field: &str,
) -> Result<(), SpecError> {
    let Some(namespace) = &pod.user else {
        return Ok(());
    };
    let mut groups = groups.into_iter();
    match groups.find(|group| !is_in(&namespace.gids, *group)) {
        Some(group) => Err(refuse(field.to_owned(), NamespaceProblem::NotMapped(group))),
        None => Ok(()),
    }
}

fn is_in(ranges: &[IdMapping], id: u32) -> bool {
    let inside =
        |range: &IdMapping| id >= range.container_id && id - range.container_id < range.length;
    ranges.iter().any(inside)
}

/// Whether a container's choice of namespaces is possible in its pod.
pub fn check_container(namespaces: &Namespaces, pod: &Namespaces) -> Result<(), SpecError> {
    const FIELD: &str = "config.linux.security_context.namespace_options";
    if matches!(&namespaces.pid, NamespaceMode::Target(id) if id.is_empty()) {
        return Err(refuse(
            format!("{FIELD}.target_id"),
            NamespaceProblem::NoTarget,
        ));
    }
    check(FIELD, namespaces)?;
    check_owned(FIELD, namespaces, pod)?;
    if namespaces.user.is_some() && namespaces.user != pod.user {
        return Err(refuse(
            format!("{FIELD}.userns_options"),
            NamespaceProblem::NotThePods,
        ));
    }
    Ok(())
}

/// The pod's host name: the one asked for, else the node's in the node's network, else the pod's name (as much of it as
/// a host name can hold).
pub fn hostname(pod: &PodConfig, node: &str) -> Result<String, SpecError> {
    /// `HOST_NAME_MAX` of Linux.
    const MAX_BYTES: usize = 64;
    if pod.hostname.is_empty() {
        if pod.security.namespaces.network == NamespaceMode::Node {
            return Ok(node.to_owned());
        }
        let mut end = pod.metadata.name.len().min(MAX_BYTES - 1);
        while !pod.metadata.name.is_char_boundary(end) {
            end -= 1;
        }
        return Ok(pod.metadata.name[..end]
            .trim_end_matches(['-', '.'])
            .to_owned());
    }
    let fits = pod.hostname.len() <= MAX_BYTES
        && !pod
            .hostname
            .contains(|c: char| c.is_whitespace() || c.is_control() || c == '/');
    if !fits {
        return Err(SpecError::Hostname {
            hostname: pod.hostname.chars().take(128).collect(),
        });
    }
    Ok(pod.hostname.clone())
}

pub(crate) fn id_mappings(mappings: &[IdMapping]) -> Result<Vec<LinuxIdMapping>, SpecError> {
    mappings
        .iter()
        .map(|mapping| {
            Ok(LinuxIdMappingBuilder::default()
                .host_id(mapping.host_id)
                .container_id(mapping.container_id)
                .size(mapping.length)
                .build()?)
        })
        .collect()
}

/// Whose PID namespace a process is in.
pub(crate) enum Pid {
    Node,
    Own,
    Joined(PathBuf),
}

/// The namespaces of a process, in the order in which runtimes like to see them.
pub(crate) fn namespaces(
    paths: &NamespacePaths,
    pid: Pid,
    user: bool,
    privileged: bool,
    facts: &NodeFacts,
) -> Result<Vec<LinuxNamespace>, SpecError> {
    let entry = |typ, path: Option<PathBuf>| -> Result<LinuxNamespace, SpecError> {
        let builder = LinuxNamespaceBuilder::default().typ(typ);
        Ok(match path {
            Some(path) => builder.path(path),
            None => builder,
        }
        .build()?)
    };
    let mut result = vec![entry(LinuxNamespaceType::Mount, None)?];
    if user {
        result.push(entry(LinuxNamespaceType::User, paths.user.clone())?);
    }
    match pid {
        Pid::Node => {}
        Pid::Own => result.push(entry(LinuxNamespaceType::Pid, None)?),
        Pid::Joined(path) => result.push(entry(LinuxNamespaceType::Pid, Some(path))?),
    }
    for (typ, path) in [
        (LinuxNamespaceType::Network, &paths.network),
        (LinuxNamespaceType::Ipc, &paths.ipc),
        (LinuxNamespaceType::Uts, &paths.uts),
    ] {
        if path.is_some() {
            result.push(entry(typ, path.clone())?);
        }
    }
    // In v1 the container's /sys/fs/cgroup shows its own cgroup by bind mounts; in v2 only a namespace can do that.
    if facts.cgroup_version == CgroupVersion::V2 && !privileged {
        result.push(entry(LinuxNamespaceType::Cgroup, None)?);
    }
    Ok(result)
}

/// Where a container's PID namespace comes from. A container that says POD gets what its pod has: clients that leave the
/// field out say POD without meaning it.
pub(crate) fn container_pid(
    container: &Namespaces,
    pod: &Namespaces,
    paths: &NamespacePaths,
) -> Result<Pid, SpecError> {
    // Without a path, a container that says POD is where its pod is.
    let mode = match (&container.pid, &paths.pid) {
        (NamespaceMode::Pod, None) => &pod.pid,
        (mode, _) => mode,
    };
    Ok(match (mode, &paths.pid) {
        (NamespaceMode::Node, _) => Pid::Node,
        (NamespaceMode::Container, _) => Pid::Own,
        (_, Some(path)) => Pid::Joined(path.clone()),
        (_, None) => {
            return Err(refuse(
                "config.linux.security_context.namespace_options.pid",
                NamespaceProblem::NotMade,
            ));
        }
    })
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;
    use crate::model::UserNamespace;

    fn mapping(host_id: u32, container_id: u32, length: u32) -> IdMapping {
        IdMapping {
            host_id,
            container_id,
            length,
        }
    }

    fn with_user(uids: Vec<IdMapping>, gids: Vec<IdMapping>) -> Namespaces {
        Namespaces {
            user: Some(UserNamespace { uids, gids }),
            ..Namespaces::default()
        }
    }

    #[rstest]
    #[case(vec![], NamespaceProblem::MappingCount(0))]
    #[case(vec![mapping(65536, 0, 10), mapping(75546, 10, 10)], NamespaceProblem::MappingCount(2))]
    #[case(vec![mapping(65536, 1, 65535)], NamespaceProblem::RootUnmapped)]
    #[case(vec![mapping(65536, 0, 0)], NamespaceProblem::MappingRange)]
    #[case(vec![mapping(u32::MAX, 0, 2)], NamespaceProblem::MappingRange)]
    fn impossible_mappings(#[case] mappings: Vec<IdMapping>, #[case] expected: NamespaceProblem) {
        let error = check_pod(&with_user(mappings.clone(), mappings)).unwrap_err();
        assert!(matches!(error, SpecError::Namespace { problem, .. } if problem == expected));
    }

    #[test]
    fn possible_mappings() {
        let one = vec![mapping(65536, 0, 65536)];
        let namespaces = with_user(one.clone(), one.clone());
        check_pod(&namespaces).unwrap();
        check_container(&namespaces, &namespaces).unwrap();
        check_container(&Namespaces::default(), &namespaces).unwrap();
        assert!(check_container(&namespaces, &Namespaces::default()).is_err());
        assert!(check_pod(&with_user(one, vec![mapping(7, 0, 65536)])).is_err());
    }

    #[test]
    fn a_user_namespace_wants_namespaces_of_its_own() {
        let range = vec![mapping(65536, 0, 65536)];
        let pod = with_user(range.clone(), range);
        for spoil in [
            |asked: &mut Namespaces| asked.pid = NamespaceMode::Node,
            |asked: &mut Namespaces| asked.ipc = NamespaceMode::Node,
        ] {
            let mut asked = pod.clone();
            spoil(&mut asked);
            let expected = NamespaceProblem::NodeWithUser;
            for error in [
                check_pod(&asked).unwrap_err(),
                check_container(&asked, &pod).unwrap_err(),
            ] {
                assert!(
                    matches!(&error, SpecError::Namespace { problem, .. } if *problem == expected),
                    "{error}"
                );
            }
        }
        let mut network = pod.clone();
        network.network = NamespaceMode::Node;
        check_pod(&network).unwrap();
    }

    #[rstest]
    #[case(0, 0, &[0], None)]
    #[case(999, 999, &[999, 5], None)]
    #[case(1000, 0, &[0], Some(1000))]
    #[case(0, 1000, &[], Some(1000))]
    #[case(0, 0, &[0, 70_000], Some(70_000))]
    fn ids_outside_of_the_user_namespace(
        #[case] uid: u32,
        #[case] gid: u32,
        #[case] groups: &[u32],
        #[case] stranger: Option<u32>,
    ) {
        let range = vec![mapping(65536, 0, 1000)];
        let pod = with_user(range.clone(), range);
        let user = crate::user::ResolvedUser {
            uid,
            gid,
            groups: groups.to_vec(),
        };
        check_ids(&Namespaces::default(), &user).unwrap();
        let found = check_ids(&pod, &user).err();
        match stranger {
            None => assert!(found.is_none()),
            Some(id) => {
                let words = found.unwrap().to_string();
                assert!(words.contains(&format!("id {id} ")), "{words}");
            }
        }
    }

    #[test]
    fn modes() {
        for mode in [
            NamespaceMode::Container,
            NamespaceMode::Target("x".to_owned()),
        ] {
            let network = Namespaces {
                network: mode.clone(),
                ..Namespaces::default()
            };
            let ipc = Namespaces {
                ipc: mode.clone(),
                ..Namespaces::default()
            };
            assert!(check_pod(&network).is_err());
            assert!(check_container(&ipc, &Namespaces::default()).is_err());
        }
        let target = |id: &str| Namespaces {
            pid: NamespaceMode::Target(id.to_owned()),
            ..Namespaces::default()
        };
        assert!(check_pod(&target("x")).is_err());
        assert!(check_container(&target(""), &Namespaces::default()).is_err());
        check_container(&target("x"), &Namespaces::default()).unwrap();
    }

    #[rstest]
    #[case("", NamespaceMode::Pod, "web-1", "web-1")]
    #[case("", NamespaceMode::Node, "web-1", "node")]
    #[case("given", NamespaceMode::Node, "web-1", "given")]
    fn hostnames(
        #[case] asked: &str,
        #[case] network: NamespaceMode,
        #[case] name: &str,
        #[case] expected: &str,
    ) {
        let mut pod = PodConfig {
            hostname: asked.to_owned(),
            ..PodConfig::default()
        };
        name.clone_into(&mut pod.metadata.name);
        pod.security.namespaces.network = network;
        assert_eq!(hostname(&pod, "node").unwrap(), expected);
    }

    #[test]
    fn a_long_pod_name_is_cut_and_a_long_hostname_refused() {
        let mut pod = PodConfig::default();
        pod.metadata.name = format!("{}-{}", "x".repeat(62), "y".repeat(100));
        assert_eq!(hostname(&pod, "node").unwrap(), "x".repeat(62));
        for bad in [
            "x".repeat(65),
            "a b".to_owned(),
            "a\0".to_owned(),
            "a/b".to_owned(),
        ] {
            pod.hostname = bad;
            assert!(hostname(&pod, "node").is_err());
        }
    }
}
