//! Being let in: `WWW-Authenticate` challenges, token servers, and the one `Authorization` value that an endpoint
//! accepts from this pull.
//!
//! A [`Gate`] belongs to one endpoint, one repository and one set of credentials, so a token cannot be used for
//! anything else. The layers of a pull share it: one of them asks for a token, the others wait for that one.

use http::HeaderValue;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::credentials::Credentials;
use crate::reference::clip;

/// The longest answer of a token server.
pub(crate) const MAX_TOKEN_ANSWER_BYTES: u64 = 256 * 1024;

/// What an endpoint's 401 asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// How a token is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TokenRequest {
    /// GET with a query, with a basic `Authorization` if there are credentials.
    Get {
        query: Vec<(&'static str, String)>,
        authorization: Option<Secret>,
    },
    /// POST of an OAuth2 refresh-token form.
    Post { form: Vec<(&'static str, Secret)> },
}

/// Text that is not printed.
#[derive(PartialEq, Eq, Clone)]
pub(crate) struct Secret(pub(crate) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// The state of being let in at one endpoint.
#[derive(Debug)]
pub(crate) struct Gate {
    repository: String,
    credentials: Option<Credentials>,
    /// The value that worked last. Held locked while a new one is fetched.
    pub(crate) authorization: Mutex<Option<HeaderValue>>,
}

impl Gate {
    pub(crate) fn new(repository: &str, credentials: Option<Credentials>) -> Self {
        Self {
            repository: repository.to_owned(),
            credentials,
            authorization: Mutex::new(None),
        }
    }

    /// Whether the client gave anything to be let in with.
    pub(crate) fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    /// What to answer a challenge with when no token server is needed; `None` means that one is.
    pub(crate) fn direct(
        &self,
        challenge: &Challenge,
    ) -> Option<Result<HeaderValue, &'static str>> {
        match challenge {
            Challenge::Basic => Some(
                self.credentials
                    .as_ref()
                    .and_then(Credentials::basic_authorization)
                    .ok_or("it wants a user name and a password, and none were given")
                    .and_then(|value| sensitive(&value)),
            ),
            Challenge::Bearer { .. } => self
                .credentials
                .as_ref()
                .and_then(Credentials::registry_token)
                .map(|token| sensitive(&format!("Bearer {token}"))),
        }
    }

    /// The request that gets a token for this repository.
    pub(crate) fn token_request(&self, service: Option<&str>, scope: Option<&str>) -> TokenRequest {
        // Registries that leave the scope out of a challenge mean the repository that was asked for.
        let scope = scope.map_or_else(
            || format!("repository:{}:pull", self.repository),
            str::to_owned,
        );
        if let Some((credentials, token)) = self
            .credentials
            .as_ref()
            .and_then(|c| c.identity_token().map(|token| (c, token)))
        {
            let mut form = vec![
                ("grant_type", Secret("refresh_token".to_owned())),
                ("refresh_token", Secret(token.to_owned())),
                ("client_id", Secret("pintle".to_owned())),
                ("scope", Secret(scope)),
            ];
            if let Some(service) = service {
                form.push(("service", Secret(service.to_owned())));
            }
            if !credentials.username().is_empty() {
                form.push(("username", Secret(credentials.username().to_owned())));
            }
            return TokenRequest::Post { form };
        }
        let mut query = vec![("scope", scope)];
        if let Some(service) = service {
            query.push(("service", service.to_owned()));
        }
        TokenRequest::Get {
            query,
            authorization: self
                .credentials
                .as_ref()
                .and_then(Credentials::basic_authorization)
                .map(Secret),
        }
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

/// Reads a token server's answer.
pub(crate) fn read_token(body: &[u8]) -> Result<HeaderValue, &'static str> {
    let answer: TokenAnswer =
        serde_json::from_slice(body).map_err(|_| "its token server's answer is not a token")?;
    let token = answer
        .token
        .filter(|token| !token.is_empty())
        .or(answer.access_token)
        .filter(|token| !token.is_empty())
        .ok_or("its token server's answer holds no token")?;
    sensitive(&format!("Bearer {token}"))
}

fn sensitive(value: &str) -> Result<HeaderValue, &'static str> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| "the credentials or token hold characters that cannot be sent")?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads `WWW-Authenticate` values and picks what we can do: a bearer token before a password.
pub(crate) fn read_challenges<'a>(values: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for value in values {
        for challenge in parse(value) {
            match challenge {
                Challenge::Bearer { .. } => return Some(challenge),
                Challenge::Basic => basic = Some(challenge),
            }
        }
    }
    basic
}

/// Splits one header value into its challenges: `Bearer realm="…",scope="a,b", Basic realm="…"`.
fn parse(value: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = value.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let scheme_end = rest.find([' ', ',']).unwrap_or(rest.len());
        let scheme = &rest[..scheme_end];
        rest = rest[scheme_end..].trim_start_matches([' ', ',']);
        let mut parameters = Vec::new();
        while let Some((parameter, behind)) = parse_parameter(rest) {
            parameters.push(parameter);
            rest = behind.trim_start_matches([' ', ',']);
        }
        let get = |name: &str| {
            parameters
                .iter()
                .find(|(key, _): &&(String, String)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.clone())
                .filter(|value| !value.is_empty())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            challenges.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            challenges.push(Challenge::Bearer {
                realm,
                service: get("service"),
                scope: get("scope"),
            });
        } else {
            tracing::debug!(
                scheme = clip(scheme, 40),
                "an authentication scheme that we do not know"
            );
        }
    }
    challenges
}

/// Reads `key=value` or `key="quoted value"` from the start; `None` when something else, as a next scheme, is there.
fn parse_parameter(text: &str) -> Option<((String, String), &str)> {
    let (key, behind) = text.split_once('=')?;
    let key = key.trim();
    if key.is_empty() || key.contains([' ', ',', '"']) {
        return None;
    }
    let behind = behind.trim_start();
    let Some(quoted) = behind.strip_prefix('"') else {
        let end = behind.find([',', ' ']).unwrap_or(behind.len());
        return Some(((key.to_owned(), behind[..end].to_owned()), &behind[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some(((key.to_owned(), value), &quoted[at + 1..])),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    // An unfinished quote ends the header.
    Some(((key.to_owned(), value), ""))
}

#[cfg(test)]
#[path = "authorization_test.rs"]
mod test;
