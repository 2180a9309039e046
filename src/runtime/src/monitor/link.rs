//! The connection itself: one task reads and writes, requests wait for their replies by number.
//!
//! The task ends when the monitor hangs up or when the last user of the connection is gone. Either way every waiting
//! request fails, and the event stream ends with [`MonitorEvent::Disconnected`].

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use monitor_wire::{DESCRIPTORS_MAX, FrameBuffer, FromMonitor, Request, WireError};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    time::timeout,
};

use crate::{Exit, MonitorEvent, RuntimeError};

/// A reply with the descriptor that came along.
pub(super) type Reply = (FromMonitor, Option<OwnedFd>);

/// Requests that wait, by number. `None` once the connection is gone.
type Waiting = Mutex<Option<BTreeMap<u32, UnboundedSender<Reply>>>>;

/// The users' end of a connection.
#[derive(Debug)]
pub(super) struct Link {
    socket: PathBuf,
    outgoing: UnboundedSender<Outgoing>,
    waiting: Arc<Waiting>,
    last_number: AtomicU32,
}

/// A frame on its way.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Link {
    /// Starts the task for a fresh connection.
    pub(super) fn start(
        socket: &Path,
        stream: UnixStream,
    ) -> (Self, UnboundedReceiver<MonitorEvent>) {
        let (outgoing, requests) = mpsc::unbounded_channel();
        let (events, event_stream) = mpsc::unbounded_channel();
        let waiting = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let task = Task {
            stream,
            input: FrameBuffer::default(),
            descriptors: VecDeque::new(),
            output: VecDeque::new(),
            waiting: Arc::clone(&waiting),
            events,
        };
        let name = socket.to_owned();
        tokio::spawn(async move {
            let waiting = Arc::clone(&task.waiting);
            let events = task.events.clone();
            if let Err(error) = task.run(requests).await {
                tracing::debug!(socket = %name.display(), %error, "monitor connection ended");
            }
            lock(&waiting).take();
            let _ = events.send(MonitorEvent::Disconnected);
        });
        let link = Self {
            socket: socket.to_owned(),
            outgoing,
            waiting,
            last_number: AtomicU32::new(0),
        };
        (link, event_stream)
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn disconnected(&self) -> RuntimeError {
        RuntimeError::Disconnected {
            socket: self.socket.clone(),
        }
    }

    /// Sends a request and waits for its one reply.
    pub(super) async fn ask(
        self: &Arc<Self>,
        request: &Request,
        descriptors: Vec<OwnedFd>,
        limit: Duration,
    ) -> Result<FromMonitor, RuntimeError> {
        let mut ticket = self.open(request, descriptors)?;
        match timeout(limit, ticket.next()).await {
            Ok(reply) => Ok(reply?.0),
            Err(_) => Err(RuntimeError::Protocol {
                socket: self.socket.clone(),
                message: format!("no answer within {limit:?}"),
            }),
        }
    }

    /// Sends a request that may have several replies.
    pub(super) fn open(
        self: &Arc<Self>,
        request: &Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Ticket, RuntimeError> {
        // 0 stands for events; the numbers come round after four thousand million requests of one connection.
        let number = loop {
            match self
                .last_number
                .fetch_add(1, Ordering::Relaxed)
                .wrapping_add(1)
            {
                0 => {}
                number => break number,
            }
        };
        let (replies, incoming) = mpsc::unbounded_channel();
        lock(&self.waiting)
            .as_mut()
            .ok_or_else(|| self.disconnected())?
            .insert(number, replies);
        let ticket = Ticket {
            link: Arc::clone(self),
            number,
            replies: incoming,
        };
        self.send(request, number, descriptors)?;
        Ok(ticket)
    }

    /// Sends a request that is not answered.
    pub(super) fn tell(&self, request: &Request) {
        // Without a connection there is nothing left to tell.
        let _ = self.send(request, u32::MAX, Vec::new());
    }

    fn send(
        &self,
        request: &Request,
        number: u32,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), RuntimeError> {
        let mut frame = request.to_frame(number);
        frame.descriptors = u8::try_from(descriptors.len()).unwrap_or(u8::MAX);
        let bytes = frame.encode().map_err(|error| RuntimeError::Protocol {
            socket: self.socket.clone(),
            message: format!("cannot send request: {error}"),
        })?;
        self.outgoing
            .send(Outgoing { bytes, descriptors })
            .map_err(|_| self.disconnected())
    }
}

/// A request under way. Dropped, its replies are not awaited any more.
#[derive(Debug)]
pub(super) struct Ticket {
    link: Arc<Link>,
    number: u32,
    replies: UnboundedReceiver<Reply>,
}

impl Ticket {
    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// The next reply.
    pub(super) async fn next(&mut self) -> Result<Reply, RuntimeError> {
        self.replies
            .recv()
            .await
            .ok_or_else(|| self.link.disconnected())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(waiting) = lock(&self.link.waiting).as_mut() {
            waiting.remove(&self.number);
        }
    }
}

fn lock(
    waiting: &Waiting,
) -> std::sync::MutexGuard<'_, Option<BTreeMap<u32, UnboundedSender<Reply>>>> {
    // Nothing that could panic runs under the lock.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The connection's end of it.
struct Task {
    stream: UnixStream,
    input: FrameBuffer,
    descriptors: VecDeque<OwnedFd>,
    output: VecDeque<Outgoing>,
    waiting: Arc<Waiting>,
    events: UnboundedSender<MonitorEvent>,
}

impl Task {
    async fn run(mut self, mut requests: UnboundedReceiver<Outgoing>) -> io::Result<()> {
        loop {
            let interest = if self.output.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => {
                        self.output.push_back(request);
                        self.write()?;
                    }
                    None => return Ok(()),
                },
                ready = self.stream.ready(interest) => {
                    let ready = ready?;
                    if ready.is_writable() {
                        self.write()?;
                    }
                    if ready.is_readable() || ready.is_read_closed() {
                        self.read()?;
                    }
                }
            }
        }
    }

    /// Sends what waits, as far as the socket takes it.
    fn write(&mut self) -> io::Result<()> {
        while let Some(first) = self.output.front_mut() {
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                let mut space =
                    [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let descriptors: Vec<_> = first.descriptors.iter().map(OwnedFd::as_fd).collect();
                if !descriptors.is_empty()
                    && !control.push(SendAncillaryMessage::ScmRights(&descriptors))
                {
                    return Err(io::Error::other("too many descriptors"));
                }
                Ok(sendmsg(
                    &self.stream,
                    &[IoSlice::new(&first.bytes)],
                    &mut control,
                    SendFlags::NOSIGNAL,
                )?)
            });
            match sent {
                Ok(sent) => {
                    // They travelled with the first byte.
                    first.descriptors.clear();
                    first.bytes.drain(..sent);
                    if first.bytes.is_empty() {
                        self.output.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what is there and hands out whole messages.
    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0_u8; 8192];
        let mut received = Vec::new();
        let length = self.stream.try_io(Interest::READABLE, || {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let length = recvmsg(
                &self.stream,
                &mut slices,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )?
            .bytes;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    received.extend(descriptors);
                }
            }
            Ok(length)
        });
        match length {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.input.push(buffer.get(..length).unwrap_or_default()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
        self.descriptors.extend(received);
        while let Some(frame) = self.input.next_frame().map_err(io::Error::other)? {
            let mut descriptor = None;
            for _ in 0..frame.descriptors {
                descriptor = self.descriptors.pop_front();
            }
            match FromMonitor::from_frame(&frame) {
                Ok(message) => self.deliver(frame.correlation, message, descriptor),
                // From a monitor of a later release.
                Err(WireError::Kind(kind)) => {
                    tracing::debug!(kind, "monitor sent something of an unknown kind");
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(())
    }

    fn deliver(&self, number: u32, message: FromMonitor, descriptor: Option<OwnedFd>) {
        match message {
            // The receiver may have been dropped: then nobody wants to know.
            FromMonitor::Exited { id, exit } => {
                let _ = self.events.send(MonitorEvent::Exited(id, Exit::from(exit)));
            }
            FromMonitor::Oom { id } => {
                let _ = self.events.send(MonitorEvent::Oom(id));
            }
            reply => {
                if let Some(waiting) = lock(&self.waiting)
                    .as_ref()
                    .and_then(|waiting| waiting.get(&number))
                {
                    let _ = waiting.send((reply, descriptor));
                }
            }
        }
    }
}
