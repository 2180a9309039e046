//! The Unix socket that the server answers on: handed over by systemd, or bound here.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use rustix::net::{AddressFamily, SocketType, sockopt};

/// Root and its group may connect: whoever can is root on the node.
const SOCKET_MODE: u32 = 0o660;

/// Why there is no socket to answer on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// Another program answers there.
    #[error("another server answers at {}", path.display())]
    Alive {
        /// The socket.
        path: PathBuf,
    },
    /// Something else stands in the way.
    #[error("{} is no socket, and is left alone", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen at {path}: {source}", path = .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// systemd gave something that cannot be served.
    #[error(
        "the socket unit must hand over one listening stream socket of the family unix: {fault}"
    )]
    BadHandover {
        /// What is wrong with it.
        fault: String,
    },
}

/// The socket to answer on. One that systemd hands over wins over the configured path.
pub(crate) fn listen(inherited: Vec<OwnedFd>, path: &Path) -> Result<Listening, ListenError> {
    match <[OwnedFd; 1]>::try_from(inherited) {
        Ok([socket]) => inherit(socket),
        Err(none) if none.is_empty() => bind(path),
        Err(several) => Err(ListenError::BadHandover {
            fault: format!("it hands over {}", several.len()),
        }),
    }
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listening {
    /// The socket, not blocking.
    pub(crate) listener: UnixListener,
    /// The file to remove at the end: only if we made it, and while it is still ours.
    own: Option<OwnSocketFile>,
}

#[derive(Debug)]
struct OwnSocketFile {
    path: PathBuf,
    inode: u64,
}

impl Listening {
    /// Removes the socket file if this process made it.
    pub(crate) fn remove_file(&self) {
        if let Some(own) = &self.own
            && inode_of(&own.path).ok() == Some(own.inode)
        {
            // The next server finds out by itself that a file left behind is stale.
            let _ = fs::remove_file(&own.path);
        }
    }
}

fn inherit(socket: OwnedFd) -> Result<Listening, ListenError> {
    let bad = |fault: &str| ListenError::BadHandover {
        fault: fault.to_owned(),
    };
    let errno = |error: rustix::io::Errno| ListenError::BadHandover {
        fault: io::Error::from(error).to_string(),
    };
    if sockopt::socket_domain(&socket).map_err(errno)? != AddressFamily::UNIX {
        return Err(bad("it is of another family"));
    }
    if sockopt::socket_type(&socket).map_err(errno)? != SocketType::STREAM {
        return Err(bad("it is no stream socket"));
    }
    if !sockopt::socket_acceptconn(&socket).map_err(errno)? {
        return Err(bad("it does not listen (Accept=yes is not supported)"));
    }
    let listener = UnixListener::from(socket);
    listener
        .set_nonblocking(true)
        .map_err(|source| ListenError::BadHandover {
            fault: source.to_string(),
        })?;
    Ok(Listening {
        listener,
        own: None,
    })
}

/// Binds `path`. A socket there that nobody listens on is left over from a killed server and is replaced.
///
/// Two servers cannot come here at once for one `run` directory: the lock is taken before.
fn bind(path: &Path) -> Result<Listening, ListenError> {
    let io = |source| ListenError::Io {
        path: path.to_owned(),
        source,
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(io)?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(io)?;
            }
            Err(error) => return Err(io(error)),
            Ok(_) => {
                return Err(ListenError::Alive {
                    path: path.to_owned(),
                });
            }
        },
    }
    let listener = UnixListener::bind(path).map_err(io)?;
    // Until here the file was writable, and so usable, by its owner alone: the umask takes the others' right to write.
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(io)?;
    listener.set_nonblocking(true).map_err(io)?;
    let inode = inode_of(path).map_err(io)?;
    Ok(Listening {
        listener,
        own: Some(OwnSocketFile {
            path: path.to_owned(),
            inode,
        }),
    })
}

fn inode_of(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).map(|found| found.ino())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::{
        fs,
        net::TcpListener,
        os::{
            fd::OwnedFd,
            unix::{
                fs::PermissionsExt,
                net::{UnixListener, UnixStream},
            },
        },
    };

    use rstest::rstest;

    use super::listen;

    #[test]
    fn a_stale_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/pintle.sock");
        fs::create_dir(path.parent().unwrap()).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listening = listen(Vec::new(), &path).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660
        );
        listening.remove_file();
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_in_use_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pintle.sock");
        let _other = UnixListener::bind(&path).unwrap();
        let error = listen(Vec::new(), &path).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("another server answers at {}", path.display())
        );
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn other_files_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pintle.sock");
        fs::write(&path, "precious").unwrap();
        let error = listen(Vec::new(), &path).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{} is no socket, and is left alone", path.display())
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_successors_socket_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pintle.sock");
        let listening = listen(Vec::new(), &path).unwrap();
        fs::rename(&path, directory.path().join("old")).unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        listening.remove_file();
        assert!(path.exists());
    }

    #[test]
    fn a_socket_of_systemd_is_used_instead() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("systemd.sock");
        let given = OwnedFd::from(UnixListener::bind(&path).unwrap());
        let unused = directory.path().join("unused.sock");
        let listening = listen(vec![given], &unused).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        listening.listener.accept().unwrap();
        assert!(!unused.exists());
        listening.remove_file();
        assert!(path.exists());
    }

    fn tcp() -> OwnedFd {
        OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn connected() -> OwnedFd {
        OwnedFd::from(UnixStream::pair().unwrap().0)
    }

    #[rstest]
    #[case::tcp(vec![tcp()], "it is of another family")]
    #[case::connected(vec![connected()], "it does not listen (Accept=yes is not supported)")]
    #[case::two(vec![connected(), connected()], "it hands over 2")]
    fn other_handovers_are_refused(#[case] sockets: Vec<OwnedFd>, #[case] fault: &str) {
        let error = listen(sockets, "/nonexistent".as_ref())
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            format!(
                "the socket unit must hand over one listening stream socket of the family unix: {fault}"
            )
        );
    }
}
