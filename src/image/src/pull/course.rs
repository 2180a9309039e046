//! Where a layer's next bytes are asked for, and when there is no point in asking on. Pure.
//!
//! ```text
//!               broke                         broke `attempts` times, or stalled
//!   host 1 ───────────────▶ host 1, later ───────────────────────────────────────▶ host 2, at once ─▶ …
//!     │                                                                              all failed: the end
//!     └─ will never do (no such layer, no access, wrong content): out
//! ```
//!
//! Whatever was brought forward wipes out the failures before it: a download that gets on is never given up.

use std::time::Duration;

use http::HeaderValue;

use crate::error::ImageError;

/// The first wait before the same host is asked again; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Fewer bytes than these between two failures are no progress: a host that breaks off after every byte gets nowhere.
const PROGRESS_BYTES: u64 = 64 << 10;

/// Between what one host did and what the one before it did.
const BEFORE: &str = "; before that, ";

/// The hosts that have a layer, in the order of the session, and how they did.
#[derive(Debug)]
pub(super) struct Course {
    hosts: Vec<Host>,
    current: usize,
    attempts: u32,
    /// Bytes since the last failure.
    brought: u64,
    /// Whether any host ever brought something.
    moved: bool,
    last: Option<ImageError>,
    /// The endpoints that sent some of what came.
    contributors: Vec<usize>,
    used_ranges: bool,
    /// Counts failures, so that what several connections suffer at once is counted once.
    epoch: u64,
}

#[derive(Debug)]
struct Host {
    endpoint: usize,
    out: bool,
    failures: u32,
    ranges: bool,
    etag: Option<HeaderValue>,
}

/// What went wrong.
#[derive(Debug)]
pub(super) enum Setback {
    /// The connection broke.
    Broke(ImageError),
    /// It was too slow.
    Stalled(ImageError),
    /// The host did not answer, after all the attempts that a request has.
    Unanswered(ImageError),
    /// The host will not do.
    Useless(ImageError),
    /// The host does not do ranges, whatever it says. It may do without.
    NoRanges,
}

/// How to go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) wait: Duration,
    /// Whether it is another host's turn.
    pub(super) elsewhere: bool,
}

impl Course {
    /// Over these endpoints of a session.
    pub(super) fn new(endpoints: impl IntoIterator<Item = usize>, attempts: u32) -> Self {
        Self {
            hosts: endpoints
                .into_iter()
                .map(|endpoint| Host {
                    endpoint,
                    out: false,
                    failures: 0,
                    ranges: true,
                    etag: None,
                })
                .collect(),
            current: 0,
            attempts: attempts.max(1),
            brought: 0,
            moved: false,
            last: None,
            epoch: 0,
            contributors: Vec::new(),
            used_ranges: false,
        }
    }

    /// One host alone, which is never asked for a part: what it sends is all its own doing.
    pub(super) fn plain(endpoint: usize, attempts: u32) -> Self {
        let mut course = Self::new([endpoint], attempts);
        for host in &mut course.hosts {
            host.ranges = false;
        }
        course
    }

    /// The endpoint to ask now; `None` when there is none left.
    pub(super) fn endpoint(&self) -> Option<usize> {
        self.usable(self.current)
            .then(|| self.hosts[self.current].endpoint)
    }

    /// Whether the current host may be asked for ranges.
    pub(super) fn ranges(&self) -> bool {
        self.hosts.get(self.current).is_some_and(|host| host.ranges)
    }

    /// What the current host calls this version of the content.
    pub(super) fn etag(&self) -> Option<&HeaderValue> {
        self.hosts.get(self.current)?.etag.as_ref()
    }

    /// Notes what an endpoint calls this version of the content.
    pub(super) fn set_etag(&mut self, endpoint: usize, etag: Option<HeaderValue>) {
        if let Some(host) = self.hosts.iter_mut().find(|host| host.endpoint == endpoint)
            && etag.is_some()
        {
            host.etag = etag;
        }
    }

    /// Notes that an endpoint sent some of what came.
    pub(super) fn contributed(&mut self, endpoint: usize) {
        if !self.contributors.contains(&endpoint) {
            self.contributors.push(endpoint);
        }
    }

    /// Who sent all that came, if it was one.
    pub(super) fn only_contributor(&self) -> Option<usize> {
        match self.contributors.as_slice() {
            [one] => Some(*one),
            _ => None,
        }
    }

    /// Notes that a part was asked for and sent.
    pub(super) fn set_used_ranges(&mut self) {
        self.used_ranges = true;
    }

    /// Whether some of what came was sent as a part.
    pub(super) fn used_ranges(&self) -> bool {
        self.used_ranges
    }

    /// Which failure a connection that begins now may report.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Counts bytes that nobody had brought before.
    pub(super) fn brought(&mut self, bytes: u64) {
        self.brought = self.brought.saturating_add(bytes);
        if self.brought >= PROGRESS_BYTES {
            self.moved = true;
            for host in &mut self.hosts {
                host.failures = 0;
            }
        }
    }

