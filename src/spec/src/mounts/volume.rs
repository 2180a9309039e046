//! One volume of the client as a bind mount.

use crate::error::MountProblem;
use crate::input::RuntimeFeatures;
use crate::model::{Mount, Propagation};

/// The mount options that a client may ask for.
const OPTIONS: &[&str] = &["noexec", "nodev", "nosuid"];

/// The propagation that lets mounts out to the node.
pub(super) const SHARED: &str = "rshared";

/// Checks a volume and says with which options it is mounted.
pub(super) fn options(
    asked: &Mount,
    features: &RuntimeFeatures,
) -> Result<Vec<String>, MountProblem> {
    if !asked.host_path.starts_with('/') {
        return Err(MountProblem::HostPath(asked.host_path.clone()));
    }
    if asked.image.is_some() && !asked.readonly {
        return Err(MountProblem::ImageWritable);
    }
    if asked.recursive_readonly {
        if !asked.readonly {
            return Err(MountProblem::RecursiveWithoutReadonly);
        }
        if asked.propagation != Propagation::Private {
            return Err(MountProblem::RecursiveNotPrivate);
        }
        if !features.recursive_readonly_mounts {
            return Err(MountProblem::RecursiveUnsupported);
        }
    }
    let propagation = match asked.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => SHARED,
    };
    let access = match (asked.readonly, asked.recursive_readonly) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    let mut options = vec![
        "rbind".to_owned(),
        propagation.to_owned(),
        access.to_owned(),
    ];
    for option in &asked.options {
        if !OPTIONS.contains(&option.as_str()) {
            return Err(MountProblem::Option(option.chars().take(64).collect()));
        }
        if !options.contains(option) {
            options.push(option.clone());
        }
    }
    match (asked.uid_mappings.is_empty(), asked.gid_mappings.is_empty()) {
        (true, true) => {}
        (false, false) if features.idmapped_mounts => options.push("idmap".to_owned()),
        (false, false) => return Err(MountProblem::IdmapUnsupported),
        _ => return Err(MountProblem::HalfMapped),
    }
    Ok(options)
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;
    use crate::model::{IdMapping, ImageSpec};

    const ALL: RuntimeFeatures = RuntimeFeatures {
        recursive_readonly_mounts: true,
        idmapped_mounts: true,
    };
    const NONE: RuntimeFeatures = RuntimeFeatures {
        recursive_readonly_mounts: false,
        idmapped_mounts: false,
    };

    fn volume() -> Mount {
        Mount {
            container_path: "/data".to_owned(),
            host_path: "/srv/data".to_owned(),
            ..Mount::default()
        }
    }

    fn one() -> Vec<IdMapping> {
        vec![IdMapping {
            host_id: 65_536,
            container_id: 0,
            length: 65_536,
        }]
    }

    #[rstest]
    #[case(volume(), &["rbind", "rprivate", "rw"])]
    #[case(Mount { readonly: true, ..volume() }, &["rbind", "rprivate", "ro"])]
    #[case(Mount { readonly: true, recursive_readonly: true, ..volume() }, &["rbind", "rprivate", "rro"])]
    #[case(Mount { propagation: Propagation::HostToContainer, ..volume() }, &["rbind", "rslave", "rw"])]
    #[case(Mount { propagation: Propagation::Bidirectional, ..volume() }, &["rbind", "rshared", "rw"])]
    #[case(Mount { options: vec!["nodev".to_owned(), "nodev".to_owned(), "noexec".to_owned()], ..volume() },
        &["rbind", "rprivate", "rw", "nodev", "noexec"])]
    #[case(Mount { uid_mappings: one(), gid_mappings: one(), ..volume() }, &["rbind", "rprivate", "rw", "idmap"])]
    #[case(Mount { image: Some(ImageSpec::default()), readonly: true, ..volume() }, &["rbind", "rprivate", "ro"])]
    fn ways_to_mount(#[case] asked: Mount, #[case] expected: &[&str]) {
        assert_eq!(options(&asked, &ALL).unwrap(), expected);
    }

    #[rstest]
    #[case(Mount { host_path: String::new(), ..volume() }, ALL, MountProblem::HostPath(String::new()))]
    #[case(Mount { host_path: "srv".to_owned(), ..volume() }, ALL, MountProblem::HostPath("srv".to_owned()))]
    #[case(Mount { image: Some(ImageSpec::default()), ..volume() }, ALL, MountProblem::ImageWritable)]
    #[case(Mount { recursive_readonly: true, ..volume() }, ALL, MountProblem::RecursiveWithoutReadonly)]
    #[case(Mount { recursive_readonly: true, readonly: true, propagation: Propagation::HostToContainer, ..volume() }, ALL, MountProblem::RecursiveNotPrivate)]
    #[case(Mount { recursive_readonly: true, readonly: true, propagation: Propagation::Bidirectional, ..volume() }, ALL, MountProblem::RecursiveNotPrivate)]
    #[case(Mount { recursive_readonly: true, readonly: true, ..volume() }, NONE, MountProblem::RecursiveUnsupported)]
    #[case(Mount { uid_mappings: one(), gid_mappings: one(), ..volume() }, NONE, MountProblem::IdmapUnsupported)]
    #[case(Mount { uid_mappings: one(), ..volume() }, ALL, MountProblem::HalfMapped)]
    #[case(Mount { options: vec!["suid".to_owned()], ..volume() }, ALL, MountProblem::Option("suid".to_owned()))]
    fn refusals(
        #[case] asked: Mount,
        #[case] features: RuntimeFeatures,
        #[case] expected: MountProblem,
    ) {
        assert_eq!(options(&asked, &features), Err(expected));
    }
}
