//! The one table from errors to gRPC codes, and what clients read in them.
//!
//! What clients act on (see cri-behaviour.md): `NotFound` lets the kubelet skip what vanished between list and status;
//! `DeadlineExceeded` tells a probe that timed out from one that failed; `Unimplemented` makes clients fall back for
//! good, so nothing here may answer it; and on pulls the kubelet matches words at the start of a message, which its
//! client library only keeps intact under the code `Unknown`.

use engine::{EngineError, ImageVolumeFault};
use image::ImageError;
use runtime::{Refusal, RuntimeError};
use systemd::SystemdError;
use tonic::{Code, Status};

/// Longest message that is sent. It travels in a header, and ends up in pod events.
pub(crate) const MESSAGE_MAX_BYTES: usize = 4 << 10;

/// A status whose message fits into a header.
pub(crate) fn status(code: Code, message: &str) -> Status {
    Status::new(code, clip(message, MESSAGE_MAX_BYTES))
}

/// The beginning of a text, not cut inside a character.
pub(crate) fn clip(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

/// The answer for a failed operation on pods or containers.
pub(crate) fn engine_status(error: &EngineError) -> Status {
    if let EngineError::ImageNotPermitted(error) = error {
        return image_status(error);
    }
    let words = engine::error::in_full(error);
    // The kubelet looks for these words.
    let words = if is_recursive_readonly_unsupported(error) {
        format!("RROUnsupported: {words}")
    } else if matches!(error, EngineError::ImageVolume { .. }) {
        format!("ImageVolumeMountFailed: {words}")
    } else {
        words
    };
    status(engine_code(error), &words)
}

/// The answer for a failed operation on images.
pub(crate) fn image_status(error: &ImageError) -> Status {
    let words = engine::error::in_full(error);
    let words = match error {
        // The kubelet looks for this word.
        ImageError::RegistryUnavailable { .. } => format!("RegistryUnavailable: {words}"),
        // And for this one.
        ImageError::SignatureValidationFailed { .. } => {
            format!("SignatureValidationFailed: {words}")
        }
        _ => words,
    };
    status(image_code(error), &words)
}

fn is_recursive_readonly_unsupported(error: &EngineError) -> bool {
    matches!(error, EngineError::Spec(error) if error.is_recursive_readonly_unsupported())
}

fn engine_code(error: &EngineError) -> Code {
    match error {
        EngineError::PodNotFound(_)
        | EngineError::ContainerNotFound(_)
        | EngineError::ImageNotFound(_) => Code::NotFound,
        EngineError::AmbiguousId { .. }
        | EngineError::UnknownHandler { .. }
        | EngineError::Invalid { .. } => Code::InvalidArgument,
        EngineError::PodExists { .. } | EngineError::ContainerExists { .. } => Code::AlreadyExists,
        EngineError::ConflictingJob { .. } => Code::Aborted,
        EngineError::ArtifactAsImage(_)
        | EngineError::PodNotReady(_)
        | EngineError::WrongState { .. }
        | EngineError::MemoryInUse { .. }
        | EngineError::NoUserNamespaces { .. }
        | EngineError::SetAside { .. }
        | EngineError::CannotMapIds { .. }
        | EngineError::NoSelinux(_) => Code::FailedPrecondition,
        EngineError::ImageNotPermitted(error) => image_code(error),
        EngineError::ImageVolume { fault, .. } => match fault {
            ImageVolumeFault::NoImage { .. }
            | ImageVolumeFault::NoSubPath { .. }
            | ImageVolumeFault::Special { .. } => Code::FailedPrecondition,
            ImageVolumeFault::Look(_) => Code::Internal,
            ImageVolumeFault::Mount(error) => storage_code(error),
        },
        EngineError::NetworkNotReady(_)
        | EngineError::Interrupted { .. }
        | EngineError::PortRefused { .. }
        | EngineError::PortUnreachable { .. } => Code::Unavailable,
        EngineError::NoCategories { .. } => Code::ResourceExhausted,
        EngineError::Deadline { .. }
        | EngineError::RelabelDeadline { .. }
        | EngineError::ExecDeadline(_) => Code::DeadlineExceeded,
        EngineError::Unkillable { .. }
        | EngineError::LimitsMixed { .. }
        | EngineError::Record { .. }
        | EngineError::Sys(_) => Code::Internal,
        EngineError::Io { source, .. } => io_code(source),
        EngineError::Systemd(error) | EngineError::NoSystemd(error) => systemd_code(error),
        EngineError::Spec(error) => spec_code(error),
        EngineError::Runtime(error) => runtime_code(error),
        EngineError::Network(error) => network_code(error),
        EngineError::Storage(error) => storage_code(error),
        EngineError::State(error) => state_code(error),
        EngineError::InContainer(error) => engine_code(error),
    }
}

fn systemd_code(error: &SystemdError) -> Code {
    match error {
        SystemdError::Unreachable { .. } | SystemdError::Broken { .. } => Code::Unavailable,
        SystemdError::Deadline { .. } => Code::DeadlineExceeded,
        SystemdError::Taken { .. } => Code::FailedPrecondition,
        SystemdError::Refused { .. } | SystemdError::Job { .. } | SystemdError::Answer { .. } => {
            Code::Internal
        }
    }
}

fn spec_code(error: &spec::SpecError) -> Code {
    match error.kind() {
        spec::ErrorKind::Invalid => Code::InvalidArgument,
        spec::ErrorKind::Unsupported => Code::FailedPrecondition,
        spec::ErrorKind::Internal => Code::Internal,
    }
}

fn runtime_code(error: &RuntimeError) -> Code {
    match error {
        RuntimeError::Missing { .. } => Code::FailedPrecondition,
        // The runtime's own words go to the user; what kind of fault it is, only the user can tell.
        RuntimeError::Failed { .. } => Code::Unknown,
        RuntimeError::Deadline { .. } => Code::DeadlineExceeded,
        RuntimeError::Refused { kind, .. } => match kind {
            Refusal::NotFound => Code::NotFound,
            Refusal::Exists => Code::AlreadyExists,
            Refusal::NotRunning | Refusal::Busy | Refusal::Unsupported => Code::FailedPrecondition,
            Refusal::Invalid => Code::InvalidArgument,
            Refusal::Io => Code::Internal,
        },
        RuntimeError::Disconnected { .. } | RuntimeError::CutOff { .. } => Code::Unavailable,
        RuntimeError::Io { source, .. } | RuntimeError::Spawn { source, .. } => io_code(source),
        RuntimeError::Protocol { .. } => Code::Internal,
    }
}

fn image_code(error: &ImageError) -> Code {
    match error {
        ImageError::BadReference(_) | ImageError::BadCredentials(_) => Code::InvalidArgument,
        ImageError::NotFound { .. } | ImageError::NoSuchImage { .. } => Code::NotFound,
        ImageError::Unauthorized { .. } => Code::Unauthenticated,
        // Under any other code the word at the start of the message would not be at its start.
        ImageError::RegistryUnavailable { .. } | ImageError::SignatureValidationFailed { .. } => {
            Code::Unknown
        }
        ImageError::Corrupt { .. } => Code::DataLoss,
        ImageError::TooLarge { .. } | ImageError::DiskFull { .. } => Code::ResourceExhausted,
        ImageError::Sources(_)
        | ImageError::Unsupported { .. }
        | ImageError::ReadOnlyStore { .. }
        | ImageError::NodeCredentials(_) => Code::FailedPrecondition,
        ImageError::Deadline { .. } => Code::DeadlineExceeded,
        ImageError::Interrupted { .. }
        | ImageError::LayerAway { .. }
        | ImageError::AdditionalStore(_) => Code::Unavailable,
        ImageError::Storage { source, .. } => storage_code(source),
        ImageError::Records(error) => state_code(error),
        ImageError::File { source, .. } => io_code(source),
    }
}

fn io_code(error: &std::io::Error) -> Code {
    use std::io::ErrorKind;

    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::ResourceExhausted,
        ErrorKind::TimedOut => Code::DeadlineExceeded,
        _ => Code::Internal,
    }
}

