//! The child process that goes ahead into a user namespace and makes the pod's other namespaces there.
//!
//! Who enters a user namespace gives up all rights outside and cannot come back, so the monitor sends a child, writes the maps
//! of ids from outside, and pins what the child made by way of the child's files below `/proc`:
//!
//! ```text
//! monitor                           settler
//!   fork ────────────────────────────▶ leaves for new namespaces
//!   writes its maps ◀───────────────── "I am there"
//!   "you are somebody now" ──────────▶ becomes root there, sets lo, host name, sysctls
//!   pins ◀──────────────────────────── "done", or what went wrong
//!   closes the pipe ─────────────────▶ ends
//! ```
//!
//! The namespaces belong to the user namespace because the same process made them after it.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::PathBuf,
};

use monitor_wire::{Failure, UserOrder};
use rustix::{
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, WaitOptions, waitpid},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::{
    namespaces::{Kind, Settings},
    refusal::Refusal,
};

/// First byte of what a settler says.
const WELL: u8 = 0;
/// It goes on with what went wrong, as text.
const WRONG: u8 = 1;

/// A child in the new namespaces, as long as this lives.
pub(crate) struct Settler {
    pid: Pid,
    /// Closed, it is the child's order to end.
    to_child: Option<File>,
}

impl Settler {
    /// Sends a child ahead; returns when everything is made and set.
    pub(crate) fn send(
        kinds: &[Kind],
        user: &UserOrder,
        settings: &Settings<'_>,
    ) -> Result<Self, Refusal> {
        let pipe =
            || pipe_with(PipeFlags::CLOEXEC).map_err(|error| Refusal::io("make a pipe", error));
        let (to_child_read, to_child) = pipe()?;
        let (from_child, from_child_write) = pipe()?;
        let flags = kinds
            .iter()
            .fold(UnshareFlags::NEWUSER, |flags, kind| flags | kind.flag());
        // SAFETY: the monitor has one thread, so the child has all of it and may do what the monitor may.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            drop(to_child);
            drop(from_child);
            let mut report = File::from(from_child_write);
            settle(flags, settings, &mut File::from(to_child_read), &mut report);
            // SAFETY: ends the child without running what the monitor has to do at its own end.
            unsafe { libc::_exit(0) };
        }
        let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else {
            return Err(Refusal::io(
                "start a process",
                std::io::Error::last_os_error(),
            ));
        };
        drop(to_child_read);
        drop(from_child_write);
        let mut settler = Self {
            pid,
            to_child: Some(to_child.into()),
        };
        let mut from_child = File::from(from_child);
        hear(&mut from_child)?;
        for (map, text) in [("uid_map", &user.uid_map), ("gid_map", &user.gid_map)] {
            let file = settler.proc(map);
            // The kernel takes a map in one write, and only once.
            fs::write(&file, text).map_err(|error| Refusal::file("write", &file, error))?;
        }
        if let Some(to_child) = &mut settler.to_child {
            to_child
                .write_all(&[WELL])
                .map_err(|error| Refusal::io("go on in the new namespaces", error))?;
        }
        hear(&mut from_child)?;
        Ok(settler)
    }

    /// The file of one of its namespaces.
    pub(crate) fn file(&self, kind: Kind) -> PathBuf {
        self.proc(kind.file().trim_start_matches("/proc/self/"))
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.pid).into()
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        self.to_child = None;
        while let Err(Errno::INTR) = waitpid(Some(self.pid), WaitOptions::empty()) {}
    }
}

/// What the child says: nothing is an end that it could not tell of.
fn hear(from_child: &mut File) -> Result<(), Refusal> {
    /// The kernel writes so much to a pipe at once or not at all.
    const WORD_BYTES: usize = 4096;

    let mut word = [0; WORD_BYTES];
    let count = from_child
        .read(&mut word)
        .map_err(|error| Refusal::io("hear from the new namespaces", error))?;
    match word[..count].split_first() {
        Some((&WELL, _)) => Ok(()),
        Some((_, text)) => Err(Refusal::new(
            Failure::Io,
            String::from_utf8_lossy(text).into_owned(),
        )),
        None => Err(Refusal::new(
            Failure::Io,
            "the process that makes the namespaces was killed",
        )),
    }
}

/// What the child does.
fn settle(flags: UnshareFlags, settings: &Settings<'_>, orders: &mut File, report: &mut File) {
    let mut step = |outcome: Result<(), Refusal>| -> bool {
        let (word, well) = match outcome {
            Ok(()) => (vec![WELL], true),
            Err(refusal) => {
                let mut word = vec![WRONG];
                word.extend_from_slice(refusal.to_string().as_bytes());
                (word, false)
            }
        };
        report.write_all(&word).is_ok() && well
    };
    // SAFETY: no flag here shares or unshares memory or descriptors, and the process has one thread.
    let left = unsafe { unshare_unsafe(flags) };
    if !step(left.map_err(|error| Refusal::io("make namespaces", error))) {
        return;
    }
    let mut order = [0];
    if orders.read_exact(&mut order).is_err() {
        return;
    }
    if step(become_root().and_then(|()| settings.apply())) {
        // Stays until it is let go: its files below /proc are being pinned.
        let _ = orders.read_exact(&mut order);
    }
}

/// Files below `/proc/sys` belong to the user namespace's root; until now this process is nobody there.
fn become_root() -> Result<(), Refusal> {
    // SAFETY: the calls read no memory, and the process has one thread.
    let result = unsafe {
        if libc::setresgid(0, 0, 0) < 0 {
            -1
        } else {
            libc::setresuid(0, 0, 0)
        }
    };
    if result < 0 {
        return Err(Refusal::io(
            "become root of the user namespace",
            std::io::Error::last_os_error(),
        ));
    }
    Ok(())
}
