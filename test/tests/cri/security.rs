//! Who a container is and what it may do: users, capabilities, seccomp, read-only and masked paths, limits.

use anyhow::{Result, ensure};
use api::cri;
use pintle_test::{
    cri::refused,
    node::{self, Node, Pod},
    world,
};
use tonic::Code;

/// Starts a sleeping container of an image with a changed security context; its id.
async fn with_security(
    node: &Node,
    pod: &Pod,
    image: &str,
    name: &str,
    change: impl FnOnce(&mut cri::LinuxContainerSecurityContext),
) -> Result<String> {
    node.image(image).await?;
    let mut config = node::container_of(image, name, &["sh", "-c", node::SLEEP]);
    change(node::security(&mut config));
    node.start_container(pod, &config).await
}

fn user(value: i64) -> cri::Int64Value {
    cri::Int64Value { value }
}

#[test]
fn environments_are_for_root_only() {
    use std::os::unix::fs::PermissionsExt as _;
    world!(async |node| {
        let (_pod, id) = node.sleeper("secretive").await?;
        let spec = format!("{}/containers/{id}/config.json", pintle_test::places::RUN);
        let mode = std::fs::metadata(&spec)?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "{spec} has mode {mode:o}");
        Ok(())
    });
}

#[test]
fn users_and_groups_come_from_the_image_or_the_request() {
    world!(async |node| {
        let pod = node.run_pod("users").await?;
        let identity = async |id: &str| node.cri().sh(id, "id -u; id -g; id -G").await;
        for (image, expected) in [
            ("users/uid:latest", "1002\n0\n0\n"),
            ("users/username:latest", "33\n33\n33\n"),
            ("users/uid-gid:latest", "1003\n1004\n1004\n"),
            ("users/username-gid:latest", "33\n1004\n1004\n"),
            ("users/supplementary:latest", "1000\n1000\n1000 44 50\n"),
        ] {
            let name = image.replace(['/', ':'], "-");
            let id = with_security(node, &pod, image, &name, |_| {}).await?;
            let seen = identity(&id).await?;
            ensure!(seen == expected, "{image}: {seen:?}");
        }
        let id = with_security(node, &pod, "users/uid:latest", "asked", |security| {
            security.run_as_user = Some(user(1000));
            security.run_as_group = Some(user(2000));
            security.supplemental_groups = vec![3000, 3001];
        })
        .await?;
        let seen = identity(&id).await?;
        // The groups that the image gives user 1000 are merged in.
        ensure!(
            seen == "1000\n2000\n2000 3000 3001 44 50\n"
                || seen == "1000\n2000\n2000 44 50 3000 3001\n",
            "{seen:?}"
        );
        let status = node.cri().status(&id).await?;
        let told = status.user.and_then(|user| user.linux).unwrap_or_default();
        ensure!(told.uid == 1000 && told.gid == 2000, "{told:?}");
        ensure!(told.supplemental_groups.contains(&3001), "{told:?}");

        let id = with_security(node, &pod, "users/uid:latest", "strict", |security| {
            security.run_as_user = Some(user(1000));
            security.run_as_group = Some(user(2000));
            security.supplemental_groups = vec![3000];
            security.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
        })
        .await?;
        let seen = identity(&id).await?;
        ensure!(
            seen == "1000\n2000\n2000 3000\n" || seen == "1000\n2000\n3000\n",
            "{seen:?}"
        );

        let id = with_security(node, &pod, "busybox:latest", "by-name", |security| {
            security.run_as_username = "www-data".to_owned();
        })
        .await?;
        let seen = identity(&id).await?;
        ensure!(seen.starts_with("33\n33\n"), "{seen:?}");
        Ok(())
    });
}

#[test]
fn a_user_that_the_image_does_not_know_is_refused_by_name() {
    world!(async |node| {
        let pod = node.run_pod("unknown").await?;
        node.image("users/unknown:latest").await?;
        let config = node::container_of("users/unknown:latest", "c", &["true"]);
        let status = node.cri().create(&pod.id, &config, &pod.config).await.err();
        let message = status
            .map(|status| status.message().to_owned())
            .unwrap_or_default();
        ensure!(message.contains("nobody-has-this-name"), "{message:?}");
        // A group without a user is nobody's.
        let mut config = node::container("g", "true");
        node.image("busybox:latest").await?;
        node::security(&mut config).run_as_group = Some(user(5));
        refused(
            node.cri().create(&pod.id, &config, &pod.config).await,
            Code::InvalidArgument,
        )?;
        Ok(())
    });
}

