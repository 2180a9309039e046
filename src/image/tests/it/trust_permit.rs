//! Images that are here already, and whose pods may use them.

use image::ImageError;
use serde_json::{Value, json};

use crate::bad_registry::sample;
use crate::faulty::Faulty;
use crate::node::Node;
use crate::signing::{Key, OCI_MANIFEST, layer, manifest, payload, tag};
use crate::trust::{Documents, add_blob, cosign_by, demand, refusal, with_documents};

/// What pods do with images that are pulled already: each namespace's own policy counts, by any of an image's names.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_may_be_used_as_the_namespace_permits() {
    let registry = Faulty::holding(&[("1", &sample())], |_| None).await;
    let node = Node::with(&[&registry.host], |config| {
        config.trust.policy_dir = Some(config.root.join("../policies"));
    });
    let policies = node.folder().join("policies");
    std::fs::create_dir_all(&policies).unwrap();
    let accept = json!([{"type": "insecureAcceptAnything"}]);
    let reject = json!([{"type": "reject"}]);
    let policy = |name: &str, default: &Value, shop: &Value| {
        let scope = registry.reference("shop");
        let text = json!({"default": default, "transports": {"docker": {scope: shop}}}).to_string();
        std::fs::write(policies.join(format!("{name}.json")), text).unwrap();
    };
    policy("closed", &reject, &reject);
    policy("shop", &reject, &accept);
    let image = node.pull(&registry.reference("app:1")).await.unwrap();
    let short = image.id.hex()[..12].to_owned();
    let tag = registry.reference("app:1");
    let digest = registry.reference(&format!("app@{}", image.manifest_digest.clone().unwrap()));
    let requests = registry.seen().len();
    for name in [
        tag.as_str(),
        &digest,
        image.id.as_str(),
        &short,
        "",
        "unheard-of",
    ] {
        for (namespace, permitted) in [
            (None, true),
            (Some("other"), true),
            (Some("closed"), false),
            (Some("shop"), false),
        ] {
            let found = node.images.permit(&image, name, namespace).await;
            assert_eq!(found.is_ok(), permitted, "{name:?} in {namespace:?}");
            if let Err(error) = found {
                let is_refusal = matches!(error, ImageError::SignatureValidationFailed { .. });
                assert!(is_refusal, "{error}");
            }
        }
    }
    // A second name that may be used is enough for those who name the image by its id, and for nobody else.
    node.pull(&registry.reference("shop:1")).await.unwrap();
    let image = node.images.get(&tag).unwrap();
    for (name, permitted) in [(image.id.as_str(), true), (tag.as_str(), false)] {
        let found = node.images.permit(&image, name, Some("shop")).await;
        assert_eq!(found.is_ok(), permitted, "{name}");
    }
    assert_eq!(
        registry.seen().len(),
        requests + 2,
        "only the second pull asks"
    );
}

/// Signatures that were asked for once are known again, by the next server too, until something else is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_shown_is_remembered() {
    let (signer, stranger, image) = (Key::ecdsa(), Key::ecdsa(), sample());
    let document = payload("r.example/app", &image.digest());
    let mut documents = Documents::new();
    add_blob(&mut documents, &document);
    documents.insert(
        format!("/manifests/{}", tag(&image.digest())),
        (
            OCI_MANIFEST,
            manifest(&[layer(&document, &signer.sign(&document))]),
        ),
    );
    let registry = with_documents(&image, documents).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let name = registry.reference("app:1");
    let signed_by = |key: &Key| {
        let mut asked = cosign_by(key);
        asked["signedIdentity"] =
            json!({"type": "exactRepository", "dockerRepository": "r.example/app"});
        asked
    };
    // It came before there was a policy.
    node.pull(&name).await.unwrap();
    demand(&node, &signed_by(&signer));
    let permit = async |node: &Node| {
        let image = node.images.get(&name).unwrap();
        node.images.permit(&image, &name, None).await
    };
    let asked = || registry.seen().len();
    let before = asked();
    permit(&node).await.unwrap();
    let after = asked();
    assert!(after > before);
    permit(&node).await.unwrap();
    let node = node.restart().await;
    permit(&node).await.unwrap();
    assert_eq!(asked(), after, "it is in the record");

    demand(&node, &signed_by(&stranger));
    let words = refusal(&permit(&node).await.unwrap_err());
    assert!(words.contains("signed by another key"), "{words}");
    assert!(asked() > after);
    // What was shown before is still known, and a pull is as good as a look.
    demand(&node, &signed_by(&signer));
    let before = asked();
    permit(&node).await.unwrap();
    assert_eq!(asked(), before);
    let fresh = Node::with_plain_hosts(&[&registry.host]);
    demand(&fresh, &signed_by(&signer));
    fresh.pull(&name).await.unwrap();
    let before = asked();
    permit(&fresh).await.unwrap();
    assert_eq!(asked(), before);
}
