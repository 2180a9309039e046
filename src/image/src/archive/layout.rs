//! What an archive holds: its images, their parts and their names, read from an OCI layout or a docker archive.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use state::Digest;

use crate::config::{ImageLimits, Platform};
use crate::error::ImageError;
use crate::hashing::Hasher;
use crate::manifest::{self, Descriptor, Document, IndexEntry};
use crate::reference::{Reference, clip};

use super::tape::{Slice, Tape, bad_archive};

/// containerd's annotation: the whole reference.
const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// OCI's annotation: a reference, or only a tag.
pub(super) const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";
/// How deep indexes may lie in indexes.
const MAX_INDEX_DEPTH: usize = 3;

/// One image of an archive.
#[derive(Debug)]
pub(super) struct ArchivedImage {
    /// How it is called in errors.
    pub(super) what: String,
    pub(super) names: Vec<Reference>,
    /// Of an OCI layout only. The digest that the archive's index gives the image is one by which it may be asked for.
    pub(super) digest: Option<Digest>,
    pub(super) manifest_digest: Option<Digest>,
    /// Left in the archive: a thousand images' configurations at once could fill the memory.
    pub(super) config: ArchivedConfig,
    /// Lowest first.
    pub(super) layers: Vec<ArchivedLayer>,
}

/// An image's configuration in an archive.
#[derive(Clone, Debug)]
pub(super) struct ArchivedConfig {
    content: Slice,
    /// What it has to hash to. Docker archives do not say.
    digest: Option<Digest>,
}

impl ArchivedConfig {
    /// Its bytes, verified, and their digest. Blocks.
    pub(super) fn read(self, what: &str, limit: u64) -> Result<(Bytes, Digest), ImageError> {
        if let Some(digest) = self.digest {
            return Ok((verified(self.content, &digest, what, limit)?, digest));
        }
        let bytes = self.content.whole(what, limit)?;
        let digest = Digest::sha256_of(&bytes);
        Ok((bytes, digest))
    }
}

/// One layer of an archive.
#[derive(Clone, Debug)]
pub(super) struct ArchivedLayer {
    pub(super) content: Slice,
    /// What it has to hash to as it stands. Docker archives do not say.
    pub(super) digest: Option<Digest>,
}

/// Reads the table of contents. Blocks.
pub(super) fn read(
    tape: &Tape,
    platform: &Platform,
    limits: &ImageLimits,
) -> Result<Vec<ArchivedImage>, ImageError> {
    let images = if let Some(index) = tape.get("index.json") {
        Layout {
            tape,
            platform,
            limits,
        }
        .images(&index.whole("index.json of the archive", limits.manifest_bytes)?)?
    } else if let Some(manifest) = tape.get("manifest.json") {
        docker_images(
            tape,
            &manifest.whole("manifest.json of the archive", limits.manifest_bytes)?,
            limits,
        )?
    } else {
        return Err(bad_archive(
            "it holds neither an index.json nor a manifest.json, so it is no image archive"
                .to_owned(),
        ));
    };
    if images.is_empty() {
        return Err(bad_archive("it holds no image".to_owned()));
    }
    Ok(images)
}

/// An OCI image layout.
struct Layout<'a> {
    tape: &'a Tape,
    platform: &'a Platform,
    limits: &'a ImageLimits,
}

impl Layout<'_> {
    fn images(&self, index: &[u8]) -> Result<Vec<ArchivedImage>, ImageError> {
        let Document::Index(entries) = manifest::parse(index, None, "index.json of the archive")?
        else {
            return Err(bad_archive("its index.json is not an index".to_owned()));
        };
        let mut images: Vec<ArchivedImage> = Vec::new();
        let mut unfit = None;
        for entry in entries {
            let digest = entry.descriptor.digest.clone();
            let names = annotated_names(&entry);
            // One entry per name of the same image is how several names are written.
            if let Some(image) = images
                .iter_mut()
                .find(|image| image.digest.as_ref() == Some(&digest))
            {
                image.names.extend(names);
                continue;
            }
            let what = names.first().map_or_else(
                || format!("{digest} in the archive"),
                |name| format!("{name} in the archive"),
            );
            match self.image(&entry.descriptor, &what, 0) {
                Ok(mut image) => {
                    image.names = names;
                    image.digest = Some(digest);
                    images.push(image);
                }
                // An archive may hold other platforms' images, and things that are no images, beside ours.
                Err(error @ ImageError::Unsupported { .. }) => unfit = Some(error),
                Err(error) => return Err(error),
            }
            check_count(images.len(), self.limits)?;
        }
        match unfit {
            Some(error) if images.is_empty() => Err(error),
            _ => Ok(images),
        }
    }

    fn image(
        &self,
        descriptor: &Descriptor,
        what: &str,
        depth: usize,
    ) -> Result<ArchivedImage, ImageError> {
        let bytes = self.blob(
            descriptor,
            self.limits.manifest_bytes,
            &format!("manifest of {what}"),
        )?;
        let media_type = Some(descriptor.media_type.as_str()).filter(|kind| !kind.is_empty());
        match manifest::parse(&bytes, media_type, &format!("manifest of {what}"))? {
            Document::Index(entries) if depth < MAX_INDEX_DEPTH => {
                let entry = manifest::choose(&entries, self.platform, what)?;
                self.image(&entry.descriptor, what, depth + 1)
            }
            Document::Index(_) => Err(ImageError::unsupported(
                what,
                format!("indexes lie more than {MAX_INDEX_DEPTH} deep in each other"),
            )),
            Document::Manifest(manifest) => {
                manifest.check(what, self.limits.layers)?;
                let config = self.tape.expect(&blob_path(&manifest.config.digest))?;
                check_size(
                    &format!("configuration of {what}"),
                    config.size(),
                    manifest.config.size,
                )?;
                let layers = manifest
                    .layers
                    .iter()
                    .map(|layer| {
                        let content = self.tape.expect(&blob_path(&layer.digest))?;
                        check_size(
                            &format!("layer {}", layer.digest),
                            content.size(),
                            layer.size,
                        )?;
                        Ok(ArchivedLayer {
                            content,
                            digest: Some(layer.digest.clone()),
                        })
                    })
                    .collect::<Result<_, ImageError>>()?;
                Ok(ArchivedImage {
                    what: what.to_owned(),
                    names: Vec::new(),
                    digest: None,
                    manifest_digest: Some(descriptor.digest.clone()),
                    config: ArchivedConfig {
                        content: config,
                        digest: Some(manifest.config.digest),
                    },
                    layers,
                })
            }
        }
    }

    /// A small blob, verified.
    fn blob(&self, descriptor: &Descriptor, limit: u64, what: &str) -> Result<Bytes, ImageError> {
        let slice = self.tape.expect(&blob_path(&descriptor.digest))?;
        check_size(what, slice.size(), descriptor.size)?;
        verified(slice, &descriptor.digest, what, limit)
    }
}

