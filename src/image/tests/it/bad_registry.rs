//! What a bad registry gets: an error of the right kind, in time, and nothing left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use image::{ImageError, ImagesConfig};

use crate::faulty::{Faulty, Reply, Seen};
use crate::node::Node;
use crate::published::{Family, Packing, Published, noise, pack, tar_of};
use crate::real_registry::RealRegistry;

pub(crate) fn sample() -> Published {
    Published::of_files(&[("a", &noise(1, 50_000)), ("b", &noise(2, 50_000))])
}

/// Pulls `app:1` from a registry that holds `image` and has this fault, and expects to fail without a trace.
pub(crate) async fn fails_with(
    image: &Published,
    fault: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
    change: impl FnOnce(&mut ImagesConfig),
) -> (ImageError, Faulty) {
    let registry = Faulty::holding(&[("1", image)], fault).await;
    let node = Node::with(&[&registry.host], |config| {
        config.timeouts.header = Duration::from_secs(20);
        config.timeouts.stall = Duration::from_secs(20);
        config.attempts = 3;
        change(config);
    });
    // Far beyond what any of the faults may take, on a machine of any load.
    let pull = tokio::time::timeout(Duration::from_mins(2), async {
        node.pull(&registry.reference("app:1")).await
    });
    let error = pull.await.unwrap().unwrap_err();
    let text = error.to_string();
    assert!(text.len() < 500, "{text}");
    assert!(!text.contains('<') && !text.contains('\n'), "{text}");
    node.assert_untouched().await;
    (error, registry)
}

