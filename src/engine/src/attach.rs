//! Attach: a client at a container's own streams, from now on. Its coming and going is nothing to the container, except
//! that a stdin that is there for one client only (`stdin_once`) closes behind it.

use std::sync::Arc;

use runtime::{AttachRequest, Attached};
use state::ContainerId;

use crate::{
    Engine,
    create_container::state_name,
    error::EngineError,
    node::Node,
    streams::{ProcessStreams, StreamEnd, Wanted},
    world::{Container, ContainerState},
};

impl Engine {
    /// The full id of a container that can be attached to at the moment.
    ///
    /// # Errors
    /// There is no such container, or it has ended.
    pub fn can_attach(&self, id: &str) -> Result<ContainerId, EngineError> {
        let container = self.node.living_container(id)?;
        Ok(container.id.clone())
    }
}

impl Node {
    fn living_container(&self, id: &str) -> Result<Arc<Container>, EngineError> {
        let container = self.find_container(id)?;
        match container.state {
            ContainerState::Created | ContainerState::Running => Ok(container),
            ContainerState::Exited | ContainerState::Unknown => Err(EngineError::WrongState {
                id: container.id.clone(),
                state: state_name(container.state),
                wanted: "only a created or running container can be attached to",
            }),
        }
    }

    /// Listen to a container. One that is created, but not started, can be listened to already: so nothing is missed.
    pub(crate) async fn attach(
        &self,
        id: &str,
        wanted: Wanted,
    ) -> Result<ProcessStreams, EngineError> {
        let container = self.living_container(id)?;
        let attached = Attached::connect(AttachRequest {
            id: container.id.to_string(),
            socket: self.paths.attach_socket(&container.id),
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
            // A stdin that is not for one client only is open for the next one when this one's has ended. A terminal's user
            // types its end.
            close_stdin: container.config.stdin_once && !container.config.tty,
        })
        .await?;
        Ok(ProcessStreams {
            stdin: attached.stdin.map(|stdin| Box::pin(stdin) as _),
            stdout: attached.stdout.map(|stdout| Box::pin(stdout) as _),
            stderr: attached.stderr.map(|stderr| Box::pin(stderr) as _),
            resize: attached.resize.filter(|_| wanted.tty),
            end: Box::pin(async move {
                attached.end.await.map_err(EngineError::from)?;
                Ok(StreamEnd::Detached)
            }),
        })
    }
}
