//! CPU rates: how much of a core something used between two readings.
//!
//! There is no sampler that runs whether anyone asks or not. Each reading is kept, and the rate is what was used since
//! the one before. Two clients that ask in turn, or one that asks very often, get the rate of a window that is long enough
//! to mean something. The first reading has one before it too: when a container starts it has used nothing, and what runs
//! already when the server starts is read once then ([`Rates::note`]).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// The shortest window that a new rate is made of. CPU time is counted by the tick on some kernels.
const SHORTEST_NS: i64 = 1_000_000_000;

/// How many entries of what is gone are kept at least before they are looked for.
const SPARE: usize = 64;

/// CPU time at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Nanoseconds since 1970.
    pub(super) at_unix_ns: i64,
    /// CPU time so far.
    pub(super) usage_ns: u64,
}

/// The last window of one object.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// Its end, where the next one begins.
    end: Reading,
    /// Its rate; `None` if there was none yet.
    rate: Option<u64>,
}

/// The last readings of containers and pods, by their ids.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<HashMap<String, Window>>);

impl Rates {
    /// Keeps a reading for the next one to be compared with.
    pub(super) fn note(&self, id: &str, reading: Reading) {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        windows.insert(
            id.to_owned(),
            Window {
                end: reading,
                rate: None,
            },
        );
    }

    /// The rate at this reading, in billionths of a core. `since` is when the object had used nothing.
    pub(super) fn of(&self, id: &str, reading: Reading, since_unix_ns: i64) -> Option<u64> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = windows.get(id).copied().unwrap_or(Window {
            end: Reading {
                at_unix_ns: since_unix_ns,
                usage_ns: 0,
            },
            rate: None,
        });
        let (rate, next) = advance(before, reading);
        windows.insert(id.to_owned(), next);
        rate
    }

    /// Forgets what is gone, if there may be much of it. `live` is how many objects there are.
    pub(super) fn retain(&self, live: usize, is_live: impl Fn(&str) -> bool) {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() > live + SPARE {
            windows.retain(|id, _| is_live(id));
        }
    }
}

/// The rate at a reading, and the window to go on from.
fn advance(before: Window, reading: Reading) -> (Option<u64>, Window) {
    let elapsed_ns = reading.at_unix_ns.saturating_sub(before.end.at_unix_ns);
    let (Some(used_ns), true) = (
        reading.usage_ns.checked_sub(before.end.usage_ns),
        elapsed_ns >= 0,
    ) else {
        // The cgroup was made anew, or the clock was set back: nothing to compare with.
        let fresh = Window {
            end: reading,
            rate: None,
        };
        return (None, fresh);
    };
    let rate = u64::try_from(elapsed_ns)
        .ok()
        .filter(|elapsed| *elapsed > 0)
        .and_then(|elapsed| {
            u64::try_from(u128::from(used_ns) * 1_000_000_000 / u128::from(elapsed)).ok()
        });
    if elapsed_ns >= SHORTEST_NS {
        return (rate, Window { end: reading, rate });
    }
    // Too short to begin another; the last one still tells more, if there was one.
    (before.rate.or(rate), before)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn reading(at_s: f64, used_s: f64) -> Reading {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small positive numbers"
        )]
        Reading {
            at_unix_ns: (at_s * 1e9) as i64,
            usage_ns: (used_s * 1e9) as u64,
        }
    }

    #[test]
    fn rates_follow_the_windows() {
        let rates = Rates::default();
        let half = Some(500_000_000);
        for (at_s, used_s, wanted) in [
            // Half a core since the start, asked too early to begin another window.
            (100.5, 0.25, half),
            (102.0, 1.0, half),
            // A burst within the shortest window shows in the next one.
            (102.1, 1.1, half),
            (104.0, 5.0, Some(2_000_000_000)),
            (114.0, 5.0, Some(0)),
            // Made anew.
            (120.0, 1.0, None),
            (121.0, 2.0, Some(1_000_000_000)),
            // The clock was set back.
            (50.0, 3.0, None),
            (54.0, 5.0, half),
        ] {
            assert_eq!(
                rates.of("c", reading(at_s, used_s), 100 * S),
                wanted,
                "at {at_s} s"
            );
        }
    }

    #[test]
    fn a_noted_reading_is_the_one_before() {
        let rates = Rates::default();
        rates.note("c", reading(10.0, 5.0));
        assert_eq!(
            rates.of("c", reading(20.0, 6.0), 0),
            Some(100_000_000),
            "since the note, not since the start"
        );
        assert_eq!(rates.of("d", reading(10.0, 0.0), 10 * S), None);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let rates = Rates::default();
        for number in 0..200 {
            rates.note(&number.to_string(), reading(1.0, 0.0));
        }
        rates.retain(150, |_| false);
        assert_eq!(rates.0.lock().map_or(0, |windows| windows.len()), 200);
        rates.retain(1, |id| id == "7");
        assert_eq!(rates.0.lock().map_or(0, |windows| windows.len()), 1);
    }
}
