//! The service of the operator's commands: images as archives, in and out, and pulls that are looked on at.
//!
//! Archives are passed through in pieces; neither direction holds more than a few of them.

use api::admin::admin_server::Admin;
use api::admin::{
    ArchiveFormat, ExportImageRequest, ExportImageResponse, ImportImageRequest,
    ImportImageResponse, ListPullsRequest, ListPullsResponse, PullImageRequest,
};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio_util::io::{ReaderStream, StreamReader};
use tonic::{Request, Response, Status, Streaming};

use crate::convert::{At, required_id};
use crate::describe;
use crate::errors::image_status;
use crate::face::Face;
use crate::pulls::Looking;
use crate::request::Subjects;

/// Bytes of an archive in one message of an export.
const PIECE_BYTES: usize = 256 << 10;

#[tonic::async_trait]
impl Admin for Face {
    async fn import_image(
        &self,
        request: Request<Streaming<ImportImageRequest>>,
    ) -> Result<Response<ImportImageResponse>, Status> {
        let subjects = Subjects::of(&request);
        let mut messages = request.into_inner();
        let Some(first) = messages.message().await? else {
            return Err(At::root("data").refuse("the archive is empty").into());
        };
        if let Some(name) = first.names.first() {
            subjects.image(name);
        }
        let rest = messages.map(|message| match message {
            Ok(message) => Ok(message.data),
            Err(status) => Err(std::io::Error::other(status)),
        });
        let archive = stream::iter([Ok(first.data)]).chain(rest);
        let imported = self
            .images
            .import(StreamReader::new(archive), &first.names)
            .await;
        let imported = imported.map_err(|error| image_status(&error))?;
        Ok(Response::new(ImportImageResponse {
            images: imported
                .iter()
                .map(|image| describe::image_message(image))
                .collect(),
        }))
    }

    type ExportImageStream = BoxStream<'static, Result<ExportImageResponse, Status>>;

    async fn export_image(
        &self,
        request: Request<ExportImageRequest>,
    ) -> Result<Response<Self::ExportImageStream>, Status> {
        let subjects = Subjects::of(&request);
        let request = request.into_inner();
        let name = required_id("name", &request.name)?.to_owned();
        subjects.image(&name);
        let format = match ArchiveFormat::try_from(request.format) {
            Ok(ArchiveFormat::Oci) => image::ArchiveFormat::Oci,
            Ok(ArchiveFormat::Docker) => image::ArchiveFormat::Docker,
            Err(_) => {
                return Err(At::root("format")
                    .refuse("is not a format of archives")
                    .into());
            }
        };
        let images = self.images.clone();
        let (writer, reader) = tokio::io::duplex(PIECE_BYTES);
        // A client that goes away closes the pipe, and that ends the export.
        let export = tokio::spawn(async move { images.export(&name, writer, format).await });
        let data = ReaderStream::with_capacity(reader, PIECE_BYTES).map(|piece| match piece {
            Ok(data) => Ok(ExportImageResponse { data }),
            Err(error) => Err(Status::internal(error.to_string())),
        });
        // A short archive would look like a whole one: its end is only well if the export says so.
        let end = stream::once(export).filter_map(async |ended| match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Err(image_status(&error))),
            Err(_) => Some(Err(Status::internal("a bug in pintle: see its log"))),
        });
        Ok(Response::new(data.chain(end).boxed()))
    }

    type PullImageStream = Looking;

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        self.pull_with_progress(request)
    }

    async fn list_pulls(
        &self,
        _: Request<ListPullsRequest>,
    ) -> Result<Response<ListPullsResponse>, Status> {
        Ok(Response::new(self.list_pulls_reply()))
    }
}
