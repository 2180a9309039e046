//! What a registry's refusal says, in one short line. Bodies are hostile: they are bounded, never repeated whole, and
//! a web page is called one.

use std::time::Duration;

use bytes::BytesMut;
use http::header::CONTENT_TYPE;
use reqwest::Response;
use serde::Deserialize;

use crate::reference::clip;

/// How much of a refusal's body is read.
const MAX_REFUSAL_BYTES: usize = 8 * 1024;
/// How long a refusal's body may take. It only makes the message better.
const REFUSAL_TIME: Duration = Duration::from_secs(3);
/// How much of its message is repeated, in characters.
const MAX_MESSAGE_CHARACTERS: usize = 160;

#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Details {
    details: String,
}

/// Reads a refusal's body as far as it helps, and sums it up.
pub(super) async fn refusal(mut response: Response) -> String {
    let status = response.status().as_u16();
    let content_type = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let mut body = BytesMut::new();
    let read = async {
        while let Ok(Some(bytes)) = response.chunk().await {
            body.extend_from_slice(&bytes);
            if body.len() >= MAX_REFUSAL_BYTES {
                break;
            }
        }
    };
    // Too late is as good as empty.
    let _ = tokio::time::timeout(REFUSAL_TIME, read).await;
    describe(status, content_type.as_deref(), &body)
}

/// Sums up a refusal: `manifest unknown (404)`, `it answers 502 with a web page`.
fn describe(status: u16, content_type: Option<&str>, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    let is_page = content_type.is_some_and(|kind| kind.trim_start().starts_with("text/html"))
        || text
            .get(..15)
            .is_some_and(|start| start.to_ascii_lowercase().starts_with("<!doctype html"))
        || text
            .get(..5)
            .is_some_and(|start| start.eq_ignore_ascii_case("<html"));
    if is_page {
        return format!("it answers {status} with a web page");
    }
    match message_of(text) {
        Some(message) => format!(
            "{} ({status})",
            clip(message.trim(), MAX_MESSAGE_CHARACTERS)
        ),
        None => format!("it answers {status}"),
    }
}

fn message_of(text: &str) -> Option<String> {
    if let Ok(errors) = serde_json::from_str::<Errors>(text) {
        let first = errors.errors.into_iter().next()?;
        let words = if first.message.is_empty() {
            first.code.to_ascii_lowercase().replace('_', " ")
        } else {
            first.message
        };
        return (!words.is_empty()).then_some(words);
    }
    if let Ok(details) = serde_json::from_str::<Details>(text) {
        return (!details.details.is_empty()).then_some(details.details);
    }
    // A short plain line, as Go's servers and proxies send, helps; anything structured or long does not.
    let plain = !text.is_empty() && text.lines().count() == 1 && !text.starts_with(['<', '{', '[']);
    plain.then(|| text.to_owned())
}

#[cfg(test)]
mod test {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        404,
        Some("application/json"),
        r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
        "manifest unknown (404)"
    )]
    #[case(
        401,
        None,
        r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#,
        "unauthorized (401)"
    )]
    #[case(
        401,
        None,
        r#"{"details":"incorrect username or password"}"#,
        "incorrect username or password (401)"
    )]
    #[case(404, None, r#"{"errors":[]}"#, "it answers 404")]
    #[case(
        502,
        Some("text/html; charset=utf-8"),
        "<center>Bad gateway</center>",
        "it answers 502 with a web page"
    )]
    #[case(200, None, "<!DOCTYPE html><html>…", "it answers 200 with a web page")]
    #[case(
        400,
        Some("text/plain"),
        "Client sent an HTTP request to an HTTPS server.\n",
        "Client sent an HTTP request to an HTTPS server. (400)"
    )]
    #[case(500, None, "", "it answers 500")]
    #[case(500, None, "goroutine 1\n main.go", "it answers 500")]
    fn describes(
        #[case] status: u16,
        #[case] content_type: Option<&str>,
        #[case] body: &str,
        #[case] expected: &str,
    ) {
        assert_eq!(describe(status, content_type, body.as_bytes()), expected);
    }

    #[test]
    fn long_and_binary_bodies_stay_short() {
        let long = format!(
            r#"{{"errors":[{{"code":"X","message":"{}"}}]}}"#,
            "a\\n".repeat(2000)
        );
        let words = describe(500, None, long.as_bytes());
        assert!(
            words.chars().count() < 200 && !words.contains('\n'),
            "{words}"
        );
        let binary = describe(500, None, &[0xff; 100]);
        assert!(binary.len() < 600, "{binary}");
    }
}
