//! The images of this node: the one value that the rest of the server talks to.
//!
//! ```text
//!  reads ───────────▶ Catalogue (immutable snapshot, no lock)
//!  pull / import ───▶ layers unpacked aside ─▶ commit ─┐
//!  remove ─────────────────────────────────────────────┼─▶ under `records`: disk, then database, then snapshot
//!  last pin of a layer dropped ─▶ reaper ──────────────┘
//! ```
//!
//! Order of things, so that a crash at any moment leaves a true record: a layer is on the disk (synced) before its row
//! is in the database, and its row is gone before the layer is. A layer without a row is removed by the layer store at
//! the next start; a row without an image is removed by [`Images::sweep`].

mod additional;
mod commit;
mod permit;
mod prune;
mod removal;
mod verify;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex};

use arc_swap::ArcSwap;
use state::{ChainId, ImageId, ImagesChange, ImagesContents, ImagesDb};
use storage::LayerStore;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::additional::AdditionalStore;
use crate::catalogue::Catalogue;
use crate::config::{ImagesConfig, RegistrySettings};
use crate::credentials::{Keyring, NodeCredentials};
use crate::error::ImageError;
use crate::flight::Flights;
use crate::image::{Image, ImageRecord};
use crate::layers::{ImageDisk, ImageLayer, ImageLease, LayerTable, Pins};
use crate::pinned::PinnedImages;
use crate::pull::{
    self, Partials, Prepared, PreparedLayers, PullKey, PullProgress, PullRequest, PullTotals,
    Slots, Turns, Watch,
};
use crate::reference::{Reference, clip, has_host};
use crate::registry::{Registry, Session};
use crate::sources::Explanation;
use crate::trust;

pub(crate) use commit::NewImage;
pub use prune::{Prune, Pruned};
pub use verify::{DamagedLayer, Verified, VerifySummary};

/// Downloads of at least this many bytes are followed by giving memory back to the system.
const TRIM_AFTER_BYTES: u64 = 4 << 20;

/// The images of this node. Clones are the same images.
#[derive(Clone)]
pub struct Images {
    pub(crate) inner: Arc<Inner>,
    /// Ends with the last clone.
    _reaper: Arc<AbortOnDropHandle<()>>,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Images")
    }
}

/// What the images take on their file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsUsage {
    /// A folder on that file system.
    pub mountpoint: PathBuf,
    /// Bytes that layers take.
    pub bytes: u64,
    /// Inodes that layers take.
    pub inodes: u64,
}

/// What pulls, imports and removals share.
pub(crate) struct Inner {
    pub(crate) config: Arc<ImagesConfig>,
    pub(crate) layers: LayerStore,
    pub(crate) table: LayerTable,
    pub(crate) catalogue: ArcSwap<Catalogue>,
    pub(crate) registry: Registry,
    pub(crate) credentials: NodeCredentials,
    pub(crate) layer_flights: Flights<ChainId, Result<Arc<Prepared>, ImageError>>,
    pub(crate) prepared: PreparedLayers,
    /// Node-wide connections for layers.
    pub(crate) turns: Turns,
    /// Layers that are unpacked at the same time.
    pub(crate) slots: Slots,
    pub(crate) partials: Partials,
    pub(crate) watch: Arc<Watch>,
    pulls: Flights<PullKey, Result<Arc<Image>, ImageError>>,
    db: ImagesDb,
    /// Held by whoever changes the records, from looking to publishing.
    records: Mutex<Records>,
    /// Held while layers are verified.
    verifying: Mutex<()>,
    /// Held while additional stores are looked at.
    stores: Mutex<additional::Slots>,
    /// What is told of them.
    store_states: ArcSwap<Vec<AdditionalStore>>,
    /// Whether there are any to be looked at.
    has_stores: AtomicBool,
    /// Looks at them now and then.
    watching: StdMutex<Option<AbortOnDropHandle<()>>>,
    /// Until the leases of a former run are taken again, nothing is unused.
    swept: AtomicBool,
    /// What the database holds and this server could not take up, to be deleted by the sweep.
    stale: StdMutex<Vec<ImagesChange>>,
    downloaded_since_trim: AtomicU64,
}

/// The layers that images keep on the disk.
#[derive(Default)]
struct Records {
    pins: HashMap<ImageId, Pins>,
}

