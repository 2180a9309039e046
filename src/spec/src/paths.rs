//! Paths below `/proc` and `/sys` that a container must not see or must not write.
//!
//! CRI sends the lists, and they are used as they are: kubelet always fills them for an ordinary container and sends
//! empty ones for `procMount: Unmasked`, so empty means none. The server uses the lists below only for a client that
//! sends no security context at all. A privileged container has neither.

/// Hidden: they tell of, or reach, the node's hardware and kernel.
pub const DEFAULT_MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Readable only: writing them changes the node.
pub const DEFAULT_READONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
