//! WebSocket (RFC 6455) as a server: the codec, connections that carry channels, and connections that carry SPDY.
//!
//! The codec is our own because messages have no length limit here: clients send a file as one message, and the usual libraries
//! hold a message whole. `frame` passes on what it has, unmasked, so that a connection needs one read buffer whatever it carries.
//! Extensions are never agreed to.

mod channels;
mod frame;
mod tunnel;

pub(crate) use channels::{Channel, Form, start};
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use frame::Decoder;
pub(crate) use tunnel::tunnel;
