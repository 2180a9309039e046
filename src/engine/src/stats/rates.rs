//! CPU rates: how much of a core something used between two readings.
//!
//! There is no sampler that runs whether anyone asks or not. Each reading is kept, and the rate is what was used since
//! the one before. Two clients that ask in turn, or one that asks very often, get the rate of a window that is long enough
//! to mean something. The first reading has one before it too: what is made, and what runs already when the server starts,
//! is read once then ([`Rates::note`]).
//!
//! Windows belong to cgroups, not to what is in them: the cgroup of a pod may be older than its sandbox and live longer.
//! Time is the kernel's monotonic one, which nobody sets.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The shortest window that a new rate is made of. CPU time is counted by the tick on some kernels.
const SHORTEST: Duration = Duration::from_secs(1);

/// The same while there was no rate yet: a coarse one soon is better than none for a second.
const SHORTEST_FIRST: Duration = Duration::from_millis(100);

/// How many entries of what is gone are kept at least before they are looked for.
const SPARE: usize = 64;

/// CPU time at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// When it was read.
    pub(super) at: Instant,
    /// CPU time so far.
    pub(super) usage_ns: u64,
}

/// The last window of one cgroup.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// Its end, where the next one begins.
    end: Reading,
    /// Its rate; `None` if there was none yet.
    rate: Option<u64>,
}

impl Window {
    /// The first one, which ends before there is a rate.
    fn until(end: Reading) -> Self {
        Self { end, rate: None }
    }
}

/// The last readings of cgroups, by their paths.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<HashMap<String, Window>>);

impl Rates {
    fn windows(&self) -> MutexGuard<'_, HashMap<String, Window>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a reading for the next one to be compared with, unless there is one of the same cgroup.
    pub(super) fn note(&self, cgroup: &str, reading: Reading) {
        let mut windows = self.windows();
        let known = windows.get(cgroup);
        // Less CPU time than before is another cgroup of the same name.
        if known.is_none_or(|window| window.end.usage_ns > reading.usage_ns) {
            windows.insert(cgroup.to_owned(), Window::until(reading));
        }
    }

    /// The rate at this reading, in billionths of a core; `None` for the first one, and for one too soon after it.
    pub(super) fn of(&self, cgroup: &str, reading: Reading) -> Option<u64> {
        let mut windows = self.windows();
        let Some(window) = windows.get_mut(cgroup) else {
            windows.insert(cgroup.to_owned(), Window::until(reading));
            return None;
        };
        let (rate, next) = advance(*window, reading);
        *window = next;
        rate
    }

    /// Forgets what is gone, if there may be much of it: more than so many of what is `live`.
    pub(super) fn retain(&self, most: usize, live: impl FnOnce() -> HashSet<String>) {
        let mut windows = self.windows();
        if windows.len() > most + SPARE {
            let live = live();
            windows.retain(|cgroup, _| live.contains(cgroup));
        }
    }
}

/// The rate at a reading, and the window to go on from.
fn advance(before: Window, reading: Reading) -> (Option<u64>, Window) {
    let Some(elapsed) = reading.at.checked_duration_since(before.end.at) else {
        // Another request read later and was here earlier.
        return (before.rate, before);
    };
    let rate = reading
        .usage_ns
        .checked_sub(before.end.usage_ns)
        .and_then(|used_ns| per_second(used_ns, elapsed));
    if elapsed >= SHORTEST {
        // No rate: the cgroup was made anew, and there is nothing to compare with.
        return (rate, Window { end: reading, rate });
    }
    // Too short to begin another; the last one still tells more, if there was one.
    let first = rate.filter(|_| elapsed >= SHORTEST_FIRST);
    (before.rate.or(first), before)
}

/// `None` if no time has passed.
fn per_second(used_ns: u64, elapsed: Duration) -> Option<u64> {
    let rate = u128::from(used_ns)
        .saturating_mul(1_000_000_000)
        .checked_div(elapsed.as_nanos())?;
    u64::try_from(rate).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings count from here.
    fn reading(begin: Instant, at_s: f64, used_s: f64) -> Reading {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small positive numbers"
        )]
        Reading {
            at: begin + Duration::from_secs_f64(at_s),
            usage_ns: (used_s * 1e9) as u64,
        }
    }

    #[test]
    fn rates_follow_the_windows() {
        let rates = Rates::default();
        let begin = Instant::now();
        let (half, one, two) = (Some(500_000_000), Some(1_000_000_000), Some(2_000_000_000));
        rates.note("/c", reading(begin, 100.0, 7.0));
        for (at_s, used_s, wanted) in [
            // Too early to tell anything.
            (100.0, 7.0, None),
            (100.0625, 7.0625, None),
            // Half a core since the note, asked too early to begin another window.
            (100.5, 7.25, half),
            (102.0, 8.0, half),
            // A burst within the shortest window shows in the next one.
            (102.5, 8.5, half),
            (104.0, 12.0, two),
            (114.0, 12.0, Some(0)),
            // Two requests at a time: the other read earlier, and comes later.
            (113.5, 12.0, Some(0)),
            (113.0, 11.5, Some(0)),
            (116.0, 13.0, half),
            // The other read its number earlier and its time later.
            (116.25, 12.5, half),
            (118.0, 15.0, one),
            // Made anew.
            (120.0, 1.0, None),
            (121.0, 2.0, one),
        ] {
            assert_eq!(
                rates.of("/c", reading(begin, at_s, used_s)),
                wanted,
                "at {at_s} s"
            );
        }
    }

    #[test]
    fn a_noted_reading_is_the_one_before() {
        let rates = Rates::default();
        let begin = Instant::now();
        let at = |at_s, used_s| reading(begin, at_s, used_s);
        rates.note("/c", at(10.0, 5.0));
        assert_eq!(rates.of("/c", at(20.0, 6.0)), Some(100_000_000));
        // A second sandbox in the same cgroup changes nothing.
        rates.note("/c", at(29.0, 15.0));
        assert_eq!(rates.of("/c", at(30.0, 16.0)), Some(1_000_000_000));
        // A cgroup of the same name begins anew.
        rates.note("/c", at(31.0, 0.0));
        assert_eq!(rates.of("/c", at(32.0, 2.0)), Some(2_000_000_000));
    }

    #[test]
    fn what_was_never_noted_has_no_rate_at_first() {
        let rates = Rates::default();
        let begin = Instant::now();
        assert_eq!(rates.of("/c", reading(begin, 10.0, 100.0)), None);
        assert_eq!(
            rates.of("/c", reading(begin, 11.0, 101.0)),
            Some(1_000_000_000)
        );
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let rates = Rates::default();
        let now = Instant::now();
        for number in 0..200 {
            rates.note(&number.to_string(), reading(now, 1.0, 0.0));
        }
        rates.retain(150, HashSet::new);
        assert_eq!(rates.windows().len(), 200);
        rates.retain(1, || HashSet::from(["7".to_owned()]));
        assert_eq!(rates.windows().len(), 1);
    }
}
