//! An image on this node, its configuration, and the form in which it is recorded.
//!
//! The configuration is kept byte for byte, since its digest is the image's id; what containers need of it is read
//! once. It comes from whoever built the image: it is bounded before it gets here, and nothing in it is trusted to be
//! sensible.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use state::{ChainId, DiffId, Digest, ImageId};

use crate::artifact::{self, ImageKind};
use crate::config::Platform;
use crate::error::ImageError;
use crate::manifest::{self, Document};

/// An image that containers can be made from, or an artifact that they can mount. Immutable: a change of its names makes a new one.
#[derive(Debug)]
pub struct Image {
    /// The digest of its configuration; of an artifact, that of its manifest.
    pub id: ImageId,
    /// Whether containers can be made from it.
    pub kind: ImageKind,
    /// Its names by tag, `docker.io/library/busybox:latest`, in order.
    pub repo_tags: Vec<String>,
    /// Its names by digest, `docker.io/library/busybox@sha256:…`, in order.
    pub repo_digests: Vec<String>,
    /// What it takes on the disk: the unpacked size of its layers and of its configuration. Compressed layers are not
    /// kept, so this, not the size of a download, is what removing the image can free, less what others share.
    pub size_bytes: u64,
    /// Lowest first. Those of an artifact are a file each, in no order.
    pub layers: Vec<ChainId>,
    /// What a container takes from it; nothing of an artifact.
    pub config: Arc<ImageRunConfig>,
    /// The digest of its own manifest (not of an index); images from docker archives have none.
    pub manifest_digest: Option<Digest>,
    /// Whether it must not be collected.
    pub pinned: bool,
    /// What was asked of its signatures and shown, by `trust`, newest last.
    pub(crate) seals: Vec<Digest>,
    /// The additional store that it is in; `None`: it is in our own, though some of its layers may be in others.
    pub store: Option<Arc<Path>>,
    /// The configuration as it was published, JSON; of an artifact, its manifest. Empty for an image of an additional store:
    /// [`crate::Images::document`] has it for all.
    pub(crate) raw_config: Bytes,
    /// Its encoded CRI message, kept by the server from one list to the next.
    pub encoded: OnceLock<Bytes>,
}

impl Image {
    /// All its names, those by tag first.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.repo_tags.iter().chain(&self.repo_digests)
    }
}

/// The defaults that an image gives its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageRunConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`; empty for root.
    pub user: String,
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// What is run.
    pub entrypoint: Vec<String>,
    /// Its arguments, or what is run if there is no entrypoint.
    pub cmd: Vec<String>,
    /// Where it starts; empty for `/`.
    pub working_dir: String,
    /// `SIGQUIT`, `3`, … as the image writes it.
    pub stop_signal: Option<String>,
    /// Paths that are to be volumes, in order.
    pub volumes: Vec<String>,
    /// Labels. Whoever built the image wrote them: never to be passed on as the pod's.
    pub labels: BTreeMap<String, String>,
}

/// What a configuration says: how to run the image and what it is made of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ParsedConfig {
    pub(crate) run: ImageRunConfig,
    /// The layers' digests before compression, lowest first.
    pub(crate) diffs: Vec<DiffId>,
    os: String,
    architecture: String,
    variant: String,
}

#[derive(Deserialize)]
struct ConfigDocument {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    config: Option<RunSection>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<DiffId>>,
}

/// Docker writes `null` for what is empty, so nothing here is more than optional.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RunSection {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    labels: Option<BTreeMap<String, Option<String>>>,
}

/// Variables, arguments, volumes and labels of one image together. All images' configurations are held in memory, where an
/// entry of two bytes takes fifty: without a bound, a few small images would fill it.
const MAX_ENTRIES: usize = 16 << 10;

impl RunSection {
    fn entries(&self) -> usize {
        let lists = [&self.env, &self.entrypoint, &self.cmd];
        lists.into_iter().flatten().map(Vec::len).sum::<usize>()
            + self.volumes.as_ref().map_or(0, BTreeMap::len)
            + self.labels.as_ref().map_or(0, BTreeMap::len)
    }
}