fn network_code(error: &network::NetworkError) -> Code {
    use network::NetworkError;

    if error.is_deadline() {
        return Code::DeadlineExceeded;
    }
    match error {
        NetworkError::NotReady(_) => Code::Unavailable,
        NetworkError::BadAttachment { .. } => Code::InvalidArgument,
        // A plugin's own words, as with runtimes.
        NetworkError::Attach { .. } | NetworkError::Detach { .. } | NetworkError::Check { .. } => {
            Code::Unknown
        }
        _ => Code::Internal,
    }
}

fn storage_code(error: &storage::StorageError) -> Code {
    if error.is_disk_full() {
        Code::ResourceExhausted
    } else if error.is_bad_layer() {
        Code::DataLoss
    } else if matches!(
        error,
        storage::StorageError::VolumesTooLarge { .. } | storage::StorageError::CannotMapIds { .. }
    ) {
        // Another pod, with volumes of its own there or without a user namespace, would do.
        Code::FailedPrecondition
    } else if matches!(error, storage::StorageError::StoreGone { .. }) {
        Code::Unavailable
    } else {
        Code::Internal
    }
}

fn state_code(error: &state::StateError) -> Code {
    if error.is_disk_full() {
        Code::ResourceExhausted
    } else {
        Code::Internal
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};
    use std::sync::Arc;
    use std::time::Duration;

    use rstest::rstest;

    use super::*;

    fn io(kind: ErrorKind) -> EngineError {
        EngineError::Io {
            action: "write",
            path: "/x".into(),
            source: Error::from(kind),
        }
    }

    fn refused(kind: Refusal) -> EngineError {
        EngineError::Runtime(RuntimeError::Refused {
            operation: "exec",
            id: "c".to_owned(),
            kind,
            message: "why".to_owned(),
        })
    }

    #[rstest]
    #[case(EngineError::PodNotFound("x".to_owned()), Code::NotFound, "no pod sandbox has the id \"x\"")]
    #[case(
        EngineError::invalid("cmd", "is empty"),
        Code::InvalidArgument,
        "cmd: is empty"
    )]
    #[case(EngineError::UnknownHandler { name: "kata".to_owned(), known: "crun".to_owned() }, Code::InvalidArgument, "kata")]
    #[case(
        EngineError::ExecDeadline(Duration::from_secs(1)),
        Code::DeadlineExceeded,
        "1s"
    )]
    #[case(
        EngineError::InContainer(Arc::new(EngineError::ExecDeadline(Duration::from_secs(2)))),
        Code::DeadlineExceeded,
        "2s"
    )]
    #[case(EngineError::NetworkNotReady("no conflist in /etc/cni/net.d".to_owned()), Code::Unavailable, "/etc/cni/net.d")]
    #[case(EngineError::NoCategories { below: 1024 }, Code::ResourceExhausted, "selinux.category_range")]
    #[case(EngineError::RelabelDeadline { path: "/v".into(), limit: Duration::from_secs(90) }, Code::DeadlineExceeded, "labelling /v")]
    #[case(
        EngineError::NoSelinux(engine::selinux::Unused::Inactive),
        Code::FailedPrecondition,
        "selinux.enabled"
    )]
    #[case(io(ErrorKind::StorageFull), Code::ResourceExhausted, "/x")]
    #[case(io(ErrorKind::NotFound), Code::Internal, "/x")]
    #[case(refused(Refusal::NotRunning), Code::FailedPrecondition, "why")]
    #[case(
        EngineError::Storage(storage::StorageError::VolumesTooLarge {
            declared: "/srv/data".into(),
            limit: storage::Limit::VolumeBytes(5000),
        }),
        Code::FailedPrecondition,
        "/srv/data that the image declares: the image's volumes exceed the limit of 5000 bytes"
    )]
    #[case(refused(Refusal::Unsupported), Code::FailedPrecondition, "why")]
    fn engine_errors_have_codes(
        #[case] error: EngineError,
        #[case] code: Code,
        #[case] part: &str,
    ) {
        let status = engine_status(&error);
        assert_eq!(status.code(), code);
        assert!(status.message().contains(part), "{status}");
    }

    #[test]
    fn the_runtimes_own_words_reach_the_client() {
        let status = engine_status(&EngineError::Runtime(RuntimeError::Failed {
            runtime: "crun".to_owned(),
            operation: "create",
            id: "c".to_owned(),
            message: "executable file `nope` not found in $PATH".to_owned(),
        }));
        assert_eq!(status.code(), Code::Unknown);
        assert!(status.message().contains("`nope` not found in $PATH"));
    }

    #[test]
    fn the_words_that_the_kubelet_looks_for_stand_first() {
        let status = image_status(&ImageError::RegistryUnavailable {
            host: "r.example".to_owned(),
            reason: "it answers 503".to_owned(),
        });
        assert_eq!(status.code(), Code::Unknown);
        assert!(
            status.message().starts_with("RegistryUnavailable: "),
            "{status}"
        );

        let status = image_status(&ImageError::SignatureValidationFailed {
            reference: "r.example/app:1".to_owned(),
            policy: "/etc/containers/policy.json (the default)".to_owned(),
            reason: "it rejects everything".to_owned(),
        });
        assert_eq!(status.code(), Code::Unknown);
        assert_eq!(
            status.message(),
            "SignatureValidationFailed: image r.example/app:1 is not allowed by /etc/containers/policy.json (the default): \
             it rejects everything"
        );

        let status = engine_status(&EngineError::ImageVolume {
            container_path: "/v".to_owned(),
            fault: ImageVolumeFault::NoSubPath {
                image: "i".to_owned(),
                sub_path: "etc".to_owned(),
            },
        });
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(
            status
                .message()
                .starts_with("ImageVolumeMountFailed: the image volume at /v: image i has nothing"),
            "{status}"
        );

        let error = spec::SpecError::Mount {
            container_path: "/a".to_owned(),
            problem: spec::MountProblem::RecursiveUnsupported,
        };
        let status = engine_status(&error.into());
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().starts_with("RROUnsupported: "), "{status}");
    }

    #[rstest]
    #[case(ImageError::NotFound { reference: "a".to_owned(), host: "h".to_owned(), reason: "r".to_owned() }, Code::NotFound)]
    #[case(ImageError::Unauthorized { reference: "a".to_owned(), host: "h".to_owned(), reason: "r".to_owned() }, Code::Unauthenticated)]
    #[case(ImageError::Corrupt { what: "a".to_owned(), reason: "r".to_owned() }, Code::DataLoss)]
    #[case(ImageError::Deadline { what: "a".to_owned() }, Code::DeadlineExceeded)]
    #[case(ImageError::Sources(image::SourcesError::Blocked { reference: "a".to_owned(), place: "f:1".to_owned() }), Code::FailedPrecondition)]
    #[case(ImageError::Unsupported { what: "a".to_owned(), reason: "r".to_owned() }, Code::FailedPrecondition)]
    fn image_errors_have_codes(#[case] error: ImageError, #[case] code: Code) {
        assert_eq!(image_status(&error).code(), code);
    }

    #[test]
    fn messages_fit_into_a_header() {
        let status = status(Code::Unknown, &"ü".repeat(MESSAGE_MAX_BYTES));
        assert_eq!(status.message().len(), MESSAGE_MAX_BYTES);
        assert_eq!(clip("aü", 2), "a");
    }
}
