//! A registry's successful answer: what its headers say, and its body, in memory if it is small or chunk by chunk.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName};
use http::{HeaderValue, StatusCode};
use reqwest::Response;
use state::Digest;

use crate::config::Timeouts;
use crate::error::ImageError;

use super::blob::ContentRange;
use super::pace::{Broken, Download};

/// A successful answer whose body was not read yet.
#[derive(Debug)]
pub(super) struct Answer {
    response: Response,
    host: String,
    timeouts: Timeouts,
}

impl Answer {
    pub(super) fn new(response: Response, host: String, timeouts: Timeouts) -> Self {
        Self {
            response,
            host,
            timeouts,
        }
    }

    fn header(&self, name: HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The Content-Type without parameters, in lower case.
    pub(super) fn media_type(&self) -> Option<String> {
        self.header(CONTENT_TYPE).map(media_type_alone)
    }

    /// Whether a web server, not a registry, speaks here.
    pub(super) fn is_web_page(&self) -> bool {
        self.media_type().as_deref() == Some("text/html")
    }

    /// The length that the server announces.
    pub(super) fn length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH)?.parse().ok()
    }

    /// What the server says the content's digest is.
    pub(super) fn content_digest(&self) -> Option<Digest> {
        self.header(HeaderName::from_static("docker-content-digest"))?
            .parse()
            .ok()
    }

    /// What the server calls this version of the content, if it vouches for every byte of it.
    pub(super) fn strong_etag(&self) -> Option<HeaderValue> {
        let tag = self.response.headers().get(ETAG)?;
        tag.as_bytes().starts_with(b"\"").then(|| tag.clone())
    }

    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Which part of the content this is; `None` unless it says so in the one form that is of use.
    pub(super) fn content_range(&self) -> Option<ContentRange> {
        ContentRange::parse(self.header(CONTENT_RANGE)?)
    }

    pub(super) fn download(self) -> Download {
        Download::new(self.response, self.host, &self.timeouts)
    }

    /// The body in memory, if it is no longer than `limit`.
    pub(super) async fn whole_body(self, what: &str, limit: u64) -> Result<Bytes, ImageError> {
        let too_large = |length: Option<u64>| ImageError::TooLarge {
            what: what.to_owned(),
            reason: match length {
                Some(length) => format!("{length} bytes, at most {limit} are allowed"),
                None => format!("more than the {limit} bytes that are allowed"),
            },
        };
        if let Some(length) = self.length().filter(|length| *length > limit) {
            return Err(too_large(Some(length)));
        }
        let mut download = self.download();
        let mut body = BytesMut::new();
        loop {
            match download.chunk().await {
                Ok(None) => return Ok(body.freeze()),
                Ok(Some(bytes)) if (body.len() + bytes.len()) as u64 > limit => {
                    return Err(too_large(None));
                }
                Ok(Some(bytes)) => body.extend_from_slice(&bytes),
                Err(Broken::Stalled(error)) => return Err(error),
                Err(Broken::CutShort(reason)) => {
                    return Err(ImageError::RegistryUnavailable {
                        host: download.host().to_owned(),
                        reason: format!("the connection broke inside an answer: {reason}"),
                    });
                }
            }
        }
    }
}

/// A successful answer with its whole body.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) bytes: Bytes,
    /// Its Content-Type without parameters.
    pub(super) media_type: Option<String>,
    /// What the server says its digest is.
    pub(super) content_digest: Option<Digest>,
}

/// `application/json; charset=utf-8` → `application/json`.
fn media_type_alone(value: &str) -> String {
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}
