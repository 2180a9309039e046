//! What stands between a node and its registry on a bad day: a proxy that counts what it passes on, slows it down, and cuts
//! connections in the middle.
//!
//! It knows nothing of HTTP: a cut is a cut wherever it falls, in a header, a body or between two answers.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};

/// What is passed on at a time.
const PIECE_BYTES: usize = 32 << 10;
/// How much may be on its way to a client that does not read.
const SEND_BUFFER_BYTES: u32 = 64 << 10;

/// A running proxy. Dropping it ends it.
#[derive(Debug)]
pub struct FaultProxy {
    shared: Arc<Shared>,
    host: String,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    /// After each piece.
    pause: Duration,
    passed: AtomicU64,
    made: AtomicUsize,
    /// Of each cut that is still to come, how many bytes after the one before.
    cuts: Mutex<VecDeque<u64>>,
    /// Bytes until the next cut, if there is one.
    left: Mutex<Option<u64>>,
}

impl FaultProxy {
    /// Listens on a port of 127.0.0.1 and passes on what `upstream` sends, pausing after every 32 KiB, and cutting
    /// connections after so many bytes each. Has to be called inside a tokio runtime.
    pub fn listen(
        port: u16,
        upstream: &str,
        pause: Duration,
        cuts: impl IntoIterator<Item = u64>,
    ) -> Result<Self> {
        let host = format!("127.0.0.1:{port}");
        let socket = TcpSocket::new_v4().context("making a socket")?;
        socket.set_reuseaddr(true)?;
        // Connections inherit it.
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket
            .bind(host.parse()?)
            .with_context(|| format!("listening on {host}"))?;
        let listener: TcpListener = socket.listen(64)?;
        let mut cuts: VecDeque<u64> = cuts.into_iter().collect();
        let left = cuts.pop_front();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            pause,
            passed: AtomicU64::new(0),
            made: AtomicUsize::new(0),
            cuts: Mutex::new(cuts),
            left: Mutex::new(left),
        });
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let shared = Arc::clone(&shared);
                    // A connection that breaks is what this is for.
                    tokio::spawn(async move { pass(client, &shared).await.ok() });
                }
            }
        });
        Ok(Self { shared, host, task })
    }

    /// Full name of an image of the registry behind it.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host)
    }

    /// Bytes that clients were sent, headers included.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }

    /// Connections that were cut.
    pub fn cuts_made(&self) -> usize {
        self.shared.made.load(Ordering::SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    /// Of so many bytes, how many may still be passed on, and whether the connection is cut then.
    fn allow(&self, bytes: usize) -> (usize, bool) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *left {
            Some(allowed) if *allowed <= bytes as u64 => {
                let last = usize::try_from(*allowed).unwrap_or(bytes);
                let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
                *left = cuts.pop_front();
                self.made.fetch_add(1, Ordering::SeqCst);
                (last, true)
            }
            Some(allowed) => {
                *allowed -= bytes as u64;
                (bytes, false)
            }
            None => (bytes, false),
        }
    }
}

async fn pass(client: TcpStream, shared: &Shared) -> Result<()> {
    let registry = TcpStream::connect(&shared.upstream).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_registry, mut to_registry) = registry.into_split();
    let asking = tokio::io::copy(&mut from_client, &mut to_registry);
    let answering = async {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = from_registry.read(&mut piece).await?;
            if count == 0 {
                return Ok::<_, anyhow::Error>(());
            }
            let (count, cut) = shared.allow(count);
            to_client.write_all(&piece[..count]).await?;
            shared.passed.fetch_add(count as u64, Ordering::SeqCst);
            if cut {
                return Ok(());
            }
            tokio::time::sleep(shared.pause).await;
        }
    };
    // The end of either ends both.
    tokio::select! {
        asked = asking => asked.map(drop).map_err(Into::into),
        answered = answering => answered,
    }
}
