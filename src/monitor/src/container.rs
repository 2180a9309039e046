//! One container: its stage, its streams, and what is told of it.
//!
//! ```text
//! Creating ──runtime's create succeeds──▶ Alive ──reaped──▶ Ended ──Forget──▶ (gone)
//!     └──fails, or its deadline passes──▶ (gone)
//! ```
//!
//! Creating: the runtime's command runs; what it prints waits in the pipes. Alive: the init process is our unreaped
//! child, so its pid means it and nothing else. Ended: the record is written; streams that others still hold are read
//! for a bounded time. The record is kept until somebody says that it has been seen.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use monitor_wire::{ContainerRecord, ExitRecord};
use rustix::{
    event::epoll::EventFlags,
    pipe::fcntl_getpipe_size,
    process::Pid,
    termios::{Winsize, tcsetwinsize},
};

use crate::{
    attach::{Attach, Wish},
    clock::{Millis, now_ms, unix_ns},
    create::Creation,
    log::{Lines, LogFile},
    oom::KillCounter,
    output_hold::{OutputHold, Turn},
    poller::{Poller, Source, Token},
    stdio::{Input, Output, READ_BYTES, Read, read},
};

/// Reads of one stream per event: a loud container must not starve the others.
const READS_PER_EVENT: usize = 8;
/// Reads of one stream when its container has ended: 4 MiB, more than a pipe holds without privileges. No client is waited for
/// then.
const READS_AT_END: usize = 256;
/// More than a terminal holds.
const TERMINAL_BYTES: usize = 256 * 1024;
/// How long streams are read on when the container has ended and something else holds them.
const DRAIN_MS: Millis = 2_000;

/// A container and all that the monitor holds for it.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) serial: u32,
    pub(crate) stage: Stage,
    pub(crate) oom: Option<KillCounter>,
    pub(crate) oom_killed: bool,
    /// Somebody asked for its end by SIGKILL.
    pub(crate) told_to_die: bool,
    pub(crate) exit_file: PathBuf,
    pub(crate) log: Option<LogFile>,
    pub(crate) attach: Option<Attach>,
    pub(crate) waiters: Vec<Waiter>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    stdin: Option<Input>,
    stdin_once: bool,
    terminal: bool,
    drain_until: Option<Millis>,
    hold: OutputHold,
}

/// Where a container is in its life.
#[derive(Debug)]
pub(crate) enum Stage {
    Creating(Box<Creation>),
    /// Between `Creating` and what follows, never seen from outside.
    Unmade,
    Alive {
        pid: Pid,
    },
    Ended {
        pid: Pid,
        exit: ExitRecord,
    },
}

/// A Forget that waits for the container's end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    pub(crate) connection: u32,
    pub(crate) correlation: u32,
    pub(crate) until: Millis,
}

/// What a container is made of before its command runs.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) id: String,
    pub(crate) serial: u32,
    pub(crate) creation: Creation,
    pub(crate) oom: Option<KillCounter>,
    pub(crate) exit_file: Vec<u8>,
    pub(crate) log: Option<LogFile>,
    pub(crate) attach: Option<Attach>,
    pub(crate) stdin_once: bool,
    pub(crate) terminal: bool,
}

