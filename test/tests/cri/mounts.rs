//! Volumes: those that images declare, those that clients ask for, and the files that every pod has.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Context, Result, ensure};
use api::cri;
use pintle_test::{
    cri::refused,
    node::{self, Node, Pod},
    places, settle, world,
};
use tonic::Code;

fn mount(host: &str, container: &str) -> cri::Mount {
    cri::Mount {
        host_path: host.to_owned(),
        container_path: container.to_owned(),
        ..cri::Mount::default()
    }
}

async fn with_mounts(
    node: &Node,
    pod: &Pod,
    name: &str,
    mounts: Vec<cri::Mount>,
) -> Result<String> {
    let mut config = node::container(name, node::SLEEP);
    config.mounts = mounts;
    node.start_container(pod, &config).await
}

/// A directory of the node for the test.
fn directory(pod: &Pod, name: &str) -> Result<String> {
    let path = format!("{}/{name}", pod.config.log_directory);
    world::make_dirs(&path)?;
    Ok(path)
}

#[test]
fn a_volume_that_the_image_declares_begins_with_what_the_image_has_there() {
    world!(async |node| {
        let pod = node.run_pod("declared").await?;
        node.image("volumes:latest").await?;
        let mut config = node::container_of("volumes:latest", "c", &["sh", "-c", node::SLEEP]);
        node::security(&mut config).readonly_rootfs = true;
        let id = node.start_container(&pod, &config).await?;
        let cri = node.cri();
        let seen = cri
            .sh(
                &id,
                "cat /srv/data/from-image; stat -c '%u:%g %a' /srv/data /srv/data/from-image /srv/fresh/made; \
                 readlink /srv/data/shadow; cat /srv/plain; cat /srv/link/from-image",
            )
            .await?;
        ensure!(
            seen == "from the image\n1000:50 750\n1000:50 640\n0:0 755\n/etc/shadow\na file\nfrom the image\n",
            "{seen:?}"
        );
        // Its own, and writable although the root is not.
        cri.sh(&id, "echo mine > /srv/data/new; echo x > /srv/fresh/made/x")
            .await?;
        let denied = cri.exec(&id, &["touch", "/srv/plain"], 60).await?;
        ensure!(denied.exit_code != 0, "the root is writable");
        let kind = cri
            .sh(
                &id,
                "grep ' /srv/data ' /proc/self/mountinfo | sed 's/.* - //; s/ .*//'",
            )
            .await?;
        ensure!(kind != "overlay\n", "a volume is part of the overlay");
        ensure!(cri.sh(&id, "test -d /proc/1 && echo yes").await? == "yes\n");

        // Another container has another one, which goes with it.
        let mut other = config.clone();
        other.metadata = Some(cri::ContainerMetadata {
            name: "other".to_owned(),
            attempt: 0,
        });
        let other = node.start_container(&pod, &other).await?;
        ensure!(cri.sh(&other, "ls /srv/data").await? == "from-image\nshadow\n");
        let directory = format!("{}/containers/{other}", places::ROOT);
        ensure!(
            fs::exists(format!("{directory}/volumes"))?,
            "{directory} has no volumes"
        );
        cri.remove(&other).await?;
        settle::until_true("the volume is gone", async || Ok(!fs::exists(&directory)?)).await?;
        ensure!(cri.sh(&id, "cat /srv/data/new").await? == "mine\n");
        Ok(())
    });
}

#[test]
fn a_volume_of_the_client_takes_the_place_of_the_images() {
    world!(async |node| {
        let pod = node.run_pod("replaced").await?;
        node.image("volumes:latest").await?;
        let host = directory(&pod, "host")?;
        world::write(format!("{host}/from-node"), "x")?;
        let mut config = node::container_of("volumes:latest", "c", &["sh", "-c", node::SLEEP]);
        config.mounts = vec![mount(&host, "/srv/data"), mount(&host, "/srv/fresh")];
        let id = node.start_container(&pod, &config).await?;
        let seen = node.cri().sh(&id, "ls /srv/data /srv/fresh").await?;
        ensure!(
            seen == "/srv/data:\nfrom-node\n\n/srv/fresh:\nfrom-node\n",
            "{seen:?}"
        );
        ensure!(
            !fs::exists(format!("{host}/made"))?,
            "the client's volume was written to"
        );
        Ok(())
    });
}

#[test]
fn links_of_host_paths_are_followed() {
    world!(async |node| {
        let pod = node.run_pod("linked").await?;
        node.image("busybox:latest").await?;
        let real = directory(&pod, "real")?;
        world::write(format!("{real}/file"), "found")?;
        let link = format!("{}/link", pod.config.log_directory);
        symlink("real", &link)?;
        let id = with_mounts(
            node,
            &pod,
            "c",
            vec![
                mount(&link, "/mnt/dir"),
                mount(&format!("{link}/file"), "/mnt/file"),
            ],
        )
        .await?;
        let seen = node.cri().sh(&id, "cat /mnt/dir/file /mnt/file").await?;
        ensure!(seen == "foundfound", "{seen:?}");
        let mut config = node::container("none", "true");
        config.mounts = vec![mount("/no/such/path", "/mnt")];
        let answer = node.cri().create(&pod.id, &config, &pod.config).await;
        let message = answer
            .err()
            .context("a volume that is not there was mounted")?;
        ensure!(message.message().contains("/no/such/path"), "{message}");
        Ok(())
    });
}

