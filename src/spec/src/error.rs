//! Why no spec could be made, in CRI's words: every message begins with the field that is to blame.

use oci_spec::OciSpecError;

/// What sort of fault a [`SpecError`] is: the server chooses its gRPC code by this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request (or the image's configuration) says something impossible.
    Invalid,
    /// The request is fine, but this node or runtime cannot do it.
    Unsupported,
    /// The caller of this crate left something out.
    Internal,
}

/// Why no spec could be made.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Neither request nor image has a command.
    #[error("config.command: neither the request nor the image has a command to run")]
    NoCommand,
    /// A string that goes to the kernel holds a NUL byte.
    #[error("{field}: must not contain a NUL byte")]
    Nul {
        /// The field.
        field: String,
    },
    /// One argument or variable is longer than the kernel takes.
    #[error("{field}: {bytes} bytes, but the kernel takes at most {limit}")]
    TooLong {
        /// The field.
        field: String,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// An environment variable without a proper name.
    #[error("{field}: {entry:?} is not of the form NAME=value")]
    EnvName {
        /// The field.
        field: &'static str,
        /// The entry, cut short.
        entry: String,
    },
    /// A value that JSON, and so the OCI runtime, cannot carry.
    #[error(
        "config.envs: the value of {name} is not UTF-8, and the OCI runtime spec can carry nothing else"
    )]
    EnvNotUtf8 {
        /// The variable.
        name: String,
    },
    /// A path that must begin with a slash does not.
    #[error("{field}: {path:?} is not an absolute path")]
    NotAbsolute {
        /// The field.
        field: String,
        /// The path.
        path: String,
    },
    /// A group without a user.
    #[error(
        "config.linux.security_context.run_as_group: only valid together with run_as_user or run_as_username"
    )]
    GroupWithoutUser,
    /// An id that no user or group can have.
    #[error("{field}: {value} is not a user or group id (0 to 4294967294)")]
    IdRange {
        /// The field.
        field: String,
        /// What was given.
        value: String,
    },
    /// A user name that the image does not know.
    #[error("{field}: the image's /etc/passwd has no user {name:?}")]
    UnknownUser {
        /// The field.
        field: &'static str,
        /// The name.
        name: String,
    },
    /// A group name that the image does not know.
    #[error("{field}: the image's /etc/group has no group {name:?}")]
    UnknownGroup {
        /// The field.
        field: &'static str,
        /// The name.
        name: String,
    },
    /// More groups than a process can be in.
    #[error("{field}: {count} groups, but a process can be in at most {limit}")]
    TooManyGroups {
        /// The field.
        field: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A word that names no capability.
    #[error("config.linux.security_context.capabilities.{list}: {name:?} is not a capability")]
    UnknownCapability {
        /// The list.
        list: &'static str,
        /// The word.
        name: String,
    },
    /// A capability asked for by name that the node does not have itself.
    #[error(
        "config.linux.security_context.capabilities.{list}: {capability} is not in the bounding set of this node's server, so no container can have it"
    )]
    CapabilityMissing {
        /// The list.
        list: &'static str,
        /// The capability.
        capability: crate::Capability,
    },
    /// A seccomp profile that cannot be used.
    #[error("{field}: seccomp profile {profile}: {problem}")]
    Seccomp {
        /// The field.
        field: &'static str,
        /// Which profile.
        profile: String,
        /// What is wrong with it.
        #[source]
        problem: crate::seccomp::ProfileError,
    },
    /// AppArmor asked for where there is none.
    #[error(
        "{field}: AppArmor profile {profile:?} asked for, but AppArmor is not active on this node"
    )]
    NoAppArmor {
        /// The field.
        field: &'static str,
        /// The profile.
        profile: String,
    },
    /// An AppArmor profile name that cannot be one.
    #[error("{field}: {profile:?} is not the name of an AppArmor profile")]
    AppArmorName {
        /// The field.
        field: &'static str,
        /// The profile.
        profile: String,
    },
    /// A mount that cannot be made.
    #[error("config.mounts[{container_path}]: {problem}")]
    Mount {
        /// Where it was to be.
        container_path: String,
        /// What is wrong with it.
        #[source]
        problem: MountProblem,
    },
    /// A class of block I/O or RDT that cannot be given.
    #[error("{field}: the class {name:?} {problem}")]
    Class {
        /// The annotation.
        field: String,
        /// The class.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The name of a CDI device that is none.
    #[error("{field}: {name:?} {problem}")]
    CdiName {
        /// The field.
        field: String,
        /// What was given, cut short.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// CDI devices that the node does not have.
    #[error("config.CDI_devices: {0}")]
    CdiUnresolved(#[source] Box<crate::cdi::Unresolved>),
    /// A device that cannot be given.
    #[error(
        "config.devices[{container_path}].permissions: {permissions:?} is not made of the letters r, w and m"
    )]
    DevicePermissions {
        /// The device.
        container_path: String,
        /// What was given.
        permissions: String,
    },
    /// A number out of its range.
    #[error("{field}: {value} is out of range ({range})")]
    OutOfRange {
        /// The field.
        field: String,
        /// What was given.
        value: i64,
        /// What is allowed.
        range: &'static str,
    },
    /// Swap limit below the memory limit.
    #[error(
        "{at}.memory_swap_limit_in_bytes: {swap_bytes} is less than memory_limit_in_bytes {memory_bytes}, which it includes"
    )]
    SwapBelowMemory {
        /// The message that holds both fields.
        at: &'static str,
        /// Memory and swap.
        swap_bytes: i64,
        /// Memory.
        memory_bytes: i64,
    },
    /// A memory limit that no process could start under.
    #[error(
        "{at}.memory_limit_in_bytes: {bytes} is too little to start a container (at least {minimum_bytes})"
    )]
    MemoryTooSmall {
        /// The message that holds the field.
        at: &'static str,
        /// What was given.
        bytes: i64,
        /// The least that works.
        minimum_bytes: i64,
    },
    /// A list of processors or memory nodes that is none.
    #[error("{field}: {value:?} is not a list such as 0-3,8")]
    CpuList {
        /// The field.
        field: String,
        /// What was given.
        value: String,
    },
    /// A page size that is none.
    #[error("{at}.hugepage_limits: {page_size:?} is not a page size such as 2MB")]
    HugepageSize {
        /// The message that holds the field.
        at: &'static str,
        /// What was given.
        page_size: String,
    },
    /// cgroup v2 keys on a v1 node.
    #[error("{at}.unified: needs cgroup v2, and this node has v1")]
    UnifiedOnV1 {
        /// The message that holds the field.
        at: &'static str,
    },
    /// A cgroup key that is not the name of a file in a cgroup.
    #[error("{at}.unified: {key:?} is not a cgroup v2 key such as memory.high")]
    UnifiedKey {
        /// The message that holds the field.
        at: &'static str,
        /// What was given.
        key: String,
    },
    /// A cgroup parent that the cgroup driver cannot use.
    #[error("config.linux.cgroup_parent: {parent:?} {problem}")]
    CgroupParent {
        /// What was given.
        parent: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A sysctl that a pod may not set.
    #[error("config.linux.sysctls[{name}]: {problem}")]
    Sysctl {
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        problem: crate::sysctl::SysctlProblem,
    },
    /// A combination of namespaces that is impossible.
    #[error("{field}: {problem}")]
    Namespace {
        /// The field.
        field: String,
        /// Why.
        #[source]
        problem: crate::namespaces::NamespaceProblem,
    },
    /// A privileged container in a pod that said it would have none.
    #[error(
        "config.linux.security_context.privileged: the pod's own security context is not privileged"
    )]
    PrivilegedInOrdinaryPod,
    /// A host name that the kernel does not take.
    #[error("config.hostname: {hostname:?} is not a host name of at most 64 bytes")]
    Hostname {
        /// What was given.
        hostname: String,
    },
    /// The OCI types refused a combination.
    #[error("the OCI runtime spec cannot be put together: {0}")]
    Oci(#[from] OciSpecError),
}

