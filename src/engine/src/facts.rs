//! What the node has, found out once at start.

use std::{collections::BTreeMap, fs};

use spec::{Architecture, Capability, NodeFacts, rlimit::RlimitKind};
use sys::cgroup::Layout;

use crate::{error::EngineError, node::EngineConfig};

/// Look at the node.
pub(crate) fn gather(
    layout: &Layout,
    config: &EngineConfig,
    selinux: bool,
) -> Result<NodeFacts, EngineError> {
    let status = fs::read_to_string("/proc/self/status").map_err(|source| EngineError::Io {
        action: "read",
        path: "/proc/self/status".into(),
        source,
    })?;
    let capabilities = Capability::set_from_bits(hex_field(&status, "CapBnd:"));
    let kernel = sys::kernel::version();
    let may_raise = capabilities.contains(&Capability::SysResource);
    let own_score = fs::read_to_string("/proc/self/oom_score_adj")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    Ok(NodeFacts {
        hostname: crate::pod_files::node_hostname(),
        cgroup_version: if layout.is_v2() {
            spec::CgroupVersion::V2
        } else {
            spec::CgroupVersion::V1
        },
        systemd_cgroup: config.systemd_cgroup,
        hugetlb: layout.controllers()?.contains("hugetlb"),
        swap_accounting: swap_accounting(layout),
        apparmor: fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.starts_with('Y')),
        selinux,
        oom_score_adj_min: if may_raise {
            -1000
        } else {
            own_score.unwrap_or(0)
        },
        hard_rlimits: if may_raise {
            BTreeMap::new()
        } else {
            hard_rlimits()
        },
        architecture: Architecture::of_this_build(),
        kernel: (kernel.major, kernel.minor),
        capabilities,
    })
}

fn hex_field(status: &str, name: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
        .unwrap_or(0)
}

/// cgroup v1 has a file for memory plus swap when the kernel counts swap; v2 has always counted it by the time it is used
/// for containers.
fn swap_accounting(layout: &Layout) -> bool {
    match layout {
        Layout::V2 { .. } => true,
        Layout::V1 { controllers } => controllers
            .get("memory")
            .is_some_and(|mount| mount.join("memory.memsw.limit_in_bytes").exists()),
    }
}

/// The server's own hard limits, from `/proc/self/limits`: `Max open files  1024  524288  files`.
fn hard_rlimits() -> BTreeMap<RlimitKind, u64> {
    const ROWS: &[(&str, RlimitKind)] = &[
        ("Max cpu time", RlimitKind::Cpu),
        ("Max file size", RlimitKind::Fsize),
        ("Max data size", RlimitKind::Data),
        ("Max stack size", RlimitKind::Stack),
        ("Max core file size", RlimitKind::Core),
        ("Max resident set", RlimitKind::Rss),
        ("Max processes", RlimitKind::Nproc),
        ("Max open files", RlimitKind::Nofile),
        ("Max locked memory", RlimitKind::Memlock),
        ("Max address space", RlimitKind::As),
        ("Max file locks", RlimitKind::Locks),
        ("Max pending signals", RlimitKind::Sigpending),
        ("Max msgqueue size", RlimitKind::Msgqueue),
        ("Max nice priority", RlimitKind::Nice),
        ("Max realtime priority", RlimitKind::Rtprio),
        ("Max realtime timeout", RlimitKind::Rttime),
    ];
    let text = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let hard = |line: &str, name: &str| {
        let value = line
            .strip_prefix(name)?
            .split_whitespace()
            .nth(1)?
            .to_owned();
        // "unlimited" clamps nothing.
        value.parse::<u64>().ok()
    };
    text.lines()
        .filter_map(|line| {
            ROWS.iter()
                .find_map(|(name, kind)| Some((*kind, hard(line, name)?)))
        })
        .collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn masks_of_the_status_file_are_read() {
        assert_eq!(
            hex_field("Name:\tx\nCapBnd:\t000001fffeffffff\n", "CapBnd:"),
            0x1ff_feff_ffff
        );
        assert_eq!(hex_field("Name:\tx\n", "CapBnd:"), 0);
    }

    #[test]
    fn every_limit_of_this_kernel_is_known() {
        let rows = fs::read_to_string("/proc/self/limits")
            .unwrap_or_default()
            .lines()
            .skip(1)
            .count();
        assert_eq!(rows, 16);
        assert!(hard_rlimits().contains_key(&RlimitKind::Nofile));
    }
}
