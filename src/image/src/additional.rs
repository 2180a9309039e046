//! One additional store: another Pintle's store that images are used from and that is never written, such as one on a
//! read-only file system.
//!
//! Its database is read whole, and closed again. Of images, what lists and new containers need stays in memory; their
//! configurations are read again when somebody asks for one. Everything here blocks for as long as the file system takes to
//! answer, which may be for ever: see [`crate::store`] for who waits how long.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use state::{ChainId, ImageId, ImagesContents, LayerRow, StateError, read_only_record};
use storage::ForeignStoreError;
use thiserror::Error;

use crate::hashing::Hasher;
use crate::image::{Image, ImageRecord};

/// Why an additional store is not used.
#[derive(Debug, Error)]
pub enum AdditionalStoreError {
    /// There is no database.
    #[error("there is no image store at {}: it has no images.db; is it mounted?", store.display())]
    Absent {
        /// The directory.
        store: PathBuf,
    },
    /// Its database cannot be looked at.
    #[error("look at {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Its database cannot be read.
    #[error("the image store {}", store.display())]
    Database {
        /// The directory.
        store: PathBuf,
        /// Why.
        #[source]
        source: StateError,
    },
    /// Its layers cannot be used.
    #[error("the image store {}", store.display())]
    Layers {
        /// The directory.
        store: PathBuf,
        /// Why.
        #[source]
        source: ForeignStoreError,
    },
    /// Its file system does not answer.
    #[error("the file system of the image store {} does not answer", store.display())]
    Silent {
        /// The directory.
        store: PathBuf,
    },
    /// An image of it cannot be read again.
    #[error("the image store {} has no record of image {image} any more", store.display())]
    NoRecord {
        /// The directory.
        store: PathBuf,
        /// The image.
        image: ImageId,
    },
}

/// What tells that a store is another than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

/// A store as it was read.
#[derive(Debug)]
pub(crate) struct StoreContents {
    pub(crate) root: Arc<Path>,
    /// With the names that they have there.
    pub(crate) images: Vec<Arc<Image>>,
    /// Those whose directories are there.
    pub(crate) layers: Vec<LayerRow>,
    /// Images whose records make no sense.
    pub(crate) unreadable: usize,
}

/// What came of a look at a store.
#[derive(Debug)]
pub(crate) enum Look {
    /// Nothing has changed.
    Same,
    /// It is another one, or can be read again.
    New(Stamp, StoreContents),
}

fn database(root: &Path) -> PathBuf {
    root.join("images.db")
}

