//! epoll, with registrations that end when their descriptor is dropped.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use rustix::event::{
    Timespec,
    epoll::{self, CreateFlags, Event, EventData, EventFlags},
};

/// What a readiness event is about. The serial names one object of its kind and is never used twice, so that an event
/// for something already gone finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) source: Source,
    pub(crate) serial: u32,
}

/// Kinds of descriptors, in the order in which one round's events are handled: output and out-of-memory notices before
/// the end of the process that they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// A container's out-of-memory notices.
    Oom,
    /// A container's stdout, or its terminal.
    Stdout,
    /// A container's stderr.
    Stderr,
    /// A container's stdin, writable again.
    Stdin,
    /// The socket on which a runtime hands over a terminal, for a create.
    CreateConsole,
    /// The same, for an exec.
    ExecConsole,
    /// New attaching clients of a container.
    AttachListener,
    /// One attaching client.
    AttachClient,
    /// Ended children, and requests to end.
    Signals,
    /// New connections of servers.
    Listener,
    /// One connection of a server.
    Connection,
}

const SOURCES: [Source; 11] = [
    Source::Oom,
    Source::Stdout,
    Source::Stderr,
    Source::Stdin,
    Source::CreateConsole,
    Source::ExecConsole,
    Source::AttachListener,
    Source::AttachClient,
    Source::Signals,
    Source::Listener,
    Source::Connection,
];

impl Token {
    fn pack(self) -> u64 {
        (u64::from(self.source as u8) << 32) | u64::from(self.serial)
    }

    fn unpack(packed: u64) -> Option<Self> {
        let source = *SOURCES.get(usize::try_from(packed >> 32).ok()?)?;
        Some(Self {
            source,
            serial: u32::try_from(packed & u64::from(u32::MAX)).ok()?,
        })
    }
}

/// Most events handled in one round.
const EVENTS_MAX: usize = 32;

/// The epoll instance. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Poller(Rc<OwnedFd>);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Rc::new(epoll::create(CreateFlags::CLOEXEC)?)))
    }

    /// Watches a descriptor for as long as the answer lives.
    pub(crate) fn watch(&self, fd: OwnedFd, token: Token, flags: EventFlags) -> io::Result<Watch> {
        epoll::add(&*self.0, &fd, EventData::new_u64(token.pack()), flags)?;
        Ok(Watch {
            poller: self.clone(),
            fd,
            token,
            flags,
        })
    }

    /// Waits for events, at most as long as `timeout_ms`; handles them by [`Source`]'s order.
    pub(crate) fn wait(&self, timeout_ms: Option<u64>) -> io::Result<Vec<Token>> {
        let mut events = [Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        }; EVENTS_MAX];
        let timeout = timeout_ms.map(|ms| Timespec {
            tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
        });
        let count = match epoll::wait(&*self.0, events.as_mut_slice(), timeout.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut tokens: Vec<Token> = events
            .iter()
            .take(count)
            .filter_map(|event| Token::unpack(event.data.u64()))
            .collect();
        tokens.sort_unstable_by_key(|token| token.source);
        Ok(tokens)
    }
}

/// A watched descriptor.
#[derive(Debug)]
pub(crate) struct Watch {
    poller: Poller,
    fd: OwnedFd,
    token: Token,
    flags: EventFlags,
}

impl Watch {
    /// Changes what is watched for.
    pub(crate) fn interest(&mut self, flags: EventFlags) {
        if flags != self.flags
            && epoll::modify(
                &*self.poller.0,
                &self.fd,
                EventData::new_u64(self.token.pack()),
                flags,
            )
            .is_ok()
        {
            self.flags = flags;
        }
    }

    /// Watches for nothing at all until [`Self::unmute`]. An empty interest would still tell of a peer that hung up, over and
    /// over.
    pub(crate) fn mute(&mut self) {
        let _ = epoll::delete(&*self.poller.0, &self.fd);
    }

    /// Watches again, for what it was made for.
    pub(crate) fn unmute(&mut self) -> io::Result<()> {
        let data = EventData::new_u64(self.token.pack());
        Ok(epoll::add(&*self.poller.0, &self.fd, data, self.flags)?)
    }

    pub(crate) fn serial(&self) -> u32 {
        self.token.serial
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Closing is not enough: a copy of the descriptor in a child would keep the registration alive.
        let _ = epoll::delete(&*self.poller.0, &self.fd);
    }
}
