//! Operations that outlive their callers.
//!
//! A job is keyed by what its request means (pod metadata, container identity, container id), runs as a task of its own
//! and can be joined: a caller that gives up leaves it running, a retry waits for the same outcome. "Name is reserved" has
//! no place here. An entry leaves the table when its task ends, however it ends: the guard is dropped with the task, so
//! a panic or the runtime's shutdown cannot leave a key behind that nobody can use again.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::error::{EngineError, SharedError};

/// What a job is doing, for deadlines' errors, the log and `pintle status`.
#[derive(Clone)]
pub(crate) struct Stage(Arc<Mutex<(&'static str, Instant)>>);

impl Stage {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(("waiting to begin", Instant::now()))))
    }

    /// Say what comes next: a phrase that fits after "it was".
    pub(crate) fn enter(&self, what: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (what, Instant::now());
    }

    /// The phrase of the moment.
    pub(crate) fn name(&self) -> &'static str {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One running job, as operators see it.
#[derive(Clone, Debug)]
pub struct JobView {
    /// The operation's name, as in CRI.
    pub operation: &'static str,
    /// What it works on.
    pub key: String,
    /// What it is doing now.
    pub stage: &'static str,
    /// Since when it runs.
    pub age: Duration,
}

type Outcome<T> = Option<Result<T, SharedError>>;

struct Entry<T> {
    /// Hash of the request: another request under the same key must not be handed this job's outcome.
    fingerprint: u64,
    stage: Stage,
    since: Instant,
    outcome: watch::Receiver<Outcome<T>>,
}

/// The running jobs of one operation.
pub(crate) struct Jobs<T> {
    operation: &'static str,
    tracker: TaskTracker,
    entries: Arc<Mutex<HashMap<String, Entry<T>>>>,
}

impl<T> fmt::Debug for Jobs<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

impl<T: Clone + Send + Sync + 'static> Jobs<T> {
    /// An empty table. `tracker` lets a shutdown wait for what is running.
    pub(crate) fn new(operation: &'static str, tracker: TaskTracker) -> Self {
        Self {
            operation,
            tracker,
            entries: Arc::default(),
        }
    }

    /// Join the job of this key, or start it with `work`.
    ///
    /// # Errors
    /// The job's own, [`EngineError::ConflictingJob`] if the running one was asked for with another fingerprint, and
    /// [`EngineError::Interrupted`] if its task ended without an outcome.
    pub(crate) async fn run<F, Fut>(
        &self,
        key: String,
        fingerprint: u64,
        work: F,
    ) -> Result<T, SharedError>
    where
        F: FnOnce(Stage) -> Fut,
        Fut: Future<Output = Result<T, EngineError>> + Send + 'static,
    {
        let mut outcome = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = entries.get(&key) {
                if entry.fingerprint != fingerprint {
                    return Err(Arc::new(EngineError::ConflictingJob {
                        stage: entry.stage.name(),
                        age: entry.since.elapsed(),
                    }));
                }
                entry.outcome.clone()
            } else {
                let stage = Stage::new();
                let (sender, receiver) = watch::channel(None);
                let guard = Guard {
                    entries: Arc::clone(&self.entries),
                    key: key.clone(),
                };
                let work = work(stage.clone());
                self.tracker.spawn(async move {
                    let outcome = work.await.map_err(Arc::new);
                    // The key is free before anyone hears of the outcome: a retry after a failure starts afresh.
                    drop(guard);
                    sender.send_replace(Some(outcome));
                });
                let entry = Entry {
                    fingerprint,
                    stage,
                    since: Instant::now(),
                    outcome: receiver.clone(),
                };
                entries.insert(key, entry);
                receiver
            }
        };
        match outcome.wait_for(Option::is_some).await {
            Ok(seen) => seen.clone().unwrap_or_else(|| Err(self.interrupted())),
            Err(_closed) => Err(self.interrupted()),
        }
    }

    fn interrupted(&self) -> SharedError {
        Arc::new(EngineError::Interrupted {
            operation: self.operation,
        })
    }

    /// The jobs running now.
    pub(crate) fn views(&self) -> Vec<JobView> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .iter()
            .map(|(key, entry)| JobView {
                operation: self.operation,
                key: key.clone(),
                stage: entry.stage.name(),
                age: entry.since.elapsed(),
            })
            .collect()
    }
}

/// Frees a job's key when the job's task ends.
struct Guard<T> {
    entries: Arc<Mutex<HashMap<String, Entry<T>>>>,
    key: String,
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    fn jobs() -> Arc<Jobs<usize>> {
        Arc::new(Jobs::new("TestJob", TaskTracker::new()))
    }

    #[tokio::test]
    async fn callers_of_one_key_share_one_run() {
        let jobs = jobs();
        let (runs, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let call = |jobs: Arc<Jobs<usize>>| {
            let (runs, go) = (Arc::clone(&runs), Arc::clone(&go));
            async move {
                jobs.run("k".into(), 1, |_| async move {
                    go.notified().await;
                    Ok(runs.fetch_add(1, Ordering::SeqCst))
                })
                .await
            }
        };
        let (a, b) = (
            tokio::spawn(call(Arc::clone(&jobs))),
            tokio::spawn(call(Arc::clone(&jobs))),
        );
        while jobs.views().is_empty() {
            tokio::task::yield_now().await;
        }
        go.notify_one();
        assert_eq!(
            (a.await.unwrap().unwrap(), b.await.unwrap().unwrap()),
            (0, 0)
        );
        assert!(jobs.views().is_empty());
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_does_not_end_the_job() {
        let jobs = jobs();
        let (go, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (go2, done2) = (Arc::clone(&go), Arc::clone(&done));
        let call = jobs.run("k".into(), 1, |_| async move {
            go2.notified().await;
            done2.notify_one();
            Ok(7)
        });
        assert!(
            tokio::time::timeout(Duration::from_millis(1), call)
                .await
                .is_err()
        );
        go.notify_one();
        done.notified().await;
    }

    #[tokio::test]
    async fn another_request_under_a_running_key_is_refused() {
        let jobs = jobs();
        let never = Arc::clone(&jobs);
        let first = tokio::spawn(async move {
            never
                .run("k".into(), 1, |stage| async move {
                    stage.enter("attaching the network");
                    std::future::pending::<()>().await;
                    Ok(0)
                })
                .await
        });
        while jobs
            .views()
            .first()
            .is_none_or(|view| view.stage != "attaching the network")
        {
            tokio::task::yield_now().await;
        }
        let refused = jobs
            .run("k".into(), 2, |_| async { Ok(1) })
            .await
            .unwrap_err();
        assert!(
            matches!(
                *refused,
                EngineError::ConflictingJob {
                    stage: "attaching the network",
                    ..
                }
            ),
            "{refused}"
        );
        first.abort();
    }

    #[tokio::test]
    async fn a_panicking_job_frees_its_key_and_tells_its_callers() {
        let jobs = jobs();
        let told = jobs
            .run("k".into(), 1, |_| async { panic!("a bug") })
            .await
            .unwrap_err();
        assert!(matches!(*told, EngineError::Interrupted { .. }));
        assert_eq!(
            jobs.run("k".into(), 1, |_| async { Ok(3) }).await.unwrap(),
            3
        );
    }
}
