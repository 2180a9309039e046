//! From frames to bytes.

use bytes::{BufMut, BytesMut};

use super::{
    frame::{
        FLAG_CLEAR_SETTINGS, FLAG_FIN, FLAG_UNIDIRECTIONAL, Frame, MAX_STREAM, SpdyError, VERSION,
        kind,
    },
    headers::{Deflater, Headers},
};

/// Encodes what is sent to one peer. Frames have to be sent in the order in which they were encoded: header compression has a state.
pub(crate) struct Encoder {
    deflater: Deflater,
    /// Reused for the body of every frame with headers.
    block: Vec<u8>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            deflater: Deflater::new(),
            block: Vec::new(),
        }
    }
}

impl Encoder {
    /// Appends a frame to `out`. Refuses headers that no peer would take.
    pub(crate) fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), SpdyError> {
        let fin_flag = |fin: bool| if fin { FLAG_FIN } else { 0 };
        match frame {
            Frame::SynStream {
                stream,
                associated,
                priority,
                fin,
                unidirectional,
                headers,
            } => {
                let unidirectional = if *unidirectional {
                    FLAG_UNIDIRECTIONAL
                } else {
                    0
                };
                self.compress(headers)?;
                head(
                    out,
                    kind::SYN_STREAM,
                    fin_flag(*fin) | unidirectional,
                    10 + self.block.len(),
                );
                out.put_u32(*stream);
                out.put_u32(*associated);
                out.put_u8(priority << 5);
                out.put_u8(0);
                out.put_slice(&self.block);
            }
            Frame::SynReply {
                stream,
                fin,
                headers,
            } => {
                self.compress(headers)?;
                head(out, kind::SYN_REPLY, fin_flag(*fin), 4 + self.block.len());
                out.put_u32(*stream);
                out.put_slice(&self.block);
            }
            Frame::Headers {
                stream,
                fin,
                headers,
            } => {
                self.compress(headers)?;
                head(out, kind::HEADERS, fin_flag(*fin), 4 + self.block.len());
                out.put_u32(*stream);
                out.put_slice(&self.block);
            }
            Frame::RstStream { stream, status } => {
                head(out, kind::RST_STREAM, 0, 8);
                out.put_u32(*stream);
                out.put_u32(*status);
            }
            Frame::Settings { clear, entries } => {
                let flags = if *clear { FLAG_CLEAR_SETTINGS } else { 0 };
                head(out, kind::SETTINGS, flags, 4 + 8 * entries.len());
                out.put_u32(u32::try_from(entries.len()).unwrap_or(u32::MAX));
                for entry in entries {
                    out.put_u32(u32::from(entry.flags) << 24 | entry.id & 0x00ff_ffff);
                    out.put_u32(entry.value);
                }
            }
            Frame::Ping(id) => {
                head(out, kind::PING, 0, 4);
                out.put_u32(*id);
            }
            Frame::GoAway { last_good, status } => {
                head(out, kind::GOAWAY, 0, 8);
                out.put_u32(*last_good);
                out.put_u32(*status);
            }
            Frame::WindowUpdate { stream, delta } => {
                head(out, kind::WINDOW_UPDATE, 0, 8);
                out.put_u32(*stream);
                out.put_u32(*delta);
            }
            Frame::Data {
                stream,
                fin,
                payload,
            } => {
                data_head(*stream, *fin, payload.len(), out);
                out.put_slice(payload);
            }
        }
        Ok(())
    }

    fn compress(&mut self, headers: &Headers) -> Result<(), SpdyError> {
        self.block.clear();
        self.deflater.headers(headers, &mut self.block)
    }
}

/// Appends the head of a data frame whose payload, of less than 16 MiB, is sent apart.
pub(super) fn data_head(stream: u32, fin: bool, len: usize, out: &mut BytesMut) {
    out.put_u32(stream & MAX_STREAM);
    put_flags_and_len(out, if fin { FLAG_FIN } else { 0 }, len);
}

fn head(out: &mut BytesMut, kind: u16, flags: u8, len: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    put_flags_and_len(out, flags, len);
}

fn put_flags_and_len(out: &mut BytesMut, flags: u8, len: usize) {
    debug_assert!(len < 1 << 24, "the length of a frame has 24 bits");
    out.put_u32(u32::from(flags) << 24 | u32::try_from(len).unwrap_or(u32::MAX) & 0x00ff_ffff);
}
