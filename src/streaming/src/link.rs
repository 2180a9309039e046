//! What the streams of one session share, whichever transport carries them: buffers, windows, and the queues to the writer.
//!
//! A session is one connection. Its reader calls [`Link::open`], [`Link::push`] and the `remote_…` functions; whoever serves a
//! stream holds its two ends, [`Incoming`] and [`Outgoing`] (in `ends`); the writer (`write`) takes from two queues, of which `control` goes
//! first. Invariants:
//! - What a client sends and nobody takes is bounded, per stream and per session ([`Link::is_full`]); the reader stops there.
//! - One stream's fate is no other's: a reset or a dropped end wakes only those who wait for that stream.
//! - When the session ends ([`Link::end`]), everyone who waits is woken with [`Gone`].

mod ends;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, mpsc};

#[cfg(any(test, feature = "client"))]
use crate::spdy::Headers;
use crate::{
    meter::Meter,
    spdy::CANCEL,
    window::{Overrun, ReceiveWindow, WINDOW, Windows},
};

pub(crate) use ends::{Incoming, Outgoing};

/// Most streams of a session at a time: a thousand forwarded connections.
pub(crate) const MAX_STREAMS: usize = 2000;
/// Bytes that may wait for the taker of one stream before reading stops.
const STREAM_BUFFER: usize = 256 * 1024;
/// Bytes that may wait in all streams of a session before reading stops.
const SESSION_BUFFER: usize = 4 * 1024 * 1024;
/// Longest payload of a frame that we send.
const MAX_PIECE: usize = 32 * 1024;
/// Pieces that wait for the writer; with them at most 256 KiB are between a process and its client's connection.
const DATA_QUEUE: usize = 8;
/// Control frames that wait for the writer. Who makes us answer more than this without reading is cut off.
const CONTROL_QUEUE: usize = 2 * MAX_STREAMS + 96;

/// What the writer is given. A transport sends what it has a form for, and passes over the rest.
#[derive(Debug)]
pub(crate) enum Outbound {
    /// Bytes of a stream; at most [`MAX_PIECE`].
    Data {
        stream: u32,
        payload: Bytes,
        fin: bool,
    },
    /// Opens a stream.
    #[cfg(any(test, feature = "client"))]
    Open { stream: u32, headers: Headers },
    /// Takes a stream that the client opened.
    Reply(u32),
    /// Ends a stream before its time.
    Reset { stream: u32, status: u32 },
    /// Grants a stream, or with 0 the session, more bytes.
    Grant { stream: u32, bytes: u32 },
    /// Tells which windows we keep, before anything else.
    #[cfg(any(test, feature = "client"))]
    Settings,
    /// Answers a ping of SPDY.
    Ping(u32),
    /// Answers a ping of WebSocket.
    Pong(Bytes),
    /// Finds out whether the other side still exists.
    Probe,
    /// The session's last frame.
    Close(Close),
}

/// How a session is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// All is said.
    Done,
    /// The client broke the protocol.
    Protocol,
}

/// The stream ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client has gone or has reset the stream")]
pub(crate) struct Gone;

/// The stream cannot be opened: there are [`MAX_STREAMS`], or the id is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// What became of a client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// They wait for their taker, or there is none and they are forgotten.
    Taken,
    /// They are more than was granted.
    Overrun,
    /// No such stream is open.
    Unknown,
}

/// Of one session. See the module.
#[derive(Debug)]
pub(crate) struct Link {
    state: Mutex<State>,
    /// More may be sent, or a stream or the session has ended.
    changed: Notify,
    /// Something that waited was taken.
    drained: Notify,
    /// The control queue overflowed.
    flooded: Notify,
    control: mpsc::Sender<Outbound>,
    pub(crate) meter: Meter,
}

#[derive(Debug)]
struct State {
    streams: HashMap<u32, Stream>,
    windows: Windows,
    /// What the session may still send; counts only when windows are kept.
    credit: i64,
    /// What a new stream may send at first.
    initial_credit: i64,
    receive: ReceiveWindow,
    /// Bytes that wait in all streams.
    buffered: usize,
    ended: bool,
}

#[derive(Debug)]
struct Stream {
    /// What the client sent and nobody has taken yet. One buffer, not the pieces that it came in: pieces of a byte would each
    /// hold the buffer that they were read into.
    buffer: BytesMut,
    receive: ReceiveWindow,
    credit: i64,
    /// The client sends no more.
    remote_done: bool,
    /// We send no more.
    local_done: bool,
    reset: bool,
    /// The ends still exist.
    has_reader: bool,
    has_writer: bool,
    readable: Arc<Notify>,
}

