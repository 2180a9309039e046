//! The out-of-memory verdict: did the kernel kill a process of this container for lack of memory?
//!
//! Answered by the kill counter of its cgroup, compared with what it was before. Notices (an eventfd on cgroup v1,
//! priority events on v2) make the monitor look at once: under systemd the cgroup can vanish before the process is reaped.
//! cgroup v1 gives notice before it kills, so the counter is looked at again for a while.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::fd::{AsRawFd as _, OwnedFd},
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
    path::{Path, PathBuf},
};

use monitor_wire::{OomLimit, OomWatch};
use rustix::event::{EventfdFlags, epoll::EventFlags, eventfd};

use crate::{
    clock::Millis,
    poller::{Poller, Token, Watch},
};

/// How long and how often the counter is looked at after a notice.
const LOOKS: u8 = 40;
const LOOK_AGAIN_MS: Millis = 25;

/// Watches one container's cgroup.
#[derive(Debug)]
pub(crate) struct KillCounter {
    directory: PathBuf,
    version: u8,
    before: Counts,
    /// As they were when the file was read last.
    last: Counts,
    /// The cgroup is not there any more.
    is_gone: bool,
    file: Option<File>,
    notice: Option<Watch>,
    looks_left: u8,
    look_at: Option<Millis>,
}

impl KillCounter {
    /// Notes the counter as it is before the container; a cgroup that is not there yet has killed nothing.
    pub(crate) fn before(order: &OomWatch) -> Self {
        let mut counter = Self {
            directory: Path::new(std::ffi::OsStr::from_bytes(&order.directory)).to_owned(),
            version: order.cgroup_version,
            before: Counts::default(),
            last: Counts::default(),
            is_gone: false,
            file: None,
            notice: None,
            looks_left: 0,
            look_at: None,
        };
        counter.before = fs::read_to_string(counter.path())
            .map_or_else(|_| Counts::default(), |text| Counts::read(&text));
        counter.last = counter.before;
        counter
    }

    fn path(&self) -> PathBuf {
        self.directory.join(if self.version == 1 {
            "memory.oom_control"
        } else {
            "memory.events"
        })
    }

    /// Asks for notices, now that the cgroup exists.
    pub(crate) fn arm(&mut self, poller: &Poller, token: Token) -> io::Result<()> {
        let file = File::open(self.path())?;
        self.notice = Some(if self.version == 1 {
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let line = format!("{} {}", event.as_raw_fd(), file.as_raw_fd());
            fs::write(self.directory.join("cgroup.event_control"), line)?;
            poller.watch(event, token, EventFlags::IN)?
        } else {
            // The first read tells the kernel which events are known.
            self.last = read_counts(&file).unwrap_or(self.before);
            poller.watch(OwnedFd::from(file.try_clone()?), token, EventFlags::PRI)?
        });
        self.file = Some(file);
        Ok(())
    }

    /// A notice has come: looks now, and for a while.
    pub(crate) fn noticed(&mut self, now: Millis) -> bool {
        if self.version == 1
            && let Some(notice) = &self.notice
        {
            let _ = rustix::io::read(notice, &mut [0_u8; 8]);
            self.looks_left = LOOKS;
        }
        self.look_again(now)
    }

    /// When [`Self::look_again`] is to be called.
    pub(crate) fn due(&self) -> Option<Millis> {
        self.look_at
    }

    /// Looks, and once more later until there is something to see.
    pub(crate) fn look_again(&mut self, now: Millis) -> bool {
        let killed = self.look();
        self.looks_left = if killed {
            0
        } else {
            self.looks_left.saturating_sub(1)
        };
        self.look_at = (self.looks_left > 0).then_some(now + LOOK_AGAIN_MS);
        killed
    }

    /// Whether there have been kills, as far as can be told now.
    pub(crate) fn look(&mut self) -> bool {
        let counts = match &self.file {
            Some(file) => read_counts(file),
            None => fs::read_to_string(self.path()).map(|text| Counts::read(&text)),
        };
        if let Ok(counts) = counts {
            self.last = counts;
        } else {
            // The cgroup is gone; its notices would repeat for ever.
            self.is_gone = true;
            self.notice = None;
        }
        self.last.kills > self.before.kills
    }

