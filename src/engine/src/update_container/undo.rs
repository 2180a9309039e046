//! Bringing back the limits of before a change: after one that failed, and at the start after a server's death.

use spec::{model::Resources, update};

use super::{AT, LimitsUndo, set_oom_score};
use crate::{
    error::{EngineError, in_full},
    limits,
    node::Node,
    start_container::container_runtime,
    units::unit_of,
    world::{Container, ContainerState},
};

impl Node {
    /// Carry out the undo of a change of limits that its server did not live to finish.
    pub(crate) async fn undo_limits(&self, undo: &LimitsUndo) -> Result<(), EngineError> {
        let live = self.live.container(&undo.id);
        let _turn = live.turn.lock().await;
        let Ok(container) = self.find_container(undo.id.as_str()) else {
            self.live.remove_container(&undo.id);
            return Ok(());
        };
        self.undo_limits_of(&container, undo).await
    }

    /// The caller has the container's turn.
    pub(super) async fn undo_limits_of(
        &self,
        container: &Container,
        undo: &LimitsUndo,
    ) -> Result<(), EngineError> {
        if container.resources != undo.in_force || container.state == ContainerState::Exited {
            return Ok(());
        }
        self.put_back(undo).await
    }

    /// Bring back what held. The caller has the container's turn.
    pub(super) async fn put_back(&self, undo: &LimitsUndo) -> Result<(), EngineError> {
        // systemd would bring its own idea of the limits back at its next reload, so the runtime tells it first. That the
        // runtime cannot is no failure: the files say what holds.
        if self.config.systemd_cgroup
            && let Err(error) = self.tell_runtime(undo).await
        {
            tracing::warn!(container = %undo.id, error = in_full(&error), "the runtime could not set the old limits; they are written to the cgroup");
        }
        if let Some(units) = &self.units {
            let mut limits = spec::unit_properties::of_limits(&undo.in_force);
            for held in &undo.held {
                limits.extend(held.unit_properties());
            }
            if let Err(error) = units.limit(unit_of(&undo.cgroup), &limits).await {
                tracing::warn!(container = %undo.id, error = in_full(&error), "systemd could not be told the old limits; they are written to the cgroup");
            }
        }
        let (held, cgroup) = (undo.held.clone(), undo.cgroup.clone());
        let score = undo.score;
        self.with_limits(&undo.id, move |layout, stop| {
            limits::put_back(&held, stop)?;
            score.map_or(Ok(()), |score| set_oom_score(layout, &cgroup, score, stop))
        })
        .await
    }

    async fn tell_runtime(&self, undo: &LimitsUndo) -> Result<(), EngineError> {
        let container = self.find_container(undo.id.as_str())?;
        let handler = self.handler_by_name(&container_runtime(self, &container)?)?;
        let limits = spec::linux_resources(
            &undo.in_force,
            AT,
            &self.facts,
            &self.config.spec_defaults,
            &mut Vec::new(),
        )?;
        // As far as they were there to be read.
        let mut written = update::written(&undo.in_force, &Resources::default(), &self.facts);
        written.retain(|limit| undo.held.iter().any(|held| held.is_of(&limit.file.name)));
        self.update_by_runtime(&undo.id, &handler, limits, &written)
            .await
    }
}
