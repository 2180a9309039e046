//! What the network is told of a pod.

use std::{collections::BTreeMap, path::Path};

use network::{Attachment, HostPort};
use spec::model::{PodConfig, Protocol};
use state::PodId;

/// Annotations by which Kubernetes asks for a limit of a pod's traffic, as quantities of bits per second.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

pub(crate) fn of(id: &PodId, netns: &Path, config: &PodConfig) -> Attachment {
    let dns = config.dns.clone().unwrap_or_default();
    Attachment {
        pod_id: id.to_string(),
        name: config.metadata.name.clone(),
        namespace: config.metadata.namespace.clone(),
        uid: config.metadata.uid.clone(),
        netns: netns.to_owned(),
        port_mappings: config
            .port_mappings
            .iter()
            .filter(|mapping| mapping.host_port != 0)
            .map(|mapping| HostPort {
                protocol: match mapping.protocol {
                    Protocol::Tcp => network::Protocol::Tcp,
                    Protocol::Udp => network::Protocol::Udp,
                    Protocol::Sctp => network::Protocol::Sctp,
                },
                container_port: mapping.container_port,
                host_port: mapping.host_port,
                host_ip: mapping.host_ip.clone(),
            })
            .collect(),
        ingress_bps: bandwidth(&config.annotations, INGRESS),
        egress_bps: bandwidth(&config.annotations, EGRESS),
        dns: network::Dns {
            servers: dns.servers,
            searches: dns.searches,
            options: dns.options,
        },
        cgroup_parent: config.cgroup_parent.clone(),
    }
}

fn bandwidth(annotations: &BTreeMap<String, String>, key: &str) -> Option<u64> {
    let text = annotations.get(key)?;
    let bits = quantity(text);
    if bits.is_none() {
        tracing::warn!(key, %text, "not a quantity such as 10M; the pod's traffic is not limited");
    }
    bits
}

/// A Kubernetes quantity of whole bits: digits with an optional fraction, then `k M G T P` or `Ki Mi Gi Ti Pi`.
fn quantity(text: &str) -> Option<u64> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 9 || whole.is_empty() {
        return None;
    }
    let mut bits = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if !fraction.is_empty() {
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor) / scale;
        bits = bits.checked_add(u64::try_from(part).ok()?)?;
    }
    Some(bits)
}

#[cfg(test)]
mod test {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("10M", Some(10_000_000))]
    #[case("1.5k", Some(1500))]
    #[case("2Mi", Some(2 << 20))]
    #[case("64", Some(64))]
    #[case("", None)]
    #[case("M", None)]
    #[case("1e3", None)]
    #[case("-1", None)]
    #[case("99999999999P", None)]
    fn quantities_are_read_as_kubernetes_writes_them(
        #[case] text: &str,
        #[case] bits: Option<u64>,
    ) {
        assert_eq!(quantity(text), bits);
    }
}
