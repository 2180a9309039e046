//! Signatures that are made to do harm, and places of signatures that do not answer: refused, in bounds, with reasons.

use std::time::Duration;

use image::ImageError;
use rstest::rstest;
use serde_json::{Value, json};
use state::Digest;

use crate::bad_registry::sample;
use crate::faulty::{Faulty, Reply};
use crate::node::Node;
use crate::published::descriptor;
use crate::signing::{COSIGN_PAYLOAD, Key, OCI_MANIFEST, layer, manifest, payload, tag};
use crate::trust::{cosign_by, demand, refusal};

const GIB: u64 = 1 << 30;

/// The layers of a hostile manifest, made with a key that is trusted, for the image of this digest.
type Layers = fn(&Key, &Digest) -> (Vec<Value>, Vec<Vec<u8>>);

fn signed(key: &Key, document: Vec<u8>) -> (Vec<Value>, Vec<Vec<u8>>) {
    (vec![layer(&document, &key.sign(&document))], vec![document])
}

#[rstest]
#[case(
    |key: &Key, digest: &Digest| {
        let (mut layers, blobs) = signed(key, payload("r.example/app", digest));
        layers[0]["size"] = json!(GIB);
        (layers, blobs)
    },
    "1073741824 bytes, at most 262144 are allowed"
)]
#[case(
    // It announces little and sends much.
    |key: &Key, digest: &Digest| {
        let (mut layers, _) = signed(key, payload("r.example/app", digest));
        layers[0]["digest"] = json!(Digest::sha256_of(b"much").to_string());
        (layers, vec![])
    },
    "too large"
)]
#[case(
    |key: &Key, digest: &Digest| {
        let (layers, _) = signed(key, payload("r.example/app", digest));
        let many = layers.iter().cycle().take(10_000).cloned().collect();
        (many, vec![])
    },
    "none of its 129 signatures counts: the registry does not have it any more; there are more than 128"
)]
#[case(|key: &Key, _: &Digest| signed(key, payload("r.example/app", &Digest::sha256_of(b"other"))), "another image")]
#[case(|key: &Key, digest: &Digest| signed(key, payload("r.example/other", digest)), "it is signed for \"r.example/other\"")]
#[case(|key: &Key, digest: &Digest| signed(key, payload("r.example/APP x", digest)), "it is signed for \"r.example/APP x\"")]
#[case(|key: &Key, _: &Digest| signed(key, b"not JSON".to_vec()), "its payload is not usable")]
#[case(|key: &Key, _: &Digest| signed(key, "[".repeat(200_000).into_bytes()), "its payload is not usable")]
#[case(
    |key: &Key, digest: &Digest| {
        let text = String::from_utf8(payload("r.example/app", digest)).unwrap();
        signed(key, text.replace("\"optional\":null", "\"optional\":null,\"x\":1").into_bytes())
    },
    "x: unknown key"
)]
#[case(
    |_: &Key, digest: &Digest| {
        let document = payload("r.example/app", digest);
        (vec![layer(&document, b"garbage")], vec![document])
    },
    "it is signed by another key"
)]
#[case(
    |_: &Key, digest: &Digest| {
        let document = payload("r.example/app", digest);
        (vec![descriptor(COSIGN_PAYLOAD, &document)], vec![document])
    },
    "its annotation dev.cosignproject.cosign/signature is missing"
)]
#[case(
    |key: &Key, digest: &Digest| {
        // A signature of another document than the one that is there.
        let (document, other) = (payload("r.example/app", digest), payload("r.example/a", digest));
        (vec![layer(&document, &key.sign(&other))], vec![document])
    },
    "it is signed by another key"
)]
#[case(
    |key: &Key, digest: &Digest| {
        let (mut layers, blobs) = signed(key, payload("r.example/app", digest));
        layers[0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
        (layers, blobs)
    },
    "no signature was found"
)]
#[tokio::test(flavor = "multi_thread")]
async fn hostile_signatures(#[case] layers: Layers, #[case] expected: &str) {
    let (key, image) = (Key::ecdsa(), sample());
    let (layers, blobs) = layers(&key, &image.digest());
    let (own_tag, signatures) = (tag(&image.digest()), manifest(&layers));
    let much = Digest::sha256_of(b"much");
    let registry = Faulty::holding(&[("1", &image)], move |seen| {
        if seen.path.ends_with(&own_tag) {
            return Some(Reply::typed(OCI_MANIFEST, signatures.clone()));
        }
        if seen.path.ends_with(much.as_str()) {
            return Some(Reply::Chunked(vec![b'x'; 8 << 20]));
        }
        blobs
            .iter()
            .find(|blob| seen.path.ends_with(Digest::sha256_of(blob).as_str()))
            .map(|blob| Reply::ok(blob.clone()))
    })
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    demand(
        &node,
        &json!({
            "type": "sigstoreSigned", "keyPath": key.public(),
            "signedIdentity": {"type": "exactRepository", "dockerRepository": "r.example/app"},
        }),
    );
    let name = registry.reference("app:1");
    let pull = node.pull(&name);
    let error = tokio::time::timeout(Duration::from_mins(2), pull)
        .await
        .unwrap()
        .unwrap_err();
    let words = refusal(&error);
    assert!(words.contains(expected), "{words}");
    node.assert_untouched().await;
}

