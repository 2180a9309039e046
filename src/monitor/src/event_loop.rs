//! The loop: descriptors that are ready, children that ended, times that passed.

use std::{io, os::fd::AsFd as _};

use monitor_wire::{ExitRecord, FromMonitor, OomLimit};
use rustix::{
    event::epoll::EventFlags,
    fd::OwnedFd,
    net::{SocketFlags, accept_with, sockopt::socket_peercred},
    process::{Pid, WaitOptions, WaitStatus, getuid, wait},
};

use crate::{
    clock::{Millis, now_ms, unix_ns},
    connection::Connection,
    container::{Container, Stage},
    exec::{Exec, ExecStage},
    exit_file,
    namespaces::Pins,
    poller::{Poller, Source, Token, Watch},
    refusal::Refusal,
    setup::Start,
    spawn::next_signal,
};

/// Ended children that nobody knows yet, at most.
const STRAYS_MAX: usize = 1024;
/// A monitor with nothing to keep and nobody to serve ends after this time: its server died before it used it.
const IDLE_MS: Millis = 30_000;

/// Everything that the monitor holds.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) poller: Poller,
    pub(crate) containers: Vec<Container>,
    pub(crate) execs: Vec<Exec>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) pins: Pins,
    pub(crate) inherited_oom_score_adj: Option<String>,
    /// Everything was released; only the last words are to be said.
    pub(crate) ending: bool,
    listener: Watch,
    signals: Watch,
    /// Told by a signal to end when nothing lives any more.
    told_to_end: bool,
    /// Children that ended while a runtime's command ran: one of them may be what the command is about to name.
    strays: Vec<(Pid, WaitStatus)>,
    last_serial: u32,
    idle_since: Option<Millis>,
}

impl Monitor {
    pub(crate) fn new(start: Start) -> io::Result<Self> {
        let poller = Poller::new()?;
        let watch = |fd, source| poller.watch(fd, Token { source, serial: 0 }, EventFlags::IN);
        Ok(Self {
            listener: watch(start.listener, Source::Listener)?,
            signals: watch(start.signals, Source::Signals)?,
            containers: Vec::new(),
            execs: Vec::new(),
            connections: Vec::new(),
            pins: Pins::default(),
            inherited_oom_score_adj: start.inherited_oom_score_adj,
            ending: false,
            told_to_end: false,
            strays: Vec::new(),
            last_serial: 0,
            idle_since: Some(now_ms()),
            poller,
        })
    }

