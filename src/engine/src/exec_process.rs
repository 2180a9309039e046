//! What every command inside a running container needs, whether its output is kept (`exec_sync`) or live (`exec`).

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use oci_spec::runtime::Process;
use runtime::OciRuntime;
use state::ContainerId;

use crate::{
    Engine, bundle,
    create_container::state_name,
    error::EngineError,
    live::LivePod,
    node::Node,
    pod_files,
    world::{Container, ContainerState},
};

/// What errors say of a container that does not run.
const ONLY_RUNNING: &str = "commands run in running containers only";

/// A command that is ready to be run.
#[derive(Debug)]
pub(crate) struct ExecProcess {
    pub(crate) container: Arc<Container>,
    pub(crate) pod: Arc<LivePod>,
    pub(crate) runtime: OciRuntime,
    pub(crate) file: ProcessFile,
}

/// The file of a command's process, in the form of OCI. It goes when this is dropped.
#[derive(Debug)]
pub(crate) struct ProcessFile(PathBuf);

impl ProcessFile {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ProcessFile {
    fn drop(&mut self) {
        // It may have gone with the container.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Engine {
    /// The full id of a container in which a command can be run at the moment.
    ///
    /// # Errors
    /// There is no such container, or it does not run.
    pub fn can_exec(&self, id: &str) -> Result<ContainerId, EngineError> {
        let container = self.node.running_container(id)?;
        Ok(container.id.clone())
    }
}

impl Node {
    fn running_container(&self, id: &str) -> Result<Arc<Container>, EngineError> {
        let container = self.find_container(id)?;
        if container.state == ContainerState::Running {
            return Ok(container);
        }
        Err(EngineError::WrongState {
            id: container.id.clone(),
            state: state_name(container.state),
            wanted: ONLY_RUNNING,
        })
    }

    /// Write down what is to be run in a container, which has to run itself.
    pub(crate) fn exec_process(
        &self,
        id: &str,
        command: &[String],
        tty: bool,
    ) -> Result<ExecProcess, EngineError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);

        if command.is_empty() {
            return Err(EngineError::invalid("cmd", "is empty"));
        }
        let container = self.running_container(id)?;
        let pod = self.find_pod(container.pod.as_str())?;
        let handler = self.handler_by_name(&pod.runtime)?;
        let live = self
            .live
            .pod(&pod.id)
            .ok_or_else(|| EngineError::PodNotReady(pod.id.clone()))?;

        let gone = |error| bundle_gone(error, &container.id);
        let process = self.process_of(&container).map_err(gone)?;
        let process = spec::exec_process(&process, command, tty);
        let encoded = serde_json::to_vec(&process).map_err(|source| EngineError::Record {
            id: container.id.to_string(),
            source,
        })?;
        // Kept short: the path of the socket beside it has 107 bytes.
        let number = COUNTER.fetch_add(1, Ordering::Relaxed) % 10_000_000;
        let file = ProcessFile(
            self.paths
                .bundle(&container.id)
                .join(format!("x{number}.json")),
        );
        pod_files::write_private(file.path(), &encoded).map_err(gone)?;
        Ok(ExecProcess {
            container,
            pod: live,
            runtime: handler.runtime,
            file,
        })
    }

    /// The process of the container's spec.
    fn process_of(&self, container: &Container) -> Result<Process, EngineError> {
        let mut process = self.process_of_spec(container)?;
        if container.resources.oom_score_adj != 0 {
            // It may have been changed since the spec was written.
            process.set_oom_score_adj(Some(self.oom_score(&container.resources)?));
        }
        Ok(process)
    }

    fn process_of_spec(&self, container: &Container) -> Result<Process, EngineError> {
        let live = self.live.container(&container.id);
        if let Some(process) = live.process.get() {
            return Ok(process.clone());
        }
        let spec = bundle::read(&self.paths.bundle(&container.id))?;
        let process = spec.process().clone().ok_or_else(|| {
            EngineError::invalid(
                "container",
                "its bundle has no process to copy settings from",
            )
        })?;
        Ok(live.process.get_or_init(|| process).clone())
    }
}

/// A container that ran a moment ago, and whose bundle is gone, has been removed meanwhile.
fn bundle_gone(error: EngineError, id: &ContainerId) -> EngineError {
    match error {
        EngineError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            EngineError::WrongState {
                id: id.clone(),
                state: "being removed",
                wanted: ONLY_RUNNING,
            }
        }
        error => error,
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_bundle_that_is_gone_is_a_container_that_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let id = ContainerId::random();
        let bundle = dir.path().join(id.as_str());
        let written = pod_files::write_private(&bundle.join("x1.json"), b"{}");
        let read = bundle::read(&bundle).map(|_spec| ());
        for outcome in [written, read] {
            let words = bundle_gone(outcome.unwrap_err(), &id).to_string();
            let wanted = format!("container {id} is being removed, and {ONLY_RUNNING}");
            assert_eq!(words, wanted);
        }
        // Anything else is told as it is.
        std::fs::write(&bundle, "").unwrap();
        let error = pod_files::write_private(&bundle.join("x1.json"), b"{}").unwrap_err();
        let kept = bundle_gone(error, &id);
        assert!(matches!(kept, EngineError::Io { .. }), "{kept}");
    }
}
