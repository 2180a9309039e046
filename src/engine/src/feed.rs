//! What clients are told of as it happens: pods and containers that came, started, stopped and went.
//!
//! `ledger` is the only writer of the world, so it is the only one who knows of changes: each world that it publishes is
//! compared with the one before, object by object, by the pure functions at the end of this file. Laws:
//!
//! * An event is sent after the world that shows its effect was published, under the same lock: events come in the order of
//!   worlds, and whoever looks after an event sees at least as much as it tells.
//! * Its time is taken after that world was published. A status that was read before is older, so that a client that keeps
//!   the newest of both never throws away the event.
//! * Sending never waits. Subscribers share one ring of [`RING_EVENTS`]; one that falls behind by more loses its place and is
//!   told so ([`Lost`]). What the ring holds are references to worlds, which share all that did not change between them.
//!
//! Nobody can be told anything while a server starts: what it finds to have stopped while none ran is kept, and told to
//! those who subscribe within [`MEANWHILE`]. By then even a client that only lists now and then has listed. So are stops that a
//! former server recorded shortly before: at its end it recorded them when nobody was listening any more. Who was told already is
//! told twice, which means nothing new.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use state::{ContainerId, PodId};
use tokio::sync::broadcast;

use crate::world::{Container, ContainerState, Pod, PodState, World};

/// How far a subscriber may fall behind, beside the megabyte or more that lies in its connection's buffers.
const RING_EVENTS: usize = 512;
/// How long after its start a server tells of what stopped before. Kubelet lists every five minutes when it follows events.
const MEANWHILE: Duration = Duration::from_mins(5);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "CRI's own words")]
pub enum LifeEventKind {
    Created,
    Started,
    Stopped,
    Deleted,
}

/// Whom it happened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LifeSubject {
    /// A pod itself.
    Pod(PodId),
    /// A container.
    Container(ContainerId),
}

impl LifeSubject {
    /// The id of either.
    pub fn id(&self) -> &str {
        match self {
            Self::Pod(id) => id.as_str(),
            Self::Container(id) => id.as_str(),
        }
    }
}

/// One event, with the world in which its effect is first seen.
#[derive(Clone, Debug)]
pub struct LifeEvent {
    /// What happened.
    pub kind: LifeEventKind,
    /// To whom.
    pub subject: LifeSubject,
    /// Nanoseconds since 1970: later than that of every earlier event, and than every status without its effect.
    pub at_unix_ns: i64,
    /// The pod, or the subject's pod. A pod that was deleted as it was at last; `None` if it is gone before its container.
    pub pod: Option<Arc<Pod>>,
    /// The world after it.
    pub world: Arc<World>,
}

/// The subscriber fell behind and events were dropped: it has to look for itself and subscribe anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// How many events were dropped.
    pub events: u64,
}

/// A place in the row of events.
#[derive(Debug)]
pub struct Subscription {
    /// Of before the subscription; told first.
    meanwhile: std::vec::IntoIter<LifeEvent>,
    receiver: broadcast::Receiver<LifeEvent>,
}

impl Subscription {
    /// The next event; waits for it. `None` when the engine is gone.
    ///
    /// # Errors
    /// [`Lost`] once this subscriber has fallen behind too far.
    pub async fn next(&mut self) -> Result<Option<LifeEvent>, Lost> {
        if let Some(event) = self.meanwhile.next() {
            return Ok(Some(event));
        }
        match self.receiver.recv().await {
            Ok(event) => Ok(Some(event)),
            Err(broadcast::error::RecvError::Closed) => Ok(None),
            Err(broadcast::error::RecvError::Lagged(events)) => Err(Lost { events }),
        }
    }
}

/// A change between two worlds, before it has its time and its world.
#[derive(Debug)]
pub(crate) struct Change {
    kind: LifeEventKind,
    subject: LifeSubject,
    pod: Option<Arc<Pod>>,
}

/// Where events are sent from.
#[derive(Debug)]
pub(crate) struct Feed {
    sender: broadcast::Sender<LifeEvent>,
    start: Mutex<Start>,
}

/// What is known of the time before anyone could subscribe.
#[derive(Debug)]
enum Start {
    /// Restoring; what has stopped so far.
    Restoring(Vec<LifeSubject>),
    /// Serving since then.
    Serving {
        since: Instant,
        stopped: Vec<LifeSubject>,
    },
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(RING_EVENTS),
            start: Mutex::new(Start::Restoring(Vec::new())),
        }
    }
}

impl Feed {
    /// Tell of changes, the world of which was just published. Called under the writer's lock.
    pub(crate) fn tell(
        &self,
        changes: Vec<Change>,
        world: &Arc<World>,
        mut timestamp: impl FnMut() -> i64,
    ) {
        if changes.is_empty() {
            return;
        }
        if let Start::Restoring(stopped) = &mut *self.lock() {
            let ends = |change: &Change| change.kind == LifeEventKind::Stopped;
            stopped.extend(
                changes
                    .iter()
                    .filter(|change| ends(change))
                    .map(|change| change.subject.clone()),
            );
            return;
        }
        for change in changes {
            // Nobody may be listening, which is no error.
            let _ = self.sender.send(LifeEvent {
                kind: change.kind,
                subject: change.subject,
                at_unix_ns: timestamp(),
                pod: change.pod,
                world: Arc::clone(world),
            });
        }
    }

