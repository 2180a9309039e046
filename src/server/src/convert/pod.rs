//! A pod as asked for.

use api::cri;
use spec::model::{Dns, PodConfig, PodMetadata, PodSecurity, PortMapping, Protocol};

use super::resources::resources_if_any;
use super::security::pod_security;
use super::{
    At, Refusal, absolute_if_any, address_if_any, each, enumeration, no_climbing, no_nul, one_word,
    present, required,
};

/// Longest name, uid or namespace of a pod, in bytes. Kubernetes stops at 253.
const NAME_MAX_BYTES: usize = 512;
/// Longest host name that the kernel takes, in bytes.
const HOSTNAME_MAX_BYTES: usize = 64;

/// Converts and checks `config` of RunPodSandbox.
pub(crate) fn pod_config(given: Option<cri::PodSandboxConfig>) -> Result<PodConfig, Refusal> {
    let at = At::root("config");
    let given = required(at, given)?;
    let linux_at = at.field("linux");
    let linux = given.linux.unwrap_or_default();
    let security_at = linux_at.field("security_context");
    let security = match linux.security_context {
        Some(given) => pod_security(security_at, given)?,
        None => PodSecurity::default(),
    };
    let sysctls_at = linux_at.field("sysctls");
    for (name, value) in &linux.sysctls {
        present(sysctls_at, name)?;
        no_nul(sysctls_at, format!("{name}{value}"))?;
    }
    Ok(PodConfig {
        metadata: metadata(at.field("metadata"), given.metadata)?,
        hostname: hostname(at.field("hostname"), given.hostname)?,
        log_directory: log_directory(at.field("log_directory"), given.log_directory)?,
        dns: given
            .dns_config
            .map(|dns| dns_config(at.field("dns_config"), dns))
            .transpose()?,
        port_mappings: each(at.field("port_mappings"), given.port_mappings, port_mapping)?,
        labels: given.labels,
        annotations: given.annotations,
        cgroup_parent: no_climbing(linux_at.field("cgroup_parent"), linux.cgroup_parent)?,
        sysctls: linux.sysctls,
        overhead: resources_if_any(linux_at.field("overhead"), linux.overhead)?,
        resources: resources_if_any(linux_at.field("resources"), linux.resources)?,
        security,
    })
}

fn metadata(at: At<'_>, given: Option<cri::PodSandboxMetadata>) -> Result<PodMetadata, Refusal> {
    let given = required(at, given)?;
    Ok(PodMetadata {
        name: identity(at.field("name"), given.name)?,
        uid: identity(at.field("uid"), given.uid)?,
        namespace: identity(at.field("namespace"), given.namespace)?,
        attempt: given.attempt,
    })
}

/// A part of an identity: these go into keys, logs and plugins' arguments, so they must be plain words.
pub(super) fn identity(at: At<'_>, text: String) -> Result<String, Refusal> {
    if text.len() > NAME_MAX_BYTES {
        return Err(at.refuse(format_args!(
            "{} bytes are too long, at most {NAME_MAX_BYTES} are taken",
            text.len()
        )));
    }
    if text.contains('/') {
        return Err(at.refuse(format_args!("{text:?} must not contain a slash")));
    }
    one_word(at, text)
}

fn hostname(at: At<'_>, text: String) -> Result<String, Refusal> {
    if text.is_empty() {
        return Ok(text);
    }
    if text.len() > HOSTNAME_MAX_BYTES || text.contains('/') {
        return Err(at.refuse(format_args!(
            "{text:?} is not a host name of at most {HOSTNAME_MAX_BYTES} bytes"
        )));
    }
    one_word(at, text)
}

fn log_directory(at: At<'_>, path: String) -> Result<String, Refusal> {
    no_climbing(at, absolute_if_any(at, path)?)
}

fn dns_config(at: At<'_>, given: cri::DnsConfig) -> Result<Dns, Refusal> {
    // Every word becomes part of a line of resolv.conf.
    Ok(Dns {
        servers: each(at.field("servers"), given.servers, one_word)?,
        searches: each(at.field("searches"), given.searches, one_word)?,
        options: each(at.field("options"), given.options, one_word)?,
    })
}

fn port_mapping(at: At<'_>, given: cri::PortMapping) -> Result<PortMapping, Refusal> {
    let port = |name, value: i32, least: u16| {
        u16::try_from(value)
            .ok()
            .filter(|port| *port >= least)
            .ok_or_else(|| {
                at.field(name)
                    .refuse(format_args!("{value} is not in {least}..=65535"))
            })
    };
    Ok(PortMapping {
        protocol: match enumeration(at.field("protocol"), given.protocol)? {
            cri::Protocol::Tcp => Protocol::Tcp,
            cri::Protocol::Udp => Protocol::Udp,
            cri::Protocol::Sctp => Protocol::Sctp,
        },
        container_port: port("container_port", given.container_port, 1)?,
        host_port: port("host_port", given.host_port, 0)?,
        host_ip: address_if_any(at.field("host_ip"), given.host_ip)?,
    })
}
