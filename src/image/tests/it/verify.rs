//! Damaged layers are found, and only they are fetched again; containers keep what they have.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use image::{DamagedLayer, Image, ImageError, Verified, VerifySummary};
use tokio::sync::mpsc;

use crate::faulty::Faulty;
use crate::node::Node;
use crate::published::{Published, noise};

/// What is told in the course of it, and the end.
async fn verify(
    node: &Node,
    images: Option<Vec<Arc<Image>>>,
    repair: bool,
) -> (Vec<DamagedLayer>, VerifySummary) {
    let (told, mut news) = mpsc::channel(100);
    let summary = node.images.verify(images, repair, &told).await.unwrap();
    drop(told);
    let mut damaged = Vec::new();
    let mut layers = 0;
    let mut end = None;
    while let Some(news) = news.recv().await {
        match news {
            Verified::Layer { done, total, .. } => {
                assert_eq!(done, layers);
                assert!(done < total);
                layers += 1;
            }
            Verified::Damaged(layer) => damaged.push(layer),
            Verified::End(told) => end = Some(told),
        }
    }
    assert_eq!(end, Some(summary));
    assert_eq!(summary.layers, layers);
    assert_eq!(summary.damaged as usize, damaged.len());
    (damaged, summary)
}

fn layer(node: &Node, image: &Image, position: usize) -> PathBuf {
    let layers = node.root().join("layers");
    layers.join(image.layers[position].hex())
}

fn retired(node: &Node) -> usize {
    std::fs::read_dir(node.root().join("retired"))
        .unwrap()
        .count()
}

async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..100 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it does not come to pass");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_layers_alone_are_fetched_again_and_leases_keep_theirs() {
    let image = Published::of_files(&[
        ("a", &noise(1, 10_000)),
        ("b", &noise(2, 10_000)),
        ("c", &noise(3, 10_000)),
    ]);
    let registry = Faulty::holding(&[("1", &image)], |_| None).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.images.sweep().await.unwrap();
    let pulled = node.pull(&registry.reference("app:1")).await.unwrap();
    let whole = VerifySummary {
        layers: 3,
        ..VerifySummary::default()
    };
    assert_eq!(verify(&node, None, true).await.1, whole);

    let usage = node.images.usage();
    let lease = node.images.lease(&pulled.id).unwrap();
    std::fs::write(layer(&node, &pulled, 1).join("b"), "evil").unwrap();
    std::fs::remove_file(layer(&node, &pulled, 2).join("c")).unwrap();
    let (damaged, summary) = verify(&node, Some(vec![Arc::clone(&pulled)]), false).await;
    assert_eq!((summary.damaged, summary.mended), (2, 0));
    assert_eq!(damaged[0].chain, pulled.layers[1]);
    assert_eq!(damaged[0].images, [registry.reference("app:1")]);
    assert!(damaged[1].findings[0].contains('c'), "{damaged:?}");
    assert!(damaged.iter().all(|layer| layer.mended.is_none()));

    let before = registry.gets("/blobs/");
    let (damaged, summary) = verify(&node, None, true).await;
    assert_eq!((summary.damaged, summary.mended), (2, 2), "{damaged:?}");
    assert_eq!(registry.gets("/blobs/"), before + 2);
    assert_eq!(node.read(&pulled, "b").unwrap(), noise(2, 10_000));
    assert_eq!(node.read(&pulled, "c").unwrap(), noise(3, 10_000));
    assert_eq!(verify(&node, None, false).await.1, whole);
    assert_eq!(node.images.usage(), usage);
    assert!(node.leftovers().await.is_empty());
    // The lease is older than the repair. One that is younger needs nothing of the old.
    let younger = node.images.lease(&pulled.id).unwrap();
    assert_eq!(retired(&node), 2);
    drop(younger);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(retired(&node), 2);

    // A new server does not know when the lease was taken.
    let layers = lease.layers().to_vec();
    std::mem::forget(lease);
    let node = node.restart().await;
    let lease = node.images.lease_layers(&layers);
    node.images.sweep().await.unwrap();
    assert_eq!(retired(&node), 2);
    assert_eq!(node.images.usage(), usage);
    drop(lease);
    until(|| retired(&node) == 0).await;
    assert_eq!(verify(&node, None, false).await.1, whole);
    node.images.remove(pulled.id.as_str()).await.unwrap();
    node.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_leased_goes_at_once() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = Faulty::holding(&[("1", &image)], |_| None).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.images.sweep().await.unwrap();
    let pulled = node.pull(&registry.reference("app:1")).await.unwrap();
    std::fs::write(layer(&node, &pulled, 0).join("x"), "").unwrap();
    assert_eq!(verify(&node, None, true).await.1.mended, 1);
    until(|| retired(&node) == 0).await;
    assert!(node.leftovers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mended_says_why() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = Faulty::holding(&[("1", &image)], |_| None).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.images.sweep().await.unwrap();
    let pulled = node.pull(&registry.reference("app:1")).await.unwrap();
    let lease = node.images.lease(&pulled.id).unwrap();
    std::fs::remove_file(layer(&node, &pulled, 0).join("a")).unwrap();
    drop(registry);
    let (damaged, summary) = verify(&node, None, true).await;
    assert_eq!((summary.damaged, summary.mended), (1, 0));
    let mended = damaged[0].mended.as_ref().unwrap();
    assert!(
        matches!(mended, Err(ImageError::RegistryUnavailable { .. })),
        "{mended:?}"
    );
    node.images.remove(pulled.id.as_str()).await.unwrap();
    let (damaged, _) = verify(&node, None, true).await;
    let mended = damaged[0].mended.as_ref().unwrap();
    assert!(
        matches!(mended, Err(ImageError::Unsupported { .. })),
        "{mended:?}"
    );
    assert!(damaged[0].images.is_empty());
    drop(lease);
    until(|| node.layers_on_disk().is_empty()).await;
    node.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_when_nobody_listens() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = Faulty::holding(&[("1", &image)], |_| None).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.pull(&registry.reference("app:1")).await.unwrap();
    let (told, news) = mpsc::channel(1);
    drop(news);
    let error = node.images.verify(None, false, &told).await.unwrap_err();
    assert!(matches!(error, ImageError::Interrupted { .. }), "{error:?}");
}
