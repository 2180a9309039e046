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

use monitor_wire::OomWatch;
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
    before: u64,
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
            before: 0,
            file: None,
            notice: None,
            looks_left: 0,
            look_at: None,
        };
        counter.before = fs::read_to_string(counter.path()).map_or(0, |text| kills(&text));
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
            let _ = read_counter(&file);
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
        let Some(file) = &self.file else {
            return fs::read_to_string(self.path()).is_ok_and(|text| kills(&text) > self.before);
        };
        let count = read_counter(file);
        if count.is_err() {
            // The cgroup is gone; its notices would repeat for ever.
            self.notice = None;
        }
        count.is_ok_and(|count| count > self.before)
    }
}

fn read_counter(file: &File) -> io::Result<u64> {
    let mut text = [0_u8; 512];
    let length = file.read_at(&mut text, 0)?;
    let mut line = String::new();
    text.get(..length)
        .unwrap_or_default()
        .read_to_string(&mut line)?;
    Ok(kills(&line))
}

/// The value of the `oom_kill` line, in both versions' files.
fn kills(text: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .find_map(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::kills;

    #[test]
    fn both_files_are_understood() {
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(
            kills("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n"),
            1
        );
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\n"), 0);
        assert_eq!(kills(""), 0);
    }
}
