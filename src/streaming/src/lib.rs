//! The HTTP server that carries exec, attach and port-forward sessions: SPDY/3.1 and WebSocket.
//!
//! `server` asks for a URL with a one-time token; the client (kubelet, crictl) then connects to it here. What flows
//! comes from an [`engine::streams::Streams`].

#![forbid(unsafe_code)]

#[cfg(any(test, feature = "client"))]
pub mod client;
mod drive;
mod forward;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod link;
mod meter;
mod negotiate;
mod newcomers;
mod process;
mod resize;
mod server;
mod session;
mod spdy;
mod status;
#[cfg(test)]
mod tests;
mod tickets;
mod tls;
mod websocket;
mod window;
mod wire;
mod write;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use engine::streams::{ExecCommand, Wanted};

pub use server::StreamingServer;
pub use tickets::Tickets;
pub use tls::TlsError;

/// How the server listens and how patient it is.
#[derive(Clone, Debug)]
pub struct StreamingOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Scheme and authority of the URLs given out, when clients reach this server under another name than `listen`.
    pub advertise: Option<String>,
    /// Certificates; `None` is plain HTTP.
    pub tls: Option<TlsFiles>,
    /// A session over which nothing flows is ended after this.
    pub idle: Duration,
    /// How long a client may take to open the streams that it asked for.
    pub stream_creation: Duration,
}

/// Files of TLS; read again when they change.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// Authorities whose clients are let in, PEM; `None` asks for no client certificate.
    pub client_ca: Option<PathBuf>,
}

/// What a URL stands for.
#[derive(Clone, Debug)]
pub enum Session {
    /// Run a command.
    Exec(ExecCommand),
    /// Attach to a container.
    Attach {
        /// Container id.
        container: String,
        /// Streams asked for.
        wanted: Wanted,
    },
    /// Forward ports.
    PortForward {
        /// Pod id.
        pod: String,
        /// The ports that may be asked for; empty allows all.
        ports: Vec<u16>,
    },
}

/// A thousand tokens are out already and none has been used or become too old.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("1000 sessions wait for their clients already: retry in a moment")]
pub struct TooManyWaiting;

/// Why the server cannot be started.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what the variant means")]
pub enum StreamingError {
    #[error(
        "the streaming server cannot listen on {address}: choose an address of this node and a free port"
    )]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the streaming server's TLS files cannot be used")]
    Tls(#[from] TlsError),
}
