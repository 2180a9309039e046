//! A pull: from a reference to a committed image.
//!
//! ```text
//! resolve ─▶ manifest (of an index, the one that fits) ─▶ trusted? ─▶ configuration ─▶ pin the layers
//!    │                                                                                   │
//!    └─ known digest? ─▶ trusted? ─▶ only names change           missing layers, several at once: download │ verify │ unpack
//!                                                                                        │
//!                                                         commit: rename all layers, one sync, one transaction, one snapshot
//! ```
//!
//! Everything before the commit can be dropped at any moment and cleans up after itself. The commit runs in a task of
//! its own and is not cancelled. An artifact has no configuration that matters. A registry is asked even for images that are here: it decides who may have them.

mod course;
mod feed;
mod layer;
mod partial;
mod progress;
mod ranges;
mod slots;
mod transfer;
mod turns;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use state::{ChainId, Digest, ImageId};

use crate::artifact::{self, ImageKind};
use crate::catalogue::names_of;
use crate::credentials::{Credentials, Keyring, Scope};
use crate::error::ImageError;
use crate::image::{Image, ImageRunConfig, ParsedConfig};
use crate::manifest::{self, Document, Manifest};
use crate::reference::Reference;
use crate::registry::Session;
use crate::store::{Inner, NewImage};
use crate::trust::{self, Demands};

use progress::{LayerWatch, PullWatch};

pub(crate) use layer::{LayerContent, Prepared, PreparedLayers, WantedLayer};
pub(crate) use partial::Partials;
pub(crate) use progress::Watch;
pub use progress::{LayerProgress, LayerState, PullProgress, PullTotals};
pub(crate) use slots::Slots;
pub(crate) use turns::Turns;

/// How deep indexes may lie in indexes.
const MAX_INDEX_DEPTH: usize = 3;

/// What is to be pulled, and on whose behalf.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// As a user writes it.
    pub reference: String,
    /// What the registry is shown. Without any, what files of the node have for the image; see `docs/credentials.md`.
    pub credentials: Option<Credentials>,
    /// The Kubernetes namespace of the pod that wants the image, whose own credentials and policy count if it has some.
    pub namespace: Option<String>,
    /// When the caller gives up.
    pub deadline: Option<std::time::Instant>,
}

impl PullRequest {
    /// A pull without credentials of its own, for no namespace and without a deadline.
    pub fn anonymous(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            credentials: None,
            namespace: None,
            deadline: None,
        }
    }
}

/// A reference as [`PullProgress`] tells it.
pub fn normal_reference(text: &str) -> Result<String, ImageError> {
    Ok(Reference::parse(text)?.to_string())
}

/// What makes two requests the same pull.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PullKey {
    pub(crate) reference: String,
    pub(crate) scope: Scope,
    /// The policy of the namespace; `None` for the node's.
    pub(crate) policy: Option<PathBuf>,
}

/// Does the work of a pull, and counts it.
pub(crate) async fn run(
    inner: Arc<Inner>,
    reference: Reference,
    keyring: Keyring,
    policy: Option<PathBuf>,
) -> Result<Arc<Image>, ImageError> {
    let watch = inner.watch.begin(reference.to_string());
    let result = work(inner, reference, keyring, policy, &watch).await;
    watch.end(&result);
    result
}