fn stamp(root: &Path) -> Result<Stamp, AdditionalStoreError> {
    let path = database(root);
    match std::fs::metadata(&path) {
        Ok(found) => Ok(Stamp {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(AdditionalStoreError::Absent {
                store: root.to_owned(),
            })
        }
        Err(source) => Err(AdditionalStoreError::Io { path, source }),
    }
}

/// Reads the store, unless it is the one that was read at the time of `before`.
pub(crate) fn look(root: &Arc<Path>, before: Option<Stamp>) -> Result<Look, AdditionalStoreError> {
    // Before reading: a change in between is seen the next time.
    let now = stamp(root)?;
    if before == Some(now) {
        return Ok(Look::Same);
    }
    let contents = ImagesContents::read_only(&database(root)).map_err(|source| {
        AdditionalStoreError::Database {
            store: root.to_path_buf(),
            source,
        }
    })?;
    let layers = storage::look_at(root, &database(root), contents.layers).map_err(|source| {
        AdditionalStoreError::Layers {
            store: root.to_path_buf(),
            source,
        }
    })?;
    let mut names: HashMap<ImageId, Vec<String>> = HashMap::new();
    for (reference, id) in contents.references {
        names.entry(id).or_default().push(reference);
    }
    let known: HashSet<ChainId> = layers.iter().map(|row| row.chain.clone()).collect();
    let mut images = Vec::with_capacity(contents.images.len());
    let mut unreadable = 0;
    for (id, body, chains) in contents.images {
        // Digests of the same text are one text in memory.
        let once = |chain: ChainId| known.get(&chain).cloned().unwrap_or(chain);
        let chains = chains.into_iter().map(once).collect();
        let names = names.remove(&id).unwrap_or_default();
        match record(id.clone(), &body, chains) {
            Ok(record) => images.push(Arc::new(stored(root, record, names))),
            Err(error) => {
                tracing::warn!(store = %root.display(), image = %id, error, "an image of an additional store cannot be read");
                unreadable += 1;
            }
        }
    }
    let contents = StoreContents {
        root: Arc::clone(root),
        images,
        layers,
        unreadable,
    };
    Ok(Look::New(now, contents))
}

/// An image as the store has it, without its configuration's text.
fn stored(root: &Arc<Path>, record: ImageRecord, names: Vec<String>) -> Image {
    let (repo_digests, repo_tags) = names.into_iter().partition(|name| name.contains('@'));
    Image {
        id: record.id,
        kind: record.kind,
        repo_tags,
        repo_digests,
        size_bytes: record.size_bytes,
        layers: record.layers,
        config: record.config,
        manifest_digest: record.manifest_digest,
        // Whoever collects garbage would only be refused.
        pinned: true,
        store: Some(Arc::clone(root)),
        // Who can write there can change the layers as well: it is as good as our own.
        seals: record.seals,
        raw_config: Bytes::new(),
        encoded: OnceLock::new(),
    }
}

/// Reads a record, and compares it with the id that it should have: unlike our own, it may have come a long way.
fn record(id: ImageId, body: &[u8], layers: Vec<ChainId>) -> Result<ImageRecord, String> {
    let record =
        ImageRecord::from_body(id, body, layers).map_err(|error| crate::error::chain(&error))?;
    let mut hasher = Hasher::like(Some(record.id.digest()));
    hasher.update(&record.raw_config);
    let found = hasher.finish();
    if found != *record.id.digest() {
        return Err(format!("its configuration has the digest {found}"));
    }
    Ok(record)
}

/// Reads the configuration of an image of the store again.
pub(crate) fn document(root: &Path, image: &Image) -> Result<Bytes, AdditionalStoreError> {
    let gone = || AdditionalStoreError::NoRecord {
        store: root.to_owned(),
        image: image.id.clone(),
    };
    let body = read_only_record(&database(root), &image.id).map_err(|source| {
        AdditionalStoreError::Database {
            store: root.to_owned(),
            source,
        }
    })?;
    let body = body.ok_or_else(gone)?;
    let record = record(image.id.clone(), &body, image.layers.clone()).map_err(|_| gone())?;
    Ok(record.raw_config)
}

/// What an additional store has, for whoever looks after the node.
#[derive(Clone, Debug)]
pub struct AdditionalStore {
    /// Its directory.
    pub root: PathBuf,
    /// Images that are used from it.
    pub images: usize,
    /// Images of it that are not used, because their records make no sense or layers are missing.
    pub unusable_images: usize,
    /// Layers that are used from it.
    pub layers: usize,
    /// Why nothing of it is used.
    pub problem: Option<Arc<AdditionalStoreError>>,
}

impl AdditionalStore {
    /// Looks at a store by itself. Blocks, for ever if its file system does not answer.
    pub fn look_at(root: &Path) -> Self {
        let store: Arc<Path> = root.into();
        match look(&store, None) {
            Ok(Look::New(_, contents)) => {
                let there: HashSet<&ChainId> =
                    contents.layers.iter().map(|row| &row.chain).collect();
                let is_whole =
                    |image: &&Arc<Image>| image.layers.iter().all(|chain| there.contains(chain));
                let images = contents.images.iter().filter(is_whole).count();
                Self {
                    root: root.to_owned(),
                    images,
                    unusable_images: contents.images.len() - images + contents.unreadable,
                    layers: contents.layers.len(),
                    problem: None,
                }
            }
            Ok(Look::Same) => Self::unused(root, None),
            Err(error) => Self::unused(root, Some(Arc::new(error))),
        }
    }

    pub(crate) fn unused(root: &Path, problem: Option<Arc<AdditionalStoreError>>) -> Self {
        Self {
            root: root.to_owned(),
            images: 0,
            unusable_images: 0,
            layers: 0,
            problem,
        }
    }
}
