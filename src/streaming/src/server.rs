//! The listener and its HTTP: which request becomes which session.
//!
//! Every connection is a task of [`StreamingServer::serve`]'s set, and its session runs in the same task: when the server ends, none
//! is left.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use engine::streams::Streams;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    Session, StreamingError, StreamingOptions, Tickets,
    negotiate::{Refusal, Transport, negotiate},
    newcomers::{Newcomer, Newcomers},
    session::{self, Patience},
    tickets::parse_path,
    tls::Tls,
    wire::Wire,
};

/// Most sessions at a time.
const MAX_SESSIONS: usize = 1000;
/// Most connections that have not begun a session yet: see [`Newcomers`].
pub(crate) const MAX_NEW: usize = 256;
/// How long a client may take for the TLS handshake, and again for a request's head.
const HELLO: Duration = Duration::from_secs(10);
/// How long a connection may stay without beginning a session, whatever it does.
const BEGIN: Duration = Duration::from_secs(30);
/// How long sessions have when the server ends.
const GRACE: Duration = Duration::from_secs(2);
/// How long a forwarded connection that takes nothing may hold up others on the same session.
const STALL: Duration = Duration::from_secs(30);
/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 32 * 1024;
/// When no connection can be taken (no descriptors are left), how long until the next try.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// A connection over which nothing flows is asked for a sign of life after this many seconds, and then so many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_mins(1), Duration::from_secs(10), 6);

/// A bound server: [`Self::serve`] runs it.
#[derive(Debug)]
pub struct StreamingServer<S> {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    context: Context<S>,
}

/// What every connection needs.
#[derive(Clone, Debug)]
struct Context<S> {
    streams: S,
    tickets: Tickets,
    patience: Patience,
    sessions: Arc<Semaphore>,
    stop: CancellationToken,
}

/// A session that begins when its request has been answered.
struct Begin {
    session: Session,
    transport: Transport,
    upgrade: OnUpgrade,
    permit: OwnedSemaphorePermit,
}

impl<S: Streams> StreamingServer<S> {
    /// Listens; sessions are served by [`Self::serve`].
    pub async fn bind(options: StreamingOptions, streams: S) -> Result<Self, StreamingError> {
        let tls = match options.tls {
            Some(files) => Some(Arc::new(Tls::load(files)?)),
            None => None,
        };
        let listen = |source| StreamingError::Listen {
            address: options.listen,
            source,
        };
        let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let base = match options.advertise {
            Some(base) => base,
            None => base_url(address, tls.is_some()),
        };
        let context = Context {
            streams,
            tickets: Tickets::new(&base),
            patience: Patience {
                idle: options.idle,
                stream_creation: options.stream_creation,
                stall: STALL,
            },
            sessions: Arc::new(Semaphore::new(MAX_SESSIONS)),
            stop: CancellationToken::new(),
        };
        Ok(Self {
            listener,
            address,
            tls,
            context,
        })
    }

    /// What gives out its URLs.
    pub fn tickets(&self) -> Tickets {
        self.context.tickets.clone()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[cfg(test)]
    pub(crate) fn set_stall(&mut self, stall: Duration) {
        self.context.patience.stall = stall;
    }

    /// Serves until `shutdown` is done; then sessions are told to end and given two seconds.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        let mut shutdown = pin!(shutdown);
        // Whatever is still in the set when this future ends is aborted.
        let mut connections = JoinSet::new();
        let newcomers = Newcomers::new(MAX_NEW);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (context, tls) = (self.context.clone(), self.tls.clone());
                        connections.spawn(connection(context, tls, stream, newcomers.enter()));
                    }
                    Err(error) => {
                        tracing::warn!("the streaming server cannot take a connection: {error}");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                }
            }
        }
        drop(self.listener);
        self.context.stop.cancel();
        let ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            tracing::info!(
                left = connections.len(),
                "streaming sessions that did not end are cut off"
            );
        }
        connections.shutdown().await;
    }
}

/// The URLs' beginning when none is configured. Clients are on this node: who listens everywhere is reached at loopback.
fn base_url(address: SocketAddr, tls: bool) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{}", SocketAddr::new(ip, address.port()))
}

