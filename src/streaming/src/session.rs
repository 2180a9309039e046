//! One session, from the upgrade to its line in the log: puts transport, protocol and engine together.

use std::{convert::Infallible, fmt, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use engine::streams::{StreamEnd, Streams, Wanted};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Session,
    drive::End,
    forward::{self, Ports},
    link::{Close, Incoming, Link, Outbound, Outgoing},
    negotiate::Transport,
    process::{self, ClientStreams},
    spdy::session::{self as spdy_session, Role, Session as SpdySession},
    status::{Outcome, StatusForm},
    websocket::{self, Channel},
    window::Windows,
};

/// How patient sessions are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) idle: Duration,
    pub(crate) stream_creation: Duration,
    /// How long a forwarded connection that takes nothing may hold up others on the same session.
    pub(crate) stall: Duration,
}

/// How a session ended.
enum Over {
    /// By the process or the ports.
    Outcome(Outcome),
    /// All connections of a port-forward were over, or the server ends.
    Ports,
    /// The client did not open its streams in time.
    NoStreams(&'static str),
    /// The connection.
    End(End),
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outcome(Outcome::Ended(StreamEnd::Exited(code))) => write!(f, "exit code {code}"),
            Self::Outcome(Outcome::Ended(StreamEnd::Detached)) => {
                write!(f, "there is no more output")
            }
            Self::Outcome(Outcome::Failed(why)) => write!(f, "{why}"),
            Self::Ports => write!(f, "ended"),
            Self::NoStreams(which) => write!(f, "the client opened no {which} stream in time"),
            Self::End(end) => write!(f, "{end}"),
        }
    }
}

/// Serves a session on a connection of which `early` has been read already. Ends soon after `stop` is cancelled; all that belongs to
/// the session goes with this future.
pub(crate) async fn serve<S, R, W>(
    streams: S,
    session: Session,
    transport: Transport,
    (read, write, early): (R, W, Bytes),
    patience: Patience,
    stop: CancellationToken,
) where
    S: Streams,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (kind, id) = match &session {
        Session::Exec(command) => ("exec", command.container.clone()),
        Session::Attach { container, .. } => ("attach", container.clone()),
        Session::PortForward { pod, .. } => ("portforward", pod.clone()),
    };
    let idle = patience.idle;
    let (over, link) = match transport {
        Transport::Spdy { form, resize } => {
            let (mut spdy, driver) = spdy_session::start(
                read,
                write,
                early,
                Role::Server,
                Windows::Unknown,
                idle,
                None,
            );
            let (link, data) = (spdy.link.clone(), spdy.data.clone());
            let app = async {
                let wanted = wanted(&session);
                match collect(&mut spdy, wanted, form, wanted.tty && resize, patience).await {
                    Ok(client) => {
                        let refuse = async {
                            // Further streams have no meaning: dropped, they are reset.
                            while spdy.opened.recv().await.is_some() {}
                            std::future::pending::<Infallible>().await
                        };
                        tokio::select! {
                            outcome = run_process(&streams, &session, client, &stop) => Over::Outcome(outcome),
                            never = refuse => match never {},
                        }
                    }
                    Err(over) => over,
                }
            };
            (conclude(app, driver, data).await, link)
        }
        Transport::Channels { form, status } => {
            let (channels, driver, data, link) =
                websocket::start(read, write, early, PROCESS_CHANNELS, form, idle, None);
            let app = async {
                match assign(channels, wanted(&session), status) {
                    Some(mut client) => {
                        greet(&mut client).await;
                        Over::Outcome(run_process(&streams, &session, client, &stop).await)
                    }
                    None => Over::NoStreams("error"),
                }
            };
            (conclude(app, driver, data).await, link)
        }
        Transport::SpdyPorts => {
            let (spdy, driver) = spdy_session::start(
                read,
                write,
                early,
                Role::Server,
                Windows::Unknown,
                idle,
                Some(patience.stall),
            );
            let (link, data) = (spdy.link.clone(), spdy.data.clone());
            let app = forward_spdy(&streams, &session, spdy, patience, &stop);
            (conclude(app, driver, data).await, link)
        }
        Transport::Tunnel => {
            let (inner, tunnel) = websocket::tunnel(read, write, early, idle);
            let (inner_read, inner_write) = tokio::io::split(inner);
            let (spdy, driver) = spdy_session::start(
                inner_read,
                inner_write,
                Bytes::new(),
                Role::Server,
                Windows::Unknown,
                idle,
                Some(patience.stall),
            );
            let (link, data) = (spdy.link.clone(), spdy.data.clone());
            let app = forward_spdy(&streams, &session, spdy, patience, &stop);
            let both = async {
                let (mut driver, mut tunnel) = (pin!(driver), pin!(tunnel));
                tokio::select! {
                    end = &mut tunnel => end,
                    end = &mut driver => {
                        // What SPDY said last still has to pass through the tunnel.
                        tunnel.await;
                        end
                    }
                }
            };
            (conclude(app, both, data).await, link)
        }
        Transport::ChannelPorts(form) => {
            let ports = ports(&streams, &session);
            let (channels, driver, data, link) = websocket::start(
                read,
                write,
                early,
                port_channels(&ports),
                form,
                idle,
                Some(patience.stall),
            );
            let app = async {
                forward::serve_channels(channels, &ports, &stop).await;
                Over::Ports
            };
            (conclude(app, driver, data).await, link)
        }
    };
    log(kind, &id, transport, &over, &link);
}

