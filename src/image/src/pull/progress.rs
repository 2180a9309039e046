//! What pulls are doing at the moment, and what they did since the server started.
//!
//! Downloads count into atomics; whoever asks reads them. Nothing is kept of a pull that has ended but the counters.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use state::{ChainId, Digest};

use crate::error::ImageError;

/// Over how long the speed of a download is averaged.
const RATE_WINDOW: Duration = Duration::from_secs(1);
/// A speed that is older than this says nothing any more.
const RATE_LIFE: Duration = Duration::from_secs(3);

/// A pull that is under way.
#[derive(Clone, Debug)]
pub struct PullProgress {
    /// What is pulled, in normal form.
    pub reference: String,
    /// Since when.
    pub since: SystemTime,
    /// Its layers, lowest first; empty until they are known.
    pub layers: Vec<LayerProgress>,
}

/// A layer of a pull.
#[derive(Clone, Debug)]
pub struct LayerProgress {
    /// The digest under which it is downloaded.
    pub digest: String,
    /// Its compressed size in bytes.
    pub size: u64,
    /// Bytes that came over the network for it.
    pub fetched: u64,
    /// Bytes that were here from a pull before.
    pub resumed: u64,
    /// What it is at.
    pub state: LayerState,
    /// How fast it comes at the moment.
    pub bytes_per_second: u64,
    /// The host that sends it.
    pub host: Option<String>,
}

/// What a layer is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// For its turn, or for a registry.
    Waiting,
    /// Its bytes are coming, and are unpacked as they come.
    Downloading,
    /// All bytes are here, not all files.
    Unpacking,
    /// Unpacked, or here before.
    Done,
}

/// What all pulls did since the server started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullTotals {
    /// Pulls under way.
    pub in_progress: u64,
    /// Pulls that ended well.
    pub succeeded: u64,
    /// Pulls that failed, by kind of failure: `not_found`, `unauthorized`, `unavailable`, …
    pub failed: BTreeMap<&'static str, u64>,
    /// Pulls that everybody who waited for them gave up.
    pub cancelled: u64,
    /// How long pulls took that ended well or failed, in all.
    pub time: Duration,
    /// Bytes of layers that came over the network, including those that came twice.
    pub bytes_fetched: u64,
    /// Bytes of layers that were taken from partial files instead.
    pub bytes_resumed: u64,
    /// Connections for layers that broke.
    pub breaks: u64,
    /// Connections for layers that were too slow.
    pub stalls: u64,
    /// How often a layer went on at another host.
    pub host_changes: u64,
}

/// All that is known of pulls.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pulls: Mutex<BTreeMap<u64, Arc<Pull>>>,
    layers: Mutex<HashMap<ChainId, Weak<LayerWatch>>>,
    ended: Mutex<Ended>,
    pub(super) bytes_fetched: AtomicU64,
    pub(super) bytes_resumed: AtomicU64,
    pub(super) breaks: AtomicU64,
    pub(super) stalls: AtomicU64,
    pub(super) host_changes: AtomicU64,
}

#[derive(Debug, Default)]
struct Ended {
    next: u64,
    succeeded: u64,
    failed: BTreeMap<&'static str, u64>,
    cancelled: u64,
    time: Duration,
}

#[derive(Debug)]
struct Pull {
    reference: String,
    since: SystemTime,
    layers: Mutex<Vec<(String, u64, Arc<LayerWatch>)>>,
}

/// One pull's entry. Dropped without a result, the pull counts as cancelled.
#[derive(Debug)]
pub(crate) struct PullWatch {
    watch: Arc<Watch>,
    number: u64,
    pull: Arc<Pull>,
    began: Instant,
    told: bool,
}

/// What one layer is at, for all pulls that want it.
#[derive(Debug, Default)]
pub(crate) struct LayerWatch {
    fetched: AtomicU64,
    resumed: AtomicU64,
    state: AtomicU8,
    host: Mutex<Option<String>>,
    rate: Mutex<Rate>,
}

#[derive(Debug, Default)]
struct Rate {
    /// When the window began, and what came since.
    window: Option<(Instant, u64)>,
    /// The last whole window's, and when that ended.
    last: Option<(Instant, u64)>,
}

