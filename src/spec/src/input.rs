//! What the caller gathers before a spec can be written: facts of the node, of the image, of the pod as it stands.
//!
//! These are values on purpose: whoever fills them did the reading, so that this crate can be tested by tables.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::capability::Capability;
use crate::defaults::SpecDefaults;
use crate::model::{ContainerConfig, Mount, PodConfig};
use crate::rlimit::RlimitKind;
use crate::selinux::SelinuxContext;

/// Which cgroup hierarchy the node's resource controllers are in. A hybrid layout counts as [`CgroupVersion::V1`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the two versions")]
pub enum CgroupVersion {
    V1,
    V2,
}

/// A processor architecture that system call filters are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "names of architectures")]
pub enum Architecture {
    X86_64,
    Aarch64,
    Arm,
    Riscv64,
    S390x,
    Ppc64le,
    Loongarch64,
}

impl Architecture {
    /// The architecture that this program was built for; `None` where no filters are written for it.
    pub fn of_this_build() -> Option<Self> {
        Self::from_name(std::env::consts::ARCH)
    }

    /// From Rust's name of it, which is also the one in our seccomp profiles.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "x86_64" => Self::X86_64,
            "aarch64" => Self::Aarch64,
            "arm" => Self::Arm,
            "riscv64" => Self::Riscv64,
            "s390x" => Self::S390x,
            "powerpc64" | "ppc64le" => Self::Ppc64le,
            "loongarch64" => Self::Loongarch64,
            _ => return None,
        })
    }
}

/// What the node has: found out once at start, the same for every container.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// The node's host name.
    pub hostname: String,
    /// Which cgroup version the controllers are in.
    pub cgroup_version: CgroupVersion,
    /// Whether cgroups are made by systemd.
    pub systemd_cgroup: bool,
    /// Whether the hugetlb controller is there.
    pub hugetlb: bool,
    /// Whether memory and swap can be limited together.
    pub swap_accounting: bool,
    /// The server's own bounding set: no container can hold more.
    pub capabilities: BTreeSet<Capability>,
    /// Whether AppArmor is active.
    pub apparmor: bool,
    /// Whether SELinux is active.
    pub selinux: bool,
    /// The lowest `oom_score_adj` that can be given: −1000 with `CAP_SYS_RESOURCE`, else the server's own value.
    pub oom_score_adj_min: i64,
    /// Hard limits that cannot be passed; empty with `CAP_SYS_RESOURCE`.
    pub hard_rlimits: BTreeMap<RlimitKind, u64>,
    /// The architecture; `None` for one that our seccomp profiles do not know.
    pub architecture: Option<Architecture>,
    /// Major and minor number of the kernel release.
    pub kernel: (u32, u32),
}

/// What the OCI runtime of the pod's handler can do beyond the least common (from its `features` command).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RuntimeFeatures {
    /// Knows the mount option `rro`, and the kernel has `mount_setattr`.
    pub recursive_readonly_mounts: bool,
    /// Idmapped mounts.
    pub idmapped_mounts: bool,
}

/// What an image's configuration says about its process.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ImageProcess {
    /// `""`, `uid`, `name`, `uid:gid`, `name:group` and mixes of them.
    pub user: String,
    /// `NAME=value` entries.
    pub env: Vec<String>,
    /// First part of the command line.
    pub entrypoint: Vec<String>,
    /// Second part of the command line.
    pub cmd: Vec<String>,
    /// Working directory; may be empty.
    pub working_dir: String,
    /// Stop signal as written in the image.
    pub stop_signal: Option<String>,
    /// Paths declared as volumes.
    pub volumes: Vec<String>,
}

/// Paths of the namespaces that a container joins.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NamespacePaths {
    /// `None`: the node's.
    pub network: Option<PathBuf>,
    /// `None`: the node's.
    pub ipc: Option<PathBuf>,
    /// `None`: the node's.
    pub uts: Option<PathBuf>,
    /// The pod's or the target container's PID namespace. `None`: the node's or one of its own, as the mode says.
    pub pid: Option<PathBuf>,
    /// The pod's user namespace, when it is pinned. `None` with mappings in the request: the runtime makes one.
    pub user: Option<PathBuf>,
}

