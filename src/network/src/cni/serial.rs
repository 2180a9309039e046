//! One operation per pod at a time: a DEL must not overtake the ADD that it takes back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Locks by pod id, made when asked for.
#[derive(Debug, Default)]
pub(super) struct PodLocks(Mutex<Locks>);

/// A pod's turn, which ends with the last clone. File operations hold one: they go on when the operation that asked for
/// them is dropped, and must not meet the next one's.
#[derive(Clone, Debug)]
pub(super) struct Turn(#[expect(dead_code, reason = "held for its drop")] Arc<OwnedMutexGuard<()>>);

#[derive(Debug, Default)]
struct Locks {
    /// Weak, so that a lock goes when nobody holds or awaits it.
    by_pod: HashMap<String, Weak<AsyncMutex<()>>>,
    /// Number of entries at which the dead ones are swept out.
    sweep_at: usize,
}

impl PodLocks {
    /// Waits for the pod's turn.
    pub(super) async fn lock(&self, pod_id: &str) -> Turn {
        Turn(Arc::new(self.of(pod_id).lock_owned().await))
    }

    fn of(&self, pod_id: &str) -> Arc<AsyncMutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.by_pod.get(pod_id).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.by_pod.len() >= locks.sweep_at {
            locks.by_pod.retain(|_, lock| lock.strong_count() > 0);
            locks.sweep_at = 2 * locks.by_pod.len() + 64;
        }
        let lock = Arc::default();
        locks
            .by_pod
            .insert(pod_id.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests;
