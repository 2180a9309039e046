//! The store of layers.
//!
//! A layer goes through three states: being unpacked (a directory in `tmp/`, owned by an [`Unpacked`]), committed (renamed
//! into place, on the disk, in the index), removed (out of the index, back in `tmp/`, being deleted).

mod commit;

use std::{
    collections::HashMap,
    fmt,
    fs::{self, File, Permissions},
    io::{Read, Write},
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use rustix::fs::{CWD, Mode, OFlags};
use state::{ChainId, DiffId, LayerRow};
use sys::fault::{self, FaultPoint};

use crate::{
    Compression, ForeignLayers, StorageError, UnpackLimits, Usage, blob, export,
    foreign::Place,
    pipeline::{self, TarStream},
    recipe,
    removal::{Trash, fresh_name},
    replace::{self, Replaced},
    tree::Filled,
    unpack::{self, Contents},
    usage,
};

/// The store. Clones are one store.
#[derive(Clone)]
pub struct LayerStore {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) root: Arc<Path>,
    pub(crate) trash: Trash,
    index: Mutex<Index>,
    /// Where layers are looked for that are not in the index.
    foreign: RwLock<Arc<ForeignLayers>>,
    /// Held while layers are committed, so that two pulls that share a layer do not both put it in its place.
    pub(crate) committing: Mutex<()>,
}

#[derive(Default)]
pub(crate) struct Index {
    pub(crate) rows: HashMap<ChainId, LayerRow>,
    usage: Usage,
}

impl Index {
    pub(crate) fn insert(&mut self, row: LayerRow) {
        self.usage += Usage {
            bytes: row.size_bytes,
            inodes: row.inodes,
        };
        self.rows.insert(row.chain.clone(), row);
    }

    pub(crate) fn remove(&mut self, chain: &ChainId) -> Option<LayerRow> {
        let row = self.rows.remove(chain)?;
        self.usage.bytes = self.usage.bytes.saturating_sub(row.size_bytes);
        self.usage.inodes = self.usage.inodes.saturating_sub(row.inodes);
        Some(row)
    }
}

/// A layer that was unpacked, but is not in the store yet. Dropped, it is deleted.
pub struct Unpacked {
    /// The digest of its tar. The caller compares it with the one it expected.
    pub diff: DiffId,
    pub(crate) implied: Vec<Vec<u8>>,
    pub(crate) dir: TempDir,
}

impl fmt::Debug for Unpacked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Unpacked({} in {})",
            self.diff,
            self.dir.path.display()
        )
    }
}

/// A layer that is about to be filled.
struct NewLayer {
    /// Its empty directory.
    layer: OwnedFd,
    /// Where files go that are replaced.
    kept: OwnedFd,
    /// The file for its recipe.
    recipe: File,
}

/// A directory in `tmp/` that is deleted when this is dropped.
pub(crate) struct TempDir {
    path: PathBuf,
    trash: Trash,
}

impl TempDir {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn layer(&self) -> PathBuf {
        self.path.join("layer")
    }

    pub(crate) fn recipe(&self) -> PathBuf {
        self.path.join("recipe")
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        self.trash.delete(std::mem::take(&mut self.path));
    }
}

pub(crate) fn make_dir(path: &Path) -> Result<(), StorageError> {
    fs::create_dir_all(path).map_err(StorageError::io("create", path))
}

