//! Limits as properties of systemd's units.
//!
//! systemd writes the cgroup files of its units anew whenever it reloads or changes something about them. A limit that stands
//! in a file alone is gone then; as a property of the unit it stays. Where systemd has no property (huge pages, `rdma.max`,
//! `memory.oom.group` and others) it leaves the file alone as well.

use std::collections::BTreeMap;

use crate::model::Resources;

/// systemd's infinity.
pub const INFINITY: u64 = u64::MAX;
/// Microseconds that systemd can tell apart in a quota per second: it keeps whole percents.
const QUOTA_STEP_US: u64 = 10_000;
const SECOND_US: u64 = 1_000_000;
/// The kernel's period when nobody says another one.
const PERIOD_US: u64 = 100_000;
/// No node has more CPUs.
const CPUS_MAX: usize = 8192;

/// A property's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitValue {
    /// A number.
    Number(u64),
    /// A set of CPUs or memory nodes: bit n of byte n/8.
    Bits(Vec<u8>),
}

/// Properties by their names, each once.
pub type UnitProperties = BTreeMap<&'static str, UnitValue>;

/// What limits mean for a unit. Those of `unified` come last: they are more precise.
#[must_use]
pub fn of_limits(limits: &Resources) -> UnitProperties {
    let mut found = UnitProperties::new();
    if let Ok(shares @ 2..) = u64::try_from(limits.cpu_shares) {
        found.insert("CPUWeight", UnitValue::Number(weight(shares)));
    }
    quota(&mut found, limits.cpu_quota_us, limits.cpu_period_us);
    let memory = limits.memory_limit_bytes;
    if memory != 0 {
        found.insert("MemoryMax", UnitValue::Number(bytes(memory)));
        let swap = match limits.memory_swap_limit_bytes {
            // No word about swap means none beside a limit of memory.
            0 => memory.min(0),
            total if total < 0 => -1,
            total => total.saturating_sub(memory.max(0)),
        };
        found.insert("MemorySwapMax", UnitValue::Number(bytes(swap)));
    }
    for (name, list) in [
        ("AllowedCPUs", &limits.cpuset_cpus),
        ("AllowedMemoryNodes", &limits.cpuset_mems),
    ] {
        if let Some(bits) = bits(list) {
            found.insert(name, UnitValue::Bits(bits));
        }
    }
    for (key, value) in &limits.unified {
        found.extend(of_file(key, value));
    }
    found
}

/// What a file of cgroup v2 with this content means for a unit; nothing where systemd has no property for it.
#[must_use]
pub fn of_file(name: &str, content: &str) -> UnitProperties {
    let mut found = UnitProperties::new();
    let content = content.trim();
    let number = if content == "max" {
        Some(INFINITY)
    } else {
        content.parse().ok()
    };
    let property = match name {
        "memory.min" => "MemoryMin",
        "memory.low" => "MemoryLow",
        "memory.high" => "MemoryHigh",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => "TasksMax",
        "cpu.weight" => "CPUWeight",
        "io.weight" => {
            let weight = content.strip_prefix("default").unwrap_or(content).trim();
            // Weights of single devices are not in it.
            if let Ok(weight) = weight.parse() {
                found.insert("IOWeight", UnitValue::Number(weight));
            }
            return found;
        }
        "cpuset.cpus" | "cpuset.mems" => {
            let property = if name == "cpuset.cpus" {
                "AllowedCPUs"
            } else {
                "AllowedMemoryNodes"
            };
            // Nothing is what the parent has.
            let set = if content.is_empty() {
                Some(Vec::new())
            } else {
                bits(content)
            };
            found.extend(set.map(|bits| (property, UnitValue::Bits(bits))));
            return found;
        }
        "cpu.max" => {
            let mut parts = content.split_whitespace();
            let limit = parts.next().unwrap_or_default();
            let period = parts
                .next()
                .and_then(|period| period.parse().ok())
                .unwrap_or(0);
            let limit = if limit == "max" {
                -1
            } else {
                limit.parse().unwrap_or(0)
            };
            quota(&mut found, limit, period);
            return found;
        }
        _ => return found,
    };
    found.extend(number.map(|number| (property, UnitValue::Number(number))));
    found
}

