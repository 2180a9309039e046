//! Images as volumes: what is seen of them, what is refused, and how long they stay.

use anyhow::{Context, Result, ensure};
use api::cri;
use pintle_test::{
    cri::{Client, image_spec, refused},
    images::Image,
    node::{self, Node, Setup},
    registry, world,
};
use serde_json::json;
use tonic::Code;

/// The image, or what is below a path of it, at `/mnt/image`.
fn image_mount(image: &str, sub_path: &str) -> cri::Mount {
    cri::Mount {
        container_path: "/mnt/image".to_owned(),
        readonly: true,
        image: Some(image_spec(&registry::name(image))),
        image_sub_path: sub_path.to_owned(),
        ..cri::Mount::default()
    }
}

fn with(name: &str, mount: cri::Mount) -> cri::ContainerConfig {
    let mut config = node::container(name, node::SLEEP);
    config.mounts = vec![mount];
    config
}

/// Pulls what the tests need.
async fn images(node: &Node) -> Result<String> {
    node.image("busybox:latest").await?;
    let volume = node.image("tree:latest").await?;
    Ok(node.cri().pull(&volume).await?)
}

/// Runs these in a container; each has to fail.
async fn none_succeeds(cri: &Client, id: &str, scripts: &[&str]) -> Result<()> {
    for script in scripts {
        let answer = cri.exec(id, &["sh", "-c", script], 60).await?;
        ensure!(answer.exit_code != 0, "{script} succeeded");
    }
    Ok(())
}

/// Which image a container's status names for its volume.
async fn told_image(cri: &Client, id: &str) -> Result<cri::ImageSpec> {
    let status = cri.status(id).await?;
    let mounted = status
        .mounts
        .into_iter()
        .find(|mount| mount.container_path == "/mnt/image");
    Ok(mounted.and_then(|mount| mount.image).unwrap_or_default())
}

#[test]
fn an_image_is_seen_whole_and_read_only_and_its_id_is_told() {
    world!(async |node| {
        let id_of_image = images(node).await?;
        let pod = node.run_pod("whole").await?;
        let id = node
            .start_container(&pod, &with("c", image_mount("tree:latest", "")))
            .await?;
        let cri = node.cri();
        let seen = cri
            .sh(
                &id,
                "cat /mnt/image/tree/replaced; ls /mnt/image/tree/hidden",
            )
            .await?;
        ensure!(seen == "upper\nupper\n", "{seen:?}");
        // Programs of it can be run, devices of it are none.
        cri.sh(&id, "/mnt/image/bin/busybox true").await?;
        let forbidden = [
            "touch /mnt/image/new",
            "rm /mnt/image/tree/kept",
            "mount -o remount,rw /mnt/image",
            "echo x > /mnt/image/tree/null",
        ];
        none_succeeds(&cri, &id, &forbidden).await?;
        let told = told_image(&cri, &id).await?;
        ensure!(told.image_ref == id_of_image, "{told:?}");
        ensure!(told.image == registry::name("tree:latest"), "{told:?}");
        Ok(())
    });
}

#[test]
fn a_sub_path_shows_what_is_below_it_and_nothing_outside_of_the_image() {
    world!(async |node| {
        images(node).await?;
        node.image("volumes:latest").await?;
        let pod = node.run_pod("below").await?;
        let cri = node.cri();
        for (name, image, sub_path, script, wanted) in [
            (
                "dir",
                "tree:latest",
                "tree",
                "ls /mnt/image/hidden",
                "upper\n",
            ),
            (
                "file",
                "tree:latest",
                "tree/kept",
                "cat /mnt/image",
                "kept\n",
            ),
            // Links are the image's own, wherever they point.
            (
                "link",
                "tree:latest",
                "tree/absolute",
                "cat /mnt/image",
                "kept\n",
            ),
            (
                "out",
                "volumes:latest",
                "srv/out",
                "cat /mnt/image/passwd | head -n 1 | cut -d : -f 1",
                "root\n",
            ),
        ] {
            let id = node
                .start_container(&pod, &with(name, image_mount(image, sub_path)))
                .await?;
            let seen = cri.sh(&id, script).await?;
            ensure!(seen == wanted, "{name}: {seen:?}");
        }
        for (name, sub_path) in [
            ("none", "no/such"),
            ("in-file", "tree/kept/x"),
            ("device", "tree/null"),
        ] {
            let config = with(name, image_mount("tree:latest", sub_path));
            let message = refused(
                cri.create(&pod.id, &config, &pod.config).await,
                Code::FailedPrecondition,
            )?;
            ensure!(
                message.starts_with("ImageVolumeMountFailed: ") && message.contains(sub_path),
                "{message}"
            );
        }
        for (name, sub_path) in [("up", "../x"), ("absolute", "/tree")] {
            let config = with(name, image_mount("tree:latest", sub_path));
            let message = refused(
                cri.create(&pod.id, &config, &pod.config).await,
                Code::InvalidArgument,
            )?;
            ensure!(message.contains("image_sub_path"), "{message}");
        }
        Ok(())
    });
}

