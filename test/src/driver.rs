//! The cgroup driver under test: `PINTLE_TEST_CGROUP_DRIVER`, cgroupfs unless it says systemd.
//!
//! systemd makes cgroups in its own tree and knows processes by its own numbers. So with it a world has neither a cgroup
//! namespace nor a PID namespace of its own: tests run one at a time then (`--test-threads 1`), on a machine of their own, and
//! what they leave is ended from outside. Processes of the world are those in another mount namespace than process 1.

use std::{env, fs, path::Path, process::Command};

/// Whether systemd is the driver.
pub fn is_systemd() -> bool {
    env::var("PINTLE_TEST_CGROUP_DRIVER").is_ok_and(|driver| driver == "systemd")
}

/// A pod's parent cgroup in the form that a kubelet gives it with this driver: `kubepods/burstable/pod1` becomes
/// `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice`.
pub fn parent(path: &str) -> String {
    if !is_systemd() {
        return format!("/{path}");
    }
    let mut name = String::new();
    let mut slices = String::new();
    for part in path.split('/') {
        if !name.is_empty() {
            name.push('-');
        }
        name += &part.replace('-', "_");
        slices.extend(["/", name.as_str(), ".slice"]);
    }
    slices
}

/// Whether a process is one of the world.
pub(crate) fn is_of_world(pid: u32) -> bool {
    let namespace = |pid: &str| fs::read_link(Path::new("/proc").join(pid).join("ns/mnt")).ok();
    !is_systemd() || namespace(&pid.to_string()) != namespace("1")
}

/// Whether a cgroup may have been made by a world. Slices that are parents of many pods belong to the node.
pub(crate) fn is_of_pods(dir: &Path) -> bool {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    if !is_systemd() {
        return !(dir.ends_with("kubepods")
            || dir.ends_with("pintle")
            || dir.ends_with("pintle/monitors"));
    }
    let is_below = dir.to_string_lossy().contains("/kubepods") || name.starts_with("pintle-");
    is_below && name != "kubepods.slice"
}

/// Ends what the world's test left running.
pub(crate) fn clear() {
    if !is_systemd() {
        return;
    }
    for arguments in [
        &["kill", "--signal=KILL", "pintle-*.scope"][..],
        &["stop", "pintle-*.scope", "kubepods*.slice"][..],
        &["reset-failed", "pintle-*.scope"][..],
    ] {
        // There may be none.
        let _ = Command::new("systemctl")
            .arg("--quiet")
            .args(arguments)
            .output();
    }
}
