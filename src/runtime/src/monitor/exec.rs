//! Processes run in a living container.

use std::{
    ffi::OsStr,
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use monitor_wire::{ExecOrder, FromMonitor, Request};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    time::{Instant, timeout, timeout_at},
};

use super::{GRACE, Monitor, Words, bytes, link::Ticket, millis};
use crate::{ExecCaptured, ExecExit, ExecRequest, ExecStdio, OciRuntime, RuntimeError};

/// How long output is awaited when the process has ended and something else holds its streams.
const DRAIN: Duration = Duration::from_millis(500);
/// Exit code of a process that was killed.
const KILLED: i32 = 137;

/// A process started by [`Monitor::start_exec`]. Dropped before [`RunningExec::wait`] is done, it is killed with all its
/// descendants.
#[derive(Debug)]
pub struct RunningExec {
    pid: u32,
    terminal: Option<OwnedFd>,
    id: String,
    monitor: Monitor,
    call: Call,
    until: Option<Instant>,
}

impl RunningExec {
    /// The process, as the node sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The terminal's master, once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Waits for its end.
    pub async fn wait(mut self) -> Result<ExecExit, RuntimeError> {
        let (reply, _) = self.call.next(self.until).await?;
        self.call.over = true;
        match reply {
            FromMonitor::ExecEnded { code, timed_out } => Ok(ExecExit { code, timed_out }),
            other => Err(self.monitor.failure("exec", &self.id, other, None)),
        }
    }
}

/// An exec that the monitor has been asked for. Dropped before it is over, it is called off.
#[derive(Debug)]
struct Call {
    ticket: Ticket,
    over: bool,
    _files: Files,
}

impl Call {
    async fn next(
        &mut self,
        until: Option<Instant>,
    ) -> Result<(FromMonitor, Option<OwnedFd>), RuntimeError> {
        let Some(until) = until else {
            return self.ticket.next().await;
        };
        match timeout_at(until, self.ticket.next()).await {
            Ok(reply) => reply,
            Err(_) => Err(RuntimeError::Protocol {
                socket: self.ticket.link().socket().to_owned(),
                message: "an exec outlived its deadline".to_owned(),
            }),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.over {
            self.ticket.link().tell(&Request::Cancel {
                exec: self.ticket.number(),
            });
        }
    }
}

/// The files of one exec, next to its process's JSON; removed when it is over. The pid file is the monitor's to remove:
/// it may need it to find a process that is called off.
#[derive(Debug)]
struct Files {
    pid: PathBuf,
    log: PathBuf,
    console: PathBuf,
}

impl Files {
    fn beside(process_json: &Path) -> Self {
        Self {
            pid: process_json.with_extension("pid"),
            log: process_json.with_extension("log"),
            console: process_json.with_extension("sock"),
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for file in [&self.log, &self.console] {
            // Absent is as good as removed.
            let _ = fs::remove_file(file);
        }
    }
}

impl Monitor {
    /// Starts a process in a container.
    pub async fn start_exec(&self, request: ExecRequest) -> Result<RunningExec, RuntimeError> {
        let files = Files::beside(&request.process_json);
        let (descriptors, stdin, console) = match request.stdio {
            ExecStdio::Terminal => (Vec::new(), false, true),
            ExecStdio::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                let has_stdin = stdin.is_some();
                (
                    stdin.into_iter().chain([stdout, stderr]).collect(),
                    has_stdin,
                    false,
                )
            }
        };
        let mut arguments: Vec<&OsStr> = vec![
            "--process".as_ref(),
            request.process_json.as_ref(),
            "--detach".as_ref(),
            "--pid-file".as_ref(),
            files.pid.as_ref(),
        ];
        if console {
            arguments.extend(["--console-socket".as_ref(), files.console.as_os_str()]);
        }
        arguments.push(request.id.as_ref());
        let order = ExecOrder {
            id: request.id.clone(),
            command: request.runtime.command_line(&files.log, "exec", &arguments),
            pid_file: bytes(&files.pid),
            console_socket: console.then(|| bytes(&files.console)),
            stdin,
            deadline_ms: request.deadline.map(millis),
        };
        let log = files.log.clone();
        // What lies beyond the clock's range is never.
        let until = request.deadline.and_then(|deadline| {
            Instant::now()
                .checked_add(deadline)
                .and_then(|at| at.checked_add(GRACE))
        });
        let ticket = self.link.open(&Request::Exec(order), descriptors)?;
        let mut call = Call {
            ticket,
            over: false,
            _files: files,
        };
        match call.next(until).await? {
            (FromMonitor::ExecStarted { pid }, terminal) => Ok(RunningExec {
                pid,
                terminal,
                id: request.id,
                monitor: self.clone(),
                call,
                until,
            }),
            (other, _) => {
                call.over = true;
                let words = Words {
                    runtime: request.runtime.runtime_name(),
                    log: &log,
                    logged_before: 0,
                    deadline: request.deadline.unwrap_or_default(),
                };
                Err(self.failure("exec", &request.id, other, Some(&words)))
            }
        }
    }

    /// Starts a process in a container and waits for its end.
    pub async fn exec(&self, request: ExecRequest) -> Result<ExecExit, RuntimeError> {
        match self.start_exec(request).await {
            Ok(running) => running.wait().await,
            // Not even started in time.
            Err(RuntimeError::Deadline { .. }) => Ok(ExecExit {
                code: KILLED,
                timed_out: true,
            }),
            Err(error) => Err(error),
        }
    }

    /// ExecSync: runs a process without input and collects its output, each stream up to `cap_bytes` (more is read and
    /// dropped). After its end, output still held open by others is awaited for half a second at most.
    pub async fn exec_capture(
        &self,
        id: &str,
        runtime: &OciRuntime,
        process_json: PathBuf,
        cap_bytes: usize,
        deadline: Option<Duration>,
    ) -> Result<ExecCaptured, RuntimeError> {
        let pipe = || {
            let failed = |source| RuntimeError::Io {
                doing: "make a pipe",
                path: process_json.clone(),
                source,
            };
            let (ours, theirs) =
                pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
            Ok::<_, RuntimeError>((Receiver::from_owned_fd(ours).map_err(failed)?, theirs))
        };
        let (from_stdout, stdout) = pipe()?;
        let (from_stderr, stderr) = pipe()?;
        let request = ExecRequest {
            id: id.to_owned(),
            runtime: runtime.clone(),
            process_json,
            stdio: ExecStdio::Pipes {
                stdin: None,
                stdout,
                stderr,
            },
            deadline,
        };
        let mut captured = (Vec::new(), Vec::new());
        let exit = {
            let read = async {
                tokio::join!(
                    collect(from_stdout, &mut captured.0, cap_bytes),
                    collect(from_stderr, &mut captured.1, cap_bytes)
                );
            };
            tokio::pin!(read);
            let run = self.exec(request);
            tokio::pin!(run);
            let mut all_read = false;
            let exit = loop {
                tokio::select! {
                    exit = &mut run => break exit?,
                    () = &mut read, if !all_read => all_read = true,
                }
            };
            if !all_read {
                let _ = timeout(DRAIN, &mut read).await;
            }
            exit
        };
        let (stdout, stderr) = captured;
        Ok(ExecCaptured {
            stdout,
            stderr,
            exit,
        })
    }
}

/// Reads to the end and keeps the beginning.
async fn collect(mut stream: Receiver, kept: &mut Vec<u8>, cap_bytes: usize) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = cap_bytes.saturating_sub(kept.len());
        kept.extend_from_slice(buffer.get(..length.min(room)).unwrap_or_default());
    }
}
