//! Creating a container: running the runtime's `create` without waiting for it, and taking over what it made.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, path::PathBuf};

use monitor_wire::{CreateOrder, Failure, FromMonitor};
use rustix::process::{Pid, WaitStatus};

use crate::{
    attach::Attach,
    clock::{Millis, now_ms},
    console::Console,
    container::{Container, Parts, Stage},
    event_loop::Monitor,
    log::LogFile,
    oom::KillCounter,
    poller::{Source, Token},
    process_tree,
    refusal::Refusal,
    setup::with_inherited_oom_score,
    spawn::spawn,
    stdio::Pipes,
};

/// Most that is reported of what a failing runtime printed.
const OUTPUT_BYTES_MAX: usize = 4096;
/// How long a killed command may take to be gone before its requester is answered all the same.
pub(crate) const KILL_GRACE_MS: Millis = 1_000;

/// A runtime's `create` that runs.
#[derive(Debug)]
pub(crate) struct Creation {
    pub(crate) child: Pid,
    /// Who asked; the creation goes on when they hang up.
    pub(crate) connection: u32,
    pub(crate) correlation: u32,
    /// When it is killed, and once it is, when its requester is answered at the latest.
    pub(crate) deadline: Millis,
    pub(crate) console: Option<Console>,
    pub(crate) killed: bool,
    pipes: Pipes,
    pid_file: PathBuf,
}

impl Monitor {
    /// Prepares everything and starts the command. The answer follows when it has ended.
    pub(crate) fn create(
        &mut self,
        connection: u32,
        correlation: u32,
        order: CreateOrder,
    ) -> Result<(), Refusal> {
        if self
            .containers
            .iter()
            .any(|container| container.id == order.id)
        {
            return Err(Refusal::new(
                Failure::Exists,
                format!("container {} is there already", order.id),
            ));
        }
        let serial = self.next_serial();
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        // Before the command: kubelet looks for the log file as soon as the container is there.
        let log = order
            .log
            .as_deref()
            .map(|log| {
                LogFile::open(log).map_err(|error| Refusal::file("open log", &path(log), error))
            })
            .transpose()?;
        let attach = order
            .attach_socket
            .as_deref()
            .map(|socket| {
                Attach::listen(socket, &self.poller, serial)
                    .map_err(|error| Refusal::file("listen at", &path(socket), error))
            })
            .transpose()?;
        let console = self.console(
            order.console_socket.as_deref(),
            Source::CreateConsole,
            serial,
        )?;
        let terminal = console.is_some();
        let mut pipes = Pipes::new(order.stdin && !terminal)
            .map_err(|error| Refusal::io("make pipes", error))?;
        let oom = order.oom.as_ref().map(KillCounter::before);
        // A pid left by an earlier attempt would be taken for ours.
        let _ = fs::remove_file(path(&order.pid_file));
        let inherited = self.inherited_oom_score_adj.as_deref();
        let child = pipes
            .give(|stdio| with_inherited_oom_score(inherited, || spawn(&order.command, stdio)))
            .map_err(|error| {
                Refusal::file(
                    "run",
                    &path(order.command.first().map_or(b"", Vec::as_slice)),
                    error,
                )
            })?;
        let creation = Creation {
            child,
            connection,
            correlation,
            deadline: now_ms().saturating_add(order.deadline_ms),
            console,
            killed: false,
            pipes,
            pid_file: path(&order.pid_file),
        };
        self.containers.push(Container::new(Parts {
            id: order.id,
            serial,
            creation,
            oom,
            exit_file: order.exit_file,
            log,
            attach,
            stdin_once: order.stdin_once,
            terminal,
        }));
        Ok(())
    }

    /// The socket for a terminal, if one is asked for.
    pub(crate) fn console(
        &self,
        path: Option<&[u8]>,
        source: Source,
        serial: u32,
    ) -> Result<Option<Console>, Refusal> {
        path.map(|path| {
            Console::listen(path, &self.poller, Token { source, serial }).map_err(|error| {
                Refusal::file("listen at", &PathBuf::from(OsStr::from_bytes(path)), error)
            })
        })
        .transpose()
    }

