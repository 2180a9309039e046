//! UpdateContainerResources: all of the new limits, or the old ones.
//!
//! 1. The limits in force and those asked for are laid over each other and checked as at creation.
//! 2. What the container's cgroup holds is read and written to the database as the undo of what follows.
//! 3. The runtime's `update` sets CPU and memory; huge pages, keys of cgroup v2 and the OOM score, which no runtime's `update`
//!    takes in all its versions, are written here: all that are in force, for the runtime's `update` may have set them to
//!    what they were once. In between systemd, where it is the driver, is told everything that it has a property for.
//! 4. The container's record says the new limits, and the undo is void. A failure before that puts back what was held.
//!
//! A container that has ended has no cgroup to change: for it only the record is made. Updates of one container take turns
//! with each other, with its start and its removal.

mod undo;

use std::sync::{Arc, PoisonError};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use spec::{
    model::Resources,
    oom_score::oom_score_adj,
    update::{self, WrittenLimit},
};
use state::ContainerId;

use crate::{
    Engine, SharedError,
    error::{EngineError, in_full},
    fingerprint::fingerprint,
    jobs::Stage,
    ledger::UndoSeq,
    limits::{self, Held},
    node::{Handler, Node},
    start_container::container_runtime,
    stop::Stop,
    teardown::Undo,
    units::unit_of,
    world::{Container, ContainerState},
};

/// Where the request has the limits.
const AT: &str = "linux";
/// How often a container's processes are looked through: one that forks meanwhile hands on the old score.
const SCORE_ROUNDS: usize = 3;

/// How to bring back the limits of before a change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LimitsUndo {
    pub(crate) id: ContainerId,
    cgroup: String,
    /// The limits in force: the undo is void when the record says others.
    in_force: Resources,
    held: Vec<Held>,
    /// The OOM score, if it is part of the change.
    score: Option<i32>,
}

/// A change that was found to be possible.
struct Change {
    container: Arc<Container>,
    handler: Handler,
    /// The limits as they will be.
    next: Resources,
    /// The same for the runtime.
    limits: LinuxResources,
    /// What is written, as far as there are files for it.
    written: Vec<WrittenLimit>,
    score: Option<i32>,
}

/// A change that holds in the kernel and is not on the container's record yet.
struct Changed {
    seq: UndoSeq,
    undo: LimitsUndo,
}

/// The update of a container that was asked for last.
#[derive(Debug, Default)]
pub(crate) struct LastUpdate {
    number: u64,
    print: u64,
}

impl LastUpdate {
    /// The number of the update that a request is for: the last one's, if it asks for the same, else a new one. What was
    /// asked for before another update is not the same any more.
    fn number(&mut self, print: u64) -> u64 {
        if self.number == 0 || self.print != print {
            self.number += 1;
            self.print = print;
        }
        self.number
    }
}

impl Engine {
    /// Change a container's limits; zero and empty values leave what is. All or nothing.
    ///
    /// # Errors
    /// What kept the change from being made; the old limits hold then. [`EngineError::LimitsMixed`] if they could not be
    /// brought back yet.
    pub async fn update_container(&self, id: &str, asked: Resources) -> Result<(), SharedError> {
        let node = &self.node;
        let id = node.find_container(id)?.id.clone();
        let (updater, print) = (Arc::clone(node), fingerprint(&asked));
        // Another number is another job, which waits for its turn: the update asked for last is the one that holds.
        let number = node
            .live
            .container(&id)
            .last_update
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .number(print);
        let key = format!("{id}/{number}");
        node.jobs
            .update_container
            .run(key, print, |stage| async move {
                updater.update_container(id, asked, stage).await
            })
            .await
    }
}

