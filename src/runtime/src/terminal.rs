//! The master of a terminal, read and written without blocking.
//!
//! Not one of tokio's pipes: those take a read that filled only a part of the buffer for the end of what is there, which
//! holds for pipes and sockets, but not for terminals.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    termios::{Winsize, tcsetwinsize},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

/// What a terminal takes for the end of input.
const END_OF_TRANSMISSION: &[u8] = b"\x04";

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// A terminal's master. Clones share it; it closes, and what runs on the terminal is hung up, with the last one.
#[derive(Clone, Debug)]
pub struct Terminal {
    master: Arc<AsyncFd<OwnedFd>>,
    /// The end of input was told by this clone.
    told_end: bool,
}

impl Terminal {
    /// Takes over a master. Needs tokio's runtime.
    pub fn new(master: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&master, fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe because of types that change their descriptor; an OwnedFd keeps its own"
        )]
        let master = AsyncFd::new(master)?;
        Ok(Self {
            master: Arc::new(master),
            told_end: false,
        })
    }

    /// Sets its size; the foreground process gets SIGWINCH if it differs.
    pub fn resize(&self, size: TerminalSize) -> io::Result<()> {
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(self.master.get_ref(), size)?)
    }

    fn write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.master.poll_write_ready(context))?;
            let write = |fd: &AsyncFd<OwnedFd>| Ok(rustix::io::write(fd.get_ref(), bytes)?);
            match guard.try_io(write) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.master.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut *space)?)) {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // Its last user has gone: the end.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A terminal cannot be closed in one direction: it is told, once.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.told_end {
            ready!(self.write(context, END_OF_TRANSMISSION))?;
            self.told_end = true;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rustix::{
        pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
        termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr},
    };
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn pair() -> (Terminal, OwnedFd) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        (Terminal::new(master).unwrap(), slave)
    }

    #[tokio::test]
    async fn much_output_comes_whole_and_ends() {
        let (mut terminal, slave) = pair();
        let mut raw = tcgetattr(&slave).unwrap();
        raw.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &raw).unwrap();
        let sent: Vec<u8> = (0..1_000_000_u32)
            .flat_map(|n| n.to_le_bytes().into_iter().take(2))
            .collect();
        let copy = sent.clone();
        let writer = std::thread::spawn(move || {
            let mut left = copy.as_slice();
            while !left.is_empty() {
                let written = rustix::io::write(&slave, left).unwrap();
                left = &left[written..];
            }
        });
        let mut got = Vec::new();
        terminal.read_to_end(&mut got).await.unwrap();
        writer.join().unwrap();
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    }

    #[tokio::test]
    async fn input_its_end_and_sizes_reach_the_other_side() {
        let (mut terminal, slave) = pair();
        let size = TerminalSize {
            rows: 31,
            columns: 99,
        };
        terminal.resize(size).unwrap();
        let seen = tcgetwinsize(&slave).unwrap();
        assert_eq!((seen.ws_row, seen.ws_col), (31, 99));
        terminal.write_all(b"line\n").await.unwrap();
        terminal.shutdown().await.unwrap();
        terminal.shutdown().await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(rustix::io::read(&slave, &mut buffer), Ok(5));
        assert_eq!(rustix::io::read(&slave, &mut buffer), Ok(0));
        // Told once only: nothing more to read.
        fcntl_setfl(&slave, OFlags::RDWR | OFlags::NONBLOCK).unwrap();
        assert_eq!(rustix::io::read(&slave, &mut buffer), Err(Errno::AGAIN));
    }
}