impl Images {
    /// Takes up the images of the database. Has to be called inside a tokio runtime.
    ///
    /// Records that cannot be read, or whose layers are gone, are dropped and logged: such an image is pulled again. Layers that
    /// never were in our own store may come with an additional one: see [`Self::look_at_stores`].
    /// Layers that nothing seems to use stay until [`Self::sweep`].
    pub fn open(
        config: ImagesConfig,
        db: ImagesDb,
        contents: ImagesContents,
        layers: LayerStore,
    ) -> Result<Self, ImageError> {
        let config = Arc::new(config);
        let mut stale = Vec::new();
        let (present, gone): (Vec<_>, Vec<_>) = contents
            .layers
            .into_iter()
            .partition(|row| layers.contains(&row.chain));
        let gone: HashSet<ChainId> = gone.into_iter().map(|row| row.chain).collect();
        stale.extend(gone.iter().cloned().map(ImagesChange::DeleteLayer));
        let table = LayerTable::new(present);
        let mut catalogue = Catalogue::new(config.pinned.clone());
        let mut records = Records::default();
        let mut names: HashMap<ImageId, Vec<String>> = HashMap::new();
        for (reference, id) in contents.references {
            names.entry(id).or_default().push(reference);
        }
        for (id, body, chains) in contents.images {
            let record = match ImageRecord::from_body(id.clone(), &body, chains) {
                Ok(record) => record,
                Err(error) => {
                    tracing::warn!(image = %id, %error, "dropping the record of an image");
                    stale.push(ImagesChange::DeleteImage(id));
                    continue;
                }
            };
            let names_of = |names: &mut HashMap<_, _>| names.remove(&id).unwrap_or_default();
            if let Some(pins) = table.pin_present(&record.layers) {
                records.pins.insert(id.clone(), pins);
                catalogue.insert(&record, &names_of(&mut names));
                continue;
            }
            let is_lost = record.layers.iter().any(|layer| gone.contains(layer));
            if is_lost || config.additional_stores.is_empty() {
                tracing::warn!(image = %id, "dropping an image: layers of it are gone from the disk");
                stale.push(ImagesChange::DeleteImage(id));
                continue;
            }
            records.pins.insert(id.clone(), table.pin(&record.layers));
            catalogue.wait(&record, names_of(&mut names));
        }
        stale.extend(
            names
                .into_values()
                .flatten()
                .map(ImagesChange::DeleteReference),
        );
        let inner = Arc::new(Inner {
            registry: Registry::new(Arc::clone(&config)),
            credentials: NodeCredentials::new(&config),
            turns: Turns::new(config.parallel_layers, config.parallel_layers_per_pull),
            slots: Slots::new(std::thread::available_parallelism().map_or(1, usize::from)),
            partials: Partials::open(
                config.root.join("partial"),
                config.partial.max_bytes,
                config.partial.max_age,
            ),
            watch: Arc::default(),
            config,
            layers,
            table: table.clone(),
            catalogue: ArcSwap::from_pointee(catalogue),
            layer_flights: Flights::default(),
            prepared: PreparedLayers::default(),
            pulls: Flights::default(),
            db,
            records: Mutex::new(records),
            verifying: Mutex::default(),
            stores: Mutex::default(),
            store_states: ArcSwap::default(),
            has_stores: AtomicBool::new(false),
            watching: StdMutex::default(),
            swept: AtomicBool::new(false),
            stale: StdMutex::new(stale),
            downloaded_since_trim: AtomicU64::new(0),
        });
        let reaped = Arc::downgrade(&inner);
        let reaper = tokio::spawn(async move {
            loop {
                table.unused().await;
                let Some(inner) = reaped.upgrade() else {
                    return;
                };
                let mut records = inner.records.lock().await;
                if let Err(error) = inner.reap(&mut records).await {
                    tracing::warn!(%error, "unused layers stay on the disk for now");
                }
            }
        });
        Ok(Self {
            inner,
            _reaper: Arc::new(AbortOnDropHandle::new(reaper)),
        })
    }

    /// The image of this name or id: any spelling of a reference, an id, or the start of one (6 digits or more).
    pub fn get(&self, name_or_id: &str) -> Option<Arc<Image>> {
        let names = self.inner.registry.known_names(name_or_id);
        let catalogue = self.inner.catalogue.load();
        catalogue.find(name_or_id, &names).cloned()
    }

