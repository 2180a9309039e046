//! What is asked of a monitor, and what it answers: the engine's side of the protocol, in the engine's words.

use std::{os::fd::OwnedFd, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::OciRuntime;

/// Which namespaces to make and where to pin each; all happens in the monitor, in one step, undone as one on failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceRequest {
    /// Network namespace, with loopback up.
    pub network: Option<PathBuf>,
    /// IPC namespace.
    pub ipc: Option<PathBuf>,
    /// UTS namespace.
    pub uts: Option<PathBuf>,
    /// Host name in the new UTS namespace.
    pub hostname: Option<String>,
    /// Names and values; only those that live in a namespace made by this request are accepted.
    pub sysctls: Vec<(String, String)>,
    /// A user namespace, which then owns the others: its root may do in them what root may do in the node's.
    pub user: Option<UserNamespaceRequest>,
}

/// A user namespace to make and pin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserNamespaceRequest {
    /// Where it is pinned.
    pub pin: PathBuf,
    /// Ranges of user ids: first one inside, first one on the node, how many.
    pub uids: Vec<(u32, u32, u32)>,
    /// Ranges of group ids.
    pub gids: Vec<(u32, u32, u32)>,
}

/// Version of the cgroup hierarchy that limits a container's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    /// v1: `memory.oom_control`.
    V1,
    /// v2: `memory.events`.
    V2,
}

/// A container to be created from a bundle.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// Container id.
    pub id: String,
    /// The bundle: `config.json` and `rootfs`. The monitor also writes `runtime.log` here.
    pub bundle: PathBuf,
    /// The runtime that makes it.
    pub runtime: OciRuntime,
    /// Where the runtime writes the pid.
    pub pid_file: PathBuf,
    /// The CRI log file; it exists when `create` returns. `None` logs nothing.
    pub log: Option<PathBuf>,
    /// A terminal instead of pipes; must say the same as the bundle's `process.terminal`.
    pub tty: bool,
    /// Keep stdin open for attaching clients; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Close stdin when the first attached client has gone.
    pub stdin_once: bool,
    /// The container's memory cgroup directory, for the OOM verdict. It need not exist before.
    pub memory_cgroup: Option<(CgroupVersion, PathBuf)>,
    /// Where the monitor writes [`Exit`] as JSON.
    pub exit_file: PathBuf,
    /// The socket for attaching clients (frames of `monitor_wire::attach`); `None` for no attaching.
    pub attach_socket: Option<PathBuf>,
    /// Time for the runtime's `create`.
    pub deadline: Duration,
}

/// A created, not yet started container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// The container's init process, as the node sees it.
    pub pid: u32,
}

/// Where an exec's input and output go.
#[derive(Debug)]
pub enum ExecStdio {
    /// Pipes, sockets or files of the caller.
    Pipes {
        /// `None` is `/dev/null`.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A new terminal, whose master [`crate::RunningExec::take_terminal`] hands out.
    Terminal,
}

/// A process to be run in a living container.
#[derive(Debug)]
pub struct ExecRequest {
    /// Container id.
    pub id: String,
    /// The runtime that the container was made with.
    pub runtime: OciRuntime,
    /// OCI `process` JSON, in a directory of ours: next to it come a pid file and a log, removed at the end.
    pub process_json: PathBuf,
    /// Where its input and output go; [`ExecStdio::Terminal`] needs `terminal: true` in the process.
    pub stdio: ExecStdio,
    /// Time for all of it: spawning, running. `None` is no limit.
    pub deadline: Option<Duration>,
}

/// How an exec ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecExit {
    /// Exit code, 128 + n for signal n.
    pub code: i32,
    /// It was killed, with all its descendants, at its deadline.
    pub timed_out: bool,
}

/// An exec's output and end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecCaptured {
    /// Standard output, up to the cap.
    pub stdout: Vec<u8>,
    /// Standard error, up to the cap.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub exit: ExecExit,
}

/// How a container ended. The exit file holds it as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, 128 + n for signal n.
    pub code: i32,
    /// The kernel killed a process of the container for lack of memory.
    pub oom_killed: bool,
    /// Whose limit that was. Unknown in files of older monitors.
    #[serde(default)]
    pub oom_limit: OomLimit,
    /// When it ended, in nanoseconds since 1970.
    pub at_unix_ns: i64,
}

/// Whose limit of memory was reached when the kernel killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OomLimit {
    /// The container's own.
    Own,
    /// That of a cgroup above it, such as its pod's, or the node had no more.
    Above,
    /// Nothing was killed, or nobody tells.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What a monitor knows of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerState {
    /// Container id.
    pub id: String,
    /// Its init process; `None` while the runtime's `create` still runs.
    pub pid: Option<u32>,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
    /// The kernel killed a process of it for lack of memory; it may live on.
    pub oom_killed: bool,
    /// Bytes of output that could not be written to its log (disk full).
    pub log_dropped_bytes: u64,
}

/// What a monitor tells unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MonitorEvent {
    /// A container ended; its log and exit file are written.
    Exited(String, Exit),
    /// The kernel killed a process of this container for lack of memory.
    Oom(String),
    /// The connection is gone: the monitor died or ended. The last event.
    Disconnected,
}
