//! Bad input and bad days: each gets a clear error with the right code, in time, and leaves nothing behind.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use anyhow::{Context, Result, ensure};
use api::cri;
use pintle_test::{
    cni,
    cri::{refused, request},
    faults::{FaultyRegistry, Reply},
    images::{Blob, Image, Layer, Packing, digest},
    ledger::Ledger,
    node::{self, Node, Setup},
    processes, registry, world,
};
use serde_json::json;
use tonic::Code;

/// A port for scripted registries.
const PORT: u16 = 5001;

fn with_faulty() -> Setup {
    Setup::default().config(json!({
        "image": {
            "registries": { "127.0.0.1:5001": { "plain_http": true } },
            "stall_timeout": "2s",
            "answer_timeout": "2s",
            "max_unpacked_size": "64MiB",
        },
    }))
}

/// Runs something that has to fail, and compares the ledger around it.
async fn leaves_nothing<T: std::fmt::Debug>(
    node: &Node,
    attempt: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    let before = Ledger::count(&node.subject())?;
    let result = attempt().await?;
    before.compare(&node.subject()).await?;
    Ok(result)
}

#[test]
fn unknown_ids_handlers_and_images_are_not_found() {
    world!(async |node| {
        let cri = node.cri();
        let unknown = "0123456789abcdef".repeat(4);
        for id in ["x", unknown.as_str()] {
            refused(cri.pod_status(id).await, Code::NotFound)?;
            refused(cri.status(id).await, Code::NotFound)?;
            refused(cri.start(id).await, Code::NotFound)?;
            refused(cri.exec(id, &["true"], 1).await, Code::NotFound)?;
            refused(cri.reopen_log(id).await, Code::NotFound)?;
        }
        let config = node.pod_config("unknown")?;
        let message = leaves_nothing(node, async || {
            let answer = node.cri().run_pod(&config, "no-such-handler").await;
            refused(answer, Code::InvalidArgument).or_else(|_| anyhow::Ok("other code".to_owned()))
        })
        .await?;
        ensure!(message.contains("no-such-handler"), "{message}");
        let pod = node.run_pod("known").await?;
        leaves_nothing(node, async || {
            let container = node::container_of("not-pulled:latest", "c", &["true"]);
            let message = refused(
                node.cri().create(&pod.id, &container, &pod.config).await,
                Code::NotFound,
            )?;
            ensure!(message.contains("not-pulled"), "{message}");
            let container = node::container("c", "true");
            refused(
                node.cri()
                    .create("no-such-pod", &container, &pod.config)
                    .await,
                Code::NotFound,
            )
        })
        .await?;
        Ok(())
    });
}

