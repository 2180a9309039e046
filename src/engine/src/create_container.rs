//! CreateContainer: root filesystem, spec, bundle and the runtime's `create`; then the container is committed and seen.

use std::{path::PathBuf, sync::Arc};

use image::Image;
use spec::{
    cgroup::CgroupName,
    model::{ContainerConfig, Mount, NamespaceMode, SecurityProfile},
    selinux::SelinuxContext,
    signal::Signal,
};
use state::ContainerId;

use crate::{
    Engine, SharedError, bundle,
    error::EngineError,
    filesystem::{Images, Look},
    fingerprint::fingerprint,
    jobs::Stage,
    node::Node,
    selinux,
    teardown::{ContainerRemains, Undo},
    units::Units,
    user_namespace,
    world::{Container, ContainerState, Memo, Pod, PodState, User, ended},
};

/// Where a request names the container's seccomp profile.
const SECCOMP_FIELD: &str = "config.linux.security_context.seccomp.localhost_ref";

impl Engine {
    /// Make a container in a ready pod, or join whoever is making it, or answer with the id of the one that was made.
    ///
    /// # Errors
    /// Whatever kept it from being made; nothing of it is left then.
    pub async fn create_container(
        &self,
        pod: &str,
        config: ContainerConfig,
    ) -> Result<ContainerId, SharedError> {
        let node = &self.node;
        let pod = node.find_pod(pod)?;
        if let Some(container) = node.existing_container(&pod, &config)? {
            return Ok(container);
        }
        let key = format!(
            "{}/{}/{}",
            pod.id, config.metadata.name, config.metadata.attempt
        );
        let print = fingerprint(&config);
        let maker = Arc::clone(node);
        node.jobs
            .create_container
            .run(key, print, |stage| async move {
                maker.create_container(pod, config, stage).await
            })
            .await
    }
}

impl Node {
    /// The container that this request made before, if it was not started yet.
    fn existing_container(
        &self,
        pod: &Pod,
        config: &ContainerConfig,
    ) -> Result<Option<ContainerId>, EngineError> {
        let world = self.ledger.world();
        let Some(container) = world
            .containers_of(&pod.id)
            .find(|container| container.config.metadata == config.metadata)
        else {
            return Ok(None);
        };
        if container.state == ContainerState::Created && *container.config == *config {
            return Ok(Some(container.id.clone()));
        }
        Err(EngineError::ContainerExists {
            metadata: config.metadata.clone(),
            id: container.id.clone(),
            state: state_name(container.state),
            mend: "remove it first, or ask for a new attempt",
        })
    }

