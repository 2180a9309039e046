//! Registries whose manifests, indexes and configurations lie, never end or are something else.

use std::sync::atomic::{AtomicUsize, Ordering};

use image::ImageError;
use serde_json::json;

use crate::bad_registry::{fails_with, on, sample};
use crate::faulty::{Faulty, Reply, Seen};
use crate::node::Node;
use crate::published::{Family, Packing, Published, tar_of};

#[tokio::test(flavor = "multi_thread")]
async fn configurations_that_lie() {
    let tars = || vec![tar_of(&[("a", b"1")]), tar_of(&[("b", b"2")])];
    let diff = |tar: &[u8]| state::Digest::sha256_of(tar).to_string();
    // The layers' contents swapped.
    let swapped = json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"diff_ids": [diff(&tars()[1]), diff(&tars()[0])]}});
    // One layer less than the manifest has.
    let short =
        json!({"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [diff(&tars()[0])]}});
    for config in [
        swapped.to_string(),
        short.to_string(),
        "[]".into(),
        "not json".into(),
    ] {
        let image = Published::with_config(
            tars(),
            Packing::Gzip,
            Family::Oci,
            config.clone().into_bytes(),
        );
        let (error, _) = fails_with(&image, |_| None, |_| {}).await;
        assert!(
            matches!(error, ImageError::Corrupt { .. }),
            "{config}: {error:?}"
        );
    }
    // Another configuration than the one asked for.
    let image = sample();
    let digest = image.id().to_string();
    let forged = String::from_utf8(image.config.clone())
        .unwrap()
        .replace("linux", "l1nux");
    let fault = move |seen: &Seen| {
        seen.path
            .contains(&digest)
            .then(|| Reply::ok(forged.clone()))
    };
    let (error, _) = fails_with(&image, fault, |_| {}).await;
    assert!(matches!(error, ImageError::Corrupt { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_lie() {
    let image = sample();
    let forged = Published::of_files(&[("evil", b"x")]);
    let registry = Faulty::holding(&[], {
        let manifest = forged.manifest.clone();
        move |_| Some(Reply::ok(manifest.clone()))
    })
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let error = node
        .pull(&registry.reference(&format!("app@{}", image.digest())))
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Corrupt { .. }), "{error:?}");
    assert!(
        error.to_string().contains(image.digest().as_str()),
        "{error}"
    );

    let digest = image.digest().to_string();
    let manifest = forged.manifest.clone();
    let fault = move |seen: &Seen| {
        let headers = vec![("Docker-Content-Digest", digest.clone())];
        seen.path
            .contains("/manifests/")
            .then(|| Reply::Full(200, headers, manifest.clone()))
    };
    let (error, _) = fails_with(&image, fault, |_| {}).await;
    assert!(matches!(error, ImageError::Corrupt { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_manifests_and_configurations() {
    let endless = || vec![b' '; 50 << 20];
    for part in ["/manifests/", "/blobs/"] {
        for reply in [Reply::ok, Reply::Chunked] {
            let (error, _) =
                fails_with(&sample(), on(part, move || reply(endless())), |_| {}).await;
            let corrupt_or_large = matches!(
                error,
                ImageError::TooLarge { .. } | ImageError::Corrupt { .. }
            );
            assert!(corrupt_or_large, "{part}: {error:?}");
        }
    }
    let (error, _) = fails_with(
        &sample(),
        |_| None,
        |config| config.limits.layer_bytes = 1000,
    )
    .await;
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_other_kinds() {
    for (document, word) in [
        (json!({"schemaVersion": 1, "fsLayers": []}), "schema 1"),
        (json!({"schemaVersion": 2}), "neither"),
        (
            json!({"manifests": [{"digest": format!("sha256:{}", "a".repeat(64)), "size": 3,
            "platform": {"os": "linux", "architecture": "s390x"}}]}),
            "linux/s390x",
        ),
        (
            json!({"config": {"mediaType": "application/vnd.oci.empty.v1+json",
            "digest": format!("sha256:{}", "a".repeat(64)), "size": 2}, "layers": [
                {"mediaType": "text/plain", "digest": format!("sha256:{}", "b".repeat(64)), "size": 3,
                "annotations": {"org.opencontainers.image.title": "../../etc/passwd"}}]}),
            "leads upwards",
        ),
    ] {
        let body = document.to_string();
        let (error, _) = fails_with(
            &sample(),
            on("/manifests/", move || Reply::ok(body.clone())),
            |_| {},
        )
        .await;
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_contains_itself() {
    let depth = AtomicUsize::new(0);
    let fault = move |seen: &Seen| {
        if !seen.path.contains("/manifests/") {
            return None;
        }
        // Each index names the next one, by its true digest, without an end in sight.
        let index = |level: usize| {
            let mut document = json!({"manifests": []});
            for n in (level..12).rev() {
                let inner = document.to_string();
                document = json!({"n": n, "manifests": [{
                    "mediaType": "application/vnd.oci.image.index.v1+json",
                    "digest": state::Digest::sha256_of(inner.as_bytes()), "size": inner.len()}]});
            }
            document.to_string()
        };
        Some(Reply::ok(index(depth.fetch_add(1, Ordering::SeqCst))))
    };
    let (error, _) = fails_with(&sample(), fault, |_| {}).await;
    assert!(error.to_string().contains("deep"), "{error}");
}