#[test]
fn mounts_propagate_as_asked() {
    world!(async |node| {
        let pod = node.run_pod("propagation").await?;
        node.image("busybox:latest").await?;
        let base = directory(&pod, "base")?;
        for name in ["private", "slave", "shared"] {
            world::make_dirs(format!("{base}/{name}/later"))?;
        }
        let with = |name: &str, propagation: cri::MountPropagation| cri::Mount {
            propagation: propagation.into(),
            ..mount(&format!("{base}/{name}"), &format!("/mnt/{name}"))
        };
        let mut config = node::container("c", node::SLEEP);
        config.mounts = vec![
            with("private", cri::MountPropagation::PropagationPrivate),
            with("slave", cri::MountPropagation::PropagationHostToContainer),
            with("shared", cri::MountPropagation::PropagationBidirectional),
        ];
        let privileged = |pod: &mut cri::PodSandboxConfig| {
            node::pod_security(pod).privileged = true;
        };
        let mut pod_config = node.pod_config("privileged")?;
        privileged(&mut pod_config);
        let strong = node.run_pod_as(pod_config).await?;
        node::security(&mut config).privileged = true;
        let id = node.start_container(&strong, &config).await?;
        for name in ["private", "slave", "shared"] {
            let place = format!("{base}/{name}/later");
            world::mount_fs("tmpfs", &place, "size=1m")?;
            world::write(format!("{place}/mark"), "x")?;
        }
        let cri = node.cri();
        let seen = cri
            .sh(&id, "cd /mnt; ls private/later slave/later shared/later")
            .await?;
        ensure!(
            seen == "private/later:\n\nshared/later:\nmark\n\nslave/later:\nmark\n"
                || seen == "private/later:\n\nslave/later:\nmark\n\nshared/later:\nmark\n",
            "{seen:?}"
        );
        cri.sh(
            &id,
            "mkdir /mnt/shared/back && mount -t tmpfs tmpfs /mnt/shared/back && touch /mnt/shared/back/mark",
        )
        .await?;
        ensure!(
            Path::new(&format!("{base}/shared/back/mark")).exists(),
            "a mount of the container did not reach the node"
        );
        cri.sh(&id, "umount /mnt/shared/back").await?;
        for name in ["private", "slave", "shared"] {
            world::run("umount", [format!("{base}/{name}/later")])?;
        }
        Ok(())
    });
}

#[test]
fn propagation_that_the_nodes_mount_cannot_give_is_refused() {
    world!(async |node| {
        let mut config = node.pod_config("alone")?;
        node::pod_security(&mut config).privileged = true;
        let pod = node.run_pod_as(config).await?;
        node.image("busybox:latest").await?;
        let base = directory(&pod, "base")?;
        let volume = format!("{base}/volume");
        world::make_dirs(&volume)?;
        world::run("mount", ["--bind", &base, &base])?;
        let mut config = node::container("c", node::SLEEP);
        node::security(&mut config).privileged = true;
        let one_way = cri::MountPropagation::PropagationHostToContainer;
        let both_ways = cri::MountPropagation::PropagationBidirectional;
        // A new mount is in the group of the one that it is a part of, and becomes its slave.
        for (kind, refusals) in [
            ("--make-slave", &[(both_ways, "shared")][..]),
            ("--make-shared", &[]),
            (
                "--make-private",
                &[(one_way, "shared or slave"), (both_ways, "shared")],
            ),
        ] {
            world::run("mount", [kind, &base])?;
            for propagation in [one_way, both_ways] {
                config.mounts = vec![cri::Mount {
                    propagation: propagation.into(),
                    ..mount(&volume, "/mnt")
                }];
                let refusal = refusals.iter().find(|(asked, _)| *asked == propagation);
                let Some((_, needed)) = refusal else {
                    let id = node.start_container(&pod, &config).await?;
                    node.cri().remove(&id).await?;
                    continue;
                };
                let answer = node.cri().create(&pod.id, &config, &pod.config).await;
                let message = refused(answer, Code::InvalidArgument)?;
                for part in [
                    "config.mounts[0].propagation",
                    &volume,
                    &format!("is not {needed},"),
                    &format!("`mount --make-rshared {base}`"),
                ] {
                    ensure!(message.contains(part), "{kind}: {message}");
                }
            }
        }
        world::run("umount", [&base])?;
        Ok(())
    });
}

