//! Forgetting images, and removing the layers that nothing needs: database, then snapshot, then disk.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use state::{ChainId, ImagesChange};
use sys::fault::{self, FaultPoint};

use crate::error::ImageError;
use crate::reference::clip;

use super::{Inner, Records};

impl Inner {
    pub(super) async fn remove(&self, name_or_id: &str) -> Result<(), ImageError> {
        let mut records = self.records.lock().await;
        let catalogue = self.catalogue.load_full();
        let names = self.registry.known_names(name_or_id);
        let found = catalogue.find(name_or_id, &names);
        let waiting = || catalogue.find_waiting(name_or_id, &names);
        let own = found.filter(|image| image.store.is_none());
        let Some(image) = own.or_else(waiting) else {
            return match found.and_then(|image| image.store.as_ref()) {
                Some(store) => Err(ImageError::ReadOnlyStore {
                    name: clip(name_or_id, 200),
                    store: store.to_path_buf(),
                }),
                None => Ok(()),
            };
        };
        let id = &image.id;
        let mut changes = vec![ImagesChange::DeleteImage(id.clone())];
        // Those that only another store has are no rows of ours.
        changes.extend(image.names().cloned().map(ImagesChange::DeleteReference));
        fault::reach(FaultPoint::RemovalBegun);
        self.db.write(changes).await?;
        fault::reach(FaultPoint::RemovalRecorded);
        self.publish(|catalogue| catalogue.remove(id));
        records.pins.remove(id);
        self.reap(&mut records).await
    }

    /// Deletes what the database held and was not taken up, unless a pull has brought it back since.
    pub(super) async fn delete_stale(&self) -> Result<(), ImageError> {
        let mut stale =
            std::mem::take(&mut *self.stale.lock().unwrap_or_else(PoisonError::into_inner));
        let catalogue = self.catalogue.load_full();
        stale.retain(|change| match change {
            ImagesChange::DeleteImage(id) => !catalogue.owns(id),
            ImagesChange::DeleteReference(name) => !catalogue.owns_name(name),
            ImagesChange::DeleteLayer(chain) => !self.table.is_own(chain),
            _ => false,
        });
        Ok(self.db.write(stale).await?)
    }

    /// Removes the layers that nothing needs. The caller holds the lock on the records.
    pub(super) async fn reap(&self, _records: &mut Records) -> Result<(), ImageError> {
        if !self.swept.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.release_retired().await;
        let rows = self.table.take_unused();
        if rows.is_empty() {
            return Ok(());
        }
        let changes = rows
            .iter()
            .map(|row| ImagesChange::DeleteLayer(row.chain.clone()))
            .collect();
        if let Err(error) = self.db.write(changes).await {
            self.table.put_back(rows);
            return Err(error.into());
        }
        fault::reach(FaultPoint::LayersForgotten);
        for row in &rows {
            self.remove_layer(&row.chain).await;
        }
        Ok(())
    }

    /// Removes directories that were replaced and that no container has mounted any more.
    async fn release_retired(&self) {
        for retired in self.table.take_unleased() {
            let layers = self.layers.clone();
            let released = tokio::task::spawn_blocking(move || {
                if let Err(error) = layers.release(&retired) {
                    tracing::warn!(%error, "a replaced layer stays on the disk until the next start");
                }
            });
            if released.await.is_err() {
                tracing::warn!("the removal of a replaced layer was interrupted");
            }
        }
    }

    /// A layer that will not go is left to the next start, which finds it without a row.
    pub(super) async fn remove_layer(&self, chain: &ChainId) {
        let (layers, chain) = (self.layers.clone(), chain.clone());
        let removal = tokio::task::spawn_blocking(move || {
            if let Err(error) = layers.remove(&chain) {
                tracing::warn!(layer = %chain, %error, "a layer stays on the disk until the next start");
            }
        });
        if removal.await.is_err() {
            tracing::warn!("the removal of a layer was interrupted");
        }
    }
}