impl Container {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            id: parts.id,
            serial: parts.serial,
            stage: Stage::Creating(Box::new(parts.creation)),
            oom: parts.oom,
            oom_killed: false,
            told_to_die: false,
            exit_file: Path::new(OsStr::from_bytes(&parts.exit_file)).to_owned(),
            log: parts.log,
            attach: parts.attach,
            waiters: Vec::new(),
            stdout: None,
            stderr: None,
            stdin: None,
            stdin_once: parts.stdin_once,
            terminal: parts.terminal,
            drain_until: None,
            hold: OutputHold::default(),
        }
    }

    /// Starts to read the container's pipes.
    pub(crate) fn connect_pipes(
        &mut self,
        poller: &Poller,
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    ) -> std::io::Result<()> {
        let serial = self.serial;
        let watch = |fd, source| poller.watch(fd, Token { source, serial }, EventFlags::IN);
        self.stdout = Some(Output {
            watch: watch(stdout, Source::Stdout)?,
            lines: Lines::stdout(),
        });
        self.stderr = Some(Output {
            watch: watch(stderr, Source::Stderr)?,
            lines: Lines::stderr(),
        });
        self.stdin = stdin
            .map(|stdin| Input::new(stdin, false, poller, serial))
            .transpose()?;
        Ok(())
    }

    /// Starts to read the container's terminal. Input goes by a copy of it, for the two ways wait for different things.
    pub(crate) fn connect_terminal(
        &mut self,
        poller: &Poller,
        master: OwnedFd,
    ) -> std::io::Result<()> {
        rustix::fs::fcntl_setfl(
            &master,
            rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::RDWR,
        )?;
        let serial = self.serial;
        self.stdin = Some(Input::new(master.try_clone()?, true, poller, serial)?);
        let watch = poller.watch(
            master,
            Token {
                source: Source::Stdout,
                serial,
            },
            EventFlags::IN,
        )?;
        self.stdout = Some(Output {
            watch,
            lines: Lines::stdout(),
        });
        Ok(())
    }

    pub(crate) fn pid(&self) -> Option<Pid> {
        match self.stage {
            Stage::Creating(_) | Stage::Unmade => None,
            Stage::Alive { pid } | Stage::Ended { pid, .. } => Some(pid),
        }
    }

    pub(crate) fn is_alive(&self, pid: Pid) -> bool {
        matches!(self.stage, Stage::Alive { pid: own } if own == pid)
    }

    pub(crate) fn record(&self) -> ContainerRecord {
        ContainerRecord {
            id: self.id.clone(),
            pid: self
                .pid()
                .and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok()),
            exit: match &self.stage {
                Stage::Ended { exit, .. } => Some(*exit),
                Stage::Creating(_) | Stage::Unmade | Stage::Alive { .. } => None,
            },
            oom_killed: self.oom_killed,
            log_dropped_bytes: self.log.as_ref().map_or(0, LogFile::dropped_bytes),
        }
    }

    /// Reads what a stream has, as much as is fair.
    pub(crate) fn output_ready(&mut self, stderr: bool) {
        self.read_output(stderr, READS_PER_EVENT, usize::MAX, true);
    }

    /// Reads what lay in the streams when this began, and keeps all of it for the clients: a container may have given its pipes
    /// more room than its clients' queues have. What others still write is read as usual.
    fn read_rest(&mut self) {
        let [stdout, stderr] = [&self.stdout, &self.stderr].map(|output| {
            output.as_ref().map_or(0, |output| {
                let size = fcntl_getpipe_size(&output.watch).unwrap_or(TERMINAL_BYTES);
                size.min(READS_AT_END * READ_BYTES)
            })
        });
        if let Some(attach) = &mut self.attach {
            attach.make_room(stdout + stderr);
        }
        self.read_output(false, READS_AT_END, stdout, false);
        self.read_output(true, READS_AT_END, stderr, false);
    }

    /// Stops after so many reads, and with the first read beyond so many bytes, which may find the end.
    fn read_output(&mut self, stderr: bool, reads: usize, bytes: usize, waits: bool) {
        let mut buffer = [0; READ_BYTES];
        let mut seen = 0_usize;
        // One more, for the end.
        for _ in 0..=reads {
            // Before the first read too: an event may be of the same round as the one that made the output wait.
            if waits && self.hold.is_held() {
                return;
            }
            let stream = if stderr {
                &mut self.stderr
            } else {
                &mut self.stdout
            };
            let Some(output) = stream else { return };
            let length = match read(output.watch.as_fd(), &mut buffer) {
                Read::Nothing => return,
                Read::End => return self.close_output(stderr),
                Read::Data(length) => length,
            };
            let is_last = seen >= bytes;
            seen += length;
            let data = buffer.get(..length).unwrap_or_default();
            if let Some(log) = &mut self.log {
                output.lines.feed(data, unix_ns(), now_ms(), log);
            }
            if let Some(attach) = &mut self.attach {
                attach.output(stderr, data);
                let turn = self.hold.after_output(attach.is_behind(), now_ms());
                self.take(turn);
            }
            if is_last {
                return;
            }
        }
    }

    /// Clients may have caught up, or gone.
    fn clients_moved(&mut self) {
        let caught_up = self.attach.as_ref().is_none_or(Attach::has_caught_up);
        let turn = self.hold.after_progress(caught_up);
        self.take(turn);
    }

    fn take(&mut self, turn: Option<Turn>) {
        let Some(turn) = turn else { return };
        for stderr in [false, true] {
            let stream = if stderr {
                &mut self.stderr
            } else {
                &mut self.stdout
            };
            let Some(output) = stream else { continue };
            match turn {
                Turn::Hold => output.watch.mute(),
                Turn::Release => {
                    if let Err(error) = output.watch.unmute() {
                        // Unread, it would block the container for ever; closed, the container learns of it.
                        let id = &self.id;
                        crate::complaint::complain(format_args!("{id}: output lost: {error}"));
                        self.close_output(stderr);
                    }
                }
            }
        }
    }

    fn close_output(&mut self, stderr: bool) {
        let stream = if stderr {
            self.stderr.take()
        } else {
            self.stdout.take()
        };
        if let (Some(mut output), Some(log)) = (stream, &mut self.log) {
            output.lines.finish(unix_ns(), log);
        }
        if self.stdout.is_none() && self.stderr.is_none() {
            self.drain_until = None;
            // Nothing waits for a slow client any more, so it may take its time with the rest.
            self.hold = OutputHold::default();
            if let Some(attach) = &mut self.attach {
                attach.end();
            }
        }
    }

    /// The init process has ended: takes in what it printed, and closes its input.
    pub(crate) fn end_streams(&mut self) {
        self.stdin = None;
        self.read_rest();
        if self.stdout.is_some() || self.stderr.is_some() {
            self.drain_until = Some(now_ms() + DRAIN_MS);
        }
    }

    /// When [`Self::on_time`] wants to be called.
    pub(crate) fn due(&self) -> Option<Millis> {
        let lines = [&self.stdout, &self.stderr]
            .into_iter()
            .flatten()
            .filter_map(|output| output.lines.due());
        let waiters = self.waiters.iter().map(|waiter| waiter.until);
        let oom = self.oom.as_ref().and_then(KillCounter::due);
        lines
            .chain(waiters)
            .chain(self.drain_until)
            .chain(self.hold.due())
            .chain(oom)
            .min()
    }

    /// Writes partial lines that have waited long enough, and gives up on streams that others hold.
    pub(crate) fn on_time(&mut self, now: Millis) {
        for output in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            if output.lines.due().is_some_and(|due| due <= now)
                && let Some(log) = &mut self.log
            {
                output.lines.flush_partial(unix_ns(), log);
            }
        }
        if self.hold.is_over(now) {
            if let Some(attach) = &mut self.attach {
                attach.cut_off_slow();
            }
            self.clients_moved();
        }
        if self.drain_until.is_some_and(|until| until <= now) {
            // What was held for a client is still for the log.
            self.read_rest();
            self.close_output(false);
            self.close_output(true);
        }
    }

    /// stdin is writable again, or nobody reads it any more.
    pub(crate) fn stdin_ready(&mut self) {
        let was_full = self.stdin.as_ref().is_some_and(Input::is_full);
        if self
            .stdin
            .as_mut()
            .is_some_and(|stdin| stdin.ready().is_err())
        {
            self.stdin = None;
        }
        if was_full && !self.stdin.as_ref().is_some_and(Input::is_full) {
            let wishes = self
                .attach
                .as_mut()
                .map(|attach| attach.pause(false))
                .unwrap_or_default();
            self.grant(wishes);
        }
    }

    pub(crate) fn accept_client(&mut self, poller: &Poller, client_serial: u32) {
        let (terminal, stdin) = (self.terminal, self.stdin.is_some());
        if let Some(attach) = &mut self.attach {
            attach.accept(poller, client_serial, terminal, stdin);
        }
    }

    pub(crate) fn client_ready(&mut self, client_serial: u32) {
        let full = self.stdin.as_ref().is_some_and(Input::is_full);
        let wishes = self
            .attach
            .as_mut()
            .map(|attach| attach.ready(client_serial, full))
            .unwrap_or_default();
        self.clients_moved();
        self.grant(wishes);
    }

    fn grant(&mut self, wishes: Vec<Wish>) {
        for wish in wishes {
            let Some(stdin) = &mut self.stdin else { return };
            let result = match wish {
                Wish::Input(data) => stdin.write(&data),
                Wish::CloseInput => stdin.close(),
                Wish::Gone if self.stdin_once => stdin.close(),
                Wish::Gone => Ok(()),
                Wish::Resize { rows, columns } => {
                    if let Some(terminal) = stdin.terminal() {
                        let size = Winsize {
                            ws_row: rows,
                            ws_col: columns,
                            ws_xpixel: 0,
                            ws_ypixel: 0,
                        };
                        let _ = tcsetwinsize(terminal, size);
                    }
                    Ok(())
                }
            };
            if result.is_err() {
                self.stdin = None;
            }
        }
        if self.stdin.as_ref().is_some_and(Input::is_full)
            && let Some(attach) = &mut self.attach
        {
            attach.pause(true);
        }
    }
}
