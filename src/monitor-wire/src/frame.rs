//! Frames: where one message ends and the next begins.

use crate::{DESCRIPTORS_MAX, FRAME_BYTES_MAX, VERSION, WireError};

/// Bytes of the length prefix.
const PREFIX_BYTES: usize = 4;
/// Bytes between the prefix and the fields.
const HEADER_BYTES: usize = 8;

/// A message that is not yet understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// How many of the descriptors received so far belong to it.
    pub descriptors: u8,
    /// What it is; the number spaces of requests, replies and events do not overlap.
    pub kind: u16,
    /// Ties replies to requests; 0 for events.
    pub correlation: u32,
    /// Its fields.
    pub body: Vec<u8>,
}

impl Frame {
    /// The frame's bytes. Fails if the body is too long to be read back.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let length = HEADER_BYTES + self.body.len();
        let prefix = u32::try_from(length)
            .ok()
            .filter(|_| length <= FRAME_BYTES_MAX);
        let prefix = prefix.ok_or(WireError::Length(length))?;
        let mut bytes = Vec::with_capacity(PREFIX_BYTES + length);
        bytes.extend_from_slice(&prefix.to_le_bytes());
        bytes.push(VERSION);
        bytes.push(self.descriptors);
        bytes.extend_from_slice(&self.kind.to_le_bytes());
        bytes.extend_from_slice(&self.correlation.to_le_bytes());
        bytes.extend_from_slice(&self.body);
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let &[version, descriptors, k0, k1, c0, c1, c2, c3, ref body @ ..] = bytes else {
            return Err(WireError::Length(bytes.len()));
        };
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        if usize::from(descriptors) > DESCRIPTORS_MAX {
            return Err(WireError::Descriptors(descriptors));
        }
        Ok(Self {
            descriptors,
            kind: u16::from_le_bytes([k0, k1]),
            correlation: u32::from_le_bytes([c0, c1, c2, c3]),
            body: body.to_vec(),
        })
    }
}

/// Collects a stream's bytes and gives out whole frames. After an error the stream cannot be read on.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let Some((prefix, rest)) = self.bytes.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        if !(HEADER_BYTES..=FRAME_BYTES_MAX).contains(&length) {
            return Err(WireError::Length(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = Frame::decode(body)?;
        self.bytes.drain(..PREFIX_BYTES + length);
        if self.bytes.is_empty() {
            // An idle connection holds no memory.
            self.bytes = Vec::new();
        }
        Ok(Some(frame))
    }
}