    /// The command of the container at `at` has ended.
    pub(crate) fn creation_ended(&mut self, at: usize, status: WaitStatus) {
        let mut container = self.containers.remove(at);
        let waiters = std::mem::take(&mut container.waiters);
        // Replaced below, or gone with the container.
        let stage = std::mem::replace(&mut container.stage, Stage::Unmade);
        let Stage::Creating(creation) = stage else {
            return;
        };
        let (connection, correlation) = (creation.connection, creation.correlation);
        let reply = match self.adopt(container, *creation, status) {
            Ok(pid) => FromMonitor::Created { pid },
            Err(refusal) => refusal.into_reply(),
        };
        self.send(connection, correlation, &reply);
        for waiter in waiters {
            // Forgotten while it was being made. If it was made nevertheless, it has to be ended first.
            let reply = match reply {
                FromMonitor::Created { .. } => {
                    Refusal::new(Failure::Busy, "the container was created and lives").into_reply()
                }
                _ => FromMonitor::Done,
            };
            self.send(waiter.connection, waiter.correlation, &reply);
        }
    }

    /// Takes over a created container.
    fn adopt(
        &mut self,
        mut container: Container,
        mut creation: Creation,
        status: WaitStatus,
    ) -> Result<u32, Refusal> {
        if creation.killed {
            return Err(Refusal::new(
                Failure::Deadline,
                "the runtime took too long and was killed",
            ));
        }
        let output = creation.pipes.drain(OUTPUT_BYTES_MAX);
        if status.exit_status() != Some(0) {
            return Err(Refusal::new(Failure::Runtime, describe(status)).with_output(output));
        }
        let pid = read_pid(&creation.pid_file)?;
        let number = u32::try_from(pid.as_raw_nonzero().get())
            .map_err(|_| Refusal::new(Failure::Runtime, "the pid is out of range"))?;
        let ended = self.take_stray(pid);
        if ended.is_none() && !is_child(pid) {
            return Err(Refusal::new(
                Failure::Runtime,
                format!("process {number} is no child of the monitor"),
            ));
        }
        let (stdin, stdout, stderr) = creation.pipes.into_ends();
        let connected = match creation.console.as_mut().map(Console::take) {
            None => container.connect_pipes(&self.poller, stdin, stdout, stderr),
            Some(Some(master)) => container.connect_terminal(&self.poller, master),
            Some(None) => Err(std::io::Error::other("the runtime sent no terminal")),
        };
        if let Err(error) = connected {
            if ended.is_none() {
                process_tree::kill(pid, &self.living());
            }
            return Err(Refusal::new(Failure::Runtime, error.to_string()).with_output(output));
        }
        container.stage = Stage::Alive { pid };
        let serial = container.serial;
        if let Some(oom) = &mut container.oom
            && let Err(error) = oom.arm(
                &self.poller,
                Token {
                    source: Source::Oom,
                    serial,
                },
            )
        {
            crate::complaint::complain(format_args!(
                "container {}: out-of-memory kills are seen only at its end: {error}",
                container.id
            ));
        }
        self.containers.push(container);
        if let Some(status) = ended {
            self.container_ended(self.containers.len() - 1, status);
        }
        Ok(number)
    }

    /// Kills a creation's command; the answer follows when it has ended.
    pub(crate) fn kill_creation(&mut self, at: usize) {
        let living = self.living();
        if let Some(container) = self.containers.get_mut(at)
            && let Stage::Creating(creation) = &mut container.stage
            && !creation.killed
        {
            creation.killed = true;
            creation.deadline = now_ms() + KILL_GRACE_MS;
            process_tree::kill(creation.child, &living);
            // The init process may have left the command's tree already.
            if let Ok(pid) = read_pid(&creation.pid_file)
                && is_child(pid)
            {
                process_tree::kill(pid, &living);
            }
        }
    }
}

/// The pid that a runtime wrote.
pub(crate) fn read_pid(file: &std::path::Path) -> Result<Pid, Refusal> {
    let text = fs::read_to_string(file).map_err(|error| Refusal::file("read", file, error))?;
    text.trim()
        .parse()
        .ok()
        .filter(|&pid| pid > 1)
        .and_then(Pid::from_raw)
        .ok_or_else(|| Refusal::new(Failure::Runtime, format!("{} holds no pid", file.display())))
}

/// How a command ended, in words.
pub(crate) fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Whether a process is an unreaped child of ours.
pub(crate) fn is_child(pid: Pid) -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
    )
    .is_ok()
}
