//! The words in which a pod and its containers are described, free of CRI and of the OCI runtime spec.
//!
//! `server` fills these values from CRI messages after validation, `engine` keeps them in its records (hence serde),
//! and this crate turns them into OCI runtime specs. They say what was asked for, never what was found on the node:
//! that is `crate::NodeFacts`. Strings are as the client sent them, byte for byte. What a record of an older version lacks
//! has its default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Which namespace of a kind a pod or container lives in (CRI `NamespaceMode`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// One namespace shared by the containers of the pod.
    #[default]
    Pod,
    /// A namespace of the container's own.
    Container,
    /// The node's namespace.
    Node,
    /// The namespace of another container of the same pod, named by its container id (PID only).
    Target(String),
}

/// A contiguous range of ids mapped into a user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id on the node.
    pub host_id: u32,
    /// First id inside the container.
    pub container_id: u32,
    /// How many ids.
    pub length: u32,
}

/// A pod's user namespace: `None` in [`Namespaces::user`] means the node's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserNamespace {
    /// User id ranges.
    pub uids: Vec<IdMapping>,
    /// Group id ranges.
    pub gids: Vec<IdMapping>,
}

/// The namespace choices of a pod or of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespaces {
    /// `Pod` or `Node`.
    pub network: NamespaceMode,
    /// Any mode.
    pub pid: NamespaceMode,
    /// `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// The pod's own user namespace, if it has one.
    pub user: Option<UserNamespace>,
}

/// A seccomp or AppArmor profile as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecurityProfile {
    /// The profile that comes with the runtime.
    RuntimeDefault,
    /// No confinement. CRI's meaning of an absent profile.
    #[default]
    Unconfined,
    /// A profile of the node: an absolute file path (seccomp) or the name of a loaded profile (AppArmor).
    Localhost(String),
}

/// SELinux label parts; empty ones take the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the four parts of a label are SELinux's own words"
)]
pub struct SelinuxLabel {
    pub user: String,
    pub role: String,
    pub kind: String,
    pub level: String,
}

/// How supplemental groups of the request meet those of the image's `/etc/group`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SupplementalGroupsPolicy {
    /// Both.
    #[default]
    Merge,
    /// Only those of the request.
    Strict,
}

/// Resource limits (CRI `LinuxContainerResources`). Zero means "not given" except where told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CFS period in microseconds.
    pub cpu_period_us: i64,
    /// CFS quota in microseconds per period; negative means no limit.
    pub cpu_quota_us: i64,
    /// Relative weight in cgroup v1's unit (2–262144).
    pub cpu_shares: i64,
    /// Memory limit in bytes; negative means no limit.
    pub memory_limit_bytes: i64,
    /// Memory plus swap in bytes; negative means no limit.
    pub memory_swap_limit_bytes: i64,
    /// −1000 to 1000.
    pub oom_score_adj: i64,
    /// CPU list such as `0-3,8`.
    pub cpuset_cpus: String,
    /// Memory node list.
    pub cpuset_mems: String,
    /// Page size (`2MB`, `1GB`) and limit in bytes.
    pub hugepage_limits: Vec<(String, u64)>,
    /// Raw cgroup v2 keys and values.
    pub unified: BTreeMap<String, String>,
}

/// Mount propagation (CRI `MountPropagation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// `rprivate`.
    #[default]
    Private,
    /// `rslave`.
    HostToContainer,
    /// `rshared`.
    Bidirectional,
}

/// A volume asked for by the client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Absolute path inside the container.
    pub container_path: String,
    /// Absolute path on the node; empty for an image volume.
    pub host_path: String,
    /// Mounted read-only.
    pub readonly: bool,
    /// Every mount below is read-only too.
    pub recursive_readonly: bool,
    /// Relabel the host path for the container's SELinux label.
    pub selinux_relabel: bool,
    /// Propagation of mounts between node and container.
    pub propagation: Propagation,
    /// Idmapped mount: user ranges.
    pub uid_mappings: Vec<IdMapping>,
    /// Idmapped mount: group ranges.
    pub gid_mappings: Vec<IdMapping>,
    /// The image of an image volume.
    pub image: Option<ImageSpec>,
    /// Path inside that image.
    pub image_sub_path: String,
    /// `noexec`, `nodev`, `nosuid`.
    pub options: Vec<String>,
}

/// An image as the client named it (CRI `ImageSpec`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSpec {
    /// The reference or id that the kubelet resolved to.
    pub image: String,
    /// The reference that the user wrote.
    pub user_specified_image: String,
    /// Runtime class whose image is wanted.
    pub runtime_handler: String,
    /// Digest of an image volume.
    pub image_ref: String,
    /// Kubelet's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A device of the node given to a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Path inside the container.
    pub container_path: String,
    /// Path on the node: a device node, or a directory of them.
    pub host_path: String,
    /// Letters of `rwm`.
    pub permissions: String,
}

