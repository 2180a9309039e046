//! What the fuzz target of authentication files calls.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::decode_auth;
use super::file::{AuthFile, Candidate};
use super::place::Place;
use crate::error::ImageError;
use crate::fuzz::check;

const FILE: &str = "/etc/pintle/auth.json";
/// What stands in the place of secrets.
const MARK: &str = "hunter2";
const REPOSITORIES: [(&str, &str); 5] = [
    ("docker.io", "library/busybox"),
    ("quay.io", "team/app"),
    ("localhost:5000", "app"),
    ("[::1]:5000", "a/b"),
    ("a.b.example", "a"),
];

/// An authentication file: a host is shown only what stands under a name of it, a namespace's file runs no helper, and no
/// secret is told, whatever else is wrong with the file.
pub fn auth_json(bytes: &[u8]) {
    use_file(bytes);
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    // Keys are told.
    if bytes
        .windows(MARK.len())
        .any(|part| part == MARK.as_bytes())
    {
        return;
    }
    if let Value::Object(members) = &mut value {
        for (key, member) in members {
            // As are the names of helpers.
            if key != "credHelpers" && key != "credsStore" {
                mark(key, member);
            }
        }
    }
    let told = use_file(value.to_string().as_bytes());
    for secret in [MARK, &marked_auth()[..9]] {
        assert!(!told.contains(secret), "{secret}: {told}");
    }
}

/// User and password that hold the mark, as in the field `auth`.
fn marked_auth() -> String {
    STANDARD.encode(format!("{MARK}:{MARK}"))
}

/// Puts the mark into every text, so that what was usable stays so.
fn mark(key: &str, value: &mut Value) {
    match value {
        Value::String(text) if text.is_empty() => {}
        Value::String(text) => {
            *text = if key == "auth" && decode_auth(text).is_ok() {
                marked_auth()
            } else {
                MARK.to_owned()
            };
        }
        Value::Array(items) => items.iter_mut().for_each(|item| mark("", item)),
        Value::Object(members) => members.iter_mut().for_each(|(key, value)| mark(key, value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Reads a file and asks it for credentials. Returns everything that people could be told.
fn use_file(bytes: &[u8]) -> String {
    let mut told = String::new();
    let mut tell = |error: ImageError| {
        check(&error);
        // Writing to a text does not fail.
        let _ = write!(told, "{error} {error:?} ");
    };
    let mut shown = Vec::new();
    for helpers in [true, false] {
        let file = match AuthFile::parse(Path::new(FILE), bytes, helpers) {
            Ok(file) => file,
            Err(error) => {
                tell(error.into());
                continue;
            }
        };
        shown.push(format!("{file:?}"));
        for (host, repository) in REPOSITORIES {
            match file.candidates(host, repository) {
                Ok(candidates) => {
                    assert!(candidates.len() <= 3, "{candidates:?}");
                    for candidate in &candidates {
                        shown.push(fits(candidate, host, repository, helpers));
                    }
                }
                Err(error) => tell(error.into()),
            }
        }
    }
    told + &shown.join(" ")
}

/// What people could be told of a way to credentials, which is one for this repository.
fn fits(candidate: &Candidate, host: &str, repository: &str, helpers: bool) -> String {
    match candidate {
        Candidate::Stated { source, .. } => {
            // One that was clipped cannot be told by its beginning.
            if !source.key.ends_with('…') {
                let place = Place::parse(&source.key);
                let covers = place.and_then(|place| place.covers(host, repository));
                // Control characters are not repeated.
                assert!(
                    covers.is_some() || source.key.contains('\u{fffd}'),
                    "{source}"
                );
            }
            format!("{source} {candidate:?}")
        }
        Candidate::Helper {
            name,
            servers,
            source,
        } => {
            assert!(helpers && !name.is_empty(), "{source}");
            assert!((1..=2).contains(&servers.len()), "{servers:?}");
            format!("{source}")
        }
    }
}
