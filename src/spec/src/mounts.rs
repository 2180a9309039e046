//! The mounts of a container: those that every container has, those of its pod, and the client's volumes.
//!
//! Laws (tested as properties):
//! - Each destination is mounted once; of several the client's wins, and of the client's the last.
//! - No mount comes before one that it lies below, so nothing is hidden by what is mounted later.
//! - A client that brings its own `/dev` gets nothing of ours below it; nor does one that brings a directory whose mounts
//!   propagate back: ours would appear on the node.

mod own;
mod volume;

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount as OciMount, MountBuilder};

use crate::error::{MountProblem, SpecError};
use crate::input::{PodFiles, RuntimeFeatures};
use crate::model::{Mount, Propagation};
use crate::namespaces::id_mappings;

pub(crate) use own::Surroundings;

/// The mounts, and how mounts must propagate to and from the root for them.
pub(crate) struct Mounts {
    pub(crate) mounts: Vec<OciMount>,
    /// `linux.rootfsPropagation`: without it the runtime makes everything private first.
    pub(crate) rootfs_propagation: Option<&'static str>,
}

/// Destination without `.`, `..` and doubled slashes. It is only used to compare: the runtime itself resolves the path
/// inside the root, links and all.
fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    clean
}

fn destination(mount: &Mount) -> Result<PathBuf, MountProblem> {
    if mount.container_path.is_empty() {
        return Err(MountProblem::NoContainerPath);
    }
    if mount.container_path.contains('\0') || mount.host_path.contains('\0') {
        return Err(MountProblem::Nul);
    }
    let clean = clean(&mount.container_path);
    if clean == Path::new("/") {
        return Err(MountProblem::OverRoot);
    }
    Ok(clean)
}

