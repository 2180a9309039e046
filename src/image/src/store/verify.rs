//! Looking whether layers are whole, and fetching again those that are not.
//!
//! One layer after the other, lowest first, on threads that give way to everything else. A damaged layer is fetched from
//! the registries that the names of its images lead to, verified as in a pull, and put in the place of the damaged one.
//! Containers that run keep what they have mounted: see [`crate::layers`].

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use state::{ChainId, ImagesChange};
use storage::StorageError;
use sys::fault::{self, FaultPoint};
use tokio::sync::mpsc::Sender;

use crate::error::ImageError;
use crate::image::Image;
use crate::layers::ImageLayer;
use crate::pull;

use super::{Images, Inner};

/// What is told while layers are verified.
#[derive(Clone, Debug)]
pub enum Verified {
    /// A layer's turn has come.
    Layer {
        /// Which one.
        chain: ChainId,
        /// Layers that were looked at so far.
        done: u32,
        /// All that are to be.
        total: u32,
    },
    /// A layer is damaged.
    Damaged(DamagedLayer),
    /// All were looked at.
    End(VerifySummary),
}

/// A layer that is not what was pulled.
#[derive(Clone, Debug)]
pub struct DamagedLayer {
    /// Which one.
    pub chain: ChainId,
    /// The additional store that it is in; `None`: it is in our own.
    pub store: Option<Arc<Path>>,
    /// The images that stand on it: a name of each, or the id.
    pub images: Vec<String>,
    /// What is wrong with it, in words; of many the first.
    pub findings: Vec<String>,
    /// What became of it, if it was to be repaired.
    pub mended: Option<Result<(), ImageError>>,
}

/// How many layers there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifySummary {
    /// That were looked at.
    pub layers: u32,
    /// That were damaged.
    pub damaged: u32,
    /// That are whole again.
    pub mended: u32,
}

impl Images {
    /// Compares the layers of images, or all layers, with what was pulled, and fetches damaged ones again if `repair` says
    /// so. Ends early when the future is dropped or nobody listens any more. One at a time on a node: others wait.
    ///
    /// # Errors
    /// What keeps layers from being looked at. That a layer is damaged or cannot be mended is told instead.
    pub async fn verify(
        &self,
        images: Option<Vec<Arc<Image>>>,
        repair: bool,
        told: &Sender<Verified>,
    ) -> Result<VerifySummary, ImageError> {
        let inner = &self.inner;
        let _alone = inner.verifying.lock().await;
        let chains = match images {
            None => inner.table.all().into_iter().map(|row| row.chain).collect(),
            Some(images) => lowest_first(&images),
        };
        let total = u32::try_from(chains.len()).unwrap_or(u32::MAX);
        let mut summary = VerifySummary::default();
        for (done, chain) in (0..).zip(chains) {
            // While it is looked at, it stays.
            let Some(_pins) = inner.table.pin_present(std::slice::from_ref(&chain)) else {
                continue;
            };
            let news = Verified::Layer {
                chain: chain.clone(),
                done,
                total,
            };
            tell(told, news).await?;
            let findings = inner.look(&chain).await?;
            summary.layers += 1;
            if findings.is_empty() {
                continue;
            }
            summary.damaged += 1;
            let stand_on_it = inner.images_on(&chain);
            tracing::warn!(layer = %chain, findings = findings.join("; "), "a layer is damaged");
            let store = inner.layer(&chain).and_then(|layer| layer.store);
            let mended = if repair {
                let mended = match &store {
                    Some(store) => Err(read_only(&chain, store)),
                    None => inner.mend(&chain, &stand_on_it).await,
                };
                match &mended {
                    Ok(()) => summary.mended += 1,
                    Err(error) => tracing::warn!(layer = %chain, %error, "it stays damaged"),
                }
                Some(mended)
            } else {
                None
            };
            let damaged = DamagedLayer {
                chain,
                store,
                images: stand_on_it
                    .iter()
                    .map(|(image, _)| name_of(image))
                    .collect(),
                findings,
                mended,
            };
            tell(told, Verified::Damaged(damaged)).await?;
        }
        tell(told, Verified::End(summary)).await?;
        Ok(summary)
    }
}

