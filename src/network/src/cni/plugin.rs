//! Runs one plugin once: a child process that is given its configuration on stdin and answers with JSON on stdout.
//!
//! A plugin is somebody else's program: it may hang, print without end, print garbage, or leave children behind that
//! keep its pipes open. Hence the deadline, the bounds, and a process group of its own that is killed as a whole when
//! the plugin overruns or when nobody waits for it any more. Nothing of the server's environment reaches it but `PATH`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use sys::process_group::ProcessGroup;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout, timeout_at};

/// Most that a plugin may print. Results have some hundred bytes.
const MAX_STDOUT_BYTES: usize = 1 << 20;
/// How much of the end of stderr is kept for the message.
const MAX_STDERR_BYTES: usize = 4 << 10;
/// How much of an unusable output is quoted.
const QUOTED_BYTES: usize = 200;
/// How long the pipes are read after the plugin's exit, when a child of its own keeps them open.
const DRAIN: Duration = Duration::from_millis(250);
/// How long a killed plugin is waited for: one in an uninterruptible sleep is left to the kernel.
const REAP: Duration = Duration::from_secs(1);
/// When the server itself has no `PATH`: plugins need iptables, nft, ip.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variable by which a plugin, and whatever it starts, is told whose attachment it is about: the pod's id.
pub const ATTACHMENT_VARIABLE: &str = "CNI_CONTAINERID";

/// What a plugin is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Is the attachment as it should be?
    Check,
    /// Can pods be attached now?
    Status,
    /// Which versions does the plugin speak?
    Version,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The attachment as a plugin is told of it by environment variables. Empty for STATUS and VERSION.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Subject<'a> {
    /// [`ATTACHMENT_VARIABLE`].
    pub container_id: &'a str,
    /// `CNI_NETNS`; empty when the namespace is gone.
    pub netns: Option<&'a Path>,
    /// `CNI_IFNAME`.
    pub ifname: &'a str,
    /// `CNI_ARGS`.
    pub args: &'a str,
}

/// One run of one plugin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    /// Name of the network, for messages.
    pub network: &'a str,
    /// Name of the plugin, for messages.
    pub plugin: &'a str,
    /// Its executable.
    pub binary: &'a Path,
    /// What it is asked to do.
    pub verb: Verb,
    /// With which attachment.
    pub subject: Subject<'a>,
    /// `CNI_PATH`: where it finds the plugins that it delegates to.
    pub search_path: &'a OsStr,
    /// Its configuration.
    pub input: &'a [u8],
    /// How long it may take.
    pub limit: Duration,
}

/// A plugin that did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[error("network {network}: plugin {plugin} {verb}: {error}")]
pub struct PluginFailure {
    /// Name of the network.
    pub network: String,
    /// Name of the plugin.
    pub plugin: String,
    /// What it was asked to do.
    pub verb: Verb,
    /// What happened.
    #[source]
    pub error: PluginError,
}

impl PluginFailure {
    /// Whether the plugin ran into its deadline.
    pub fn is_deadline(&self) -> bool {
        matches!(self.error, PluginError::Deadline { .. })
    }
}

/// What can go wrong with a plugin.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// There is no such executable.
    #[error("not found in {searched}")]
    Missing {
        /// The directories, separated by colons.
        searched: String,
    },
    /// It cannot be executed.
    #[error("execute {}: {source}", binary.display())]
    Spawn {
        /// The executable.
        binary: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Talking to it failed on this side.
    #[error("pipes: {0}")]
    Pipes(#[source] io::Error),
    /// It was killed because it took too long.
    #[error("killed after {limit:?} without an answer{}", said(stderr))]
    Deadline {
        /// How long it might have taken.
        limit: Duration,
        /// The end of what it had written to stderr.
        stderr: String,
    },
    /// It was killed because it printed too much.
    #[error("killed after printing more than {MAX_STDOUT_BYTES} bytes, beginning with {output}")]
    TooMuchOutput {
        /// The first bytes, quoted.
        output: String,
    },
    /// It claims success, but its answer is none.
    #[error("answer is {problem}; it begins with {output}")]
    Garbage {
        /// What is wrong with the answer.
        problem: String,
        /// The first bytes, quoted.
        output: String,
    },
    /// It failed and said why in CNI's words.
    #[error("{message} (code {code}){}", said(stderr))]
    Refused {
        /// CNI's error code; below 100 the specification's, from 100 on the plugin's own.
        code: u64,
        /// `msg` and `details`.
        message: String,
        /// The end of stderr.
        stderr: String,
    },
    /// It failed and said nothing in CNI's words.
    #[error("{status}; it printed {output}{}", said(stderr))]
    Died {
        /// How it ended.
        status: ExitStatus,
        /// The first bytes, quoted.
        output: String,
        /// The end of stderr.
        stderr: String,
    },
    /// The chain's final result has no address for the pod.
    #[error("no address for the pod in the result")]
    NoAddress,
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!("; stderr: {stderr}")
    }
}

/// The first bytes of an output, in quotes and free of control characters.
pub(super) fn quote(output: &[u8]) -> String {
    let head = &output[..output.len().min(QUOTED_BYTES)];
    let dots = if head.len() < output.len() { "…" } else { "" };
    format!("{:?}{dots}", String::from_utf8_lossy(head))
}

