//! Calls about containers.

use std::collections::BTreeMap;

use api::cri;
use bytes::Bytes;
use tonic::{Request, Response, Status};

use crate::convert::{At, container_config, new_limits, required, required_id, seconds};
use crate::describe;
use crate::errors::engine_status;
use crate::face::Face;
use crate::filter;
use crate::list::{Pieces, pieces, whole};
use crate::request::{Deadline, Subjects};

impl Face {
    pub(crate) async fn make_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Result<Response<cri::CreateContainerResponse>, Status> {
        let subjects = Subjects::of(&request);
        let request = request.into_inner();
        let pod = required_id("pod_sandbox_id", &request.pod_sandbox_id)?;
        subjects.pod(pod);
        // The pod's own config is on record; the copy in the request says nothing new.
        let config = container_config(request.config)?;
        subjects.name(&format!(
            "{}#{}",
            config.metadata.name, config.metadata.attempt
        ));
        subjects.image(&config.image.image);
        let made = self.engine.create_container(pod, config).await;
        let id = made.map_err(|error| engine_status(&error))?;
        subjects.container(id.as_str());
        Ok(Response::new(cri::CreateContainerResponse {
            container_id: id.to_string(),
        }))
    }

    pub(crate) async fn start(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Result<Response<cri::StartContainerResponse>, Status> {
        let id = required_id("container_id", &request.get_ref().container_id)?;
        Subjects::of(&request).container(id);
        self.engine
            .start_container(id)
            .await
            .map_err(|error| engine_status(&error))?;
        Ok(Response::new(cri::StartContainerResponse {}))
    }

    pub(crate) async fn stop(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Result<Response<cri::StopContainerResponse>, Status> {
        let id = required_id("container_id", &request.get_ref().container_id)?;
        Subjects::of(&request).container(id);
        let grace = seconds("timeout", request.get_ref().timeout)?;
        self.engine
            .stop_container(id, grace)
            .await
            .map_err(|error| engine_status(&error))?;
        Ok(Response::new(cri::StopContainerResponse {}))
    }

    pub(crate) async fn remove(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Result<Response<cri::RemoveContainerResponse>, Status> {
        let id = required_id("container_id", &request.get_ref().container_id)?;
        Subjects::of(&request).container(id);
        self.engine
            .remove_container(id)
            .await
            .map_err(|error| engine_status(&error))?;
        Ok(Response::new(cri::RemoveContainerResponse {}))
    }

    pub(crate) fn container(
        &self,
        request: &Request<cri::ContainerStatusRequest>,
    ) -> Result<Response<cri::ContainerStatusResponse>, Status> {
        let id = required_id("container_id", &request.get_ref().container_id)?;
        Subjects::of(request).container(id);
        let container = self
            .engine
            .container(id)
            .map_err(|error| engine_status(&error))?;
        Ok(Response::new(cri::ContainerStatusResponse {
            status: Some(describe::container_status(&container)),
            info: if request.get_ref().verbose {
                describe::container_info(&container)
            } else {
                BTreeMap::new()
            },
        }))
    }

    pub(crate) fn list(
        &self,
        filter: Option<cri::ContainerFilter>,
    ) -> Result<Response<cri::ListContainersResponse>, Status> {
        let world = self.engine.world();
        let found = filter::containers(&world, filter)?;
        let items = found
            .into_iter()
            .map(|container| describe::container_item(container));
        whole(items.collect(), "containers", "StreamContainers")
    }

    pub(crate) fn stream(
        &self,
        filter: Option<cri::ContainerFilter>,
    ) -> Result<Response<Pieces<cri::Container>>, Status> {
        let world = self.engine.world();
        let found = filter::containers(&world, filter)?;
        let items = found
            .into_iter()
            .map(|container| describe::container_item(container));
        Ok(pieces(items.collect()))
    }

    pub(crate) async fn update(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Result<Response<cri::UpdateContainerResourcesResponse>, Status> {
        let subjects = Subjects::of(&request);
        let request = request.into_inner();
        let id = required_id("container_id", &request.container_id)?;
        subjects.container(id);
        let asked = new_limits("linux", required(At::root("linux"), request.linux)?)?;
        self.engine
            .update_container(id, asked)
            .await
            .map_err(|error| engine_status(&error))?;
        Ok(Response::new(cri::UpdateContainerResourcesResponse {}))
    }

    pub(crate) async fn reopen_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Result<Response<cri::ReopenContainerLogResponse>, Status> {
        let id = required_id("container_id", &request.get_ref().container_id)?;
        Subjects::of(&request).container(id);
        self.engine
            .reopen_log(id)
            .await
            .map_err(|error| engine_status(&error))?;
        Ok(Response::new(cri::ReopenContainerLogResponse {}))
    }

    pub(crate) async fn exec(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Result<Response<cri::ExecSyncResponse>, Status> {
        let subjects = Subjects::of(&request);
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let id = required_id("container_id", &request.container_id)?;
        subjects.container(id);
        let timeout = seconds("timeout", request.timeout)?;
        // The engine kills the command when the client stops to wait, whichever limit says when.
        let limit = deadline.within((!timeout.is_zero()).then_some(timeout));
        let output = self.engine.exec_sync(id, request.cmd, limit).await;
        let output = output.map_err(|error| engine_status(&error))?;
        let (stdout, stderr) = fitting(output.stdout, output.stderr);
        Ok(Response::new(cri::ExecSyncResponse {
            stdout: stdout.into(),
            stderr: stderr.into(),
            exit_code: output.exit_code,
        }))
    }
}

/// Bytes of output that a reply can carry: what a client accepts as one message, less what frames two streams and an
/// exit code in it.
const OUTPUT_MAX_BYTES: usize = api::MAX_MESSAGE_BYTES - 64;

/// As much of both streams as one reply can carry: whoever is short may be whole, two long ones get half each.
fn fitting(mut stdout: Bytes, mut stderr: Bytes) -> (Bytes, Bytes) {
    let left = OUTPUT_MAX_BYTES.saturating_sub(stdout.len());
    stderr.truncate(left.max(OUTPUT_MAX_BYTES / 2));
    stdout.truncate(OUTPUT_MAX_BYTES - stderr.len());
    (stdout, stderr)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use rstest::rstest;

    use super::*;

    const WHOLE: usize = 16 << 20;

    #[rstest]
    #[case::both_short(5, 7, 5, 7)]
    #[case::one_full(WHOLE, 0, OUTPUT_MAX_BYTES, 0)]
    #[case::the_other_full(3, WHOLE, 3, OUTPUT_MAX_BYTES - 3)]
    #[case::one_full_and_a_word(WHOLE, 4, OUTPUT_MAX_BYTES - 4, 4)]
    #[case::both_full(WHOLE, WHOLE, OUTPUT_MAX_BYTES / 2, OUTPUT_MAX_BYTES / 2)]
    fn outputs_are_cut_to_what_one_reply_carries(
        #[case] stdout: usize,
        #[case] stderr: usize,
        #[case] kept_stdout: usize,
        #[case] kept_stderr: usize,
    ) {
        let (stdout, stderr) = fitting(vec![1; stdout].into(), vec![2; stderr].into());
        assert_eq!((stdout.len(), stderr.len()), (kept_stdout, kept_stderr));
        let reply = cri::ExecSyncResponse {
            stdout: stdout.into(),
            stderr: stderr.into(),
            exit_code: i32::MIN,
        };
        assert!(reply.encoded_len() <= api::MAX_MESSAGE_BYTES);
    }
}
