//! One OCI runtime binary: finding it, probing it, and running its subcommands.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;

use crate::{
    HandlerConfig, RuntimeError, RuntimeFeatures, RuntimeKind,
    command::{self, Finished, NotFinished},
    handler, message,
    quirks::{self, Quirks},
};

/// Time for a probe's commands. A runtime that needs longer to tell its version is broken.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// A usable runtime handler. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OciRuntime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: HandlerConfig,
    quirks: &'static Quirks,
    path: PathBuf,
    version: String,
    features: RuntimeFeatures,
}

/// A container as its runtime sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeState {
    /// `creating`, `created`, `running`, `paused` or `stopped`.
    pub status: String,
    /// Its init process, if it lives.
    pub pid: Option<u32>,
}

/// The OCI state that `RUNTIME state` prints, as far as it matters here.
#[derive(Deserialize)]
struct PrintedState {
    status: String,
    #[serde(default)]
    pid: i64,
}

impl OciRuntime {
    /// Finds the binary and asks it for its version and features.
    pub async fn probe(config: HandlerConfig) -> Result<Self, RuntimeError> {
        let path = handler::find(&config)?;
        let version = Self::ask(&path, "--version", &config.name).await?;
        let version = String::from_utf8_lossy(&version)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        let quirks = if config.kind == RuntimeKind::Auto {
            let program = path
                .file_name()
                .map(OsStr::to_string_lossy)
                .unwrap_or_default();
            quirks::recognise(&program, &version)
        } else {
            quirks::of(config.kind)
        };
        let mut features = RuntimeFeatures::default();
        if quirks.features {
            match Self::ask(&path, "features", &config.name).await {
                Ok(json) => match RuntimeFeatures::parse(&json) {
                    Ok(parsed) => features = parsed,
                    Err(error) => {
                        tracing::warn!(handler = config.name, %error, "features cannot be read; taken as none");
                    }
                },
                Err(error) => {
                    tracing::debug!(handler = config.name, %error, "runtime tells no features");
                }
            }
        }
        if !features.reported {
            features.recursive_readonly = quirks.knows_recursive_readonly(&version);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                quirks,
                path,
                version,
                features,
            }),
        })
    }

    async fn ask(
        path: &Path,
        question: &'static str,
        handler: &str,
    ) -> Result<Vec<u8>, RuntimeError> {
        let finished = command::run(path, [question], None, PROBE_DEADLINE).await;
        let name = path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy();
        check(finished, path, &name, question, handler, PROBE_DEADLINE)
            .map(|finished| finished.stdout)
    }

    /// The handler's name.
    pub fn name(&self) -> &str {
        &self.inner.config.name
    }

    /// Which runtime it is; never `Auto`.
    pub fn kind(&self) -> RuntimeKind {
        self.inner.quirks.kind
    }

    /// The binary.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Its state directory.
    pub fn root(&self) -> &Path {
        &self.inner.config.root
    }

    /// The first line of what it says of its version.
    pub fn version(&self) -> &str {
        &self.inner.version
    }

    /// What it can do.
    pub fn features(&self) -> &RuntimeFeatures {
        &self.inner.features
    }

    /// Whether a pod of this handler needs a (pause) container for its sandbox, whatever its namespaces.
    pub fn needs_sandbox_container(&self) -> bool {
        self.inner.quirks.sandbox_container
    }

    /// Whether a signal to the init process reaches the container ([`crate::Monitor::signal`]); otherwise use
    /// [`Self::kill`].
    pub fn signals_by_pid(&self) -> bool {
        self.inner.quirks.signals_by_pid
    }

    /// Whether `update` cannot take a CPU quota away on cgroup v1.
    pub fn keeps_quota(&self) -> bool {
        self.inner.quirks.unsigned_quota
    }

    /// `start`: lets a created container's process run.
    pub async fn start(&self, id: &str, deadline: Duration) -> Result<(), RuntimeError> {
        self.run("start", id, &[id.as_ref()], None, deadline)
            .await
            .map(drop)
    }

    /// `kill`: signals the init process, or with `all` every process of the container.
    pub async fn kill(
        &self,
        id: &str,
        signal: i32,
        all: bool,
        deadline: Duration,
    ) -> Result<(), RuntimeError> {
        let signal = signal.to_string();
        let mut arguments: Vec<&OsStr> = Vec::with_capacity(3);
        if all {
            arguments.push("--all".as_ref());
        }
        arguments.extend([OsStr::new(id), OsStr::new(&signal)]);
        self.run("kill", id, &arguments, None, deadline)
            .await
            .map(drop)
    }

    /// `delete`: removes what is left of a container; with `force` kills it first. A container that is not there is
    /// success.
    pub async fn delete(
        &self,
        id: &str,
        force: bool,
        deadline: Duration,
    ) -> Result<(), RuntimeError> {
        let arguments: &[&OsStr] = if force {
            &["--force".as_ref(), id.as_ref()]
        } else {
            &[id.as_ref()]
        };
        match self.run("delete", id, arguments, None, deadline).await {
            Err(error) if error.is_not_found() => Ok(()),
            result => result.map(drop),
        }
    }

    /// `state`; `None` when the runtime does not know the container.
    pub async fn state(
        &self,
        id: &str,
        deadline: Duration,
    ) -> Result<Option<RuntimeState>, RuntimeError> {
        let printed = match self.run("state", id, &[id.as_ref()], None, deadline).await {
            Err(error) if error.is_not_found() => return Ok(None),
            result => result?.stdout,
        };
        let state: PrintedState =
            serde_json::from_slice(&printed).map_err(|error| RuntimeError::Failed {
                runtime: self.runtime_name(),
                operation: "state",
                id: id.to_owned(),
                message: format!("its answer cannot be read: {error}"),
            })?;
        let pid = u32::try_from(state.pid)
            .ok()
            .filter(|&pid| pid != 0 && state.status != "stopped");
        Ok(Some(RuntimeState {
            status: state.status,
            pid,
        }))
    }

    /// `update`: sets new limits, given as OCI `resources` JSON.
    pub async fn update(
        &self,
        id: &str,
        resources_json: &[u8],
        deadline: Duration,
    ) -> Result<(), RuntimeError> {
        let arguments = [
            "--resources".as_ref(),
            self.inner.quirks.stdin_path.as_ref(),
            id.as_ref(),
        ];
        self.run("update", id, &arguments, Some(resources_json), deadline)
            .await
            .map(drop)
    }

    /// `pause`: freezes every process.
    pub async fn pause(&self, id: &str, deadline: Duration) -> Result<(), RuntimeError> {
        self.run("pause", id, &[id.as_ref()], None, deadline)
            .await
            .map(drop)
    }

    /// `resume`: thaws them.
    pub async fn resume(&self, id: &str, deadline: Duration) -> Result<(), RuntimeError> {
        self.run("resume", id, &[id.as_ref()], None, deadline)
            .await
            .map(drop)
    }

    async fn run(
        &self,
        operation: &'static str,
        id: &str,
        arguments: &[&OsStr],
        input: Option<&[u8]>,
        deadline: Duration,
    ) -> Result<Finished, RuntimeError> {
        // Without a log file the log goes to stderr: no file to read back.
        let mut line = self.globals(None);
        line.push(operation.into());
        line.extend(arguments.iter().map(OsString::from));
        let finished = command::run(&self.inner.path, line, input, deadline).await;
        check(
            finished,
            &self.inner.path,
            &self.runtime_name(),
            operation,
            id,
            deadline,
        )
    }

    /// The arguments before the subcommand.
    fn globals(&self, log: Option<&Path>) -> Vec<OsString> {
        let config = &self.inner.config;
        let mut line: Vec<OsString> = vec!["--root".into(), config.root.clone().into()];
        if let Some(log) = log {
            line.extend(["--log".into(), log.into()]);
        }
        line.extend(["--log-format".into(), "json".into()]);
        if config.systemd_cgroup {
            line.push("--systemd-cgroup".into());
        }
        line.extend(config.args.iter().map(OsString::from));
        line
    }

    /// A whole command line for the monitor to run.
    pub(crate) fn command_line(
        &self,
        log: &Path,
        subcommand: &str,
        arguments: &[&OsStr],
    ) -> Vec<Vec<u8>> {
        let mut line = vec![self.inner.path.clone().into_os_string()];
        line.extend(self.globals(Some(log)));
        line.push(subcommand.into());
        line.extend(arguments.iter().map(OsString::from));
        line.into_iter().map(OsString::into_encoded_bytes).collect()
    }

    /// What the runtime is called in messages.
    pub(crate) fn runtime_name(&self) -> String {
        self.inner
            .path
            .file_name()
            .unwrap_or(self.inner.path.as_os_str())
            .to_string_lossy()
            .into_owned()
    }
}

/// Turns a command's end into a result with the runtime's own words.
fn check(
    finished: Result<Finished, NotFinished>,
    path: &Path,
    runtime: &str,
    operation: &'static str,
    id: &str,
    deadline: Duration,
) -> Result<Finished, RuntimeError> {
    match finished {
        Ok(finished) if finished.status.success() => Ok(finished),
        Ok(finished) => Err(RuntimeError::Failed {
            runtime: runtime.to_owned(),
            operation,
            id: id.to_owned(),
            message: message::find(
                &finished.stderr,
                &finished.stdout,
                &finished.status.to_string(),
            ),
        }),
        Err(NotFinished::Spawn(source)) => Err(RuntimeError::Spawn {
            program: path.to_owned(),
            source,
        }),
        Err(NotFinished::Deadline) => Err(RuntimeError::Deadline {
            operation,
            id: id.to_owned(),
            after: deadline,
        }),
    }
}
