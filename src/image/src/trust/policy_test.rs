#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn rule(json: &str) -> Result<Requirement, Fault> {
    let policy = Policy::parse(format!(r#"{{"default":[{json}]}}"#).as_bytes())?;
    Ok(policy.default[0].clone())
}

#[test]
fn what_distributions_ship() {
    let policy = Policy::parse(
        br#"{"default":[{"type":"insecureAcceptAnything"}],
             "transports":{"docker-daemon":{"":[{"type":"insecureAcceptAnything"}]}}}"#,
    )
    .unwrap();
    let reference = Reference::parse("busybox").unwrap();
    assert_eq!(
        policy.demands(&reference),
        ("the default".to_owned(), &[Requirement::AcceptAnything][..])
    );
}

#[test]
fn keys_from_files_and_from_the_policy() {
    assert_eq!(
        rule(r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}"#).unwrap(),
        Requirement::SignedBy {
            keys: Keys::Files(vec!["/k".into()]),
            identity: Identity::RepoDigestOrExact,
        }
    );
    assert_eq!(
        rule(
            r#"{"type":"sigstoreSigned","keyDatas":["YQ==","Yg=="],"rekorPublicKeyPaths":["/r"],
                "signedIdentity":{"type":"matchRepository"}}"#
        )
        .unwrap(),
        Requirement::SigstoreSigned {
            keys: Keys::Data(vec![b"a".to_vec(), b"b".to_vec()]),
            log_keys: Some(Keys::Files(vec!["/r".into()])),
            identity: Identity::Repository,
        }
    );
}

#[rstest]
#[case(
    r#""fulcio":{"caPath":"/c","oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyPath":"/r""#,
    "fulcio"
)]
#[case(r#""pki":{"caRootsPath":"/c","subjectEmail":"e"}"#, "pki")]
fn certificates_are_understood_and_never_accepted(
    #[case] members: &str,
    #[case] key: &'static str,
) {
    let found = rule(&format!(r#"{{"type":"sigstoreSigned",{members}}}"#)).unwrap();
    assert_eq!(found, Requirement::Certificate { key });
    assert!(found.describe().contains(key));
}

#[rstest]
#[case(
    "docker.io/library/busybox:1",
    "busybox:1",
    "scope docker.io/library/busybox:1"
)]
#[case(
    "docker.io/library/busybox",
    "busybox:2",
    "scope docker.io/library/busybox"
)]
#[case("docker.io/library", "nginx", "scope docker.io/library")]
#[case("docker.io", "team/app", "scope docker.io")]
#[case("*.example.com", "r.example.com:5000/a", "scope *.example.com")]
#[case("", "quay.io/a", "the default of the transport docker")]
fn the_most_specific_scope_wins(#[case] own: &str, #[case] pulled: &str, #[case] expected: &str) {
    let policy = Policy::parse(
        br#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{
            "docker.io/library/busybox:1":[{"type":"reject"}],
            "docker.io/library/busybox":[{"type":"reject"}],
            "docker.io/library":[{"type":"reject"}],
            "docker.io":[{"type":"reject"}],
            "*.example.com":[{"type":"reject"}],
            "*.com":[{"type":"insecureAcceptAnything"}],
            "":[{"type":"reject"}]}}}"#,
    )
    .unwrap();
    assert!(policy.docker.contains_key(own));
    let reference = Reference::parse(pulled).unwrap();
    assert_eq!(
        policy.demands(&reference),
        (expected.to_owned(), &[Requirement::Reject][..])
    );
}

#[rstest]
#[case("", "not usable JSON: EOF")]
#[case("[]", "expected an object, found a list")]
#[case("{}", "default: is missing")]
#[case(r#"{"default":[]}"#, "default: the list of requirements is empty")]
#[case(r#"{"default":{}}"#, "default: expected a list, found an object")]
#[case(
    r#"{"default":[{"type":"reject"}],"defualt":[]}"#,
    "defualt: unknown key; known here are default, transports"
)]
#[case(
    r#"{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}"#,
    "not usable JSON: the key \"default\" occurs twice at line 1 column 40"
)]
#[case(
    r#"{"default":[{"type":"reject","type":"insecureAcceptAnything"}]}"#,
    "not usable JSON: the key \"type\" occurs twice"
)]
#[case(
    r#"{"default":[{"type":"reject"}],"transports":{"docker":{"quay.io":[{"type":"rejekt"}]}}}"#,
    "transports.docker[\"quay.io\"][0].type: unknown requirement \"rejekt\""
)]
#[case(
    r#"{"default":[{"type":"reject"}],"transports":{"atomic":{"x":[{"type":"rejekt"}]}}}"#,
    "transports.atomic.x[0].type: unknown requirement"
)]
#[case(
    r#"{"default":[{"type":"reject"}],"transports":{"docker":[]}}"#,
    "transports.docker: expected an object"
)]
#[case(
    r#"{"default":[{"type":"reject"}],"transports":{"docker":{"":[]}}}"#,
    "transports.docker[\"\"]: the list of requirements is empty"
)]
fn faults_of_the_file(#[case] json: &str, #[case] expected: &str) {
    let found = Policy::parse(json.as_bytes()).unwrap_err().to_string();
    assert!(found.starts_with(expected), "{found}");
}

