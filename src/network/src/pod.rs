//! What the caller says about a pod to attach, and what it is told afterwards.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A pod that is to be, or was, put on the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The pod's id: the identity of the attachment, and `CNI_CONTAINERID`.
    pub pod_id: String,
    /// Kubernetes name of the pod.
    pub name: String,
    /// Kubernetes namespace of the pod.
    pub namespace: String,
    /// Kubernetes uid of the pod.
    pub uid: String,
    /// Where the pod's network namespace is pinned.
    pub netns: PathBuf,
    /// Ports of the node to be forwarded; entries with host port 0 are left out.
    pub port_mappings: Vec<HostPort>,
    /// Limit of what the pod receives, bits per second.
    pub ingress_bps: Option<u64>,
    /// Limit of what the pod sends, bits per second.
    pub egress_bps: Option<u64>,
    /// The pod's resolver settings, for plugins that serve names.
    pub dns: Dns,
    /// The pod's parent cgroup; may be empty.
    pub cgroup_parent: String,
}

/// A port of the node forwarded to a port of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// Transport protocol.
    pub protocol: Protocol,
    /// 1–65535.
    pub container_port: u16,
    /// 0 means not mapped.
    pub host_port: u16,
    /// Address on the node; empty means all.
    pub host_ip: String,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "protocol names")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Resolver settings as in `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "resolv.conf's own words")]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// A pod on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Name of the network.
    pub network: String,
    /// The pod's addresses, the primary one first; at least one.
    pub ips: Vec<IpAddr>,
    /// Every interface that was made for the pod, on either side.
    pub interfaces: Vec<Interface>,
}

/// An interface made for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name inside its namespace.
    pub name: String,
    /// Hardware address as the plugin wrote it; may be empty.
    pub mac: String,
    /// The namespace it is in; `None`: the node's.
    pub sandbox: Option<PathBuf>,
}
