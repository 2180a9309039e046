//! Images that have to be signed: by skopeo with GnuPG, and as cosign signs, in a real registry and in one that does as told.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ImageError, PullRequest};
use rstest::rstest;
use serde_json::{Value, json};
use state::Digest;

use crate::bad_registry::sample;
use crate::faulty::{Faulty, Reply};
use crate::node::Node;
use crate::published::{Published, descriptor, index_of};
use crate::real_registry::RealRegistry;
use crate::signing::{COSIGN_ARTIFACT, Gpg, Key, OCI_MANIFEST, layer, manifest, payload, tag};

/// Makes this the only thing that the node asks of images.
pub(crate) fn demand(node: &Node, requirement: &Value) {
    let policy = json!({
        "default": [{"type": "reject"}],
        "transports": {"docker": {"": [requirement]}},
    });
    std::fs::write(node.folder().join("policy.json"), policy.to_string()).unwrap();
}

/// A cosign signature by this key, for any image of the repository.
pub(crate) fn cosign_by(key: &Key) -> Value {
    json!({
        "type": "sigstoreSigned", "keyData": STANDARD.encode(std::fs::read(key.public()).unwrap()),
        "signedIdentity": {"type": "matchRepository"},
    })
}

/// Why an image was refused.
pub(crate) fn refusal(error: &ImageError) -> String {
    assert!(
        matches!(error, ImageError::SignatureValidationFailed { .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.starts_with("image 127.0.0.1:")
            && text.contains("policy.json (the default of the transport docker): "),
        "{text}"
    );
    assert!(text.len() < 1000 && !text.contains('\n'), "{text}");
    text
}

fn simple_by(key: &Path) -> Value {
    json!({"type": "signedBy", "keyType": "GPGKeys", "keyPath": key})
}

fn lookaside(node: &Node, url: &str) {
    let folder = node.folder().join("registries.d");
    std::fs::create_dir_all(&folder).unwrap();
    let text = format!("default-docker:\n  lookaside: {url}\n");
    std::fs::write(folder.join("all.yaml"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_skopeo_signed() {
    let registry = RealRegistry::start();
    registry.push("app", "1", &sample()).await;
    let (signer, stranger) = (Gpg::new(), Gpg::new());
    let store = tempfile::tempdir().unwrap();
    let signed = registry.reference("signed:1");
    signer.copy_signed(&registry.reference("app:1"), &signed, store.path());
    let node = Node::with_plain_hosts(&[&registry.host]);
    demand(&node, &simple_by(&signer.public()));

    let words = refusal(&node.pull(&signed).await.unwrap_err());
    assert!(words.contains("no signature was found"), "{words}");
    node.assert_untouched().await;

    lookaside(&node, &format!("file://{}", store.path().display()));
    demand(&node, &simple_by(&stranger.public()));
    let words = refusal(&node.pull(&signed).await.unwrap_err());
    assert!(words.contains("signed by another key ("), "{words}");
    node.assert_untouched().await;

    demand(&node, &simple_by(&signer.public()));
    let image = node.pull(&signed).await.unwrap();
    let digest = image.manifest_digest.clone().unwrap();
    node.pull(&registry.reference(&format!("signed@{digest}")))
        .await
        .unwrap();

    // The same manifest by other names, beside the same signatures.
    let folder = |name: &str| store.path().join(format!("{name}@sha256={}", digest.hex()));
    std::fs::rename(folder("signed"), folder("app")).unwrap();
    let words = refusal(&node.pull(&registry.reference("app:1")).await.unwrap_err());
    assert!(
        words.contains(&format!(
            "it is signed for \"{signed}\", not for {}",
            registry.reference("app:1")
        )),
        "{words}"
    );
    let mut remapped = simple_by(&signer.public());
    remapped["signedIdentity"] = json!({
        "type": "remapIdentity",
        "prefix": registry.reference("app"), "signedPrefix": registry.reference("signed"),
    });
    demand(&node, &remapped);
    node.pull(&registry.reference("app:1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookaside_on_the_web() {
    let registry = RealRegistry::start();
    registry.push("app", "1", &sample()).await;
    let signer = Gpg::new();
    let store = tempfile::tempdir().unwrap();
    let signed = registry.reference("signed:1");
    signer.copy_signed(&registry.reference("app:1"), &signed, store.path());
    let root = store.path().to_owned();
    let web = Faulty::start(move |seen| {
        match std::fs::read(root.join(seen.path.trim_start_matches("/store/"))) {
            // The good one comes after one that is none.
            Ok(_) if seen.path.ends_with("/signature-1") => Reply::ok("garbage"),
            Ok(signature) => Reply::ok(signature),
            Err(_) => Reply::status(404),
        }
    })
    .await;
    let folder = std::fs::read_dir(store.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::copy(folder.join("signature-1"), folder.join("signature-2")).unwrap();
    let node = Node::with_plain_hosts(&[&registry.host]);
    demand(&node, &simple_by(&signer.public()));
    lookaside(&node, &format!("http://{}/store", web.host));
    node.pull(&signed).await.unwrap();
    assert!(
        web.seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none()),
        "a lookaside is shown nothing"
    );

    // Nobody there: nobody knows.
    let node = Node::with(&[&registry.host], |config| config.attempts = 1);
    demand(&node, &simple_by(&signer.public()));
    lookaside(&node, "http://127.0.0.1:1/store");
    let error = node.pull(&signed).await.unwrap_err();
    assert!(
        matches!(error, ImageError::RegistryUnavailable { .. }),
        "{error}"
    );
}

/// Pushes a manifest of signatures under a tag, with what it names.
async fn push_signatures(
    registry: &RealRegistry,
    repository: &str,
    tag: &str,
    signed: &[(Vec<u8>, Vec<u8>)],
) {
    registry.push_blob(repository, b"{}").await;
    let mut layers = Vec::new();
    for (payload, signature) in signed {
        registry.push_blob(repository, payload).await;
        layers.push(layer(payload, signature));
    }
    registry
        .push_manifest(repository, tag, &manifest(&layers), OCI_MANIFEST)
        .await;
}

#[rstest]
#[case("-algorithm EC -pkeyopt ec_paramgen_curve:P-256")]
#[case("-algorithm EC -pkeyopt ec_paramgen_curve:P-384")]
#[case("-algorithm ed25519")]
#[case("-algorithm RSA -pkeyopt rsa_keygen_bits:2048")]
#[tokio::test(flavor = "multi_thread")]
async fn what_cosign_signed(#[case] generate: &str) {
    let registry = RealRegistry::start();
    let image = sample();
    registry.push("app", "1", &image).await;
    let (signer, stranger) = (Key::new(generate), Key::new(generate));
    let name = registry.reference("app:1");
    let node = Node::with_plain_hosts(&[&registry.host]);
    demand(&node, &cosign_by(&signer));
    let words = refusal(&node.pull(&name).await.unwrap_err());
    assert!(
        words.contains("no signature was found, neither under the tag sha256-"),
        "{words}"
    );

    let document = payload(&registry.reference("app"), &image.digest());
    let own_tag = tag(&image.digest());
    let by_stranger = (document.clone(), stranger.sign(&document));
    push_signatures(
        &registry,
        "app",
        &own_tag,
        std::slice::from_ref(&by_stranger),
    )
    .await;
    let words = refusal(&node.pull(&name).await.unwrap_err());
    assert!(
        words.contains("its signature does not count: it is signed by another key"),
        "{words}"
    );
    node.assert_untouched().await;

    // One good one among others is enough, and either of two keys makes one.
    let good = (document.clone(), signer.sign(&document));
    push_signatures(&registry, "app", &own_tag, &[by_stranger, good]).await;
    node.pull(&name).await.unwrap();
    let mut either = cosign_by(&stranger);
    either["keyPaths"] = json!([stranger.public(), signer.public()]);
    either.as_object_mut().unwrap().remove("keyData");
    demand(&node, &either);
    node.pull(&name).await.unwrap();

    // What cosign writes names no tag, which the default wants.
    let mut by_tag = cosign_by(&signer);
    by_tag.as_object_mut().unwrap().remove("signedIdentity");
    demand(&node, &by_tag);
    let words = refusal(&node.pull(&name).await.unwrap_err());
    assert!(words.contains("matchRepository"), "{words}");

    // All requirements have to hold.
    let policy = json!({"default": [cosign_by(&signer), cosign_by(&Key::ecdsa())]});
    std::fs::write(node.folder().join("policy.json"), policy.to_string()).unwrap();
    let error = node.pull(&name).await.unwrap_err().to_string();
    assert!(
        error.contains("none of its 2 signatures counts: it is signed by another key"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_d_can_turn_them_off() {
    let registry = RealRegistry::start();
    let image = sample();
    registry.push("app", "1", &image).await;
    let signer = Key::ecdsa();
    let document = payload(&registry.reference("app"), &image.digest());
    let good = (document.clone(), signer.sign(&document));
    push_signatures(&registry, "app", &tag(&image.digest()), &[good]).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    demand(&node, &cosign_by(&signer));
    let folder = node.folder().join("registries.d");
    std::fs::create_dir(&folder).unwrap();
    let write = |value: bool| {
        let text = format!(
            "docker:\n  {}:\n    use-sigstore-attachments: {value}\n",
            registry.host
        );
        std::fs::write(folder.join("a.yaml"), text).unwrap();
    };
    write(false);
    let words = refusal(&node.pull(&registry.reference("app:1")).await.unwrap_err());
    assert!(words.contains("use-sigstore-attachments"), "{words}");
    write(true);
    node.pull(&registry.reference("app:1")).await.unwrap();
}

/// Of an image for several platforms, either the index may be signed or the manifest for this one.
#[tokio::test(flavor = "multi_thread")]
async fn the_index_or_the_manifest() {
    let signer = Key::ecdsa();
    let image = sample();
    let other = Published::of_files(&[("other", b"architecture")]);
    let index = index_of(&[("amd64", &image), ("arm64", &other)]);
    let cases = [
        (Digest::sha256_of(&index), true),
        (image.digest(), true),
        (other.digest(), false),
    ];
    for (signed, expected) in cases {
        let registry = RealRegistry::start();
        registry.push("app", "amd64", &image).await;
        registry.push("app", "arm64", &other).await;
        registry
            .push_manifest(
                "app",
                "1",
                &index,
                "application/vnd.oci.image.index.v1+json",
            )
            .await;
        let document = payload(&registry.reference("app"), &signed);
        let good = (document.clone(), signer.sign(&document));
        push_signatures(&registry, "app", &tag(&signed), &[good]).await;
        let node = Node::with_plain_hosts(&[&registry.host]);
        demand(&node, &cosign_by(&signer));
        let pulled = node.pull(&registry.reference("app:1")).await;
        assert_eq!(pulled.is_ok(), expected, "{signed}: {pulled:?}");
        // And again when it is here.
        let pulled = node.pull(&registry.reference("app:1")).await;
        assert_eq!(pulled.is_ok(), expected, "{signed}: {pulled:?}");
    }
}

/// Documents by the end of their path, and their types.
pub(crate) type Documents = BTreeMap<String, (&'static str, Vec<u8>)>;

/// A registry that holds `image` as `1` and these documents.
pub(crate) async fn with_documents(image: &Published, documents: Documents) -> Faulty {
    Faulty::holding(&[("1", image)], move |seen| {
        let path = seen.path.split('?').next().unwrap_or_default();
        documents
            .iter()
            .find(|(end, _)| path.ends_with(end.as_str()))
            .map(|(_, (kind, bytes))| Reply::typed(kind, bytes.clone()))
    })
    .await
}

pub(crate) fn add_blob(documents: &mut Documents, bytes: &[u8]) {
    let path = format!("/blobs/{}", Digest::sha256_of(bytes));
    documents.insert(path, ("application/octet-stream", bytes.to_vec()));
}

/// A signature that is found as a referrer, from the registry or under the tag that stands in for it.
#[rstest]
#[case("/referrers/sha256:", Some(COSIGN_ARTIFACT), true)]
#[case("/manifests/sha256-", Some(COSIGN_ARTIFACT), true)]
#[case("/referrers/sha256:", None, true)]
#[case("/referrers/sha256:", Some("application/spdx+json"), false)]
#[case(
    "/referrers/sha256:",
    Some("application/vnd.dev.sigstore.bundle.v0.3+json"),
    false
)]
#[tokio::test(flavor = "multi_thread")]
async fn referrers(
    #[case] place: &str,
    #[case] artifact_type: Option<&str>,
    #[case] expected: bool,
) {
    let signer = Key::ecdsa();
    let image = sample();
    let mut documents = Documents::new();
    let document = payload("r.example/team/app", &image.digest());
    let signatures = manifest(&[layer(&document, &signer.sign(&document))]);
    let mut entry = descriptor(OCI_MANIFEST, &signatures);
    if let Some(kind) = artifact_type {
        entry["artifactType"] = json!(kind);
    }
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]});
    add_blob(&mut documents, &document);
    documents.insert(
        format!("/manifests/{}", Digest::sha256_of(&signatures)),
        (OCI_MANIFEST, signatures),
    );
    documents.insert(
        format!("{place}{}", image.digest().hex()),
        (
            "application/vnd.oci.image.index.v1+json",
            index.to_string().into_bytes(),
        ),
    );
    let registry = with_documents(&image, documents).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    demand(
        &node,
        &json!({
            "type": "sigstoreSigned", "keyPath": signer.public(),
            "signedIdentity": {"type": "exactRepository", "dockerRepository": "r.example/team/app"},
        }),
    );
    let pulled = node.pull(&registry.reference("app:1")).await;
    assert_eq!(pulled.is_ok(), expected, "{pulled:?}");
    if let Err(error) = pulled {
        let words = refusal(&error);
        let is_bundle = artifact_type.is_some_and(|kind| kind.contains("bundle"));
        assert_eq!(words.contains("sigstore bundle"), is_bundle, "{words}");
    }
}

/// A signature whose entry in a transparency log is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn the_transparency_log() {
    let (signer, log) = (Key::ecdsa(), Key::ecdsa());
    let image = sample();
    let document = payload("r.example/app", &image.digest());
    let signature = signer.sign(&document);
    let entry = json!({
        "apiVersion": "0.0.1", "kind": "hashedrekord",
        "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": Digest::sha256_of(&document).hex()}},
            "signature": {
                "content": STANDARD.encode(&signature),
                "publicKey": {"content": STANDARD.encode(std::fs::read(signer.public()).unwrap())},
            },
        },
    });
    let body = STANDARD.encode(entry.to_string());
    let promise = log.sign(
        format!(r#"{{"body":"{body}","integratedTime":1,"logID":"00","logIndex":2}}"#).as_bytes(),
    );
    let bundle = json!({
        "SignedEntryTimestamp": STANDARD.encode(promise),
        "Payload": {"body": body, "integratedTime": 1, "logIndex": 2, "logID": "00"},
    });
    for (recorded, expected) in [
        (true, None),
        (false, Some("it has no entry of a transparency log")),
    ] {
        let mut layer = layer(&document, &signature);
        if recorded {
            layer["annotations"]["dev.sigstore.cosign/bundle"] = json!(bundle.to_string());
        }
        let mut documents = Documents::new();
        add_blob(&mut documents, &document);
        documents.insert(
            format!("/manifests/{}", tag(&image.digest())),
            (OCI_MANIFEST, manifest(&[layer])),
        );
        let registry = with_documents(&image, documents).await;
        let node = Node::with_plain_hosts(&[&registry.host]);
        demand(
            &node,
            &json!({
                "type": "sigstoreSigned", "keyPath": signer.public(), "rekorPublicKeyPath": log.public(),
                "signedIdentity": {"type": "exactRepository", "dockerRepository": "r.example/app"},
            }),
        );
        let pulled = node.pull(&registry.reference("app:1")).await;
        match expected {
            None => assert!(pulled.is_ok(), "{pulled:?}"),
            Some(words) => assert!(refusal(&pulled.unwrap_err()).contains(words)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_namespace_has_its_own_policy() {
    let registry = Faulty::holding(&[("1", &sample())], |_| None).await;
    let node = Node::with(&[&registry.host], |config| {
        config.trust.policy_dir = Some(config.root.join("../policies"));
    });
    let policies = node.folder().join("policies");
    std::fs::create_dir_all(&policies).unwrap();
    let write = |path: &Path, kind: &str| {
        std::fs::write(path, json!({"default": [{"type": kind}]}).to_string()).unwrap();
    };
    write(&node.folder().join("policy.json"), "reject");
    write(&policies.join("open.json"), "insecureAcceptAnything");
    let pull = |namespace: Option<&str>| {
        node.images.pull(PullRequest {
            namespace: namespace.map(str::to_owned),
            ..PullRequest::anonymous(registry.reference("app:1"))
        })
    };
    assert!(pull(None).await.is_err());
    assert!(pull(Some("other")).await.is_err());
    assert!(
        registry.seen().is_empty(),
        "what is rejected is not asked for"
    );
    // Two at once under different policies are two pulls.
    let (open, other) = tokio::join!(pull(Some("open")), pull(Some("other")));
    assert!(open.is_ok() && other.is_err());
    // That it is here helps nobody else.
    assert!(pull(Some("other")).await.is_err());
    assert!(pull(None).await.is_err());
    let explained = node
        .images
        .explain(&registry.reference("app:1"), Some("open"))
        .await
        .unwrap();
    let words = explained.references[0].policy.as_deref().unwrap();
    assert!(
        words.ends_with("open.json, the default: accepts anything"),
        "{words}"
    );
    // A changed policy counts at once.
    write(&policies.join("open.json"), "reject");
    assert!(pull(Some("open")).await.is_err());
}

/// An image that came without being asked for signatures is asked for them on the next pull, by tag and by digest.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_checked_again() {
    let image = sample();
    let registry = Faulty::holding(&[("1", &image)], |_| None).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.pull(&registry.reference("app:1")).await.unwrap();
    demand(&node, &cosign_by(&Key::ecdsa()));
    for name in ["app:1".to_owned(), format!("app@{}", image.digest())] {
        assert!(
            node.pull(&registry.reference(&name)).await.is_err(),
            "{name}"
        );
    }
    assert_eq!(node.images.list().len(), 1, "the image itself stays");
}
