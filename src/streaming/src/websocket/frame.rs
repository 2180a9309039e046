//! Frames of WebSocket: what a client sends, decoded piece by piece, and the heads of what we send. Pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Longest payload of a control frame; the protocol's own limit.
const MAX_CONTROL_LEN: usize = 125;
/// Longest piece of a message that is passed on at once.
const MAX_PIECE: usize = 32 * 1024;

/// Types of frames.
mod opcode {
    pub(super) const CONTINUATION: u8 = 0;
    pub(super) const TEXT: u8 = 1;
    pub(super) const BINARY: u8 = 2;
    pub(super) const CLOSE: u8 = 8;
    pub(super) const PING: u8 = 9;
    pub(super) const PONG: u8 = 10;
}

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A piece of a text or binary message. Which of the two never matters to us: a channel's form was agreed on.
    Piece {
        /// A message begins.
        first: bool,
        /// It ends with this piece.
        last: bool,
        /// Unmasked.
        payload: BytesMut,
    },
    /// Wants to be answered with a pong of the same payload.
    Ping(Bytes),
    /// Answers a ping, or just shows that the client is there.
    Pong,
    /// The client sends no more, and waits for the same from us.
    Close,
}

/// Why bytes are not what a WebSocket client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WebSocketError {
    #[error("a frame without a mask, which clients have to use")]
    Unmasked,
    #[error("a frame of the reserved type {0}")]
    Reserved(u8),
    #[error("a frame with bits of an extension that was not agreed to")]
    Extension,
    #[error("a control frame in several pieces or with more than 125 bytes")]
    LongControl,
    #[error("a message that begins within another, or goes on without having begun")]
    Continuation,
    #[error("a frame with an impossible length")]
    Length,
}

/// Decodes what one client sends.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// Bytes not decoded yet. Append what was read.
    pub(crate) buffer: BytesMut,
    /// A data frame of which pieces are still to come.
    open: Option<OpenFrame>,
    /// A message goes on in further frames.
    in_message: bool,
}

#[derive(Debug)]
struct OpenFrame {
    mask: [u8; 4],
    left: u64,
    /// The frame begins a message, and nothing of it has been passed on yet.
    first: bool,
    /// The frame ends its message.
    fin: bool,
}

impl Decoder {
    /// The next event; `None` when more bytes are needed. After an error the connection is of no more use.
    pub(crate) fn event(&mut self) -> Result<Option<Event>, WebSocketError> {
        if self.open.is_none() {
            match self.head()? {
                Head::Incomplete => return Ok(None),
                Head::Control(event) => return Ok(Some(event)),
                Head::Data(frame) => self.open = Some(frame),
            }
        }
        Ok(self.piece())
    }

    fn piece(&mut self) -> Option<Event> {
        let frame = self.open.as_mut()?;
        if frame.left > 0 && self.buffer.is_empty() {
            return None;
        }
        let room = usize::try_from(frame.left).unwrap_or(usize::MAX);
        let len = room.min(self.buffer.len()).min(MAX_PIECE);
        let mut payload = self.buffer.split_to(len);
        unmask(&mut payload, frame.mask);
        // The next piece begins where the mask stands then.
        frame.mask.rotate_left(len % 4);
        frame.left -= len as u64;
        let first = std::mem::take(&mut frame.first);
        let last = frame.left == 0 && frame.fin;
        if frame.left == 0 {
            self.in_message = !frame.fin;
            self.open = None;
        }
        Some(Event::Piece {
            first,
            last,
            payload,
        })
    }

