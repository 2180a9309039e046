//! ReopenContainerLog: kubelet has moved the log file away and wants a new one.

use crate::{
    Engine, SharedError, create_container::state_name, error::EngineError, node::Node,
    world::ContainerState,
};

impl Engine {
    /// Open a running container's log file anew.
    ///
    /// # Errors
    /// No file was made then: kubelet renames the old one back.
    pub async fn reopen_log(&self, id: &str) -> Result<(), SharedError> {
        Ok(self.node.reopen_log(id).await?)
    }
}

impl Node {
    async fn reopen_log(&self, id: &str) -> Result<(), EngineError> {
        let container = self.find_container(id)?;
        if container.state != ContainerState::Running {
            return Err(EngineError::WrongState {
                id: container.id.clone(),
                state: state_name(container.state),
                wanted: "only a running container's log can be reopened",
            });
        }
        let live = self
            .live
            .pod(&container.pod)
            .ok_or_else(|| EngineError::PodNotReady(container.pod.clone()))?;
        Ok(live.monitor.reopen_log(container.id.as_str()).await?)
    }
}
