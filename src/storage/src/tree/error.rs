//! Why an entry cannot be unpacked.

use rustix::io::Errno;

use crate::{StorageError, limits::Limit};

/// Why something cannot be made.
#[derive(Debug)]
pub(crate) enum TreeError {
    /// The kernel refused.
    Io(&'static str, Errno),
    /// The name is to blame.
    Name(&'static str),
    /// Too much.
    Limit(Limit),
}

impl TreeError {
    /// Adds the name of the entry.
    pub(crate) fn of(self, name: &[u8]) -> StorageError {
        let name = String::from_utf8_lossy(name).into_owned();
        match self {
            Self::Io(doing, errno) => StorageError::Unpack {
                doing,
                name,
                source: errno.into(),
            },
            Self::Name(problem) => StorageError::BadEntry { name, problem },
            Self::Limit(limit) => StorageError::TooLarge { limit },
        }
    }
}

/// Adds what was being done to an error of the kernel.
pub(crate) fn doing(what: &'static str) -> impl FnOnce(Errno) -> TreeError {
    move |errno| TreeError::Io(what, errno)
}
