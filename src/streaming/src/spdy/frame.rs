//! The frames of SPDY/3.1, and what can be wrong with one.

use bytes::Bytes;

use super::headers::Headers;

/// The version that control frames carry.
pub(super) const VERSION: u16 = 3;
/// Longest control frame taken, in bytes after its head of eight. Data frames may have any length: they are passed on in pieces.
pub(crate) const MAX_CONTROL_LEN: usize = 64 * 1024;
/// The head that every frame has.
pub(super) const HEAD_LEN: usize = 8;
/// Greatest stream id; the highest bit tells control from data.
pub(super) const MAX_STREAM: u32 = 0x7fff_ffff;

/// Set in a frame's flags when its sender sends no more on that stream.
pub(super) const FLAG_FIN: u8 = 0x01;
/// Set in SYN_STREAM when the other side is not to send on that stream.
pub(super) const FLAG_UNIDIRECTIONAL: u8 = 0x02;
/// Set in SETTINGS when former ones are void.
pub(super) const FLAG_CLEAR_SETTINGS: u8 = 0x01;

/// Types of control frames.
pub(super) mod kind {
    pub(in crate::spdy) const SYN_STREAM: u16 = 1;
    pub(in crate::spdy) const SYN_REPLY: u16 = 2;
    pub(in crate::spdy) const RST_STREAM: u16 = 3;
    pub(in crate::spdy) const SETTINGS: u16 = 4;
    pub(in crate::spdy) const PING: u16 = 6;
    pub(in crate::spdy) const GOAWAY: u16 = 7;
    pub(in crate::spdy) const HEADERS: u16 = 8;
    pub(in crate::spdy) const WINDOW_UPDATE: u16 = 9;
}

/// Why a stream was reset.
pub(crate) mod reset {
    /// The stream broke the protocol.
    pub(crate) const PROTOCOL_ERROR: u32 = 1;
    /// A frame named a stream that is not open.
    pub(crate) const INVALID_STREAM: u32 = 2;
    /// The stream was not taken, and nothing of it was processed.
    pub(crate) const REFUSED_STREAM: u32 = 3;
    /// Whoever opened the stream wants it no more.
    pub(crate) const CANCEL: u32 = 5;
    /// More was sent than was granted, or it was not taken in time.
    pub(crate) const FLOW_CONTROL_ERROR: u32 = 7;
}

/// SETTINGS entry: bytes that a new stream may send before it needs credit.
pub(super) const SETTING_INITIAL_WINDOW: u32 = 7;

/// One entry of a SETTINGS frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// What is set, 24 bits.
    pub(crate) id: u32,
    /// Persistence flags.
    pub(crate) flags: u8,
    /// The value.
    pub(crate) value: u32,
}

/// A frame, or a piece of a data frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    SynStream {
        stream: u32,
        associated: u32,
        /// 0 is the most urgent, 7 the least.
        priority: u8,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    },
    SynReply {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    RstStream {
        stream: u32,
        status: u32,
    },
    Settings {
        clear: bool,
        entries: Vec<Setting>,
    },
    Ping(u32),
    GoAway {
        last_good: u32,
        status: u32,
    },
    Headers {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    WindowUpdate {
        /// 0 for the session's window.
        stream: u32,
        delta: u32,
    },
    /// When decoded, a piece: a long frame comes as several, the last of them with its `fin`.
    Data {
        stream: u32,
        fin: bool,
        payload: Bytes,
    },
}

/// Why bytes are no SPDY/3.1 that this codec takes. The session that they came from cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpdyError {
    #[error("a control frame of version {0} where 3 was expected")]
    Version(u16),
    #[error("a control frame of type {kind} with {len} bytes, more than 65536")]
    TooLong { kind: u16, len: usize },
    #[error("a control frame of type {kind} with {len} bytes, which that type never has")]
    WrongLength { kind: u16, len: usize },
    #[error("stream 0 in a frame of type {0}")]
    StreamZero(u16),
    #[error("a data frame for stream 0")]
    DataForStreamZero,
    #[error("a header block that cannot be decompressed")]
    Compression,
    #[error("a header block of more than 65536 bytes")]
    HeadersTooLong,
    #[error("a header block with {0} headers, more than 100")]
    TooManyHeaders(u32),
    #[error("a header block that ends within a header, or goes on after the last")]
    HeadersCut,
    #[error("a header without a name, or one that comes twice")]
    HeaderName,
    #[error("a window update of 0 bytes")]
    EmptyUpdate,
}