#[test]
fn requests_without_what_they_need_are_invalid() {
    world!(async |node| {
        let cri = node.cri();
        let pod = node.run_pod("whole").await?;
        node.image("busybox:latest").await?;
        leaves_nothing(node, async || {
            let empty = cri::RunPodSandboxRequest::default();
            refused(
                cri.runtime.clone().run_pod_sandbox(request(empty)).await,
                Code::InvalidArgument,
            )?;
            for change in [
                |config: &mut cri::PodSandboxConfig| config.metadata = None,
                |config: &mut cri::PodSandboxConfig| {
                    config.metadata.get_or_insert_default().name.clear();
                },
                |config: &mut cri::PodSandboxConfig| {
                    config.metadata.get_or_insert_default().uid.clear();
                },
                |config: &mut cri::PodSandboxConfig| {
                    config.log_directory = "relative/path".to_owned();
                },
                |config: &mut cri::PodSandboxConfig| config.hostname = "x".repeat(300),
            ] {
                let mut config = node.pod_config("broken")?;
                change(&mut config);
                refused(cri.run_pod(&config, "").await, Code::InvalidArgument)?;
            }
            let empty = cri::CreateContainerRequest {
                pod_sandbox_id: pod.id.clone(),
                ..cri::CreateContainerRequest::default()
            };
            refused(
                cri.runtime.clone().create_container(request(empty)).await,
                Code::InvalidArgument,
            )?;
            for change in [
                |config: &mut cri::ContainerConfig| config.metadata = None,
                |config: &mut cri::ContainerConfig| {
                    config.metadata.get_or_insert_default().name.clear();
                },
                |config: &mut cri::ContainerConfig| config.image = None,
                |config: &mut cri::ContainerConfig| {
                    config.mounts.push(cri::Mount {
                        container_path: String::new(),
                        host_path: "/run".to_owned(),
                        ..cri::Mount::default()
                    });
                },
                |config: &mut cri::ContainerConfig| {
                    config.envs.push(cri::KeyValue {
                        key: String::new(),
                        value: Vec::new(),
                    });
                },
            ] {
                let mut config = node::container("broken", "true");
                change(&mut config);
                refused(
                    cri.create(&pod.id, &config, &pod.config).await,
                    Code::InvalidArgument,
                )?;
            }
            let pull = cri::PullImageRequest::default();
            refused(
                cri.images.clone().pull_image(request(pull)).await,
                Code::InvalidArgument,
            )
        })
        .await?;
        Ok(())
    });
}

#[test]
fn combinations_that_cannot_be_are_invalid() {
    world!(async |node| {
        let cri = node.cri();
        let pod = node.run_pod("whole").await?;
        node.image("busybox:latest").await?;
        leaves_nothing(node, async || {
            // A privileged container in a pod that is not.
            let mut config = node::container("privileged", "true");
            node::security(&mut config).privileged = true;
            refused(
                cri.create(&pod.id, &config, &pod.config).await,
                Code::InvalidArgument,
            )?;
            // Recursive read-only wants read-only and no propagation.
            for (readonly, propagation) in [
                (false, cri::MountPropagation::PropagationPrivate),
                (true, cri::MountPropagation::PropagationHostToContainer),
            ] {
                let mut config = node::container("rro", "true");
                config.mounts.push(cri::Mount {
                    host_path: "/run/test".to_owned(),
                    container_path: "/mnt".to_owned(),
                    readonly,
                    propagation: propagation.into(),
                    recursive_read_only: true,
                    ..cri::Mount::default()
                });
                refused(
                    cri.create(&pod.id, &config, &pod.config).await,
                    Code::InvalidArgument,
                )?;
            }
            // A mount of something that is not there.
            let mut config = node::container("nowhere", "true");
            config.mounts.push(cri::Mount {
                host_path: "/run/test/no/such/path".to_owned(),
                container_path: "/mnt".to_owned(),
                ..cri::Mount::default()
            });
            let status = cri
                .create(&pod.id, &config, &pod.config)
                .await
                .err()
                .context("created")?;
            ensure!(
                status.message().contains("/run/test/no/such/path"),
                "{}",
                status.message()
            );
            // A container with another network than its pod's.
            let mut config = node::container("hostnet", "true");
            let options = node::namespaces(cri::NamespaceMode::Node, cri::NamespaceMode::Container);
            node::security(&mut config).namespace_options = Some(options);
            refused(
                cri.create(&pod.id, &config, &pod.config).await,
                Code::InvalidArgument,
            )
        })
        .await?;
        // A pod that is stopped takes no more containers.
        cri.stop_pod(&pod.id).await?;
        let answer = cri
            .create(&pod.id, &node::container("late", "true"), &pod.config)
            .await;
        refused(answer, Code::FailedPrecondition)?;
        Ok(())
    });
}

