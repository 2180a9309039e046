//! The client of one pod's monitor: each method is a request, many can be under way at once.

mod exec;
mod link;
mod spawn;

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt as _, path::Path, sync::Arc, time::Duration};

use monitor_wire::{
    CreateOrder, Failure, FromMonitor, NamespaceOrder, OomWatch, Request, UserOrder,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::{net::UnixStream, sync::mpsc::UnboundedReceiver};

use crate::{
    CgroupVersion, ContainerState, CreateRequest, Created, Exit, MonitorEvent, NamespaceRequest,
    OomLimit, Refusal, RuntimeError, message,
};

pub use self::exec::RunningExec;
use self::link::Link;
pub use self::spawn::MonitorSpawn;

/// How long a monitor may take for what it does at once. It answers in microseconds; only a stopped one does not.
pub(crate) const PROMPT: Duration = Duration::from_secs(10);
/// What a monitor gets beyond a request's own deadline, to kill and to answer.
const GRACE: Duration = Duration::from_secs(5);
/// How long forgetting waits for a container that is just ending.
const FORGET: Duration = Duration::from_secs(5);

/// How long a monitor may take to come to a log. One that comes later leaves it alone, so that a time-out means that nothing
/// was done: the rest, [`GRACE`], is for opening a file and for the answer.
const REOPEN: Duration = Duration::from_secs(5);

/// A connection to one monitor. Cheap to clone; requests run side by side. It closes when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Monitor {
    link: Arc<Link>,
}

/// A monitor that was just started.
#[derive(Debug)]
pub struct SpawnedMonitor {
    /// The connection to it.
    pub monitor: Monitor,
    /// What it reports.
    pub events: UnboundedReceiver<MonitorEvent>,
    /// Its process id.
    pub pid: u32,
}

impl Monitor {
    /// Starts a monitor and connects to it.
    pub async fn spawn(spawn: &MonitorSpawn) -> Result<SpawnedMonitor, RuntimeError> {
        let pid = spawn.start()?;
        let (monitor, events) = Self::connect(&spawn.socket).await?;
        Ok(SpawnedMonitor {
            monitor,
            events,
            pid,
        })
    }

