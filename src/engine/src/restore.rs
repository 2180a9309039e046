//! At the server's start: what a former one left.
//!
//! 1. The records are read into a world. One that cannot be read, such as one of a later version, is set aside with an error
//!    in the log; it must not keep the others from being served. What it is about may well run: nothing of it is touched.
//! 2. Undo records are carried out: what was half-made goes. Networks are detached after the server serves: plugins may
//!    depend on pods of this node.
//! 3. Each pod's monitor is connected again and says which containers ended meanwhile, and how. A pod without a monitor
//!    is not ready, and its containers are ended. One whose monitor may live and cannot be reached stays as recorded until
//!    it is known.
//! 4. What belongs to no record goes: directories, network attachments of a former boot, writable layers.

mod pods;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use image::ImageLease;
use spec::model::PodMetadata;
use state::{ChainId, ContainerId, PodId, PodsContents};

use crate::{
    error::{EngineError, in_full},
    ledger::UndoSeq,
    node::Node,
    teardown::{Undo, joined},
    world::{Container, Pod, World},
};

/// How long the start of the server waits for what a former one left to be undone.
const UNDO_PATIENCE: Duration = Duration::from_secs(10);

/// What the records say.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) world: World,
    pub(crate) undos: Vec<(UndoSeq, Undo)>,
    pub(crate) next_undo: u64,
    pub(crate) set_aside: SetAside,
}

/// Pods and containers whose records cannot be read. They may run, and clients do not see them: nothing is made that would be
/// a second one of the same.
#[derive(Debug, Default)]
pub(crate) struct SetAside {
    /// The pods, with their UIDs as far as the records tell.
    pods: HashMap<PodId, Option<String>>,
    /// The containers, with their pods.
    containers: HashMap<ContainerId, PodId>,
    /// The layers below each of them, as far as the records tell.
    layers: Vec<Vec<ChainId>>,
    /// Keep those.
    leases: Mutex<Vec<ImageLease>>,
}

/// The part of a pod's record that tells whose it is.
#[derive(serde::Deserialize)]
struct Whose {
    config: WhoseConfig,
}

#[derive(serde::Deserialize)]
struct WhoseConfig {
    metadata: PodMetadata,
}

/// The part of a container's record that decides what may be deleted below it.
#[derive(serde::Deserialize)]
struct Layers {
    #[serde(default)]
    layers: Vec<ChainId>,
    #[serde(default)]
    volume_layers: Vec<ChainId>,
}

impl SetAside {
    fn add_pod(&mut self, id: PodId, record: &[u8]) {
        let whose = serde_json::from_slice::<Whose>(record).ok();
        self.pods
            .insert(id, whose.map(|whose| whose.config.metadata.uid));
    }

    fn add_container(&mut self, id: ContainerId, pod: PodId, record: &[u8]) {
        if let Ok(layers) = serde_json::from_slice::<Layers>(record) {
            self.layers
                .push([layers.layers, layers.volume_layers].concat());
        }
        self.containers.insert(id, pod);
    }

    /// Whether this pod's record is one of those.
    pub(crate) fn has_pod(&self, id: &PodId) -> bool {
        self.pods.contains_key(id)
    }

    /// Refuses a pod if it may run already.
    pub(crate) fn check_pod(&self, uid: &str) -> Result<(), EngineError> {
        let same = |known: &Option<String>| known.as_deref() == Some(uid);
        match self.pods.iter().find(|(_, known)| same(known)) {
            Some((pod, _)) => Err(EngineError::SetAside {
                what: format!("pod {pod}, which has the same UID,"),
            }),
            None => Ok(()),
        }
    }

    /// Refuses a container if it may run already in its pod.
    pub(crate) fn check_container(&self, pod: &PodId) -> Result<(), EngineError> {
        match self.containers.iter().find(|(_, known)| *known == pod) {
            Some((container, _)) => Err(EngineError::SetAside {
                what: format!("container {container} of the same pod"),
            }),
            None => Ok(()),
        }
    }

