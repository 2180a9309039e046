//! From bytes to frames. Pure: whoever reads the connection appends to [`Decoder::buffer`] and asks for frames.

use bytes::{Buf, Bytes, BytesMut};

use super::{
    frame::{
        FLAG_CLEAR_SETTINGS, FLAG_FIN, FLAG_UNIDIRECTIONAL, Frame, HEAD_LEN, MAX_CONTROL_LEN,
        MAX_STREAM, Setting, SpdyError, VERSION, kind,
    },
    headers::Inflater,
};

/// Set in the first word of control frames.
const CONTROL_BIT: u32 = 0x8000_0000;
/// Longest piece of a data frame that is passed on at once.
const MAX_PIECE: usize = 32 * 1024;

/// Decodes what one peer sends.
pub(crate) struct Decoder {
    /// Bytes not decoded yet. Append what was read; never more than a control frame's length is kept waiting.
    pub(crate) buffer: BytesMut,
    inflater: Inflater,
    /// A data frame of which pieces are still to come.
    data: Option<PartialData>,
    /// Bytes of an unknown control frame that are still to be skipped.
    skip: usize,
}

struct PartialData {
    stream: u32,
    fin: bool,
    left: usize,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("waiting", &self.buffer.len())
            .finish_non_exhaustive()
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            buffer: BytesMut::new(),
            inflater: Inflater::new(),
            data: None,
            skip: 0,
        }
    }
}

impl Decoder {
    /// The next frame or piece of one; `None` when more bytes are needed. After an error the connection is of no more use.
    pub(crate) fn frame(&mut self) -> Result<Option<Frame>, SpdyError> {
        loop {
            if self.skip > 0 {
                let skipped = self.skip.min(self.buffer.len());
                self.buffer.advance(skipped);
                self.skip -= skipped;
                if self.skip > 0 {
                    return Ok(None);
                }
            }
            if let Some(piece) = self.piece() {
                return Ok(piece);
            }
            let Some(head) = self.buffer.first_chunk::<HEAD_LEN>() else {
                return Ok(None);
            };
            // A word that tells control from data by its highest bit, then flags and length in one.
            let [first, second] = [0, 4].map(|at| {
                head[at..at + 4]
                    .iter()
                    .fold(0, |word: u32, &byte| word << 8 | u32::from(byte))
            });
            let flags = (second >> 24) as u8;
            let len = (second & 0x00ff_ffff) as usize;
            if first & CONTROL_BIT == 0 {
                if first == 0 {
                    return Err(SpdyError::DataForStreamZero);
                }
                self.buffer.advance(HEAD_LEN);
                self.data = Some(PartialData {
                    stream: first,
                    fin: flags & FLAG_FIN != 0,
                    left: len,
                });
                continue;
            }
            let version = ((first & MAX_STREAM) >> 16) as u16;
            let kind = (first & 0xffff) as u16;
            if version != VERSION {
                return Err(SpdyError::Version(version));
            }
            if len > MAX_CONTROL_LEN {
                return Err(SpdyError::TooLong { kind, len });
            }
            if !(kind::SYN_STREAM..=kind::WINDOW_UPDATE).contains(&kind) || kind == 5 {
                // The protocol asks that unknown control frames are passed over.
                self.buffer.advance(HEAD_LEN);
                self.skip = len;
                continue;
            }
            if self.buffer.len() < HEAD_LEN + len {
                return Ok(None);
            }
            let mut frame = self.buffer.split_to(HEAD_LEN + len);
            frame.advance(HEAD_LEN);
            return self.control(kind, flags, frame.freeze()).map(Some);
        }
    }