    fn head(&mut self) -> Result<Head, WebSocketError> {
        let &[first, second, ..] = self.buffer.as_ref() else {
            return Ok(Head::Incomplete);
        };
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        if first & 0x70 != 0 {
            return Err(WebSocketError::Extension);
        }
        if second & 0x80 == 0 {
            return Err(WebSocketError::Unmasked);
        }
        let short = second & 0x7f;
        let control = opcode >= opcode::CLOSE;
        if control && (!fin || usize::from(short) > MAX_CONTROL_LEN) {
            return Err(WebSocketError::LongControl);
        }
        match opcode {
            opcode::CONTINUATION if !self.in_message => return Err(WebSocketError::Continuation),
            opcode::TEXT | opcode::BINARY if self.in_message => {
                return Err(WebSocketError::Continuation);
            }
            opcode::CONTINUATION
            | opcode::TEXT
            | opcode::BINARY
            | opcode::CLOSE
            | opcode::PING
            | opcode::PONG => {}
            other => return Err(WebSocketError::Reserved(other)),
        }
        let len_bytes = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let head_len = 2 + len_bytes + 4;
        let Some(head) = self.buffer.get(..head_len) else {
            return Ok(Head::Incomplete);
        };
        let (len_field, mask) = head[2..].split_at(len_bytes);
        let len = if len_bytes == 0 {
            u64::from(short)
        } else {
            len_field
                .iter()
                .fold(0, |len, &byte| len << 8 | u64::from(byte))
        };
        // The highest bit has to be 0.
        if len > i64::MAX.unsigned_abs() {
            return Err(WebSocketError::Length);
        }
        let mask = [mask[0], mask[1], mask[2], mask[3]];
        if !control {
            self.buffer.advance(head_len);
            return Ok(Head::Data(OpenFrame {
                mask,
                left: len,
                first: opcode != opcode::CONTINUATION,
                fin,
            }));
        }
        let end = head_len + usize::from(short);
        if self.buffer.len() < end {
            return Ok(Head::Incomplete);
        }
        self.buffer.advance(head_len);
        let mut payload = self.buffer.split_to(usize::from(short));
        unmask(&mut payload, mask);
        Ok(Head::Control(match opcode {
            opcode::PING => Event::Ping(payload.freeze()),
            opcode::PONG => Event::Pong,
            _ => Event::Close,
        }))
    }
}

