//! The client of OCI distribution registries: one [`Session`] per pull, asking the mirrors of a host and then the host
//! itself for manifests, configurations and layers of one repository.
//!
//! - Content that is named by a digest is verified here before anyone sees it; layers, which stream, are verified by
//!   whoever drains a [`Blob`].
//! - Credentials go to the host they belong to and to its token server over TLS (or plain HTTP where the operator
//!   configured it), never to where a redirect leads, and to mirrors only those that files of the node have for them.
//! - Every wait is bounded ([`crate::config::Timeouts`]), every body too, every retry counted.
//! - Connections and TLS state live as long as some pull uses them: an idle node holds none.

mod answer;
mod authorization;
mod blob;
mod client_certificates;
mod endpoint;
mod exchange;
mod hosts;
mod pace;
mod patience;
mod refusal;
mod signatures;
mod token;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Method;
use http::header::ACCEPT;
use state::Digest;

use crate::config::{ImagesConfig, RegistrySettings};
use crate::credentials::{Keyring, NodeCredentials};
use crate::error::{ImageError, chain};
use crate::hashing::Hasher;
use crate::manifest::{self, Descriptor};
use crate::reference::Reference;
use crate::sources::{
    ExplainedReference, Explanation, Found, Plan, PlannedHost, Proxies, Sources, SourcesError,
};
use crate::trust;

pub(crate) use blob::{Blob, BlobError, Part};
use endpoint::Endpoint;
use hosts::Hosts;
pub(crate) use pace::Broken;

/// Opens sessions. One per [`crate::Images`].
#[derive(Debug)]
pub(crate) struct Registry {
    current: ArcSwap<Settings>,
    sources: Arc<Sources>,
}

/// What sessions opened from now on go by. Those under way keep theirs.
#[derive(Debug)]
struct Settings {
    config: Arc<ImagesConfig>,
    proxies: Arc<Proxies>,
    hosts: Hosts,
}

impl Settings {
    fn new(config: Arc<ImagesConfig>) -> Self {
        let environment = |name: &str| std::env::var(name).ok();
        let proxies = Arc::new(Proxies::new(&config.proxy, environment));
        Self {
            hosts: Hosts::new(Arc::clone(&config), Arc::clone(&proxies)),
            proxies,
            config,
        }
    }
}

impl Registry {
    /// Reads what short names mean, and nothing else.
    pub(crate) fn new(config: Arc<ImagesConfig>) -> Self {
        let sources = Arc::new(Sources::default());
        sources.take_up_short_names(&config);
        Self {
            current: ArcSwap::from_pointee(Settings::new(config)),
            sources,
        }
    }

    /// Replaces what the operator says about registries. Blocks for the files that give short names their meaning.
    pub(crate) fn set_registries(&self, settings: RegistrySettings) {
        let RegistrySettings {
            registries,
            registries_conf,
            certs_dirs,
            proxy,
        } = settings;
        let config = Arc::new(ImagesConfig {
            registries,
            registries_conf,
            certs_dirs,
            proxy,
            ..ImagesConfig::clone(&self.current.load().config)
        });
        self.sources.take_up_short_names(&config);
        self.current.store(Arc::new(Settings::new(config)));
    }

    /// The full names that a name stands for, as far as that is known without a look at files.
    pub(crate) fn known_names(&self, text: &str) -> Vec<Reference> {
        self.sources
            .known_meaning(text)
            .map_or_else(Vec::new, |meaning| meaning.references)
    }

    /// The full names that a name stands for now. Blocks for reading files.
    pub(crate) fn names(&self, text: &str) -> Result<Vec<Reference>, ImageError> {
        let config = &self.current.load().config;
        let meaning = self.sources.meaning(config, text)?;
        Ok(meaning.decided(text)?)
    }

    /// Tells how a name would be pulled. Blocks for reading files.
    pub(crate) fn explain(
        &self,
        text: &str,
        namespace: Option<String>,
        credentials: &NodeCredentials,
    ) -> Result<Explanation, ImageError> {
        let settings = self.current.load_full();
        let meaning = self.sources.meaning(&settings.config, text)?;
        let short_name = meaning.from.clone();
        let mut references = Vec::new();
        for reference in meaning.decided(text)? {
            let plan = self
                .sources
                .plan(&settings.config, &settings.proxies, &reference)?
                .plan;
            let keyring = credentials.read(&reference, namespace.as_deref());
            let shown = |host: &PlannedHost| {
                let keyring = keyring.as_ref().map_err(Clone::clone)?;
                keyring.source(&host.transport.authority, &host.repository)
            };
            let errors = &self.sources.errors;
            let explained = ExplainedReference::new(&reference, plan, errors, shown);
            let policy = trust::explain(&settings.config.trust, &reference, namespace.as_deref());
            references.push(ExplainedReference {
                policy: Some(policy.unwrap_or_else(|error| chain(&error))),
                ..explained
            });
        }
        Ok(Explanation {
            namespace,
            short_name,
            references,
        })
    }

