//! Which images a container is made of, and whether its pod may use them.

use std::sync::Arc;

use image::{Image, ImageKind, ImageLease};
use spec::model::{ContainerConfig, ImageSpec};
use state::ChainId;

use super::image_volume;
use crate::{
    error::{EngineError, ImageVolumeFault},
    jobs::Stage,
    node::Node,
    world::Pod,
};

/// The images of a container.
#[derive(Debug)]
pub(crate) struct Images {
    /// The one that it runs.
    pub(crate) own: Arc<Image>,
    /// Those of its image volumes, by the volume's place in the request.
    pub(crate) volumes: Vec<Option<Arc<Image>>>,
}

impl Images {
    /// Layers of image volumes.
    pub(crate) fn volume_layers(&self) -> Vec<ChainId> {
        let mut layers: Vec<_> = self
            .volumes
            .iter()
            .flatten()
            .flat_map(|image| image.layers.iter().cloned())
            .collect();
        layers.sort();
        layers.dedup();
        layers
    }
}

impl Node {
    /// The images that a container needs, and what keeps their layers on the node.
    pub(crate) fn container_images(
        &self,
        config: &ContainerConfig,
    ) -> Result<(Images, ImageLease), EngineError> {
        let missing = || EngineError::ImageNotFound(config.image.image.clone());
        let own = self.images.get(&config.image.image).ok_or_else(missing)?;
        if own.kind == ImageKind::Artifact {
            return Err(EngineError::ArtifactAsImage(asked_for(&config.image)));
        }
        let mut volumes = Vec::with_capacity(config.mounts.len());
        for mount in &config.mounts {
            let image = match &mount.image {
                Some(asked) => {
                    let found = self.images.get(&asked.image);
                    let fault = || {
                        let image = asked.image.clone();
                        image_volume(mount, ImageVolumeFault::NoImage { image })
                    };
                    Some(found.ok_or_else(fault)?)
                }
                None => None,
            };
            volumes.push(image);
        }
        let mut all: Vec<&Image> = vec![&own];
        all.extend(volumes.iter().flatten().map(Arc::as_ref));
        let lease = self.images.lease_images(&all).ok_or_else(missing)?;
        Ok((Images { own, volumes }, lease))
    }

    /// Whether the pod's namespace may use these images, by the names that its author wrote.
    pub(crate) async fn permit_images(
        &self,
        pod: &Pod,
        config: &ContainerConfig,
        images: &Images,
        stage: &Stage,
    ) -> Result<(), EngineError> {
        let volumes = config.mounts.iter().zip(&images.volumes);
        let volumes = volumes.filter_map(|(mount, image)| mount.image.as_ref().zip(image.as_ref()));
        let namespace = Some(pod.config.metadata.namespace.as_str());
        let permit = async {
            for (asked, image) in [(&config.image, &images.own)].into_iter().chain(volumes) {
                let name = asked_for(asked);
                let permitted = self.images.permit(image, &name, namespace);
                permitted.await.map_err(EngineError::ImageNotPermitted)?;
            }
            Ok(())
        };
        let limit = self.config.timeouts.create_container;
        let permitted = tokio::time::timeout(limit, permit).await;
        permitted.unwrap_or_else(|_elapsed| {
            Err(EngineError::Deadline {
                operation: "CreateContainer",
                stage: stage.name(),
                limit,
            })
        })
    }
}

/// How the user calls an image, which the client may have replaced by an id.
fn asked_for(image: &ImageSpec) -> String {
    let names = [&image.user_specified_image, &image.image];
    let name = names.into_iter().find(|name| !name.is_empty());
    name.cloned().unwrap_or_default()
}
