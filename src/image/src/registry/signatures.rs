//! The small documents beside an image that tell who vouches for it: manifests under tags of their own, referrers, the
//! blobs they name, and what a lookaside server keeps.
//!
//! What is not there is `None`, and only then: a registry that cannot be asked is an error, since nobody knows what it has.

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, Method};
use reqwest::Url;
use state::Digest;

use crate::credentials::Login;
use crate::error::ImageError;
use crate::manifest::{self, Descriptor};
use crate::sources::authority;

use super::authorization::Gate;
use super::exchange::{self, Exchange};
use super::{Fetched, Session};

impl Session {
    /// The manifest or index under another tag of this repository.
    pub(crate) async fn tagged(&self, tag: &str) -> Result<Option<Fetched>, ImageError> {
        absent(self.document(tag, None, None).await)
    }

    /// A manifest of this repository that some document names.
    pub(crate) async fn named(
        &self,
        descriptor: &Descriptor,
    ) -> Result<Option<Fetched>, ImageError> {
        absent(self.manifest(descriptor).await)
    }

    /// The index of what refers to a digest and is of this artifact type, if the registry keeps one. It may hold other
    /// types as well.
    pub(crate) async fn referrers(
        &self,
        digest: &Digest,
        artifact_type: &str,
    ) -> Result<Option<Bytes>, ImageError> {
        let escaped = artifact_type.replace('/', "%2F").replace('+', "%2B");
        let what = format!("referrers of {digest}");
        let mut last = None;
        for endpoint in self.pullers() {
            let mut path = endpoint.path("referrers", digest.as_str());
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str("artifactType=");
            path.push_str(&escaped);
            let request = exchange::Request::new(Method::GET, &path)
                .header(ACCEPT, manifest::OCI_INDEX)
                .optional();
            let limit = self.config.limits.manifest_bytes;
            let exchange = self.exchange(endpoint).await;
            match exchange.fetch(request, &what, limit).await {
                Ok(document) => return Ok(Some(document.bytes)),
                Err(error) => last = Some(self.after(last, endpoint, error)?),
            }
        }
        absent(Err(self.nothing(last)))
    }

    /// A blob of this repository of at most `limit` bytes, verified.
    pub(crate) async fn small_blob(
        &self,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Option<Bytes>, ImageError> {
        let what = format!("signature {}", descriptor.digest);
        absent(self.verified_blob(descriptor, what, limit).await)
    }

    /// What a web server, which is no registry and gets no credentials, has at an `http` or `https` URL.
    pub(crate) async fn elsewhere(
        &self,
        url: &Url,
        limit: u64,
    ) -> Result<Option<Bytes>, ImageError> {
        let name = authority(url)
            .ok_or_else(|| ImageError::unsupported(url.to_string(), "the URL has no host"))?;
        let host = self.hosts.elsewhere(&name, url.scheme())?;
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let gate = Gate::new(self.reference.repository(), Login::anonymous());
        let exchange = Exchange {
            config: &self.config,
            hosts: &self.hosts,
            host: &host,
            headers: &HeaderMap::new(),
            gate: &gate,
            reference: &self.reference,
        };
        let request = exchange::Request::new(Method::GET, &path);
        absent(
            exchange
                .fetch(request, &format!("signature {}", url.path()), limit)
                .await
                .map(|document| document.bytes),
        )
    }
}

/// Tells what is not there from what could not be asked for.
fn absent<T>(result: Result<T, ImageError>) -> Result<Option<T>, ImageError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(ImageError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
