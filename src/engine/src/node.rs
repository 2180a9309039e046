//! The engine's inside: configuration, what it drives, and the look-ups that every operation begins with.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use image::Images;
use network::Network;
use runtime::{Monitor, MonitorSpawn, OciRuntime};
use state::{ContainerId, PodId, PodsContents, PodsDb};
use storage::LayerStore;
use sys::cgroup::Layout;
use systemd::Systemd;
use tokio_util::task::TaskTracker;

use crate::{
    cgroups::Cgroups,
    error::EngineError,
    events,
    feed::Subscription,
    jobs::{JobView, Jobs},
    ledger::Ledger,
    live::Live,
    monitor_cgroup::MonitorCgroup,
    paths::Paths,
    restore::{self, SetAside},
    selinux::{self, Selinux, SelinuxConfig, Unused},
    stats::Stats,
    undo,
    undo::Deferred,
    units::Units,
    world::{Container, Pod, World},
};

/// A configured runtime handler.
#[derive(Clone, Debug)]
pub struct Handler {
    /// The name that pods ask for.
    pub name: String,
    /// The runtime behind it.
    pub runtime: OciRuntime,
    /// What specs may ask of it.
    pub features: spec::RuntimeFeatures,
    /// Every pod gets a pause container, as runtimes of virtual machines need.
    pub sandbox_container: bool,
    /// What it makes of a container, which has a say in SELinux types.
    pub guest: spec::selinux::Guest,
    /// It can give processes SELinux labels.
    pub labels_processes: bool,
}

/// How long each step may take. Generous: they end what hangs, not what is slow.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// RunPodSandbox in all.
    pub run_pod: Duration,
    /// CreateContainer in all.
    pub create_container: Duration,
    /// The runtime's `create`.
    pub runtime_create: Duration,
    /// The runtime's other commands.
    pub runtime_command: Duration,
    /// Processes' end after SIGKILL.
    pub kill: Duration,
    /// All looks of a request at paths of the node that it names.
    pub volume_check: Duration,
    /// SELinux labels for one volume with all that is in it.
    pub relabel: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            run_pod: Duration::from_secs(220),
            create_container: Duration::from_secs(110),
            runtime_create: Duration::from_secs(90),
            runtime_command: Duration::from_mins(1),
            kill: Duration::from_secs(10),
            volume_check: Duration::from_secs(10),
            relabel: Duration::from_secs(90),
        }
    }
}

/// What the engine is told at assembly.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Directory on tmpfs for what a reboot may take.
    pub run: PathBuf,
    /// Where network namespaces are pinned.
    pub netns_dir: PathBuf,
    /// The `pintle-monitor` binary.
    pub monitor: PathBuf,
    /// Cgroup for pods whose client names none.
    pub default_cgroup_parent: String,
    /// Cgroups by systemd instead of by cgroupfs.
    pub systemd_cgroup: bool,
    /// Where monitors stand.
    pub monitor_cgroup: MonitorCgroup,
    /// Usable handlers; [`Engine::add_handlers`] adds to them.
    pub handlers: Vec<Handler>,
    /// Name of the one that an empty name means.
    pub default_handler: String,
    /// The file with the classes of block I/O.
    pub blockio_classes: Option<PathBuf>,
    /// Directories of CDI files; a later one wins over an earlier one.
    pub cdi_dirs: Vec<PathBuf>,
    /// Whether and how SELinux is used.
    pub selinux: SelinuxConfig,
    /// What containers get unless they ask otherwise.
    pub spec_defaults: spec::SpecDefaults,
    /// Deadlines.
    pub timeouts: Timeouts,
}

/// One table of joinable jobs per operation.
#[derive(Debug)]
pub(crate) struct JobTables {
    pub(crate) run_pod: Jobs<PodId>,
    pub(crate) stop_pod: Jobs<()>,
    pub(crate) remove_pod: Jobs<()>,
    pub(crate) create_container: Jobs<ContainerId>,
    pub(crate) start_container: Jobs<()>,
    pub(crate) stop_container: Jobs<()>,
    pub(crate) remove_container: Jobs<()>,
    pub(crate) update_container: Jobs<()>,
}

impl JobTables {
    fn new(tracker: &TaskTracker) -> Self {
        Self {
            run_pod: Jobs::new("RunPodSandbox", tracker.clone()),
            stop_pod: Jobs::new("StopPodSandbox", tracker.clone()),
            remove_pod: Jobs::new("RemovePodSandbox", tracker.clone()),
            create_container: Jobs::new("CreateContainer", tracker.clone()),
            start_container: Jobs::new("StartContainer", tracker.clone()),
            stop_container: Jobs::new("StopContainer", tracker.clone()),
            remove_container: Jobs::new("RemoveContainer", tracker.clone()),
            update_container: Jobs::new("UpdateContainerResources", tracker.clone()),
        }
    }