#[test]
fn mount_options_hold_and_unknown_ones_are_refused() {
    world!(async |node| {
        let pod = node.run_pod("options").await?;
        node.image("busybox:latest").await?;
        let host = directory(&pod, "host")?;
        fs::copy("/bin/busybox", format!("{host}/busybox"))?;
        let asked = |options: &[&str]| cri::Mount {
            mount_options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..mount(&host, "/mnt")
        };
        let id = with_mounts(node, &pod, "plain", vec![asked(&[])]).await?;
        node.cri().sh(&id, "/mnt/busybox true").await?;
        let id = with_mounts(
            node,
            &pod,
            "noexec",
            vec![asked(&["noexec", "nodev", "nosuid"])],
        )
        .await?;
        let answer = node.cri().exec(&id, &["/mnt/busybox", "true"], 60).await;
        ensure!(
            answer.map_or(true, |answer| answer.exit_code != 0),
            "a program on a noexec mount ran"
        );
        let options = node
            .cri()
            .sh(&id, "grep ' /mnt ' /proc/self/mountinfo | cut -d ' ' -f 6")
            .await?;
        for option in ["noexec", "nodev", "nosuid"] {
            ensure!(options.contains(option), "{options}");
        }
        let mut config = node::container("bad", "true");
        config.mounts = vec![asked(&["suid"])];
        let message = refused(
            node.cri().create(&pod.id, &config, &pod.config).await,
            Code::InvalidArgument,
        )?;
        ensure!(message.contains("mount_options[0]"), "{message}");
        Ok(())
    });
}

#[test]
fn read_only_reaches_as_far_as_asked() {
    world!(async |node| {
        let pod = node.run_pod("readonly").await?;
        node.image("busybox:latest").await?;
        let host = directory(&pod, "host")?;
        let inner = format!("{host}/inner");
        world::make_dirs(&inner)?;
        world::mount_fs("tmpfs", &inner, "size=1m")?;
        let readonly = cri::Mount {
            readonly: true,
            ..mount(&host, "/mnt")
        };
        let id = with_mounts(node, &pod, "flat", vec![readonly.clone()]).await?;
        let cri = node.cri();
        cri.sh(&id, "touch /mnt/inner/x").await?;
        ensure!(cri.exec(&id, &["touch", "/mnt/x"], 60).await?.exit_code != 0);

        let deep = cri::Mount {
            recursive_read_only: true,
            ..readonly
        };
        let can = cri
            .node_status()
            .await?
            .runtime_handlers
            .into_iter()
            .find(|handler| handler.name.is_empty())
            .and_then(|handler| handler.features)
            .is_some_and(|features| features.recursive_read_only_mounts);
        let mut config = node::container("deep", node::SLEEP);
        config.mounts = vec![deep.clone()];
        if can {
            let id = node.start_container(&pod, &config).await?;
            for path in ["/mnt/x", "/mnt/inner/y"] {
                ensure!(
                    cri.exec(&id, &["touch", path], 60).await?.exit_code != 0,
                    "{path}"
                );
            }
        } else {
            let message = refused(
                cri.create(&pod.id, &config, &pod.config).await,
                Code::FailedPrecondition,
            )?;
            ensure!(message.starts_with("RROUnsupported: "), "{message}");
        }
        for spoil in [
            |mount: &mut cri::Mount| mount.readonly = false,
            |mount: &mut cri::Mount| {
                mount.propagation = cri::MountPropagation::PropagationBidirectional.into();
            },
            |mount: &mut cri::Mount| {
                mount.propagation = cri::MountPropagation::PropagationHostToContainer.into();
            },
        ] {
            let mut bad = deep.clone();
            spoil(&mut bad);
            config.mounts = vec![bad];
            let answer = cri.create(&pod.id, &config, &pod.config).await;
            let message = refused(answer, Code::InvalidArgument)?;
            ensure!(message.contains("recursive_read_only"), "{message}");
        }
        for container in cri.containers(None).await? {
            cri.remove(&container.id).await?;
        }
        world::run("umount", [&inner])?;
        Ok(())
    });
}

#[test]
fn a_container_that_fills_the_pods_files_fills_nothing_else() {
    world!(async |node| {
        let (pod, id) = node.sleeper("greedy").await?;
        let free = || -> Result<u64> {
            let found = rustix::fs::statvfs(places::RUN)?;
            Ok(found.f_bavail * found.f_frsize)
        };
        let before = free()?;
        let cri = node.cri();
        for file in ["/etc/resolv.conf", "/etc/hostname"] {
            // Writable, as with other runtimes, but not without end.
            cri.sh(&id, &format!("echo '# more' >> {file}")).await?;
            let fill = format!("dd if=/dev/zero of={file} bs=65536 count=64 2>&1");
            let answer = cri.exec(&id, &["sh", "-c", &fill], 60).await?;
            let said = String::from_utf8_lossy(&answer.stdout).into_owned();
            ensure!(
                answer.exit_code != 0 && said.contains("No space left"),
                "{said}"
            );
        }
        let taken = before.saturating_sub(free()?);
        ensure!(taken < 1 << 20, "{taken} bytes of {} are gone", places::RUN);
        // Others are not concerned.
        let other = node.run(&pod, "other", node::SLEEP).await?;
        cri.sh(&other, "echo x > /tmp/x").await?;
        Ok(())
    });
}
