//! A body that has to keep moving.
//!
//! A download stalls when, over a window of time spent waiting for the network, it brings less than a least speed.
//! Time in which nobody asks for more, because unpacking or the disk is slower than the network, does not count.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::Timeouts;
use crate::error::ImageError;

/// The body of an answer, chunk by chunk.
#[derive(Debug)]
pub(crate) struct Download {
    response: reqwest::Response,
    host: String,
    meter: Meter,
}

/// Why a chunk did not come.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Too slow.
    Stalled(ImageError),
    /// The connection ended before the body did.
    CutShort(String),
}

impl Download {
    pub(crate) fn new(response: reqwest::Response, host: String, timeouts: &Timeouts) -> Self {
        Self {
            response,
            host,
            meter: Meter::new(timeouts.stall, timeouts.stall_bytes_per_second),
        }
    }

    /// The host that sends it.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The next bytes; `None` at the end of the body.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        let Some(left) = self.meter.left() else {
            return self.receive().await;
        };
        let asked = Instant::now();
        let received = tokio::time::timeout(left, self.receive()).await;
        let waited = asked.elapsed();
        match received {
            Ok(Ok(Some(bytes))) => {
                if self.meter.is_too_slow_after(waited, bytes.len() as u64) {
                    return Err(self.stalled());
                }
                Ok(Some(bytes))
            }
            Ok(other) => other,
            Err(_) => {
                // The window is over with what came before.
                if self.meter.is_too_slow_after(waited.max(left), 0) {
                    return Err(self.stalled());
                }
                Box::pin(self.chunk()).await
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, Broken> {
        self.response
            .chunk()
            .await
            .map_err(|error| Broken::CutShort(super::exchange::root_cause(&error)))
    }

    fn stalled(&self) -> Broken {
        Broken::Stalled(ImageError::RegistryUnavailable {
            host: self.host.clone(),
            reason: format!(
                "the download stalled: less than {} bytes a second over {} s",
                self.meter.least_bytes_per_second,
                self.meter.window.as_secs_f32()
            ),
        })
    }
}

/// Judges speed by windows of waiting time. Pure: it is told the time.
#[derive(Debug)]
struct Meter {
    /// Zero: never judge.
    window: Duration,
    least_bytes_per_second: u64,
    waited: Duration,
    bytes: u64,
}

impl Meter {
    fn new(window: Duration, least_bytes_per_second: u64) -> Self {
        Self {
            window,
            least_bytes_per_second,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// How much waiting is left in this window; `None` when there is no limit.
    fn left(&self) -> Option<Duration> {
        (!self.window.is_zero()).then(|| self.window.saturating_sub(self.waited))
    }

    /// Counts a wait and what it brought. At the end of a window, says whether that was too little, and starts anew.
    fn is_too_slow_after(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.window.is_zero() || self.waited < self.window {
            return false;
        }
        // A least speed of 0 still wants one byte in a window.
        let least = self.window.as_millis() * u128::from(self.least_bytes_per_second) / 1000;
        let too_slow = u128::from(self.bytes) < least.max(1);
        self.waited = Duration::ZERO;
        self.bytes = 0;
        too_slow
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    #[test]
    fn silence_and_dripping_are_too_slow() {
        let mut meter = Meter::new(WINDOW, 100);
        assert!(meter.is_too_slow_after(WINDOW, 0));
        // One byte a second, for ever: progress, and not enough of it.
        let mut verdicts = (0..10).map(|_| meter.is_too_slow_after(Duration::from_secs(1), 1));
        assert!(verdicts.any(|too_slow| too_slow));
    }

    #[test]
    fn enough_bytes_start_a_new_window() {
        let mut meter = Meter::new(WINDOW, 100);
        assert!(!meter.is_too_slow_after(Duration::from_secs(9), 1));
        assert!(!meter.is_too_slow_after(Duration::from_secs(1), 999));
        assert_eq!(meter.left(), Some(WINDOW));
    }

    #[test]
    fn no_window_means_no_limit() {
        let mut meter = Meter::new(Duration::ZERO, 100);
        assert_eq!(meter.left(), None);
        assert!(!meter.is_too_slow_after(Duration::from_secs(1 << 30), 0));
    }

    #[test]
    fn no_least_speed_wants_any_progress() {
        let mut meter = Meter::new(WINDOW, 0);
        assert!(!meter.is_too_slow_after(WINDOW, 1));
        assert!(meter.is_too_slow_after(WINDOW, 0));
    }
}