/// What is wrong with a mount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum MountProblem {
    #[error("container_path is empty")]
    NoContainerPath,
    #[error("a mount cannot replace the container's root")]
    OverRoot,
    #[error("host_path {0:?} is not an absolute path")]
    HostPath(String),
    #[error("paths must not contain a NUL byte")]
    Nul,
    #[error("recursive_read_only needs readonly as well")]
    RecursiveWithoutReadonly,
    #[error("recursive_read_only needs the propagation to be private")]
    RecursiveNotPrivate,
    #[error("recursive_read_only is not supported by this runtime handler")]
    RecursiveUnsupported,
    #[error("uid_mappings and gid_mappings must be given together")]
    HalfMapped,
    #[error("idmapped mounts are not supported by this runtime handler")]
    IdmapUnsupported,
    #[error("an image volume must be readonly")]
    ImageWritable,
    #[error("{0:?} is not a mount option (noexec, nodev, nosuid)")]
    Option(String),
}

impl SpecError {
    /// What sort of fault this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::CapabilityMissing { .. }
            | Self::NoAppArmor { .. }
            | Self::EnvNotUtf8 { .. }
            | Self::CdiUnresolved(_)
            | Self::Class { .. }
            | Self::UnifiedOnV1 { .. }
            | Self::Mount {
                problem: MountProblem::RecursiveUnsupported | MountProblem::IdmapUnsupported,
                ..
            } => ErrorKind::Unsupported,
            Self::Oci(_)
            | Self::Namespace {
                problem: crate::namespaces::NamespaceProblem::NotMade,
                ..
            } => ErrorKind::Internal,
            _ => ErrorKind::Invalid,
        }
    }

    /// Whether this is the client's `RROUnsupported`: kubelet looks for that word at the start of the answer.
    pub fn is_recursive_readonly_unsupported(&self) -> bool {
        matches!(
            self,
            Self::Mount {
                problem: MountProblem::RecursiveUnsupported,
                ..
            }
        )
    }
}
