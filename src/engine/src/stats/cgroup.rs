//! What one cgroup uses, put together from its files.
//!
//! Version 1 and 2 count the same things under other names, in other units and in other places; from here on there is no
//! difference. Whatever a kernel does not count is left out, never guessed.

use std::time::Instant;

use sys::{cgroup_files::OneCgroup, small_file::SmallFile};

use super::{
    parse::{self, Flat, Limit},
    rates::Reading,
    reading::{
        CgroupDetail, CgroupUse, CpuLimits, CpuUse, Faults, HugePages, MemoryLimits, MemoryUse,
        Pressure, SwapUse, Throttling,
    },
};
use crate::ledger::unix_now_ns;

/// Nanoseconds of a microsecond, the unit of version 2.
const US: u64 = 1_000;

/// CPU time used by the cgroup so far, and when that was; `None` if it is gone.
pub(super) fn cpu_time(cgroup: &OneCgroup<'_>, buffer: &mut SmallFile) -> Option<Reading> {
    let usage_ns = if cgroup.is_v2() {
        let stat = Flat(cgroup.read("cpu", "cpu.stat", buffer)?);
        stat.get("usage_usec")?.saturating_mul(US)
    } else {
        parse::number(cgroup.read("cpuacct", "cpuacct.usage", buffer)?)?
    };
    Some(Reading {
        at: Instant::now(),
        usage_ns,
    })
}

/// What the cgroup uses; `None` if it is gone. `rate` knows the readings before.
pub(super) fn usage(
    cgroup: &OneCgroup<'_>,
    buffer: &mut SmallFile,
    rate: impl FnOnce(Reading) -> Option<u64>,
) -> Option<CgroupUse> {
    let reading = cpu_time(cgroup, buffer);
    let at_unix_ns = unix_now_ns();
    let cpu = reading.map(|reading| CpuUse {
        usage_ns: reading.usage_ns,
        nano_cores: rate(reading),
        pressure: pressure(cgroup, "cpu.pressure", buffer),
    });
    let memory = memory(cgroup, buffer);
    if cpu.is_none() && memory.is_none() {
        return None;
    }
    let (memory, swap) = memory.map_or((None, None), |(memory, swap)| (Some(memory), swap));
    Some(CgroupUse {
        at_unix_ns,
        cpu,
        memory,
        swap,
        io_pressure: pressure(cgroup, "io.pressure", buffer),
        tasks: cgroup
            .read("pids", "pids.current", buffer)
            .and_then(parse::number),
    })
}

fn pressure(cgroup: &OneCgroup<'_>, file: &str, buffer: &mut SmallFile) -> Option<Pressure> {
    parse::pressure(cgroup.pressure(file, buffer)?)
}

/// The names that the versions have for the same file.
fn either<'n>(cgroup: &OneCgroup<'_>, v1: &'n str, v2: &'n str) -> &'n str {
    if cgroup.is_v2() { v2 } else { v1 }
}

fn memory(cgroup: &OneCgroup<'_>, buffer: &mut SmallFile) -> Option<(MemoryUse, Option<SwapUse>)> {
    let v2 = cgroup.is_v2();
    let mut read = |v1_name: &'static str, v2_name: &'static str| {
        cgroup
            .read("memory", either(cgroup, v1_name, v2_name), buffer)
            .map(str::to_owned)
    };
    let usage_bytes = parse::number(&read("memory.usage_in_bytes", "memory.current")?)?;
    let stat = read("memory.stat", "memory.stat")?;
    let stat = Flat(&stat);
    let limit = memory_limit(cgroup, stat, buffer).and_then(Limit::value);
    let inactive_file = stat.total("inactive_file").unwrap_or(0);
    let working_set_bytes = usage_bytes.saturating_sub(inactive_file);
    let swap = if v2 {
        swap_v2(cgroup, buffer)
    } else {
        // Version 1 limits memory and swap together.
        let both = hierarchical(stat, "hierarchical_memsw_limit").and_then(Limit::value);
        stat.total("swap").map(|usage_bytes| SwapUse {
            usage_bytes,
            available_bytes: limit
                .zip(both)
                .map(|(limit, both)| both.saturating_sub(limit).saturating_sub(usage_bytes)),
        })
    };
    let memory = MemoryUse {
        usage_bytes,
        working_set_bytes,
        available_bytes: limit.map(|limit| limit.saturating_sub(working_set_bytes)),
        rss_bytes: stat.total(if v2 { "anon" } else { "rss" }),
        page_faults: stat.total("pgfault"),
        major_page_faults: stat.total("pgmajfault"),
        pressure: pressure(cgroup, "memory.pressure", buffer),
    };
    Some((memory, swap))
}

