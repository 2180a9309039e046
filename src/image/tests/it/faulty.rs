//! A registry that does what a test tells it to: an HTTP/1.1 server on a loopback port, one function for its answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::published::Published;

/// What came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    /// By lower-case name.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Seen {
    /// The range that is asked for, of so many bytes: start, and end exclusive.
    pub(crate) fn range(&self, length: usize) -> Option<(usize, usize)> {
        let (from, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        let from: usize = from.parse().unwrap();
        let to = last.parse::<usize>().map_or(length, |last| last + 1);
        (from < to && to <= length).then_some((from, to))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What goes out.
pub(crate) enum Reply {
    Full(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Announces `length` bytes and closes the connection after those given.
    CutShort {
        body: Vec<u8>,
        length: usize,
    },
    /// Sends the bytes in chunks, without a length.
    Chunked(Vec<u8>),
    /// Announces `length` bytes under this status, sends those given in steps of a size with a pause after each, and then
    /// closes the connection if that is not all.
    Paced {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
        length: usize,
        step: usize,
        pause: Duration,
    },
    /// Sends the first bytes, then nothing, for ever.
    Stall {
        body: Vec<u8>,
        length: usize,
    },
    /// Says nothing, for ever.
    Silence,
    /// Answers after a while.
    Later(Duration, Box<Reply>),
}

impl Reply {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Full(200, vec![], body.into())
    }

    pub(crate) fn typed(kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::Full(200, vec![("Content-Type", kind.to_owned())], body.into())
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::Full(status, vec![], vec![])
    }

    /// What was asked of a blob: the part that a range names, or all of it.
    pub(crate) fn part(seen: &Seen, blob: &[u8]) -> Self {
        match seen.range(blob.len()) {
            None => Self::Full(200, vec![], blob.to_vec()),
            Some((from, to)) => Self::Full(
                206,
                vec![(
                    "Content-Range",
                    format!("bytes {from}-{}/{}", to - 1, blob.len()),
                )],
                blob[from..to].to_vec(),
            ),
        }
    }

    /// The same reply, cut after so many bytes of its body, at this pace.
    pub(crate) fn cut_after(self, bytes: usize, step: usize, pause: Duration) -> Self {
        let Self::Full(status, headers, mut body) = self else {
            return self;
        };
        let length = body.len();
        body.truncate(bytes);
        Self::Paced {
            status,
            headers,
            body,
            length,
            step,
            pause,
        }
    }

    pub(crate) fn refusal(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{code}"}}]}}"#);
        Self::Full(
            status,
            vec![("Content-Type", "application/json".into())],
            body.into_bytes(),
        )
    }

    pub(crate) fn page(status: u16) -> Self {
        let body = format!("<html><body>{}</body></html>", "login please ".repeat(500));
        Self::Full(
            status,
            vec![("Content-Type", "text/html".into())],
            body.into_bytes(),
        )
    }

    pub(crate) fn redirect(to: String) -> Self {
        Self::Full(307, vec![("Location", to)], vec![])
    }
}

type Answers = dyn Fn(&Seen) -> Reply + Send + Sync;

pub(crate) struct Faulty {
    /// `127.0.0.1:port`.
    pub(crate) host: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    _server: AbortOnDropHandle<()>,
}

impl Faulty {
    /// A registry with these answers.
    pub(crate) async fn start(answers: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0", answers).await
    }

    /// The same on another address.
    pub(crate) async fn start_on(
        address: &str,
        answers: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let answers: Arc<Answers> = Arc::new(answers);
        let server = tokio::spawn({
            let (seen, connections) = (Arc::clone(&seen), Arc::clone(&connections));
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (answers, seen) = (Arc::clone(&answers), Arc::clone(&seen));
                    let connections = Arc::clone(&connections);
                    connections.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(async move {
                        serve(stream, answers, seen).await;
                        connections.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
        });
        Self {
            host,
            seen,
            connections,
            _server: AbortOnDropHandle::new(server),
        }
    }

    /// A registry that holds images (any repository, tags by name) except where `fault` has another answer.
    pub(crate) async fn holding(
        images: &[(&str, &Published)],
        fault: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let images: Vec<(String, Published)> = images
            .iter()
            .map(|(tag, image)| ((*tag).to_owned(), (*image).clone()))
            .collect();
        Self::start(move |seen| fault(seen).unwrap_or_else(|| honest(&images, seen))).await
    }

    /// A registry that holds one image, as tag `1`, on this address.
    pub(crate) async fn holding_on(address: &str, image: &Published) -> Self {
        let images = vec![("1".to_owned(), image.clone())];
        Self::start_on(address, move |seen| honest(&images, seen)).await
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    /// How many clients are connected. A client that has gone is noticed when it is written to, or at its next request.
    pub(crate) fn open_connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many GET requests had a path that contains this.
    pub(crate) fn gets(&self, part: &str) -> usize {
        self.seen()
            .iter()
            .filter(|seen| seen.method == "GET" && seen.path.contains(part))
            .count()
    }
}

/// What a registry answers that holds these images.
pub(crate) fn honest(images: &[(String, Published)], seen: &Seen) -> Reply {
    let path = seen.path.split('?').next().unwrap_or_default();
    let (kind, name) = match path.rsplit_once('/') {
        Some((before, name)) => (before.rsplit('/').next().unwrap_or_default(), name),
        None => ("", ""),
    };
    match kind {
        "manifests" => images
            .iter()
            .find(|(tag, image)| tag == name || image.digest().as_str() == name)
            .map(|(_, image)| {
                Reply::Full(
                    200,
                    vec![
                        ("Content-Type", image.manifest_type.to_owned()),
                        ("Docker-Content-Digest", image.digest().to_string()),
                    ],
                    image.manifest.clone(),
                )
            }),
        "blobs" => images
            .iter()
            .flat_map(|(_, image)| image.blobs())
            .find(|blob| state::Digest::sha256_of(blob).as_str() == name)
            .map(|blob| Reply::part(seen, &blob)),
        _ => None,
    }
    .unwrap_or_else(|| Reply::refusal(404, "MANIFEST_UNKNOWN"))
}

async fn serve(mut stream: TcpStream, answers: Arc<Answers>, seen: Arc<Mutex<Vec<Seen>>>) {
    loop {
        let Some(request) = read_request(&mut stream).await else {
            return;
        };
        seen.lock().unwrap().push(request.clone());
        let mut reply = answers(&request);
        while let Reply::Later(wait, then) = reply {
            tokio::time::sleep(wait).await;
            reply = *then;
        }
        if !send(&mut stream, reply, request.method == "HEAD").await {
            return;
        }
    }
}

/// Whether the connection can be used again.
async fn send(stream: &mut TcpStream, reply: Reply, head_only: bool) -> bool {
    let mut out = Vec::new();
    match reply {
        Reply::Full(status, headers, body) => {
            out.extend(
                format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len()).bytes(),
            );
            for (name, value) in headers {
                out.extend(format!("{name}: {value}\r\n").bytes());
            }
            out.extend(b"\r\n");
            if !head_only {
                out.extend(body);
            }
            stream.write_all(&out).await.is_ok()
        }
        Reply::Paced {
            status,
            headers,
            body,
            length,
            step,
            pause,
        } => {
            out.extend(format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n").bytes());
            for (name, value) in headers {
                out.extend(format!("{name}: {value}\r\n").bytes());
            }
            out.extend(b"\r\n");
            if stream.write_all(&out).await.is_err() {
                return false;
            }
            for part in body.chunks(step.max(1)) {
                if stream.write_all(part).await.is_err() {
                    return false;
                }
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
            if body.len() < length {
                let _ = stream.shutdown().await;
            }
            body.len() == length
        }
        Reply::CutShort { body, length } => {
            out.extend(format!("HTTP/1.1 200 X\r\nContent-Length: {length}\r\n\r\n").bytes());
            out.extend(body);
            let _ = stream.write_all(&out).await;
            let _ = stream.shutdown().await;
            false
        }
        Reply::Chunked(body) => {
            out.extend(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n");
            for part in body.chunks(60_000) {
                out.extend(format!("{:x}\r\n", part.len()).bytes());
                out.extend(part);
                out.extend(b"\r\n");
            }
            out.extend(b"0\r\n\r\n");
            stream.write_all(&out).await.is_ok()
        }
        Reply::Stall { body, length } => {
            out.extend(format!("HTTP/1.1 200 X\r\nContent-Length: {length}\r\n\r\n").bytes());
            out.extend(body);
            let _ = stream.write_all(&out).await;
            std::future::pending().await
        }
        Reply::Silence => std::future::pending().await,
        Reply::Later(..) => false,
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
        // As servers do that are spoken to in TLS and do not speak it.
        if head.first() == Some(&0x16) {
            let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await;
            return None;
        }
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut seen = Seen {
        method,
        path,
        headers,
        body: String::new(),
    };
    let length = seen
        .header("content-length")
        .map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    seen.body = String::from_utf8(body).ok()?;
    Some(seen)
}
