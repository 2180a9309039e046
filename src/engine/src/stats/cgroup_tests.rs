#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{collections::BTreeMap, fs, path::Path};

use sys::{cgroup::Layout, cgroup_files::CgroupFiles};
use tempfile::TempDir;

use super::*;

const LIMIT: u64 = 64 << 20;

/// Files of a cgroup `/p/c` as Linux 6.18 writes them.
const V1: &[(&str, &str, &str)] = &[
    ("cpuacct", "cpuacct.usage", "5000000000\n"),
    ("cpuacct", "cpuacct.usage_user", "4000000000\n"),
    ("cpuacct", "cpuacct.usage_sys", "1000000000\n"),
    ("cpu", "cpu.cfs_period_us", "100000\n"),
    ("cpu", "cpu.cfs_quota_us", "20000\n"),
    ("cpu", "cpu.shares", "1024\n"),
    (
        "cpu",
        "cpu.stat",
        "nr_periods 10\nnr_throttled 4\nthrottled_time 70000\nnr_bursts 0\nburst_time 0\n",
    ),
    ("memory", "memory.usage_in_bytes", "10000000\n"),
    ("memory", "memory.limit_in_bytes", "67108864\n"),
    (
        "memory",
        "memory.soft_limit_in_bytes",
        "9223372036854771712\n",
    ),
    ("memory", "memory.memsw.limit_in_bytes", "134217728\n"),
    ("memory", "memory.max_usage_in_bytes", "12000000\n"),
    ("memory", "memory.failcnt", "3\n"),
    ("memory", "memory.kmem.usage_in_bytes", "500\n"),
    (
        "memory",
        "memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    ),
    (
        "memory",
        "memory.stat",
        "cache 1\nrss 2\nmapped_file 3\nswap 4\npgfault 5\npgmajfault 6\ninactive_file 7\n\
            hierarchical_memory_limit 67108864\nhierarchical_memsw_limit 134217728\n\
            total_cache 4000000\ntotal_rss 5000000\ntotal_mapped_file 300000\ntotal_swap 4096\n\
            total_pgfault 50\ntotal_pgmajfault 60\ntotal_inactive_file 1000000\n",
    ),
    ("pids", "pids.current", "9\n"),
    ("pids", "pids.max", "max\n"),
    (
        "blkio",
        "blkio.throttle.io_service_bytes_recursive",
        "8:0 Read 4096\n8:0 Total 4096\nTotal 4096\n",
    ),
    (
        "blkio",
        "blkio.throttle.io_serviced_recursive",
        "8:0 Read 1\n8:0 Total 1\nTotal 1\n",
    ),
    ("hugetlb", "hugetlb.2MB.usage_in_bytes", "2097152\n"),
    ("hugetlb", "hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
];

/// The same of version 2.
const V2: &[(&str, &str)] = &[
    (
        "cpu.stat",
        "usage_usec 5000000\nuser_usec 4000000\nsystem_usec 1000000\nnr_periods 10\n\
            nr_throttled 4\nthrottled_usec 70\nnr_bursts 0\nburst_usec 0\n",
    ),
    ("cpu.max", "20000 100000\n"),
    ("cpu.weight", "39\n"),
    ("memory.current", "10000000\n"),
    ("memory.max", "67108864\n"),
    ("memory.low", "5000000\n"),
    ("memory.min", "3000000\n"),
    ("memory.swap.max", "67108864\n"),
    ("memory.swap.current", "4096\n"),
    ("memory.peak", "12000000\n"),
    (
        "memory.events",
        "low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\noom_group_kill 0\n",
    ),
    (
        "memory.stat",
        "anon 5000000\nfile 4000000\nkernel 500\nfile_mapped 300000\npgfault 50\npgmajfault 60\n\
            inactive_file 1000000\n",
    ),
    ("pids.current", "9\n"),
    ("pids.max", "max\n"),
    ("io.stat", "8:0 rbytes=4096 wbytes=0 rios=1 wios=0\n"),
    ("hugetlb.2MB.current", "2097152\n"),
    (
        "cpu.pressure",
        "some avg10=1.00 avg60=0.00 avg300=0.00 total=11\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=12\n",
    ),
    (
        "memory.pressure",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=21\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=22\n",
    ),
    (
        "io.pressure",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=31\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=32\n",
    ),
];

fn put(root: &Path, tree: &str, file: &str, text: &str) {
    let dir = root.join(tree).join("p/c");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(file), text).unwrap();
}

fn v1() -> (TempDir, CgroupFiles) {
    let root = tempfile::tempdir().unwrap();
    let mut controllers = BTreeMap::new();
    for (controller, file, text) in V1 {
        put(root.path(), controller, file, text);
        controllers.insert((*controller).to_owned(), root.path().join(controller));
    }
    let files = CgroupFiles::new(Layout::V1 { controllers });
    (root, files)
}

fn v2() -> (TempDir, CgroupFiles) {
    let root = tempfile::tempdir().unwrap();
    for (file, text) in V2 {
        put(root.path(), "", file, text);
    }
    let mount = root.path().to_owned();
    (root, CgroupFiles::new(Layout::V2 { mount }))
}

fn no_rate(_: Reading) -> Option<u64> {
    None
}

#[test]
fn both_versions_tell_the_same_usage() {
    let mut buffer = SmallFile::default();
    for (_root, files) in [v1(), v2()] {
        let cgroup = files.of("/p/c").unwrap();
        let reading = cpu_time(&cgroup, &mut buffer).unwrap();
        assert_eq!(reading.usage_ns, 5_000_000_000);
        let (before, before_unix_ns) = (Instant::now(), unix_now_ns());
        let found = usage(&cgroup, &mut buffer, |reading| {
            // Taken with the number, not before all reads or after them.
            assert!((before..=Instant::now()).contains(&reading.at));
            Some(reading.usage_ns / 10)
        })
        .unwrap();
        assert!((before_unix_ns..=unix_now_ns()).contains(&found.at_unix_ns));
        let cpu = found.cpu.unwrap();
        assert_eq!(cpu.nano_cores, Some(500_000_000));
        assert_eq!(cpu.usage_ns, 5_000_000_000);
        let memory = found.memory.unwrap();
        assert_eq!(memory.usage_bytes, 10_000_000);
        assert_eq!(memory.working_set_bytes, 9_000_000);
        assert_eq!(memory.available_bytes, Some(LIMIT - 9_000_000));
        assert_eq!(memory.rss_bytes, Some(5_000_000));
        assert_eq!(memory.page_faults, Some(50));
        assert_eq!(memory.major_page_faults, Some(60));
        let swap = found.swap.unwrap();
        assert_eq!(swap.usage_bytes, 4096);
        assert_eq!(swap.available_bytes, Some(LIMIT - 4096));
        assert_eq!(found.tasks, Some(9));
        if files.is_v2() {
            assert_eq!(cpu.pressure.unwrap().some.total_us, 11);
            assert_eq!(memory.pressure.unwrap().some.total_us, 21);
            assert_eq!(found.io_pressure.unwrap().full.unwrap().total_us, 32);
        }
    }
}

#[test]
fn both_versions_tell_the_same_details() {
    let mut buffer = SmallFile::default();
    for (_root, files) in [v1(), v2()] {
        let v2 = files.is_v2();
        let cgroup = files.of("/p/c").unwrap();
        let sizes = ["2MB".to_owned(), "1GB".to_owned()];
        let found = detail(&cgroup, &sizes, &mut buffer);
        assert_eq!(found.cpu_user_ns, Some(4_000_000_000));
        assert_eq!(found.cpu_system_ns, Some(1_000_000_000));
        assert_eq!(
            found.throttling,
            Some(Throttling {
                periods: 10,
                throttled_periods: 4,
                throttled_ns: 70_000
            })
        );
        assert_eq!(found.cpu_limits.period_us, Some(100_000));
        assert_eq!(found.cpu_limits.quota_us, Some(20_000));
        assert_eq!(found.cpu_limits.shares, Some(if v2 { 998 } else { 1024 }));
        assert_eq!(found.cache_bytes, Some(4_000_000));
        assert_eq!(found.kernel_bytes, Some(500));
        assert_eq!(found.mapped_file_bytes, Some(300_000));
        assert_eq!(found.max_usage_bytes, Some(12_000_000));
        assert_eq!(found.limit_hits, Some(3));
        assert_eq!(found.oom_kills, Some(2));
        assert_eq!(found.all_faults, Some(Faults { all: 50, major: 60 }));
        let own = if v2 { (50, 60) } else { (5, 6) };
        assert_eq!(
            found.own_faults,
            Some(Faults {
                all: own.0,
                major: own.1
            })
        );
        assert_eq!(
            found.memory_limits,
            MemoryLimits {
                limit_bytes: Some(LIMIT),
                reservation_bytes: Some(if v2 { 3_000_000 } else { 0 }),
                swap_bytes: Some(if v2 { LIMIT } else { 2 * LIMIT }),
            }
        );
        assert_eq!(found.tasks_max, Some(0));
        assert_eq!(found.devices.len(), 1);
        assert_eq!(found.devices[0].bytes[0], ("Read".to_owned(), 4096));
        assert_eq!(
            found.huge_pages,
            [HugePages {
                size: "2MB".to_owned(),
                usage_bytes: 2 << 20,
                max_usage_bytes: (!v2).then_some(4 << 20),
            }]
        );
    }
}

#[test]
fn what_is_gone_is_nothing_and_what_is_not_limited_has_no_rest() {
    let mut buffer = SmallFile::default();
    for (root, files) in [v1(), v2()] {
        let gone = files.of("/p/gone").unwrap();
        assert_eq!(cpu_time(&gone, &mut buffer), None);
        assert_eq!(usage(&gone, &mut buffer, no_rate), None);
        assert_eq!(detail(&gone, &[], &mut buffer), CgroupDetail::default());
        if files.is_v2() {
            put(root.path(), "", "memory.max", "max\n");
            put(root.path(), "", "memory.swap.max", "max\n");
            put(root.path(), "", "cpu.max", "max 100000\n");
        } else {
            let none = "9223372036854771712\n";
            put(root.path(), "memory", "memory.limit_in_bytes", none);
            put(root.path(), "cpu", "cpu.cfs_quota_us", "-1\n");
        }
        let cgroup = files.of("/p/c").unwrap();
        let found = usage(&cgroup, &mut buffer, no_rate).unwrap();
        assert_eq!(found.memory.unwrap().available_bytes, None);
        assert_eq!(found.swap.unwrap().available_bytes, None);
        let found = detail(&cgroup, &[], &mut buffer);
        assert_eq!(found.memory_limits.limit_bytes, Some(0));
        assert_eq!(found.memory_limits.swap_bytes, Some(0));
        assert_eq!(found.cpu_limits.quota_us, None);
        assert_eq!(found.cpu_limits.period_us, Some(100_000));
    }
}

#[test]
fn a_sum_is_as_whole_as_its_parts() {
    let mut buffer = SmallFile::default();
    let (_root, files) = v2();
    let one = usage(&files.of("/p/c").unwrap(), &mut buffer, no_rate).unwrap();
    assert_eq!(sum([].into_iter()), None);
    let alone = sum([&one].into_iter()).unwrap();
    assert_eq!(alone.cpu.unwrap().usage_ns, 5_000_000_000);
    assert_eq!(alone.cpu.unwrap().pressure, None);
    let unlimited = CgroupUse {
        at_unix_ns: 7,
        memory: one.memory.map(|memory| MemoryUse {
            available_bytes: None,
            ..memory
        }),
        ..one
    };
    let both = sum([&one, &unlimited].into_iter()).unwrap();
    assert_eq!(both.at_unix_ns, one.at_unix_ns.max(7));
    assert_eq!(both.cpu.unwrap().usage_ns, 10_000_000_000);
    assert_eq!(both.memory.unwrap().usage_bytes, 20_000_000);
    assert_eq!(both.memory.unwrap().available_bytes, None);
    assert_eq!(both.swap.unwrap().usage_bytes, 8192);
    assert_eq!(both.tasks, Some(18));
}

#[test]
fn limits_that_another_file_rules_out_are_not_read() {
    let (root, files) = v1();
    let stat = "cache 1\nhierarchical_memory_limit 9223372036854771712\n";
    let memory = root.path().join("memory/p/c");
    put(root.path(), "cpu", "cpu.cfs_quota_us", "-1\n");
    let mut buffer = SmallFile::default();
    for (swap, told) in [
        ("", None),
        ("hierarchical_memsw_limit 9223372036854771712\n", Some(0)),
    ] {
        put(
            root.path(),
            "memory",
            "memory.stat",
            &format!("{stat}{swap}"),
        );
        for file in ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"] {
            fs::remove_file(memory.join(file)).ok();
        }
        let cgroup = files.of("/p/c").unwrap();
        let found = usage(&cgroup, &mut buffer, no_rate).unwrap();
        assert_eq!(found.memory.unwrap().available_bytes, None);
        let found = detail(&cgroup, &[], &mut buffer);
        assert_eq!(found.memory_limits.limit_bytes, Some(0));
        assert_eq!(found.memory_limits.swap_bytes, told, "{swap}");
        assert_eq!(found.throttling, None);
    }
}
