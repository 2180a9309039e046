//! Attaching clients of one container: they get its output from now on, and may give it input.
//!
//! A client that does not keep up makes the container's output wait, as a slow terminal would, but only for so long: then
//! it is cut off (`output_hold` has the rules). The log misses nothing either way. Input goes the other way round: a
//! container that does not read makes its clients wait.

use std::{ffi::OsStr, fs, io, io::IoSlice, os::unix::ffi::OsStrExt as _, path::PathBuf};

use monitor_wire::attach::{AttachBuffer, AttachFrame, output_header};
use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll::EventFlags, poll},
    io::Errno,
    net::{SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, accept_with, sendmsg, shutdown},
};

use crate::{
    console::listen_at,
    poller::{Poller, Source, Token, Watch},
    stdio::{READ_BYTES, Read, read},
};

/// A client for which more than this is kept makes the output wait.
const QUEUE_BYTES_HIGH: usize = 64 * 1024;
/// The output goes on when no client is left for which more than this is kept.
const QUEUE_BYTES_LOW: usize = 16 * 1024;
/// Output kept for a client at most, beside what [`Attach::make_room`] adds.
const QUEUE_BYTES_MAX: usize = 512 * 1024;
/// Input that a client may have sent beyond a whole frame.
const INPUT_BYTES_MAX: usize = 256 * 1024;
/// Clients at once.
const CLIENTS_MAX: usize = 32;

/// The attach socket and who is connected. The path goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Attach {
    listener: Watch,
    path: PathBuf,
    clients: Vec<Client>,
    /// Output kept for a client at most.
    queue_bytes_max: usize,
    ended: bool,
}

#[derive(Debug)]
struct Client {
    watch: Watch,
    input: AttachBuffer,
    queue: Vec<u8>,
    paused: bool,
    /// Said that it gives no input.
    listens: bool,
    /// Gets nothing more. What it had sent is still read, and its going is then told like any other's.
    cut_off: bool,
}

/// What clients want of a container.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Input(Vec<u8>),
    CloseInput,
    Resize {
        rows: u16,
        columns: u16,
    },
    /// A client has gone that may have given input.
    Gone,
}

impl Attach {
    pub(crate) fn listen(path: &[u8], poller: &Poller, serial: u32) -> io::Result<Self> {
        let path = PathBuf::from(OsStr::from_bytes(path));
        let token = Token {
            source: Source::AttachListener,
            serial,
        };
        let listener = poller.watch(listen_at(&path)?, token, EventFlags::IN)?;
        Ok(Self {
            listener,
            path,
            clients: Vec::new(),
            queue_bytes_max: QUEUE_BYTES_MAX,
            ended: false,
        })
    }

    /// Lets a client in and greets it.
    pub(crate) fn accept(
        &mut self,
        poller: &Poller,
        client_serial: u32,
        terminal: bool,
        stdin: bool,
    ) {
        let Ok(connection) =
            accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        else {
            return;
        };
        if self.clients.len() >= CLIENTS_MAX {
            return;
        }
        let token = Token {
            source: Source::AttachClient,
            serial: client_serial,
        };
        let Ok(watch) = poller.watch(connection, token, EventFlags::IN) else {
            return;
        };
        let mut client = Client {
            watch,
            input: AttachBuffer::default(),
            queue: Vec::new(),
            paused: false,
            listens: false,
            cut_off: false,
        };
        let mut greeting = AttachFrame::Hello { terminal, stdin }
            .encode()
            .unwrap_or_default();
        if self.ended {
            greeting.extend(AttachFrame::Ended.encode().unwrap_or_default());
        }
        // A client of a container without output any more is told so and left to hang up.
        client.send(&greeting, &[], self.queue_bytes_max);
        self.clients.push(client);
    }

    pub(crate) fn has_client(&self, serial: u32) -> bool {
        self.clients
            .iter()
            .any(|client| client.watch.serial() == serial)
    }

    /// Whether the output has to wait for a client.
    pub(crate) fn is_behind(&self) -> bool {
        self.most_queued() > QUEUE_BYTES_HIGH
    }

