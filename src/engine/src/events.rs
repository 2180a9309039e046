//! What monitors report: ends of containers and of pause processes, and their own.

use std::sync::{PoisonError, Weak, atomic::Ordering};

use runtime::{MonitorEvent, RuntimeError};
use state::{ContainerId, PodId};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{
    error::{EngineError, in_full},
    ledger::unix_now_ns,
    node::Node,
    pauses::Pauses,
    world::{ContainerState, Ending, Pod, PodState, ended, lost, started},
};

/// Follow a monitor's reports until it ends or the server does.
pub(crate) fn watch(node: Weak<Node>, pod: PodId, events: UnboundedReceiver<MonitorEvent>) {
    tokio::spawn(async move {
        let mut events = events;
        loop {
            while let Some(event) = events.recv().await {
                let Some(node) = node.upgrade() else { return };
                match event {
                    MonitorEvent::Exited(id, exit) => node.note_exit(&pod, &id, exit.into()).await,
                    MonitorEvent::Oom(id) => {
                        tracing::info!(%pod, container = id, "the kernel killed a process of it for memory");
                    }
                    MonitorEvent::Disconnected => break,
                }
            }
            match reconnect(&node, &pod).await {
                Some(again) => events = again,
                None => return,
            }
        }
    });
}

/// A connection can break while the monitor lives on (it dropped a slow reader, say): then go on with a new one. Only a socket
/// that is absent or refuses means that it died. `None` when there is nothing left to follow.
async fn reconnect(node: &Weak<Node>, pod: &PodId) -> Option<UnboundedReceiver<MonitorEvent>> {
    let mut pauses = Pauses::default();
    loop {
        let strong = node.upgrade()?;
        // A pod that was released, or is being undone, has no companion and needs no monitor.
        strong.live.pod(pod)?;
        let connected = runtime::Monitor::connect(&strong.paths.monitor_socket(pod)).await;
        match connected {
            Ok((monitor, events)) => {
                // Also before it tells its state: it can be asked for other things.
                strong.live.reconnect_pod(pod, monitor.clone());
                drop(strong);
                if catch_up(node, pod, &monitor, &mut pauses).await {
                    return Some(events);
                }
            }
            Err(RuntimeError::Disconnected { .. }) => {
                strong.monitor_lost(pod).await;
                return None;
            }
            Err(error) => {
                tracing::error!(%pod, error = in_full(&error), "its monitor cannot be reached now; it is tried again");
            }
        }
        pauses.wait().await;
    }
}

/// Learn what ended while there was no connection; asks for as long as this one lasts. False when it broke.
async fn catch_up(
    node: &Weak<Node>,
    pod: &PodId,
    monitor: &runtime::Monitor,
    pauses: &mut Pauses,
) -> bool {
    loop {
        match monitor.state().await {
            Ok(known) => {
                let Some(node) = node.upgrade() else {
                    return false;
                };
                for container in known {
                    if let Some(exit) = container.exit {
                        node.note_exit(pod, &container.id, exit.into()).await;
                    }
                }
                return true;
            }
            Err(RuntimeError::Disconnected { .. }) => return false,
            Err(error) => {
                tracing::error!(%pod, error = in_full(&error), "its monitor does not tell its state; it is asked again");
            }
        }
        pauses.wait().await;
        if node
            .upgrade()
            .is_none_or(|node| node.live.pod(pod).is_none())
        {
            return false;
        }
    }
}

impl From<runtime::Exit> for Ending {
    fn from(exit: runtime::Exit) -> Self {
        Self {
            code: exit.code,
            oom_killed: exit.oom_killed,
            oom_limit: exit.oom_limit,
            at_unix_ns: exit.at_unix_ns,
        }
    }
}

impl Node {
    /// A first process ended: a container's, or the pod's pause process.
    pub(crate) async fn note_exit(&self, pod: &PodId, id: &str, ending: Ending) {
        let outcome = if id == pod.as_str() {
            self.pause_ended(pod).await
        } else {
            self.container_ended(id, ending).await
        };
        if let Err(error) = outcome {
            tracing::error!(%pod, container = id, error = in_full(&error), "an exit could not be recorded");
        }
    }

