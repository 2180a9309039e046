//! Undo records that could not be carried out at once are tried again until they can.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use state::{ContainerId, PodId};
use tokio::{sync::Notify, time::Instant};

use crate::{
    error::{EngineError, in_full},
    ledger::UndoSeq,
    node::Node,
    teardown::Undo,
    update_container::LimitsUndo,
};

const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// How many are tried at the same time.
const AT_A_TIME: usize = 8;

/// What is still to be undone. Each record has a pace of its own: one whose plugin hangs holds up no other.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    waiting: Mutex<BTreeMap<u64, Waiting>>,
    /// Something came, or a try ended.
    changed: Notify,
}

#[derive(Debug)]
struct Waiting {
    undo: Undo,
    tried: u32,
    /// When it is tried next; `None` while it is being tried.
    due: Option<Instant>,
}

impl Deferred {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many undo records wait to be tried again.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Keep what was tried and failed.
    pub(crate) fn add(&self, seq: UndoSeq, undo: Undo) {
        self.insert(seq, undo, Instant::now() + FIRST_PAUSE);
    }

    /// Keep what is to be tried as soon as the server serves.
    pub(crate) fn add_untried(&self, seq: UndoSeq, undo: Undo) {
        self.insert(seq, undo, Instant::now());
    }

    fn insert(&self, seq: UndoSeq, undo: Undo, due: Instant) {
        let waiting = Waiting {
            undo,
            tried: 0,
            due: Some(due),
        };
        self.lock().insert(seq.0, waiting);
        self.changed.notify_one();
    }

    /// Whether a pod's network waits to be detached.
    pub(crate) fn has_detach(&self, pod_id: &str) -> bool {
        self.lock().values().any(
            |waiting| matches!(&waiting.undo, Undo::Detach(attachment) if attachment.pod_id == pod_id),
        )
    }

    /// Whether a half-made pod waits to be taken apart.
    pub(crate) fn has_pod(&self, id: &PodId) -> bool {
        self.lock()
            .values()
            .any(|waiting| matches!(&waiting.undo, Undo::Pod(remains) if remains.id == *id))
    }

    /// Whether a half-made container waits to be taken apart.
    pub(crate) fn has_container(&self, id: &ContainerId) -> bool {
        self.lock()
            .values()
            .any(|waiting| matches!(&waiting.undo, Undo::Container(remains) if remains.id == *id))
    }

    /// Changes of a container's limits that wait to be taken back, newest first.
    pub(crate) fn limits_of(&self, id: &ContainerId) -> Vec<(UndoSeq, LimitsUndo)> {
        let all = self.lock();
        all.iter()
            .rev()
            .filter_map(|(seq, waiting)| match &waiting.undo {
                Undo::Limits(undo) if undo.id == *id => Some((UndoSeq(*seq), undo.clone())),
                _ => None,
            })
            .collect()
    }

    /// Those whose time has come, as many as may be tried beside what is being tried already, longest due first.
    fn take_due(&self, now: Instant) -> Vec<(u64, Undo)> {
        let mut all = self.lock();
        let running = all.values().filter(|waiting| waiting.due.is_none()).count();
        let mut due: Vec<(Instant, u64)> = all
            .iter()
            .filter_map(|(seq, waiting)| Some((waiting.due.filter(|due| *due <= now)?, *seq)))
            .collect();
        due.sort_unstable();
        due.truncate(AT_A_TIME.saturating_sub(running));
        due.iter()
            .filter_map(|(_, seq)| {
                let waiting = all.get_mut(seq)?;
                waiting.due = None;
                Some((*seq, waiting.undo.clone()))
            })
            .collect()
    }

    /// When the next is due that may be tried; `None` when only an end or an addition can change that.
    fn next_due(&self) -> Option<Instant> {
        let all = self.lock();
        let running = all.values().filter(|waiting| waiting.due.is_none()).count();
        if running >= AT_A_TIME {
            return None;
        }
        all.values().filter_map(|waiting| waiting.due).min()
    }

    /// It was carried out.
    pub(crate) fn done(&self, seq: u64) {
        self.lock().remove(&seq);
        self.changed.notify_one();
    }

    /// A try failed. Answers the pause until the next.
    fn failed(&self, seq: u64) -> Duration {
        let mut pause = FIRST_PAUSE;
        if let Some(waiting) = self.lock().get_mut(&seq) {
            pause = FIRST_PAUSE
                .saturating_mul(1 << waiting.tried.min(16))
                .min(LONGEST_PAUSE);
            waiting.tried = waiting.tried.saturating_add(1);
            waiting.due = Some(Instant::now() + pause);
        }
        self.changed.notify_one();
        pause
    }
}

impl Node {
    /// Undo now; what fails is kept for [`retry`].
    pub(crate) async fn undo_now_or_later(&self, seq: UndoSeq, undo: Undo) {
        match self.undo(&undo).await {
            Ok(()) => {
                if let Err(error) = self.ledger.forget_undo(seq).await {
                    // It is carried out again at the next start, which finds nothing to do.
                    tracing::warn!(
                        error = in_full(&error),
                        "an undo record could not be removed"
                    );
                }
            }
            Err(error) => {
                tracing::warn!(
                    error = in_full(&error),
                    ?undo,
                    "an undo failed; it will be tried again"
                );
                self.deferred.add(seq, undo);
            }
        }
    }