/// Runs a plugin to its end and returns what it printed.
pub(super) async fn run(run: Run<'_>) -> Result<Vec<u8>, PluginFailure> {
    execute(&run).await.map_err(|error| PluginFailure {
        network: run.network.to_owned(),
        plugin: run.plugin.to_owned(),
        verb: run.verb,
        error,
    })
}

async fn execute(run: &Run<'_>) -> Result<Vec<u8>, PluginError> {
    let deadline = Instant::now() + run.limit;
    let mut child = spawn(run)?;
    let group = ProcessGroup::of(child.id());
    let mut stdout = Vec::new();
    let mut stderr = Vec::new();
    let talked = timeout_at(
        deadline,
        converse(&mut child, run.input, &mut stdout, &mut stderr),
    )
    .await;
    let status = match talked {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => {
            end(group, &mut child).await;
            return Err(error);
        }
        Err(_elapsed) => {
            end(group, &mut child).await;
            return Err(PluginError::Deadline {
                limit: run.limit,
                stderr: tail(&stderr),
            });
        }
    };
    group.release();
    if status.success() {
        if !stderr.is_empty() {
            tracing::debug!(plugin = run.plugin, verb = %run.verb, stderr = tail(&stderr), "plugin wrote to stderr");
        }
        return Ok(stdout);
    }
    Err(refusal(&stdout, &stderr, status))
}

fn spawn(run: &Run<'_>) -> Result<Child, PluginError> {
    let subject = run.subject;
    Command::new(run.binary)
        .env_clear()
        .env(
            "PATH",
            std::env::var_os("PATH").unwrap_or_else(|| OsString::from(DEFAULT_PATH)),
        )
        .env("CNI_COMMAND", run.verb.as_str())
        .env(ATTACHMENT_VARIABLE, subject.container_id)
        .env("CNI_NETNS", subject.netns.unwrap_or(Path::new("")))
        .env("CNI_IFNAME", subject.ifname)
        .env("CNI_ARGS", subject.args)
        .env("CNI_PATH", run.search_path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| PluginError::Spawn {
            binary: run.binary.to_owned(),
            source,
        })
}

/// Feeds the plugin, reads what it prints and waits for its end.
async fn converse(
    child: &mut Child,
    input: &[u8],
    stdout: &mut Vec<u8>,
    stderr: &mut Vec<u8>,
) -> Result<ExitStatus, PluginError> {
    let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A plugin need not read its configuration: then the pipe breaks, and its answer counts.
            let _ = stdin.write_all(input).await;
        }
        Ok(())
    };
    let pipes =
        async { tokio::try_join!(feed, read_stdout(out, stdout), read_stderr(err, stderr)) };
    tokio::pin!(pipes);
    let mut pipes_open = true;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.map_err(PluginError::Pipes)?,
            read = &mut pipes, if pipes_open => {
                read?;
                pipes_open = false;
            }
        }
    };
    if pipes_open && let Ok(read) = timeout(DRAIN, pipes).await {
        read?;
    }
    Ok(status)
}

async fn read_stdout(
    pipe: Option<impl AsyncRead + Unpin>,
    stdout: &mut Vec<u8>,
) -> Result<(), PluginError> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    while pipe.read_buf(stdout).await.map_err(PluginError::Pipes)? > 0 {
        if stdout.len() > MAX_STDOUT_BYTES {
            return Err(PluginError::TooMuchOutput {
                output: quote(stdout),
            });
        }
    }
    Ok(())
}

/// Reads to the end, so that the plugin never blocks, and keeps the last part: that is where the cause stands.
async fn read_stderr(
    pipe: Option<impl AsyncRead + Unpin>,
    stderr: &mut Vec<u8>,
) -> Result<(), PluginError> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    while pipe.read_buf(stderr).await.map_err(PluginError::Pipes)? > 0 {
        if stderr.len() > 2 * MAX_STDERR_BYTES {
            stderr.drain(..stderr.len() - MAX_STDERR_BYTES);
        }
    }
    Ok(())
}

fn tail(stderr: &[u8]) -> String {
    let start = stderr.len().saturating_sub(MAX_STDERR_BYTES);
    let text = String::from_utf8_lossy(&stderr[start..]);
    let text = text.trim();
    if text.is_empty() {
        String::new()
    } else {
        format!("{text:?}")
    }
}

/// What a plugin that failed has to say.
fn refusal(stdout: &[u8], stderr: &[u8], status: ExitStatus) -> PluginError {
    #[derive(serde::Deserialize)]
    struct CniError {
        code: u64,
        #[serde(default)]
        msg: String,
        #[serde(default)]
        details: String,
    }
    let stderr = tail(stderr);
    match serde_json::from_slice::<CniError>(stdout) {
        Ok(CniError { code, msg, details }) => PluginError::Refused {
            code,
            message: match (msg.trim(), details.trim()) {
                ("", "") => "no reason given".to_owned(),
                ("", only) | (only, "") => only.to_owned(),
                (msg, details) => format!("{msg}: {details}"),
            },
            stderr,
        },
        Err(_) => PluginError::Died {
            status,
            output: quote(stdout),
            stderr,
        },
    }
}

/// Kills the plugin and waits for its end, so that it cannot get in the way of the undoing.
async fn end(group: ProcessGroup, child: &mut Child) {
    drop(group);
    let _ = timeout(REAP, child.wait()).await;
}

#[cfg(test)]
mod tests;
