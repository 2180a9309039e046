//! CDI devices: by the request's field and by annotations, out of files of the node.

use anyhow::{Context, Result, ensure};
use api::cri;
use pintle_test::{
    cri::refused,
    node::{self, Node, Setup},
    world,
};
use serde_json::json;
use tonic::Code;

/// Where this suite's CDI files are; the second directory wins.
const DIRS: [&str; 2] = ["/run/test/cdi/low", "/run/test/cdi/high"];

fn setup() -> Setup {
    Setup::default().config(json!({ "containers": { "cdi_dirs": DIRS } }))
}

fn files(files: &[(&str, &str)]) -> Result<()> {
    for directory in DIRS {
        world::make_dirs(directory)?;
    }
    for (path, text) in files {
        world::write(format!("/run/test/cdi/{path}"), text)?;
    }
    Ok(())
}

/// A device with all that a plain node can give.
const VENDOR: &str = r#"
cdiVersion: "0.7.0"
kind: vendor.example/thing
devices:
  - name: zero
    containerEdits:
      env: [THING=zero, PATH=/thing:/bin]
      deviceNodes:
        - {path: /dev/thing0, hostPath: /dev/zero}
        - {path: /dev/thing1, hostPath: /dev/fuse, permissions: r}
      mounts:
        - {hostPath: /run/test/cdi/library, containerPath: /usr/lib/thing, options: [ro, bind]}
      hooks:
        - hookName: createRuntime
          path: /bin/sh
          args: [sh, -c, "cat > /run/test/cdi/hooked"]
      additionalGids: [4321]
  - name: other
    containerEdits:
      env: [OTHER=1]
containerEdits:
  env: [THINGS=all]
"#;

/// A container that asks for devices, with its image.
async fn with_devices(node: &Node, name: &str, devices: &[&str]) -> Result<cri::ContainerConfig> {
    node.image("busybox:latest").await?;
    let mut config = node::container(name, node::SLEEP);
    config.cdi_devices = devices
        .iter()
        .map(|name| cri::CdiDevice {
            name: (*name).to_owned(),
        })
        .collect();
    Ok(config)
}

#[test]
fn a_device_brings_all_that_its_file_says() {
    world!(setup(), async |node| {
        files(&[("low/vendor.yaml", VENDOR)])?;
        world::make_dirs("/run/test/cdi/library")?;
        world::write("/run/test/cdi/library/so", "code")?;
        let pod = node.run_pod("devices").await?;
        let config = with_devices(node, "c", &["vendor.example/thing=zero"]).await?;
        let id = node.start_container(&pod, &config).await?;
        let cri = node.cri();
        let env = cri
            .sh(&id, "echo $THING $THINGS $PATH ${OTHER:-none}")
            .await?;
        ensure!(env == "zero all /thing:/bin none\n", "{env}");
        let bytes = cri.sh(&id, "head -c 4 /dev/thing0 | od -An -tx1").await?;
        ensure!(bytes.trim() == "00 00 00 00", "{bytes}");
        // Opened only: nobody reads what would be written.
        cri.sh(&id, ": < /dev/thing1").await?;
        let written = cri.exec(&id, &["sh", "-c", ": > /dev/thing1"], 30).await?;
        ensure!(
            written.exit_code != 0,
            "a device to read was opened to write"
        );
        ensure!(cri.sh(&id, "cat /usr/lib/thing/so").await? == "code");
        let groups = cri.sh(&id, "id -G").await?;
        ensure!(groups.split_whitespace().any(|id| id == "4321"), "{groups}");
        let user = cri.status(&id).await?.user.and_then(|user| user.linux);
        let told = user.context("no user")?.supplemental_groups;
        ensure!(told.contains(&4321), "{told:?}");
        let hooked = std::fs::read_to_string("/run/test/cdi/hooked").context("no hook ran")?;
        ensure!(hooked.contains(&id), "{hooked}");
        Ok(())
    });
}

#[test]
fn annotations_ask_for_devices_too() {
    world!(setup(), async |node| {
        files(&[("low/vendor.yaml", VENDOR)])?;
        world::make_dirs("/run/test/cdi/library")?;
        let pod = node.run_pod("annotated").await?;
        let mut config = with_devices(node, "c", &[]).await?;
        config.annotations.insert(
            "cdi.k8s.io/test".to_owned(),
            "vendor.example/thing=zero,vendor.example/thing=other".to_owned(),
        );
        let id = node.start_container(&pod, &config).await?;
        let env = node.cri().sh(&id, "echo $THING $OTHER").await?;
        ensure!(env == "zero 1\n", "{env}");
        Ok(())
    });
}

#[test]
fn a_later_directory_wins_and_new_files_count_at_once() {
    let file = |value: &str| {
        json!({
            "cdiVersion": "0.3.0",
            "kind": "vendor.example/thing",
            "devices": [{"name": "a", "containerEdits": {"env": [format!("FROM={value}")]}}],
        })
        .to_string()
    };
    world!(setup(), async |node| {
        let pod = node.run_pod("priority").await?;
        let from = async |name: &str| -> Result<String> {
            let config = with_devices(node, name, &["vendor.example/thing=a"]).await?;
            let id = node.start_container(&pod, &config).await?;
            node.cri().sh(&id, "echo $FROM").await
        };
        files(&[("low/a.json", &file("low"))])?;
        ensure!(from("c1").await? == "low\n");
        files(&[("high/a.json", &file("high")), ("low/broken.json", "{")])?;
        ensure!(from("c2").await? == "high\n");
        // Twice in one directory is nobody's.
        files(&[("high/b.json", &file("other"))])?;
        let config = with_devices(node, "c3", &["vendor.example/thing=a"]).await?;
        let answer = node.cri().create(&pod.id, &config, &pod.config).await;
        let words = refused(answer, Code::FailedPrecondition)?;
        ensure!(
            words.contains("/run/test/cdi/high/a.json, /run/test/cdi/high/b.json: take it out"),
            "{words}"
        );
        ensure!(
            words.contains("/run/test/cdi/low/broken.json:1:"),
            "{words}"
        );
        Ok(())
    });
}

#[test]
fn a_device_that_is_not_there_is_refused_with_those_that_are() {
    world!(setup(), async |node| {
        files(&[("low/vendor.yaml", VENDOR)])?;
        let pod = node.run_pod("absent").await?;
        for (device, code, part) in [
            (
                "vendor.example/thing=none",
                Code::FailedPrecondition,
                "known are vendor.example/thing=other, vendor.example/thing=zero",
            ),
            (
                "no device",
                Code::InvalidArgument,
                "config.CDI_devices[0].name: \"no device\" is not of the form vendor/class=device",
            ),
        ] {
            let config = with_devices(node, "c", &[device]).await?;
            let answer = node.cri().create(&pod.id, &config, &pod.config).await;
            let words = refused(answer, code)?;
            ensure!(words.contains(part), "{words}");
        }
        ensure!(node.cri().containers(None).await?.is_empty(), "one is left");
        // The same attempt can be made once the device is there.
        let config = with_devices(node, "c", &["vendor.example/late=a"]).await?;
        let answer = node.cri().create(&pod.id, &config, &pod.config).await;
        refused(answer, Code::FailedPrecondition)?;
        let late = VENDOR
            .replace("vendor.example/thing", "vendor.example/late")
            .replace("name: other", "name: a");
        files(&[("high/late.yaml", &late)])?;
        let id = node.start_container(&pod, &config).await?;
        ensure!(node.cri().sh(&id, "echo $OTHER").await? == "1\n");
        Ok(())
    });
}
