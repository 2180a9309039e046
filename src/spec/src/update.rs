//! A change of a container's limits: what holds after it, and where in the container's cgroup it leaves traces.
//!
//! CPU and memory are set by the OCI runtime's `update`, which also tells systemd where systemd makes the cgroups. Not every
//! runtime's `update` knows huge pages or single keys of cgroup v2; those are files, and are written as such ([`written`]).
//! All that are in force are written at every change, asked for or not: a runtime that sets memory sets swap with it, and
//! some bring back the huge pages of the container's creation. Everything that a change may touch is listed by [`touched`],
//! so that it can be read before and put back after a failure.

use oci_spec::runtime::LinuxResources;

use crate::input::{CgroupVersion, NodeFacts};
use crate::model::Resources;

/// A limit that is written as a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenLimit {
    /// The file.
    pub file: LimitFile,
    /// What is written.
    pub value: String,
    /// Where the request has it, for errors.
    pub field: String,
    /// Whether this change asks for it, so that it is an error if it cannot be written. Otherwise it is what holds already,
    /// or the twin of another file that not every kernel has.
    pub is_asked: bool,
}

/// A file of the container's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitFile {
    /// The controller in whose hierarchy it is; of no meaning on cgroup v2.
    pub controller: String,
    /// Its name.
    pub name: String,
}

/// The limits that hold after `asked` is laid over those in force. Zero, and what is empty, is "not specified".
#[must_use]
pub fn merged(in_force: &Resources, asked: &Resources) -> Resources {
    let number = |old: i64, new: i64| if new == 0 { old } else { new };
    let text = |old: &String, new: &String| if new.is_empty() { old } else { new }.clone();
    // A limit of memory and swap that equals the one of memory means no swap, and goes on to mean that.
    let has_no_swap = in_force.memory_swap_limit_bytes > 0
        && in_force.memory_swap_limit_bytes == in_force.memory_limit_bytes;
    let memory_limit_bytes = number(in_force.memory_limit_bytes, asked.memory_limit_bytes);
    let swap_in_force = if has_no_swap {
        memory_limit_bytes
    } else {
        in_force.memory_swap_limit_bytes
    };
    let mut next = Resources {
        cpu_period_us: number(in_force.cpu_period_us, asked.cpu_period_us),
        cpu_quota_us: number(in_force.cpu_quota_us, asked.cpu_quota_us),
        cpu_shares: number(in_force.cpu_shares, asked.cpu_shares),
        memory_limit_bytes,
        memory_swap_limit_bytes: number(swap_in_force, asked.memory_swap_limit_bytes),
        oom_score_adj: number(in_force.oom_score_adj, asked.oom_score_adj),
        cpuset_cpus: text(&in_force.cpuset_cpus, &asked.cpuset_cpus),
        cpuset_mems: text(&in_force.cpuset_mems, &asked.cpuset_mems),
        hugepage_limits: in_force.hugepage_limits.clone(),
        unified: in_force.unified.clone(),
    };
    for (page_size, limit) in &asked.hugepage_limits {
        next.hugepage_limits.retain(|(known, _)| known != page_size);
        next.hugepage_limits.push((page_size.clone(), *limit));
    }
    next.unified.extend(asked.unified.clone());
    next
}

