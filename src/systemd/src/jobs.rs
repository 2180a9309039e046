//! systemd's jobs: who waits for which, and those whose end was told before anyone waited.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Ends that are remembered for somebody who is about to wait. All of the node's jobs are told of; between an answer and the
/// wait for its job there are few.
const REMEMBERED: usize = 256;

/// Those of one connection.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    waiting: HashMap<String, Vec<oneshot::Sender<String>>>,
    ended: VecDeque<(String, String)>,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job of this path has ended with this result.
    pub(crate) fn ended(&self, job: &str, result: &str) {
        let mut table = self.lock();
        // Who gave up waiting does not care.
        for waiter in table.waiting.remove(job).unwrap_or_default() {
            let _ = waiter.send(result.to_owned());
        }
        if table.ended.len() >= REMEMBERED {
            table.ended.pop_front();
        }
        table.ended.push_back((job.to_owned(), result.to_owned()));
        table
            .waiting
            .retain(|_, waiters| waiters.iter().any(|waiter| !waiter.is_closed()));
    }

    /// Its result, when it comes. Fails when the connection is gone.
    pub(crate) fn wait(&self, job: &str) -> oneshot::Receiver<String> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.lock();
        let known = table.ended.iter().find(|(ended, _)| ended == job);
        if let Some((_, result)) = known {
            let _ = sender.send(result.clone());
        } else {
            table
                .waiting
                .entry(job.to_owned())
                .or_default()
                .push(sender);
        }
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_told_whether_it_comes_before_the_wait_or_after() {
        let jobs = Jobs::default();
        jobs.ended("/job/1", "done");
        assert_eq!(jobs.wait("/job/1").await.as_deref(), Ok("done"));
        let (first, second) = (jobs.wait("/job/2"), jobs.wait("/job/2"));
        jobs.ended("/job/2", "failed");
        assert_eq!(first.await.as_deref(), Ok("failed"));
        assert_eq!(second.await.as_deref(), Ok("failed"));
    }

    #[tokio::test]
    async fn what_nobody_asks_for_is_forgotten() {
        let jobs = Jobs::default();
        drop(jobs.wait("/job/given-up"));
        for number in 0..2 * REMEMBERED {
            jobs.ended(&format!("/job/{number}"), "done");
        }
        let table = jobs.lock();
        assert!(table.ended.len() <= REMEMBERED);
        assert!(table.waiting.is_empty());
    }
}
