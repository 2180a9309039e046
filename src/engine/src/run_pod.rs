//! RunPodSandbox: namespaces, files, network and, where wanted, a pause container; then the pod is committed and seen.

use std::collections::BTreeMap;

use network::Attachment;
use spec::{
    cgroup::CgroupName,
    model::{NamespaceMode, PodConfig},
    selinux::SelinuxContext,
};
use state::PodId;

use crate::{
    Engine, SharedError,
    error::EngineError,
    fingerprint::fingerprint,
    jobs::Stage,
    node::{Handler, Node},
    pod_files, selinux,
    teardown::{PodRemains, Undo},
    units::unit_of,
    user_namespace,
    world::{Memo, Pod, PodState},
};

/// What was decided before the first side effect.
struct Plan {
    handler_name: String,
    handler: Handler,
    remains: PodRemains,
    hostname: String,
    cgroup_parent: String,
    sysctls: BTreeMap<String, String>,
    selinux: Option<SelinuxContext>,
}

impl Engine {
    /// Make a pod, or join whoever is making it, or answer with the id of the one that was made.
    ///
    /// # Errors
    /// Whatever kept the pod from being made; nothing of it is left then.
    pub async fn run_pod(&self, config: PodConfig, handler: String) -> Result<PodId, SharedError> {
        let node = &self.node;
        if let Some(pod) = node.existing_pod(&config, &handler)? {
            return Ok(pod);
        }
        let metadata = &config.metadata;
        let key = format!(
            "{}/{}/{}/{}",
            metadata.namespace, metadata.name, metadata.uid, metadata.attempt
        );
        let print = fingerprint(&(&config, &handler));
        let maker = std::sync::Arc::clone(node);
        node.jobs
            .run_pod
            .run(key, print, |stage| async move {
                Box::pin(maker.run_pod(config, handler, stage)).await
            })
            .await
    }
}

impl Node {
    /// The pod that this request made before, if it can still serve.
    fn existing_pod(
        &self,
        config: &PodConfig,
        handler: &str,
    ) -> Result<Option<PodId>, EngineError> {
        let world = self.ledger.world();
        let Some(pod) = world.pod_by_metadata(&config.metadata) else {
            return Ok(None);
        };
        let exists = |state, mend| EngineError::PodExists {
            metadata: config.metadata.clone(),
            id: pod.id.clone(),
            state,
            mend,
        };
        match pod.state {
            PodState::NotReady => Err(exists("not ready", "remove it, or ask for a new attempt")),
            PodState::Ready if *pod.config == *config && pod.handler == handler => {
                Ok(Some(pod.id.clone()))
            }
            PodState::Ready => Err(exists(
                "ready, with another configuration",
                "stop and remove it first",
            )),
        }
    }

