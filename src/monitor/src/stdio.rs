//! A container's standard streams on the monitor's side: pipes or a terminal.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    event::epoll::EventFlags,
    fs::{OFlags, fcntl_setfl},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};

use crate::{
    log::Lines,
    poller::{Poller, Source, Token, Watch},
    setup::null_device,
    spawn::ChildStdio,
};

/// Bytes read at once.
pub(crate) const READ_BYTES: usize = 16 * 1024;
/// Input kept for a container that does not read; attaching clients wait meanwhile.
const PENDING_BYTES_MAX: usize = 64 * 1024;
/// What a terminal takes for the end of input.
const END_OF_TRANSMISSION: &[u8] = b"\x04";

/// The ends of a container's pipes, before it runs.
#[derive(Debug)]
pub(crate) struct Pipes {
    /// Ours. Absent: `/dev/null`.
    stdin: Option<OwnedFd>,
    /// Ours. With a terminal: what the runtime itself prints.
    stdout: OwnedFd,
    /// Ours. With a terminal: what the runtime itself prints.
    stderr: OwnedFd,
    child: Option<[OwnedFd; 3]>,
}

impl Pipes {
    pub(crate) fn new(stdin: bool) -> io::Result<Self> {
        let (stdout, child_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let (child_stdin, stdin) = if stdin {
            let (child, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            (child, Some(ours))
        } else {
            (null_device()?, None)
        };
        // Only our ends: what the container has must block, as programs expect.
        for ours in [Some(&stdout), Some(&stderr), stdin.as_ref()]
            .into_iter()
            .flatten()
        {
            fcntl_setfl(ours, OFlags::NONBLOCK)?;
        }
        Ok(Self {
            stdin,
            stdout,
            stderr,
            child: Some([child_stdin, child_stdout, child_stderr]),
        })
    }

    /// Lends the container's ends for spawning, then closes ours of them: else no stream would ever end.
    pub(crate) fn give<T>(
        &mut self,
        spawn: impl FnOnce(ChildStdio<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let [stdin, stdout, stderr] = self
            .child
            .take()
            .ok_or_else(|| io::Error::from(Errno::BADF))?;
        spawn(ChildStdio {
            stdin: stdin.as_fd(),
            stdout: stdout.as_fd(),
            stderr: stderr.as_fd(),
        })
    }

    /// What the runtime printed, the end of it. Nothing of it is the container's, which has not started.
    pub(crate) fn drain(&self, cap: usize) -> Vec<u8> {
        let stdout = drain(self.stdout.as_fd(), cap);
        let stderr = drain(self.stderr.as_fd(), cap);
        if stderr.is_empty() { stdout } else { stderr }
    }

    /// Our ends: stdin, stdout, stderr.
    pub(crate) fn into_ends(self) -> (Option<OwnedFd>, OwnedFd, OwnedFd) {
        (self.stdin, self.stdout, self.stderr)
    }
}

/// What a read brought.
pub(crate) enum Read {
    Data(usize),
    Nothing,
    End,
}

/// One read without waiting. A terminal whose last user has gone gives an I/O error: that is its end.
pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Read {
    match rustix::io::read(fd, buffer) {
        Ok(0) => Read::End,
        Ok(length) => Read::Data(length),
        Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
        Err(_) => Read::End,
    }
}

/// The last bytes that are in a pipe right now, up to `cap`.
fn drain(fd: BorrowedFd<'_>, cap: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Read::Data(length) = read(fd, &mut buffer) {
        kept.extend_from_slice(buffer.get(..length).unwrap_or_default());
        kept.drain(..kept.len().saturating_sub(cap));
    }
    kept
}

/// An output stream that is being read.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) watch: Watch,
    pub(crate) lines: Lines,
}

/// A container's stdin.
#[derive(Debug)]
pub(crate) struct Input {
    watch: Watch,
    pending: Vec<u8>,
    terminal: bool,
    closing: bool,
}

impl Input {
    /// Watches `fd`, which does not block and is not watched under the same number already.
    pub(crate) fn new(
        fd: OwnedFd,
        terminal: bool,
        poller: &Poller,
        serial: u32,
    ) -> io::Result<Self> {
        let watch = poller.watch(
            fd,
            Token {
                source: Source::Stdin,
                serial,
            },
            EventFlags::empty(),
        )?;
        Ok(Self {
            watch,
            pending: Vec::new(),
            terminal,
            closing: false,
        })
    }

    /// Takes everything; what the container does not read yet is kept.
    pub(crate) fn write(&mut self, data: &[u8]) -> Result<(), Errno> {
        if !self.closing {
            self.pending.extend_from_slice(data);
            self.advance()?;
        }
        Ok(())
    }

    /// Closes when everything is written. A terminal cannot be closed, it is told.
    pub(crate) fn close(&mut self) -> Result<(), Errno> {
        if self.terminal {
            return self.write(END_OF_TRANSMISSION);
        }
        self.closing = true;
        self.advance()
    }

    /// Whether clients have to wait with more.
    pub(crate) fn is_full(&self) -> bool {
        self.pending.len() >= PENDING_BYTES_MAX
    }

    /// Writes what it can. An error means that the stream is done, also by having been closed.
    pub(crate) fn advance(&mut self) -> Result<(), Errno> {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.watch, &self.pending) {
                Ok(length) => {
                    self.pending.drain(..length);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        if self.pending.is_empty() {
            self.pending = Vec::new();
            if self.closing {
                return Err(Errno::PIPE);
            }
        }
        let waiting = if self.pending.is_empty() {
            EventFlags::empty()
        } else {
            EventFlags::OUT
        };
        self.watch.interest(waiting);
        Ok(())
    }

    /// The descriptor is ready: writable, or, if nothing is to be written, without a reader.
    pub(crate) fn ready(&mut self) -> Result<(), Errno> {
        if self.pending.is_empty() {
            Err(Errno::PIPE)
        } else {
            self.advance()
        }
    }

    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.then(|| self.watch.as_fd())
    }
}