async fn connection<S: Streams>(
    context: Context<S>,
    tls: Option<Arc<Tls>>,
    stream: TcpStream,
    newcomer: Newcomer,
) {
    if let Err(error) = prepare(&stream) {
        tracing::debug!("a client's connection cannot be set up: {error}");
        return;
    }
    let stop = context.stop.clone();
    let begin = async {
        let wire = match tls {
            None => Wire::Plain(stream),
            Some(tls) => {
                let accept = async {
                    // Its files are looked at, which may take its time.
                    let config = tokio::task::spawn_blocking(move || tls.config()).await?;
                    TlsAcceptor::from(config).accept(stream).await
                };
                match tokio::time::timeout(HELLO, accept).await {
                    Ok(Ok(stream)) => Wire::Tls(Box::new(stream)),
                    Ok(Err(error)) => {
                        tracing::debug!("a client's TLS handshake failed: {error}");
                        return None;
                    }
                    Err(_) => return None,
                }
            }
        };
        converse(&context, wire).await
    };
    let begun = tokio::select! {
        begun = tokio::time::timeout(BEGIN, begin) => begun.ok().flatten(),
        () = stop.cancelled() => None,
        () = newcomer.has_to_go() => {
            tracing::debug!("a connection that began no session makes room for another");
            None
        }
    };
    drop(newcomer);
    let Some(Begin {
        session,
        transport,
        upgrade,
        permit,
    }) = begun
    else {
        return;
    };
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!("a client left while its connection was upgraded: {error}");
            return;
        }
    };
    // It is what was given to hyper.
    let Ok(parts) = upgraded.downcast::<TokioIo<Wire>>() else {
        return;
    };
    let (read, write) = tokio::io::split(parts.io.into_inner());
    let wire = (read, write, parts.read_buf);
    session::serve(
        context.streams,
        session,
        transport,
        wire,
        context.patience,
        stop,
    )
    .await;
    drop(permit);
}

/// Sets what the kernel does for a connection: small frames go at once, and a client whose machine is gone is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    let (after, every, times) = KEEPALIVE;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, after)?;
    sockopt::set_tcp_keepintvl(stream, every)?;
    sockopt::set_tcp_keepcnt(stream, times)?;
    Ok(())
}

/// Answers a connection's requests until one of them begins a session.
async fn converse<S: Streams>(context: &Context<S>, wire: Wire) -> Option<Begin> {
    let (begin, begun) = oneshot::channel();
    let begin = std::sync::Mutex::new(Some(begin));
    let service = service_fn(|request| {
        let answer = match answer(context, request) {
            Ok((response, session)) => {
                // A connection upgrades once: nothing comes after that answer.
                if let Ok(mut begin) = begin.lock()
                    && let Some(begin) = begin.take()
                {
                    let _ = begin.send(session);
                }
                response
            }
            Err(refusal) => refuse(refusal),
        };
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HELLO)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(wire), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!("a client's request failed: {error}");
        return None;
    }
    drop(begin);
    begun.await.ok()
}

/// What a request is answered: an upgrade with its session, or a refusal.
fn answer<S: Streams>(
    context: &Context<S>,
    mut request: Request<Incoming>,
) -> Result<(Response<Full<Bytes>>, Begin), Refusal> {
    let upgrade = hyper::upgrade::on(&mut request);
    let unknown = || {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "this URL is unknown, was used already, or is older than a minute: ask for a new one",
        )
    };
    let (endpoint, token) = parse_path(request.uri().path()).ok_or_else(unknown)?;
    if !matches!(*request.method(), Method::GET | Method::POST) {
        let mut refusal = Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "streams begin with GET or POST",
        );
        refusal
            .headers
            .push((header::ALLOW, HeaderValue::from_static("GET, POST")));
        return Err(refusal);
    }
    let session = context.tickets.look(endpoint, token).ok_or_else(unknown)?;
    let agreed = negotiate(request.method(), request.headers(), &session)?;
    let permit = context.sessions.clone().try_acquire_owned().map_err(|_| {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{MAX_SESSIONS} sessions run already: retry when one has ended"),
        )
    })?;
    if !context.tickets.redeem(token) {
        return Err(unknown());
    }
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().extend(agreed.headers);
    let begin = Begin {
        session,
        transport: agreed.transport,
        upgrade,
        permit,
    };
    Ok((response, begin))
}

fn refuse(refusal: Refusal) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(refusal.sentence + "\n"));
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    for (name, value) in refusal.headers {
        headers.append(name, value);
    }
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn urls_begin_with_an_address_that_can_be_reached() {
        let table = [
            ("127.0.0.1:80", false, "http://127.0.0.1:80"),
            ("0.0.0.0:80", true, "https://127.0.0.1:80"),
            ("[::]:80", false, "http://[::1]:80"),
            ("[fd00::1]:80", false, "http://[fd00::1]:80"),
        ];
        for (address, tls, url) in table {
            assert_eq!(base_url(address.parse().unwrap(), tls), url);
        }
    }
}
