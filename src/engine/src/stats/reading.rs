//! What is read of pods and containers, as values. Bytes, nanoseconds and counts since the cgroup was made, unless said.

use std::sync::Arc;

use crate::world::{Container, Pod};

/// Time lost for want of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PressureLine {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last 60 seconds.
    pub avg60: f64,
    /// Percent of the last 300 seconds.
    pub avg300: f64,
    /// Microseconds in all.
    pub total_us: u64,
}

/// Pressure of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// At least one task had to wait.
    pub some: PressureLine,
    /// No task could go on.
    pub full: Option<PressureLine>,
}

/// CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuUse {
    /// Of all cores.
    pub usage_ns: u64,
    /// Billionths of a core between the last two readings.
    pub nano_cores: Option<u64>,
    /// Where the kernel counts it.
    pub pressure: Option<Pressure>,
}

/// Memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryUse {
    /// With the page cache.
    pub usage_bytes: u64,
    /// Usage without file pages that nobody used for a while.
    pub working_set_bytes: u64,
    /// Limit less working set; `None` without a limit.
    pub available_bytes: Option<u64>,
    /// Anonymous memory.
    pub rss_bytes: Option<u64>,
    /// Minor and major ones.
    pub page_faults: Option<u64>,
    /// Those that waited for a disk.
    pub major_page_faults: Option<u64>,
    /// Where the kernel counts it.
    pub pressure: Option<Pressure>,
}

/// Swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwapUse {
    /// Swapped out at the moment.
    pub usage_bytes: u64,
    /// What else may be swapped out; `None` without a limit.
    pub available_bytes: Option<u64>,
}

/// What one cgroup uses. Whatever the kernel does not count is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CgroupUse {
    /// When it was read, by the node's clock.
    pub at_unix_ns: i64,
    /// CPU time.
    pub cpu: Option<CpuUse>,
    /// Memory.
    pub memory: Option<MemoryUse>,
    /// Swap.
    pub swap: Option<SwapUse>,
    /// Pressure of block devices.
    pub io_pressure: Option<Pressure>,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

/// What a container wrote to its root filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUse {
    /// When it was measured, which is some time ago.
    pub at_unix_ns: i64,
    /// Bytes, in whole blocks.
    pub bytes: u64,
    /// Files, directories and so on.
    pub inodes: u64,
}

/// A network interface's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "counters that every interface has")]
pub struct Interface {
    pub name: String,
    pub receive: Direction,
    pub transmit: Direction,
}

/// One direction of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "counters that every interface has")]
pub struct Direction {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// The interfaces of a pod that has a network of its own, all but the loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkUse {
    /// When they were read.
    pub at_unix_ns: i64,
    /// The one that carries the pod's address; `None` if there are none at all.
    pub default: Option<Interface>,
    /// All others.
    pub others: Vec<Interface>,
}

/// What a container uses.
#[derive(Clone, Debug)]
pub struct ContainerUse {
    /// Which.
    pub container: Arc<Container>,
    /// Its cgroup; `None` if that is gone.
    pub cgroup: Option<CgroupUse>,
    /// Its writable layer; `None` before it was measured.
    pub disk: Option<DiskUse>,
}

/// What a pod uses.
#[derive(Clone, Debug)]
pub struct PodUse {
    /// Which.
    pub pod: Arc<Pod>,
    /// Its cgroup, or the sum of its containers where it shares its cgroup's parent with others.
    pub cgroup: Option<CgroupUse>,
    /// `None` with the node's network.
    pub network: Option<NetworkUse>,
    /// Its running containers.
    pub containers: Vec<ContainerUse>,
}