impl Node {
    async fn update_container(
        self: &Arc<Self>,
        id: ContainerId,
        asked: Resources,
        stage: Stage,
    ) -> Result<(), EngineError> {
        stage.enter("waiting for its turn");
        let live = self.live.container(&id);
        let _turn = live.turn.lock().await;
        let container = self
            .find_container(id.as_str())
            .inspect_err(|_| self.live.remove_container(&id))?;
        // What an earlier change left in the cgroup would be taken for limits in force, and its undo be void.
        stage.enter("bringing back the limits of before an earlier change");
        for (seq, undo) in self.deferred.limits_of(&id) {
            self.undo_limits_of(&container, &undo).await?;
            self.deferred.done(seq.0);
            self.forget_limits_undo(&id, seq).await;
        }
        let next = update::merged(&container.resources, &asked);
        let mut changed = None;
        let mut warnings = Vec::new();
        let mut limits = spec::linux_resources(
            &next,
            AT,
            &self.facts,
            &self.config.spec_defaults,
            &mut warnings,
        )?;
        let score = (asked.oom_score_adj != 0)
            .then(|| {
                let field = "linux.oom_score_adj";
                oom_score_adj(asked.oom_score_adj, field, &self.facts, &mut warnings)
            })
            .transpose()?;
        if matches!(
            container.state,
            ContainerState::Created | ContainerState::Running
        ) {
            let handler = self.handler_by_name(&container_runtime(self, &container)?)?;
            // What is for the machine of a container need not be on the node.
            let none = Resources::default();
            let asked_of_node = if is_on_node(&handler) { &asked } else { &none };
            let mut written = update::written(&next, asked_of_node, &self.facts);
            if handler.runtime.keeps_quota()
                && !self.cgroups.layout().is_v2()
                && let Some(cpu) = limits.cpu_mut()
                && cpu.quota().is_some_and(|quota| quota < 0)
            {
                cpu.set_quota(None);
                written.push(update::no_quota_of_v1());
            }
            if self.units.is_some()
                && self.cgroups.layout().is_v2()
                && let Some(exact) = spec::unit_properties::exact_cpu_max(&next)
            {
                written.push(update::exact_cpu_max(exact));
            }
            let change = Change {
                container: Arc::clone(&container),
                handler,
                next: next.clone(),
                limits,
                written,
                score,
            };
            changed = self.change_limits(&change, &asked, &stage).await?;
        }
        for warning in &warnings {
            tracing::warn!(container = %id, warning, "a limit that was asked for is not given");
        }
        stage.enter("recording the new limits");
        let recorded = self
            .ledger
            .change_container(&id, |container| {
                let mut container = container.clone();
                container.resources = next;
                for warning in warnings {
                    if !container.warnings.contains(&warning) {
                        container.warnings.push(warning);
                    }
                }
                Some(container)
            })
            .await;
        if let Err(error) = recorded {
            stage.enter("bringing back the limits of before");
            self.publish_limits_of(&container).await;
            return Err(match changed {
                Some(changed) => self.take_back(changed, error).await,
                None => error,
            });
        }
        if let Some(changed) = changed {
            self.forget_limits_undo(&id, changed.seq).await;
        }
        Ok(())
    }

    /// A record that could not be written was published all the same. The limits of `before` are published again: clients are
    /// told by what is published, and an undo record is void by it.
    async fn publish_limits_of(&self, before: &Container) {
        let published = self
            .ledger
            .change_container(&before.id, |container| {
                let mut container = container.clone();
                container.resources = before.resources.clone();
                container.warnings.clone_from(&before.warnings);
                Some(container)
            })
            .await;
        if let Err(error) = published {
            // The database has them.
            tracing::debug!(container = %before.id, error = in_full(&error), "the old limits are not recorded again");
        }
    }

