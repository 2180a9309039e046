//! Every way in which a registry is not reached is `RegistryUnavailable`, at every stage of a pull.

use std::time::Duration;

use image::ImageError;
use rstest::rstest;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::bad_registry::sample;
use crate::faulty::{Faulty, Reply, Seen};
use crate::node::Node;

/// Which request of a pull of `sample` fails.
fn is_stage(stage: &str, seen: &Seen) -> bool {
    match stage {
        "manifest" => seen.path.contains("/manifests/"),
        "configuration" => seen.path.ends_with(sample().id().as_str()),
        _ => seen.path.ends_with(sample().layer_digest(0).as_str()),
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn at_every_stage(
    #[values("manifest", "configuration", "layer")] stage: &'static str,
    #[values(
        "500", "502", "503", "504", "429", "408", "silence", "stall", "cut", "page"
    )]
    fault: &'static str,
) {
    if (stage, fault) == ("layer", "cut") {
        // A layer that ends early is told apart from one that is taken up again elsewhere by `bad_registry` and `pulls`.
        return;
    }
    // Another length than the manifest announces would be another fault.
    let length = sample().layers[0].len();
    let registry = Faulty::holding(&[("1", &sample())], move |seen| {
        is_stage(stage, seen).then(|| match fault {
            "silence" => Reply::Silence,
            "stall" => Reply::Stall {
                body: b"{".to_vec(),
                length,
            },
            "cut" => Reply::CutShort {
                body: b"{".to_vec(),
                length,
            },
            "page" => Reply::page(200),
            status => Reply::status(status.parse().unwrap()),
        })
    })
    .await;
    let node = Node::with(&[&registry.host], |config| {
        // Silence has to end by time-out; everything else ends by itself.
        let short = matches!(fault, "silence" | "stall");
        let limit = if short {
            Duration::from_millis(300)
        } else {
            Duration::from_mins(1)
        };
        config.timeouts.header = limit;
        config.timeouts.stall = limit;
        config.attempts = 2;
    });
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(
        matches!(error, ImageError::RegistryUnavailable { .. }),
        "{stage} {fault}: {error}"
    );
    node.assert_untouched().await;
}

/// Asserts that a pull from this host says in kubelet's words that nobody there is a registry.
async fn is_unavailable(host: &str, plain: bool) {
    let hosts: &[&str] = if plain { &[host] } else { &[] };
    let node = Node::with(hosts, |config| {
        config.attempts = 2;
        config.timeouts.connect = Duration::from_millis(500);
    });
    let error = node.pull(&format!("{host}/app:1")).await.unwrap_err();
    assert!(
        matches!(error, ImageError::RegistryUnavailable { .. }),
        "{error}"
    );
}

#[rstest]
#[case("no-such-host.invalid", false)]
#[case("127.0.0.1:1", false)]
#[case("127.0.0.1:1", true)]
#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_not_there(#[case] host: &str, #[case] plain: bool) {
    is_unavailable(host, plain).await;
}

/// What a server that is no registry does with each connection.
#[rstest]
#[case("closes", true)]
#[case("closes", false)]
#[case("resets", true)]
#[case("resets", false)]
#[case("speaks otherwise", true)]
#[case("speaks otherwise", false)]
#[case("says nothing", false)]
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_lead_nowhere(#[case] conduct: &'static str, #[case] plain: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            match conduct {
                "closes" => {}
                "resets" => {
                    stream.set_zero_linger().unwrap();
                }
                "speaks otherwise" => {
                    let _ = stream.write_all(b"220 mail.example ESMTP\r\n\r\n").await;
                    let _ = stream.shutdown().await;
                }
                _ => kept.push(stream),
            }
        }
    });
    is_unavailable(&host, plain).await;
    server.abort();
}
