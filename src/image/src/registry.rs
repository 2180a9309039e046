//! The client of OCI distribution registries: one [`Session`] per pull, asking the mirrors of a host and then the host
//! itself for manifests, configurations and layers of one repository.
//!
//! - Content that is named by a digest is verified here before anyone sees it; layers, which stream, are verified by
//!   whoever drains a [`Blob`].
//! - Credentials go to the host they belong to and to its token server over TLS (or plain HTTP where the operator
//!   configured it), never to mirrors or to where a redirect leads.
//! - Every wait is bounded ([`crate::config::Timeouts`]), every body too, every retry counted.
//! - Connections and TLS state live as long as some pull uses them: an idle node holds none.

mod answer;
mod authorization;
mod blob;
mod exchange;
mod hosts;
mod pace;
mod refusal;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Method;
use http::header::ACCEPT;
use state::Digest;

use crate::config::{ImagesConfig, RegistryConfig};
use crate::credentials::Credentials;
use crate::error::ImageError;
use crate::hashing::Hasher;
use crate::manifest::{self, Descriptor};
use crate::reference::{Reference, normal_host};

use authorization::Gate;
pub(crate) use blob::{Blob, BlobError, Part};
use hosts::{Host, Hosts};
pub(crate) use pace::Broken;

/// Opens sessions. One per [`crate::Images`].
#[derive(Debug)]
pub(crate) struct Registry {
    current: ArcSwap<Settings>,
}

/// What sessions opened from now on go by. Those under way keep theirs.
#[derive(Debug)]
struct Settings {
    config: Arc<ImagesConfig>,
    hosts: Hosts,
}

impl Settings {
    fn new(config: Arc<ImagesConfig>) -> Self {
        Self {
            hosts: Hosts::new(Arc::clone(&config)),
            config,
        }
    }
}

impl Registry {
    pub(crate) fn new(config: Arc<ImagesConfig>) -> Self {
        Self {
            current: ArcSwap::from_pointee(Settings::new(config)),
        }
    }

    /// Replaces the settings of all hosts.
    pub(crate) fn set_registries(&self, registries: BTreeMap<String, RegistryConfig>) {
        let config = ImagesConfig {
            registries,
            ..ImagesConfig::clone(&self.current.load().config)
        };
        self.current
            .store(Arc::new(Settings::new(Arc::new(config))));
    }

    /// Prepares to pull from the repository of `reference`. Connects to nothing yet. Blocks for reading certificates.
    pub(crate) fn session(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Session, ImageError> {
        let settings = self.current.load_full();
        let origin = reference.host();
        let mirrors = settings.config.registry(origin).mirrors;
        let mut endpoints = Vec::with_capacity(mirrors.len() + 1);
        for name in mirrors
            .iter()
            .map(|mirror| normal_host(mirror))
            .chain([origin.to_owned()])
        {
            let host = settings.hosts.get(&name)?;
            let own = credentials.filter(|c| c.meant_for(&name, name == origin));
            endpoints.push(Endpoint {
                gate: Gate::new(reference.repository(), own.cloned()),
                host,
            });
        }
        Ok(Session {
            config: Arc::clone(&settings.config),
            hosts: settings.hosts.clone(),
            reference: reference.clone(),
            endpoints,
        })
    }
}

/// One host that may have the repository, and what this pull knows about being let in.
#[derive(Debug)]
struct Endpoint {
    host: Arc<Host>,
    gate: Gate,
}

/// A manifest or an index as a registry sent it, verified against `digest`.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
    pub(crate) media_type: Option<String>,
}

/// The way to one repository for the time of one pull.
#[derive(Debug)]
pub(crate) struct Session {
    config: Arc<ImagesConfig>,
    hosts: Hosts,
    reference: Reference,
    endpoints: Vec<Endpoint>,
}

impl Session {
    /// How many hosts may be asked for a layer.
    pub(crate) fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// Asks which digest the reference leads to, without fetching it. `Ok(None)` when a host does not say so.
    pub(crate) async fn probe(&self) -> Result<Option<Digest>, ImageError> {
        let path = self.path("manifests", &self.reference.target());
        let mut last = None;
        for endpoint in &self.endpoints {
            let request =
                exchange::Request::new(Method::HEAD, &path).header(ACCEPT, manifest::ACCEPT);
            match self.exchange(endpoint).send(request).await {
                Ok(answer) => return Ok(answer.content_digest()),
                Err(error) => last = Some(self.after(last, endpoint, error)?),
            }
        }
        Err(self.nothing(last))
    }

    /// Fetches the manifest or index that the reference names.
    pub(crate) async fn resolve(&self) -> Result<Fetched, ImageError> {
        self.document(&self.reference.target(), self.reference.digest(), None)
            .await
    }

    /// Fetches a manifest that an index names.
    pub(crate) async fn manifest(&self, descriptor: &Descriptor) -> Result<Fetched, ImageError> {
        self.document(
            descriptor.digest.as_str(),
            Some(&descriptor.digest),
            Some(descriptor.size),
        )
        .await
    }

