//! ExecSync: a command inside a running container, its output and its exit code.

use std::time::Duration;

use bytes::Bytes;

use crate::{Engine, SharedError, error::EngineError, node::Node};

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
        let process = self.exec_process(id, command, false)?;
        let captured = process
            .pod
            .monitor
            .exec_capture(
                process.container.id.as_str(),
                &process.runtime,
                process.file.path().to_owned(),
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
