//! How often a request is tried, and how long is waited in between.
//!
//! A registry that tells how long to wait is waited for as long, if that is no longer than we wait for anybody, and is
//! left alone otherwise: kubelet, or another mirror, takes over. Waits have some chance in them, so that the nodes of a
//! cluster which were turned away together do not come back together.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{DATE, HeaderName, RETRY_AFTER};

use crate::config::ImagesConfig;
use crate::error::ImageError;

use super::hosts::Host;

/// The wait before the second attempt; it doubles with every further one.
const FIRST_WAIT: Duration = Duration::from_millis(300);

/// What to do after a failed attempt.
pub(super) enum Setback {
    /// Worth another attempt after a while, which the server may have told.
    Passing(ImageError, Option<Duration>),
    Final(ImageError),
}

impl From<ImageError> for Setback {
    fn from(error: ImageError) -> Self {
        Self::Final(error)
    }
}

/// The attempts that are left, and how long to wait between them.
pub(super) struct Patience<'a> {
    config: &'a ImagesConfig,
    attempt: u32,
}

impl<'a> Patience<'a> {
    pub(super) fn new(config: &'a ImagesConfig) -> Self {
        Self { config, attempt: 1 }
    }

    /// Waits for the next attempt, or gives up with the error.
    pub(super) async fn wait_after(
        &mut self,
        setback: Setback,
        host: &Host,
    ) -> Result<(), ImageError> {
        let (error, told) = match setback {
            Setback::Final(error) => return Err(error),
            Setback::Passing(error, told) => (error, told),
        };
        if self.attempt >= self.config.attempts {
            return Err(error);
        }
        let longest = self.config.timeouts.retry_wait;
        let Some(wait) = wait(self.attempt, told, longest, chance()) else {
            return Err(error);
        };
        tracing::debug!(%host, %error, attempt = self.attempt, ?wait, "trying again");
        tokio::time::sleep(wait).await;
        self.attempt += 1;
        Ok(())
    }
}

/// How long to wait after this attempt (the first is 1); `None` when the server wants more than `longest`. What a server
/// told is never shortened; `chance` from 0 to 1 lengthens it by up to a tenth, and shortens our own waits by up to half.
fn wait(attempt: u32, told: Option<Duration>, longest: Duration, chance: f64) -> Option<Duration> {
    if let Some(told) = told {
        return (told <= longest).then(|| told.mul_f64(1.0 + chance / 10.0).min(longest));
    }
    let doubled = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
    Some(doubled.min(longest).mul_f64(1.0 - chance / 2.0))
}

/// From 0 to 1. The standard library seeds its hash tables with what nobody can foresee.
fn chance() -> f64 {
    let bits = u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or_default();
    f64::from(bits) / f64::from(u32::MAX)
}

/// How long an answer asks to wait: seconds, or a date, which is compared with the server's own clock if it tells that.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let value = text(RETRY_AFTER)?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let now = text(DATE)
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .unwrap_or_else(SystemTime::now);
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(10);

    #[rstest]
    #[case(1, None, 0.0, Some(300))]
    #[case(1, None, 1.0, Some(150))]
    #[case(2, None, 0.0, Some(600))]
    #[case(4, None, 0.0, Some(2400))]
    #[case(40, None, 0.0, Some(10_000))]
    #[case(40, None, 1.0, Some(5_000))]
    #[case(1, Some(0), 1.0, Some(0))]
    #[case(1, Some(2), 0.0, Some(2_000))]
    #[case(1, Some(2), 1.0, Some(2_200))]
    #[case(9, Some(10), 1.0, Some(10_000))]
    #[case(1, Some(11), 0.0, None)]
    #[case(1, Some(u64::MAX), 1.0, None)]
    fn waits(
        #[case] attempt: u32,
        #[case] told: Option<u64>,
        #[case] chance: f64,
        #[case] milliseconds: Option<u64>,
    ) {
        let told = told.map(Duration::from_secs);
        assert_eq!(
            wait(attempt, told, LONGEST, chance),
            milliseconds.map(Duration::from_millis)
        );
    }

    #[test]
    fn chance_is_between_nothing_and_certainty_and_differs() {
        let chances: Vec<f64> = (0..100).map(|_| chance()).collect();
        assert!(chances.iter().all(|chance| (0.0..=1.0).contains(chance)));
        assert!(chances.iter().any(|chance| *chance < 0.5));
        assert!(chances.iter().any(|chance| *chance > 0.5));
    }

    #[rstest]
    #[case("3", None, Some(3))]
    #[case(" 3 ", None, Some(3))]
    #[case("-3", None, None)]
    #[case("soon", None, None)]
    #[case("18446744073709551616", None, None)]
    #[case(
        "Wed, 21 Oct 2015 07:28:05 GMT",
        Some("Wed, 21 Oct 2015 07:28:00 GMT"),
        Some(5)
    )]
    #[case(
        "Wed, 21 Oct 2015 07:28:00 GMT",
        Some("Wed, 21 Oct 2015 07:28:05 GMT"),
        Some(0)
    )]
    #[case("Wed, 21 Oct 2015 07:28:00 GMT", None, Some(0))]
    #[case("Wed, 21 Oct 2015 07:28:05 GMT", Some("yesterday"), Some(0))]
    fn reads_retry_after(
        #[case] value: &str,
        #[case] date: Option<&str>,
        #[case] seconds: Option<u64>,
    ) {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        assert_eq!(retry_after(&headers), seconds.map(Duration::from_secs));
    }
}
