//! The `pintle` command: serve's manners, version, config, check, run, image import, export, list, explain, inspect, remove,
//! prune and verify.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use api::cri;
use pintle_test::{
    images::{Image, Layer, PATH_ENV, Packing},
    node::{self, Setup},
    places, registry, settle, world,
};
use serde_json::{Value, json};

/// Runs `pintle` and returns what it said and how it ended.
pub(crate) fn pintle(arguments: &[&str]) -> Result<Output> {
    Command::new(places::pintle()?)
        .args(arguments)
        .env("PINTLE_CONFIG", places::CONFIG)
        .env("PINTLE_SOCKET", places::SOCKET)
        .output()
        .context("running pintle")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_socket_is_for_root_and_its_group_and_a_stale_one_is_replaced() {
    world!(async |node| {
        let mode = fs::metadata(places::SOCKET)?.permissions().mode();
        ensure!(mode & 0o777 == 0o660, "mode {mode:o}");
        node.kill_server()?;
        ensure!(
            fs::exists(places::SOCKET)?,
            "a killed server has cleaned up?"
        );
        node.start_server().await
    });
}

#[test]
fn a_second_server_is_refused_and_does_not_disturb_the_first() {
    world!(async |node| {
        let mut second = node.spawn_server(&[])?;
        let status = settle::until("the second one ends", async || Ok(second.try_wait()?)).await?;
        ensure!(status.code() == Some(75), "{status}");
        node.cri().node_status().await?;
        Ok(())
    });
}

#[test]
fn a_reload_takes_over_new_registries() {
    world!(Setup::default(), async |node| {
        let faulty = pintle_test::faults::FaultyRegistry::listen(5001).await?;
        let layer = Layer::new().file("f", 0o644, b"x")?.tar()?;
        let image = Image::new(&[layer], Packing::Gzip, &json!({}))?;
        faulty.serve("new", "latest", &image);
        ensure!(
            node.cri().pull(&faulty.name("new")).await.is_err(),
            "HTTP without being told so"
        );
        let host = "127.0.0.1:5001";
        node.configure(json!({ "image": { "registries": { host: { "plain_http": true } } } }))?;
        let pid = node.server_pid().context("no server")?;
        node::signal(pid, rustix::process::Signal::HUP)?;
        settle::until_true("the reload has happened", async || {
            Ok(node.cri().pull(&faulty.name("new")).await.is_ok())
        })
        .await
    });
}

#[test]
fn explain_tells_who_is_asked_and_what_went_wrong() {
    world!(Setup::default(), async |node| {
        let mirror = pintle_test::faults::FaultyRegistry::listen(5001).await?;
        let image = Image::new(
            &[Layer::new().file("f", 0o644, b"x")?.tar()?],
            Packing::Gzip,
            &json!({}),
        )?;
        mirror.serve("copies/app", "1", &image);
        world::write(
            places::REGISTRIES_CONF,
            "[[registry]]\nprefix = \"registry.invalid/team\"\n\
             [[registry.mirror]]\nlocation = \"127.0.0.1:5001/copies\"\ninsecure = true\n\
             [aliases]\n\"app\" = \"registry.invalid/team/app\"\n",
        )?;
        let id = node.cri().pull("app:1").await?;
        // The short name finds what is recorded under the full one.
        let found = node.cri().image("app:1").await?.context("not there")?;
        ensure!(found.id == id, "another image: {}", found.id);
        ensure!(
            found.repo_tags == ["registry.invalid/team/app:1"],
            "{:?}",
            found.repo_tags
        );
        ensure!(
            node.cri().pull("app:2").await.is_err(),
            "pulled from nowhere"
        );

        let output = pintle(&["image", "explain", "app:2"])?;
        ensure!(output.status.success(), "{}", text(&output.stderr));
        let shown = text(&output.stdout);
        for part in [
            "registry.invalid/team/app:2\n",
            "/run/test/registries.conf:7",
            " 1. https://127.0.0.1:5001/v2/copies/app\n",
            "/run/test/registries.conf:3",
            "plain HTTP if it does not speak TLS",
            "app:2 is not on 127.0.0.1:5001",
            " 2. https://registry.invalid/v2/team/app\n",
            "/run/test/registries.conf:1",
        ] {
            ensure!(shown.contains(part), "no {part:?} in\n{shown}");
        }
        let output = pintle(&["image", "explain", "app:2", "--json"])?;
        let value: Value = serde_json::from_slice(&output.stdout)?;
        let hosts = &value["references"][0]["hosts"];
        ensure!(hosts[0]["origin"] == json!(false), "{value:#}");
        ensure!(hosts[1]["origin"] == json!(true), "{value:#}");
        ensure!(hosts[1]["lastError"].is_string(), "{value:#}");

        world::write(
            places::REGISTRIES_CONF,
            "[[registry]]\nprefix = \"registry.invalid\"\nblocked = true\n",
        )?;
        let output = pintle(&["image", "explain", "registry.invalid/team/app:2"])?;
        let shown = text(&output.stdout);
        ensure!(
            shown.contains("BLOCKED by") && shown.contains("/run/test/registries.conf:1"),
            "{shown}"
        );
        let refused = node.cri().pull("registry.invalid/team/app:2").await;
        let words = format!("{:#}", refused.err().context("a blocked image was pulled")?);
        ensure!(
            words.contains("is blocked by /run/test/registries.conf:1"),
            "{words}"
        );

        world::write(places::REGISTRIES_CONF, "\nblocked = [\n")?;
        let output = pintle(&["image", "explain", "registry.invalid/app"])?;
        ensure!(!output.status.success(), "a wrong file is right");
        let words = text(&output.stderr);
        ensure!(words.contains("/run/test/registries.conf:"), "{words}");
        Ok(())
    });
}

#[test]
fn a_reload_takes_over_pinned_images() {
    world!(async |node| {
        node.image("busybox:latest").await?;
        let pinned = async || -> Result<Option<bool>> {
            let image = node.cri().image(&registry::name("busybox:latest")).await?;
            Ok(image.map(|image| image.pinned))
        };
        ensure!(pinned().await? == Some(false), "pinned by nobody");
        let reload = |patterns: Value| -> Result<()> {
            node.configure(json!({ "image": { "pinned": patterns } }))?;
            let pid = node.server_pid().context("no server")?;
            node::signal(pid, rustix::process::Signal::HUP)
        };
        reload(json!(["*BusyBox*"]))?;
        settle::until_true("it is pinned", async || Ok(pinned().await? == Some(true))).await?;
        reload(json!(["registry.example/*"]))?;
        settle::until_true("it is not pinned", async || {
            Ok(pinned().await? == Some(false))
        })
        .await?;
        // The kubelet spares what is pinned; who asks for its removal means it.
        reload(json!(["*"]))?;
        settle::until_true("it is pinned", async || Ok(pinned().await? == Some(true))).await?;
        node.cri()
            .remove_image(&registry::name("busybox:latest"))
            .await?;
        ensure!(pinned().await?.is_none(), "it is still there");
        Ok(())
    });
}

#[test]
fn a_reload_takes_over_a_new_runtime() {
    world!(async |node| {
        let handlers = async || -> Result<Vec<String>> {
            let status = node.cri().node_status().await?;
            let handlers = status.runtime_handlers.into_iter();
            Ok(handlers.map(|handler| handler.name).collect())
        };
        ensure!(
            !handlers().await?.contains(&"added".to_owned()),
            "there before it was added"
        );
        let binary = world::run("sh", ["-c", &format!("command -v {}", node::runtime())])?;
        let binary = text(&binary);
        node.configure(json!({ "runtimes": { "added": { "path": binary.trim() } } }))?;
        let pid = node.server_pid().context("no server")?;
        node::signal(pid, rustix::process::Signal::HUP)?;
        settle::until_true("the handler is offered", async || {
            Ok(handlers().await?.contains(&"added".to_owned()))
        })
        .await?;
        let config = node.pod_config("of-the-new-one")?;
        node.cri().run_pod(&config, "added").await?;
        Ok(())
    });
}

#[test]
fn a_reload_of_a_wrong_configuration_changes_nothing_and_is_told() {
    world!(async |node| {
        world::write(places::CONFIG, "no_such_key: 1\n")?;
        let pid = node.server_pid().context("no server")?;
        node::signal(pid, rustix::process::Signal::HUP)?;
        settle::until_true("the mistake is in the log", async || {
            Ok(node.server_log().contains("no_such_key"))
        })
        .await?;
        node.cri().node_status().await?;
        node.configure(json!({}))
    });
}

#[test]
fn requests_in_flight_are_finished_before_the_server_ends() {
    let slow = pintle_test::cni::script("slow");
    let setup = Setup::default().network(Some(slow)).plugin("slow", r#"[ "$CNI_COMMAND" = ADD ] && touch /run/test/adding && sleep 1 && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.2/24"}]}'; exit 0"#);
    world!(setup, async |node| {
        let (cri, config) = (node.cri(), node.pod_config("in-flight")?);
        let request = tokio::spawn(async move { cri.run_pod(&config, "").await });
        settle::until_true("the request is under way", async || {
            Ok(fs::exists("/run/test/adding")?)
        })
        .await?;
        let status = node.stop_server().await?;
        ensure!(status.success(), "{status}");
        let id = request.await??;
        node.start_server().await?;
        let state = node.cri().pod_status(&id).await?.state();
        ensure!(state == cri::PodSandboxState::SandboxReady, "{state:?}");
        Ok(())
    });
}

#[test]
fn version_and_config_speak_for_themselves() {
    world!(async |_node| {
        let version = pintle(&["version"])?;
        ensure!(
            version.status.success() && text(&version.stdout).contains("pintle"),
            "{version:?}"
        );
        let json: Value = serde_json::from_slice(&pintle(&["version", "--json"])?.stdout)?;
        ensure!(json.is_object(), "{json}");
        // What is printed can be read again, and means the same.
        let printed = pintle(&["config"])?;
        ensure!(printed.status.success(), "{}", text(&printed.stderr));
        ensure!(
            text(&printed.stdout).contains(places::CNI_CONF),
            "not the effective one"
        );
        let copy = "/run/test/printed.yaml";
        world::write(copy, &printed.stdout)?;
        let again = pintle(&["config", "--config", copy])?;
        ensure!(again.stdout == printed.stdout, "{}", text(&again.stdout));
        Ok(())
    });
}

#[test]
fn a_reader_that_goes_away_is_no_reason_to_complain() {
    world!(async |_node| {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let ended = Command::new(places::pintle()?)
            .args(["config", "--defaults"])
            .stdout(writer)
            .output()
            .context("running pintle")?;
        ensure!(ended.stderr.is_empty(), "{}", text(&ended.stderr));
        ensure!(!ended.status.success(), "all of it was printed?");
        Ok(())
    });
}

#[test]
fn a_mistake_in_the_configuration_is_told_with_its_place_and_the_nearest_key() {
    world!(async |_node| {
        let path = "/run/test/wrong.yaml";
        world::write(path, "root: /var/lib/pintle\nnetwrok:\n  cni: {}\n")?;
        for command in [["config", "--config", path], ["serve", "--config", path]] {
            let output = pintle(&command)?;
            let said = text(&output.stderr);
            ensure!(
                output.status.code() == Some(64),
                "{:?}: {}",
                command,
                output.status
            );
            ensure!(
                said.contains("wrong.yaml:2") && said.contains("`network`"),
                "{said}"
            );
        }
        Ok(())
    });
}

#[test]
fn check_finds_a_node_that_can_run_pods_and_names_what_is_missing() {
    world!(async |_node| {
        let output = pintle(&["check"])?;
        let said = text(&output.stdout) + &text(&output.stderr);
        ensure!(output.status.success(), "{said}");
        ensure!(
            said.contains(&node::runtime()),
            "the runtime is not named: {said}"
        );
        let path = "/run/test/empty.yaml";
        world::write(
            path,
            "network: {cni: {conf_dir: /run/test/no/networks, bin_dirs: [/run/test/no/plugins]}}\n",
        )?;
        let output = pintle(&["check", "--config", path])?;
        let said = text(&output.stdout) + &text(&output.stderr);
        ensure!(said.contains("/run/test/no/"), "{said}");
        let json: Value = serde_json::from_slice(&pintle(&["check", "--json"])?.stdout)?;
        ensure!(json.is_object() || json.is_array(), "{json}");
        Ok(())
    });
}

#[test]
fn run_shows_the_output_passes_the_exit_code_on_and_cleans_up() {
    world!(async |node| {
        let image = registry::name("busybox:latest");
        let script = "echo out; echo err >&2; echo $COLOUR; exit 9";
        let output = pintle(&[
            "run",
            "--env",
            "COLOUR=blue",
            &image,
            "--",
            "sh",
            "-c",
            script,
        ])?;
        ensure!(
            output.status.code() == Some(9),
            "{}: {}",
            output.status,
            text(&output.stderr)
        );
        ensure!(
            text(&output.stdout) == "out\nblue\n",
            "{:?}",
            text(&output.stdout)
        );
        ensure!(
            text(&output.stderr).contains("err\n"),
            "{:?}",
            text(&output.stderr)
        );
        ensure!(
            node.cri().pods(None).await?.is_empty(),
            "its pod is still there"
        );
        let output = pintle(&["run", &registry::name("no-such-image"), "--", "true"])?;
        ensure!(output.status.code() == Some(125), "{}", output.status);
        ensure!(
            text(&output.stderr).contains("no-such-image"),
            "{}",
            text(&output.stderr)
        );
        let timed = pintle(&["run", "--timings", &image, "--", "true"])?;
        ensure!(
            timed.status.success() && text(&timed.stderr).contains("ms"),
            "{}",
            text(&timed.stderr)
        );
        Ok(())
    });
}

#[test]
fn run_that_is_interrupted_takes_its_pod_down() {
    world!(async |node| {
        let mut child = Command::new(places::pintle()?)
            .args([
                "run",
                &registry::name("busybox:latest"),
                "--",
                "sh",
                "-c",
                node::SLEEP,
            ])
            .env("PINTLE_SOCKET", places::SOCKET)
            .spawn()?;
        let cri = node.cri();
        settle::until_true("its container runs", async || {
            let containers = cri.containers(None).await?;
            Ok(containers
                .iter()
                .any(|c| c.state() == cri::ContainerState::ContainerRunning))
        })
        .await?;
        node::signal(child.id(), rustix::process::Signal::INT)?;
        settle::until("pintle run ends", async || Ok(child.try_wait()?)).await?;
        ensure!(cri.pods(None).await?.is_empty(), "its pod is still there");
        Ok(())
    });
}

#[test]
fn archives_of_both_kinds_are_imported() {
    world!(async |node| {
        let cri = node.cri();
        let config = json!({ "Env": [PATH_ENV], "Cmd": ["true"] });
        let layer = Layer::new().file("imported", 0o644, b"yes\n")?.tar()?;
        let image = Image::new(&[layer], Packing::Gzip, &config)?;
        let layout = tempfile::tempdir_in(places::SCRATCH)?;
        image.write_layout(layout.path())?;
        let source = format!("oci:{}", layout.path().display());
        for kind in ["oci-archive", "docker-archive"] {
            let file = format!("{}/{kind}.tar", places::SCRATCH);
            let target = format!("{kind}:{file}:example.org/imported:1");
            world::run("skopeo", ["copy", "--quiet", &source, &target])?;
            let output = pintle(&["image", "import", &file])?;
            ensure!(output.status.success(), "{kind}: {}", text(&output.stderr));
            let there = cri.image("example.org/imported:1").await?;
            ensure!(
                there.is_some(),
                "{kind}: not there: {:?}",
                cri.all_images().await?
            );
            let listed = pintle(&["image", "list"])?;
            ensure!(
                text(&listed.stdout).contains("example.org/imported"),
                "{}",
                text(&listed.stdout)
            );
            cri.remove_image("example.org/imported:1").await?;
        }
        let output = pintle(&[
            "image",
            "import",
            "--name",
            "example.org/renamed:2",
            &format!("{}/oci-archive.tar", places::SCRATCH),
        ])?;
        ensure!(output.status.success(), "{}", text(&output.stderr));
        ensure!(
            cri.image("example.org/renamed:2").await?.is_some(),
            "not under its new name"
        );
        world::write("/run/test/noise.tar", "not an archive")?;
        let output = pintle(&["image", "import", "/run/test/noise.tar"])?;
        ensure!(!output.status.success(), "noise was imported");
        Ok(())
    });
}

#[test]
fn what_is_exported_is_the_same_image_and_others_can_read_it() {
    world!(async |node| {
        let name = registry::name("tree:latest");
        let id = node.cri().pull(&name).await?;
        for (format, kind) in [("oci", "oci-archive"), ("docker", "docker-archive")] {
            let file = format!("{}/exported-{format}.tar", places::SCRATCH);
            let output = pintle(&["image", "export", "--format", format, &name, &file])?;
            ensure!(
                output.status.success(),
                "{format}: {}",
                text(&output.stderr)
            );
            let config = world::run(
                "skopeo",
                ["inspect", "--config", "--raw", &format!("{kind}:{file}")],
            )?;
            ensure!(
                pintle_test::images::digest(&config) == id,
                "{format}: another configuration"
            );
            node.cri().remove_image(&id).await?;
            let output = pintle(&["image", "import", &file])?;
            ensure!(
                output.status.success(),
                "{format}: {}",
                text(&output.stderr)
            );
            let back = node
                .cri()
                .image(&id)
                .await?
                .with_context(|| format!("{format}: not back"))?;
            ensure!(
                back.repo_tags == [name.clone()],
                "{format}: {:?}",
                back.repo_tags
            );
        }
        Ok(())
    });
}

#[test]
fn the_care_of_the_store() {
    world!(async |node| {
        let said = |output: Output| String::from_utf8_lossy(&output.stdout).into_owned();
        let object = |arguments: &[&str]| -> Result<(Value, Option<i32>)> {
            let output = pintle(arguments)?;
            Ok((
                serde_json::from_slice(&output.stdout)?,
                output.status.code(),
            ))
        };
        let name = registry::name("busybox:latest");
        let (_, id) = node.sleeper("user").await?;
        node.image("tags:1").await?;

        let (all, _) = object(&["image", "list", "--json"])?;
        let of = |name: &str| {
            let images = all.as_array()?.iter();
            images
                .clone()
                .find(|image| image["repoTags"][0] == name)
                .cloned()
        };
        let busybox = of(&name).context("not listed")?;
        ensure!(busybox["usedBytes"].as_u64() > Some(1 << 20), "{busybox}");
        ensure!(busybox["reclaimableBytes"] == 0, "in use: {busybox}");
        ensure!(busybox["containers"][0] == id.as_str(), "{busybox}");
        let (details, _) = object(&["image", "inspect", "--json", &name])?;
        ensure!(details["config"]["rootfs"]["type"] == "layers", "{details}");
        ensure!(details["layers"][0]["shared"] == true, "{details}");
        let text = said(pintle(&["image", "inspect", &name])?);
        ensure!(
            text.contains(&id) && text.contains("reclaimable   0 B"),
            "{text}"
        );
        ensure!(
            pintle(&["image", "inspect", "no/such:1"])?.status.code() == Some(69),
            "an image that is not there"
        );

        // Damage: found, mended, and the container goes on with what it has.
        let chain = details["layers"][0]["chainId"]
            .as_str()
            .context("no chain")?;
        let layer = format!("{}/layers/{}", places::ROOT, &chain["sha256:".len()..]);
        fs::write(format!("{layer}/etc/passwd"), "evil")?;
        let (found, code) = object(&["image", "verify", "--json", &name])?;
        ensure!(code == Some(1) && found["damaged"] == 1, "{found}");
        let output = pintle(&["image", "verify", "--repair"])?;
        let text = said(output);
        ensure!(text.contains("1 damaged, 1 mended"), "{text}");
        let cri = node.cri();
        ensure!(
            cri.sh(&id, "cat /etc/passwd").await? == "evil",
            "not what it had"
        );
        ensure!(
            cri.sh(&id, "ls /bin | wc -l")
                .await?
                .trim()
                .parse::<u32>()?
                > 100,
            "gone"
        );
        let passwd = fs::read_to_string(format!("{layer}/etc/passwd"))?;
        ensure!(passwd.starts_with("root:"), "{passwd}");
        let retired = || anyhow::Ok(fs::read_dir(format!("{}/retired", places::ROOT))?.count());
        ensure!(retired()? == 1, "the container's directory is not kept");
        ensure!(
            pintle(&["image", "verify"])?.status.success(),
            "still damaged"
        );

        let planned = said(pintle(&["image", "prune", "--all", "--dry-run"])?);
        ensure!(
            planned.contains("tags:1") && !planned.contains(&name),
            "{planned}"
        );
        ensure!(
            said(pintle(&["image", "prune"])?).contains("0 B are free"),
            "all have names"
        );
        let (pruned, _) = object(&["image", "prune", "--all", "--json"])?;
        ensure!(
            pruned["images"].as_array().map(Vec::len) == Some(1),
            "{pruned}"
        );
        ensure!(
            pintle(&["image", "remove", &name])?.status.success(),
            "refused"
        );
        ensure!(cri.all_images().await?.is_empty(), "not removed");
        let again = pintle(&["image", "remove", &name])?;
        let words = String::from_utf8_lossy(&again.stderr).into_owned();
        ensure!(
            !again.status.success() && words.contains("no image"),
            "{words}"
        );

        cri.stop(&id, 0).await?;
        cri.remove(&id).await?;
        settle::until_true("the container's directory goes with it", async || {
            let layers = fs::read_dir(format!("{}/layers", places::ROOT))?.count();
            Ok(retired()? == 0 && layers == 0)
        })
        .await
    });
}