    fn views(&self) -> Vec<JobView> {
        let mut views = self.run_pod.views();
        views.extend(self.create_container.views());
        for table in [
            &self.stop_pod,
            &self.remove_pod,
            &self.start_container,
            &self.stop_container,
            &self.remove_container,
            &self.update_container,
        ] {
            views.extend(table.views());
        }
        views
    }
}

/// Everything behind an [`Engine`].
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: EngineConfig,
    pub(crate) paths: Paths,
    pub(crate) cgroups: Cgroups,
    /// systemd's part, where it is the cgroup driver.
    pub(crate) units: Option<Units>,
    pub(crate) facts: spec::NodeFacts,
    /// SELinux, or why it is not used.
    pub(crate) selinux: Result<Selinux, Unused>,
    /// Why pods cannot have user namespaces; `None` if they can.
    pub(crate) no_user_namespaces: Option<String>,
    pub(crate) images: Images,
    pub(crate) store: LayerStore,
    pub(crate) network: Network,
    pub(crate) ledger: Ledger,
    pub(crate) live: Live,
    pub(crate) jobs: JobTables,
    pub(crate) deferred: Deferred,
    /// What the records say nothing about.
    pub(crate) set_aside: SetAside,
    pub(crate) stats: Stats,
    /// Only ever grows: pods need the handler that they were made with.
    pub(crate) handlers: ArcSwap<Vec<Handler>>,
    tracker: TaskTracker,
}

/// The lives of this node's pods and containers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(crate) node: Arc<Node>,
}

impl Engine {
    /// Take over the node: what a former server left running is running still, what it left half-made is undone.
    ///
    /// Returns when reads are right.
    ///
    /// # Errors
    /// When the records cannot be read or the directories not be made.
    pub async fn open(
        config: EngineConfig,
        db: PodsDb,
        contents: PodsContents,
        images: Images,
        store: LayerStore,
        network: Network,
    ) -> Result<Self, EngineError> {
        let mut found = restore::read(contents);
        let set_aside = std::mem::take(&mut found.set_aside);
        let ledger = Ledger::new(db, found.world.clone(), found.next_undo);
        let node = Arc::new(Node::new(
            config, ledger, set_aside, images, store, network,
        )?);
        if let Some(units) = &node.units {
            let version = units.systemd().version().await;
            let version = version.map_err(EngineError::NoSystemd)?;
            tracing::info!(version, "cgroups are made by systemd");
        }
        node.prepare_directories()?;
        node.label_layers()?;
        node.tell_of_selinux();
        node.restore(found).await?;
        node.ledger.open_feed();
        node.note_cpu_times();
        undo::retry(Arc::downgrade(&node));
        Ok(Self { node })
    }

    /// Offer more handlers from now on. Those whose names are known stay as they are: pods use them.
    pub fn add_handlers(&self, more: &[Handler]) {
        self.node.handlers.rcu(|handlers| {
            let mut handlers = Vec::clone(handlers);
            for handler in more {
                if !handlers.iter().any(|known| known.name == handler.name) {
                    handlers.push(handler.clone());
                }
            }
            handlers
        });
    }

    /// Everything that runs, as of now. Never waits.
    pub fn world(&self) -> Arc<World> {
        self.node.ledger.world()
    }

    /// What happens to pods and containers from now on, as events. Never waits.
    pub fn subscribe(&self) -> Subscription {
        self.node.ledger.subscribe()
    }

    /// A moment that is later than every event so far and earlier than every one to come, in nanoseconds since 1970.
    pub fn timestamp(&self) -> i64 {
        self.node.ledger.timestamp()
    }

    /// Whether the node could be changed now: reads the newest world and goes through everything that a change goes through,
    /// changing nothing. Does not return while that hangs: the caller bounds it.
    ///
    /// # Errors
    /// Nothing can be recorded any more.
    pub async fn self_check(&self) -> Result<(), EngineError> {
        self.node.ledger.check().await
    }

    /// A pod by its id or the unambiguous beginning of it.
    ///
    /// # Errors
    /// None, or several, have this id.
    pub fn pod(&self, id: &str) -> Result<Arc<Pod>, EngineError> {
        self.node.find_pod(id)
    }

    /// A container by its id or the unambiguous beginning of it.
    ///
    /// # Errors
    /// None, or several, have this id.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, EngineError> {
        self.node.find_container(id)
    }

    /// What runs at the moment, longest first.
    pub fn jobs(&self) -> Vec<JobView> {
        let mut views = self.node.jobs.views();
        views.sort_by_key(|view| std::cmp::Reverse(view.age));
        views
    }

    /// Wait for the running jobs. The caller bounds it; jobs cut off are finished or undone at the next start.
    pub async fn shutdown(&self) {
        self.node.tracker.close();
        self.node.tracker.wait().await;
    }
}

