//! Port-forward: pairs of streams, one for data and one for errors, each pair a connection to a port of the pod.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::BytesMut;
use engine::streams::{PortStream, Streams};
use rustix::net::sockopt::set_socket_linger;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    link::{Incoming, Outgoing},
    process::sentence,
    spdy::session::{Opened, Session},
    websocket::Channel,
};

/// How much of a connection is read at once.
const READ_LEN: usize = 32 * 1024;

/// Longest number of a request, in bytes.
const MAX_REQUEST_ID: usize = 64;

/// What ports of which pod.
#[derive(Clone, Debug)]
pub(crate) struct Ports<S> {
    pub(crate) streams: S,
    pub(crate) pod: Arc<str>,
    /// Empty allows all.
    pub(crate) allowed: Arc<[u16]>,
}

/// A pair of which one stream may still be missing.
#[derive(Debug)]
struct Pair {
    since: Instant,
    port: u16,
    data: Option<(Incoming, Outgoing)>,
    error: Option<(Incoming, Outgoing)>,
}

/// What a stream of a port-forward is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// Serves a SPDY connection until `stop` is cancelled or the future dropped; the client's leaving is noticed by who runs it.
pub(crate) async fn serve_spdy<S: Streams>(
    mut session: Session,
    ports: &Ports<S>,
    stream_creation: Duration,
    stop: &CancellationToken,
) {
    let mut waiting: HashMap<String, Pair> = HashMap::new();
    // Dropped with this future, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        let oldest = waiting.values().map(|pair| pair.since).min();
        let too_old = async {
            match oldest {
                Some(since) => {
                    tokio::time::sleep(stream_creation.saturating_sub(since.elapsed())).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            opened = session.opened.recv() => {
                let Some(opened) = opened else { return };
                if let Some((name, kind, port)) = describe(&opened) {
                    let Opened { incoming, outgoing, .. } = opened;
                    let pair = waiting.entry(name.clone()).or_insert_with(|| Pair {
                        since: Instant::now(),
                        port,
                        data: None,
                        error: None,
                    });
                    let (place, this) = match kind {
                        Kind::Data => {
                            pair.port = port;
                            (&mut pair.data, "data")
                        }
                        Kind::Error => (&mut pair.error, "error"),
                    };
                    if place.is_some() {
                        tracing::debug!(pair = name, "a second {this} stream is reset");
                    } else {
                        *place = Some((incoming, outgoing));
                    }
                    if pair.data.is_some() && pair.error.is_some()
                        && let Some(Pair { port, data: Some(data), error: Some(error), .. }) = waiting.remove(&name)
                    {
                        connections.spawn(connect(ports.clone(), port, data, error, false));
                    }
                }
                // A stream that says not what it is for was dropped, and so reset.
            }
            Some(_) = connections.join_next() => {}
            () = too_old => {
                for (name, pair) in waiting.extract_if(|_, pair| pair.since.elapsed() >= stream_creation) {
                    connections.spawn(give_up(name, pair, stream_creation));
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

/// Which pair a stream belongs to, what it is for, and its port.
fn describe(opened: &Opened) -> Option<(String, Kind, u16)> {
    let kind = match opened.headers.get("streamtype")? {
        "data" => Kind::Data,
        "error" => Kind::Error,
        _ => return None,
    };
    let port: u16 = opened
        .headers
        .get("port")?
        .parse()
        .ok()
        .filter(|&port| port > 0)?;
    let name = match opened.headers.get("requestid").filter(|id| !id.is_empty()) {
        // Kept until the pair is whole, so a client must not choose how much that is.
        Some(id) if id.len() > MAX_REQUEST_ID => return None,
        Some(id) => format!("request {id}"),
        // Old clients number nothing, and open the error stream just before the one for data.
        None => match kind {
            Kind::Error => format!("stream {}", opened.id),
            Kind::Data => format!("stream {}", opened.id.checked_sub(2)?),
        },
    };
    Some((name, kind, port))
}

async fn give_up(name: String, pair: Pair, waited: Duration) {
    let why = format!(
        "port {}: the second stream of {name} was not opened within {waited:?}",
        pair.port
    );
    tracing::debug!("{why}");
    if let Some((_, mut error)) = pair.error {
        let _ = error.send(why.into()).await;
        let _ = error.finish().await;
    }
    if let Some((_, data)) = pair.data {
        let _ = data.reset().await;
    }
}

/// Carries one connection to its end, and tells what went wrong on its error stream. `whole`: see [`carry`].
async fn connect<S: Streams>(
    ports: Ports<S>,
    port: u16,
    data: (Incoming, Outgoing),
    error: (Incoming, Outgoing),
    whole: bool,
) {
    let (data_in, data) = data;
    let (error_in, mut error) = error;
    if let Err(why) = carry(&ports, port, data_in, data, whole).await {
        tracing::debug!(
            port,
            pod = &*ports.pod,
            "a forwarded connection failed: {why}"
        );
        let why = format!("port {port} of pod {}: {why}", ports.pod);
        let _ = error.send(why.into()).await;
    }
    let _ = error.finish().await;
    drop(error_in);
}

/// Serves a WebSocket that has two channels for each port, for data and for errors, until all connections are over.
pub(crate) async fn serve_channels<S: Streams>(
    channels: Vec<Channel>,
    ports: &Ports<S>,
    stop: &CancellationToken,
) {
    let mut connections = JoinSet::new();
    let mut channels = channels.into_iter();
    for &port in ports.allowed.iter() {
        let (Some(data), Some(error)) = (channels.next(), channels.next()) else {
            return;
        };
        connections.spawn(connect_channels(ports.clone(), port, data, error));
    }
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = stop.cancelled() => {}
    }
}

async fn connect_channels<S: Streams>(ports: Ports<S>, port: u16, data: Channel, error: Channel) {
    let Channel {
        incoming: data_in,
        outgoing: mut data,
    } = data;
    let Channel {
        incoming: error_in,
        outgoing: mut error,
    } = error;
    // Both channels begin with the port that they are for.
    let hello = bytes::Bytes::copy_from_slice(&port.to_le_bytes());
    if data.send(hello.clone()).await.is_err() || error.send(hello).await.is_err() {
        return;
    }
    connect(ports, port, (data_in, data), (error_in, error), true).await;
}

/// Connects and carries both ways, each to its own end. The error is for the client. A client that resets its stream, or leaves,
/// ends the connection at once. `whole` tells of a client that cannot see one direction end alone.
async fn carry<S: Streams>(
    ports: &Ports<S>,
    port: u16,
    mut incoming: Incoming,
    mut outgoing: Outgoing,
    whole: bool,
) -> Result<(), String> {
    let connected = async {
        if !ports.allowed.is_empty() && !ports.allowed.contains(&port) {
            return Err("it is not among the ports that were asked for".to_owned());
        }
        ports
            .streams
            .connect(&ports.pod, port)
            .await
            .map_err(|error| sentence(&error))
    };
    let connection = tokio::select! {
        connection = connected => connection,
        () = outgoing.gone() => return Ok(()),
    };
    let PortStream(mut connection) = match connection {
        Ok(connection) => connection,
        Err(why) => {
            // The client sees from this that its data goes nowhere; the pair of the next connection is not concerned.
            let _ = outgoing.reset().await;
            return Err(why);
        }
    };
    // However this ends before its time, the pod sees that it was cut off, and the kernel keeps nothing that the pod did not take.
    let _ = set_socket_linger(&connection, Some(Duration::ZERO));
    match both_ways(&mut connection, &mut incoming, &mut outgoing, whole).await {
        Both::Done => {
            let _ = set_socket_linger(&connection, None);
            let _ = outgoing.finish().await;
            Ok(())
        }
        Both::ClientGone => Ok(()),
        Both::Failed(error) => {
            let _ = outgoing.reset().await;
            Err(format!("the connection broke: {error}"))
        }
    }
}

enum Both {
    Done,
    ClientGone,
    Failed(std::io::Error),
}

async fn both_ways(
    connection: &mut TcpStream,
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
    whole: bool,
) -> Both {
    let (mut from_pod, mut to_pod) = connection.split();
    let gone = outgoing.gone();
    let up = async {
        let mut deaf_pod = false;
        loop {
            match incoming.next().await {
                Ok(Some(bytes)) => {
                    // A pod that takes no more has gone, which the other direction reads; what still comes is forgotten, for
                    // it must not stand in the way of other connections.
                    if !deaf_pod && to_pod.write_all(&bytes).await.is_err() {
                        deaf_pod = true;
                    }
                }
                Ok(None) => {
                    let _ = to_pod.shutdown().await;
                    // A finished upload is the kernel's to deliver, also when the client does not wait for it.
                    let _ = set_socket_linger(to_pod.as_ref(), None);
                    return Ok(());
                }
                Err(_) => return Err(Both::ClientGone),
            }
        }
    };
    let down = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_LEN);
            match from_pod.read_buf(&mut buffer).await {
                Ok(0) => {
                    return if whole {
                        Err(Both::Done)
                    } else {
                        half_close(outgoing).await
                    };
                }
                Ok(_) => {}
                Err(error) => return Err(Both::Failed(error)),
            }
            if outgoing.send(buffer.split().freeze()).await.is_err() {
                return Err(Both::ClientGone);
            }
        }
    };
    tokio::select! {
        both = async { tokio::try_join!(up, down) } => match both {
            Ok(_) => Both::Done,
            Err(end) => end,
        },
        // Also while the pod takes nothing, or says nothing.
        () = gone => Both::ClientGone,
    }
}

/// Tells the client that the pod sends no more, while the client may send on.
async fn half_close(outgoing: &mut Outgoing) -> Result<(), Both> {
    outgoing.half_close().await.map_err(|_| Both::ClientGone)
}
