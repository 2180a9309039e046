//! One server's connection: whole requests with their descriptors in, replies and events out, never waiting.

use std::{collections::VecDeque, io, io::IoSlice, mem::MaybeUninit};

use monitor_wire::{DESCRIPTORS_MAX, Frame, FrameBuffer, FromMonitor, WireError};
use rustix::{
    event::epoll::EventFlags,
    fd::{AsFd as _, OwnedFd},
    io::{Errno, IoSliceMut},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};

use crate::poller::Watch;

/// Replies kept for a server that does not read. Beyond it the connection is given up; the server reconnects and asks
/// for the state.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// Descriptors that wait for the rest of their frame.
const WAITING_DESCRIPTORS_MAX: usize = 4 * DESCRIPTORS_MAX;

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    watch: Watch,
    input: FrameBuffer,
    descriptors: VecDeque<OwnedFd>,
    output: VecDeque<Outgoing>,
    queued_bytes: usize,
}

/// A message on its way.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

/// A request as it came.
pub(crate) struct Incoming {
    pub(crate) frame: Frame,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Connection {
    pub(crate) fn new(watch: Watch) -> Self {
        Self {
            watch,
            input: FrameBuffer::default(),
            descriptors: VecDeque::new(),
            output: VecDeque::new(),
            queued_bytes: 0,
        }
    }

    pub(crate) fn serial(&self) -> u32 {
        self.watch.serial()
    }

    /// Reads what is there. An error means that the connection is done.
    pub(crate) fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0_u8; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let length = match recvmsg(
            &self.watch,
            &mut slices,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(message) => message.bytes,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.descriptors.extend(fds);
            }
        }
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.descriptors.len() > WAITING_DESCRIPTORS_MAX {
            return Err(io::Error::other("descriptors without requests"));
        }
        self.input.push(buffer.get(..length).unwrap_or_default());
        Ok(())
    }

    /// The next whole request.
    pub(crate) fn next_request(&mut self) -> Result<Option<Incoming>, WireError> {
        let Some(frame) = self.input.next_frame()? else {
            return Ok(None);
        };
        let count = usize::from(frame.descriptors);
        if count > self.descriptors.len() {
            return Err(WireError::Descriptors(frame.descriptors));
        }
        let descriptors = self.descriptors.drain(..count).collect();
        Ok(Some(Incoming { frame, descriptors }))
    }

    /// Sends a message, or keeps it until it can be sent. An error means that the connection is done.
    pub(crate) fn send(
        &mut self,
        correlation: u32,
        message: &FromMonitor,
        descriptor: Option<OwnedFd>,
    ) -> io::Result<()> {
        let mut frame = message.to_frame(correlation);
        frame.descriptors = u8::from(descriptor.is_some());
        let bytes = frame.encode().map_err(io::Error::other)?;
        self.queued_bytes += bytes.len();
        self.output.push_back(Outgoing { bytes, descriptor });
        if self.queued_bytes > QUEUE_BYTES_MAX {
            return Err(io::Error::other("the server does not read its replies"));
        }
        self.flush()
    }

    /// Sends what waits.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some(first) = self.output.front_mut() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = first.descriptor.as_ref().map(|fd| [fd.as_fd()]);
            if let Some(fds) = &fds {
                control.push(SendAncillaryMessage::ScmRights(fds));
            }
            match sendmsg(
                &self.watch,
                &[IoSlice::new(&first.bytes)],
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => {
                    self.queued_bytes = self.queued_bytes.saturating_sub(sent);
                    // It travelled with the first byte.
                    first.descriptor = None;
                    first.bytes.drain(..sent);
                    if first.bytes.is_empty() {
                        self.output.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let waiting = if self.output.is_empty() {
            EventFlags::IN
        } else {
            EventFlags::IN | EventFlags::OUT
        };
        self.watch.interest(waiting);
        Ok(())
    }

    /// Waits until everything is sent, a second at most: for the last words before the end.
    pub(crate) fn flush_before_end(&mut self) {
        let deadline = crate::clock::now_ms() + 1_000;
        while self.flush().is_ok() && !self.output.is_empty() && crate::clock::now_ms() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