    /// Connects to a running monitor, as after a restart of the server. Follow it with [`Self::state`]: events of the
    /// past are not repeated.
    pub async fn connect(
        socket: &Path,
    ) -> Result<(Self, UnboundedReceiver<MonitorEvent>), RuntimeError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    RuntimeError::Disconnected {
                        socket: socket.to_owned(),
                    }
                }
                _ => RuntimeError::Io {
                    doing: "connect",
                    path: socket.to_owned(),
                    source,
                },
            })?;
        let (link, events) = Link::start(socket, stream);
        Ok((
            Self {
                link: Arc::new(link),
            },
            events,
        ))
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        self.link.socket()
    }

    /// Makes and pins namespaces.
    pub async fn open_namespaces(&self, request: &NamespaceRequest) -> Result<(), RuntimeError> {
        let order = NamespaceOrder {
            network: request.network.as_deref().map(bytes),
            ipc: request.ipc.as_deref().map(bytes),
            uts: request.uts.as_deref().map(bytes),
            hostname: request
                .hostname
                .as_ref()
                .map(|name| name.clone().into_bytes()),
            sysctls: request
                .sysctls
                .iter()
                .map(|(name, value)| format!("{name}={value}").into_bytes())
                .collect(),
            user: request.user.as_ref().map(|user| UserOrder {
                pin: bytes(&user.pin),
                uid_map: id_map(&user.uids),
                gid_map: id_map(&user.gids),
            }),
        };
        self.ask("namespaces", "", &Request::Namespaces(order), PROMPT)
            .await
            .map(drop)
    }

    /// Creates a container. A caller that gives up does not stop it: see it in [`Self::state`], end it with
    /// [`Self::forget`].
    pub async fn create(&self, request: &CreateRequest) -> Result<Created, RuntimeError> {
        let log = request.bundle.join("runtime.log");
        let logged_before = length(&log);
        let console = request.tty.then(|| request.bundle.join("console.sock"));
        let mut arguments: Vec<&OsStr> = vec![
            "--bundle".as_ref(),
            request.bundle.as_ref(),
            "--pid-file".as_ref(),
            request.pid_file.as_ref(),
        ];
        if let Some(console) = &console {
            arguments.extend(["--console-socket".as_ref(), console.as_os_str()]);
        }
        arguments.push(request.id.as_ref());
        let order = CreateOrder {
            id: request.id.clone(),
            command: request.runtime.command_line(&log, "create", &arguments),
            pid_file: bytes(&request.pid_file),
            log: request.log.as_deref().map(bytes),
            console_socket: console.as_deref().map(bytes),
            stdin: request.stdin,
            stdin_once: request.stdin_once,
            oom: request
                .memory_cgroup
                .as_ref()
                .map(|(version, directory)| OomWatch {
                    cgroup_version: match version {
                        CgroupVersion::V1 => 1,
                        CgroupVersion::V2 => 2,
                    },
                    directory: bytes(directory),
                }),
            exit_file: bytes(&request.exit_file),
            attach_socket: request.attach_socket.as_deref().map(bytes),
            deadline_ms: millis(request.deadline),
        };
        let words = Words {
            runtime: request.runtime.runtime_name(),
            log: &log,
            logged_before,
            deadline: request.deadline,
        };
        let limit = request.deadline + GRACE;
        match self
            .link
            .ask(&Request::Create(order), Vec::new(), limit)
            .await?
        {
            FromMonitor::Created { pid } => Ok(Created { pid }),
            other => Err(self.failure("create", &request.id, other, Some(&words))),
        }
    }

    /// Signals a container's init process; refused with [`Refusal::NotRunning`] when it has ended.
    pub async fn signal(&self, id: &str, signal: i32) -> Result<(), RuntimeError> {
        self.ask(
            "signal",
            id,
            &Request::Signal {
                id: id.to_owned(),
                signal,
            },
            PROMPT,
        )
        .await
        .map(drop)
    }

    /// Opens the container's log file anew. On failure the old one stays in use and no file is made, then or later.
    pub async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError> {
        self.ask(
            "reopen log",
            id,
            &Request::ReopenLog {
                id: id.to_owned(),
                until_ns: Some(monotonic_ns(REOPEN)),
            },
            REOPEN + GRACE,
        )
        .await
        .map(drop)
    }

    /// Every container it knows.
    pub async fn state(&self) -> Result<Vec<ContainerState>, RuntimeError> {
        match self.link.ask(&Request::State, Vec::new(), PROMPT).await? {
            FromMonitor::State { containers, .. } => Ok(containers
                .into_iter()
                .map(|record| ContainerState {
                    id: record.id,
                    pid: record.pid,
                    exit: record.exit.map(Exit::from),
                    oom_killed: record.oom_killed,
                    log_dropped_bytes: record.log_dropped_bytes,
                })
                .collect()),
            other => Err(self.failure("state", "", other, None)),
        }
    }

    /// Drops an ended container from its records; waits a few seconds for one that is just ending, and ends a `create`
    /// that still runs.
    pub async fn forget(&self, id: &str) -> Result<(), RuntimeError> {
        let request = Request::Forget {
            id: id.to_owned(),
            deadline_ms: millis(FORGET),
        };
        self.ask("forget", id, &request, FORGET + GRACE)
            .await
            .map(drop)
    }

    /// Unpins the namespaces and ends the monitor; refused with [`Refusal::Busy`] while containers live.
    pub async fn end(&self) -> Result<(), RuntimeError> {
        self.ask("end", "", &Request::End, PROMPT).await.map(drop)
    }

    /// A request that is answered by nothing but success or failure.
    async fn ask(
        &self,
        operation: &'static str,
        id: &str,
        request: &Request,
        limit: Duration,
    ) -> Result<(), RuntimeError> {
        match self.link.ask(request, Vec::new(), limit).await? {
            FromMonitor::Done => Ok(()),
            other => Err(self.failure(operation, id, other, None)),
        }
    }

    /// What an unwelcome answer means.
    fn failure(
        &self,
        operation: &'static str,
        id: &str,
        answer: FromMonitor,
        words: Option<&Words<'_>>,
    ) -> RuntimeError {
        let FromMonitor::Failed {
            failure,
            message,
            output,
        } = answer
        else {
            return RuntimeError::Protocol {
                socket: self.socket().to_owned(),
                message: format!("answered {operation} with {answer:?}"),
            };
        };
        let id = id.to_owned();
        let kind = match (failure, words) {
            (Failure::Runtime, Some(words)) => {
                let message = message::find(&words.logged(), &output, &message);
                return RuntimeError::Failed {
                    runtime: words.runtime.clone(),
                    operation,
                    id,
                    message,
                };
            }
            (Failure::Deadline, Some(words)) => {
                return RuntimeError::Deadline {
                    operation,
                    id,
                    after: words.deadline,
                };
            }
            (Failure::NotFound, _) => Refusal::NotFound,
            (Failure::Exists, _) => Refusal::Exists,
            (Failure::NotRunning, _) => Refusal::NotRunning,
            (Failure::Busy, _) => Refusal::Busy,
            (Failure::Invalid, _) => Refusal::Invalid,
            (Failure::Unsupported, _) => Refusal::Unsupported,
            (Failure::Io | Failure::Runtime | Failure::Deadline | Failure::Unknown, _) => {
                Refusal::Io
            }
        };
        RuntimeError::Refused {
            operation,
            id,
            kind,
            message,
        }
    }
}

