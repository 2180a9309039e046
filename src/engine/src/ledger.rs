//! The only way to change the world: the record goes to the database first in line, then the new snapshot is published.
//!
//! One mutex orders the writers. Under it a change is computed from the newest world, queued for the database's writer
//! thread and published; outside of it the caller waits for the commit. So the order of commits is the order of
//! snapshots, readers wait for nothing, and no lock is held across an await. Events are sent under the same lock, after the snapshot
//! that shows them. New objects are committed before they are
//! published: a client never sees a pod that a crash could take back.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use serde::Serialize;
use state::{ContainerId, PodId, PodsChange, PodsDb, StateError};
use tokio::sync::watch;

use crate::{
    error::EngineError,
    feed::{self, Feed, Subscription},
    teardown::Undo,
    world::{Container, Pod, World},
};

/// Identifies an undo record in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UndoSeq(pub(crate) u64);

/// Records and snapshot of everything the node runs.
#[derive(Debug)]
pub(crate) struct Ledger {
    db: PodsDb,
    world: ArcSwap<World>,
    /// Orders writers; see the module's text.
    writer: Mutex<()>,
    /// Counts published worlds; those who wait for a state watch it.
    version: watch::Sender<u64>,
    /// Tells clients of what changes.
    feed: Feed,
    next_undo: AtomicU64,
    last_time: AtomicI64,
}

impl Ledger {
    pub(crate) fn new(db: PodsDb, world: World, next_undo: u64) -> Self {
        Self {
            db,
            world: ArcSwap::from_pointee(world),
            writer: Mutex::new(()),
            version: watch::Sender::new(0),
            feed: Feed::default(),
            next_undo: AtomicU64::new(next_undo),
            last_time: AtomicI64::new(0),
        }
    }

    /// The newest world.
    pub(crate) fn world(&self) -> Arc<World> {
        self.world.load_full()
    }

