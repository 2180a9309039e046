//! The names and ids of the images on this node: an immutable snapshot that answers every question without a lock.
//!
//! Pure. A change makes a new catalogue, in which only the images whose names changed are new; [`crate::Images`] writes
//! the change to the database before it publishes the catalogue.
//!
//! Images of additional stores stand behind our own, in the order of the stores: a name means what the first one means by it
//! that has it, and an image that several have is the first one's. What is removed or renamed here can so make one of theirs
//! visible. Of our own images, those *wait* that have layers in a store that is away: they are as good as not here, so
//! that a pull brings what they lack.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use state::{ChainId, Digest, ImageId};

use crate::additional::StoreContents;
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
    references: BTreeMap<String, Named>,
    /// Our own images that lack layers, with their names.
    waiting: BTreeMap<ImageId, Arc<Image>>,
    /// Images of each additional store that lack nothing.
    stores: Arc<[Vec<Arc<Image>>]>,
    /// Names of images that must stay.
    pinned: Arc<[PinnedImages]>,
}

/// What a reference names.
#[derive(Clone, Debug)]
struct Named {
    image: ImageId,
    /// Our own database says so, no other store's.
    is_own: bool,
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
        self.renew(&self.images.keys().cloned().collect());
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
        self.images.get(&self.references.get(reference)?.image)
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
            .filter(move |(_, named)| named.image == *id)
            .map(|(reference, _)| reference)
    }

    /// Whether our own database has this image.
    pub(crate) fn owns(&self, id: &ImageId) -> bool {
        let own = self.images.get(id).is_some_and(|it| it.store.is_none());
        own || self.waiting.contains_key(id)
    }

    /// Whether our own database has this normal reference.
    pub(crate) fn owns_name(&self, reference: &str) -> bool {
        let own = self.references.get(reference).is_some_and(|it| it.is_own);
        let has = |image: &Arc<Image>| image.names().any(|name| name == reference);
        own || self.waiting.values().any(has)
    }

    /// Our own images that wait for layers.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.waiting.values()
    }

    /// As [`Self::find`], among those that wait.
    pub(crate) fn find_waiting(
        &self,
        name_or_id: &str,
        names: &[Reference],
    ) -> Option<&Arc<Image>> {
        if let Ok(id) = name_or_id.parse::<ImageId>() {
            return self.waiting.get(&id);
        }
        let identities: Vec<String> = names.iter().map(Reference::identity).collect();
        let is_named = |image: &&Arc<Image>| image.names().any(|name| identities.contains(name));
        self.waiting.values().find(is_named)
    }

    /// Adds an image that waits for layers, with its names.
    pub(crate) fn wait(&mut self, record: &ImageRecord, references: Vec<String>) {
        let image = self.image(record, references, None);
        self.waiting.insert(record.id.clone(), Arc::new(image));
    }

    /// Adds an image of our own, or renews it, and makes these references name it, whatever they named before.
    pub(crate) fn insert(&mut self, record: &ImageRecord, references: &[String]) {
        let mut given: BTreeSet<String> = references.iter().cloned().collect();
        for reference in references {
            self.take_from_waiting(reference, &record.id);
        }
        if let Some(waited) = self.waiting.remove(&record.id) {
            given.extend(waited.names().cloned());
        }
        let mut touched = BTreeSet::new();
        for reference in given {
            let named = Named {
                image: record.id.clone(),
                is_own: true,
            };
            let before = self.references.insert(reference, named);
            touched.extend(before.map(|named| named.image));
        }
        let names = self.references_of(&record.id).cloned().collect();
        let image = self.image(record, names, None);
        self.images.insert(record.id.clone(), Arc::new(image));
        touched.remove(&record.id);
        self.renew(&touched);
    }

    /// A name that is given to an image is no other's any more, not that of one that waits either.
    fn take_from_waiting(&mut self, reference: &str, but: &ImageId) {
        let has =
            |image: &&Arc<Image>| image.id != *but && image.names().any(|name| name == reference);
        if let Some(image) = self.waiting.values().find(has).cloned() {
            let left = image.names().filter(|name| *name != reference).cloned();
            self.wait(&record_of(&image), left.collect());
        }
    }

    /// Takes an image of our own and all its names out. Those of another store become visible.
    pub(crate) fn remove(&mut self, id: &ImageId) {
        self.images.remove(id);
        self.waiting.remove(id);
        self.references.retain(|_, named| named.image != *id);
        self.fill_up();
    }

    /// Replaces what additional stores have; `is_present` tells which layers there are now, in whatever store.
    pub(crate) fn set_stores(
        &mut self,
        stores: &[Arc<StoreContents>],
        is_present: impl Fn(&ChainId) -> bool,
    ) {
        let is_whole = |image: &Arc<Image>| image.layers.iter().all(&is_present);
        let whole = |store: &Arc<StoreContents>| {
            let images = store.images.iter().filter(|image| is_whole(image));
            images.cloned().collect()
        };
        self.stores = stores.iter().map(whole).collect();
        let mut names: BTreeMap<ImageId, Vec<String>> = BTreeMap::new();
        for (name, named) in std::mem::take(&mut self.references) {
            if named.is_own {
                names.entry(named.image).or_default().push(name);
            }
        }
        let mut images = std::mem::take(&mut self.images);
        images.retain(|_, image| image.store.is_none());
        for (id, image) in std::mem::take(&mut self.waiting) {
            names.insert(id.clone(), image.names().cloned().collect());
            images.insert(id, image);
        }
        for (id, image) in images {
            let own = names.remove(&id).unwrap_or_default();
            if is_whole(&image) {
                self.references.extend(own.into_iter().map(|name| {
                    let image = id.clone();
                    let is_own = true;
                    (name, Named { image, is_own })
                }));
                self.images.insert(id, image);
            } else {
                self.wait(&record_of(&image), own);
            }
        }
        self.fill_up();
        self.renew(&self.images.keys().cloned().collect());
    }

    /// Adds what additional stores have to say where nobody before them has said anything.
    fn fill_up(&mut self) {
        let stores = Arc::clone(&self.stores);
        let mut touched = BTreeSet::new();
        for image in stores.iter().flatten() {
            for name in image.names() {
                if !self.references.contains_key(name) {
                    let named = Named {
                        image: image.id.clone(),
                        is_own: false,
                    };
                    self.references.insert(name.clone(), named);
                    touched.insert(image.id.clone());
                }
            }
            self.images.entry(image.id.clone()).or_insert_with(|| {
                touched.insert(image.id.clone());
                Arc::clone(image)
            });
        }
        self.renew(&touched);
    }

    /// Makes those of these images anew whose names have changed, or whether they are pinned.
    fn renew(&mut self, ids: &BTreeSet<ImageId>) {
        if ids.is_empty() {
            return;
        }
        let mut names: BTreeMap<&ImageId, Vec<String>> =
            ids.iter().map(|id| (id, Vec::new())).collect();
        for (reference, named) in &self.references {
            if let Some(names) = names.get_mut(&named.image) {
                names.push(reference.clone());
            }
        }
        for (id, names) in names {
            let Some(old) = self.images.get(id) else {
                continue;
            };
            let new = self.image(&record_of(old), names, old.store.clone());
            let is_same = new.pinned == old.pinned && new.names().eq(old.names());
            if !is_same {
                self.images.insert(id.clone(), Arc::new(new));
            }
        }
    }

    /// The image of a record, with these names.
    fn image(&self, record: &ImageRecord, names: Vec<String>, store: Option<Arc<Path>>) -> Image {
        let (repo_digests, repo_tags): (Vec<String>, Vec<String>) = names
            .into_iter()
            .partition(|reference| reference.contains('@'));
        let pinned = store.is_some() || self.is_pinned(repo_tags.iter().chain(&repo_digests));
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
            store,
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