    async fn create_container(
        &self,
        pod: Arc<Pod>,
        config: ContainerConfig,
        stage: Stage,
    ) -> Result<ContainerId, EngineError> {
        if let Some(container) = self.existing_container(&pod, &config)? {
            return Ok(container);
        }
        let live = self
            .live
            .pod(&pod.id)
            .ok_or_else(|| EngineError::PodNotReady(pod.id.clone()))?;
        // Before anything that stopping the pod waits for: a registry may be asked.
        stage.enter("asking whether the pod may use its images");
        let (images, lease) = self.container_images(&config)?;
        self.permit_images(&pod, &config, &images, &stage).await?;
        let _before_the_pod_stops = live.creations.read().await;
        // The pod as it is now: it may have been stopped while this job waited.
        let pod = self.find_pod(pod.id.as_str())?;
        if pod.state != PodState::Ready {
            return Err(EngineError::PodNotReady(pod.id.clone()));
        }
        self.set_aside.check_container(&pod.id)?;
        let id = ContainerId::random();
        let cgroup = CgroupName::new(self.config.systemd_cgroup, &pod.cgroup_parent, id.as_str())?;
        let remains = ContainerRemains {
            id: id.clone(),
            pod: pod.id.clone(),
            runtime: pod.runtime.clone(),
            cgroup: format!("/{}", cgroup.directory.display()),
            layers: [images.own.layers.clone(), images.volume_layers()].concat(),
        };
        stage.enter("recording what will have to be undone");
        let undo = Undo::Container(remains.clone());
        let seq = self.ledger.record_undo(id.as_str(), &undo).await?;

        // Kept until whatever was made of the layers has been taken apart.
        *self
            .live
            .container(&id)
            .lease
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(lease);
        let limit = self.config.timeouts.create_container;
        let made = match tokio::time::timeout(
            limit,
            self.build_container(&pod, config, images, &remains, cgroup.oci, &stage),
        )
        .await
        {
            Ok(made) => made,
            Err(_elapsed) => Err(EngineError::Deadline {
                operation: "CreateContainer",
                stage: stage.name(),
                limit,
            }),
        };
        let committed = match made {
            Ok(container) => {
                self.note_cpu_time_of_container(&container);
                self.ledger.add_container(container, seq).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = committed {
            stage.enter("taking the failed container apart");
            self.undo_now_or_later(seq, undo).await;
            return Err(error);
        }
        // Its first process may have been killed before anyone could see the container.
        let early = *self
            .live
            .container(&id)
            .early_end
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(ending) = early {
            self.ledger
                .change_container(&id, |container| ended(container, ending))
                .await?;
        }
        Ok(id)
    }

    async fn build_container(
        &self,
        pod: &Pod,
        config: ContainerConfig,
        images: Images,
        remains: &ContainerRemains,
        cgroups_path: String,
        stage: &Stage,
    ) -> Result<Container, EngineError> {
        let id = &remains.id;
        let log_path = log_path(pod, &config)?;
        let handler = self.handler_by_name(&pod.runtime)?;
        let directory = self.paths.bundle(id);
        let rootfs = self.paths.rootfs(id);

        stage.enter("looking at the volumes and devices");
        let labels = self.container_labels(pod, &config)?;
        let mut patience = self.patience();
        let host_volumes = self.find_volumes(&config, &mut patience).await?;
        user_namespace::check_devices(pod, &config)?;
        let host_devices = self.host_devices(&config, &mut patience).await?;
        let cdi = self.cdi_edits(&config).await?;
        let classes = self.resource_classes(&pod.config, &config).await?;
        let seccomp = if config.security.privileged {
            &SecurityProfile::Unconfined
        } else {
            &config.security.seccomp
        };
        let seccomp_file = self
            .seccomp_file(seccomp, SECCOMP_FIELD, &mut patience)
            .await?;

        let host_volumes = match &labels {
            Some(labels) => {
                stage.enter("labelling the volumes for SELinux");
                self.share_pod_files(pod, labels)?;
                self.relabel_volumes(pod, labels, host_volumes).await?
            }
            None => host_volumes,
        };

        stage.enter("mounting the root filesystem and volumes");
        let log_directory = log_path
            .as_ref()
            .and_then(|path| path.parent().map(std::path::Path::to_owned));
        let look = Look {
            maps_ids: !handler.features.idmapped_mounts,
            label: labels.as_ref().map(SelinuxContext::mount),
        };
        let filesystem = self
            .make_filesystem(pod, id, &images, host_volumes, log_directory, look)
            .await?;
        let volume_layers = images.volume_layers();
        let mounts = reported_mounts(&config, &images);
        let image = images.own;

        stage.enter("writing the bundle");
        let mut effective = config.clone();
        if effective.security.namespaces.pid == NamespaceMode::Pod && !pod.has_pause {
            // A pod made for containers with PID namespaces of their own has none to share.
            effective.security.namespaces.pid = NamespaceMode::Container;
        }
        let namespaces = self.namespace_paths(pod, &effective)?;
        let mut made = spec::container(&spec::ContainerInput {
            pod_id: pod.id.as_str(),
            pod: &pod.config,
            container: &effective,
            image: &image_process(&image),
            passwd: filesystem.passwd.as_deref(),
            group: filesystem.group.as_deref(),
            facts: &self.facts,
            features: &handler.features,
            namespaces,
            cgroups_path,
            rootfs: rootfs.clone(),
            files: spec::PodFiles {
                resolv_conf: self.paths.resolv_conf(&pod.id),
                hostname: self.paths.hostname(&pod.id),
                hosts: None,
                shm: (pod.config.security.namespaces.ipc == NamespaceMode::Pod)
                    .then(|| self.paths.shm(&pod.id)),
            },
            mounts: filesystem.mounts,
            host_devices,
            classes,
            cdi,
            seccomp_file: seccomp_file.as_deref(),
            selinux: selinux::for_runtime(labels.as_ref(), &handler),
            defaults: &self.config.spec_defaults,
        })?;
        if self.units.is_some() {
            Units::shape(&mut made.spec);
        }
        bundle::write(&directory, &made.spec)?;

        stage.enter("waiting for the runtime to create the container");
        let live = self
            .live
            .pod(&pod.id)
            .ok_or_else(|| EngineError::PodNotReady(pod.id.clone()))?;
        let created = live
            .monitor
            .create(&runtime::CreateRequest {
                id: id.to_string(),
                bundle: directory.clone(),
                runtime: handler.runtime.clone(),
                pid_file: directory.join("pid"),
                log: log_path.clone(),
                tty: config.tty,
                stdin: config.stdin,
                stdin_once: config.stdin_once,
                memory_cgroup: self.cgroups.memory(&remains.cgroup)?,
                exit_file: directory.join("exit"),
                attach_socket: Some(self.paths.attach_socket(id)),
                deadline: self.config.timeouts.runtime_create,
            })
            .await?;

        if let Some(units) = &self.units {
            stage.enter("waiting for systemd to know the limits");
            let limits = config.resources.clone().unwrap_or_default();
            units
                .complete_scope(&remains.cgroup, id.as_str(), &limits)
                .await;
        }
        if let NamespaceMode::Target(target) = &config.security.namespaces.pid {
            self.check_target(pod, target)?;
        }
        let image_ref = image
            .repo_digests
            .first()
            .cloned()
            .unwrap_or_else(|| image.id.to_string());
        Ok(Container {
            id: id.clone(),
            pod: pod.id.clone(),
            state: ContainerState::Created,
            created_at_unix_ns: self.ledger.timestamp(),
            started_at_unix_ns: 0,
            finished_at_unix_ns: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: config.image.clone(),
            image_ref,
            image_id: image.id.clone(),
            layers: image.layers.clone(),
            volume_layers,
            log_path: log_path
                .map(|path| path.to_string_lossy().into_owned())
                .unwrap_or_default(),
            user: User {
                uid: made.user.uid,
                gid: made.user.gid,
                groups: made.user.groups,
            },
            resources: config.resources.clone().unwrap_or_default(),
            mounts,
            stop_signal: Signal::to_stop(config.stop_signal, image.config.stop_signal.as_deref())
                .number(),
            cgroup: remains.cgroup.clone(),
            pid: created.pid,
            selinux: labels,
            warnings: made.warnings,
            config: Arc::new(config),
            list_item: Memo::default(),
        })
    }

    /// Where the container's namespaces are pinned.
    fn namespace_paths(
        &self,
        pod: &Pod,
        config: &ContainerConfig,
    ) -> Result<spec::NamespacePaths, EngineError> {
        let asked = &config.security.namespaces;
        let pods = &pod.config.security.namespaces;
        let differs = |field: &str| {
            EngineError::invalid(
                format!("config.linux.security_context.namespace_options.{field}"),
                "differs from the pod's",
            )
        };
        // Kubelet sends the pod's own choice for every container; a client that leaves it out means POD.
        if asked.network == NamespaceMode::Node && pods.network != NamespaceMode::Node {
            return Err(differs("network"));
        }
        if asked.ipc == NamespaceMode::Node && pods.ipc != NamespaceMode::Node {
            return Err(differs("ipc"));
        }
        let own_network = pods.network != NamespaceMode::Node;
        let pid = match &asked.pid {
            NamespaceMode::Node | NamespaceMode::Container => None,
            NamespaceMode::Pod => Some(self.paths.namespace(&pod.id, "pid")),
            NamespaceMode::Target(target) => Some(self.target_pid_namespace(pod, target)?),
        };
        Ok(spec::NamespacePaths {
            network: own_network.then(|| self.paths.netns(&pod.id)),
            ipc: (pods.ipc != NamespaceMode::Node).then(|| self.paths.namespace(&pod.id, "ipc")),
            uts: own_network.then(|| self.paths.namespace(&pod.id, "uts")),
            pid,
            user: pods
                .user
                .is_some()
                .then(|| self.paths.namespace(&pod.id, "user")),
        })
    }

    fn target_pid_namespace(&self, pod: &Pod, target: &str) -> Result<PathBuf, EngineError> {
        let container = self.find_container(target)?;
        if container.pod != pod.id {
            return Err(EngineError::invalid(
                "namespace_options.target_id",
                "names a container of another pod",
            ));
        }
        if container.state != ContainerState::Running {
            return Err(EngineError::WrongState {
                id: container.id.clone(),
                state: state_name(container.state),
                wanted: "only a running container's PID namespace can be joined",
            });
        }
        Ok(PathBuf::from(format!("/proc/{}/ns/pid", container.pid)))
    }

    /// Whether the process whose PID namespace was joined by its number is the target's still. Another one of that number would
    /// be in another cgroup.
    fn check_target(&self, pod: &Pod, target: &str) -> Result<(), EngineError> {
        self.target_pid_namespace(pod, target)?;
        let container = self.find_container(target)?;
        let processes = self.cgroups.layout().processes(&container.cgroup)?;
        if processes.contains(&container.pid) {
            return Ok(());
        }
        Err(EngineError::WrongState {
            id: container.id.clone(),
            state: "at its end",
            wanted: "only a running container's PID namespace can be joined",
        })
    }
}

/// The name by which errors call a state.
pub(crate) fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Exited => "exited",
        ContainerState::Unknown => "in an unknown state",
    }
}

