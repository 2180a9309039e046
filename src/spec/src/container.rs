//! Puts a container's spec together from its parts.

use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxIntelRdt, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
    UserBuilder,
};

use crate::capabilities::Held;
use crate::error::SpecError;
use crate::input::ContainerInput;
use crate::model::{SecurityProfile, UserNamespace};
use crate::mounts::{Mounts, Surroundings};
use crate::selinux::SelinuxContext;
use crate::user::ResolvedUser;
use crate::{
    annotations, apparmor, args, capabilities, cdi, devices, env, mounts, namespaces, oom_score,
    resources, rlimit, seccomp, user,
};

/// The version of the OCI runtime spec that ours are written to: the oldest that has all we use, so that old runtimes
/// take them too.
pub(crate) const OCI_VERSION: &str = "1.0.2";

/// The name of group tty in devpts.
const TTY_GROUP: u32 = 5;

/// A container's spec and what was found out on the way.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// What becomes `config.json`.
    pub spec: Spec,
    /// Who the container runs as (for `ContainerStatus.user`).
    pub user: ResolvedUser,
    /// What the node could not give and the container was not refused for.
    pub warnings: Vec<String>,
}

/// Whether a group is mapped into the container at all.
pub(crate) fn has_group(user: Option<&UserNamespace>, group: u32) -> bool {
    user.is_none_or(|user| {
        user.gids
            .iter()
            .any(|range| group >= range.container_id && group - range.container_id < range.length)
    })
}

fn process(
    input: &ContainerInput<'_>,
    user: &ResolvedUser,
    held: &Held,
    warnings: &mut Vec<String>,
) -> Result<Process, SpecError> {
    let security = &input.container.security;
    let hostname = namespaces::hostname(input.pod, &input.facts.hostname)?;
    let oom_score_adj = oom_score::oom_score_adj(
        // Without a wish it is 0: what the monitor has would be inherited, and that is lower.
        input
            .container
            .resources
            .as_ref()
            .map_or(0, |resources| resources.oom_score_adj),
        "config.linux.resources.oom_score_adj",
        input.facts,
        warnings,
    )?;
    let apparmor = apparmor::profile(
        security.apparmor.as_ref(),
        "config.linux.security_context.apparmor",
        security.privileged,
        input.defaults,
        input.facts,
    )?;
    let builder = ProcessBuilder::default()
        .terminal(input.container.tty)
        .user(
            UserBuilder::default()
                .uid(user.uid)
                .gid(user.gid)
                .additional_gids(user.groups.clone())
                .build()?,
        )
        .args(args::args(input.container, input.image)?)
        .env(env::env(
            &input.image.env,
            &hostname,
            input.container.tty,
            &input.container.envs,
        )?)
        .cwd(args::working_dir(input.container, input.image)?)
        .capabilities(held.oci()?)
        .rlimits(rlimit::rlimits(
            &input.defaults.rlimits,
            input.facts,
            warnings,
        )?)
        .no_new_privileges(security.no_new_privs)
        .oom_score_adj(oom_score_adj);
    let builder = match apparmor {
        Some(profile) => builder.apparmor_profile(profile),
        None => builder,
    };
    let builder = match selinux(input).and_then(SelinuxContext::process) {
        Some(label) => builder.selinux_label(label),
        None => builder,
    };
    Ok(builder.build()?)
}

fn selinux<'a>(input: &'a ContainerInput<'_>) -> Option<&'a SelinuxContext> {
    input.selinux.as_ref().filter(|_| input.facts.selinux)
}

fn linux(
    input: &ContainerInput<'_>,
    held: &Held,
    user_namespace: Option<&UserNamespace>,
    rootfs_propagation: Option<&str>,
    warnings: &mut Vec<String>,
) -> Result<Linux, SpecError> {
    let security = &input.container.security;
    let pid = namespaces::container_pid(
        &security.namespaces,
        &input.pod.security.namespaces,
        &input.namespaces,
    )?;
    let mut limits = match &input.container.resources {
        Some(asked) => resources::linux_resources(
            asked,
            resources::AT_CREATION,
            input.facts,
            input.defaults,
            warnings,
        )?,
        None => resources::none()?,
    };
    limits.set_block_io(input.classes.block_io.clone());
    if let Some(cpu) = limits.cpu_mut()
        && cpu.quota().is_some_and(|quota| quota < 0)
    {
        // None is what a new cgroup has, and not every runtime can write it.
        cpu.set_quota(None);
    }
    let every_device = security.privileged && !input.defaults.privileged_without_host_devices;
    limits.set_devices(Some(devices::rules(&input.host_devices, every_device)?));

    let (masked, readonly) = if security.privileged {
        (Vec::new(), Vec::new())
    } else {
        (
            security.masked_paths.clone(),
            security.readonly_paths.clone(),
        )
    };
    let mut builder = LinuxBuilder::default()
        .resources(limits)
        .cgroups_path(input.cgroups_path.as_str())
        .namespaces(namespaces::namespaces(
            &input.namespaces,
            pid,
            user_namespace.is_some(),
            security.privileged,
            input.facts,
        )?)
        .devices(devices::nodes(&input.host_devices)?)
        .masked_paths(masked)
        .readonly_paths(readonly);
    if let Some(user) = user_namespace {
        builder = builder
            .uid_mappings(namespaces::id_mappings(&user.uids)?)
            .gid_mappings(namespaces::id_mappings(&user.gids)?);
    }
    let seccomp = if security.privileged {
        &SecurityProfile::Unconfined
    } else {
        &security.seccomp
    };
    if let Some(filter) = seccomp::filter(
        seccomp,
        "config.linux.security_context.seccomp",
        &input.defaults.seccomp,
        input.seccomp_file,
        &held.all,
        input.facts,
    )? {
        builder = builder.seccomp(filter);
    }
    if let Some(class) = &input.classes.rdt {
        let mut rdt = LinuxIntelRdt::default();
        rdt.set_clos_id(Some(class.clone()));
        builder = builder.intel_rdt(rdt);
    }
    if let Some(propagation) = rootfs_propagation {
        builder = builder.rootfs_propagation(propagation);
    }
    if let Some(labels) = selinux(input) {
        builder = builder.mount_label(labels.mount());
    }
    Ok(builder.build()?)
}

