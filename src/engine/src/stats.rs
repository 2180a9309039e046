//! What pods and containers use: CPU, memory, swap, pressure, network, disk.
//!
//! Everything is read from the kernel when it is asked for, by plain reads of small files that do not wait for anything:
//! no runtime is called, no path of a user is touched, and no lock of an operation is taken. The exception is the size of
//! writable layers, which is measured beside the requests (`disk`). What vanishes while it is read is left out.
//!
//! The reads of one request run on one blocking thread (network namespaces on another beside it), and a few requests at a
//! time: whoever asks faster than that waits for their turn, and takes nothing from the threads that operations need.
//! Metrics, which read much more, wait for each other alone.
//!
//! `parse` knows the words of the kernel's files, `cgroup` puts them together for either version, `reading` is what comes out.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
};

use spec::model::NamespaceMode;
use state::{ContainerId, PodId};
use storage::LayerStore;
use sys::{
    cgroup::Layout,
    cgroup_files::{CgroupFiles, OneCgroup},
    small_file::SmallFile,
};

mod cgroup;
mod cpu_times;
mod devices;
mod disk;
mod network;
mod parse;
mod processes;
mod rates;
pub mod reading;
mod threads;
mod turns;

use crate::{
    Engine,
    error::{EngineError, in_full},
    ledger::unix_now_ns,
    node::Node,
    teardown::joined,
    world::{Container, ContainerState, Pod, PodState, World},
};
use devices::DeviceNames;
use disk::Disk;
use rates::Rates;
use reading::{
    CgroupDetail, CgroupUse, ContainerMetrics, ContainerUse, LayersDisk, NetworkUse, PodMetrics,
    PodUse,
};
use turns::{Asked, Turns};

/// What is kept between readings.
#[derive(Debug)]
pub(crate) struct Stats {
    files: CgroupFiles,
    rates: Rates,
    disk: Disk,
    turns: Turns,
    huge_page_sizes: Vec<String>,
}

impl Stats {
    pub(crate) fn new(layout: Layout, store: LayerStore) -> Self {
        Self {
            files: CgroupFiles::new(layout),
            rates: Rates::default(),
            disk: Disk::new(store),
            turns: Turns::default(),
            huge_page_sizes: devices::huge_page_sizes(),
        }
    }
}

impl Engine {
    /// The directory of writable layers: what [`reading::DiskUse`] is about.
    pub fn writable_layers(&self) -> PathBuf {
        self.node.stats.disk.mountpoint()
    }

    /// The file system of writable layers, as far as it is known by now.
    pub fn writable_layers_disk(&self) -> Option<LayersDisk> {
        self.node.stats.disk.filesystem()
    }

    /// What one container uses, whatever its state.
    ///
    /// # Errors
    /// None, or several, have this id.
    pub async fn container_stats(&self, id: &str) -> Result<ContainerUse, EngineError> {
        let container = self.container(id)?;
        let id = container.id.clone();
        let found = self
            .read(Asked::Statistics, std::slice::from_ref(&id), move |node| {
                node.container_use(&container, &mut SmallFile::default())
            })
            .await?;
        Ok(found)
    }

    /// What these containers use, but for those that are gone meanwhile.
    ///
    /// # Errors
    /// None but those of a server that is about to end.
    pub async fn container_stats_of(
        &self,
        containers: Vec<Arc<Container>>,
    ) -> Result<Vec<ContainerUse>, EngineError> {
        let ids: Vec<_> = containers.iter().map(|c| c.id.clone()).collect();
        self.read(Asked::Statistics, &ids, move |node| {
            let mut buffer = SmallFile::default();
            node.container_uses(&containers, &mut buffer)
        })
        .await
    }

    /// What one pod uses, whatever its state.
    ///
    /// # Errors
    /// None, or several, have this id.
    pub async fn pod_stats(&self, id: &str) -> Result<PodUse, EngineError> {
        let pod = self.pod(id)?;
        let mut found = self.pod_stats_of(vec![Arc::clone(&pod)]).await?;
        Ok(found.pop().unwrap_or(PodUse {
            pod,
            cgroup: None,
            network: None,
            containers: Vec::new(),
        }))
    }

