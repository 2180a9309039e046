//! The server as the binary sees it.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use futures_util::Stream;
use image::Images;
use streaming::Tickets;
use tokio::net::UnixStream;

use crate::connections;
use crate::face::Face;
use crate::routes::Routes;

/// What the server is told at start.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Semantic version of Pintle, for `Version`.
    pub version: String,
    /// How long calls may go on after the shutdown began.
    pub drain: Duration,
    /// The effective configuration as a JSON object, for operators who ask `Status` in full. No secrets.
    pub config_json: String,
}

/// A CRI server over an engine and its images.
#[derive(Debug)]
pub struct Server {
    routes: Routes,
    drain: Duration,
}

impl Server {
    /// A server that is ready to serve. `tickets` are those of the streaming server, for the URLs of live sessions.
    pub fn new(engine: Engine, images: Images, tickets: Tickets, options: ServerOptions) -> Self {
        let drain = options.drain;
        let face = Face {
            engine,
            images,
            tickets,
            options: Arc::new(options),
        };
        Self {
            routes: Routes::new(face),
            drain,
        }
    }

    /// Serves the connections that come in, until `shutdown` ends; then lets the running calls finish and returns.
    ///
    /// Failed accepts are logged and do not end it. It also ends when there are no more connections to come.
    pub async fn serve(
        self,
        incoming: impl Stream<Item = io::Result<UnixStream>>,
        shutdown: impl Future<Output = ()>,
    ) {
        connections::serve(self.routes, incoming, shutdown, self.drain).await;
    }
}