/// Puts the mounts together, in an order in which they can be made.
pub(crate) fn mounts(
    volumes: &[Mount],
    files: Option<&PodFiles>,
    around: &Surroundings,
    features: &RuntimeFeatures,
) -> Result<Mounts, SpecError> {
    let mut client: Vec<OciMount> = Vec::with_capacity(volumes.len());
    let mut propagation = Propagation::Private;
    for asked in volumes {
        let (destination, options) = destination(asked)
            .and_then(|destination| Ok((destination, volume::options(asked, features)?)))
            .map_err(|problem| SpecError::Mount {
                container_path: asked.container_path.chars().take(256).collect(),
                problem,
            })?;
        let mut builder = MountBuilder::default()
            .destination(destination)
            .typ("bind")
            .source(asked.host_path.as_str())
            .options(options);
        if !asked.uid_mappings.is_empty() {
            builder = builder
                .uid_mappings(id_mappings(&asked.uid_mappings)?)
                .gid_mappings(id_mappings(&asked.gid_mappings)?);
        }
        let mount = builder.build()?;
        client.retain(|other| other.destination() != mount.destination());
        client.push(mount);
        propagation = match (propagation, asked.propagation) {
            (Propagation::Bidirectional, _) | (_, Propagation::Bidirectional) => {
                Propagation::Bidirectional
            }
            (Propagation::HostToContainer, _) | (_, Propagation::HostToContainer) => {
                Propagation::HostToContainer
            }
            _ => Propagation::Private,
        };
    }
    let shared = |volume: &OciMount| {
        let options = volume.options().as_deref().unwrap_or_default();
        options.iter().any(|option| option == volume::SHARED)
    };
    let replaced = |mount: &OciMount| {
        client.iter().any(|volume| {
            let given = volume.destination();
            given == mount.destination()
                || (mount.destination().starts_with(given)
                    && (given == Path::new("/dev") || shared(volume)))
        })
    };
    let mut mounts = own::mounts(files, around)?;
    mounts.retain(|mount| !replaced(mount));
    mounts.extend(client);
    // Stable: mounts of one depth do not hide each other and stay in the order of the request.
    mounts.sort_by_key(|mount| mount.destination().components().count());
    Ok(Mounts {
        mounts,
        rootfs_propagation: match propagation {
            Propagation::Private => None,
            Propagation::HostToContainer => Some("rslave"),
            Propagation::Bidirectional => Some("rshared"),
        },
    })
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const AROUND: Surroundings = Surroundings {
        privileged: false,
        readonly_rootfs: false,
        node_network_in_user_namespace: false,
        node_ipc: false,
        recursive_readonly: false,
        tty_group: true,
    };

    fn files() -> PodFiles {
        PodFiles {
            resolv_conf: "/run/pod/resolv.conf".into(),
            hostname: "/run/pod/hostname".into(),
            hosts: Some("/run/pod/hosts".into()),
            shm: Some("/run/pod/shm".into()),
        }
    }

    fn volume(container_path: &str) -> Mount {
        Mount {
            container_path: container_path.to_owned(),
            host_path: "/srv/x".to_owned(),
            ..Mount::default()
        }
    }

    fn made(volumes: &[Mount]) -> Mounts {
        mounts(
            volumes,
            Some(&files()),
            &AROUND,
            &RuntimeFeatures::default(),
        )
        .unwrap()
    }

    fn at<'a>(mounts: &'a Mounts, destination: &str) -> Vec<&'a OciMount> {
        mounts
            .mounts
            .iter()
            .filter(|mount| mount.destination() == Path::new(destination))
            .collect()
    }

    #[rstest]
    #[case("/etc/hosts")]
    #[case("/dev/shm")]
    #[case("/etc/resolv.conf")]
    #[case("/etc//resolv.conf/")]
    #[case("/sys/fs/cgroup")]
    #[case("/proc")]
    fn a_volume_wins_over_ours(#[case] path: &str) {
        let mounts = made(&[volume(path)]);
        let destination = clean(path);
        let found = at(&mounts, destination.to_str().unwrap());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].source().as_deref(), Some(Path::new("/srv/x")));
    }

    #[test]
    fn the_last_volume_of_a_path_wins() {
        let mut other = volume("/data/");
        other.host_path = "/srv/y".to_owned();
        let mounts = made(&[volume("/data"), other]);
        let found = at(&mounts, "/data");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].source().as_deref(), Some(Path::new("/srv/y")));
    }

    #[test]
    fn a_dev_of_the_client_is_left_alone() {
        let mounts = made(&[volume("/dev")]);
        assert_eq!(at(&mounts, "/dev").len(), 1);
        assert!(at(&mounts, "/dev/pts").is_empty());
        assert!(at(&mounts, "/dev/shm").is_empty());
    }

    #[rstest]
    #[case(false, false, true, "ro")]
    #[case(true, false, false, "ro")]
    #[case(true, false, true, "rro")]
    #[case(true, true, true, "rw")]
    #[case(false, true, true, "rw")]
    fn what_is_mounted_below_the_nodes_sys_is_read_only_too(
        #[case] nodes: bool,
        #[case] privileged: bool,
        #[case] can: bool,
        #[case] expected: &str,
    ) {
        let around = Surroundings {
            privileged,
            node_network_in_user_namespace: nodes,
            recursive_readonly: can,
            ..AROUND
        };
        let made = mounts(&[], None, &around, &RuntimeFeatures::default()).unwrap();
        let sys = at(&made, "/sys")[0];
        let options = sys.options().as_deref().unwrap();
        let access: Vec<_> = options
            .iter()
            .filter(|option| ["ro", "rro", "rw"].contains(&option.as_str()))
            .collect();
        assert_eq!(access, [expected]);
        let is_bind = sys.typ().as_deref() == Some("bind");
        assert_eq!(is_bind, nodes);
    }

    #[test]
    fn ours_do_not_propagate_to_the_node() {
        let sys = Mount {
            propagation: Propagation::Bidirectional,
            ..volume("/sys")
        };
        let etc = volume("/etc");
        let mounts = made(&[sys, etc]);
        assert!(at(&mounts, "/sys/fs/cgroup").is_empty());
        assert_eq!(at(&mounts, "/etc/resolv.conf").len(), 1);
    }

    #[rstest]
    #[case(&[], None)]
    #[case(&[Propagation::Private], None)]
    #[case(&[Propagation::HostToContainer, Propagation::Private], Some("rslave"))]
    #[case(&[Propagation::Bidirectional, Propagation::HostToContainer], Some("rshared"))]
    fn the_root_propagates_as_the_volumes_need(
        #[case] kinds: &[Propagation],
        #[case] expected: Option<&str>,
    ) {
        let volumes: Vec<Mount> = kinds
            .iter()
            .enumerate()
            .map(|(index, kind)| Mount {
                propagation: *kind,
                ..volume(&format!("/v{index}"))
            })
            .collect();
        assert_eq!(made(&volumes).rootfs_propagation, expected);
    }

    #[rstest]
    #[case("", MountProblem::NoContainerPath)]
    #[case("/", MountProblem::OverRoot)]
    #[case("/a/..", MountProblem::OverRoot)]
    #[case("/a\0b", MountProblem::Nul)]
    fn impossible_places(#[case] path: &str, #[case] expected: MountProblem) {
        let result = mounts(&[volume(path)], None, &AROUND, &RuntimeFeatures::default());
        assert!(
            matches!(result.err(), Some(SpecError::Mount { problem, .. }) if problem == expected)
        );
    }

    proptest! {
        #[test]
        fn mounting_keeps_its_laws(
            paths in proptest::collection::vec("(/(a|b|dev|shm|etc|hosts|sys|\\.\\.|\\.)){1,4}", 0..10)
        ) {
            let volumes: Vec<Mount> = paths
                .iter()
                .filter(|path| clean(path) != Path::new("/"))
                .map(|path| volume(path))
                .collect();
            let made = made(&volumes);
            for (index, mount) in made.mounts.iter().enumerate() {
                for later in &made.mounts[index + 1..] {
                    prop_assert!(!mount.destination().starts_with(later.destination()));
                }
            }
            for asked in &volumes {
                let destination = clean(&asked.container_path);
                let found = at(&made, destination.to_str().unwrap());
                prop_assert_eq!(found.len(), 1);
                prop_assert_eq!(found[0].source().as_deref(), Some(Path::new("/srv/x")));
            }
        }
    }
}
