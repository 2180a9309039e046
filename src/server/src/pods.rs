//! Calls about pods.

use std::collections::BTreeMap;

use api::cri;
use tonic::{Request, Response, Status};

use crate::convert::{new_limits, pod_config, required_id};
use crate::describe;
use crate::errors::engine_status;
use crate::face::Face;
use crate::filter;
use crate::list::{Pieces, pieces, whole};
use crate::request::Subjects;

impl Face {
    pub(crate) async fn run_pod(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Result<Response<cri::RunPodSandboxResponse>, Status> {
        let subjects = Subjects::of(&request);
        let request = request.into_inner();
        let config = pod_config(request.config)?;
        let metadata = &config.metadata;
        subjects.name(&format!(
            "{}/{}#{}",
            metadata.namespace, metadata.name, metadata.attempt
        ));
        let made = self.engine.run_pod(config, request.runtime_handler).await;
        let id = made.map_err(|error| engine_status(&error))?;
        subjects.pod(id.as_str());
        Ok(Response::new(cri::RunPodSandboxResponse {
            pod_sandbox_id: id.to_string(),
        }))
    }

    pub(crate) async fn stop_pod(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Result<Response<cri::StopPodSandboxResponse>, Status> {
        let id = required_id("pod_sandbox_id", &request.get_ref().pod_sandbox_id)?;
        Subjects::of(&request).pod(id);
        self.engine
            .stop_pod(id)
            .await
            .map_err(|error| engine_status(&error))?;
        Ok(Response::new(cri::StopPodSandboxResponse {}))
    }

    pub(crate) async fn remove_pod(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Result<Response<cri::RemovePodSandboxResponse>, Status> {
        let id = required_id("pod_sandbox_id", &request.get_ref().pod_sandbox_id)?;
        Subjects::of(&request).pod(id);
        self.engine
            .remove_pod(id)
            .await
            .map_err(|error| engine_status(&error))?;
        Ok(Response::new(cri::RemovePodSandboxResponse {}))
    }

    pub(crate) async fn update_pod(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<cri::UpdatePodSandboxResourcesResponse>, Status> {
        let subjects = Subjects::of(&request);
        let request = request.into_inner();
        let id = required_id("pod_sandbox_id", &request.pod_sandbox_id)?;
        subjects.pod(id);
        let overhead = request.overhead.map(|given| new_limits("overhead", given));
        let resources = request
            .resources
            .map(|given| new_limits("resources", given));
        self.engine
            .update_pod(id, overhead.transpose()?, resources.transpose()?)
            .await
            .map_err(|error| engine_status(&error))?;
        Ok(Response::new(cri::UpdatePodSandboxResourcesResponse {}))
    }

    pub(crate) fn pod_status(
        &self,
        request: &Request<cri::PodSandboxStatusRequest>,
    ) -> Result<Response<cri::PodSandboxStatusResponse>, Status> {
        let id = required_id("pod_sandbox_id", &request.get_ref().pod_sandbox_id)?;
        Subjects::of(request).pod(id);
        // Before the look, so that no later event seems older than what is told here.
        let timestamp = self.engine.timestamp();
        let pod = self.engine.pod(id).map_err(|error| engine_status(&error))?;
        let world = self.engine.world();
        Ok(Response::new(cri::PodSandboxStatusResponse {
            status: Some(describe::pod_status(&pod)),
            info: if request.get_ref().verbose {
                describe::pod_info(&pod)
            } else {
                BTreeMap::new()
            },
            containers_statuses: world
                .containers_of(&pod.id)
                .map(|container| describe::container_status(container))
                .collect(),
            timestamp,
        }))
    }

    pub(crate) fn list_pods(
        &self,
        filter: Option<cri::PodSandboxFilter>,
    ) -> Result<Response<cri::ListPodSandboxResponse>, Status> {
        let world = self.engine.world();
        let pods = filter::pods(&world, filter)?;
        let items = pods
            .into_iter()
            .map(|pod| describe::pod_item(pod))
            .collect();
        whole(items, "pods", "StreamPodSandboxes")
    }

    pub(crate) fn stream_pods(
        &self,
        filter: Option<cri::PodSandboxFilter>,
    ) -> Result<Response<Pieces<cri::PodSandbox>>, Status> {
        let world = self.engine.world();
        let pods = filter::pods(&world, filter)?;
        Ok(pieces(
            pods.into_iter()
                .map(|pod| describe::pod_item(pod))
                .collect(),
        ))
    }
}

/// Nanoseconds since 1970.
pub(crate) fn unix_ns() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or_default()
}
