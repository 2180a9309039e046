//! The names and ids of the images on this node: an immutable snapshot that answers every question without a lock.
//!
//! Pure. A change makes a new catalogue, in which only the images whose names changed are new; [`crate::Images`] writes
//! the change to the database before it publishes the catalogue.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use state::{Digest, ImageId};

use crate::image::{Image, ImageRecord};
use crate::pinned::PinnedImages;
use crate::reference::Reference;

/// The shortest piece of an id that names an image, in digits; shorter ones are always names.
const MIN_ID_PREFIX: usize = 6;

/// All images and references.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue {
    images: BTreeMap<ImageId, Arc<Image>>,
    /// Normal references, by tag or by digest, and what they name.
    references: BTreeMap<String, ImageId>,
    /// Names of images that must stay.
    pinned: Arc<[PinnedImages]>,
}

impl Catalogue {
    /// An empty catalogue that pins images of these names.
    pub(crate) fn new(pinned: Vec<PinnedImages>) -> Self {
        Self {
            pinned: pinned.into(),
            ..Self::default()
        }
    }

    /// Pins images of these names from now on, and no others.
    pub(crate) fn set_pinned(&mut self, pinned: Vec<PinnedImages>) {
        self.pinned = pinned.into();
        let changed: Vec<Arc<Image>> = self
            .images
            .values()
            .filter(|image| image.pinned != self.is_pinned(image.names()))
            .cloned()
            .collect();
        for image in changed {
            let renewed = self.named(&record_of(&image));
            self.images.insert(image.id.clone(), Arc::new(renewed));
        }
    }

    fn is_pinned<'a>(&self, mut names: impl Iterator<Item = &'a String>) -> bool {
        names.any(|name| self.pinned.iter().any(|pattern| pattern.matches(name)))
    }

    /// All images, by id.
    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        self.images.values().cloned().collect()
    }

    /// The image of this id.
    pub(crate) fn by_id(&self, id: &ImageId) -> Option<&Arc<Image>> {
        self.images.get(id)
    }

    /// The image that this normal reference names.
    pub(crate) fn by_reference(&self, reference: &str) -> Option<&Arc<Image>> {
        self.images.get(self.references.get(reference)?)
    }

    /// The image that a user means: an id, a reference in any spelling, or the start of an id if no other id starts
    /// so. A name wins over the start of an id.
    /// `names` are the full names that it stands for if it is a name.
    pub(crate) fn find(&self, name_or_id: &str, names: &[Reference]) -> Option<&Arc<Image>> {
        if let Ok(id) = name_or_id.parse::<ImageId>() {
            return self.images.get(&id);
        }
        names
            .iter()
            .find_map(|name| self.by_reference(&name.identity()))
            .or_else(|| self.by_id_prefix(name_or_id))
    }

    fn by_id_prefix(&self, prefix: &str) -> Option<&Arc<Image>> {
        let digits = prefix.strip_prefix("sha256:").unwrap_or(prefix);
        let is_hex = digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if digits.len() < MIN_ID_PREFIX || !is_hex {
            return None;
        }
        let start = format!("sha256:{digits}");
        let mut matches = self
            .images
            .range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded))
            .take_while(|(id, _)| id.as_str().starts_with(&start));
        let (_, image) = matches.next()?;
        matches.next().is_none().then_some(image)
    }

    /// The references that name this image.
    pub(crate) fn references_of<'a>(&'a self, id: &'a ImageId) -> impl Iterator<Item = &'a String> {
        self.references
            .iter()
            .filter(move |(_, named)| *named == id)
            .map(|(reference, _)| reference)
    }

    /// Adds an image, or renews it, and makes these references name it, whatever they named before.
    pub(crate) fn insert(&mut self, record: &ImageRecord, references: &[String]) {
        let mut touched = BTreeSet::from([record.id.clone()]);
        for reference in references {
            let before = self.references.insert(reference.clone(), record.id.clone());
            touched.extend(before);
        }
        self.images
            .insert(record.id.clone(), Arc::new(self.named(record)));
        touched.remove(&record.id);
        for id in touched {
            if let Some(image) = self.images.get(&id) {
                let renamed = self.named(&record_of(image));
                self.images.insert(id, Arc::new(renamed));
            }
        }
    }

    /// Takes an image and all its names out.
    pub(crate) fn remove(&mut self, id: &ImageId) {
        self.images.remove(id);
        self.references.retain(|_, named| named != id);
    }

    /// The image of a record, with the names that it has here.
    fn named(&self, record: &ImageRecord) -> Image {
        let (repo_digests, repo_tags): (Vec<String>, Vec<String>) = self
            .references_of(&record.id)
            .cloned()
            .partition(|reference| reference.contains('@'));
        let pinned = self.is_pinned(repo_tags.iter().chain(&repo_digests));
        Image {
            id: record.id.clone(),
            kind: record.kind,
            repo_tags,
            repo_digests,
            size_bytes: record.size_bytes,
            layers: record.layers.clone(),
            config: Arc::clone(&record.config),
            manifest_digest: record.manifest_digest.clone(),
            pinned,
            seals: record.seals.clone(),
            raw_config: record.raw_config.clone(),
            encoded: OnceLock::new(),
        }
    }
}

/// An image without its names.
pub(crate) fn record_of(image: &Image) -> ImageRecord {
    ImageRecord {
        id: image.id.clone(),
        kind: image.kind,
        layers: image.layers.clone(),
        size_bytes: image.size_bytes,
        config: Arc::clone(&image.config),
        manifest_digest: image.manifest_digest.clone(),
        raw_config: image.raw_config.clone(),
        seals: image.seals.clone(),
    }
}

/// The references that a successful pull or import of `reference` gives to an image: the tag if it was asked for by
/// tag, and in either case the digest that it led to.
pub(crate) fn names_of(reference: &Reference, digest: Option<&Digest>) -> Vec<String> {
    let mut names = vec![reference.identity()];
    if reference.digest().is_none() {
        names.extend(digest.map(|digest| reference.at(digest).identity()));
    }
    names
}

#[cfg(test)]
#[path = "catalogue_test.rs"]
mod test;