#[test]
fn four_mebibytes_of_environment_are_too_much_for_the_kernel_and_told_so() {
    world!(async |node| {
        let pod = node.run_pod("environment").await?;
        node.image("busybox:latest").await?;
        let mut config = node::container("c", "env | wc -c; sleep 100");
        config.envs = (0..56_000)
            .map(|number| cri::KeyValue {
                key: format!("SERVICE_NUMBER_{number}_PORT_80_TCP"),
                value: b"tcp://10.96.0.1:80/and/a/bit/more/text/to/fill".to_vec(),
            })
            .collect();
        // Four megabytes are more than the stack of most systems takes: a start, or an error, but no hang and no leak.
        match node.cri().create(&pod.id, &config, &pod.config).await {
            Ok(id) => match node.cri().start(&id).await {
                Ok(()) => {}
                Err(status) => ensure!(!status.message().is_empty(), "no word"),
            },
            Err(status) => ensure!(!status.message().is_empty(), "no word"),
        }
        let mut config = node::container("bytes", "true");
        config.envs.push(cri::KeyValue {
            key: "NOT_UTF8".to_owned(),
            value: vec![0xff, 0xfe],
        });
        let message = refused(
            node.cri().create(&pod.id, &config, &pod.config).await,
            // CRI allows it; no OCI runtime can be told of it.
            Code::FailedPrecondition,
        )?;
        ensure!(message.contains("NOT_UTF8"), "{message}");
        Ok(())
    });
}

#[test]
fn layers_that_lie_climb_or_stop_short_are_refused_and_leave_nothing() {
    world!(with_faulty(), async |node| {
        let faulty = FaultyRegistry::listen(PORT).await?;
        let good = Layer::new()
            .file("etc/file", 0o644, &vec![b'x'; 100_000])?
            .tar()?;
        let victim = "/run/test/victim";
        world::write(victim, "precious\n")?;

        // A layer that is not what its digest says.
        let mut lying = Image::new(std::slice::from_ref(&good), Packing::Gzip, &json!({}))?;
        lying.layers[0].data =
            Packing::Gzip.pack(&Layer::new().file("other", 0o644, b"x")?.tar()?)?;
        faulty.serve("lying", "latest", &lying);
        // A layer whose content is not what the configuration says.
        let packed = Packing::Gzip.pack(&good)?;
        let layer = Blob::new("application/vnd.oci.image.layer.v1.tar+gzip", packed);
        let other = Image::of_blobs(vec![layer], &[digest(b"something else")], &json!({}))?;
        faulty.serve("diff-id", "latest", &other);
        // A layer that ends in the middle, and stays so.
        let short = Image::new(&[good], Packing::Tar, &json!({}))?;
        faulty.serve("short", "latest", &short);
        let path = format!("/v2/short/blobs/{}", short.layers[0].digest);
        faulty.reply(
            &path,
            Reply::new(200, short.layers[0].data[..50_000].to_vec()),
        );
        // Something that is no archive.
        let noise = Image::of_blobs(
            vec![Blob::new(
                "application/vnd.oci.image.layer.v1.tar+gzip",
                b"<html>not a layer</html>".to_vec(),
            )],
            &[digest(b"x")],
            &json!({}),
        )?;
        faulty.serve("noise", "latest", &noise);

        for name in ["lying", "diff-id", "short", "noise"] {
            let message = leaves_nothing(node, async || {
                let status = node.cri().pull(&faulty.name(name)).await.err();
                let status = status.with_context(|| format!("{name} was accepted"))?;
                ensure!(
                    status.code() != Code::Ok && status.code() != Code::NotFound,
                    "{status}"
                );
                Ok(status.message().to_owned())
            })
            .await?;
            ensure!(
                message.len() < 4000 && !message.contains("<html>"),
                "{name}: {message}"
            );
            ensure!(
                node.cri().image(&faulty.name(name)).await?.is_none(),
                "{name} is there"
            );
        }

        // Layers that climb out: refused, or kept inside, but never followed.
        let climbing = [
            (
                "dotdot",
                vec![Layer::new().raw_path(
                    b"../../../../../../run/test/victim",
                    tar_file(),
                    b"",
                    b"overwritten\n",
                )?],
            ),
            (
                "absolute",
                vec![Layer::new().raw_path(
                    b"/run/test/victim",
                    tar_file(),
                    b"",
                    b"overwritten\n",
                )?],
            ),
            (
                "through-link",
                vec![Layer::new().symlink("out", "/run/test")?.file(
                    "out/victim",
                    0o644,
                    b"overwritten\n",
                )?],
            ),
            (
                "through-link-below",
                vec![
                    Layer::new().symlink("out", "/run/test")?,
                    Layer::new().file("out/victim", 0o644, b"overwritten\n")?,
                ],
            ),
            (
                "whiteout",
                vec![
                    Layer::new().symlink("out", "/run/test")?,
                    Layer::new().whiteout("out", "victim")?,
                ],
            ),
            (
                "hardlink",
                vec![
                    Layer::new().raw_path(b"inside", tar_link(), b"/run/test/victim", b"")?,
                    Layer::new().file("inside", 0o644, b"overwritten\n")?,
                ],
            ),
        ];
        for (name, layers) in climbing {
            let tars: Result<Vec<_>> = layers.into_iter().map(Layer::tar).collect();
            let image = Image::new(&tars?, Packing::Gzip, &json!({}))?;
            faulty.serve(name, "latest", &image);
            leaves_nothing(node, async || {
                if node.cri().pull(&faulty.name(name)).await.is_ok() {
                    node.cri().remove_image(&faulty.name(name)).await?;
                }
                Ok(())
            })
            .await
            .context(name)?;
            ensure!(
                std::fs::read_to_string(victim)? == "precious\n",
                "{name} reached the node"
            );
        }
        Ok(())
    });
}