    /// A time stamp, in nanoseconds since 1970, that no other call of this server was given: clients order by it.
    pub(crate) fn timestamp(&self) -> i64 {
        let now = unix_now_ns();
        let last = self
            .last_time
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| {
                Some(now.max(last + 1))
            })
            .unwrap_or_else(|last| last);
        now.max(last + 1)
    }

    /// Note what must be taken apart if the server dies or the operation fails from here on.
    pub(crate) async fn record_undo(
        &self,
        owner: &str,
        undo: &Undo,
    ) -> Result<UndoSeq, EngineError> {
        let seq = self.next_undo.fetch_add(1, Ordering::SeqCst);
        let body = encode(owner, undo)?;
        self.db
            .write(vec![PodsChange::PutUndo {
                seq,
                owner: owner.to_owned(),
                body,
            }])
            .await?;
        Ok(UndoSeq(seq))
    }

    /// The undo was carried out, or is not needed any more.
    pub(crate) async fn forget_undo(&self, seq: UndoSeq) -> Result<(), EngineError> {
        Ok(self
            .db
            .write(vec![PodsChange::DeleteUndo { seq: seq.0 }])
            .await?)
    }

    /// A complete pod: its record replaces its undo, then everyone sees it.
    pub(crate) async fn add_pod(&self, pod: Pod, undo: UndoSeq) -> Result<(), EngineError> {
        let body = encode(pod.id.as_str(), &pod)?;
        self.db
            .write(vec![
                PodsChange::PutPod {
                    id: pod.id.clone(),
                    body,
                },
                PodsChange::DeleteUndo { seq: undo.0 },
            ])
            .await?;
        let pod = Arc::new(pod);
        self.publish(|world| {
            world.pods.insert(pod.id.clone(), Arc::clone(&pod));
            feed::pod_changes(None, Some(&pod))
        });
        Ok(())
    }

    /// A complete container: its record replaces its undo, then everyone sees it.
    pub(crate) async fn add_container(
        &self,
        container: Container,
        undo: UndoSeq,
    ) -> Result<(), EngineError> {
        let body = encode(container.id.as_str(), &container)?;
        let (id, pod) = (container.id.clone(), container.pod.clone());
        self.db
            .write(vec![
                PodsChange::PutContainer {
                    id: id.clone(),
                    pod,
                    body,
                },
                PodsChange::DeleteUndo { seq: undo.0 },
            ])
            .await?;
        let container = Arc::new(container);
        self.publish(|world| {
            world.containers.insert(id, Arc::clone(&container));
            let pod = world.pods.get(&container.pod);
            feed::container_changes(None, Some(&container), pod)
        });
        Ok(())
    }

    /// Replace a pod by what `change` makes of it. `None` from `change`, or an unknown id, changes nothing.
    pub(crate) async fn change_pod(
        &self,
        id: &PodId,
        change: impl FnOnce(&Pod) -> Option<Pod>,
    ) -> Result<Option<Arc<Pod>>, EngineError> {
        let (pod, commit) = {
            let _order = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let mut world = World::clone(&self.world.load());
            let Some(old) = world.pods.get(id).cloned() else {
                return Ok(None);
            };
            let Some(pod) = change(&old) else {
                return Ok(None);
            };
            let body = encode(id.as_str(), &pod)?;
            let commit = self.db.submit(vec![PodsChange::PutPod {
                id: id.clone(),
                body,
            }]);
            let pod = Arc::new(pod);
            world.pods.insert(id.clone(), Arc::clone(&pod));
            self.swap(world, feed::pod_changes(Some(&old), Some(&pod)));
            (pod, commit)
        };
        commit.await?;
        Ok(Some(pod))
    }

    /// Replace a container by what `change` makes of it. `None` from `change`, or an unknown id, changes nothing.
    pub(crate) async fn change_container(
        &self,
        id: &ContainerId,
        change: impl FnOnce(&Container) -> Option<Container>,
    ) -> Result<Option<Arc<Container>>, EngineError> {
        let (container, commit) = {
            let _order = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let mut world = World::clone(&self.world.load());
            let Some(old) = world.containers.get(id).cloned() else {
                return Ok(None);
            };
            let Some(container) = change(&old) else {
                return Ok(None);
            };
            let body = encode(id.as_str(), &container)?;
            let pod = container.pod.clone();
            let commit = self.db.submit(vec![PodsChange::PutContainer {
                id: id.clone(),
                pod,
                body,
            }]);
            let container = Arc::new(container);
            world.containers.insert(id.clone(), Arc::clone(&container));
            let in_pod = world.pods.get(&container.pod);
            let changes = feed::container_changes(Some(&old), Some(&container), in_pod);
            self.swap(world, changes);
            (container, commit)
        };
        commit.await?;
        Ok(Some(container))
    }

    /// The pod is gone from the node, and so is its record.
    pub(crate) async fn remove_pod(&self, id: &PodId) -> Result<(), EngineError> {
        self.publish(|world| {
            let old = world.pods.remove(id);
            feed::pod_changes(old.as_ref(), None)
        });
        Ok(self
            .db
            .write(vec![PodsChange::DeletePod(id.clone())])
            .await?)
    }

    /// The container is gone from the node, and so is its record.
    pub(crate) async fn remove_container(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.publish(|world| {
            let old = world.containers.remove(id);
            let pod = old.as_ref().and_then(|old| world.pods.get(&old.pod));
            feed::container_changes(old.as_deref(), None, pod)
        });
        Ok(self
            .db
            .write(vec![PodsChange::DeleteContainer(id.clone())])
            .await?)
    }

    /// Wait until `seen` finds what it looks for in the world.
    pub(crate) async fn until<T>(&self, mut seen: impl FnMut(&World) -> Option<T>) -> T {
        let mut version = self.version.subscribe();
        loop {
            version.mark_unchanged();
            if let Some(found) = seen(&self.world.load()) {
                return found;
            }
            if version.changed().await.is_err() {
                // The sender lives in `self`: this cannot be reached while the borrow lasts.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Goes the way of a change that changes nothing: the newest world is read under the writers' lock, and the database's
    /// writer comes as far as this call.
    ///
    /// # Errors
    /// The writer has ended. A full file system is none of its troubles: it is told to those who want something written.
    pub(crate) async fn check(&self) -> Result<(), EngineError> {
        let committed = {
            let _order = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let world = self.world.load();
            self.world.store(Arc::clone(&world));
            self.db.barrier()
        };
        match committed.await {
            Err(StateError::Write { .. }) | Ok(()) => Ok(()),
            Err(gone) => Err(gone.into()),
        }
    }

    /// Every event from now on; see [`feed`].
    pub(crate) fn subscribe(&self) -> Subscription {
        let _order = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.feed
            .subscribe(&self.world.load_full(), || self.timestamp())
    }

    /// Subscribers may come from now on.
    pub(crate) fn open_feed(&self) {
        let _order = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.feed
            .open(feed::recent_stops(&self.world.load(), unix_now_ns()));
    }

    fn publish(&self, change: impl FnOnce(&mut World) -> Vec<feed::Change>) {
        let _order = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut world = World::clone(&self.world.load());
        let changes = change(&mut world);
        self.swap(world, changes);
    }

    /// The writer's lock is held.
    fn swap(&self, world: World, changes: Vec<feed::Change>) {
        let world = Arc::new(world);
        self.world.store(Arc::clone(&world));
        self.version.send_modify(|version| *version += 1);
        self.feed.tell(changes, &world, || self.timestamp());
    }
}

/// Nanoseconds since 1970 by the node's clock.
pub(crate) fn unix_now_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn encode(id: &str, value: &impl Serialize) -> Result<Vec<u8>, EngineError> {
    serde_json::to_vec(value).map_err(|source| EngineError::Record {
        id: id.to_owned(),
        source,
    })
}
