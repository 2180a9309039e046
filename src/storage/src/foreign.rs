//! Layers of additional stores: directories of other Pintles' stores, on read-only file systems for instance.
//!
//! They are looked at and mounted, and nothing else: no code that writes, moves or deletes finds a path here. A store may
//! vanish at any moment; who needs a layer of it then gets an error that says so.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::io::Errno;
use state::{ChainId, LayerRow};

use crate::tree;

/// What every additional store has. Its recipes may be left away.
const LAYERS: &str = "layers";

/// Why a directory is not used as an additional store.
#[derive(Debug, thiserror::Error)]
pub enum ForeignStoreError {
    /// It is not there, or cannot be read.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done, as in "list".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Others than root could put programs into containers.
    #[error("{} can be changed by others than root; `chown root:root` and `chmod go-w` it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// Directories that hide those of lower layers are not told from others there.
    #[error(
        "the file system of {} does not keep the attributes that overlays need (trusted.*), as NFS does not; put the store \
         into an image of a file system there (squashfs, EROFS, ext4), and mount that",
        path.display()
    )]
    NoAttributes {
        /// The directory.
        path: PathBuf,
    },
}

/// The layers of additional stores, by what their databases say and what is there. Never changed: another look makes another one.
#[derive(Debug, Default)]
pub struct ForeignLayers {
    stores: Vec<Arc<Path>>,
    layers: HashMap<ChainId, Entry>,
}

#[derive(Debug)]
struct Entry {
    store: usize,
    row: LayerRow,
}

/// A layer of an additional store.
#[derive(Clone, Copy, Debug)]
pub struct ForeignLayer<'a> {
    /// What is known of it.
    pub row: &'a LayerRow,
    /// The directory of the store that it is in.
    pub store: &'a Arc<Path>,
}

impl ForeignLayers {
    /// Adds the layers of a store. Of those that an earlier one has, too, that one's stay.
    pub fn add(&mut self, store: &Arc<Path>, rows: impl IntoIterator<Item = LayerRow>) {
        let number = self.stores.len();
        self.stores.push(Arc::clone(store));
        for row in rows {
            self.layers
                .entry(row.chain.clone())
                .or_insert(Entry { store: number, row });
        }
    }

    /// The layer of this name.
    pub fn get(&self, chain: &ChainId) -> Option<ForeignLayer<'_>> {
        let entry = self.layers.get(chain)?;
        Some(ForeignLayer {
            row: &entry.row,
            store: self.stores.get(entry.store)?,
        })
    }

    /// All of them, in no order.
    pub fn rows(&self) -> impl Iterator<Item = &LayerRow> {
        self.layers.values().map(|entry| &entry.row)
    }
}

/// Looks at a directory that is to be an additional store, and takes those out of `rows`, its database's, whose layers are
/// not there. Reads no layer. Blocks for as long as the file system takes to answer, for ever if it is a dead one.
///
/// # Errors
/// What keeps the store from being used at all.
pub fn look_at(
    store: &Path,
    database: &Path,
    rows: Vec<LayerRow>,
) -> Result<Vec<LayerRow>, ForeignStoreError> {
    let layers = store.join(LAYERS);
    for path in [store, database, &layers] {
        let found = fs::metadata(path).map_err(io_error("look at", path))?;
        if is_exposed(&found) {
            return Err(ForeignStoreError::Exposed {
                path: path.to_owned(),
            });
        }
    }
    let mut value = [0_u8; 2];
    if let Err(Errno::OPNOTSUPP) = rustix::fs::lgetxattr(&layers, tree::OPAQUE, &mut value) {
        return Err(ForeignStoreError::NoAttributes { path: layers });
    }
    let mut there = HashSet::new();
    for entry in fs::read_dir(&layers).map_err(io_error("list", &layers))? {
        let entry = entry.map_err(io_error("list", &layers))?;
        there.extend(entry.file_name().into_string());
    }
    let is_there = |row: &LayerRow| there.contains(row.chain.hex());
    Ok(rows.into_iter().filter(is_there).collect())
}

fn is_exposed(found: &Metadata) -> bool {
    found.uid() != 0 || found.mode() & 0o022 != 0
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ForeignStoreError {
    move |source| ForeignStoreError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// Where a layer is, to be read. Not to be written.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The store.
    pub(crate) store: Arc<Path>,
    /// Its directory.
    pub(crate) layer: PathBuf,
    /// How to write its tar.
    pub(crate) recipe: PathBuf,
    /// Whether it is in an additional store.
    pub(crate) is_foreign: bool,
}

impl Place {
    pub(crate) fn of(store: &Arc<Path>, chain: &ChainId, is_foreign: bool) -> Self {
        Self {
            layer: store.join(LAYERS).join(chain.hex()),
            recipe: store.join("recipes").join(chain.hex()),
            store: Arc::clone(store),
            is_foreign,
        }
    }
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;
