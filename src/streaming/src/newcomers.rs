//! Connections that have not begun a session yet: only so many, and when one more comes, the oldest goes.
//!
//! Who has a token begins within milliseconds, so those that were there longest are those that say nothing. Were they
//! waited for instead, a few hundred silent connections would keep everybody out.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// All that are there.
#[derive(Clone, Debug)]
pub(crate) struct Newcomers {
    queue: Arc<Mutex<Queue>>,
    most: usize,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    /// Oldest first.
    waiting: VecDeque<(u64, CancellationToken)>,
}

/// One of them; dropped when its session begins, or it goes.
#[derive(Debug)]
pub(crate) struct Newcomer {
    queue: Arc<Mutex<Queue>>,
    number: u64,
    gone: CancellationToken,
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // Nothing that holds the lock can panic halfway through a change.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Newcomers {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            queue: Arc::default(),
            most,
        }
    }

    /// Another one. Those that are too many are told to go, oldest first.
    pub(crate) fn enter(&self) -> Newcomer {
        let gone = CancellationToken::new();
        let mut queue = lock(&self.queue);
        let number = queue.next;
        queue.next += 1;
        queue.waiting.push_back((number, gone.clone()));
        while queue.waiting.len() > self.most {
            if let Some((_, oldest)) = queue.waiting.pop_front() {
                oldest.cancel();
            }
        }
        Newcomer {
            queue: Arc::clone(&self.queue),
            number,
            gone,
        }
    }
}

impl Newcomer {
    /// Waits until it has to make room.
    pub(crate) async fn has_to_go(&self) {
        self.gone.cancelled().await;
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let mut queue = lock(&self.queue);
        if let Ok(index) = queue
            .waiting
            .binary_search_by_key(&self.number, |(number, _)| *number)
        {
            queue.waiting.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_and_who_has_left_needs_none() {
        let newcomers = Newcomers::new(2);
        let (first, second) = (newcomers.enter(), newcomers.enter());
        drop(first);
        let third = newcomers.enter();
        assert!(!second.gone.is_cancelled());
        let fourth = newcomers.enter();
        assert!(second.gone.is_cancelled());
        assert!(!third.gone.is_cancelled() && !fourth.gone.is_cancelled());
        drop(second);
        drop((third, fourth));
        assert!(lock(&newcomers.queue).waiting.is_empty());
    }
}
