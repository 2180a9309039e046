//! A recorded pod at the server's start: its monitor is found again and tells what became of its containers.

use std::{collections::HashSet, sync::Arc, time::Duration};

use crate::{
    error::{EngineError, in_full},
    node::Node,
    world::{Container, ContainerState, Pod, PodState},
};

/// Pauses between questions to a monitor that does not answer.
const FIRST_QUESTION_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_QUESTION_PAUSE: Duration = Duration::from_mins(1);

impl Node {
    pub(super) async fn restore_pod(self: &Arc<Self>, pod: &Pod) -> Result<(), EngineError> {
        let containers: Vec<_> = self
            .ledger
            .world()
            .containers_of(&pod.id)
            .cloned()
            .collect();
        if pod.released {
            for container in containers
                .iter()
                .filter(|container| container.state != ContainerState::Exited)
            {
                self.end_unwatched(&container.id, &container.cgroup, "its pod was stopped")
                    .await;
            }
            return Ok(());
        }
        let connected = runtime::Monitor::connect(&self.paths.monitor_socket(&pod.id)).await;
        let (monitor, reports) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                tracing::warn!(pod = %pod.id, error = in_full(&error), "its monitor is gone");
                let not_ready = |pod: &Pod| {
                    (pod.state == PodState::Ready).then(|| Pod {
                        state: PodState::NotReady,
                        ..pod.clone()
                    })
                };
                self.ledger.change_pod(&pod.id, not_ready).await?;
                for container in containers
                    .iter()
                    .filter(|container| container.state != ContainerState::Exited)
                {
                    self.end_unwatched(
                        &container.id,
                        &container.cgroup,
                        "its monitor was gone when the server started",
                    )
                    .await;
                }
                return Ok(());
            }
        };
        // Also if it does not tell its state now: what ends from here on is reported, and can be asked for.
        self.adopt_monitor(&pod.id, monitor.clone(), reports);
        match monitor.state().await {
            Ok(known) => self.take_stock(pod, &containers, known).await,
            Err(error) => {
                tracing::error!(pod = %pod.id, error = in_full(&error), "its monitor does not tell its state; it is asked again");
                self.ask_again(pod.clone(), monitor);
                Ok(())
            }
        }
    }

    /// A monitor that has not told what became of its containers is asked until it does, or is gone.
    fn ask_again(self: &Arc<Self>, pod: Pod, monitor: runtime::Monitor) {
        let node = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut pause = FIRST_QUESTION_PAUSE;
            loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_QUESTION_PAUSE);
                let Some(strong) = node.upgrade() else { return };
                // From before the question: the answer says nothing of what is made after it.
                let world = strong.ledger.world();
                drop(strong);
                let known = monitor.state().await;
                let Some(node) = node.upgrade() else { return };
                if node.live.pod(&pod.id).is_none() {
                    return;
                }
                if let Ok(known) = known {
                    let containers: Vec<_> = world.containers_of(&pod.id).cloned().collect();
                    if let Err(error) = node.take_stock(&pod, &containers, known).await {
                        tracing::error!(pod = %pod.id, error = in_full(&error), "what its monitor told could not be recorded");
                    }
                    return;
                }
            }
        });
    }

    /// Bring a pod's containers in line with what its monitor knows of them.
    async fn take_stock(
        &self,
        pod: &Pod,
        containers: &[Arc<Container>],
        known: Vec<runtime::ContainerState>,
    ) -> Result<(), EngineError> {
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
            self.settle_start(container).await?;
        }
        Ok(())
    }

    /// A server that died between the runtime's `start` and the record of it left a running container as created.
    async fn settle_start(&self, container: &Container) -> Result<(), EngineError> {
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
                    Some(crate::world::started(container, now))
                })
                .await?;
        }
        Ok(())
    }
}