/// A part's bytes, if they hash to this digest.
fn verified(slice: Slice, digest: &Digest, what: &str, limit: u64) -> Result<Bytes, ImageError> {
    let bytes = slice.whole(what, limit)?;
    let mut hasher = Hasher::like(Some(digest));
    hasher.update(&bytes);
    let found = hasher.finish();
    if found != *digest {
        return Err(ImageError::corrupt(
            what,
            format!("its digest should be {digest} and is {found}"),
        ));
    }
    Ok(bytes)
}

pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn check_size(what: &str, found: u64, expected: u64) -> Result<(), ImageError> {
    if found == expected {
        return Ok(());
    }
    Err(ImageError::corrupt(
        what,
        format!("it has {found} bytes in the archive, {expected} by its descriptor"),
    ))
}

fn check_count(count: usize, limits: &ImageLimits) -> Result<(), ImageError> {
    if count > limits.archive_images {
        return Err(ImageError::TooLarge {
            what: "the archive".to_owned(),
            reason: format!("more than {} images", limits.archive_images),
        });
    }
    Ok(())
}

/// The names that an entry's annotations give. What is only a tag names nothing by itself.
fn annotated_names(entry: &IndexEntry) -> Vec<Reference> {
    let empty = BTreeMap::new();
    let annotations = entry.annotations.as_ref().unwrap_or(&empty);
    let text = annotations.get(NAME_ANNOTATION).or_else(|| {
        annotations
            .get(REF_ANNOTATION)
            .filter(|name| name.contains(['/', ':']))
    });
    text.and_then(|name| usable_name(name))
        .into_iter()
        .collect()
}

/// A name of an archive, if it is one that an image can have here: a tag that parses. Others are left out, and said so.
fn usable_name(name: &str) -> Option<Reference> {
    match Reference::parse(name) {
        Ok(reference) if reference.digest().is_none() => Some(reference),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(name = clip(name, 80), %error, "an archive's name for an image is left out");
            None
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

fn docker_images(
    tape: &Tape,
    manifest: &[u8],
    limits: &ImageLimits,
) -> Result<Vec<ArchivedImage>, ImageError> {
    let entries: Vec<DockerImage> = serde_json::from_slice(manifest)
        .map_err(|error| bad_archive(format!("its manifest.json does not read: {error}")))?;
    check_count(entries.len(), limits)?;
    let mut images = Vec::with_capacity(entries.len());
    for entry in entries {
        let names: Vec<Reference> = entry
            .repo_tags
            .unwrap_or_default()
            .iter()
            .filter_map(|name| usable_name(name))
            .collect();
        let what = names.first().map_or_else(
            || format!("{} in the archive", clip(&entry.config, 80)),
            |name| format!("{name} in the archive"),
        );
        let layers = entry.layers.unwrap_or_default();
        if layers.len() > limits.layers {
            return Err(ImageError::TooLarge {
                what,
                reason: format!(
                    "{} layers, at most {} are allowed",
                    layers.len(),
                    limits.layers
                ),
            });
        }
        let config = ArchivedConfig {
            content: tape.expect(&entry.config)?,
            digest: None,
        };
        images.push(ArchivedImage {
            what,
            names,
            digest: None,
            manifest_digest: None,
            config,
            layers: layers
                .iter()
                .map(|path| {
                    Ok(ArchivedLayer {
                        content: tape.expect(path)?,
                        digest: None,
                    })
                })
                .collect::<Result<_, ImageError>>()?,
        });
    }
    Ok(images)
}
