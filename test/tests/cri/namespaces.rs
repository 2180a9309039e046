//! Namespaces: who shares what, hostname, resolv.conf, shared memory, sysctls.

use std::{collections::BTreeMap, fs};

use anyhow::{Result, ensure};
use api::cri::{self, NamespaceMode};
use pintle_test::{
    cri::refused,
    node::{self, Node, Pod},
    processes, settle, world,
};
use tonic::Code;

/// A pod and containers in the given PID mode.
async fn pod_with_pid_mode(
    node: &Node,
    name: &str,
    mode: NamespaceMode,
) -> Result<(Pod, cri::NamespaceOption)> {
    let options = node::namespaces(NamespaceMode::Pod, mode);
    let mut config = node.pod_config(name)?;
    node::pod_security(&mut config).namespace_options = Some(options.clone());
    node.image("busybox:latest").await?;
    Ok((node.run_pod_as(config).await?, options))
}

async fn sleeper_in(
    node: &Node,
    pod: &Pod,
    name: &str,
    options: &cri::NamespaceOption,
) -> Result<String> {
    let mut config = node::container(name, node::SLEEP);
    node::security(&mut config).namespace_options = Some(options.clone());
    node.start_container(pod, &config).await
}

#[test]
fn what_a_first_process_leaves_behind_ends_with_it() {
    world!(async |node| {
        let (pod, options) = pod_with_pid_mode(node, "orphans", NamespaceMode::Pod).await?;
        let mut config = node::container("parent", "sleep 314159 & sleep 0.2; exit 7");
        node::security(&mut config).namespace_options = Some(options);
        let id = node.start_container(&pod, &config).await?;
        ensure!(node.exited(&id).await?.exit_code == 7, "another exit code");
        settle::until_true("its child is gone", async || {
            Ok(!processes::all()
                .iter()
                .any(|process| process.command == "sleep 314159"))
        })
        .await
    });
}

#[test]
fn with_container_pid_mode_each_container_is_pid_1() {
    world!(async |node| {
        let (pod, options) = pod_with_pid_mode(node, "apart", NamespaceMode::Container).await?;
        let first = sleeper_in(node, &pod, "first", &options).await?;
        sleeper_in(node, &pod, "second", &options).await?;
        let seen = node
            .cri()
            .sh(
                &first,
                "cat /proc/1/cmdline | tr '\\0' ' '; ps | grep -c '[w]hile'",
            )
            .await?;
        ensure!(seen.starts_with("sh -c trap"), "{seen}");
        ensure!(
            seen.trim_end().ends_with('1'),
            "it sees the other container: {seen}"
        );
        Ok(())
    });
}

#[test]
fn with_pod_pid_mode_containers_see_each_other_and_a_pause_process_reaps() {
    world!(async |node| {
        let (pod, options) = pod_with_pid_mode(node, "together", NamespaceMode::Pod).await?;
        let first = sleeper_in(node, &pod, "first", &options).await?;
        let second = sleeper_in(node, &pod, "second", &options).await?;
        let cri = node.cri();
        let seen = cri
            .sh(&first, "cat /proc/1/comm; ps | grep -c '[w]hile'")
            .await?;
        ensure!(seen == "pause\n2\n", "{seen}");
        // An orphan is inherited by the pause process, which reaps it.
        cri.sh(&second, "sh -c 'sleep 0.1 &'").await?;
        settle::until_true("the orphan is reaped", async || {
            Ok(processes::all().iter().all(|process| !process.zombie))
        })
        .await?;
        // One that ends does not take the other along.
        cri.stop(&first, 0).await?;
        ensure!(cri.sh(&second, "echo alive").await? == "alive\n");
        Ok(())
    });
}