#[test]
fn a_writable_image_volume_and_one_of_an_absent_image_are_refused() {
    world!(async |node| {
        images(node).await?;
        let pod = node.run_pod("refused").await?;
        let mut mount = image_mount("tree:latest", "");
        mount.readonly = false;
        let message = refused(
            node.cri()
                .create(&pod.id, &with("w", mount), &pod.config)
                .await,
            Code::InvalidArgument,
        )?;
        ensure!(message.contains("mounts[0].readonly"), "{message}");
        let config = with("absent", image_mount("no/such:image", ""));
        let message = refused(
            node.cri().create(&pod.id, &config, &pod.config).await,
            Code::FailedPrecondition,
        )?;
        ensure!(
            message.starts_with("ImageVolumeMountFailed: ") && message.contains("no/such:image"),
            "{message}"
        );
        Ok(())
    });
}

#[test]
fn an_image_volume_stays_when_its_image_is_removed_and_the_server_restarted() {
    world!(async |node| {
        images(node).await?;
        let cri = node.cri();
        let pod = node.run_pod("stays").await?;
        let id = node
            .start_container(&pod, &with("c", image_mount("tree:latest", "tree")))
            .await?;
        cri.remove_image(&registry::name("tree:latest")).await?;
        let read = "cat /mnt/image/kept /mnt/image/hidden/upper";
        ensure!(cri.sh(&id, read).await? == "kept\nupper\n");
        node.kill_server()?;
        node.start_server().await?;
        let cri = node.cri();
        ensure!(cri.sh(&id, read).await? == "kept\nupper\n");
        // A process that reads what it has not read before still finds the files on the disk.
        ensure!(cri.sh(&id, "cat /mnt/image/replaced").await? == "upper\n");
        cri.remove(&id).await?;
        let config = with("again", image_mount("tree:latest", "tree"));
        let answer = cri.create(&pod.id, &config, &pod.config).await;
        let message = refused(answer, Code::FailedPrecondition)?;
        ensure!(message.contains("pull it first"), "{message}");
        Ok(())
    });
}

/// The id that an artifact has.
fn id_of_artifact(tag: &str) -> Result<String> {
    let all = registry::artifacts();
    let found = all.into_iter().find(|(other, _)| *other == tag);
    let (_, files) = found.context("no such artifact")?;
    Ok(Image::artifact(&files)?.manifest.digest)
}

#[test]
fn an_artifact_is_pulled_listed_mounted_and_removed() {
    world!(async |node| {
        node.image("busybox:latest").await?;
        let cri = node.cri();
        let name = registry::name("artifact:latest");
        let wanted = id_of_artifact("latest")?;
        let id = cri.pull(&name).await?;
        ensure!(id == wanted, "{id}");
        let listed = cri.all_images().await?;
        let image = listed.iter().find(|image| image.id == wanted);
        let image = image.context("the artifact is not listed")?;
        ensure!(image.repo_tags == [name.as_str()], "{image:?}");
        let by_digest = format!("{}@{wanted}", registry::name("artifact"));
        ensure!(image.repo_digests == [by_digest.as_str()], "{image:?}");
        ensure!(image.size > 0, "{image:?}");

        let pod = node.run_pod("artifact").await?;
        let id = node
            .start_container(&pod, &with("c", image_mount("artifact:latest", "")))
            .await?;
        let script = "cd /mnt/image; find . -type f | sort; cat card.md models/weights.bin";
        let seen = cri.sh(&id, script).await?;
        let files = "./card.md\n./models/run.sh\n./models/weights.bin\ncard\nweights\n";
        ensure!(seen == files, "{seen:?}");
        let forbidden = [
            "echo x > /mnt/image/card.md",
            "touch /mnt/image/models/new",
            "rm /mnt/image/card.md",
            // Nobody said that it is a program.
            "/mnt/image/models/run.sh",
        ];
        none_succeeds(&cri, &id, &forbidden).await?;
        let told = told_image(&cri, &id).await?;
        ensure!(told.image_ref == wanted, "{told:?}");

        // Its files stay for who has them mounted, over a restart as well.
        cri.remove_image(&name).await?;
        node.kill_server()?;
        node.start_server().await?;
        let cri = node.cri();
        ensure!(cri.image(&name).await?.is_none());
        ensure!(
            cri.sh(&id, "cat /mnt/image/models/run.sh")
                .await?
                .contains("echo ran")
        );
        let message = refused(
            cri.create(
                &pod.id,
                &with("late", image_mount("artifact:latest", "")),
                &pod.config,
            )
            .await,
            Code::FailedPrecondition,
        )?;
        ensure!(message.contains("pull it first"), "{message}");
        Ok(())
    });
}