#[test]
fn capabilities_are_the_default_ones_more_or_fewer() {
    world!(async |node| {
        let pod = node.run_pod("capabilities").await?;
        let effective = async |id: &str| -> Result<u64> {
            let text = node
                .cri()
                .sh(id, "grep CapEff /proc/1/status | cut -f 2")
                .await?;
            Ok(u64::from_str_radix(text.trim(), 16)?)
        };
        let (chown, net_admin, sys_time) = (1_u64, 1 << 12, 1 << 25);
        let plain = with_security(node, &pod, "busybox:latest", "plain", |_| {}).await?;
        let plain = effective(&plain).await?;
        ensure!(
            plain & chown != 0 && plain & (net_admin | sys_time) == 0,
            "{plain:x}"
        );
        let changed = with_security(node, &pod, "busybox:latest", "changed", |security| {
            security.capabilities = Some(cri::Capability {
                add_capabilities: vec!["NET_ADMIN".to_owned(), "CAP_SYS_TIME".to_owned()],
                drop_capabilities: vec!["CHOWN".to_owned()],
                ..cri::Capability::default()
            });
        })
        .await?;
        let changed = effective(&changed).await?;
        ensure!(
            changed == (plain | net_admin | sys_time) & !chown,
            "{changed:x} of {plain:x}"
        );
        let none = with_security(node, &pod, "busybox:latest", "none", |security| {
            security.capabilities = Some(cri::Capability {
                drop_capabilities: vec!["ALL".to_owned()],
                ..cri::Capability::default()
            });
        })
        .await?;
        ensure!(effective(&none).await? == 0, "some are left");
        // All that this node has: one without CAP_SYS_RESOURCE cannot give that.
        let all = with_security(node, &pod, "busybox:latest", "all", |security| {
            security.capabilities = Some(cri::Capability {
                add_capabilities: vec!["ALL".to_owned()],
                ..cri::Capability::default()
            });
        })
        .await?;
        let bounding = std::fs::read_to_string("/proc/self/status")?;
        let bounding = bounding
            .lines()
            .find_map(|line| line.strip_prefix("CapBnd:\t"))
            .unwrap_or_default();
        let all = effective(&all).await?;
        ensure!(
            all == u64::from_str_radix(bounding, 16)?,
            "{all:x} of {bounding}"
        );
        let unknown = async || {
            with_security(node, &pod, "busybox:latest", "unknown", |security| {
                security.capabilities = Some(cri::Capability {
                    add_capabilities: vec!["NO_SUCH_THING".to_owned()],
                    ..cri::Capability::default()
                });
            })
            .await
        };
        ensure!(
            unknown().await.is_err(),
            "a capability that does not exist was given"
        );
        Ok(())
    });
}

#[test]
fn a_user_other_than_root_has_no_capabilities_unless_they_are_ambient() {
    world!(async |node| {
        let pod = node.run_pod("ambient").await?;
        let plain = with_security(node, &pod, "busybox:latest", "plain", |security| {
            security.run_as_user = Some(user(1000));
        })
        .await?;
        let seen = node.cri().sh(&plain, "grep CapEff /proc/1/status").await?;
        ensure!(seen.contains("0000000000000000"), "{seen}");
        let ambient = with_security(node, &pod, "busybox:latest", "ambient", |security| {
            security.run_as_user = Some(user(1000));
            security.capabilities = Some(cri::Capability {
                add_ambient_capabilities: vec!["NET_BIND_SERVICE".to_owned()],
                ..cri::Capability::default()
            });
        })
        .await?;
        let seen = node
            .cri()
            .sh(&ambient, "grep CapAmb /proc/1/status")
            .await?;
        ensure!(seen.contains("0000000000000400"), "{seen}");
        Ok(())
    });
}

