//! Which metrics a single reply leaves out, so that the others of a dense node fit in.
//!
//! A reply has a limit, and one that is refused blinds every dashboard of the node. So metrics are left out in a fixed order,
//! those first that take much and that few look at, until the reply fits. The stream has no limit, and has them all.

use std::sync::atomic::{AtomicUsize, Ordering};

use api::list::framed_len;
use bytes::Bytes;

use super::STREAM;
use super::descriptor::Descriptor;
use super::table::TABLE;

/// What is left out in one step.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Metrics whose names begin so.
    Names(&'static [&'static str]),
    /// What pods' own cgroups have; their networks stay.
    CgroupsOfPods,
}

/// The steps, in their order. Time used, memory in use and traffic stay in any case.
const STEPS: &[Step] = &[
    Step::Names(&["container_ulimits_soft"]),
    Step::Names(&["container_memory_failures_total"]),
    Step::Names(&["container_blkio_device_usage_total"]),
    Step::Names(&["container_hugetlb_"]),
    Step::CgroupsOfPods,
    Step::Names(&["container_pressure_"]),
    Step::Names(&["container_spec_", "container_threads_max"]),
    Step::Names(&["container_fs_"]),
    Step::Names(&[
        "container_cpu_cfs_",
        "container_cpu_system_",
        "container_cpu_user_",
        "container_file_descriptors",
        "container_last_seen",
        "container_memory_cache",
        "container_memory_failcnt",
        "container_memory_kernel_usage",
        "container_memory_mapped_file",
        "container_memory_max_usage_bytes",
        "container_memory_swap",
        "container_processes",
        "container_sockets",
        "container_threads",
    ]),
];

/// The steps that the log knows of.
static TOLD: AtomicUsize = AtomicUsize::new(0);

/// Which metrics are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// How many of the steps were taken.
    steps: usize,
}

impl Kept {
    /// Nothing is left out.
    pub(super) const ALL: Self = Self { steps: 0 };

    fn steps(self) -> impl Iterator<Item = &'static Step> {
        STEPS.iter().take(self.steps)
    }

    /// The metrics that are kept of the table.
    pub(super) fn table(self) -> impl Iterator<Item = &'static Descriptor> {
        let has = move |descriptor: &&Descriptor| {
            !self.steps().any(|step| match step {
                Step::Names(names) => names.iter().any(|name| descriptor.name.starts_with(name)),
                Step::CgroupsOfPods => false,
            })
        };
        TABLE.iter().filter(has)
    }

    pub(super) fn has_cgroups_of_pods(self) -> bool {
        !self.steps().any(|step| matches!(step, Step::CgroupsOfPods))
    }

    /// Has the log say what is left out, if that is more than ever before.
    pub(super) fn tell(self) {
        if TOLD.fetch_max(self.steps, Ordering::Relaxed) < self.steps {
            tracing::warn!(left_out = ?&STEPS[..self.steps], "metrics of all pods are too large for a reply; {STREAM} has them all");
        }
    }
}

/// As much as fits into a reply of so many bytes, and what that is. If even the least is too much, it is that.
pub(super) fn fitting(max_bytes: usize, encode: &dyn Fn(Kept) -> Vec<Bytes>) -> (Vec<Bytes>, Kept) {
    let mut kept = Kept::ALL;
    loop {
        let items = encode(kept);
        let bytes: usize = items.iter().map(|item| framed_len(item.len())).sum();
        if bytes <= max_bytes || kept.steps == STEPS.len() {
            return (items, kept);
        }
        kept.steps += 1;
    }
}

#[cfg(test)]
#[path = "fit_tests.rs"]
mod tests;