    /// A piece of the data frame that is being passed on: `Some(None)` when more bytes are needed for one.
    #[expect(
        clippy::option_option,
        reason = "outside: is there a data frame; inside: is there a piece of it"
    )]
    fn piece(&mut self) -> Option<Option<Frame>> {
        let data = self.data.as_mut()?;
        if data.left > 0 && self.buffer.is_empty() {
            return Some(None);
        }
        let len = data.left.min(self.buffer.len()).min(MAX_PIECE);
        data.left -= len;
        let (stream, last) = (data.stream, data.left == 0);
        let fin = data.fin && last;
        if last {
            self.data = None;
        }
        Some(Some(Frame::Data {
            stream,
            fin,
            payload: self.buffer.split_to(len).freeze(),
        }))
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, SpdyError> {
        let len = body.len();
        let wrong = SpdyError::WrongLength { kind, len };
        let exactly = |wanted| if len == wanted { Ok(()) } else { Err(wrong) };
        let at_least = |wanted| if len >= wanted { Ok(()) } else { Err(wrong) };
        let fin = flags & FLAG_FIN != 0;
        let stream_of = |body: &mut Bytes| match body.get_u32() & MAX_STREAM {
            0 => Err(SpdyError::StreamZero(kind)),
            stream => Ok(stream),
        };
        Ok(match kind {
            kind::SYN_STREAM => {
                at_least(10)?;
                let stream = stream_of(&mut body)?;
                let associated = body.get_u32() & MAX_STREAM;
                let priority = body.get_u8() >> 5;
                let _credential_slot = body.get_u8();
                Frame::SynStream {
                    stream,
                    associated,
                    priority,
                    fin,
                    unidirectional: flags & FLAG_UNIDIRECTIONAL != 0,
                    headers: self.inflater.headers(&body)?,
                }
            }
            kind::SYN_REPLY => {
                at_least(4)?;
                let stream = stream_of(&mut body)?;
                Frame::SynReply {
                    stream,
                    fin,
                    headers: self.inflater.headers(&body)?,
                }
            }
            kind::HEADERS => {
                at_least(4)?;
                let stream = stream_of(&mut body)?;
                Frame::Headers {
                    stream,
                    fin,
                    headers: self.inflater.headers(&body)?,
                }
            }
            kind::RST_STREAM => {
                exactly(8)?;
                let stream = stream_of(&mut body)?;
                Frame::RstStream {
                    stream,
                    status: body.get_u32(),
                }
            }
            kind::SETTINGS => {
                at_least(4)?;
                let count = body.get_u32() as usize;
                if !body.len().is_multiple_of(8) || body.len() / 8 != count {
                    return Err(wrong);
                }
                let entries = (0..count)
                    .map(|_| {
                        let head = body.get_u32();
                        Setting {
                            id: head & 0x00ff_ffff,
                            flags: (head >> 24) as u8,
                            value: body.get_u32(),
                        }
                    })
                    .collect();
                Frame::Settings {
                    clear: flags & FLAG_CLEAR_SETTINGS != 0,
                    entries,
                }
            }
            kind::PING => {
                exactly(4)?;
                Frame::Ping(body.get_u32())
            }
            kind::GOAWAY => {
                exactly(8)?;
                Frame::GoAway {
                    last_good: body.get_u32() & MAX_STREAM,
                    status: body.get_u32(),
                }
            }
            // The caller lets nothing else through.
            _ => {
                exactly(8)?;
                let stream = body.get_u32() & MAX_STREAM;
                let delta = body.get_u32() & MAX_STREAM;
                if delta == 0 {
                    return Err(SpdyError::EmptyUpdate);
                }
                Frame::WindowUpdate { stream, delta }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;

    use super::*;
    use crate::spdy::{Encoder, Headers};

    /// Puts the pieces of data frames together again.
    fn join(frames: Vec<Frame>) -> Vec<Frame> {
        let mut joined: Vec<Frame> = Vec::new();
        let mut open = false;
        for frame in frames {
            match (joined.last_mut(), frame) {
                (
                    Some(Frame::Data {
                        stream,
                        fin,
                        payload,
                    }),
                    Frame::Data {
                        stream: next,
                        fin: last,
                        payload: more,
                    },
                ) if open && *stream == next => {
                    *payload = [payload.as_ref(), more.as_ref()].concat().into();
                    *fin = last;
                }
                (_, frame) => {
                    open = matches!(frame, Frame::Data { .. });
                    joined.push(frame);
                }
            }
        }
        joined
    }

    fn headers() -> impl Strategy<Value = Headers> {
        proptest::collection::vec(("[a-z][a-z0-9-]{0,20}", "[ -~]{0,200}"), 0..20)
            .prop_map(|pairs| pairs.into_iter().collect())
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let stream = 1..=MAX_STREAM;
        let bit = any::<bool>();
        prop_oneof![
            (stream.clone(), 0..=MAX_STREAM, 0_u8..8, bit, bit, headers()).prop_map(
                |(stream, associated, priority, fin, unidirectional, headers)| Frame::SynStream {
                    stream,
                    associated,
                    priority,
                    fin,
                    unidirectional,
                    headers
                }
            ),
            (stream.clone(), bit, headers()).prop_map(|(stream, fin, headers)| Frame::SynReply {
                stream,
                fin,
                headers
            }),
            (stream.clone(), bit, headers()).prop_map(|(stream, fin, headers)| Frame::Headers {
                stream,
                fin,
                headers
            }),
            (stream.clone(), any::<u32>())
                .prop_map(|(stream, status)| Frame::RstStream { stream, status }),
            (
                bit,
                proptest::collection::vec((0_u32..1 << 24, any::<u8>(), any::<u32>()), 0..9)
            )
                .prop_map(|(clear, entries)| Frame::Settings {
                    clear,
                    entries: entries
                        .into_iter()
                        .map(|(id, flags, value)| Setting { id, flags, value })
                        .collect()
                }),
            any::<u32>().prop_map(Frame::Ping),
            (0..=MAX_STREAM, any::<u32>())
                .prop_map(|(last_good, status)| Frame::GoAway { last_good, status }),
            (0..=MAX_STREAM, 1..=MAX_STREAM)
                .prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
            (
                stream,
                bit,
                proptest::collection::vec(any::<u8>(), 0..70_000)
            )
                .prop_map(|(stream, fin, payload)| Frame::Data {
                    stream,
                    fin,
                    payload: payload.into()
                }),
        ]
    }

    fn decode(bytes: &[u8], step: usize) -> Result<Vec<Frame>, SpdyError> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for chunk in bytes.chunks(step) {
            decoder.buffer.extend_from_slice(chunk);
            while let Some(frame) = decoder.frame()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_however_it_is_cut(
            sent in proptest::collection::vec(frames(), 1..6), step in 1_usize..5000,
        ) {
            let mut encoder = Encoder::default();
            let mut bytes = BytesMut::new();
            // A ping between frames keeps pieces of one data frame apart from those of the next.
            let sent: Vec<Frame> = sent.into_iter().flat_map(|frame| [frame, Frame::Ping(7)]).collect();
            for frame in &sent {
                encoder.encode(frame, &mut bytes).unwrap();
            }
            prop_assert_eq!(join(decode(&bytes, step).unwrap()), sent);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..4000), step in 1_usize..100) {
            let _ = decode(&bytes, step);
        }

        #[test]
        fn broken_control_frames_are_decoded_or_refused(
            kind in 0_u16..12, flags in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = vec![0x80, 3];
            bytes.extend(kind.to_be_bytes());
            bytes.push(flags);
            bytes.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
            bytes.extend(body);
            let _ = decode(&bytes, 7);
        }
    }

    #[test]
    fn frames_that_break_the_protocol_are_refused() {
        let table: &[(&[u8], SpdyError)] = &[
            (&[0x80, 2, 0, 1, 0, 0, 0, 10], SpdyError::Version(2)),
            (
                &[0x80, 3, 0, 1, 0, 1, 0, 1],
                SpdyError::TooLong {
                    kind: 1,
                    len: 65_537,
                },
            ),
            (
                &[0x80, 3, 0, 6, 0, 0, 0, 3, 0, 0, 0],
                SpdyError::WrongLength { kind: 6, len: 3 },
            ),
            (
                &[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0],
                SpdyError::WrongLength { kind: 1, len: 2 },
            ),
            (
                &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1],
                SpdyError::StreamZero(3),
            ),
            (&[0, 0, 0, 0, 0, 0, 0, 0], SpdyError::DataForStreamZero),
            (
                &[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0],
                SpdyError::EmptyUpdate,
            ),
            (
                &[0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff],
                SpdyError::WrongLength { kind: 4, len: 0 },
            ),
            (
                &[0x80, 3, 0, 2, 0, 0, 0, 6, 0, 0, 0, 1, 0x12, 0x34],
                SpdyError::Compression,
            ),
        ];
        for (bytes, error) in table {
            let got = decode(bytes, usize::MAX).unwrap_err();
            match (got, error) {
                (
                    SpdyError::WrongLength { kind, .. },
                    SpdyError::WrongLength { kind: wanted, .. },
                ) => {
                    assert_eq!(kind, *wanted);
                }
                (got, wanted) => assert_eq!(got, *wanted, "{bytes:?}"),
            }
        }
    }

    #[test]
    fn unknown_control_frames_are_passed_over() {
        let mut bytes = vec![0x80, 3, 0, 10, 0, 0, 0, 5, 1, 2, 3, 4, 5];
        bytes.extend([0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9]);
        for step in [1, 3, 100] {
            assert_eq!(decode(&bytes, step).unwrap(), [Frame::Ping(9)]);
        }
    }
}