    /// Runs until it is told to end and has nothing left.
    pub(crate) fn run(mut self) -> io::Result<()> {
        while !self.is_done() {
            let now = now_ms();
            let timeout = self.due().map(|due| due.saturating_sub(now));
            for token in self.poller.wait(timeout)? {
                self.ready(token);
            }
            self.on_time(now_ms());
        }
        for connection in &mut self.connections {
            connection.flush_before_end();
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let nothing_lives = self.execs.is_empty()
            && self
                .containers
                .iter()
                .all(|container| matches!(container.stage, Stage::Ended { .. }));
        let idle = self
            .idle_since
            .is_some_and(|since| now_ms() >= since + IDLE_MS);
        self.ending || self.told_to_end && nothing_lives || idle
    }

    pub(crate) fn next_serial(&mut self) -> u32 {
        self.last_serial = self.last_serial.wrapping_add(1);
        self.last_serial
    }

    /// Init processes of all containers.
    pub(crate) fn living(&self) -> Vec<Pid> {
        self.containers.iter().filter_map(Container::pid).collect()
    }

    fn ready(&mut self, token: Token) {
        let serial = token.serial;
        let container = self
            .containers
            .iter()
            .position(|container| container.serial == serial);
        let container = container.and_then(|at| self.containers.get_mut(at));
        match token.source {
            Source::Listener => self.accept(),
            Source::Connection => self.connection_ready(serial),
            Source::Signals => self.signals_ready(),
            Source::Stdout => {
                if let Some(container) = container {
                    container.output_ready(false);
                }
            }
            Source::Stderr => {
                if let Some(container) = container {
                    container.output_ready(true);
                }
            }
            Source::Stdin => {
                if let Some(container) = container {
                    container.stdin_ready();
                }
            }
            Source::Oom => self.oom_ready(serial),
            Source::CreateConsole => {
                if let Some(Stage::Creating(creation)) =
                    container.map(|container| &mut container.stage)
                    && let Some(console) = &mut creation.console
                {
                    console.advance();
                }
            }
            Source::ExecConsole => {
                let exec = self.execs.iter_mut().find(|exec| exec.serial == serial);
                if let Some(ExecStage::Starting {
                    console: Some(console),
                    ..
                }) = exec.map(|exec| &mut exec.stage)
                {
                    console.advance();
                }
            }
            Source::AttachListener => {
                let client_serial = self.next_serial();
                if let Some(container) = self
                    .containers
                    .iter_mut()
                    .find(|container| container.serial == serial)
                {
                    container.accept_client(&self.poller, client_serial);
                }
            }
            Source::AttachClient => {
                let has = |container: &&mut Container| {
                    container
                        .attach
                        .as_ref()
                        .is_some_and(|attach| attach.has_client(serial))
                };
                if let Some(container) = self.containers.iter_mut().find(has) {
                    container.client_ready(serial);
                }
            }
        }
    }

    fn accept(&mut self) {
        let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        else {
            return;
        };
        // The directory keeps others out; this is the second lock.
        if socket_peercred(&socket).map(|peer| peer.uid) != Ok(getuid()) {
            return;
        }
        let serial = self.next_serial();
        let token = Token {
            source: Source::Connection,
            serial,
        };
        if let Ok(watch) = self.poller.watch(socket, token, EventFlags::IN) {
            self.connections.push(Connection::new(watch));
        }
    }

    fn connection_ready(&mut self, serial: u32) {
        let Some(connection) = self
            .connections
            .iter_mut()
            .find(|connection| connection.serial() == serial)
        else {
            return;
        };
        let alive = connection
            .flush()
            .and_then(|()| connection.receive())
            .is_ok();
        // Requests that were sent before hanging up still count.
        loop {
            let Some(connection) = self
                .connections
                .iter_mut()
                .find(|connection| connection.serial() == serial)
            else {
                return;
            };
            match connection.next_request() {
                Ok(Some(incoming)) => self.serve(serial, &incoming),
                Ok(None) if alive => return,
                Ok(None) => return self.hang_up(serial),
                Err(error) => {
                    crate::complaint::complain(format_args!("a request cannot be read: {error}"));
                    return self.hang_up(serial);
                }
            }
        }
    }

    fn hang_up(&mut self, serial: u32) {
        self.connections
            .retain(|connection| connection.serial() != serial);
        self.cancel_execs_of(serial);
    }

    /// Answers a request; nobody listening any more is fine.
    pub(crate) fn send(&mut self, connection: u32, correlation: u32, message: &FromMonitor) {
        self.send_with(connection, correlation, message, None);
    }

    /// The same, with a descriptor.
    pub(crate) fn send_with(
        &mut self,
        connection: u32,
        correlation: u32,
        message: &FromMonitor,
        descriptor: Option<OwnedFd>,
    ) {
        if let Some(found) = self
            .connections
            .iter_mut()
            .find(|known| known.serial() == connection)
            && found.send(correlation, message, descriptor).is_err()
        {
            self.hang_up(connection);
        }
    }

    /// Tells every server.
    fn broadcast(&mut self, message: &FromMonitor) {
        let serials: Vec<u32> = self.connections.iter().map(Connection::serial).collect();
        for serial in serials {
            self.send(serial, 0, message);
        }
    }

    fn signals_ready(&mut self) {
        while let Some(signal) = next_signal(self.signals.as_fd()) {
            self.told_to_end |= i32::try_from(signal) == Ok(libc::SIGTERM);
        }
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            self.reaped(pid, status);
        }
    }

    fn reaped(&mut self, pid: Pid, status: WaitStatus) {
        let creating = |container: &Container| matches!(&container.stage, Stage::Creating(creation) if creation.child == pid);
        if let Some(at) = self.containers.iter().position(creating) {
            self.creation_ended(at, status);
        } else if let Some(at) = self
            .containers
            .iter()
            .position(|container| container.is_alive(pid))
        {
            self.container_ended(at, status);
        } else if let Some(at) = self.execs.iter().position(|exec| exec.pid() == pid) {
            self.exec_child_ended(at, status);
        } else if self.commands_run() {
            if self.strays.len() >= STRAYS_MAX {
                self.strays.remove(0);
            }
            self.strays.push((pid, status));
        }
        if !self.commands_run() {
            self.strays = Vec::new();
        }
    }

    fn commands_run(&self) -> bool {
        self.containers
            .iter()
            .any(|container| matches!(container.stage, Stage::Creating(_)))
            || self
                .execs
                .iter()
                .any(|exec| matches!(exec.stage, ExecStage::Starting { .. }))
    }

    /// How an already reaped child ended.
    pub(crate) fn take_stray(&mut self, pid: Pid) -> Option<WaitStatus> {
        let at = self.strays.iter().position(|&(stray, _)| stray == pid)?;
        Some(self.strays.remove(at).1)
    }