impl LayerStore {
    /// Opens the store in the directory `root`, making it if needed. `known` are the layers that the images database has.
    ///
    /// What is on the disk but not known is deleted, in the background, as is what a former run left in `tmp/`. What is
    /// known but not on the disk is not in the store: [`Self::contains`] tells. Blocks; meant for the start of the server.
    pub fn open(root: &Path, known: &[LayerRow]) -> Result<Self, StorageError> {
        make_dir(root)?;
        // Layers hold setuid programs with known holes, and other people's data.
        fs::set_permissions(root, Permissions::from_mode(0o700))
            .map_err(StorageError::io("set the permissions of", root))?;
        for dir in [
            "layers",
            "recipes",
            "containers",
            "retired",
            "tmp",
            "empty/0",
            "empty/1",
        ] {
            make_dir(&root.join(dir))?;
        }
        let inner = Inner {
            root: root.into(),
            trash: Trash::open(&root.join("tmp"))?,
            index: Mutex::default(),
            foreign: RwLock::default(),
            committing: Mutex::default(),
        };
        let mut known: HashMap<&str, &LayerRow> =
            known.iter().map(|row| (row.chain.hex(), row)).collect();
        let mut index = Index::default();
        inner.sweep_dir("layers", |name| match known.remove(name) {
            Some(row) => {
                index.insert(row.clone());
                true
            }
            None => false,
        })?;
        let names: std::collections::HashSet<String> = index
            .rows
            .keys()
            .map(|chain| chain.hex().to_owned())
            .collect();
        inner.sweep_dir("recipes", |name| names.contains(name))?;
        for row in known.values() {
            tracing::warn!(layer = %row.chain, "a layer is gone from the disk");
        }
        *inner.index() = index;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The directory that the store is in.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// From now on, layers that are not in the store are taken from these, to be mounted and read.
    pub fn set_foreign(&self, layers: Arc<ForeignLayers>) {
        *self
            .inner
            .foreign
            .write()
            .unwrap_or_else(PoisonError::into_inner) = layers;
    }

    /// Whether a layer is in the store itself.
    pub fn contains(&self, chain: &ChainId) -> bool {
        self.inner.index().rows.contains_key(chain)
    }

    /// The directory of a layer, of an additional store if it is not in this one; if it is nowhere, where it would be.
    pub fn path(&self, chain: &ChainId) -> PathBuf {
        match self.inner.locate(chain) {
            Ok(place) => place.layer,
            Err(_) => self.inner.layer_dir(chain),
        }
    }

    /// What all layers take. Costs nothing.
    pub fn usage(&self) -> Usage {
        self.inner.index().usage
    }

    /// Unpacks a layer, hashing its tar in the same pass. Blocks, reading `reader` to its end on the calling thread while
    /// another writes the files. What it needs of the layers below it gets at [`Self::commit`], so layers of one image can
    /// be unpacked at the same time, in any order.
    ///
    /// An error of `reader` comes back as [`StorageError::Read`]; `reader` can so also be told to stop.
    pub fn unpack(
        &self,
        reader: impl Read,
        compression: Compression,
        limits: &UnpackLimits,
    ) -> Result<Unpacked, StorageError> {
        self.fill(reader, compression, limits, |tar, new| {
            unpack::unpack(
                tar,
                new.layer,
                new.kept,
                new.recipe,
                Contents::Whole,
                limits,
            )
        })
    }

    /// Stores what is read, as it is, as a layer of one file: `name` is its path in the layer. [`Unpacked::diff`] is the
    /// SHA-256 digest of the content. Blocks and fails as [`Self::unpack`] does.
    pub fn store_blob(
        &self,
        reader: impl Read,
        name: &str,
        limits: &UnpackLimits,
    ) -> Result<Unpacked, StorageError> {
        self.fill(reader, Compression::Plain, limits, |content, new| {
            let name = name.as_bytes();
            blob::store(
                content,
                name,
                new.layer,
                new.kept,
                new.recipe,
                Contents::Whole,
                limits,
            )
        })
    }

    /// Makes a layer aside and has it filled with what comes out of `reader` and its compression.
    fn fill(
        &self,
        reader: impl Read,
        compression: Compression,
        limits: &UnpackLimits,
        fill: impl FnOnce(&mut TarStream, NewLayer) -> Result<Filled, StorageError> + Send,
    ) -> Result<Unpacked, StorageError> {
        let dir = self.inner.temp_dir("layer");
        let layer = dir.layer();
        make_dir(&layer)?;
        fs::set_permissions(&layer, Permissions::from_mode(0o755))
            .map_err(StorageError::io("set the permissions of", &layer))?;
        fault::reach(FaultPoint::UnpackBegun);
        let root = open_dir(&layer)?;
        let kept = recipe::kept_in(&dir.recipe());
        make_dir(&kept)?;
        let kept = open_dir(&kept)?;
        let recipe = recipe::file_in(&dir.recipe());
        let file = File::create_new(&recipe).map_err(StorageError::io("create", &recipe))?;
        let new = NewLayer {
            layer: root,
            kept,
            recipe: file,
        };
        let (filled, diff) = pipeline::run(reader, compression, limits, |tar| fill(tar, new))?;
        fault::reach(FaultPoint::UnpackEnded);
        Ok(Unpacked {
            diff,
            implied: filled.implied,
            dir,
        })
    }

    /// Makes layers part of the store: each with its chain id and that of the layer below it, which must be in the store
    /// or earlier in the list. When this returns they outlive a loss of power. All or none; blocks for one `syncfs`.
    ///
    /// A layer that is in the store already stays as it is. The rows are for the images database, in the order given.
    pub fn commit(
        &self,
        layers: Vec<(Unpacked, ChainId, Option<ChainId>)>,
    ) -> Result<Vec<LayerRow>, StorageError> {
        self.inner.commit(layers)
    }

    /// Puts a newly unpacked layer in the place of one that is in the store, as of now and for good. The old one stays for those who have it mounted.
    pub fn replace(&self, unpacked: &Unpacked, chain: &ChainId) -> Result<Replaced, StorageError> {
        replace::replace(&self.inner, unpacked, chain)
    }

    /// The directories that were replaced and are still there, with the layers that they were. For the start of a server.
    pub fn retired(&self) -> Result<Vec<(ChainId, PathBuf)>, StorageError> {
        replace::retired(&self.inner)
    }

    /// Deletes a replaced directory, in the background. The caller knows that no container has it mounted.
    pub fn release(&self, retired: &Path) -> Result<(), StorageError> {
        self.inner.trash.put(retired)
    }

    /// Takes a layer out of the store. It is gone at once, and deleted in the background. One that is not there is fine.
    /// The caller knows that nothing uses it.
    pub fn remove(&self, chain: &ChainId) -> Result<(), StorageError> {
        self.inner.index().remove(chain);
        self.inner.trash.put(&self.inner.recipe(chain))?;
        fault::reach(FaultPoint::RecipeDiscarded);
        self.inner.trash.put(&self.inner.layer_dir(chain))?;
        fault::reach(FaultPoint::LayerDiscarded);
        Ok(())
    }

    /// Writes a layer's tar, uncompressed, bit for bit as it was, and returns the digest of what was written: the layer's
    /// diff id, unless the layer on the disk was tampered with.
    pub fn export_layer(
        &self,
        chain: &ChainId,
        writer: impl Write,
    ) -> Result<DiffId, StorageError> {
        let place = self.inner.locate(chain)?;
        export::export(chain, &place.layer, &place.recipe, writer)
    }

    /// Waits until everything that was removed so far is deleted. Blocks.
    pub fn settle(&self) {
        self.inner.trash.settle();
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }
}

impl fmt::Debug for LayerStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "LayerStore({})", self.inner.root.display())
    }
}