#[test]
fn a_bomb_is_refused_before_it_fills_the_disk() {
    world!(with_faulty(), async |node| {
        let faulty = FaultyRegistry::listen(PORT).await?;
        let bomb = Layer::new()
            .file("zeros", 0o644, &vec![0; 100 << 20])?
            .tar()?;
        let image = Image::new(&[bomb], Packing::Gzip, &json!({}))?;
        faulty.serve("bomb", "latest", &image);
        leaves_nothing(node, async || {
            let status = node
                .cri()
                .pull(&faulty.name("bomb"))
                .await
                .err()
                .context("accepted")?;
            ensure!(
                status.message().contains("large") || status.message().contains("limit"),
                "{}",
                status.message()
            );
            Ok(())
        })
        .await
    });
}

#[test]
fn a_registrys_bad_day_is_told_briefly_and_in_time() {
    world!(with_faulty(), async |node| {
        let faulty = FaultyRegistry::listen(PORT).await?;
        let image = Image::new(
            &[Layer::new().file("f", 0o644, &vec![b'x'; 10_000])?.tar()?],
            Packing::Tar,
            &json!({}),
        )?;
        let html = format!("<html>{}</html>", "sorry ".repeat(10_000));
        let huge = Reply::new(200, vec![b' '; 50 << 20])
            .header("Content-Type", &image.manifest.media_type);
        for (name, reply) in [
            (
                "html",
                Reply::new(200, html.clone()).header("Content-Type", "text/html"),
            ),
            (
                "html-error",
                Reply::new(500, html).header("Content-Type", "text/html"),
            ),
            ("unauthorized", Reply::new(401, "")),
            ("forbidden", Reply::new(403, "")),
            ("busy", Reply::new(429, "").header("Retry-After", "3600")),
            ("broken", Reply::new(500, "")),
            ("huge", huge),
            (
                "cut",
                Reply::new(200, image.manifest.data.clone()).cut_after(20),
            ),
            ("hangs", Reply::hanging()),
        ] {
            faulty.serve(name, "latest", &image);
            faulty.reply(&format!("/v2/{name}/manifests/latest"), reply);
            let message = leaves_nothing(node, async || {
                let status = node.cri().pull(&faulty.name(name)).await.err();
                let status = status.with_context(|| format!("{name} was accepted"))?;
                ensure!(
                    !matches!(status.code(), Code::Ok | Code::Internal),
                    "{name}: {status}"
                );
                Ok(status.message().to_owned())
            })
            .await?;
            ensure!(
                message.len() < 4000 && !message.contains("sorry sorry"),
                "{name}: {message}"
            );
        }
        let nobody = refused(
            node.cri().pull("127.0.0.1:5999/nothing").await,
            Code::Unknown,
        )
        .or_else(|_| anyhow::Ok(String::new()))?;
        ensure!(
            nobody.is_empty() || nobody.starts_with("RegistryUnavailable"),
            "{nobody}"
        );
        Ok(())
    });
}

