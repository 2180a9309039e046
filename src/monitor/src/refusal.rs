//! Why a request is not done, on its way to whoever asked.

use std::{fmt, io, path::Path};

use monitor_wire::{Failure, FromMonitor};

/// A failure of a request.
#[derive(Debug)]
pub(crate) struct Refusal {
    failure: Failure,
    message: String,
    output: Vec<u8>,
}

impl Refusal {
    pub(crate) fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self {
            failure,
            message: message.into(),
            output: Vec::new(),
        }
    }

    /// A system call on a file that failed.
    pub(crate) fn file(doing: &str, path: &Path, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let failure = if error.kind() == io::ErrorKind::AlreadyExists {
            Failure::Exists
        } else {
            Failure::Io
        };
        Self::new(failure, format!("{doing} {}: {error}", path.display()))
    }

    /// A system call that failed.
    pub(crate) fn io(doing: &str, error: impl Into<io::Error>) -> Self {
        Self::new(Failure::Io, format!("{doing}: {}", error.into()))
    }

    pub(crate) fn unknown_container(id: &str) -> Self {
        Self::new(Failure::NotFound, format!("no container {id}"))
    }

    /// With what the runtime printed.
    pub(crate) fn with_output(mut self, output: Vec<u8>) -> Self {
        self.output = output;
        self
    }

    pub(crate) fn into_reply(self) -> FromMonitor {
        FromMonitor::Failed {
            failure: self.failure,
            message: self.message,
            output: self.output,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
