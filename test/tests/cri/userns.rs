//! Pods with user namespaces: their root is nobody on the node, and can do in the pod what root can.

use std::{fs, os::unix::fs::MetadataExt};

use anyhow::{Context, Result, ensure};
use api::cri::{self, NamespaceMode};
use pintle_test::{
    cri::{image_spec, refused},
    node::{self, Node, Pod},
    places, registry, world,
};
use tonic::Code;

/// Whom the node takes a pod's root for.
const ROOT: u32 = 200_000;
const LENGTH: u32 = 65_536;

fn ranges(host_id: u32, container_id: u32) -> Vec<cri::IdMapping> {
    vec![cri::IdMapping {
        host_id,
        container_id,
        length: LENGTH,
    }]
}

fn user_namespace() -> cri::UserNamespace {
    cri::UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: ranges(ROOT, 0),
        gids: ranges(ROOT, 0),
    }
}

fn options(network: NamespaceMode, pid: NamespaceMode) -> cri::NamespaceOption {
    cri::NamespaceOption {
        userns_options: Some(user_namespace()),
        ..node::namespaces(network, pid)
    }
}

/// A pod with a user namespace.
async fn pod_with(node: &Node, name: &str, options: &cri::NamespaceOption) -> Result<Pod> {
    node.image("busybox:latest").await?;
    let mut config = node.pod_config(name)?;
    node::pod_security(&mut config).namespace_options = Some(options.clone());
    node.run_pod_as(config).await
}

/// The configuration of a sleeping container in such a pod, as kubelet would ask for it.
fn sleeper(image: &str, name: &str, options: &cri::NamespaceOption) -> cri::ContainerConfig {
    let mut config = node::container_of(image, name, &["sh", "-c", node::SLEEP]);
    node::security(&mut config).namespace_options = Some(options.clone());
    config
}

/// Owner of a file of the node.
fn owner(path: &str) -> Result<(u32, u32)> {
    let found = fs::symlink_metadata(path).with_context(|| path.to_owned())?;
    Ok((found.uid(), found.gid()))
}

#[test]
fn root_of_the_pod_is_nobody_on_the_node() {
    world!(async |node| {
        let options = options(NamespaceMode::Pod, NamespaceMode::Container);
        let pod = pod_with(node, "nobody", &options).await?;
        let id = node
            .start_container(&pod, &sleeper("busybox:latest", "c", &options))
            .await?;
        let cri = node.cri();
        let seen = cri
            .sh(
                &id,
                "id -u; id -g; tr -s ' ' < /proc/self/uid_map; tr -s ' ' < /proc/self/gid_map",
            )
            .await?;
        ensure!(
            seen == format!("0\n0\n 0 {ROOT} {LENGTH}\n 0 {ROOT} {LENGTH}\n"),
            "{seen:?}"
        );
        // On the node its processes are somebody without rights.
        let pid = fs::read_to_string(format!("{}/containers/{id}/pid", places::RUN))?;
        let status = fs::read_to_string(format!("/proc/{}/status", pid.trim()))?;
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        ensure!(
            uids.is_some_and(|uids| uids.split_whitespace().all(|uid| uid == ROOT.to_string())),
            "{uids:?}"
        );
        // What the image has is root's, what others own in it stays theirs, and root may do with it what root may.
        let seen = cri
            .sh(
                &id,
                "stat -c %u:%g / /bin/busybox /home/app /dev/shm /etc/resolv.conf /etc/hostname; \
                 chown 5:6 /bin/busybox; stat -c %u:%g /bin/busybox; echo x > /made; mkdir /var/x; \
                 echo '# more' >> /etc/resolv.conf; touch /dev/shm/y; stat -c %u /dev/shm/y",
            )
            .await?;
        ensure!(
            seen == "0:0\n0:0\n1000:1000\n0:0\n0:0\n0:0\n5:6\n0\n",
            "{seen:?}"
        );
        let upper = format!("{}/containers/{id}/upper", places::ROOT);
        ensure!(owner(&format!("{upper}/made"))? == (ROOT, ROOT));
        ensure!(owner(&format!("{upper}/bin/busybox"))? == (ROOT + 5, ROOT + 6));
        // A second container of the same image sees the image, not that.
        let other = node
            .start_container(&pod, &sleeper("busybox:latest", "other", &options))
            .await?;
        ensure!(
            cri.sh(&other, "stat -c %u:%g /bin/busybox; ls /made 2>&1 | wc -l")
                .await?
                == "0:0\n1\n"
        );
        // The node's own root owns what is not the pod's.
        let refused = cri
            .exec(&id, &["sh", "-c", "echo 1 > /proc/sys/kernel/panic"], 60)
            .await?;
        ensure!(refused.exit_code != 0, "it changed the node");
        let status = cri.status(&id).await?;
        let user = status.user.and_then(|user| user.linux).unwrap_or_default();
        ensure!((user.uid, user.gid) == (0, 0), "{user:?}");
        Ok(())
    });
}

