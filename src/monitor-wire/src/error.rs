//! Why bytes are not a message.

use std::fmt;

/// What is wrong with a frame or a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// A length prefix beyond the bound, or below the size of a header.
    Length(usize),
    /// A frame layout of another version.
    Version(u8),
    /// More descriptors announced than a frame may carry.
    Descriptors(u8),
    /// A message kind that this release does not know.
    Kind(u16),
    /// A field reaches beyond its frame.
    Truncated,
    /// A field's bytes do not fit its type.
    Field(u8),
    /// A field without which the message means nothing.
    Missing(u8),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(n) => write!(f, "frame of {n} bytes"),
            Self::Version(v) => write!(f, "frame of version {v}"),
            Self::Descriptors(n) => write!(f, "frame with {n} descriptors"),
            Self::Kind(k) => write!(f, "message of unknown kind {k}"),
            Self::Truncated => f.write_str("message cut short"),
            Self::Field(t) => write!(f, "malformed field {t}"),
            Self::Missing(t) => write!(f, "field {t} is missing"),
        }
    }
}

impl std::error::Error for WireError {}
