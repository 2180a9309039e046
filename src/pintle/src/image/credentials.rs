//! Credentials out of a file that the operator names.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use api::cri::AuthConfig;
use image::{Credentials, MAX_AUTH_FILE_BYTES, NodeCredentialsError, Reference, Revealed};

/// What messages call `-`.
const STANDARD_INPUT: &str = "standard input";
/// How long a credential helper of the file may take: it may ask the operator something.
const HELPER_LIMIT: Duration = Duration::from_mins(1);

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read credentials from {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is neither form. Its contents are not repeated.
    #[error("{path} is neither one line USER:PASSWORD nor an authentication file in JSON", path = .path.display())]
    Form {
        /// The file.
        path: PathBuf,
    },
    /// It has nothing for the registry.
    #[error("{path} has no credentials for {image}", path = .path.display())]
    None {
        /// The file.
        path: PathBuf,
        /// The image.
        image: Reference,
    },
    /// It is an authentication file, and something is wrong with it or with a helper that it names.
    #[error(transparent)]
    File(#[from] NodeCredentialsError),
    /// The image's name is none.
    #[error(transparent)]
    Image(#[from] image::ReferenceError),
}

/// What a file has for the registry of an image.
pub(super) async fn read(path: &Path, image: &str) -> Result<AuthConfig, CredentialsError> {
    let image = Reference::parse(image)?;
    let from_stdin = path == Path::new("-");
    let name = if from_stdin {
        Path::new(STANDARD_INPUT)
    } else {
        path
    };
    let unreadable = |source| CredentialsError::Read {
        path: name.to_owned(),
        source,
    };
    let input: Box<dyn Read> = if from_stdin {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(unreadable)?)
    };
    let mut text = Vec::new();
    // One byte more tells that there is more than is allowed.
    input
        .take(MAX_AUTH_FILE_BYTES as u64 + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    let found = if text.trim_ascii_start().starts_with(b"{") {
        Credentials::in_auth_file(name, &text, &image, HELPER_LIMIT).await?
    } else {
        let credentials = one_line(&text).ok_or_else(|| CredentialsError::Form {
            path: name.to_owned(),
        })?;
        Some(credentials)
    };
    let found = found.ok_or_else(|| CredentialsError::None {
        path: name.to_owned(),
        image,
    })?;
    let Revealed {
        username,
        password,
        identity_token,
        registry_token,
    } = found.reveal();
    Ok(AuthConfig {
        username: username.to_owned(),
        password: password.to_owned(),
        identity_token: identity_token.to_owned(),
        registry_token: registry_token.to_owned(),
        ..AuthConfig::default()
    })
}

/// `USER:PASSWORD`, and nothing else.
fn one_line(text: &[u8]) -> Option<Credentials> {
    let text = str::from_utf8(text).ok()?;
    let mut lines = text.lines();
    let (username, password) = lines.next()?.split_once(':')?;
    let alone = lines.all(|line| line.trim().is_empty());
    (alone && !username.is_empty()).then(|| Credentials::basic(username, password))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::fs;

    use super::*;

    #[test]
    fn one_line_holds_both() {
        let found = one_line(b"me:pass:word\n\n").unwrap();
        assert_eq!(found, Credentials::basic("me", "pass:word"));
        for bad in ["", "no colon", ":nobody", "a:b\nc:d\n"] {
            assert!(one_line(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(one_line(b"me:\xff").is_none());
    }

    #[tokio::test]
    async fn files_of_either_form_are_read_and_others_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("creds");
        for (text, image, expected) in [
            ("me:secret\n", "a.example/b:1", Ok("me secret ")),
            (
                r#" {"auths": {"a.example/team": {"auth": "dTpw"}, "b.example": {"identitytoken": "id"}}}"#,
                "a.example/team/app",
                Ok("u p "),
            ),
            (
                r#"{"auths": {"b.example": {"identitytoken": "id"}}}"#,
                "b.example/app",
                Ok("  id"),
            ),
            // As Docker had it, long ago.
            (
                r#"{"https://index.docker.io/v1/": {"auth": "dTpw"}}"#,
                "busybox",
                Ok("u p "),
            ),
            (
                r#"{"auths": {"b.example": {"auth": "dTpw"}}}"#,
                "a.example/app",
                Err("has no credentials for a.example/app:latest"),
            ),
            (
                r#"{"auths": {"a.example": "secret"}}"#,
                "a.example/app",
                Err("line 1, column 32"),
            ),
            ("secret", "a.example/app", Err("neither one line")),
            ("me:secret", "a.example/APP", Err("APP")),
        ] {
            fs::write(&path, text).unwrap();
            match (read(&path, image).await, expected) {
                (Ok(found), Ok(expected)) => {
                    let told = [found.username, found.password, found.identity_token].join(" ");
                    assert_eq!(told, expected, "{text}");
                }
                (Err(error), Err(expected)) => {
                    let told = format!("{error} {error:?}");
                    assert!(
                        told.contains(expected) && !told.contains("secret"),
                        "{told}"
                    );
                }
                (found, _) => panic!("{text}: {}", found.is_ok()),
            }
        }
        fs::write(&path, vec![b' '; MAX_AUTH_FILE_BYTES + 1]).unwrap();
        assert!(read(&path, "a.example/app").await.is_err());
    }
}
