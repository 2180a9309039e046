//! Running a process in a container, and ending it with all that came of it.
//!
//! The runtime's `exec --detach` starts the process and ends; the process is then our child, as its container is. It is
//! killed when its deadline passes, when its requester says so, and when its requester hangs up: nobody would ever learn
//! its end.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::PathBuf};

use monitor_wire::{ExecOrder, Failure, FromMonitor};
use rustix::{
    fd::{AsFd as _, OwnedFd},
    process::{Pid, WaitStatus},
};

use crate::{
    clock::{Millis, now_ms},
    console::Console,
    container::Stage,
    create::{KILL_GRACE_MS, describe, is_child, read_pid},
    event_loop::{Monitor, exit_code},
    poller::Source,
    process_tree,
    refusal::Refusal,
    setup::{null_device, with_inherited_oom_score},
    spawn::{ChildStdio, spawn},
};

/// An exec.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) serial: u32,
    pub(crate) connection: u32,
    pub(crate) correlation: u32,
    pub(crate) stage: ExecStage,
    /// When it is killed, and once it is, when its requester is answered at the latest.
    pub(crate) deadline: Option<Millis>,
    killed: Option<Killed>,
    pid_file: PathBuf,
    /// Another handle on its terminal, until it is over. Else a requester that lets go would hang it up: whoever leads the
    /// session would die of that, and its tree fall apart before it can be killed.
    kept_terminal: Option<OwnedFd>,
}

/// Where an exec is.
#[derive(Debug)]
pub(crate) enum ExecStage {
    /// The runtime's command runs.
    Starting {
        child: Pid,
        console: Option<Console>,
    },
    /// The process runs.
    Running { pid: Pid },
    /// It was killed, its requester has been told, but it is not reaped yet.
    Lingering { pid: Pid },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killed {
    AtDeadline,
    OnRequest,
}

impl Exec {
    pub(crate) fn pid(&self) -> Pid {
        match self.stage {
            ExecStage::Starting { child: pid, .. }
            | ExecStage::Running { pid }
            | ExecStage::Lingering { pid } => pid,
        }
    }
}

impl Monitor {
    /// Starts the command. The answers follow.
    pub(crate) fn exec(
        &mut self,
        connection: u32,
        correlation: u32,
        order: &ExecOrder,
        fds: &[OwnedFd],
    ) -> Result<(), Refusal> {
        let container = self
            .containers
            .iter()
            .find(|container| container.id == order.id);
        match container.map(|container| &container.stage) {
            None => return Err(Refusal::unknown_container(&order.id)),
            Some(Stage::Alive { .. }) => {}
            Some(_) => {
                return Err(Refusal::new(
                    Failure::NotRunning,
                    format!("container {} does not run", order.id),
                ));
            }
        }
        let serial = self.next_serial();
        let console = self.console(order.console_socket.as_deref(), Source::ExecConsole, serial)?;
        let pid_file = PathBuf::from(OsStr::from_bytes(&order.pid_file));
        let _ = std::fs::remove_file(&pid_file);
        let null = null_device().map_err(|error| Refusal::io("open /dev/null", error))?;
        let wanted = if console.is_some() {
            0
        } else {
            usize::from(order.stdin) + 2
        };
        if fds.len() != wanted {
            return Err(Refusal::new(
                Failure::Invalid,
                format!("{} descriptors for {wanted} streams", fds.len()),
            ));
        }
        let mut streams = fds.iter().map(OwnedFd::as_fd);
        let mut stream = || streams.next().unwrap_or(null.as_fd());
        let stdio = ChildStdio {
            stdin: if order.stdin { stream() } else { null.as_fd() },
            stdout: stream(),
            stderr: stream(),
        };
        let inherited = self.inherited_oom_score_adj.as_deref();
        let child = with_inherited_oom_score(inherited, || spawn(&order.command, stdio))
            .map_err(|error| Refusal::io("run the runtime", error))?;
        self.execs.push(Exec {
            serial,
            connection,
            correlation,
            stage: ExecStage::Starting { child, console },
            deadline: order
                .deadline_ms
                .map(|after| now_ms().saturating_add(after)),
            killed: None,
            pid_file,
            kept_terminal: None,
        });
        Ok(())
    }

