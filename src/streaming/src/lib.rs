//! The HTTP server that carries exec, attach and port-forward sessions: SPDY/3.1 and WebSocket.
//!
//! `server` asks for a URL with a one-time token; the client (kubelet, crictl) then connects to it here. What flows
//! comes from an [`engine::streams::Streams`].

#![forbid(unsafe_code)]

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use engine::streams::{ExecCommand, Streams, Wanted};

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

/// Gives out URLs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tickets {
    inner: Arc<()>,
}

impl Tickets {
    /// The URL under which a client may start this session once, within a minute.
    pub fn url(&self, session: Session) -> Result<String, TooManyWaiting> {
        let _ = (session, &self.inner);
        Err(TooManyWaiting)
    }
}

/// A thousand tokens are out already and none has been used or become too old.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("1000 sessions wait for their clients already: retry in a moment")]
pub struct TooManyWaiting;

/// Why the server cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("the streaming server cannot be started")]
pub struct StreamingError;

/// A bound server: [`Self::serve`] runs it.
#[derive(Debug)]
pub struct StreamingServer<S> {
    streams: S,
    tickets: Tickets,
}

impl<S: Streams> StreamingServer<S> {
    /// Listens; sessions are served by [`Self::serve`].
    pub async fn bind(options: StreamingOptions, streams: S) -> Result<Self, StreamingError> {
        let _ = (options, &streams);
        Err(StreamingError)
    }

    /// What gives out its URLs.
    pub fn tickets(&self) -> Tickets {
        self.tickets.clone()
    }

    /// Serves until `shutdown` is done; then sessions are told to end and given two seconds.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        let _ = (&self.streams, shutdown.await);
    }
}