    async fn run_pod(
        self: &std::sync::Arc<Self>,
        config: PodConfig,
        handler_name: String,
        stage: Stage,
    ) -> Result<PodId, EngineError> {
        // Another job of the same key may have ended between the caller's look and this one's start.
        if let Some(pod) = self.existing_pod(&config, &handler_name)? {
            return Ok(pod);
        }
        self.set_aside.check_pod(&config.metadata.uid)?;
        let handler = self.handler(&handler_name)?;
        let on_host_network = config.security.namespaces.network == NamespaceMode::Node;
        if !on_host_network {
            self.network
                .status()
                .map_err(|why| EngineError::NetworkNotReady(why.message))?;
        }
        spec::check_pod(&config, &self.facts, &self.config.spec_defaults)?;
        self.check_user_namespace(&config, &handler)?;
        let hostname = spec::namespaces::hostname(&config, &self.facts.hostname)?;
        let sysctls = spec::sysctl::effective(&config, &self.config.spec_defaults.sysctls)?;

        let id = PodId::random();
        // Its categories are nobody else's from here on, until its record says so.
        let (selinux, _categories) = self.pod_labels(&id, &config, &handler)?.unzip();
        let cgroup_parent = self.cgroup_parent(&config)?;
        let remains = PodRemains {
            id: id.clone(),
            runtime: handler.name.clone(),
            network: (!on_host_network).then(|| self.attachment(&id, &config)),
            has_pause: handler.sandbox_container
                || config.security.namespaces.pid == NamespaceMode::Pod,
            own_cgroups: self.absent_cgroups(&config, &cgroup_parent)?,
            monitor_cgroup: self.own_monitor_cgroup(&id, &cgroup_parent),
        };
        stage.enter("recording what will have to be undone");
        let undo = Undo::Pod(remains.clone());
        let plan = Plan {
            handler_name,
            handler,
            remains,
            hostname,
            cgroup_parent,
            sysctls,
            selinux,
        };
        let seq = self.ledger.record_undo(id.as_str(), &undo).await?;

        let limit = self.config.timeouts.run_pod;
        let made = match tokio::time::timeout(limit, Box::pin(self.build_pod(config, plan, &stage)))
            .await
        {
            Ok(made) => made,
            Err(_elapsed) => Err(EngineError::Deadline {
                operation: "RunPodSandbox",
                stage: stage.name(),
                limit,
            }),
        };
        let committed = match made {
            Ok(pod) => {
                self.note_cpu_time_of_pod(&pod);
                self.ledger.add_pod(pod, seq).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = committed {
            stage.enter("taking the failed pod apart");
            self.undo_now_or_later(seq, undo).await;
            return Err(error);
        }
        if self.live.pod(&id).is_none() {
            // Its monitor died after the namespaces were made and before anyone could know the pod.
            let not_ready = |pod: &Pod| {
                Some(Pod {
                    state: PodState::NotReady,
                    ..pod.clone()
                })
            };
            self.ledger.change_pod(&id, not_ready).await?;
        }
        Ok(id)
    }

    async fn build_pod(
        self: &std::sync::Arc<Self>,
        config: PodConfig,
        plan: Plan,
        stage: &Stage,
    ) -> Result<Pod, EngineError> {
        let (remains, handler) = (&plan.remains, &plan.handler);
        let id = &remains.id;
        let namespaces = &config.security.namespaces;
        let own_network = remains.network.is_some();
        let hostname = plan.hostname;

        stage.enter("writing the pod's files");
        pod_files::write(&self.paths, id, &config, &hostname)?;
        let own_ipc = namespaces.ipc == NamespaceMode::Pod;
        if own_ipc {
            pod_files::mount_shm(&self.paths, id, &config)?;
        }
        if let Some(labels) = &plan.selinux {
            pod_files::label(&self.paths, id, &labels.mount())?;
        }

        if let (Some(units), Some(slice)) = (&self.units, remains.own_cgroups.first()) {
            stage.enter("making the pod's slice");
            let limits =
                spec::unit_properties::of_pod(config.resources.as_ref(), config.overhead.as_ref());
            units.make_slice(unit_of(slice), id, &limits).await?;
        }

        stage.enter("starting the pod's monitor");
        let spawned = runtime::Monitor::spawn(&self.monitor_spawn(id)).await?;
        let monitor = spawned.monitor;
        self.adopt_monitor(id, monitor.clone(), spawned.events);
        let placed = self.place_monitor(id, spawned.pid, &plan.cgroup_parent);

        let connected = async {
            stage.enter("making the pod's namespaces");
            monitor
                .open_namespaces(&runtime::NamespaceRequest {
                    network: own_network.then(|| self.paths.netns(id)),
                    ipc: own_ipc.then(|| self.paths.namespace(id, "ipc")),
                    uts: own_network.then(|| self.paths.namespace(id, "uts")),
                    hostname: own_network.then(|| hostname.clone()),
                    sysctls: plan.sysctls.into_iter().collect(),
                    user: namespaces.user.as_ref().map(|user| {
                        user_namespace::request(user, &self.paths.namespace(id, "user"))
                    }),
                })
                .await?;

            match &remains.network {
                None => Ok(Vec::new()),
                Some(attachment) => {
                    stage.enter("attaching the pod to its network");
                    Ok::<_, EngineError>(self.network.attach(attachment).await?.ips)
                }
            }
        };
        let (placed, connected) = tokio::join!(placed, connected);
        let ips = connected?;
        // Before anything is started below the monitor: it would stay where that was.
        placed?;
        if remains.has_pause {
            stage.enter("starting the pause container");
            let selinux = selinux::for_runtime(plan.selinux.as_ref(), handler);
            self.start_pause(id, &config, handler, &monitor, &plan.cgroup_parent, selinux)
                .await?;
        }
        Ok(Pod {
            id: id.clone(),
            handler: plan.handler_name,
            runtime: handler.name.clone(),
            state: PodState::Ready,
            created_at_unix_ns: self.ledger.timestamp(),
            ips,
            hostname,
            own_cgroups: remains.own_cgroups.clone(),
            monitor_cgroup: remains.monitor_cgroup.clone(),
            cgroup_parent: plan.cgroup_parent,
            has_pause: remains.has_pause,
            released: false,
            overhead: config.overhead.clone(),
            resources: config.resources.clone(),
            selinux: plan.selinux,
            warnings: Vec::new(),
            config: std::sync::Arc::new(config),
            list_item: Memo::default(),
        })
    }

    /// What the network needs to know of a pod.
    pub(crate) fn attachment(&self, id: &PodId, config: &PodConfig) -> Attachment {
        crate::attachment::of(id, &self.paths.netns(id), config)
    }

    /// The cgroup below which the pod's containers go, in cgroupfs form.
    fn cgroup_parent(&self, config: &PodConfig) -> Result<String, EngineError> {
        let asked = config.cgroup_parent.as_str();
        let parent = if asked.is_empty() {
            self.config.default_cgroup_parent.as_str()
        } else {
            asked
        };
        if self.config.systemd_cgroup {
            // As it stands below the mount: a client may name the slice alone.
            return Ok(CgroupName::slice_path(parent)?);
        }
        Ok(format!("/{}", parent.trim_matches('/')))
    }

    /// Those of the client's parent cgroups that are made for this pod, by the runtime or as slices, innermost first. Kubelet makes its own
    /// beforehand and removes them; our default one stays, for other pods may come at any moment.
    fn absent_cgroups(&self, config: &PodConfig, parent: &str) -> Result<Vec<String>, EngineError> {
        let mut absent = Vec::new();
        if config.cgroup_parent.is_empty() {
            return Ok(absent);
        }
        let parent = if self.units.is_some() {
            parent
        } else {
            &config.cgroup_parent
        };
        let mut path = std::path::Path::new(parent);
        // The root slice is always there, and is no directory.
        while path.file_name().is_some_and(|name| name != "-.slice") {
            let cgroup = path.to_string_lossy().into_owned();
            if self.cgroups.exists(&cgroup)? {
                break;
            }
            absent.push(cgroup);
            path = path.parent().unwrap_or(std::path::Path::new(""));
        }
        Ok(absent)
    }
}