    async fn document(
        &self,
        target: &str,
        digest: Option<&Digest>,
        size: Option<u64>,
    ) -> Result<Fetched, ImageError> {
        let path = self.path("manifests", target);
        let what = format!("manifest of {}", self.reference);
        let mut last = None;
        for endpoint in &self.endpoints {
            let request =
                exchange::Request::new(Method::GET, &path).header(ACCEPT, manifest::ACCEPT);
            let fetched = async {
                let document = self
                    .exchange(endpoint)
                    .fetch(request, &what, self.config.limits.manifest_bytes)
                    .await?;
                check_size(&what, &document.bytes, size)?;
                let expected = digest.or(document.content_digest.as_ref());
                Ok(Fetched {
                    digest: verify(&what, &document.bytes, expected)?,
                    bytes: document.bytes,
                    media_type: document.media_type,
                })
            }
            .await;
            match fetched {
                Ok(fetched) => return Ok(fetched),
                Err(error) => last = Some(self.after(last, endpoint, error)?),
            }
        }
        Err(self.nothing(last))
    }

    /// Fetches an image's configuration.
    pub(crate) async fn config(&self, descriptor: &Descriptor) -> Result<Bytes, ImageError> {
        let what = format!("configuration {} of {}", descriptor.digest, self.reference);
        let limit = self.config.limits.config_bytes;
        if descriptor.size > limit {
            return Err(ImageError::TooLarge {
                what,
                reason: format!("{} bytes, at most {limit} are allowed", descriptor.size),
            });
        }
        let path = self.path("blobs", descriptor.digest.as_str());
        let mut last = None;
        for endpoint in &self.endpoints {
            let request = exchange::Request::new(Method::GET, &path);
            let fetched = async {
                let document = self.exchange(endpoint).fetch(request, &what, limit).await?;
                check_size(&what, &document.bytes, Some(descriptor.size))?;
                verify(&what, &document.bytes, Some(&descriptor.digest))?;
                Ok(document.bytes)
            }
            .await;
            match fetched {
                Ok(bytes) => return Ok(bytes),
                Err(error) => last = Some(self.after(last, endpoint, error)?),
            }
        }
        Err(self.nothing(last))
    }

    /// The name of the endpoint of this number (see [`Self::endpoints`]).
    pub(crate) fn host(&self, endpoint: usize) -> String {
        self.endpoints
            .get(endpoint)
            .map_or_else(String::new, |endpoint| endpoint.host.to_string())
    }

    /// Starts the download of a layer, or of a part of it, from the endpoint of this number. The caller verifies what it
    /// reads.
    pub(crate) async fn blob(
        &self,
        endpoint: usize,
        descriptor: &Descriptor,
        part: &Part,
    ) -> Result<Blob, BlobError> {
        let endpoint = self
            .endpoints
            .get(endpoint)
            .ok_or_else(|| ImageError::interrupted("the choice of a registry"))?;
        let path = self.path("blobs", descriptor.digest.as_str());
        let request = part.request(exchange::Request::new(Method::GET, &path));
        let answer = self.exchange(endpoint).send(request).await?;
        if answer.is_web_page() {
            return Err(endpoint
                .host
                .unavailable(
                    "it answers with a web page where a layer was expected; is it a registry?",
                )
                .into());
        }
        Blob::check(answer, descriptor, part, &endpoint.host.to_string())
    }

    fn exchange<'a>(&'a self, endpoint: &'a Endpoint) -> exchange::Exchange<'a> {
        exchange::Exchange {
            config: &self.config,
            hosts: &self.hosts,
            host: &endpoint.host,
            gate: &endpoint.gate,
            reference: &self.reference,
        }
    }

    fn path(&self, kind: &str, name: &str) -> String {
        format!("/v2/{}/{kind}/{name}", self.reference.repository())
    }

    /// Decides whether the next endpoint is asked after `error`, and which error to keep. A host that could not be
    /// reached says less than one that knows the image or its reader not, so the message names both.
    fn after(
        &self,
        last: Option<ImageError>,
        endpoint: &Endpoint,
        error: ImageError,
    ) -> Result<ImageError, ImageError> {
        if !error.worth_another_host() {
            return Err(error);
        }
        if self.endpoints.len() > 1 {
            tracing::debug!(image = %self.reference, host = %endpoint.host, %error, "no luck at this registry");
        }
        Ok(match (last, error) {
            (Some(before), ImageError::RegistryUnavailable { host, reason }) => {
                ImageError::RegistryUnavailable {
                    host,
                    reason: format!("{reason}; before that, {before}"),
                }
            }
            (_, error) => error,
        })
    }

    fn nothing(&self, last: Option<ImageError>) -> ImageError {
        last.unwrap_or_else(|| ImageError::interrupted(format!("the pull of {}", self.reference)))
    }
}

fn check_size(what: &str, bytes: &Bytes, size: Option<u64>) -> Result<(), ImageError> {
    match size {
        Some(size) if size != bytes.len() as u64 => Err(ImageError::corrupt(
            what,
            format!("{size} bytes were announced, {} came", bytes.len()),
        )),
        _ => Ok(()),
    }
}

/// The digest of the bytes, which has to be `expected` if there is one.
fn verify(what: &str, bytes: &Bytes, expected: Option<&Digest>) -> Result<Digest, ImageError> {
    let mut hasher = Hasher::like(expected);
    hasher.update(bytes);
    let found = hasher.finish();
    match expected {
        Some(expected) if *expected != found => Err(ImageError::corrupt(
            what,
            format!("its digest should be {expected} and is {found}"),
        )),
        _ => Ok(found),
    }
}
