//! Security options of pods and containers: users, profiles, labels, capabilities.

use api::cri;
use spec::model::{
    CapabilityChanges, ContainerSecurity, PodSecurity, RunAs, SecurityProfile, SelinuxLabel,
    SupplementalGroupsPolicy,
};

use super::namespaces::{Asker, namespaces};
use super::{At, Refusal, absolute, each, enumeration, no_nul, present};

/// The largest user or group id: −1 means "no change" to the kernel.
const ID_MAX: i64 = u32::MAX as i64 - 1;

pub(super) fn pod_security(
    at: At<'_>,
    given: cri::LinuxSandboxSecurityContext,
) -> Result<PodSecurity, Refusal> {
    #[expect(deprecated, reason = "older clients send nothing else")]
    let seccomp_path = given.seccomp_profile_path;
    Ok(PodSecurity {
        namespaces: namespaces(
            at.field("namespace_options"),
            given.namespace_options,
            Asker::Pod,
        )?,
        selinux: selinux(at.field("selinux_options"), given.selinux_options)?,
        run_as: run_as(
            at,
            given.run_as_user,
            String::new(),
            given.run_as_group,
            given.supplemental_groups,
            given.supplemental_groups_policy,
        )?,
        readonly_rootfs: given.readonly_rootfs,
        privileged: given.privileged,
        seccomp: seccomp(at, given.seccomp, &seccomp_path)?,
        apparmor: apparmor(at, given.apparmor, "")?,
    })
}

pub(super) fn container_security(
    at: At<'_>,
    given: cri::LinuxContainerSecurityContext,
) -> Result<ContainerSecurity, Refusal> {
    #[expect(deprecated, reason = "older clients send nothing else")]
    let (seccomp_path, apparmor_name) = (given.seccomp_profile_path, given.apparmor_profile);
    let capabilities = given.capabilities.unwrap_or_default();
    Ok(ContainerSecurity {
        capabilities: CapabilityChanges {
            add: capabilities.add_capabilities,
            drop: capabilities.drop_capabilities,
            add_ambient: capabilities.add_ambient_capabilities,
        },
        privileged: given.privileged,
        namespaces: namespaces(
            at.field("namespace_options"),
            given.namespace_options,
            Asker::Container,
        )?,
        selinux: selinux(at.field("selinux_options"), given.selinux_options)?,
        run_as: run_as(
            at,
            given.run_as_user,
            given.run_as_username,
            given.run_as_group,
            given.supplemental_groups,
            given.supplemental_groups_policy,
        )?,
        readonly_rootfs: given.readonly_rootfs,
        no_new_privs: given.no_new_privs,
        masked_paths: each(at.field("masked_paths"), given.masked_paths, absolute)?,
        readonly_paths: each(at.field("readonly_paths"), given.readonly_paths, absolute)?,
        seccomp: seccomp(at, given.seccomp, &seccomp_path)?,
        apparmor: apparmor(at, given.apparmor, &apparmor_name)?,
    })
}

fn run_as(
    at: At<'_>,
    user: Option<cri::Int64Value>,
    username: String,
    group: Option<cri::Int64Value>,
    groups: Vec<i64>,
    policy: i32,
) -> Result<RunAs, Refusal> {
    let single = |name, value: Option<cri::Int64Value>| {
        value
            .map(|value| id(at.field(name), value.value))
            .transpose()
    };
    let run_as = RunAs {
        user: single("run_as_user", user)?,
        username: no_nul(at.field("run_as_username"), username)?,
        group: single("run_as_group", group)?,
        supplemental_groups: each(at.field("supplemental_groups"), groups, id)?,
        supplemental_groups_policy: match enumeration(
            at.field("supplemental_groups_policy"),
            policy,
        )? {
            cri::SupplementalGroupsPolicy::Merge => SupplementalGroupsPolicy::Merge,
            cri::SupplementalGroupsPolicy::Strict => SupplementalGroupsPolicy::Strict,
        },
    };
    if run_as.group.is_some() && run_as.user.is_none() && run_as.username.is_empty() {
        return Err(at
            .field("run_as_group")
            .refuse("is only valid together with a user"));
    }
    Ok(run_as)
}

