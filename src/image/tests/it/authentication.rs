//! Who is let in, and who gets to see the credentials.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use image::{Credentials, ImageError, PullRequest, RegistryConfig};

use crate::faulty::{Faulty, Reply, Seen};
use crate::node::Node;
use crate::published::Published;
use crate::real_registry::{Auth, RealRegistry};

fn with_password(reference: String, password: &str) -> PullRequest {
    PullRequest {
        credentials: Some(Credentials::basic("user", password)),
        ..PullRequest::anonymous(reference)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_with_passwords() {
    let registry = RealRegistry::with_auth(&Auth::Password);
    let image = Published::of_files(&[("a", b"1")]);
    registry.push("private/app", "1", &image).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let name = registry.reference("private/app:1");

    let error = node.pull(&name).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert!(
        error.to_string().contains("no credentials were given"),
        "{error}"
    );

    let error = node
        .images
        .pull(with_password(name.clone(), "wr0ng-pass"))
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert!(error.to_string().contains("not accepted"), "{error}");
    assert!(!error.to_string().contains("wr0ng-pass"));

    let pulled = node
        .images
        .pull(with_password(name.clone(), "secret"))
        .await
        .unwrap();
    assert_eq!(pulled.id.digest(), &image.id());

    // That the image is here lets nobody in.
    let error = node.pull(&name).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert!(node.images.get(&name).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_with_a_token_server() {
    let tokens = Faulty::start(|seen| {
        assert!(seen.path.contains("service=test-service"), "{}", seen.path);
        assert!(
            seen.path.contains("repository%3Aapp%3Apull"),
            "{}",
            seen.path
        );
        Reply::typed("application/json", r#"{"token":"let-me-in"}"#)
    })
    .await;
    let realm = format!("http://{}/token", tokens.host);
    let registry = RealRegistry::with_auth(&Auth::Token { realm });
    let image = Published::of_files(&[("a", b"1"), ("b", b"2"), ("c", b"3")]);
    registry.push("app", "1", &image).await;
    let node = Node::with_plain_hosts(&[&registry.host, &tokens.host]);
    let pulled = node.pull(&registry.reference("app:1")).await.unwrap();
    assert_eq!(pulled.id.digest(), &image.id());
    assert_eq!(
        tokens.seen().len(),
        1,
        "one token for the manifest and all layers"
    );
    assert_eq!(tokens.seen()[0].header("authorization"), None);

    // A token server that is not on TLS is not talked to unless that is configured.
    let node = Node::with_plain_hosts(&[&registry.host]);
    let error = node
        .images
        .pull(with_password(registry.reference("app:1"), "secret"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("plain_http"), "{error}");
    assert_eq!(tokens.seen().len(), 1);
}

/// A registry that wants `Bearer good`, with its token server on the same host at `/token`.
async fn guarded(
    image: &Published,
    tokens: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> Faulty {
    Faulty::holding(&[("1", image)], move |seen| {
        if seen.path.starts_with("/token") {
            return Some(tokens(seen));
        }
        if seen.header("authorization") == Some("Bearer good") {
            return None;
        }
        let host = seen.header("host").unwrap();
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="s""#);
        let mut refusal = Reply::refusal(401, "UNAUTHORIZED");
        if let Reply::Full(_, headers, _) = &mut refusal {
            headers.push(("WWW-Authenticate", challenge));
        }
        Some(refusal)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_buy_a_token() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = guarded(&image, |seen| match seen.header("authorization") {
        Some("Basic dXNlcjpzZWNyZXQ=") => {
            Reply::typed("application/json", r#"{"access_token":"good"}"#)
        }
        _ => Reply::refusal(401, "DENIED"),
    })
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let name = registry.reference("app:1");
    node.images
        .pull(with_password(name.clone(), "secret"))
        .await
        .unwrap();
    let error = node
        .images
        .pull(with_password(name, "other"))
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_and_registry_tokens() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = guarded(&image, |seen| {
        let refresh = seen.method == "POST"
            && seen.body.contains("grant_type=refresh_token")
            && seen.body.contains("refresh_token=my-id");
        if refresh {
            Reply::typed("application/json", r#"{"access_token":"good"}"#)
        } else {
            Reply::refusal(401, "DENIED")
        }
    })
    .await;
    let name = registry.reference("app:1");
    for (identity, bearer) in [("my-id", ""), ("", "good")] {
        let node = Node::with_plain_hosts(&[&registry.host]);
        let credentials = Credentials::from_parts("", "", "", "", identity, bearer).unwrap();
        let request = PullRequest {
            credentials,
            ..PullRequest::anonymous(name.clone())
        };
        node.images.pull(request).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_is_renewed() {
    let image = Published::of_files(&[("a", b"1"), ("b", b"2")]);
    let given = Arc::new(AtomicUsize::new(0));
    let registry = Faulty::holding(&[("1", &image)], {
        let given = Arc::clone(&given);
        move |seen| {
            if seen.path.starts_with("/token") {
                let number = given.fetch_add(1, Ordering::SeqCst);
                let token = format!(r#"{{"token":"number-{number}"}}"#);
                return Some(Reply::typed("application/json", token));
            }
            // The first token is good for the manifest only.
            let good = match seen.header("authorization") {
                Some("Bearer number-0") => seen.path.contains("/manifests/"),
                Some(_) => true,
                None => false,
            };
            if good {
                return None;
            }
            let host = seen.header("host").unwrap();
            let challenge = format!(r#"Bearer realm="http://{host}/token""#);
            Some(Reply::Full(
                401,
                vec![("WWW-Authenticate", challenge)],
                vec![],
            ))
        }
    })
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.pull(&registry.reference("app:1")).await.unwrap();
    assert_eq!(given.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_never_content_is_asked_twice() {
    let registry = Faulty::start(|seen| {
        if seen.path.starts_with("/token") {
            return Reply::typed("application/json", r#"{"token":"useless"}"#);
        }
        let host = seen.header("host").unwrap();
        let challenge = format!(r#"Bearer realm="http://{host}/token""#);
        Reply::Full(401, vec![("WWW-Authenticate", challenge)], vec![])
    })
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert_eq!(registry.gets("/manifests/"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_takes_no_credentials_along() {
    let image = Published::of_files(&[("a", b"1")]);
    let store = Faulty::holding(&[("1", &image)], |_| None).await;
    let registry = Faulty::holding(&[("1", &image)], {
        let store = store.host.clone();
        move |seen| {
            if seen.header("authorization").is_none() {
                return Some(Reply::Full(
                    401,
                    vec![("WWW-Authenticate", "Basic realm=\"x\"".into())],
                    vec![],
                ));
            }
            seen.path
                .contains("/blobs/")
                .then(|| Reply::redirect(format!("http://{store}{}", seen.path)))
        }
    })
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.images
        .pull(with_password(registry.reference("app:1"), "secret"))
        .await
        .unwrap();
    assert_eq!(store.gets("/blobs/"), 2);
    for seen in store.seen() {
        assert_eq!(seen.header("authorization"), None, "{}", seen.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_on_the_same_host_keeps_them() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = Faulty::holding(&[("1", &image)], |seen| {
        if seen.header("authorization").is_none() {
            return Some(Reply::Full(
                401,
                vec![("WWW-Authenticate", "Basic realm=\"x\"".into())],
                vec![],
            ));
        }
        let moved = seen.path.contains("/blobs/") && !seen.path.starts_with("/moved");
        moved.then(|| Reply::redirect(format!("/moved{}", seen.path)))
    })
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    node.images
        .pull(with_password(registry.reference("app:1"), "secret"))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_sees_no_credentials() {
    let image = Published::of_files(&[("a", b"1")]);
    let guarded = async |image: &Published| {
        Faulty::holding(&[("1", image)], |seen| {
            seen.header("authorization").is_none().then(|| {
                Reply::Full(
                    401,
                    vec![("WWW-Authenticate", "Basic realm=\"x\"".into())],
                    vec![],
                )
            })
        })
        .await
    };
    let (mirror, origin) = (guarded(&image).await, guarded(&image).await);
    let node = Node::with(&[&mirror.host], |config| {
        config.registries.insert(
            origin.host.clone(),
            RegistryConfig {
                plain_http: true,
                mirrors: vec![mirror.host.clone()],
                ..RegistryConfig::default()
            },
        );
    });
    node.images
        .pull(with_password(origin.reference("app:1"), "secret"))
        .await
        .unwrap();
    assert!(!mirror.seen().is_empty());
    for seen in mirror.seen() {
        assert_eq!(seen.header("authorization"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_credentials_are_another_pull() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = guarded(&image, |seen| match seen.header("authorization") {
        Some("Basic dXNlcjpzZWNyZXQ=") => {
            std::thread::sleep(Duration::from_millis(200));
            Reply::typed("application/json", r#"{"token":"good"}"#)
        }
        _ => Reply::refusal(401, "DENIED"),
    })
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let name = registry.reference("app:1");
    let (with, without) = tokio::join!(
        node.images.pull(with_password(name.clone(), "secret")),
        node.pull(&name)
    );
    assert!(with.is_ok());
    assert!(matches!(without, Err(ImageError::Unauthorized { .. })));
}

/// A registry that wants a token of its token server, which answers by `tokens`; `good` says which token is good for which
/// request.
async fn with_tokens(
    image: &Published,
    tokens: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    good: impl Fn(&Seen, &str) -> bool + Send + Sync + 'static,
) -> Faulty {
    Faulty::holding(&[("1", image)], move |seen| {
        if seen.path.starts_with("/token") {
            return Some(tokens(seen));
        }
        let shown = seen.header("authorization");
        let token = shown.and_then(|value| value.strip_prefix("Bearer "));
        if token.is_some_and(|token| good(seen, token)) {
            return None;
        }
        let host = seen.header("host").unwrap();
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="s""#);
        let headers = vec![("WWW-Authenticate", challenge)];
        Some(Reply::Full(401, headers, vec![]))
    })
    .await
}

fn token(text: &str) -> Reply {
    Reply::typed("application/json", format!(r#"{{"token":"{text}"}}"#))
}

fn requests(registry: &Faulty, method: &str, part: &str) -> Vec<Seen> {
    let mut seen = registry.seen();
    seen.retain(|seen| seen.method == method && seen.path.contains(part));
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn token_servers_without_post_are_asked_by_get() {
    let image = Published::of_files(&[("a", b"1")]);
    for status in [404, 405] {
        let registry = with_tokens(
            &image,
            move |seen| match (seen.method.as_str(), seen.header("authorization")) {
                ("POST", _) => Reply::refusal(status, "UNSUPPORTED"),
                // `me:my-id`
                ("GET", Some("Basic bWU6bXktaWQ=")) => token("good"),
                _ => Reply::refusal(401, "DENIED"),
            },
            |_, token| token == "good",
        )
        .await;
        let node = Node::with_plain_hosts(&[&registry.host]);
        let credentials = Credentials::from_parts("me", "", "", "", "my-id", "").unwrap();
        let request = PullRequest {
            credentials,
            ..PullRequest::anonymous(registry.reference("app:1"))
        };
        node.images.pull(request).await.unwrap();
        assert_eq!(requests(&registry, "POST", "/token").len(), 1);
        let asked = requests(&registry, "GET", "/token");
        assert_eq!(asked.len(), 1);
        assert!(asked[0].path.contains("service=s"), "{}", asked[0].path);
        assert!(!asked[0].path.contains("my-id"), "{}", asked[0].path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_identity_token_is_not_tried_in_another_way() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = with_tokens(&image, |_| Reply::refusal(401, "DENIED"), |_, _| false).await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let credentials = Credentials::from_parts("", "", "", "", "my-secret-id", "").unwrap();
    let request = PullRequest {
        credentials,
        ..PullRequest::anonymous(registry.reference("app:1"))
    };
    let error = node.images.pull(request).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert!(!error.to_string().contains("my-secret-id"), "{error}");
    assert_eq!(requests(&registry, "GET", "/token").len(), 0);
    assert_eq!(requests(&registry, "POST", "/token").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_may_renew_its_token_once() {
    let image = Published::of_files(&[("a", b"1"), ("b", b"2"), ("c", b"3")]);
    let given = Arc::new(AtomicUsize::new(0));
    let taken = Arc::new(AtomicUsize::new(0));
    // Each token is good for one request: as if every one had expired in mid-pull.
    let registry = with_tokens(
        &image,
        {
            let given = Arc::clone(&given);
            move |_| token(&given.fetch_add(1, Ordering::SeqCst).to_string())
        },
        {
            let taken = Arc::clone(&taken);
            move |_, token| {
                let next = taken.load(Ordering::SeqCst).to_string();
                let good = token == next;
                if good {
                    taken.fetch_add(1, Ordering::SeqCst);
                }
                good
            }
        },
    )
    .await;
    let node = Node::with(&[&registry.host], |config| {
        config.parallel_layers_per_pull = 1;
    });
    node.pull(&registry.reference("app:1")).await.unwrap();
    // A manifest, a configuration and three layers.
    assert_eq!(taken.load(Ordering::SeqCst), 5);
    assert_eq!(given.load(Ordering::SeqCst), 5);
    assert_eq!(requests(&registry, "GET", "/v2/").len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_refused_again_ends_the_pull() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = with_tokens(
        &image,
        |_| token("t"),
        |seen, _| seen.path.contains("/manifests/"),
    )
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert_eq!(requests(&registry, "GET", "/blobs/").len(), 2);
    assert_eq!(requests(&registry, "GET", "/token").len(), 2);
    node.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_refused_is_not_sent_again() {
    let image = Published::of_files(&[("a", b"1")]);
    // As if it had been changed in mid-pull.
    let registry = Faulty::holding(&[("1", &image)], |seen| {
        let known = seen.header("authorization").is_some();
        (!known || seen.path.contains("/blobs/")).then(|| {
            let headers = vec![("WWW-Authenticate", "Basic realm=\"x\"".into())];
            Reply::Full(401, headers, vec![])
        })
    })
    .await;
    let node = Node::with_plain_hosts(&[&registry.host]);
    let request = with_password(registry.reference("app:1"), "secret");
    let error = node.images.pull(request).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert_eq!(requests(&registry, "GET", "/blobs/").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_that_servers_ask_for_are_kept() {
    let image = Published::of_files(&[("a", b"1")]);
    let seconds = vec![("Retry-After", "1".to_owned())];
    let date = vec![
        ("Date", "Wed, 21 Oct 2015 07:28:00 GMT".to_owned()),
        ("Retry-After", "Wed, 21 Oct 2015 07:28:01 GMT".to_owned()),
    ];
    for (part, status, headers) in [
        ("/token", 429, seconds.clone()),
        ("/token", 503, date.clone()),
        ("/manifests/", 503, seconds),
        ("/blobs/", 429, date),
    ] {
        let refused = Arc::new(AtomicUsize::new(0));
        let registry = Faulty::holding(&[("1", &image)], {
            let refused = Arc::clone(&refused);
            move |seen| {
                let authorized = seen.header("authorization").is_some();
                let first = seen.path.contains(part)
                    && (authorized || part == "/token")
                    && refused.fetch_add(1, Ordering::SeqCst) == 0;
                if first {
                    return Some(Reply::Full(status, headers.clone(), vec![]));
                }
                if seen.path.starts_with("/token") {
                    return Some(token("t"));
                }
                let host = seen.header("host").unwrap();
                let challenge = format!(r#"Bearer realm="http://{host}/token""#);
                let headers = vec![("WWW-Authenticate", challenge)];
                (!authorized).then(|| Reply::Full(401, headers, vec![]))
            }
        })
        .await;
        let node = Node::with(&[&registry.host], |config| {
            config.timeouts.retry_wait = Duration::from_secs(5);
        });
        let begun = Instant::now();
        node.pull(&registry.reference("app:1")).await.unwrap();
        assert!(refused.load(Ordering::SeqCst) > 1, "{part}");
        // Our own first wait would be 300 ms at most.
        assert!(begun.elapsed() >= Duration::from_secs(1), "{part} {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_servers_are_reached_the_safe_way_only() {
    let image = Published::of_files(&[("a", b"1")]);
    for (realm, words) in [
        ("http://tokens.example/token", "plain_http"),
        (
            "https://user:word@tokens.example/token",
            "names credentials",
        ),
        ("ftp://tokens.example/token", "not on https"),
        ("token", "no URL"),
    ] {
        let registry = Faulty::holding(&[("1", &image)], move |_| {
            let challenge = format!(r#"Bearer realm="{realm}""#);
            let headers = vec![("WWW-Authenticate", challenge)];
            Some(Reply::Full(401, headers, vec![]))
        })
        .await;
        let node = Node::with_plain_hosts(&[&registry.host]);
        let request = with_password(registry.reference("app:1"), "secret");
        let error = node.images.pull(request).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!error.contains("word@"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_takes_nobody_elsewhere() {
    let image = Published::of_files(&[("a", b"1")]);
    let elsewhere = Faulty::start(|_| token("t")).await;
    let to = format!("http://{}/token", elsewhere.host);
    let registry = with_tokens(&image, move |_| Reply::redirect(to.clone()), |_, _| true).await;
    let node = Node::with_plain_hosts(&[&registry.host, &elsewhere.host]);
    let request = with_password(registry.reference("app:1"), "secret");
    node.images.pull(request).await.unwrap_err();
    assert_eq!(elsewhere.seen().len(), 0);
}