impl Rate {
    fn count(&mut self, now: Instant, bytes: u64) {
        let (began, sum) = self.window.get_or_insert((now, 0));
        *sum += bytes;
        let over = now.duration_since(*began);
        if over >= RATE_WINDOW {
            let per_second = u128::from(*sum) * 1000 / over.as_millis().max(1);
            self.last = Some((now, u64::try_from(per_second).unwrap_or(u64::MAX)));
            self.window = Some((now, 0));
        }
    }

    fn now(&self, now: Instant) -> u64 {
        match (self.last, self.window) {
            (Some((at, rate)), _) if now.duration_since(at) < RATE_LIFE => rate,
            (None, Some((began, sum))) if now > began => {
                let millis = now.duration_since(began).as_millis().max(1);
                u64::try_from(u128::from(sum) * 1000 / millis).unwrap_or(u64::MAX)
            }
            _ => 0,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Enters a pull.
    pub(crate) fn begin(self: &Arc<Self>, reference: String) -> PullWatch {
        let number = {
            let mut ended = lock(&self.ended);
            ended.next += 1;
            ended.next
        };
        let pull = Arc::new(Pull {
            reference,
            since: SystemTime::now(),
            layers: Mutex::default(),
        });
        lock(&self.pulls).insert(number, Arc::clone(&pull));
        PullWatch {
            watch: Arc::clone(self),
            number,
            pull,
            began: Instant::now(),
            told: false,
        }
    }

    /// The entry of a layer, which those who want the same layer share.
    pub(crate) fn layer(&self, chain: &ChainId) -> Arc<LayerWatch> {
        let mut layers = lock(&self.layers);
        if let Some(layer) = layers.get(chain).and_then(Weak::upgrade) {
            return layer;
        }
        layers.retain(|_, layer| layer.strong_count() > 0);
        let layer = Arc::new(LayerWatch::default());
        layers.insert(chain.clone(), Arc::downgrade(&layer));
        layer
    }

    /// The pulls under way, oldest first.
    pub(crate) fn pulls(&self) -> Vec<PullProgress> {
        let pulls: Vec<Arc<Pull>> = lock(&self.pulls).values().cloned().collect();
        pulls
            .into_iter()
            .map(|pull| PullProgress {
                reference: pull.reference.clone(),
                since: pull.since,
                layers: lock(&pull.layers)
                    .iter()
                    .map(|(digest, size, layer)| layer.progress(digest, *size))
                    .collect(),
            })
            .collect()
    }

    pub(crate) fn totals(&self) -> PullTotals {
        let in_progress = lock(&self.pulls).len() as u64;
        let ended = lock(&self.ended);
        PullTotals {
            in_progress,
            succeeded: ended.succeeded,
            failed: ended.failed.clone(),
            cancelled: ended.cancelled,
            time: ended.time,
            bytes_fetched: self.bytes_fetched.load(Ordering::Relaxed),
            bytes_resumed: self.bytes_resumed.load(Ordering::Relaxed),
            breaks: self.breaks.load(Ordering::Relaxed),
            stalls: self.stalls.load(Ordering::Relaxed),
            host_changes: self.host_changes.load(Ordering::Relaxed),
        }
    }
}

impl PullWatch {
    /// The pull's layers, lowest first, with those that are here already.
    pub(crate) fn set_layers(&self, layers: Vec<(&Digest, u64, Arc<LayerWatch>)>) {
        *lock(&self.pull.layers) = layers
            .into_iter()
            .map(|(digest, size, layer)| (digest.to_string(), size, layer))
            .collect();
    }

    /// Counts the pull's result.
    pub(crate) fn end<T>(mut self, result: &Result<T, ImageError>) {
        self.told = true;
        let mut ended = lock(&self.watch.ended);
        ended.time += self.began.elapsed();
        match result {
            Ok(_) => ended.succeeded += 1,
            Err(error) => *ended.failed.entry(kind(error)).or_default() += 1,
        }
    }
}

impl Drop for PullWatch {
    fn drop(&mut self) {
        lock(&self.watch.pulls).remove(&self.number);
        if !self.told {
            lock(&self.watch.ended).cancelled += 1;
        }
    }
}

impl LayerWatch {
    /// Of a layer that needs no download.
    pub(crate) fn done() -> Arc<Self> {
        let layer = Self::default();
        layer.set_state(LayerState::Done);
        Arc::new(layer)
    }

    pub(super) fn set_state(&self, state: LayerState) {
        let number = match state {
            LayerState::Waiting => 0,
            LayerState::Downloading => 1,
            LayerState::Unpacking => 2,
            LayerState::Done => 3,
        };
        self.state.store(number, Ordering::Relaxed);
    }

    /// Begins with so many bytes of a partial file.
    pub(super) fn restart(&self, resumed: u64) {
        self.fetched.store(0, Ordering::Relaxed);
        self.resumed.store(resumed, Ordering::Relaxed);
        self.set_state(LayerState::Waiting);
    }

    pub(super) fn set_host(&self, host: String) {
        *lock(&self.host) = Some(host);
    }

    pub(super) fn count(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
        lock(&self.rate).count(Instant::now(), bytes);
    }

    fn state(&self) -> LayerState {
        match self.state.load(Ordering::Relaxed) {
            0 => LayerState::Waiting,
            1 => LayerState::Downloading,
            2 => LayerState::Unpacking,
            _ => LayerState::Done,
        }
    }

    fn progress(&self, digest: &str, size: u64) -> LayerProgress {
        let state = self.state();
        let moving = state == LayerState::Downloading;
        LayerProgress {
            digest: digest.to_owned(),
            size,
            fetched: self.fetched.load(Ordering::Relaxed),
            resumed: self.resumed.load(Ordering::Relaxed),
            state,
            bytes_per_second: if moving {
                lock(&self.rate).now(Instant::now())
            } else {
                0
            },
            host: lock(&self.host).clone(),
        }
    }
}

/// The kind of a failure, as counted.
fn kind(error: &ImageError) -> &'static str {
    match error {
        ImageError::NotFound { .. } => "not_found",
        ImageError::Unauthorized { .. } => "unauthorized",
        ImageError::RegistryUnavailable { .. } => "unavailable",
        ImageError::Corrupt { .. } => "corrupt",
        ImageError::TooLarge { .. } => "too_large",
        ImageError::Unsupported { .. } => "unsupported",
        ImageError::DiskFull { .. } => "disk_full",
        _ => "other",
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn speed_is_of_the_last_second() {
        let mut rate = Rate::default();
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        rate.count(at(0), 0);
        rate.count(at(500), 1000);
        assert_eq!(rate.now(at(500)), 2000, "a first impression");
        rate.count(at(1000), 1000);
        assert_eq!(rate.now(at(1100)), 2000);
        rate.count(at(2000), 10);
        assert_eq!(rate.now(at(2100)), 10);
        assert_eq!(rate.now(at(9000)), 0, "nothing comes any more");
    }

    #[test]
    fn pulls_appear_and_vanish() {
        let watch = Arc::new(Watch::default());
        let pull = watch.begin("a.example/b:1".to_owned());
        let chain = ChainId::child(None, &Digest::sha256_of(b"x").into());
        let layer = watch.layer(&chain);
        assert!(Arc::ptr_eq(&layer, &watch.layer(&chain)));
        let digest = Digest::sha256_of(b"y");
        pull.set_layers(vec![(&digest, 10, Arc::clone(&layer))]);
        layer.restart(3);
        layer.set_state(LayerState::Downloading);
        layer.count(2);
        let told = watch.pulls();
        let [one] = told.as_slice() else {
            panic!("{told:?}");
        };
        assert_eq!((one.layers[0].fetched, one.layers[0].resumed), (2, 3));
        assert_eq!(watch.totals().in_progress, 1);
        pull.end(&Ok::<_, ImageError>(()));
        drop(watch.begin("a.example/b:2".to_owned()));
        let failing = watch.begin("a.example/b:3".to_owned());
        failing.end(&Err::<(), _>(ImageError::interrupted("x")));
        assert!(watch.pulls().is_empty());
        let totals = watch.totals();
        assert_eq!((totals.succeeded, totals.cancelled), (1, 1));
        assert_eq!(*totals.failed.get("other").unwrap(), 1);
    }
}