    /// Decides what comes after a failure of the current host, or that it was the last one.
    pub(super) fn after(&mut self, setback: Setback) -> Result<Next, ImageError> {
        self.epoch += 1;
        self.brought = 0;
        let at = self.current;
        let attempts = self.attempts;
        let others = (0..self.hosts.len()).any(|other| other != at && self.usable(other));
        let moved = self.moved;
        let Some(host) = self.hosts.get_mut(at) else {
            return Err(self.give_up());
        };
        let mut leave = false;
        let error = match setback {
            Setback::Broke(error) => {
                host.failures += 1;
                error
            }
            Setback::Stalled(error) => {
                host.failures += 1;
                leave = others;
                error
            }
            Setback::Unanswered(error) => {
                host.failures = if moved && !others {
                    host.failures + 1
                } else {
                    attempts
                };
                error
            }
            Setback::Useless(error) => {
                host.out = true;
                error
            }
            Setback::NoRanges => {
                host.ranges = false;
                host.etag = None;
                return Ok(Next {
                    wait: Duration::ZERO,
                    elsewhere: false,
                });
            }
        };
        let failures = host.failures;
        self.last = Some(merge(self.last.take(), error));
        if self.usable(at) && !leave {
            return Ok(Next {
                wait: FIRST_WAIT * 2_u32.saturating_pow(failures.saturating_sub(1).min(8)),
                elsewhere: false,
            });
        }
        let count = self.hosts.len();
        let next = (1..count)
            .map(|step| (at + step) % count)
            .find(|next| self.usable(*next));
        match next {
            Some(next) => {
                self.current = next;
                Ok(Next {
                    wait: Duration::ZERO,
                    elsewhere: true,
                })
            }
            None => Err(self.give_up()),
        }
    }

    fn give_up(&mut self) -> ImageError {
        self.last
            .take()
            .unwrap_or_else(|| ImageError::interrupted("the choice of a registry"))
    }

    fn usable(&self, position: usize) -> bool {
        self.hosts
            .get(position)
            .is_some_and(|host| !host.out && host.failures < self.attempts)
    }
}

/// Of two hosts' failures the later one, which names the earlier one if that was another host's.
fn merge(before: Option<ImageError>, error: ImageError) -> ImageError {
    match (before, error) {
        (
            Some(ImageError::RegistryUnavailable {
                host: old,
                reason: old_reason,
            }),
            ImageError::RegistryUnavailable { host, reason },
        ) if old == host => {
            // The same one again; the host before it stays named.
            let reason = match old_reason.split_once(BEFORE) {
                Some((_, before)) => format!("{reason}{BEFORE}{before}"),
                None => reason,
            };
            ImageError::RegistryUnavailable { host, reason }
        }
        (Some(before), ImageError::RegistryUnavailable { host, reason }) => {
            let before = match before {
                // One level is enough.
                ImageError::RegistryUnavailable { host, reason } => {
                    let reason = reason.split(BEFORE).next().unwrap_or_default();
                    format!("{host}: {reason}")
                }
                before => before.to_string(),
            };
            ImageError::RegistryUnavailable {
                host,
                reason: format!("{reason}{BEFORE}{before}"),
            }
        }
        (_, error) => error,
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn error(words: &str) -> ImageError {
        ImageError::RegistryUnavailable {
            host: format!("{words}.example"),
            reason: words.to_owned(),
        }
    }

    fn broke(words: &str) -> Setback {
        Setback::Broke(error(words))
    }

    #[test]
    fn a_host_is_asked_again_and_then_the_next_one() {
        let mut course = Course::new([0, 1], 3);
        for wait in [1, 2] {
            let next = course.after(broke("one")).unwrap();
            assert_eq!((next.wait, next.elsewhere), (FIRST_WAIT * wait, false));
            assert_eq!(course.endpoint(), Some(0));
        }
        let next = course.after(broke("one")).unwrap();
        assert_eq!((next.wait, next.elsewhere), (Duration::ZERO, true));
        assert_eq!(course.endpoint(), Some(1));
        course.after(broke("two")).unwrap();
        course.after(broke("two")).unwrap();
        let words = course.after(broke("two")).unwrap_err().to_string();
        assert!(words.contains("two") && words.contains("one"), "{words}");
    }

    #[test]
    fn progress_wipes_failures_out() {
        let mut course = Course::new([0], 2);
        for _ in 0..1000 {
            course.after(broke("one")).unwrap();
            course.brought(PROGRESS_BYTES);
        }
        course.after(broke("one")).unwrap();
        course.brought(PROGRESS_BYTES - 1);
        course.after(broke("one")).unwrap_err();
    }

    #[test]
    fn a_stall_goes_to_the_next_host_at_once_if_there_is_one() {
        let mut course = Course::new([0, 1], 3);
        assert!(
            course
                .after(Setback::Stalled(error("one")))
                .unwrap()
                .elsewhere
        );
        assert_eq!(course.endpoint(), Some(1));
        let mut course = Course::new([0], 2);
        assert!(
            !course
                .after(Setback::Stalled(error("one")))
                .unwrap()
                .elsewhere
        );
        course.after(Setback::Stalled(error("one"))).unwrap_err();
    }

    #[test]
    fn a_host_that_will_not_do_is_out_for_good() {
        let mut course = Course::new([0, 1], 5);
        course.after(Setback::Useless(error("one"))).unwrap();
        course.brought(PROGRESS_BYTES);
        for _ in 0..4 {
            course.after(broke("two")).unwrap();
            assert_eq!(course.endpoint(), Some(1));
        }
        course.after(broke("two")).unwrap_err();
    }

    #[test]
    fn silence_before_any_byte_is_the_end_and_later_a_break() {
        let mut course = Course::new([0], 3);
        course.after(Setback::Unanswered(error("one"))).unwrap_err();
        let mut course = Course::new([0], 3);
        course.brought(PROGRESS_BYTES);
        course.after(Setback::Unanswered(error("one"))).unwrap();
        course.after(Setback::Unanswered(error("one"))).unwrap();
        course.after(Setback::Unanswered(error("one"))).unwrap_err();
    }

    #[test]
    fn a_host_without_ranges_stays() {
        let mut course = Course::new([0], 1);
        course.set_etag(0, Some(HeaderValue::from_static("\"x\"")));
        assert!(course.ranges() && course.etag().is_some());
        course.after(Setback::NoRanges).unwrap();
        assert!(!course.ranges() && course.etag().is_none());
        assert_eq!(course.endpoint(), Some(0));
    }
}
