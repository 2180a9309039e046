//! What can go wrong with a runtime or a monitor, told so that the engine can choose what to do next.

use std::{io, path::PathBuf, time::Duration};

/// Failures of OCI runtimes and monitors.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The handler's binary is nowhere.
    #[error("runtime handler {handler:?}: no {program:?} in {searched}")]
    Missing {
        /// The handler.
        handler: String,
        /// What was looked for: a path or a name.
        program: String,
        /// Where, in words.
        searched: String,
    },
    /// A program could not be started at all.
    #[error("cannot run {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The runtime ran and refused; `message` is its own, in one line.
    #[error("{runtime} {operation} {id}: {message}")]
    Failed {
        /// Name of the runtime: `crun`, `runc`, ….
        runtime: String,
        /// Its subcommand.
        operation: &'static str,
        /// Container id; empty for operations without one.
        id: String,
        /// The runtime's words.
        message: String,
    },
    /// The operation was cut off at its deadline; what it had started is gone.
    #[error("{operation} {id}: not done after {after:?}")]
    Deadline {
        /// What was asked for.
        operation: &'static str,
        /// Container id or pod id.
        id: String,
        /// The time that it was given.
        after: Duration,
    },
    /// The monitor refused.
    #[error("monitor: {operation} {id}: {message}")]
    Refused {
        /// What was asked for.
        operation: &'static str,
        /// Container id or pod id.
        id: String,
        /// The kind of refusal.
        kind: Refusal,
        /// The monitor's words.
        message: String,
    },
    /// No monitor behind this socket any more.
    #[error("no monitor at {}", socket.display())]
    Disconnected {
        /// The monitor's socket.
        socket: PathBuf,
    },
    /// A container's live output broke off before its end.
    #[error(
        "the live output at {} broke off: it was not read for too long, or the container was removed",
        socket.display()
    )]
    CutOff {
        /// The container's attach socket.
        socket: PathBuf,
    },
    /// A file or socket of ours failed.
    #[error("{}: {doing}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The monitor sent something that is not of the protocol.
    #[error("monitor at {}: {message}", socket.display())]
    Protocol {
        /// The monitor's socket.
        socket: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// Why a monitor refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such container.
    NotFound,
    /// A container of this id, or a pin at this path, is there already.
    Exists,
    /// The container has ended.
    NotRunning,
    /// Containers are still alive.
    Busy,
    /// The request makes no sense.
    Invalid,
    /// A system call failed; the message tells which.
    Io,
    /// This monitor is too old for the request.
    Unsupported,
}

impl RuntimeError {
    /// Whether the thing named is not there (any more), which is success to whoever wanted it gone.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Refused { kind, .. } => *kind == Refusal::NotFound,
            Self::Failed { message, .. } => says_absent(message),
            _ => false,
        }
    }
}

/// Whether a runtime's message says that the container is unknown to it. crun tells only that its record is absent.
pub(crate) fn says_absent(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("does not exist")
        || message.contains("container") && message.contains("not found")
        || message.contains("/status") && message.contains("no such file")
}

#[cfg(test)]
mod tests {
    use super::says_absent;

    #[test]
    fn absence_is_recognised() {
        for message in [
            "container does not exist",
            "container \"c\" does not exist",
            "error opening file `/run/pintle/runtime/crun/c/status`: No such file or directory",
        ] {
            assert!(says_absent(message), "{message}");
        }
        for message in [
            "container is running",
            "executable file `x` not found in $PATH: No such file or directory",
        ] {
            assert!(!says_absent(message), "{message}");
        }
    }
}
