//! The manager of a node's units, systemd, over D-Bus: the few calls that pods need, each with a deadline.
//!
//! `engine` has one [`Systemd`] where the cgroup driver is systemd; nothing connects before the first call. A connection that
//! nobody used for a while is closed, so that a node whose pods neither come nor go keeps none.
//!
//! What a call promises:
//! - it ends within the [`Deadlines`], with an error that says what it was at;
//! - a connection that breaks in the middle of a call, as when the bus or systemd starts anew, is made anew once, and the call
//!   repeated: what the first try may have done already is found, not taken for somebody else's;
//! - a call that systemd does as a job returns when the job has ended, also if the signal that tells so was lost.
#![forbid(unsafe_code)]

mod calls;
mod connection;
mod error;
mod jobs;
mod property;
mod unit;

use std::{sync::Arc, time::Duration};

pub use error::{Stage, SystemdError};
pub use property::{Property, PropertyValue};
pub use unit::{Scope, Slice, Unit};

use connection::Inner;

/// Where the system's bus listens, unless `DBUS_SYSTEM_BUS_ADDRESS` says otherwise.
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";

/// How long the steps of a call may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Until there is a connection, with all tries while the bus or systemd starts.
    pub connect: Duration,
    /// Until systemd answers a message.
    pub answer: Duration,
    /// Until a job has ended.
    pub job: Duration,
    /// How long a connection is kept that nobody uses.
    pub idle: Duration,
    /// How often it is looked whether a job has ended whose end was not told.
    pub look: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            // A systemd that reloads its units answers nothing meanwhile.
            answer: Duration::from_secs(25),
            job: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            look: Duration::from_secs(1),
        }
    }
}

/// A client of the node's systemd. Cheap to clone; calls run side by side.
#[derive(Clone, Debug)]
pub struct Systemd {
    inner: Arc<Inner>,
}

impl Systemd {
    /// Of the system's bus. Connects to nothing.
    #[must_use]
    pub fn of_node() -> Self {
        let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS")
            .ok()
            .filter(|address| !address.is_empty());
        Self::new(
            address.as_deref().unwrap_or(SYSTEM_BUS),
            Deadlines::default(),
        )
    }

    /// Of the bus at `address`, which has D-Bus's own form, as in `unix:path=/run/dbus/system_bus_socket`. Connects to nothing.
    #[must_use]
    pub fn new(address: &str, deadlines: Deadlines) -> Self {
        Self {
            inner: Arc::new(Inner::new(address.to_owned(), deadlines)),
        }
    }

    /// Where its bus listens.
    #[must_use]
    pub fn address(&self) -> &str {
        self.inner.address()
    }

    /// Whether a connection is kept at the moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.is_connected()
    }
}
