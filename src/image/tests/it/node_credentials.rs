//! Credentials of the node and of namespaces: whose a pull uses, who gets none, and helpers that misbehave.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use image::{
    Credentials, HelperFault, ImageError, Images, NodeCredentialsError, PullRequest, RegistryConfig,
};
use rstest::rstest;
use tempfile::TempDir;

use crate::faulty::{Faulty, Reply};
use crate::node::Node;
use crate::published::Published;
use crate::real_registry::{Auth, RealRegistry};

/// What the registries here let in, as a password and as an entry of a file.
const GOOD: &str = "secret";
const USER: &str = "user";

/// Whose credentials the registry itself would be shown, in the words of `pintle image explain`.
async fn shown(images: &Images, reference: &str, namespace: Option<&str>) -> Option<String> {
    let told = images.explain(reference, namespace).await.unwrap();
    let origin = told.references[0].hosts.iter().find(|host| host.origin);
    origin.unwrap().credentials.clone()
}

/// Everything that was logged in this process.
fn logged() -> String {
    String::from_utf8_lossy(&log().lock().unwrap()).into_owned()
}

fn log() -> &'static Arc<Mutex<Vec<u8>>> {
    struct Writer(Arc<Mutex<Vec<u8>>>);
    impl Write for Writer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Arc::<Mutex<Vec<u8>>>::default();
        let writer = Arc::clone(&log);
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || Writer(Arc::clone(&writer)))
            .init();
        log
    })
}

/// Files of a node.
struct Files {
    dir: TempDir,
}

