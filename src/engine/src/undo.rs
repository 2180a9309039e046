//! Undo records that could not be carried out at once are tried again until they can.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use state::PodId;
use tokio::sync::Notify;

use crate::{
    error::{EngineError, in_full},
    ledger::UndoSeq,
    node::Node,
    teardown::Undo,
};

const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// How many are tried at the same time.
const AT_A_TIME: usize = 8;

/// What is still to be undone.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    waiting: Mutex<BTreeMap<u64, Undo>>,
    more: Notify,
}

impl Deferred {
    /// How many undo records wait to be tried again.
    pub(crate) fn count(&self) -> usize {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    pub(crate) fn add(&self, seq: UndoSeq, undo: Undo) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(seq.0, undo);
        self.more.notify_one();
    }

    /// Whether a pod's network waits to be detached.
    pub(crate) fn has_detach(&self, pod_id: &str) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting
            .values()
            .any(|undo| matches!(undo, Undo::Detach(attachment) if attachment.pod_id == pod_id))
    }

    /// Whether a half-made pod waits to be taken apart.
    pub(crate) fn has_pod(&self, id: &PodId) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting
            .values()
            .any(|undo| matches!(undo, Undo::Pod(remains) if remains.id == *id))
    }

    fn snapshot(&self) -> Vec<(u64, Undo)> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting
            .iter()
            .map(|(seq, undo)| (*seq, undo.clone()))
            .collect()
    }

    fn done(&self, seq: u64) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&seq);
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
    /// Whether it was carried out this time.
    async fn undo_again(&self, seq: u64, undo: &Undo, pause: Duration) -> bool {
        if let Err(error) = self.undo(undo).await {
            tracing::warn!(error = in_full(&error), ?undo, next_try = ?pause, "a deferred undo failed again");
            return false;
        }
        self.deferred.done(seq);
        tracing::info!(?undo, "a deferred undo was carried out");
        if let Err(error) = self.ledger.forget_undo(UndoSeq(seq)).await {
            tracing::warn!(
                error = in_full(&error),
                "an undo record could not be removed"
            );
        }
        true
    }
}

/// Try what is deferred, with growing pauses, as long as the server lives.
pub(crate) fn retry(node: Weak<Node>) {
    tokio::spawn(async move {
        let mut pause = FIRST_PAUSE;
        loop {
            let Some(strong) = node.upgrade() else { return };
            let waiting = strong.deferred.snapshot();
            if waiting.is_empty() {
                pause = FIRST_PAUSE;
                // Wait without keeping the node alive, waking now and then to see whether it still is.
                let more = strong.clone();
                drop(strong);
                let _ = tokio::time::timeout(LONGEST_PAUSE, async move {
                    more.deferred.more.notified().await;
                })
                .await;
                tokio::time::sleep(pause).await;
                continue;
            }
            // Side by side: one plugin that hangs for its whole time must not hold up the rest.
            let mut tasks = tokio::task::JoinSet::new();
            let mut all_done = true;
            for (seq, undo) in waiting {
                if tasks.len() >= AT_A_TIME {
                    all_done &= matches!(tasks.join_next().await, Some(Ok(true)));
                }
                let node = Arc::clone(&strong);
                tasks.spawn(async move { node.undo_again(seq, &undo, pause).await });
            }
            while let Some(outcome) = tasks.join_next().await {
                all_done &= matches!(outcome, Ok(true));
            }
            drop(strong);
            tokio::time::sleep(pause).await;
            pause = if all_done {
                FIRST_PAUSE
            } else {
                (pause * 2).min(LONGEST_PAUSE)
            };
        }
    });
}
