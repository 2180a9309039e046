//! What can go wrong in a pod's or container's life, in words for an operator. `server` alone turns these into gRPC codes.

use std::{io, path::PathBuf, time::Duration};

use spec::model::{ContainerMetadata, PodMetadata};
use state::{ContainerId, PodId};

/// An error of [`crate::Engine`]. Shared, because every caller who joined a job gets the same one.
pub type SharedError = std::sync::Arc<EngineError>;

/// An error of [`crate::Engine`].
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what the variant means")]
pub enum EngineError {
    #[error("no pod sandbox has the id {0:?}")]
    PodNotFound(String),
    #[error("no container has the id {0:?}")]
    ContainerNotFound(String),
    #[error("the id {id:?} is short for several {what}: give more of it")]
    AmbiguousId { id: String, what: &'static str },
    #[error("image {0:?} is not on this node: pull it first")]
    ImageNotFound(String),
    /// The pod's namespace may not use an image, or it could not be found out whether it may.
    #[error(transparent)]
    ImageNotPermitted(image::ImageError),
    /// The image that a container is to run has nothing to run.
    #[error("{0} is an OCI artifact, it can only be mounted as an image volume")]
    ArtifactAsImage(String),
    #[error("runtime handler {name:?} is not configured; the configured ones are {known}")]
    UnknownHandler { name: String, known: String },
    #[error("{field}: {why}")]
    Invalid { field: String, why: String },
    #[error(
        "pod {}/{} attempt {} exists already as {id} and is {state}; {mend}",
        metadata.namespace, metadata.name, metadata.attempt
    )]
    PodExists {
        metadata: PodMetadata,
        id: PodId,
        state: &'static str,
        mend: &'static str,
    },
    #[error("container {} attempt {} exists already in its pod as {id} and is {state}; {mend}", metadata.name, metadata.attempt)]
    ContainerExists {
        metadata: ContainerMetadata,
        id: ContainerId,
        state: &'static str,
        mend: &'static str,
    },
    #[error(
        "the same identity is being made with another configuration ({stage} for {age:?}): retry when that has ended"
    )]
    ConflictingJob { stage: &'static str, age: Duration },
    #[error(
        "pod sandbox {0} is not ready: it was stopped or its processes ended; make a new attempt of it"
    )]
    PodNotReady(PodId),
    #[error("container {id} is {state}, and {wanted}")]
    WrongState {
        id: ContainerId,
        state: &'static str,
        wanted: &'static str,
    },
    #[error(
        "linux.memory_limit_in_bytes: {limit_bytes} is less than the {used_bytes} bytes that container {id} uses, so it would be killed; ask again when it uses less"
    )]
    MemoryInUse {
        id: ContainerId,
        limit_bytes: u64,
        used_bytes: u64,
    },
    #[error(
        "the limits of container {id} were changed in part, and the old ones could not be brought back yet ({stuck}); it will be tried again"
    )]
    LimitsMixed {
        id: ContainerId,
        stuck: String,
        source: Box<EngineError>,
    },
    #[error("the pod network is not ready: {0}")]
    NetworkNotReady(String),
    #[error("{operation} took longer than {limit:?}; it was {stage}")]
    Deadline {
        operation: &'static str,
        stage: &'static str,
        limit: Duration,
    },
    #[error(
        "nothing listens on port {port} of pod {pod}: both 127.0.0.1 and ::1 refuse the connection"
    )]
    PortRefused { pod: PodId, port: u16 },
    #[error("port {port} of pod {pod} cannot be connected to")]
    PortUnreachable {
        pod: PodId,
        port: u16,
        source: io::Error,
    },
    #[error("the command did not end within {0:?} and was killed")]
    ExecDeadline(Duration),
    #[error("container {id} does not end: {detail}")]
    Unkillable { id: ContainerId, detail: String },
    #[error(
        "{operation} was interrupted by the server's shutdown; it will be undone or finished at the next start"
    )]
    Interrupted { operation: &'static str },
    #[error("the image volume at {container_path}: {fault}")]
    ImageVolume {
        container_path: String,
        #[source]
        fault: ImageVolumeFault,
    },
    #[error(
        "the record of {what} cannot be read, and it may run: start the version of pintle that wrote it, and remove it there; \
         or restart the node"
    )]
    SetAside { what: String },
    #[error("pods cannot have user namespaces here: {why}")]
    NoUserNamespaces { why: String },
    #[error("the file system of {} cannot be mounted with mapped ids; give the pod another volume, or no user namespace", path.display())]
    CannotMapIds { path: PathBuf, source: io::Error },
    #[error("SELinux is to be used (`selinux.enabled`), and cannot be")]
    NoSelinux(#[source] crate::selinux::Unused),
    #[error(
        "every pair of SELinux categories below {below} is in use: raise `selinux.category_range`, or run fewer pods"
    )]
    NoCategories { below: u16 },
    #[error(
        "labelling {} for SELinux took longer than {limit:?} (`timeouts.relabel`); what was labelled stays so, and the next try goes on from there",
        path.display()
    )]
    RelabelDeadline { path: PathBuf, limit: Duration },
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Spec(#[from] spec::SpecError),
    #[error(transparent)]
    Runtime(#[from] runtime::RuntimeError),
    #[error(transparent)]
    Storage(#[from] storage::StorageError),
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    #[error(transparent)]
    State(#[from] state::StateError),
    #[error(transparent)]
    Sys(#[from] sys::SysError),
    #[error(transparent)]
    Systemd(#[from] systemd::SystemdError),
    #[error(
        "`cgroup.driver` is systemd, which does not answer: start systemd and its D-Bus, or set `cgroup.driver: cgroupfs`"
    )]
    NoSystemd(#[source] systemd::SystemdError),
    #[error("in one of the pod's containers")]
    InContainer(#[source] SharedError),
    #[error("the record of {id} cannot be read or written")]
    Record {
        id: String,
        source: serde_json::Error,
    },
}

/// Why an image cannot be a volume.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what the variant means")]
pub enum ImageVolumeFault {
    #[error("image {image:?} is not on this node: pull it first")]
    NoImage { image: String },
    #[error("image {image} has nothing at {sub_path:?}")]
    NoSubPath { image: String, sub_path: String },
    #[error("{sub_path:?} of image {image} is neither a file nor a directory")]
    Special { image: String, sub_path: String },
    #[error("looking for its path failed")]
    Look(#[source] sys::SysError),
    #[error("mounting its layers failed")]
    Mount(#[source] storage::StorageError),
}

impl EngineError {
    /// An error about one field of a request.
    pub fn invalid(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            why: why.into(),
        }
    }
}

/// An error with everything that caused it, in one line: what a log entry or an answer should say.
pub fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Transparent wrappers repeat their inside.
        if !words.ends_with(&text) {
            words.push_str(": ");
            words.push_str(&text);
        }
        cause = error.source();
    }
    words
}
