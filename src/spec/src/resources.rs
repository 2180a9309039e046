//! Resource limits of a container's cgroup.
//!
//! CPU shares stay in v1's unit on both versions: every OCI runtime converts them itself. No pids limit: kubelet sets it
//! on the pod.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxCpu, LinuxCpuBuilder, LinuxHugepageLimit, LinuxHugepageLimitBuilder, LinuxMemory,
    LinuxMemoryBuilder, LinuxResources, LinuxResourcesBuilder,
};

use crate::defaults::SpecDefaults;
use crate::error::SpecError;
use crate::input::{CgroupVersion, NodeFacts};
use crate::model::Resources;

/// Where a container's limits stand in the request that makes it.
pub(crate) const AT_CREATION: &str = "config.linux.resources";

fn out_of_range(at: &str, name: &str, value: i64, range: &'static str) -> SpecError {
    SpecError::OutOfRange {
        field: format!("{at}.{name}"),
        value,
        range,
    }
}

/// A list such as `0-3,8`.
fn is_cpu_list(value: &str) -> bool {
    let number = |word: &str| -> Option<u32> {
        word.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| word.parse().ok())?
    };
    value.split(',').all(|part| match part.split_once('-') {
        Some((first, last)) => {
            matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
        }
        None => number(part).is_some(),
    })
}

fn cpu(asked: &Resources, at: &str) -> Result<Option<LinuxCpu>, SpecError> {
    let mut builder = LinuxCpuBuilder::default();
    let mut any = false;
    if asked.cpu_shares != 0 {
        let shares = u64::try_from(asked.cpu_shares)
            .map_err(|_| out_of_range(at, "cpu_shares", asked.cpu_shares, "2 to 262144"))?;
        // The kernel does the same in v1; in v2 the runtimes' conversion would otherwise fail below 2.
        builder = builder.shares(shares.clamp(2, 262_144));
        any = true;
    }
    if asked.cpu_period_us != 0 {
        let period = u64::try_from(asked.cpu_period_us)
            .ok()
            .filter(|period| (1_000..=1_000_000).contains(period))
            .ok_or_else(|| {
                out_of_range(at, "cpu_period", asked.cpu_period_us, "1000 to 1000000 µs")
            })?;
        builder = builder.period(period);
        any = true;
    }
    if asked.cpu_quota_us != 0 {
        let quota = asked.cpu_quota_us.max(-1);
        if (1..1_000).contains(&quota) {
            return Err(out_of_range(at, "cpu_quota", quota, "at least 1000 µs"));
        }
        builder = builder.quota(quota);
        any = true;
    }
    for (field, value) in [
        ("cpuset_cpus", &asked.cpuset_cpus),
        ("cpuset_mems", &asked.cpuset_mems),
    ] {
        if !value.is_empty() && !is_cpu_list(value) {
            return Err(SpecError::CpuList {
                field: format!("{at}.{field}"),
                value: value.chars().take(128).collect(),
            });
        }
    }
    if !asked.cpuset_cpus.is_empty() {
        builder = builder.cpus(asked.cpuset_cpus.as_str());
        any = true;
    }
    if !asked.cpuset_mems.is_empty() {
        builder = builder.mems(asked.cpuset_mems.as_str());
        any = true;
    }
    Ok(if any { Some(builder.build()?) } else { None })
}

fn memory(
    asked: &Resources,
    at: &'static str,
    facts: &NodeFacts,
    defaults: &SpecDefaults,
    warnings: &mut Vec<String>,
) -> Result<Option<LinuxMemory>, SpecError> {
    let limit = asked.memory_limit_bytes.max(-1);
    let swap = asked.memory_swap_limit_bytes.max(-1);
    if limit > 0 && limit < defaults.min_memory_bytes {
        return Err(SpecError::MemoryTooSmall {
            at,
            bytes: limit,
            minimum_bytes: defaults.min_memory_bytes,
        });
    }
    if swap > 0 && swap < limit {
        return Err(SpecError::SwapBelowMemory {
            at,
            swap_bytes: swap,
            memory_bytes: limit,
        });
    }
    if swap > 0 && limit <= 0 {
        return Err(out_of_range(
            at,
            "memory_swap_limit_in_bytes",
            swap,
            "only valid together with memory_limit_in_bytes",
        ));
    }
    if limit == 0 && swap == 0 {
        return Ok(None);
    }
    let mut builder = LinuxMemoryBuilder::default();
    if limit != 0 {
        builder = builder.limit(limit);
    }
    if facts.swap_accounting {
        // A memory limit without a word about swap means no swap: the limit would leak into it otherwise.
        let total = if swap == 0 { limit } else { swap };
        builder = builder.swap(total);
    } else if swap > 0 && swap != limit {
        warnings.push(format!(
            "no swap limit of {swap} bytes, for the kernel does not account swap"
        ));
    }
    Ok(Some(builder.build()?))
}

