//! A disk that is full: a clear error, nothing left, and room again after a removal. The small disk is a tmpfs in a
//! mount namespace of its own, in which this test runs itself again.

use std::process::Command;

use image::ImageError;

use crate::faulty::Faulty;
use crate::node::Node;
use crate::published::{Published, noise};

const INSIDE: &str = "PINTLE_TEST_INSIDE_MOUNT_NAMESPACE";

#[test]
fn a_full_disk() {
    if std::env::var_os(INSIDE).is_some() {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(fill());
        return;
    }
    let output = Command::new("unshare")
        .arg("--mount")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "disk_full::a_full_disk", "--nocapture"])
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
