//! RemoveContainer: stop it if need be, take it apart, forget it.

use std::{sync::Arc, time::Duration};

use state::ContainerId;

use crate::{
    Engine, SharedError, error::EngineError, jobs::Stage, node::Node, teardown::ContainerRemains,
    world::Container,
};

impl Engine {
    /// Remove a container, by force if it runs. An unknown one is removed already.
    ///
    /// # Errors
    /// Whatever kept it on the node; what could be taken apart was.
    pub async fn remove_container(&self, id: &str) -> Result<(), SharedError> {
        match self.node.find_container(id) {
            Ok(container) => self.node.remove(&container).await,
            Err(EngineError::ContainerNotFound(_)) => Ok(()),
            Err(error) => Err(Arc::new(error)),
        }
    }
}

impl Node {
    /// Join or start the removal of a container.
    pub(crate) async fn remove(self: &Arc<Self>, container: &Container) -> Result<(), SharedError> {
        self.stop(container, Duration::ZERO).await?;
        let (node, id) = (Arc::clone(self), container.id.clone());
        self.jobs
            .remove_container
            .run(id.to_string(), 0, |stage| async move {
                node.remove_stopped(id, stage).await
            })
            .await
    }

    async fn remove_stopped(&self, id: ContainerId, stage: Stage) -> Result<(), EngineError> {
        stage.enter("waiting for its turn");
        let live = self.live.container(&id);
        let _turn = live.turn.lock().await;
        let Ok(container) = self.find_container(id.as_str()) else {
            // Somebody else removed it, perhaps before its companion was made anew here.
            self.live.remove_container(&id);
            return Ok(());
        };
        let remains = ContainerRemains {
            id: id.clone(),
            pod: container.pod.clone(),
            runtime: self
                .find_pod(container.pod.as_str())
                .map(|pod| pod.runtime.clone())
                .unwrap_or_default(),
            cgroup: container.cgroup.clone(),
            layers: Vec::new(),
        };
        stage.enter("taking it apart");
        self.remove_container_remains(&remains).await?;
        self.ledger.remove_container(&id).await?;
        self.live.remove_container(&id);
        Ok(())
    }
}
