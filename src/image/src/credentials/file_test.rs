#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use rstest::rstest;

use super::*;

const PATH: &str = "/etc/pintle/auth.json";

fn read(text: &str) -> Result<AuthFile, NodeCredentialsError> {
    AuthFile::parse(Path::new(PATH), text.as_bytes(), true)
}

/// The ways to credentials for `host/repository`, in short.
fn found(text: &str, host: &str, repository: &str) -> Vec<String> {
    let file = read(text).unwrap();
    let candidates = file.candidates(host, repository).unwrap();
    candidates
        .iter()
        .map(|candidate| match candidate {
            Candidate::Stated {
                credentials,
                source,
            } => {
                let basic = credentials.basic_authorization();
                let shown = basic
                    .as_ref()
                    .or(credentials.identity_token())
                    .or(credentials.registry_token());
                format!("{} {}", source.key, shown.unwrap().reveal())
            }
            Candidate::Helper {
                name,
                servers,
                source,
            } => format!("{} {name} {}", source.key, servers.join(" ")),
        })
        .collect()
}

// `u:p` and `v:q`.
const PREFIXES: &str = r#"{"auths":{
    "quay.io": {"auth": "dTpw"},
    "quay.io/team": {"auth": "djpx"},
    "quay.io/team/empty": {},
    "https://index.docker.io/v1/": {"username": "u", "password": "p", "email": "x"},
    "localhost:5000": {"identitytoken": "id"},
    "other.example": {"registrytoken": "reg", "auth": null},
    "nothing.example": null
}}"#;

#[rstest]
#[case("quay.io", "other/app", &["quay.io Basic dTpw"])]
#[case("quay.io", "team/app", &["quay.io/team Basic djpx"])]
#[case("quay.io", "teams/app", &["quay.io Basic dTpw"])]
#[case("quay.io", "team/empty", &["quay.io/team Basic djpx"])]
#[case("docker.io", "library/busybox", &["https://index.docker.io/v1/ Basic dTpw"])]
#[case("localhost:5000", "app", &["localhost:5000 id"])]
#[case("localhost", "app", &[])]
#[case("other.example", "app", &["other.example reg"])]
#[case("nothing.example", "app", &[])]
fn the_longest_key_wins(#[case] host: &str, #[case] repository: &str, #[case] expected: &[&str]) {
    assert_eq!(found(PREFIXES, host, repository), expected);
}

const HELPERS: &str = r#"{
    "auths": {"quay.io": {"auth": "dTpw"}, "docker.io": {}},
    "credHelpers": {"quay.io": "ecr-login", "none.example": ""},
    "credsStore": "pass",
    "HttpHeaders": {"User-Agent": "x"}
}"#;

#[rstest]
#[case("quay.io", &["quay.io ecr-login quay.io", "credsStore pass quay.io", "quay.io Basic dTpw"])]
#[case("docker.io", &["credsStore pass https://index.docker.io/v1/ docker.io"])]
#[case("none.example", &["credsStore pass none.example"])]
fn helpers_come_first(#[case] host: &str, #[case] expected: &[&str]) {
    assert_eq!(found(HELPERS, host, "a/b"), expected);
}

#[test]
fn helpers_are_for_the_node_only() {
    let file = AuthFile::parse(Path::new("/ns.json"), HELPERS.as_bytes(), false).unwrap();
    let error = file.candidates("quay.io", "a").unwrap_err().to_string();
    assert!(
        error.contains("/ns.json") && error.contains("image.auth_file"),
        "{error}"
    );
}

// The form of before 2015, and what Kubernetes has in secrets of the type `kubernetes.io/dockercfg`.
const LEGACY: &str = r#"{
    "https://index.docker.io/v1/": {"auth": "dTpw", "email": "x@example"},
    "quay.io/team": {"username": "v", "password": "q"},
    "localhost:5000": {"auth": "dTpw"},
    "empty.example": {},
    "null.example": null
}"#;

#[rstest]
#[case("docker.io", "library/busybox", &["https://index.docker.io/v1/ Basic dTpw"])]
#[case("quay.io", "team/app", &["quay.io/team Basic djpx"])]
#[case("quay.io", "other/app", &[])]
#[case("localhost:5000", "app", &["localhost:5000 Basic dTpw"])]
#[case("empty.example", "app", &[])]
#[case("null.example", "app", &[])]
fn files_of_long_ago_are_read(
    #[case] host: &str,
    #[case] repository: &str,
    #[case] expected: &[&str],
) {
    assert_eq!(found(LEGACY, host, repository), expected);
}

#[rstest]
// What stands beside `auths` was never an entry.
#[case(r#"{"auths": {}, "quay.io": {"auth": "dTpw"}}"#)]
#[case(r#"{"auths": {}, "quay.io": "dTpw"}"#)]
#[case(r#"{"credHelpers": {}, "quay.io": {"auth": "dTpw"}}"#)]
// A new file in which nobody has logged in.
#[case(r#"{"HttpHeaders": {"User-Agent": "x"}, "detachKeys": "ctrl-q", "plugins": {"auth": {"a": "b"}}}"#)]
fn newer_files_are_not_taken_for_them(#[case] text: &str) {
    assert_eq!(found(text, "quay.io", "a"), Vec::<String>::new());
}

