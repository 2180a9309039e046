//! How the program ends: named exit codes, and errors that know theirs.

use std::process::ExitCode;

/// Exit codes, after sysexits.h where it has a fitting one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// `pintle check` found something that keeps pods from running.
    CheckFailed,
    /// Wrong arguments or a wrong configuration (EX_USAGE).
    Usage,
    /// Something needed is not there: the server's socket, a runtime, a database (EX_UNAVAILABLE).
    Unavailable,
    /// A defect of Pintle or a failure that has no name (EX_SOFTWARE).
    Internal,
    /// Another server holds the lock or the socket; trying later may help (EX_TEMPFAIL).
    Busy,
    /// The server's user may not do what it must (EX_NOPERM).
    NotPermitted,
    /// `pintle run` itself failed, so that there is no exit code of a container to pass on.
    RunFailed,
    /// What the container or the command under `pintle run` ended with.
    Passed(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::CheckFailed => 1,
            Exit::Usage => 64,
            Exit::Unavailable => 69,
            Exit::Internal => 70,
            Exit::Busy => 75,
            Exit::NotPermitted => 77,
            Exit::RunFailed => 125,
            Exit::Passed(code) => code,
        })
    }
}

/// An error on its way to the operator, with the exit code that it means.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The code.
    pub(crate) exit: Exit,
    /// The words, with their sources.
    pub(crate) error: anyhow::Error,
}

/// Gives an error its exit code.
pub(crate) trait OrExit<T> {
    /// Ends with `exit` if this is an error.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            exit,
            error: error.into(),
        })
    }
}

/// An error with all its sources, for a log line.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        // Some messages already end with their source's.
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = error.source();
    }
    text
}
