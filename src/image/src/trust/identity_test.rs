#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use rstest::rstest;

use super::*;

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn identity(json: &str) -> Result<Identity, Fault> {
    Identity::read(Some(&Node::parse(json.as_bytes()).unwrap()), "here")
}

/// `{A}` stands for a digest.
#[rstest]
#[case("matchExact", "busybox:1", "docker.io/library/busybox:1", true)]
#[case("matchExact", "busybox:1", "index.docker.io/library/busybox:1", true)]
#[case("matchExact", "busybox:1", "busybox:2", false)]
#[case("matchExact", "busybox", "busybox", false)]
#[case("matchExact", "busybox:latest", "busybox", false)]
#[case("matchExact", "r.example/a@{A}", "r.example/a:1", false)]
#[case("matchExact", "r.example/a@{A}", "r.example/a@{A}", true)]
#[case("matchExact", "r.example/a:1@{A}", "r.example/a@{A}", true)]
#[case("matchExact", "r.example/a:1@{A}", "r.example/a:1", false)]
#[case("matchRepoDigestOrExact", "r.example/a:1", "r.example/a:1", true)]
#[case("matchRepoDigestOrExact", "r.example/a:1", "r.example/a:2", false)]
#[case("matchRepoDigestOrExact", "r.example/a:1", "r.example/a", false)]
#[case("matchRepoDigestOrExact", "r.example/a:1", "r.example/a@{A}", false)]
#[case("matchRepoDigestOrExact", "r.example/a@{A}", "r.example/a:9", true)]
#[case("matchRepoDigestOrExact", "r.example/a:1@{A}", "r.example/a:9", true)]
#[case("matchRepoDigestOrExact", "r.example/a@{A}", "r.example/a", false)]
#[case("matchRepoDigestOrExact", "r.example/a@{A}", "r.example/b:9", false)]
#[case("matchRepository", "r.example/a:1", "r.example/a", true)]
#[case("matchRepository", "r.example/a:1", "r.example/a:2", true)]
#[case("matchRepository", "r.example/a:1", "r.example/ab:1", false)]
#[case("matchRepository", "r.example/a:1", "other.example/a:1", false)]
#[case("matchRepository", "r.example/a:1", "", false)]
#[case("matchRepository", "r.example/a:1", "https://r.example/a", false)]
fn simple_ways(
    #[case] kind: &str,
    #[case] pulled: &str,
    #[case] claimed: &str,
    #[case] expected: bool,
) {
    let way = identity(&format!(r#"{{"type":"{kind}"}}"#)).unwrap();
    let pulled = Reference::parse(&pulled.replace("{A}", A)).unwrap();
    let found = way.check(&pulled, &claimed.replace("{A}", A));
    assert_eq!(found.is_ok(), expected, "{found:?}");
}

#[rstest]
#[case(
    r#"{"type":"exactReference","dockerReference":"busybox:1"}"#,
    "docker.io/library/busybox:1",
    true
)]
#[case(
    r#"{"type":"exactReference","dockerReference":"busybox:1"}"#,
    "busybox:2",
    false
)]
#[case(
    r#"{"type":"exactReference","dockerReference":"busybox:latest"}"#,
    "busybox",
    false
)]
#[case(
    r#"{"type":"exactRepository","dockerRepository":"quay.io/x"}"#,
    "quay.io/x",
    true
)]
#[case(
    r#"{"type":"exactRepository","dockerRepository":"quay.io/x"}"#,
    "quay.io/x:7",
    true
)]
#[case(
    r#"{"type":"exactRepository","dockerRepository":"quay.io/x"}"#,
    "quay.io/y",
    false
)]
#[case(
    r#"{"type":"remapIdentity","prefix":"m.example","signedPrefix":"v.example"}"#,
    "v.example/team/a:1",
    true
)]
#[case(
    r#"{"type":"remapIdentity","prefix":"m.example","signedPrefix":"v.example"}"#,
    "m.example/team/a:1",
    false
)]
#[case(
    r#"{"type":"remapIdentity","prefix":"m.example/team","signedPrefix":"v.example:5000/x"}"#,
    "v.example:5000/x/a:1",
    true
)]
#[case(
    r#"{"type":"remapIdentity","prefix":"m.example/team/a","signedPrefix":"docker.io/library/z"}"#,
    "z:1",
    true
)]
// A part of a component is no prefix, so nothing is replaced.
#[case(
    r#"{"type":"remapIdentity","prefix":"m.example/tea","signedPrefix":"v.example"}"#,
    "m.example/team/a:1",
    true
)]
// What comes out is not in normal form.
#[case(
    r#"{"type":"remapIdentity","prefix":"m.example/team","signedPrefix":"library"}"#,
    "docker.io/library/a:1",
    false
)]
fn ways_with_values(#[case] json: &str, #[case] claimed: &str, #[case] expected: bool) {
    let pulled = Reference::parse("m.example/team/a:1").unwrap();
    let found = identity(json).unwrap().check(&pulled, claimed);
    assert_eq!(found.is_ok(), expected, "{found:?}");
}

#[rstest]
#[case(r#"{"type":"matchAnything"}"#, "here.type: unknown kind of identity")]
#[case(r#"{"type":"matchExact","x":1}"#, "here.x: unknown key")]
#[case(r"{}", "here.type: is missing")]
#[case(r#"["matchExact"]"#, "here: expected an object, found a list")]
#[case(r#"{"type":"exactReference"}"#, "here.dockerReference: is missing")]
#[case(
    r#"{"type":"exactReference","dockerReference":"busybox"}"#,
    "here.dockerReference: it has neither"
)]
#[case(
    r#"{"type":"exactReference","dockerReference":"A B"}"#,
    "here.dockerReference: image reference"
)]
#[case(
    r#"{"type":"exactRepository","dockerReference":"busybox:1"}"#,
    "here.dockerReference: unknown key"
)]
#[case(
    r#"{"type":"remapIdentity","prefix":"a.example/b:1","signedPrefix":"x"}"#,
    "here.prefix: \"a.example/b:1\" is not"
)]
#[case(
    r#"{"type":"remapIdentity","prefix":"","signedPrefix":"x"}"#,
    "here.prefix: \"\" is not"
)]
#[case(
    r#"{"type":"remapIdentity","prefix":"a.example"}"#,
    "here.signedPrefix: is missing"
)]
fn faults_are_named_by_place(#[case] json: &str, #[case] expected: &str) {
    let found = identity(json).unwrap_err().to_string();
    assert!(found.starts_with(expected), "{found}");
}

#[test]
fn cosigns_missing_tag_is_explained() {
    let pulled = Reference::parse("r.example/a:1").unwrap();
    let words = Identity::RepoDigestOrExact
        .check(&pulled, "r.example/a")
        .unwrap_err();
    assert!(words.contains("matchRepository"), "{words}");
}
