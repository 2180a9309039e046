//! StopPodSandbox: its containers end together, then its network, pause container and namespaces go.

use std::{sync::Arc, time::Duration};

use spec::model::NamespaceMode;
use state::PodId;

use crate::{
    Engine, SharedError,
    error::EngineError,
    jobs::Stage,
    node::Node,
    teardown::PodRemains,
    world::{Pod, PodState},
};

impl Engine {
    /// Stop a pod and everything in it. An unknown one is stopped already.
    ///
    /// # Errors
    /// Whatever lives on.
    pub async fn stop_pod(&self, id: &str) -> Result<(), SharedError> {
        match self.node.find_pod(id) {
            Ok(pod) => self.node.stop_pod(&pod).await,
            Err(EngineError::PodNotFound(_)) => Ok(()),
            Err(error) => Err(Arc::new(error)),
        }
    }
}

impl Node {
    /// Join or start the stop of a pod.
    pub(crate) async fn stop_pod(self: &Arc<Self>, pod: &Pod) -> Result<(), SharedError> {
        if pod.released {
            return Ok(());
        }
        let (node, id) = (Arc::clone(self), pod.id.clone());
        self.jobs
            .stop_pod
            .run(id.to_string(), 0, |stage| async move {
                node.stop_pod_now(id, stage).await
            })
            .await
    }

    async fn stop_pod_now(self: &Arc<Self>, id: PodId, stage: Stage) -> Result<(), EngineError> {
        // First of all: after a crash halfway nobody may take the pod for a ready one.
        let not_ready = |pod: &Pod| {
            (pod.state == PodState::Ready).then(|| Pod {
                state: PodState::NotReady,
                ..pod.clone()
            })
        };
        self.ledger.change_pod(&id, not_ready).await?;
        let Ok(pod) = self.find_pod(id.as_str()) else {
            return Ok(());
        };
        stage.enter("waiting for containers that are being made");
        let live = self.live.pod(&id);
        let _no_more_creations = match &live {
            Some(live) => Some(live.creations.write().await),
            None => None,
        };

        stage.enter("stopping its containers");
        self.for_all_containers(&id, |node, container| async move {
            node.stop(&container, Duration::ZERO).await
        })
        .await?;

        stage.enter("taking its network and namespaces apart");
        self.release_pod(&self.remains(&pod)).await?;
        self.ledger
            .change_pod(&id, |pod| {
                Some(Pod {
                    released: true,
                    ..pod.clone()
                })
            })
            .await?;
        Ok(())
    }

    /// Do one thing to all containers of a pod at once. Every one is tried; the first failure is returned.
    pub(crate) async fn for_all_containers<F, Fut>(
        self: &Arc<Self>,
        id: &PodId,
        work: F,
    ) -> Result<(), EngineError>
    where
        F: Fn(Arc<Self>, Arc<crate::Container>) -> Fut,
        Fut: Future<Output = Result<(), SharedError>> + Send + 'static,
    {
        let world = self.ledger.world();
        let mut running = tokio::task::JoinSet::new();
        for container in world.containers_of(id) {
            running.spawn(work(Arc::clone(self), Arc::clone(container)));
        }
        let mut first = None;
        while let Some(outcome) = running.join_next().await {
            let outcome = outcome.unwrap_or_else(|_| {
                Err(Arc::new(EngineError::Interrupted {
                    operation: "a container's stop",
                }))
            });
            if let Err(error) = outcome {
                first.get_or_insert(error);
            }
        }
        match first {
            None => Ok(()),
            Some(error) => Err(EngineError::InContainer(error)),
        }
    }

    /// What a complete pod has on the node.
    pub(crate) fn remains(&self, pod: &Pod) -> PodRemains {
        let on_host_network = pod.config.security.namespaces.network == NamespaceMode::Node;
        PodRemains {
            id: pod.id.clone(),
            runtime: pod.runtime.clone(),
            network: (!on_host_network).then(|| self.attachment(&pod.id, &pod.config)),
            has_pause: pod.has_pause,
            own_cgroups: pod.own_cgroups.clone(),
            monitor_cgroup: pod.monitor_cgroup.clone(),
        }
    }
}
