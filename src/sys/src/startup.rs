//! What a process was given by whoever started it: sockets of systemd and the environment.
//!
//! Both belong to the process alone. Passed on, they would confuse its children: an OCI runtime that finds
//! `NOTIFY_SOCKET` mounts it into the container.

use std::{
    env, fs,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::io::FdFlags;

use crate::SysError;

/// The number of the first descriptor that systemd hands over.
const FIRST_LISTENER: RawFd = 3;
/// More sockets than anyone configures.
const LISTENERS_MAX: RawFd = 64;

/// Whether [`take_listeners`] was called: a descriptor can have one owner only.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Lets this process end without a word when nobody reads what it prints any more (`pintle image list | head`), as programs
/// do that were not started by Rust. Not for one that has something to clean up then.
pub fn end_with_the_reader() {
    // SAFETY: no handler runs in this process: the default action is taken by the kernel.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// The sockets that systemd opened for this process (`sd_listen_fds(3)`), closed on exec from now on. None if there are
/// none for this process; a second call finds none.
pub fn take_listeners() -> Result<Vec<OwnedFd>, SysError> {
    let count = announced(
        env::var("LISTEN_PID").ok().as_deref(),
        env::var("LISTEN_FDS").ok().as_deref(),
        std::process::id(),
    );
    if count == 0 || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    (FIRST_LISTENER..FIRST_LISTENER + count).map(take).collect()
}

/// How many descriptors these variables announce to the process `pid`.
fn announced(listen_pid: Option<&str>, listen_fds: Option<&str>, pid: u32) -> RawFd {
    let ours = listen_pid.and_then(|text| text.parse().ok()) == Some(pid);
    let count = listen_fds.and_then(|text| text.parse::<RawFd>().ok());
    count
        .filter(|count| ours && (1..=LISTENERS_MAX).contains(count))
        .unwrap_or(0)
}

fn take(number: RawFd) -> Result<OwnedFd, SysError> {
    // A number that is not open must not become an OwnedFd, and this asks without one.
    let path = format!("/proc/self/fd/{number}");
    fs::symlink_metadata(&path).map_err(SysError::path("find the announced socket", path))?;
    // SAFETY: the descriptor is open, as just seen. systemd opened it for this process before it was started and named it
    // in LISTEN_FDS, so no other part of the program owns it, and TAKEN keeps us from making a second owner.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)
        .map_err(SysError::system("mark the announced socket close-on-exec"))?;
    Ok(socket)
}

/// Removes variables from the environment of this process, and so of its children. Does so only while the process has a
/// single thread; returns whether it could.
pub fn forget_environment(names: &[&str]) -> Result<bool, SysError> {
    const TASKS: &str = "/proc/self/task";
    let threads = fs::read_dir(TASKS)
        .map_err(SysError::path("list", TASKS))?
        .count();
    if threads != 1 {
        return Ok(false);
    }
    for name in names {
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no other thread to share the environment with"
        )]
        // SAFETY: only this thread exists, so no other one can be reading the environment.
        unsafe {
            env::remove_var(name);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn sockets_are_announced_to_one_process() {
        assert_eq!(announced(Some("7"), Some("2"), 7), 2);
        assert_eq!(announced(Some("8"), Some("2"), 7), 0);
        assert_eq!(announced(None, Some("2"), 7), 0);
        assert_eq!(announced(Some("7"), None, 7), 0);
        assert_eq!(announced(Some("7"), Some("-2"), 7), 0);
        assert_eq!(announced(Some("7"), Some("9999"), 7), 0);
        assert!(take_listeners().unwrap().is_empty());
    }

    #[test]
    fn the_environment_of_several_threads_is_left_alone() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        assert!(!forget_environment(&["PATH"]).unwrap());
        drop(done);
        drop(other.join());
        assert!(env::var_os("PATH").is_some());
    }

    #[test]
    fn a_number_that_is_not_open_is_refused() {
        assert!(take(RawFd::MAX).is_err());
    }
}