pub(crate) fn on(
    part: &'static str,
    reply: impl Fn() -> Reply + Send + Sync + 'static,
) -> impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static {
    move |seen| seen.path.contains(part).then(&reply)
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages() {
    for part in ["/manifests/", "/blobs/"] {
        for status in [200, 404, 403, 502] {
            let (error, _) =
                fails_with(&sample(), on(part, move || Reply::page(status)), |_| {}).await;
            let expected = match status {
                404 => matches!(error, ImageError::NotFound { .. }),
                403 => matches!(error, ImageError::Unauthorized { .. }),
                _ => matches!(error, ImageError::RegistryUnavailable { .. }),
            };
            assert!(expected, "{part} {status}: {error:?}");
            assert!(error.to_string().contains("web page"), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals() {
    let (error, registry) = fails_with(
        &sample(),
        on("/manifests/", || Reply::refusal(404, "MANIFEST_UNKNOWN")),
        |_| {},
    )
    .await;
    assert!(matches!(error, ImageError::NotFound { .. }), "{error:?}");
    assert!(error.to_string().contains("app:1"), "{error}");
    assert_eq!(registry.seen().len(), 1, "a plain no is not asked again");

    let (error, registry) = fails_with(
        &sample(),
        on("/manifests/", || Reply::refusal(401, "UNAUTHORIZED")),
        |_| {},
    )
    .await;
    assert!(
        matches!(error, ImageError::Unauthorized { .. }),
        "{error:?}"
    );
    assert_eq!(registry.seen().len(), 1);

    for status in [500, 502, 503, 504, 429] {
        let (error, registry) = fails_with(
            &sample(),
            on("/manifests/", move || Reply::status(status)),
            |_| {},
        )
        .await;
        assert!(
            matches!(error, ImageError::RegistryUnavailable { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert_eq!(registry.seen().len(), 3, "bounded attempts");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_waited_for() {
    let image = sample();
    for part in ["/manifests/", "/blobs/"] {
        let left = Arc::new(AtomicUsize::new(2));
        let registry = Faulty::holding(&[("1", &image)], move |seen| {
            let bad = seen.path.contains(part)
                && left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                    .is_ok();
            bad.then(|| Reply::Full(429, vec![("Retry-After", "0".into())], vec![]))
        })
        .await;
        let node = Node::with_plain_hosts(&[&registry.host]);
        node.pull(&registry.reference("app:1")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_retry_after_is_told_not_slept() {
    let (error, registry) = fails_with(
        &sample(),
        on("/manifests/", || {
            Reply::Full(429, vec![("Retry-After", "600".into())], vec![])
        }),
        |_| {},
    )
    .await;
    assert!(error.to_string().contains("600 s"), "{error}");
    assert_eq!(registry.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_stalls() {
    let impatient = |config: &mut ImagesConfig| {
        config.timeouts.header = Duration::from_millis(400);
        config.timeouts.stall = Duration::from_millis(400);
    };
    let (error, _) = fails_with(&sample(), on("/manifests/", || Reply::Silence), impatient).await;
    assert!(
        matches!(error, ImageError::RegistryUnavailable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("no answer"), "{error}");

    let image = sample();
    let layer = image.layers[0].clone();
    let digest = image.layer_digest(0).to_string();
    let stall = move |seen: &Seen| {
        seen.path.contains(&digest).then(|| Reply::Stall {
            body: layer[..2000].to_vec(),
            length: layer.len(),
        })
    };
    let (error, registry) = fails_with(&image, stall, impatient).await;
    assert!(
        matches!(error, ImageError::RegistryUnavailable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("stalled"), "{error}");
    assert_eq!(registry.gets(image.layer_digest(0).as_str()), 3);

    let half = image.manifest[..100].to_vec();
    let (error, _) = fails_with(
        &image,
        on("/manifests/", move || Reply::Stall {
            body: half.clone(),
            length: 1000,
        }),
        impatient,
    )
    .await;
    assert!(error.to_string().contains("stalled"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_layer() {
    let image = sample();
    let digest = image.layer_digest(1).to_string();
    let cut = {
        let (digest, layer) = (digest.clone(), image.layers[1].clone());
        move |seen: &Seen| {
            seen.path.contains(&digest).then(|| Reply::CutShort {
                body: layer[..layer.len() / 2].to_vec(),
                length: layer.len(),
            })
        }
    };
    let (error, _) = fails_with(&image, cut, |_| {}).await;
    assert!(
        matches!(error, ImageError::RegistryUnavailable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains(&digest), "{error}");

    // Once only: the next attempt gets it.
    let left = AtomicUsize::new(1);
    let layer = image.layers[1].clone();
    let registry = Faulty::holding(&[("1", &image)], move |seen| {
        let bad = seen.path.contains(&digest)
            && left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                .is_ok();
        bad.then(|| Reply::CutShort {
            body: layer[..layer.len() / 2].to_vec(),
            length: layer.len(),
        })
    })
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.pull(&registry.reference("app:1")).await.unwrap();
    assert!(node.leftovers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_not_what_they_should_be() {
    let image = sample();
    let digest = image.layer_digest(0).to_string();
    let (good, part) = (image.layers[0].clone(), digest.clone());
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let other = pack(&tar_of(&[("evil", b"x")]), Packing::Gzip);
    let mut longer = good.clone();
    longer.extend(b"tail");
    let cases: Vec<(&str, Reply)> = vec![
        ("a flipped bit", Reply::ok(flipped)),
        (
            "another layer, no length told",
            Reply::Chunked(other.clone()),
        ),
        ("another layer", Reply::ok(other)),
        (
            "noise, no length told",
            Reply::Chunked(noise(9, good.len())),
        ),
        ("a tail, no length told", Reply::Chunked(longer)),
        (
            "too short, no length told",
            Reply::Chunked(good[..good.len() - 1].to_vec()),
        ),
        ("nothing", Reply::ok(vec![])),
    ];
    for (name, reply) in cases {
        let reply = std::sync::Mutex::new(Some(reply));
        let part = part.clone();
        let fault = move |seen: &Seen| {
            if !seen.path.contains(&part) {
                return None;
            }
            // Later attempts are refused, so that what counts is the first.
            Some(
                reply
                    .lock()
                    .unwrap()
                    .take()
                    .unwrap_or_else(|| Reply::status(500)),
            )
        };
        let (error, _) = fails_with(&image, fault, |config| config.attempts = 1).await;
        assert!(
            matches!(error, ImageError::Corrupt { .. }),
            "{name}: {error:?}"
        );
        assert!(error.to_string().contains(&digest), "{name}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_that_lead_nowhere() {
    let (error, registry) = fails_with(
        &sample(),
        on("/manifests/", || {
            Reply::redirect("/v2/x/manifests/1".into())
        }),
        |_| {},
    )
    .await;
    assert!(error.to_string().contains("redirects more than"), "{error}");
    assert_eq!(registry.seen().len(), 6);
    for target in ["ftp://x/y", "http://", "file:///etc/passwd"] {
        let (error, _) = fails_with(
            &sample(),
            on("/manifests/", move || Reply::redirect(target.into())),
            |_| {},
        )
        .await;
        assert!(
            matches!(error, ImageError::RegistryUnavailable { .. }),
            "{error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there() {
    let gone = Faulty::start(|_| Reply::Silence).await.host.clone();
    let node = Node::with_plain_hosts(&[&gone]);
    let error = node.pull(&format!("{gone}/app:1")).await.unwrap_err();
    assert!(
        matches!(error, ImageError::RegistryUnavailable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains(&gone), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_has_to_be_configured() {
    let registry = RealRegistry::start();
    registry.push("app", "1", &sample()).await;
    let node = Node::with(&[], |config| config.attempts = 1);
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(
        matches!(error, ImageError::RegistryUnavailable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("plain_http"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_mirror_does_not_stop_a_good_host() {
    let image = sample();
    let mirror = Faulty::holding(&[("1", &image)], |seen| {
        seen.path
            .contains("/blobs/")
            .then(|| Reply::Chunked(noise(4, 1000)))
    })
    .await;
    let origin = Faulty::holding(&[("1", &image)], |_| None).await;
    let node = Node::with(&[&mirror.host, &origin.host], |config| {
        config.registries.get_mut(&origin.host).unwrap().mirrors = vec![mirror.host.clone()];
    });
    let pulled = node.pull(&origin.reference("app:1")).await.unwrap();
    assert_eq!(pulled.id.digest(), &image.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_layers_leave_nothing() {
    let bomb = tar_of(&[("zeros", &vec![0_u8; 8 << 20])]);
    let image = Published::of_tars(vec![bomb], Packing::Gzip, Family::Oci);
    let (error, _) = fails_with(
        &image,
        |_| None,
        |config| config.limits.unpack.bytes = 1 << 20,
    )
    .await;
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error:?}");

    let mut truncated = tar_of(&[("a", &noise(1, 5000))]);
    truncated.truncate(2000);
    let image = Published::of_tars(vec![truncated], Packing::Gzip, Family::Oci);
    let (error, _) = fails_with(&image, |_| None, |_| {}).await;
    assert!(matches!(error, ImageError::Corrupt { .. }), "{error:?}");
}