#[test]
fn the_pods_namespaces_belong_to_its_root() {
    world!(async |node| {
        let options = options(NamespaceMode::Pod, NamespaceMode::Container);
        node.image("busybox:latest").await?;
        let mut config = node.pod_config("rules")?;
        node::pod_security(&mut config).namespace_options = Some(options.clone());
        config.linux.get_or_insert_default().sysctls = [
            ("net.ipv4.ip_forward".to_owned(), "1".to_owned()),
            ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
            ("net.ipv4.ping_group_range".to_owned(), "0 65535".to_owned()),
        ]
        .into();
        let pod = node.run_pod_as(config).await?;
        let mut config = sleeper("busybox:latest", "c", &options);
        node::security(&mut config).capabilities = Some(cri::Capability {
            add_capabilities: vec!["NET_ADMIN".to_owned()],
            ..cri::Capability::default()
        });
        let id = node.start_container(&pod, &config).await?;
        let cri = node.cri();
        let seen = cri
            .sh(
                &id,
                "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced; hostname; \
                 ping -c 1 127.0.0.1 > /dev/null && echo pinged; ip link add dummy0 type veth && ip link del dummy0 && echo ruled",
            )
            .await?;
        ensure!(seen == "1\n1\nrules\npinged\nruled\n", "{seen:?}");
        // The network was attached from outside, and reaches the node.
        let address = node.address(&pod).await?;
        let seen = cri.sh(&id, "ip addr show eth0").await?;
        ensure!(seen.contains(&address.to_string()), "{seen}");
        world::run(
            "busybox",
            ["ping", "-c", "1", "-W", "5", &address.to_string()],
        )?;
        Ok(())
    });
}