    /// The last look, when the first process was killed by a signal that nobody here sent: under systemd the cgroup may be
    /// gone with what it counted last. Then it is enough that memory had run out before.
    pub(crate) fn look_after_kill(&mut self) -> bool {
        self.look() || self.is_gone && self.has_run_out()
    }

    fn has_run_out(&self) -> bool {
        self.last.out_of_memory > self.before.out_of_memory
    }

    /// Whose limit was reached, after a kill. Version 1 does not count that.
    pub(crate) fn limit(&self) -> OomLimit {
        match self.version {
            1 => OomLimit::Unknown,
            // A cgroup counts how often itself, or one below it, had no more; kills for want above it are counted as kills alone.
            _ if self.has_run_out() => OomLimit::Own,
            _ => OomLimit::Above,
        }
    }
}

/// What the kernel counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Processes killed.
    kills: u64,
    /// How often the cgroup's own limit left no other way than to kill.
    out_of_memory: u64,
}

impl Counts {
    /// Understands both versions' files.
    fn read(text: &str) -> Self {
        let count = |name: &str| {
            text.lines()
                .filter_map(|line| line.strip_prefix(name))
                .find_map(|count| count.trim().parse().ok())
                .unwrap_or(0)
        };
        Self {
            kills: count("oom_kill "),
            out_of_memory: count("oom "),
        }
    }
}

fn read_counts(file: &File) -> io::Result<Counts> {
    let mut text = [0_u8; 512];
    let length = file.read_at(&mut text, 0)?;
    let mut lines = String::new();
    text.get(..length)
        .unwrap_or_default()
        .read_to_string(&mut lines)?;
    Ok(Counts::read(&lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_understood() {
        let counts = |text| {
            let Counts {
                kills,
                out_of_memory,
            } = Counts::read(text);
            (kills, out_of_memory)
        };
        assert_eq!(
            counts("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
            (3, 0)
        );
        assert_eq!(
            counts("low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n"),
            (1, 2)
        );
        assert_eq!(counts("oom_kill_disable 0\nunder_oom 0\n"), (0, 0));
        assert_eq!(counts(""), (0, 0));
    }

    /// A watch of version 2 on a plain file, which is there from the beginning.
    fn watch(directory: &Path) -> KillCounter {
        fs::write(directory.join("memory.events"), "oom 1\noom_kill 1\n").ok();
        KillCounter::before(&OomWatch {
            cgroup_version: 2,
            directory: directory.as_os_str().as_bytes().to_vec(),
        })
    }

    #[test]
    fn an_own_limit_is_told_from_one_above() {
        let Ok(directory) = tempfile::tempdir() else {
            return;
        };
        let file = directory.path().join("memory.events");
        let mut counter = watch(directory.path());
        assert!(!counter.look());
        fs::write(&file, "oom 1\noom_kill 2\n").ok();
        assert!(counter.look());
        assert_eq!(counter.limit(), OomLimit::Above);
        fs::write(&file, "oom 2\noom_kill 3\n").ok();
        assert!(counter.look());
        assert_eq!(counter.limit(), OomLimit::Own);
    }

    #[test]
    fn a_cgroup_that_vanished_was_killed_if_its_memory_had_run_out() {
        let Ok(directory) = tempfile::tempdir() else {
            return;
        };
        let file = directory.path().join("memory.events");
        let mut calm = watch(directory.path());
        let mut short = watch(directory.path());
        fs::write(&file, "oom 2\noom_kill 1\n").ok();
        assert!(!short.look());
        fs::remove_file(&file).ok();
        assert!(!calm.look_after_kill());
        assert!(!short.look());
        assert!(short.look_after_kill());
        assert_eq!(short.limit(), OomLimit::Own);
    }
}
