//! Runs one connection: its reader, its writer and its idle limit, until one of them ends it. Common to all transports.

use std::{io, sync::Arc, time::Duration};

use tokio::{io::AsyncWrite, time::Instant};

use crate::{
    link::{Close, Link, Outbound, Queues},
    spdy::FLOW_CONTROL_ERROR,
    write::{self, Encode},
};

/// While a client is held back its connection is not read, so that its end is not seen. What we send then is answered by a reset
/// when the client is gone; and clients that wait for a sign of life (client-go's WebSocket, for a minute) get one.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// How long a client that has got everything has to close its side.
const LINGER: Duration = Duration::from_secs(2);
/// How long a client that broke the protocol, or leaves, has to take our answer.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Why a connection is over.
#[derive(Debug)]
pub(crate) enum End {
    /// The client closed it without a word.
    Left,
    /// The client said that it closes it, and waits for the same from us.
    Closed,
    /// It broke.
    Broken(io::Error),
    /// Nothing flowed for too long.
    Idle,
    /// What the client sent is not the protocol.
    Garbage(String),
    /// The client made us answer and did not read.
    Flood,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Left | Self::Closed => write!(f, "the client left"),
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
            Self::Idle => write!(f, "nothing flowed for longer than the idle limit"),
            Self::Garbage(what) => write!(f, "the client broke the protocol: {what}"),
            Self::Flood => write!(f, "the client sent without reading"),
        }
    }
}

/// Runs the connection to its end. Whoever sends [`Close::Done`] ends it in good order: what was queued before goes out, as fast as
/// the client takes it, then the client is given [`LINGER`] to close its side.
pub(crate) async fn drive(
    link: Arc<Link>,
    reader: impl Future<Output = End>,
    wire: impl AsyncWrite + Unpin,
    encoder: impl Encode,
    queues: Queues,
    idle: Duration,
) -> End {
    // Also when this future is dropped: nobody may wait for a session that is not there.
    let ended = EndOnDrop(link);
    let link = &ended.0;
    let mut reader = std::pin::pin!(reader);
    let mut writer = std::pin::pin!(write::write(wire, encoder, queues, link));
    let end = tokio::select! {
        end = &mut reader => end,
        written = &mut writer => match written {
            // All is written. The client's end is read too, for closing a connection with unread bytes would reset it and
            // destroy what the client has not read yet.
            // How long the client needed to take it is for the idle limit alone to judge.
            Ok(()) => {
                return tokio::time::timeout(LINGER, reader)
                    .await
                    .unwrap_or(End::Left);
            }
            Err(error) => return End::Broken(error),
        },
        () = link.meter.idle(idle) => return End::Idle,
        () = link.flooded() => return End::Flood,
    };
    let last_word = match end {
        End::Garbage(_) => Some(Close::Protocol),
        End::Closed => Some(Close::Done),
        End::Left | End::Broken(_) | End::Idle | End::Flood => None,
    };
    if let Some(close) = last_word {
        link.control(Outbound::Close(close));
        // If it takes no more, it need not know why.
        let _ = tokio::time::timeout(LAST_WORD, writer).await;
    }
    end
}

struct EndOnDrop(Arc<Link>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Waits until a stream, or the session, may be read again. A stream that holds up others for `stall` is reset: one connection that
/// nobody reads must not be the end of a whole port-forward.
pub(crate) async fn until_drained(link: &Link, stream: u32, stall: Option<Duration>) {
    let mut probe = tokio::time::interval_at(Instant::now() + PROBE_EVERY, PROBE_EVERY);
    let mut stall_end = stall.map(|stall| Instant::now() + stall);
    loop {
        let mut drained = std::pin::pin!(link.drained());
        // Before looking, so that nothing that is taken between looking and waiting is missed.
        drained.as_mut().enable();
        if !link.is_full(stream) {
            return;
        }
        let stalled = async {
            match stall_end {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = drained => {}
            _ = probe.tick() => link.control(Outbound::Probe),
            () = stalled => {
                // Without others that wait there is no harm in waiting on.
                link.reset_fullest(FLOW_CONTROL_ERROR);
                stall_end = stall.map(|stall| Instant::now() + stall);
            }
        }
    }
}
