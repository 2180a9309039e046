//! Connections of the Unix socket: HTTP/2 with limits that suit CRI, and an orderly end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower::Service;

use crate::authority::Mended;
use crate::request;

/// Calls that one client may have open. A kubelet of 250 pods has some hundred probes at once.
const STREAMS_MAX: u32 = 2048;
/// How much of a request a client may send before it is read: a container with 4 MiB of environment in one go.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Headers of one request.
const HEADERS_MAX_BYTES: u32 = 64 << 10;
/// How much of a reply is buffered towards a slow client.
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// Pause after a failed accept: without file descriptors left the next one would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The moment at which a server that ends has finished its calls, or has no more time for them; part of every request's
/// extensions. Replies without an end of their own end then: last of all, so that they tell what those calls did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closing(CancellationToken);

impl Closing {
    /// Of a request that came over a connection of [`serve`]; never, for any other.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Waits for it.
    pub(crate) async fn comes(&self) {
        self.0.cancelled().await;
    }
}

/// Serves `service` on every connection that comes in, until `shutdown` ends.
///
/// Calls that run then are finished, for at most `drain`; clients are told to make no new ones. Replies without an end of
/// their own end when the calls have, and get the last tenth of `drain` for it at least. Returns when the last connection is closed.
pub(crate) async fn serve<S>(
    service: S,
    incoming: impl Stream<Item = io::Result<UnixStream>>,
    shutdown: impl Future<Output = ()>,
    drain: Duration,
) where
    S: Service<
            http::Request<Incoming>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static,
{
    let draining = CancellationToken::new();
    let closing = Closing::default();
    let calls = TaskTracker::new();
    let cut = CancellationToken::new();
    let connections = TaskTracker::new();
    let mut incoming = pin!(incoming);
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = incoming.next() => accepted,
        };
        match accepted {
            Some(Ok(stream)) => {
                let connection = connection(
                    stream,
                    service.clone(),
                    calls.clone(),
                    closing.clone(),
                    draining.clone(),
                );
                let cut = cut.clone();
                connections.spawn(async move {
                    tokio::select! {
                        () = connection => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            None => break,
        }
    }
    let begun = Instant::now();
    draining.cancel();
    connections.close();
    calls.close();
    // Those that take longer go on beside the farewells.
    let _ = tokio::time::timeout(drain / 10 * 9, calls.wait()).await;
    closing.0.cancel();
    let left = drain.saturating_sub(begun.elapsed());
    if tokio::time::timeout(left, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            connections = connections.len(),
            "calls are cut off: they did not end within the time for it"
        );
        cut.cancel();
        connections.wait().await;
    }
}

async fn connection<S>(
    stream: UnixStream,
    service: S,
    calls: TaskTracker,
    closing: Closing,
    draining: CancellationToken,
) where
    S: Service<
            http::Request<Incoming>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static,
{
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        let mut service = service.clone();
        request.extensions_mut().insert(closing.clone());
        let running = calls.token();
        async move {
            let _running = running;
            let called = request::handle(request, |request| async move {
                match service.call(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            });
            Ok::<_, Infallible>(called.await)
        }
    });
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADERS_MAX_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .serve_connection(TokioIo::new(Mended::new(stream)), service)
    );
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A client that just goes away is no news.
        tracing::debug!(error = engine::error::in_full(&error), "a connection broke");
    }
}

#[cfg(test)]
mod tests;