#[test]
fn the_default_seccomp_profile_blocks_what_unconfined_allows() {
    world!(async |node| {
        let pod = node.run_pod("seccomp").await?;
        // The kernel itself lets anyone make a user namespace.
        let attempt = ["unshare", "-U", "true"];
        for (name, kind, allowed, mode) in [
            (
                "default",
                cri::security_profile::ProfileType::RuntimeDefault,
                false,
                "2",
            ),
            (
                "unconfined",
                cri::security_profile::ProfileType::Unconfined,
                true,
                "0",
            ),
        ] {
            let id = with_security(node, &pod, "busybox:latest", name, |security| {
                security.seccomp = Some(cri::SecurityProfile {
                    profile_type: kind.into(),
                    localhost_ref: String::new(),
                });
            })
            .await?;
            let seen = node.cri().sh(&id, "grep ^Seccomp: /proc/1/status").await?;
            ensure!(seen.trim().ends_with(mode), "{name}: {seen}");
            let answer = node.cri().exec(&id, &attempt, 10).await?;
            ensure!((answer.exit_code == 0) == allowed, "{name}: {answer:?}");
        }
        Ok(())
    });
}

#[test]
fn a_seccomp_profile_of_the_nodes_is_loaded_and_a_missing_one_refused() {
    world!(async |node| {
        let pod = node.run_pod("localhost").await?;
        let path = "/run/test/no-mkdir.json";
        world::write(
            path,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#,
        )?;
        let of = |reference: &str| cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::Localhost.into(),
            localhost_ref: reference.to_owned(),
        };
        let id = with_security(node, &pod, "busybox:latest", "c", |security| {
            security.seccomp = Some(of(path));
        })
        .await?;
        let answer = node.cri().exec(&id, &["mkdir", "/tmp/new"], 10).await?;
        ensure!(answer.exit_code != 0, "mkdir worked");
        let missing = with_security(node, &pod, "busybox:latest", "missing", |security| {
            security.seccomp = Some(of("/run/test/no-such-profile.json"));
        })
        .await;
        let message = missing
            .err()
            .map(|error| format!("{error:#}"))
            .unwrap_or_default();
        ensure!(message.contains("no-such-profile"), "{message:?}");
        // A pipe that nobody writes to would be waited for without end.
        world::run("mkfifo", ["/run/test/pipe.json"])?;
        let mut config = node::container("pipe", node::SLEEP);
        node::security(&mut config).seccomp = Some(of("/run/test/pipe.json"));
        let answer = node.cri().create(&pod.id, &config, &pod.config).await;
        let message = refused(answer, Code::InvalidArgument)?;
        ensure!(message.contains("not a regular file"), "{message}");
        Ok(())
    });
}

#[test]
fn a_read_only_root_can_not_be_written_and_a_plain_one_is_each_containers_own() {
    world!(async |node| {
        let pod = node.run_pod("readonly").await?;
        let readonly = with_security(node, &pod, "busybox:latest", "readonly", |security| {
            security.readonly_rootfs = true;
        })
        .await?;
        let answer = node.cri().exec(&readonly, &["touch", "/new"], 10).await?;
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        ensure!(
            answer.exit_code != 0 && said.contains("Read-only"),
            "{said:?}"
        );
        let first = with_security(node, &pod, "busybox:latest", "first", |_| {}).await?;
        let second = with_security(node, &pod, "busybox:latest", "second", |_| {}).await?;
        node.cri().sh(&first, "touch /new; rm /etc/group").await?;
        let seen = node
            .cri()
            .sh(&second, "test ! -e /new && ls /etc/group")
            .await?;
        ensure!(seen == "/etc/group\n", "{seen}");
        Ok(())
    });
}