/// Where to find what a runtime said when the monitor ran it.
#[derive(Debug)]
struct Words<'a> {
    runtime: String,
    log: &'a Path,
    /// What of the log is older than the command.
    logged_before: u64,
    deadline: Duration,
}

impl Words<'_> {
    /// What the command added to its log; its last 64 KiB.
    fn logged(&self) -> Vec<u8> {
        const LOGGED_BYTES_MAX: u64 = 64 * 1024;
        use std::io::{Read as _, Seek as _, SeekFrom};
        let mut added = Vec::new();
        if let Ok(mut file) = std::fs::File::open(self.log) {
            let start = self
                .logged_before
                .max(length(self.log).saturating_sub(LOGGED_BYTES_MAX));
            if file.seek(SeekFrom::Start(start)).is_ok() {
                let _ = file.take(LOGGED_BYTES_MAX).read_to_end(&mut added);
            }
        }
        added
    }
}

impl From<monitor_wire::ExitRecord> for Exit {
    fn from(record: monitor_wire::ExitRecord) -> Self {
        Self {
            code: record.code,
            oom_killed: record.oom_killed,
            oom_limit: match record.oom_limit {
                monitor_wire::OomLimit::Unknown => OomLimit::Unknown,
                monitor_wire::OomLimit::Own => OomLimit::Own,
                monitor_wire::OomLimit::Above => OomLimit::Above,
            },
            at_unix_ns: record.at_unix_ns,
        }
    }
}

fn length(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |meta| meta.len())
}

/// The monotonic clock's reading after `delay`, in nanoseconds.
fn monotonic_ns(delay: Duration) -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::try_from(now).unwrap_or_default();
    u64::try_from((now + delay).as_nanos()).unwrap_or(u64::MAX)
}

/// The text that the kernel takes for a map of ids.
fn id_map(ranges: &[(u32, u32, u32)]) -> Vec<u8> {
    let lines = ranges
        .iter()
        .map(|(inside, outside, length)| format!("{inside} {outside} {length}\n"));
    lines.collect::<String>().into_bytes()
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
