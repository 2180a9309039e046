//! Names of cgroups: the form that an OCI runtime wants, and the directory that results.
//!
//! Kubelet sends a pod's parent in cgroupfs style whichever driver is used: `/kubepods/burstable/pod1` for cgroupfs,
//! `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice` for systemd. An OCI runtime under systemd
//! wants `slice:prefix:name` and lets systemd make the scope `prefix-name.scope`.

use std::path::PathBuf;

use crate::error::SpecError;

/// First part of the names of our scopes, and the parent of pods that name none.
const PREFIX: &str = "pintle";

/// A cgroup by its two names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupName {
    /// Value of `linux.cgroupsPath`.
    pub oci: String,
    /// Directory below each hierarchy's mount point, relative.
    pub directory: PathBuf,
}

/// Name of the slice that all others stand in. It is no directory of its own.
const ROOT_SLICE: &str = "-.slice";

impl CgroupName {
    /// The cgroup of container `id` below a pod's `parent` (which may be empty).
    pub fn new(systemd: bool, parent: &str, id: &str) -> Result<Self, SpecError> {
        let parts = parts(parent)?;
        if systemd {
            let (slice, mut directory) = slice(parent, &parts)?;
            directory.push(format!("{PREFIX}-{id}.scope"));
            return Ok(Self {
                oci: format!("{slice}:{PREFIX}:{id}"),
                directory,
            });
        }
        let mut directory: PathBuf = if parts.is_empty() {
            PathBuf::from(PREFIX)
        } else {
            parts.iter().collect()
        };
        directory.push(id);
        Ok(Self {
            oci: format!("/{}", directory.display()),
            directory,
        })
    }

    /// The path of the slice that a pod's `parent` means, such as `/a.slice/a-b.slice` for `a-b.slice`.
    pub fn slice_path(parent: &str) -> Result<String, SpecError> {
        let (slice, directory) = slice(parent, &parts(parent)?)?;
        if directory.as_os_str().is_empty() {
            return Ok(format!("/{slice}"));
        }
        Ok(format!("/{}", directory.display()))
    }
}

fn refused(parent: &str, problem: &'static str) -> SpecError {
    SpecError::CgroupParent {
        parent: parent.to_owned(),
        problem,
    }
}

fn parts(parent: &str) -> Result<Vec<&str>, SpecError> {
    let parts: Vec<&str> = parent.split('/').filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| matches!(*part, "." | "..")) {
        return Err(refused(parent, "must not contain . or .."));
    }
    if parent.contains(['\0', '\n', ':']) {
        return Err(refused(
            parent,
            "must not contain a colon, NUL or line feed",
        ));
    }
    Ok(parts)
}

/// The slice that a parent names with its last part, and its directory.
fn slice<'a>(parent: &str, parts: &[&'a str]) -> Result<(&'a str, PathBuf), SpecError> {
    let slice = parts.last().copied().unwrap_or("system.slice");
    let Some(name) = slice.strip_suffix(".slice") else {
        return Err(refused(
            parent,
            "does not end with a .slice, which the systemd cgroup driver needs",
        ));
    };
    let mut directory = PathBuf::new();
    if slice != ROOT_SLICE {
        if name.split('-').any(str::is_empty) {
            return Err(refused(parent, "ends with a .slice that has an empty part"));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "_.\\@-".contains(c);
        if slice.len() > UNIT_NAME_MAX || !name.chars().all(fits) {
            return Err(refused(
                parent,
                "ends with a .slice whose name systemd does not take: letters, digits, `_`, `.`, `@`, `\\` and `-`, 255 in all",
            ));
        }
        // Slices nest by their names alone, so the parent's own directories say nothing new.
        for (at, _) in name.match_indices('-') {
            directory.push(format!("{}.slice", &name[..at]));
        }
        directory.push(slice);
    }
    Ok((slice, directory))
}

/// Longest name of a unit.
const UNIT_NAME_MAX: usize = 255;

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        false,
        "/kubepods/burstable/podX",
        "/kubepods/burstable/podX/c1",
        "kubepods/burstable/podX/c1"
    )]
    #[case(false, "kubepods//podX/", "/kubepods/podX/c1", "kubepods/podX/c1")]
    #[case(false, "", "/pintle/c1", "pintle/c1")]
    #[case(false, "/", "/pintle/c1", "pintle/c1")]
    #[case(
        true,
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice",
        "kubepods-burstable-podX.slice:pintle:c1",
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice/pintle-c1.scope"
    )]
    #[case(
        true,
        "kubepods-burstable-podX.slice",
        "kubepods-burstable-podX.slice:pintle:c1",
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice/pintle-c1.scope"
    )]
    #[case(true, "", "system.slice:pintle:c1", "system.slice/pintle-c1.scope")]
    #[case(true, "-.slice", "-.slice:pintle:c1", "pintle-c1.scope")]
    fn both_names(
        #[case] systemd: bool,
        #[case] parent: &str,
        #[case] oci: &str,
        #[case] directory: &str,
    ) {
        let name = CgroupName::new(systemd, parent, "c1").unwrap();
        assert_eq!(name.oci, oci);
        assert_eq!(name.directory, PathBuf::from(directory));
    }

    #[rstest]
    #[case("a-b.slice", "/a.slice/a-b.slice")]
    #[case("/x/a-b.slice/", "/a.slice/a-b.slice")]
    #[case("", "/system.slice")]
    #[case("-.slice", "/-.slice")]
    fn a_slice_has_one_path(#[case] parent: &str, #[case] path: &str) {
        assert_eq!(CgroupName::slice_path(parent).unwrap(), path);
        // It is a parent itself, and means the same.
        assert_eq!(CgroupName::slice_path(path).unwrap(), path);
        assert_eq!(
            CgroupName::new(true, path, "c1").unwrap(),
            CgroupName::new(true, parent, "c1").unwrap()
        );
    }

    #[rstest]
    #[case(false, "/kubepods/../../other")]
    #[case(false, "/a\0b")]
    #[case(true, "/kubepods/podX")]
    #[case(true, "a--b.slice")]
    #[case(true, ".slice")]
    #[case(true, "a.slice:b.slice")]
    #[case(true, "a b.slice")]
    #[case(true, "a%i.slice")]
    #[case(true, "-a.slice")]
    fn parents_that_lead_elsewhere_are_refused(#[case] systemd: bool, #[case] parent: &str) {
        assert!(CgroupName::new(systemd, parent, "c1").is_err());
    }
}
