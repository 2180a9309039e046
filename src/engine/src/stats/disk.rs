//! What containers wrote to their root filesystems.
//!
//! A writable layer has to be walked through to be measured, which takes as long as the container has files. So it is
//! measured beside the requests, on a thread that lives while there is something to measure, and requests are answered
//! with what was found last. Two things bound what this costs: a layer is measured again only when its last measurement
//! is old, the older the longer that took; and after a long walk the thread rests several times as long. Nothing is
//! measured while nobody asks.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use state::ContainerId;
use storage::{LayerStore, Measurement, Rootfs as _, StorageError};
use tokio::sync::Notify;

use super::{
    devices,
    reading::{DiskUse, LayersDisk},
};
use crate::{error::in_full, ledger::unix_now_ns};

/// How old a measurement becomes at least before it is repeated.
const MIN_AGE: Duration = Duration::from_secs(10);

/// And how many times as old as it took: with [`REST_FACTOR`], what bounds the time spent on a huge layer.
const AGE_FACTOR: u32 = 50;

/// How many times as long as a walk the thread rests after it.
const REST_FACTOR: u32 = 4;

/// The longest rest, and the shortest walk that is followed by one.
const MAX_REST: Duration = Duration::from_secs(10);
const SHORT_WALK: Duration = Duration::from_millis(5);

/// How long a request waits for containers that were never measured. Fresh ones take a fraction of a millisecond.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// How many entries of what is gone are kept at least before they are looked for.
const SPARE: usize = 64;

/// The sizes of all containers' writable layers, as far as they are known.
#[derive(Clone)]
pub(super) struct Disk(Arc<Shared>);

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

struct Shared {
    store: LayerStore,
    state: Mutex<State>,
    measured: Notify,
}

#[derive(Default)]
struct State {
    layers: HashMap<ContainerId, Layer>,
    disk: Option<LayersDisk>,
    /// When it was looked at last, with success or without.
    looked_at_disk: Option<Instant>,
    /// What the thread is to measure, in this order.
    queue: VecDeque<ContainerId>,
    /// What is in the queue or being measured: it is not queued again.
    pending: HashSet<ContainerId>,
    running: bool,
}

/// The last measurement of one layer.
#[derive(Clone, Copy, Debug)]
struct Layer {
    at: Instant,
    took: Duration,
    /// `None` if there is no layer to measure: the root filesystem is read-only.
    usage: Option<DiskUse>,
}

impl Layer {
    fn is_due(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.at);
        age >= MIN_AGE.max(self.took.saturating_mul(AGE_FACTOR))
    }
}

/// What is known of a layer after it was measured again. A measurement that failed tells nothing new, and one that missed
/// something only that it is as much as was seen.
fn newest(
    before: Option<DiskUse>,
    found: Result<Measurement, StorageError>,
    at_unix_ns: i64,
) -> Option<DiskUse> {
    let found = match found {
        Ok(found) => found,
        Err(error) if error.is_absent() => return None,
        Err(_) => return before,
    };
    let least = before.filter(|_| found.is_partial);
    let least = least.map_or((0, 0), |before| (before.bytes, before.inodes));
    Some(DiskUse {
        at_unix_ns,
        bytes: found.usage.bytes.max(least.0),
        inodes: found.usage.inodes.max(least.1),
    })
}

impl Disk {
    pub(super) fn new(store: LayerStore) -> Self {
        Self(Arc::new(Shared {
            store,
            state: Mutex::default(),
            measured: Notify::new(),
        }))
    }

    /// Where writable layers are.
    pub(super) fn mountpoint(&self) -> PathBuf {
        self.0.store.root().to_owned()
    }

    /// Has old measurements of these containers repeated, and waits a moment for those that were never measured.
    pub(super) async fn refresh(&self, containers: &[ContainerId]) {
        let waited = async {
            loop {
                let measured = self.0.measured.notified();
                tokio::pin!(measured);
                // From here on a measurement is not missed.
                measured.as_mut().enable();
                if self.enqueue(containers) {
                    return;
                }
                measured.await;
            }
        };
        if tokio::time::timeout(FIRST_WAIT, waited).await.is_err() {
            self.wait_no_more(containers);
        }
    }

    /// Has later requests go without the sizes of those that were not ready by now: they are in the queue, behind a layer
    /// that takes long or on a disk that does not answer.
    fn wait_no_more(&self, containers: &[ContainerId]) {
        let mut state = self.0.state();
        let nothing_yet = Layer {
            at: Instant::now(),
            took: Duration::ZERO,
            usage: None,
        };
        for id in containers {
            state.layers.entry(id.clone()).or_insert(nothing_yet);
        }
        state.looked_at_disk.get_or_insert(nothing_yet.at);
    }