    /// The container at `at` has ended: first its log is completed, then its record is written, then everyone is told.
    pub(crate) fn container_ended(&mut self, at: usize, status: WaitStatus) {
        let at_unix_ns = unix_ns();
        let Some(container) = self.containers.get_mut(at) else {
            return;
        };
        let Some(pid) = container.pid() else { return };
        let killed = status.terminating_signal() == Some(libc::SIGKILL) && !container.told_to_die;
        let mut oom_limit = OomLimit::Unknown;
        if let Some(mut oom) = container.oom.take() {
            container.oom_killed |= if killed {
                oom.look_after_kill()
            } else {
                oom.look()
            };
            if container.oom_killed {
                oom_limit = oom.limit();
            }
        }
        container.end_streams();
        let exit = ExitRecord {
            code: exit_code(status),
            oom_killed: container.oom_killed,
            oom_limit,
            at_unix_ns,
        };
        container.stage = Stage::Ended { pid, exit };
        if let Err(error) = exit_file::write(&container.exit_file, &exit) {
            crate::complaint::complain(format_args!("{}: {error}", container.exit_file.display()));
        }
        let waiters = std::mem::take(&mut container.waiters);
        let message = FromMonitor::Exited {
            id: container.id.clone(),
            exit,
        };
        self.broadcast(&message);
        if !waiters.is_empty() {
            self.containers.remove(at);
        }
        for waiter in waiters {
            self.send(waiter.connection, waiter.correlation, &FromMonitor::Done);
        }
    }

    fn oom_ready(&mut self, serial: u32) {
        let Some(at) = self
            .containers
            .iter()
            .position(|container| container.serial == serial)
        else {
            return;
        };
        let counter = self
            .containers
            .get_mut(at)
            .and_then(|container| container.oom.as_mut());
        if counter.is_some_and(|counter| counter.noticed(now_ms())) {
            self.out_of_memory(at);
        }
    }

    /// Remembers that the kernel killed, and tells everyone, once.
    fn out_of_memory(&mut self, at: usize) {
        let Some(container) = self
            .containers
            .get_mut(at)
            .filter(|container| !container.oom_killed)
        else {
            return;
        };
        container.oom_killed = true;
        let message = FromMonitor::Oom {
            id: container.id.clone(),
        };
        self.broadcast(&message);
    }

    fn due(&self) -> Option<Millis> {
        let containers = self
            .containers
            .iter()
            .filter_map(|container| match &container.stage {
                Stage::Creating(creation) => Some(creation.deadline),
                _ => container.due(),
            });
        let execs = self.execs.iter().filter_map(|exec| exec.deadline);
        let idle = self.idle_since.map(|since| since + IDLE_MS);
        containers.chain(execs).chain(idle).min()
    }

    fn on_time(&mut self, now: Millis) {
        self.execs_on_time(now);
        for at in (0..self.containers.len()).rev() {
            self.container_on_time(at, now);
        }
        let idle = self.containers.is_empty()
            && self.execs.is_empty()
            && self.connections.is_empty()
            && self.pins.is_empty();
        self.idle_since = idle.then(|| self.idle_since.unwrap_or(now));
    }

    fn container_on_time(&mut self, at: usize, now: Millis) {
        let Some(container) = self.containers.get_mut(at) else {
            return;
        };
        if let Stage::Creating(creation) = &container.stage {
            if creation.deadline <= now && creation.killed {
                // Stuck in the kernel. Whoever waits is told; what is left is reaped whenever it ends.
                let (connection, correlation) = (creation.connection, creation.correlation);
                let waiters = std::mem::take(&mut container.waiters);
                self.containers.remove(at);
                let refusal = || {
                    Refusal::new(
                        monitor_wire::Failure::Deadline,
                        "the runtime cannot be killed",
                    )
                };
                self.send(connection, correlation, &refusal().into_reply());
                for waiter in waiters {
                    self.send(waiter.connection, waiter.correlation, &FromMonitor::Done);
                }
            } else if creation.deadline <= now {
                self.kill_creation(at);
            }
            return;
        }
        container.on_time(now);
        let counter = container
            .oom
            .as_mut()
            .filter(|counter| counter.due().is_some_and(|due| due <= now));
        if counter.is_some_and(|counter| counter.look_again(now)) {
            self.out_of_memory(at);
        }
        let Some(container) = self.containers.get_mut(at) else {
            return;
        };
        let late: Vec<_> = container
            .waiters
            .extract_if(.., |waiter| waiter.until <= now)
            .collect();
        let refusal = || {
            Refusal::new(
                monitor_wire::Failure::Busy,
                format!("container {} lives", container.id),
            )
        };
        let replies: Vec<_> = late
            .iter()
            .map(|waiter| (*waiter, refusal().into_reply()))
            .collect();
        for (waiter, reply) in replies {
            self.send(waiter.connection, waiter.correlation, &reply);
        }
    }
}

/// What a shell would say: the exit status, or 128 + n for signal n.
pub(crate) fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}
