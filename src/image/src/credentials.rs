//! What a client gives to prove who it is to a registry, in a type that cannot print it.
//!
//! Credentials are equal when every part is equal; a pull is shared only by callers with equal credentials, so no one
//! gets an image on the strength of another's secret.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use crate::reference::{clip, normal_host};

/// Credentials for one registry. Empty parts are absent parts, as in CRI's `AuthConfig`.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    username: String,
    password: String,
    identity_token: String,
    registry_token: String,
    server: Option<String>,
}

/// Why given credentials are unusable. Never repeats them.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CredentialsError {
    /// The `auth` part is not base64.
    #[error("the auth field of the credentials is not base64")]
    NotBase64,
    /// The decoded `auth` part is not `user:password`.
    #[error("the auth field of the credentials is not \"user:password\" in base64")]
    NotUserAndPassword,
}

impl Credentials {
    /// A user name and a password.
    pub fn basic(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
            ..Self::default()
        }
    }

    /// Reads the parts as a client sends them (CRI `AuthConfig`). `auth` is base64 of `user:password` and counts only
    /// when no user name is given. `Ok(None)` when every part is empty: an anonymous pull.
    pub fn from_parts(
        username: &str,
        password: &str,
        auth: &str,
        server_address: &str,
        identity_token: &str,
        registry_token: &str,
    ) -> Result<Option<Self>, CredentialsError> {
        let (username, password) = if username.is_empty() && !auth.is_empty() {
            decode_auth(auth)?
        } else {
            (username.to_owned(), password.to_owned())
        };
        let credentials = Self {
            username,
            password,
            identity_token: identity_token.to_owned(),
            registry_token: registry_token.to_owned(),
            server: server_host(server_address),
        };
        let anonymous = credentials.username.is_empty()
            && credentials.password.is_empty()
            && credentials.identity_token.is_empty()
            && credentials.registry_token.is_empty();
        Ok((!anonymous).then_some(credentials))
    }

    /// Whether these credentials may be shown to `host`. Without a server address they belong to the registry that
    /// the reference names (`is_origin`), never to a mirror of it.
    pub(crate) fn meant_for(&self, host: &str, is_origin: bool) -> bool {
        match &self.server {
            Some(server) => server == host,
            None => is_origin,
        }
    }

    /// The value of a basic `Authorization` header, if there is a user name.
    pub(crate) fn basic_authorization(&self) -> Option<String> {
        if self.username.is_empty() {
            return None;
        }
        let pair = format!("{}:{}", self.username, self.password);
        Some(format!("Basic {}", STANDARD.encode(pair)))
    }

    /// The user name, which token servers want beside an identity token.
    pub(crate) fn username(&self) -> &str {
        &self.username
    }

    /// A refresh token for the registry's token server.
    pub(crate) fn identity_token(&self) -> Option<&str> {
        (!self.identity_token.is_empty()).then_some(self.identity_token.as_str())
    }

    /// A bearer token that the registry takes as it is.
    pub(crate) fn registry_token(&self) -> Option<&str> {
        (!self.registry_token.is_empty()).then_some(self.registry_token.as_str())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.registry_token().is_some() {
            "registry token"
        } else if self.identity_token().is_some() {
            "identity token"
        } else {
            "user and password"
        };
        f.debug_struct("Credentials")
            .field("kind", &kind)
            .field("server", &self.server.as_deref().map(|s| clip(s, 80)))
            .finish_non_exhaustive()
    }
}

fn decode_auth(auth: &str) -> Result<(String, String), CredentialsError> {
    let auth = auth.trim();
    let bytes = STANDARD
        .decode(auth)
        .or_else(|_| STANDARD_NO_PAD.decode(auth))
        .map_err(|_| CredentialsError::NotBase64)?;
    let text = String::from_utf8(bytes).map_err(|_| CredentialsError::NotUserAndPassword)?;
    let (username, password) = text
        .split_once(':')
        .ok_or(CredentialsError::NotUserAndPassword)?;
    // Docker's own encoder pads with NUL bytes.
    Ok((
        username.to_owned(),
        password.trim_end_matches('\0').to_owned(),
    ))
}

/// The host of a server address, which clients write as `host`, `https://host` or `https://host/v1/`.
fn server_host(address: &str) -> Option<String> {
    let address = address.trim();
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    match normal_host(host) {
        host if host.is_empty() => None,
        // References never say where Docker's registry really answers, credentials sometimes do.
        host if host == "registry-1.docker.io" => Some("docker.io".to_owned()),
        host => Some(host),
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn debug_prints_no_secret() {
        let credentials = Credentials::from_parts(
            "user-x",
            "pass-x",
            "",
            "https://quay.io/v2/",
            "id-x",
            "reg-x",
        )
        .unwrap()
        .unwrap();
        let text = format!("{credentials:?} {credentials:#?}");
        for secret in ["user-x", "pass-x", "id-x", "reg-x"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(text.contains("quay.io"));
    }

    #[test]
    fn auth_field_is_decoded() {
        for encoded in ["dTpwOnE=", "dTpwOnE", " dTpwOnE=\n"] {
            let credentials = Credentials::from_parts("", "", encoded, "", "", "")
                .unwrap()
                .unwrap();
            assert_eq!(credentials, Credentials::basic("u", "p:q"));
        }
        assert_eq!(
            Credentials::from_parts("", "", "***", "", "", ""),
            Err(CredentialsError::NotBase64)
        );
        assert_eq!(
            Credentials::from_parts("", "", "dXNlcg==", "", "", ""),
            Err(CredentialsError::NotUserAndPassword)
        );
    }

    #[test]
    fn nothing_given_is_anonymous() {
        assert_eq!(
            Credentials::from_parts("", "", "", "quay.io", "", ""),
            Ok(None)
        );
    }

    #[test]
    fn belongs_to_one_host() {
        let anywhere = Credentials::basic("u", "p");
        assert!(anywhere.meant_for("quay.io", true));
        assert!(!anywhere.meant_for("mirror.local", false));
        let bound = Credentials::from_parts("u", "p", "", "https://index.docker.io/v1/", "", "")
            .unwrap()
            .unwrap();
        assert!(bound.meant_for("docker.io", true));
        assert!(!bound.meant_for("quay.io", true));
    }
}
