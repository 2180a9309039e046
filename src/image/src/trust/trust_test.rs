#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use rstest::rstest;
use tempfile::TempDir;

use super::*;

const ACCEPT: &str = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
const REJECT: &str = r#"{"default":[{"type":"reject"}]}"#;

struct Node {
    config: Arc<ImagesConfig>,
    folder: TempDir,
}

/// A node with these files; its policies are `policy.json` and those below `namespaces`.
fn node(files: &[(&str, &str)], change: impl FnOnce(&mut TrustConfig)) -> Node {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::create_dir(path.join("namespaces")).unwrap();
    for (name, text) in files {
        std::fs::write(path.join(name), text).unwrap();
    }
    let mut config = ImagesConfig::new(path.join("root"));
    config.trust = TrustConfig {
        policy: None,
        policy_dir: Some(path.join("namespaces")),
        default_policy: path.join("policy.json"),
        registries_d: path.join("registries.d"),
        lookaside: path.join("sigstore"),
    };
    change(&mut config.trust);
    Node {
        config: Arc::new(config),
        folder,
    }
}

impl Node {
    async fn demands(&self, namespace: Option<&str>) -> Result<Demands, String> {
        let reference = Reference::parse("r.example/app:1").unwrap();
        let own = own_policy(&self.config, namespace).await.unwrap();
        demands(&self.config, &reference, own)
            .await
            .map_err(|error| {
                error
                    .to_string()
                    .replace(self.folder.path().to_str().unwrap(), "")
            })
    }

    fn explain(&self, namespace: Option<&str>) -> String {
        let reference = Reference::parse("r.example/app:1").unwrap();
        explain(&self.config.trust, &reference, namespace)
            .unwrap_or_else(|error| error.to_string())
            .replace(self.folder.path().to_str().unwrap(), "")
    }
}

#[tokio::test]
async fn no_policy_asks_for_nothing() {
    let node = node(&[], |_| {});
    let demands = node.demands(Some("team")).await.unwrap();
    assert!(demands.proofs.is_empty() && demands.place.is_none());
    assert_eq!(
        node.explain(None),
        "/policy.json does not exist: everything is accepted"
    );
}

#[tokio::test]
async fn a_policy_that_was_named_has_to_be_there() {
    let node = node(&[], |trust| {
        trust.policy = Some("/no/such/policy.json".into());
    });
    assert_eq!(
        node.demands(None).await.unwrap_err(),
        "image r.example/app:1 is not allowed by /no/such/policy.json: /no/such/policy.json: no such file"
    );
}

#[tokio::test]
async fn a_namespace_with_a_policy_has_that_one_alone() {
    let node = node(
        &[
            ("policy.json", REJECT),
            ("namespaces/open.json", ACCEPT),
            ("namespaces/broken.json", "{}"),
        ],
        |_| {},
    );
    assert!(node.demands(Some("open")).await.is_ok());
    assert_eq!(
        node.explain(Some("open")),
        "/namespaces/open.json, the default: accepts anything"
    );
    for namespace in [
        None,
        Some("other"),
        Some(""),
        Some("../policy"),
        Some("OPEN"),
    ] {
        assert_eq!(
            node.demands(namespace).await.unwrap_err(),
            "image r.example/app:1 is not allowed by /policy.json (the default): it rejects everything"
        );
    }
    assert_eq!(
        node.demands(Some("broken")).await.unwrap_err(),
        "image r.example/app:1 is not allowed by /namespaces/broken.json: default: is missing"
    );
}

#[tokio::test]
async fn a_link_that_leads_nowhere_is_a_broken_policy() {
    let node = node(&[("policy.json", ACCEPT)], |_| {});
    std::os::unix::fs::symlink("/no/such", node.folder.path().join("namespaces/team.json"))
        .unwrap();
    let words = node.demands(Some("team")).await.unwrap_err();
    assert!(words.contains("team.json: no such file"), "{words}");
}

#[tokio::test]
async fn nothing_waits_for_a_pipe() {
    let node = node(&[], |_| {});
    let pipe = node.folder.path().join("policy.json");
    let made = std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .unwrap();
    assert!(made.success());
    let words = node.demands(None).await.unwrap_err();
    assert!(words.contains("it is not a regular file"), "{words}");
}

#[rstest]
#[case(
    r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"/no/such.gpg"}"#,
    "/no/such.gpg: no such file"
)]
#[case(
    r#"{"type":"signedBy","keyType":"GPGKeys","keyData":"YQ=="}"#,
    "the policy's own key 1: it "
)]
#[case(
    r#"{"type":"sigstoreSigned","keyDatas":["YQ=="]}"#,
    "the policy's own key 1: it holds no PEM"
)]
#[case(
    r#"{"type":"sigstoreSigned","fulcio":{},"rekorPublicKeyData":"YQ=="}"#,
    "by certificates (\"fulcio\"), which this version does not verify"
)]
#[case(r#"{"type":"sigstoreSigned","pki":{}}"#, "by certificates (\"pki\")")]
#[tokio::test]
async fn keys_that_cannot_be_used_refuse_the_pull(#[case] rule: &str, #[case] expected: &str) {
    let policy = format!(
        r#"{{"default":[{{"type":"insecureAcceptAnything"}}],"transports":{{"docker":{{"r.example":[{rule}]}}}}}}"#
    );
    let node = node(&[("policy.json", &policy)], |_| {});
    let words = node.demands(None).await.unwrap_err();
    assert!(
        words.starts_with(
            "image r.example/app:1 is not allowed by /policy.json (scope r.example): "
        ) && words.contains(expected),
        "{words}"
    );
}
