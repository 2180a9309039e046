//! Removing what nobody uses, all at once and on request only: the kubelet collects garbage by itself.

use std::sync::Arc;

use state::{ImageId, ImagesChange};

use crate::error::ImageError;
use crate::image::Image;

use super::{Images, Inner};

/// What is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prune {
    /// Images without any name, by tag or by digest.
    Nameless,
    /// All images.
    All,
}

/// An image that was removed.
#[derive(Clone, Debug)]
pub struct Pruned {
    /// The image as it was.
    pub image: Arc<Image>,
    /// Bytes that its removal gave back, after those of the images before it.
    pub freed_bytes: u64,
}

impl Images {
    /// Removes images that are neither pinned nor in use: `is_used` tells which ones containers have, beside those that
    /// are leased for a container. Tells what was removed, or would be with `dry_run`.
    pub async fn prune(
        &self,
        which: Prune,
        dry_run: bool,
        is_used: impl Fn(&ImageId) -> bool + Send + 'static,
    ) -> Result<Vec<Pruned>, ImageError> {
        let inner = Arc::clone(&self.inner);
        // A caller that gives up halfway must not leave the snapshot behind the database.
        let task = tokio::spawn(async move { inner.prune(which, dry_run, is_used).await });
        task.await
            .unwrap_or_else(|_| Err(ImageError::interrupted("the removal of unused images")))
    }
}

impl Inner {
    async fn prune(
        &self,
        which: Prune,
        dry_run: bool,
        is_used: impl Fn(&ImageId) -> bool,
    ) -> Result<Vec<Pruned>, ImageError> {
        let mut records = self.records.lock().await;
        let catalogue = self.catalogue.load_full();
        let unused: Vec<Arc<Image>> = catalogue
            .list()
            .into_iter()
            // Whether layers come back of which a store is away, nobody knows who asks for all to go.
            .chain(catalogue.waiting().cloned())
            .filter(|image| image.store.is_none())
            .filter(|image| which == Prune::All || image.names().next().is_none())
            .filter(|image| {
                !image.pinned && !is_used(&image.id) && !self.table.is_leased_for(&image.id)
            })
            .collect();
        let freed = self
            .table
            .freed_by(unused.iter().map(|image| image.layers.as_slice()));
        if !dry_run && !unused.is_empty() {
            let mut changes = Vec::new();
            for image in &unused {
                changes.push(ImagesChange::DeleteImage(image.id.clone()));
                changes.extend(image.names().cloned().map(ImagesChange::DeleteReference));
            }
            self.db.write(changes).await?;
            self.publish(|catalogue| {
                for image in &unused {
                    catalogue.remove(&image.id);
                }
            });
            for image in &unused {
                records.pins.remove(&image.id);
            }
            self.reap(&mut records).await?;
        }
        Ok(unused
            .into_iter()
            .zip(freed)
            .map(|(image, freed_bytes)| Pruned { image, freed_bytes })
            .collect())
    }
}
