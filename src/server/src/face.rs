//! What every call has at hand, and the table of RuntimeService's calls.
//!
//! Each call is a few lines in the file of its subject: [`crate::pods`], [`crate::containers`], [`crate::sessions`],
//! [`crate::stats`], [`crate::metrics`], [`crate::events`], [`crate::node`]; images have a service of their own in
//! [`crate::images`].

use std::sync::Arc;

use api::cri;
use api::cri::runtime_service_server::RuntimeService;
use engine::Engine;
use image::Images;
use streaming::Tickets;
use tonic::{Request, Response, Status};

use crate::ServerOptions;
use crate::events::Events;
use crate::list::Pieces;

/// The server's state: cheap to clone, one per process.
#[derive(Clone, Debug)]
pub(crate) struct Face {
    pub(crate) engine: Engine,
    pub(crate) images: Images,
    pub(crate) tickets: Tickets,
    pub(crate) options: Arc<ServerOptions>,
}

type Reply<T> = Result<Response<T>, Status>;

/// A call of CRI that this version does not have. Clients with a choice take another way.
fn absent<T>(what: &str) -> Reply<T> {
    Err(Status::unimplemented(format!(
        "{what} is not supported by this version of pintle"
    )))
}

#[tonic::async_trait]
impl RuntimeService for Face {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Reply<cri::VersionResponse> {
        Ok(Response::new(self.version_reply()))
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Reply<cri::StatusResponse> {
        Ok(Response::new(self.status_reply(request.get_ref().verbose)))
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Reply<cri::RuntimeConfigResponse> {
        Ok(Response::new(self.runtime_config_reply()))
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Reply<cri::UpdateRuntimeConfigResponse> {
        Ok(Response::new(Self::note_runtime_config(
            request.into_inner(),
        )))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Reply<cri::RunPodSandboxResponse> {
        self.run_pod(request).await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Reply<cri::StopPodSandboxResponse> {
        self.stop_pod(request).await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Reply<cri::RemovePodSandboxResponse> {
        self.remove_pod(request).await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Reply<cri::PodSandboxStatusResponse> {
        self.pod_status(&request)
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Reply<cri::ListPodSandboxResponse> {
        self.list_pods(request.into_inner().filter)
    }

    type StreamPodSandboxesStream = Pieces<cri::PodSandbox>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Reply<Self::StreamPodSandboxesStream> {
        self.stream_pods(request.into_inner().filter)
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Reply<cri::CreateContainerResponse> {
        self.make_container(request).await
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Reply<cri::StartContainerResponse> {
        self.start(request).await
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Reply<cri::StopContainerResponse> {
        self.stop(request).await
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Reply<cri::RemoveContainerResponse> {
        self.remove(request).await
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Reply<cri::ListContainersResponse> {
        self.list(request.into_inner().filter)
    }

    type StreamContainersStream = Pieces<cri::Container>;

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Reply<Self::StreamContainersStream> {
        self.stream(request.into_inner().filter)
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Reply<cri::ContainerStatusResponse> {
        self.container(&request)
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Reply<cri::ReopenContainerLogResponse> {
        self.reopen_log(request).await
    }

    async fn exec_sync(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Reply<cri::ExecSyncResponse> {
        self.exec(request).await
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Reply<cri::ExecResponse> {
        self.exec_url(request)
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Reply<cri::AttachResponse> {
        self.attach_url(&request)
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Reply<cri::PortForwardResponse> {
        self.port_forward_url(&request)
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Reply<cri::UpdateContainerResourcesResponse> {
        self.update(request).await
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Reply<cri::UpdatePodSandboxResourcesResponse> {
        self.update_pod(request).await
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Reply<cri::ContainerStatsResponse> {
        self.stats_of_container(request).await
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Reply<cri::ListContainerStatsResponse> {
        self.list_stats(request.into_inner().filter).await
    }

    type StreamContainerStatsStream = Pieces<cri::ContainerStats>;

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Reply<Self::StreamContainerStatsStream> {
        self.stream_stats(request.into_inner().filter).await
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Reply<cri::PodSandboxStatsResponse> {
        self.stats_of_pod(request).await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Reply<cri::ListPodSandboxStatsResponse> {
        self.list_pod_stats(request.into_inner().filter).await
    }

    type StreamPodSandboxStatsStream = Pieces<cri::PodSandboxStats>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Reply<Self::StreamPodSandboxStatsStream> {
        self.stream_pod_stats(request.into_inner().filter).await
    }

    async fn checkpoint_container(
        &self,
        _: Request<cri::CheckpointContainerRequest>,
    ) -> Reply<cri::CheckpointContainerResponse> {
        absent("a checkpoint of a container")
    }

    async fn checkpoint_pod(
        &self,
        _: Request<cri::CheckpointPodRequest>,
    ) -> Reply<cri::CheckpointPodResponse> {
        absent("a checkpoint of a pod")
    }

    async fn restore_pod(
        &self,
        _: Request<cri::RestorePodRequest>,
    ) -> Reply<cri::RestorePodResponse> {
        absent("the restoring of a pod")
    }

    type GetContainerEventsStream = Events;

    async fn get_container_events(
        &self,
        request: Request<cri::GetEventsRequest>,
    ) -> Reply<Self::GetContainerEventsStream> {
        Ok(self.events(&request))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Reply<cri::ListMetricDescriptorsResponse> {
        Ok(Response::new(Self::metric_descriptors()))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Reply<cri::ListPodSandboxMetricsResponse> {
        self.list_metrics().await
    }

    type StreamPodSandboxMetricsStream = Pieces<cri::PodSandboxMetrics>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Reply<Self::StreamPodSandboxMetricsStream> {
        self.stream_metrics().await
    }
}