    /// The server begins to serve: from here on there may be subscribers. `recorded` are the [`recent_stops`].
    pub(crate) fn open(&self, recorded: Vec<LifeSubject>) {
        let mut start = self.lock();
        if let Start::Restoring(stopped) = &mut *start {
            for subject in recorded {
                if !stopped.contains(&subject) {
                    stopped.push(subject);
                }
            }
            *start = Start::Serving {
                since: Instant::now(),
                stopped: std::mem::take(stopped),
            };
        }
    }

    /// All events from now on, and the stops of the time before. Called under the writer's lock, with the world of now.
    pub(crate) fn subscribe(
        &self,
        world: &Arc<World>,
        mut timestamp: impl FnMut() -> i64,
    ) -> Subscription {
        let mut start = self.lock();
        let meanwhile = match &mut *start {
            Start::Serving { since, stopped } => {
                if since.elapsed() > MEANWHILE {
                    stopped.clear();
                }
                stopped
                    .iter()
                    .filter_map(|subject| still_stopped(subject, world))
                    .map(|(subject, pod)| LifeEvent {
                        kind: LifeEventKind::Stopped,
                        subject,
                        at_unix_ns: timestamp(),
                        pod,
                        world: Arc::clone(world),
                    })
                    .collect()
            }
            Start::Restoring(_) => Vec::new(),
        };
        Subscription {
            meanwhile: meanwhile.into_iter(),
            receiver: self.sender.subscribe(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Start> {
        self.start.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has stopped for good in the last [`MEANWHILE`], in this order: containers as they ended, then pods that are not ready
/// without having been stopped, whose moment is not on record.
pub(crate) fn recent_stops(world: &World, now_unix_ns: i64) -> Vec<LifeSubject> {
    let meanwhile = i64::try_from(MEANWHILE.as_nanos()).unwrap_or(i64::MAX);
    let mut ended: Vec<_> = world
        .containers
        .values()
        .filter(|container| {
            container.state == ContainerState::Exited
                && container.finished_at_unix_ns >= now_unix_ns.saturating_sub(meanwhile)
        })
        .collect();
    ended.sort_by_key(|container| container.finished_at_unix_ns);
    let pods = world
        .pods
        .values()
        .filter(|pod| pod.state == PodState::NotReady && !pod.released);
    ended
        .into_iter()
        .map(|container| LifeSubject::Container(container.id.clone()))
        .chain(pods.map(|pod| LifeSubject::Pod(pod.id.clone())))
        .collect()
}

fn still_stopped(subject: &LifeSubject, world: &World) -> Option<(LifeSubject, Option<Arc<Pod>>)> {
    let pod = match subject {
        LifeSubject::Pod(id) => Some(Arc::clone(world.pods.get(id)?)),
        LifeSubject::Container(id) => {
            let container = world.containers.get(id)?;
            world.pods.get(&container.pod).cloned()
        }
    };
    Some((subject.clone(), pod))
}

/// What a pod's change means to those who follow it.
pub(crate) fn pod_changes(old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) -> Vec<Change> {
    use LifeEventKind::{Created, Deleted, Started, Stopped};

    let Some(known) = new.or(old) else {
        return Vec::new();
    };
    let kinds: &[LifeEventKind] = match (old.map(|pod| pod.state), new.map(|pod| pod.state)) {
        (None, Some(PodState::Ready)) => &[Created, Started],
        (None, Some(PodState::NotReady)) => &[Created, Stopped],
        (Some(PodState::Ready), Some(PodState::NotReady)) => &[Stopped],
        (Some(PodState::Ready), None) => &[Stopped, Deleted],
        (Some(PodState::NotReady), None) => &[Deleted],
        _ => &[],
    };
    kinds
        .iter()
        .map(|kind| Change {
            kind: *kind,
            subject: LifeSubject::Pod(known.id.clone()),
            pod: Some(Arc::clone(known)),
        })
        .collect()
}

/// What a container's change means to those who follow it. `pod` is its pod, if that is still there.
pub(crate) fn container_changes(
    old: Option<&Container>,
    new: Option<&Container>,
    pod: Option<&Arc<Pod>>,
) -> Vec<Change> {
    use ContainerState::{Exited, Running};
    use LifeEventKind::{Created, Deleted, Started, Stopped};

    let Some(known) = new.or(old) else {
        return Vec::new();
    };
    let (was, is) = (
        old.map(|container| container.state),
        new.map(|container| container.state),
    );
    let mut kinds = Vec::new();
    if was.is_none() {
        kinds.push(Created);
    }
    if is == Some(Running) && was != Some(Running) {
        kinds.push(Started);
    }
    let over = is.is_none_or(|state| state == Exited);
    if over && was != Some(Exited) {
        kinds.push(Stopped);
    }
    if is.is_none() {
        kinds.push(Deleted);
    }
    kinds
        .into_iter()
        .map(|kind| Change {
            kind,
            subject: LifeSubject::Container(known.id.clone()),
            pod: pod.cloned(),
        })
        .collect()
}

#[cfg(test)]
mod tests;
