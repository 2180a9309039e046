//! A SPDY client for tests: opens sessions of the server and plays well-behaved clients, and those that keep no windows.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};

use crate::{
    link::{Close, Incoming, Link, Outbound, Outgoing},
    spdy::session::{Role, start},
    window::Windows,
};

/// Why a client cannot go on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what the variant means")]
pub enum ClientError {
    #[error("{0:?} is not a URL of the form http://ADDRESS/PATH")]
    Url(String),
    #[error("the connection to the streaming server failed")]
    Io(#[from] io::Error),
    /// The answer's head and what had come of its body.
    #[error("the streaming server did not upgrade: {0}")]
    Refused(String),
    #[error("the stream or its session has ended")]
    Gone,
}

/// Longest head of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// A session, as its client sees it. Dropping it closes the connection.
#[derive(Debug)]
pub struct Client {
    /// The version that the server chose.
    pub version: Option<String>,
    link: Arc<Link>,
    data: mpsc::Sender<Outbound>,
    next_stream: u32,
    driver: JoinHandle<String>,
}

impl Client {
    /// Connects to a URL that the server gave out, offering `versions`. With `keeps_windows` false, this is a client like Go's
    /// spdystream, which has no flow control.
    pub async fn connect(
        url: &str,
        versions: &[&str],
        keeps_windows: bool,
    ) -> Result<Self, ClientError> {
        let (stream, version, early) = upgrade(url, "SPDY/3.1", versions).await?;
        let (read, write) = stream.into_split();
        Ok(Self::over(read, write, early, version, keeps_windows))
    }

    /// Speaks on a connection that has been upgraded by other means.
    pub fn over(
        read: impl AsyncRead + Send + Unpin + 'static,
        write: impl AsyncWrite + Send + Unpin + 'static,
        early: Bytes,
        version: Option<String>,
        keeps_windows: bool,
    ) -> Self {
        let windows = if keeps_windows {
            Windows::Kept
        } else {
            Windows::Absent
        };
        let (session, driver) = start(
            read,
            write,
            early,
            Role::Client,
            windows,
            Duration::MAX,
            None,
        );
        if keeps_windows {
            session.link.control(Outbound::Settings);
        }
        Self {
            version,
            link: session.link,
            data: session.data,
            next_stream: 1,
            driver: tokio::spawn(async move { driver.await.to_string() }),
        }
    }

    /// Opens a stream.
    pub fn open(&mut self, headers: &[(&str, &str)]) -> Result<ClientStream, ClientError> {
        let stream = self.next_stream;
        self.next_stream += 2;
        let (incoming, outgoing) = self
            .link
            .open(stream, &self.data)
            .map_err(|_| ClientError::Gone)?;
        let headers = headers.iter().copied().collect();
        self.link.control(Outbound::Open { stream, headers });
        Ok(ClientStream { incoming, outgoing })
    }

    /// Closes the connection in good order, and waits until the server has closed it too. Gives how it ended.
    pub async fn close(self) -> String {
        let _ = self.data.send(Outbound::Close(Close::Done)).await;
        self.driver.await.unwrap_or_default()
    }

    /// Waits until the connection has ended by itself. Gives how.
    pub async fn ended(self) -> String {
        self.driver.await.unwrap_or_default()
    }

    /// Vanishes: the connection is gone without a word.
    pub fn vanish(self) {
        self.driver.abort();
    }
}

/// One stream of a client.
#[derive(Debug)]
pub struct ClientStream {
    incoming: Incoming,
    outgoing: Outgoing,
}

impl ClientStream {
    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let bytes = Bytes::copy_from_slice(bytes);
        self.outgoing
            .send(bytes)
            .await
            .map_err(|_| ClientError::Gone)
    }

    /// Says that no more will be sent.
    pub async fn finish(&mut self) -> Result<(), ClientError> {
        self.outgoing
            .half_close()
            .await
            .map_err(|_| ClientError::Gone)
    }

    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        self.incoming.next().await.map_err(|_| ClientError::Gone)
    }

    /// All bytes to the end.
    pub async fn read_to_end(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    /// Sends bytes to the end, while it reads to the end.
    pub async fn exchange(&mut self, bytes: &[u8]) -> Result<Vec<u8>, ClientError> {
        let Self { incoming, outgoing } = self;
        let bytes = Bytes::copy_from_slice(bytes);
        let send = async {
            outgoing.send(bytes).await?;
            outgoing.half_close().await
        };
        let read = async {
            let mut all = Vec::new();
            while let Some(bytes) = incoming.next().await? {
                all.extend_from_slice(&bytes);
            }
            Ok(all)
        };
        let ((), all) = tokio::try_join!(send, read).map_err(|_| ClientError::Gone)?;
        Ok(all)
    }

    /// Ends the stream at once, in both directions.
    pub async fn reset(self) -> Result<(), ClientError> {
        self.outgoing.reset().await.map_err(|_| ClientError::Gone)
    }
}

/// Asks for an upgrade. Gives the connection, the version that was chosen, and what came behind the answer.
pub async fn upgrade(
    url: &str,
    protocol: &str,
    versions: &[&str],
) -> Result<(TcpStream, Option<String>, Bytes), ClientError> {
    let (address, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .ok_or_else(|| ClientError::Url(url.to_owned()))?;
    let mut stream = TcpStream::connect(address).await?;
    let versions: Vec<String> = versions
        .iter()
        .map(|version| format!("X-Stream-Protocol-Version: {version}\r\n"))
        .collect();
    let versions = versions.concat();
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
         {versions}Content-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let end = loop {
        if let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end;
        }
        if answer.len() > MAX_HEAD || stream.read_buf(&mut answer).await? == 0 {
            return Err(ClientError::Refused(
                String::from_utf8_lossy(&answer).into_owned(),
            ));
        }
    };
    let early = Bytes::copy_from_slice(&answer[end + 4..]);
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    if !head.starts_with("HTTP/1.1 101 ") {
        let body = String::from_utf8_lossy(&early);
        return Err(ClientError::Refused(format!("{head}\r\n\r\n{body}")));
    }
    let version = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("x-stream-protocol-version")
            .then(|| value.to_owned())
    });
    Ok((stream, version, early))
}