#[test]
fn paths_are_masked_and_read_only_unless_privileged() {
    world!(async |node| {
        let mut config = node.pod_config("masked")?;
        node::pod_security(&mut config).privileged = true;
        let pod = node.run_pod_as(config).await?;
        let plain = with_security(node, &pod, "busybox:latest", "plain", |security| {
            security.masked_paths = vec!["/proc/kcore".to_owned(), "/etc/passwd".to_owned()];
            security.readonly_paths = vec!["/proc/sys".to_owned()];
        })
        .await?;
        let cri = node.cri();
        ensure!(
            cri.sh(&plain, "cat /etc/passwd").await?.is_empty(),
            "not masked"
        );
        let answer = cri
            .exec(
                &plain,
                &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"],
                10,
            )
            .await?;
        ensure!(answer.exit_code != 0, "/proc/sys was written");
        let privileged = with_security(node, &pod, "busybox:latest", "privileged", |security| {
            security.privileged = true;
        })
        .await?;
        cri.sh(
            &privileged,
            "echo 1 > /proc/sys/net/ipv4/ip_forward && ls /dev/null /dev/kmsg",
        )
        .await?;
        let seen = cri.sh(&privileged, "grep ^Seccomp: /proc/1/status").await?;
        ensure!(seen.trim().ends_with('0'), "{seen}");
        Ok(())
    });
}

/// Whether a privileged container sees a device of the node, and whether its cgroup lets it open it.
async fn privileged_and_kmsg(node: &Node) -> Result<(bool, bool)> {
    let mut config = node.pod_config("devices")?;
    node::pod_security(&mut config).privileged = true;
    let pod = node.run_pod_as(config).await?;
    let id = with_security(node, &pod, "busybox:latest", "devices", |security| {
        security.privileged = true;
    })
    .await?;
    let script = "test -e /dev/kmsg && echo seen; mknod /kmsg c 1 11 && (exec 3</kmsg) 2>/dev/null && echo opened; test -c /kmsg";
    let seen = node.cri().sh(&id, script).await?;
    Ok((seen.contains("seen"), seen.contains("opened")))
}

#[test]
fn a_privileged_container_has_the_nodes_devices() {
    world!(async |node| {
        ensure!(privileged_and_kmsg(node).await? == (true, true));
        Ok(())
    });
}

#[test]
fn a_privileged_container_has_only_its_own_devices_where_so_configured() {
    let setup = node::Setup::default()
        .config(serde_json::json!({"containers": {"privileged_without_devices": true}}));
    world!(setup, async |node| {
        ensure!(privileged_and_kmsg(node).await? == (false, false));
        Ok(())
    });
}

#[test]
fn no_new_privileges_is_set_when_asked_for() {
    world!(async |node| {
        let pod = node.run_pod("nnp").await?;
        for (name, wanted) in [("with", true), ("without", false)] {
            let id = with_security(node, &pod, "busybox:latest", name, |security| {
                security.no_new_privs = wanted;
            })
            .await?;
            let seen = node.cri().sh(&id, "grep NoNewPrivs /proc/1/status").await?;
            ensure!(
                seen.trim().ends_with(if wanted { '1' } else { '0' }),
                "{name}: {seen}"
            );
        }
        Ok(())
    });
}

#[test]
fn configured_limits_reach_the_process() {
    let setup = node::Setup::default().config(serde_json::json!({
        "containers": { "default_ulimits": { "nofile": "512:1024", "core": "0" }, "pids_limit": 77 },
    }));
    world!(setup, async |node| {
        let (_, id) = node.sleeper("limits").await?;
        let seen = node.cri().sh(&id, "cat /proc/1/limits").await?;
        let line = |name: &str| -> Vec<&str> {
            let line = seen
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default();
            line[name.len()..].split_whitespace().collect()
        };
        ensure!(line("Max open files")[..2] == ["512", "1024"], "{seen}");
        ensure!(line("Max core file size")[..2] == ["0", "0"], "{seen}");
        Ok(())
    });
}

#[test]
fn configured_capabilities_and_sysctls_are_the_default_ones() {
    let setup = node::Setup::default().config(serde_json::json!({
        "containers": {
            "default_capabilities": ["CHOWN", "KILL"],
            "default_sysctls": { "net.ipv4.ip_unprivileged_port_start": "77", "kernel.shm_rmid_forced": "1" },
        },
    }));
    world!(setup, async |node| {
        let mut config = node.pod_config("defaults")?;
        let linux = config.linux.get_or_insert_default();
        linux
            .sysctls
            .insert("kernel.shm_rmid_forced".to_owned(), "0".to_owned());
        let pod = node.run_pod_as(config).await?;
        node.image("busybox:latest").await?;
        let config = node::container("c", node::SLEEP);
        let id = node.start_container(&pod, &config).await?;
        let script = "grep CapEff /proc/1/status; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced";
        let seen = node.cri().sh(&id, script).await?;
        // CHOWN is bit 0, KILL bit 5; what the pod says itself is not overruled.
        ensure!(seen == "CapEff:\t0000000000000021\n77\n0\n", "{seen}");
        Ok(())
    });
}

