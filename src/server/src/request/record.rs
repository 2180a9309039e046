//! The one line that the log has for each call.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tonic::Code;

use crate::errors::clip;

/// Calls that clients repeat every few seconds: their successes would drown everything else.
const POLLS: [&str; 21] = [
    "ContainerStats",
    "ContainerStatus",
    "ImageFsInfo",
    "ImageStatus",
    "ListContainerStats",
    "ListContainers",
    "ListImages",
    "ListMetricDescriptors",
    "ListPodSandbox",
    "ListPodSandboxMetrics",
    "ListPodSandboxStats",
    "PodSandboxStats",
    "PodSandboxStatus",
    "Status",
    "StreamContainerStats",
    "StreamContainers",
    "StreamImages",
    "StreamPodSandboxMetrics",
    "StreamPodSandboxStats",
    "StreamPodSandboxes",
    "Version",
];
/// Longest id, name or message that is logged, in bytes.
const LOGGED_MAX_BYTES: usize = 1024;

/// What a call is about, told by its handler. Names and ids only, never contents.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    pod: OnceLock<String>,
    container: OnceLock<String>,
    image: OnceLock<String>,
    name: OnceLock<String>,
}

impl Subjects {
    /// The subjects of a request that has passed [`super::handle`].
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Arc<Self> {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// A pod's id.
    pub(crate) fn pod(&self, id: &str) {
        set(&self.pod, id);
    }

    /// A container's id.
    pub(crate) fn container(&self, id: &str) {
        set(&self.container, id);
    }

    /// An image's name or id.
    pub(crate) fn image(&self, name: &str) {
        set(&self.image, name);
    }

    /// The name that the client uses for the thing.
    pub(crate) fn name(&self, name: &str) {
        set(&self.name, name);
    }
}

fn set(slot: &OnceLock<String>, value: &str) {
    // The first one holds.
    let _ = slot.set(clip(value, LOGGED_MAX_BYTES).to_owned());
}

/// Writes the line when it is dropped.
#[derive(Debug)]
pub(super) struct Record {
    method: String,
    subjects: Arc<Subjects>,
    began: Instant,
    outcome: Option<(Code, String)>,
}

impl Record {
    /// For the call of this path, `/package.Service/Method`.
    pub(super) fn new(path: &str, subjects: Arc<Subjects>) -> Self {
        let method = path.rsplit('/').next().unwrap_or_default();
        Self {
            method: clip(method, LOGGED_MAX_BYTES).to_owned(),
            subjects,
            began: Instant::now(),
            outcome: None,
        }
    }

    /// How the call ended. The first one holds.
    pub(super) fn ended(&mut self, code: Code, message: &str) {
        self.outcome
            .get_or_insert_with(|| (code, clip(message, LOGGED_MAX_BYTES).to_owned()));
    }

    /// The handler panicked, and said this.
    pub(super) fn panicked(&mut self, words: &str) {
        self.ended(Code::Internal, &format!("panic: {words}"));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let (code, message) = self
            .outcome
            .take()
            .unwrap_or_else(|| (Code::Cancelled, "the client went away".to_owned()));
        let subject = |slot: &'_ OnceLock<String>| slot.get().cloned();
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    method = self.method,
                    code = ?code,
                    duration_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
                    pod = subject(&self.subjects.pod),
                    container = subject(&self.subjects.container),
                    image = subject(&self.subjects.image),
                    name = subject(&self.subjects.name),
                    error = (!message.is_empty()).then_some(message),
                    "request"
                )
            };
        }
        let poll = POLLS.binary_search(&self.method.as_str()).is_ok();
        match code {
            Code::Ok | Code::NotFound if poll => line!(debug),
            Code::Internal | Code::Unknown | Code::DataLoss | Code::ResourceExhausted => {
                line!(warn);
            }
            _ => line!(info),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_are_sorted() {
        assert!(POLLS.is_sorted());
    }
}
