//! Manifests and indexes, of OCI and of Docker (schema 2), read from bytes that anyone may have written.
//!
//! Pure. The caller has bounded and verified the bytes; here they are given a meaning or refused with a reason. One
//! document has one meaning: what could be read both as a manifest and as an index is refused.

use serde::Deserialize;
use state::Digest;
use std::collections::BTreeMap;

use crate::config::Platform;
use crate::error::ImageError;
use crate::reference::clip;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What a registry is told we read, best first.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or an index.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<IndexEntry>),
    Manifest(Manifest),
}

/// The manifest of one image for one platform, or of an artifact.
#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    #[serde(default, rename = "artifactType")]
    artifact_type: Option<String>,
    pub(crate) config: Descriptor,
    /// Bottom first.
    pub(crate) layers: Vec<Descriptor>,
}

/// Where content is and how to know it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    annotations: Option<Titles>,
}

/// The annotations that name files.
#[derive(Clone, Debug, Deserialize)]
struct Titles {
    #[serde(default, rename = "org.opencontainers.image.title")]
    title: Option<String>,
    /// Of the model specification of CNCF.
    #[serde(default, rename = "org.cncf.model.filepath")]
    filepath: Option<String>,
}

impl Descriptor {
    /// The name that the publisher gave the blob as a file.
    pub(crate) fn title(&self) -> Option<&str> {
        let titles = self.annotations.as_ref()?;
        let title = titles.title.as_deref().or(titles.filepath.as_deref());
        title.filter(|title| !title.is_empty())
    }
}

/// One choice of an index.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct IndexEntry {
    #[serde(flatten)]
    pub(crate) descriptor: Descriptor,
    #[serde(default)]
    platform: Option<EntryPlatform>,
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct EntryPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// What tells the kinds of documents apart. Values are not looked into here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<IndexEntry>,
}

/// Reads a document. `media_type` is what its descriptor or its Content-Type says, without parameters; `what` names
/// the document in errors.
pub(crate) fn parse(
    bytes: &[u8],
    media_type: Option<&str>,
    what: &str,
) -> Result<Document, ImageError> {
    let malformed =
        |error: serde_json::Error| ImageError::corrupt(what, format!("not a manifest: {error}"));
    let shape: Shape = serde_json::from_slice(bytes).map_err(malformed)?;
    let stated = shape
        .media_type
        .as_deref()
        .or(media_type)
        .unwrap_or_default();
    if shape.schema_version == 1
        || shape.fs_layers.is_some()
        || stated.starts_with("application/vnd.docker.distribution.manifest.v1+")
    {
        return Err(ImageError::unsupported(
            what,
            "it is in Docker's manifest schema 1, which ended in 2017; push the image again with a current tool",
        ));
    }
    match (
        shape.manifests.is_some(),
        shape.layers.is_some() || shape.config.is_some(),
    ) {
        (true, true) => Err(ImageError::corrupt(
            what,
            "it is an index and a manifest at once",
        )),
        (true, false) => {
            if matches!(stated, OCI_MANIFEST | DOCKER_MANIFEST) {
                return Err(ImageError::corrupt(
                    what,
                    "it is an index that calls itself a manifest",
                ));
            }
            let index: Index = serde_json::from_slice(bytes).map_err(malformed)?;
            Ok(Document::Index(index.manifests))
        }
        (false, true) => {
            if matches!(stated, OCI_INDEX | DOCKER_LIST) {
                return Err(ImageError::corrupt(
                    what,
                    "it is a manifest that calls itself an index",
                ));
            }
            let manifest: Manifest = serde_json::from_slice(bytes).map_err(malformed)?;
            Ok(Document::Manifest(manifest))
        }
        (false, false) => Err(ImageError::corrupt(
            what,
            "it is neither a manifest nor an index",
        )),
    }
}

impl Manifest {
    /// What kind of artifact this is; `None` for container images.
    pub(crate) fn artifact_type(&self) -> Option<&str> {
        let stated = self.artifact_type.as_deref();
        let config_type = self.config.media_type.as_str();
        match stated.filter(|stated| !stated.is_empty()) {
            Some(stated) => Some(stated),
            None if matches!(config_type, "" | OCI_CONFIG | DOCKER_CONFIG) => None,
            None => Some(config_type),
        }
    }

    /// Refuses too many layers.
    pub(crate) fn check_count(&self, what: &str, max_layers: usize) -> Result<(), ImageError> {
        if self.layers.len() <= max_layers {
            return Ok(());
        }
        Err(ImageError::TooLarge {
            what: what.to_owned(),
            reason: format!(
                "{} layers, at most {max_layers} are allowed",
                self.layers.len()
            ),
        })
    }

    /// Refuses what is no runnable image: artifacts, encrypted layers, too many layers.
    pub(crate) fn check(&self, what: &str, max_layers: usize) -> Result<(), ImageError> {
        if let Some(kind) = self.artifact_type() {
            return Err(ImageError::unsupported(
                what,
                format!(
                    "it is an OCI artifact ({}), not a container image",
                    clip(kind, 80)
                ),
            ));
        }
        self.check_count(what, max_layers)?;
        for layer in &self.layers {
            if layer.media_type.ends_with("+encrypted") {
                return Err(ImageError::unsupported(
                    format!("layer {} of {what}", layer.digest),
                    "it is encrypted",
                ));
            }
            if !is_layer(&layer.media_type) {
                return Err(ImageError::unsupported(
                    format!("layer {} of {what}", layer.digest),
                    format!("its media type is \"{}\"", clip(&layer.media_type, 80)),
                ));
            }
        }
        Ok(())
    }
}

/// Whether a media type is one of a file system layer. Which compression it has is seen from its first bytes, since
/// tools have mislabelled it for years.
fn is_layer(media_type: &str) -> bool {
    media_type.is_empty()
        || media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
}

/// Picks the entry that fits the platform best; among equals the first, as index authors order them.
pub(crate) fn choose<'a>(
    entries: &'a [IndexEntry],
    platform: &Platform,
    what: &str,
) -> Result<&'a IndexEntry, ImageError> {
    let mut best: Option<(u32, &IndexEntry)> = None;
    for entry in entries {
        let runnable = matches!(
            entry.descriptor.media_type.as_str(),
            "" | OCI_MANIFEST | DOCKER_MANIFEST | OCI_INDEX | DOCKER_LIST
        );
        let fitness = match &entry.platform {
            _ if !runnable => None,
            Some(offered) => platform.fitness(&offered.os, &offered.architecture, &offered.variant),
            // Without a platform the image's own configuration has to say it; it is asked after the others.
            None => Some(0),
        };
        if let Some(fitness) = fitness
            && best.is_none_or(|(other, _)| fitness > other)
        {
            best = Some((fitness, entry));
        }
    }
    best.map(|(_, entry)| entry).ok_or_else(|| {
        let mut offered: Vec<String> = entries
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .filter(|offered| offered.os != "unknown")
            .map(|offered| clip(&format!("{}/{}", offered.os, offered.architecture), 30))
            .collect();
        offered.dedup();
        offered.truncate(12);
        ImageError::unsupported(
            what,
            format!(
                "it has no image for {platform}, only for {}",
                offered.join(", ")
            ),
        )
    })
}

#[cfg(test)]
#[path = "manifest_test.rs"]
mod test;