async fn work(
    inner: Arc<Inner>,
    reference: Reference,
    keyring: Keyring,
    policy: Option<PathBuf>,
    watch: &PullWatch,
) -> Result<Arc<Image>, ImageError> {
    // Before any registry is asked: an image that may not be used concerns nobody else.
    let demands = trust::demands(&inner.config, &reference, policy).await?;
    let session = Arc::new(inner.session(&reference, keyring).await?);
    if let Some(image) = already_here(&inner, &session, &reference, &demands).await? {
        return Ok(image);
    }

    let what = reference.to_string();
    let found = find_manifest(&inner, &session, &what).await?;
    let digests = [found.resolved.clone(), found.digest.clone()];
    demands.check(&inner.config, &session, &digests).await?;
    let contents = if found.manifest.artifact_type().is_some() {
        found.artifact(&what, inner.config.limits.layers)?
    } else {
        found.image(&inner, &session, &what).await?
    };

    let chains: Vec<ChainId> = contents
        .layers
        .iter()
        .map(|layer| layer.chain.clone())
        .collect();
    // From here on, what is on the disk stays there.
    let pins = inner.table.pin(&chains);
    let watches: Vec<Arc<LayerWatch>> = chains
        .iter()
        .map(|chain| {
            if inner.table.is_present(chain) {
                LayerWatch::done()
            } else {
                inner.watch.layer(chain)
            }
        })
        .collect();
    watch.set_layers(
        contents
            .layers
            .iter()
            .zip(&watches)
            .map(|(layer, watch)| {
                let descriptor = &layer.descriptor;
                (&descriptor.digest, descriptor.size, Arc::clone(watch))
            })
            .collect(),
    );
    let share = Arc::new(inner.turns.share());
    let wanted: Vec<(WantedLayer, Arc<LayerWatch>)> = contents
        .layers
        .into_iter()
        .zip(watches)
        .filter(|(layer, _)| !inner.table.is_present(&layer.chain))
        .collect();
    let mut prepared: Vec<(usize, Arc<Prepared>)> = stream::iter(wanted.into_iter().enumerate())
        .map(|(position, (wanted, watch))| {
            let (inner, session) = (Arc::clone(&inner), Arc::clone(&session));
            let share = Arc::clone(&share);
            async move {
                let prepared = layer::prepare(&inner, &session, &share, &watch, &wanted).await?;
                Ok::<_, ImageError>((position, prepared))
            }
        })
        // Unordered: a large layer at the bottom must not keep the small ones above it from starting.
        .buffer_unordered(inner.config.parallel_layers_per_pull.max(1))
        .try_collect()
        .await?;
    prepared.sort_unstable_by_key(|(position, _)| *position);

    inner
        .commit(NewImage {
            id: contents.id,
            kind: contents.kind,
            manifest_digest: Some(found.digest),
            raw_config: contents.document,
            config: contents.run,
            pins,
            prepared: prepared.into_iter().map(|(_, layer)| layer).collect(),
            references: names_of(&reference, Some(&found.resolved)),
            seal: demands.seal().cloned(),
        })
        .await
}

/// The short way for an image that is here: the registry is only asked where the reference leads, and whether we may
/// have it. Any trouble on this way leads to the long one, which explains it, but for signatures that do not suffice.
async fn already_here(
    inner: &Arc<Inner>,
    session: &Session,
    reference: &Reference,
    demands: &Demands,
) -> Result<Option<Arc<Image>>, ImageError> {
    let catalogue = inner.catalogue.load_full();
    if catalogue.by_reference(&reference.identity()).is_none() {
        return Ok(None);
    }
    let Ok(stated) = session.probe().await else {
        return Ok(None);
    };
    let Some(digest) = reference.digest().cloned().or(stated) else {
        return Ok(None);
    };
    let Some(image) = catalogue.by_reference(&reference.at(&digest).identity()) else {
        return Ok(None);
    };
    // It may have come under another policy, or under none.
    let mut digests = vec![digest.clone()];
    digests.extend(image.manifest_digest.clone());
    demands.check(&inner.config, session, &digests).await?;
    inner
        .add_names(
            &image.id,
            names_of(reference, Some(&digest)),
            demands.seal().cloned(),
        )
        .await
}

/// A manifest and how it was found.
struct Found {
    /// What the reference itself leads to.
    resolved: Digest,
    digest: Digest,
    bytes: Bytes,
    manifest: Manifest,
}

/// What a manifest stands for.
struct Contents {
    id: ImageId,
    kind: ImageKind,
    /// The configuration; of an artifact, the manifest.
    document: Bytes,
    run: ImageRunConfig,
    /// Lowest first.
    layers: Vec<WantedLayer>,
}

impl Found {
    /// Reads the manifest as that of a container image, whose configuration is fetched.
    async fn image(
        &self,
        inner: &Inner,
        session: &Session,
        what: &str,
    ) -> Result<Contents, ImageError> {
        let manifest = &self.manifest;
        manifest.check(what, inner.config.limits.layers)?;
        // Also when the node has an image of this id: that who asks may have it is shown by the registry giving it away,
        // and a manifest that names somebody else's configuration shows nothing.
        let document = session.config(&manifest.config).await?;
        self.image_of(inner, document, what)
    }

