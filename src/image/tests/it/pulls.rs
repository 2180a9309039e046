//! What a good registry gives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use image::{ImageError, PullRequest, RegistryConfig, RegistrySettings};
use serde_json::json;

use crate::faulty::{Faulty, Reply};
use crate::node::Node;
use crate::published::{Family, Packing, Published, index_of, noise, tar_of};
use crate::real_registry::RealRegistry;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_by_tag() {
    let registry = RealRegistry::start();
    let run =
        json!({"User": "7:8", "Env": ["A=1"], "Entrypoint": ["/app"], "StopSignal": "SIGINT"});
    let image = Published::for_platform(
        vec![
            tar_of(&[("a", b"one")]),
            tar_of(&[("b", b"two"), ("a", b"over")]),
        ],
        Packing::Gzip,
        Family::Docker,
        "amd64",
        &run,
    );
    registry.push("team/app", "1.0", &image).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let pulled = node
        .pull(&registry.reference("team/app:1.0"))
        .await
        .unwrap();
    assert_eq!(pulled.id.digest(), &image.id());
    assert_eq!(pulled.repo_tags, [registry.reference("team/app:1.0")]);
    assert_eq!(
        pulled.repo_digests,
        [registry.reference(&format!("team/app@{}", image.digest()))]
    );
    assert_eq!(pulled.manifest_digest, Some(image.digest()));
    assert_eq!(pulled.config.user, "7:8");
    assert_eq!(pulled.config.entrypoint, ["/app"]);
    assert_eq!(pulled.config.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(pulled.layers.len(), 2);
    assert!(pulled.size_bytes > 0);
    assert_eq!(node.read(&pulled, "a").unwrap(), b"over");
    assert_eq!(node.read(&pulled, "b").unwrap(), b"two");
    assert_eq!(node.leftovers().await.len(), 0);
    assert!(node.images.usage().bytes > 0 && node.images.usage().inodes > 0);
    for name in [
        pulled.id.as_str(),
        &pulled.id.hex()[..12],
        &registry.reference("team/app:1.0"),
    ] {
        assert!(
            Arc::ptr_eq(&node.images.get(name).unwrap(), &pulled),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_packing_is_unpacked() {
    let registry = RealRegistry::start();
    let node = Node::with_plain_hosts(&[&registry.host]);
    for (number, packing) in [Packing::Plain, Packing::Gzip, Packing::Zstd]
        .into_iter()
        .enumerate()
    {
        let content = noise(number as u64, 300_000);
        let image = Published::of_tars(vec![tar_of(&[("file", &content)])], packing, Family::Oci);
        let name = format!("packed:{number}");
        registry.push("packed", &number.to_string(), &image).await;
        let pulled = node.pull(&registry.reference(&name)).await.unwrap();
        assert_eq!(node.read(&pulled, "file").unwrap(), content, "{packing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mislabelled_compression_does_not_matter() {
    let tar = tar_of(&[("file", b"x")]);
    let mut image = Published::of_tars(vec![tar], Packing::Zstd, Family::Oci);
    let text = String::from_utf8(image.manifest).unwrap();
    image.manifest = text.replace("tar+zstd", "tar+gzip").into_bytes();
    let registry = Faulty::holding(&[("1", &image)], |_| None).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let pulled = node.pull(&registry.reference("app:1")).await.unwrap();
    assert_eq!(node.read(&pulled, "file").unwrap(), b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_gives_no_tag() {
    let registry = RealRegistry::start();
    let image = Published::of_files(&[("a", b"1")]);
    registry.push("app", "1", &image).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let by_digest = registry.reference(&format!("app@{}", image.digest()));
    let pulled = node.pull(&by_digest).await.unwrap();
    assert!(pulled.repo_tags.is_empty());
    assert_eq!(pulled.repo_digests, [by_digest.as_str()]);
    // A tag beside the digest is not looked at, nor given.
    let both = registry.reference(&format!("app:nonsense@{}", image.digest()));
    let pulled = node.pull(&both).await.unwrap();
    assert!(pulled.repo_tags.is_empty());
    assert_eq!(pulled.repo_digests, [by_digest]);
    assert!(node.images.get(&both).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_leads_to_this_platform() {
    let registry = RealRegistry::start();
    let tar = |name: &str| vec![tar_of(&[("arch", name.as_bytes())])];
    let ours = Published::of_tars(tar("amd64"), Packing::Gzip, Family::Oci);
    let other = Published::for_platform(
        tar("s390x"),
        Packing::Gzip,
        Family::Oci,
        "s390x",
        &json!({}),
    );
    for image in [&ours, &other] {
        registry.push("app", image.id().hex(), image).await;
    }
    let index = index_of(&[("s390x", &other), ("amd64", &ours)]);
    registry
        .push_manifest(
            "app",
            "multi",
            &index,
            "application/vnd.oci.image.index.v1+json",
        )
        .await;
    let node = Node::with(&[&registry.host], |config| {
        config.platform.architecture = "amd64".into();
        config.platform.variant = String::new();
    });
    let pulled = node.pull(&registry.reference("app:multi")).await.unwrap();
    assert_eq!(pulled.id.digest(), &ours.id());
    assert_eq!(pulled.manifest_digest, Some(ours.digest()));
    let index_digest = state::Digest::sha256_of(&index);
    assert_eq!(
        pulled.repo_digests,
        [registry.reference(&format!("app@{index_digest}"))]
    );

    let error = node
        .pull(&registry.reference(&format!("app:{}", other.id().hex())))
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("s390x"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_names_are_one_image() {
    let (one, two) = (RealRegistry::start(), RealRegistry::start());
    let image = Published::of_files(&[("a", b"1")]);
    for tag in ["1", "2", "3"] {
        one.push("app", tag, &image).await;
    }
    two.push("copy", "x", &image).await;
    let node = Node::with_plain_hosts(&[&one.host, &two.host]);
    let mut ids = Vec::new();
    for name in [
        one.reference("app:1"),
        one.reference("app:2"),
        one.reference("app:3"),
        two.reference("copy:x"),
    ] {
        ids.push(node.pull(&name).await.unwrap().id.clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let list = node.images.list();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].repo_tags.len(), 4);
    assert_eq!(list[0].repo_digests.len(), 2);
    node.images.remove(&two.reference("copy:x")).await.unwrap();
    assert!(node.images.list().is_empty());
    assert!(node.images.get(&one.reference("app:1")).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_moves() {
    let registry = RealRegistry::start();
    let (old, new) = (
        Published::of_files(&[("a", b"1")]),
        Published::of_files(&[("a", b"2")]),
    );
    let node = Node::with_plain_hosts(&[&registry.host]);
    let name = registry.reference("app");
    registry.push("app", "latest", &old).await;
    node.pull(&name).await.unwrap();
    registry.push("app", "latest", &new).await;
    let pulled = node.pull(&name).await.unwrap();
    assert_eq!(pulled.id.digest(), &new.id());
    assert_eq!(node.images.get(&name).unwrap().id, pulled.id);
    let before = node.images.get(old.id().as_str()).unwrap();
    assert!(before.repo_tags.is_empty());
    assert_eq!(before.repo_digests.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_layers_is_an_image() {
    let registry = RealRegistry::start();
    let image = Published::of_files(&[]);
    registry.push("empty", "1", &image).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let pulled = node.pull(&registry.reference("empty:1")).await.unwrap();
    assert!(pulled.layers.is_empty() && pulled.size_bytes > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_layer_twice_in_one_image() {
    let tar = tar_of(&[("a", b"1")]);
    let image = Published::of_tars(
        vec![tar.clone(), tar.clone(), tar],
        Packing::Gzip,
        Family::Oci,
    );
    let registry = Faulty::holding(&[("1", &image)], |_| None).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let pulled = node.pull(&registry.reference("app:1")).await.unwrap();
    assert_eq!(pulled.layers.len(), 3);
    assert_eq!(node.layers_on_disk().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_not_fetched_again() {
    let image = Published::of_files(&[("a", b"1"), ("b", b"2")]);
    let registry = Faulty::holding(&[("1", &image), ("2", &image)], |_| None).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let first = node.pull(&registry.reference("app:1")).await.unwrap();
    let manifests = registry.gets("/manifests/");
    let again = node.pull(&registry.reference("app:1")).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(registry.gets("/manifests/"), manifests, "a HEAD is enough");
    node.pull(&registry.reference("app:2")).await.unwrap();
    assert_eq!(
        registry.gets("/blobs/"),
        4,
        "two layers once, and the configuration under each name"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_an_image_is_no_right_to_it() {
    let image = Published::of_files(&[("secret", b"1")]);
    let private = Faulty::holding(&[("1", &image)], |_| None).await;
    // Another registry names its configuration and does not have it.
    let thief = Faulty::holding(&[("1", &image)], |seen| {
        seen.path
            .contains("/blobs/")
            .then(|| Reply::refusal(404, "BLOB_UNKNOWN"))
    })
    .await;
    let node = Node::with_plain_hosts(&[&private.host, &thief.host]);
    node.pull(&private.reference("app:1")).await.unwrap();
    node.pull(&thief.reference("app:1")).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_are_one_pull() {
    let image = Published::of_files(&[("a", b"1"), ("b", b"2")]);
    let registry = Faulty::holding(&[("1", &image)], |seen| {
        let slow = seen.path.contains("/manifests/");
        slow.then_some(())?;
        std::thread::sleep(Duration::from_millis(200));
        None
    })
    .await;
    let node = Arc::new(Node::with_plain_hosts(&[&registry.host]));
    let name = registry.reference("app:1");
    let pulls: Vec<_> = (0..20)
        .map(|_| {
            let (node, name) = (Arc::clone(&node), name.clone());
            tokio::spawn(async move { node.pull(&name).await.map(|image| image.id.clone()) })
        })
        .collect();
    for pull in pulls {
        assert_eq!(pull.await.unwrap().unwrap().digest(), &image.id());
    }
    assert_eq!(registry.gets("/manifests/"), 1);
    assert_eq!(registry.gets("/blobs/"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_images_share_a_layer_that_is_fetched_once() {
    let base = tar_of(&[("base", &noise(1, 200_000))]);
    let with = |name: &str| {
        Published::of_tars(
            vec![base.clone(), tar_of(&[(name, b"x")])],
            Packing::Gzip,
            Family::Oci,
        )
    };
    let (one, two) = (with("one"), with("two"));
    let shared = one.layer_digest(0).to_string();
    assert_eq!(shared, two.layer_digest(0).to_string());
    let registry = Faulty::holding(&[("one", &one), ("two", &two)], {
        let (shared, body) = (shared.clone(), one.layers[0].clone());
        move |seen| {
            let slow = || {
                Reply::Later(
                    Duration::from_millis(400),
                    Box::new(Reply::ok(body.clone())),
                )
            };
            seen.path.contains(&shared).then(slow)
        }
    })
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let (name_one, name_two) = (registry.reference("a:one"), registry.reference("b:two"));
    let (first, second) = tokio::join!(node.pull(&name_one), node.pull(&name_two));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.layers[0], second.layers[0]);
    assert_eq!(registry.gets(&shared), 1);
    assert_eq!(node.layers_on_disk().len(), 3);
    node.images.sweep().await.unwrap();
    node.images.remove(first.id.as_str()).await.unwrap();
    assert_eq!(node.read(&second, "base").unwrap().len(), 200_000);
    assert_eq!(node.layers_on_disk().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_harms_nobody_and_the_last_ends_the_pull() {
    let image = Published::of_files(&[("a", &noise(3, 100_000))]);
    let open = Arc::new(AtomicBool::new(false));
    let registry = Faulty::holding(&[("1", &image)], {
        let (open, layer) = (Arc::clone(&open), image.layers[0].clone());
        let digest = image.layer_digest(0).to_string();
        move |seen| {
            let shut = seen.path.contains(&digest) && !open.load(Ordering::SeqCst);
            shut.then(|| Reply::Stall {
                body: layer[..1000].to_vec(),
                length: layer.len(),
            })
        }
    })
    .await;
    let node = Arc::new(Node::with(&[&registry.host], |config| {
        config.timeouts.stall = Duration::from_millis(700);
    }));
    let name = registry.reference("app:1");
    let pull = || {
        let (node, name) = (Arc::clone(&node), name.clone());
        tokio::spawn(async move { node.pull(&name).await.map(|image| image.id.clone()) })
    };

    // All leave: the job ends, and takes what it made along.
    let (one, two) = (pull(), pull());
    tokio::time::sleep(Duration::from_millis(300)).await;
    one.abort();
    two.abort();
    node.assert_untouched().await;

    // One leaves: the other gets its image, once the registry behaves.
    let (one, two) = (pull(), pull());
    tokio::time::sleep(Duration::from_millis(200)).await;
    one.abort();
    open.store(true, Ordering::SeqCst);
    assert_eq!(two.await.unwrap().unwrap().digest(), &image.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_at_any_moment_leaves_nothing_half_done() {
    let image = Published::of_files(&[
        ("a", &noise(1, 300_000)),
        ("b", &noise(2, 300_000)),
        ("c", &noise(3, 300_000)),
    ]);
    let registry = Faulty::holding(&[("1", &image)], |_| None).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.images.sweep().await.unwrap();
    let name = registry.reference("app:1");
    for millis in 0..60 {
        let left = tokio::time::timeout(Duration::from_millis(millis), node.pull(&name)).await;
        // Either it is all there, or nothing is; a commit under way is finished.
        if left.is_ok() {
            node.images.remove(&name).await.unwrap();
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    node.images.remove(&name).await.unwrap();
    node.assert_untouched().await;
    let pulled = node.pull(&name).await.unwrap();
    assert_eq!(node.read(&pulled, "c").unwrap(), noise(3, 300_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_change_while_the_server_runs() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = Faulty::holding(&[("1", &image)], |_| None).await;
    let node = Node::with(&[&registry.host], |config| config.attempts = 1);
    let name = "registry.k8s.invalid/app:1";
    assert!(node.pull(name).await.is_err());
    let plain = RegistryConfig {
        plain_http: true,
        ..RegistryConfig::default()
    };
    let mirrored = RegistryConfig {
        mirrors: vec![registry.host.clone()],
        ..RegistryConfig::default()
    };
    let registries = [
        (registry.host.clone(), plain),
        ("registry.k8s.invalid".to_owned(), mirrored),
    ];
    let settings = RegistrySettings {
        registries: registries.into(),
        ..RegistrySettings::default()
    };
    node.images.set_registries(settings).await;
    node.pull(name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_on_ipv6() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = Faulty::holding_on("[::1]:0", &image).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let pulled = node.pull(&registry.reference("app:1")).await.unwrap();
    assert_eq!(pulled.repo_tags, [registry.reference("app:1")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_kept() {
    let registry = Faulty::start(|_| Reply::Silence).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let request = PullRequest {
        deadline: Some(Instant::now() + Duration::from_millis(1)),
        ..PullRequest::anonymous(registry.reference("app:1"))
    };
    let error = node.images.pull(request).await.unwrap_err();
    assert!(matches!(error, ImageError::Deadline { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_and_in_order() {
    let registry = RealRegistry::start();
    let image = Published::of_files(&[("a", b"1")]);
    registry.push("e2e/app", "1", &image).await;
    let empty = Faulty::holding(&[], |_| None).await;
    let node = Node::with(&[&registry.host, &empty.host], |config| {
        config.registries.insert(
            "registry.k8s.invalid".into(),
            RegistryConfig {
                mirrors: vec![empty.host.clone(), registry.host.clone()],
                ..RegistryConfig::default()
            },
        );
    });
    let pulled = node.pull("registry.k8s.invalid/e2e/app:1").await.unwrap();
    assert_eq!(pulled.repo_tags, ["registry.k8s.invalid/e2e/app:1"]);
    assert!(empty.gets("/v2/e2e/app/manifests/1") == 1);

    // No mirror has it and the host itself is out of reach: the error tells both.
    let error = node
        .pull("registry.k8s.invalid/e2e/other:1")
        .await
        .unwrap_err();
    assert!(
        matches!(error, ImageError::RegistryUnavailable { .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("registry.k8s.invalid") && text.contains(&registry.host),
        "{text}"
    );
}
