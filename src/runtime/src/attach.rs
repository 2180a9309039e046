//! A client of a container's attach socket: live output as streams, input and sizes the other way.
//!
//! One task carries both directions as long as [`AttachEnd`] lives. Streams that are not read make it wait, and then the
//! monitor, which is patient for some seconds only; streams that were dropped are read and forgotten.

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
};

use monitor_wire::attach::{AttachBuffer, AttachFrame};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use crate::{Refusal, RuntimeError, TerminalSize, monitor::PROMPT};

/// Bytes read at once, and kept for a stream that is not read at the moment.
const CHUNK_BYTES: usize = 64 * 1024;
/// Input that goes into one frame.
const INPUT_BYTES: usize = 32 * 1024;
/// New sizes that may wait.
const SIZES: usize = 4;

/// What is wanted of a container's streams.
#[derive(Clone, Debug)]
pub struct AttachRequest {
    /// Container id, for errors.
    pub id: String,
    /// The container's attach socket.
    pub socket: PathBuf,
    /// Give input.
    pub stdin: bool,
    /// Hear standard output, or the terminal.
    pub stdout: bool,
    /// Hear standard error.
    pub stderr: bool,
    /// The container's stdin is closed when the input is shut down or dropped; otherwise it stays open for others.
    pub close_stdin: bool,
}

/// A container that is attached to.
#[derive(Debug)]
pub struct Attached {
    /// Input, if wanted and if the container's stdin is open.
    pub stdin: Option<DuplexStream>,
    /// Standard output or the terminal, if wanted.
    pub stdout: Option<DuplexStream>,
    /// Standard error, if wanted and if there is no terminal.
    pub stderr: Option<DuplexStream>,
    /// Where new sizes go, if there is a terminal.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// The end of output.
    pub end: AttachEnd,
}

/// Done when there will be no more output. Dropped before, it hangs up; the container goes on.
#[derive(Debug)]
pub struct AttachEnd {
    task: JoinHandle<Result<(), RuntimeError>>,
}

impl Future for AttachEnd {
    type Output = Result<(), RuntimeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // It is aborted by our own drop only; a panic of it goes on here.
        match ready!(Pin::new(&mut self.task).poll(context)) {
            Ok(end) => Poll::Ready(end),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Poll::Ready(Ok(())),
            },
        }
    }
}

impl Drop for AttachEnd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Attached {
    /// Connects to a container's streams. Output from this moment on arrives.
    pub async fn connect(request: AttachRequest) -> Result<Self, RuntimeError> {
        let socket = request.socket;
        let mut stream = match UnixStream::connect(&socket).await {
            Ok(stream) => stream,
            Err(source) => {
                return Err(match source.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                        RuntimeError::Disconnected { socket }
                    }
                    _ => RuntimeError::Io {
                        doing: "connect",
                        path: socket,
                        source,
                    },
                });
            }
        };
        let mut buffer = AttachBuffer::default();
        let hello = timeout(PROMPT, hello(&mut stream, &mut buffer, &socket));
        let Ok(hello) = hello.await else {
            return Err(protocol(
                &socket,
                format_args!("no greeting within {PROMPT:?}"),
            ));
        };
        let Some((terminal, has_stdin)) = hello? else {
            return Err(RuntimeError::Refused {
                operation: "attach",
                id: request.id,
                kind: Refusal::Busy,
                message: "too many clients are attached already, or it is being removed: retry when one has left"
                    .to_owned(),
            });
        };
        if !request.stdin
            && let Ok(listening) = AttachFrame::Listening.encode()
        {
            // A connection that is broken already is found by whoever reads it.
            let _ = stream.write_all(&listening).await;
        }
        let (from_monitor, to_monitor) = stream.into_split();
        let (stdin, input) = stream_if(request.stdin && has_stdin);
        let (stdout, to_stdout) = stream_if(request.stdout);
        let (stderr, to_stderr) = stream_if(request.stderr && !terminal);
        let (resize, sizes) = mpsc::channel(SIZES);
        let outputs = Outputs {
            from_monitor,
            buffer,
            socket,
            stdout: to_stdout,
            stderr: to_stderr,
        };
        let inputs = Inputs {
            to_monitor,
            stdin: input,
            close_stdin: request.close_stdin,
            sizes,
        };
        let task = tokio::spawn(async move {
            // In this order of importance: when output ends, input has no meaning any more.
            tokio::select! {
                end = outputs.carry() => end,
                never = inputs.carry() => match never {},
            }
        });
        Ok(Self {
            stdin,
            stdout,
            stderr,
            resize: terminal.then_some(resize),
            end: AttachEnd { task },
        })
    }
}

