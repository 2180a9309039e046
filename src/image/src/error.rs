//! The one error of this crate. A pull's result is shared by all who wait for it, so errors are cheap to clone; their
//! messages end up in pod events, so they are one short line that names image, host or digest, never a reply's body.
//! What stands in a `source` is not repeated in the message: whoever tells it walks the causes.

use std::sync::Arc;

use state::StateError;
use storage::StorageError;
use thiserror::Error;

use crate::credentials::{CredentialsError, NodeCredentialsError};
use crate::reference::{ReferenceError, clip};
use crate::sources::SourcesError;

/// Why an operation on images failed.
#[derive(Clone, Debug, Error)]
pub enum ImageError {
    /// The reference does not parse.
    #[error(transparent)]
    BadReference(#[from] ReferenceError),
    /// The credentials do not parse.
    #[error(transparent)]
    BadCredentials(#[from] CredentialsError),
    /// The operator's files do not say whom to ask, or forbid it.
    #[error(transparent)]
    Sources(#[from] SourcesError),
    /// The node's own credentials are unusable: for whoever looks after the node.
    #[error(transparent)]
    NodeCredentials(#[from] NodeCredentialsError),
    /// The registry answers, and has no such image.
    #[error("{reference} is not on {host}: {reason}")]
    NotFound {
        /// The image asked for.
        reference: String,
        /// The registry.
        host: String,
        /// In the registry's words.
        reason: String,
    },
    /// The registry wants other credentials.
    #[error("{host} denies access to {reference}: {reason}")]
    Unauthorized {
        /// The image asked for.
        reference: String,
        /// The registry or its token server.
        host: String,
        /// In the registry's words.
        reason: String,
    },
    /// No usable answer: no route, no name, no TLS, too slow, 429 or 5xx to the end of all attempts.
    #[error("registry {host} is unavailable: {reason}")]
    RegistryUnavailable {
        /// The registry or its token server.
        host: String,
        /// What happened, with the mend when it is known.
        reason: String,
    },
    /// The image may not be used: its signatures do not show what the policy asks for, or the policy cannot be read.
    #[error("image {reference} is not allowed by {policy}: {reason}")]
    SignatureValidationFailed {
        /// The image asked for.
        reference: String,
        /// The policy's file, with the scope that is about the image.
        policy: String,
        /// What is missing, or what is wrong with the policy and where.
        reason: String,
    },
    /// Content is not what its digest, its size or its format says.
    #[error("{what} is corrupt: {reason}")]
    Corrupt {
        /// `layer sha256:…`, `manifest of …`.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Content beyond a limit.
    #[error("{what} is too large: {reason}")]
    TooLarge {
        /// As in [`Self::Corrupt`].
        what: String,
        /// The limit and how it was passed.
        reason: String,
    },
    /// A well-formed thing that this server does not run.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// The image or layer.
        what: String,
        /// Why, and what to do instead.
        reason: String,
    },
    /// No space or no inodes left.
    #[error("no space left on the disk for {what}")]
    DiskFull {
        /// What was being stored.
        what: String,
        /// Who noticed.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The layer store failed.
    #[error("{what}")]
    Storage {
        /// What was being stored or read.
        what: String,
        /// The layer store's own error.
        #[source]
        source: Arc<StorageError>,
    },
    /// The records could not be read or written.
    #[error("the image records")]
    Records(#[source] Arc<StateError>),
    /// The time that the caller gave is over.
    #[error("{what} did not finish before its deadline")]
    Deadline {
        /// The pull.
        what: String,
    },
    /// No image of this name or id is on the node.
    #[error("no image {name} on this node")]
    NoSuchImage {
        /// The name or id.
        name: String,
    },
    /// What was to be removed is in a store that is only read.
    #[error("image {name} is in the additional store {}, from which nothing is removed", store.display())]
    ReadOnlyStore {
        /// The name or id.
        name: String,
        /// The store.
        store: std::path::PathBuf,
    },
    /// A layer that was there when a pull or import began is not any more.
    #[error("{what} needs layer {layer}, which went away with its additional store; try again")]
    LayerAway {
        /// The image.
        what: String,
        /// The layer.
        layer: state::ChainId,
    },
    /// An additional store cannot be read.
    #[error(transparent)]
    AdditionalStore(Arc<crate::additional::AdditionalStoreError>),
    /// A file of the node that an operation needs could not be read or written.
    #[error("{what}")]
    File {
        /// The file and what was done to it.
        what: String,
        /// The system's error.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// An operation's task ended without a result, as when the server stops.
    #[error("{what} was interrupted")]
    Interrupted {
        /// The operation.
        what: String,
    },
}

impl ImageError {
    pub(crate) fn corrupt(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Corrupt {
            what: what.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn unsupported(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported {
            what: what.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn file(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::File {
            what: what.into(),
            source: Arc::new(source),
        }
    }

    pub(crate) fn interrupted(what: impl Into<String>) -> Self {
        Self::Interrupted { what: what.into() }
    }

    /// The error of a layer store that failed with `what`, told apart by who is to blame.
    pub(crate) fn storage(what: impl Into<String>, source: StorageError) -> Self {
        let what = what.into();
        if source.is_disk_full() {
            return Self::DiskFull {
                what,
                source: Arc::new(source),
            };
        }
        let reason = chain(&source);
        match source {
            StorageError::TooLarge { .. } => Self::TooLarge { what, reason },
            StorageError::UnknownCompression { .. } => Self::Unsupported { what, reason },
            source if source.is_bad_layer() => Self::Corrupt { what, reason },
            source => Self::Storage {
                what,
                source: Arc::new(source),
            },
        }
    }

    /// Whether another registry that should have the same content may do better.
    pub(crate) fn worth_another_host(&self) -> bool {
        matches!(
            self,
            Self::NotFound { .. }
                | Self::Unauthorized { .. }
                | Self::NodeCredentials(_)
                | Self::RegistryUnavailable { .. }
                | Self::Corrupt { .. }
        )
    }
}

impl From<StateError> for ImageError {
    fn from(error: StateError) -> Self {
        if error.is_disk_full() {
            Self::DiskFull {
                what: "the image records".to_owned(),
                source: Arc::new(error),
            }
        } else {
            Self::Records(Arc::new(error))
        }
    }
}

/// An error with its causes in one line, for messages that outlive the error itself.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    clip(&text, 300)
}
