//! How many layers are unpacked at the same time: as many as there are processors.
//!
//! A layer has a slot only while it has work: a [`Slot`] is let go of whenever the next bytes have yet to come, so that
//! layers on slow connections keep none from the others. Slots are given in the order of asking, and a layer whose bytes
//! come faster than it can unpack them offers its slot now and then, so that no layer, and no pull, waits for the end of
//! another one.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// After so many compressed bytes a slot goes to whoever waits for one.
const OFFER_AFTER_BYTES: u64 = 1 << 20;

/// The slots of the node. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// The number that the next one who asks gets.
    next: u64,
    /// Numbers below this one have had their turn.
    serving: u64,
}

/// One layer's claim to a slot, for the thread that unpacks it.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    held: bool,
    /// Bytes since the slot was taken.
    used: u64,
}

impl Slots {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    free: count.max(1),
                    next: 0,
                    serving: 0,
                }),
                changed: Condvar::new(),
            }),
        }
    }

    /// A claim that has no slot yet.
    pub(crate) fn slot(&self) -> Slot {
        Slot {
            slots: self.clone(),
            held: false,
            used: 0,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Waits for a slot unless it has one. Blocks.
    pub(crate) fn take(&mut self) {
        if self.held {
            return;
        }
        let mut state = self.slots.state();
        let number = state.next;
        state.next += 1;
        while state.free == 0 || state.serving != number {
            state = self
                .slots
                .shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.serving += 1;
        state.free -= 1;
        let more = state.free > 0 && state.serving < state.next;
        drop(state);
        if more {
            self.slots.shared.changed.notify_all();
        }
        self.held = true;
        self.used = 0;
    }

    /// Lets go of the slot, if it has one.
    pub(crate) fn leave(&mut self) {
        if !self.held {
            return;
        }
        self.held = false;
        let mut state = self.slots.state();
        state.free += 1;
        let wanted = state.serving < state.next;
        drop(state);
        if wanted {
            self.slots.shared.changed.notify_all();
        }
    }

    /// Counts work done, and after enough of it lets others have the slot first.
    pub(crate) fn worked(&mut self, bytes: u64) {
        self.used += bytes;
        if self.used < OFFER_AFTER_BYTES {
            return;
        }
        self.used = 0;
        let wanted = {
            let state = self.slots.state();
            state.serving < state.next
        };
        if wanted {
            self.leave();
            self.take();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn never_more_than_there_are() {
        let slots = Slots::new(3);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut slot = slots.slot();
                    for _ in 0..200 {
                        slot.take();
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                        slot.leave();
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 3);
        assert_eq!(slots.state().free, 3);
    }

    #[test]
    fn a_busy_layer_offers_its_slot() {
        let slots = Slots::new(1);
        let mut busy = slots.slot();
        busy.take();
        let other = thread::spawn({
            let mut slot = slots.slot();
            move || slot.take()
        });
        while slots.state().next < 2 {
            thread::yield_now();
        }
        // Would wait for ever if the other one did not get it first.
        busy.worked(OFFER_AFTER_BYTES);
        assert!(busy.held);
        other.join().unwrap();
    }

    #[test]
    fn a_dropped_claim_gives_its_slot_back() {
        let slots = Slots::new(1);
        let mut slot = slots.slot();
        slot.take();
        drop(slot);
        slots.slot().take();
    }
}
