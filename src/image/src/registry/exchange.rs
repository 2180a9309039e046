//! One request and its answer, with everything that may happen in between: being asked for a token, redirects,
//! refusals that pass, refusals that do not.

use std::error::Error;
use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderName, IF_RANGE, LOCATION, RANGE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Response, Url};

use crate::config::ImagesConfig;
use crate::error::ImageError;
use crate::reference::{Reference, clip};
use crate::sources::authority;

use super::answer::{Answer, Document};
use super::authorization::{Gate, read_challenges};
use super::hosts::{Host, Hosts};
use super::patience::{Patience, Setback, retry_after};
use super::refusal::refusal;

/// How far a chain of redirects is followed.
const MAX_REDIRECTS: usize = 5;
/// What is asked of an endpoint.
#[derive(Debug)]
pub(super) struct Request<'a> {
    method: Method,
    path: &'a str,
    headers: Vec<(HeaderName, HeaderValue)>,
    optional: bool,
    /// Whether only a part of the content is asked for.
    ranged: bool,
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, path: &'a str) -> Self {
        Self {
            method,
            path,
            headers: Vec::new(),
            optional: false,
            ranged: false,
        }
    }

    /// Marks a request that old registries do not know: those that say so in other ways than by 404 are taken to have
    /// nothing.
    pub(super) fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    /// Asks for a part of the content, unless it is another version than the one of this tag. An answer of 416 is then an
    /// answer, not a failure.
    pub(super) fn range(mut self, range: HeaderValue, version: Option<HeaderValue>) -> Self {
        self.headers.push((RANGE, range));
        self.headers
            .extend(version.map(|version| (IF_RANGE, version)));
        self.ranged = true;
        self
    }
}

/// Everything that a request needs to know besides itself.
pub(super) struct Exchange<'a> {
    pub(super) config: &'a ImagesConfig,
    pub(super) hosts: &'a Hosts,
    pub(super) host: &'a Arc<Host>,
    /// What the operator wants this host to be sent with every request.
    pub(super) headers: &'a HeaderMap,
    pub(super) gate: &'a Gate,
    pub(super) reference: &'a Reference,
}

/// An answer of any status, and whether it came from the endpoint itself rather than from where that redirected to.
struct Reply {
    response: Response,
    from_endpoint: bool,
}