    /// What operators have to know; nothing if all records were read.
    pub(crate) fn warning(&self) -> Option<String> {
        let (pods, containers) = (self.pods.len(), self.containers.len());
        (pods + containers > 0).then(|| {
            format!(
                "the records of {pods} pods and {containers} containers cannot be read, and what they are about is left as it is: \
                 the log names them; the version of pintle that wrote them can read them"
            )
        })
    }
}

/// Read the records.
pub(crate) fn read(contents: PodsContents) -> Found {
    let mut world = World::default();
    let mut set_aside = SetAside::default();
    for (id, body) in contents.pods {
        match serde_json::from_slice::<Pod>(&body) {
            Ok(pod) => {
                world.pods.insert(id, Arc::new(pod));
            }
            Err(error) => {
                tracing::error!(pod = %id, error = in_full(&error), "its record cannot be read; it is set aside");
                set_aside.add_pod(id, &body);
            }
        }
    }
    for (id, pod, body) in contents.containers {
        match serde_json::from_slice::<Container>(&body) {
            Ok(container) => {
                world.containers.insert(id, Arc::new(container));
            }
            Err(error) => {
                tracing::error!(container = %id, error = in_full(&error), "its record cannot be read; it is set aside");
                set_aside.add_container(id, pod, &body);
            }
        }
    }
    let mut undos = Vec::new();
    let mut next_undo = 1;
    for row in contents.undos {
        next_undo = row.seq + 1;
        match serde_json::from_slice(&row.body) {
            Ok(undo) => undos.push((UndoSeq(row.seq), undo)),
            // Of what it was about, the sweep finds what has a directory or an attachment.
            Err(error) => {
                tracing::error!(of = %row.owner, error = in_full(&error), "an undo record cannot be read; it is set aside");
            }
        }
    }
    Found {
        world,
        undos,
        next_undo,
        set_aside,
    }
}

impl Node {
    /// Bring the node in line with the records.
    pub(crate) async fn restore(self: &Arc<Self>, found: Found) -> Result<(), EngineError> {
        let pods = found.world.pods.clone();
        let mut tasks = tokio::task::JoinSet::new();
        for pod in pods.values() {
            tasks.spawn({
                let (node, pod) = (Arc::clone(self), Arc::clone(pod));
                async move { node.restore_pod(&pod).await }
            });
        }
        while let Some(outcome) = tasks.join_next().await {
            if let Err(error) = outcome {
                tracing::error!(error = in_full(&error), "the restore of a pod panicked");
            }
        }
        for container in found.world.containers.values() {
            let mut layers = container.layers.clone();
            layers.extend(container.volume_layers.iter().cloned());
            // Those of additional stores may be away: it goes on with what it has mounted, and keeps the others.
            let lease = self.images.lease_layers(&layers);
            if !lease.is_whole() {
                tracing::warn!(container = %container.id, image = %container.image_id, "layers of it are gone");
            }
            let live = self.live.container(&container.id);
            *live.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
        }
        self.lease_what_is_set_aside();
        self.lease_what_is_half_made(&found.undos);
        let count = found.undos.len();
        self.end_former_plugins(&found.undos).await;
        self.undo_within_patience(found.undos).await;
        self.sweep().await;
        self.sweep_scopes().await;
        let world = self.ledger.world();
        tracing::info!(
            pods = world.pods.len(),
            containers = world.containers.len(),
            undone = count,
            deferred = self.deferred.count(),
            "took over what a former server left"
        );
        Ok(())
    }

    fn lease_what_is_set_aside(&self) {
        let layers = &self.set_aside.layers;
        let leases: Vec<_> = layers
            .iter()
            .map(|layers| self.images.lease_layers(layers))
            .collect();
        if !leases.iter().all(ImageLease::is_whole) {
            tracing::warn!("layers of containers whose records cannot be read are gone");
        }
        *self
            .set_aside
            .leases
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = leases;
    }