fn hugepages(
    asked: &Resources,
    at: &'static str,
    facts: &NodeFacts,
    warnings: &mut Vec<String>,
) -> Result<Vec<LinuxHugepageLimit>, SpecError> {
    let mut limits = Vec::new();
    for (page_size, bytes) in &asked.hugepage_limits {
        let digits = page_size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let fine = matches!(&page_size[digits.len()..], "B" | "KB" | "MB" | "GB")
            && digits.parse::<u32>().is_ok_and(|size| size > 0)
            && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !fine {
            return Err(SpecError::HugepageSize {
                at,
                page_size: page_size.chars().take(64).collect(),
            });
        }
        if !facts.hugetlb {
            // Kubelet sends a zero for every page size of the node, which is what holds without the controller.
            if *bytes > 0 {
                warnings.push(format!(
                    "no limit of {bytes} bytes for {page_size} pages, for there is no hugetlb controller"
                ));
            }
            continue;
        }
        limits.push(
            LinuxHugepageLimitBuilder::default()
                .page_size(page_size.as_str())
                .limit(i64::try_from(*bytes).unwrap_or(i64::MAX))
                .build()?,
        );
    }
    Ok(limits)
}

fn unified(
    asked: &Resources,
    at: &'static str,
    facts: &NodeFacts,
) -> Result<HashMap<String, String>, SpecError> {
    if asked.unified.is_empty() {
        return Ok(HashMap::new());
    }
    if facts.cgroup_version == CgroupVersion::V1 {
        return Err(SpecError::UnifiedOnV1 { at });
    }
    for key in asked.unified.keys() {
        // The runtime writes to a file of this name in the container's cgroup.
        let fine = key.contains('.')
            && !key.starts_with('.')
            && !key.starts_with("cgroup.")
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if !fine {
            return Err(SpecError::UnifiedKey {
                at,
                key: key.chars().take(128).collect(),
            });
        }
    }
    Ok(asked.unified.clone().into_iter().collect())
}

/// No limits.
pub(crate) fn none() -> Result<LinuxResources, SpecError> {
    Ok(LinuxResourcesBuilder::default().build()?)
}

