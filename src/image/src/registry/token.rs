//! Getting an `Authorization` value: from the credentials as they are, or from a token server.

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use reqwest::Url;

use crate::credentials::Secret;
use crate::error::ImageError;
use crate::reference::clip;
use crate::sources::authority;

use super::authorization::{
    self, Challenge, MAX_TOKEN_ANSWER_BYTES, TokenRequest, read_token, sensitive, token_query,
    token_request,
};
use super::exchange::Exchange;
use super::hosts::Host;
use super::patience::Setback;

impl Exchange<'_> {
    /// Gets an `Authorization` value for a request that was refused with `stale`; of several requests that need one, the
    /// first asks for it. `None` if there is nothing to send but what was refused already.
    pub(super) async fn authorize(
        &self,
        challenge: &Challenge,
        stale: Option<HeaderValue>,
    ) -> Result<Option<HeaderValue>, Setback> {
        let mut known = self.gate.authorization.lock().await;
        if let Some(value) = known
            .as_ref()
            .filter(|value| Some(*value) != stale.as_ref())
        {
            return Ok(Some(value.clone()));
        }
        let credentials = self.gate.credentials().await.map_err(ImageError::from)?;
        let fresh = match (authorization::direct(challenge, credentials), challenge) {
            (Some(value), _) => {
                let value = value.map_err(|reason| self.denied(reason))?;
                if stale.as_ref() == Some(&value) {
                    return Ok(None);
                }
                value
            }
            (
                None,
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                },
            ) => {
                let service = service.as_deref();
                let scopes = self.gate.scopes(scope.as_deref());
                let server = self.token_server(realm)?;
                let post = token_request(credentials, service, &scopes);
                // Servers from before OAuth2 know no POST.
                let get = || token_query(credentials, service, &scopes);
                server.token(self, post, get).await?
            }
            (None, Challenge::Basic) => return Err(self.denied("it wants a password")),
        };
        *known = Some(fresh.clone());
        Ok(Some(fresh))
    }

    /// The server that a challenge names. It may be any host: that is the registry's choice, which is trusted with these
    /// credentials anyway. The way to it is ours, and has to be TLS unless the operator says otherwise.
    fn token_server(&self, realm: &str) -> Result<TokenServer, Setback> {
        let unusable = |reason: String| Setback::Final(self.host.unavailable(reason));
        let url = Url::parse(realm).map_err(|_| {
            unusable(format!(
                "its token server \"{}\" is no URL",
                clip(realm, 100)
            ))
        })?;
        let name =
            authority(&url).ok_or_else(|| unusable("its token server has no host".to_owned()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(unusable(format!(
                "it names credentials for its token server {}",
                clip(&name, 100)
            )));
        }
        let is_endpoint = self.host.is_at(url.scheme(), &name);
        let allowed = url.scheme() == "https"
            || (url.scheme() == "http" && (is_endpoint || self.hosts.plain_http(&name)));
        if !allowed {
            return Err(unusable(format!(
                "its token server {} is not on https; set plain_http for that host to allow it",
                clip(&name, 100)
            )));
        }
        let host = if is_endpoint {
            Arc::clone(self.host)
        } else {
            let near = self.hosts.near(self.host, &name, url.scheme());
            near.map_err(Setback::Final)?
        };
        Ok(TokenServer { host, url })
    }
}

/// A token server that may be asked.
struct TokenServer {
    host: Arc<Host>,
    url: Url,
}

impl TokenServer {
    /// Asks for a token; in another way if the server does not know the first.
    async fn token(
        &self,
        exchange: &Exchange<'_>,
        request: TokenRequest,
        other: impl FnOnce() -> TokenRequest,
    ) -> Result<HeaderValue, Setback> {
        let unusable = |reason: String| Setback::Final(exchange.host.unavailable(reason));
        let posted = matches!(request, TokenRequest::Post { .. });
        let mut response = self.ask(exchange, request).await?;
        if posted
            && matches!(
                response.status(),
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
            )
        {
            response = self.ask(exchange, other()).await?;
        }
        let status = response.status();
        if matches!(
            status,
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) {
            let reason = super::refusal::refusal(response).await;
            return Err(exchange.denied(&format!("its token server says {reason}")));
        }
        if !status.is_success() {
            return Err(match exchange.judge_failure(response, &self.host).await {
                // What a token server does not have is not the image.
                Setback::Final(error) => unusable(format!("its token server refuses: {error}")),
                passing @ Setback::Passing(..) => passing,
            });
        }
        let body = exchange
            .answer(response, &self.host)
            .whole_body("the token", MAX_TOKEN_ANSWER_BYTES)
            .await
            .map_err(|error| Setback::Passing(error, None))?;
        read_token(&body).map_err(|reason| unusable(reason.to_owned()))
    }

    async fn ask(
        &self,
        exchange: &Exchange<'_>,
        request: TokenRequest,
    ) -> Result<reqwest::Response, Setback> {
        let mut url = self.url.clone();
        let builder = match request {
            TokenRequest::Get {
                query,
                authorization,
            } => {
                url.query_pairs_mut().extend_pairs(query);
                let builder = self.host.client().get(url);
                match authorization {
                    Some(value) => {
                        let value =
                            sensitive(value.reveal()).map_err(|reason| exchange.denied(reason))?;
                        builder.header(AUTHORIZATION, value)
                    }
                    None => builder,
                }
            }
            TokenRequest::Post { form } => self
                .host
                .client()
                .post(url)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(encoded(&form)),
        };
        exchange.transmit(&self.host, builder).await
    }
}

/// A form as it is posted.
fn encoded(form: &[(&str, Secret)]) -> String {
    let mut body = String::new();
    for (key, value) in form {
        if !body.is_empty() {
            body.push('&');
        }
        body.push_str(key);
        body.push('=');
        for byte in value.reveal().bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    body.push(char::from(byte));
                }
                other => {
                    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                    body.push('%');
                    body.push(char::from(DIGITS[usize::from(other >> 4)]));
                    body.push(char::from(DIGITS[usize::from(other & 15)]));
                }
            }
        }
    }
    body
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn forms_are_encoded() {
        let form = [
            ("scope", Secret::new("repository:a/b:pull aws")),
            ("refresh_token", Secret::new("a+b&c=d%~é")),
        ];
        assert_eq!(
            encoded(&form),
            "scope=repository%3Aa%2Fb%3Apull%20aws&refresh_token=a%2Bb%26c%3Dd%25~%C3%A9"
        );
    }
}
