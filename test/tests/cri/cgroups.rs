//! Where cgroups stand, and what is true of them with either driver and version.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use api::cri;
use pintle_test::{
    cri::refused,
    driver,
    node::{self, Node, Setup},
    world,
};
use serde_json::json;

/// The memory cgroup of a process as the node sees it, or its one cgroup on version 2.
fn cgroup_of(pid: u32) -> Result<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let of = |mark: &str| {
        let line = groups.lines().find(|line| line.contains(mark))?;
        Some(line.split_once(mark)?.1.to_owned())
    };
    of(":memory:")
        .or_else(|| of("0::"))
        .with_context(|| format!("no cgroup: {groups}"))
}

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn monitor_cgroup() -> Result<String> {
    cgroup_of(node::monitors().first().context("no monitor")?.pid)
}

#[test]
fn a_monitor_stands_beside_the_server() {
    world!(async |node| {
        let (pod, _) = node.sleeper("beside").await?;
        let found = monitor_cgroup()?;
        let server = cgroup_of(node.server_pid().context("no server")?)?;
        ensure!(found != server, "both are in {server}");
        let wanted = if driver::is_systemd() {
            format!("/system.slice/pintle-monitor-{}.scope", pod.id)
        } else {
            "/pintle/monitors".to_owned()
        };
        ensure!(found == wanted, "{found}, not {wanted}");
        Ok(())
    });
}

#[test]
fn a_monitor_counts_to_its_pod_where_that_is_wanted() {
    let setup = Setup::default().config(json!({ "cgroup": { "monitors": "pod" } }));
    world!(setup, async |node| {
        let pod = node.run_pod("inside").await?;
        let found = monitor_cgroup()?;
        let parent = driver::parent("kubepods");
        let end = format!("pintle-monitor-{}", pod.id);
        ensure!(
            found.starts_with(&format!("{parent}/{end}")),
            "{found} is not below {parent}"
        );
        // It goes with the pod: that is seen to when the test ends.
        Ok(())
    });
}

/// A container that wants more memory than it gets; its status when it has ended.
async fn greedy(
    node: &Node,
    pod: &node::Pod,
    name: &str,
    limit: i64,
) -> Result<cri::ContainerStatus> {
    node.image("busybox:latest").await?;
    let mut config = node::container(name, "exec tail -c 400m /dev/zero");
    config.linux.get_or_insert_default().resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: limit,
        ..cri::LinuxContainerResources::default()
    });
    let id = node.start_container(pod, &config).await?;
    node.exited(&id).await
}

#[test]
fn an_oom_kill_says_whose_limit_was_reached() {
    world!(async |node| {
        let mut config = node.pod_config("greedy")?;
        if driver::is_systemd() {
            // A pod whose slice nobody has made: it is made with the pod's limits.
            let uid = config.metadata.clone().unwrap_or_default().uid;
            let linux = config.linux.get_or_insert_default();
            linux.cgroup_parent = driver::parent(&format!("kubepods/pod{uid}"));
            linux.resources = Some(cri::LinuxContainerResources {
                memory_limit_in_bytes: 96 << 20,
                ..cri::LinuxContainerResources::default()
            });
        }
        let pod = node.run_pod_as(config).await?;
        let own = greedy(node, &pod, "own", 32 << 20).await?;
        ensure!(own.reason == "OOMKilled", "{}: {}", own.reason, own.message);
        // Version 1 does not tell.
        ensure!(
            own.message.contains("its own limit") == is_v2(),
            "{:?}",
            own.message
        );
        if driver::is_systemd() {
            let above = greedy(node, &pod, "above", 0).await?;
            ensure!(
                above.reason == "OOMKilled",
                "{}: {}",
                above.reason,
                above.message
            );
            ensure!(above.message.contains("its pod"), "{:?}", above.message);
        }
        Ok(())
    });
}

#[test]
fn a_slice_that_is_none_is_refused() {
    world!(async |node| {
        if !driver::is_systemd() {
            return Ok(());
        }
        for parent in ["/kubepods/pod1", "a--b.slice", "a b.slice"] {
            let mut config = node.pod_config("bad")?;
            config.linux.get_or_insert_default().cgroup_parent = parent.to_owned();
            let error = node.cri().run_pod(&config, "").await;
            let message = refused(error, tonic::Code::InvalidArgument)?;
            ensure!(message.contains("cgroup_parent"), "{message}");
        }
        Ok(())
    });
}

#[test]
fn limits_outlive_a_reload_of_systemd() {
    world!(async |node| {
        if !driver::is_systemd() {
            return Ok(());
        }
        let pod = node.run_pod("reload").await?;
        node.image("busybox:latest").await?;
        let mut config = node::container("c", node::SLEEP);
        config.linux.get_or_insert_default().resources = Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            memory_swap_limit_in_bytes: 64 << 20,
            cpu_quota: 20_000,
            cpu_period: 100_000,
            unified: [
                ("memory.high".to_owned(), (48 << 20).to_string()),
                ("pids.max".to_owned(), "77".to_owned()),
            ]
            .into(),
            ..cri::LinuxContainerResources::default()
        });
        let id = node.start_container(&pod, &config).await?;
        let cri = node.cri();
        let read = "cd /sys/fs/cgroup; cat memory.max memory.swap.max memory.high pids.max cpu.max";
        let before = cri.sh(&id, read).await?;
        ensure!(
            before == "67108864\n0\n50331648\n77\n20000 100000\n",
            "{before:?}"
        );
        let reload = Command::new("systemctl").arg("daemon-reload").status()?;
        ensure!(reload.success(), "daemon-reload: {reload}");
        let after = cri.sh(&id, read).await?;
        ensure!(after == before, "{before:?} became {after:?}");
        Ok(())
    });
}
