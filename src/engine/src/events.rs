//! What monitors report: ends of containers and of pause processes, and their own.

use std::{
    sync::{PoisonError, Weak, atomic::Ordering},
    time::Duration,
};

use runtime::MonitorEvent;
use state::{ContainerId, PodId};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{
    error::{EngineError, in_full},
    ledger::unix_now_ns,
    node::Node,
    world::{ContainerState, Ending, Pod, PodState, ended, lost, started},
};

/// How often a broken connection to a living monitor is tried anew, and how long apart.
const RECONNECTS: u32 = 5;
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

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
            let Some(node) = node.upgrade() else { return };
            match node.reconnect(&pod).await {
                Some(again) => events = again,
                None => return node.monitor_lost(&pod).await,
            }
        }
    });
}

impl From<runtime::Exit> for Ending {
    fn from(exit: runtime::Exit) -> Self {
        Self {
            code: exit.code,
            oom_killed: exit.oom_killed,
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
            // It was quicker than the runtime's own end. Whoever follows it sees it run before it ends.
            self.ledger
                .change_container(&id, |container| {
                    (container.state == ContainerState::Created)
                        .then(|| started(container, ending.at_unix_ns))
                })
                .await?;
        }
        let changed = self
            .ledger
            .change_container(&id, |container| ended(container, ending))
            .await?;
        // Where the PID namespace is the pod's or the node's, what the first process left behind lives on, and would hold the
        // ports and files of the next attempt.
        if let Some(container) = changed
            && let Err(error) = self.cgroups.kill_all(&container.cgroup).await
        {
            tracing::warn!(container = %id, error = in_full(&error), "what its first process left behind lives on");
        }
        Ok(())
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

    /// A connection can break while the monitor lives on (it dropped a slow reader, say): then go on with a new one.
    async fn reconnect(&self, pod: &PodId) -> Option<UnboundedReceiver<MonitorEvent>> {
        for _ in 0..RECONNECTS {
            // A pod that was released, or is being undone, has no companion and needs no monitor.
            self.live.pod(pod)?;
            if let Ok((monitor, events)) =
                runtime::Monitor::connect(&self.paths.monitor_socket(pod)).await
            {
                let known = monitor.state().await.ok()?;
                self.live.reconnect_pod(pod, monitor);
                for container in known {
                    if let Some(exit) = container.exit {
                        self.note_exit(pod, &container.id, exit.into()).await;
                    }
                }
                return Some(events);
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
        None
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
