//! What can be wrong with the credentials that the node itself has. No message repeats what a file or a helper says:
//! that may be a secret.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::CredentialsError;
use super::file::MAX_FILE_BYTES;
use super::helper::MAX_ANSWER_BYTES;

/// Why the node's own credentials cannot be used.
#[derive(Clone, Debug, Error)]
pub enum NodeCredentialsError {
    /// A file that is there cannot be read.
    #[error("authentication file {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// A directory, a pipe or a device stands in its place.
    #[error("authentication file {} is not a regular file", file.display())]
    NotAFile {
        /// The path.
        file: PathBuf,
    },
    /// More than any such file needs.
    #[error("authentication file {} has more than the {MAX_FILE_BYTES} bytes that are read of one", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// It is no JSON, or not of the form that is expected.
    #[error("authentication file {}, line {line}, column {column}: {problem}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// From 1 on.
        line: usize,
        /// In bytes, from 1 on; 0 when the line has ended before.
        column: usize,
        /// What is wrong, in our words.
        problem: &'static str,
    },
    /// The entry that this image needs is unusable.
    #[error("authentication file {}, entry \"{key}\": {source}", file.display())]
    BadEntry {
        /// The file.
        file: PathBuf,
        /// Its key.
        key: String,
        /// What is wrong with it. Part of the message, since whoever reads it has to look there.
        source: CredentialsError,
    },
    /// A namespace's file names a helper.
    #[error(
        "authentication file {}, entry \"{key}\": credential helpers speak with the node's identity, so only image.auth_file may \
         name them",
        file.display()
    )]
    HelperInNamespace {
        /// The file.
        file: PathBuf,
        /// Its key.
        key: String,
    },
    /// A helper gave no credentials for another reason than having none.
    #[error("credential helper docker-credential-{name}, named in {} ({key}): {fault}", file.display())]
    Helper {
        /// What stands behind `docker-credential-`.
        name: String,
        /// The file that names it.
        file: PathBuf,
        /// The key that names it.
        key: String,
        /// What happened. Part of the message: it alone tells nobody which helper.
        fault: HelperFault,
    },
}

/// What can go wrong with a credential helper.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum HelperFault {
    /// The name may lead somewhere else.
    #[error("the name may have letters, digits, \".\", \"_\" and \"-\" only")]
    BadName,
    /// There is no such program.
    #[error("not found in {searched}; install it there")]
    Missing {
        /// The directories, parted by colons.
        searched: String,
    },
    /// It cannot be run.
    #[error("it cannot be run: {0}")]
    Run(io::ErrorKind),
    /// It took too long.
    #[error("killed after {limit:?} without an answer")]
    Deadline {
        /// How long it might have taken.
        limit: Duration,
    },
    /// It printed too much.
    #[error("killed after printing more than {MAX_ANSWER_BYTES} bytes")]
    TooMuchOutput,
    /// It ended with a failure.
    #[error("it failed ({status}); ask it by hand about {server} to see why")]
    Failed {
        /// How it ended.
        status: String,
        /// What it was asked about.
        server: String,
    },
    /// Its answer is none.
    #[error("its answer is not JSON with Username and Secret")]
    Garbage,
}
