//! Joinable work: one task per key, however many wait for it.
//!
//! ```text
//!   join(key) ──no flight──▶ task runs ──▶ result is published ──▶ every ticket gets a clone
//!       │                      ▲    │
//!       └──flight under way────┘    └── last ticket dropped ──▶ task is aborted
//! ```
//!
//! A caller that gives up drops its [`Ticket`] and harms nobody; the last one ends the work, whose own drop guards
//! clean up. A flight leaves the table when it ends, in whichever way, so that a failure is never handed to a later
//! caller and an aborted flight never blocks one.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

type Table<K, T> = Arc<Mutex<HashMap<K, Weak<Flight<K, T>>>>>;

/// The flights under way. Clones share them.
pub(crate) struct Flights<K: Eq + Hash + Clone, T> {
    table: Table<K, T>,
}

impl<K: Eq + Hash + Clone, T> Clone for Flights<K, T> {
    fn clone(&self) -> Self {
        Self {
            table: Arc::clone(&self.table),
        }
    }
}

impl<K: Eq + Hash + Clone, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self {
            table: Arc::default(),
        }
    }
}

struct Flight<K: Eq + Hash + Clone, T> {
    key: K,
    result: watch::Receiver<Option<T>>,
    task: AbortHandle,
    table: Table<K, T>,
}

impl<K: Eq + Hash + Clone, T> Drop for Flight<K, T> {
    fn drop(&mut self) {
        self.task.abort();
        let mut table = lock(&self.table);
        // A new flight may have taken the key since our last ticket went.
        if table
            .get(&self.key)
            .is_some_and(|other| other.strong_count() == 0)
        {
            table.remove(&self.key);
        }
    }
}

/// A share in a flight.
pub(crate) struct Ticket<K: Eq + Hash + Clone, T> {
    flight: Arc<Flight<K, T>>,
    /// Whether this caller's work is what runs, rather than another's.
    pub(crate) started: bool,
}

impl<K: Eq + Hash + Clone, T: Clone> Ticket<K, T> {
    /// Waits for the result. `None` when the task ended without one: it panicked or the runtime shuts down.
    pub(crate) async fn wait(&self) -> Option<T> {
        let mut result = self.flight.result.clone();
        let value = result.wait_for(Option::is_some).await.ok()?;
        value.clone()
    }
}

impl<K, T> Flights<K, T>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    /// Joins the flight of this key, or starts one with the future that `work` makes.
    pub(crate) fn join<F>(&self, key: K, work: impl FnOnce() -> F) -> Ticket<K, T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut table = lock(&self.table);
        if let Some(flight) = table.get(&key).and_then(Weak::upgrade) {
            return Ticket {
                flight,
                started: false,
            };
        }
        let (publish, result) = watch::channel(None);
        let work = work();
        let leave = Leave {
            key: key.clone(),
            table: Arc::clone(&self.table),
            result: result.clone(),
        };
        let task = tokio::spawn(async move {
            let value = work.await;
            // Before the result is known, so that whoever acts on it finds the table without this flight.
            drop(leave);
            publish.send_replace(Some(value));
        });
        let flight = Arc::new(Flight {
            key: key.clone(),
            result,
            task: task.abort_handle(),
            table: Arc::clone(&self.table),
        });
        table.insert(key, Arc::downgrade(&flight));
        Ticket {
            flight,
            started: true,
        }
    }

    /// How many flights are under way.
    #[cfg(test)]
    fn count(&self) -> usize {
        lock(&self.table).len()
    }
}

/// Takes a finished or panicked task's flight from the table.
struct Leave<K: Eq + Hash + Clone, T> {
    key: K,
    table: Table<K, T>,
    result: watch::Receiver<Option<T>>,
}

impl<K: Eq + Hash + Clone, T> Drop for Leave<K, T> {
    fn drop(&mut self) {
        // What is upgraded must be dropped after the lock: the last share in a flight locks the table itself.
        let mut flight = None;
        let mut table = lock(&self.table);
        if let Some(entry) = table.get(&self.key) {
            flight = entry.upgrade();
            let own = match &flight {
                Some(flight) => flight.result.same_channel(&self.result),
                None => true,
            };
            if own {
                table.remove(&self.key);
            }
        }
        drop(table);
        drop(flight);
    }
}

fn lock<K, V>(table: &Mutex<HashMap<K, V>>) -> std::sync::MutexGuard<'_, HashMap<K, V>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Counts how many of it are alive: what a task holds.
    struct Held(Arc<AtomicUsize>);

    impl Held {
        fn new(count: &Arc<AtomicUsize>) -> Self {
            count.fetch_add(1, Ordering::SeqCst);
            Self(Arc::clone(count))
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    async fn settle() {
        tokio::time::sleep(Duration::from_millis(30)).await;
    }

    #[tokio::test]
    async fn many_share_one_task() {
        let flights = Flights::<&str, u32>::default();
        let runs = Arc::new(AtomicUsize::new(0));
        let mut waiters = Vec::new();
        for _ in 0..50 {
            let runs = Arc::clone(&runs);
            let ticket = flights.join("a", || async move {
                runs.fetch_add(1, Ordering::SeqCst);
                settle().await;
                7
            });
            waiters.push(tokio::spawn(async move { ticket.wait().await }));
        }
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), Some(7));
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert_eq!(flights.count(), 0);
    }

    #[tokio::test]
    async fn the_last_waiter_ends_the_task() {
        let flights = Flights::<&str, u32>::default();
        let alive = Arc::new(AtomicUsize::new(0));
        let start = |alive: &Arc<AtomicUsize>| {
            let held = Held::new(alive);
            flights.join("a", || async move {
                std::future::pending::<()>().await;
                drop(held);
                0
            })
        };
        let first = start(&alive);
        let second = start(&alive);
        assert!(first.started && !second.started);
        settle().await;
        assert_eq!(alive.load(Ordering::SeqCst), 1);
        drop(first);
        settle().await;
        assert_eq!(alive.load(Ordering::SeqCst), 1, "one still waits");
        drop(second);
        settle().await;
        assert_eq!(alive.load(Ordering::SeqCst), 0);
        assert_eq!(flights.count(), 0);
        assert!(start(&alive).started, "a later caller starts anew");
    }

    #[tokio::test]
    async fn a_panic_reaches_the_waiters_and_not_the_next_caller() {
        let flights = Flights::<&str, u32>::default();
        let ticket = flights.join("a", || async {
            settle().await;
            assert!(std::hint::black_box(false), "a test's own panic");
            0
        });
        assert_eq!(ticket.wait().await, None);
        let next = flights.join("a", || async { 1 });
        assert!(next.started);
        assert_eq!(next.wait().await, Some(1));
    }

    #[tokio::test]
    async fn a_finished_flight_is_not_joined() {
        let flights = Flights::<&str, u32>::default();
        let ticket = flights.join("a", || async { 1 });
        assert_eq!(ticket.wait().await, Some(1));
        assert!(
            flights.join("a", || async { 2 }).started,
            "though the first ticket is still held"
        );
        drop(ticket);
    }
}
