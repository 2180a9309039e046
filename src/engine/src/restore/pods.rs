//! A recorded pod at the server's start: its monitor is found again and tells what became of its containers.

use std::{collections::HashSet, sync::Arc};

use runtime::RuntimeError;
use state::ContainerId;

use crate::{
    error::{EngineError, in_full},
    node::Node,
    pauses::Pauses,
    world::{Container, ContainerState, Pod},
};

impl Node {
    pub(super) async fn restore_pod(self: &Arc<Self>, pod: &Pod) {
        if pod.released {
            self.end_containers_unwatched(&pod.id, "its pod was stopped")
                .await;
            return;
        }
        if let Err(error) = self.take_over(pod).await {
            tracing::error!(
                pod = %pod.id,
                error = in_full(&error),
                "its monitor cannot be reached now; pod and containers are left as they are, and it is tried again"
            );
            self.take_over_later(pod.clone());
        }
    }

    /// Connect to the pod's monitor and learn from it; without one the pod has ended. An error says that neither could be found
    /// out, as when this server has no descriptor left or the monitor's backlog is full: its containers may well run.
    async fn take_over(self: &Arc<Self>, pod: &Pod) -> Result<(), RuntimeError> {
        // From before the question: the answer says nothing of what is made after it.
        let world = self.ledger.world();
        let containers: Vec<_> = world.containers_of(&pod.id).cloned().collect();
        let connected = runtime::Monitor::connect(&self.paths.monitor_socket(&pod.id)).await;
        let (monitor, reports) = match connected {
            Ok(connected) => connected,
            Err(error @ RuntimeError::Disconnected { .. }) => {
                tracing::warn!(pod = %pod.id, error = in_full(&error), "its monitor is gone");
                let why = "its monitor was gone when the server started";
                self.end_pod_unwatched(&pod.id, why).await;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        // Also if it does not tell its state now: what ends from here on is reported, and can be asked for.
        self.adopt_monitor(&pod.id, monitor.clone(), reports);
        match monitor.state().await {
            Ok(known) => {
                self.take_stock(pod, &containers, known).await;
            }
            Err(error) => {
                tracing::error!(pod = %pod.id, error = in_full(&error), "its monitor does not tell its state; it is asked again");
                self.ask_again(pod.clone());
            }
        }
        Ok(())
    }

    /// Try beside all else, with growing pauses, until a try says that there is nothing left to do or the server ends.
    fn until_done<F>(self: &Arc<Self>, attempt: impl Fn(Arc<Self>) -> F + Send + 'static)
    where
        F: Future<Output = bool> + Send,
    {
        let node = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut pauses = Pauses::default();
            loop {
                pauses.wait().await;
                let Some(node) = node.upgrade() else { return };
                if attempt(node).await {
                    return;
                }
            }
        });
    }

    /// Try until it is known whether the monitor lives, or the pod was stopped meanwhile.
    fn take_over_later(self: &Arc<Self>, pod: Pod) {
        self.until_done(move |node| {
            let pod = pod.clone();
            async move {
            let world = node.ledger.world();
            if world.pods.get(&pod.id).is_none_or(|pod| pod.released) {
                return true;
            }
            let taken = node.take_over(&pod).await;
            if let Err(error) = &taken {
                tracing::warn!(pod = %pod.id, error = in_full(error), "its monitor still cannot be reached");
            }
            taken.is_ok()
            }
        });
    }

    /// A monitor that has not told what became of its containers is asked until it does, or is gone.
    fn ask_again(self: &Arc<Self>, pod: Pod) {
        let node = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut pauses = Pauses::default();
            loop {
                pauses.wait().await;
                let Some(strong) = node.upgrade() else { return };
                // Each time anew: a connection that broke was replaced by whoever follows the pod.
                let Some(live) = strong.live.pod(&pod.id) else {
                    return;
                };
                // From before the question: the answer says nothing of what is made after it.
                let world = strong.ledger.world();
                drop(strong);
                let known = live.monitor.state().await;
                let Some(node) = node.upgrade() else { return };
                if node.live.pod(&pod.id).is_none() {
                    return;
                }
                if let Ok(known) = known {
                    let containers: Vec<_> = world.containers_of(&pod.id).cloned().collect();
                    return node.take_stock(&pod, &containers, known).await;
                }
            }
        });
    }

    /// Bring a pod's containers in line with what its monitor knows of them.
    async fn take_stock(
        self: &Arc<Self>,
        pod: &Pod,
        containers: &[Arc<Container>],
        known: Vec<runtime::ContainerState>,
    ) {
        let mut seen = HashSet::new();
        for container in known {
            seen.insert(container.id.clone());
            if let Some(exit) = container.exit {
                self.note_exit(&pod.id, &container.id, exit.into()).await;
            }
        }
        if pod.has_pause && !seen.contains(pod.id.as_str()) {
            self.note_exit(
                &pod.id,
                pod.id.as_str(),
                crate::world::Ending {
                    code: 255,
                    oom_killed: false,
                    oom_limit: runtime::OomLimit::Unknown,
                    at_unix_ns: 0,
                },
            )
            .await;
        }
        for container in containers {
            if container.state != ContainerState::Exited && !seen.contains(container.id.as_str()) {
                self.end_unwatched(
                    &container.id,
                    &container.cgroup,
                    "its monitor does not know it",
                )
                .await;
            }
            if let Err(error) = self.settle_start(&container.id).await {
                tracing::error!(
                    container = %container.id,
                    error = in_full(&error),
                    "whether it was started is not known; its runtime is asked again"
                );
                self.settle_start_later(container.id.clone());
            }
        }
    }

    /// A server that died between the runtime's `start` and the record of it left a running container as created.
    async fn settle_start(&self, id: &ContainerId) -> Result<(), EngineError> {
        let Ok(container) = self.find_container(id.as_str()) else {
            return Ok(());
        };
        if container.state != ContainerState::Created {
            return Ok(());
        }
        let Ok(pod) = self.find_pod(container.pod.as_str()) else {
            return Ok(());
        };
        let handler = self.handler_by_name(&pod.runtime)?;
        let state = handler
            .runtime
            .state(container.id.as_str(), self.config.timeouts.runtime_command)
            .await?;
        if state.is_some_and(|state| state.status == "running") {
            let now = crate::ledger::unix_now_ns();
            self.ledger
                .change_container(&container.id, |container| {
                    (container.started_at_unix_ns == 0)
                        .then(|| crate::world::started(container, now))
                })
                .await?;
        }
        Ok(())
    }

    /// Ask the runtime until it answers, or the container is not a created one any more.
    fn settle_start_later(self: &Arc<Self>, id: ContainerId) {
        self.until_done(move |node| {
            let id = id.clone();
            async move {
            if !node.ledger.world().containers.contains_key(&id) {
                return true;
            }
            let live = node.live.container(&id);
            // A start that is asked for now waits until it is known whether there was one.
            let _turn = live.turn.lock().await;
            let settled = node.settle_start(&id).await;
            if let Err(error) = &settled {
                tracing::warn!(container = %id, error = in_full(error), "its runtime still does not tell whether it was started");
            }
            settled.is_ok()
            }
        });
    }
}

#[cfg(test)]
mod tests;
