//! A SPDY connection: reads frames into the session's [`Link`], answers what the protocol wants answered, and hands out the
//! streams that the client opens.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::mpsc,
};

use super::{
    Decoder, Encoder, Frame, Headers, Setting,
    encode::data_head,
    frame::{SETTING_INITIAL_WINDOW, SpdyError, reset},
};
use crate::{
    drive::{self, End},
    link::{Close, Incoming, Link, Outbound, Outgoing, Pushed},
    window::Windows,
    write::Encode,
};

/// How much is read at once.
const READ_LEN: usize = 64 * 1024;
/// What GOAWAY says when the peer broke the protocol.
const GOAWAY_PROTOCOL_ERROR: u32 = 1;

/// Which side of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Streams are opened by the other side, with odd ids.
    Server,
    /// We open streams, with odd ids.
    #[cfg(any(test, feature = "client"))]
    Client,
}

/// A stream that the client has opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) id: u32,
    pub(crate) headers: Headers,
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
}

/// A running connection, as its user sees it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) link: Arc<Link>,
    /// Streams in the order in which the client opened them. There are never more than a session may have, so this needs no bound.
    pub(crate) opened: mpsc::UnboundedReceiver<Opened>,
    pub(crate) data: mpsc::Sender<Outbound>,
}

/// Starts to speak SPDY on a connection of which `early` has been read already. The future runs it, and ends with it.
pub(crate) fn start<R, W>(
    read: R,
    write: W,
    early: Bytes,
    role: Role,
    windows: Windows,
    idle: Duration,
    stall: Option<Duration>,
) -> (Session, impl Future<Output = End>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (link, data, queues) = Link::new(windows);
    let (opened_tx, opened) = mpsc::unbounded_channel();
    let encoder = SessionEncoder {
        encoder: Encoder::default(),
        role,
        last_probe: 0,
        last_stream: 0,
    };
    let reader = Reader {
        link: link.clone(),
        data: data.clone(),
        opened: opened_tx,
        role,
        last_stream: 0,
        stall,
    };
    let driver = drive::drive(
        link.clone(),
        reader.run(read, early),
        write,
        encoder,
        queues,
        idle,
    );
    (Session { link, opened, data }, driver)
}

struct Reader {
    link: Arc<Link>,
    data: mpsc::Sender<Outbound>,
    opened: mpsc::UnboundedSender<Opened>,
    role: Role,
    last_stream: u32,
    /// How long a stream may hold up the others.
    stall: Option<Duration>,
}