#[rstest]
#[case("{}")]
#[case(r#"{"auths": null, "credHelpers": null, "credsStore": null}"#)]
#[case(r#"{"auths": {}, "unknown": [1, {"a": "b"}]}"#)]
#[case(r#"{"auths": {"": {"auth": "dTpw"}, "/x": {"auth": "dTpw"}}}"#)]
fn files_without_entries_have_none(#[case] text: &str) {
    assert_eq!(found(text, "quay.io", "a"), Vec::<String>::new());
}

#[rstest]
#[case("", 1, 0, "ends too early")]
#[case("{\n \"auths\": {\n", 3, 0, "ends too early")]
#[case("hunter2", 1, 1, "not JSON")]
#[case("{\n  \"auths\": {\"quay.io\": \"hunter2\"}\n}", 2, 32, "another kind")]
#[case(
    "{\"auths\": {\"q\": {\"auth\": [\"hunter2\"]}}}",
    1,
    25,
    "another kind"
)]
#[case("{\"credsStore\": {\"hunter2\": 1}}", 1, 15, "another kind")]
#[case("{\"quay.io\": \"hunter2\"}", 1, 21, "another kind")]
#[case("{\"quay.io\": {\"auth\": 7}}", 1, 22, "another kind")]
#[case("{} hunter2", 1, 4, "not JSON")]
#[case("[\"hunter2\"]", 1, 10, "another kind")]
fn what_is_wrong_is_told_by_its_place_and_not_repeated(
    #[case] text: &str,
    #[case] at_line: usize,
    #[case] at_column: usize,
    #[case] words: &str,
) {
    let error = read(text).unwrap_err();
    let NodeCredentialsError::Malformed { line, column, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!((*line, *column), (at_line, at_column), "{error}");
    let told = format!("{error} {error:?}");
    assert!(told.contains(PATH) && told.contains(words), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn an_unusable_entry_hurts_only_who_needs_it() {
    let text = r#"{"auths": {"quay.io": {"auth": "hunter2!"}, "other.example": {"auth": "dTpw"}}}"#;
    assert_eq!(
        found(text, "other.example", "a"),
        ["other.example Basic dTpw"]
    );
    let error = read(text).unwrap().candidates("quay.io", "a").unwrap_err();
    let told = format!("{error} {error:?}");
    assert!(
        told.contains("\"quay.io\"") && told.contains("base64"),
        "{told}"
    );
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn debug_prints_no_secret() {
    let text = format!("{:?}", read(PREFIXES).unwrap());
    assert!(!text.contains("dTpw") && !text.contains("\"p\""), "{text}");
    let candidates = read(PREFIXES).unwrap().candidates("quay.io", "team/a");
    let text = format!("{candidates:?}");
    assert!(!text.contains("djpx"), "{text}");
}

#[test]
fn files_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let read = |name: &str| AuthFile::read(&at(name), true);
    assert!(read("missing").unwrap().is_none());
    std::fs::write(at("plain"), "{}").unwrap();
    assert!(read("plain").unwrap().is_some());
    assert!(read("plain/below").unwrap().is_none());
    std::fs::create_dir(at("folder")).unwrap();
    assert!(matches!(
        read("folder"),
        Err(NodeCredentialsError::NotAFile { .. })
    ));
    let fifo = std::process::Command::new("mkfifo")
        .arg(at("fifo"))
        .status();
    assert!(fifo.unwrap().success());
    assert!(matches!(
        read("fifo"),
        Err(NodeCredentialsError::NotAFile { .. })
    ));
    std::fs::write(at("large"), vec![b' '; MAX_FILE_BYTES + 1]).unwrap();
    assert!(matches!(
        read("large"),
        Err(NodeCredentialsError::TooLarge { .. })
    ));
    let mut largest = b"{}".to_vec();
    largest.resize(MAX_FILE_BYTES, b' ');
    std::fs::write(at("largest"), largest).unwrap();
    assert!(read("largest").unwrap().is_some());
}

#[test]
fn a_namespace_has_two_files_and_no_way_out() {
    let dir = Path::new("/etc/pintle/auth.d");
    // The name and its hash are those of CRI-O's own test of this scheme.
    let files = namespace_files(dir, "default", "quay.io/crio/fedora-crio-ci").unwrap();
    assert_eq!(
        files.map(|file| file.to_str().unwrap().to_owned()),
        [
            "/etc/pintle/auth.d/default-7aa25047c59c6c2e20b839f5b9820e3702dade4a97154d4df1f5cd1a9b44cfde.json",
            "/etc/pintle/auth.d/default.json",
        ]
    );
    let long = "a".repeat(64);
    for namespace in [
        "", ".", "..", "../x", "a/b", "a.b", "-a", "a-", "A", "a b", "a\0b", "ä", &long,
    ] {
        assert_eq!(namespace_files(dir, namespace, "x"), None, "{namespace:?}");
    }
    assert!(namespace_files(dir, &long[..63], "x").is_some());
}

proptest! {
    #[test]
    fn reading_never_panics_and_repeats_nothing(text in r#"[\{\}\[\]:,"a-z\\0-9 \n]{0,200}"#) {
        match read(&text) {
            Ok(file) => drop(file.candidates("a", "b")),
            Err(error) => prop_assert!(error.to_string().len() < 200),
        }
    }
}
