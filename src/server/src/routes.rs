//! From a request's path to the service that answers it.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use api::admin::admin_server::{self, AdminServer};
use api::cri::image_service_server::{self, ImageServiceServer};
use api::cri::runtime_service_server::{self, RuntimeServiceServer};
use futures_util::future::{BoxFuture, Either};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use crate::face::Face;

/// The services of the socket.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    runtime: RuntimeServiceServer<Face>,
    images: ImageServiceServer<Face>,
    admin: AdminServer<Face>,
}

impl Routes {
    pub(crate) fn new(face: Face) -> Self {
        let max = api::MAX_MESSAGE_BYTES;
        Self {
            runtime: RuntimeServiceServer::new(face.clone())
                .max_decoding_message_size(max)
                .max_encoding_message_size(max),
            images: ImageServiceServer::new(face.clone())
                .max_decoding_message_size(max)
                .max_encoding_message_size(max),
            admin: AdminServer::new(face),
        }
    }
}

type Answer = Result<http::Response<Body>, Infallible>;

impl Service<http::Request<Incoming>> for Routes {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Either<BoxFuture<'static, Answer>, Ready<Answer>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match service {
            runtime_service_server::SERVICE_NAME => Either::Left(self.runtime.call(request)),
            image_service_server::SERVICE_NAME => Either::Left(self.images.call(request)),
            admin_server::SERVICE_NAME => Either::Left(self.admin.call(request)),
            _ => Either::Right(ready(Ok(Status::unimplemented(
                "this socket has the services of CRI v1 (runtime.v1) and pintle.v1.Admin",
            )
            .into_http()))),
        }
    }
}
