//! A pull: from a reference to a committed image.
//!
//! ```text
//! resolve ─▶ manifest (of an index, the one that fits) ─▶ configuration ─▶ pin the layers
//!    │                                                                        │
//!    └─ known digest? ─▶ only names change            missing layers, several at once: download │ verify │ unpack
//!                                                                             │
//!                                              commit: rename all layers, one sync, one transaction, one snapshot
//! ```
//!
//! Everything before the commit can be dropped at any moment and cleans up after itself. The commit runs in a task of
//! its own and is not cancelled. A registry is asked even for images that are here: it decides who may have them.

mod course;
mod feed;
mod layer;
mod partial;
mod progress;
mod ranges;
mod slots;
mod transfer;
mod turns;

use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use state::{Digest, ImageId};

use crate::catalogue::names_of;
use crate::credentials::Credentials;
use crate::error::ImageError;
use crate::image::{Image, ParsedConfig};
use crate::manifest::{self, Document, Manifest};
use crate::reference::Reference;
use crate::registry::Session;
use crate::store::{Inner, NewImage};

use progress::{LayerWatch, PullWatch};

pub(crate) use layer::{Prepared, PreparedLayers, WantedLayer};
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
    /// What the registry is shown.
    pub credentials: Option<Credentials>,
    /// When the caller gives up.
    pub deadline: Option<std::time::Instant>,
}

impl PullRequest {
    /// An anonymous pull without a deadline.
    pub fn anonymous(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            credentials: None,
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
    pub(crate) credentials: Option<Credentials>,
}

/// Does the work of a pull, and counts it.
pub(crate) async fn run(
    inner: Arc<Inner>,
    reference: Reference,
    credentials: Option<Credentials>,
) -> Result<Arc<Image>, ImageError> {
    let watch = inner.watch.begin(reference.to_string());
    let result = work(inner, reference, credentials, &watch).await;
    watch.end(&result);
    result
}

async fn work(
    inner: Arc<Inner>,
    reference: Reference,
    credentials: Option<Credentials>,
    watch: &PullWatch,
) -> Result<Arc<Image>, ImageError> {
    // Building a TLS client reads the system's certificates.
    let session = tokio::task::spawn_blocking({
        let inner = Arc::clone(&inner);
        let reference = reference.clone();
        move || inner.registry.session(&reference, credentials.as_ref())
    })
    .await
    .map_err(|_| ImageError::interrupted(format!("the pull of {reference}")))??;
    let session = Arc::new(session);
    if let Some(image) = already_here(&inner, &session, &reference).await? {
        return Ok(image);
    }

    let what = reference.to_string();
    let (resolved, manifest_digest, manifest) = find_manifest(&inner, &session, &what).await?;
    manifest.check(&what, inner.config.limits.layers)?;
    let id = ImageId::from(manifest.config.digest.clone());
    // Also when the node has an image of this id: that who asks may have it is shown by the registry giving it away, and a
    // manifest that names somebody else's configuration shows nothing.
    let raw_config = session.config(&manifest.config).await?;
    let config = ParsedConfig::parse(&raw_config, &format!("configuration {id} of {what}"))?;
    config.check_platform(&inner.config.platform, &what)?;
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
        manifest
            .layers
            .iter()
            .zip(&watches)
            .map(|(layer, watch)| (&layer.digest, layer.size, Arc::clone(watch)))
            .collect(),
    );
    let share = Arc::new(inner.turns.share());
    let wanted: Vec<(WantedLayer, Arc<LayerWatch>)> = manifest
        .layers
        .into_iter()
        .enumerate()
        .zip(watches)
        .map(|((position, descriptor), watch)| {
            let wanted = WantedLayer {
                descriptor,
                diff: config.diffs[position].clone(),
                chain: chains[position].clone(),
                parent: position.checked_sub(1).map(|below| chains[below].clone()),
            };
            (wanted, watch)
        })
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
            id,
            manifest_digest: Some(manifest_digest),
            raw_config,
            config,
            pins,
            prepared: prepared.into_iter().map(|(_, layer)| layer).collect(),
            references: names_of(&reference, Some(&resolved)),
        })
        .await
}

/// The short way for an image that is here: the registry is only asked where the reference leads, and whether we may
/// have it. Any trouble on this way leads to the long one, which explains it.
async fn already_here(
    inner: &Arc<Inner>,
    session: &Session,
    reference: &Reference,
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
    inner
        .add_names(&image.id, names_of(reference, Some(&digest)))
        .await
}

/// Follows indexes to the manifest for this platform. Also tells the digest that the reference itself leads to.
async fn find_manifest(
    inner: &Inner,
    session: &Session,
    what: &str,
) -> Result<(Digest, Digest, Manifest), ImageError> {
    let mut fetched = session.resolve().await?;
    let resolved = fetched.digest.clone();
    for _ in 0..MAX_INDEX_DEPTH {
        let name = format!("manifest of {what}");
        match manifest::parse(&fetched.bytes, fetched.media_type.as_deref(), &name)? {
            Document::Manifest(manifest) => return Ok((resolved, fetched.digest, manifest)),
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
