#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use rstest::rstest;

use super::*;

const FALLBACK: &str = "/var/lib/containers/sigstore";

fn places(files: &[(&str, &str)]) -> Result<Places, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    Places::read(folder.path())
}

fn of(places: &Places, reference: &str) -> (String, Option<bool>) {
    let place = places
        .of(&Reference::parse(reference).unwrap(), Path::new(FALLBACK))
        .unwrap();
    (place.lookaside.to_string(), place.attachments)
}

#[test]
fn the_most_specific_section_that_says_it_counts() {
    let places = places(&[
        (
            "a.yaml",
            "default-docker:\n  sigstore: file:///srv/all/\n  use-sigstore-attachments: false\n",
        ),
        (
            "b.yaml",
            "docker:\n  r.example:\n    lookaside: https://sig.example/store?x=1\n    lookaside-staging: file:///x\n  \
             r.example/team:\n    use-sigstore-attachments: true\n  r.example/empty:\n",
        ),
        ("empty.yaml", ""),
        ("ignored.conf", "]["),
    ])
    .unwrap();
    assert_eq!(
        of(&places, "busybox"),
        ("file:///srv/all/library/busybox".into(), Some(false))
    );
    assert_eq!(
        of(&places, "r.example/team/app:1"),
        ("https://sig.example/store/team/app?x=1".into(), Some(true))
    );
    assert_eq!(
        of(&places, "r.example/empty/app:1").0,
        "https://sig.example/store/empty/app?x=1"
    );
}

#[test]
fn nothing_said() {
    let nowhere = Places::read(Path::new("/no/such/folder")).unwrap();
    assert_eq!(
        of(&nowhere, "busybox"),
        (format!("file://{FALLBACK}/library/busybox"), None)
    );
}

#[test]
fn signatures_are_numbered_beside_the_digest() {
    let place = places(&[(
        "a.yaml",
        "default-docker: {lookaside: 'https://s.example:8443/a b'}",
    )])
    .unwrap()
    .of(
        &Reference::parse("r.example/app:1").unwrap(),
        Path::new(FALLBACK),
    )
    .unwrap();
    let digest = Digest::sha256_of(b"");
    assert_eq!(
        place.signature(&digest, 3).as_str(),
        format!(
            "https://s.example:8443/a%20b/app@sha256={}/signature-3",
            digest.hex()
        )
    );
}

#[rstest]
#[case(&[("a.yaml", "docker: {x: {}}"), ("b.yaml", "docker: {x: {}}")], "docker.\"x\" stands in")]
#[case(&[("a.yaml", "default-docker: {}"), ("b.yaml", "default-docker: {}")], "default-docker stands in")]
#[case(&[("a.yaml", "docker: [")], "a.yaml: ")]
#[case(&[("a.yaml", "docker: {x: {use-sigstore-attachments: perhaps}}")], "a.yaml: ")]
#[case(&[("a.yaml", "docker: {x: {}, x: {}}")], "a.yaml: ")]
fn faults_name_their_files(#[case] files: &[(&str, &str)], #[case] expected: &str) {
    let reason = places(files).unwrap_err();
    assert!(reason.contains(expected), "{reason}");
}

#[rstest]
#[case("sigs")]
#[case("ftp://s.example/")]
#[case("file://host/x")]
fn urls_that_lead_nowhere(#[case] url: &str) {
    let places = places(&[("a.yaml", &format!("default-docker: {{lookaside: '{url}'}}"))]).unwrap();
    let reason = places
        .of(&Reference::parse("busybox").unwrap(), Path::new(FALLBACK))
        .unwrap_err();
    assert!(reason.contains("a.yaml: lookaside"), "{reason}");
}

#[test]
fn a_file_beyond_all_measure_is_refused() {
    let reason = places(&[("a.yaml", &"#".repeat(2 << 20))]).unwrap_err();
    assert!(
        reason.contains("a.yaml: it has more than 1048576 bytes"),
        "{reason}"
    );
}