/// The cgroup's own limit.
fn memory_limit(cgroup: &OneCgroup<'_>, stat: Flat<'_>, buffer: &mut SmallFile) -> Option<Limit> {
    // Version 1 tells the least of its own limit and of all above it: where that is none, its own is none.
    if hierarchical(stat, "hierarchical_memory_limit") == Some(Limit::Unlimited) {
        return Some(Limit::Unlimited);
    }
    let file = either(cgroup, "memory.limit_in_bytes", "memory.max");
    parse::limit(cgroup.read("memory", file, buffer)?)
}

/// One of the limits in version 1's `memory.stat`.
fn hierarchical(stat: Flat<'_>, name: &str) -> Option<Limit> {
    parse::limit(&stat.get(name)?.to_string())
}

fn swap_v2(cgroup: &OneCgroup<'_>, buffer: &mut SmallFile) -> Option<SwapUse> {
    let usage_bytes = parse::number(cgroup.read("memory", "memory.swap.current", buffer)?)?;
    let limit = cgroup
        .read("memory", "memory.swap.max", buffer)
        .and_then(parse::limit)
        .and_then(Limit::value);
    Some(SwapUse {
        usage_bytes,
        available_bytes: limit.map(|limit| limit.saturating_sub(usage_bytes)),
    })
}

/// What metrics tell beyond. `sizes` are the node's sizes of huge pages.
pub(super) fn detail(
    cgroup: &OneCgroup<'_>,
    sizes: &[String],
    buffer: &mut SmallFile,
) -> CgroupDetail {
    let mut detail = CgroupDetail::default();
    if cgroup.is_v2() {
        cpu_v2(cgroup, &mut detail, buffer);
    } else {
        cpu_v1(cgroup, &mut detail, buffer);
    }
    memory_detail(cgroup, &mut detail, buffer);
    detail.tasks_max = cgroup
        .read("pids", "pids.max", buffer)
        .and_then(parse::limit)
        .map(|limit| limit.value().unwrap_or(0));
    detail.devices = if cgroup.is_v2() {
        cgroup
            .read("io", "io.stat", buffer)
            .map(parse::io_stat)
            .unwrap_or_default()
    } else {
        let mut read = |file: &str| {
            cgroup
                .read("blkio", file, buffer)
                .map(str::to_owned)
                .unwrap_or_default()
        };
        let bytes = read("blkio.throttle.io_service_bytes_recursive");
        parse::blkio(&bytes, &read("blkio.throttle.io_serviced_recursive"))
    };
    detail.huge_pages = sizes
        .iter()
        .filter_map(|size| huge_pages(cgroup, size, buffer))
        .collect();
    detail
}

