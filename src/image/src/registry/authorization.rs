//! Being let in: `WWW-Authenticate` challenges, token servers, and the one `Authorization` value that an endpoint
//! accepts from this pull.
//!
//! A [`Gate`] belongs to one endpoint, one repository and one set of credentials, so a token cannot be used for
//! anything else. The layers of a pull share it: one of them asks for a token, the others wait for that one.
//!
//! That a token has expired is what the registry says, by a 401 to the request that used it: then that request, and the
//! others after it, get a new one. Nothing is concluded from the lifetimes that token servers announce: they leave them out,
//! or count by another clock.

use http::HeaderValue;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::credentials::{Credentials, Login, NodeCredentialsError, Secret};
use crate::reference::clip;

/// The longest answer of a token server.
pub(crate) const MAX_TOKEN_ANSWER_BYTES: u64 = 256 * 1024;
/// How many scopes of a challenge are looked at.
const MAX_SCOPES: usize = 8;

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

/// The state of being let in at one endpoint.
#[derive(Debug)]
pub(crate) struct Gate {
    repository: String,
    login: Login,
    /// The value that worked last. Held locked while a new one is fetched.
    pub(crate) authorization: Mutex<Option<HeaderValue>>,
}

impl Gate {
    pub(crate) fn new(repository: &str, login: Login) -> Self {
        Self {
            repository: repository.to_owned(),
            login,
            authorization: Mutex::new(None),
        }
    }

    /// The credentials that this endpoint is shown. The first call may run a credential helper.
    pub(crate) async fn credentials(&self) -> Result<Option<&Credentials>, NodeCredentialsError> {
        self.login.credentials().await
    }

    /// What a refusal means for whoever can mend it.
    pub(crate) fn hint(&self) -> String {
        self.login.hint()
    }

    /// The scopes to ask a token for: reading this repository, and what else the challenge wants, of which only reading is
    /// asked for. Registries behind a proxy know the repository under another name.
    pub(crate) fn scopes(&self, challenged: Option<&str>) -> Vec<String> {
        let mut scopes = vec![format!("repository:{}:pull", self.repository)];
        let challenged = challenged.into_iter().flat_map(str::split_whitespace);
        for scope in challenged.take(MAX_SCOPES) {
            let scope = match scope.rsplit_once(':') {
                Some((resource, _)) if scope.starts_with("repository:") => {
                    format!("{resource}:pull")
                }
                _ => scope.to_owned(),
            };
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        scopes
    }
}

/// What to answer a challenge with when no token server is needed; `None` means that one is.
pub(crate) fn direct(
    challenge: &Challenge,
    credentials: Option<&Credentials>,
) -> Option<Result<HeaderValue, &'static str>> {
    match challenge {
        Challenge::Basic => Some(
            credentials
                .and_then(Credentials::basic_authorization)
                .ok_or("it wants a user name and a password, and none were given")
                .and_then(|value| sensitive(value.reveal())),
        ),
        Challenge::Bearer { .. } => credentials
            .and_then(Credentials::registry_token)
            .map(bearer),
    }
}

/// The request that gets a token: POST for an identity token, GET for everybody else.
pub(crate) fn token_request(
    credentials: Option<&Credentials>,
    service: Option<&str>,
    scopes: &[String],
) -> TokenRequest {
    let identity = credentials.and_then(|c| c.identity_token().map(|token| (c, token)));
    let Some((credentials, token)) = identity else {
        return token_query(credentials, service, scopes);
    };
    let mut form = vec![
        ("grant_type", Secret::new("refresh_token")),
        ("refresh_token", token.clone()),
        ("client_id", Secret::new("pintle")),
        ("scope", Secret::new(scopes.join(" "))),
    ];
    if let Some(service) = service {
        form.push(("service", Secret::new(service)));
    }
    if !credentials.username().is_empty() {
        form.push(("username", credentials.username().clone()));
    }
    TokenRequest::Post { form }
}

/// The GET request for a token. Token servers from before OAuth2 take an identity token in the place of the password.
pub(crate) fn token_query(
    credentials: Option<&Credentials>,
    service: Option<&str>,
    scopes: &[String],
) -> TokenRequest {
    let mut query: Vec<_> = scopes
        .iter()
        .map(|scope| ("scope", scope.clone()))
        .collect();
    if let Some(service) = service {
        query.push(("service", service.to_owned()));
    }
    TokenRequest::Get {
        query,
        authorization: credentials.and_then(|credentials| {
            credentials
                .basic_authorization()
                .or_else(|| credentials.basic_with_identity_token())
        }),
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Secret,
    #[serde(default)]
    access_token: Secret,
}

/// Reads a token server's answer.
pub(crate) fn read_token(body: &[u8]) -> Result<HeaderValue, &'static str> {
    let answer: TokenAnswer =
        serde_json::from_slice(body).map_err(|_| "its token server's answer is not a token")?;
    // Two names for one thing: servers from before OAuth2 know the first, and most send both.
    let token = [answer.token, answer.access_token]
        .into_iter()
        .find(|token| !token.is_empty())
        .ok_or("its token server's answer holds no token")?;
    bearer(&token)
}

fn bearer(token: &Secret) -> Result<HeaderValue, &'static str> {
    sensitive(Secret::new(format!("Bearer {}", token.reveal())).reveal())
}

/// A header's value that no log prints.
pub(crate) fn sensitive(value: &str) -> Result<HeaderValue, &'static str> {
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