impl Files {
    fn new() -> Self {
        log();
        let dir = tempfile::tempdir().unwrap();
        for below in ["ns", "bin"] {
            std::fs::create_dir(dir.path().join(below)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    /// A file with one entry.
    fn write_entry(&self, name: &str, key: &str, password: &str) {
        let text = format!(
            r#"{{"auths": {{"{key}": {{"username": "{USER}", "password": "{password}"}}}}}}"#
        );
        self.write(name, &text);
    }

    /// A credential helper. Its first line says that it ran.
    fn helper(&self, name: &str, script: &str) {
        let path = self.path(&format!("bin/docker-credential-{name}"));
        let runs = self.path("runs");
        let text = format!("#!/bin/sh\necho >>{}\n{script}\n", runs.display());
        // Written by a child, so that no other test's child holds it open for writing while it is executed.
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "cat >$0 && chmod 755 $0"])
            .arg(path)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = shell.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        assert!(shell.wait().unwrap().success());
    }

    /// How often helpers ran.
    fn runs(&self) -> usize {
        std::fs::read(self.path("runs")).map_or(0, |lines| lines.len())
    }

    /// A node with these files that may talk plain HTTP to these hosts.
    fn node(&self, hosts: &[&str]) -> Node {
        Node::with(hosts, |config| {
            config.credentials.auth_file = Some(self.path("node.json"));
            config.credentials.namespaced_auth_dir = Some(self.path("ns"));
            config.credentials.helper_dirs =
                vec![self.path("bin"), "/usr/bin".into(), "/bin".into()];
            config.timeouts.credential_helper = Duration::from_secs(20);
        })
    }
}

/// A registry that wants USER and GOOD.
async fn guarded(image: &Published) -> Faulty {
    Faulty::holding(&[("1", image)], |seen| {
        // `user:secret`
        (seen.header("authorization") != Some("Basic dXNlcjpzZWNyZXQ=")).then(|| {
            let headers = vec![("WWW-Authenticate", "Basic realm=\"x\"".into())];
            Reply::Full(401, headers, vec![])
        })
    })
    .await
}

fn of_namespace(reference: &str, namespace: &str) -> PullRequest {
    PullRequest {
        namespace: Some(namespace.to_owned()),
        ..PullRequest::anonymous(reference)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_lets_in_by_the_nodes_file() {
    let registry = RealRegistry::with_auth(&Auth::Password);
    let image = Published::of_files(&[("a", b"1")]);
    registry.push("private/app", "1", &image).await;
    let files = Files::new();
    let node = files.node(&[&registry.host]);
    let name = registry.reference("private/app:1");
    assert_eq!(shown(&node.images, &name, None).await, None);
    let error = node.pull(&name).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");

    // The file is read again for every pull. `user:wrong` is for everything but what is private.
    files.write(
        "node.json",
        &format!(
            r#"{{"auths": {{"{0}": {{"auth": "dXNlcjp3cm9uZw=="}}, "{0}/private": {{"auth": "dXNlcjpzZWNyZXQ="}}}}}}"#,
            registry.host
        ),
    );
    let source = shown(&node.images, &name, None).await.unwrap();
    let expected = format!("node.json ({}/private)", registry.host);
    assert!(source.ends_with(&expected), "{source}");
    let pulled = node.pull(&name).await.unwrap();
    assert_eq!(pulled.id.digest(), &image.id());

    std::fs::remove_file(files.path("node.json")).unwrap();
    let error = node.pull(&name).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_has_its_own() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = guarded(&image).await;
    let files = Files::new();
    files.write_entry("ns/team-a.json", &registry.host, GOOD);
    let name = registry.reference("app:1");
    let digest = state::Digest::sha256_of(registry.reference("app").as_bytes());
    let one_image = format!("ns/team-b-{}.json", digest.hex());
    files.write_entry(&one_image, &registry.host, GOOD);
    let node = files.node(&[&registry.host]);
    for namespace in ["team-a", "team-b"] {
        let request = of_namespace(&name, namespace);
        node.images.pull(request).await.unwrap();
    }
    for namespace in ["team-c", "team", "../ns/team-a", "TEAM-A", ""] {
        let request = of_namespace(&name, namespace);
        let error = node.images.pull(request).await.unwrap_err();
        assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    }
    node.pull(&name).await.unwrap_err();
    // Files that others have put there stay there.
    assert!(files.path(&one_image).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_are_not_mended_with_those_of_others() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = guarded(&image).await;
    let files = Files::new();
    files.write_entry("node.json", &registry.host, GOOD);
    files.write_entry("ns/wrong.json", &registry.host, "wr0ng-pass");
    let node = files.node(&[&registry.host]);
    let name = registry.reference("app:1");

    let error = node
        .images
        .pull(of_namespace(&name, "wrong"))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{text}");
    assert!(
        text.contains("ns/wrong.json") && text.contains("not accepted"),
        "{text}"
    );
    assert!(!text.contains("wr0ng-pass"), "{text}");

    let request = PullRequest {
        credentials: Some(Credentials::basic(USER, "wr0ng-pass")),
        ..of_namespace(&name, "other")
    };
    let error = node.images.pull(request).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");

    // Who brings none has the node's.
    node.images
        .pull(of_namespace(&name, "other"))
        .await
        .unwrap();
    node.pull(&name).await.unwrap();
    assert!(!logged().contains("wr0ng-pass"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_of_other_namespaces_are_other_pulls() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = Faulty::holding(&[("1", &image)], |seen| {
        if seen.header("authorization") == Some("Basic dXNlcjpzZWNyZXQ=") {
            return None;
        }
        let headers = vec![("WWW-Authenticate", "Basic realm=\"x\"".into())];
        let refusal = Reply::Full(401, headers, vec![]);
        // Long enough for the others to join, if they could.
        Some(Reply::Later(Duration::from_millis(300), Box::new(refusal)))
    })
    .await;
    let files = Files::new();
    files.write_entry("ns/may.json", &registry.host, GOOD);
    let node = files.node(&[&registry.host]);
    let name = registry.reference("app:1");
    let (may, may_too, may_not) = tokio::join!(
        node.images.pull(of_namespace(&name, "may")),
        node.images.pull(of_namespace(&name, "may")),
        node.images.pull(of_namespace(&name, "may-not")),
    );
    may.unwrap();
    may_too.unwrap();
    assert!(matches!(may_not, Err(ImageError::Unauthorized { .. })));
    // Those with the same credentials shared one pull: with and without them, each once.
    assert_eq!(registry.gets("/manifests/"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_shown_what_a_file_has_for_it() {
    let image = Published::of_files(&[("a", b"1")]);
    let (mirror, origin) = (guarded(&image).await, guarded(&image).await);
    let files = Files::new();
    files.write_entry("node.json", &mirror.host, GOOD);
    let node = Node::with(&[&mirror.host], |config| {
        config.credentials.auth_file = Some(files.path("node.json"));
        config.registries.insert(
            origin.host.clone(),
            RegistryConfig {
                plain_http: true,
                mirrors: vec![mirror.host.clone()],
                ..RegistryConfig::default()
            },
        );
    });
    node.pull(&origin.reference("app:1")).await.unwrap();
    assert_eq!(origin.seen().len(), 0);
}

#[rstest]
#[case::node("node.json")]
#[case::namespace("ns/team.json")]
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_is_told_by_its_place(#[case] name: &str) {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = Faulty::holding(&[("1", &image)], |_| None).await;
    let files = Files::new();
    files.write(name, "{\n  \"auths\": {\"x\": \"hunter2\"}\n}");
    let node = files.node(&[&registry.host]);
    let reference = registry.reference("app:1");
    let request = of_namespace(&reference, "team");
    let error = node.images.pull(request).await.unwrap_err();
    assert!(matches!(error, ImageError::NodeCredentials(_)), "{error}");
    let text = format!("{error} {error:?}");
    assert!(text.contains(name) && text.contains("line 2"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!(registry.seen().len(), 0);
    let source = shown(&node.images, &reference, Some("team")).await;
    let source = source.unwrap();
    assert!(source.contains("line 2"), "{source}");

    // Who brings credentials does not need the file, and once it is mended neither does anybody.
    let request = PullRequest {
        credentials: Some(Credentials::basic(USER, GOOD)),
        ..of_namespace(&reference, "team")
    };
    node.images.pull(request).await.unwrap();
    files.write(name, "{}");
    node.images
        .pull(of_namespace(&reference, "team"))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_others_can_read_is_warned_of_once() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = guarded(&image).await;
    let files = Files::new();
    files.write_entry("node.json", &registry.host, GOOD);
    let path = files.path("node.json");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let node = files.node(&[&registry.host]);
    for _ in 0..3 {
        node.pull(&registry.reference("app:1")).await.unwrap();
    }
    let log = logged();
    let warnings: Vec<_> = log
        .lines()
        .filter(|line| line.contains("WARN") && line.contains(path.to_str().unwrap()))
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("0644") && warnings[0].contains("chmod 600"));
    assert!(!log.contains("dXNlcjpzZWNyZXQ="), "a secret was logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn helpers_are_asked_when_the_registry_wants_credentials() {
    let image = Published::of_files(&[("a", b"1"), ("b", b"2"), ("c", b"3")]);
    let (open, closed) = (
        Faulty::holding(&[("1", &image)], |_| None).await,
        guarded(&image).await,
    );
    let files = Files::new();
    files.write("node.json", r#"{"credsStore": "store"}"#);
    files.helper(
        "store",
        &format!(
            r#"[ "$(cat)" = {} ] && echo '{{"Username":"user","Secret":"secret"}}' && exit
            echo credentials not found in native keychain; exit 1"#,
            closed.host
        ),
    );
    let node = files.node(&[&open.host, &closed.host]);
    node.pull(&open.reference("app:1")).await.unwrap();
    assert_eq!(files.runs(), 0, "nobody asked for credentials");
    let name = closed.reference("app:1");
    let source = shown(&node.images, &name, None).await.unwrap();
    assert!(source.contains("docker-credential-store"), "{source}");
    assert_eq!(files.runs(), 0, "explaining runs nothing");
    node.pull(&name).await.unwrap();
    assert_eq!(files.runs(), 1, "once for a pull");
    node.pull(&name).await.unwrap();
    assert_eq!(files.runs(), 2, "and again for the next");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_that_knows_nothing_means_anonymous() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = guarded(&image).await;
    let files = Files::new();
    files.write(
        "node.json",
        &format!(r#"{{"credHelpers": {{"{}": "empty"}}}}"#, registry.host),
    );
    files.helper(
        "empty",
        "echo credentials not found in native keychain; exit 1",
    );
    let node = files.node(&[&registry.host]);
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert!(
        error.to_string().contains("no credentials were given"),
        "{error}"
    );
    assert_eq!(files.runs(), 1);
}

#[rstest]
#[case::hangs("sleep 1000", 500, HelperFault::Deadline { limit: Duration::from_millis(500) })]
#[case::floods("exec head -c 104857600 /dev/zero", 20_000, HelperFault::TooMuchOutput)]
#[case::babbles("echo hunter2-out", 20_000, HelperFault::Garbage)]
#[tokio::test(flavor = "multi_thread")]
async fn helpers_that_misbehave(
    #[case] script: &str,
    #[case] limit: u64,
    #[case] expected: HelperFault,
) {
    let error = failing(script, limit).await;
    assert_eq!(error, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_helpers_say_is_kept_from_the_log() {
    let fault = failing("echo hunter2-err >&2; echo hunter2-out; exit 1", 20_000).await;
    assert!(matches!(fault, HelperFault::Failed { .. }), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn helpers_cannot_be_named_by_a_namespace() {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = guarded(&image).await;
    let files = Files::new();
    files.write("ns/team.json", r#"{"credsStore": "store"}"#);
    files.helper("store", r#"echo '{"Username":"user","Secret":"secret"}'"#);
    let node = files.node(&[&registry.host]);
    let request = of_namespace(&registry.reference("app:1"), "team");
    let error = node.images.pull(request).await.unwrap_err();
    assert!(error.to_string().contains("image.auth_file"), "{error}");
    assert_eq!(files.runs(), 0);
}

/// What a pull says that needs a helper which is this script and may take `limit` milliseconds.
async fn failing(script: &str, limit: u64) -> HelperFault {
    let image = Published::of_files(&[("a", b"1")]);
    let registry = guarded(&image).await;
    let files = Files::new();
    files.write("node.json", r#"{"credsStore": "bad"}"#);
    files.helper("bad", script);
    let node = Node::with(&[&registry.host], |config| {
        config.credentials.auth_file = Some(files.path("node.json"));
        config.credentials.helper_dirs = vec![files.path("bin"), "/usr/bin".into(), "/bin".into()];
        config.timeouts.credential_helper = Duration::from_millis(limit);
    });
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(
        text.contains("docker-credential-bad") || text.contains("\"bad\""),
        "{text}"
    );
    assert!(text.contains("node.json"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    assert!(!logged().contains("hunter2"), "it was logged");
    // One that is killed early may not have got as far as to say that it ran.
    assert!(files.runs() <= 1, "a helper that fails is not asked again");
    node.assert_untouched().await;
    match error {
        ImageError::NodeCredentials(NodeCredentialsError::Helper { fault, .. }) => fault,
        error => panic!("{error}"),
    }
}
