//! StartContainer: let the container's first process run.

use crate::{
    Engine, SharedError,
    create_container::state_name,
    error::{EngineError, in_full},
    jobs::Stage,
    ledger::unix_now_ns,
    node::Node,
    stop_container::SIGKILL,
    world::{ContainerState, start_failed, started},
};
use std::sync::{Arc, atomic::Ordering};

use state::ContainerId;

impl Engine {
    /// Start a created container.
    ///
    /// # Errors
    /// The runtime's words; the container is then `Exited` with reason `StartError`, as kubelet expects.
    pub async fn start_container(&self, id: &str) -> Result<(), SharedError> {
        let node = &self.node;
        let id = node.find_container(id)?.id.clone();
        let starter = Arc::clone(node);
        node.jobs
            .start_container
            .run(id.to_string(), 0, |stage| async move {
                starter.start_container(id, stage).await
            })
            .await
    }
}

impl Node {
    async fn start_container(&self, id: ContainerId, stage: Stage) -> Result<(), EngineError> {
        stage.enter("waiting for its turn");
        let live = self.live.container(&id);
        let _turn = live.turn.lock().await;
        let container = self
            .find_container(id.as_str())
            .inspect_err(|_| self.live.remove_container(&id))?;
        if container.state != ContainerState::Created {
            return Err(EngineError::WrongState {
                id,
                state: state_name(container.state),
                wanted: "only a created container can be started",
            });
        }
        let handler = self.handler_by_name(&container_runtime(self, &container)?)?;
        stage.enter("waiting for the runtime to start the container");
        live.starting.store(true, Ordering::SeqCst);
        let begun = handler
            .runtime
            .start(id.as_str(), self.config.timeouts.runtime_command)
            .await;
        live.starting.store(false, Ordering::SeqCst);
        match begun {
            Ok(()) => {
                let now = unix_now_ns();
                self.ledger
                    .change_container(&id, |container| Some(started(container, now)))
                    .await?;
                Ok(())
            }
            Err(error) => {
                let error = EngineError::from(error);
                let (why, now) = (in_full(&error), unix_now_ns());
                self.ledger
                    .change_container(&id, |container| {
                        (container.state == ContainerState::Created)
                            .then(|| start_failed(container, &why, now))
                    })
                    .await?;
                // Its first process may still be waiting for the start that failed.
                self.signal(&container, SIGKILL).await;
                Err(error)
            }
        }
    }
}

/// The runtime of a container is its pod's.
pub(crate) fn container_runtime(
    node: &Node,
    container: &crate::world::Container,
) -> Result<String, EngineError> {
    Ok(node.find_pod(container.pod.as_str())?.runtime.clone())
}