/// Both ends of a stream, if there is to be one.
fn stream_if(wanted: bool) -> (Option<DuplexStream>, Option<DuplexStream>) {
    wanted.then(|| duplex(CHUNK_BYTES)).unzip()
}

fn protocol(socket: &Path, message: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::Protocol {
        socket: socket.to_owned(),
        message: message.to_string(),
    }
}

/// Whether there is a terminal, and whether stdin is open; `None` when the monitor hangs up instead.
async fn hello(
    stream: &mut UnixStream,
    buffer: &mut AttachBuffer,
    socket: &Path,
) -> Result<Option<(bool, bool)>, RuntimeError> {
    let mut chunk = [0; 1024];
    loop {
        match buffer.next_frame() {
            Ok(Some(AttachFrame::Hello { terminal, stdin })) => return Ok(Some((terminal, stdin))),
            Ok(Some(other)) => return Err(protocol(socket, format_args!("{other:?} as greeting"))),
            Ok(None) => {}
            Err(error) => return Err(protocol(socket, error)),
        }
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(length) => buffer.push(chunk.get(..length).unwrap_or_default()),
        }
    }
}

struct Outputs {
    from_monitor: OwnedReadHalf,
    buffer: AttachBuffer,
    socket: PathBuf,
    stdout: Option<DuplexStream>,
    stderr: Option<DuplexStream>,
}

impl Outputs {
    /// Carries until the container has no more to say.
    async fn carry(mut self) -> Result<(), RuntimeError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match self.buffer.next_frame() {
                Ok(Some(AttachFrame::Stdout(data))) => deliver(&mut self.stdout, &data).await,
                Ok(Some(AttachFrame::Stderr(data))) => deliver(&mut self.stderr, &data).await,
                Ok(Some(AttachFrame::Ended)) => return Ok(()),
                // Nothing else is sent to clients.
                Ok(Some(_)) => {}
                Ok(None) => match self.from_monitor.read(&mut chunk).await {
                    Ok(length @ 1..) => self.buffer.push(chunk.get(..length).unwrap_or_default()),
                    Ok(0) | Err(_) => {
                        return Err(RuntimeError::CutOff {
                            socket: self.socket,
                        });
                    }
                },
                Err(error) => return Err(protocol(&self.socket, error)),
            }
        }
    }
}

async fn deliver(stream: &mut Option<DuplexStream>, data: &[u8]) {
    if let Some(open) = stream
        && open.write_all(data).await.is_err()
    {
        *stream = None;
    }
}

struct Inputs {
    to_monitor: OwnedWriteHalf,
    stdin: Option<DuplexStream>,
    close_stdin: bool,
    sizes: mpsc::Receiver<TerminalSize>,
}

impl Inputs {
    /// Carries as long as there is something; the session's end is not for its input to tell.
    async fn carry(mut self) -> std::convert::Infallible {
        let mut chunk = vec![0; INPUT_BYTES];
        let mut may_resize = true;
        while may_resize || self.stdin.is_some() {
            let frame = tokio::select! {
                read = read_some(&mut self.stdin, &mut chunk), if self.stdin.is_some() => {
                    if let Ok(length @ 1..) = read {
                        Some(AttachFrame::Stdin(chunk.get(..length).unwrap_or_default().to_vec()))
                    } else {
                        self.stdin = None;
                        self.close_stdin.then_some(AttachFrame::CloseStdin)
                    }
                }
                size = self.sizes.recv(), if may_resize => {
                    may_resize = size.is_some();
                    size.map(|TerminalSize { rows, columns }| AttachFrame::Resize { rows, columns })
                }
            };
            let bytes = frame.and_then(|frame| frame.encode().ok());
            if let Some(bytes) = bytes
                && self.to_monitor.write_all(&bytes).await.is_err()
            {
                // The monitor has hung up, which shows in the other direction.
                break;
            }
        }
        std::future::pending().await
    }
}

async fn read_some(stream: &mut Option<DuplexStream>, chunk: &mut [u8]) -> io::Result<usize> {
    match stream {
        Some(stream) => stream.read(chunk).await,
        None => Ok(0),
    }
}

#[cfg(test)]
mod tests;