    /// Change what holds in the kernel. A failure leaves, or brings back, what held before. `None` if the container ended
    /// meanwhile: there is nothing left to limit.
    async fn change_limits(
        self: &Arc<Self>,
        change: &Change,
        asked: &Resources,
        stage: &Stage,
    ) -> Result<Option<Changed>, EngineError> {
        let container = &change.container;
        stage.enter("reading the limits in force");
        let (written, cgroup) = (change.written.clone(), container.cgroup.clone());
        let inner = self.inner_cgroup(change);
        let version = self.facts.cgroup_version;
        let (written, held, in_use) = self
            .with_limits(&container.id, move |layout, _| {
                let written = limits::writable(layout, &cgroup, written)?;
                let files = update::touched(&written, version);
                let mut held = limits::read_all(layout, &cgroup, &files)?;
                if let Some(inner) = &inner {
                    held.extend(limits::read_all(layout, inner, &files)?);
                }
                Ok((written, held, limits::memory_in_use(layout, &cgroup)?))
            })
            .await?;
        if let (Ok(limit @ 1..), Some(used)) = (u64::try_from(asked.memory_limit_bytes), in_use)
            && limit < used
        {
            // Version 2 of cgroups would kill instead.
            return Err(EngineError::MemoryInUse {
                id: container.id.clone(),
                limit_bytes: limit,
                used_bytes: used,
            });
        }
        stage.enter("recording what will have to be undone");
        let undo = LimitsUndo {
            id: container.id.clone(),
            cgroup: container.cgroup.clone(),
            in_force: container.resources.clone(),
            held,
            score: change
                .score
                .map(|_| self.oom_score(&container.resources))
                .transpose()?,
        };
        let seq = self
            .ledger
            .record_undo(container.id.as_str(), &Undo::Limits(undo.clone()))
            .await?;
        let changed = Changed { seq, undo };
        let Err(error) = self.apply(change, written, stage).await else {
            // The undo is void once the container's record says the new limits; until then a crash brings back the old ones.
            return Ok(Some(changed));
        };
        stage.enter("bringing back the limits of before");
        let error = self.take_back(changed, error).await;
        if !matches!(error, EngineError::LimitsMixed { .. }) && self.has_ended(&container.id) {
            // Its end came first, and took the cgroup along.
            return Ok(None);
        }
        Err(error)
    }

    /// Bring back what held before a change that failed with `error`, now or later. Answers what to tell.
    async fn take_back(&self, changed: Changed, error: EngineError) -> EngineError {
        let Changed { seq, undo } = changed;
        let Err(stuck) = self.put_back(&undo).await else {
            self.forget_limits_undo(&undo.id, seq).await;
            return error;
        };
        tracing::error!(container = %undo.id, error = in_full(&stuck), "its old limits could not be brought back; it will be tried again");
        let id = undo.id.clone();
        self.deferred.add(seq, Undo::Limits(undo));
        EngineError::LimitsMixed {
            id,
            stuck: in_full(&stuck),
            source: Box::new(error),
        }
    }

    async fn apply(
        &self,
        change: &Change,
        written: Vec<WrittenLimit>,
        stage: &Stage,
    ) -> Result<(), EngineError> {
        let container = &change.container;
        stage.enter("waiting for the runtime to change the limits");
        self.update_by_runtime(
            &container.id,
            &change.handler,
            change.limits.clone(),
            &written,
        )
        .await?;
        if let Some(units) = &self.units
            && is_on_node(&change.handler)
        {
            // Whatever the runtime told it, or wrote past it: its next reload must not undo any of this.
            stage.enter("waiting for systemd to take the limits");
            let limits = spec::unit_properties::of_limits(&change.next);
            units.limit(unit_of(&container.cgroup), &limits).await?;
        }
        stage.enter("writing limits to the container's cgroup");
        let (cgroup, score) = (container.cgroup.clone(), change.score);
        let inner = self.inner_cgroup(change);
        let written = if is_on_node(&change.handler) {
            written
        } else {
            Vec::new()
        };
        self.with_limits(&container.id, move |layout, stop| {
            limits::write_all(layout, &cgroup, &written, stop)?;
            if let Some(inner) = &inner {
                let present = limits::present(layout, inner, &written)?;
                limits::write_all(layout, inner, &present, stop)?;
            }
            score.map_or(Ok(()), |score| set_oom_score(layout, &cgroup, score, stop))
        })
        .await
    }

