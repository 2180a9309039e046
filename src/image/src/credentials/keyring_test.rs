#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use rstest::rstest;
use tempfile::TempDir;

use super::*;

struct Files {
    dir: TempDir,
    node: NodeCredentials,
}

impl Files {
    /// A node with these files; `node` is its own, everything else is a namespace's.
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ImagesConfig::new("/x");
        config.credentials.auth_file = Some(dir.path().join("node.json"));
        config.credentials.namespaced_auth_dir = Some(dir.path().join("ns"));
        std::fs::create_dir(dir.path().join("ns")).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        Self {
            node: NodeCredentials::new(&config),
            dir,
        }
    }

    fn keyring(&self, namespace: Option<&str>) -> Keyring {
        let reference = Reference::parse("quay.io/team/app:1").unwrap();
        self.node.read(&reference, namespace).unwrap()
    }

    /// Where the credentials of `host` come from, with names of files relative to the folder.
    fn source(&self, namespace: Option<&str>, host: &str) -> Option<String> {
        let source = self.keyring(namespace).source(host, "team/app").unwrap();
        source.map(|source| source.replace(&format!("{}/", self.dir.path().display()), ""))
    }
}

fn entry(key: &str) -> String {
    format!(r#"{{"auths": {{"{key}": {{"auth": "dTpw"}}}}}}"#)
}

fn all_files() -> Files {
    let image = Digest::sha256_of(b"quay.io/team/app");
    Files::new(&[
        ("node.json", &entry("quay.io")),
        ("ns/a.json", &entry("quay.io/team")),
        ("ns/b.json", &entry("other.example")),
        ("ns/c.json", &entry("quay.io")),
        (
            &format!("ns/c-{}.json", image.hex()),
            &entry("quay.io/team/app"),
        ),
    ])
}

#[rstest]
#[case::no_namespace(None, "quay.io", Some("from node.json (quay.io)"))]
#[case::of_the_namespace(Some("a"), "quay.io", Some("from ns/a.json (quay.io/team)"))]
#[case::namespace_without_entry(Some("b"), "quay.io", Some("from node.json (quay.io)"))]
#[case::namespace_for_a_mirror(Some("b"), "other.example", Some("from ns/b.json (other.example)"))]
#[case::namespace_without_file(Some("d"), "quay.io", Some("from node.json (quay.io)"))]
#[case::no_entry_anywhere(Some("a"), "elsewhere.example", None)]
#[case::no_way_out(Some("../ns/a"), "quay.io", Some("from node.json (quay.io)"))]
fn the_nearest_file_wins(
    #[case] namespace: Option<&str>,
    #[case] host: &str,
    #[case] expected: Option<&str>,
) {
    assert_eq!(all_files().source(namespace, host).as_deref(), expected);
}

#[test]
fn the_file_of_one_image_comes_before_that_of_the_namespace() {
    let source = all_files().source(Some("c"), "quay.io").unwrap();
    assert!(source.ends_with("(quay.io/team/app)"), "{source}");
}

#[test]
fn helpers_and_what_stands_behind_them_are_named() {
    let text = r#"{"auths": {"quay.io": {"auth": "dTpw"}}, "credHelpers": {"quay.io": "ecr"}, "credsStore": "pass"}"#;
    let files = Files::new(&[("node.json", text)]);
    assert_eq!(
        files.source(None, "quay.io").unwrap(),
        "from docker-credential-ecr, named in node.json (quay.io), or else from docker-credential-pass, named in node.json \
         (credsStore), or else from node.json (quay.io)"
    );
}

#[tokio::test]
async fn what_a_request_brings_is_all_it_has() {
    let files = all_files();
    let keyring = files.node.given(Credentials::basic("own", "x"));
    let origin = keyring.login("quay.io", "team/app", true).unwrap();
    let shown = origin.credentials().await.unwrap().unwrap();
    assert_eq!(shown, &Credentials::basic("own", "x"));
    assert!(
        origin
            .hint()
            .contains("the given credentials were not accepted")
    );
    let mirror = keyring.login("other.example", "team/app", false).unwrap();
    assert_eq!(mirror.credentials().await.unwrap(), None);
    assert!(mirror.hint().contains("no credentials were given"));
}

#[tokio::test]
async fn credentials_for_another_registry_are_told_of_and_not_shown() {
    let given = Credentials::from_parts("u", "p", "", "https://ghcr.io", "", "");
    let keyring = all_files().node.given(given.unwrap().unwrap());
    let login = keyring.login("quay.io", "team/app", true).unwrap();
    assert_eq!(login.credentials().await.unwrap(), None);
    assert!(login.hint().contains("for ghcr.io"), "{}", login.hint());
}

#[tokio::test]
async fn refusals_name_the_file_and_the_key() {
    let login = all_files()
        .keyring(Some("a"))
        .login("quay.io", "team/app", true)
        .unwrap();
    assert!(login.credentials().await.unwrap().is_some());
    let hint = login.hint();
    assert!(hint.contains("ns/a.json (quay.io/team)"), "{hint}");
}

#[test]
fn pulls_are_shared_by_those_with_the_same_credentials() {
    let files = all_files();
    let scope = |namespace| files.keyring(namespace).scope();
    assert_eq!(scope(None), scope(Some("d")));
    assert_eq!(scope(Some("a")), scope(Some("a")));
    assert_ne!(scope(Some("a")), scope(None));
    assert_ne!(scope(Some("a")), scope(Some("b")));
    let given = |password| files.node.given(Credentials::basic("u", password)).scope();
    assert_eq!(given("p"), given("p"));
    assert_ne!(given("p"), given("q"));
    assert_ne!(given("p"), scope(None));
    let before = scope(None);
    std::fs::write(files.dir.path().join("node.json"), entry("ghcr.io")).unwrap();
    assert_ne!(scope(None), before);
    assert!(!format!("{:?}", given("hunter2")).contains("hunter2"));
}

#[test]
fn nothing_configured_is_anonymous() {
    let node = NodeCredentials::new(&ImagesConfig::new("/x"));
    let reference = Reference::parse("quay.io/team/app:1").unwrap();
    let keyring = node.read(&reference, Some("a")).unwrap();
    assert_eq!(keyring.source("quay.io", "team/app").unwrap(), None);
    assert_eq!(keyring.scope(), Scope::Files(Vec::new()));
}

#[rstest]
#[case(0o600, 0, 0, None)]
#[case(0o640, 0, 0, None)]
#[case(0o660, 0, 0, None)]
#[case(0o640, 0, 5, Some("read"))]
#[case(0o620, 0, 5, Some("written"))]
#[case(0o644, 0, 0, Some("read"))]
#[case(0o602, 0, 0, Some("written"))]
#[case(0o600, 1000, 0, Some("belongs"))]
fn exposed_files(
    #[case] mode: u32,
    #[case] uid: u32,
    #[case] gid: u32,
    #[case] expected: Option<&str>,
) {
    let found = exposure(mode, uid, gid);
    assert_eq!(found.is_some(), expected.is_some());
    assert!(
        found
            .unwrap_or_default()
            .contains(expected.unwrap_or_default())
    );
}

#[test]
fn a_file_is_warned_of_once_until_it_changes() {
    let files = all_files();
    let path = files.dir.path().join("node.json");
    let set = |mode| {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        // The clock of file systems ticks every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let warned = || files.node.warned.0.lock().unwrap().get(&path).copied();
    set(0o600);
    files.keyring(None);
    assert_eq!(warned(), None);
    set(0o644);
    files.keyring(None);
    let first = warned().unwrap();
    files.keyring(None);
    assert_eq!(warned(), Some(first));
    set(0o604);
    files.keyring(None);
    assert_ne!(warned(), Some(first));
}
