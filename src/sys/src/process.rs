//! Processes: descriptors that cannot be mistaken for another process, and what /proc tells.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    process::{Pid, PidfdFlags},
};

use crate::SysError;

/// A process held by a descriptor: it stays this very process even when it has ended and its number is used again.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
    pid: u32,
}

impl PidFd {
    /// Holds the process of this number, `None` if there is none (or it is no thread group's leader).
    ///
    /// Whoever got the number a while ago compares [`start_time`] afterwards.
    pub fn open(pid: u32) -> Result<Option<Self>, SysError> {
        let Some(raw) = to_pid(pid) else {
            return Ok(None);
        };
        match rustix::process::pidfd_open(raw, PidfdFlags::NONBLOCK) {
            Ok(fd) => Ok(Some(Self { fd, pid })),
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => Err(SysError::process("hold", pid)(error)),
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal (1 to 64); says whether there was still a process to get it.
    pub fn signal(&self, signal: i32) -> Result<bool, SysError> {
        // By hand, because rustix knows the named signals only, and images ask for SIGRTMIN+3 (systemd does).
        // SAFETY: the call reads no memory of ours (the information pointer is null), and the descriptor is open.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ESRCH) {
            Ok(false)
        } else {
            Err(SysError::process("signal", self.pid)(error))
        }
    }

    /// Whether it has ended. A zombie has.
    pub fn has_ended(&self) -> Result<bool, SysError> {
        self.wait(Duration::ZERO)
    }

    /// Waits until it has ended, or until the time is over; says whether it has ended.
    pub fn wait(&self, timeout: Duration) -> Result<bool, SysError> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(SysError::process("wait for", self.pid)(error)),
            }
        }
    }
}

impl AsFd for PidFd {
    /// Readable when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<PidFd> for OwnedFd {
    fn from(process: PidFd) -> Self {
        process.fd
    }
}

fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// When the process started, in clock ticks since the boot; `None` if there is none. Together with the number it names
/// one process for ever.
pub fn start_time(pid: u32) -> Result<Option<u64>, SysError> {
    Ok(stat(pid)?.map(|stat| stat.start_time))
}

/// Whether the process that had this number and start time still runs. A zombie does not.
pub fn alive(pid: u32, start_time: u64) -> Result<bool, SysError> {
    Ok(stat(pid)?
        .is_some_and(|stat| stat.start_time == start_time && !matches!(stat.state, b'Z' | b'X')))
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: u8,
    start_time: u64,
}

fn stat(pid: u32) -> Result<Option<Stat>, SysError> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(SysError::path("read", path)(error)),
    };
    parse_stat(&bytes).map(Some).ok_or(SysError::Content {
        path,
        expected: "the state of a process",
    })
}

/// Reads `pid (name) state …`, where the name may hold any byte, even `) `, so what follows the last `)` counts.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let end_of_name = bytes.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(bytes.get(end_of_name + 2..)?).ok()?;
    let mut fields = rest.split(' ');
    let state = *fields.next()?.as_bytes().first()?;
    // Field 22 of the line; the state is field 3.
    let start_time = fields.nth(22 - 4)?.parse().ok()?;
    Some(Stat { state, start_time })
}

/// Both that the file is not there and that the process ended while it was read.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// The children of a process, those of all its threads.
pub fn children(pid: u32) -> Result<Vec<u32>, SysError> {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let threads = match std::fs::read_dir(&tasks) {
        Ok(threads) => threads,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(SysError::path("list", tasks)(error)),
    };
    let mut children = Vec::new();
    for thread in threads {
        let path = match thread {
            Ok(thread) => thread.path().join("children"),
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(SysError::path("list", tasks)(error)),
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => children.extend(
                text.split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            ),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(SysError::path("read", path)(error)),
        }
    }
    Ok(children)
}

/// Makes this process the parent of all its descendants that are orphaned.
pub fn set_subreaper() -> Result<(), SysError> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(SysError::system("become a subreaper"))
}

/// This process's own oom_score_adj, which a child cannot go below without CAP_SYS_RESOURCE.
pub fn own_oom_score_adj() -> Result<i32, SysError> {
    const OWN: &str = "/proc/self/oom_score_adj";
    let text = std::fs::read_to_string(OWN).map_err(SysError::path("read", OWN))?;
    text.trim().parse().map_err(|_| SysError::Content {
        path: OWN.into(),
        expected: "a number",
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::process::Command;

    use super::*;

    #[test]
    fn odd_names_do_not_confuse() {
        let line = b"42 (a) R 1 (b)) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20\n";
        let stat = parse_stat(line).unwrap();
        assert_eq!(
            stat,
            Stat {
                state: b'Z',
                start_time: 777
            }
        );
        assert_eq!(parse_stat(b"42 (cut"), None);
        assert_eq!(parse_stat(b"42 (cut) R 1"), None);
        assert_eq!(parse_stat(b"42 (cut)"), None);
    }

    #[test]
    fn a_child_from_birth_to_reaping() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = child.id();
        let held = PidFd::open(pid).unwrap().unwrap();
        let started = start_time(pid).unwrap().unwrap();
        assert!(alive(pid, started).unwrap());
        assert!(!alive(pid, started + 1).unwrap());
        assert!(children(std::process::id()).unwrap().contains(&pid));
        assert!(!held.has_ended().unwrap());
        assert!(held.signal(libc::SIGTERM).unwrap());
        assert!(held.wait(Duration::from_secs(10)).unwrap());
        // A zombie until it is reaped.
        assert!(!alive(pid, started).unwrap());
        child.wait().unwrap();
        assert!(held.has_ended().unwrap());
        assert!(!held.signal(libc::SIGKILL).unwrap());
        assert_eq!(start_time(pid).unwrap(), None);
        assert!(PidFd::open(pid).unwrap().is_none());
    }

    #[test]
    fn signals_by_number() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let held = PidFd::open(child.id()).unwrap().unwrap();
        for bad in [-1, 65, 1000] {
            assert!(held.signal(bad).is_err(), "{bad}");
        }
        assert!(held.signal(libc::SIGRTMIN() + 3).unwrap());
        let status = child.wait().unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(libc::SIGRTMIN() + 3));
    }

    #[test]
    fn no_such_process() {
        assert!(PidFd::open(0).unwrap().is_none());
        assert!(PidFd::open(u32::MAX).unwrap().is_none());
        assert!(children(u32::MAX).unwrap().is_empty());
        assert!(own_oom_score_adj().is_ok());
    }
}