/// The queues of a session's writer.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) control: mpsc::Receiver<Outbound>,
    pub(crate) data: mpsc::Receiver<Outbound>,
}

impl Link {
    /// A session's link, what its streams send through, and what its writer takes from.
    pub(crate) fn new(windows: Windows) -> (Arc<Self>, mpsc::Sender<Outbound>, Queues) {
        let (control, control_rx) = mpsc::channel(CONTROL_QUEUE);
        let (data, data_rx) = mpsc::channel(DATA_QUEUE);
        let link = Self {
            state: Mutex::new(State {
                streams: HashMap::new(),
                windows,
                credit: WINDOW,
                initial_credit: WINDOW,
                receive: ReceiveWindow::default(),
                buffered: 0,
                ended: false,
            }),
            changed: Notify::new(),
            drained: Notify::new(),
            flooded: Notify::new(),
            control,
            meter: Meter::default(),
        };
        let queues = Queues {
            control: control_rx,
            data: data_rx,
        };
        (Arc::new(link), data, queues)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a control frame. When there is no room, the client makes us answer without reading, and the session ends.
    pub(crate) fn control(&self, frame: Outbound) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.control.try_send(frame) {
            self.flooded.notify_one();
        }
    }

    /// Resolves when the client has been cut off for flooding us.
    pub(crate) async fn flooded(&self) {
        self.flooded.notified().await;
    }

    /// A new stream.
    pub(crate) fn open(
        self: &Arc<Self>,
        id: u32,
        data: &mpsc::Sender<Outbound>,
    ) -> Result<(Incoming, Outgoing), Refused> {
        let mut state = self.lock();
        if state.streams.len() >= MAX_STREAMS {
            self.reset_left(&mut state);
        }
        if state.ended || state.streams.len() >= MAX_STREAMS || state.streams.contains_key(&id) {
            return Err(Refused);
        }
        let readable = Arc::new(Notify::new());
        let credit = state.initial_credit;
        state.streams.insert(
            id,
            Stream {
                buffer: BytesMut::new(),
                receive: ReceiveWindow::default(),
                credit,
                remote_done: false,
                local_done: false,
                reset: false,
                has_reader: true,
                has_writer: true,
                readable: readable.clone(),
            },
        );
        let incoming = Incoming {
            link: self.clone(),
            id,
            readable,
        };
        let outgoing = Outgoing {
            link: self.clone(),
            id,
            data: data.clone(),
            done: false,
        };
        Ok((incoming, outgoing))
    }

    /// The client sent bytes.
    pub(crate) fn push(&self, id: u32, bytes: &[u8]) -> Pushed {
        self.meter.received(bytes.len());
        let mut state = self.lock();
        let state = &mut *state;
        // The session's window is never what holds a client back: one stream that nobody reads would hold back all others.
        state.receive.receive(bytes.len());
        state.receive.take(bytes.len());
        if let Some(bytes) = state.receive.grant(state.windows) {
            self.control(Outbound::Grant { stream: 0, bytes });
        }
        let Some(stream) = state.streams.get_mut(&id) else {
            return Pushed::Unknown;
        };
        if stream.reset || stream.remote_done {
            return Pushed::Taken;
        }
        match stream.receive.receive(bytes.len()).judge(state.windows) {
            Ok(windows) => state.windows = windows,
            Err(Overrun) => return Pushed::Overrun,
        }
        if stream.has_reader {
            stream.buffer.extend_from_slice(bytes);
            state.buffered += bytes.len();
            stream.readable.notify_one();
        } else {
            stream.receive.take(bytes.len());
            if let Some(bytes) = stream.receive.grant(state.windows) {
                self.control(Outbound::Grant { stream: id, bytes });
            }
        }
        Pushed::Taken
    }

    /// Whether so much waits, in this stream or in all, that nothing more is to be read.
    pub(crate) fn is_full(&self, id: u32) -> bool {
        let state = self.lock();
        state.buffered > SESSION_BUFFER
            || state
                .streams
                .get(&id)
                .is_some_and(|stream| stream.buffer.len() > STREAM_BUFFER)
    }

