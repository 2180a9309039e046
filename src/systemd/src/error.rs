//! What can go wrong in a call of systemd.

use std::{fmt, time::Duration};

/// What a call was at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Connecting to the bus.
    Connecting,
    /// Waiting for systemd's answer to a message.
    Answer,
    /// Waiting for the end of the job that does it.
    Job,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting to D-Bus",
            Self::Answer => "waiting for systemd's answer",
            Self::Job => "waiting for the end of systemd's job",
        })
    }
}

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// Nobody answers on the bus, or systemd is not on it.
    #[error("{call} of {unit}: systemd cannot be reached over D-Bus at {address}")]
    Unreachable {
        /// The method.
        call: &'static str,
        /// The unit, or what else it is about.
        unit: String,
        /// Where the bus should be.
        address: String,
        /// What was said.
        #[source]
        source: Box<zbus::Error>,
    },
    /// It took too long. Whether it was done is not known.
    #[error("{call} of {unit}: no end within {limit:?}, {stage}")]
    Deadline {
        /// The method.
        call: &'static str,
        /// The unit, or what else it is about.
        unit: String,
        /// What it was at.
        stage: Stage,
        /// The time that it had.
        limit: Duration,
    },
    /// The connection broke while it was under way, and once more when it was repeated.
    #[error("{call} of {unit}: the connection to systemd broke twice, {stage}")]
    Broken {
        /// The method.
        call: &'static str,
        /// The unit, or what else it is about.
        unit: String,
        /// What it was at.
        stage: Stage,
        /// What was said.
        #[source]
        source: Box<zbus::Error>,
    },
    /// systemd refused.
    #[error("{call} of {unit}: systemd refused: {message} ({name})")]
    Refused {
        /// The method.
        call: &'static str,
        /// The unit, or what else it is about.
        unit: String,
        /// The error's name on the bus.
        name: String,
        /// systemd's words.
        message: String,
    },
    /// A unit of this name is there already, and it is not ours.
    #[error("{unit} is there already, and is not of this server: {description:?}")]
    Taken {
        /// The unit.
        unit: String,
        /// How it describes itself.
        description: String,
    },
    /// The job ended otherwise than it should.
    #[error("{call} of {unit}: its job ended as {result}")]
    Job {
        /// The method.
        call: &'static str,
        /// The unit.
        unit: String,
        /// systemd's word: `canceled`, `timeout`, `failed`, `dependency`, `skipped`.
        result: String,
    },
    /// An answer cannot be read.
    #[error("{call} of {unit}: systemd's answer cannot be read")]
    Answer {
        /// The method.
        call: &'static str,
        /// The unit, or what else it is about.
        unit: String,
        /// Why.
        #[source]
        source: Box<zbus::Error>,
    },
}

impl SystemdError {
    /// Whether systemd says that it has no such unit.
    #[must_use]
    pub fn is_no_such_unit(&self) -> bool {
        matches!(self, Self::Refused { name, .. } if name == "org.freedesktop.systemd1.NoSuchUnit")
    }

    pub(crate) fn is_no_process(&self) -> bool {
        matches!(self, Self::Refused { name, .. } if name == "org.freedesktop.systemd1.NoSuchProcess")
    }

    pub(crate) fn is_unit_exists(&self) -> bool {
        matches!(self, Self::Refused { name, .. } if name == "org.freedesktop.systemd1.UnitExists")
    }
}