impl Exchange<'_> {
    /// Sends the request until it is answered with success or refused for good.
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Answer, ImageError> {
        let mut patience = Patience::new(self.config);
        loop {
            match self.attempt(&request).await {
                Ok(answer) => return Ok(answer),
                Err(setback) => patience.wait_after(setback, self.host).await?,
            }
        }
    }

    /// Sends the request until a whole body of at most `limit` bytes is there, or it is refused for good.
    pub(super) async fn fetch(
        &self,
        request: Request<'_>,
        what: &str,
        limit: u64,
    ) -> Result<Document, ImageError> {
        let mut patience = Patience::new(self.config);
        loop {
            match self.attempt_whole(&request, what, limit).await {
                Ok(document) => return Ok(document),
                Err(setback) => patience.wait_after(setback, self.host).await?,
            }
        }
    }

    async fn attempt_whole(
        &self,
        request: &Request<'_>,
        what: &str,
        limit: u64,
    ) -> Result<Document, Setback> {
        let answer = self.attempt(request).await?;
        if answer.is_web_page() {
            return Err(Setback::Final(self.host.unavailable(
                "it answers with a web page where an image was expected; is it a registry?",
            )));
        }
        let media_type = answer.media_type();
        let content_digest = answer.content_digest();
        match answer.whole_body(what, limit).await {
            Ok(bytes) => Ok(Document {
                bytes,
                media_type,
                content_digest,
            }),
            Err(error @ ImageError::RegistryUnavailable { .. }) => {
                Err(Setback::Passing(error, None))
            }
            Err(error) => Err(Setback::Final(error)),
        }
    }

    /// One attempt, which may take a second request with a fresh token.
    async fn attempt(&self, request: &Request<'_>) -> Result<Answer, Setback> {
        let known = self.gate.authorization.lock().await.clone();
        let reply = self.follow(request, known.as_ref()).await?;
        if reply.response.status() != StatusCode::UNAUTHORIZED || !reply.from_endpoint {
            return self.judge(request, reply).await;
        }
        let challenge = read_challenges(
            reply
                .response
                .headers()
                .get_all(WWW_AUTHENTICATE)
                .iter()
                .filter_map(|value| value.to_str().ok()),
        );
        let Some(challenge) = challenge else {
            return self.judge(request, reply).await;
        };
        let Some(fresh) = self.authorize(&challenge, known).await? else {
            return self.judge(request, reply).await;
        };
        let reply = self.follow(request, Some(&fresh)).await?;
        self.judge(request, reply).await
    }

    /// Sends a request and follows redirects. The authorization goes to the endpoint and nowhere else.
    async fn follow(
        &self,
        request: &Request<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Reply, Setback> {
        let home = Url::parse(&self.host.url(request.path)).map_err(|_| {
            Setback::Final(
                self.host
                    .unavailable("its name does not make a URL".to_owned()),
            )
        })?;
        let mut url = home.clone();
        let mut elsewhere = None;
        for _ in 0..=MAX_REDIRECTS {
            let from_endpoint = url.origin() == home.origin();
            let host = elsewhere.as_ref().unwrap_or(self.host);
            let mut builder = host.client().request(request.method.clone(), url.clone());
            for (name, value) in &request.headers {
                builder = builder.header(name, value);
            }
            let authorization = authorization.filter(|_| from_endpoint);
            if from_endpoint {
                for (name, value) in self.headers {
                    // What the endpoint asked for counts more than what it was to be sent in any case.
                    if name != AUTHORIZATION || authorization.is_none() {
                        builder = builder.header(name, value);
                    }
                }
            }
            if let Some(authorization) = authorization {
                builder = builder.header(AUTHORIZATION, authorization);
            }
            let response = self.transmit(host, builder).await?;
            let target = response
                .status()
                .is_redirection()
                .then(|| response.headers().get(LOCATION)?.to_str().ok())
                .flatten();
            let Some(target) = target else {
                return Ok(Reply {
                    response,
                    from_endpoint,
                });
            };
            let bad = |reason: &str| {
                Setback::Final(self.host.unavailable(format!("it redirects {reason}")))
            };
            let next = url
                .join(target)
                .map_err(|_| bad("to something that is no URL"))?;
            let name = authority(&next).ok_or_else(|| bad("to something without a host"))?;
            match (url.scheme(), next.scheme()) {
                (_, "https") | ("http", "http") => {}
                _ => return Err(bad("to something less safe than https")),
            }
            elsewhere = if next.origin() == home.origin() {
                None
            } else {
                Some(
                    self.hosts
                        .near(self.host, &name, next.scheme())
                        .map_err(Setback::Final)?,
                )
            };
            url = next;
        }
        Err(Setback::Final(self.host.unavailable(format!(
            "it redirects more than {MAX_REDIRECTS} times"
        ))))
    }

    /// Sends one request and waits for the headers of its answer.
    pub(super) async fn transmit(
        &self,
        host: &Host,
        builder: reqwest::RequestBuilder,
    ) -> Result<Response, Setback> {
        let limit = self.config.timeouts.header;
        let sent = if limit.is_zero() {
            builder.send().await
        } else {
            match tokio::time::timeout(limit, builder.send()).await {
                Ok(sent) => sent,
                Err(_) => {
                    return Err(Setback::Passing(
                        host.unavailable(format!("no answer within {} s", limit.as_secs_f32())),
                        None,
                    ));
                }
            }
        };
        sent.map_err(|error| {
            let cause = root_cause(&error);
            if let Some(words) = tls_words(&cause) {
                return Setback::Final(host.unavailable(words));
            }
            let words = if error.is_timeout() {
                "connecting took too long".to_owned()
            } else {
                cause + host.suspicion()
            };
            Setback::Passing(host.unavailable(words), None)
        })
    }

    /// Success, or the error that a refusal means.
    async fn judge(&self, request: &Request<'_>, reply: Reply) -> Result<Answer, Setback> {
        let status = reply.response.status();
        if status.is_success() || (request.ranged && status == StatusCode::RANGE_NOT_SATISFIABLE) {
            return Ok(self.answer(reply.response, self.host));
        }
        let unknown = matches!(
            status,
            StatusCode::BAD_REQUEST
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::NOT_ACCEPTABLE
                | StatusCode::NOT_IMPLEMENTED
        );
        if request.optional && unknown {
            return Err(Setback::Final(ImageError::NotFound {
                reference: self.reference.to_string(),
                host: self.host.to_string(),
                reason: refusal(reply.response).await,
            }));
        }
        Err(self.judge_failure(reply.response, self.host).await)
    }

    pub(super) fn answer(&self, response: Response, host: &Host) -> Answer {
        Answer::new(response, host.to_string(), self.config.timeouts.clone())
    }

    pub(super) async fn judge_failure(&self, response: Response, host: &Host) -> Setback {
        let status = response.status();
        let told = retry_after(response.headers());
        let reason = refusal(response).await;
        match status {
            StatusCode::NOT_FOUND => Setback::Final(ImageError::NotFound {
                reference: self.reference.to_string(),
                host: host.to_string(),
                reason,
            }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(&reason),
            StatusCode::TOO_MANY_REQUESTS => {
                let wait = told.map_or_else(String::new, |wait| {
                    format!("; it asks to wait {} s", wait.as_secs())
                });
                Setback::Passing(
                    host.unavailable(format!("too many requests: {reason}{wait}")),
                    told,
                )
            }
            StatusCode::REQUEST_TIMEOUT => Setback::Passing(host.unavailable(reason), told),
            status if status.is_server_error() => Setback::Passing(host.unavailable(reason), told),
            _ => Setback::Final(host.unavailable(reason)),
        }
    }

    pub(super) fn denied(&self, reason: &str) -> Setback {
        Setback::Final(ImageError::Unauthorized {
            reference: self.reference.to_string(),
            host: self.host.to_string(),
            reason: format!("{reason}; {}", self.gate.hint()),
        })
    }
}

/// What a failure of TLS that another attempt does not mend means for whoever can mend it; `None` for any other failure.
fn tls_words(cause: &str) -> Option<String> {
    let lower = cause.to_ascii_lowercase();
    if lower.contains("corrupt message") || lower.contains("invalidcontenttype") {
        return Some(
            "it does not speak TLS; if it is a plain http registry, set plain_http for it"
                .to_owned(),
        );
    }
    let is_of_certificate = ["certificate", "unknownca", "accessdenied"]
        .iter()
        .any(|word| lower.contains(word));
    if !is_of_certificate {
        return None;
    }
    // An alert comes from the other side.
    Some(if lower.contains("fatal alert") {
        format!(
            "it wants a client certificate of an authority that it knows ({cause}); put one and its key into its folder of certs.d"
        )
    } else {
        format!("its certificate is not trusted ({cause}); set ca for it")
    })
}

/// The innermost cause of a transport error, in its own words: the outer ones name URLs, whose queries may be secret.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if std::ptr::eq(
        std::ptr::from_ref(cause).cast::<()>(),
        std::ptr::from_ref(error).cast::<()>(),
    ) {
        return "the connection failed".to_owned();
    }
    clip(&cause.to_string(), 160)
}

#[cfg(test)]
mod test {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "received corrupt message of type InvalidContentType",
        "set plain_http"
    )]
    #[case("invalid peer certificate: UnknownIssuer", "set ca")]
    #[case("received fatal alert: CertificateRequired", "client certificate")]
    #[case("received fatal alert: BadCertificate", "client certificate")]
    #[case("received fatal alert: UnknownCA", "client certificate")]
    fn failures_of_tls_tell_what_mends_them(#[case] cause: &str, #[case] mend: &str) {
        let words = tls_words(cause);
        assert!(words.is_some_and(|words| words.contains(mend)), "{cause}");
    }

    #[rstest]
    #[case("connection reset by peer")]
    #[case("received fatal alert: InternalError")]
    fn others_may_pass(#[case] cause: &str) {
        assert_eq!(tls_words(cause), None);
    }
}
