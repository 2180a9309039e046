//! The system call filter of a process.
//!
//! `RuntimeDefault` is [`Profile`], our own allow-list in our own form, resolved for the architecture and for the
//! capabilities that the container holds. `Localhost` is a file of the node in the form that Docker and the OCI runtime
//! spec share (`localhost.rs`). `Unconfined`, and everything privileged, has no filter.

mod localhost;
mod profile;

use std::collections::BTreeSet;

use oci_spec::runtime::LinuxSeccomp;

use crate::capability::Capability;
use crate::error::SpecError;
use crate::input::NodeFacts;
use crate::model::SecurityProfile;

pub use profile::Profile;

/// How large the file of a `Localhost` profile may be.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;

/// What is wrong with a profile.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ProfileError {
    #[error("the file does not exist or was not read")]
    NotRead,
    #[error("the file has {0} bytes, but at most {MAX_FILE_BYTES} are allowed")]
    TooLarge(usize),
    #[error("is not a seccomp profile: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0:?} is neither an architecture nor its OCI name")]
    Architecture(String),
    #[error("{0:?} is not a capability")]
    Capability(String),
    #[error("{0:?} is not a kernel version such as 4.8")]
    KernelVersion(String),
    #[error("argument {0} does not exist: a system call has six, counted from 0")]
    Argument(usize),
    #[error("the name of a system call is empty or too long")]
    CallName,
    #[error("has {0} rules and names, but at most {1} are allowed")]
    TooManyRules(usize, usize),
    #[error("a condition must have one of equal_to and not_equal_to")]
    Condition,
    #[error("cannot be resolved for this architecture")]
    NoArchitecture,
    #[error("cannot be put together: {0}")]
    Oci(#[from] oci_spec::OciSpecError),
}

/// The filter for what was asked; `None` means none. `capabilities` are those that the process holds.
pub(crate) fn filter(
    asked: &SecurityProfile,
    field: &'static str,
    default: &Profile,
    file: Option<&[u8]>,
    capabilities: &BTreeSet<Capability>,
    facts: &NodeFacts,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    match asked {
        SecurityProfile::Unconfined => Ok(None),
        SecurityProfile::RuntimeDefault => default
            .resolve(facts.architecture, capabilities)
            .map(Some)
            .map_err(|problem| SpecError::Seccomp {
                field,
                profile: "RuntimeDefault".to_owned(),
                problem,
            }),
        SecurityProfile::Localhost(path) => file
            .ok_or(ProfileError::NotRead)
            .and_then(|file| localhost::parse(file, capabilities, facts))
            .map(Some)
            .map_err(|problem| SpecError::Seccomp {
                field,
                profile: path.clone(),
                problem,
            }),
    }
}
