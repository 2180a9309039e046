//! What each request does.

use monitor_wire::{Failure, FromMonitor, Request, WireError};
use rustix::{
    fd::OwnedFd,
    process::{Signal, kill_process},
};

use crate::{
    clock::{now_ms, now_ns},
    connection::Incoming,
    container::{Stage, Waiter},
    event_loop::Monitor,
    refusal::Refusal,
};

impl Monitor {
    /// Does a request, or starts doing it.
    pub(crate) fn serve(&mut self, connection: u32, incoming: &Incoming) {
        let correlation = incoming.frame.correlation;
        let result = match Request::from_frame(&incoming.frame) {
            Ok(request) => self.start(connection, correlation, request, &incoming.descriptors),
            Err(WireError::Kind(kind)) => Err(Refusal::new(
                Failure::Unsupported,
                format!("this monitor does not know requests of kind {kind}"),
            )),
            Err(error) => Err(Refusal::new(Failure::Invalid, error.to_string())),
        };
        match result {
            Ok(Some(reply)) => self.send(connection, correlation, &reply),
            Ok(None) => {}
            Err(refusal) => self.send(connection, correlation, &refusal.into_reply()),
        }
    }

    /// `None`: the answer comes later, or never (Cancel).
    fn start(
        &mut self,
        connection: u32,
        correlation: u32,
        request: Request,
        fds: &[OwnedFd],
    ) -> Result<Option<FromMonitor>, Refusal> {
        match request {
            Request::Namespaces(order) => self.pins.open(&order).map(|()| Some(FromMonitor::Done)),
            Request::Create(order) => self.create(connection, correlation, order).map(|()| None),
            Request::Signal { id, signal } => {
                self.signal(&id, signal).map(|()| Some(FromMonitor::Done))
            }
            Request::Exec(order) => self
                .exec(connection, correlation, &order, fds)
                .map(|()| None),
            Request::Cancel { exec } => {
                self.cancel_exec(connection, exec);
                Ok(None)
            }
            Request::ReopenLog { id, until_ns } => self
                .reopen_log(&id, until_ns)
                .map(|()| Some(FromMonitor::Done)),
            Request::State => Ok(Some(FromMonitor::State {
                release: env!("CARGO_PKG_VERSION").to_owned(),
                containers: self
                    .containers
                    .iter()
                    .map(crate::container::Container::record)
                    .collect(),
            })),
            Request::Forget { id, deadline_ms } => {
                let until = now_ms().saturating_add(deadline_ms);
                self.forget(
                    &id,
                    Waiter {
                        connection,
                        correlation,
                        until,
                    },
                )
            }
            Request::End => self.end().map(|()| Some(FromMonitor::Done)),
        }
    }

    fn find(&self, id: &str) -> Result<usize, Refusal> {
        let at = self
            .containers
            .iter()
            .position(|container| container.id == id);
        at.ok_or_else(|| Refusal::unknown_container(id))
    }

    fn signal(&mut self, id: &str, signal: i32) -> Result<(), Refusal> {
        let at = self.find(id)?;
        let container = self.containers.get_mut(at);
        let container =
            container.filter(|container| matches!(container.stage, Stage::Alive { .. }));
        let Some((container, pid)) = container.and_then(|container| {
            let pid = container.pid()?;
            Some((container, pid))
        }) else {
            return Err(Refusal::new(
                Failure::NotRunning,
                format!("container {id} does not run"),
            ));
        };
        if !(1..=64).contains(&signal) {
            return Err(Refusal::new(
                Failure::Invalid,
                format!("{signal} is no signal"),
            ));
        }
        // SAFETY: any number from 1 to 64 may be sent; none of libc's own two real-time signals means anything to us,
        // for the receiver is another program.
        let signal = unsafe { Signal::from_raw_unchecked(signal) };
        // Only we reap, and we have not: the pid cannot have become another process.
        container.told_to_die |= signal == Signal::KILL;
        kill_process(pid, signal).map_err(|error| Refusal::io("signal the container", error))
    }

    fn reopen_log(&mut self, id: &str, until_ns: Option<u64>) -> Result<(), Refusal> {
        // Whoever asked has been told by now that it failed, and may have moved the old file back: a new one would replace it.
        if until_ns.is_some_and(|until| until <= now_ns()) {
            return Err(Refusal::new(
                Failure::Deadline,
                format!(
                    "the monitor came too late to the log of container {id}: it stays as it is"
                ),
            ));
        }
        let at = self.find(id)?;
        let log = self
            .containers
            .get_mut(at)
            .and_then(|container| container.log.as_mut());
        let log = log.ok_or_else(|| {
            Refusal::new(Failure::Invalid, format!("container {id} has no log file"))
        })?;
        log.reopen()
            .map_err(|error| Refusal::file("open log", log.path(), error))
    }

    fn forget(&mut self, id: &str, waiter: Waiter) -> Result<Option<FromMonitor>, Refusal> {
        let at = self.find(id)?;
        let Some(container) = self.containers.get_mut(at) else {
            return Ok(None);
        };
        match container.stage {
            Stage::Ended { .. } => {
                self.containers.remove(at);
                Ok(Some(FromMonitor::Done))
            }
            Stage::Creating(_) => {
                container.waiters.push(waiter);
                self.kill_creation(at);
                Ok(None)
            }
            // A runtime that just killed it answers before we can reap it.
            Stage::Alive { .. } | Stage::Unmade => {
                container.waiters.push(waiter);
                Ok(None)
            }
        }
    }

    fn end(&mut self) -> Result<(), Refusal> {
        let living = self
            .containers
            .iter()
            .find(|container| !matches!(container.stage, Stage::Ended { .. }));
        if let Some(container) = living {
            return Err(Refusal::new(
                Failure::Busy,
                format!("container {} lives", container.id),
            ));
        }
        self.pins.release()?;
        self.ending = true;
        Ok(())
    }
}