#[test]
fn half_a_blob_is_completed_and_a_stumble_is_forgiven() {
    world!(with_faulty(), async |node| {
        let faulty = FaultyRegistry::listen(PORT).await?;
        let data: Vec<u8> = (0..400_000_u32).flat_map(u32::to_le_bytes).collect();
        let image = Image::new(
            &[Layer::new().file("f", 0o644, &data)?.tar()?],
            Packing::Tar,
            &json!({}),
        )?;
        faulty.serve("stumbling", "latest", &image);
        let whole = Reply::new(200, image.layers[0].data.clone());
        faulty.replies(
            &format!("/v2/stumbling/blobs/{}", image.layers[0].digest),
            vec![whole.clone().cut_after(300_000), Reply::new(503, ""), whole],
        );
        ensure!(
            node.cri().pull(&faulty.name("stumbling")).await? == image.id(),
            "another image"
        );
        Ok(())
    });
}

#[test]
fn plugins_that_hang_talk_garbage_or_fail_cost_a_clear_error_and_nothing_else() {
    let setup = Setup::default()
        .network(Some(cni::script("bad")))
        .plugin("bad", "exit 0")
        .config(json!({ "network": { "cni": { "plugin_timeout": "1s" } } }));
    world!(setup, async |node| {
        for (name, body, told) in [
            ("hangs", "sleep 543210", "bad"),
            ("garbage", "echo this is not JSON", "bad"),
            ("nothing", "exit 0", "bad"),
            (
                "fails",
                r#"echo '{"cniVersion":"1.0.0","code":999,"msg":"no more addresses"}'; exit 1"#,
                "no more addresses",
            ),
            ("dies", "kill -KILL $$", "bad"),
            (
                "floods",
                "[ $CNI_COMMAND = ADD ] && yes | head -c 200000000; exit 0",
                "bad",
            ),
        ] {
            cni::write_plugin("bad", &format!("[ $CNI_COMMAND = DEL ] && exit 0\n{body}"))?;
            let config = node.pod_config(name)?;
            leaves_nothing(node, async || {
                let status = node.cri().run_pod(&config, "").await.err();
                let status = status.with_context(|| format!("{name}: it ran"))?;
                ensure!(
                    status.message().contains(told),
                    "{name}: {}",
                    status.message()
                );
                ensure!(
                    status.message().len() < 4000,
                    "{name}: a message of {} bytes",
                    status.message().len()
                );
                Ok(())
            })
            .await
            .context(name)?;
        }
        ensure!(
            processes::with_command("543210").is_empty(),
            "the hanging plugin is still there"
        );
        Ok(())
    });
}