#[test]
fn a_path_inside_an_artifact_is_mounted() {
    world!(async |node| {
        node.image("busybox:latest").await?;
        node.image("artifact:latest").await?;
        let cri = node.cri();
        let pod = node.run_pod("below").await?;
        for (name, sub_path, script, wanted) in [
            ("dir", "models", "ls /mnt/image", "run.sh\nweights.bin\n"),
            ("file", "card.md", "cat /mnt/image", "card\n"),
        ] {
            let mount = image_mount("artifact:latest", sub_path);
            let id = node.start_container(&pod, &with(name, mount)).await?;
            let seen = cri.sh(&id, script).await?;
            ensure!(seen == wanted, "{name}: {seen:?}");
        }
        let config = with("none", image_mount("artifact:latest", "weights"));
        let message = refused(
            cri.create(&pod.id, &config, &pod.config).await,
            Code::FailedPrecondition,
        )?;
        ensure!(
            message.starts_with("ImageVolumeMountFailed: ") && message.contains("\"weights\""),
            "{message}"
        );
        Ok(())
    });
}

#[test]
fn an_artifact_is_no_image_to_run() {
    world!(async |node| {
        let name = node.image("artifact:latest").await?;
        let pod = node.run_pod("run").await?;
        let config = node::container_of("artifact:latest", "c", &["/card.md"]);
        let answer = node.cri().create(&pod.id, &config, &pod.config).await;
        let message = refused(answer, Code::FailedPrecondition)?;
        let wanted =
            format!("{name} is an OCI artifact, it can only be mounted as an image volume");
        ensure!(message == wanted, "{message}");
        Ok(())
    });
}

/// They read the same file of the node: what one pod has read is in memory for all.
#[test]
fn pods_share_the_files_of_a_volume() {
    world!(async |node| {
        node.image("busybox:latest").await?;
        for tag in ["latest", "other"] {
            node.image(&format!("artifact:{tag}")).await?;
        }
        let cri = node.cri();
        let mut seen = Vec::new();
        for (name, image) in [("one", "latest"), ("two", "latest"), ("three", "other")] {
            let pod = node.run_pod(name).await?;
            let mount = image_mount(&format!("artifact:{image}"), "");
            let id = node.start_container(&pod, &with("c", mount)).await?;
            // An overlay tells the numbers of the files below it.
            seen.push(
                cri.sh(&id, "stat -c %i:%s /mnt/image/models/weights.bin")
                    .await?,
            );
        }
        ensure!(seen[0] == seen[1] && seen[1] == seen[2], "{seen:?}");
        Ok(())
    });
}

#[test]
fn a_pod_uses_only_images_that_its_namespace_permits() {
    const POLICIES: &str = "/run/test/policies";
    let config = json!({ "image": { "signature_policy_dir": POLICIES } });
    world!(Setup::default().config(config), async |node| {
        // Here already, pulled for anybody.
        let id_of_image = images(node).await?;
        let policy = json!({
            "default": [{ "type": "insecureAcceptAnything" }],
            "transports": { "docker": { registry::name("tree"): [{ "type": "reject" }] } },
        });
        std::fs::create_dir_all(POLICIES)?;
        world::write(format!("{POLICIES}/closed.json"), policy.to_string())?;
        let run_in = async |namespace: &str| {
            let mut config = node.pod_config(namespace)?;
            config
                .metadata
                .get_or_insert_default()
                .namespace
                .replace_range(.., namespace);
            node.run_pod_as(config).await
        };
        let (open, closed) = (run_in("open").await?, run_in("closed").await?);
        // The kubelet names an image by its id, beside what the user wrote.
        let mut volume = image_mount("tree:latest", "");
        let spec = volume.image.get_or_insert_default();
        spec.image.clone_from(&id_of_image);
        let mounting = with("c", volume);
        let mut running = node::container("r", node::SLEEP);
        running.image = Some(image_spec(&registry::name("tree:latest")));
        let plain = node::container("plain", node::SLEEP);
        for (pod, config, permitted) in [
            (&open, &mounting, true),
            (&open, &plain, true),
            (&closed, &plain, true),
            (&closed, &mounting, false),
            (&closed, &running, false),
        ] {
            let made = node.cri().create(&pod.id, config, &pod.config).await;
            if permitted {
                made?;
                continue;
            }
            let words = refused(made, Code::Unknown)?;
            ensure!(
                words.starts_with("SignatureValidationFailed: ")
                    && words.contains(&registry::name("tree:latest"))
                    && words.contains("closed.json"),
                "{words}"
            );
        }
        // The operator changes it, and the kubelet's next attempt is as good as any.
        std::fs::remove_file(format!("{POLICIES}/closed.json"))?;
        node.start_container(&closed, &mounting).await?;
        Ok(())
    });
}