/// Channels of exec and attach.
const PROCESS_CHANNELS: u8 = 5;

fn log(kind: &str, id: &str, transport: Transport, over: &Over, link: &Link) {
    let (received, sent) = link.meter.totals();
    tracing::info!(
        kind,
        id,
        transport = transport.name(),
        outcome = %over,
        received,
        sent,
        duration_ms = u64::try_from(link.meter.age().as_millis()).unwrap_or(u64::MAX),
        "a streaming session ended",
    );
}

/// Runs what the session is for beside its connection. Whichever ends first ends the other: the connection in good order, with all
/// that was queued; what the session is for by being dropped.
async fn conclude(
    app: impl Future<Output = Over>,
    driver: impl Future<Output = End>,
    data: mpsc::Sender<Outbound>,
) -> Over {
    let mut driver = pin!(driver);
    let over = tokio::select! {
        biased;
        over = app => over,
        end = &mut driver => return Over::End(end),
    };
    let close = async {
        // Fails when the connection has ended meanwhile, which is as good.
        let _ = data.send(Outbound::Close(Close::Done)).await;
        std::future::pending::<()>().await;
    };
    // For as long as a slow client needs for what is queued, an exit status last: the driver knows when it is too long.
    tokio::select! {
        _ = driver => {}
        () = close => {}
    }
    over
}

fn wanted(session: &Session) -> Wanted {
    match session {
        Session::Exec(command) => command.wanted,
        Session::Attach { wanted, .. } => *wanted,
        Session::PortForward { .. } => Wanted::default(),
    }
}

async fn run_process<S: Streams>(
    streams: &S,
    session: &Session,
    client: ClientStreams,
    stop: &CancellationToken,
) -> Outcome {
    match session {
        Session::Exec(command) => process::serve(client, streams.exec(command.clone()), stop).await,
        Session::Attach { container, wanted } => {
            process::serve(client, streams.attach(container, *wanted), stop).await
        }
        Session::PortForward { .. } => {
            Outcome::Failed("ports are forwarded by another protocol".to_owned())
        }
    }
}

/// A stream that a client of exec or attach may have to open.
struct Slot {
    kind: &'static str,
    wanted: bool,
    ends: Option<(Incoming, Outgoing)>,
}