    /// What is mounted of layers keeps them until it was taken apart, which may take long.
    fn lease_what_is_half_made(&self, undos: &[(UndoSeq, Undo)]) {
        for (_, undo) in undos {
            if let Undo::Container(remains) = undo {
                let lease = self.images.lease_layers(&remains.layers);
                let live = self.live.container(&remains.id);
                *live.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
            }
        }
    }

    /// Ends network plugins that a former server was killed beside: an ADD that goes on after its DEL leaves an address behind.
    async fn end_former_plugins(&self, undos: &[(UndoSeq, Undo)]) {
        let attachments = undos.iter().filter_map(|(_, undo)| match undo {
            Undo::Pod(remains) => remains.network.as_ref(),
            Undo::Detach(attachment) => Some(attachment),
            Undo::Container(_) | Undo::Limits(_) => None,
        });
        let pods: Vec<String> = attachments
            .map(|attachment| attachment.pod_id.clone())
            .collect();
        if pods.is_empty() {
            return;
        }
        let patience = self.config.timeouts.kill;
        let ended = tokio::task::spawn_blocking(move || {
            let pods = pods.iter().map(String::as_str).collect();
            let variable = network::ATTACHMENT_VARIABLE;
            Ok(sys::leftovers::kill_by_environment(
                variable, &pods, patience,
            )?)
        });
        match joined(ended.await) {
            Ok((0, true)) => {}
            Ok((count, true)) => {
                tracing::info!(count, "ended network plugins of a former server");
            }
            Ok((count, false)) => tracing::warn!(
                count,
                "network plugins of a former server do not end: what they still do is not undone"
            ),
            Err(error) => tracing::warn!(
                error = in_full(&error),
                "network plugins of a former server cannot be looked for"
            ),
        }
    }

    /// Whether something of this container's may be on the node for a reason.
    pub(crate) fn keeps_container(&self, world: &World, id: &ContainerId) -> bool {
        world.containers.contains_key(id)
            || self.set_aside.containers.contains_key(id)
            || self.deferred.has_container(id)
    }

    /// Undo what can be undone soon, side by side; the rest is for [`crate::undo::retry`]. A network plugin may want the
    /// node's other pods before it answers, and those want this server: nothing here waits for one for long.
    async fn undo_within_patience(self: &Arc<Self>, undos: Vec<(UndoSeq, Undo)>) {
        let mut tasks = tokio::task::JoinSet::new();
        for (seq, undo) in undos {
            if matches!(undo, Undo::Detach(_)) {
                self.deferred.add_untried(seq, undo);
                continue;
            }
            let node = Arc::clone(self);
            tasks.spawn(async move {
                let undone = node.undo_now_or_later(seq, undo.clone());
                if tokio::time::timeout(UNDO_PATIENCE, undone).await.is_err() {
                    tracing::warn!(
                        ?undo,
                        "an undo takes long; it goes on while pods are served"
                    );
                    node.deferred.add(seq, undo);
                }
            });
        }
        while let Some(outcome) = tasks.join_next().await {
            if let Err(error) = outcome {
                tracing::error!(error = in_full(&error), "an undo panicked");
            }
        }
    }

    /// Remove what belongs to no record. Errors are logged: leftovers must not keep the server from serving.
    async fn sweep(&self) {
        let world = self.ledger.world();
        for name in names_in(&self.paths.containers()) {
            if let Ok(id) = name.parse::<ContainerId>()
                && !self.keeps_container(&world, &id)
            {
                tracing::warn!(container = %id, "a bundle without a record is removed");
                note(crate::filesystem::take_apart(&self.store, &self.paths, &id));
            }
        }
        for name in names_in(&self.paths.pods()) {
            if let Ok(id) = name.parse::<PodId>()
                && !world.pods.contains_key(&id)
                && !self.set_aside.pods.contains_key(&id)
                && !self.deferred.has_pod(&id)
            {
                tracing::warn!(pod = %id, "a pod's directory without a record is removed");
                let remains = crate::teardown::PodRemains {
                    id,
                    runtime: String::new(),
                    network: None,
                    has_pause: false,
                    own_cgroups: Vec::new(),
                    monitor_cgroup: None,
                };
                note(self.undo(&Undo::Pod(remains)).await);
            }
        }
        for attachment in self.network.attachments_left() {
            let known = attachment.pod_id.parse::<PodId>().is_ok_and(|id| {
                self.set_aside.pods.contains_key(&id)
                    || world.pods.get(&id).is_some_and(|pod| !pod.released)
            });
            let is_ours = attachment.pod_id.parse::<PodId>().is_ok();
            if is_ours && !known {
                tracing::warn!(pod = %attachment.pod_id, "a network attachment of a former boot is removed");
                // Its record on the disk tells the next start of it, should this one not come to it.
                if !self.deferred.has_detach(&attachment.pod_id) {
                    let owner = attachment.pod_id.clone();
                    note(self.defer(&owner, Undo::Detach(attachment)).await);
                }
            }
        }
        note(
            self.store
                .sweep_containers(|name| {
                    name.parse::<ContainerId>()
                        .is_ok_and(|id| self.keeps_container(&world, &id))
                })
                .map_err(Into::into),
        );
    }
}

