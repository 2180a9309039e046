//! What can go wrong in a call of the kernel.

use std::{io, path::PathBuf};

/// A failed call, with what it was for and on what.
#[derive(Debug, thiserror::Error)]
pub enum SysError {
    /// A call on a path failed.
    #[error("{doing} {}", path.display())]
    Path {
        /// What was being done, as in "unmount".
        doing: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A call on a process failed.
    #[error("{doing} process {pid}")]
    Process {
        /// What was being done, as in "signal".
        doing: &'static str,
        /// The process.
        pid: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A call on nothing in particular failed.
    #[error("{doing}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{} does not hold {expected}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// A path inside a root names a directory, a device, a pipe or a socket where a regular file belongs.
    #[error("{} in {} is not a regular file", path.display(), root.display())]
    NotRegular {
        /// The root.
        root: PathBuf,
        /// The path inside it.
        path: PathBuf,
    },
    /// A file inside a root is larger than anyone needs.
    #[error("{} in {} is larger than {max_bytes} bytes", path.display(), root.display())]
    TooLarge {
        /// The root.
        root: PathBuf,
        /// The path inside it.
        path: PathBuf,
        /// The most that is read.
        max_bytes: usize,
    },
    /// A cgroup path climbs out of the hierarchy, or names its root.
    #[error("{path:?} is no path of a cgroup below the root")]
    BadCgroupPath {
        /// The path as given.
        path: String,
    },
    /// No cgroup file system is mounted.
    #[error("neither cgroup v2 nor any cgroup v1 controller is mounted below /sys/fs/cgroup")]
    NoCgroups,
    /// Processes of a cgroup are still there although they were killed again and again.
    #[error("cgroup {path} still has {count} processes after SIGKILL, such as {pid}")]
    WillNotDie {
        /// The cgroup.
        path: String,
        /// How many are left.
        count: usize,
        /// One of them.
        pid: u32,
    },
}

impl SysError {
    /// What the kernel said, if it was a call of the kernel that failed.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Path { source, .. }
            | Self::Process { source, .. }
            | Self::System { source, .. } => Some(source),
            _ => None,
        }
    }

    /// A closure for `map_err` on a call that concerns a path.
    pub(crate) fn path<E: Into<io::Error>>(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Path {
            doing,
            path: path.into(),
            source: source.into(),
        }
    }

    /// A closure for `map_err` on a call that concerns a process.
    pub(crate) fn process<E: Into<io::Error>>(
        doing: &'static str,
        pid: u32,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Process {
            doing,
            pid,
            source: source.into(),
        }
    }

    /// A closure for `map_err` on a call that concerns nothing in particular.
    pub(crate) fn system<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            doing,
            source: source.into(),
        }
    }
}