/// Waits for the streams that a client of exec or attach has to open.
async fn collect(
    spdy: &mut SpdySession,
    wanted: Wanted,
    form: StatusForm,
    resize: bool,
    patience: Patience,
) -> Result<ClientStreams, Over> {
    let begin = Instant::now();
    let mut slots = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", resize),
    ]
    .map(|(kind, wanted)| Slot {
        kind,
        wanted,
        ends: None,
    });
    while let Some(missing) = slots.iter().find(|slot| slot.wanted && slot.ends.is_none()) {
        let missing = missing.kind;
        let left = patience.stream_creation.saturating_sub(begin.elapsed());
        let opened = match tokio::time::timeout(left, spdy.opened.recv()).await {
            Ok(Some(opened)) => opened,
            // The connection ends, which its driver tells.
            Ok(None) => std::future::pending().await,
            Err(_) => {
                let over = Over::NoStreams(missing);
                let [error, ..] = slots;
                if let Some((_, mut error)) = error.ends {
                    let said = Outcome::Failed(over.to_string()).tell(form);
                    let _ = error.send(said.into()).await;
                    let _ = error.finish().await;
                }
                return Err(over);
            }
        };
        let kind = opened.headers.get("streamtype").unwrap_or_default();
        match slots.iter_mut().find(|slot| slot.kind == kind) {
            Some(slot) if slot.wanted && slot.ends.is_none() => {
                slot.ends = Some((opened.incoming, opened.outgoing));
            }
            // Dropped, and so reset.
            _ => tracing::debug!(
                kind,
                "a stream that was not asked for, or was opened before, is reset"
            ),
        }
    }
    let [error, stdin, stdout, stderr, resize] = slots.map(|slot| slot.ends);
    Ok(ClientStreams {
        stdin,
        stdout,
        stderr,
        error: error.ok_or(Over::NoStreams("error"))?,
        resize,
        form,
    })
}

/// Gives the channels of exec and attach their meaning; those that were not asked for are closed by being dropped.
fn assign(channels: Vec<Channel>, wanted: Wanted, form: StatusForm) -> Option<ClientStreams> {
    let mut channels = channels
        .into_iter()
        .map(|Channel { incoming, outgoing }| (incoming, outgoing));
    let mut next = |wanted: bool| channels.next().filter(|_| wanted);
    Some(ClientStreams {
        stdin: next(wanted.stdin),
        stdout: next(wanted.stdout),
        stderr: next(wanted.stderr),
        error: next(true)?,
        resize: next(wanted.tty),
        form,
    })
}

/// An empty message on the lowest channel that the client can read tells it that the session is up.
async fn greet(client: &mut ClientStreams) {
    let lowest = match (&mut client.stdout, &mut client.stderr) {
        (Some((_, outgoing)), _) | (None, Some((_, outgoing))) => outgoing,
        (None, None) => &mut client.error.1,
    };
    // A client that has gone is noticed by its connection's driver.
    let _ = lowest.announce().await;
}

fn ports<S: Streams>(streams: &S, session: &Session) -> Ports<S> {
    let (pod, allowed): (Arc<str>, Arc<[u16]>) = match session {
        Session::PortForward { pod, ports } => (pod.as_str().into(), ports.as_slice().into()),
        Session::Exec(_) | Session::Attach { .. } => ("".into(), Arc::new([])),
    };
    Ports {
        streams: streams.clone(),
        pod,
        allowed,
    }
}

fn port_channels<S>(ports: &Ports<S>) -> u8 {
    // The handshake refuses more ports than channels can carry.
    u8::try_from(2 * ports.allowed.len()).unwrap_or(u8::MAX)
}

async fn forward_spdy<S: Streams>(
    streams: &S,
    session: &Session,
    spdy: SpdySession,
    patience: Patience,
    stop: &CancellationToken,
) -> Over {
    forward::serve_spdy(
        spdy,
        &ports(streams, session),
        patience.stream_creation,
        stop,
    )
    .await;
    Over::Ports
}
