//! A layer's directory replaced by a good one, while containers run on the old one.
//!
//! An overlay holds the directories that it was mounted with, wherever they are moved to, but it needs what is in them. So
//! the two directories change places in one step, and the old one is *retired*: kept in `retired/` until its owner says
//! that no container has it. New mounts find the new one under the old name. Neither a crash nor a loss of power leaves
//! anything but the old directory or the new one in the layer's place.
//!
//! ```text
//!   tmp/…/layer ──rename──▶ retired/<hex>-<random>       synced: what is exchanged is on the disk
//!                           retired/<hex>-<random> ◀──exchange──▶ layers/<hex>
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::PoisonError,
};

use rustix::{
    fs::{CWD, RenameFlags},
    io::Errno,
};
use state::{ChainId, LayerRow};
use sys::fault::{self, FaultPoint};

use crate::{StorageError, Unpacked, adopt, layers::Inner, removal::fresh_name};

/// Name of the directory of replaced directories.
const DIRECTORY: &str = "retired";

/// What became of a layer that was replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// What is known of it now.
    pub row: LayerRow,
    /// The directory that was in its place.
    pub retired: PathBuf,
}

/// Puts what was unpacked in the place of the layer. When this returns, it outlives a loss of power. The old recipe goes;
/// the old directory stays.
pub(crate) fn replace(
    inner: &Inner,
    unpacked: &Unpacked,
    chain: &ChainId,
) -> Result<Replaced, StorageError> {
    let _committing = inner
        .committing
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let row = inner.index().rows.get(chain).cloned();
    let row = row.filter(|row| row.diff == unpacked.diff);
    let mut row = row.ok_or_else(|| StorageError::NoSuchLayer {
        chain: chain.clone(),
    })?;
    let layer = unpacked.dir.layer();
    let parents = inner.dirs_down_from(row.parent.as_ref())?;
    adopt::adopt(&layer, &unpacked.implied, &parents)?;
    let retired = inner.root.join(DIRECTORY).join(fresh_name(chain.hex()));
    fs::rename(&layer, &retired).map_err(StorageError::io("move into place", &retired))?;
    fault::reach(FaultPoint::RepairMoved);
    let exchanged = inner.sync().and_then(|()| {
        fault::reach(FaultPoint::RepairSynced);
        exchange(&retired, &inner.layer_dir(chain))
    });
    if let Err(error) = exchanged {
        inner.trash.put(&retired)?;
        return Err(error);
    }
    // From here on containers may have the one that was moved. Should the rest fail, the next start finds it.
    fault::reach(FaultPoint::RepairExchanged);
    exchange(&unpacked.dir.recipe(), &inner.recipe(chain))?;
    fault::reach(FaultPoint::RecipeExchanged);
    inner.sync()?;
    let usage = inner.measure_layer(chain)?;
    (row.size_bytes, row.inodes) = (usage.bytes, usage.inodes);
    let mut index = inner.index();
    index.remove(chain);
    index.insert(row.clone());
    Ok(Replaced { row, retired })
}

/// Has two files change places. If there is no second one, the first one moves.
fn exchange(one: &Path, other: &Path) -> Result<(), StorageError> {
    match rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Err(Errno::NOENT) => fs::rename(one, other),
        result => result.map_err(io::Error::from),
    }
    .map_err(StorageError::io("move into place", other))
}

/// What is in the directory. What is not named as it should be is deleted.
pub(crate) fn retired(inner: &Inner) -> Result<Vec<(ChainId, PathBuf)>, StorageError> {
    let dir = inner.root.join(DIRECTORY);
    let mut found = Vec::new();
    for entry in fs::read_dir(&dir).map_err(StorageError::io("list", &dir))? {
        let entry = entry.map_err(StorageError::io("list", &dir))?;
        let name = entry.file_name();
        let chain = name
            .to_str()
            .and_then(|name| name.split_once('-'))
            .and_then(|(hex, _)| format!("sha256:{hex}").parse().ok());
        match chain {
            Some(chain) => found.push((chain, entry.path())),
            None => inner.trash.put(&entry.path())?,
        }
    }
    Ok(found)
}
