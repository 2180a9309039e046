//! Whole sessions over loopback, against processes and ports that are made of pipes.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod fake;
mod hostile;
mod http;
mod ports;
mod process;
mod sockets;
mod tls;

use std::time::Duration;

use engine::streams::{ExecCommand, Wanted};
use tokio::{sync::oneshot, task::JoinHandle};

use self::fake::Fake;
use crate::{Session, StreamingOptions, StreamingServer, Tickets, TlsFiles};

/// A server that runs, and what stands behind it.
struct Served {
    fake: Fake,
    tickets: Tickets,
    address: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serve: JoinHandle<()>,
}

#[derive(Clone, Debug)]
struct Setup {
    tls: Option<TlsFiles>,
    idle: Duration,
    stream_creation: Duration,
    stall: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            tls: None,
            idle: Duration::from_mins(10),
            stream_creation: Duration::from_mins(1),
            stall: Duration::from_mins(1),
        }
    }
}

impl Served {
    async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    async fn with(setup: Setup) -> Self {
        let fake = Fake::new().await;
        let options = StreamingOptions {
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            tls: setup.tls,
            idle: setup.idle,
            stream_creation: setup.stream_creation,
        };
        let mut server = StreamingServer::bind(options, fake.clone()).await.unwrap();
        server.set_stall(setup.stall);
        let (tickets, address) = (server.tickets(), server.address());
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = tokio::spawn(server.serve(async {
            let _ = stopped.await;
        }));
        Self {
            fake,
            tickets,
            address,
            stop: Some(stop),
            serve,
        }
    }

    fn exec(&self, command: &[&str], wanted: Wanted) -> String {
        let command = ExecCommand {
            container: "box".to_owned(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            wanted,
        };
        self.tickets.url(Session::Exec(command)).unwrap()
    }

    fn ports(&self, ports: &[u16]) -> String {
        let session = Session::PortForward {
            pod: "pod".to_owned(),
            ports: ports.to_vec(),
        };
        self.tickets.url(session).unwrap()
    }

    /// Ends the server; it has to end within its grace.
    async fn end(mut self) -> Fake {
        drop(self.stop.take());
        self.serve.await.unwrap();
        self.fake.nothing_left().await;
        self.fake
    }
}

/// Streams by their first letters: t(ty), i(n), o(ut), e(rr).
fn wanted(letters: &str) -> Wanted {
    Wanted {
        tty: letters.contains('t'),
        stdin: letters.contains('i'),
        stdout: letters.contains('o'),
        stderr: letters.contains('e'),
    }
}

/// Bytes that differ from one another over a long way.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..len.div_ceil(4))
        .flat_map(|_| next().to_le_bytes())
        .take(len)
        .collect()
}
