//! The attach socket: a container's live input and output for clients that come and go.
//!
//! ```text
//! frame   kind: u8 | length: u32 | payload
//! ```
//!
//! A client connects and reads [`AttachFrame::Hello`] first. Then output flows to it from that moment on, and its
//! input to the container. Kinds that a reader does not know are skipped. The monitor closes the connection when the
//! container's output has ended ([`AttachFrame::Ended`] precedes it), or when the client reads too slowly.

use crate::{
    WireError,
    fields::{Reader, Writer},
};

/// Longest payload. Longer input is sent as several frames.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

const HEADER_BYTES: usize = 5;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const RESIZE: u8 = 3;
const CLOSE_STDIN: u8 = 4;
const HELLO: u8 = 5;
const ENDED: u8 = 6;
const LISTENING: u8 = 7;

/// One frame of an attach connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachFrame {
    /// From the monitor, first.
    Hello {
        /// The container has a terminal: resizing makes sense, and there is no stderr.
        terminal: bool,
        /// The container's stdin is open.
        stdin: bool,
    },
    /// From the client: input.
    Stdin(Vec<u8>),
    /// From the monitor.
    Stdout(Vec<u8>),
    /// From the monitor.
    Stderr(Vec<u8>),
    /// From the client: the new size of the terminal.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// From the client: no more input will come.
    CloseStdin,
    /// From the monitor, last: there will be no more output.
    Ended,
    /// From the client, first: it gives no input, so its going is not the end of any.
    Listening,
}

impl AttachFrame {
    /// The frame's bytes. Payloads beyond [`PAYLOAD_BYTES_MAX`] are an error.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        match self {
            Self::Hello { terminal, stdin } => {
                let mut w = Writer::default();
                frame(HELLO, &w.flag(1, *terminal).flag(2, *stdin).finish())
            }
            Self::Stdin(data) => frame(STDIN, data),
            Self::Stdout(data) => frame(STDOUT, data),
            Self::Stderr(data) => frame(STDERR, data),
            Self::Resize { rows, columns } => {
                let mut payload = rows.to_le_bytes().to_vec();
                payload.extend_from_slice(&columns.to_le_bytes());
                frame(RESIZE, &payload)
            }
            Self::CloseStdin => frame(CLOSE_STDIN, &[]),
            Self::Ended => frame(ENDED, &[]),
            Self::Listening => frame(LISTENING, &[]),
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Option<Self>, WireError> {
        Ok(Some(match kind {
            STDIN => Self::Stdin(payload.to_vec()),
            STDOUT => Self::Stdout(payload.to_vec()),
            STDERR => Self::Stderr(payload.to_vec()),
            RESIZE => {
                let &[r0, r1, c0, c1, ..] = payload else {
                    return Err(WireError::Truncated);
                };
                Self::Resize {
                    rows: u16::from_le_bytes([r0, r1]),
                    columns: u16::from_le_bytes([c0, c1]),
                }
            }
            CLOSE_STDIN => Self::CloseStdin,
            HELLO => {
                let (mut terminal, mut stdin) = (false, false);
                for field in Reader::new(payload) {
                    let field = field?;
                    match field.tag {
                        1 => terminal = field.flag()?,
                        2 => stdin = field.flag()?,
                        _ => {}
                    }
                }
                Self::Hello { terminal, stdin }
            }
            ENDED => Self::Ended,
            LISTENING => Self::Listening,
            _ => return Ok(None),
        }))
    }
}

/// The header of an output frame, for a sender that writes header and data without joining them.
pub fn output_header(stderr: bool, length: usize) -> Result<[u8; 5], WireError> {
    header(if stderr { STDERR } else { STDOUT }, length)
}

fn header(kind: u8, length: usize) -> Result<[u8; HEADER_BYTES], WireError> {
    let short = u32::try_from(length)
        .ok()
        .filter(|_| length <= PAYLOAD_BYTES_MAX);
    let [l0, l1, l2, l3] = short.ok_or(WireError::Length(length))?.to_le_bytes();
    Ok([kind, l0, l1, l2, l3])
}

fn frame(kind: u8, payload: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&header(kind, payload.len())?);
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

/// Collects an attach connection's bytes and gives out whole frames.
#[derive(Debug, Default)]
pub struct AttachBuffer {
    bytes: Vec<u8>,
}

impl AttachBuffer {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes not yet given out.
    pub fn buffered_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The next whole frame of a known kind, if there is one.
    pub fn next_frame(&mut self) -> Result<Option<AttachFrame>, WireError> {
        loop {
            let Some((&[kind, l0, l1, l2, l3], rest)) =
                self.bytes.split_first_chunk::<HEADER_BYTES>()
            else {
                return Ok(None);
            };
            let length =
                usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
            if length > PAYLOAD_BYTES_MAX {
                return Err(WireError::Length(length));
            }
            let Some(payload) = rest.get(..length) else {
                return Ok(None);
            };
            let frame = AttachFrame::decode(kind, payload)?;
            self.bytes.drain(..HEADER_BYTES + length);
            if self.bytes.is_empty() {
                self.bytes = Vec::new();
            }
            if frame.is_some() {
                return Ok(frame);
            }
        }
    }
}
