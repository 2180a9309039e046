//! Making an image of layers that are ready, and giving names to one: disk, then database, then snapshot.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use state::{ChainId, Digest, ImageId, ImagesChange, LayerRow};
use sys::fault::{self, FaultPoint};

use crate::artifact::ImageKind;
use crate::catalogue::{Catalogue, record_of};
use crate::error::ImageError;
use crate::image::{Image, ImageRecord, ImageRunConfig};
use crate::layers::Pins;
use crate::pull::Prepared;

use super::Inner;

/// An image all of whose layers are on the disk or unpacked.
pub(crate) struct NewImage {
    pub(crate) id: ImageId,
    pub(crate) kind: ImageKind,
    pub(crate) manifest_digest: Option<Digest>,
    /// An artifact's manifest.
    pub(crate) raw_config: Bytes,
    pub(crate) config: ImageRunConfig,
    /// Of all its layers, lowest first.
    pub(crate) pins: Pins,
    /// Those that are not on the disk yet, lowest first.
    pub(crate) prepared: Vec<Arc<Prepared>>,
    /// Normal references.
    pub(crate) references: Vec<String>,
    /// What it showed of signatures.
    pub(crate) seal: Option<Digest>,
}

impl Inner {
    /// Makes an image of a node out of layers that are ready: all or nothing, and never cancelled halfway.
    pub(crate) async fn commit(self: &Arc<Self>, new: NewImage) -> Result<Arc<Image>, ImageError> {
        let inner = Arc::clone(self);
        let what = format!("image {}", new.id);
        tokio::spawn(async move { inner.commit_locked(new).await })
            .await
            .unwrap_or_else(|_| Err(ImageError::Interrupted { what }))
    }

    async fn commit_locked(self: Arc<Self>, new: NewImage) -> Result<Arc<Image>, ImageError> {
        let what = format!("image {}", new.id);
        let mut records = self.records.lock().await;
        fault::reach(FaultPoint::CommitBegun);
        let mut folders = Vec::with_capacity(new.prepared.len());
        for layer in &new.prepared {
            // Another image that shares the layer may have been faster.
            if self.table.is_present(&layer.chain) {
                continue;
            }
            let unpacked = layer.take().ok_or_else(|| {
                ImageError::interrupted(format!("the commit of layer {}", layer.chain))
            })?;
            folders.push((unpacked, layer.chain.clone(), layer.parent.clone()));
        }
        let is_ready = |layer: &ChainId| new.prepared.iter().any(|it| it.chain == *layer);
        let mut layers = new.pins.chains().iter();
        // What was pinned of our own store is there.
        if let Some(layer) = layers.find(|it| !self.table.is_present(it) && !is_ready(it)) {
            let layer = layer.clone();
            return Err(ImageError::LayerAway { what, layer });
        }
        let prepared = new.prepared.clone();
        let rows = if prepared.is_empty() {
            Vec::new()
        } else {
            let layers = self.layers.clone();
            tokio::task::spawn_blocking(move || {
                for layer in &prepared {
                    layer.discard_partial();
                }
                layers.commit(folders)
            })
            .await
            .map_err(|_| ImageError::interrupted(format!("the commit of {what}")))?
            .map_err(|error| ImageError::storage(&what, error))?
        };
        let fresh: HashMap<&ChainId, u64> = rows
            .iter()
            .map(|row| (&row.chain, row.size_bytes))
            .collect();
        let size_bytes = new
            .pins
            .chains()
            .iter()
            .map(|chain| {
                fresh
                    .get(chain)
                    .copied()
                    .unwrap_or_else(|| self.table.size_bytes(chain))
            })
            .fold(new.raw_config.len() as u64, u64::saturating_add);
        // The same image may have come under another policy before.
        let seals = self
            .catalogue
            .load()
            .by_id(&new.id)
            .map(|image| image.seals.clone());
        let mut record = ImageRecord {
            id: new.id,
            kind: new.kind,
            layers: new.pins.chains().to_vec(),
            size_bytes,
            config: Arc::new(new.config),
            manifest_digest: new.manifest_digest,
            raw_config: new.raw_config,
            seals: seals.unwrap_or_default(),
        };
        new.seal.into_iter().for_each(|seal| record.add_seal(seal));
        fault::reach(FaultPoint::CommitUnrecorded);
        if let Err(error) = self.record(&record, &rows, &new.references).await {
            for row in &rows {
                self.remove_layer(&row.chain).await;
            }
            return Err(error);
        }
        fault::reach(FaultPoint::CommitRecorded);
        self.table.put_back(rows);
        // In this order: the old pins of an image that is renewed must not be its layers' last.
        let before = records.pins.insert(record.id.clone(), new.pins);
        drop(before);
        self.publish(|catalogue| catalogue.insert(&record, &new.references));
        self.catalogue
            .load()
            .by_id(&record.id)
            .cloned()
            .ok_or_else(|| ImageError::interrupted(what))
    }

