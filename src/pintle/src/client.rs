//! A connection to a running server, as its own commands use it: plain gRPC over the Unix socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};

use crate::{
    args::Connected,
    config::{self, ConfigError, Sources},
};

/// Why a command could not be carried out by the server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody answers.
    #[error("no server answers at {path}: {source}", path = .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server said no.
    #[error("{step}: {message} ({code:?})", message = .status.message(), code = .status.code())]
    Refused {
        /// What was asked.
        step: &'static str,
        /// The answer.
        status: Box<Status>,
    },
    /// The server's answer lacks something that it must have.
    #[error("{step}: the answer has no {lacks}")]
    Incomplete {
        /// What was asked.
        step: &'static str,
        /// What is not there.
        lacks: &'static str,
    },
}

/// Says what was asked when the server refuses.
pub(crate) trait Asked<T> {
    /// Names the request.
    fn asked(self, step: &'static str) -> Result<T, ClientError>;
}

impl<T> Asked<T> for Result<tonic::Response<T>, Status> {
    fn asked(self, step: &'static str) -> Result<T, ClientError> {
        match self {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(ClientError::Refused {
                step,
                status: Box::new(status),
            }),
        }
    }
}

/// The socket that the operator names, else the one that the configuration says.
pub(crate) fn socket(
    connected: &Connected,
    config_file: Option<&Path>,
) -> Result<PathBuf, ConfigError> {
    match &connected.socket {
        Some(path) => Ok(path.clone()),
        None => config::load(&Sources::new(config_file)).map(|config| config.socket_path()),
    }
}

/// Connects to the server at `path`.
pub(crate) async fn connect(path: &Path) -> Result<Channel, ClientError> {
    // The transport hides why it could not connect, so the socket is tried first.
    UnixStream::connect(path)
        .await
        .map_err(|source| ClientError::Connect {
            path: path.to_owned(),
            source,
        })?;
    let socket = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector))
}
