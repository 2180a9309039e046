//! The language between the server and a pod's monitor, and between a monitor and attaching clients.
//!
//! A monitor outlives upgrades of the server, so both sides must read what the other's release wrote. Hence: every
//! frame carries a version and a kind, every field a tag and a length; a reader skips fields it does not know, gives
//! absent ones their default, and answers an unknown kind with [`Failure::Unsupported`] instead of hanging up. A field's
//! tag and meaning never change; golden tests hold the bytes of every message.
//!
//! ```text
//! frame   length: u32 | version: u8 | descriptors: u8 | kind: u16 | correlation: u32 | field*
//! field   tag: u8 | length: u32 | bytes
//! ```
//!
//! All integers are little-endian; `length` counts what follows it. Integers in fields are eight bytes, paths and
//! strings are raw bytes, lists are repeated fields. Requests carry a correlation number other than 0, replies repeat
//! it, events have 0. Descriptors travel as `SCM_RIGHTS` with the first byte of their frame.
//!
//! Nothing here does I/O or allocates more than a frame's length, which is bounded; no input makes it panic.

#![forbid(unsafe_code)]

pub mod attach;
mod error;
mod fields;
mod frame;
mod reply;
mod request;

pub use error::WireError;
pub use frame::{Frame, FrameBuffer};
pub use reply::{ContainerRecord, ExitRecord, Failure, FromMonitor, OomLimit};
pub use request::{CreateOrder, ExecOrder, NamespaceOrder, OomWatch, Request, UserOrder};

/// Version of the frame layout. It changes only if a frame can no longer be told apart from its neighbours.
pub const VERSION: u8 = 1;

/// Longest frame, without its length prefix. Requests carry command lines and sysctls, replies one record per
/// container of a pod: a mebibyte is far above both.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Most descriptors that one frame can carry.
pub const DESCRIPTORS_MAX: usize = 3;