#[test]
fn a_runtime_that_is_missing_dies_or_hangs_is_named_and_leaves_nothing() {
    let runtime = "/run/test/bin/broken";
    world!(async |node| {
        world::make_dirs("/run/test/bin")?;
        let write_runtime = |body: &str| -> Result<()> {
            let real = String::from_utf8(world::run("which", [node::runtime()])?)?;
            world::write(
                runtime,
                format!("#!/bin/sh\nreal={}\n{body}\n", real.trim()),
            )?;
            std::fs::set_permissions(runtime, std::fs::Permissions::from_mode(0o755))?;
            Ok(())
        };
        write_runtime("exec $real \"$@\"")?;
        node.configure(json!({
            "runtimes": { "broken": { "path": runtime, "kind": "runc" } },
            "timeouts": { "create_container": "3s", "runtime_command": "2s" },
        }))?;
        node.stop_server().await?;
        node.start_server().await?;
        node.image("busybox:latest").await?;
        for (name, body) in [
            (
                "dies",
                "case \" $* \" in *' create '*) kill -KILL $$;; esac; exec $real \"$@\"",
            ),
            (
                "fails",
                "case \" $* \" in *' create '*) echo 'no luck today' >&2; exit 1;; esac; exec $real \"$@\"",
            ),
            (
                "hangs",
                "case \" $* \" in *' create '*) exec sleep 432109;; esac; exec $real \"$@\"",
            ),
        ] {
            write_runtime(body)?;
            let config = node.pod_config(name)?;
            let pod = node.cri().run_pod(&config, "broken").await?;
            leaves_nothing(node, async || {
                let status = node
                    .cri()
                    .create(&pod, &node::container("c", "true"), &config)
                    .await
                    .err();
                let status = status.with_context(|| format!("{name}: it was created"))?;
                ensure!(!status.message().is_empty(), "{name}: no word");
                if name == "fails" {
                    ensure!(
                        status.message().contains("no luck today"),
                        "{}",
                        status.message()
                    );
                }
                Ok(())
            })
            .await
            .context(name)?;
            ensure!(
                processes::with_command("432109").is_empty(),
                "the hanging runtime is still there"
            );
        }
        // Gone altogether, after the server has seen it.
        let config = node.pod_config("gone")?;
        let pod = node.cri().run_pod(&config, "broken").await?;
        std::fs::remove_file(runtime)?;
        leaves_nothing(node, async || {
            let status = node
                .cri()
                .create(&pod, &node::container("c", "true"), &config)
                .await
                .err();
            let status = status.context("it was created")?;
            ensure!(status.message().contains(runtime), "{}", status.message());
            Ok(())
        })
        .await
    });
}

#[test]
fn a_full_disk_fails_a_pull_in_words_and_gives_back_what_it_took() {
    world!(async |node| {
        // The store becomes a small filesystem.
        node.stop_server().await?;
        let root = pintle_test::places::ROOT;
        world::mount_fs("tmpfs", root, "size=1m")?;
        node.start_server().await?;
        leaves_nothing(node, async || {
            let status = node
                .cri()
                .pull(&registry::name("busybox:latest"))
                .await
                .err();
            let status = status.context("it was pulled")?;
            let message = status.message().to_lowercase();
            ensure!(
                message.contains("space") || message.contains("full"),
                "{message}"
            );
            ensure!(
                node.cri()
                    .image(&registry::name("busybox:latest"))
                    .await?
                    .is_none(),
                "it is there"
            );
            Ok(())
        })
        .await?;
        node.stop_server().await?;
        rustix::mount::unmount(root, rustix::mount::UnmountFlags::DETACH)?;
        node.start_server().await?;
        Ok(())
    });
}

#[test]
fn noise_on_the_socket_disturbs_nobody() {
    world!(async |node| -> Result<()> {
        use tokio::io::AsyncWriteExt;

        for noise in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0xff; 4096],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"",
        ] {
            let mut stream = tokio::net::UnixStream::connect(pintle_test::places::SOCKET).await?;
            // The server may hang up in the middle.
            let _ = stream.write_all(noise).await;
            tokio::time::timeout(Duration::from_millis(50), stream.flush())
                .await
                .ok();
        }
        node.cri().node_status().await?;
        Ok(())
    });
}

fn tar_file() -> tar::EntryType {
    tar::EntryType::Regular
}

fn tar_link() -> tar::EntryType {
    tar::EntryType::Link
}
