//! Pods and containers for this crate's tests.

use std::{
    fs::Permissions, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc, time::Duration,
};

use image::{Images, ImagesConfig};
use monitor_wire::{ContainerRecord, ExitRecord};
use network::{Network, NetworkConfig};
use runtime::{HandlerConfig, OciRuntime, RuntimeKind};
use spec::model::{ContainerConfig, ImageSpec, PodConfig, Resources};
use state::{ContainerId, ImagesDb, PodId, PodsDb};
use storage::LayerStore;
use sys::cgroup::Layout;

use crate::{
    cgroups::Cgroups,
    ledger::Ledger,
    monitor_cgroup::MonitorCgroup,
    node::{EngineConfig, Handler, Node, Timeouts},
    restore::SetAside,
    selinux::SelinuxConfig,
    world::{Container, ContainerState, Memo, Pod, PodState, User, World},
};

/// A ready pod.
pub(crate) fn pod() -> Pod {
    Pod {
        id: PodId::random(),
        config: Arc::new(PodConfig::default()),
        handler: String::new(),
        runtime: "crun".to_owned(),
        state: PodState::Ready,
        created_at_unix_ns: 1,
        ips: Vec::new(),
        hostname: "h".to_owned(),
        cgroup_parent: "/p".to_owned(),
        own_cgroups: Vec::new(),
        monitor_cgroup: None,
        has_pause: false,
        released: false,
        overhead: None,
        resources: None,
        selinux: None,
        warnings: Vec::new(),
        list_item: Memo::default(),
    }
}

/// A running container of a pod.
pub(crate) fn container(pod: &PodId) -> Container {
    Container {
        id: ContainerId::random(),
        pod: pod.clone(),
        config: Arc::new(ContainerConfig::default()),
        state: ContainerState::Running,
        created_at_unix_ns: 1,
        started_at_unix_ns: 2,
        finished_at_unix_ns: 0,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        image: ImageSpec::default(),
        image_ref: String::new(),
        image_id: format!("sha256:{}", "1".repeat(64))
            .parse()
            .unwrap_or_else(|error| panic!("{error}")),
        layers: Vec::new(),
        volume_layers: Vec::new(),
        log_path: String::new(),
        user: User::default(),
        resources: Resources::default(),
        mounts: Vec::new(),
        stop_signal: 15,
        cgroup: "/p/c".to_owned(),
        pid: 99,
        selinux: None,
        warnings: Vec::new(),
        list_item: Memo::default(),
    }
}

/// A node in a directory of its own, which has to outlive it, with these pods and containers on record. It is not restored yet.
pub(crate) struct TestNode {
    pub(crate) node: Arc<Node>,
    pub(crate) directory: tempfile::TempDir,
}

impl TestNode {
    pub(crate) fn new(pods: &[Pod], containers: &[Container]) -> Self {
        Self::make(pods, containers, Vec::new(), good(tempfile::tempdir()))
    }

    /// With a database that refuses whatever is written of containers.
    pub(crate) fn refusing(pods: &[Pod], containers: &[Container]) -> Self {
        let directory = good(tempfile::tempdir());
        let file = directory.path().join("pods.db");
        drop(good(PodsDb::open(&file)));
        good(good(rusqlite::Connection::open(&file)).execute_batch(
            "CREATE TRIGGER refuse BEFORE INSERT ON containers BEGIN SELECT RAISE(ABORT, 'refused'); END",
        ));
        Self::make(pods, containers, Vec::new(), directory)
    }

    /// With a runtime `crun` of which every command runs `script`, in the directory of its configuration.
    pub(crate) async fn with_runtime(pods: &[Pod], containers: &[Container], script: &str) -> Self {
        let directory = good(tempfile::tempdir());
        let program = directory.path().join("crun");
        good(std::fs::write(
            &program,
            format!("#!/bin/sh\ncd {}\n{script}\n", directory.path().display()),
        ));
        good(std::fs::set_permissions(
            &program,
            Permissions::from_mode(0o755),
        ));
        let runtime = OciRuntime::probe(HandlerConfig {
            name: "crun".to_owned(),
            path: Some(program),
            kind: RuntimeKind::Crun,
            root: directory.path().join("crun-state"),
            args: Vec::new(),
            systemd_cgroup: false,
        });
        let handler = Handler {
            name: "crun".to_owned(),
            runtime: good(runtime.await),
            features: spec::RuntimeFeatures::default(),
            sandbox_container: false,
            guest: spec::selinux::Guest::Processes,
            labels_processes: false,
        };
        Self::make(pods, containers, vec![handler], directory)
    }

