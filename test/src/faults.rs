//! A registry that does what real ones do on a bad day: scripted answers over plain HTTP.
//!
//! It serves whole images like any registry, except where a test has put another answer in the way.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::images::{Blob, Image};

/// What is answered to one path.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers beside Content-Length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Bytes of the body after which the connection is cut, though more were promised.
    pub cut_after: Option<usize>,
    /// Time before each further 64 KiB of the body, and before the first byte of the answer.
    pub pause: Duration,
    /// Accept the request and never answer.
    pub hang: bool,
}

impl Reply {
    /// An ordinary answer.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut_after: None,
            pause: Duration::ZERO,
            hang: false,
        }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Cut short.
    #[must_use]
    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.cut_after = Some(bytes);
        self
    }

    /// Slow.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Never.
    pub fn hanging() -> Self {
        Self {
            hang: true,
            ..Self::new(200, "")
        }
    }

    fn of_blob(blob: &Blob) -> Self {
        Self::new(200, blob.data.clone())
            .header("Content-Type", &blob.media_type)
            .header("Docker-Content-Digest", &blob.digest)
    }
}

type Replies = BTreeMap<String, Vec<Reply>>;

#[derive(Debug, Default)]
struct Shared {
    replies: Mutex<Replies>,
    log: Mutex<Vec<String>>,
}

/// A running one. Dropping it ends it.
#[derive(Debug)]
pub struct FaultyRegistry {
    host: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl FaultyRegistry {
    /// Listens on a port of 127.0.0.1.
    pub async fn listen(port: u16) -> Result<Self> {
        let host = format!("127.0.0.1:{port}");
        let listener = TcpListener::bind(&host)
            .await
            .with_context(|| format!("listening on {host}"))?;
        let shared = Arc::new(Shared::default());
        let for_task = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&for_task);
                // A connection that breaks is the client's choice, or the script's.
                tokio::spawn(async move { talk(stream, &shared).await.ok() });
            }
        });
        let registry = Self { host, shared, task };
        registry.reply("/v2/", Reply::new(200, "{}"));
        Ok(registry)
    }

    /// Full name of an image here.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host)
    }

    /// Serves an image as `repository:tag`.
    pub fn serve(&self, repository: &str, tag: &str, image: &Image) {
        for blob in image.layers.iter().chain([&image.config]) {
            let path = format!("/v2/{repository}/blobs/{}", blob.digest);
            self.reply(&path, Reply::of_blob(blob));
        }
        for reference in [tag, &image.manifest.digest] {
            let path = format!("/v2/{repository}/manifests/{reference}");
            self.reply(&path, Reply::of_blob(&image.manifest));
        }
    }

    /// From now on, this is the answer to a path.
    pub fn reply(&self, path: &str, reply: Reply) {
        self.replies(path, vec![reply]);
    }

    /// From now on, these are the answers to a path, one after the other; the last one stays.
    pub fn replies(&self, path: &str, replies: Vec<Reply>) {
        self.shared
            .replies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path.to_owned(), replies);
    }

    /// Requests so far, as "GET /v2/…".
    pub fn requests(&self) -> Vec<String> {
        self.shared
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for FaultyRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn next(&self, path: &str) -> Reply {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        match replies.get_mut(path) {
            Some(queue) if queue.len() > 1 => queue.remove(0),
            Some(queue) => queue
                .first()
                .cloned()
                .unwrap_or_else(|| Reply::new(404, "")),
            None => Reply::new(
                404,
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
            )
            .header("Content-Type", "application/json"),
        }
    }
}

/// One connection: requests one after the other.
async fn talk(stream: TcpStream, shared: &Shared) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ');
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            return Ok(());
        };
        let (method, path) = (method.to_owned(), path.to_owned());
        let mut range_start = None;
        let mut authorized = "";
        loop {
            let mut header = String::new();
            if stream.read_line(&mut header).await? == 0 {
                return Ok(());
            }
            let header = header.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(range) = header.strip_prefix("range: bytes=") {
                range_start = range.trim_end_matches('-').parse::<usize>().ok();
            }
            if header.starts_with("authorization:") {
                authorized = " (authorized)";
            }
        }
        let entry = format!("{method} {path}{authorized}");
        shared
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(entry);
        let path = path.split('?').next().unwrap_or_default();
        let reply = shared.next(path);
        if reply.hang {
            std::future::pending::<()>().await;
        }
        if !answer(stream.get_mut(), &reply, method == "HEAD", range_start).await? {
            return Ok(());
        }
    }
}

/// Writes one answer; whether the connection lives on.
async fn answer(
    stream: &mut TcpStream,
    reply: &Reply,
    head: bool,
    range_start: Option<usize>,
) -> Result<bool> {
    let start = range_start.filter(|start| *start < reply.body.len() && reply.status == 200);
    let (status, body) = match start {
        Some(start) => (206, &reply.body[start..]),
        None => (reply.status, &reply.body[..]),
    };
    let mut text = format!(
        "HTTP/1.1 {status} Scripted\r\nContent-Length: {}\r\n",
        body.len()
    );
    // Writing to a String cannot fail.
    if let Some(start) = start {
        let (last, total) = (reply.body.len() - 1, reply.body.len());
        let _ = write!(text, "Content-Range: bytes {start}-{last}/{total}\r\n");
    }
    for (name, value) in &reply.headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text += "\r\n";
    tokio::time::sleep(reply.pause).await;
    stream.write_all(text.as_bytes()).await?;
    if head {
        return Ok(true);
    }
    let sent = reply.cut_after.unwrap_or(body.len()).min(body.len());
    for piece in body[..sent].chunks(64 << 10) {
        stream.write_all(piece).await?;
        tokio::time::sleep(reply.pause).await;
    }
    stream.flush().await?;
    Ok(sent == body.len())
}
