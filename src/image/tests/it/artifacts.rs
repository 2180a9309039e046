//! OCI artifacts: what their blobs become, and that they live and go as images do.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{ArchiveFormat, ImageError, ImageKind};
use serde_json::json;
use state::Digest;

use crate::faulty::{Faulty, Reply};
use crate::node::Node;
use crate::published::{Packing, Published, noise, pack, tar_of};
use crate::real_registry::RealRegistry;

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_files_as_they_are() {
    let registry = RealRegistry::start();
    let model = noise(1, 700_000);
    let archive = pack(&tar_of(&[("inner", b"x")]), Packing::Gzip);
    let nameless = b"nameless".as_slice();
    let artifact = Published::artifact(&[
        (Some("models/large/model.bin"), &model),
        (Some("models/card.md"), b"# card"),
        (Some("folder"), &archive),
        (Some(".wh.models"), b""),
        (None, nameless),
    ]);
    registry.push("models", "1", &artifact).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let name = registry.reference("models:1");
    let pulled = node.pull(&name).await.unwrap();

    assert_eq!(pulled.kind, ImageKind::Artifact);
    assert_eq!(pulled.id.digest(), &artifact.digest());
    assert_eq!(pulled.manifest_digest, Some(artifact.digest()));
    assert_eq!(pulled.repo_tags, [name.as_str()]);
    let by_digest = registry.reference(&format!("models@{}", artifact.digest()));
    assert_eq!(pulled.repo_digests, [by_digest.as_str()]);
    assert_eq!(
        node.images.document(&pulled).await.unwrap(),
        artifact.manifest
    );
    for name in [
        &name,
        &by_digest,
        pulled.id.as_str(),
        &pulled.id.hex()[..12],
    ] {
        assert!(Arc::ptr_eq(&node.images.get(name).unwrap(), &pulled));
    }

    let read = |path: &str| node.read(&pulled, path).unwrap();
    assert!(read("models/large/model.bin") == model);
    assert_eq!(read("models/card.md"), b"# card");
    assert!(read("folder") == archive, "it was unpacked");
    assert_eq!(read(".wh.models"), b"");
    assert_eq!(read(Digest::sha256_of(nameless).hex()), nameless);

    // All that it takes, and nothing else is here.
    let usage = node.images.usage();
    let manifest = artifact.manifest.len() as u64;
    assert_eq!(pulled.size_bytes, usage.bytes + manifest);
    assert!(usage.bytes >= model.len() as u64);
    assert!(node.leftovers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_stay_over_a_restart_and_go_when_they_are_removed() {
    let registry = RealRegistry::start();
    let artifact = Published::artifact(&[(Some("a"), b"one"), (Some("b/c"), b"two")]);
    registry.push("x", "1", &artifact).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let name = registry.reference("x:1");
    let before = node.pull(&name).await.unwrap();

    let node = node.restart().await;
    let image = node.images.get(&name).unwrap();
    assert_eq!(image.kind, ImageKind::Artifact);
    assert_eq!(image.layers, before.layers);
    assert_eq!(image.size_bytes, before.size_bytes);
    assert_eq!(node.read(&image, "b/c").unwrap(), b"two");
    node.images.sweep().await.unwrap();
    assert_eq!(node.layers_on_disk().len(), 2);

    // A container that mounts it keeps its files, whatever becomes of it.
    let lease = node.images.lease(&image.id).unwrap();
    node.images.remove(&name).await.unwrap();
    assert!(node.images.get(&name).is_none());
    assert!(node.images.list().is_empty());
    assert_eq!(node.read(&image, "a").unwrap(), b"one");
    drop(lease);
    node.images.sweep().await.unwrap();
    assert_eq!(node.layers_on_disk(), Vec::<PathBuf>::new());
    assert!(node.leftovers().await.is_empty());
    assert_eq!(node.images.usage().bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_files_are_fetched_and_stored_once() {
    let weights = noise(2, 100_000);
    let first = Published::artifact(&[(Some("weights"), &weights), (Some("card"), b"1")]);
    let second = Published::artifact(&[(Some("weights"), &weights), (Some("card"), b"2")]);
    // The same blob under another name is another file.
    let third = Published::artifact(&[(Some("other"), &weights)]);
    let fetched = Arc::new(AtomicUsize::new(0));
    let blob = first.layer_digest(0).to_string();
    let counted = Arc::clone(&fetched);
    let images = [("1", &first), ("2", &second), ("3", &third)];
    let registry = Faulty::holding(&images, move |seen| {
        if seen.path.contains("/blobs/") && seen.path.ends_with(&blob) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        None
    })
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.images.sweep().await.unwrap();
    let one = node.pull(&registry.reference("app:1")).await.unwrap();
    let two = node.pull(&registry.reference("app:2")).await.unwrap();
    assert_eq!(fetched.load(Ordering::SeqCst), 1);
    assert_eq!(one.layers[0], two.layers[0]);
    assert_eq!(node.layers_on_disk().len(), 3);
    let three = node.pull(&registry.reference("app:3")).await.unwrap();
    assert_eq!(fetched.load(Ordering::SeqCst), 2);
    assert!(node.read(&three, "other").unwrap() == weights);

    // What one gives up, the other still has.
    node.images.remove(one.id.as_str()).await.unwrap();
    assert!(node.read(&two, "weights").unwrap() == weights);
    assert_eq!(node.layers_on_disk().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_leads_to_an_artifact() {
    let registry = RealRegistry::start();
    let artifact = Published::artifact(&[(Some("a"), b"1")]);
    for blob in artifact.blobs() {
        registry.push_blob("x", &blob).await;
    }
    let kind = artifact.manifest_type;
    let digest = artifact.digest().to_string();
    registry
        .push_manifest("x", &digest, &artifact.manifest, kind)
        .await;
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": [{
        "mediaType": kind, "digest": digest, "size": artifact.manifest.len(),
        "artifactType": "application/x.test",
    }]});
    let index = index.to_string().into_bytes();
    registry.push_manifest("x", "1", &index, index_type).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let pulled = node.pull(&registry.reference("x:1")).await.unwrap();
    assert_eq!(pulled.id.digest(), &artifact.digest());
    let of_index = Digest::sha256_of(&index);
    assert_eq!(
        pulled.repo_digests,
        [registry.reference(&format!("x@{of_index}"))]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_artifacts_leave_nothing() {
    let good = Published::artifact(&[(Some("a"), b"content"), (Some("b"), b"b")]);
    let upwards = Published::artifact(&[(Some("a"), b"1"), (Some("../../x"), b"2")]);
    let twice = Published::artifact(&[(Some("a"), b"1"), (Some("./a"), b"2")]);
    let blob = good.layer_digest(0).to_string();
    let images = [("good", &good), ("upwards", &upwards), ("twice", &twice)];
    let registry = Faulty::holding(&images, move |seen| {
        let wrong = seen.path.ends_with(&blob);
        wrong.then(|| Reply::ok(b"CONTENT".to_vec()))
    })
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    for (tag, words) in [
        ("good", "digest"),
        ("upwards", "leads upwards"),
        ("twice", "two of its blobs have the file name \"a\""),
    ] {
        let error = node.pull(&registry.reference(&format!("app:{tag}"))).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        node.assert_untouched().await;
    }
    let node = Node::with(&[&registry.host], |config| config.limits.layers = 1);
    let error = node
        .pull(&registry.reference("app:good"))
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
    let node = Node::with(&[&registry.host], |config| {
        config.limits.unpack.bytes = 5;
    });
    let error = node.pull(&registry.reference("app:twice")).await;
    assert!(error.is_err());
    node.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_not_exported_as_an_image() {
    let artifact = Published::artifact(&[(Some("a"), b"1")]);
    let registry = Faulty::holding(&[("1", &artifact)], |_| None).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let name = registry.reference("app:1");
    node.pull(&name).await.unwrap();
    let exported = node
        .images
        .export(&name, tokio::io::sink(), ArchiveFormat::Oci)
        .await;
    let error = exported.unwrap_err();
    assert!(matches!(error, ImageError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("OCI artifact"), "{error}");
}