    /// The child of the exec at `at` has ended: the command, or the process itself.
    pub(crate) fn exec_child_ended(&mut self, at: usize, status: WaitStatus) {
        let mut exec = self.execs.remove(at);
        let (connection, correlation) = (exec.connection, exec.correlation);
        match &mut exec.stage {
            ExecStage::Lingering { .. } => {}
            ExecStage::Running { .. } => {
                let reply = exec.ended(exit_code(status));
                // With its file, before it is told: whoever is told may look.
                drop(exec);
                self.send(connection, correlation, &reply);
            }
            ExecStage::Starting { .. } if exec.killed.is_some() => {
                // The command may have won the race and left a process behind.
                if let Ok(pid) = read_pid(&exec.pid_file)
                    && is_child(pid)
                {
                    process_tree::kill(pid, &self.spared());
                }
                self.send(connection, correlation, &Exec::killed_while_starting());
            }
            ExecStage::Starting { console, .. } => {
                if status.exit_status() != Some(0) {
                    let refusal = Refusal::new(Failure::Runtime, describe(status));
                    return self.send(connection, correlation, &refusal.into_reply());
                }
                let terminal = console.as_mut().and_then(Console::take);
                let missing = console.is_some() && terminal.is_none();
                let pid = match read_pid(&exec.pid_file) {
                    Ok(pid) => pid,
                    Err(refusal) => {
                        return self.send(connection, correlation, &refusal.into_reply());
                    }
                };
                let ended = self.take_stray(pid);
                if missing || ended.is_none() && !is_child(pid) {
                    // Nobody would ever end what runs without its terminal.
                    if ended.is_none() && is_child(pid) {
                        process_tree::kill(pid, &self.spared());
                    }
                    let refusal = Refusal::new(
                        Failure::Runtime,
                        "the runtime sent no terminal, or a foreign process",
                    );
                    return self.send(connection, correlation, &refusal.into_reply());
                }
                exec.kept_terminal = terminal
                    .as_ref()
                    .and_then(|terminal| terminal.try_clone().ok());
                let number = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or_default();
                let started = FromMonitor::ExecStarted { pid: number };
                self.send_with(connection, correlation, &started, terminal);
                if let Some(status) = ended {
                    return self.send(connection, correlation, &exec.ended(exit_code(status)));
                }
                exec.stage = ExecStage::Running { pid };
                let orphan = !self
                    .connections
                    .iter()
                    .any(|known| known.serial() == connection);
                self.execs.push(exec);
                if orphan {
                    self.kill_exec(self.execs.len() - 1, Killed::OnRequest);
                }
            }
        }
    }

    /// Kills an exec that is not wanted any more.
    pub(crate) fn cancel_exec(&mut self, connection: u32, correlation: u32) {
        let wanted = |exec: &Exec| exec.connection == connection && exec.correlation == correlation;
        if let Some(at) = self.execs.iter().position(wanted) {
            self.kill_exec(at, Killed::OnRequest);
        }
    }

    /// Kills every exec of a connection that is gone.
    pub(crate) fn cancel_execs_of(&mut self, connection: u32) {
        for at in 0..self.execs.len() {
            if self
                .execs
                .get(at)
                .is_some_and(|exec| exec.connection == connection)
            {
                self.kill_exec(at, Killed::OnRequest);
            }
        }
    }

    /// Kills what is over time, and answers for what does not die.
    pub(crate) fn execs_on_time(&mut self, now: Millis) {
        for at in 0..self.execs.len() {
            let Some(exec) = self.execs.get_mut(at) else {
                continue;
            };
            if exec.deadline.is_none_or(|deadline| deadline > now) {
                continue;
            }
            if exec.killed.is_none() {
                self.kill_exec(at, Killed::AtDeadline);
                continue;
            }
            // Stuck in the kernel. It is reaped whenever it ends; nobody waits for it.
            exec.deadline = None;
            let pid = exec.pid();
            let reply = match exec.stage {
                ExecStage::Starting { .. } => Exec::killed_while_starting(),
                _ => exec.ended(137),
            };
            exec.stage = ExecStage::Lingering { pid };
            let (connection, correlation) = (exec.connection, exec.correlation);
            self.send(connection, correlation, &reply);
        }
    }

    /// Children that belong to nobody else's tree: init processes and execs.
    fn spared(&self) -> Vec<Pid> {
        self.living()
            .into_iter()
            .chain(self.execs.iter().map(Exec::pid))
            .collect()
    }

    fn kill_exec(&mut self, at: usize, why: Killed) {
        let spared = self.spared();
        let Some(exec) = self.execs.get_mut(at) else {
            return;
        };
        if exec.killed.is_some() || matches!(exec.stage, ExecStage::Lingering { .. }) {
            return;
        }
        exec.killed = Some(why);
        exec.deadline = Some(now_ms() + KILL_GRACE_MS);
        process_tree::kill(exec.pid(), &spared);
        // The process may have left its command's tree already.
        if matches!(exec.stage, ExecStage::Starting { .. })
            && let Ok(pid) = read_pid(&exec.pid_file)
            && is_child(pid)
        {
            process_tree::kill(pid, &spared);
        }
    }
}

impl Exec {
    fn ended(&self, code: i32) -> FromMonitor {
        FromMonitor::ExecEnded {
            code,
            timed_out: self.killed == Some(Killed::AtDeadline),
        }
    }

    fn killed_while_starting() -> FromMonitor {
        Refusal::new(
            Failure::Deadline,
            "the runtime took too long and was killed",
        )
        .into_reply()
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        // Only now: until it is over, the pid is what finds the process.
        let _ = std::fs::remove_file(&self.pid_file);
    }
}