    /// Record something to be undone later.
    pub(crate) async fn defer(&self, owner: &str, undo: Undo) -> Result<(), EngineError> {
        let seq = self.ledger.record_undo(owner, &undo).await?;
        self.deferred.add(seq, undo);
        Ok(())
    }
}

impl Node {
    async fn undo_again(&self, seq: u64, undo: &Undo) {
        if let Err(error) = self.undo(undo).await {
            let pause = self.deferred.failed(seq);
            tracing::warn!(error = in_full(&error), ?undo, next_try = ?pause, "a deferred undo failed again");
            return;
        }
        self.deferred.done(seq);
        tracing::info!(?undo, "a deferred undo was carried out");
        if let Err(error) = self.ledger.forget_undo(UndoSeq(seq)).await {
            tracing::warn!(
                error = in_full(&error),
                "an undo record could not be removed"
            );
        }
    }
}

/// A try that panics counts as one that failed.
struct Try<'a> {
    deferred: &'a Deferred,
    seq: u64,
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.deferred.failed(self.seq);
        }
    }
}

/// Try what is deferred, each with growing pauses, as long as the server lives.
pub(crate) fn retry(node: Weak<Node>) {
    tokio::spawn(async move {
        while let Some(strong) = node.upgrade() {
            for (seq, undo) in strong.deferred.take_due(Instant::now()) {
                let node = Arc::clone(&strong);
                tokio::spawn(async move {
                    let _counted = Try {
                        deferred: &node.deferred,
                        seq,
                    };
                    node.undo_again(seq, &undo).await;
                });
            }
            // The wait is bounded, because it keeps the node alive.
            let latest = Instant::now() + FIRST_PAUSE;
            let until = strong.deferred.next_due().unwrap_or(latest).min(latest);
            let _ = tokio::time::timeout_at(until, strong.deferred.changed.notified()).await;
        }
    });
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn detach(number: u64) -> Undo {
        Undo::Detach(network::Attachment {
            pod_id: number.to_string(),
            ..network::Attachment::default()
        })
    }

    fn taken(deferred: &Deferred, now: Instant) -> Vec<u64> {
        let due = deferred.take_due(now);
        due.into_iter().map(|(seq, _)| seq).collect()
    }

    #[test]
    fn a_few_are_tried_at_a_time_and_none_twice() {
        let deferred = Deferred::default();
        let total = AT_A_TIME as u64 + 3;
        for seq in 0..total {
            deferred.add_untried(UndoSeq(seq), detach(seq));
        }
        let now = Instant::now();
        let first = taken(&deferred, now);
        assert_eq!(first, (0..AT_A_TIME as u64).collect::<Vec<_>>());
        assert!(taken(&deferred, now).is_empty());
        assert_eq!(
            deferred.next_due(),
            None,
            "an end makes room, not the clock"
        );

        deferred.done(0);
        assert_eq!(taken(&deferred, now), [AT_A_TIME as u64]);
        assert_eq!(deferred.count() as u64, total - 1);
    }

    #[test]
    fn one_that_hangs_holds_up_no_other() {
        let deferred = Deferred::default();
        deferred.add_untried(UndoSeq(1), detach(1));
        deferred.add_untried(UndoSeq(2), detach(2));
        let now = Instant::now();
        assert_eq!(taken(&deferred, now), [1, 2]);
        // 1 hangs; 2 fails, and is tried again when its pause is over.
        let pause = deferred.failed(2);
        let due = deferred.next_due();
        assert!(due.is_some_and(|due| due >= now + pause), "{due:?}");
        assert!(taken(&deferred, now).is_empty());
        assert_eq!(taken(&deferred, now + 2 * pause), [2]);
    }

    #[test]
    fn changes_of_limits_are_found_by_their_container_newest_first() {
        let limits = |id: &str| -> Undo {
            let undo = serde_json::json!({ "Limits": {
                "id": id.repeat(64), "cgroup": "/c", "in_force": spec::model::Resources::default(), "held": [], "score": null,
            } });
            serde_json::from_value(undo).unwrap()
        };
        let deferred = Deferred::default();
        for (seq, undo) in [limits("a"), limits("b"), detach(2), limits("a")]
            .into_iter()
            .enumerate()
        {
            deferred.add(UndoSeq(seq as u64), undo);
        }
        let of = |id: &str| -> Vec<u64> {
            let id = ContainerId::try_from(id.repeat(64)).unwrap();
            let found = deferred.limits_of(&id);
            found.into_iter().map(|(seq, _)| seq.0).collect()
        };
        assert_eq!(of("a"), [3, 0]);
        deferred.done(3);
        assert_eq!(of("a"), [0]);
        assert!(of("c").is_empty());
    }

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew_for_another() {
        let deferred = Deferred::default();
        deferred.add(UndoSeq(1), detach(1));
        let pauses: Vec<_> = (0..40).map(|_| deferred.failed(1)).collect();
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert!(pauses.is_sorted());
        assert_eq!(pauses[39], LONGEST_PAUSE);
        deferred.add(UndoSeq(2), detach(2));
        assert_eq!(deferred.failed(2), FIRST_PAUSE);
    }
}
