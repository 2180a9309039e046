//! Who may have a connection next.
//!
//! The node has a number of connections for layers ([`Turns`]). Each pull has a [`Share`] of them, and each connection
//! in use is a [`Turn`]. A turn that is given back goes to the pull that has the fewest, among equals to the one that
//! waits longest: an image of a hundred layers that came first does not keep a small one waiting, and none gets more than
//! its cap. Whoever has large layers gives its turn back after each piece of them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The node's connections. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    state: Arc<Mutex<State>>,
    /// The most that one pull may have.
    cap: usize,
}

#[derive(Debug)]
struct State {
    free: usize,
    next_pull: u64,
    /// Connections in use, by pull. None with zero.
    held: HashMap<u64, usize>,
    /// In the order of asking.
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    pull: u64,
    wake: oneshot::Sender<Turn>,
}

/// One pull's part in the connections.
#[derive(Debug)]
pub(crate) struct Share {
    turns: Turns,
    pull: u64,
}

/// The right to use one connection. Dropping it passes it on.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Turns,
    pull: u64,
}

impl Turns {
    /// So many connections for all, and at most `cap` for one pull; at least one each.
    pub(crate) fn new(connections: usize, cap: usize) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                free: connections.max(1),
                next_pull: 0,
                held: HashMap::new(),
                waiting: VecDeque::new(),
            })),
            cap: cap.max(1),
        }
    }

    /// The share of a new pull.
    pub(crate) fn share(&self) -> Share {
        let mut state = self.state();
        state.next_pull += 1;
        Share {
            turns: self.clone(),
            pull: state.next_pull,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives free connections to those who wait.
    fn hand_out(&self) {
        loop {
            let (wake, turn) = {
                let mut state = self.state();
                let Some(position) = state.next(self.cap) else {
                    return;
                };
                let Some(waiter) = state.waiting.remove(position) else {
                    return;
                };
                state.take(waiter.pull);
                let turn = Turn {
                    turns: self.clone(),
                    pull: waiter.pull,
                };
                (waiter.wake, turn)
            };
            if let Err(turn) = wake.send(turn) {
                // That one has gone. The turn is not dropped, which would come back here.
                self.state().give_back(turn.pull);
                std::mem::forget(turn);
            }
        }
    }
}

impl State {
    /// The place in the queue of whoever is next, if there is a connection for anyone.
    fn next(&self, cap: usize) -> Option<usize> {
        if self.free == 0 {
            return None;
        }
        self.waiting
            .iter()
            .enumerate()
            .map(|(position, waiter)| (self.held_by(waiter.pull), position))
            .filter(|(held, _)| *held < cap)
            .min()
            .map(|(_, position)| position)
    }

    fn held_by(&self, pull: u64) -> usize {
        self.held.get(&pull).copied().unwrap_or_default()
    }

    fn take(&mut self, pull: u64) {
        self.free -= 1;
        *self.held.entry(pull).or_default() += 1;
    }

    fn give_back(&mut self, pull: u64) {
        self.free += 1;
        if let Some(held) = self.held.get_mut(&pull) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&pull);
            }
        }
    }
}

impl Share {
    /// Waits for a connection.
    pub(crate) async fn take(&self) -> Turn {
        loop {
            let (wake, woken) = oneshot::channel();
            self.turns.state().waiting.push_back(Waiter {
                pull: self.pull,
                wake,
            });
            self.turns.hand_out();
            // Nobody drops a waiter without waking it, but if so, asking again is right.
            if let Ok(turn) = woken.await {
                return turn;
            }
        }
    }

    /// A connection that nobody else wants at the moment.
    pub(crate) fn try_take(&self) -> Option<Turn> {
        let mut state = self.turns.state();
        let wanted = state.waiting.iter().any(|waiter| !waiter.wake.is_closed());
        if state.free == 0 || wanted || state.held_by(self.pull) >= self.turns.cap {
            return None;
        }
        state.take(self.pull);
        Some(Turn {
            turns: self.turns.clone(),
            pull: self.pull,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.state().give_back(self.pull);
        self.turns.hand_out();
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_small_pull_is_next_however_many_layers_a_large_one_has() {
        let turns = Turns::new(2, 2);
        let large = Arc::new(turns.share());
        let small = turns.share();
        let mut held = vec![large.take().await, large.take().await];
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let large = Arc::clone(&large);
                tokio::spawn(async move { large.take().await })
            })
            .collect();
        tokio::task::yield_now().await;
        let mut wanted = Box::pin(small.take());
        assert!((&mut wanted).now_or_never().is_none());
        drop(held.pop());
        let got = wanted.now_or_never().unwrap();
        // And afterwards the large one goes on.
        drop((got, held));
        for waiter in waiting {
            drop(waiter.await.unwrap());
        }
        assert_eq!(turns.state().free, 2);
        assert!(turns.state().held.is_empty());
    }

    #[tokio::test]
    async fn nobody_has_more_than_the_cap() {
        let turns = Turns::new(4, 2);
        let share = turns.share();
        let held = (share.take().await, share.take().await);
        assert!(share.try_take().is_none());
        assert!(share.take().now_or_never().is_none());
        let other = turns.share();
        assert!(other.try_take().is_some());
        drop(held);
        assert!(share.try_take().is_some());
    }

    #[tokio::test]
    async fn what_is_spare_goes_to_nobody_before_those_who_wait() {
        let turns = Turns::new(1, 1);
        let (one, two) = (turns.share(), turns.share());
        let held = one.take().await;
        let mut wanted = Box::pin(two.take());
        assert!((&mut wanted).now_or_never().is_none());
        drop(held);
        assert!(one.try_take().is_none());
        drop(wanted.now_or_never().unwrap());
        assert!(one.try_take().is_some());
    }

    #[tokio::test]
    async fn whoever_leaves_the_queue_takes_nothing_along() {
        let turns = Turns::new(1, 1);
        let (one, two, three) = (turns.share(), turns.share(), turns.share());
        let held = one.take().await;
        let mut gone = Box::pin(two.take());
        assert!((&mut gone).now_or_never().is_none());
        let mut stays = Box::pin(three.take());
        assert!((&mut stays).now_or_never().is_none());
        // One leaves before it is woken, another after.
        drop(gone);
        drop(held);
        drop(stays);
        assert_eq!(turns.state().free, 1);
        assert!(one.take().now_or_never().is_some());
    }
}