enum Head {
    Incomplete,
    Control(Event),
    Data(OpenFrame),
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    // Words first: a byte at a time costs a third of what a transfer takes.
    let word = u32::from_ne_bytes(mask);
    let mut words = payload.chunks_exact_mut(4);
    for bytes in &mut words {
        let clear = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) ^ word;
        bytes.copy_from_slice(&clear.to_ne_bytes());
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// Appends the head of a whole binary or text message of `len` bytes.
pub(super) fn message_head(text: bool, len: usize, out: &mut BytesMut) {
    head(if text { opcode::TEXT } else { opcode::BINARY }, len, out);
}

/// Appends a pong.
pub(super) fn pong(payload: &[u8], out: &mut BytesMut) {
    head(opcode::PONG, payload.len(), out);
    out.put_slice(payload);
}

/// Appends a close frame.
pub(super) fn close(code: u16, out: &mut BytesMut) {
    head(opcode::CLOSE, 2, out);
    out.put_u16(code);
}

fn head(opcode: u8, len: usize, out: &mut BytesMut) {
    out.put_u8(0x80 | opcode);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..126), _) => out.put_u8(len),
        (_, Ok(len)) => {
            out.put_u8(126);
            out.put_u16(len);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;

    use super::*;

    fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut head = BytesMut::new();
        super::head(0, payload.len(), &mut head);
        head[0] = first;
        head[1] |= 0x80;
        let mut bytes = head.to_vec();
        bytes.extend(mask);
        bytes.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        bytes
    }

    fn decode(bytes: &[u8], step: usize) -> Result<Vec<Event>, WebSocketError> {
        let mut decoder = Decoder::default();
        let mut events = Vec::new();
        for chunk in bytes.chunks(step) {
            decoder.buffer.extend_from_slice(chunk);
            while let Some(event) = decoder.event()? {
                events.push(event);
            }
        }
        Ok(events)
    }

    /// Messages put together again; pings by their payload.
    fn messages(events: Vec<Event>) -> Vec<Vec<u8>> {
        let (mut messages, mut open) = (Vec::new(), None);
        for event in events {
            match event {
                Event::Piece {
                    first,
                    last,
                    payload,
                } => {
                    assert_eq!(first, open.is_none());
                    let message: &mut Vec<u8> = open.get_or_insert_default();
                    message.extend_from_slice(&payload);
                    if last {
                        messages.extend(open.take());
                    }
                }
                Event::Ping(payload) => messages.push([b"ping ", payload.as_ref()].concat()),
                Event::Pong | Event::Close => {}
            }
        }
        assert_eq!(open, None);
        messages
    }

    proptest! {
        #[test]
        fn messages_arrive_however_they_are_cut(
            sent in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..40_000), any::<[u8; 4]>(), 1_usize..4), 1..4),
            step in 1_usize..9000,
        ) {
            let mut bytes = Vec::new();
            for (payload, mask, frames) in &sent {
                // Empty messages are one frame.
                let cut: Vec<&[u8]> = match payload.chunks(payload.len().div_ceil(*frames).max(1)).collect::<Vec<_>>() {
                    cut if cut.is_empty() => vec![&[]],
                    cut => cut,
                };
                for (at, part) in cut.iter().enumerate() {
                    let opcode = if at == 0 { opcode::BINARY } else { opcode::CONTINUATION };
                    let fin = if at + 1 == cut.len() { 0x80 } else { 0 };
                    bytes.extend(frame(fin | opcode, part, *mask));
                }
            }
            let sent: Vec<Vec<u8>> = sent.into_iter().map(|(payload, ..)| payload).collect();
            prop_assert_eq!(messages(decode(&bytes, step).unwrap()), sent);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..3000), step in 1_usize..50) {
            let _ = decode(&bytes, step);
        }
    }

    #[test]
    fn control_frames_come_between_the_parts_of_a_message() {
        let mask = [1, 2, 3, 4];
        let bytes = [
            frame(opcode::BINARY, b"ab", mask),
            frame(0x80 | opcode::PING, b"?", mask),
            frame(0x80 | opcode::CONTINUATION, b"c", mask),
        ]
        .concat();
        for step in 1..bytes.len() {
            let events = decode(&bytes, step).unwrap();
            let pings = events
                .iter()
                .filter(|event| **event == Event::Ping(Bytes::from_static(b"?")));
            assert_eq!(pings.count(), 1);
            let data: Vec<u8> = events
                .iter()
                .filter_map(|event| match event {
                    Event::Piece { payload, .. } => Some(payload.to_vec()),
                    _ => None,
                })
                .flatten()
                .collect();
            assert_eq!(data, b"abc");
        }
    }

    #[test]
    fn what_no_client_may_send_is_refused() {
        let mask = [9; 4];
        let table = [
            (vec![0x82, 1, 0], WebSocketError::Unmasked),
            (frame(0x83, b"", mask), WebSocketError::Reserved(3)),
            (frame(0x8b, b"", mask), WebSocketError::Reserved(11)),
            (frame(0xc2, b"", mask), WebSocketError::Extension),
            (frame(opcode::PING, b"", mask), WebSocketError::LongControl),
            (frame(0x89, &[0; 126], mask), WebSocketError::LongControl),
            (frame(0x80, b"x", mask), WebSocketError::Continuation),
            (
                [frame(opcode::TEXT, b"x", mask), frame(0x81, b"y", mask)].concat(),
                WebSocketError::Continuation,
            ),
            (
                [vec![0x82, 0xff], vec![0xff; 8], mask.to_vec()].concat(),
                WebSocketError::Length,
            ),
        ];
        for (bytes, error) in table {
            assert_eq!(decode(&bytes, usize::MAX), Err(error), "{bytes:?}");
        }
    }
}