/// The files that are written after the runtime's `update`, and what is written: the huge pages and keys of cgroup v2 of
/// `next`, the limits as they will be. `asked` is this change's part of them.
pub fn written(next: &Resources, asked: &Resources, facts: &NodeFacts) -> Vec<WrittenLimit> {
    let mut files = Vec::new();
    if facts.hugetlb {
        let last = match facts.cgroup_version {
            CgroupVersion::V1 => "limit_in_bytes",
            CgroupVersion::V2 => "max",
        };
        for (page_size, limit) in &next.hugepage_limits {
            // The kernel counts in pages and signed numbers: what is beyond them is no limit.
            let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
            let is_asked = asked
                .hugepage_limits
                .iter()
                .any(|(size, _)| size == page_size);
            // Pages in use, and pages set aside: runtimes limit both when they make the container.
            for (middle, is_asked) in [("", is_asked), ("rsvd.", false)] {
                files.push(WrittenLimit {
                    file: file("hugetlb", format!("hugetlb.{page_size}.{middle}{last}")),
                    value: limit.to_string(),
                    field: "linux.hugepage_limits".to_owned(),
                    is_asked,
                });
            }
        }
    }
    if facts.cgroup_version == CgroupVersion::V2 {
        for (key, value) in &next.unified {
            let controller = key.split('.').next().unwrap_or_default();
            files.push(WrittenLimit {
                file: file(controller, key.clone()),
                value: value.clone(),
                field: format!("linux.unified[{key}]"),
                is_asked: asked.unified.contains_key(key),
            });
        }
    }
    files
}

/// The part of `limits` that the runtime's `update` is for; `None` if there is none. The rest is in `written`.
///
/// systemd is told keys of cgroup v2, too, or it would bring its own idea of them back at its next reload.
pub fn for_runtime(
    mut limits: LinuxResources,
    written: &[WrittenLimit],
    facts: &NodeFacts,
) -> Option<LinuxResources> {
    let unified = limits.unified().clone().unwrap_or_default();
    let unified: std::collections::HashMap<_, _> = unified
        .into_iter()
        .filter(|(key, _)| {
            facts.systemd_cgroup && written.iter().any(|limit| limit.file.name == *key)
        })
        .collect();
    limits
        .set_hugepage_limits(None)
        .set_unified((!unified.is_empty()).then_some(unified));
    (limits.cpu().is_some() || limits.memory().is_some() || limits.unified().is_some())
        .then_some(limits)
}

/// A CPU limit of cgroup v2 as a file: systemd's properties hold whole percents only.
pub fn exact_cpu_max(value: String) -> WrittenLimit {
    WrittenLimit {
        file: file("cpu", "cpu.max".to_owned()),
        value,
        field: "linux.cpu_quota".to_owned(),
        is_asked: false,
    }
}

/// The CPU quota "none" as a file of cgroup v1: not every runtime can write it.
pub fn no_quota_of_v1() -> WrittenLimit {
    WrittenLimit {
        file: file("cpu", "cpu.cfs_quota_us".to_owned()),
        value: "-1".to_owned(),
        field: "linux.cpu_quota".to_owned(),
        is_asked: true,
    }
}

/// Every file that a change may touch which writes `written`, in an order in which their old contents can be written back.
pub fn touched(written: &[WrittenLimit], version: CgroupVersion) -> Vec<LimitFile> {
    let fixed: &[(&str, &str)] = match version {
        CgroupVersion::V1 => &[
            ("cpu", "cpu.shares"),
            ("cpu", "cpu.cfs_period_us"),
            ("cpu", "cpu.cfs_quota_us"),
            ("cpuset", "cpuset.cpus"),
            ("cpuset", "cpuset.mems"),
            ("memory", "memory.limit_in_bytes"),
            ("memory", "memory.memsw.limit_in_bytes"),
        ],
        CgroupVersion::V2 => &[
            ("cpu", "cpu.weight"),
            ("cpu", "cpu.max"),
            ("cpuset", "cpuset.cpus"),
            ("cpuset", "cpuset.mems"),
            ("memory", "memory.max"),
            ("memory", "memory.swap.max"),
        ],
    };
    let mut files: Vec<LimitFile> = fixed
        .iter()
        .map(|(controller, name)| file(controller, (*name).to_owned()))
        .collect();
    for limit in written {
        if !files.contains(&limit.file) {
            files.push(limit.file.clone());
        }
    }
    files
}

