//! The one thread that writes to a database, and the way to it.
//!
//! Whoever wants something written sends its changes and waits for the answer. The thread takes all requests that have
//! gathered while it was busy, and commits them together; each request is still all or nothing by itself, because a group
//! that fails is tried again request by request.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use crate::StateError;

/// How many requests are committed together at most.
const GROUP_LIMIT: usize = 256;

/// One change of the database.
pub(crate) trait Change: Send + 'static {
    /// Makes the change inside the transaction.
    fn apply(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()>;
}

struct Request<C> {
    changes: Vec<C>,
    done: oneshot::Sender<Result<(), StateError>>,
}

/// A handle to the thread; the last one dropped ends it after what was already sent.
pub(crate) struct Writer<C> {
    // `None` only while the last handle is dropped.
    requests: Option<mpsc::Sender<Request<C>>>,
    thread: Option<thread::JoinHandle<()>>,
    path: PathBuf,
}

impl<C: Change> Writer<C> {
    /// Starts the thread, which owns the connection from now on.
    pub(crate) fn start(
        connection: Connection,
        path: &Path,
        thread_name: &str,
    ) -> Result<Arc<Self>, StateError> {
        let (requests, inbox) = mpsc::channel();
        let path_of_thread = path.to_owned();
        let thread = thread::Builder::new()
            .name(thread_name.to_owned())
            .spawn(move || run(connection, &inbox, &path_of_thread))
            .map_err(|source| StateError::Thread {
                path: path.to_owned(),
                source,
            })?;
        Ok(Arc::new(Self {
            requests: Some(requests),
            thread: Some(thread),
            path: path.to_owned(),
        }))
    }

    /// Commits the changes, all or none, and returns when they are committed.
    ///
    /// The request counts from the call on: a caller that stops waiting does not take it back.
    pub(crate) async fn write(&self, changes: Vec<C>) -> Result<(), StateError> {
        self.submit(changes).await
    }

    /// Returns when the thread has worked off all that was queued before, with a transaction of its own that changes nothing.
    pub(crate) fn barrier(&self) -> impl Future<Output = Result<(), StateError>> + Send + use<C> {
        self.queue(Vec::new())
    }

    /// Queues the changes before it returns; the future tells when they are committed.
    ///
    /// Requests are committed in the order of these calls, so a caller that orders its calls orders its commits without
    /// waiting for them one by one.
    pub(crate) fn submit(
        &self,
        changes: Vec<C>,
    ) -> impl Future<Output = Result<(), StateError>> + Send + use<C> {
        let queued = (!changes.is_empty()).then(|| self.queue(changes));
        async move {
            match queued {
                Some(queued) => queued.await,
                None => Ok(()),
            }
        }
    }

    fn queue(
        &self,
        changes: Vec<C>,
    ) -> impl Future<Output = Result<(), StateError>> + Send + use<C> {
        let path = self.path.clone();
        let (done, answer) = oneshot::channel();
        // With the inbox gone the request is dropped, and `done` with it: the wait below says so.
        if let Some(requests) = &self.requests {
            let _ = requests.send(Request { changes, done });
        }
        async move {
            answer
                .await
                .unwrap_or_else(|_| Err(StateError::WriterGone { path }))
        }
    }
}

impl<C> Drop for Writer<C> {
    fn drop(&mut self) {
        // The thread ends when its inbox is closed and empty; waiting for it means that the file is closed, and may be
        // opened again, when the last handle is gone.
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "the database writer panicked");
        }
    }
}

fn run<C: Change>(mut connection: Connection, inbox: &mpsc::Receiver<Request<C>>, path: &Path) {
    while let Ok(first) = inbox.recv() {
        let mut group = vec![first];
        while group.len() < GROUP_LIMIT
            && let Ok(request) = inbox.try_recv()
        {
            group.push(request);
        }
        if commit(&mut connection, &group).is_ok() {
            for request in group {
                // The caller may have gone; the change stays.
                let _ = request.done.send(Ok(()));
            }
        } else {
            for request in group {
                let result =
                    commit(&mut connection, std::slice::from_ref(&request)).map_err(|source| {
                        StateError::Write {
                            path: path.to_owned(),
                            source,
                        }
                    });
                let _ = request.done.send(result);
            }
        }
    }
}

fn commit<C: Change>(connection: &mut Connection, group: &[Request<C>]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for change in group.iter().flat_map(|request| &request.changes) {
        change.apply(&transaction)?;
    }
    transaction.commit()
}