    /// Whether output that waited for a client can go on.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.most_queued() <= QUEUE_BYTES_LOW
    }

    fn most_queued(&self) -> usize {
        let queued = self.clients.iter().map(|client| client.queue.len());
        queued.max().unwrap_or_default()
    }

    /// Cuts off everyone whom the output waits for.
    pub(crate) fn cut_off_slow(&mut self) {
        for client in &mut self.clients {
            if client.queue.len() > QUEUE_BYTES_LOW {
                client.cut_off();
            }
        }
    }

    /// So much is about to be read at once, whether or not clients keep up: what they have not read yet is kept beside it.
    pub(crate) fn make_room(&mut self, bytes: usize) {
        self.queue_bytes_max = self.most_queued() + QUEUE_BYTES_MAX + bytes;
    }

    /// Sends output to everyone, and cuts off whose queue is full.
    pub(crate) fn output(&mut self, stderr: bool, data: &[u8]) {
        if let Ok(header) = output_header(stderr, data.len()) {
            for client in &mut self.clients {
                client.send(&header, data, self.queue_bytes_max);
            }
        }
    }

    /// Tells everyone that there will be no more output.
    pub(crate) fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            let farewell = AttachFrame::Ended.encode().unwrap_or_default();
            for client in &mut self.clients {
                client.send(&farewell, &[], self.queue_bytes_max);
            }
        }
    }

    /// One client's descriptor is ready. Answers what it wants; [`Wish::Gone`] comes last.
    pub(crate) fn ready(&mut self, serial: u32, input_full: bool) -> Vec<Wish> {
        let Some(at) = self
            .clients
            .iter()
            .position(|client| client.watch.serial() == serial)
        else {
            return Vec::new();
        };
        let Some(client) = self.clients.get_mut(at) else {
            return Vec::new();
        };
        client.flush();
        let mut alive = true;
        // A client that has to wait may be here for its output alone: what it sends stays in its socket.
        if !client.paused || client.has_hung_up() {
            let mut buffer = [0; READ_BYTES];
            match read(rustix::fd::AsFd::as_fd(&client.watch), &mut buffer) {
                Read::Data(length) => client.input.push(buffer.get(..length).unwrap_or_default()),
                Read::Nothing => {}
                Read::End => alive = false,
            }
        }
        // Only a client that hung up comes here with much.
        alive &= client.input.buffered_bytes() <= INPUT_BYTES_MAX;
        // What was sent before hanging up still counts.
        let mut wishes = if input_full && alive {
            Vec::new()
        } else {
            client.wishes(&mut alive)
        };
        if !alive {
            let listened = client.listens;
            self.clients.remove(at);
            if !listened {
                wishes.push(Wish::Gone);
            }
        }
        wishes
    }

    /// Lets clients send again, or makes them wait. Answers what they had sent already.
    pub(crate) fn pause(&mut self, paused: bool) -> Vec<Wish> {
        let mut wishes = Vec::new();
        for client in &mut self.clients {
            client.paused = paused;
            client.set_interest();
            if !paused {
                // A client that broke the rules is found by its next event.
                wishes.extend(client.wishes(&mut true));
            }
        }
        wishes
    }
}

impl Drop for Attach {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Client {
    fn has_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.watch, PollFlags::empty())];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
    }

    fn wishes(&mut self, alive: &mut bool) -> Vec<Wish> {
        let mut wishes = Vec::new();
        loop {
            match self.input.next_frame() {
                Ok(Some(AttachFrame::Stdin(data))) => wishes.push(Wish::Input(data)),
                Ok(Some(AttachFrame::CloseStdin)) => wishes.push(Wish::CloseInput),
                Ok(Some(AttachFrame::Listening)) => self.listens = true,
                Ok(Some(AttachFrame::Resize { rows, columns })) => {
                    wishes.push(Wish::Resize { rows, columns });
                }
                Ok(Some(_)) => {}
                Ok(None) => return wishes,
                Err(_) => {
                    *alive = false;
                    return wishes;
                }
            }
        }
    }

    /// Sends what it can and keeps the rest, within bounds.
    fn send(&mut self, header: &[u8], data: &[u8], queue_bytes_max: usize) {
        if self.cut_off {
            return;
        }
        let mut sent = 0;
        if self.queue.is_empty() {
            let slices = [IoSlice::new(header), IoSlice::new(data)];
            sent = match sendmsg(
                &self.watch,
                &slices,
                &mut SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => sent,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                Err(_) => return self.cut_off(),
            };
        }
        let from_data = sent.saturating_sub(header.len());
        self.queue
            .extend_from_slice(header.get(sent..).unwrap_or_default());
        self.queue
            .extend_from_slice(data.get(from_data..).unwrap_or_default());
        if self.queue.len() > queue_bytes_max {
            return self.cut_off();
        }
        self.settle();
    }

    fn flush(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        match rustix::net::send(&self.watch, &self.queue, SendFlags::NOSIGNAL) {
            Ok(sent) => {
                self.queue.drain(..sent);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return self.cut_off(),
        }
        self.settle();
    }

    fn settle(&mut self) {
        if self.queue.is_empty() {
            self.queue = Vec::new();
        }
        self.set_interest();
    }

    /// Ends both directions; the end then shows when the client's last input has been read.
    fn cut_off(&mut self) {
        self.cut_off = true;
        self.queue = Vec::new();
        self.set_interest();
        let _ = shutdown(&self.watch, Shutdown::Both);
    }

    fn set_interest(&mut self) {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, !self.paused);
        flags.set(EventFlags::OUT, !self.queue.is_empty());
        self.watch.interest(flags);
    }
}