fn id(at: At<'_>, value: i64) -> Result<i64, Refusal> {
    if (0..=ID_MAX).contains(&value) {
        return Ok(value);
    }
    Err(at.refuse(format_args!("{value} is not in 0..={ID_MAX}")))
}

/// Parts of a label by their form; whether the node's policy has them, the engine finds out where SELinux is active.
fn selinux(at: At<'_>, given: Option<cri::SeLinuxOption>) -> Result<SelinuxLabel, Refusal> {
    let given = given.unwrap_or_default();
    let name = |field, text: String| {
        if text.is_empty() || spec::selinux::is_name(&text) {
            return Ok(text);
        }
        Err(at.field(field).refuse(format_args!(
            "{text:?} is no name of SELinux: letters, digits, `_`, `.` and `-`"
        )))
    };
    let level = given.level;
    if !level.is_empty() && !spec::selinux::is_level(&level) {
        return Err(at.field("level").refuse(format_args!(
            "{level:?} is no level of SELinux, such as s0, s0:c4,c5 or s0-s0:c0.c1023"
        )));
    }
    Ok(SelinuxLabel {
        user: name("user", given.user)?,
        role: name("role", given.role)?,
        kind: name("type", given.r#type)?,
        level,
    })
}

/// CRI: an absent seccomp profile means unconfined.
fn seccomp(
    at: At<'_>,
    given: Option<cri::SecurityProfile>,
    old: &str,
) -> Result<SecurityProfile, Refusal> {
    let profile = profile(
        at.field("seccomp"),
        given,
        at.field("seccomp_profile_path"),
        old,
    )?;
    if let Some(SecurityProfile::Localhost(path)) = &profile {
        absolute(at.field("seccomp").field("localhost_ref"), path.clone())?;
    }
    Ok(profile.unwrap_or(SecurityProfile::Unconfined))
}

fn apparmor(
    at: At<'_>,
    given: Option<cri::SecurityProfile>,
    old: &str,
) -> Result<Option<SecurityProfile>, Refusal> {
    profile(
        at.field("apparmor"),
        given,
        at.field("apparmor_profile"),
        old,
    )
}

/// A profile in the new form, or else in the old one: `runtime/default`, `unconfined` or `localhost/<name>`.
fn profile(
    at: At<'_>,
    given: Option<cri::SecurityProfile>,
    old_at: At<'_>,
    old: &str,
) -> Result<Option<SecurityProfile>, Refusal> {
    use cri::security_profile::ProfileType;

    if let Some(given) = given {
        let profile = match enumeration(at.field("profile_type"), given.profile_type)? {
            ProfileType::RuntimeDefault => SecurityProfile::RuntimeDefault,
            ProfileType::Unconfined => SecurityProfile::Unconfined,
            ProfileType::Localhost => {
                let name = at.field("localhost_ref");
                present(name, &given.localhost_ref)?;
                SecurityProfile::Localhost(no_nul(name, given.localhost_ref)?)
            }
        };
        return Ok(Some(profile));
    }
    match old {
        "" => Ok(None),
        "runtime/default" | "docker/default" => Ok(Some(SecurityProfile::RuntimeDefault)),
        "unconfined" => Ok(Some(SecurityProfile::Unconfined)),
        _ => match old.strip_prefix("localhost/") {
            Some(name) if !name.is_empty() => Ok(Some(SecurityProfile::Localhost(no_nul(
                old_at,
                name.to_owned(),
            )?))),
            _ => Err(old_at.refuse(format_args!(
                "{old:?} is not runtime/default, unconfined or localhost/<profile>"
            ))),
        },
    }
}