#[test]
fn volumes_of_every_kind_show_the_pods_ids() {
    world!(async |node| {
        let options = options(NamespaceMode::Pod, NamespaceMode::Container);
        let pod = pod_with(node, "volumes", &options).await?;
        node.image("volumes:latest").await?;
        node.image("tree:latest").await?;
        let host = format!("{}/host", pod.config.log_directory);
        world::make_dirs(&host)?;
        world::write(format!("{host}/file"), "of the node")?;
        std::os::unix::fs::chown(format!("{host}/file"), Some(7), Some(8))?;
        let mapped = |path: &str| cri::Mount {
            host_path: host.clone(),
            container_path: path.to_owned(),
            uid_mappings: ranges(ROOT, 0),
            gid_mappings: ranges(ROOT, 0),
            ..cri::Mount::default()
        };
        let mut config = sleeper("volumes:latest", "c", &options);
        config.mounts = vec![
            mapped("/mnt/mapped"),
            cri::Mount {
                host_path: format!("{host}/file"),
                ..mapped("/mnt/file")
            },
            cri::Mount {
                host_path: host.clone(),
                container_path: "/mnt/plain".to_owned(),
                ..cri::Mount::default()
            },
            cri::Mount {
                container_path: "/mnt/image".to_owned(),
                readonly: true,
                image: Some(image_spec(&registry::name("tree:latest"))),
                image_sub_path: "tree".to_owned(),
                ..cri::Mount::default()
            },
        ];
        let id = node.start_container(&pod, &config).await?;
        let cri = node.cri();
        let seen = cri
            .sh(
                &id,
                "stat -c %u:%g /mnt/mapped /mnt/mapped/file /mnt/file /mnt/plain/file /mnt/image/kept /mnt/image/owned \
                 /srv/data /srv/data/from-image /srv/fresh /srv/fresh/made",
            )
            .await?;
        ensure!(
            seen == "0:0\n7:8\n7:8\n65534:65534\n0:0\n1000:50\n1000:50\n1000:50\n0:0\n0:0\n",
            "{seen:?}"
        );
        // Written by the pod's root through mapped ids, it is root's on the disk.
        cri.sh(&id, "echo x > /mnt/mapped/new; echo y > /srv/fresh/made/z")
            .await?;
        ensure!(owner(&format!("{host}/new"))? == (0, 0));
        let denied = cri.exec(&id, &["touch", "/mnt/plain/other"], 60).await?;
        ensure!(denied.exit_code != 0, "it wrote as the node's root");
        let told = cri.status(&id).await?.mounts;
        let told = told
            .iter()
            .find(|mount| mount.container_path == "/mnt/mapped");
        ensure!(
            told.is_some_and(
                |mount| mount.host_path == host && mount.uid_mappings == ranges(ROOT, 0)
            ),
            "{told:?}"
        );
        // A file system that cannot do it is named.
        let mut config = sleeper("busybox:latest", "proc", &options);
        config.mounts = vec![cri::Mount {
            host_path: "/proc/sys".to_owned(),
            ..mapped("/mnt")
        }];
        let answer = cri.create(&pod.id, &config, &pod.config).await;
        let message = refused(answer, Code::FailedPrecondition)?;
        ensure!(message.contains("/proc/sys"), "{message}");
        Ok(())
    });
}