    /// What these pods and their running containers use, but for those that are gone meanwhile.
    ///
    /// # Errors
    /// None but those of a server that is about to end.
    pub async fn pod_stats_of(&self, pods: Vec<Arc<Pod>>) -> Result<Vec<PodUse>, EngineError> {
        let work = Work::new(self.world(), pods);
        self.read(Asked::Statistics, &work.containers(), move |node| {
            node.pod_uses(&work)
        })
        .await
    }

    /// Everything that metrics tell, of all pods that are ready.
    ///
    /// # Errors
    /// None but those of a server that is about to end.
    pub async fn pod_metrics(&self) -> Result<Vec<PodMetrics>, EngineError> {
        let world = self.world();
        let ready = world
            .pods
            .values()
            .filter(|pod| pod.state == PodState::Ready);
        let pods = ready.cloned().collect();
        let work = Work::new(world, pods);
        self.read(Asked::Metrics, &work.containers(), move |node| {
            node.pod_metrics(&work)
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        asked: Asked,
        containers: &[ContainerId],
        read: impl FnOnce(&Node) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let stats = &self.node.stats;
        stats.disk.refresh(containers).await;
        let turn = stats.turns.of(asked).acquire_owned().await;
        let node = Arc::clone(&self.node);
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            node.forget_the_gone();
            Ok(read(&node))
        });
        joined(read.await)
    }
}

/// What metrics read of one container, or of its pod's own cgroup, which comes after its containers.
enum Read {
    Container(Option<ContainerMetrics>),
    Pod(Option<(CgroupUse, CgroupDetail)>),
}

/// Pods to look at, and the world they are in.
struct Work {
    world: Arc<World>,
    pods: Vec<Arc<Pod>>,
    /// Running containers.
    running: HashMap<PodId, Vec<Arc<Container>>>,
}

impl Work {
    fn new(world: Arc<World>, pods: Vec<Arc<Pod>>) -> Self {
        let wanted: BTreeSet<&PodId> = pods.iter().map(|pod| &pod.id).collect();
        let mut running: HashMap<PodId, Vec<Arc<Container>>> = HashMap::new();
        for container in world.containers.values() {
            if container.state == ContainerState::Running && wanted.contains(&container.pod) {
                let of_pod = running.entry(container.pod.clone()).or_default();
                of_pod.push(Arc::clone(container));
            }
        }
        drop(wanted);
        Self {
            world,
            pods,
            running,
        }
    }

    fn containers(&self) -> Vec<ContainerId> {
        self.running
            .values()
            .flatten()
            .map(|container| container.id.clone())
            .collect()
    }

    fn running(&self, pod: &Pod) -> &[Arc<Container>] {
        self.running.get(&pod.id).map_or(&[], Vec::as_slice)
    }

    /// How many pods have their cgroups below each parent.
    fn parents(&self) -> HashMap<&str, usize> {
        let mut parents = HashMap::new();
        for pod in self.world.pods.values().filter(|pod| !pod.released) {
            *parents.entry(pod.cgroup_parent.as_str()).or_default() += 1;
        }
        parents
    }
}

/// Whether what is counted in a pod's cgroup parent is the pod's alone. Kubelet makes a cgroup for each pod and names it by
/// the pod's uid; other clients let many pods, or whatever else, share one.
fn has_own_cgroup(pod: &Pod, parents: &HashMap<&str, usize>) -> bool {
    let parent = pod.cgroup_parent.as_str();
    if parents.get(parent).is_some_and(|pods| *pods > 1) {
        return false;
    }
    let uid = pod.config.metadata.uid.as_str();
    let name = parent.rsplit('/').next().unwrap_or_default();
    let name = name.strip_suffix(".slice").unwrap_or(name);
    // In names of systemd's slices a dash is a step down.
    let named_so = !uid.is_empty()
        && [uid.to_owned(), uid.replace('-', "_")]
            .iter()
            .any(|uid| name.ends_with(&format!("pod{uid}")));
    named_so || pod.own_cgroups.first().is_some_and(|own| own == parent)
}