impl Node {
    /// A node of which nothing was looked at or touched yet.
    pub(crate) fn new(
        config: EngineConfig,
        ledger: Ledger,
        set_aside: SetAside,
        images: Images,
        store: LayerStore,
        network: Network,
    ) -> Result<Self, EngineError> {
        let layout = Layout::detect()?;
        let tracker = TaskTracker::new();
        let selinux = match selinux::look(config.selinux) {
            Err(why) if config.selinux.enabled == Some(true) => {
                return Err(EngineError::NoSelinux(why));
            }
            found => found.map(Selinux::new),
        };
        Ok(Self {
            paths: Paths::new(&config.run, &config.netns_dir),
            facts: crate::facts::gather(&layout, &config, selinux.is_ok())?,
            selinux,
            stats: Stats::new(layout.clone(), store.clone()),
            no_user_namespaces: crate::user_namespace::obstacle(store.root())?,
            cgroups: Cgroups::new(layout),
            units: config
                .systemd_cgroup
                .then(|| Units::new(Systemd::of_node(), &config.run)),
            images,
            store,
            network,
            ledger,
            live: Live::default(),
            jobs: JobTables::new(&tracker),
            deferred: Deferred::default(),
            set_aside,
            handlers: ArcSwap::from_pointee(config.handlers.clone()),
            tracker,
            config,
        })
    }

    fn prepare_directories(&self) -> Result<(), EngineError> {
        crate::pod_files::make_dir(&self.paths.pods())?;
        crate::pod_files::make_dir(&self.paths.containers())?;
        crate::pod_files::make_dir(&self.config.netns_dir)?;
        // The root of all pause containers: one static program, and the places where a runtime mounts. As the root of a
        // pod's user namespace it could not make those, and opens them like anybody.
        let rootfs = self.paths.pause_rootfs();
        let (program, part) = (rootfs.join("pause"), rootfs.join(".pause.new"));
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| EngineError::Io {
                action,
                path,
                source,
            }
        };
        for place in ["", "proc", "sys", "dev"] {
            let place = rootfs.join(place);
            crate::pod_files::make_dir(&place)?;
            self.label_for_all(&place)?;
            std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755))
                .map_err(io("set the permissions of", &place))?;
        }
        std::fs::copy(&self.config.monitor, &part).map_err(io("copy the monitor to", &part))?;
        self.label_for_all(&part)?;
        std::fs::rename(&part, &program).map_err(io("rename the pause program to", &program))
    }

    pub(crate) fn find_pod(&self, id: &str) -> Result<Arc<Pod>, EngineError> {
        let world = self.ledger.world();
        let found = by_id(&world.pods, id, "pods")?;
        found.ok_or_else(|| EngineError::PodNotFound(id.to_owned()))
    }

    pub(crate) fn find_container(&self, id: &str) -> Result<Arc<Container>, EngineError> {
        let world = self.ledger.world();
        let found = by_id(&world.containers, id, "containers")?;
        found.ok_or_else(|| EngineError::ContainerNotFound(id.to_owned()))
    }

    /// The handler that a request names; empty means the default.
    pub(crate) fn handler(&self, name: &str) -> Result<Handler, EngineError> {
        self.handler_by_name(if name.is_empty() {
            &self.config.default_handler
        } else {
            name
        })
    }

    pub(crate) fn handler_by_name(&self, name: &str) -> Result<Handler, EngineError> {
        let handlers = self.handlers.load();
        handlers
            .iter()
            .find(|handler| handler.name == name)
            .cloned()
            .ok_or_else(|| EngineError::UnknownHandler {
                name: name.to_owned(),
                known: handlers
                    .iter()
                    .map(|handler| handler.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    pub(crate) fn monitor_spawn(&self, id: &PodId) -> MonitorSpawn {
        MonitorSpawn {
            binary: self.config.monitor.clone(),
            pod_id: id.to_string(),
            socket: self.paths.monitor_socket(id),
            log: Some(self.paths.pod(id).join("monitor.log")),
        }
    }

    /// Begin to follow a pod's monitor.
    pub(crate) fn adopt_monitor(
        self: &Arc<Self>,
        id: &PodId,
        monitor: Monitor,
        reports: tokio::sync::mpsc::UnboundedReceiver<runtime::MonitorEvent>,
    ) {
        self.live.add_pod(id.clone(), monitor);
        events::watch(Arc::downgrade(self), id.clone(), reports);
    }
}

/// The object of this id, or the only one whose id begins so.
fn by_id<K, V>(
    objects: &imbl::OrdMap<K, Arc<V>>,
    id: &str,
    what: &'static str,
) -> Result<Option<Arc<V>>, EngineError>
where
    K: Ord + Clone + std::borrow::Borrow<str>,
{
    if let Some(object) = objects.get(id) {
        return Ok(Some(Arc::clone(object)));
    }
    if id.is_empty() {
        return Ok(None);
    }
    let mut matching = objects
        .range::<_, str>((std::ops::Bound::Included(id), std::ops::Bound::Unbounded))
        .take_while(|(key, _)| (*key).borrow().starts_with(id));
    let first = matching.next().map(|(_, object)| Arc::clone(object));
    if matching.next().is_some() {
        return Err(EngineError::AmbiguousId {
            id: id.to_owned(),
            what,
        });
    }
    Ok(first)
}