async fn tell(told: &Sender<Verified>, news: Verified) -> Result<(), ImageError> {
    let nobody = |_| ImageError::interrupted("the verification of layers");
    told.send(news).await.map_err(nobody)
}

/// The layers of images, each once and after those below it.
fn lowest_first(images: &[Arc<Image>]) -> Vec<ChainId> {
    let mut seen = BTreeSet::new();
    let all = images.iter().flat_map(|image| &image.layers);
    all.filter(|chain| seen.insert(*chain)).cloned().collect()
}

/// Why a layer of an additional store is not mended.
fn read_only(chain: &ChainId, store: &Path) -> ImageError {
    let store = store.display();
    ImageError::unsupported(
        format!("the repair of layer {chain}"),
        format!(
            "it is in the additional store {store}, which is only read: make that store anew, or take it out of \
             `image.additional_stores` and pull the image"
        ),
    )
}

fn name_of(image: &Image) -> String {
    image
        .names()
        .next()
        .map_or_else(|| image.id.to_string(), Clone::clone)
}

/// Ends the work of a thread when nobody waits for it.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Inner {
    /// What is wrong with a layer.
    async fn look(&self, chain: &ChainId) -> Result<Vec<String>, ImageError> {
        let what = || format!("layer {chain}");
        let Some(row) = self.layer(chain).map(|layer| layer.row) else {
            return Ok(Vec::new());
        };
        let stop = StopOnDrop(Arc::default());
        let (layers, stopped) = (self.layers.clone(), Arc::clone(&stop.0));
        tokio::task::spawn_blocking(move || layers.verify(&row, &stopped))
            .await
            .map_err(|_| ImageError::interrupted(format!("the verification of {}", what())))?
            .map_err(|error| ImageError::storage(what(), error))
    }

    fn layer(&self, chain: &ChainId) -> Option<ImageLayer> {
        self.table.layers(std::slice::from_ref(chain)).pop()
    }

    /// The images that have this layer, and which of theirs it is.
    fn images_on(&self, chain: &ChainId) -> Vec<(Arc<Image>, usize)> {
        let images = self.catalogue.load().list().into_iter();
        images
            .filter_map(|image| {
                let position = image.layers.iter().position(|layer| layer == chain)?;
                Some((image, position))
            })
            .collect()
    }

    /// Fetches a layer again, for the first image of those that can have it, and puts it in its place.
    async fn mend(
        self: &Arc<Self>,
        chain: &ChainId,
        images: &[(Arc<Image>, usize)],
    ) -> Result<(), ImageError> {
        let what = format!("layer {chain}");
        let mut last = ImageError::unsupported(
            &what,
            "no image on this node stands on it, so nobody knows where it comes from",
        );
        for (image, position) in images {
            match pull::refetch(self, image, *position).await {
                Ok(prepared) => {
                    let unpacked = prepared.take();
                    let unpacked = unpacked.ok_or_else(|| ImageError::interrupted(&what))?;
                    let (inner, chain) = (Arc::clone(self), chain.clone());
                    // A caller that gives up halfway must not leave the table behind the disk.
                    let task =
                        tokio::spawn(async move { inner.put_in_place(unpacked, chain).await });
                    return task
                        .await
                        .unwrap_or_else(|_| Err(ImageError::interrupted(&what)));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn put_in_place(
        &self,
        unpacked: storage::Unpacked,
        chain: ChainId,
    ) -> Result<(), ImageError> {
        let what = format!("layer {chain}");
        let _records = self.records.lock().await;
        let layers = self.layers.clone();
        let replaced = tokio::task::spawn_blocking(move || layers.replace(&unpacked, &chain))
            .await
            .map_err(|_| ImageError::interrupted(&what))?
            .map_err(|error: StorageError| ImageError::storage(&what, error))?;
        fault::reach(FaultPoint::RepairUnrecorded);
        // Before anything else can fail: leases from now on have the new directory.
        self.table.retire(&replaced.row.chain, replaced.retired);
        self.table.put_back([replaced.row.clone()]);
        Ok(self
            .db
            .write(vec![ImagesChange::PutLayer(replaced.row)])
            .await?)
    }
}
