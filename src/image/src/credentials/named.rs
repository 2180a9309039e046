//! A file that somebody names for one pull, as `pintle image pull --creds-file` does: what it has is revealed to whoever sends
//! it to the server.

use std::path::Path;
use std::time::Duration;

use super::Credentials;
use super::error::NodeCredentialsError;
use super::file::{AuthFile, MAX_FILE_BYTES};
use super::helper::Helpers;
use super::keyring::Keyring;
use crate::reference::Reference;

/// What makes up credentials, for sending it. Parts that are absent are empty. Has no Debug: it would print secrets.
#[expect(missing_debug_implementations, reason = "it would print secrets")]
pub struct Revealed<'a> {
    /// The user.
    pub username: &'a str,
    /// Of the user.
    pub password: &'a str,
    /// A refresh token for the registry's token server.
    pub identity_token: &'a str,
    /// A bearer token for the registry.
    pub registry_token: &'a str,
}

impl Credentials {
    /// What an authentication file has for an image; `None` if it has nothing for its registry. `file` is what messages call
    /// it, `text` what it holds, of which no more than [`MAX_FILE_BYTES`] are allowed.
    ///
    /// Helpers that it names are run, with the identity and in the `PATH` of this process, for `helper_limit` at most each.
    pub async fn in_auth_file(
        file: &Path,
        text: &[u8],
        image: &Reference,
        helper_limit: Duration,
    ) -> Result<Option<Self>, NodeCredentialsError> {
        if text.len() > MAX_FILE_BYTES {
            return Err(NodeCredentialsError::TooLarge {
                file: file.to_owned(),
            });
        }
        let file = AuthFile::parse(file, text, true)?;
        let keyring = Keyring::of_file(file, Helpers::new(&[], helper_limit));
        let login = keyring.login(image.host(), image.repository(), true)?;
        Ok(login.credentials().await?.cloned())
    }

    /// Its parts.
    pub fn reveal(&self) -> Revealed<'_> {
        Revealed {
            username: self.username.reveal(),
            password: self.password.reveal(),
            identity_token: self.identity_token.reveal(),
            registry_token: self.registry_token.reveal(),
        }
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    async fn found(text: &str, image: &str) -> Result<Option<Credentials>, NodeCredentialsError> {
        let image = Reference::parse(image).unwrap();
        let file = Path::new("standard input");
        Credentials::in_auth_file(file, text.as_bytes(), &image, Duration::from_secs(5)).await
    }

    #[rstest]
    #[case("quay.io/team/app:1", "v q  ")]
    #[case("quay.io/other:1", "u p  ")]
    #[case("busybox", "  id ")]
    #[case("localhost:5000/app", "   reg")]
    #[tokio::test]
    async fn the_closest_entry_is_revealed(#[case] image: &str, #[case] expected: &str) {
        let text = r#"{"auths": {"quay.io": {"auth": "dTpw"}, "quay.io/team": {"username": "v", "password": "q"},
            "https://index.docker.io/v1/": {"identitytoken": "id"}, "localhost:5000": {"registrytoken": "reg"}}}"#;
        let credentials = found(text, image).await.unwrap().unwrap();
        let Revealed {
            username,
            password,
            identity_token,
            registry_token,
        } = credentials.reveal();
        let told = format!("{username} {password} {identity_token} {registry_token}");
        assert_eq!(told, expected);
    }

    #[tokio::test]
    async fn what_is_not_there_is_none_and_what_is_wrong_is_told() {
        let other = r#"{"quay.io": {"auth": "dTpw"}}"#;
        assert!(found(other, "quay.io/app").await.unwrap().is_some());
        assert!(found(other, "other.example/app").await.unwrap().is_none());
        let helper = r#"{"credsStore": "there-is-none-of-this-name"}"#;
        let error = found(helper, "busybox").await.unwrap_err().to_string();
        assert!(
            error.contains("docker-credential-there-is-none") && error.contains("standard input"),
            "{error}"
        );
        let large = " ".repeat(MAX_FILE_BYTES + 1);
        let error = found(&large, "busybox").await.unwrap_err();
        assert!(matches!(error, NodeCredentialsError::TooLarge { .. }));
    }
}