/// Whether its cgroup is its own; an exited container's may be another's by now.
fn has_cgroup(container: &Container) -> bool {
    matches!(
        container.state,
        ContainerState::Created | ContainerState::Running
    )
}

impl Node {
    fn forget_the_gone(&self) {
        let world = self.ledger.world();
        let (pods, containers) = (world.pods.len(), world.containers.len());
        let rates = &self.stats.rates;
        rates.retain(2 * pods + containers, || self.counted_cgroups());
        self.stats
            .disk
            .retain(containers, |id| world.containers.contains_key(id));
    }

    fn cgroup_use(&self, path: &str, buffer: &mut SmallFile) -> Option<CgroupUse> {
        let cgroup = self.stats.files.of(path).ok()?;
        self.use_of(path, &cgroup, buffer)
    }

    fn use_of(
        &self,
        path: &str,
        cgroup: &OneCgroup<'_>,
        buffer: &mut SmallFile,
    ) -> Option<CgroupUse> {
        cgroup::usage(cgroup, buffer, |reading| self.stats.rates.of(path, reading))
    }

    fn container_use(&self, container: &Arc<Container>, buffer: &mut SmallFile) -> ContainerUse {
        let cgroup = has_cgroup(container)
            .then(|| self.cgroup_use(&container.cgroup, buffer))
            .flatten();
        ContainerUse {
            container: Arc::clone(container),
            cgroup,
            disk: self.stats.disk.of(&container.id),
        }
    }

    fn container_uses(
        &self,
        containers: &[Arc<Container>],
        buffer: &mut SmallFile,
    ) -> Vec<ContainerUse> {
        containers
            .iter()
            .map(|container| self.container_use(container, buffer))
            .filter(|found| found.cgroup.is_some())
            .collect()
    }

    /// What is in a pod's cgroup beside its containers'.
    fn pause_cgroup(&self, pod: &Pod) -> Option<String> {
        if !pod.has_pause || pod.released {
            return None;
        }
        let systemd = self.config.systemd_cgroup;
        let name =
            spec::cgroup::CgroupName::new(systemd, &pod.cgroup_parent, pod.id.as_str()).ok()?;
        Some(format!("/{}", name.directory.display()))
    }

    fn pod_use(
        &self,
        pod: &Pod,
        parents: &HashMap<&str, usize>,
        containers: &[ContainerUse],
        buffer: &mut SmallFile,
    ) -> Option<CgroupUse> {
        if pod.released {
            return None;
        }
        if has_own_cgroup(pod, parents) {
            return self.cgroup_use(&pod.cgroup_parent, buffer);
        }
        let pause = self.pause_cgroup(pod);
        let pause = pause.and_then(|path| self.cgroup_use(&path, buffer));
        let parts = containers.iter().filter_map(|one| one.cgroup.as_ref());
        cgroup::sum(parts.chain(&pause))
    }

    fn pod_uses(&self, work: &Work) -> Vec<PodUse> {
        let parents = work.parents();
        let (mut networks, cgroups) = self.beside_networks(&work.pods, || {
            let mut buffer = SmallFile::default();
            let mut found = Vec::with_capacity(work.pods.len());
            for pod in &work.pods {
                let containers = self.container_uses(work.running(pod), &mut buffer);
                let cgroup = self.pod_use(pod, &parents, &containers, &mut buffer);
                found.push((pod, cgroup, containers));
            }
            found
        });
        cgroups
            .into_iter()
            .map(|(pod, cgroup, containers)| PodUse {
                pod: Arc::clone(pod),
                cgroup,
                network: networks.remove(&pod.id),
                containers,
            })
            .collect()
    }