    async fn container_ended(&self, id: &str, ending: Ending) -> Result<(), EngineError> {
        let Ok(id) = id.parse::<ContainerId>() else {
            return Ok(());
        };
        // In this order: a container that is published between the two steps finds the note.
        let world = self.ledger.world();
        let live = self.live.known_container(&id);
        if let Some(live) = &live
            && !world.containers.contains_key(&id)
        {
            *live
                .early_end
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(ending);
        }
        if live.is_some_and(|live| live.starting.load(Ordering::SeqCst)) {
            // It was quicker than the runtime's own end. Whoever follows it sees it run before it ends. A record that the database
            // refuses must not keep it from its end: everyone sees the change already, and the next record holds both.
            let recorded = self.ledger.change_container(&id, |container| {
                (container.state == ContainerState::Created)
                    .then(|| started(container, ending.at_unix_ns))
            });
            if let Err(error) = recorded.await {
                tracing::error!(container = %id, error = in_full(&error), "its start could not be recorded");
            }
        }
        let mut has_ended = None;
        let recorded = self
            .ledger
            .change_container(&id, |container| {
                let next = ended(container, ending)?;
                has_ended = Some(next.cgroup.clone());
                Some(next)
            })
            .await;
        // Where the PID namespace is the pod's or the node's, what the first process left behind lives on, and would hold the
        // ports and files of the next attempt.
        if let Some(cgroup) = has_ended
            && let Err(error) = self.cgroups.kill_all(&cgroup).await
        {
            tracing::warn!(container = %id, error = in_full(&error), "what its first process left behind lives on");
        }
        recorded.map(drop)
    }

    async fn pause_ended(&self, pod: &PodId) -> Result<(), EngineError> {
        let changed = self
            .ledger
            .change_pod(pod, |pod| {
                (pod.state == PodState::Ready).then(|| Pod {
                    state: PodState::NotReady,
                    ..pod.clone()
                })
            })
            .await?;
        if changed.is_some() {
            tracing::warn!(%pod, "the pause process ended, so the pod is not ready any more");
        }
        Ok(())
    }

    /// A monitor died. What it parented has lost its log writer and nobody sees its exit code any more, so it is ended
    /// and kubelet starts it afresh.
    pub(crate) async fn monitor_lost(&self, id: &PodId) {
        if self.live.remove_pod(id).is_none() {
            return;
        }
        tracing::error!(pod = %id, "the pod's monitor died; its containers are ended");
        self.end_pod_unwatched(id, "the pod's monitor died").await;
    }

    /// A pod without a monitor is not ready, and its containers are ended. That it cannot be recorded keeps none from its end.
    pub(crate) async fn end_pod_unwatched(&self, id: &PodId, why: &str) {
        let not_ready = |pod: &Pod| {
            (pod.state == PodState::Ready).then(|| Pod {
                state: PodState::NotReady,
                ..pod.clone()
            })
        };
        if let Err(error) = self.ledger.change_pod(id, not_ready).await {
            tracing::error!(pod = %id, error = in_full(&error), "a lost monitor could not be recorded");
        }
        self.end_containers_unwatched(id, why).await;
    }

    pub(crate) async fn end_containers_unwatched(&self, id: &PodId, why: &str) {
        let world = self.ledger.world();
        for container in world.containers_of(id) {
            if container.state != ContainerState::Exited {
                self.end_unwatched(&container.id, &container.cgroup, why)
                    .await;
            }
        }
    }

    /// End a container that has no monitor, and record its end: from the exit file if its monitor still wrote one.
    pub(crate) async fn end_unwatched(&self, id: &ContainerId, cgroup: &str, why: &str) {
        if let Err(error) = self.cgroups.kill_all(cgroup).await {
            tracing::warn!(container = %id, error = in_full(&error), "its cgroup could not be emptied");
        }
        let exit = std::fs::read(self.paths.bundle(id).join("exit"))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<runtime::Exit>(&bytes).ok());
        let outcome = match exit {
            Some(exit) => {
                self.ledger
                    .change_container(id, |container| ended(container, exit.into()))
                    .await
            }
            None => {
                self.ledger
                    .change_container(id, |container| lost(container, why, unix_now_ns()))
                    .await
            }
        };
        if let Err(error) = outcome {
            tracing::error!(container = %id, error = in_full(&error), "a lost container could not be recorded");
        }
    }
}

#[cfg(test)]
mod tests;