fn file(controller: &str, name: String) -> LimitFile {
    LimitFile {
        controller: controller.to_owned(),
        name,
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::{container::sample, defaults::SpecDefaults, resources::linux_resources};

    fn full() -> Resources {
        Resources {
            cpu_period_us: 100_000,
            cpu_quota_us: 50_000,
            cpu_shares: 512,
            memory_limit_bytes: 64 << 20,
            memory_swap_limit_bytes: 96 << 20,
            oom_score_adj: 3,
            cpuset_cpus: "0".to_owned(),
            cpuset_mems: "0".to_owned(),
            hugepage_limits: vec![("2MB".to_owned(), 0), ("1GB".to_owned(), 1 << 30)],
            unified: [("memory.high".to_owned(), "7".to_owned())].into(),
        }
    }

    #[test]
    fn nothing_asked_changes_nothing() {
        assert_eq!(merged(&full(), &Resources::default()), full());
        assert_eq!(merged(&Resources::default(), &full()), full());
    }

    #[test]
    fn what_is_asked_wins_key_by_key() {
        let asked = Resources {
            cpu_quota_us: -1,
            memory_limit_bytes: -1,
            memory_swap_limit_bytes: -1,
            oom_score_adj: -5,
            cpuset_cpus: "1".to_owned(),
            hugepage_limits: vec![("2MB".to_owned(), 4 << 20)],
            unified: [
                ("memory.low".to_owned(), "1".to_owned()),
                ("memory.high".to_owned(), "max".to_owned()),
            ]
            .into(),
            ..Resources::default()
        };
        let next = merged(&full(), &asked);
        assert_eq!((next.cpu_quota_us, next.cpu_period_us), (-1, 100_000));
        assert_eq!(
            (next.memory_limit_bytes, next.memory_swap_limit_bytes),
            (-1, -1)
        );
        assert_eq!(next.oom_score_adj, -5);
        assert_eq!(
            (next.cpuset_cpus.as_str(), next.cpuset_mems.as_str()),
            ("1", "0")
        );
        assert_eq!(
            next.hugepage_limits,
            [("1GB".to_owned(), 1 << 30), ("2MB".to_owned(), 4 << 20)]
        );
        assert_eq!(next.unified["memory.high"], "max");
        assert_eq!(next.unified["memory.low"], "1");
    }

    #[rstest]
    // Memory alone, lowered, raised and taken away: no swap before, none after.
    #[case((64, 64), (32, 0), (32, 32))]
    #[case((64, 64), (96, 0), (96, 96))]
    #[case((64, 64), (-1, 0), (-1, -1))]
    // Both.
    #[case((64, 64), (32, 96), (32, 96))]
    #[case((64, 64), (32, -1), (32, -1))]
    #[case((64, 64), (0, 96), (64, 96))]
    #[case((64, 64), (0, 0), (64, 64))]
    // What is more than no swap stays as it was given.
    #[case((64, 96), (32, 0), (32, 96))]
    #[case((64, 0), (32, 0), (32, 0))]
    #[case((-1, -1), (32, 0), (32, -1))]
    fn no_swap_stays_no_swap(
        #[case] in_force: (i64, i64),
        #[case] asked: (i64, i64),
        #[case] wanted: (i64, i64),
    ) {
        let limits = |(memory, swap)| Resources {
            memory_limit_bytes: memory,
            memory_swap_limit_bytes: swap,
            ..Resources::default()
        };
        assert_eq!(merged(&limits(in_force), &limits(asked)), limits(wanted));
    }

    fn facts(cgroup_version: CgroupVersion, hugetlb: bool) -> NodeFacts {
        NodeFacts {
            cgroup_version,
            hugetlb,
            ..sample::facts()
        }
    }

    #[rstest]
    #[case(CgroupVersion::V1, true, &[
        ("hugetlb", "hugetlb.2MB.limit_in_bytes", "0"), ("hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes", "0"),
        ("hugetlb", "hugetlb.1GB.limit_in_bytes", "1073741824"), ("hugetlb", "hugetlb.1GB.rsvd.limit_in_bytes", "1073741824"),
    ])]
    #[case(CgroupVersion::V2, true, &[
        ("hugetlb", "hugetlb.2MB.max", "0"), ("hugetlb", "hugetlb.2MB.rsvd.max", "0"),
        ("hugetlb", "hugetlb.1GB.max", "1073741824"), ("hugetlb", "hugetlb.1GB.rsvd.max", "1073741824"),
        ("memory", "memory.high", "7"),
    ])]
    #[case(CgroupVersion::V2, false, &[("memory", "memory.high", "7")])]
    #[case(CgroupVersion::V1, false, &[])]
    fn some_limits_are_files(
        #[case] version: CgroupVersion,
        #[case] hugetlb: bool,
        #[case] wanted: &[(&str, &str, &str)],
    ) {
        // Those in force are written whatever is asked for.
        let asked = Resources {
            cpuset_cpus: "1".to_owned(),
            ..Resources::default()
        };
        let files = written(&merged(&full(), &asked), &asked, &facts(version, hugetlb));
        let found: Vec<_> = files
            .iter()
            .map(|limit| {
                let file = &limit.file;
                (
                    file.controller.as_str(),
                    file.name.as_str(),
                    limit.value.as_str(),
                )
            })
            .collect();
        assert_eq!(found, wanted);
        assert!(files.iter().all(|limit| !limit.is_asked));
        let touched = touched(&files, version);
        assert!(files.iter().all(|limit| touched.contains(&limit.file)));
    }

    #[test]
    fn what_is_asked_for_has_to_be_there_and_its_twin_need_not() {
        let asked = Resources {
            hugepage_limits: vec![("2MB".to_owned(), 4 << 20)],
            unified: [("memory.low".to_owned(), "1".to_owned())].into(),
            ..Resources::default()
        };
        let next = merged(&full(), &asked);
        let files = written(&next, &asked, &facts(CgroupVersion::V2, true));
        let asked: Vec<_> = files
            .iter()
            .filter(|limit| limit.is_asked)
            .map(|limit| limit.file.name.as_str())
            .collect();
        assert_eq!(asked, ["hugetlb.2MB.max", "memory.low"]);
    }

    #[rstest]
    #[case(false, &[], json!({"cpu": {"shares": 512}}))]
    #[case(false, &["memory.high"], json!({"cpu": {"shares": 512}}))]
    #[case(true, &["memory.high"], json!({"cpu": {"shares": 512}, "unified": {"memory.high": "7"}}))]
    // One that was left out of what is written is nothing for the runtime either.
    #[case(true, &[], json!({"cpu": {"shares": 512}}))]
    fn systemd_is_told_keys_of_v2(
        #[case] systemd_cgroup: bool,
        #[case] names: &[&str],
        #[case] wanted: serde_json::Value,
    ) {
        let facts = NodeFacts {
            systemd_cgroup,
            ..facts(CgroupVersion::V2, true)
        };
        let next = Resources {
            cpu_shares: 512,
            hugepage_limits: full().hugepage_limits,
            unified: full().unified,
            ..Resources::default()
        };
        let mut files = written(&next, &Resources::default(), &facts);
        files.retain(|limit| names.contains(&limit.file.name.as_str()));
        let given = |next: &Resources| {
            let defaults = SpecDefaults::default();
            let limits = linux_resources(next, "linux", &facts, &defaults, &mut Vec::new());
            for_runtime(limits.unwrap(), &files, &facts)
        };
        assert_eq!(serde_json::to_value(given(&next)).unwrap(), wanted);
        let huge = Resources {
            hugepage_limits: full().hugepage_limits,
            ..Resources::default()
        };
        assert_eq!(given(&huge), None);
    }

    #[test]
    fn a_limit_beyond_the_kernels_numbers_is_none() {
        let asked = Resources {
            hugepage_limits: vec![("2MB".to_owned(), u64::MAX)],
            ..Resources::default()
        };
        assert_eq!(
            written(&asked, &asked, &sample::facts())[0].value,
            i64::MAX.to_string()
        );
    }
}
