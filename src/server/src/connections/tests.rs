//! The socket with real clients: tonic's, and the bytes of Python's grpcio.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::cri;
use api::cri::image_service_client::ImageServiceClient;
use api::cri::image_service_server::{ImageService, ImageServiceServer};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use rstest::rstest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::*;
use crate::list::{Pieces, encoded};

/// Answers that make each behaviour of the socket visible.
#[derive(Clone, Debug, Default)]
struct Fake {
    pulls: Arc<AtomicUsize>,
    pulled: Arc<AtomicUsize>,
}

fn image(id: &str) -> cri::Image {
    cri::Image {
        id: id.to_owned(),
        ..cri::Image::default()
    }
}

#[tonic::async_trait]
impl ImageService for Fake {
    async fn list_images(
        &self,
        _: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        let items = ["a", "b"].map(|id| encoded(&image(id)));
        crate::list::whole(items.into(), "images", "StreamImages")
    }

    type StreamImagesStream = Pieces<cri::Image>;

    /// One piece, and then nothing more for ever; with a filter, how many images were pulled when the server closes.
    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let first = stream::iter([Ok(vec![image("a")].into())]);
        let closing = Closing::of(&request);
        if request.into_inner().filter.is_none() {
            return Ok(Response::new(first.chain(stream::pending()).boxed()));
        }
        let pulled = Arc::clone(&self.pulled);
        let last = stream::once(async move {
            closing.comes().await;
            let pulled = pulled.load(Ordering::Relaxed).to_string();
            Ok(vec![image(&pulled)].into())
        });
        Ok(Response::new(first.chain(last).boxed()))
    }

    /// As large as asked for.
    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let size: usize = request
            .into_inner()
            .image
            .unwrap()
            .image
            .trim()
            .parse()
            .unwrap();
        Ok(Response::new(cri::ImageStatusResponse {
            image: Some(image(&"x".repeat(size))),
            ..cri::ImageStatusResponse::default()
        }))
    }

    /// Takes half a second.
    async fn pull_image(
        &self,
        _: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        self.pulls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.pulled.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(cri::PullImageResponse {
            image_ref: "pulled".to_owned(),
        }))
    }

    async fn remove_image(
        &self,
        _: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        panic!("as if by a bug")
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        Err(Status::not_found("no filesystem"))
    }
}

struct Running {
    connections: mpsc::UnboundedSender<io::Result<UnixStream>>,
    shutdown: Option<oneshot::Sender<()>>,
    server: tokio::task::JoinHandle<()>,
    fake: Fake,
}

impl Running {
    fn start(drain: Duration) -> Self {
        let fake = Fake::default();
        let (connections, incoming) = mpsc::unbounded_channel();
        let (shutdown, told) = oneshot::channel();
        let service = ImageServiceServer::new(fake.clone())
            .max_decoding_message_size(api::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(api::MAX_MESSAGE_BYTES);
        let server = tokio::spawn(async move {
            let told = async move {
                let _ = told.await;
            };
            serve(service, UnboundedReceiverStream::new(incoming), told, drain).await;
        });
        Self {
            connections,
            shutdown: Some(shutdown),
            server,
            fake,
        }
    }

    fn connect(&self) -> UnixStream {
        let (client, server) = UnixStream::pair().unwrap();
        self.connections.send(Ok(server)).unwrap();
        client
    }

    async fn client(&self) -> ImageServiceClient<Channel> {
        let mut stream = Some(self.connect());
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let stream = stream.take();
                async move {
                    stream
                        .map(TokioIo::new)
                        .ok_or(io::Error::from(io::ErrorKind::NotConnected))
                }
            }))
            .await
            .unwrap();
        ImageServiceClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn lists_arrive_at_a_client() {
    let running = Running::start(LONG);
    let reply = running
        .client()
        .await
        .list_images(cri::ListImagesRequest::default())
        .await;
    let images = reply.unwrap().into_inner().into_vec().unwrap();
    assert_eq!(images, ["a", "b"].map(image));
}

#[tokio::test]
async fn errors_and_panics_arrive_as_codes_and_the_connection_lives_on() {
    let running = Running::start(LONG);
    let mut client = running.client().await;
    let error = client
        .image_fs_info(cri::ImageFsInfoRequest {})
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::NotFound, "no filesystem")
    );
    let error = client
        .remove_image(cri::RemoveImageRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(
        client
            .list_images(cri::ListImagesRequest::default())
            .await
            .is_ok()
    );
}

#[rstest]
#[case::call("PullImage", 0)]
#[case::stream("StreamImages", 1)]
#[tokio::test]
async fn the_deadline_ends_calls_and_streams(#[case] method: &str, #[case] messages: usize) {
    // Without tonic's client, which has a clock of its own.
    let running = Running::start(LONG);
    let io = TokioIo::new(running.connect());
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://localhost/runtime.v1.ImageService/{method}"))
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "100m")
        .body(Full::new(Bytes::from_static(&[0; 5])))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    let early = Status::from_header_map(response.headers());
    let body = response.into_body().collect().await.unwrap();
    let late = body.trailers().and_then(Status::from_header_map);
    assert_eq!(early.or(late).unwrap().code(), Code::DeadlineExceeded);
    assert_eq!(body.to_bytes().is_empty(), messages == 0);
}

