//! Additional stores: looked at now and then, and before every pull, and taken up when they have changed.
//!
//! A store may be there, away, damaged or on a dead file server. Whatever it is, nothing waits for it for more than
//! [`PATIENCE`], once: the look goes on on a thread of its own, and until it ends the store counts as away.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use storage::ForeignLayers;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{Images, Inner};
use crate::additional::{self, AdditionalStore, AdditionalStoreError, Look, Stamp, StoreContents};
use crate::error::{ImageError, chain};
use crate::image::Image;

/// How long a store's file system may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often stores are looked at. What is pulled or mended meanwhile is seen at once.
const EVERY: Duration = Duration::from_secs(10);

/// The stores in the order of the configuration, and what is known of each.
#[derive(Debug, Default)]
pub(super) struct Slots(Vec<Slot>);

#[derive(Debug)]
struct Slot {
    root: Arc<Path>,
    stamp: Option<Stamp>,
    contents: Option<Arc<StoreContents>>,
    problem: Option<Arc<AdditionalStoreError>>,
    /// A look that has not ended.
    looking: Option<JoinHandle<Result<Look, AdditionalStoreError>>>,
    /// It has been waited for long enough.
    is_silent: bool,
}

impl Slot {
    fn new(root: PathBuf) -> Self {
        Self {
            root: root.into(),
            stamp: None,
            contents: None,
            problem: None,
            looking: None,
            is_silent: false,
        }
    }

    fn look(&mut self) {
        if self.looking.is_none() {
            let (root, stamp) = (Arc::clone(&self.root), self.stamp);
            self.looking = Some(tokio::task::spawn_blocking(move || {
                additional::look(&root, stamp)
            }));
        }
    }

    /// Waits for the look, and tells whether the store is another one than before.
    async fn wait(&mut self, until: Instant) -> bool {
        let Some(looking) = &mut self.looking else {
            return false;
        };
        // Who has made others wait once does not again.
        if self.is_silent && !looking.is_finished() {
            return false;
        }
        let was_silent = self.is_silent;
        match tokio::time::timeout_at(until, looking).await {
            Err(_) => {
                self.is_silent = true;
                self.has(AdditionalStoreError::Silent {
                    store: self.root.to_path_buf(),
                });
                return true;
            }
            Ok(looked) => {
                self.looking = None;
                self.is_silent = false;
                match looked {
                    Ok(Ok(Look::Same)) => {
                        if was_silent {
                            self.problem = None;
                            tracing::info!(store = %self.root.display(), "an additional store answers again");
                        }
                        return was_silent;
                    }
                    Ok(Ok(Look::New(stamp, contents))) => {
                        tracing::info!(
                            store = %self.root.display(),
                            images = contents.images.len(),
                            layers = contents.layers.len(),
                            "an additional store is used"
                        );
                        self.stamp = Some(stamp);
                        self.contents = Some(Arc::new(contents));
                        self.problem = None;
                        return true;
                    }
                    Ok(Err(error)) => self.has(error),
                    Err(_) => self.has(AdditionalStoreError::Silent {
                        store: self.root.to_path_buf(),
                    }),
                }
            }
        }
        self.stamp = None;
        was_silent || self.contents.take().is_some()
    }

    /// Notes why the store is not used, and says so if it is news.
    fn has(&mut self, problem: AdditionalStoreError) {
        let words = chain(&problem);
        let before = self.problem.as_deref().map(|before| chain(before));
        if before.as_ref() != Some(&words) {
            tracing::warn!(error = words, "an additional store is not used");
        }
        self.problem = Some(Arc::new(problem));
    }

    /// What is used of it.
    fn used(&self) -> Option<&Arc<StoreContents>> {
        self.contents.as_ref().filter(|_| !self.is_silent)
    }
}

impl Images {
    /// Looks at the additional stores, and takes up what they have. Waits for those that do not answer, but not long.
    pub async fn look_at_stores(&self) {
        look(&self.inner, None).await;
    }

    /// Makes these the additional stores, and looks at them. From then on they are looked at by themselves.
    pub async fn set_additional_stores(&self, roots: Vec<PathBuf>) {
        let watched = !roots.is_empty();
        look(&self.inner, Some(roots)).await;
        let mut watching = self
            .inner
            .watching
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !watched {
            *watching = None;
        } else if watching.is_none() {
            let task = tokio::spawn(watch(Arc::downgrade(&self.inner)));
            *watching = Some(AbortOnDropHandle::new(task));
        }
    }

    /// The additional stores, in order, as they were when they were looked at last.
    pub fn additional_stores(&self) -> Vec<AdditionalStore> {
        self.inner.store_states.load().to_vec()
    }

