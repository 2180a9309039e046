//! ExecSync: a command inside a running container, its output and its exit code.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use oci_spec::runtime::Process;

use crate::{
    Engine, SharedError, bundle,
    create_container::state_name,
    error::EngineError,
    node::Node,
    pod_files,
    world::{Container, ContainerState},
};

/// How much of each stream is kept; the rest is read and dropped (CVE-2022-1708 is what happens otherwise).
const OUTPUT_MAX_BYTES: usize = 16 << 20;

/// What a command gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output, at most 16 MiB of it.
    pub stdout: Bytes,
    /// Standard error, at most 16 MiB of it.
    pub stderr: Bytes,
    /// 0–255, 128 + n for signal n.
    pub exit_code: i32,
}

impl Engine {
    /// Run a command in a running container. `limit` covers its start, its run and the reading of its output.
    ///
    /// # Errors
    /// [`EngineError::ExecDeadline`] when the limit passed; the command and its children are dead then.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        limit: Option<Duration>,
    ) -> Result<ExecOutput, SharedError> {
        Ok(self.node.exec_sync(id, &command, limit).await?)
    }
}

impl Node {
    async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        limit: Option<Duration>,
    ) -> Result<ExecOutput, EngineError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);

        if command.is_empty() {
            return Err(EngineError::invalid("cmd", "is empty"));
        }
        let container = self.find_container(id)?;
        if container.state != ContainerState::Running {
            return Err(EngineError::WrongState {
                id: container.id.clone(),
                state: state_name(container.state),
                wanted: "commands run in running containers only",
            });
        }
        let pod = self.find_pod(container.pod.as_str())?;
        let handler = self.handler_by_name(&pod.runtime)?;
        let live = self
            .live
            .pod(&pod.id)
            .ok_or_else(|| EngineError::PodNotReady(pod.id.clone()))?;

        let process = spec::exec_process(&self.process_of(&container)?, command, false);
        let encoded = serde_json::to_vec(&process).map_err(|source| EngineError::Record {
            id: container.id.to_string(),
            source,
        })?;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let file = self
            .paths
            .bundle(&container.id)
            .join(format!("exec-{number}.json"));
        pod_files::write_private(&file, &encoded)?;
        let _removed_at_the_end = RemoveOnDrop(file.clone());

        let captured = live
            .monitor
            .exec_capture(
                container.id.as_str(),
                &handler.runtime,
                file,
                OUTPUT_MAX_BYTES,
                limit,
            )
            .await?;
        match limit {
            Some(limit) if captured.exit.timed_out => Err(EngineError::ExecDeadline(limit)),
            _ => Ok(ExecOutput {
                stdout: captured.stdout.into(),
                stderr: captured.stderr.into(),
                exit_code: captured.exit.code,
            }),
        }
    }
}

impl Node {
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

struct RemoveOnDrop(std::path::PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // It may have gone with the container.
        let _ = std::fs::remove_file(&self.0);
    }
}