/// Files that every container of a pod sees.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PodFiles {
    /// Mounted at `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Mounted at `/etc/hostname`.
    pub hostname: PathBuf,
    /// Mounted at `/etc/hosts` unless the client mounts one (kubelet does).
    pub hosts: Option<PathBuf>,
    /// Mounted at `/dev/shm`. `None`: the node's where the IPC namespace is the node's, else a tmpfs of the container.
    pub shm: Option<PathBuf>,
}

/// The kind of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's own words")]
pub enum DeviceKind {
    Character,
    Block,
}

/// A device node of the node, already looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// Where the container sees it.
    pub container_path: String,
    /// Character or block.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits of the node.
    pub mode: u32,
    /// Owner of the node.
    pub uid: u32,
    /// Group of the node.
    pub gid: u32,
    /// Letters of `rwm` that the container's cgroup allows.
    pub access: String,
}

/// Classes of resources, looked up: see [`crate::classes`].
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ResourceClasses {
    /// Weights and rates of block devices.
    pub block_io: Option<oci_spec::runtime::LinuxBlockIo>,
    /// The class of service of RDT.
    pub rdt: Option<String>,
}

/// All that a container's spec is made of.
#[derive(Clone, Debug)]
pub struct ContainerInput<'a> {
    /// Id of the pod (for runtimes that look at annotations).
    pub pod_id: &'a str,
    /// The pod as asked for.
    pub pod: &'a PodConfig,
    /// The container as asked for. Its `mounts` and `devices` are not read: see [`Self::mounts`], [`Self::host_devices`].
    pub container: &'a ContainerConfig,
    /// The image's process.
    pub image: &'a ImageProcess,
    /// The image's `/etc/passwd`; at most [`crate::user::MAX_FILE_BYTES`] are looked at. `None`: there is none.
    pub passwd: Option<&'a [u8]>,
    /// The image's `/etc/group`, likewise.
    pub group: Option<&'a [u8]>,
    /// The node.
    pub facts: &'a NodeFacts,
    /// The OCI runtime.
    pub features: &'a RuntimeFeatures,
    /// Configuration.
    pub defaults: &'a SpecDefaults,
    /// Namespaces to join.
    pub namespaces: NamespacePaths,
    /// Value of `linux.cgroupsPath`: see [`crate::cgroup::CgroupName`].
    pub cgroups_path: String,
    /// The root filesystem.
    pub rootfs: PathBuf,
    /// Files of the pod.
    pub files: PodFiles,
    /// The container's mounts with every `host_path` filled: links followed, image volumes mounted, image-declared
    /// volumes made.
    pub mounts: Vec<Mount>,
    /// The container's devices, directories expanded; for a privileged container all devices of the node as well.
    pub host_devices: Vec<HostDevice>,
    /// The classes that the container asks for.
    pub classes: ResourceClasses,
    /// What the container's CDI devices change; their nodes are complete.
    pub cdi: crate::cdi::Edits,
    /// The file of a `Localhost` seccomp profile; at most [`crate::seccomp::MAX_FILE_BYTES`].
    pub seccomp_file: Option<&'a [u8]>,
    /// Labels when SELinux is active: see [`crate::selinux`].
    pub selinux: Option<SelinuxContext>,
}

/// All that a pause container's spec is made of.
#[derive(Clone, Debug)]
pub struct PauseInput<'a> {
    /// Id of the pod.
    pub pod_id: &'a str,
    /// The pod as asked for.
    pub pod: &'a PodConfig,
    /// The node.
    pub facts: &'a NodeFacts,
    /// What the runtime can do.
    pub features: &'a RuntimeFeatures,
    /// Configuration.
    pub defaults: &'a SpecDefaults,
    /// Namespaces to join. The PID namespace is always made here: the pod's containers join that of this process.
    pub namespaces: NamespacePaths,
    /// Value of `linux.cgroupsPath`.
    pub cgroups_path: String,
    /// The root filesystem: empty but for `/pause`.
    pub rootfs: PathBuf,
    /// Command line: `["/pause"]` unless a pause image is configured.
    pub args: Vec<String>,
    /// Files of the pod, for runtimes that build a guest from the sandbox container.
    pub files: Option<PodFiles>,
    /// The file of a `Localhost` seccomp profile.
    pub seccomp_file: Option<&'a [u8]>,
    /// Labels when SELinux is active.
    pub selinux: Option<SelinuxContext>,
}