/// A pod's limits: its containers' together, and what the runtime itself may use beside them.
#[must_use]
pub fn of_pod(resources: Option<&Resources>, overhead: Option<&Resources>) -> UnitProperties {
    let Some(resources) = resources else {
        return UnitProperties::new();
    };
    let none = Resources::default();
    let overhead = overhead.unwrap_or(&none);
    // What has no limit gets none by the overhead.
    let sum = |limit: i64, more: i64| {
        if limit > 0 {
            limit.saturating_add(more.max(0))
        } else {
            limit
        }
    };
    let period = |limits: &Resources| u64::try_from(limits.cpu_period_us).ok().filter(|p| *p > 0);
    let own_period = period(resources).unwrap_or(PERIOD_US);
    let more_quota = per_period(
        overhead.cpu_quota_us,
        period(overhead).unwrap_or(PERIOD_US),
        own_period,
    );
    let mut found = of_limits(&Resources {
        cpu_period_us: resources.cpu_period_us,
        cpu_quota_us: sum(resources.cpu_quota_us, more_quota),
        cpu_shares: sum(resources.cpu_shares, overhead.cpu_shares),
        memory_limit_bytes: sum(resources.memory_limit_bytes, overhead.memory_limit_bytes),
        memory_swap_limit_bytes: sum(
            resources.memory_swap_limit_bytes,
            overhead.memory_limit_bytes,
        ),
        unified: resources.unified.clone(),
        ..Resources::default()
    });
    if resources.memory_swap_limit_bytes == 0 && !resources.unified.contains_key("memory.swap.max")
    {
        // What each container may swap is said for the container.
        found.remove("MemorySwapMax");
    }
    found
}

/// The content of `cpu.max`, if systemd would write another one for the same limit.
#[must_use]
pub fn exact_cpu_max(limits: &Resources) -> Option<String> {
    let quota = u64::try_from(limits.cpu_quota_us)
        .ok()
        .filter(|quota| *quota > 0)?;
    let period = u64::try_from(limits.cpu_period_us)
        .ok()
        .filter(|period| *period > 0);
    let period = period.unwrap_or(PERIOD_US);
    let exact = quota.saturating_mul(SECOND_US);
    (exact % period != 0 || (exact / period) % QUOTA_STEP_US != 0)
        .then(|| format!("{quota} {period}"))
}

fn quota(found: &mut UnitProperties, quota: i64, period: i64) {
    if quota == 0 {
        return;
    }
    let period = u64::try_from(period).ok().filter(|period| *period > 0);
    let per_second = match u64::try_from(quota) {
        Err(_) => INFINITY,
        // Up to the next percent: rounded down, a reload would take away what was promised.
        Ok(quota) => quota
            .saturating_mul(SECOND_US)
            .div_ceil(period.unwrap_or(PERIOD_US))
            .div_ceil(QUOTA_STEP_US)
            .saturating_mul(QUOTA_STEP_US),
    };
    found.insert("CPUQuotaPerSecUSec", UnitValue::Number(per_second));
    if let Some(period) = period {
        found.insert("CPUQuotaPeriodUSec", UnitValue::Number(period));
    }
}

/// A quota of one period in terms of another.
fn per_period(quota: i64, of: u64, to: u64) -> i64 {
    let quota = u128::try_from(quota).unwrap_or(0);
    i64::try_from(quota * u128::from(to) / u128::from(of.max(1))).unwrap_or(i64::MAX)
}

/// Shares of version 1 (2 to 262144) as a weight of version 2 (1 to 10000), as every runtime converts them.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

fn bytes(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(INFINITY)
}

/// A list such as `0-3,8`; `None` if it is empty or none.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut bits = Vec::new();
    for part in list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= CPUS_MAX || first > last {
            return None;
        }
        for number in first..=last {
            if bits.len() <= number / 8 {
                bits.resize(number / 8 + 1, 0);
            }
            if let Some(byte) = bits.get_mut(number / 8) {
                *byte |= 1 << (number % 8);
            }
        }
    }
    (!bits.is_empty()).then_some(bits)
}

#[cfg(test)]
mod test {
    use rstest::rstest;

    use super::*;

    fn numbers(found: &UnitProperties) -> Vec<(&str, u64)> {
        found
            .iter()
            .filter_map(|(name, value)| match value {
                UnitValue::Number(number) => Some((*name, *number)),
                UnitValue::Bits(_) => None,
            })
            .collect()
    }