/// The absolute path of a container's log file, inside the pod's log directory.
fn log_path(pod: &Pod, config: &ContainerConfig) -> Result<Option<PathBuf>, EngineError> {
    if config.log_path.is_empty() || pod.config.log_directory.is_empty() {
        return Ok(None);
    }
    let inside = std::path::Path::new(&config.log_path);
    let plain = inside.components().all(|part| {
        matches!(
            part,
            std::path::Component::Normal(_) | std::path::Component::CurDir
        )
    });
    if !plain {
        return Err(EngineError::invalid(
            "config.log_path",
            format!(
                "{:?} must be relative and stay inside the pod's log directory",
                config.log_path
            ),
        ));
    }
    Ok(Some(
        std::path::Path::new(&pod.config.log_directory).join(inside),
    ))
}

/// The client's mounts with the id of the image that each image volume is.
fn reported_mounts(config: &ContainerConfig, images: &Images) -> Vec<Mount> {
    let mut mounts = config.mounts.clone();
    for (mount, image) in mounts.iter_mut().zip(&images.volumes) {
        if let (Some(spec), Some(image)) = (&mut mount.image, image) {
            spec.image_ref = image.id.to_string();
        }
    }
    mounts
}

/// The part of an image's config that a process is made from.
fn image_process(image: &Image) -> spec::ImageProcess {
    let config = &image.config;
    spec::ImageProcess {
        user: config.user.clone(),
        env: config.env.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        working_dir: config.working_dir.clone(),
        stop_signal: config.stop_signal.clone(),
        volumes: config.volumes.clone(),
    }
}

