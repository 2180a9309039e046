//! Waiting for what the kernel, or a process, does in its own time.
//!
//! Nothing in the suite sleeps and then looks. It looks, and looks again, until what it waits for is there or until
//! so much time went by that it will not come any more. How long that took is never part of a promise.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// After this, something does not come any more. Generous, since the machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// Says how many times slower than others this machine is: software emulation is ten times.
const SLOWNESS: &str = "PINTLE_TEST_SLOWNESS";

/// A limit that is generous on an ordinary machine, on this one: longer if `PINTLE_TEST_SLOWNESS` says so.
pub fn patient(limit: Duration) -> Duration {
    let factor = std::env::var(SLOWNESS)
        .ok()
        .and_then(|text| text.parse().ok());
    limit.saturating_mul(factor.unwrap_or(1))
}

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `look` finds something, and returns it; fails naming `what` when it never comes.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let (start, patience) = (Instant::now(), patient(PATIENCE));
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if start.elapsed() > patience {
            bail!("{what}: not after {} s", patience.as_secs());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Looks until `look` says yes.
pub async fn until_true(what: &str, mut look: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    until(what, async || Ok(look().await?.then_some(()))).await
}
