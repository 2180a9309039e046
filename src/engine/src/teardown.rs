//! How pods and containers are taken apart: by removal, by the undo of a failed creation, and by restore, all alike.
//!
//! What a creation is about to make is written to the database as [`Undo`] before the first side effect. Every step here
//! accepts that its object is not there (never made, or taken apart before), so a teardown can be cut short anywhere
//! and run again from the beginning. Steps go on past a failure and the first error is returned: one stuck step must
//! not keep the others' objects on the node.

use std::{io, path::Path};

use network::Attachment;
use runtime::{Refusal, RuntimeError};
use serde::{Deserialize, Serialize};
use state::{ChainId, ContainerId, PodId};

use crate::{
    error::{EngineError, in_full},
    node::Node,
    stop_container::SIGKILL,
    update_container::LimitsUndo,
};

/// Something to take apart, as it stands in the database.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Undo {
    /// A pod that was being made.
    Pod(PodRemains),
    /// A container that was being made.
    Container(ContainerRemains),
    /// A network attachment whose removal failed. It is tried again and holds up nothing else.
    Detach(Attachment),
    /// A change of a container's limits.
    Limits(LimitsUndo),
}

/// All that a pod may have on the node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PodRemains {
    pub(crate) id: PodId,
    /// Name of the configured runtime.
    pub(crate) runtime: String,
    /// `None` with the node's network.
    pub(crate) network: Option<Attachment>,
    pub(crate) has_pause: bool,
    /// Cgroups that were not there before the pod, innermost first.
    pub(crate) own_cgroups: Vec<String>,
    /// The cgroup of its monitor, if that has one of its own that does not go by itself.
    #[serde(default)]
    pub(crate) monitor_cgroup: Option<String>,
}

/// All that a container may have on the node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRemains {
    pub(crate) id: ContainerId,
    pub(crate) pod: PodId,
    /// Name of the configured runtime.
    pub(crate) runtime: String,
    pub(crate) cgroup: String,
    /// The layers below it, its volumes' included. Empty in records of versions that did not write it.
    #[serde(default)]
    pub(crate) layers: Vec<ChainId>,
}

/// Goes on past failures and keeps the first.
#[derive(Default)]
struct First(Option<EngineError>);

impl First {
    fn note<E: Into<EngineError>>(&mut self, outcome: Result<(), E>) {
        if let Err(error) = outcome {
            let error = error.into();
            if self.0.is_none() {
                self.0 = Some(error);
            } else {
                tracing::warn!(
                    error = in_full(&error),
                    "a further step of a teardown failed"
                );
            }
        }
    }

    fn outcome(self) -> Result<(), EngineError> {
        self.0.map_or(Ok(()), Err)
    }
}

impl Node {
    /// Carry out an undo record.
    pub(crate) async fn undo(&self, undo: &Undo) -> Result<(), EngineError> {
        match undo {
            Undo::Pod(remains) => {
                self.release_pod(remains).await?;
                self.remove_pod_files(remains).await
            }
            Undo::Container(remains) => {
                self.end_creation(remains).await;
                // What is mounted after it was taken apart would stay.
                let limit = self.config.timeouts.kill;
                if !self.live.container(&remains.id).is_settled(limit).await {
                    return Err(EngineError::Deadline {
                        operation: "the undo of CreateContainer",
                        stage: "waiting for a file system that is still being made",
                        limit,
                    });
                }
                self.remove_container_remains(remains).await?;
                // The lease of its layers goes last.
                self.live.remove_container(&remains.id);
                Ok(())
            }
            Undo::Detach(attachment) => Ok(self.network.detach(attachment).await?),
            Undo::Limits(limits) => self.undo_limits(limits).await,
        }
    }

    /// End what runs for a pod: pause container, network, namespaces, monitor. Its files stay until it is removed.
    ///
    /// A network that cannot be detached is noted for later and is no error: a broken plugin must not keep a pod from
    /// ending.
    pub(crate) async fn release_pod(&self, remains: &PodRemains) -> Result<(), EngineError> {
        let mut first = First::default();
        if remains.has_pause {
            first.note(
                self.delete_from_runtime(&remains.runtime, remains.id.as_str())
                    .await,
            );
        }
        if let Some(attachment) = &remains.network {
            first.note(self.detach_or_defer(attachment).await);
        }
        let monitor = if let Some(live) = self.live.remove_pod(&remains.id) {
            Some(live.monitor.clone())
        } else {
            // After a restart, or when the connection broke: one may still be listening.
            match runtime::Monitor::connect(&self.paths.monitor_socket(&remains.id)).await {
                Ok((monitor, _reports)) => Some(monitor),
                Err(RuntimeError::Disconnected { .. }) => None,
                Err(error) => {
                    // It may live. What it holds must not be taken from under it, and nobody would look for it any more.
                    first.note::<EngineError>(Err(error.into()));
                    return first.outcome();
                }
            }
        };
        if let Some(monitor) = monitor {
            first.note(self.end_monitor(&monitor, remains).await);
        }
        if let Some(cgroup) = &remains.monitor_cgroup {
            // It has said its last word, and is about to exit.
            first.note(self.cgroups.kill_all(cgroup).await);
            first.note(self.cgroups.remove(cgroup).await);
        }
        // The monitor unpins what it pinned; this is for one that died before it could.
        first.note(sys::mount::unmount(&self.paths.netns(&remains.id)));
        first.note(remove_file(&self.paths.netns(&remains.id)));
        for kind in ["ipc", "uts", "pid", "user"] {
            first.note(sys::mount::unmount(
                &self.paths.namespace(&remains.id, kind),
            ));
        }
        first.note(sys::mount::remove_tree(&self.paths.namespaces(&remains.id)));
        first.note(sys::mount::unmount(&self.paths.shm(&remains.id)));
        first.note(sys::mount::unmount(&self.paths.pod_files(&remains.id)));
        first.outcome()
    }