    /// Writes an image, its new layers and its names, all or nothing.
    async fn record(
        &self,
        record: &ImageRecord,
        rows: &[LayerRow],
        references: &[String],
    ) -> Result<(), ImageError> {
        let mut changes: Vec<ImagesChange> =
            rows.iter().cloned().map(ImagesChange::PutLayer).collect();
        changes.push(ImagesChange::PutImage {
            id: record.id.clone(),
            body: record.to_body()?,
            layers: record.layers.clone(),
        });
        changes.extend(
            references
                .iter()
                .map(|reference| ImagesChange::PutReference {
                    reference: reference.clone(),
                    image: record.id.clone(),
                }),
        );
        Ok(self.db.write(changes).await?)
    }

    /// Gives an image that is here more names, and notes what it showed of signatures. `None` if it is not here any more.
    pub(crate) async fn add_names(
        self: &Arc<Self>,
        id: &ImageId,
        references: Vec<String>,
        seal: Option<Digest>,
    ) -> Result<Option<Arc<Image>>, ImageError> {
        let foreign = self.catalogue.load().by_id(id).cloned();
        if let Some(image) = foreign.filter(|image| image.store.is_some()) {
            return self.adopt(&image, references, seal).await.map(Some);
        }
        let (inner, id) = (Arc::clone(self), id.clone());
        tokio::spawn(async move {
            let _records = inner.records.lock().await;
            let catalogue = inner.catalogue.load_full();
            // Ours may have been removed meanwhile, and one of an additional store be seen in its place.
            let own = catalogue.by_id(&id).filter(|image| image.store.is_none());
            let Some(image) = own else {
                return Ok(None);
            };
            let missing = unknown(&catalogue, &id, references);
            let seal = seal.filter(|seal| !image.seals.contains(seal));
            if missing.is_empty() && seal.is_none() {
                return Ok(Some(Arc::clone(image)));
            }
            let mut record = record_of(image);
            let mut changes: Vec<ImagesChange> = missing
                .iter()
                .map(|name| ImagesChange::PutReference {
                    reference: name.clone(),
                    image: id.clone(),
                })
                .collect();
            if let Some(seal) = seal {
                record.add_seal(seal);
                changes.push(ImagesChange::PutImage {
                    id: id.clone(),
                    body: record.to_body()?,
                    layers: record.layers.clone(),
                });
            }
            inner.db.write(changes).await?;
            fault::reach(FaultPoint::NamesRecorded);
            inner.publish(|catalogue| catalogue.insert(&record, &missing));
            Ok(inner.catalogue.load().by_id(&id).cloned())
        })
        .await
        .unwrap_or_else(|_| Err(ImageError::interrupted("naming an image")))
    }

    /// Gives an image of an additional store more names, and notes what it showed of signatures: by a record of our own, which
    /// needs no layers of our own.
    async fn adopt(
        self: &Arc<Self>,
        image: &Arc<Image>,
        references: Vec<String>,
        seal: Option<Digest>,
    ) -> Result<Arc<Image>, ImageError> {
        let missing = unknown(&self.catalogue.load(), &image.id, references);
        let seal = seal.filter(|seal| !image.seals.contains(seal));
        if missing.is_empty() && seal.is_none() {
            return Ok(Arc::clone(image));
        }
        let raw_config = self.document(image).await?;
        self.commit(NewImage {
            id: image.id.clone(),
            kind: image.kind,
            manifest_digest: image.manifest_digest.clone(),
            raw_config,
            config: ImageRunConfig::clone(&image.config),
            pins: self.table.pin(&image.layers),
            prepared: Vec::new(),
            references: missing,
            seal,
        })
        .await
    }
}

/// Of these references those that do not name the image yet.
fn unknown(catalogue: &Catalogue, id: &ImageId, mut references: Vec<String>) -> Vec<String> {
    references.retain(|name| {
        let named = catalogue.by_reference(name);
        named.is_none_or(|named| named.id != *id)
    });
    references
}
