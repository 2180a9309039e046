//! ImageService.

use std::collections::BTreeMap;

use api::cri;
use api::cri::image_service_server::ImageService;
use image::{Credentials, PullRequest};
use tonic::{Request, Response, Status};

use crate::convert::{At, required};
use crate::describe;
use crate::errors::image_status;
use crate::face::Face;
use crate::filter;
use crate::list::{Pieces, pieces, whole};
use crate::pods::unix_ns;
use crate::request::{Deadline, Subjects};

#[tonic::async_trait]
impl ImageService for Face {
    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        let found = filter::images(&self.images, request.into_inner().filter);
        let items = found.iter().map(|image| describe::image_item(image));
        whole(items.collect(), "images", "StreamImages")
    }

    type StreamImagesStream = Pieces<cri::Image>;

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let found = filter::images(&self.images, request.into_inner().filter);
        let items = found.iter().map(|image| describe::image_item(image));
        Ok(pieces(items.collect()))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let subjects = Subjects::of(&request);
        let request = request.into_inner();
        let name = image_name(request.image)?;
        subjects.image(&name);
        let image = self.images.get(&name);
        let info = match &image {
            // Only who wants all of it waits, and only for an additional store.
            Some(image) if request.verbose => {
                let document = self.images.document(image).await;
                let document = document.map_err(|error| image_status(&error))?;
                describe::image_info(image, &document)
            }
            _ => BTreeMap::new(),
        };
        Ok(Response::new(cri::ImageStatusResponse {
            info,
            image: image.map(|image| describe::image_message(&image)),
        }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let subjects = Subjects::of(&request);
        let deadline = Deadline::of(&request).at();
        let request = request.into_inner();
        let name = image_name(request.image)?;
        subjects.image(&name);
        let credentials = credentials(&request.auth.unwrap_or_default())?;
        let pulled = self.images.pull(PullRequest {
            reference: name,
            credentials,
            namespace: namespace(request.sandbox_config),
            deadline,
        });
        let image = pulled.await.map_err(|error| image_status(&error))?;
        Ok(Response::new(cri::PullImageResponse {
            image_ref: image.id.to_string(),
        }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        let subjects = Subjects::of(&request);
        let name = image_name(request.into_inner().image)?;
        subjects.image(&name);
        let removed = self.images.remove(&name).await;
        removed.map_err(|error| image_status(&error))?;
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        let usage = self.images.usage();
        let count = |value| Some(cri::UInt64Value { value });
        let filesystem = cri::FilesystemUsage {
            timestamp: unix_ns(),
            fs_id: Some(cri::FilesystemIdentifier {
                mountpoint: usage.mountpoint.to_string_lossy().into_owned(),
            }),
            used_bytes: count(usage.bytes),
            inodes_used: count(usage.inodes),
        };
        // Writable layers stand on the same filesystem: clients see that by equal entries.
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![filesystem.clone()],
            container_filesystems: vec![filesystem],
        }))
    }
}

/// What the client gives for the registry; `None` for an anonymous pull.
pub(crate) fn credentials(auth: &cri::AuthConfig) -> Result<Option<Credentials>, Status> {
    Credentials::from_parts(
        &auth.username,
        &auth.password,
        &auth.auth,
        &auth.server_address,
        &auth.identity_token,
        &auth.registry_token,
    )
    .map_err(|error| At::root("auth").refuse(error).into())
}

/// The Kubernetes namespace of the pod that wants an image, if the client tells. It is checked where it is used.
fn namespace(sandbox: Option<cri::PodSandboxConfig>) -> Option<String> {
    let namespace = sandbox?.metadata?.namespace;
    (!namespace.is_empty()).then_some(namespace)
}

pub(crate) fn image_name(image: Option<cri::ImageSpec>) -> Result<String, Status> {
    let at = At::root("image");
    let name = required(at, image)?.image;
    if name.is_empty() {
        return Err(At::root("image.image").refuse("must not be empty").into());
    }
    Ok(name)
}
