//! Images of another store on a read-only file system: run without a registry, shared, never touched, away at any moment.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use api::cri::{self, NamespaceMode};
use pintle_test::{
    cri::{image_spec, refused},
    fault_proxy::FaultProxy,
    node::{self, Node, Pod, Setup},
    places,
    registry::{self, Registry},
    settle, world,
    world::{make_dirs, run, write},
};
use serde_json::{Value, json};
use tonic::Code;

use crate::cli::pintle;

/// Where the store is mounted.
const STORE: &str = "/run/test/store";
/// One that is never there.
const ABSENT: &str = "/run/test/absent";
/// Where the proxy before the registry listens.
const PROXY: &str = "127.0.0.1:5001";
/// Whom the node takes a pod's root for.
const POD_ROOT: u32 = 200_000;

fn setup() -> Setup {
    Setup::default()
        .config(json!({ "image": { "additional_stores": [ABSENT, STORE] } }))
        .config(json!({ "image": { "registries": { PROXY: { "plain_http": true } } } }))
}

fn said(arguments: &[&str]) -> Result<String> {
    let output = pintle(arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Makes a store of these images of the suite's registry.
fn make(images: &[&str]) -> Result<PathBuf> {
    let made = Path::new(places::SCRATCH).join("made");
    let names: Vec<String> = images.iter().map(|image| registry::name(image)).collect();
    let directory = made.to_string_lossy();
    let mut arguments = vec!["image", "make-store", &*directory];
    arguments.extend(names.iter().map(String::as_str));
    let told = said(&arguments)?;
    for name in &names {
        ensure!(told.lines().any(|line| line == name), "{told}");
    }
    let mut entries: Vec<_> = fs::read_dir(&made)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    entries.sort();
    ensure!(entries == ["images.db", "layers", "recipes"], "{entries:?}");
    Ok(made)
}

/// Packs a store into a file system that cannot be written, and mounts it.
fn mount(store: &Path) -> Result<()> {
    let file = Path::new(places::SCRATCH).join("store.img");
    let (from, file) = (store.to_string_lossy(), file.to_string_lossy());
    let (from, file): (&str, &str) = (&from, &file);
    make_dirs(STORE)?;
    if Command::new("mksquashfs").arg("-version").output().is_ok() {
        run(
            "mksquashfs",
            [from, file, "-quiet", "-no-progress", "-noappend"],
        )?;
        run("mount", ["-t", "squashfs", "-o", "loop,ro", file, STORE])?;
    } else {
        fs::File::create(file)?.set_len(64 << 20)?;
        run("mkfs.ext4", ["-q", "-O", "^has_journal", "-d", from, file])?;
        run("mount", ["-t", "ext4", "-o", "loop,ro", file, STORE])?;
    }
    Ok(())
}

/// Waits until the server has taken notice of what is there, or is not any more.
async fn until_listed(node: &Node, image: &str, listed: bool) -> Result<()> {
    settle::until_true("the server sees the store", async || {
        Ok(node.cri().image(&registry::name(image)).await?.is_some() == listed)
    })
    .await
}

async fn used_bytes(node: &Node) -> Result<u64> {
    let answer = node.cri().image_fs().await?;
    let usage = answer.image_filesystems.first().context("no usage")?;
    Ok(usage.used_bytes.as_ref().map_or(0, |used| used.value))
}

/// What the verbose status says of the stores.
async fn stores(node: &Node) -> Result<Value> {
    let request = cri::StatusRequest { verbose: true };
    let status = node.cri().runtime.clone().status(request).await?;
    let info = status.into_inner().info;
    let info: Value = serde_json::from_str(info.get("node").context("no node")?)?;
    Ok(info["additionalImageStores"].clone())
}

fn user_namespace() -> cri::NamespaceOption {
    let mapping = cri::IdMapping {
        host_id: POD_ROOT,
        container_id: 0,
        length: 65_536,
    };
    cri::NamespaceOption {
        userns_options: Some(cri::UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: vec![mapping],
            gids: vec![mapping],
        }),
        ..node::namespaces(NamespaceMode::Pod, NamespaceMode::Container)
    }
}

fn sleeper(image: &str, name: &str) -> cri::ContainerConfig {
    node::container_of(image, name, &["sh", "-c", node::SLEEP])
}

/// A pod with a user namespace, and a container in it.
async fn in_user_namespace(node: &Node, name: &str, image: &str) -> Result<(Pod, String)> {
    let mut config = node.pod_config(name)?;
    node::pod_security(&mut config).namespace_options = Some(user_namespace());
    let pod = node.run_pod_as(config).await?;
    let mut config = sleeper(image, "c");
    node::security(&mut config).namespace_options = Some(user_namespace());
    let id = node.start_container(&pod, &config).await?;
    Ok((pod, id))
}

/// What `tree:latest` has to look like, whatever its layers are on.
const TREE: &str = "cat /tree/replaced; ls /tree/hidden; ls -d /tree/removed /tree/gone 2>/dev/null; \
                    stat -c %u:%g:%a /tree/owned /tree/sticky; echo x > /tree/kept; cat /tree/kept";
const TREE_SEEN: &str = "upper\nupper\n1000:50:600\n0:0:3775\nx\n";

#[test]
fn pods_run_from_a_read_only_store_without_a_registry_and_it_stays() {
    world!(setup().without_registry(), async |node| {
        // Not there: said, and nothing else.
        ensure!(node.cri().all_images().await?.is_empty());
        let told = stores(node).await?;
        let problem = told[1]["problem"].as_str().context("no problem")?;
        ensure!(problem.contains("is it mounted?"), "{told}");
        let check = pintle(&["check"])?;
        let check = String::from_utf8(check.stdout)?;
        ensure!(check.contains("WARN  stores"), "{check}");
        ensure!(
            node.server_log()
                .contains("an additional store is not used")
        );

        let registry = Registry::start().await?;
        let made = make(&["busybox:latest", "tree:latest"])?;
        drop(registry);
        mount(&made)?;
        until_listed(node, "tree:latest", true).await?;
        let cri = node.cri();
        let told = stores(node).await?;
        ensure!(
            told[1]["images"] == 2 && told[1]["problem"].is_null(),
            "{told}"
        );
        let image = cri.image(&registry::name("tree:latest")).await?;
        let image = image.context("not there")?;
        ensure!(image.pinned && image.size > 1 << 20, "{image:?}");
        ensure!(used_bytes(node).await? == 0, "it is not our disk");

        // Pods of both kinds, and the image as a volume.
        let pod = node.run_pod("plain").await?;
        let mut config = sleeper("tree:latest", "c");
        config.mounts.push(cri::Mount {
            container_path: "/mnt/image".to_owned(),
            readonly: true,
            image: Some(image_spec(&registry::name("tree:latest"))),
            image_sub_path: "tree".to_owned(),
            ..cri::Mount::default()
        });
        let plain = node.start_container(&pod, &config).await?;
        ensure!(cri.sh(&plain, TREE).await? == TREE_SEEN);
        ensure!(
            cri.sh(&plain, "cat /mnt/image/kept; ls /mnt/image/hidden")
                .await?
                == "kept\nupper\n"
        );
        let (_, mapped) = in_user_namespace(node, "mapped", "tree:latest").await?;
        ensure!(cri.sh(&mapped, TREE).await? == TREE_SEEN);
        let pid = fs::read_to_string(format!("{}/containers/{mapped}/pid", places::RUN))?;
        let status = fs::read_to_string(format!("/proc/{}/status", pid.trim()))?;
        ensure!(status.contains(&format!("Uid:\t{POD_ROOT}\t")), "{status}");

        // Nothing takes an image away.
        for name in ["busybox:latest", "tree:latest"] {
            let words = refused(
                cri.remove_image(&registry::name(name)).await,
                Code::FailedPrecondition,
            )?;
            ensure!(words.contains(STORE), "{words}");
        }
        ensure!(said(&["image", "prune", "--all"])?.contains("0 B are free"));
        let list = said(&["image", "list"])?;
        ensure!(
            list.lines()
                .next()
                .is_some_and(|head| head.ends_with("STORE")),
            "{list}"
        );
        ensure!(list.matches(STORE).count() == 2, "{list}");
        let inspected = said(&["image", "inspect", "--json", &registry::name("tree:latest")])?;
        let inspected: Value = serde_json::from_str(&inspected)?;
        ensure!(inspected["store"] == STORE, "{inspected}");
        ensure!(inspected["layers"][2]["store"] == STORE, "{inspected}");
        ensure!(
            inspected["config"]["rootfs"]["type"] == "layers",
            "{inspected}"
        );
        ensure!(said(&["image", "verify"])?.contains("3 layers, 0 damaged"));
        ensure!(
            pintle(&["check"])?
                .stdout
                .windows(9)
                .any(|it| it == b"ok    sto")
        );

        // A new server finds the containers, and the store.
        node.kill_server()?;
        node.start_server().await?;
        let cri = node.cri();
        ensure!(cri.sh(&plain, "cat /tree/kept").await? == "x\n");
        ensure!(cri.all_images().await?.len() == 2, "not at once");

        // The store goes. Containers have what they have mounted, also when another server comes; new ones are refused.
        run("umount", [STORE])?;
        ensure!(cri.sh(&plain, "cat /tree/replaced").await? == "upper\n");
        let config = sleeper("busybox:latest", "late");
        let late = cri.create(&pod.id, &config, &pod.config).await;
        let error = late.err().context("made of nothing")?;
        ensure!(
            matches!(error.code(), Code::Unavailable | Code::NotFound),
            "{error}"
        );
        until_listed(node, "tree:latest", false).await?;
        node.kill_server()?;
        node.start_server().await?;
        let cri = node.cri();
        for id in [&plain, &mapped] {
            ensure!(cri.sh(id, "cat /tree/replaced; cat /tree/kept").await? == "upper\nx\n");
        }
        cri.stop(&plain, 5).await?;
        cri.remove(&plain).await?;
        ensure!(cri.all_images().await?.is_empty());
        Ok(())
    });
}

#[test]
fn layers_of_a_store_are_not_fetched_and_mix_with_our_own() {
    world!(setup(), async |node| {
        let made = make(&["busybox:latest"])?;
        mount(&made)?;
        until_listed(node, "busybox:latest", true).await?;
        let cri = node.cri();
        let base = cri.image(&registry::name("busybox:latest")).await?;
        let base = base.context("not there")?.size;

        // The lowest layer is there, under whatever name.
        let proxy = FaultProxy::listen(5001, registry::HOST, Duration::ZERO, [])?;
        let name = proxy.name("tree:latest");
        cri.pull(&name).await?;
        let passed = proxy.passed();
        println!("{passed} bytes sent for the upper layers; the lowest takes {base}");
        ensure!(passed < 100_000, "{passed} bytes");
        let used = used_bytes(node).await?;
        ensure!(used > 0 && used < base / 2, "{used} bytes of our own");
        let run_tree = |config: &mut cri::ContainerConfig| config.image = Some(image_spec(&name));
        let pod = node.run_pod("mixed").await?;
        let mut config = sleeper("", "c");
        run_tree(&mut config);
        let plain = node.start_container(&pod, &config).await?;
        ensure!(cri.sh(&plain, TREE).await? == TREE_SEEN);
        let mut config = node.pod_config("mapped")?;
        node::pod_security(&mut config).namespace_options = Some(user_namespace());
        let pod = node.run_pod_as(config).await?;
        let mut config = sleeper("", "c");
        run_tree(&mut config);
        node::security(&mut config).namespace_options = Some(user_namespace());
        let mapped = node.start_container(&pod, &config).await?;
        ensure!(cri.sh(&mapped, TREE).await? == TREE_SEEN);

        // The server comes back and the store does not: nothing of ours is lost, and a pull brings what is missing.
        node.kill_server()?;
        run("umount", [STORE])?;
        node.start_server().await?;
        let cri = node.cri();
        ensure!(cri.image(&name).await?.is_none(), "a layer is missing");
        for id in [&plain, &mapped] {
            ensure!(cri.sh(id, "cat /tree/replaced; cat /tree/kept").await? == "upper\nx\n");
        }
        ensure!(used_bytes(node).await? == used);
        cri.pull(&name).await?;
        let fetched = proxy.passed() - passed;
        ensure!(fetched > 300_000, "{fetched} bytes");
        ensure!(used_bytes(node).await? >= base, "not ours");
        let mut config = sleeper("", "third");
        run_tree(&mut config);
        node::security(&mut config).namespace_options = Some(user_namespace());
        let third = node.start_container(&pod, &config).await?;
        ensure!(cri.sh(&third, TREE).await? == TREE_SEEN);
        cri.remove_image(&name).await?;
        ensure!(cri.image(&name).await?.is_none());
        Ok(())
    });
}

#[test]
fn a_damaged_store_costs_nothing_but_itself() {
    world!(setup(), async |node| {
        let made = make(&["busybox:latest"])?;
        let database = made.join("images.db");
        let sound = fs::read(&database)?;
        make_dirs(STORE)?;
        run("mount", ["--bind", &*made.to_string_lossy(), STORE])?;
        run("mount", ["-o", "remount,bind,ro", STORE])?;
        until_listed(node, "busybox:latest", true).await?;
        for (damage, words) in [
            (&sound[..sound.len() / 2], "malformed"),
            (&[7; 9000][..], "not a database"),
        ] {
            write(&database, damage)?;
            settle::until_true("the server sees the damage", async || {
                let told = stores(node).await?;
                let problem = told[1]["problem"].as_str();
                Ok(problem.is_some_and(|problem| problem.contains(words)))
            })
            .await?;
            until_listed(node, "busybox:latest", false).await?;
            let check = String::from_utf8(pintle(&["check"])?.stdout)?;
            ensure!(check.contains(words), "{check}");
        }
        // Whoever wants the image gets it from elsewhere.
        node.image("busybox:latest").await?;
        let (_, id) = node.sleeper("own").await?;
        write(&database, &sound)?;
        node.kill_server()?;
        node.start_server().await?;
        let told = stores(node).await?;
        ensure!(told[1]["images"] == 1, "{told}");
        let cri = node.cri();
        let image = cri.image(&registry::name("busybox:latest")).await?;
        ensure!(!image.context("not there")?.pinned, "ours comes first");
        cri.sh(&id, "true").await?;
        // Removed, it is theirs again.
        cri.remove_image(&registry::name("busybox:latest")).await?;
        let image = cri.image(&registry::name("busybox:latest")).await?;
        ensure!(image.context("not there")?.pinned, "theirs comes second");
        run("umount", [STORE])?;
        Ok(())
    });
}
