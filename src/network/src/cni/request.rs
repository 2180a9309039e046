//! What a plugin is handed: the configuration on its stdin, its runtime configuration and its arguments.
//!
//! Pure. The forms of the capabilities' values are those of CNI's conventions, which every runtime shares.

use serde_json::{Map, Value, json};

use super::conf::{Conf, PluginConf};
use super::result::AddResult;
use super::version::Version;
use crate::NetworkError;
use crate::pod::{Attachment, Dns, HostPort, Protocol};

/// Values by capability, of which a plugin gets those that it declares.
pub(super) type Capabilities = Map<String, Value>;

/// The largest burst that the `bandwidth` plugin takes, in bits: Kubernetes limits rates only.
const BURST_BITS: u32 = u32::MAX;

/// The configuration of one plugin of a chain as the plugin gets it.
pub(super) fn input(
    conf: &Conf,
    plugin: &PluginConf,
    version: Version,
    capabilities: &Capabilities,
    prev_result: Option<&AddResult>,
) -> Vec<u8> {
    let mut object = plugin.object.clone();
    object.insert("name".to_owned(), conf.name.as_str().into());
    object.insert("cniVersion".to_owned(), version.as_str().into());
    let runtime_config: Map<String, Value> = capabilities
        .iter()
        .filter(|(name, _)| plugin.capabilities.contains(*name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !runtime_config.is_empty() {
        object.insert("runtimeConfig".to_owned(), runtime_config.into());
    }
    if let Some(result) = prev_result {
        object.insert("prevResult".to_owned(), result.clone().into());
    }
    Value::Object(object).to_string().into_bytes()
}

/// Whether a plugin passes on the result unchanged, so that it need not be run: what the well-known plugins of CNI do for a pod that
/// does not use what they offer. Most pods do not, and a run costs 3 ms.
pub(super) fn is_idle(plugin: &PluginConf, capabilities: &Capabilities) -> bool {
    let has = |key: &&str| plugin.object.contains_key(*key);
    let (capability, own_settings) = match plugin.kind.as_str() {
        "portmap" => ("portMappings", &[][..]),
        "bandwidth" => (
            "bandwidth",
            &["ingressRate", "ingressBurst", "egressRate", "egressBurst"][..],
        ),
        _ => return false,
    };
    !capabilities.contains_key(capability)
        && !own_settings.iter().any(has)
        && !has(&"runtimeConfig")
}

/// The attachment's values by capability. Those without content are left out, so plugins keep their own defaults.
pub(super) fn capabilities(attachment: &Attachment, pod_cidrs: &[String]) -> Capabilities {
    let mut values = Map::new();
    let ports: Vec<Value> = attachment
        .port_mappings
        .iter()
        .filter(|port| port.host_port != 0)
        .map(port_mapping)
        .collect();
    if !ports.is_empty() {
        values.insert("portMappings".to_owned(), ports.into());
    }
    let mut bandwidth = Map::new();
    for (direction, rate) in [
        ("ingress", attachment.ingress_bps),
        ("egress", attachment.egress_bps),
    ] {
        if let Some(rate) = rate {
            bandwidth.insert(format!("{direction}Rate"), rate.into());
            bandwidth.insert(format!("{direction}Burst"), BURST_BITS.into());
        }
    }
    if !bandwidth.is_empty() {
        values.insert("bandwidth".to_owned(), bandwidth.into());
    }
    let Dns {
        servers,
        searches,
        options,
    } = &attachment.dns;
    if !(servers.is_empty() && searches.is_empty() && options.is_empty()) {
        let dns = json!({ "servers": servers, "searches": searches, "options": options });
        values.insert("dns".to_owned(), dns);
    }
    if !pod_cidrs.is_empty() {
        let ranges: Vec<Value> = pod_cidrs
            .iter()
            .map(|cidr| json!([{ "subnet": cidr }]))
            .collect();
        values.insert("ipRanges".to_owned(), ranges.into());
    }
    if !attachment.cgroup_parent.is_empty() {
        values.insert(
            "cgroupPath".to_owned(),
            attachment.cgroup_parent.as_str().into(),
        );
    }
    values
}

fn port_mapping(port: &HostPort) -> Value {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    let mut mapping = json!({ "hostPort": port.host_port, "containerPort": port.container_port, "protocol": protocol });
    if !port.host_ip.is_empty() {
        mapping["hostIP"] = port.host_ip.as_str().into();
    }
    mapping
}

/// The names under which plugins look for the pod's identity in `CNI_ARGS`.
pub(super) fn arguments(attachment: &Attachment) -> Vec<(String, String)> {
    [
        // Plugins that do not know the names below must not mind them.
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &attachment.namespace),
        ("K8S_POD_NAME", &attachment.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &attachment.pod_id),
        ("K8S_POD_UID", &attachment.uid),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

/// The value of `CNI_ARGS`.
pub(super) fn join(arguments: &[(String, String)]) -> String {
    let pairs: Vec<String> = arguments
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join(";")
}

/// `CNI_ARGS` has no way to quote its separators: a pod's name must not smuggle in an argument.
pub(super) fn validate(attachment: &Attachment) -> Result<(), NetworkError> {
    let bad = |field, value: &str, problem| {
        Err(NetworkError::BadAttachment {
            pod_id: attachment.pod_id.clone(),
            field,
            value: value.to_owned(),
            problem,
        })
    };
    if !super::conf::is_identifier(&attachment.pod_id) || attachment.pod_id.len() > MAX_POD_ID_BYTES
    {
        return bad(
            "pod id",
            &attachment.pod_id,
            "not a container id in CNI's sense",
        );
    }
    for (field, value) in [
        ("name", &attachment.name),
        ("namespace", &attachment.namespace),
        ("uid", &attachment.uid),
    ] {
        if value.contains([';', '=', '\0']) {
            return bad(field, value, "it contains ';', '=' or NUL");
        }
    }
    Ok(())
}

/// With a network's name and an interface's it has to fit into a file name.
const MAX_POD_ID_BYTES: usize = 80;

#[cfg(test)]
mod tests;
