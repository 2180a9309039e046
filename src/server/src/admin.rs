//! The service of the operator's commands: images as archives, in and out, how they would be pulled, and pulls that are looked on at;
//! what else there is, is in [`crate::store`].
//!
//! Archives are passed through in pieces; neither direction holds more than a few of them.

use std::time::SystemTime;

use api::admin::admin_server::Admin;
use api::admin::{
    ArchiveFormat, ExplainImageRequest, ExplainImageResponse, ExplainedHost, ExplainedReference,
    ExportImageRequest, ExportImageResponse, ImageDetails, ImportImageRequest, ImportImageResponse,
    InspectImagesRequest, ListPullsRequest, ListPullsResponse, PruneImagesRequest,
    PruneImagesResponse, PullImageRequest, VerifyImagesRequest, VerifyImagesResponse,
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
    async fn explain_image(
        &self,
        request: Request<ExplainImageRequest>,
    ) -> Result<Response<ExplainImageResponse>, Status> {
        let subjects = Subjects::of(&request);
        let request = request.into_inner();
        let name = required_id("name", &request.name)?;
        subjects.image(name);
        let namespace = Some(request.namespace.as_str()).filter(|name| !name.is_empty());
        let explained = self.images.explain(name, namespace).await;
        let explained = explained.map_err(|error| image_status(&error))?;
        let references = explained.references.into_iter();
        Ok(Response::new(ExplainImageResponse {
            short_name: explained.short_name.unwrap_or_default(),
            references: references.map(explained_reference).collect(),
        }))
    }

    type InspectImagesStream = BoxStream<'static, Result<ImageDetails, Status>>;

    async fn inspect_images(
        &self,
        request: Request<InspectImagesRequest>,
    ) -> Result<Response<Self::InspectImagesStream>, Status> {
        self.inspect(&request)
    }

    async fn prune_images(
        &self,
        request: Request<PruneImagesRequest>,
    ) -> Result<Response<PruneImagesResponse>, Status> {
        self.prune(*request.get_ref()).await
    }

    type VerifyImagesStream = BoxStream<'static, Result<VerifyImagesResponse, Status>>;

    async fn verify_images(
        &self,
        request: Request<VerifyImagesRequest>,
    ) -> Result<Response<Self::VerifyImagesStream>, Status> {
        self.verify(&request)
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

fn explained_reference(found: image::ExplainedReference) -> ExplainedReference {
    ExplainedReference {
        reference: found.reference,
        blocked: found.blocked.unwrap_or_default(),
        hosts: found.hosts.into_iter().map(explained_host).collect(),
        policy: found.policy.unwrap_or_default(),
    }
}

fn explained_host(host: image::ExplainedHost) -> ExplainedHost {
    let (last_error, at) = host.last_error.map_or_else(Default::default, |error| {
        (error.words, unix_ns_of(error.at))
    });
    ExplainedHost {
        url: host.url,
        from: host.from,
        origin: host.origin,
        capabilities: host.capabilities.into_iter().map(str::to_owned).collect(),
        skipped: host.skipped.unwrap_or_default().to_owned(),
        tls: host.tls,
        headers: host.headers,
        proxy: host.proxy.unwrap_or_default(),
        credentials: host.credentials.unwrap_or_default(),
        last_error,
        last_error_at: at,
    }
}

/// Nanoseconds since 1970; 0 for what the range does not hold.
fn unix_ns_of(at: SystemTime) -> i64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or_default()
}
