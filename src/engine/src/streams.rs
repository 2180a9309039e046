//! Live input and output of processes and ports: what the `streaming` server carries to clients.
//!
//! [`Streams`] is all that `streaming` sees of the engine, so that its protocols are tested against plain pipes.

use std::{future::Future, pin::Pin};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

pub use runtime::TerminalSize;

use crate::{Engine, error::SharedError};

/// What can be read until its end.
pub type Output = Pin<Box<dyn AsyncRead + Send>>;
/// What can be written. Shutting it down, or dropping it, is the end of input.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// A command for a running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecCommand {
    /// Id of the container.
    pub container: String,
    /// Program and arguments; not empty.
    pub command: Vec<String>,
    /// Which streams are wanted.
    pub wanted: Wanted,
}

/// Which streams of a process a client wants. Checked by `server`: at least one, and no stderr with a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "CRI's own words")]
pub struct Wanted {
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// How a process that was listened to came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The command ended: 0–255, 128 + n for signal n.
    Exited(i32),
    /// There will be no more output: the container ended, or its output was closed.
    Detached,
}

/// The future that tells a process's end.
pub type End = Pin<Box<dyn Future<Output = Result<StreamEnd, SharedError>> + Send>>;

/// A process that is being listened to. Dropping `end` before it is done lets go of the process: a command that was
/// started for the client is killed with its descendants, a container that was attached to goes on.
pub struct ProcessStreams {
    /// Present when asked for (and, for attach, when the container has an open stdin).
    pub stdin: Option<Input>,
    /// Present when asked for. Carries everything with a terminal.
    pub stdout: Option<Output>,
    /// Present when asked for and there is no terminal.
    pub stderr: Option<Output>,
    /// Present with a terminal: where new sizes go.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// The end.
    pub end: End,
}

impl std::fmt::Debug for ProcessStreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessStreams")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("terminal", &self.resize.is_some())
            .finish_non_exhaustive()
    }
}

/// A connection to a port of a pod.
#[derive(Debug)]
pub struct PortStream(pub tokio::net::TcpStream);

/// Where live input and output come from.
pub trait Streams: Clone + Send + Sync + 'static {
    /// Runs a command in a running container.
    fn exec(
        &self,
        command: ExecCommand,
    ) -> impl Future<Output = Result<ProcessStreams, SharedError>> + Send;

    /// Listens to a running container's own process.
    fn attach(
        &self,
        container: &str,
        wanted: Wanted,
    ) -> impl Future<Output = Result<ProcessStreams, SharedError>> + Send;

    /// Connects to a TCP port on 127.0.0.1 or, failing that, ::1 as the pod sees them.
    fn connect(
        &self,
        pod: &str,
        port: u16,
    ) -> impl Future<Output = Result<PortStream, SharedError>> + Send;
}

impl Streams for Engine {
    async fn exec(&self, command: ExecCommand) -> Result<ProcessStreams, SharedError> {
        Ok(self.node.exec(&command).await?)
    }

    async fn attach(&self, container: &str, wanted: Wanted) -> Result<ProcessStreams, SharedError> {
        Ok(self.node.attach(container, wanted).await?)
    }

    async fn connect(&self, pod: &str, port: u16) -> Result<PortStream, SharedError> {
        Ok(self.node.connect(pod, port).await?)
    }
}