    /// The cgroup that crun makes below a scope, and limits instead of it: systemd leaves it alone.
    fn inner_cgroup(&self, change: &Change) -> Option<String> {
        let has_one = self.units.is_some()
            && self.cgroups.layout().is_v2()
            && change.handler.runtime.kind() == runtime::RuntimeKind::Crun;
        let inner = has_one.then(|| format!("{}/container", change.container.cgroup))?;
        self.cgroups
            .exists(&inner)
            .is_ok_and(|is| is)
            .then_some(inner)
    }

    /// The score that a container's processes have, or get, by its limits.
    pub(crate) fn oom_score(&self, limits: &Resources) -> Result<i32, EngineError> {
        let (score, field) = (limits.oom_score_adj, "linux.oom_score_adj");
        Ok(oom_score_adj(score, field, &self.facts, &mut Vec::new())?)
    }

    /// Give the runtime what its `update` is for, if there is any of it.
    async fn update_by_runtime(
        &self,
        id: &ContainerId,
        handler: &Handler,
        limits: LinuxResources,
        written: &[WrittenLimit],
    ) -> Result<(), EngineError> {
        let limits = if is_on_node(handler) {
            update::for_runtime(limits, written, &self.facts)
        } else {
            Some(limits)
        };
        let Some(limits) = limits else {
            return Ok(());
        };
        let json = serde_json::to_vec(&limits).map_err(|source| EngineError::Record {
            id: id.to_string(),
            source,
        })?;
        let limit = self.config.timeouts.runtime_command;
        Ok(handler.runtime.update(id.as_str(), &json, limit).await?)
    }

    async fn forget_limits_undo(&self, id: &ContainerId, seq: UndoSeq) {
        if let Err(error) = self.ledger.forget_undo(seq).await {
            // At the next start it is found to be void, or to change nothing.
            tracing::warn!(container = %id, error = in_full(&error), "an undo record could not be removed");
        }
    }

    /// Look at a container's limits, or write them; see [`CgroupThread`](crate::cgroup_thread::CgroupThread). The time is
    /// bounded, for the container's turn is taken meanwhile.
    async fn with_limits<T: Send + 'static>(
        &self,
        id: &ContainerId,
        work: impl FnOnce(&sys::cgroup::Layout, &Stop) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let cgroups = self.cgroups.clone();
        let limit = self.config.timeouts.runtime_command;
        let work = move |stop: &Stop| work(cgroups.layout(), stop);
        self.live.container(id).limits.run(limit, work).await
    }
}

/// Whether the container's limits are those of its cgroup on the node, not of one in a machine of its own, which only the
/// runtime can write to.
fn is_on_node(handler: &Handler) -> bool {
    handler.runtime.signals_by_pid()
}

/// Give every process of a cgroup this score. One that has ended needs none.
fn set_oom_score(
    layout: &sys::cgroup::Layout,
    cgroup: &str,
    score: i32,
    stop: &Stop,
) -> Result<(), EngineError> {
    let mut done = std::collections::BTreeSet::new();
    for _ in 0..SCORE_ROUNDS {
        let processes = layout.processes(cgroup)?;
        let new: Vec<u32> = processes.difference(&done).copied().collect();
        if new.is_empty() {
            break;
        }
        for pid in new {
            stop.go_on()?;
            done.insert(pid);
            let path = std::path::PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
            let is_set = std::fs::read_to_string(&path)
                .is_ok_and(|text| text.trim().parse::<i32>().is_ok_and(|now| now == score));
            if is_set {
                continue;
            }
            match std::fs::write(&path, score.to_string()) {
                Err(source)
                    if source.kind() != std::io::ErrorKind::NotFound
                        && source.raw_os_error()
                            != Some(rustix::io::Errno::SRCH.raw_os_error()) =>
                {
                    return Err(EngineError::Io {
                        action: "write the OOM score to",
                        path,
                        source,
                    });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_update_asked_for_last_is_joined() {
        let mut last = LastUpdate::default();
        let numbers = [0, 0, 7, 0, 0, 7].map(|print| last.number(print));
        assert_eq!(numbers, [1, 1, 2, 3, 3, 4]);
    }
}
