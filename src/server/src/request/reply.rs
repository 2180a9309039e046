//! A reply's body that knows the call's deadline and its record.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::{Code, Status};

use super::over;
use super::record::Record;

/// The reply of one call.
#[derive(Debug)]
pub(crate) struct Reply {
    body: Body,
    deadline: Option<Pin<Box<Sleep>>>,
    record: Option<Record>,
    ended: bool,
}

impl Reply {
    /// The response with its body watched.
    pub(super) fn of(
        response: http::Response<Body>,
        deadline: Option<Instant>,
        mut record: Record,
    ) -> http::Response<Self> {
        // A call that fails before its first message has its status in the headers.
        if let Some(status) = Status::from_header_map(response.headers()) {
            record.ended(status.code(), status.message());
        }
        response.map(|body| Self {
            ended: body.is_end_stream(),
            body,
            deadline: deadline.map(|at| Box::pin(tokio::time::sleep_until(at))),
            record: Some(record),
        })
    }

    fn end(&mut self, trailers: &HeaderMap) {
        self.ended = true;
        if let Some(mut record) = self.record.take() {
            match Status::from_header_map(trailers) {
                Some(status) => record.ended(status.code(), status.message()),
                None => record.ended(Code::Unknown, "the reply has no status"),
            }
        }
    }
}

impl hyper::body::Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let Some(deadline) = &mut self.deadline else {
                    return Poll::Pending;
                };
                ready!(deadline.as_mut().poll(cx));
                let mut trailers = HeaderMap::new();
                let _ = over().add_header(&mut trailers);
                Some(Ok(Frame::trailers(trailers)))
            }
        };
        if let Some(trailers) = frame
            .as_ref()
            .and_then(|frame| frame.as_ref().ok())
            .and_then(Frame::trailers_ref)
        {
            let trailers = trailers.clone();
            self.end(&trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