/// Changes to the default capability set. Names with or without `CAP_`, any case; `ALL` is understood.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CapabilityChanges {
    /// Added to bounding, effective and permitted.
    pub add: Vec<String>,
    /// Dropped from all sets.
    pub drop: Vec<String>,
    /// Added to all sets, ambient and inheritable included.
    pub add_ambient: Vec<String>,
}

/// Who a container runs as, before the image's files are consulted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunAs {
    /// Numeric user; wins over the name.
    pub user: Option<i64>,
    /// User name, looked up in the image's `/etc/passwd`.
    pub username: String,
    /// Numeric primary group; only valid with a user.
    pub group: Option<i64>,
    /// Extra groups.
    pub supplemental_groups: Vec<i64>,
    /// How the extra groups meet the image's.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
}

/// Security options of one container (CRI `LinuxContainerSecurityContext`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSecurity {
    /// Capability changes.
    pub capabilities: CapabilityChanges,
    /// Everything of the node.
    pub privileged: bool,
    /// Namespace choices.
    pub namespaces: Namespaces,
    /// SELinux label parts.
    pub selinux: SelinuxLabel,
    /// The user.
    pub run_as: RunAs,
    /// Root filesystem mounted read-only.
    pub readonly_rootfs: bool,
    /// `no_new_privs` set.
    pub no_new_privs: bool,
    /// Paths hidden from the container.
    pub masked_paths: Vec<String>,
    /// Paths made read-only.
    pub readonly_paths: Vec<String>,
    /// System call filter.
    pub seccomp: SecurityProfile,
    /// AppArmor profile; `None` means the client said nothing.
    pub apparmor: Option<SecurityProfile>,
}

/// Security options of a pod (CRI `LinuxSandboxSecurityContext`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSecurity {
    /// Namespace choices.
    pub namespaces: Namespaces,
    /// SELinux label parts.
    pub selinux: SelinuxLabel,
    /// The user of the pause process.
    pub run_as: RunAs,
    /// The pause container's root is read-only (it always is).
    pub readonly_rootfs: bool,
    /// The pod may hold privileged containers.
    pub privileged: bool,
    /// System call filter of the pause process.
    pub seccomp: SecurityProfile,
    /// AppArmor profile of the pause process.
    pub apparmor: Option<SecurityProfile>,
}

/// What identifies a pod to the client: the key of joinable jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "Kubernetes' own words")]
pub struct PodMetadata {
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub attempt: u32,
}

/// Contents of a pod's `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// A transport protocol of a port mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "protocol names")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// A port of the node forwarded to a port of the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// 1–65535.
    pub container_port: u16,
    /// 0 means not mapped.
    pub host_port: u16,
    /// Address on the node; empty means all.
    pub host_ip: String,
}

/// A pod as asked for (CRI `PodSandboxConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodConfig {
    /// Identity.
    pub metadata: PodMetadata,
    /// Host name; empty means the node's (host network) or the pod's name.
    pub hostname: String,
    /// Directory of the containers' log files; may be empty.
    pub log_directory: String,
    /// `None`: a copy of the node's resolv.conf.
    pub dns: Option<Dns>,
    /// Forwarded ports.
    pub port_mappings: Vec<PortMapping>,
    /// Labels, round-tripped.
    pub labels: BTreeMap<String, String>,
    /// Annotations, round-tripped.
    pub annotations: BTreeMap<String, String>,
    /// Parent cgroup in cgroupfs style (`/kubepods/…` or `/kubepods.slice/…`); may be empty.
    pub cgroup_parent: String,
    /// Sysctls of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Resources that the runtime itself may use on top of the containers'.
    pub overhead: Option<Resources>,
    /// Sum of the containers' resources.
    pub resources: Option<Resources>,
    /// Security options.
    pub security: PodSecurity,
}

/// What identifies a container inside its pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "Kubernetes' own words")]
pub struct ContainerMetadata {
    pub name: String,
    pub attempt: u32,
}

/// A container as asked for (CRI `ContainerConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Identity inside the pod.
    pub metadata: ContainerMetadata,
    /// The image.
    pub image: ImageSpec,
    /// Replaces the image's entrypoint.
    pub command: Vec<String>,
    /// Replaces the image's command.
    pub args: Vec<String>,
    /// Working directory; empty means the image's.
    pub working_dir: String,
    /// Environment, in order; values may be any bytes but NUL.
    pub envs: Vec<(String, Vec<u8>)>,
    /// Volumes.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Fully qualified CDI device names.
    pub cdi_devices: Vec<String>,
    /// Labels, round-tripped.
    pub labels: BTreeMap<String, String>,
    /// Annotations, round-tripped.
    pub annotations: BTreeMap<String, String>,
    /// Log file relative to the pod's log directory; may be empty.
    pub log_path: String,
    /// Keep an stdin pipe open.
    pub stdin: bool,
    /// Close stdin after the first attach ends.
    pub stdin_once: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// Resource limits.
    pub resources: Option<Resources>,
    /// Security options.
    pub security: ContainerSecurity,
    /// Number in CRI's `Signal` enum; 0 means not given. See [`crate::signal`].
    pub stop_signal: i32,
}