/// What metrics tell beyond [`CgroupUse`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CgroupDetail {
    /// CPU time outside of the kernel.
    pub cpu_user_ns: Option<u64>,
    /// CPU time inside of it.
    pub cpu_system_ns: Option<u64>,
    /// Throttling by a CPU quota; version 1 is not asked where there is none.
    pub throttling: Option<Throttling>,
    /// CPU limits in force.
    pub cpu_limits: CpuLimits,
    /// The page cache.
    pub cache_bytes: Option<u64>,
    /// The kernel's own memory.
    pub kernel_bytes: Option<u64>,
    /// Files mapped into memory.
    pub mapped_file_bytes: Option<u64>,
    /// The most that was ever used.
    pub max_usage_bytes: Option<u64>,
    /// How often usage ran into the limit.
    pub limit_hits: Option<u64>,
    /// Page faults in the cgroup itself, those of cgroups below it not counted.
    pub own_faults: Option<Faults>,
    /// Page faults in the cgroup and below.
    pub all_faults: Option<Faults>,
    /// Processes that the kernel killed for memory.
    pub oom_kills: Option<u64>,
    /// Memory limits in force.
    pub memory_limits: MemoryLimits,
    /// Most processes and threads; 0 is no limit.
    pub tasks_max: Option<u64>,
    /// Block devices that were used.
    pub devices: Vec<DeviceUse>,
    /// Huge pages by the name of their size, such as `2MB`.
    pub huge_pages: Vec<HugePages>,
}

/// How a CPU quota held a cgroup back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods in which it ran.
    pub periods: u64,
    /// Those in which its quota was not enough.
    pub throttled_periods: u64,
    /// How long it waited then.
    pub throttled_ns: u64,
}

/// CPU limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuLimits {
    /// Microseconds.
    pub period_us: Option<u64>,
    /// Microseconds in a period; `None` without a limit.
    pub quota_us: Option<u64>,
    /// Relative weight, 2 to 262144.
    pub shares: Option<u64>,
}

/// Page faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// All.
    pub all: u64,
    /// Those that waited for a disk.
    pub major: u64,
}

/// Memory limits; 0 is no limit, `None` a kernel without it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Memory.
    pub limit_bytes: Option<u64>,
    /// What is left alone: on version 1 the soft limit, as long as there is enough for all; on version 2 `memory.min`.
    pub reservation_bytes: Option<u64>,
    /// Memory and swap on version 1, swap alone on version 2, as the kernel counts it.
    pub swap_bytes: Option<u64>,
}

/// What was read from and written to a block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceUse {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Its device node, as far as the kernel names it.
    pub device: String,
    /// Bytes of each kind of operation, in the kernel's order: `Read`, `Write`, `Discard`, on version 1 also `Sync`, `Async`.
    pub bytes: Vec<(String, u64)>,
    /// Operations of each kind.
    pub operations: Vec<(String, u64)>,
}

/// Huge pages of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugePages {
    /// The name of the size.
    pub size: String,
    /// Bytes.
    pub usage_bytes: u64,
    /// The most bytes ever; version 2 does not know.
    pub max_usage_bytes: Option<u64>,
}

/// What processes of a container have and may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessUse {
    /// Processes, threads not counted.
    pub processes: u64,
    /// Open file descriptors; `None` if there are too many processes to look at, or before Linux 6.2 too many descriptors.
    pub descriptors: Option<u64>,
    /// Open sockets; `None` if there are too many descriptors to look at.
    pub sockets: Option<u64>,
    /// The first process's soft limits but for those that are unlimited, by names such as `max_open_files`.
    pub soft_limits: Vec<(String, u64)>,
}

/// The filesystem that holds writable layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayersDisk {
    /// Its device.
    pub device: String,
    /// Its size.
    pub total_bytes: u64,
    /// How many inodes it has room for.
    pub total_inodes: u64,
    /// How many are left.
    pub free_inodes: u64,
}

/// Everything about a container, for metrics.
#[derive(Clone, Debug)]
pub struct ContainerMetrics {
    /// What the stats tell.
    pub usage: ContainerUse,
    /// What its cgroup tells beyond.
    pub detail: CgroupDetail,
    /// Its processes; `None` if they are gone.
    pub processes: Option<ProcessUse>,
}

/// Everything about a pod, for metrics.
#[derive(Clone, Debug)]
pub struct PodMetrics {
    /// Which.
    pub pod: Arc<Pod>,
    /// What its cgroup uses, where it has one of its own.
    pub cgroup: Option<(CgroupUse, CgroupDetail)>,
    /// `None` with the node's network.
    pub network: Option<NetworkUse>,
    /// Its running containers.
    pub containers: Vec<ContainerMetrics>,
}