    /// Queues what is due; whether everything was measured once.
    fn enqueue(&self, containers: &[ContainerId]) -> bool {
        let now = Instant::now();
        let mut state = self.0.state();
        let mut complete = state.looked_at_disk.is_some();
        for id in containers {
            let known = state.layers.get(id);
            complete &= known.is_some();
            let due = known.is_none_or(|layer| layer.is_due(now));
            if due && state.pending.insert(id.clone()) {
                state.queue.push_back(id.clone());
            }
        }
        let stale = state
            .looked_at_disk
            .is_none_or(|at| now.saturating_duration_since(at) >= MIN_AGE);
        if (stale || !state.queue.is_empty()) && !state.running {
            let shared = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("pintle-disk".to_owned());
            match thread.spawn(move || shared.measure_all()) {
                Ok(_) => state.running = true,
                Err(error) => {
                    tracing::warn!(%error, "no thread to measure writable layers with");
                    return true;
                }
            }
        }
        complete
    }

    /// What was found last of a container.
    pub(super) fn of(&self, id: &ContainerId) -> Option<DiskUse> {
        self.0.state().layers.get(id)?.usage
    }

    /// What was found last of the file system of all writable layers.
    pub(super) fn filesystem(&self) -> Option<LayersDisk> {
        self.0.state().disk.clone()
    }

    /// Forgets what is gone, if there may be much of it. `live` is how many containers there are.
    pub(super) fn retain(&self, live: usize, is_live: impl Fn(&str) -> bool) {
        let mut state = self.0.state();
        if state.layers.len() > live + SPARE {
            state.layers.retain(|id, _| is_live(id.as_str()));
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's life: until the queue is empty.
    fn measure_all(&self) {
        let disk = self.look_at_disk();
        {
            let mut state = self.state();
            state.looked_at_disk = Some(Instant::now());
            state.disk = disk.or(state.disk.take());
        }
        loop {
            let id = {
                let mut state = self.state();
                let Some(id) = state.queue.pop_front() else {
                    state.running = false;
                    break;
                };
                id
            };
            let begin = Instant::now();
            let found = self.store.writable_usage(id.as_str());
            if let Err(error) = &found {
                tracing::debug!(container = %id, error = in_full(error), "no measurement of a writable layer");
            }
            let at_unix_ns = unix_now_ns();
            let took = begin.elapsed();
            let at = Instant::now();
            {
                let mut state = self.state();
                state.pending.remove(&id);
                let before = state.layers.get(&id).and_then(|layer| layer.usage);
                let usage = newest(before, found, at_unix_ns);
                state.layers.insert(id, Layer { at, took, usage });
            }
            self.measured.notify_waiters();
            if took >= SHORT_WALK {
                std::thread::sleep(took.saturating_mul(REST_FACTOR).min(MAX_REST));
            }
        }
        self.measured.notify_waiters();
    }

    fn look_at_disk(&self) -> Option<LayersDisk> {
        let root = self.store.root();
        let known = self.state().disk.as_ref().map(|disk| disk.device.clone());
        let usage = sys::fs::filesystem_usage(root)
            .inspect_err(|error| {
                tracing::debug!(error = in_full(error), "no size of the layers' filesystem");
            })
            .ok()?;
        Some(LayersDisk {
            // It stays what it was at first.
            device: known.or_else(|| devices::of_directory(root))?,
            total_bytes: usage.total_bytes,
            total_inodes: usage.total_inodes,
            free_inodes: usage.free_inodes,
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(9_000, 0, false)]
    #[case(10_000, 0, true)]
    #[case(10_000, 200, true)]
    #[case(10_000, 1_000, false)]
    #[case(50_000, 1_000, true)]
    fn a_layer_that_takes_long_is_measured_seldom(
        #[case] age_ms: u64,
        #[case] took_ms: u64,
        #[case] due: bool,
    ) {
        let at = Instant::now();
        let layer = Layer {
            at,
            took: Duration::from_millis(took_ms),
            usage: None,
        };
        assert_eq!(layer.is_due(at + Duration::from_millis(age_ms)), due);
    }

    #[test]
    fn the_last_measurement_holds_until_there_is_a_better_one() {
        let layer = |at_unix_ns, bytes, inodes| {
            Some(DiskUse {
                at_unix_ns,
                bytes,
                inodes,
            })
        };
        let found = |bytes, inodes, is_partial| {
            Ok(Measurement {
                usage: storage::Usage { bytes, inodes },
                is_partial,
            })
        };
        let failed = |errno: std::io::ErrorKind| {
            Err(StorageError::Io {
                doing: "measure",
                path: "/upper".into(),
                source: errno.into(),
            })
        };
        let before = layer(1, 500, 50);
        for (case, before, found, wanted) in [
            ("first", None, found(7, 3, false), layer(2, 7, 3)),
            ("less", before, found(7, 3, false), layer(2, 7, 3)),
            ("part", before, found(7, 3, true), layer(2, 500, 50)),
            ("more", before, found(700, 3, true), layer(2, 700, 50)),
            ("first part", None, found(7, 3, true), layer(2, 7, 3)),
            ("gone", before, failed(std::io::ErrorKind::NotFound), None),
            (
                "failed",
                before,
                failed(std::io::ErrorKind::PermissionDenied),
                before,
            ),
            (
                "failed at first",
                None,
                failed(std::io::ErrorKind::PermissionDenied),
                None,
            ),
        ] {
            assert_eq!(newest(before, found, 2), wanted, "{case}");
        }
    }
}