impl ParsedConfig {
    /// Reads a configuration. `what` names it in errors.
    pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Self, ImageError> {
        let document: ConfigDocument = serde_json::from_slice(bytes).map_err(|error| {
            ImageError::corrupt(what, format!("not an image configuration: {error}"))
        })?;
        let section = document.config.unwrap_or_default();
        let entries = section.entries();
        if entries > MAX_ENTRIES {
            return Err(ImageError::TooLarge {
                what: what.to_owned(),
                reason: format!(
                    "{entries} variables, arguments, volumes and labels, at most {MAX_ENTRIES} are allowed"
                ),
            });
        }
        Ok(Self {
            run: ImageRunConfig {
                user: section.user.unwrap_or_default(),
                env: section.env.unwrap_or_default(),
                entrypoint: section.entrypoint.unwrap_or_default(),
                cmd: section.cmd.unwrap_or_default(),
                working_dir: section.working_dir.unwrap_or_default(),
                stop_signal: section.stop_signal.filter(|signal| !signal.is_empty()),
                volumes: section.volumes.unwrap_or_default().into_keys().collect(),
                labels: section
                    .labels
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(key, value)| (key, value.unwrap_or_default()))
                    .collect(),
            },
            diffs: document.rootfs.diff_ids.unwrap_or_default(),
            os: document.os.unwrap_or_default(),
            architecture: document.architecture.unwrap_or_default(),
            variant: document.variant.unwrap_or_default(),
        })
    }

    /// Refuses an image for another platform. One that does not say is taken at its word.
    pub(crate) fn check_platform(&self, platform: &Platform, what: &str) -> Result<(), ImageError> {
        if self.os.is_empty() || self.architecture.is_empty() {
            return Ok(());
        }
        if platform
            .fitness(&self.os, &self.architecture, &self.variant)
            .is_some()
        {
            return Ok(());
        }
        let offered = Platform {
            os: crate::reference::clip(&self.os, 20),
            architecture: crate::reference::clip(&self.architecture, 20),
            variant: crate::reference::clip(&self.variant, 20),
        };
        Err(ImageError::unsupported(
            what,
            format!("it is for {offered}, this node is {platform}"),
        ))
    }

    /// The layers' chain ids, lowest first.
    pub(crate) fn chains(&self) -> Vec<ChainId> {
        let mut chains: Vec<ChainId> = Vec::with_capacity(self.diffs.len());
        for diff in &self.diffs {
            chains.push(ChainId::child(chains.last(), diff));
        }
        chains
    }
}

/// An image without its names, which are rows of their own in the database.
#[derive(Clone, Debug)]
pub(crate) struct ImageRecord {
    pub(crate) id: ImageId,
    pub(crate) kind: ImageKind,
    pub(crate) layers: Vec<ChainId>,
    pub(crate) size_bytes: u64,
    pub(crate) config: Arc<ImageRunConfig>,
    pub(crate) manifest_digest: Option<Digest>,
    pub(crate) raw_config: Bytes,
    pub(crate) seals: Vec<Digest>,
}

/// Seals of one image at most: policies change, and namespaces have some of their own.
const MAX_SEALS: usize = 64;

/// The record's body in the database. New fields need a default: old records stay readable.
#[derive(Serialize, Deserialize)]
struct RecordBody<'a> {
    size_bytes: u64,
    manifest_digest: Option<Digest>,
    /// An artifact, whose manifest stands in the place of a configuration.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    artifact: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    seals: Vec<Digest>,
    #[serde(borrow)]
    config: std::borrow::Cow<'a, str>,
}

impl ImageRecord {
    /// Notes that the image showed what was asked of it. The oldest note is forgotten where there are too many: then the
    /// signatures are looked at once more.
    pub(crate) fn add_seal(&mut self, seal: Digest) {
        self.seals.retain(|known| *known != seal);
        self.seals.push(seal);
        let too_many = self.seals.len().saturating_sub(MAX_SEALS);
        self.seals.drain(..too_many);
    }

    /// The bytes to keep in the database.
    pub(crate) fn to_body(&self) -> Result<Vec<u8>, ImageError> {
        let what = || format!("configuration {}", self.id);
        let config = std::str::from_utf8(&self.raw_config)
            .map_err(|_| ImageError::corrupt(what(), "it is not UTF-8"))?;
        serde_json::to_vec(&RecordBody {
            size_bytes: self.size_bytes,
            manifest_digest: self.manifest_digest.clone(),
            artifact: self.kind == ImageKind::Artifact,
            seals: self.seals.clone(),
            config: config.into(),
        })
        .map_err(|error| ImageError::corrupt(what(), error.to_string()))
    }

    /// Reads a record back.
    pub(crate) fn from_body(
        id: ImageId,
        body: &[u8],
        layers: Vec<ChainId>,
    ) -> Result<Self, ImageError> {
        let what = format!("the record of image {id}");
        let body: RecordBody<'_> = serde_json::from_slice(body)
            .map_err(|error| ImageError::corrupt(&what, error.to_string()))?;
        let document = body.config.as_bytes();
        let (kind, run, chains) = if body.artifact {
            let chains = artifact_chains(document, &what)?;
            (ImageKind::Artifact, ImageRunConfig::default(), chains)
        } else {
            let parsed = ParsedConfig::parse(document, &what)?;
            let chains = parsed.chains();
            (ImageKind::Container, parsed.run, chains)
        };
        if chains != layers {
            return Err(ImageError::corrupt(
                what,
                "its layers are not those of its configuration",
            ));
        }
        Ok(Self {
            id,
            kind,
            layers,
            size_bytes: body.size_bytes,
            config: Arc::new(run),
            manifest_digest: body.manifest_digest,
            raw_config: Bytes::from(body.config.into_owned()),
            seals: body.seals,
        })
    }
}

/// The layers of an artifact by its manifest.
fn artifact_chains(manifest: &[u8], what: &str) -> Result<Vec<ChainId>, ImageError> {
    match manifest::parse(manifest, None, what)? {
        Document::Manifest(manifest) => {
            // It was within the bounds when it was recorded.
            let layers = artifact::layers(&manifest, what, usize::MAX)?;
            Ok(layers.into_iter().map(|layer| layer.chain).collect())
        }
        Document::Index(_) => Err(ImageError::corrupt(what, "its manifest is an index")),
    }
}

#[cfg(test)]
#[path = "image_test.rs"]
mod test;