#[rstest]
#[case::four_mebibytes(4 << 20, 1, Code::Ok)]
#[case::the_largest_request(api::MAX_MESSAGE_BYTES - 64, 1, Code::Ok)]
#[case::too_large_a_request(api::MAX_MESSAGE_BYTES, 1, Code::OutOfRange)]
#[case::the_largest_reply(0, api::MAX_MESSAGE_BYTES - 64, Code::Ok)]
#[case::too_large_a_reply(0, api::MAX_MESSAGE_BYTES, Code::OutOfRange)]
#[tokio::test]
async fn messages_up_to_16_mebibytes_pass(
    #[case] request_bytes: usize,
    #[case] reply_bytes: usize,
    #[case] wanted: Code,
) {
    let running = Running::start(LONG);
    let request = cri::ImageStatusRequest {
        image: Some(cri::ImageSpec {
            image: format!("{}{reply_bytes}", " ".repeat(request_bytes)),
            ..cri::ImageSpec::default()
        }),
        verbose: false,
    };
    let reply = running.client().await.image_status(request).await;
    assert_eq!(reply.err().map_or(Code::Ok, |error| error.code()), wanted);
}

#[tokio::test]
async fn running_calls_are_finished_at_the_shutdown() {
    let mut running = Running::start(LONG);
    let mut client = running.client().await;
    let pull =
        tokio::spawn(async move { client.pull_image(cri::PullImageRequest::default()).await });
    while running.fake.pulls.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let _ = running.shutdown.take().unwrap().send(());
    assert_eq!(
        pull.await.unwrap().unwrap().into_inner().image_ref,
        "pulled"
    );
    running.server.await.unwrap();
}

#[tokio::test]
async fn streams_end_after_the_calls() {
    let mut running = Running::start(LONG);
    let mut client = running.client().await;
    let mut stream = client
        .stream_images(cri::StreamImagesRequest {
            filter: Some(cri::ImageFilter::default()),
        })
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap();
    let pull =
        tokio::spawn(async move { client.pull_image(cri::PullImageRequest::default()).await });
    while running.fake.pulls.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let _ = running.shutdown.take().unwrap().send(());
    let last = stream.message().await.unwrap().unwrap();
    assert_eq!(last.into_vec().unwrap(), [image("1")]);
    assert!(pull.await.unwrap().is_ok());
    running.server.await.unwrap();
}

#[tokio::test]
async fn the_shutdown_does_not_wait_for_ever() {
    let mut running = Running::start(Duration::from_millis(50));
    let mut client = running.client().await;
    let mut stream = client
        .stream_images(cri::StreamImagesRequest::default())
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap();
    let _ = running.shutdown.take().unwrap().send(());
    running.server.await.unwrap();
    // The stream is cut, so that the client looks for another server.
    assert!(stream.message().await.is_err());
}

#[tokio::test]
async fn a_failed_accept_and_a_client_of_another_language_do_no_harm() {
    let running = Running::start(LONG);
    running
        .connections
        .send(Err(io::ErrorKind::ConnectionAborted.into()))
        .unwrap();
    let mut stranger = running.connect();
    stranger
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // Whatever it is told, the connection is closed.
    let _ = tokio::time::timeout(LONG, stranger.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(
        running
            .client()
            .await
            .list_images(cri::ListImagesRequest::default())
            .await
            .is_ok()
    );
}

/// What grpcio 1.85 sends for two calls of ListImages over `unix:/tmp/g/py/pintle.sock`: the second one refers to the
/// header fields of the first by their indices.
const GRPCIO: [&[u8]; 8] = [
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\0\0$\x04\0\0\0\0\0\0\x02\0\0\0\0\0\x03\0\0\0\0\0\x04\0@\0\0\0\x05\0@\0\0\0\x06\0\0@\0\xfe\x03\0\0\0\x01",
    b"\0\0\x04\x08\0\0\0\0\0\0?\0\x01",
    b"\0\0\0\x04\x01\0\0\0\0",
    b"\0\0\xfe\x01\x04\0\0\0\x01@\x05:path#/runtime.v1.ImageService/ListImages@\n:authority\x1atmp%2Fg%2Fpy%2Fpintle.sock\
      \x83\x86@\x0ccontent-type\x10application/grpc@\x02te\x08trailers\
      @\x14grpc-accept-encoding\x17identity, deflate, gzip@\x0cgrpc-timeout\x04697m\
      @\nuser-agent0grpc-python/1.85.1 grpc-c/58.0.0 (linux; chttp2)",
    b"\0\0\x05\0\x01\0\0\0\x01\0\0\0\0\0",
    b"\0\0\x1b\x01\x04\0\0\0\x03\xc4\xc3\x83\x86\xc2\xc1\xc0@\x0cgrpc-timeout\x04700m\xbf",
    b"\0\0\x05\0\x01\0\0\0\x03\0\0\0\0\0",
];

#[tokio::test]
async fn grpcio_is_answered() {
    let running = Running::start(LONG);
    let mut client = running.connect();
    client.write_all(&GRPCIO.concat()).await.unwrap();
    let mut ended = Vec::new();
    let mut messages = 0;
    while ended.len() < 2 {
        let mut header = [0; 9];
        tokio::time::timeout(LONG, client.read_exact(&mut header))
            .await
            .unwrap()
            .unwrap();
        let len = usize::from(header[1]) << 8 | usize::from(header[2]);
        let mut payload = vec![0; len];
        client.read_exact(&mut payload).await.unwrap();
        let (kind, flags, stream) = (header[3], header[4], header[8]);
        assert!(
            kind != 3 && kind != 7,
            "reset or sent away: {header:?} {payload:?}"
        );
        if kind == 0 && !payload.is_empty() {
            messages += 1;
        }
        if kind == 1 && flags & 1 != 0 {
            ended.push(stream);
        }
    }
    ended.sort_unstable();
    assert_eq!((ended, messages), (vec![1, 3], 2));
}
