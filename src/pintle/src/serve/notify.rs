//! Messages to the service manager (`sd_notify(3)`).
//!
//! Best effort by nature: a manager that does not listen must not disturb the server.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::Arc,
    time::Duration,
};

/// The way to the service manager, if one started us and wants to know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notifier(Option<Arc<UnixDatagram>>);

impl Notifier {
    /// From `NOTIFY_SOCKET`, which may be forgotten afterwards.
    pub(crate) fn from_environment() -> Self {
        Self(
            env::var_os("NOTIFY_SOCKET")
                .and_then(|name| connect(&name).ok())
                .map(Arc::new),
        )
    }

    /// Requests are answered now.
    pub(crate) fn ready(&self) {
        self.send("READY=1\nSTATUS=serving");
    }

    /// The self-check went well; see [`super::watchdog`].
    pub(crate) fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// The configuration is being read again; [`Self::ready`] ends that.
    pub(crate) fn reloading(&self) {
        // systemd compares the time with that of its own request (Type=notify-reload).
        let now_us = sys::kernel::monotonic().as_micros();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now_us}"));
    }

    /// The end has begun and may take this long.
    pub(crate) fn stopping(&self, drain: Duration) {
        let room = drain + Duration::from_secs(5);
        self.send(&format!(
            "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={}",
            room.as_micros()
        ));
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.0
            && let Err(error) = socket.send(message.as_bytes())
        {
            tracing::debug!(%error, "the service manager does not listen");
        }
    }
}

fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let bytes = name.as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A manager with a full queue must not stop us.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::{
        os::{
            linux::net::SocketAddrExt,
            unix::net::{SocketAddr, UnixDatagram},
        },
        sync::Arc,
        time::Duration,
    };

    use super::{Notifier, connect};

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn the_manager_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier(Some(Arc::new(connect(path.as_os_str()).unwrap())));
        notifier.ready();
        assert_eq!(received(&manager), "READY=1\nSTATUS=serving");
        notifier.reloading();
        assert!(received(&manager).starts_with("RELOADING=1\nMONOTONIC_USEC="));
        notifier.alive();
        assert_eq!(received(&manager), "WATCHDOG=1");
        notifier.stopping(Duration::from_secs(10));
        assert_eq!(
            received(&manager),
            "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=15000000"
        );
        drop(manager);
        notifier.ready();
    }

    #[test]
    fn abstract_names_are_understood() {
        let name = format!("pintle-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        Notifier(Some(Arc::new(
            connect(format!("@{name}").as_ref()).unwrap(),
        )))
        .ready();
        assert_eq!(received(&manager), "READY=1\nSTATUS=serving");
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        Notifier::default().ready();
        assert!(connect("/nonexistent/notify".as_ref()).is_err());
    }
}
