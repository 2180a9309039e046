//! The spec of a pause container: a process that does nothing, as init of the pod's PID namespace or as the sandbox that
//! a VM runtime starts its guest from.
//!
//! It holds no capability, cannot gain any, and sees a read-only root with little more than itself in it.

use oci_spec::runtime::{
    LinuxBuilder, LinuxCpuBuilder, LinuxResourcesBuilder, ProcessBuilder, RootBuilder, Spec,
    SpecBuilder, UserBuilder,
};

use crate::capabilities::Held;
use crate::container::{OCI_VERSION, has_group};
use crate::error::SpecError;
use crate::input::PauseInput;
use crate::mounts::{Mounts, Surroundings};
use crate::namespaces::{self, Pid};
use crate::selinux::SelinuxContext;
use crate::{annotations, apparmor, devices, mounts, oom_score, paths, seccomp, sysctl, user};

/// As hard to kill as what kubelet keeps alive: with it the whole pod would go.
const OOM_SCORE_ADJ: i64 = -998;

/// The least weight there is: it sleeps.
const CPU_SHARES: u64 = 2;

/// The spec of a pod's pause container.
pub fn pause(input: &PauseInput<'_>) -> Result<Spec, SpecError> {
    let security = &input.pod.security;
    namespaces::check_pod(&security.namespaces)?;
    let user_namespace = security.namespaces.user.as_ref();
    // The server says what it had to clamp once, in its status; a pause process is nobody's wish.
    let mut warnings = Vec::new();

    // Names mean nothing here: there is no /etc/passwd in the root.
    let user = user::resolve(&security.run_as, "", None, None)?;
    let hostname = namespaces::hostname(input.pod, &input.facts.hostname)?;
    let held = Held::none();
    let mut process = ProcessBuilder::default()
        .terminal(false)
        .user(
            UserBuilder::default()
                .uid(user.uid)
                .gid(user.gid)
                .additional_gids(user.groups)
                .build()?,
        )
        .args(input.args.clone())
        .env(Vec::new())
        .cwd("/")
        .capabilities(held.oci()?)
        .rlimits(Vec::new())
        .no_new_privileges(true)
        .oom_score_adj(oom_score::oom_score_adj(
            OOM_SCORE_ADJ,
            "oom_score_adj",
            input.facts,
            &mut warnings,
        )?);
    if let Some(profile) = apparmor::profile(
        security.apparmor.as_ref(),
        "config.linux.security_context.apparmor",
        security.privileged,
        input.defaults,
        input.facts,
    )? {
        process = process.apparmor_profile(profile);
    }
    let selinux = input.selinux.as_ref().filter(|_| input.facts.selinux);
    if let Some(label) = selinux.and_then(SelinuxContext::process) {
        process = process.selinux_label(label);
    }

    let Mounts { mounts, .. } = mounts::mounts(
        &[],
        input.files.as_ref(),
        &Surroundings {
            privileged: false,
            readonly_rootfs: true,
            node_network_in_user_namespace: input.namespaces.network.is_none()
                && user_namespace.is_some(),
            node_ipc: input.namespaces.ipc.is_none(),
            recursive_readonly: input.features.recursive_readonly_mounts,
            tty_group: has_group(user_namespace, 5),
        },
        input.features,
    )?;
    let owned =
        |paths: &[&str]| -> Vec<String> { paths.iter().map(|path| (*path).to_owned()).collect() };
    let mut linux = LinuxBuilder::default()
        .resources(
            LinuxResourcesBuilder::default()
                .devices(devices::rules(&[], false)?)
                .cpu(LinuxCpuBuilder::default().shares(CPU_SHARES).build()?)
                .build()?,
        )
        .cgroups_path(input.cgroups_path.as_str())
        .namespaces(namespaces::namespaces(
            &input.namespaces,
            Pid::Own,
            user_namespace.is_some(),
            false,
            input.facts,
        )?)
        .masked_paths(owned(paths::DEFAULT_MASKED))
        .readonly_paths(owned(paths::DEFAULT_READONLY));
    let sysctls = sysctl::effective(input.pod, &input.defaults.sysctls)?;
    if !sysctls.is_empty() {
        linux = linux.sysctl(
            sysctls
                .into_iter()
                .collect::<std::collections::HashMap<_, _>>(),
        );
    }
    if let Some(user) = user_namespace {
        linux = linux
            .uid_mappings(namespaces::id_mappings(&user.uids)?)
            .gid_mappings(namespaces::id_mappings(&user.gids)?);
    }
    if let Some(filter) = seccomp::filter(
        &security.seccomp,
        "config.linux.security_context.seccomp",
        &input.defaults.seccomp,
        input.seccomp_file,
        &held.all,
        input.facts,
    )? {
        linux = linux.seccomp(filter);
    }
    if let Some(labels) = selinux {
        linux = linux.mount_label(labels.mount());
    }

    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(
            RootBuilder::default()
                .path(input.rootfs.as_path())
                .readonly(true)
                .build()?,
        )
        .mounts(mounts)
        .process(process.build()?)
        .annotations(annotations::sandbox(
            input.pod_id,
            input.pod,
            &input.defaults.annotation_prefixes,
        ))
        .linux(linux.build()?)
        .build()?;
    // A runtime refuses a name for a UTS namespace that is the node's.
    spec.set_hostname(input.namespaces.uts.is_some().then_some(hostname));
    Ok(spec)
}
