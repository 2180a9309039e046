//! What a session has carried, and when something last flowed.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Of one session.
#[derive(Debug)]
pub(crate) struct Meter {
    begin: Instant,
    /// Milliseconds from the begin to the last byte that came or was taken by the client.
    last: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            last: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }
}

impl Meter {
    /// Bytes of streams came from the client.
    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of streams were given to the client's connection.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.touch();
    }

    /// The client is there: something came, were it a ping.
    pub(crate) fn touch(&self) {
        let now = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Bytes that came and bytes that went.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (
            self.received.load(Ordering::Relaxed),
            self.sent.load(Ordering::Relaxed),
        )
    }

    /// Since the session began.
    pub(crate) fn age(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Resolves when nothing has flowed for `idle`.
    pub(crate) async fn idle(&self, idle: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let left = last
                .saturating_add(idle)
                .saturating_sub(self.begin.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}
