//! What can be wrong with the configuration, in words that name the place.

use std::{fmt, io, path::PathBuf};

use super::node::Place;

/// Everything that was found wrong, in the order in which the keys are declared. Never empty.
#[derive(Debug)]
pub(crate) struct ConfigError(pub(crate) Vec<Problem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.first().and_then(std::error::Error::source)
    }
}

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// A file or the drop-in directory cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not YAML, or YAML that says the same key twice.
    #[error("{at}: {message}")]
    Syntax {
        /// Where.
        at: Place,
        /// The parser's words.
        message: String,
    },
    /// A key that Pintle does not have.
    #[error("unknown key `{key}` at {at}{hint}")]
    UnknownKey {
        /// The key with the sections around it.
        key: String,
        /// Where.
        at: Place,
        /// The nearest known key.
        hint: Hint,
    },
    /// A value of the wrong type or out of its bounds.
    #[error("`{key}` at {at}: expected {expected}, found {found}")]
    WrongValue {
        /// The key.
        key: String,
        /// Where.
        at: Place,
        /// What would do.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// Values that do not fit each other.
    #[error("`{key}`{at}: {message}")]
    Contradiction {
        /// The key.
        key: String,
        /// Where, if a file gives it.
        at: MaybeAt,
        /// What does not fit.
        message: String,
    },
}

/// "; did you mean …?" or nothing.
#[derive(Debug)]
pub(crate) struct Hint(pub(crate) Option<String>);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(known) => write!(f, "; did you mean `{known}`?"),
            None => Ok(()),
        }
    }
}

/// " at FILE:LINE:COLUMN" or nothing.
#[derive(Debug)]
pub(crate) struct MaybeAt(pub(crate) Option<Place>);

impl fmt::Display for MaybeAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(at) => write!(f, " at {at}"),
            None => Ok(()),
        }
    }
}
