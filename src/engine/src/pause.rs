//! The pause container: the process that holds a pod's PID namespace, or the sandbox of a runtime that needs one.

use runtime::Monitor;
use spec::{
    cgroup::CgroupName,
    model::{NamespaceMode, PodConfig, Resources},
    selinux::SelinuxContext,
};
use state::PodId;

use crate::{
    bundle,
    error::EngineError,
    node::{Handler, Node},
    pod_files,
    units::Units,
};

/// Where a request names the pod's seccomp profile.
const SECCOMP_FIELD: &str = "config.linux.security_context.seccomp.localhost_ref";

impl Node {
    /// Create and start the pod's pause container, named by the pod's id, and pin its PID namespace.
    ///
    /// Its root filesystem is shared and read-only: nothing but the static program `/pause`.
    pub(crate) async fn start_pause(
        &self,
        id: &PodId,
        config: &PodConfig,
        handler: &Handler,
        monitor: &Monitor,
        cgroup_parent: &str,
        selinux: Option<SelinuxContext>,
    ) -> Result<(), EngineError> {
        let directory = self.paths.pause_bundle(id);
        pod_files::make_dir(&directory)?;
        let own_network = config.security.namespaces.network != NamespaceMode::Node;
        let name = CgroupName::new(self.config.systemd_cgroup, cgroup_parent, id.as_str())?;
        let cgroup = format!("/{}", name.directory.display());
        let seccomp_file = self
            .seccomp_file(
                &config.security.seccomp,
                SECCOMP_FIELD,
                &mut self.patience(),
            )
            .await?;
        let mut spec = spec::pause(&spec::PauseInput {
            pod_id: id.as_str(),
            pod: config,
            facts: &self.facts,
            features: &handler.features,
            namespaces: spec::NamespacePaths {
                network: own_network.then(|| self.paths.netns(id)),
                ipc: (config.security.namespaces.ipc != NamespaceMode::Node)
                    .then(|| self.paths.namespace(id, "ipc")),
                uts: own_network.then(|| self.paths.namespace(id, "uts")),
                pid: None,
                user: config
                    .security
                    .namespaces
                    .user
                    .is_some()
                    .then(|| self.paths.namespace(id, "user")),
            },
            cgroups_path: name.oci,
            rootfs: self.paths.pause_rootfs(),
            args: vec!["/pause".to_owned()],
            files: None,
            seccomp_file: seccomp_file.as_deref(),
            selinux,
            defaults: &self.config.spec_defaults,
        })?;
        if self.units.is_some() {
            Units::shape(&mut spec);
        }
        bundle::write(&directory, &spec)?;
        let created = monitor
            .create(&runtime::CreateRequest {
                id: id.to_string(),
                bundle: directory.clone(),
                runtime: handler.runtime.clone(),
                pid_file: directory.join("pid"),
                log: None,
                tty: false,
                stdin: false,
                stdin_once: false,
                memory_cgroup: self.cgroups.memory(&cgroup)?,
                exit_file: directory.join("exit"),
                attach_socket: None,
                deadline: self.config.timeouts.runtime_create,
            })
            .await?;
        if let Some(units) = &self.units {
            units
                .complete_scope(&cgroup, id.as_str(), &Resources::default())
                .await;
        }
        handler
            .runtime
            .start(id.as_str(), self.config.timeouts.runtime_command)
            .await?;
        if config.security.namespaces.pid == NamespaceMode::Pod {
            pod_files::make_dir(&self.paths.namespaces(id))?;
            let pin = self.paths.namespace(id, "pid");
            pod_files::write_file(&pin, b"")?;
            sys::mount::bind(
                std::path::Path::new(&format!("/proc/{}/ns/pid", created.pid)),
                &pin,
                false,
            )?;
        }
        Ok(())
    }
}