    /// End a pod's monitor. One that still has a process does not end, and its socket is the only way to it: that is an error.
    async fn end_monitor(
        &self,
        monitor: &runtime::Monitor,
        remains: &PodRemains,
    ) -> Result<(), EngineError> {
        let busy = |outcome: &Result<(), RuntimeError>| {
            matches!(
                outcome,
                Err(RuntimeError::Refused {
                    kind: Refusal::Busy,
                    ..
                })
            )
        };
        let mut outcome = monitor.end().await;
        if busy(&outcome) {
            // The pause container: just killed and not reaped yet, still being made when its server died, or of a runtime
            // that is gone.
            let pause = remains.id.as_str();
            for step in [
                monitor.signal(pause, SIGKILL).await,
                monitor.forget(pause).await,
            ] {
                if let Err(error) = step {
                    tracing::debug!(pod = %remains.id, error = in_full(&error), "its pause container is gone, or will not go");
                }
            }
            self.delete_from_runtime(&remains.runtime, pause).await?;
            outcome = monitor.end().await;
        }
        match outcome {
            Err(RuntimeError::Disconnected { .. }) => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    /// Remove a released pod's files and the cgroup that was made for it.
    pub(crate) async fn remove_pod_files(&self, remains: &PodRemains) -> Result<(), EngineError> {
        let mut first = First::default();
        if remains.has_pause {
            first.note(
                self.delete_from_runtime(&remains.runtime, remains.id.as_str())
                    .await,
            );
        }
        first.note(sys::mount::remove_tree(&self.paths.pod(&remains.id)));
        for cgroup in &remains.own_cgroups {
            first.note(self.remove_slice(Some(&remains.id), cgroup).await);
        }
        first.outcome()
    }

    /// The server that asked for a container may have died while its runtime makes it: that comes to its end first, or it would
    /// be there after all when everything else was taken apart.
    async fn end_creation(&self, remains: &ContainerRemains) {
        let Some(live) = self.live.pod(&remains.pod) else {
            return;
        };
        let id = remains.id.as_str();
        let is_being_made = live.monitor.state().await.is_ok_and(|known| {
            known
                .iter()
                .any(|container| container.id == id && container.pid.is_none())
        });
        if is_being_made && let Err(error) = live.monitor.forget(id).await {
            tracing::debug!(
                container = id,
                error = in_full(&error),
                "its creation could not be cut short"
            );
        }
    }

    /// Take apart everything that a container may have.
    pub(crate) async fn remove_container_remains(
        &self,
        remains: &ContainerRemains,
    ) -> Result<(), EngineError> {
        let mut first = First::default();
        let deleted = self
            .delete_from_runtime(&remains.runtime, remains.id.as_str())
            .await;
        // With a broken runtime the cgroup is the truth: when nothing runs in it, the container is gone.
        let killed = self.cgroups.kill_all(&remains.cgroup).await;
        if deleted.is_err() && killed.is_ok() {
            tracing::warn!(container = %remains.id, "the runtime could not delete it; its cgroup was emptied instead");
        } else {
            first.note(deleted);
        }
        first.note(killed);
        first.note(self.cgroups.remove(&remains.cgroup).await);
        let (store, paths, id) = (self.store.clone(), self.paths.clone(), remains.id.clone());
        let gone =
            tokio::task::spawn_blocking(move || crate::filesystem::take_apart(&store, &paths, &id));
        first.note(joined(gone.await));
        if let Some(live) = self.live.pod(&remains.pod)
            && let Err(error) = live.monitor.forget(remains.id.as_str()).await
            && !error.is_not_found()
            && !matches!(error, RuntimeError::Disconnected { .. })
        {
            first.note(Err::<(), _>(error));
        }
        first.outcome()
    }

    pub(crate) async fn detach_or_defer(&self, attachment: &Attachment) -> Result<(), EngineError> {
        let Err(error) = self.network.detach(attachment).await else {
            return Ok(());
        };
        tracing::warn!(pod = %attachment.pod_id, error = in_full(&error), "detaching the network failed; it will be tried again");
        self.defer(&attachment.pod_id, Undo::Detach(attachment.clone()))
            .await
    }

    async fn delete_from_runtime(&self, runtime: &str, id: &str) -> Result<(), EngineError> {
        // A runtime that was taken out of the configuration cannot be asked; the cgroup and the mounts can.
        let Ok(handler) = self.handler_by_name(runtime) else {
            return Ok(());
        };
        Ok(handler
            .runtime
            .delete(id, true, self.config.timeouts.runtime_command)
            .await?)
    }
}

/// A blocking task's own outcome; a panic in it is a bug that must not pass for success.
pub(crate) fn joined<T>(
    outcome: Result<Result<T, EngineError>, tokio::task::JoinError>,
) -> Result<T, EngineError> {
    outcome.unwrap_or(Err(EngineError::Interrupted {
        operation: "a blocking step",
    }))
}

fn remove_file(path: &Path) -> Result<(), EngineError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(EngineError::Io {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