fn cpu_v1(cgroup: &OneCgroup<'_>, detail: &mut CgroupDetail, buffer: &mut SmallFile) {
    let mut number = |controller: &str, file: &str| {
        cgroup
            .read(controller, file, buffer)
            .and_then(parse::number)
    };
    detail.cpu_user_ns = number("cpuacct", "cpuacct.usage_user");
    detail.cpu_system_ns = number("cpuacct", "cpuacct.usage_sys");
    detail.cpu_limits = CpuLimits {
        period_us: number("cpu", "cpu.cfs_period_us"),
        // -1 is no number that counts.
        quota_us: number("cpu", "cpu.cfs_quota_us"),
        shares: number("cpu", "cpu.shares"),
    };
    if detail.cpu_limits.quota_us.is_some() {
        detail.throttling = cgroup
            .read("cpu", "cpu.stat", buffer)
            .and_then(|text| throttling(Flat(text), "throttled_time", 1));
    }
}

fn cpu_v2(cgroup: &OneCgroup<'_>, detail: &mut CgroupDetail, buffer: &mut SmallFile) {
    if let Some(text) = cgroup.read("cpu", "cpu.stat", buffer) {
        let stat = Flat(text);
        let ns = |name| stat.get(name).map(|us| us.saturating_mul(US));
        detail.cpu_user_ns = ns("user_usec");
        detail.cpu_system_ns = ns("system_usec");
        detail.throttling = throttling(stat, "throttled_usec", US);
    }
    if let Some((quota, period)) = cgroup
        .read("cpu", "cpu.max", buffer)
        .and_then(parse::cpu_max)
    {
        detail.cpu_limits.quota_us = quota;
        detail.cpu_limits.period_us = Some(period);
    }
    detail.cpu_limits.shares = cgroup
        .read("cpu", "cpu.weight", buffer)
        .and_then(parse::number)
        .map(parse::shares_of_weight);
}

fn throttling(stat: Flat<'_>, time: &str, unit_ns: u64) -> Option<Throttling> {
    Some(Throttling {
        periods: stat.get("nr_periods")?,
        throttled_periods: stat.get("nr_throttled")?,
        throttled_ns: stat.get(time)?.saturating_mul(unit_ns),
    })
}

fn memory_detail(cgroup: &OneCgroup<'_>, detail: &mut CgroupDetail, buffer: &mut SmallFile) {
    let v2 = cgroup.is_v2();
    let stat = cgroup.read("memory", "memory.stat", buffer);
    let stat = stat.map(str::to_owned).unwrap_or_default();
    let stat = Flat(&stat);
    if !stat.0.is_empty() {
        detail.cache_bytes = stat.total(if v2 { "file" } else { "cache" });
        detail.mapped_file_bytes = stat.total(if v2 { "file_mapped" } else { "mapped_file" });
        let faults = |all: Option<u64>, major: Option<u64>| {
            Some(Faults {
                all: all?,
                major: major?,
            })
        };
        detail.all_faults = faults(stat.total("pgfault"), stat.total("pgmajfault"));
        // Version 2 knows the sum only; containers hardly ever have cgroups below their own.
        detail.own_faults = faults(stat.get("pgfault"), stat.get("pgmajfault"));
        if v2 {
            // The sum has a line of its own since Linux 5.18.
            detail.kernel_bytes = stat.get("kernel").or_else(|| {
                let parts = ["kernel_stack", "pagetables", "percpu", "sock", "slab"];
                let found: Vec<u64> = parts.iter().filter_map(|part| stat.get(part)).collect();
                (!found.is_empty()).then(|| found.iter().sum())
            });
        }
    }
    let own_limit = memory_limit(cgroup, stat, buffer);
    let mut read = |v1_name: &'static str, v2_name: &'static str| {
        cgroup
            .read("memory", either(cgroup, v1_name, v2_name), buffer)
            .map(str::to_owned)
    };
    let limit = |text: Option<String>| Some(parse::limit(&text?)?.value().unwrap_or(0));
    detail.memory_limits = MemoryLimits {
        limit_bytes: own_limit.map(|limit| limit.value().unwrap_or(0)),
        // Of version 2's two, the one that cAdvisor tells: what is never taken.
        reservation_bytes: limit(read("memory.soft_limit_in_bytes", "memory.min")),
        // Version 1's is of memory and swap together, and never less than that of memory.
        swap_bytes: if stat.get("hierarchical_memsw_limit").is_some()
            && own_limit == Some(Limit::Unlimited)
        {
            Some(0)
        } else {
            limit(read("memory.memsw.limit_in_bytes", "memory.swap.max"))
        },
    };
    detail.max_usage_bytes = read("memory.max_usage_in_bytes", "memory.peak")
        .as_deref()
        .and_then(parse::number);
    if v2 {
        if let Some(events) = read("memory.events", "memory.events") {
            detail.limit_hits = Flat(&events).get("max");
            detail.oom_kills = Flat(&events).get("oom_kill");
        }
    } else {
        detail.limit_hits = read("memory.failcnt", "")
            .as_deref()
            .and_then(parse::number);
        detail.kernel_bytes = read("memory.kmem.usage_in_bytes", "")
            .as_deref()
            .and_then(parse::number);
        detail.oom_kills =
            read("memory.oom_control", "").and_then(|text| Flat(&text).get("oom_kill"));
    }
}

