//! Calls about what containers and pods use.

use api::cri;
use bytes::Bytes;
use tonic::{Request, Response, Status};

use crate::convert::required_id;
use crate::describe;
use crate::errors::engine_status;
use crate::face::Face;
use crate::filter;
use crate::list::{Pieces, beside, encoded, pieces, whole};
use crate::request::Subjects;

impl Face {
    pub(crate) async fn stats_of_container(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Result<Response<cri::ContainerStatsResponse>, Status> {
        let id = required_id("container_id", &request.get_ref().container_id)?;
        Subjects::of(&request).container(id);
        let found = self.engine.container_stats(id).await;
        let found = found.map_err(|error| engine_status(&error))?;
        let layers = self.engine.writable_layers();
        Ok(Response::new(cri::ContainerStatsResponse {
            stats: Some(describe::container_stats(&found, &layers)),
        }))
    }

    pub(crate) async fn list_stats(
        &self,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Result<Response<cri::ListContainerStatsResponse>, Status> {
        let items = self.container_stats_items(filter).await?;
        whole(items, "statistics of containers", "StreamContainerStats")
    }

    pub(crate) async fn stream_stats(
        &self,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Result<Response<Pieces<cri::ContainerStats>>, Status> {
        Ok(pieces(self.container_stats_items(filter).await?))
    }

    async fn container_stats_items(
        &self,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Result<Vec<Bytes>, Status> {
        let world = self.engine.world();
        let found = filter::running_containers(&world, filter)?;
        let found = found.into_iter().cloned().collect();
        let found = self.engine.container_stats_of(found).await;
        let found = found.map_err(|error| engine_status(&error))?;
        let layers = self.engine.writable_layers();
        beside(move || {
            let message = |one| encoded(&describe::container_stats(one, &layers));
            found.iter().map(message).collect()
        })
        .await
    }

    pub(crate) async fn stats_of_pod(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Result<Response<cri::PodSandboxStatsResponse>, Status> {
        let id = required_id("pod_sandbox_id", &request.get_ref().pod_sandbox_id)?;
        Subjects::of(&request).pod(id);
        let found = self.engine.pod_stats(id).await;
        let found = found.map_err(|error| engine_status(&error))?;
        let layers = self.engine.writable_layers();
        Ok(Response::new(cri::PodSandboxStatsResponse {
            stats: Some(describe::pod_stats(&found, &layers)),
        }))
    }

    pub(crate) async fn list_pod_stats(
        &self,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Result<Response<cri::ListPodSandboxStatsResponse>, Status> {
        let items = self.pod_stats_items(filter).await?;
        whole(items, "statistics of pods", "StreamPodSandboxStats")
    }

    pub(crate) async fn stream_pod_stats(
        &self,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Result<Response<Pieces<cri::PodSandboxStats>>, Status> {
        Ok(pieces(self.pod_stats_items(filter).await?))
    }

    async fn pod_stats_items(
        &self,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Result<Vec<Bytes>, Status> {
        let world = self.engine.world();
        let found = filter::ready_pods(&world, filter)?;
        let found = found.into_iter().cloned().collect();
        let found = self.engine.pod_stats_of(found).await;
        let found = found.map_err(|error| engine_status(&error))?;
        let layers = self.engine.writable_layers();
        beside(move || {
            let message = |one| encoded(&describe::pod_stats(one, &layers));
            found.iter().map(message).collect()
        })
        .await
    }
}