#[rstest]
#[case("{}", "default[0].type: is missing")]
#[case(r#"{"type":7}"#, "default[0].type: expected a string, found a number")]
#[case(r#"{"type":"reject","why":"x"}"#, "default[0].why: unknown key")]
#[case(
    r#"{"type":"insecureAcceptAnything","keyPath":"/k"}"#,
    "default[0].keyPath: unknown key"
)]
#[case(
    r#"{"type":"signedBaseLayer","baseLayerIdentity":{}}"#,
    "default[0].type: signedBaseLayer"
)]
#[case(
    r#"{"type":"signedBy","keyPath":"/k"}"#,
    "default[0].keyType: is missing"
)]
#[case(
    r#"{"type":"signedBy","keyType":"X509Certificates","keyPath":"/k"}"#,
    "default[0].keyType: \"X509Certificates\" is not supported"
)]
#[case(
    r#"{"type":"signedBy","keyType":"GPGKeys"}"#,
    "default[0]: one of keyPath, keyPaths, keyData is needed"
)]
#[case(
    r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k","keyData":"YQ=="}"#,
    "default[0]: keyPath and keyData exclude"
)]
#[case(
    r#"{"type":"signedBy","keyType":"GPGKeys","keyPaths":[]}"#,
    "default[0].keyPaths: the list is empty"
)]
#[case(
    r#"{"type":"signedBy","keyType":"GPGKeys","keyPaths":["/k",1]}"#,
    "default[0].keyPaths[1]: expected a string"
)]
#[case(
    r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"k.gpg"}"#,
    "default[0].keyPath: \"k.gpg\" is not an absolute path"
)]
#[case(
    r#"{"type":"signedBy","keyType":"GPGKeys","keyData":"*"}"#,
    "default[0].keyData: it is not base64"
)]
#[case(
    r#"{"type":"signedBy","keyType":"GPGKeys","keyDatas":["YQ=="]}"#,
    "default[0].keyDatas: unknown key"
)]
#[case(
    r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k","signedIdentity":{"type":"x"}}"#,
    "default[0].signedIdentity.type: unknown"
)]
#[case(r#"{"type":"sigstoreSigned"}"#, "default[0]: exactly one of keyPath")]
#[case(
    r#"{"type":"sigstoreSigned","keyPath":"/k","fulcio":{}}"#,
    "default[0]: exactly one of keyPath"
)]
#[case(
    r#"{"type":"sigstoreSigned","fulcio":{}}"#,
    "default[0]: \"fulcio\" needs a rekorPublicKeyPath"
)]
#[case(
    r#"{"type":"sigstoreSigned","fulcio":{"caPaht":"/c"}}"#,
    "default[0].fulcio.caPaht: unknown key"
)]
#[case(
    r#"{"type":"sigstoreSigned","pki":{"caRootsPath":1}}"#,
    "default[0].pki.caRootsPath: expected a string"
)]
#[case(
    r#"{"type":"sigstoreSigned","pki":{},"rekorPublicKeyPath":"/r"}"#,
    "default[0]: \"pki\" and the keys"
)]
#[case(r#"{"type":"sigstoreSigned","keyPath":"/k","rekorPublicKeyPath":"/r","rekorPublicKeyData":"YQ=="}"#, "default[0]: rekorPublicKeyPath and")]
fn faults_of_a_requirement(#[case] json: &str, #[case] expected: &str) {
    let found = rule(json).unwrap_err().to_string();
    assert!(found.starts_with(expected), "{found}");
}

#[test]
fn deep_nesting_is_refused_by_the_parser() {
    let json = format!(
        r#"{{"default":{}{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(Policy::parse(json.as_bytes()).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Policy::parse(&bytes);
    }

    /// A valid policy in which one character was changed never accepts more than the original: it is read as the same, or
    /// demands something else by name, or is refused; it never becomes "anything".
    #[test]
    fn one_changed_character_never_opens_a_policy(position in 0..76usize, byte in 0x20..0x7fu8) {
        let mut bytes = br#"{"default":[{"type":"reject"}],"transports":{"docker":{"":[{"type":"reject"}]}}}"#.to_vec();
        bytes[position] = byte;
        if let Ok(policy) = Policy::parse(&bytes) {
            let reference = Reference::parse("busybox").unwrap();
            prop_assert_eq!(policy.demands(&reference).1, &[Requirement::Reject][..]);
        }
    }
}