    fn pod_metrics(&self, work: &Work) -> Vec<PodMetrics> {
        let parents = work.parents();
        let (mut networks, cgroups) = self.beside_networks(&work.pods, || {
            let jobs: Vec<(&Arc<Pod>, Option<&Arc<Container>>)> = work
                .pods
                .iter()
                .flat_map(|pod| {
                    let containers = work.running(pod).iter().map(Some);
                    containers.chain([None]).map(move |job| (pod, job))
                })
                .collect();
            let start = || (DeviceNames::default(), SmallFile::default());
            let mut read =
                threads::each(
                    &jobs,
                    start,
                    |(names, buffer), (pod, container)| match container {
                        Some(container) => {
                            Read::Container(self.container_metrics(container, names, buffer))
                        }
                        None => Read::Pod(
                            (!pod.released && has_own_cgroup(pod, &parents))
                                .then(|| self.use_and_detail(&pod.cgroup_parent, names, buffer))
                                .flatten()
                                .map(|(usage, detail, _)| (usage, detail)),
                        ),
                    },
                )
                .into_iter();
            let mut found = Vec::with_capacity(work.pods.len());
            for pod in &work.pods {
                let mut containers = Vec::new();
                for read in read.by_ref() {
                    match read {
                        Read::Container(container) => containers.extend(container),
                        Read::Pod(cgroup) => {
                            found.push((pod, cgroup, containers));
                            break;
                        }
                    }
                }
            }
            found
        });
        cgroups
            .into_iter()
            .map(|(pod, cgroup, containers)| PodMetrics {
                pod: Arc::clone(pod),
                cgroup,
                network: networks.remove(&pod.id),
                containers,
            })
            .collect()
    }

    /// `None` if its cgroup is gone.
    fn container_metrics(
        &self,
        container: &Arc<Container>,
        names: &mut DeviceNames,
        buffer: &mut SmallFile,
    ) -> Option<ContainerMetrics> {
        let (usage, detail, cgroup) = self.use_and_detail(&container.cgroup, names, buffer)?;
        // Any controller that is always there lists them.
        let processes = ["pids", "memory", "cpuacct"]
            .iter()
            .find_map(|controller| cgroup.processes(controller, buffer));
        Some(ContainerMetrics {
            usage: ContainerUse {
                container: Arc::clone(container),
                cgroup: Some(usage),
                disk: self.stats.disk.of(&container.id),
            },
            detail,
            processes: processes.map(|found| processes::usage(&found, container.pid, buffer)),
        })
    }

    /// What a cgroup uses, with the details of the same moment; `None` if it is gone.
    fn use_and_detail(
        &self,
        path: &str,
        names: &mut DeviceNames,
        buffer: &mut SmallFile,
    ) -> Option<(CgroupUse, CgroupDetail, OneCgroup<'_>)> {
        let cgroup = self.stats.files.all_of(path).ok()?;
        let usage = self.use_of(path, &cgroup, buffer)?;
        let mut detail = cgroup::detail(&cgroup, &self.stats.huge_page_sizes, buffer);
        for device in &mut detail.devices {
            names
                .get(device.major, device.minor, buffer)
                .clone_into(&mut device.device);
        }
        Some((usage, detail, cgroup))
    }

    /// Does something while the pods' network namespaces are looked into.
    fn beside_networks<T>(
        &self,
        pods: &[Arc<Pod>],
        work: impl FnOnce() -> T,
    ) -> (HashMap<PodId, NetworkUse>, T) {
        let own: Vec<&Arc<Pod>> = pods
            .iter()
            .filter(|pod| {
                !pod.released && pod.config.security.namespaces.network != NamespaceMode::Node
            })
            .collect();
        let paths: Vec<PathBuf> = own.iter().map(|pod| self.paths.netns(&pod.id)).collect();
        let (texts, result) = sys::net_dev::while_working(&paths, work);
        let texts = texts.unwrap_or_else(|error| {
            tracing::warn!(error = in_full(&error), "no network statistics");
            Vec::new()
        });
        let at_unix_ns = unix_now_ns();
        let networks = own
            .into_iter()
            .zip(texts)
            .filter_map(|(pod, text)| Some((pod.id.clone(), network::usage(&text?, at_unix_ns))))
            .collect();
        (networks, result)
    }
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
