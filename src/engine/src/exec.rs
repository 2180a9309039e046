//! Exec: a command inside a running container with its client's input and output.
//!
//! With pipes, each stream is one pipe between the command and us; with a terminal there is one master for all of it. The
//! command belongs to whoever holds its end: when that is dropped, the monitor kills it and its descendants.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll},
};

use runtime::{ExecRequest, ExecStdio, RunningExec, Terminal};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite},
    net::unix::pipe::{Receiver, Sender},
    sync::mpsc,
    time::timeout,
};

use crate::{
    error::{EngineError, SharedError},
    exec_process::ExecProcess,
    node::Node,
    streams::{End, ExecCommand, ProcessStreams, StreamEnd, TerminalSize, Wanted},
};

/// New sizes of a terminal that may wait.
const SIZES: usize = 4;

impl Node {
    /// Start a command. What it says waits in its pipes until it is read.
    pub(crate) async fn exec(&self, command: &ExecCommand) -> Result<ProcessStreams, EngineError> {
        let wanted = command.wanted;
        let process = self.exec_process(&command.container, &command.command, wanted.tty)?;
        if wanted.tty {
            return self.exec_on_terminal(process, wanted).await;
        }
        let (streams, theirs) = Pipes::new(wanted).map_err(pipe_failed)?;
        let running = self.start(&process, theirs).await?;
        Ok(ProcessStreams {
            stdin: streams
                .stdin
                .map(|stdin| Box::pin(ClosingSender(Some(stdin))) as _),
            stdout: streams.stdout.map(|stdout| Box::pin(stdout) as _),
            stderr: streams.stderr.map(|stderr| Box::pin(stderr) as _),
            resize: None,
            end: Box::pin(async move {
                let code = exit_code(running).await;
                drop(process);
                code
            }),
        })
    }

    async fn exec_on_terminal(
        &self,
        process: ExecProcess,
        wanted: Wanted,
    ) -> Result<ProcessStreams, EngineError> {
        let mut running = self.start(&process, ExecStdio::Terminal).await?;
        let master = running.take_terminal().ok_or_else(no_terminal)?;
        let terminal = Terminal::new(master).map_err(pipe_failed)?;
        let (resize, sizes) = mpsc::channel(SIZES);
        let unheard = (!wanted.stdout).then(|| terminal.clone());
        let resized = terminal.clone();
        let end: End = Box::pin(async move {
            tokio::select! {
                code = exit_code(running) => { drop(process); code }
                never = async { tokio::join!(apply_sizes(resized, sizes), throw_away(unheard)).0 } => match never {},
            }
        });
        Ok(ProcessStreams {
            stdin: wanted.stdin.then(|| Box::pin(terminal.clone()) as _),
            stdout: wanted.stdout.then(|| Box::pin(terminal) as _),
            stderr: None,
            resize: Some(resize),
            end,
        })
    }

    /// Bounded like every other command of a runtime: in a container that is frozen, it would never return.
    async fn start(
        &self,
        process: &ExecProcess,
        stdio: ExecStdio,
    ) -> Result<RunningExec, EngineError> {
        let limit = self.config.timeouts.runtime_command;
        let started = process.pod.monitor.start_exec(ExecRequest {
            id: process.container.id.to_string(),
            runtime: process.runtime.clone(),
            process_json: process.file.path().to_owned(),
            stdio,
            deadline: None,
        });
        match timeout(limit, started).await {
            Ok(started) => Ok(started?),
            Err(_) => Err(EngineError::Deadline {
                operation: "Exec",
                stage: "waiting for the runtime to start the command",
                limit,
            }),
        }
    }
}

async fn exit_code(running: RunningExec) -> Result<StreamEnd, SharedError> {
    let exit = running.wait().await.map_err(EngineError::from)?;
    Ok(StreamEnd::Exited(exit.code))
}

/// As long as the command runs, and longer.
async fn apply_sizes(
    terminal: Terminal,
    mut sizes: mpsc::Receiver<TerminalSize>,
) -> std::convert::Infallible {
    while let Some(size) = sizes.recv().await {
        if let Err(error) = terminal.resize(size) {
            tracing::debug!(%error, ?size, "a terminal cannot be resized");
        }
    }
    std::future::pending().await
}

/// Reads what nobody wants: a terminal that is full would stop the command.
async fn throw_away(terminal: Option<Terminal>) {
    if let Some(mut terminal) = terminal {
        let mut buffer = vec![0; 4096];
        while let Ok(1..) = terminal.read(&mut buffer).await {}
    }
}

fn pipe_failed(source: io::Error) -> EngineError {
    EngineError::Io {
        action: "make the streams of a command:",
        path: "pipe".into(),
        source,
    }
}

fn no_terminal() -> EngineError {
    pipe_failed(io::Error::other("the monitor handed over no terminal"))
}

/// Our ends of a command's pipes.
#[derive(Debug)]
struct Pipes {
    stdin: Option<Sender>,
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
}

impl Pipes {
    /// With the command's ends. What is not wanted is `/dev/null`.
    fn new(wanted: Wanted) -> io::Result<(Self, ExecStdio)> {
        let (stdin, their_stdin) = if wanted.stdin {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            (Some(Sender::from_owned_fd(ours)?), Some(theirs))
        } else {
            (None, None)
        };
        let (stdout, their_stdout) = output(wanted.stdout)?;
        let (stderr, their_stderr) = output(wanted.stderr)?;
        let ours = Self {
            stdin,
            stdout,
            stderr,
        };
        let theirs = ExecStdio::Pipes {
            stdin: their_stdin,
            stdout: their_stdout,
            stderr: their_stderr,
        };
        Ok((ours, theirs))
    }
}

fn output(wanted: bool) -> io::Result<(Option<Receiver>, OwnedFd)> {
    if wanted {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok((Some(Receiver::from_owned_fd(ours)?), theirs))
    } else {
        let null = File::options().write(true).open("/dev/null")?;
        Ok((None, null.into()))
    }
}

/// A pipe that closes when it is shut down, which tokio's own does not.
#[derive(Debug)]
struct ClosingSender(Option<Sender>);

impl ClosingSender {
    fn open(&mut self) -> io::Result<Pin<&mut Sender>> {
        let sender = self.0.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Pin::new(sender))
    }
}

impl AsyncWrite for ClosingSender {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.open()?.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::Read as _;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn input_ends_when_it_is_shut_down() {
        let wanted = Wanted {
            stdin: true,
            ..Wanted::default()
        };
        let (pipes, theirs) = Pipes::new(wanted).unwrap();
        assert!(pipes.stdout.is_none() && pipes.stderr.is_none());
        let ExecStdio::Pipes {
            stdin: Some(theirs),
            stdout,
            ..
        } = theirs
        else {
            panic!("no stdin");
        };
        let mut stdin = ClosingSender(pipes.stdin);
        stdin.write_all(b"all of it").await.unwrap();
        stdin.shutdown().await.unwrap();
        // What the command has must block, and not be ours to break.
        let mut got = String::new();
        File::from(theirs).read_to_string(&mut got).unwrap();
        assert_eq!(got, "all of it");
        let error = stdin.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        // What is not wanted can be written all the same.
        io::Write::write_all(&mut File::from(stdout), b"x").unwrap();
    }
}