fn note(outcome: Result<(), EngineError>) {
    if let Err(error) = outcome {
        tracing::warn!(
            error = in_full(&error),
            "a leftover could not be removed whole"
        );
    }
}

fn names_in(directory: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use state::UndoRow;

    use super::*;

    #[test]
    fn records_that_cannot_be_read_keep_no_others_from_being_read() {
        let undo = |seq, body: &[u8]| UndoRow {
            seq,
            owner: "a pod".to_owned(),
            body: body.to_vec(),
        };
        let good = serde_json::to_vec(&Undo::Detach(network::Attachment::default()));
        let found = read(PodsContents {
            pods: vec![(PodId::random(), b"{}".to_vec())],
            containers: vec![(ContainerId::random(), PodId::random(), b"\xff".to_vec())],
            undos: vec![
                undo(3, &good.unwrap_or_default()),
                undo(4, b"{\"Pod\":7}"),
                undo(9, b""),
            ],
            ..PodsContents::default()
        });
        assert!(found.world.pods.is_empty() && found.world.containers.is_empty());
        let read: Vec<_> = found.undos.iter().map(|(seq, _)| seq.0).collect();
        assert_eq!(read, [3]);
        // Those set aside keep their numbers.
        assert_eq!(found.next_undo, 10);
        assert_eq!(
            (found.set_aside.pods.len(), found.set_aside.containers.len()),
            (1, 1)
        );
        let warning = found.set_aside.warning().unwrap_or_default();
        assert!(warning.contains("1 pods and 1 containers"), "{warning}");
        assert_eq!(SetAside::default().warning(), None);
    }

    #[test]
    fn the_layers_of_a_record_of_a_later_version_are_known() {
        let mut set_aside = SetAside::default();
        let layer = format!("sha256:{}", "1".repeat(64));
        let record =
            serde_json::json!({"state": "Frozen", "layers": [layer], "volume_layers": [layer]});
        let pod = PodId::random();
        set_aside.add_container(
            ContainerId::random(),
            pod.clone(),
            record.to_string().as_bytes(),
        );
        set_aside.add_container(ContainerId::random(), PodId::random(), b"\xff");
        assert_eq!(set_aside.layers.concat().len(), 2);
        assert_eq!(set_aside.containers.len(), 2);
        assert!(set_aside.check_container(&pod).is_err());
        assert!(set_aside.check_container(&PodId::random()).is_ok());
    }

    #[test]
    fn the_uid_of_a_record_of_a_later_version_is_known() {
        let mut set_aside = SetAside::default();
        let metadata = PodMetadata {
            uid: "1-2".to_owned(),
            ..PodMetadata::default()
        };
        let record = serde_json::json!({"state": "Frozen", "config": {"metadata": metadata}});
        set_aside.add_pod(PodId::random(), record.to_string().as_bytes());
        set_aside.add_pod(PodId::random(), b"");
        assert!(set_aside.check_pod("1-2").is_err());
        assert!(set_aside.check_pod("1-3").is_ok());
    }
}