    fn make(
        pods: &[Pod],
        containers: &[Container],
        handlers: Vec<Handler>,
        directory: tempfile::TempDir,
    ) -> Self {
        let at = |name: &str| directory.path().join(name);
        let (images_db, contents) = good(ImagesDb::open(&at("images.db")));
        let store = good(LayerStore::open(&at("root"), &contents.layers));
        let images = good(Images::open(
            ImagesConfig::new(at("root")),
            images_db,
            contents,
            store.clone(),
        ));
        let network = good(Network::open(NetworkConfig {
            conf_dir: at("cni"),
            bin_dirs: Vec::new(),
            cache_dir: at("cni-cache"),
            plugin_timeout: Duration::from_secs(10),
            default_network: None,
        }));
        let (db, _) = good(PodsDb::open(&at("pods.db")));
        let mut world = World::default();
        for pod in pods {
            world.pods.insert(pod.id.clone(), Arc::new(pod.clone()));
        }
        for container in containers {
            world
                .containers
                .insert(container.id.clone(), Arc::new(container.clone()));
        }
        let config = EngineConfig {
            run: at("run"),
            netns_dir: at("netns"),
            monitor: at("monitor"),
            default_cgroup_parent: "/pintle-test".to_owned(),
            systemd_cgroup: false,
            monitor_cgroup: MonitorCgroup::Node,
            handlers,
            default_handler: "crun".to_owned(),
            blockio_classes: None,
            cdi_dirs: Vec::new(),
            selinux: SelinuxConfig {
                enabled: Some(false),
                categories: 1024,
            },
            spec_defaults: spec::SpecDefaults::default(),
            timeouts: Timeouts::default(),
        };
        let mut node = good(Node::new(
            config,
            Ledger::new(db, world, 1),
            SetAside::default(),
            images,
            store,
            network,
        ));
        // The containers' cgroups are files, which show what was written to them.
        node.cgroups = Cgroups::new(Layout::V2 {
            mount: at("cgroup"),
        });
        Self {
            node: Arc::new(node),
            directory,
        }
    }

    /// Makes the container's cgroup.
    pub(crate) fn make_cgroup(&self, container: &Container) {
        good(std::fs::create_dir_all(self.cgroup(container)));
    }

    /// Whether the container's cgroup was killed.
    pub(crate) fn was_killed(&self, container: &Container) -> bool {
        self.cgroup(container).join("cgroup.kill").exists()
    }

    fn cgroup(&self, container: &Container) -> PathBuf {
        let relative = container.cgroup.trim_start_matches('/');
        self.directory.path().join("cgroup").join(relative)
    }

    /// The state that everyone sees.
    pub(crate) fn state(&self, container: &ContainerId) -> ContainerState {
        self.node.ledger.world().containers[container].state
    }
}

/// Far beyond what anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// What a monitor tells of a running container.
pub(crate) fn running(id: &ContainerId) -> ContainerRecord {
    ContainerRecord {
        id: id.to_string(),
        pid: Some(99),
        ..ContainerRecord::default()
    }
}

/// What a monitor tells of one that ended with code 3.
pub(crate) fn exited(id: &ContainerId) -> ContainerRecord {
    ContainerRecord {
        exit: Some(ExitRecord {
            code: 3,
            oom_killed: false,
            oom_limit: monitor_wire::OomLimit::Unknown,
            at_unix_ns: 5,
        }),
        ..running(id)
    }
}

/// Waits for its end; answers its exit code.
pub(crate) async fn ended(test: &TestNode, id: &ContainerId) -> i32 {
    let seen = test.node.ledger.until(|world| {
        let container = &world.containers[id];
        (container.state == ContainerState::Exited).then_some(container.exit_code)
    });
    let code = tokio::time::timeout(PATIENCE, seen).await;
    code.unwrap_or_else(|_| panic!("it did not end"))
}

fn good<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
