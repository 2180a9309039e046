//! The console socket: where a runtime hands over the master of a terminal that it made.

use std::{
    ffi::OsStr,
    fs, io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    event::epoll::EventFlags,
    fs::Mode,
    io::{Errno, IoSliceMut},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
        SocketFlags, SocketType, accept_with, bind, listen, recvmsg, socket_with,
    },
};

use crate::poller::{Poller, Token, Watch};

/// A socket that waits for one terminal. Its path goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Console {
    path: PathBuf,
    poller: Poller,
    token: Token,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Listening(Watch),
    Connected(Watch),
    Received(OwnedFd),
    Spent,
}

impl Console {
    pub(crate) fn listen(path: &[u8], poller: &Poller, token: Token) -> io::Result<Self> {
        let path = PathBuf::from(OsStr::from_bytes(path));
        let listener = listen_at(&path)?;
        let stage = Stage::Listening(poller.watch(listener, token, EventFlags::IN)?);
        Ok(Self {
            path,
            poller: poller.clone(),
            token,
            stage,
        })
    }

    /// Goes as far as possible without waiting.
    pub(crate) fn advance(&mut self) {
        if let Stage::Listening(listener) = &self.stage
            && let Ok(connection) =
                accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            self.stage = match self.poller.watch(connection, self.token, EventFlags::IN) {
                Ok(connection) => Stage::Connected(connection),
                Err(_) => Stage::Spent,
            };
        }
        if let Stage::Connected(connection) = &self.stage {
            match receive(connection) {
                Ok(Some(master)) => self.stage = Stage::Received(master),
                Err(Errno::AGAIN) => {}
                Ok(None) | Err(_) => self.stage = Stage::Spent,
            }
        }
    }

    /// The terminal, if it has come.
    pub(crate) fn take(&mut self) -> Option<OwnedFd> {
        self.advance();
        match std::mem::replace(&mut self.stage, Stage::Spent) {
            Stage::Received(master) => Some(master),
            other => {
                self.stage = other;
                None
            }
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn receive(connection: impl AsFd) -> Result<Option<OwnedFd>, Errno> {
    let mut name = [0_u8; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        connection,
        &mut [IoSliceMut::new(&mut name)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}

/// A listening socket that only root can connect to; what stood at the path is replaced.
pub(crate) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // bind makes the file with what the mask leaves: there is no moment in which others could connect.
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = bind(&socket, &address);
    rustix::process::umask(mask);
    bound?;
    listen(&socket, 16)?;
    Ok(socket)
}
