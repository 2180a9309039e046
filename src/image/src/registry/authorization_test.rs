#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;

use super::*;

fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
    Challenge::Bearer {
        realm: realm.into(),
        service: service.map(Into::into),
        scope: scope.map(Into::into),
    }
}

fn read(value: &str) -> Option<Challenge> {
    read_challenges([value].into_iter())
}

#[test]
fn challenges_are_read() {
    assert_eq!(
        read(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull""#
        ),
        Some(bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:library/busybox:pull")
        ))
    );
    assert_eq!(
        read(r#"bearer  realm=https://x/token , scope="a:b:pull,push""#),
        Some(bearer("https://x/token", None, Some("a:b:pull,push")))
    );
    assert_eq!(
        read(r#"Basic realm="Registry Realm""#),
        Some(Challenge::Basic)
    );
    assert_eq!(read("Basic"), Some(Challenge::Basic));
    assert_eq!(
        read(r#"Basic realm="a", Bearer realm="https://x/t""#),
        Some(bearer("https://x/t", None, None))
    );
    assert_eq!(
        read(r#"Negotiate, Basic realm="a""#),
        Some(Challenge::Basic)
    );
    assert_eq!(read(r#"Bearer error="x""#), None);
    assert_eq!(
        read(r#"Bearer realm="a\"b"#),
        Some(bearer("a\"b", None, None))
    );
    assert_eq!(read(""), None);
}

#[test]
fn an_identity_token_is_posted() {
    let credentials = Credentials::from_parts("u", "", "", "", "refresh-me", "")
        .unwrap()
        .unwrap();
    let gate = Gate::new("team/app", Some(credentials));
    let TokenRequest::Post { form } = gate.token_request(Some("s"), None) else {
        panic!("not a POST");
    };
    let get = |name| {
        form.iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.0.as_str())
    };
    assert_eq!(get("grant_type"), Some("refresh_token"));
    assert_eq!(get("refresh_token"), Some("refresh-me"));
    assert_eq!(get("scope"), Some("repository:team/app:pull"));
    assert_eq!(get("service"), Some("s"));
    assert!(!format!("{:?}", gate.token_request(None, None)).contains("refresh-me"));
}

#[test]
fn a_password_is_shown_to_the_token_server_only_as_a_header() {
    let gate = Gate::new("a", Some(Credentials::basic("u", "p")));
    let request = gate.token_request(None, Some("repository:a:pull"));
    assert_eq!(
        request,
        TokenRequest::Get {
            query: vec![("scope", "repository:a:pull".into())],
            authorization: Some(Secret("Basic dTpw".into())),
        }
    );
}

#[test]
fn a_registry_token_needs_no_token_server() {
    let credentials = Credentials::from_parts("", "", "", "", "", "tok")
        .unwrap()
        .unwrap();
    let gate = Gate::new("a", Some(credentials));
    let value = gate
        .direct(&bearer("https://x", None, None))
        .unwrap()
        .unwrap();
    assert_eq!(value.to_str().unwrap(), "Bearer tok");
    assert!(value.is_sensitive());
    assert!(gate.direct(&Challenge::Basic).unwrap().is_err());
}

#[test]
fn token_answers() {
    assert_eq!(read_token(br#"{"token":"a"}"#).unwrap(), "Bearer a");
    assert_eq!(
        read_token(br#"{"token":"","access_token":"b"}"#).unwrap(),
        "Bearer b"
    );
    assert!(read_token(b"{}").is_err());
    assert!(read_token(b"<html>").is_err());
    assert!(read_token(br#"{"token":"a\r\nX: y"}"#).is_err());
}

proptest! {
    #[test]
    fn reading_challenges_never_panics_or_hangs(value in "[ -~]{0,200}") {
        let _ = read(&value);
    }
}
