//! SPDY's windows: how much one side may send before the other grants it more. Why they may be off is told in `spdy`.

/// What a stream, and a session, may send before it needs credit, in bytes.
pub(crate) const WINDOW: i64 = 64 * 1024;

/// Whether windows bind a session's two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Windows {
    /// Not known yet: we send without waiting, and grant when a window is used up.
    Unknown,
    /// The peer keeps them.
    Kept,
    /// The peer does not keep them, or the transport has none.
    Absent,
}

/// More was sent than was granted, or more was granted than a window can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

/// What the other side may send. Counts from the stream's begin, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveWindow {
    granted: u64,
    received: u64,
    taken: u64,
}

impl Default for ReceiveWindow {
    fn default() -> Self {
        Self {
            granted: WINDOW.unsigned_abs(),
            received: 0,
            taken: 0,
        }
    }
}

impl ReceiveWindow {
    /// Bytes came.
    pub(crate) fn receive(&mut self, bytes: usize) -> Self {
        self.received += bytes as u64;
        *self
    }

    /// Bytes were taken by whom they are for.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.taken += bytes as u64;
    }

    /// What is known of the peer after what came; fails for one that keeps windows and has passed this one.
    pub(crate) fn judge(self, windows: Windows) -> Result<Windows, Overrun> {
        match windows {
            _ if self.received <= self.granted => Ok(windows),
            Windows::Kept => Err(Overrun),
            Windows::Unknown | Windows::Absent => Ok(Windows::Absent),
        }
    }

    /// What to grant now, if anything.
    pub(crate) fn grant(&mut self, windows: Windows) -> Option<u32> {
        let full = WINDOW.unsigned_abs();
        let open = self.granted.saturating_sub(self.taken);
        let due = match windows {
            Windows::Kept => open <= full / 2,
            // A grant that nobody listens to takes room in the queues of spdystream, so it is given only to a peer that may be
            // waiting for it; one that does not wait shows that by sending on.
            Windows::Unknown => self.taken >= self.granted,
            Windows::Absent => false,
        };
        let bytes = u32::try_from(full - open.min(full))
            .ok()
            .filter(|&bytes| due && bytes > 0)?;
        self.granted += u64::from(bytes);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_keeps_windows_is_granted_what_was_taken() {
        let mut window = ReceiveWindow::default();
        window.receive(40_000);
        assert_eq!(window.grant(Windows::Kept), None, "nothing was taken");
        window.take(40_000);
        assert_eq!(window.grant(Windows::Kept), Some(40_000));
        assert_eq!(window.grant(Windows::Kept), None, "once is enough");
        assert_eq!(
            window.receive(65_536).judge(Windows::Kept),
            Ok(Windows::Kept)
        );
        assert_eq!(window.receive(1).judge(Windows::Kept), Err(Overrun));
    }

    #[test]
    fn a_peer_that_sends_on_keeps_none() {
        let mut window = ReceiveWindow::default();
        window.receive(65_536);
        window.take(65_535);
        assert_eq!(window.grant(Windows::Unknown), None, "it need not wait yet");
        window.take(1);
        assert_eq!(window.grant(Windows::Unknown), Some(65_536));
        assert_eq!(
            window.receive(65_536).judge(Windows::Unknown),
            Ok(Windows::Unknown)
        );
        assert_eq!(
            window.receive(1).judge(Windows::Unknown),
            Ok(Windows::Absent)
        );
        window.take(100_000);
        assert_eq!(window.grant(Windows::Absent), None);
    }
}
