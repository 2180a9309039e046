//! Credentials out of a file that the operator names.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use api::cri::AuthConfig;
use serde::Deserialize;

/// Largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

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
    #[error("{path} is neither one line USER:PASSWORD nor an auth.json with \"auths\"", path = .path.display())]
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
        image: String,
    },
    /// The image's name is none.
    #[error(transparent)]
    Image(#[from] image::ImageError),
}

/// What `docker login` and `skopeo login` write. Has no Debug: it holds secrets.
#[derive(Deserialize)]
struct AuthFile {
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

/// What a file has for the registry of an image.
pub(super) fn read(path: &Path, image: &str) -> Result<AuthConfig, CredentialsError> {
    let unreadable = |source| CredentialsError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(unreadable)?)
    };
    input
        .take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    let name = image::normal_reference(image)?;
    match parse(&text, &name) {
        Ok(Some(auth)) => Ok(auth),
        Ok(None) => Err(CredentialsError::None {
            path: path.to_owned(),
            image: name,
        }),
        Err(BadForm) => Err(CredentialsError::Form {
            path: path.to_owned(),
        }),
    }
}

/// The text is of neither form.
struct BadForm;

/// What a text has for the image of this normal name.
fn parse(text: &str, name: &str) -> Result<Option<AuthConfig>, BadForm> {
    if text.trim_start().starts_with('{') {
        // What serde says could repeat a secret.
        let file: AuthFile = serde_json::from_str(text).map_err(|_| BadForm)?;
        return Ok(choose(file, name));
    }
    let mut lines = text.lines();
    let first = lines.next().and_then(|line| line.split_once(':'));
    let (username, password) = first.ok_or(BadForm)?;
    let alone = lines.all(|line| line.trim().is_empty());
    if !alone || username.is_empty() {
        return Err(BadForm);
    }
    Ok(Some(AuthConfig {
        username: username.to_owned(),
        password: password.to_owned(),
        ..AuthConfig::default()
    }))
}

/// The entry whose key is the longest beginning of the image's repository.
fn choose(mut file: AuthFile, name: &str) -> Option<AuthConfig> {
    let name = name.split('@').next().unwrap_or_default();
    let slash = name.rfind('/').unwrap_or(0);
    // A colon after the last slash begins the tag, one before it a port.
    let mut scope = match name[slash..].find(':') {
        Some(colon) => &name[..slash + colon],
        None => name,
    };
    loop {
        let found = file.auths.remove(scope).or_else(|| match scope {
            // As docker itself writes it.
            "docker.io" => file
                .auths
                .remove("https://index.docker.io/v1/")
                .or_else(|| file.auths.remove("index.docker.io")),
            _ => file.auths.remove(&format!("https://{scope}")),
        });
        if let Some(entry) = found {
            return Some(AuthConfig {
                auth: entry.auth,
                identity_token: entry.identity_token,
                registry_token: entry.registry_token,
                ..AuthConfig::default()
            });
        }
        scope = &scope[..scope.rfind('/')?];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line() {
        let auth = parse("me:pass:word\n", "a.example/b:1").ok().flatten();
        let auth = auth.map(|auth| (auth.username, auth.password));
        assert_eq!(auth, Some(("me".to_owned(), "pass:word".to_owned())));
        for bad in [
            "",
            "no colon",
            ":nobody",
            "a:b\nc:d\n",
            "{}",
            "{\"auths\": 3}",
        ] {
            assert!(parse(bad, "a.example/b:1").is_err(), "{bad}");
        }
    }

    #[test]
    fn the_longest_key_wins() {
        let text = r#"{"auths": {
            "a.example": {"auth": "host"}, "a.example/team": {"auth": "team"},
            "localhost:5000": {"identitytoken": "port"},
            "https://index.docker.io/v1/": {"auth": "hub"}}, "credsStore": "x"}"#;
        for (name, expected) in [
            ("a.example/team/app:1", Some("team")),
            ("a.example/teams/app@sha256:0", Some("host")),
            ("localhost:5000/app:1", Some("port")),
            ("docker.io/library/busybox:latest", Some("hub")),
            ("b.example/app:1", None),
        ] {
            let found = parse(text, name).ok().flatten();
            let found = found.map(|found| found.auth + &found.identity_token);
            assert_eq!(found.as_deref(), expected, "{name}");
        }
    }
}
