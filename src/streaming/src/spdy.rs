//! SPDY/3.1 as Kubernetes' clients speak it: the codec, and sessions that carry many streams over one connection.
//!
//! What stands behind it is draft 3 of the protocol with the session windows of 3.1. `frame` names the frames, `headers` their
//! compressed header blocks, `decode` and `encode` are the pure codec, `session` runs a connection.
//!
//! # Flow control
//!
//! The clients that matter (kubelet, API server, kubectl, crictl) all use Go's spdystream, which knows the frame WINDOW_UPDATE but
//! has no flow control: it never sends credit, never counts what it sends, and drops what it is granted. Who waits for its credit
//! waits forever after 64 KiB. So a session finds out whom it talks to (`Windows`): windows bind both sides once the
//! peer has sent SETTINGS or a WINDOW_UPDATE, they are off for good once it has sent more than it was granted, and before either
//! we send without waiting. Without windows, TCP holds a fast sender back: nothing more is read while a stream is full.

mod decode;
mod dictionary;
mod encode;
mod frame;
mod headers;
pub(crate) mod session;

pub(crate) use frame::reset::{CANCEL, FLOW_CONTROL_ERROR};

pub(crate) use decode::Decoder;
pub(crate) use encode::Encoder;
pub(crate) use frame::{Frame, Setting, SpdyError};
pub(crate) use headers::Headers;
