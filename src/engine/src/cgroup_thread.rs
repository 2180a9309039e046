//! Work on a container's cgroup: on a thread that may block, for a bounded time, and one after the other.
//!
//! The kernel may take its time to take a limit, for it reclaims memory first, and a thread in the kernel cannot be cut off.
//! So who gives up on one tells it to stop, which it sees before its next write, and what comes after it on the same
//! container waits until it has ended: nothing is written any more when old limits are put back. `update_container` calls.

use std::{sync::Arc, time::Duration};

use tokio::sync::Mutex;

use crate::{error::EngineError, stop::Stop, teardown::joined};

const OPERATION: &str = "UpdateContainerResources";

/// A container's thread, if one runs.
#[derive(Debug, Default)]
pub(crate) struct CgroupThread {
    /// The running thread has it.
    turn: Arc<Mutex<()>>,
}

impl CgroupThread {
    /// Do `work` on a thread, once the one before has ended.
    ///
    /// # Errors
    /// The work's own, and [`EngineError::Deadline`] when it, or the one before, takes longer than `limit`.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce(&Stop) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let late = |stage| EngineError::Deadline {
            operation: OPERATION,
            stage,
            limit,
        };
        let before = Arc::clone(&self.turn).lock_owned();
        let Ok(turn) = tokio::time::timeout(limit, before).await else {
            return Err(late(
                "waiting for the kernel to take limits of an earlier change",
            ));
        };
        let stop = Stop::new(OPERATION);
        let _when_given_up = stop.on_drop();
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(&stop)
        });
        match tokio::time::timeout(limit, work).await {
            Ok(outcome) => joined(outcome),
            Err(_elapsed) => Err(late("waiting for the kernel to take limits")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::{fs, sync::mpsc};

    use spec::update::{LimitFile, WrittenLimit};
    use sys::cgroup::Layout;

    use super::*;
    use crate::limits;

    const SHORT: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_mins(1);

    /// Work that is held up as the kernel may hold it up, until something is sent or the sender is dropped, and that writes
    /// a limit then.
    fn slow_work(
        layout: Layout,
    ) -> (
        mpsc::Sender<()>,
        impl FnOnce(&Stop) -> Result<(), EngineError>,
    ) {
        let limits = [WrittenLimit {
            file: LimitFile {
                controller: "memory".to_owned(),
                name: "memory.high".to_owned(),
            },
            value: "new".to_owned(),
            field: "linux".to_owned(),
            is_asked: true,
        }];
        let (go_on, held_up) = mpsc::channel();
        let work = move |stop: &Stop| {
            held_up.recv().ok();
            limits::write_all(&layout, "/c", &limits, stop)
        };
        (go_on, work)
    }

    /// Whether a deadline, or a caller that goes away, is what gives the work up.
    #[rstest::rstest]
    #[case(SHORT)]
    #[case(LONG)]
    #[tokio::test]
    async fn what_was_given_up_writes_no_more_and_is_waited_for(#[case] limit: Duration) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("c")).unwrap();
        let file = root.path().join("c/memory.high");
        fs::write(&file, "old").unwrap();
        let layout = Layout::V1 {
            controllers: [("memory".to_owned(), root.path().to_owned())].into(),
        };
        let thread = CgroupThread::default();
        let (go_on, work) = slow_work(layout.clone());
        let waiting = thread.run(limit, work);
        if limit == SHORT {
            let error = waiting.await.unwrap_err();
            assert!(matches!(error, EngineError::Deadline { .. }), "{error}");
        } else {
            assert!(tokio::time::timeout(SHORT, waiting).await.is_err());
        }

        // It is still in the kernel: nothing else is done meanwhile.
        let error = thread.run(SHORT, |_| Ok(())).await.unwrap_err();
        assert!(matches!(error, EngineError::Deadline { .. }), "{error}");

        drop(go_on);
        let read = move |_: &Stop| Ok(fs::read(file).unwrap());
        assert_eq!(thread.run(LONG, read).await.unwrap(), b"old");

        // And one that is waited for writes.
        let (go_on, work) = slow_work(layout);
        go_on.send(()).unwrap();
        thread.run(LONG, work).await.unwrap();
        let now = fs::read(root.path().join("c/memory.high")).unwrap();
        assert_eq!(now, b"new");
    }
}
