//! StopContainer: the stop signal, a grace period, SIGKILL, and at last the whole cgroup.
//!
//! Stops of one container share one job. The moment of SIGKILL is a value that all of them may bring forward and none
//! may put off, so a pod deleted with `--grace-period=0` does not wait for the hour that somebody asked for before.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use state::ContainerId;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    Engine, SharedError,
    error::{EngineError, in_full},
    jobs::Stage,
    node::Node,
    world::{Container, ContainerState},
};

pub(crate) const SIGKILL: i32 = 9;

/// A grace period beyond this is as good as none: kubelet counts in seconds and users write 2^31 now and then.
const LONGEST_GRACE: Duration = Duration::from_hours(365 * 24);

impl Engine {
    /// Stop a container: its stop signal now, SIGKILL after `grace`. An unknown or stopped one is stopped already.
    ///
    /// # Errors
    /// [`EngineError::Unkillable`] if it lives on after SIGKILL.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), SharedError> {
        match self.node.find_container(id) {
            Ok(container) => self.node.stop(&container, grace).await,
            Err(EngineError::ContainerNotFound(_)) => Ok(()),
            Err(error) => Err(Arc::new(error)),
        }
    }
}

impl Node {
    /// Join or start the stop of a container.
    pub(crate) async fn stop(
        self: &Arc<Self>,
        container: &Container,
        grace: Duration,
    ) -> Result<(), SharedError> {
        if container.state == ContainerState::Exited {
            return Ok(());
        }
        let kill_at = Instant::now() + grace.min(LONGEST_GRACE);
        let id = container.id.clone();
        let live = self.live.container(&id);
        let deadline = {
            let mut slot = live.kill_at.lock().unwrap_or_else(PoisonError::into_inner);
            let sender = slot.get_or_insert_with(|| watch::Sender::new(kill_at));
            sender.send_if_modified(|at| {
                let sooner = kill_at < *at;
                if sooner {
                    *at = kill_at;
                }
                sooner
            });
            sender.subscribe()
        };
        let node = Arc::clone(self);
        self.jobs
            .stop_container
            .run(id.to_string(), 0, |stage| async move {
                let result = node.stop_by(id, deadline, stage).await;
                if result.is_err() {
                    // The next stop begins with a period of its own. Only the job itself may say so: whoever waited for it may
                    // wake when the next one listens already.
                    live.kill_at
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .take();
                }
                result
            })
            .await
    }

    async fn stop_by(
        &self,
        id: ContainerId,
        mut kill_at: watch::Receiver<Instant>,
        stage: Stage,
    ) -> Result<(), EngineError> {
        let Ok(container) = self.find_container(id.as_str()) else {
            return Ok(());
        };
        stage.enter("waiting for the processes to end on the stop signal");
        let has_begun = container.state == ContainerState::Running;
        if has_begun && *kill_at.borrow() > Instant::now() {
            self.signal(&container, container.stop_signal).await;
            loop {
                let at = *kill_at.borrow_and_update();
                tokio::select! {
                    () = self.ended(&id) => break,
                    () = sleep_until(at) => break,
                    Ok(()) = kill_at.changed() => {}
                }
            }
        }
        if !self.has_ended(&id) {
            stage.enter("waiting for the processes to end on SIGKILL");
            self.signal(&container, SIGKILL).await;
            if timeout(self.config.timeouts.kill, self.ended(&id))
                .await
                .is_err()
            {
                stage.enter("killing everything in the container's cgroup");
                self.cgroups.kill_all(&container.cgroup).await?;
                if self.live.pod(&container.pod).is_none() {
                    // Nobody is there to report its end.
                    self.end_unwatched(&id, &container.cgroup, "its monitor could not be reached")
                        .await;
                }
                if timeout(self.config.timeouts.kill, self.ended(&id))
                    .await
                    .is_err()
                {
                    return Err(EngineError::Unkillable {
                        id,
                        detail: self.cgroups.describe(&container.cgroup),
                    });
                }
            }
        }
        // Processes that share a PID namespace with others outlive the container's first one.
        stage.enter("killing what the first process left behind");
        self.cgroups.kill_all(&container.cgroup).await?;
        Ok(())
    }

    /// Signal the first process. That it has gone meanwhile is what a stop wants.
    pub(crate) async fn signal(&self, container: &Container, signal: i32) {
        let sent = match self.live.pod(&container.pod) {
            Some(live) => live.monitor.signal(container.id.as_str(), signal).await,
            None => return,
        };
        if let Err(error) = sent {
            tracing::debug!(container = %container.id, signal, error = in_full(&error), "the signal was not delivered");
        }
    }

    pub(crate) fn has_ended(&self, id: &ContainerId) -> bool {
        self.ledger
            .world()
            .containers
            .get(id)
            .is_none_or(|container| container.state == ContainerState::Exited)
    }

    async fn ended(&self, id: &ContainerId) {
        self.ledger
            .until(|world| {
                world
                    .containers
                    .get(id)
                    .is_none_or(|container| container.state == ContainerState::Exited)
                    .then_some(())
            })
            .await;
    }
}