    /// Prepares to pull from the repository of `reference`. Connects to nothing yet. Blocks for reading files: those that
    /// name registries, and certificates.
    pub(crate) fn session(
        &self,
        reference: &Reference,
        keyring: &Keyring,
    ) -> Result<Session, ImageError> {
        let settings = self.current.load_full();
        let found = self
            .sources
            .plan(&settings.config, &settings.proxies, reference)?;
        if let Some(place) = &found.plan.blocked {
            return Err(SourcesError::Blocked {
                reference: reference.to_string(),
                place: place.clone(),
            }
            .into());
        }
        let asked = found
            .plan
            .hosts
            .iter()
            .filter(|host| host.skipped.is_none());
        let mut endpoints = Vec::with_capacity(found.plan.hosts.len());
        let mut unusable = None;
        for planned in asked {
            let authority = &planned.transport.authority;
            let login = keyring.login(authority, &planned.repository, planned.origin)?;
            match Endpoint::new(planned, login, &settings.hosts) {
                Ok(endpoint) => endpoints.push(endpoint),
                // A mirror whose certificates cannot be read is as good as one that cannot be reached.
                Err(error) => {
                    self.sources.errors.note(&planned.root(), &error);
                    tracing::warn!(image = %reference, %error, "this registry cannot be asked");
                    unusable = Some(error);
                }
            }
        }
        let resolvers = endpoints.iter().any(|endpoint| endpoint.resolve);
        let pullers = endpoints.iter().any(|endpoint| endpoint.pull);
        if !pullers || (!resolvers && reference.digest().is_none()) {
            return Err(unusable.unwrap_or_else(|| nobody(reference, &found.plan).into()));
        }
        Ok(Session {
            config: Arc::clone(&settings.config),
            hosts: settings.hosts.clone(),
            reference: reference.clone(),
            endpoints,
            sources: Arc::clone(&self.sources),
            _found: found,
        })
    }
}

fn nobody(reference: &Reference, plan: &Plan) -> SourcesError {
    let why = |host: &PlannedHost| {
        let reason = host.skipped.unwrap_or(if host.pull {
            "its capabilities lack `resolve`"
        } else {
            "its capabilities lack `pull`"
        });
        format!("{} ({}): {reason}", host.transport.authority, host.from)
    };
    let reasons: Vec<String> = plan.hosts.iter().map(why).collect();
    SourcesError::Nobody {
        reference: reference.to_string(),
        reason: reasons.join("; "),
    }
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
    sources: Arc<Sources>,
    /// Other pulls that start meanwhile need not read the same files.
    _found: Found,
}

impl Session {
    /// How many hosts may be asked for a layer.
    pub(crate) fn endpoints(&self) -> usize {
        self.pullers().count()
    }

    /// The hosts that may be asked for what a digest names.
    fn pullers(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(|endpoint| endpoint.pull)
    }

    /// The hosts that may be asked where the reference leads.
    fn resolvers(&self) -> impl Iterator<Item = &Endpoint> {
        let by_digest = self.reference.digest().is_some();
        self.endpoints.iter().filter(move |endpoint| {
            if by_digest {
                endpoint.pull
            } else {
                endpoint.resolve
            }
        })
    }

    /// Asks which digest the reference leads to, without fetching it. `Ok(None)` when a host does not say so.
    pub(crate) async fn probe(&self) -> Result<Option<Digest>, ImageError> {
        let mut last = None;
        for endpoint in self.resolvers() {
            let path = endpoint.path("manifests", &self.reference.target());
            let request =
                exchange::Request::new(Method::HEAD, &path).header(ACCEPT, manifest::ACCEPT);
            match self.exchange(endpoint).await.send(request).await {
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
        let what = format!("manifest of {}", self.reference);
        let mut last = None;
        let endpoints: Vec<&Endpoint> = match digest {
            Some(_) => self.pullers().collect(),
            None => self.resolvers().collect(),
        };
        for endpoint in endpoints {
            let path = endpoint.path("manifests", target);
            let request =
                exchange::Request::new(Method::GET, &path).header(ACCEPT, manifest::ACCEPT);
            let fetched = async {
                let document = self
                    .exchange(endpoint)
                    .await
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
        self.verified_blob(descriptor, what, limit).await
    }

    /// A blob of this repository of at most `limit` bytes, held in memory.
    async fn verified_blob(
        &self,
        descriptor: &Descriptor,
        what: String,
        limit: u64,
    ) -> Result<Bytes, ImageError> {
        if descriptor.size > limit {
            return Err(ImageError::TooLarge {
                what,
                reason: format!("{} bytes, at most {limit} are allowed", descriptor.size),
            });
        }
        let mut last = None;
        for endpoint in self.pullers() {
            let path = endpoint.path("blobs", descriptor.digest.as_str());
            let request = exchange::Request::new(Method::GET, &path);
            let fetched = async {
                let exchange = self.exchange(endpoint).await;
                let document = exchange.fetch(request, &what, limit).await?;
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
        self.pullers()
            .nth(endpoint)
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
            .pullers()
            .nth(endpoint)
            .ok_or_else(|| ImageError::interrupted("the choice of a registry"))?;
        let path = endpoint.path("blobs", descriptor.digest.as_str());
        let request = part.request(exchange::Request::new(Method::GET, &path));
        let answer = self.exchange(endpoint).await.send(request).await;
        let answer = answer.inspect_err(|error| self.sources.errors.note(&endpoint.root, error))?;
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

    async fn exchange<'a>(&'a self, endpoint: &'a Endpoint) -> exchange::Exchange<'a> {
        exchange::Exchange {
            config: &self.config,
            hosts: &self.hosts,
            host: endpoint.host(&self.config).await,
            headers: &endpoint.headers,
            gate: &endpoint.gate,
            reference: &self.reference,
        }
    }

    /// Decides whether the next endpoint is asked after `error`, and which error to keep. A host that could not be
    /// reached says less than one that knows the image or its reader not, so the message names both.
    fn after(
        &self,
        last: Option<ImageError>,
        endpoint: &Endpoint,
        error: ImageError,
    ) -> Result<ImageError, ImageError> {
        self.sources.errors.note(&endpoint.root, &error);
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
