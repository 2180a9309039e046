//! What the service manager's watchdog is fed from (`WatchdogSec=`, `sd_watchdog_enabled(3)`).
//!
//! A timer would be fed by a server that can do nothing else any more. So every message follows a self-check, which runs as a
//! task among those that answer calls and goes the way of a change of the node: the snapshot that reads answer from, the lock
//! that orders changes, the database's writer thread and its file. A runtime whose threads are all blocked, a lock that is never
//! given back, a writer that hangs or has ended: none of them feeds the watchdog, and the manager starts a new server, which
//! takes over the pods. What a new server would not mend (a full disk, a registry or a plugin that hangs) is no part of it.

use std::{env, time::Duration};

use crate::exit::in_full;

/// The shortest time between two checks, whatever the manager asks for.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// How long the manager is patient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watchdog {
    /// Without a message for so long, the manager ends us.
    patience: Duration,
}

impl Watchdog {
    /// From `WATCHDOG_USEC` and `WATCHDOG_PID`, which may be forgotten afterwards. `None` if nobody watches.
    pub(crate) fn from_environment() -> Option<Self> {
        let text = |name| env::var(name).ok();
        Self::parse(
            text("WATCHDOG_USEC").as_deref(),
            text("WATCHDOG_PID").as_deref(),
            std::process::id(),
        )
    }

    fn parse(usec: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Self> {
        // Without a PID it is meant for whoever reads it.
        if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
            return None;
        }
        let usec = usec?.parse().ok().filter(|&usec| usec > 0)?;
        Some(Self {
            patience: Duration::from_micros(usec),
        })
    }

    /// Time between two checks: two of them may fail or be late before the manager's patience is at its end.
    fn interval(self) -> Duration {
        (self.patience / 4).max(INTERVAL_MIN)
    }

    /// Checks and feeds until it is dropped.
    pub(crate) async fn watch<E, C>(self, mut check: impl FnMut() -> C, alive: impl Fn())
    where
        C: Future<Output = Result<(), E>>,
        E: std::error::Error,
    {
        loop {
            match tokio::time::timeout(self.patience / 2, check()).await {
                Ok(Ok(())) => alive(),
                Ok(Err(error)) => tracing::error!(
                    error = in_full(&error),
                    "the self-check failed: the service manager is not told that all is well"
                ),
                Err(_) => tracing::error!(
                    after = ?self.patience / 2,
                    "the self-check hangs: the service manager is not told that all is well"
                ),
            }
            tokio::time::sleep(self.interval()).await;
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::{
        cell::Cell,
        future::{pending, ready},
        io,
    };

    use rstest::rstest;
    use tokio::time::{Instant, timeout};

    use super::*;

    const OWN: u32 = 42;

    #[rstest]
    #[case(Some("60000000"), Some("42"), Some(60))]
    #[case(Some("60000000"), None, Some(60))]
    #[case(Some("60000000"), Some("43"), None)]
    #[case(Some("60000000"), Some("me"), None)]
    #[case(Some("0"), Some("42"), None)]
    #[case(Some("soon"), Some("42"), None)]
    #[case(None, Some("42"), None)]
    fn the_manager_says_whom_it_watches(
        #[case] usec: Option<&str>,
        #[case] pid: Option<&str>,
        #[case] seconds: Option<u64>,
    ) {
        let found = Watchdog::parse(usec, pid, OWN);
        assert_eq!(
            found.map(|found| found.patience),
            seconds.map(Duration::from_secs)
        );
    }

    /// How often the watchdog is fed in a minute, with half a minute of patience, by a check that answers so.
    async fn fed(answer: impl AsyncFn(Duration) -> Result<(), io::Error>) -> u32 {
        let watchdog = Watchdog::parse(Some("30000000"), None, OWN).unwrap();
        let (fed, start) = (Cell::new(0), Instant::now());
        let watched = watchdog.watch(|| answer(start.elapsed()), || fed.set(fed.get() + 1));
        timeout(Duration::from_mins(1), watched).await.unwrap_err();
        fed.get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_works_feeds_it_four_times_in_the_managers_patience() {
        let fed = fed(async |_| Ok(())).await;
        assert!(
            (8..=9).contains(&fed),
            "fed {fed} times in twice its patience"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_or_fails_feeds_nothing() {
        assert_eq!(fed(async |_| pending().await).await, 0);
        assert_eq!(
            fed(async |_| ready(Err(io::ErrorKind::Other.into())).await).await,
            0
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_works_again_is_told_again() {
        let first_half = Duration::from_secs(30);
        let fed = fed(async |now| {
            if now < first_half {
                pending().await
            } else {
                Ok(())
            }
        })
        .await;
        assert!(fed > 0, "fed {fed} times");
    }
}
