//! What stays and what goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use image::{ImageError, ImageLease};
use state::ChainId;

use crate::faulty::Faulty;
use crate::node::Node;
use crate::published::{Family, Packing, Published, noise, tar_of};

async fn registry_with(tags: &[(&str, &Published)]) -> Faulty {
    Faulty::holding(tags, |_| None).await
}

async fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    for _ in 0..100 {
        if holds() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_takes_every_name_and_layer() {
    let image = Published::of_files(&[("a", &noise(1, 100_000)), ("b", b"2")]);
    let registry = registry_with(&[("1", &image), ("2", &image)]).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.images.sweep().await.unwrap();
    node.pull(&registry.reference("app:1")).await.unwrap();
    node.pull(&registry.reference("app:2")).await.unwrap();
    let usage = node.images.usage();
    assert!(usage.bytes >= 100_000 && usage.inodes >= 2, "{usage:?}");
    assert_eq!(usage.mountpoint, node.root());
    node.images
        .remove(&registry.reference("app:2"))
        .await
        .unwrap();
    assert!(node.images.list().is_empty());
    assert!(node.images.get(&registry.reference("app:1")).is_none());
    node.assert_untouched().await;
    // Again, and things that never were.
    for name in [
        "app:2",
        "no/such:1",
        "sha256:abc",
        "0123456789ab",
        "BAD NAME",
        "",
    ] {
        node.images.remove(name).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_removals_all_succeed() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = registry_with(&[("1", &image)]).await;
    let node = Arc::new(Node::with_plain_hosts(&[&registry.host]));
    node.images.sweep().await.unwrap();
    for _ in 0..5 {
        let pulled = node.pull(&registry.reference("app:1")).await.unwrap();
        let removals: Vec<_> = (0..5)
            .map(|_| {
                let (node, id) = (Arc::clone(&node), pulled.id.to_string());
                tokio::spawn(async move { node.images.remove(&id).await })
            })
            .collect();
        for removal in removals {
            removal.await.unwrap().unwrap();
        }
        assert!(node.images.get(pulled.id.as_str()).is_none());
    }
    node.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_layers_stay_for_the_other_image() {
    let base = tar_of(&[("base", b"b")]);
    let with = |name: &str| {
        Published::of_tars(
            vec![base.clone(), tar_of(&[(name, b"x")])],
            Packing::Gzip,
            Family::Oci,
        )
    };
    let (one, two) = (with("one"), with("two"));
    let registry = registry_with(&[("one", &one), ("two", &two)]).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.images.sweep().await.unwrap();
    node.pull(&registry.reference("app:one")).await.unwrap();
    let second = node.pull(&registry.reference("app:two")).await.unwrap();
    assert_eq!(node.layers_on_disk().len(), 3);
    node.images
        .remove(&registry.reference("app:one"))
        .await
        .unwrap();
    assert_eq!(node.layers_on_disk().len(), 2);
    assert_eq!(node.read(&second, "base").unwrap(), b"b");
    node.images.remove(second.id.as_str()).await.unwrap();
    node.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_keeps_layers() {
    let image = Published::of_files(&[("a", b"1"), ("b", b"2")]);
    let registry = registry_with(&[("1", &image)]).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.images.sweep().await.unwrap();
    let name = registry.reference("app:1");
    let pulled = node.pull(&name).await.unwrap();
    let lease = node.images.lease(&pulled.id).unwrap();
    assert_eq!(lease.layers(), pulled.layers);
    node.images.remove(&name).await.unwrap();
    assert!(node.images.get(&name).is_none());
    assert!(node.images.lease(&pulled.id).is_none());
    assert_eq!(node.layers_on_disk().len(), 2);

    // Pulled again, nothing has to be fetched but the configuration.
    let blobs = registry.gets("/blobs/");
    node.pull(&name).await.unwrap();
    assert_eq!(registry.gets("/blobs/"), blobs + 1);
    drop(lease);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(node.layers_on_disk().len(), 2);

    let lease = node.images.lease(&pulled.id).unwrap();
    node.images.remove(&name).await.unwrap();
    drop(lease);
    assert!(eventually(|| node.layers_on_disk().is_empty()).await);
    node.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_leases_outlive_a_restart() {
    let kept = Published::of_files(&[("kept", b"1")]);
    let removed = Published::of_files(&[("removed", b"2")]);
    let registry = registry_with(&[("kept", &kept), ("removed", &removed)]).await;
    let node = Node::with(&[&registry.host], |config| {
        config.pinned = vec!["kept.example/x".parse().unwrap()];
    });
    node.images.sweep().await.unwrap();
    let first = node.pull(&registry.reference("app:kept")).await.unwrap();
    let other = node.pull(&registry.reference("app:removed")).await.unwrap();
    let lease: ImageLease = node.images.lease(&other.id).unwrap();
    let leased: Vec<ChainId> = lease.layers().to_vec();
    node.images.remove(other.id.as_str()).await.unwrap();
    let usage = node.images.usage();

    // The server dies with the lease held.
    let document = node.images.document(&first).await.unwrap();
    std::mem::forget(lease);
    let node = node.restart().await;
    assert_eq!(node.images.usage(), usage);
    let list = node.images.list();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].id, first.id);
    assert_eq!(list[0].repo_tags, first.repo_tags);
    assert_eq!(list[0].repo_digests, first.repo_digests);
    assert_eq!(list[0].size_bytes, first.size_bytes);
    assert_eq!(list[0].config, first.config);
    assert_eq!(node.images.document(&list[0]).await.unwrap(), document);
    assert_eq!(
        node.layers_on_disk().len(),
        2,
        "what looks unused may be leased"
    );
    let lease = node.images.lease_layers(&leased);
    assert!(lease.is_whole());
    node.images.sweep().await.unwrap();
    assert_eq!(node.layers_on_disk().len(), 2);
    drop(lease);
    assert!(eventually(|| node.layers_on_disk().len() == 1).await);

    let node = node.restart().await;
    assert!(!node.images.lease_layers(&leased).is_whole());
    node.images.remove(first.id.as_str()).await.unwrap();
    assert_eq!(node.layers_on_disk().len(), 1, "not before the sweep");
    node.images.sweep().await.unwrap();
    node.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_removed_while_it_is_pulled_again_is_whole_or_gone() {
    let image = Published::of_files(&[("a", b"1"), ("b", b"2"), ("c", b"3")]);
    let registry = registry_with(&[("1", &image)]).await;
    let node = Arc::new(Node::with_plain_hosts(&[&registry.host]));
    node.images.sweep().await.unwrap();
    let name = registry.reference("app:1");
    for _ in 0..30 {
        let pull = tokio::spawn({
            let (node, name) = (Arc::clone(&node), name.clone());
            async move { node.pull(&name).await.map(drop) }
        });
        let removal = tokio::spawn({
            let (node, id) = (Arc::clone(&node), image.id().to_string());
            async move { node.images.remove(&id).await }
        });
        pull.await.unwrap().unwrap();
        removal.await.unwrap().unwrap();
        if let Some(found) = node.images.get(&name) {
            for file in ["a", "b", "c"] {
                assert!(node.read(&found, file).is_some());
            }
        }
    }
    node.images.remove(image.id().as_str()).await.unwrap();
    node.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_names_are_bad_references() {
    let node = Node::with_plain_hosts(&[]);
    for name in ["", "UPPER", "a b", "http://x/y"] {
        let error = node.pull(name).await.unwrap_err();
        assert!(matches!(error, ImageError::BadReference(_)), "{error:?}");
        assert!(node.images.get(name).is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_images_say_so() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = registry_with(&[("1", &image)]).await;
    let name = registry.reference("pause:1");
    let node = Node::with(&[&registry.host], |config| {
        config.pinned = vec![name.parse().unwrap()];
    });
    assert!(node.pull(&name).await.unwrap().pinned);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_image_is_removed_when_it_is_asked_for() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = registry_with(&[("1", &image)]).await;
    let name = registry.reference("pause:1");
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.images.sweep().await.unwrap();
    assert!(!node.pull(&name).await.unwrap().pinned);
    let all = vec!["*".parse().unwrap()];
    node.images.set_pinned(all).await;
    assert!(node.images.get(&name).unwrap().pinned);
    node.images.remove(&name).await.unwrap();
    node.assert_untouched().await;
}

/// A removal is a few renames, however much there is to be deleted. Measured against the deletion itself, of a tree like it.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_does_not_wait_for_the_deletion() {
    let names: Vec<String> = (0..5_000).map(|n| format!("{}/{n}", n % 100)).collect();
    let files: Vec<(&str, &[u8])> = names
        .iter()
        .map(|name| (name.as_str(), b"some".as_slice()))
        .collect();
    let image = Published::of_tars(vec![tar_of(&files)], Packing::Gzip, Family::Oci);
    let registry = registry_with(&[("1", &image)]).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.images.sweep().await.unwrap();
    let name = registry.reference("app:1");
    // The best of three: other tests take the machine's time, too.
    let mut shortest = Duration::MAX;
    let mut deletion = Duration::MAX;
    for _ in 0..3 {
        node.pull(&name).await.unwrap();
        let start = Instant::now();
        node.images.remove(&name).await.unwrap();
        shortest = shortest.min(start.elapsed());
        assert!(node.layers_on_disk().is_empty());
        assert!(node.leftovers().await.is_empty());
        deletion = deletion.min(start.elapsed());
    }
    assert!(
        shortest * 2 < deletion,
        "{shortest:?} for the answer, {deletion:?} until all is deleted"
    );
}
