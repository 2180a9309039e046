//! Tests of [`super`]: with plain directories in place of cgroups, and with a cgroup of the node's where there is one.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{fs, process::Command};

use super::*;

fn fake_v1(root: &Path) -> Layout {
    let controllers = ["cpu", "memory", "name=systemd"];
    Layout::V1 {
        controllers: controllers
            .into_iter()
            .map(|name| (name.to_owned(), root.join(name)))
            .collect(),
    }
}

#[test]
fn paths_stay_below_the_hierarchy() {
    let layout = Layout::V2 {
        mount: "/sys/fs/cgroup".into(),
    };
    for bad in ["", "/", ".", "..", "/a/../..", "a/../b", "a\0b"] {
        assert!(
            matches!(layout.dir("cpu", bad), Err(SysError::BadCgroupPath { .. })),
            "{bad:?}"
        );
        assert!(layout.remove(bad).is_err());
        assert!(layout.kill_all(bad).is_err());
    }
    assert_eq!(
        layout.memory_dir("/kubepods//pod1/./c1/").unwrap().unwrap(),
        Path::new("/sys/fs/cgroup/kubepods/pod1/c1")
    );
}

#[test]
fn version_one_has_a_directory_per_hierarchy() {
    let layout = fake_v1(Path::new("/cg"));
    assert_eq!(
        layout.memory_dir("/a/b").unwrap().unwrap(),
        Path::new("/cg/memory/a/b")
    );
    assert_eq!(layout.dir("rdma", "/a").unwrap(), None);
    assert_eq!(layout.dirs("/a").unwrap().len(), 3);
    let controllers = layout.controllers().unwrap();
    assert_eq!(
        controllers.into_iter().collect::<Vec<_>>(),
        ["cpu", "memory"]
    );
}

#[test]
fn co_mounted_controllers_share_a_directory() {
    let mount = |target: &str, options: &str| mount::MountInfo {
        id: 1,
        root: "/".into(),
        target: target.into(),
        fs_type: "cgroup".to_owned(),
        source: "cgroup".to_owned(),
        super_options: options.to_owned(),
        propagation: mount::Propagation::default(),
    };
    let table = [
        mount("/elsewhere/cpu", "rw,cpu,cpuacct"),
        mount("/sys/fs/cgroup/cpu,cpuacct", "rw,cpu,cpuacct"),
        mount("/other/cpu", "rw,cpu,cpuacct"),
        mount(
            "/sys/fs/cgroup/systemd",
            "rw,xattr,release_agent=/lib/x,name=systemd",
        ),
    ];
    let layout = Layout::from_table(&table).unwrap();
    assert_eq!(
        layout.dirs("/a").unwrap(),
        [
            Path::new("/sys/fs/cgroup/cpu,cpuacct/a"),
            Path::new("/sys/fs/cgroup/systemd/a")
        ]
    );
    assert_eq!(Layout::from_table(&[]), None);
}

#[test]
fn processes_of_the_whole_subtree() {
    let root = tempfile::tempdir().unwrap();
    let layout = fake_v1(root.path());
    assert!(!layout.exists("/a").unwrap());
    assert!(layout.processes("/a").unwrap().is_empty());
    fs::create_dir_all(root.path().join("memory/a/b/c")).unwrap();
    fs::create_dir_all(root.path().join("cpu/a")).unwrap();
    fs::write(root.path().join("memory/a/cgroup.procs"), "12\n13\n").unwrap();
    fs::write(root.path().join("memory/a/b/c/cgroup.procs"), "0\n14\n").unwrap();
    fs::write(root.path().join("cpu/a/cgroup.procs"), "12\n15\n").unwrap();
    assert!(layout.exists("/a").unwrap());
    assert_eq!(
        layout.processes("/a").unwrap(),
        BTreeSet::from([12, 13, 14, 15])
    );
}

#[test]
fn removal_takes_the_subtree_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let layout = fake_v1(root.path());
    for dir in ["memory/a/b/c", "memory/a/d", "cpu/a", "cpu/z"] {
        fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    layout.remove("/a").unwrap();
    layout.remove("/a").unwrap();
    assert!(!layout.exists("/a").unwrap());
    assert!(root.path().join("cpu/z").exists());
}

/// A cgroup of the node's, or `None` where tests may not make one (a read-only mount, a rootless run).
fn real_cgroup(layout: &Layout) -> Option<String> {
    let name = format!("/pintle-sys-test-{}", std::process::id());
    for dir in layout.dirs(&name).unwrap() {
        fs::create_dir(dir.parent()?.join(dir.file_name()?)).ok()?;
    }
    Some(name)
}

/// Puts a process into a cgroup, kills what is in there, and removes it.
fn live_and_die(layout: &Layout) {
    let Some(name) = real_cgroup(layout) else {
        layout
            .remove(&format!("/pintle-sys-test-{}", std::process::id()))
            .unwrap();
        return;
    };
    let below = format!("{name}/below");
    for dir in layout.dirs(&below).unwrap() {
        fs::create_dir(dir).unwrap();
    }
    let mut child = Command::new("sleep").arg("100").spawn().unwrap();
    for dir in layout.dirs(&below).unwrap() {
        // A hierarchy such as cpuset takes no process before it is set up; one that does is enough.
        let _ = fs::write(dir.join("cgroup.procs"), child.id().to_string());
    }
    assert!(layout.processes(&name).unwrap().contains(&child.id()));
    layout.kill_all(&name).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9)
    );
    layout.remove(&name).unwrap();
    assert!(!layout.exists(&name).unwrap());
}

#[test]
fn the_nodes_own_cgroups() {
    let layout = Layout::detect().unwrap();
    assert!(!layout.controllers().unwrap().is_empty() || layout.is_v2());
    live_and_die(&layout);
    // Hybrid nodes have version 2 as well, without controllers, which is enough to kill by.
    let unified = mount::table()
        .unwrap()
        .into_iter()
        .find(|found| found.fs_type == "cgroup2");
    if let Some(unified) = unified
        && !layout.is_v2()
    {
        live_and_die(&Layout::V2 {
            mount: unified.target,
        });
    }
}