fn huge_pages(cgroup: &OneCgroup<'_>, size: &str, buffer: &mut SmallFile) -> Option<HugePages> {
    let mut number = |file: String| {
        cgroup
            .read("hugetlb", &file, buffer)
            .and_then(parse::number)
    };
    let v2 = cgroup.is_v2();
    let usage = if v2 { "current" } else { "usage_in_bytes" };
    Some(HugePages {
        size: size.to_owned(),
        usage_bytes: number(format!("hugetlb.{size}.{usage}"))?,
        max_usage_bytes: if v2 {
            None
        } else {
            number(format!("hugetlb.{size}.max_usage_in_bytes"))
        },
    })
}

/// What several cgroups use together; `None` for none. Pressures do not add up and are left out.
pub(super) fn sum<'a>(parts: impl Iterator<Item = &'a CgroupUse>) -> Option<CgroupUse> {
    fn add(one: Option<u64>, other: Option<u64>) -> Option<u64> {
        Some(one?.saturating_add(other?))
    }
    parts.fold(None, |sum, part| {
        let Some(sum) = sum else {
            return Some(without_pressure(part));
        };
        Some(CgroupUse {
            at_unix_ns: sum.at_unix_ns.max(part.at_unix_ns),
            cpu: sum.cpu.zip(part.cpu).map(|(one, other)| CpuUse {
                usage_ns: one.usage_ns.saturating_add(other.usage_ns),
                nano_cores: add(one.nano_cores, other.nano_cores),
                pressure: None,
            }),
            memory: sum.memory.zip(part.memory).map(|(one, other)| MemoryUse {
                usage_bytes: one.usage_bytes.saturating_add(other.usage_bytes),
                working_set_bytes: one
                    .working_set_bytes
                    .saturating_add(other.working_set_bytes),
                // One container without a limit makes the pod one.
                available_bytes: add(one.available_bytes, other.available_bytes),
                rss_bytes: add(one.rss_bytes, other.rss_bytes),
                page_faults: add(one.page_faults, other.page_faults),
                major_page_faults: add(one.major_page_faults, other.major_page_faults),
                pressure: None,
            }),
            swap: sum.swap.zip(part.swap).map(|(one, other)| SwapUse {
                usage_bytes: one.usage_bytes.saturating_add(other.usage_bytes),
                available_bytes: add(one.available_bytes, other.available_bytes),
            }),
            io_pressure: None,
            tasks: add(sum.tasks, part.tasks),
        })
    })
}

fn without_pressure(one: &CgroupUse) -> CgroupUse {
    CgroupUse {
        cpu: one.cpu.map(|cpu| CpuUse {
            pressure: None,
            ..cpu
        }),
        memory: one.memory.map(|memory| MemoryUse {
            pressure: None,
            ..memory
        }),
        io_pressure: None,
        ..*one
    }
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
