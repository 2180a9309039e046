//! A CRI client in a few words: each call with a deadline of its own, ids and statuses as values.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, Result};
use api::cri::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint, Uri},
};

use crate::settle::patient;

/// A call that takes longer than this hangs. The server's own limits are shorter.
const HANGS: Duration = Duration::from_secs(100);

/// What the server answers.
pub type Answer<T> = std::result::Result<T, Status>;

/// Both services of one server.
#[derive(Clone, Debug)]
pub struct Client {
    /// Pods and containers.
    pub runtime: RuntimeServiceClient<Channel>,
    /// Images.
    pub images: ImageServiceClient<Channel>,
    /// The connection, for other services.
    pub channel: Channel,
}

/// A request with the deadline of all calls.
pub fn request<T>(message: T) -> Request<T> {
    request_within(message, patient(HANGS))
}

/// A request that the client gives up after `deadline`, telling the server so.
pub fn request_within<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

impl Client {
    /// Connects to a socket.
    pub async fn connect(socket: impl AsRef<Path>) -> Result<Self> {
        let socket = socket.as_ref().to_owned();
        let path = socket.clone();
        // The name is what kubelet and crictl send too; what is connected is the socket.
        let channel = Endpoint::try_from("http://localhost")?
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }))
            .await
            .with_context(|| format!("connecting to {}", socket.display()))?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(api::MAX_MESSAGE_BYTES)
                .max_encoding_message_size(api::MAX_MESSAGE_BYTES),
            images: ImageServiceClient::new(channel.clone())
                .max_decoding_message_size(api::MAX_MESSAGE_BYTES),
            channel,
        })
    }

    /// `RunPodSandbox`: the pod's id.
    pub async fn run_pod(&self, config: &cri::PodSandboxConfig, handler: &str) -> Answer<String> {
        let message = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let answer = self
            .runtime
            .clone()
            .run_pod_sandbox(request(message))
            .await?;
        Ok(answer.into_inner().pod_sandbox_id)
    }

    /// `StopPodSandbox`.
    pub async fn stop_pod(&self, id: &str) -> Answer<()> {
        let message = cri::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.runtime
            .clone()
            .stop_pod_sandbox(request(message))
            .await?;
        Ok(())
    }

    /// `RemovePodSandbox`.
    pub async fn remove_pod(&self, id: &str) -> Answer<()> {
        let message = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.runtime
            .clone()
            .remove_pod_sandbox(request(message))
            .await?;
        Ok(())
    }

    /// `PodSandboxStatus`.
    pub async fn pod_status(&self, id: &str) -> Answer<cri::PodSandboxStatus> {
        let message = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let answer = self
            .runtime
            .clone()
            .pod_sandbox_status(request(message))
            .await?;
        answer
            .into_inner()
            .status
            .ok_or_else(|| Status::internal("no status in the answer"))
    }

    /// PID of a container's first process, from a verbose `ContainerStatus`.
    pub async fn pid(&self, id: &str) -> Result<u32> {
        let message = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let answer = self
            .runtime
            .clone()
            .container_status(request(message))
            .await?;
        let info = answer.into_inner().info;
        let info: serde_json::Value =
            serde_json::from_str(info.get("info").context("no info in the answer")?)?;
        let pid = info["pid"].as_u64().context("no pid in the info")?;
        Ok(pid.try_into()?)
    }

    /// `ListPodSandbox`.
    pub async fn pods(
        &self,
        filter: Option<cri::PodSandboxFilter>,
    ) -> Answer<Vec<cri::PodSandbox>> {
        let message = cri::ListPodSandboxRequest { filter };
        let answer = self
            .runtime
            .clone()
            .list_pod_sandbox(request(message))
            .await?;
        decoded(answer.into_inner())
    }

    /// `CreateContainer`: the container's id.
    pub async fn create(
        &self,
        pod: &str,
        config: &cri::ContainerConfig,
        pod_config: &cri::PodSandboxConfig,
    ) -> Answer<String> {
        let message = cri::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        let answer = self
            .runtime
            .clone()
            .create_container(request(message))
            .await?;
        Ok(answer.into_inner().container_id)
    }

    /// `StartContainer`.
    pub async fn start(&self, id: &str) -> Answer<()> {
        let message = cri::StartContainerRequest {
            container_id: id.to_owned(),
        };
        self.runtime
            .clone()
            .start_container(request(message))
            .await?;
        Ok(())
    }

    /// `StopContainer`.
    pub async fn stop(&self, id: &str, timeout_s: i64) -> Answer<()> {
        let message = cri::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: timeout_s,
        };
        self.runtime
            .clone()
            .stop_container(request(message))
            .await?;
        Ok(())
    }

    /// `RemoveContainer`.
    pub async fn remove(&self, id: &str) -> Answer<()> {
        let message = cri::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        self.runtime
            .clone()
            .remove_container(request(message))
            .await?;
        Ok(())
    }

    /// `ContainerStatus`.
    pub async fn status(&self, id: &str) -> Answer<cri::ContainerStatus> {
        let message = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let answer = self
            .runtime
            .clone()
            .container_status(request(message))
            .await?;
        answer
            .into_inner()
            .status
            .ok_or_else(|| Status::internal("no status in the answer"))
    }

    /// `ListContainers`.
    pub async fn containers(
        &self,
        filter: Option<cri::ContainerFilter>,
    ) -> Answer<Vec<cri::Container>> {
        let message = cri::ListContainersRequest { filter };
        let answer = self
            .runtime
            .clone()
            .list_containers(request(message))
            .await?;
        decoded(answer.into_inner())
    }

    /// `ExecSync`; a timeout of 0 is none.
    pub async fn exec(
        &self,
        id: &str,
        command: &[&str],
        timeout_s: i64,
    ) -> Answer<cri::ExecSyncResponse> {
        let message = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: words(command),
            timeout: timeout_s,
        };
        let answer = self.runtime.clone().exec_sync(request(message)).await?;
        Ok(answer.into_inner())
    }

    /// What a shell script says on standard output in a container; anything but success is an error.
    pub async fn sh(&self, id: &str, script: &str) -> Result<String> {
        let answer = self
            .exec(id, &["sh", "-c", script], 60)
            .await
            .with_context(|| format!("executing {script:?}"))?;
        anyhow::ensure!(
            answer.exit_code == 0,
            "{script:?} ended with {}: {}",
            answer.exit_code,
            String::from_utf8_lossy(&answer.stderr)
        );
        Ok(String::from_utf8(answer.stdout)?)
    }

    /// `ReopenContainerLog`.
    pub async fn reopen_log(&self, id: &str) -> Answer<()> {
        let message = cri::ReopenContainerLogRequest {
            container_id: id.to_owned(),
        };
        self.runtime
            .clone()
            .reopen_container_log(request(message))
            .await?;
        Ok(())
    }

    /// `PullImage` without credentials: the image's id.
    pub async fn pull(&self, image: &str) -> Answer<String> {
        self.pull_as(image, None).await
    }

    /// `PullImage`: the image's id.
    pub async fn pull_as(&self, image: &str, auth: Option<cri::AuthConfig>) -> Answer<String> {
        self.pull_for(image, auth, None).await
    }

    /// `PullImage` for a pod of a namespace: the image's id.
    pub async fn pull_for(
        &self,
        image: &str,
        auth: Option<cri::AuthConfig>,
        namespace: Option<&str>,
    ) -> Answer<String> {
        let sandbox_config = namespace.map(|namespace| cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                namespace: namespace.to_owned(),
                ..cri::PodSandboxMetadata::default()
            }),
            ..cri::PodSandboxConfig::default()
        });
        let message = cri::PullImageRequest {
            image: Some(image_spec(image)),
            auth,
            sandbox_config,
        };
        let answer = self.images.clone().pull_image(request(message)).await?;
        Ok(answer.into_inner().image_ref)
    }

    /// `ImageStatus`: none when the image is not there.
    pub async fn image(&self, image: &str) -> Answer<Option<cri::Image>> {
        let message = cri::ImageStatusRequest {
            image: Some(image_spec(image)),
            verbose: false,
        };
        let answer = self.images.clone().image_status(request(message)).await?;
        Ok(answer.into_inner().image)
    }

    /// `ListImages`.
    pub async fn all_images(&self) -> Answer<Vec<cri::Image>> {
        let message = cri::ListImagesRequest { filter: None };
        let answer = self.images.clone().list_images(request(message)).await?;
        decoded(answer.into_inner())
    }

    /// `RemoveImage`.
    pub async fn remove_image(&self, image: &str) -> Answer<()> {
        let message = cri::RemoveImageRequest {
            image: Some(image_spec(image)),
        };
        self.images.clone().remove_image(request(message)).await?;
        Ok(())
    }

    /// `ImageFsInfo`.
    pub async fn image_fs(&self) -> Answer<cri::ImageFsInfoResponse> {
        let answer = self
            .images
            .clone()
            .image_fs_info(request(cri::ImageFsInfoRequest {}))
            .await?;
        Ok(answer.into_inner())
    }

    /// `Status`.
    pub async fn node_status(&self) -> Answer<cri::StatusResponse> {
        let message = cri::StatusRequest { verbose: true };
        let answer = self.runtime.clone().status(request(message)).await?;
        Ok(answer.into_inner())
    }
}

/// What a refusal says; an error when the answer is none, or one with another code.
pub fn refused<T: std::fmt::Debug>(answer: Answer<T>, code: tonic::Code) -> Result<String> {
    match answer {
        Ok(answer) => anyhow::bail!("{answer:?} instead of a refusal with {code:?}"),
        Err(status) if status.code() == code => Ok(status.message().to_owned()),
        Err(status) => anyhow::bail!(
            "refused with {:?} instead of {code:?}: {}",
            status.code(),
            status.message()
        ),
    }
}

fn decoded<T: prost::Message + Default>(items: api::list::Items<T>) -> Answer<Vec<T>> {
    items
        .into_vec()
        .map_err(|error| Status::internal(error.to_string()))
}

/// An image by name, as the kubelet sends it.
pub fn image_spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.to_owned(),
        user_specified_image: image.to_owned(),
        annotations: BTreeMap::new(),
        runtime_handler: String::new(),
        image_ref: String::new(),
    }
}

/// A command or a list of arguments.
pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