    /// The same with the configuration that the manifest names.
    fn image_of(&self, inner: &Inner, document: Bytes, what: &str) -> Result<Contents, ImageError> {
        let manifest = &self.manifest;
        let id = ImageId::from(manifest.config.digest.clone());
        let config = ParsedConfig::parse(&document, &format!("configuration {id} of {what}"))?;
        config.check_platform(&inner.config.platform, what)?;
        if config.diffs.len() != manifest.layers.len() {
            return Err(ImageError::corrupt(
                what,
                format!(
                    "its manifest has {} layers, its configuration {}",
                    manifest.layers.len(),
                    config.diffs.len()
                ),
            ));
        }
        let chains = config.chains();
        let layers = manifest
            .layers
            .iter()
            .enumerate()
            .map(|(position, descriptor)| WantedLayer {
                descriptor: descriptor.clone(),
                diff: config.diffs[position].clone(),
                chain: chains[position].clone(),
                parent: position.checked_sub(1).map(|below| chains[below].clone()),
                content: LayerContent::Tar,
            })
            .collect();
        Ok(Contents {
            id,
            kind: ImageKind::Container,
            document,
            run: config.run,
            layers,
        })
    }

    /// Reads the manifest as that of an artifact.
    fn artifact(&self, what: &str, max_layers: usize) -> Result<Contents, ImageError> {
        Ok(Contents {
            id: ImageId::from(self.digest.clone()),
            kind: ImageKind::Artifact,
            document: self.bytes.clone(),
            run: ImageRunConfig::default(),
            layers: artifact::layers(&self.manifest, what, max_layers)?,
        })
    }
}

/// Follows indexes to the manifest for this platform.
async fn find_manifest(inner: &Inner, session: &Session, what: &str) -> Result<Found, ImageError> {
    let mut fetched = session.resolve().await?;
    let resolved = fetched.digest.clone();
    for _ in 0..MAX_INDEX_DEPTH {
        let name = format!("manifest of {what}");
        match manifest::parse(&fetched.bytes, fetched.media_type.as_deref(), &name)? {
            Document::Manifest(manifest) => {
                return Ok(Found {
                    resolved,
                    digest: fetched.digest,
                    bytes: fetched.bytes,
                    manifest,
                });
            }
            Document::Index(entries) => {
                let entry = manifest::choose(&entries, &inner.config.platform, what)?;
                fetched = session.manifest(&entry.descriptor).await?;
            }
        }
    }
    Err(ImageError::unsupported(
        what,
        format!("indexes lie more than {MAX_INDEX_DEPTH} deep in each other"),
    ))
}

/// Gets one layer of an image that is here unpacked once more, from the registries that the image's names lead to.
pub(crate) async fn refetch(
    inner: &Arc<Inner>,
    image: &Arc<Image>,
    position: usize,
) -> Result<Arc<Prepared>, ImageError> {
    let named = image
        .names()
        .next()
        .map_or(image.id.as_str(), String::as_str);
    let what = format!("layer {position} of {named}");
    let cannot = |reason: &str| ImageError::unsupported(&what, reason.to_owned());
    let digest = image.manifest_digest.as_ref().ok_or_else(|| {
        cannot("the image comes from an archive that tells no registry; import it again")
    })?;
    let mut last =
        cannot("the image has no name that leads to a registry; pull or import it again");
    // Of many names of one repository one is enough.
    let mut asked = std::collections::BTreeSet::new();
    for name in image.names() {
        let reference = Reference::parse(name)?.at(digest);
        if !asked.insert(reference.identity()) {
            continue;
        }
        match refetch_from(inner, reference, image, position).await {
            Ok(prepared) => return Ok(prepared),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn refetch_from(
    inner: &Arc<Inner>,
    reference: Reference,
    image: &Arc<Image>,
    position: usize,
) -> Result<Arc<Prepared>, ImageError> {
    let what = reference.to_string();
    // A repair is the node's own: it has the node's credentials, and nobody's namespace.
    let keyring = inner.keyring(&reference, None).await?;
    let session = inner.session(&reference, keyring).await?;
    let found = find_manifest(inner, &session, &what).await?;
    let (id, layers) = match image.kind {
        ImageKind::Container => {
            let document = inner.document(image).await?;
            (
                found.manifest.config.digest.clone(),
                found.image_of(inner, document, &what),
            )
        }
        ImageKind::Artifact => {
            let max_layers = inner.config.limits.layers;
            (found.digest.clone(), found.artifact(&what, max_layers))
        }
    };
    if id != *image.id.digest() {
        return Err(ImageError::corrupt(
            what,
            "its manifest is of another image",
        ));
    }
    let wanted = layers?.layers.into_iter().nth(position);
    let wanted = wanted.ok_or_else(|| {
        ImageError::corrupt(what.clone(), "its manifest has fewer layers than the image")
    })?;
    let share = Arc::new(inner.turns.share());
    let watch = inner.watch.layer(&wanted.chain);
    let prepared = layer::prepare(inner, &Arc::new(session), &share, &watch, &wanted).await?;
    inner.trim_memory();
    Ok(prepared)
}