/// The spec of a container.
pub fn container(input: &ContainerInput<'_>) -> Result<ContainerSpec, SpecError> {
    let security = &input.container.security;
    let pod = &input.pod.security;
    if security.privileged && !pod.privileged {
        return Err(SpecError::PrivilegedInOrdinaryPod);
    }
    namespaces::check_container(&security.namespaces, &pod.namespaces)?;
    let user_namespace = pod.namespaces.user.as_ref();

    let mut warnings = Vec::new();
    let mut user = user::resolve(
        &security.run_as,
        &input.image.user,
        input.passwd,
        input.group,
    )?;
    namespaces::check_ids(&pod.namespaces, &user)?;
    let held = capabilities::held(
        &security.capabilities,
        security.privileged,
        input.defaults,
        input.facts,
        &mut warnings,
    )?;
    let Mounts {
        mounts,
        rootfs_propagation,
    } = mounts::mounts(
        &input.mounts,
        Some(&input.files),
        &Surroundings {
            privileged: security.privileged,
            readonly_rootfs: security.readonly_rootfs,
            node_network_in_user_namespace: input.namespaces.network.is_none()
                && user_namespace.is_some(),
            node_ipc: input.namespaces.ipc.is_none(),
            recursive_readonly: input.features.recursive_readonly_mounts,
            tty_group: has_group(user_namespace, TTY_GROUP),
        },
        input.features,
    )?;
    let process = process(input, &user, &held, &mut warnings)?;
    let linux = linux(
        input,
        &held,
        user_namespace,
        rootfs_propagation,
        &mut warnings,
    )?;
    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(
            RootBuilder::default()
                .path(input.rootfs.as_path())
                .readonly(security.readonly_rootfs)
                .build()?,
        )
        .mounts(mounts)
        .process(process)
        .annotations(annotations::container(
            input.pod_id,
            input.pod,
            input.container,
            &input.defaults.annotation_prefixes,
        ))
        .linux(linux)
        .build()?;
    cdi::apply::apply(&mut spec, &input.cdi, user_namespace.is_some())?;
    let added = input.cdi.additional_gids.iter().copied();
    namespaces::check_groups(&pod.namespaces, added, "config.CDI_devices")?;
    if let Some(groups) = spec
        .process()
        .as_ref()
        .and_then(|process| process.user().additional_gids().clone())
    {
        user.groups = groups;
    }
    // The UTS namespace has its name already, and the crate would fill in one of its own.
    spec.set_hostname(None);
    Ok(ContainerSpec {
        spec,
        user,
        warnings,
    })
}

/// A plain node for the tests of this crate's modules, and for fuzz targets.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod sample {
    use std::collections::BTreeMap;

    use crate::Capability;
    use crate::input::{Architecture, CgroupVersion, NodeFacts};

    pub(crate) fn facts() -> NodeFacts {
        NodeFacts {
            hostname: "node".to_owned(),
            cgroup_version: CgroupVersion::V1,
            systemd_cgroup: false,
            hugetlb: true,
            swap_accounting: true,
            capabilities: Capability::ALL.iter().copied().collect(),
            apparmor: false,
            selinux: false,
            oom_score_adj_min: -1000,
            hard_rlimits: BTreeMap::new(),
            architecture: Some(Architecture::X86_64),
            kernel: (6, 1),
        }
    }
}

#[cfg(test)]
mod test {
    use crate::model;

    #[test]
    fn a_group_is_mapped_or_not() {
        let user = model::UserNamespace {
            uids: Vec::new(),
            gids: vec![model::IdMapping {
                host_id: 70_000,
                container_id: 0,
                length: 5,
            }],
        };
        assert!(super::has_group(None, 5));
        assert!(super::has_group(Some(&user), 4));
        assert!(!super::has_group(Some(&user), 5));
    }
}
