//! What can go wrong with a database.

use std::path::PathBuf;

/// A database could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file could not be opened or set up: no such directory, no permission, not a database, held by another server.
    #[error("open the database {}", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The file could not be made, or not be kept from others' eyes.
    #[error("create the database {}", path.display())]
    Create {
        /// The database file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file was written by a newer Pintle, whose records this one cannot read.
    #[error("the database {} has schema {found}, but this Pintle knows schemas up to {known}", path.display())]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// The `user_version` found in it.
        found: i64,
        /// The newest schema this program knows.
        known: i64,
    },
    /// The file of another's store was written by an older Pintle, and is not ours to migrate.
    #[error(
        "the database {} has schema {found}, and this Pintle reads schema {known}; have a server of this version open the \
         store once where it can be written",
        path.display()
    )]
    OlderSchema {
        /// The database file.
        path: PathBuf,
        /// The `user_version` found in it.
        found: i64,
        /// The schema this program reads.
        known: i64,
    },
    /// Changes of the file of another's store stand beside it, so that it does not tell the truth by itself.
    #[error(
        "the database {} is in use, or was not closed by the server that wrote it: there are changes in {}; stop that server \
         before the store is copied or packed",
        path.display(),
        log.display()
    )]
    NotClosed {
        /// The database file.
        path: PathBuf,
        /// The file beside it.
        log: PathBuf,
    },
    /// A migration step failed; the file is as it was before.
    #[error("bring the database {} to schema {to}", path.display())]
    Migrate {
        /// The database file.
        path: PathBuf,
        /// The schema the step leads to.
        to: i64,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The records could not be read.
    #[error("read the database {}", path.display())]
    Read {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A transaction failed and changed nothing.
    #[error("write to the database {}", path.display())]
    Write {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The thread that writes could not be started.
    #[error("start the writer of the database {}", path.display())]
    Thread {
        /// The database file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The thread that writes is gone.
    #[error("the writer of the database {} has ended", path.display())]
    WriterGone {
        /// The database file.
        path: PathBuf,
    },
}

impl StateError {
    /// Whether the file system that holds the database is full.
    pub fn is_disk_full(&self) -> bool {
        let (Self::Open { source, .. }
        | Self::Migrate { source, .. }
        | Self::Read { source, .. }
        | Self::Write { source, .. }) = self
        else {
            return false;
        };
        source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
    }
}