#[test]
fn what_is_mounted_below_volumes_stays_mounted_and_is_left_nowhere() {
    world!(async |node| {
        let options = options(NamespaceMode::Pod, NamespaceMode::Container);
        let pod = pod_with(node, "below", &options).await?;
        let cri = node.cri();
        // A container that sees all of the node, as those of monitoring do.
        let mut config = node::container("watcher", node::SLEEP);
        config.mounts = vec![cri::Mount {
            host_path: "/".to_owned(),
            container_path: "/host".to_owned(),
            readonly: true,
            propagation: cri::MountPropagation::PropagationHostToContainer.into(),
            ..cri::Mount::default()
        }];
        let watcher = node.run_pod("watcher").await?;
        let watcher = node.start_container(&watcher, &config).await?;

        let base = format!("{}/base", pod.config.log_directory);
        let mut config = sleeper("busybox:latest", "c", &options);
        for (name, propagation) in [
            ("private", cri::MountPropagation::PropagationPrivate),
            ("slave", cri::MountPropagation::PropagationHostToContainer),
            ("shared", cri::MountPropagation::PropagationBidirectional),
        ] {
            let volume = format!("{base}/{name}");
            for place in ["before", "later"] {
                world::make_dirs(format!("{volume}/{place}"))?;
            }
            world::mount_fs("tmpfs", format!("{volume}/before"), "size=1m,mode=777")?;
            config.mounts.push(cri::Mount {
                host_path: volume,
                container_path: format!("/mnt/{name}"),
                propagation: propagation.into(),
                uid_mappings: ranges(ROOT, 0),
                gid_mappings: ranges(ROOT, 0),
                ..cri::Mount::default()
            });
        }
        let id = node.start_container(&pod, &config).await?;
        for name in ["private", "slave", "shared"] {
            world::write(format!("{base}/{name}/before/mark"), "x")?;
            let later = format!("{base}/{name}/later");
            world::mount_fs("tmpfs", &later, "size=1m,mode=755")?;
            world::write(format!("{later}/mark"), "x")?;
        }
        // Not what was mounted before: crun leaves that out of every volume of a user namespace.
        let seen = cri.sh(&id, "cd /mnt; ls */later/mark").await?;
        ensure!(seen == "shared/later/mark\nslave/later/mark\n", "{seen:?}");
        cri.remove(&id).await?;
        for name in ["private", "slave", "shared"] {
            for place in ["before", "later"] {
                let mark = format!("{base}/{name}/{place}/mark");
                ensure!(fs::exists(&mark)?, "{mark} is not there any more");
            }
        }
        // Neither on the node nor where its mounts are seen.
        let node_has = fs::read_to_string("/proc/self/mountinfo")?;
        let watcher_has = cri.sh(&watcher, "cat /proc/self/mountinfo").await?;
        ensure!(watcher_has.contains("/before "), "{watcher_has}");
        for mounts in [node_has, watcher_has] {
            let left = mounts.lines().find(|line| line.contains(id.as_str()));
            ensure!(left.is_none(), "{left:?}");
        }
        cri.remove(&watcher).await?;
        for name in ["private", "slave", "shared"] {
            for place in ["before", "later"] {
                world::run("umount", [format!("{base}/{name}/{place}")])?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_shared_pid_namespace_and_the_nodes_network_go_with_it() {
    world!(async |node| {
        let shared = options(NamespaceMode::Pod, NamespaceMode::Pod);
        let pod = pod_with(node, "shared", &shared).await?;
        let first = node
            .start_container(&pod, &sleeper("busybox:latest", "first", &shared))
            .await?;
        node.start_container(&pod, &sleeper("busybox:latest", "second", &shared))
            .await?;
        let cri = node.cri();
        let seen = cri
            .sh(
                &first,
                "cat /proc/1/comm; ps -o user,args | grep -c '[w]hile'; stat -c %u /proc/1",
            )
            .await?;
        ensure!(seen == "pause\n2\n0\n", "{seen:?}");
        // A container for debugging looks into another.
        let mut target = options(NamespaceMode::Pod, NamespaceMode::Target);
        target.target_id.clone_from(&first);
        let debug = node
            .start_container(&pod, &sleeper("busybox:latest", "debug", &target))
            .await?;
        ensure!(cri.sh(&debug, "cat /proc/1/comm").await? == "pause\n");

        let status = cri.node_status().await?;
        let promised = status.features.unwrap_or_default();
        ensure!(promised.user_namespaces_host_network);
        // The node may have more file systems below /sys.
        world::mount_fs("tmpfs", "/sys/kernel/mm", "size=1m,mode=777")?;
        let can = status
            .runtime_handlers
            .into_iter()
            .find(|handler| handler.name.is_empty())
            .and_then(|handler| handler.features)
            .is_some_and(|features| features.recursive_read_only_mounts);
        let on_node = options(NamespaceMode::Node, NamespaceMode::Container);
        let pod = pod_with(node, "on-node", &on_node).await?;
        let id = node
            .start_container(&pod, &sleeper("busybox:latest", "c", &on_node))
            .await?;
        let seen = cri
            .sh(
                &id,
                "id -u; tr -s ' ' < /proc/self/uid_map; hostname; ls /sys/class/net",
            )
            .await?;
        ensure!(
            seen.starts_with(&format!("0\n 0 {ROOT} {LENGTH}\npintle-node\n")),
            "{seen:?}"
        );
        let refused = cri
            .exec(&id, &["ip", "link", "set", "lo", "down"], 60)
            .await?;
        ensure!(refused.exit_code != 0, "it rules the node's network");
        let denied = cri.exec(&id, &["touch", "/sys/kernel/mm/x"], 60).await?;
        ensure!(
            !can || denied.exit_code != 0,
            "it wrote below the node's /sys"
        );
        world::run("umount", ["/sys/kernel/mm"])?;
        Ok(())
    });
}

fn user(options: &mut cri::NamespaceOption) -> &mut cri::UserNamespace {
    options.userns_options.get_or_insert_default()
}

#[test]
fn impossible_user_namespaces_are_refused() {
    world!(async |node| {
        node.image("busybox:latest").await?;
        let cri = node.cri();
        let refuse = async |name: &str, change: fn(&mut cri::NamespaceOption)| -> Result<String> {
            let mut options = options(NamespaceMode::Pod, NamespaceMode::Container);
            change(&mut options);
            let mut config = node.pod_config(name)?;
            node::pod_security(&mut config).namespace_options = Some(options);
            refused(cri.run_pod(&config, "").await, Code::InvalidArgument)
        };
        for (name, field, change) in [
            (
                "two",
                "uids",
                (|o| user(o).uids.extend(ranges(1, LENGTH))) as fn(&mut _),
            ),
            ("none", "gids", |o| user(o).gids.clear()),
            ("rootless", "uids", |o| user(o).uids = ranges(ROOT, 1)),
            ("apart", "", |o| user(o).gids = ranges(ROOT + 1, 0)),
            ("own", "mode", |o| {
                user(o).mode = NamespaceMode::Container.into();
            }),
            ("target", "mode", |o| {
                user(o).mode = NamespaceMode::Target.into();
            }),
            ("node-pids", "pid", |o| o.pid = NamespaceMode::Node.into()),
            ("node-ipc", "ipc", |o| o.ipc = NamespaceMode::Node.into()),
        ] {
            let message = refuse(name, change).await?;
            let place = "config.linux.security_context.namespace_options";
            ensure!(
                message.contains(place) && message.contains(field),
                "{name}: {message}"
            );
        }
        // A container cannot leave the pod's, and nobody in it has an id outside.
        let options = options(NamespaceMode::Pod, NamespaceMode::Container);
        let pod = pod_with(node, "pod", &options).await?;
        let mut other = options.clone();
        user(&mut other).uids = ranges(ROOT + 1, 0);
        user(&mut other).gids = ranges(ROOT + 1, 0);
        let answer = cri
            .create(
                &pod.id,
                &sleeper("busybox:latest", "other", &other),
                &pod.config,
            )
            .await;
        refused(answer, Code::InvalidArgument)?;
        let mut config = sleeper("busybox:latest", "stranger", &options);
        node::security(&mut config).run_as_user = Some(cri::Int64Value {
            value: LENGTH.into(),
        });
        let answer = cri.create(&pod.id, &config, &pod.config).await;
        let message = refused(answer, Code::InvalidArgument)?;
        ensure!(
            message.contains("run_as_user") && message.contains("65536"),
            "{message}"
        );
        // NODE is what it says.
        let mut node_options = node::namespaces(NamespaceMode::Pod, NamespaceMode::Container);
        node_options.userns_options = Some(cri::UserNamespace {
            mode: NamespaceMode::Node.into(),
            ..cri::UserNamespace::default()
        });
        let pod = pod_with(node, "node", &node_options).await?;
        let id = node
            .start_container(&pod, &sleeper("busybox:latest", "c", &node_options))
            .await?;
        let seen = cri.sh(&id, "tr -s ' ' < /proc/self/uid_map").await?;
        ensure!(seen == " 0 0 4294967295\n", "{seen:?}");
        Ok(())
    });
}

#[test]
fn a_new_server_makes_containers_in_an_old_pods_user_namespace() {
    world!(async |node| {
        let options = options(NamespaceMode::Pod, NamespaceMode::Container);
        let pod = pod_with(node, "old", &options).await?;
        let first = node
            .start_container(&pod, &sleeper("busybox:latest", "first", &options))
            .await?;
        let namespace = "readlink /proc/self/ns/user; readlink /proc/self/ns/net";
        let seen = node.cri().sh(&first, namespace).await?;
        node.kill_server()?;
        node.start_server().await?;
        let second = node
            .start_container(&pod, &sleeper("busybox:latest", "second", &options))
            .await?;
        let cri = node.cri();
        ensure!(cri.sh(&second, namespace).await? == seen);
        ensure!(cri.sh(&second, "stat -c %u / /bin/busybox").await? == "0\n0\n");
        for feature in cri.node_status().await?.runtime_handlers {
            ensure!(
                feature
                    .features
                    .is_some_and(|features| features.user_namespaces)
            );
        }
        Ok(())
    });
}
