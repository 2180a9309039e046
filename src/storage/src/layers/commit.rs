//! Putting unpacked layers in their places: all or none, and on the disk before anyone is told.

use std::{fs, path::PathBuf, sync::PoisonError};

use state::{ChainId, LayerRow};
use sys::fault::{self, FaultPoint};

use super::{Inner, Unpacked};
use crate::{StorageError, adopt};

impl Inner {
    pub(super) fn commit(
        &self,
        layers: Vec<(Unpacked, ChainId, Option<ChainId>)>,
    ) -> Result<Vec<LayerRow>, StorageError> {
        let _committing = self
            .committing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut rows = Vec::with_capacity(layers.len());
        let mut fresh: Vec<LayerRow> = Vec::with_capacity(layers.len());
        let placed = layers
            .into_iter()
            .try_for_each(|(unpacked, chain, parent)| {
                let there = self.index().rows.get(&chain).cloned();
                let there = there.or_else(|| fresh.iter().find(|row| row.chain == chain).cloned());
                if let Some(row) = there {
                    rows.push(row);
                    return Ok(());
                }
                let row = LayerRow {
                    chain,
                    diff: unpacked.diff.clone(),
                    parent,
                    size_bytes: 0,
                    inodes: 0,
                };
                self.place(&unpacked, &row, &fresh)?;
                fresh.push(row.clone());
                rows.push(row);
                Ok(())
            });
        let measured = placed.and_then(|()| {
            if fresh.is_empty() {
                return Ok(());
            }
            self.sync()?;
            fault::reach(FaultPoint::LayersSynced);
            // Only now has the file system decided where everything is, and what it takes beside the contents.
            for row in &mut fresh {
                let usage = self.measure_layer(&row.chain)?;
                (row.size_bytes, row.inodes) = (usage.bytes, usage.inodes);
            }
            for row in &mut rows {
                if let Some(measured) = fresh.iter().find(|fresh| fresh.chain == row.chain) {
                    row.clone_from(measured);
                }
            }
            Ok(())
        });
        if let Err(error) = measured {
            for row in &fresh {
                if let Err(error) = self.discard(&row.chain) {
                    // It has no row, so the next start sweeps it.
                    tracing::warn!(layer = %row.chain, %error, "cannot take back a layer");
                }
            }
            return Err(error);
        }
        let mut index = self.index();
        for row in fresh {
            index.insert(row);
        }
        Ok(rows)
    }

    /// Moves a layer to its place.
    fn place(
        &self,
        unpacked: &Unpacked,
        row: &LayerRow,
        fresh: &[LayerRow],
    ) -> Result<(), StorageError> {
        let parents = self.parents(row.parent.as_ref(), fresh)?;
        let layer = unpacked.dir.layer();
        adopt::adopt(&layer, &unpacked.implied, &parents)?;
        let place = self.layer_dir(&row.chain);
        // Something without a row could be there if a former commit could not be taken back.
        self.discard(&row.chain)?;
        let (from, to) = (unpacked.dir.recipe(), self.recipe(&row.chain));
        fs::rename(&from, &to).map_err(StorageError::io("move into place", &to))?;
        fault::reach(FaultPoint::RecipePlaced);
        fs::rename(&layer, &place).map_err(StorageError::io("move into place", &place))?;
        fault::reach(FaultPoint::LayerPlaced);
        Ok(())
    }

    /// The directories of a layer that is somewhere and of all layers below it, topmost first.
    pub(crate) fn dirs_down_from(
        &self,
        top: Option<&ChainId>,
    ) -> Result<Vec<PathBuf>, StorageError> {
        self.parents(top, &[])
    }

    /// The directories of a layer and all layers below it, topmost first.
    fn parents(
        &self,
        top: Option<&ChainId>,
        fresh: &[LayerRow],
    ) -> Result<Vec<PathBuf>, StorageError> {
        let mut dirs = Vec::new();
        let mut next = top.cloned();
        while let Some(chain) = next {
            let parent = if let Some(row) = fresh.iter().find(|row| row.chain == chain) {
                dirs.push(self.layer_dir(&chain));
                row.parent.clone()
            } else {
                dirs.push(self.locate(&chain)?.layer);
                self.parent(&chain)
            };
            next = parent;
        }
        Ok(dirs)
    }

    /// The layer below a layer that is somewhere.
    fn parent(&self, chain: &ChainId) -> Option<ChainId> {
        if let Some(row) = self.index().rows.get(chain) {
            return row.parent.clone();
        }
        self.foreign().get(chain)?.row.parent.clone()
    }
}