    /// The configuration of an image as it was published, JSON; of an artifact, its manifest. Reads it if the image is in an
    /// additional store.
    pub async fn document(&self, image: &Arc<Image>) -> Result<Bytes, ImageError> {
        self.inner.document(image).await
    }
}

/// Looks at the stores; first replaces the list of them if there is a new one. Not cancelled halfway.
pub(super) async fn look(inner: &Arc<Inner>, roots: Option<Vec<PathBuf>>) {
    if roots.is_none() && !inner.has_stores.load(Ordering::SeqCst) {
        return;
    }
    let inner = Arc::clone(inner);
    let looking = tokio::spawn(async move { inner.look_at_stores(roots).await });
    if looking.await.is_err() {
        tracing::error!("the look at additional stores was interrupted");
    }
}

/// Looks at the stores now and then, as long as there are any and the server lives.
async fn watch(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(inner) = inner.upgrade() else {
            return;
        };
        inner.look_at_stores(None).await;
    }
}

impl Inner {
    async fn look_at_stores(self: &Arc<Self>, roots: Option<Vec<PathBuf>>) {
        let mut slots = self.stores.lock().await;
        let mut changed = false;
        if let Some(roots) = roots {
            changed = slots.replace(roots);
            self.has_stores.store(!slots.0.is_empty(), Ordering::SeqCst);
        }
        slots.0.iter_mut().for_each(Slot::look);
        let until = Instant::now() + PATIENCE;
        for slot in &mut slots.0 {
            changed |= slot.wait(until).await;
        }
        if changed {
            self.take_up(&slots).await;
        } else {
            self.tell_stores(&slots);
        }
    }

    /// Makes what the stores have part of what is listed, mounted and not fetched.
    async fn take_up(&self, slots: &Slots) {
        let used: Vec<Arc<StoreContents>> =
            slots.0.iter().filter_map(Slot::used).cloned().collect();
        let mut layers = ForeignLayers::default();
        for store in &used {
            layers.add(&store.root, store.layers.iter().cloned());
        }
        let layers = Arc::new(layers);
        let records = self.records.lock().await;
        self.layers.set_foreign(Arc::clone(&layers));
        self.table.set_foreign(layers);
        self.publish(|catalogue| {
            let waiting = catalogue.waiting().count();
            catalogue.set_stores(&used, |layer| self.table.is_present(layer));
            let now = catalogue.waiting().count();
            if now != waiting {
                tracing::info!(
                    images = now,
                    "images wait for layers of additional stores that are away"
                );
            }
        });
        drop(records);
        self.tell_stores(slots);
        // What was read was larger than what is kept.
        tokio::task::spawn_blocking(sys::memory::trim);
    }

    fn tell_stores(&self, slots: &Slots) {
        let catalogue = self.catalogue.load();
        let states = slots.0.iter().map(|slot| match slot.used() {
            Some(contents) => {
                let is_shown = |image: &&Arc<Image>| catalogue.by_id(&image.id).is_some();
                let images = contents.images.iter().filter(is_shown).count();
                AdditionalStore {
                    root: slot.root.to_path_buf(),
                    images,
                    unusable_images: contents.images.len() - images + contents.unreadable,
                    layers: contents.layers.len(),
                    problem: None,
                }
            }
            None => AdditionalStore::unused(&slot.root, slot.problem.clone()),
        });
        self.store_states.store(Arc::new(states.collect()));
    }

    pub(crate) async fn document(&self, image: &Arc<Image>) -> Result<Bytes, ImageError> {
        let Some(store) = image.store.clone() else {
            return Ok(image.raw_config.clone());
        };
        let reading = tokio::task::spawn_blocking({
            let (store, image) = (Arc::clone(&store), Arc::clone(image));
            move || additional::document(&store, &image)
        });
        let silent = AdditionalStoreError::Silent {
            store: store.to_path_buf(),
        };
        let document = match tokio::time::timeout(PATIENCE, reading).await {
            Ok(Ok(document)) => document,
            Ok(Err(_)) | Err(_) => Err(silent),
        };
        document.map_err(|error| ImageError::AdditionalStore(Arc::new(error)))
    }
}

impl Slots {
    /// Replaces the list; what is known of those that stay is kept. Tells whether something has changed.
    fn replace(&mut self, roots: Vec<PathBuf>) -> bool {
        let before: Vec<Arc<Path>> = self.0.iter().map(|slot| Arc::clone(&slot.root)).collect();
        let mut old = std::mem::take(&mut self.0);
        for root in roots {
            let known = old.iter().position(|slot| *slot.root == *root);
            let slot = match known {
                Some(known) => old.swap_remove(known),
                None => Slot::new(root),
            };
            self.0.push(slot);
        }
        let now = self.0.iter().map(|slot| &slot.root);
        !before.iter().eq(now)
    }
}
