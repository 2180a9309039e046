//! A disk that is full: a clear error, nothing left, and room again after a removal. The small disk is a tmpfs in a
//! mount namespace of its own, in which this test runs itself again.

use std::future::Future;
use std::process::Command;

use image::ImageError;

use crate::faulty::Faulty;
use crate::node::{Node, mount_small_disk};
use crate::prune::docker_archive;
use crate::published::{Published, noise};

const INSIDE: &str = "PINTLE_TEST_INSIDE_MOUNT_NAMESPACE";

#[test]
fn a_full_disk() {
    in_own_mounts("disk_full::a_full_disk", fill());
}

#[test]
fn a_disk_that_is_full_when_an_archive_is_spooled() {
    in_own_mounts(
        "disk_full::a_disk_that_is_full_when_an_archive_is_spooled",
        spool(),
    );
}

#[test]
fn a_disk_that_is_full_when_layers_get_their_places() {
    in_own_mounts(
        "disk_full::a_disk_that_is_full_when_layers_get_their_places",
        place(),
    );
}

#[test]
fn a_disk_that_is_full_when_the_image_is_recorded() {
    in_own_mounts(
        "disk_full::a_disk_that_is_full_when_the_image_is_recorded",
        record(),
    );
}

fn in_own_mounts(test: &str, body: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(body);
        return;
    }
    let output = Command::new("unshare")
        .arg("--mount")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn fill() {
    let small = Published::of_files(&[("small", &noise(1, 1 << 20))]);
    let large = Published::of_files(&[("some", &noise(2, 1 << 20)), ("much", &noise(3, 8 << 20))]);
    let registry = Faulty::holding(&[("small", &small), ("large", &large)], |_| None).await;
    let node = Node::on_small_disk(&[&registry.host], "size=4m");
    node.images.sweep().await.unwrap();

    let error = node
        .pull(&registry.reference("app:large"))
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::DiskFull { .. }), "{error:?}");
    node.assert_untouched().await;

    let pulled = node.pull(&registry.reference("app:small")).await.unwrap();
    assert_eq!(node.read(&pulled, "small").unwrap().len(), 1 << 20);
    let error = node
        .pull(&registry.reference("app:large"))
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::DiskFull { .. }), "{error:?}");
    assert_eq!(node.images.list().len(), 1);
    assert!(node.leftovers().await.is_empty());
    node.images.remove(pulled.id.as_str()).await.unwrap();
    node.assert_untouched().await;
}

/// An archive on standard input is put down on the disk, before anything of it is unpacked.
async fn spool() {
    let small = Published::of_files(&[("small", &noise(1, 1 << 20))]);
    let large = Published::of_files(&[("large", &noise(2, 8 << 20))]);
    let node = Node::on_small_disk(&[], "size=4m");
    node.images.sweep().await.unwrap();
    let import = async |image: &Published| {
        // A reader of which nothing is known but that it can be read.
        let archive = std::io::Cursor::new(docker_archive(image, "app:1"));
        node.images
            .import(tokio::io::BufReader::new(archive), &[])
            .await
    };
    let error = import(&large).await.unwrap_err();
    assert!(matches!(error, ImageError::DiskFull { .. }), "{error:?}");
    node.assert_untouched().await;
    import(&small).await.unwrap();
    assert_eq!(node.images.list().len(), 1);
}

/// Room for bytes, but not for inodes, of which there is one more at each try: so every step is the one that fails.
async fn place() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = Faulty::holding(&[("1", &image)], |_| None).await;
    let node = Node::on_small_disk(&[&registry.host], "size=4m,nr_inodes=64");
    node.images.sweep().await.unwrap();
    let mut fillers = Vec::new();
    loop {
        let filler = node.root().join(format!("filler-{}", fillers.len()));
        match std::fs::write(&filler, "") {
            Ok(()) => fillers.push(filler),
            Err(_) => break,
        }
    }
    // From no inode for a layer up to one too few: all that is made is taken back at each of them.
    let name = registry.reference("app:1");
    let mut failures = 0;
    for filler in fillers {
        match node.pull(&name).await {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, ImageError::DiskFull { .. }), "{error:?}"),
        }
        node.assert_untouched().await;
        failures += 1;
        std::fs::remove_file(filler).unwrap();
    }
    assert!(failures > 3, "{failures}");
    assert_eq!(node.images.list().len(), 1);
}

/// The database has a small disk of its own, on which room ends before an image's record does.
async fn record() {
    let image = Published::of_files(&[("a", b"1"), ("b", b"2")]);
    let registry = Faulty::holding(&[("1", &image)], |_| None).await;
    let layers = tempfile::tempdir().unwrap();
    let mut filler = std::path::PathBuf::new();
    let node = Node::with(&[&registry.host], |config| {
        let folder = config.root.parent().unwrap();
        mount_small_disk(folder, "size=1m");
        filler = folder.join("filler");
        layers.path().clone_into(&mut config.root);
        config.temp_dir = layers.path().join("tmp");
    });
    node.images.sweep().await.unwrap();
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write(&mut file, &[0; 4096]).is_ok_and(|count| count > 0) {}
    let name = registry.reference("app:1");
    let error = node.pull(&name).await.unwrap_err();
    assert!(matches!(error, ImageError::DiskFull { .. }), "{error:?}");
    node.assert_untouched().await;
    drop(file);
    std::fs::remove_file(filler).unwrap();
    let pulled = node.pull(&name).await.unwrap();
    assert_eq!(node.read(&pulled, "b").unwrap(), b"2");
    node.images.remove(pulled.id.as_str()).await.unwrap();
    node.assert_untouched().await;
}
