#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use rstest::rstest;

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

fn of_parts(username: &str, password: &str, identity: &str, registry: &str) -> Credentials {
    Credentials::from_parts(username, password, "", "", identity, registry)
        .unwrap()
        .unwrap()
}

fn scopes(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn an_identity_token_is_posted() {
    let credentials = of_parts("u", "", "refresh-me", "");
    let own = scopes(&["repository:team/app:pull", "aws"]);
    let request = token_request(Some(&credentials), Some("s"), &own);
    assert!(!format!("{request:?}").contains("refresh-me"));
    let TokenRequest::Post { form } = request else {
        panic!("not a POST");
    };
    let get = |name| {
        form.iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.reveal())
    };
    assert_eq!(get("grant_type"), Some("refresh_token"));
    assert_eq!(get("refresh_token"), Some("refresh-me"));
    assert_eq!(get("scope"), Some("repository:team/app:pull aws"));
    assert_eq!(get("service"), Some("s"));
    assert_eq!(get("username"), Some("u"));
    assert_eq!(get("client_id"), Some("pintle"));
}

#[rstest]
#[case::password(of_parts("u", "p", "", ""), Some("Basic dTpw"))]
#[case::identity_without_post(of_parts("u", "", "id", ""), Some("Basic dTppZA=="))]
#[case::nameless_identity(of_parts("", "", "id", ""), Some("Basic Omlk"))]
#[case::password_before_identity(of_parts("u", "p", "id", ""), Some("Basic dTpw"))]
#[case::registry_token(of_parts("", "", "", "t"), None)]
fn secrets_are_shown_to_the_token_server_only_as_a_header(
    #[case] credentials: Credentials,
    #[case] authorization: Option<&str>,
) {
    assert_eq!(
        token_query(Some(&credentials), Some("s"), &scopes(&["x", "y"])),
        TokenRequest::Get {
            query: vec![
                ("scope", "x".into()),
                ("scope", "y".into()),
                ("service", "s".into())
            ],
            authorization: authorization.map(Secret::new),
        }
    );
}

#[test]
fn a_password_is_never_posted() {
    let credentials = Credentials::basic("u", "p");
    let request = token_request(Some(&credentials), None, &scopes(&["x"]));
    assert!(matches!(request, TokenRequest::Get { .. }));
    let anonymous = token_request(None, None, &scopes(&["x"]));
    assert!(matches!(
        anonymous,
        TokenRequest::Get {
            authorization: None,
            ..
        }
    ));
}

#[rstest]
#[case(None, &["repository:team/app:pull"])]
#[case(Some(""), &["repository:team/app:pull"])]
#[case(Some("repository:team/app:pull"), &["repository:team/app:pull"])]
#[case(Some("repository:team/app:pull,push,delete"), &["repository:team/app:pull"])]
#[case(Some("repository:team/app:*"), &["repository:team/app:pull"])]
#[case(Some("repository:proxy/team/app:pull"), &["repository:team/app:pull", "repository:proxy/team/app:pull"])]
#[case(Some("aws"), &["repository:team/app:pull", "aws"])]
#[case(Some("repository:team/app:push aws  aws"), &["repository:team/app:pull", "aws"])]
fn only_reading_is_asked_for(#[case] challenged: Option<&str>, #[case] expected: &[&str]) {
    let gate = Gate::new("team/app", Login::anonymous());
    assert_eq!(gate.scopes(challenged), expected);
}

#[test]
fn scopes_are_bounded() {
    let many: Vec<String> = (0..100).map(|n| format!("s{n}")).collect();
    let gate = Gate::new("a", Login::anonymous());
    assert_eq!(gate.scopes(Some(&many.join(" "))).len(), 1 + MAX_SCOPES);
}

#[test]
fn a_registry_token_needs_no_token_server() {
    let credentials = of_parts("", "", "", "tok");
    let value = direct(&bearer("https://x", None, None), Some(&credentials))
        .unwrap()
        .unwrap();
    assert_eq!(value.to_str().unwrap(), "Bearer tok");
    assert!(value.is_sensitive());
    assert!(
        direct(&Challenge::Basic, Some(&credentials))
            .unwrap()
            .is_err()
    );
    assert!(direct(&Challenge::Basic, None).unwrap().is_err());
    assert!(direct(&bearer("https://x", None, None), None).is_none());
}

#[test]
fn token_answers() {
    assert_eq!(read_token(br#"{"token":"a"}"#).unwrap(), "Bearer a");
    assert_eq!(
        read_token(br#"{"token":"","access_token":"b"}"#).unwrap(),
        "Bearer b"
    );
    // Both, as most servers send.
    assert_eq!(
        read_token(br#"{"token":"a","access_token":"b","expires_in":1,"issued_at":"x"}"#).unwrap(),
        "Bearer a"
    );
    assert_eq!(
        read_token(br#"{"token":null,"access_token":"b"}"#).unwrap(),
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