impl Inner {
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        // Nothing panics while it is half changed.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name in `tmp/`; what is made there goes with the value.
    pub(crate) fn temp_dir(&self, prefix: &str) -> TempDir {
        TempDir {
            path: self.root.join("tmp").join(fresh_name(prefix)),
            trash: self.trash.clone(),
        }
    }

    pub(crate) fn layer_dir(&self, chain: &ChainId) -> PathBuf {
        self.root.join("layers").join(chain.hex())
    }

    pub(crate) fn recipe(&self, chain: &ChainId) -> PathBuf {
        self.root.join("recipes").join(chain.hex())
    }

    fn discard(&self, chain: &ChainId) -> Result<(), StorageError> {
        self.trash.put(&self.recipe(chain))?;
        self.trash.put(&self.layer_dir(chain))
    }

    /// Deletes what is in a directory of the store and not to be kept.
    pub(crate) fn sweep_dir(
        &self,
        dir: &str,
        mut keep: impl FnMut(&str) -> bool,
    ) -> Result<(), StorageError> {
        let dir = self.root.join(dir);
        for entry in fs::read_dir(&dir).map_err(StorageError::io("list", &dir))? {
            let entry = entry.map_err(StorageError::io("list", &dir))?;
            if !entry.file_name().to_str().is_some_and(&mut keep) {
                self.trash.put(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Where a layer is, in this store before others.
    pub(crate) fn locate(&self, chain: &ChainId) -> Result<Place, StorageError> {
        if self.index().rows.contains_key(chain) {
            return Ok(Place::of(&self.root, chain, false));
        }
        let foreign = self.foreign();
        match foreign.get(chain) {
            Some(layer) => Ok(Place::of(layer.store, chain, true)),
            None => Err(StorageError::NoSuchLayer {
                chain: chain.clone(),
            }),
        }
    }

    pub(crate) fn foreign(&self) -> Arc<ForeignLayers> {
        let foreign = self.foreign.read();
        Arc::clone(&foreign.unwrap_or_else(PoisonError::into_inner))
    }

    /// What a layer takes with its recipe, to the block.
    pub(crate) fn measure_layer(&self, chain: &ChainId) -> Result<Usage, StorageError> {
        let mut usage = usage::measure(&self.layer_dir(chain))?.usage;
        usage += usage::measure(&self.recipe(chain))?.usage;
        Ok(usage)
    }

    /// Writes everything to the disk: files, directories and the renames.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        let root = open_dir(&self.root)?;
        rustix::fs::syncfs(root).map_err(StorageError::io("sync the file system of", &self.root))
    }
}

pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd, StorageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(StorageError::io("open", path))
}

#[cfg(test)]
#[path = "layers_tests.rs"]
mod tests;
