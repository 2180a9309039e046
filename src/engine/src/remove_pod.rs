//! RemovePodSandbox: stop it if need be, remove its containers and files, forget it.

use std::sync::Arc;

use state::PodId;

use crate::{Engine, SharedError, error::EngineError, jobs::Stage, node::Node};

impl Engine {
    /// Remove a pod with its containers, by force. An unknown one is removed already.
    ///
    /// # Errors
    /// Whatever stays on the node.
    pub async fn remove_pod(&self, id: &str) -> Result<(), SharedError> {
        let node = &self.node;
        let pod = match node.find_pod(id) {
            Ok(pod) => pod,
            Err(EngineError::PodNotFound(_)) => return Ok(()),
            Err(error) => return Err(Arc::new(error)),
        };
        node.stop_pod(&pod).await?;
        let (remover, id) = (Arc::clone(node), pod.id.clone());
        node.jobs
            .remove_pod
            .run(id.to_string(), 0, |stage| async move {
                remover.remove_stopped_pod(id, stage).await
            })
            .await
    }
}

impl Node {
    async fn remove_stopped_pod(
        self: &Arc<Self>,
        id: PodId,
        stage: Stage,
    ) -> Result<(), EngineError> {
        let Ok(pod) = self.find_pod(id.as_str()) else {
            return Ok(());
        };
        stage.enter("removing its containers");
        self.for_all_containers(&id, |node, container| async move {
            node.remove(&container).await
        })
        .await?;
        stage.enter("removing its files");
        self.remove_pod_files(&self.remains(&pod)).await?;
        self.ledger.remove_pod(&id).await
    }
}