/// What the OCI runtime shall set in the container's cgroup, device rules aside: part of every spec, and by itself what
/// an update of a running container takes. `at` is where the request has the limits, for errors.
pub fn linux_resources(
    asked: &Resources,
    at: &'static str,
    facts: &NodeFacts,
    defaults: &SpecDefaults,
    warnings: &mut Vec<String>,
) -> Result<LinuxResources, SpecError> {
    let mut builder = LinuxResourcesBuilder::default();
    if let Some(cpu) = cpu(asked, at)? {
        builder = builder.cpu(cpu);
    }
    if let Some(memory) = memory(asked, at, facts, defaults, warnings)? {
        builder = builder.memory(memory);
    }
    let hugepages = hugepages(asked, at, facts, warnings)?;
    if !hugepages.is_empty() {
        builder = builder.hugepage_limits(hugepages);
    }
    let unified = unified(asked, at, facts)?;
    if !unified.is_empty() {
        builder = builder.unified(unified);
    }
    Ok(builder.build()?)
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::container::sample;

    fn json_of(asked: &Resources, facts: &NodeFacts) -> (Value, Vec<String>) {
        let mut warnings = Vec::new();
        let result = linux_resources(
            asked,
            AT_CREATION,
            facts,
            &SpecDefaults::default(),
            &mut warnings,
        )
        .unwrap();
        (serde_json::to_value(result).unwrap(), warnings)
    }

    #[test]
    fn zero_means_nothing() {
        let (value, warnings) = json_of(&Resources::default(), &sample::facts());
        assert_eq!(value, json!({}));
        assert!(warnings.is_empty());
    }

    #[rstest]
    #[case(64 << 20, 0, true, json!({"limit": 64 << 20, "swap": 64 << 20}))]
    #[case(64 << 20, 96 << 20, true, json!({"limit": 64 << 20, "swap": 96 << 20}))]
    #[case(64 << 20, -1, true, json!({"limit": 64 << 20, "swap": -1}))]
    #[case(-1, 0, true, json!({"limit": -1, "swap": -1}))]
    #[case(64 << 20, 0, false, json!({"limit": 64 << 20}))]
    fn memory_and_swap(
        #[case] limit: i64,
        #[case] swap: i64,
        #[case] accounting: bool,
        #[case] expected: Value,
    ) {
        let facts = NodeFacts {
            swap_accounting: accounting,
            ..sample::facts()
        };
        let asked = Resources {
            memory_limit_bytes: limit,
            memory_swap_limit_bytes: swap,
            ..Resources::default()
        };
        assert_eq!(json_of(&asked, &facts).0["memory"], expected);
    }

    #[rstest]
    #[case(Resources { cpu_shares: -1, ..Resources::default() }, "cpu_shares: -1")]
    #[case(Resources { cpu_period_us: 10, ..Resources::default() }, "cpu_period: 10")]
    #[case(Resources { cpu_quota_us: 10, ..Resources::default() }, "cpu_quota: 10")]
    #[case(Resources { cpuset_cpus: "0-".to_owned(), ..Resources::default() }, "cpuset_cpus: \"0-\"")]
    #[case(Resources { cpuset_cpus: "3-1".to_owned(), ..Resources::default() }, "cpuset_cpus")]
    #[case(Resources { cpuset_mems: "all".to_owned(), ..Resources::default() }, "cpuset_mems")]
    #[case(Resources { memory_limit_bytes: 1024, ..Resources::default() }, "too little")]
    #[case(Resources { memory_limit_bytes: 64 << 20, memory_swap_limit_bytes: 1, ..Resources::default() }, "less than")]
    #[case(Resources { memory_swap_limit_bytes: 1, ..Resources::default() }, "only valid together")]
    #[case(Resources { hugepage_limits: vec![("2XB".to_owned(), 0)], ..Resources::default() }, "page size")]
    #[case(Resources { hugepage_limits: vec![("../x".to_owned(), 0)], ..Resources::default() }, "page size")]
    #[case(Resources { unified: [("../x".to_owned(), String::new())].into(), ..Resources::default() }, "cgroup v2 key")]
    #[case(Resources { unified: [("cgroup.procs".to_owned(), String::new())].into(), ..Resources::default() }, "cgroup v2 key")]
    fn impossible_limits(#[case] asked: Resources, #[case] message: &str) {
        let facts = NodeFacts {
            cgroup_version: CgroupVersion::V2,
            ..sample::facts()
        };
        let error = linux_resources(
            &asked,
            "linux",
            &facts,
            &SpecDefaults::default(),
            &mut Vec::new(),
        )
        .unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.to_string().starts_with("linux."), "{error}");
    }

    #[test]
    fn unified_keys_need_v2() {
        let asked = Resources {
            unified: [("memory.high".to_owned(), "1".to_owned())].into(),
            ..Resources::default()
        };
        let v1 = NodeFacts {
            cgroup_version: CgroupVersion::V1,
            ..sample::facts()
        };
        let refused = linux_resources(
            &asked,
            AT_CREATION,
            &v1,
            &SpecDefaults::default(),
            &mut Vec::new(),
        );
        assert!(matches!(refused, Err(SpecError::UnifiedOnV1 { .. })));
        let v2 = NodeFacts {
            cgroup_version: CgroupVersion::V2,
            ..sample::facts()
        };
        assert_eq!(
            json_of(&asked, &v2).0["unified"],
            json!({"memory.high": "1"})
        );
    }

    #[test]
    fn huge_pages_need_their_controller() {
        let asked = Resources {
            hugepage_limits: vec![("2MB".to_owned(), 4 << 20), ("1GB".to_owned(), 0)],
            ..Resources::default()
        };
        let with = NodeFacts {
            hugetlb: true,
            ..sample::facts()
        };
        let limits = json_of(&asked, &with).0["hugepageLimits"].clone();
        assert_eq!(
            limits,
            json!([{"pageSize": "2MB", "limit": 4 << 20}, {"pageSize": "1GB", "limit": 0}])
        );
        let without = NodeFacts {
            hugetlb: false,
            ..sample::facts()
        };
        let (value, warnings) = json_of(&asked, &without);
        assert_eq!(value, json!({}));
        assert_eq!(warnings.len(), 1);
    }
}