    /// All images, by id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.inner.catalogue.load().list()
    }

    /// Pulls an image, or joins a pull of the same reference with the same credentials under the same policy that is under
    /// way. Dropping the future gives up waiting; the pull ends when nobody waits for it. A short name that several
    /// registries may have is looked for at each of them, if the operator says that this is to be done.
    pub async fn pull(&self, request: PullRequest) -> Result<Arc<Image>, ImageError> {
        let what = format!("the pull of {}", clip(&request.reference, 200));
        let deadline = request.deadline;
        let pulling = self.pull_any(request);
        match deadline {
            None => pulling.await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), pulling)
                .await
                .unwrap_or(Err(ImageError::Deadline { what })),
        }
    }

    async fn pull_any(&self, request: PullRequest) -> Result<Arc<Image>, ImageError> {
        let names = if has_host(&request.reference) {
            vec![Reference::parse(&request.reference)?]
        } else {
            let name = request.reference.clone();
            self.blocking("the look-up of a short name", move |registry| {
                registry.names(&name)
            })
            .await?
        };
        let mut last = None;
        for name in names {
            match self.pull_one(name, &request).await {
                Err(error) if error.worth_another_host() => last = Some(error),
                ended => return ended,
            }
        }
        Err(last.unwrap_or_else(|| ImageError::interrupted("the choice of a registry")))
    }

    async fn pull_one(
        &self,
        reference: Reference,
        request: &PullRequest,
    ) -> Result<Arc<Image>, ImageError> {
        let what = format!("the pull of {reference}");
        // What has come since is not fetched.
        additional::look(&self.inner, None).await;
        let keyring = if let Some(credentials) = request.credentials.clone() {
            self.inner.credentials.given(credentials)
        } else {
            let namespace = request.namespace.clone();
            self.inner.keyring(&reference, namespace).await?
        };
        let policy = trust::own_policy(&self.inner.config, request.namespace.as_deref()).await?;
        let key = PullKey {
            reference: reference.identity(),
            scope: keyring.scope(),
            policy: policy.clone(),
        };
        let ticket = self.inner.pulls.join(key, || {
            let inner = Arc::clone(&self.inner);
            async move {
                let result = pull::run(Arc::clone(&inner), reference, keyring, policy).await;
                inner.trim_memory();
                result
            }
        });
        let result = ticket.wait().await;
        result.unwrap_or(Err(ImageError::Interrupted { what }))
    }

    /// Tells how an image would be pulled, for pods of a namespace or for anybody: which hosts would be asked, in which
    /// order, and what each of them did last. Connects to nothing.
    pub async fn explain(
        &self,
        reference: &str,
        namespace: Option<&str>,
    ) -> Result<Explanation, ImageError> {
        let (reference, namespace) = (reference.to_owned(), namespace.map(str::to_owned));
        let inner = Arc::clone(&self.inner);
        self.blocking("the explanation of an image", move |registry| {
            registry.explain(&reference, namespace, &inner.credentials)
        })
        .await
    }

    /// Runs what reads files where it holds up nobody.
    async fn blocking<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&Registry) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner.registry))
            .await
            .unwrap_or_else(|_| Err(ImageError::interrupted(what)))
    }

    /// Removes an image with all its names; an image that is not here is removed already. Its layers go with it,
    /// except those that other images, leases or pulls need.
    pub async fn remove(&self, name_or_id: &str) -> Result<(), ImageError> {
        let inner = Arc::clone(&self.inner);
        let name_or_id = name_or_id.to_owned();
        // A caller that gives up halfway must not leave the snapshot behind the database.
        let task = tokio::spawn(async move { inner.remove(&name_or_id).await });
        task.await
            .unwrap_or_else(|_| Err(ImageError::interrupted("the removal of an image")))
    }

    /// Keeps the layers of an image on the disk, whatever becomes of the image. `None` if there is no such image.
    pub fn lease(&self, id: &ImageId) -> Option<ImageLease> {
        let catalogue = self.inner.catalogue.load();
        let image = catalogue.by_id(id)?;
        self.lease_images(&[image])
    }

    /// Takes a lease of a former run again, by its layers, whether or not their image still exists. To be called
    /// before [`Self::sweep`]. It keeps those that are there also if others are not: see [`ImageLease::is_whole`].
    pub fn lease_layers(&self, layers: &[ChainId]) -> ImageLease {
        self.inner.table.lease_anyway(layers)
    }

    /// Keeps the layers of these images, for a container that uses them. `None` if some are gone.
    pub fn lease_images(&self, images: &[&Image]) -> Option<ImageLease> {
        let mut layers: Vec<ChainId> = images
            .iter()
            .flat_map(|image| image.layers.iter().cloned())
            .collect();
        layers.sort();
        layers.dedup();
        let users = images.iter().map(|image| image.id.clone()).collect();
        self.inner.table.lease(&layers, users)
    }

    /// What an image takes on the disk, and what its removal would give back. Costs next to nothing.
    pub fn disk(&self, image: &Image) -> ImageDisk {
        self.inner.table.disk(&image.layers)
    }

    /// The layers of an image, lowest first.
    pub fn layers(&self, image: &Image) -> Vec<ImageLayer> {
        self.inner.table.layers(&image.layers)
    }

    /// From now on layers that nothing uses are removed, those left over by a former run first. To be called once all
    /// leases of running containers are taken.
    pub async fn sweep(&self) -> Result<(), ImageError> {
        self.inner.swept.store(true, Ordering::SeqCst);
        let mut records = self.inner.records.lock().await;
        self.inner.delete_stale().await?;
        let layers = self.inner.layers.clone();
        let retired = tokio::task::spawn_blocking(move || layers.retired())
            .await
            .map_err(|_| ImageError::interrupted("the look at replaced layers"))?
            .map_err(|error| ImageError::storage("replaced layers", error))?;
        // Whoever holds a lease by now may have mounted what was replaced in a former run.
        for (chain, directory) in retired {
            self.inner.table.retire(&chain, directory);
        }
        self.inner.reap(&mut records).await
    }

    /// Replaces what the operator says about registries, for pulls that start from now on.
    pub async fn set_registries(&self, settings: RegistrySettings) {
        let set = self.blocking("the change of settings", |registry| {
            registry.set_registries(settings);
            Ok(())
        });
        if let Err(error) = set.await {
            tracing::error!(%error, "the settings of registries are not taken over");
        }
    }

    /// Replaces the names of images that nobody may collect, also for images that are here.
    pub async fn set_pinned(&self, pinned: Vec<PinnedImages>) {
        let _records = self.inner.records.lock().await;
        self.inner.publish(|catalogue| catalogue.set_pinned(pinned));
    }

    /// What images take on the disk, with what is kept of layers that are not whole yet. Costs nothing.
    pub fn usage(&self) -> FsUsage {
        let usage = self.inner.layers.usage();
        let (partial_bytes, partial_files) = self.inner.partials.usage();
        FsUsage {
            mountpoint: self.inner.config.root.clone(),
            bytes: usage.bytes + partial_bytes,
            inodes: usage.inodes + partial_files,
        }
    }

    /// The pulls under way, oldest first.
    pub fn pulls(&self) -> Vec<PullProgress> {
        self.inner.watch.pulls()
    }

    /// What pulls did since the start.
    pub fn pull_totals(&self) -> PullTotals {
        self.inner.watch.totals()
    }
}

