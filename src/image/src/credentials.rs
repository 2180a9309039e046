//! What is shown to a registry to prove who pulls, in types that cannot print it.
//!
//! | module | what it owns |
//! | --- | --- |
//! | `secret` | text that is never printed and wiped when dropped |
//! | `place` | what the keys of authentication files stand for |
//! | `file` | authentication files: `auths`, `credHelpers`, `credsStore` |
//! | `helper` | running `docker-credential-NAME` |
//! | `keyring` | whose credentials a pull uses, and who may share it |
//! | `named` | a file that somebody names for one pull |
//! | `look` | what is wrong with files, before a pull needs them |
//!
//! Credentials are equal when every part is equal; a pull is shared only by callers with equal credentials, so no one
//! gets an image on the strength of another's secret.

mod error;
mod file;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod helper;
mod keyring;
mod look;
mod named;
mod place;
mod secret;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use zeroize::Zeroizing;

use crate::reference::clip;

pub use error::{HelperFault, NodeCredentialsError};
pub use file::MAX_FILE_BYTES as MAX_AUTH_FILE_BYTES;
pub(crate) use keyring::{Keyring, Login, NodeCredentials, Scope};
pub use look::{AuthFileProblem, AuthFileState};
pub use named::Revealed;
use place::Place;
pub(crate) use secret::Secret;

/// Credentials for one registry. Empty parts are absent parts, as in CRI's `AuthConfig`.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    username: Secret,
    password: Secret,
    identity_token: Secret,
    registry_token: Secret,
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
        Self::of_user(Secret::new(username), Secret::new(password))
    }

    pub(crate) fn of_user(username: Secret, password: Secret) -> Self {
        Self {
            username,
            password,
            ..Self::default()
        }
    }

    pub(crate) fn of_identity_token(token: Secret) -> Self {
        Self {
            identity_token: token,
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
            (Secret::new(username), Secret::new(password))
        };
        let credentials = Self {
            username,
            password,
            identity_token: Secret::new(identity_token),
            registry_token: Secret::new(registry_token),
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

    /// The registry that they are for, if they say so.
    pub(crate) fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// The value of a basic `Authorization` header, if there is a user name. That of an identity token without a password
    /// is none: it names the user for the token server.
    pub(crate) fn basic_authorization(&self) -> Option<Secret> {
        let names_token = self.password.is_empty() && !self.identity_token.is_empty();
        (!self.username.is_empty() && !names_token)
            .then(|| basic(self.username.reveal(), self.password.reveal()))
    }

    /// The identity token in the place of a password: for token servers that take no POST.
    pub(crate) fn basic_with_identity_token(&self) -> Option<Secret> {
        self.identity_token()
            .map(|token| basic(self.username.reveal(), token.reveal()))
    }

    /// The user name, which token servers want beside an identity token.
    pub(crate) fn username(&self) -> &Secret {
        &self.username
    }

    /// A refresh token for the registry's token server.
    pub(crate) fn identity_token(&self) -> Option<&Secret> {
        (!self.identity_token.is_empty()).then_some(&self.identity_token)
    }

    /// A bearer token that the registry takes as it is.
    pub(crate) fn registry_token(&self) -> Option<&Secret> {
        (!self.registry_token.is_empty()).then_some(&self.registry_token)
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

fn basic(username: &str, password: &str) -> Secret {
    let pair = Zeroizing::new(format!("{username}:{password}"));
    let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
    Secret::new(format!("Basic {}", *encoded))
}

fn decode_auth(auth: &str) -> Result<(Secret, Secret), CredentialsError> {
    let auth = auth.trim();
    let bytes = STANDARD
        .decode(auth)
        .or_else(|_| STANDARD_NO_PAD.decode(auth))
        .map(Zeroizing::new)
        .map_err(|_| CredentialsError::NotBase64)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| CredentialsError::NotUserAndPassword)?;
    let (username, password) = text
        .split_once(':')
        .ok_or(CredentialsError::NotUserAndPassword)?;
    // Docker's own encoder pads with NUL bytes.
    Ok((
        Secret::new(username),
        Secret::new(password.trim_end_matches('\0')),
    ))
}

/// The host of a server address, which clients write as `host`, `https://host` or `https://host/v1/`.
fn server_host(address: &str) -> Option<String> {
    Place::parse(address).map(|place| place.host().to_owned())
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

    #[test]
    fn server_addresses_name_a_host_in_any_form() {
        for address in [
            "quay.io",
            "QUAY.io/",
            "https://quay.io",
            "https://quay.io/v2/",
            "quay.io/team",
        ] {
            let bound = Credentials::from_parts("u", "p", "", address, "", "")
                .unwrap()
                .unwrap();
            assert!(bound.meant_for("quay.io", true), "{address}");
            assert!(!bound.meant_for("quay.io:5000", true), "{address}");
        }
    }

    #[test]
    fn the_name_beside_an_identity_token_is_no_password() {
        let credentials = Credentials::from_parts("u", "", "", "", "id", "")
            .unwrap()
            .unwrap();
        assert_eq!(credentials.basic_authorization(), None);
        let pair = credentials.basic_with_identity_token();
        assert_eq!(pair, Some(Secret::new("Basic dTppZA==")));
        // A user without a password is one that somebody may have.
        let credentials = Credentials::basic("u", "");
        let pair = credentials.basic_authorization();
        assert_eq!(pair, Some(Secret::new("Basic dTo=")));
    }
}