#[cfg(test)]
mod test {
    use std::sync::Arc;

    use rstest::rstest;
    use spec::model::PodConfig;

    use super::*;

    fn pod(log_directory: &str) -> Pod {
        Pod {
            config: Arc::new(PodConfig {
                log_directory: log_directory.into(),
                ..PodConfig::default()
            }),
            ..crate::samples::pod()
        }
    }

    #[rstest]
    #[case("/logs", "c/0.log", Some("/logs/c/0.log"))]
    #[case("/logs", "", None)]
    #[case("", "c/0.log", None)]
    fn a_log_stands_in_the_pods_directory(
        #[case] directory: &str,
        #[case] path: &str,
        #[case] wanted: Option<&str>,
    ) {
        let config = ContainerConfig {
            log_path: path.into(),
            ..ContainerConfig::default()
        };
        assert_eq!(
            log_path(&pod(directory), &config).ok().flatten().as_deref(),
            wanted.map(std::path::Path::new)
        );
    }

    #[rstest]
    #[case("../x.log")]
    #[case("/etc/x.log")]
    #[case("a/../../x.log")]
    fn a_log_path_that_leaves_the_directory_is_refused(#[case] path: &str) {
        let config = ContainerConfig {
            log_path: path.into(),
            ..ContainerConfig::default()
        };
        assert!(matches!(
            log_path(&pod("/logs"), &config),
            Err(EngineError::Invalid { .. })
        ));
    }
}
