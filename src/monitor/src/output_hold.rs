//! Output that waits for an attached client.
//!
//! ```text
//! Flowing ──a client's queue passes its mark──▶ Held ──it has caught up, or hung up──▶ Flowing
//!                                                 └──its patience is over: it is cut off──▶ Flowing
//! ```
//!
//! While output is held, the container's streams are not read: the container itself waits when its pipes are full, as it
//! would for a slow terminal, and log and clients go on with the same byte later. What a client can cost a container is
//! bounded by [`PATIENCE_MS`] per queue that it lets fill up.

use crate::clock::Millis;

/// How long a container's output waits for a client to catch up: a queue in this time is slower than any terminal.
const PATIENCE_MS: Millis = 10_000;

/// Whether a container's output is held, and until when.
#[derive(Debug, Default)]
pub(crate) struct OutputHold {
    until: Option<Millis>,
}

/// What has to be done about a container's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Do not read them.
    Hold,
    /// Read them again.
    Release,
}

impl OutputHold {
    /// Whether the streams must not be read.
    pub(crate) fn is_held(&self) -> bool {
        self.until.is_some()
    }

    /// When the clients that are waited for have to be cut off.
    pub(crate) fn due(&self) -> Option<Millis> {
        self.until
    }

    /// The clients' queues have grown. `behind`: one of them is too long.
    pub(crate) fn after_output(&mut self, behind: bool, now: Millis) -> Option<Turn> {
        if !behind || self.is_held() {
            return None;
        }
        self.until = Some(now + PATIENCE_MS);
        Some(Turn::Hold)
    }

    /// The clients' queues may have become shorter. `caught_up`: all of them are short.
    pub(crate) fn after_progress(&mut self, caught_up: bool) -> Option<Turn> {
        if !caught_up {
            return None;
        }
        self.until.take().map(|_| Turn::Release)
    }

    /// Whether patience is over.
    pub(crate) fn is_over(&self, now: Millis) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_held_once_and_released_once() {
        let mut hold = OutputHold::default();
        assert_eq!(hold.after_output(false, 0), None);
        assert_eq!(hold.after_progress(true), None);
        assert_eq!(hold.after_output(true, 5), Some(Turn::Hold));
        assert!(hold.is_held() && !hold.is_over(5 + PATIENCE_MS - 1));
        assert_eq!(hold.due(), Some(5 + PATIENCE_MS));
        // What was read at the container's end is queued all the same; patience does not begin anew.
        assert_eq!(hold.after_output(true, 9), None);
        assert!(hold.is_over(5 + PATIENCE_MS));
        assert_eq!(hold.after_progress(false), None);
        assert_eq!(hold.after_progress(true), Some(Turn::Release));
        assert_eq!(hold.due(), None);
        assert!(!hold.is_held() && !hold.is_over(u64::MAX));
    }
}
