//! What happens around every call: its deadline, its one line in the log, and a panic's end.
//!
//! [`handle`] wraps the generated services. The deadline of `grpc-timeout` covers the call and the whole reply, and ends
//! it with `DeadlineExceeded`; jobs of `engine` go on, so that a retry can join them. The log line is written when the
//! last byte of the reply was handed over, or when the client went away.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};

mod deadline;
mod record;
mod reply;

pub(crate) use record::Subjects;
pub(crate) use reply::Reply;

use crate::errors::status;
use record::Record;

/// When the client stops to wait for the call. Part of every request's extensions; `None` is never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// The deadline of a request that has passed [`handle`].
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get().copied().unwrap_or(Self(None))
    }

    /// The moment itself.
    pub(crate) fn at(self) -> Option<std::time::Instant> {
        self.0.map(Instant::into_std)
    }

    /// The shorter of a limit and the time that is left.
    pub(crate) fn within(self, limit: Option<std::time::Duration>) -> Option<std::time::Duration> {
        let left = self
            .0
            .map(|at| at.saturating_duration_since(Instant::now()));
        limit.into_iter().chain(left).min()
    }
}

/// Runs one call under its deadline and sees to its line in the log.
pub(crate) async fn handle<B, F>(
    mut request: http::Request<B>,
    call: impl FnOnce(http::Request<B>) -> F,
) -> http::Response<Reply>
where
    F: Future<Output = http::Response<Body>>,
{
    let subjects = Arc::new(Subjects::default());
    let mut record = Record::new(request.uri().path(), Arc::clone(&subjects));
    let deadline = match deadline::of(request.headers()) {
        Ok(deadline) => deadline,
        Err(error) => return Reply::of(error.into_http(), None, record),
    };
    request.extensions_mut().insert(Deadline(deadline));
    request.extensions_mut().insert(subjects);

    let called = AssertUnwindSafe(call(request)).catch_unwind();
    let called = match deadline {
        Some(at) => tokio::time::timeout_at(at, called).await,
        None => Ok(called.await),
    };
    let response = match called {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            record.panicked(panic_words(&*panic));
            status(Code::Internal, "a bug in pintle: see its log").into_http()
        }
        Err(_elapsed) => over().into_http(),
    };
    Reply::of(response, deadline, record)
}

/// The answer when the client's time is over.
fn over() -> Status {
    status(Code::DeadlineExceeded, "the request's deadline passed")
}

fn panic_words(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words")
}

#[cfg(test)]
mod tests;