#[test]
fn a_negative_oom_score_is_given_or_clamped_and_never_fails() {
    world!(async |node| {
        let pod = node.run_pod("oom-score").await?;
        node.image("busybox:latest").await?;
        let mut config = node::container("c", node::SLEEP);
        config.linux.get_or_insert_default().resources = Some(cri::LinuxContainerResources {
            oom_score_adj: -998,
            ..cri::LinuxContainerResources::default()
        });
        let id = node.start_container(&pod, &config).await?;
        let score: i32 = node
            .cri()
            .sh(&id, "cat /proc/1/oom_score_adj")
            .await?
            .trim()
            .parse()?;
        let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj")?
            .trim()
            .parse()?;
        ensure!(
            (-998..=own).contains(&score),
            "{score}, and the server has {own}"
        );
        Ok(())
    });
}

#[test]
fn devices_are_given_with_their_rights() {
    world!(async |node| {
        let pod = node.run_pod("devices").await?;
        node.image("busybox:latest").await?;
        let mut config = node::container("c", node::SLEEP);
        // One that a container does not have anyway.
        config.devices.push(cri::Device {
            container_path: "/dev/given".to_owned(),
            host_path: "/dev/loop-control".to_owned(),
            permissions: "r".to_owned(),
        });
        let id = node.start_container(&pod, &config).await?;
        let cri = node.cri();
        cri.sh(&id, "test -c /dev/given && : < /dev/given").await?;
        let answer = cri.exec(&id, &["sh", "-c", ": > /dev/given"], 10).await?;
        ensure!(answer.exit_code != 0, "it was opened for writing");
        let answer = cri
            .exec(
                &id,
                &["sh", "-c", "mknod /tmp/new c 10 237; : > /tmp/new"],
                10,
            )
            .await?;
        ensure!(answer.exit_code != 0, "a device of its own was opened");
        Ok(())
    });
}

fn selinux(level: &str) -> cri::SeLinuxOption {
    cri::SeLinuxOption {
        level: level.to_owned(),
        ..cri::SeLinuxOption::default()
    }
}

/// Nodes with SELinux are the VM's business; here, as on most nodes, the kubelet's wishes are to do no harm.
#[test]
fn selinux_options_of_a_wrong_form_are_refused_and_others_ignored_without_selinux() {
    world!(async |node| {
        if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
            return Ok(());
        }
        let pod = node.run_pod("labelled").await?;
        node.image("busybox:latest").await?;
        let volume = format!("{}/volume", pod.config.log_directory);
        world::make_dirs(&volume)?;
        std::fs::write(format!("{volume}/file"), "")?;
        let mut config = node::container("c", node::SLEEP);
        config.mounts = vec![cri::Mount {
            host_path: volume.clone(),
            container_path: "/volume".to_owned(),
            selinux_relabel: true,
            ..cri::Mount::default()
        }];
        node::security(&mut config).selinux_options = Some(selinux("s0:c4,c5"));
        let id = node.start_container(&pod, &config).await?;
        node.cri().sh(&id, "touch /volume/file").await?;
        let label = rustix::fs::lgetxattr(&volume, c"security.selinux", &mut [0_u8; 256]);
        ensure!(
            label == Err(rustix::io::Errno::NODATA),
            "the volume was relabelled: {label:?}"
        );

        let mut config = node::container("wrong", node::SLEEP);
        node::security(&mut config).selinux_options = Some(selinux("s0,c4,c5"));
        let answer = node.cri().create(&pod.id, &config, &pod.config).await;
        let message = refused(answer, Code::InvalidArgument)?;
        ensure!(
            message.contains("selinux_options.level: \"s0,c4,c5\" is no level"),
            "{message}"
        );
        Ok(())
    });
}
