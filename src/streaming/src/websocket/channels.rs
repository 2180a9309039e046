//! A WebSocket that carries channels: the first byte of every message tells which one, as a number or as a digit before base64.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::mpsc,
};

use super::frame::{self, Decoder, Event};
use crate::{
    drive::{self, End},
    link::{Close, Incoming, Link, Outbound, Outgoing},
    spdy::SpdyError,
    window::Windows,
    write::Encode,
};

/// How much is read at once.
const READ_LEN: usize = 64 * 1024;
/// The channel on which v5 closes others.
const CLOSE_SIGNAL: u8 = 255;

/// How messages look; agreed on in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// Messages are text: a digit for the channel, then base64.
    pub(crate) base64: bool,
    /// The client may end a channel by a message of 255 and the channel's number.
    pub(crate) close_signal: bool,
}

/// The two ends of a channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
}

/// Starts to speak on a WebSocket with `channels` channels. The future runs it, and ends with it; the last part returned is what
/// ends it in good order.
pub(crate) fn start<R, W>(
    read: R,
    write: W,
    early: Bytes,
    channels: u8,
    form: Form,
    idle: Duration,
    stall: Option<Duration>,
) -> (
    Vec<Channel>,
    impl Future<Output = End>,
    mpsc::Sender<Outbound>,
    Arc<Link>,
)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (link, data, queues) = Link::new(Windows::Absent);
    let open = (0..channels)
        // Ids are new, and fewer than a session may have.
        .filter_map(|channel| link.open(u32::from(channel), &data).ok())
        .map(|(incoming, outgoing)| Channel { incoming, outgoing })
        .collect();
    let reader = Reader {
        link: link.clone(),
        form,
        stall,
        message: Message::Outside,
    };
    let driver = drive::drive(
        link.clone(),
        reader.run(read, early),
        write,
        Encoder { form },
        queues,
        idle,
    );
    (open, driver, data, link)
}

struct Reader {
    link: Arc<Link>,
    form: Form,
    /// How long a channel may hold up the others.
    stall: Option<Duration>,
    message: Message,
}

/// How much is known of the message that is being received.
enum Message {
    /// Between messages, or in one of which nothing has come yet.
    Outside,
    /// Of this channel; with base64, up to three characters that wait for their fourth.
    Channel { channel: u8, rest: Vec<u8> },
    /// A close signal whose channel is still to come.
    CloseSignal,
    /// Of no interest to its end.
    Ignored,
}

impl Reader {
    async fn run(mut self, mut wire: impl AsyncRead + Unpin, early: Bytes) -> End {
        let mut decoder = Decoder::default();
        decoder.buffer.extend_from_slice(&early);
        loop {
            loop {
                match decoder.event() {
                    Ok(Some(Event::Piece { last, payload, .. })) => {
                        if let Err(what) = self.piece(&payload, last).await {
                            return End::Garbage(what.to_owned());
                        }
                    }
                    Ok(Some(Event::Ping(payload))) => self.link.control(Outbound::Pong(payload)),
                    Ok(Some(Event::Pong)) => {}
                    Ok(Some(Event::Close)) => return End::Closed,
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

    async fn piece(&mut self, mut bytes: &[u8], last: bool) -> Result<(), &'static str> {
        if matches!(self.message, Message::Outside)
            && let Some((&first, after)) = bytes.split_first()
        {
            bytes = after;
            self.message = if self.form.close_signal && first == CLOSE_SIGNAL {
                Message::CloseSignal
            } else if self.form.base64 {
                match first.checked_sub(b'0') {
                    Some(channel) => Message::Channel {
                        channel,
                        rest: Vec::new(),
                    },
                    None => Message::Ignored,
                }
            } else {
                Message::Channel {
                    channel: first,
                    rest: Vec::new(),
                }
            };
        }
        match &mut self.message {
            Message::Outside | Message::Ignored => {}
            Message::CloseSignal => match bytes {
                [] if !last => {}
                [channel] => {
                    self.link.remote_end(u32::from(*channel));
                    self.message = Message::Ignored;
                }
                _ => return Err("a close signal that does not name one channel"),
            },
            Message::Channel { channel, rest } => {
                let stream = u32::from(*channel);
                if self.form.base64 {
                    let decoded = decode(rest, bytes, last)?;
                    self.link.push(stream, &decoded);
                } else {
                    // Messages for channels that do not exist are passed over.
                    self.link.push(stream, bytes);
                }
                if self.link.is_full(stream) {
                    drive::until_drained(&self.link, stream, self.stall).await;
                }
            }
        }
        if last {
            self.message = Message::Outside;
        }
        Ok(())
    }
}

/// Decodes a piece of a base64 text, of which `rest` came before; what is no whole group of four yet stays in `rest`.
fn decode(rest: &mut Vec<u8>, bytes: &[u8], last: bool) -> Result<Vec<u8>, &'static str> {
    const BAD: &str = "a message that is not base64";
    rest.extend_from_slice(bytes);
    let whole = if last { rest.len() } else { rest.len() / 4 * 4 };
    let decoded = BASE64_STANDARD.decode(&rest[..whole]).map_err(|_| BAD)?;
    rest.drain(..whole);
    // Padding ends the text.
    if !last && decoded.len() % 3 != 0 {
        return Err(BAD);
    }
    Ok(decoded)
}

struct Encoder {
    form: Form,
}

impl Encode for Encoder {
    fn encode(&mut self, frame: Outbound, out: &mut BytesMut) -> Result<Option<Bytes>, SpdyError> {
        match frame {
            // The end of one channel is not told: clients that know the close signal know it as their own only.
            Outbound::Data {
                payload, fin: true, ..
            } if payload.is_empty() => {}
            Outbound::Data {
                stream, payload, ..
            } => {
                // Channels are few: see `start`.
                let channel = u8::try_from(stream).unwrap_or(u8::MAX);
                if self.form.base64 {
                    let text = BASE64_STANDARD.encode(&payload);
                    frame::message_head(true, 1 + text.len(), out);
                    out.put_u8(b'0'.saturating_add(channel));
                    return Ok(Some(text.into()));
                }
                frame::message_head(false, 1 + payload.len(), out);
                out.put_u8(channel);
                return Ok(Some(payload));
            }
            other => control(other, out),
        }
        Ok(None)
    }
}

/// Encodes what is no data.
pub(super) fn control(frame: Outbound, out: &mut BytesMut) {
    match frame {
        Outbound::Pong(payload) => frame::pong(&payload, out),
        // Not a ping: what clients wait for are pongs, asked for or not.
        Outbound::Probe => frame::pong(&[], out),
        Outbound::Close(Close::Done) => frame::close(1000, out),
        Outbound::Close(Close::Protocol) => frame::close(1002, out),
        // WebSocket has no streams, windows or settings.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn base64_arrives_however_it_is_cut(data in proptest::collection::vec(any::<u8>(), 0..500), step in 1_usize..40) {
            let text = BASE64_STANDARD.encode(&data);
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(step).collect();
            let (mut rest, mut decoded) = (Vec::new(), Vec::new());
            for (at, piece) in pieces.iter().enumerate() {
                decoded.extend(decode(&mut rest, piece, at + 1 == pieces.len()).unwrap());
            }
            prop_assert_eq!(decoded, data);
        }
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for (bytes, last) in [
            (&b"a"[..], true),
            (b"====", true),
            (b"YQ==", false),
            (b"a*cd", true),
        ] {
            assert!(decode(&mut Vec::new(), bytes, last).is_err(), "{bytes:?}");
        }
        assert_eq!(decode(&mut Vec::new(), b"YQ==", true).unwrap(), b"a");
    }
}
