//! What this process may do, and how cgroups are laid out.

use std::collections::BTreeSet;

use spec::Capability;
use sys::{
    cgroup::Layout,
    kernel::{CapabilitySet, capabilities},
};

use super::finding::Finding;
use crate::exit::in_full;

/// Without these no pod can be made.
const NEEDED: [Capability; 4] = [
    Capability::SysAdmin,
    Capability::NetAdmin,
    Capability::Chown,
    Capability::Mknod,
];
/// Controllers that the kubelet cannot do without.
const CONTROLLERS_NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

/// All of it. `crun_is_default`: the hybrid layout is no trouble for runc.
pub(super) fn check(crun_is_default: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    match capabilities(CapabilitySet::Effective) {
        Ok(bits) => findings.extend(rights(&Capability::set_from_bits(bits))),
        Err(error) => findings.push(Finding::warn("rights", in_full(&error), "mount /proc")),
    }
    match Layout::detect() {
        Ok(layout) => findings.extend(cgroups(&layout, has_unified_beside(), crun_is_default)),
        Err(error) => findings.push(Finding::fail(
            "cgroups",
            in_full(&error),
            "mount -t cgroup2 none /sys/fs/cgroup",
        )),
    }
    findings
}

/// cgroup2 mounted below a v1 layout.
fn has_unified_beside() -> bool {
    sys::mount::table().is_ok_and(|table| {
        table
            .iter()
            .any(|mount| mount.fs_type == "cgroup2" && mount.target.starts_with("/sys/fs/cgroup"))
    })
}

fn rights(held: &BTreeSet<Capability>) -> Vec<Finding> {
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|capability| !held.contains(capability))
        .map(|capability| capability.name())
        .collect();
    if !missing.is_empty() {
        return vec![Finding::fail(
            "rights",
            format!("missing: {}", missing.join(", ")),
            "run as root, with all capabilities",
        )];
    }
    if held.contains(&Capability::SysResource) {
        return vec![Finding::ok("rights", "all that is needed")];
    }
    vec![Finding::warn(
        "rights",
        "CAP_SYS_RESOURCE is missing: negative OOM scores and raised limits are clamped",
        "give it to the server, unless this node is itself a container",
    )]
}

fn cgroups(layout: &Layout, unified_beside: bool, crun_is_default: bool) -> Vec<Finding> {
    let controllers = match layout.controllers() {
        Ok(controllers) => controllers,
        Err(error) => {
            return vec![Finding::fail(
                "cgroups",
                in_full(&error),
                "mount the cgroup file systems",
            )];
        }
    };
    let version = if layout.is_v2() { 2 } else { 1 };
    let mut findings = vec![with_controllers(version, &controllers)];
    if !layout.is_v2() {
        if unified_beside && crun_is_default {
            findings.push(Finding::fail(
                "cgroups",
                "v1 controllers with cgroup2 mounted beside them: crun refuses this layout, and it is the default runtime",
                "boot with systemd.unified_cgroup_hierarchy=1, or umount /sys/fs/cgroup/unified, or set `default_runtime: runc`",
            ));
        }
        findings.push(Finding::warn(
            "cgroups",
            "version 1: no pressure figures, no memory.high, and Kubernetes is giving it up",
            "boot with systemd.unified_cgroup_hierarchy=1",
        ));
    }
    findings
}

fn with_controllers(version: u8, controllers: &BTreeSet<String>) -> Finding {
    let missing: Vec<&str> = CONTROLLERS_NEEDED
        .into_iter()
        .filter(|needed| !controllers.contains(*needed))
        .collect();
    let present: Vec<&str> = controllers.iter().map(String::as_str).collect();
    if missing.is_empty() {
        Finding::ok(
            "cgroups",
            format!("version {version}: {}", present.join(" ")),
        )
    } else {
        Finding::fail(
            "cgroups",
            format!("version {version} without: {}", missing.join(", ")),
            "turn the controllers on: kernel parameter cgroup_enable=, or cgroup.subtree_control of the parents",
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use rstest::rstest;
    use spec::Capability;
    use sys::cgroup::Layout;

    use super::{cgroups, rights, with_controllers};
    use crate::check::finding::{Level, worst};

    #[test]
    fn rights_are_all_some_or_none() {
        let all: BTreeSet<Capability> = Capability::ALL.iter().copied().collect();
        assert_eq!(worst(&rights(&all)), Level::Ok);
        let mut fewer = all.clone();
        fewer.remove(&Capability::SysResource);
        assert_eq!(worst(&rights(&fewer)), Level::Warn);
        fewer.remove(&Capability::NetAdmin);
        let findings = rights(&fewer);
        assert_eq!(worst(&findings), Level::Fail);
        assert_eq!(findings[0].found, "missing: CAP_NET_ADMIN");
    }

    #[rstest]
    #[case(true, true, Level::Fail)]
    #[case(true, false, Level::Warn)]
    #[case(false, true, Level::Warn)]
    fn hybrid(#[case] unified: bool, #[case] crun: bool, #[case] expected: Level) {
        let controllers: BTreeMap<_, _> = ["cpu", "memory", "pids", "name=systemd"]
            .into_iter()
            .map(|name| (name.to_owned(), "/x".into()))
            .collect();
        let layout = Layout::V1 { controllers };
        assert_eq!(worst(&cgroups(&layout, unified, crun)), expected);
    }

    #[test]
    fn missing_controllers_are_named() {
        let found = with_controllers(2, &BTreeSet::from(["cpu".to_owned(), "io".to_owned()]));
        assert_eq!(found.level, Level::Fail);
        assert_eq!(found.found, "version 2 without: memory, pids");
    }
}
