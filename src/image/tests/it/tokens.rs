//! docker-registry with a token server, as registries of the world have it: tokens that the registry itself verifies.

use std::process::Command;

use image::{Credentials, ImageError, PullRequest};

use crate::node::Node;
use crate::published::{Published, noise};
use crate::real_registry::{Auth, RealRegistry};
use crate::token_server::{ISSUER, PASSWORD, SERVICE, TokenServer, USER};

/// Pushes by skopeo, which gets a token by itself: so it is no mistake of both sides that ours are good.
fn push(image: &Published, registry: &RealRegistry, name: &str) {
    let layout = tempfile::tempdir().unwrap();
    image.write_layout(layout.path());
    let output = Command::new("timeout")
        .args(["60", "skopeo", "copy", "--quiet", "--dest-tls-verify=false"])
        .arg(format!("--dest-creds={USER}:{PASSWORD}"))
        .arg(format!("oci:{}", layout.path().display()))
        .arg(format!("docker://{}", registry.reference(name)))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn with_password(reference: &str, password: &str) -> PullRequest {
    PullRequest {
        credentials: Some(Credentials::basic(USER, password)),
        ..PullRequest::anonymous(reference)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_tokens_open_what_they_are_for() {
    let tokens = TokenServer::start().await;
    let registry = RealRegistry::with_auth(&Auth::SignedToken {
        realm: tokens.realm(),
        service: SERVICE.to_owned(),
        issuer: ISSUER.to_owned(),
        bundle: tokens.bundle(),
    });
    let public = Published::of_files(&[("a", b"1"), ("b", &noise(1, 200_000))]);
    let private = Published::of_files(&[("a", b"2")]);
    let (public_push, private_push) = (public.clone(), private.clone());
    // skopeo talks to the token server, which runs on this runtime.
    let registry = tokio::task::spawn_blocking(move || {
        push(&public_push, &registry, "public/app:1");
        push(&private_push, &registry, "team/app:1");
        registry
    })
    .await
    .unwrap();
    let node = Node::with_plain_hosts(&[&registry.host, &tokens.http.host]);
    let (open, closed) = (
        registry.reference("public/app:1"),
        registry.reference("team/app:1"),
    );

    let asked = tokens.http.seen().len();
    let pulled = node.pull(&open).await.unwrap();
    assert_eq!(pulled.id.digest(), &public.id());
    assert_eq!(node.read(&pulled, "a").unwrap(), b"1");
    assert_eq!(
        tokens.http.seen().len(),
        asked + 1,
        "one token for one pull"
    );

    let error = node.pull(&closed).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    let error = node.images.pull(with_password(&closed, "wr0ng")).await;
    let error = error.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert!(!error.to_string().contains("wr0ng"), "{error}");

    let pulled = node.images.pull(with_password(&closed, PASSWORD)).await;
    assert_eq!(pulled.unwrap().id.digest(), &private.id());
    // Its being here opens it to nobody.
    let error = node.pull(&closed).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
}