    /// Resolves when something has been taken since the call.
    pub(crate) fn drained(&self) -> tokio::sync::futures::Notified<'_> {
        self.drained.notified()
    }

    /// Resets the stream in which most waits, if it holds up others that are open.
    pub(crate) fn reset_fullest(&self, status: u32) {
        let mut state = self.lock();
        let others = state
            .streams
            .values()
            .filter(|stream| !(stream.reset || stream.remote_done && stream.local_done))
            .count();
        let fullest = state
            .streams
            .iter()
            .max_by_key(|(_, stream)| stream.buffer.len());
        let Some((&stream, _)) = fullest.filter(|_| others > 2) else {
            return;
        };
        self.control(Outbound::Reset { stream, status });
        self.reset(&mut state, stream);
    }

    /// The client sends no more on this stream.
    pub(crate) fn remote_end(&self, id: u32) {
        let mut state = self.lock();
        if let Some(stream) = state.streams.get_mut(&id) {
            stream.remote_done = true;
            stream.readable.notify_one();
        }
        state.forget_if_over(id);
    }

    /// The client wants this stream no more.
    pub(crate) fn remote_reset(&self, id: u32) {
        self.reset(&mut self.lock(), id);
    }

    /// A stream broke the protocol: it is told so, and ends.
    pub(crate) fn refuse(&self, stream: u32, status: u32) {
        self.control(Outbound::Reset { stream, status });
        self.reset(&mut self.lock(), stream);
    }

    fn reset(&self, state: &mut State, id: u32) {
        if let Some(stream) = state.streams.get_mut(&id) {
            stream.reset = true;
            stream.readable.notify_one();
            if !stream.remote_done {
                let waiting = std::mem::take(&mut stream.buffer).len();
                state.buffered -= waiting;
            }
            state.forget_if_over(id);
            self.changed.notify_waiters();
            self.drained.notify_waiters();
        }
    }

    /// Resets the streams that nobody here has any use for, and that the client has not ended either. They are left in peace until
    /// there is need for room: clients end them in their own time, and a reset could overtake what they have not read yet.
    fn reset_left(&self, state: &mut State) {
        state.streams.retain(|&stream, left| {
            let keep = left.has_reader || left.has_writer;
            if !keep && !left.reset {
                self.control(Outbound::Reset {
                    stream,
                    status: CANCEL,
                });
            }
            keep
        });
    }

    /// The client has shown that it keeps windows.
    pub(crate) fn keep_windows(&self) {
        let mut state = self.lock();
        if state.windows == Windows::Unknown {
            state.windows = Windows::Kept;
        }
    }

    /// The client grants a stream more bytes. Fails when that is more than a window can have.
    pub(crate) fn granted(&self, id: u32, bytes: u32) -> Result<(), Overrun> {
        self.keep_windows();
        let mut state = self.lock();
        let credit = if id == 0 {
            Some(&mut state.credit)
        } else {
            state.streams.get_mut(&id).map(|stream| &mut stream.credit)
        };
        if let Some(credit) = credit {
            *credit += i64::from(bytes);
            if *credit > i64::from(i32::MAX) {
                return Err(Overrun);
            }
        }
        self.changed.notify_waiters();
        Ok(())
    }

    /// The client changes what streams may send before they need credit.
    pub(crate) fn initial_window(&self, bytes: u32) {
        self.keep_windows();
        let mut state = self.lock();
        let bytes = i64::from(bytes.min(i32::MAX as u32));
        let change = bytes - state.initial_credit;
        state.initial_credit = bytes;
        for stream in state.streams.values_mut() {
            stream.credit += change;
        }
        self.changed.notify_waiters();
    }

    /// Ends the session: everyone who waits is woken, nothing more is taken.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        // What was sent to its end can still be taken.
        state.streams.retain(|_, stream| {
            stream.readable.notify_one();
            stream.remote_done && stream.has_reader
        });
        state.buffered = state
            .streams
            .values()
            .map(|stream| stream.buffer.len())
            .sum();
        self.changed.notify_waiters();
        self.drained.notify_waiters();
    }

    /// Waits until `look` has an answer.
    async fn when<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Before looking, so that no change between looking and waiting is missed.
            changed.as_mut().enable();
            if let Some(answer) = look(&mut self.lock()) {
                return answer;
            }
            changed.await;
        }
    }
}

impl State {
    fn forget_if_over(&mut self, id: u32) {
        let over = self.streams.get(&id).is_some_and(|stream| {
            !stream.has_reader
                && !stream.has_writer
                && (stream.reset || stream.remote_done && stream.local_done)
        });
        if over {
            self.streams.remove(&id);
        }
    }

    fn is_gone(&self, id: u32) -> bool {
        self.ended || self.streams.get(&id).is_none_or(|stream| stream.reset)
    }
}