#[test]
fn with_node_pid_mode_the_nodes_processes_are_seen() {
    world!(async |node| {
        let (pod, options) = pod_with_pid_mode(node, "node", NamespaceMode::Node).await?;
        let id = sleeper_in(node, &pod, "c", &options).await?;
        let seen = node.cri().sh(&id, "readlink /proc/self/ns/pid").await?;
        let ours = fs::read_link("/proc/self/ns/pid")?;
        ensure!(seen.trim() == ours.display().to_string(), "{seen}");
        node.cri().stop(&id, 0).await?;
        let left = processes::with_command("while :; do sleep 0.1");
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn a_debug_container_joins_its_targets_processes() {
    world!(async |node| {
        let pod = node.run_pod("target").await?;
        let target = node.run(&pod, "target", node::SLEEP).await?;
        let mut options = node::namespaces(NamespaceMode::Pod, NamespaceMode::Target);
        options.target_id.clone_from(&target);
        let debugger = sleeper_in(node, &pod, "debugger", &options).await?;
        let cri = node.cri();
        let theirs = cri.sh(&target, "readlink /proc/1/ns/pid").await?;
        let ours = cri.sh(&debugger, "readlink /proc/self/ns/pid").await?;
        ensure!(ours == theirs, "{ours} {theirs}");
        // Somebody else's container is no target.
        let other = node.run_pod("other").await?;
        let mut config = node::container("c", "true");
        node::security(&mut config).namespace_options = Some(options);
        let answer = cri.create(&other.id, &config, &other.config).await;
        ensure!(answer.is_err(), "a container of another pod was joined");
        Ok(())
    });
}

#[test]
fn ipc_is_the_pods_or_the_nodes() {
    world!(async |node| {
        let pod = node.run_pod("ipc").await?;
        let first = node.run(&pod, "first", node::SLEEP).await?;
        let second = node.run(&pod, "second", node::SLEEP).await?;
        let cri = node.cri();
        cri.sh(&first, "echo shared > /dev/shm/file").await?;
        ensure!(
            cri.sh(&second, "cat /dev/shm/file").await? == "shared\n",
            "not shared"
        );
        let sizes = cri.sh(&first, "df -k /dev/shm | tail -1").await?;
        ensure!(sizes.contains("65536"), "not 64 MiB: {sizes}");
        let theirs = cri.sh(&first, "readlink /proc/self/ns/ipc").await?;
        let nodes = fs::read_link("/proc/self/ns/ipc")?.display().to_string();
        ensure!(theirs.trim() != nodes, "it has the node's");

        let mut config = node.pod_config("node-ipc")?;
        let options = cri::NamespaceOption {
            ipc: NamespaceMode::Node.into(),
            ..node::namespaces(NamespaceMode::Pod, NamespaceMode::Container)
        };
        node::pod_security(&mut config).namespace_options = Some(options.clone());
        let pod = node.run_pod_as(config).await?;
        let id = sleeper_in(node, &pod, "c", &options).await?;
        ensure!(
            cri.sh(&id, "readlink /proc/self/ns/ipc").await?.trim() == nodes,
            "it has another"
        );
        Ok(())
    });
}

#[test]
fn the_hostname_is_the_pods() {
    world!(async |node| {
        let (_, id) = node.sleeper("named").await?;
        let seen = node.cri().sh(&id, "hostname; cat /etc/hostname").await?;
        ensure!(seen == "named\nnamed\n", "{seen}");
        Ok(())
    });
}

#[test]
fn resolv_conf_is_what_was_asked_for_or_the_nodes() {
    world!(async |node| {
        let mut config = node.pod_config("dns")?;
        config.dns_config = Some(cri::DnsConfig {
            servers: vec!["10.96.0.10".to_owned(), "fd00::10".to_owned()],
            searches: vec![
                "default.svc.cluster.local".to_owned(),
                "cluster.local".to_owned(),
            ],
            options: vec!["ndots:5".to_owned(), "edns0".to_owned()],
        });
        let pod = node.run_pod_as(config).await?;
        let id = node.run(&pod, "c", node::SLEEP).await?;
        let seen = node.cri().sh(&id, "cat /etc/resolv.conf").await?;
        let expected = "search default.svc.cluster.local cluster.local\nnameserver 10.96.0.10\nnameserver fd00::10\noptions ndots:5 edns0\n";
        ensure!(seen == expected, "{seen}");
        let (_, id) = node.sleeper("no-dns").await?;
        let seen = node.cri().sh(&id, "cat /etc/resolv.conf").await?;
        ensure!(seen == fs::read_to_string("/etc/resolv.conf")?, "{seen}");
        Ok(())
    });
}

#[test]
fn sysctls_of_the_pods_namespaces_are_set_and_those_of_the_node_are_refused() {
    world!(async |node| {
        let with = |name: &str, value: &str| -> Result<cri::PodSandboxConfig> {
            let mut config = node.pod_config("sysctl")?;
            let linux = config.linux.get_or_insert_default();
            linux.sysctls = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            Ok(config)
        };
        for (name, value) in [
            ("net.ipv4.ip_unprivileged_port_start", "80"),
            ("kernel.shm_rmid_forced", "1"),
            ("fs.mqueue.msg_max", "100"),
        ] {
            let mut config = with(name, value)?;
            config.metadata.get_or_insert_default().name = name.replace('.', "-");
            let pod = node.run_pod_as(config).await?;
            let id = node.run(&pod, "c", node::SLEEP).await?;
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            let seen = node.cri().sh(&id, &format!("cat {path}")).await?;
            ensure!(seen.trim() == value, "{name}: {seen}");
        }
        for name in ["vm.swappiness", "kernel.core_pattern", "net.../../kernel/x"] {
            refused(
                node.cri().run_pod(&with(name, "1")?, "").await,
                Code::InvalidArgument,
            )?;
        }
        // In the node's network there is no such sysctl to set.
        let mut config = with("net.ipv4.ip_unprivileged_port_start", "80")?;
        let options = node::namespaces(NamespaceMode::Node, NamespaceMode::Container);
        node::pod_security(&mut config).namespace_options = Some(options);
        refused(node.cri().run_pod(&config, "").await, Code::InvalidArgument)?;
        Ok(())
    });
}

#[test]
fn mounts_propagate_as_they_are_asked_to() {
    world!(async |node| {
        let pod = node.run_pod("propagation").await?;
        node.image("busybox:latest").await?;
        let shared = "/run/test/shared";
        world::make_dirs(format!("{shared}/later"))?;
        rustix::mount::mount_bind(shared, shared)?;
        rustix::mount::mount_change(shared, rustix::mount::MountPropagationFlags::SHARED)?;
        let mut ids = Vec::new();
        for (name, propagation) in [
            ("private", cri::MountPropagation::PropagationPrivate),
            ("slave", cri::MountPropagation::PropagationHostToContainer),
        ] {
            let mut config = node::container(name, node::SLEEP);
            config.mounts.push(cri::Mount {
                host_path: shared.to_owned(),
                container_path: "/shared".to_owned(),
                propagation: propagation.into(),
                ..cri::Mount::default()
            });
            ids.push(node.start_container(&pod, &config).await?);
        }
        world::mount_fs("tmpfs", format!("{shared}/later"), "")?;
        world::write(format!("{shared}/later/file"), "")?;
        let sees = async |id: &str| -> Result<bool> {
            Ok(node
                .cri()
                .exec(id, &["test", "-e", "/shared/later/file"], 10)
                .await?
                .exit_code
                == 0)
        };
        ensure!(!sees(&ids[0]).await?, "private, but the mount came through");
        ensure!(sees(&ids[1]).await?, "the mount did not come through");
        node.clear().await?;
        rustix::mount::unmount(shared, rustix::mount::UnmountFlags::DETACH)?;
        Ok(())
    });
}
