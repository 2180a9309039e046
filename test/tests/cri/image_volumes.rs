//! Images as volumes: what is seen of them, what is refused, and how long they stay.

use anyhow::{Result, ensure};
use api::cri;
use pintle_test::{
    cri::{image_spec, refused},
    node::{self, Node},
    registry, world,
};
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
        for forbidden in [
            "touch /mnt/image/new",
            "rm /mnt/image/tree/kept",
            "mount -o remount,rw /mnt/image",
            "echo x > /mnt/image/tree/null",
        ] {
            let answer = cri.exec(&id, &["sh", "-c", forbidden], 60).await?;
            ensure!(answer.exit_code != 0, "{forbidden} succeeded");
        }
        let status = cri.status(&id).await?;
        let told = status
            .mounts
            .iter()
            .find(|mount| mount.container_path == "/mnt/image");
        let told = told
            .and_then(|mount| mount.image.clone())
            .unwrap_or_default();
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