    #[rstest]
    #[case(Resources { cpu_shares: 2, ..Resources::default() }, &[("CPUWeight", 1)])]
    #[case(Resources { cpu_shares: 1024, ..Resources::default() }, &[("CPUWeight", 39)])]
    #[case(Resources { cpu_shares: 999_999, ..Resources::default() }, &[("CPUWeight", 10_000)])]
    #[case(Resources { cpu_quota_us: 50_000, cpu_period_us: 100_000, ..Resources::default() },
        &[("CPUQuotaPerSecUSec", 500_000), ("CPUQuotaPeriodUSec", 100_000)])]
    // Whole percents, upwards.
    #[case(Resources { cpu_quota_us: 12_345, cpu_period_us: 100_000, ..Resources::default() },
        &[("CPUQuotaPerSecUSec", 130_000), ("CPUQuotaPeriodUSec", 100_000)])]
    #[case(Resources { cpu_quota_us: -1, cpu_period_us: 50_000, ..Resources::default() },
        &[("CPUQuotaPerSecUSec", INFINITY), ("CPUQuotaPeriodUSec", 50_000)])]
    #[case(Resources { memory_limit_bytes: 64, ..Resources::default() }, &[("MemoryMax", 64), ("MemorySwapMax", 0)])]
    #[case(Resources { memory_limit_bytes: 64, memory_swap_limit_bytes: 96, ..Resources::default() },
        &[("MemoryMax", 64), ("MemorySwapMax", 32)])]
    #[case(Resources { memory_limit_bytes: 64, memory_swap_limit_bytes: -1, ..Resources::default() },
        &[("MemoryMax", 64), ("MemorySwapMax", INFINITY)])]
    #[case(Resources { memory_limit_bytes: -1, ..Resources::default() }, &[("MemoryMax", INFINITY), ("MemorySwapMax", INFINITY)])]
    #[case(Resources { memory_limit_bytes: 64, unified: [("memory.max".to_owned(), "32".to_owned())].into(), ..Resources::default() },
        &[("MemoryMax", 32), ("MemorySwapMax", 0)])]
    #[case(Resources::default(), &[])]
    fn limits_are_properties(#[case] asked: Resources, #[case] wanted: &[(&str, u64)]) {
        assert_eq!(numbers(&of_limits(&asked)), wanted);
    }

    #[rstest]
    #[case("memory.high", "max", &[("MemoryHigh", INFINITY)])]
    #[case("memory.low", "1024\n", &[("MemoryLow", 1024)])]
    #[case("pids.max", "7", &[("TasksMax", 7)])]
    #[case("io.weight", "default 50", &[("IOWeight", 50)])]
    #[case("io.weight", "8:0 50", &[])]
    #[case("cpu.max", "max 100000", &[("CPUQuotaPerSecUSec", INFINITY), ("CPUQuotaPeriodUSec", 100_000)])]
    #[case("cpu.max", "20000 100000\n", &[("CPUQuotaPerSecUSec", 200_000), ("CPUQuotaPeriodUSec", 100_000)])]
    #[case("memory.oom.group", "1", &[])]
    #[case("hugetlb.2MB.max", "0", &[])]
    #[case("rdma.max", "x", &[])]
    #[case("memory.high", "nonsense", &[])]
    fn files_are_properties(
        #[case] name: &str,
        #[case] content: &str,
        #[case] wanted: &[(&str, u64)],
    ) {
        assert_eq!(numbers(&of_file(name, content)), wanted);
    }

    #[rstest]
    #[case("0", Some(vec![1]))]
    #[case("0-3,8", Some(vec![0b1111, 1]))]
    #[case("", None)]
    #[case("3-1", None)]
    #[case("all", None)]
    #[case("99999999", None)]
    fn sets(#[case] list: &str, #[case] wanted: Option<Vec<u8>>) {
        assert_eq!(bits(list), wanted);
    }

    #[test]
    fn a_pod_has_its_containers_limits_and_the_overhead() {
        let resources = Resources {
            cpu_quota_us: 50_000,
            cpu_period_us: 50_000,
            cpu_shares: 1000,
            memory_limit_bytes: 100,
            ..Resources::default()
        };
        let overhead = Resources {
            cpu_quota_us: 10_000,
            cpu_period_us: 100_000,
            cpu_shares: 24,
            memory_limit_bytes: 28,
            ..Resources::default()
        };
        let found = of_pod(Some(&resources), Some(&overhead));
        assert_eq!(
            numbers(&found),
            [
                ("CPUQuotaPerSecUSec", 1_100_000),
                ("CPUQuotaPeriodUSec", 50_000),
                ("CPUWeight", 39),
                ("MemoryMax", 128),
            ]
        );
        let free = Resources {
            cpu_shares: 2,
            ..Resources::default()
        };
        assert_eq!(
            numbers(&of_pod(Some(&free), Some(&overhead))),
            [("CPUWeight", 1)]
        );
        assert!(of_pod(None, Some(&overhead)).is_empty());
    }

    #[test]
    fn what_systemd_rounds_is_written_exactly() {
        let of = |quota, period| {
            exact_cpu_max(&Resources {
                cpu_quota_us: quota,
                cpu_period_us: period,
                ..Resources::default()
            })
        };
        assert_eq!(of(50_000, 100_000), None);
        assert_eq!(of(12_345, 100_000).as_deref(), Some("12345 100000"));
        assert_eq!(of(10_000, 30_000).as_deref(), Some("10000 30000"));
        assert_eq!(of(-1, 100_000), None);
        assert_eq!(of(0, 100_000), None);
    }
}