impl Inner {
    /// The node's own credentials for a pull, for a namespace if there is one.
    pub(crate) async fn keyring(
        self: &Arc<Self>,
        reference: &Reference,
        namespace: Option<String>,
    ) -> Result<Keyring, ImageError> {
        let (inner, reference) = (Arc::clone(self), reference.clone());
        let read = tokio::task::spawn_blocking(move || {
            inner.credentials.read(&reference, namespace.as_deref())
        });
        let keyring = read
            .await
            .map_err(|_| ImageError::interrupted("reading the node's credentials"))?;
        Ok(keyring?)
    }

    /// Conversations with the hosts that an image may come from, with these credentials.
    pub(crate) async fn session(
        self: &Arc<Self>,
        reference: &Reference,
        keyring: Keyring,
    ) -> Result<Session, ImageError> {
        // Building a TLS client reads the system's certificates.
        let (inner, wanted) = (Arc::clone(self), reference.clone());
        tokio::task::spawn_blocking(move || inner.registry.session(&wanted, &keyring))
            .await
            .map_err(|_| ImageError::interrupted(format!("asking for {reference}")))?
    }

    /// Makes a changed copy of the catalogue the current one. The caller holds the lock on the records.
    fn publish(&self, change: impl FnOnce(&mut Catalogue)) {
        let mut next = Catalogue::clone(&self.catalogue.load());
        change(&mut next);
        self.catalogue.store(Arc::new(next));
    }

    /// Notes bytes that passed through memory.
    pub(crate) fn count_download(&self, bytes: u64) {
        self.downloaded_since_trim
            .fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back to the system what large downloads left in the allocator, and after every pull the code that nothing else
    /// needs.
    pub(crate) fn trim_memory(&self) {
        if self.downloaded_since_trim.load(Ordering::Relaxed) >= TRIM_AFTER_BYTES {
            self.downloaded_since_trim.store(0, Ordering::Relaxed);
            tokio::task::spawn_blocking(sys::memory::trim);
        } else {
            tokio::task::spawn_blocking(sys::memory::release_code);
        }
    }
}