/// 100,000 layers, and blobs and manifests that are not what they are called.
#[rstest]
#[case("manifests", b"{\"layers\":".to_vec(), "its manifest of signatures is none")]
#[case("manifests", format!("{{\"layers\":[{}]}}", vec!["{}"; 100_000].join(",")).into_bytes(), "its manifest of signatures is none")]
#[case("manifests", vec![b' '; 5 << 20], "too large")]
#[case("referrers", b"7".to_vec(), "the list of its referrers is not an index")]
#[case("referrers", vec![b' '; 5 << 20], "too large")]
#[tokio::test(flavor = "multi_thread")]
async fn hostile_documents(
    #[case] kind: &'static str,
    #[case] document: Vec<u8>,
    #[case] expected: &str,
) {
    let image = sample();
    let place = match kind {
        "manifests" => format!("/manifests/{}", tag(&image.digest())),
        _ => format!("/referrers/{}", image.digest()),
    };
    let registry = Faulty::holding(&[("1", &image)], move |seen| {
        seen.path
            .contains(&place)
            .then(|| Reply::typed(OCI_MANIFEST, document.clone()))
    })
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    demand(&node, &cosign_by(&Key::ecdsa()));
    let words = refusal(&node.pull(&registry.reference("app:1")).await.unwrap_err());
    assert!(words.contains(expected), "{words}");
    node.assert_untouched().await;
}

/// What a registry answers where signatures would be, and whether that means that there are none.
#[rstest]
#[case(".sig", 404, false)]
#[case(".sig", 500, true)]
#[case(".sig", 503, true)]
#[case(".sig", 429, true)]
#[case("/referrers/", 404, false)]
#[case("/referrers/", 400, false)]
#[case("/referrers/", 405, false)]
#[case("/referrers/", 501, false)]
#[case("/referrers/", 500, true)]
#[case("/referrers/", 502, true)]
#[tokio::test(flavor = "multi_thread")]
async fn none_or_nobody_knows(
    #[case] part: &'static str,
    #[case] status: u16,
    #[case] unknown: bool,
) {
    let registry = Faulty::holding(&[("1", &sample())], move |seen| {
        seen.path.contains(part).then(|| Reply::status(status))
    })
    .await;
    let node = Node::with(&[&registry.host], |config| config.attempts = 2);
    demand(&node, &cosign_by(&Key::ecdsa()));
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    if unknown {
        assert!(
            matches!(error, ImageError::RegistryUnavailable { .. }),
            "{error}"
        );
    } else {
        assert!(
            refusal(&error).contains("no signature was found"),
            "{error}"
        );
    }
    node.assert_untouched().await;
}

/// A mirror without signatures does not hide those of the registry itself.
#[tokio::test(flavor = "multi_thread")]
async fn signatures_of_a_mirrored_image() {
    let (key, image) = (Key::ecdsa(), sample());
    let mirror = Faulty::holding(&[("1", &image)], |_| None).await;
    let document = payload("r.example/app", &image.digest());
    let (own_tag, signatures) = (
        tag(&image.digest()),
        manifest(&[layer(&document, &key.sign(&document))]),
    );
    let origin = Faulty::start(move |seen| {
        if seen.path.ends_with(&own_tag) {
            Reply::typed(OCI_MANIFEST, signatures.clone())
        } else if seen.path.ends_with(Digest::sha256_of(&document).as_str()) {
            Reply::ok(document.clone())
        } else {
            Reply::status(404)
        }
    })
    .await;
    let node = Node::with(&[&mirror.host, &origin.host], |config| {
        if let Some(registry) = config.registries.get_mut(&origin.host) {
            registry.mirrors = vec![mirror.host.clone()];
        }
    });
    demand(
        &node,
        &json!({
            "type": "sigstoreSigned", "keyPath": key.public(),
            "signedIdentity": {"type": "exactRepository", "dockerRepository": "r.example/app"},
        }),
    );
    node.pull(&origin.reference("app:1")).await.unwrap();
}