impl Reader {
    async fn run(mut self, mut wire: impl AsyncRead + Unpin, early: Bytes) -> End {
        let mut decoder = Decoder::default();
        decoder.buffer.extend_from_slice(&early);
        loop {
            loop {
                match decoder.frame() {
                    Ok(Some(frame)) => {
                        if let Err(end) = self.frame(frame).await {
                            return end;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return End::Garbage(error.to_string()),
                }
            }
            decoder.buffer.reserve(READ_LEN);
            match wire.read_buf(&mut decoder.buffer).await {
                Ok(0) => return End::Left,
                Ok(_) => self.link.meter.touch(),
                Err(error) => return End::Broken(error),
            }
        }
    }

    async fn frame(&mut self, frame: Frame) -> Result<(), End> {
        match frame {
            Frame::Data {
                stream,
                fin,
                payload,
            } => {
                match self.link.push(stream, &payload) {
                    Pushed::Overrun => self.link.refuse(stream, reset::FLOW_CONTROL_ERROR),
                    // Streams that are over may have had data on their way; others never were.
                    Pushed::Unknown if stream > self.last_stream && self.role == Role::Server => {
                        self.link.refuse(stream, reset::INVALID_STREAM);
                    }
                    Pushed::Taken | Pushed::Unknown => {}
                }
                if fin {
                    self.link.remote_end(stream);
                }
                if self.link.is_full(stream) {
                    drive::until_drained(&self.link, stream, self.stall).await;
                }
            }
            Frame::SynStream {
                stream,
                fin,
                unidirectional,
                headers,
                ..
            } => self.open(stream, fin, unidirectional, headers)?,
            Frame::SynReply { stream, fin, .. } | Frame::Headers { stream, fin, .. } => {
                if fin {
                    self.link.remote_end(stream);
                }
            }
            Frame::RstStream { stream, .. } => self.link.remote_reset(stream),
            Frame::Settings { entries, .. } => {
                self.link.keep_windows();
                for Setting { id, value, .. } in entries {
                    if id == SETTING_INITIAL_WINDOW {
                        self.link.initial_window(value);
                    }
                }
            }
            Frame::Ping(id) => {
                // Clients' pings are odd; even ones answer ours.
                if (id % 2 == 1) == (self.role == Role::Server) {
                    self.link.control(Outbound::Ping(id));
                }
            }
            // Streams that are open go on; the connection's end is the session's.
            Frame::GoAway { .. } => {}
            Frame::WindowUpdate { stream, delta } => {
                if self.link.granted(stream, delta).is_err() {
                    if stream == 0 {
                        return Err(End::Garbage(
                            "the session was granted more than 2147483647 bytes".to_owned(),
                        ));
                    }
                    self.link.refuse(stream, reset::FLOW_CONTROL_ERROR);
                }
            }
        }
        Ok(())
    }

    fn open(
        &mut self,
        stream: u32,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    ) -> Result<(), End> {
        if self.role != Role::Server || stream.is_multiple_of(2) {
            self.link.refuse(stream, reset::PROTOCOL_ERROR);
            return Ok(());
        }
        if stream <= self.last_stream {
            return Err(End::Garbage(format!(
                "stream {stream} was opened after stream {}",
                self.last_stream
            )));
        }
        self.last_stream = stream;
        let Ok((incoming, outgoing)) = self.link.open(stream, &self.data) else {
            self.link.refuse(stream, reset::REFUSED_STREAM);
            return Ok(());
        };
        if unidirectional {
            // All that we carry is answered at least by an end of stream.
            self.link.refuse(stream, reset::REFUSED_STREAM);
            return Ok(());
        }
        // spdystream drops data that comes before the reply: it has to be queued before anyone can send.
        self.link.control(Outbound::Reply(stream));
        if fin {
            self.link.remote_end(stream);
        }
        let opened = Opened {
            id: stream,
            headers,
            incoming,
            outgoing,
        };
        // Nobody takes streams any more: dropping it resets it.
        let _ = self.opened.send(opened);
        Ok(())
    }
}

struct SessionEncoder {
    encoder: Encoder,
    role: Role,
    last_probe: u32,
    last_stream: u32,
}

impl Encode for SessionEncoder {
    fn encode(&mut self, frame: Outbound, out: &mut BytesMut) -> Result<Option<Bytes>, SpdyError> {
        let frame = match frame {
            Outbound::Data {
                payload,
                fin: false,
                ..
            } if payload.is_empty() => return Ok(None),
            Outbound::Data {
                stream,
                payload,
                fin,
            } => {
                data_head(stream, fin, payload.len(), out);
                return Ok(Some(payload));
            }
            #[cfg(any(test, feature = "client"))]
            Outbound::Open { stream, headers } => Frame::SynStream {
                stream,
                associated: 0,
                priority: 0,
                fin: false,
                unidirectional: false,
                headers,
            },
            Outbound::Reply(stream) => {
                self.last_stream = stream;
                Frame::SynReply {
                    stream,
                    fin: false,
                    headers: Headers::default(),
                }
            }
            Outbound::Reset { stream, status } => Frame::RstStream { stream, status },
            Outbound::Grant { stream, bytes } => Frame::WindowUpdate {
                stream,
                delta: bytes,
            },
            #[cfg(any(test, feature = "client"))]
            Outbound::Settings => Frame::Settings {
                clear: false,
                entries: vec![Setting {
                    id: SETTING_INITIAL_WINDOW,
                    flags: 0,
                    value: u32::try_from(crate::window::WINDOW).unwrap_or(u32::MAX),
                }],
            },
            Outbound::Ping(id) => Frame::Ping(id),
            Outbound::Pong(_) => return Ok(None),
            Outbound::Probe => {
                let first = if self.role == Role::Server { 2 } else { 1 };
                self.last_probe = match self.last_probe {
                    0 => first,
                    last => last.checked_add(2).unwrap_or(first),
                };
                Frame::Ping(self.last_probe)
            }
            Outbound::Close(close) => Frame::GoAway {
                last_good: self.last_stream,
                status: match close {
                    Close::Done => 0,
                    Close::Protocol => GOAWAY_PROTOCOL_ERROR,
                },
            },
        };
        self.encoder.encode(&frame, out)?;
        Ok(None)
    }
}
