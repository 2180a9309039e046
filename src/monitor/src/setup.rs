//! What the monitor makes of itself before it serves.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::process::{getpid, set_child_subreaper, setsid};

use crate::spawn::SignalSet;

/// The least killable a process may be without being immune; kubelet uses the same for runtimes.
const OOM_SCORE_ADJ: &str = "-998";
const OOM_SCORE_FILE: &str = "/proc/self/oom_score_adj";

/// What the loop starts from.
pub(crate) struct Start {
    /// The socket that the server listens with and left as stdin.
    pub(crate) listener: OwnedFd,
    /// Readable when a child ended or the monitor is told to end.
    pub(crate) signals: OwnedFd,
    /// Set if the monitor could make itself hard to kill: what its children are to have instead.
    pub(crate) inherited_oom_score_adj: Option<String>,
}

/// Cuts every tie to the server but the socket.
pub(crate) fn start() -> io::Result<Start> {
    let listener = rustix::stdio::stdin().try_clone_to_owned()?;
    // Children get their own stdin; 0 stays taken, so that no later descriptor lands on a standard number.
    let null = null_device()?;
    rustix::stdio::dup2_stdin(&null)?;
    drop(null);
    close_inherited(&listener);
    rustix::fs::fcntl_setfl(&listener, rustix::fs::OFlags::NONBLOCK)?;
    // Fails for a group leader, which a terminal's shell may have made of us: then there is no terminal to lose.
    let _ = setsid();
    rustix::process::chdir("/")?;
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    // Orphans of this pod come to us: containers when their runtime command ends, and their execs.
    set_child_subreaper(Some(getpid()))?;
    // Blocked for good and read from a descriptor. SIGPIPE is ignored by Rust's start-up already.
    let signals = SignalSet::of(&[
        libc::SIGCHLD,
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGHUP,
        libc::SIGUSR1,
        libc::SIGUSR2,
    ]);
    signals.block()?;
    Ok(Start {
        listener,
        signals: signals.descriptor()?,
        inherited_oom_score_adj: resist_oom(),
    })
}

/// `/dev/null` for reading and writing.
pub(crate) fn null_device() -> io::Result<OwnedFd> {
    Ok(fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?
        .into())
}

/// Closes whatever the server let slip through, but the standard descriptors and the listener.
fn close_inherited(listener: &OwnedFd) {
    use std::os::fd::AsRawFd as _;
    let kept = u32::try_from(listener.as_fd().as_raw_fd()).unwrap_or(0);
    for (first, last) in [(3, kept.saturating_sub(1)), (kept + 1, u32::MAX)] {
        if first <= last {
            // SAFETY: nothing but the listener and the standard descriptors is in use yet.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

/// Needs CAP_SYS_RESOURCE; without it the monitor is as killable as others.
fn resist_oom() -> Option<String> {
    let inherited = fs::read_to_string(OOM_SCORE_FILE).ok()?.trim().to_owned();
    if inherited.parse::<i32>().ok()? <= -998 {
        return None;
    }
    fs::write(OOM_SCORE_FILE, OOM_SCORE_ADJ).ok()?;
    Some(inherited)
}

/// Runs `spawn` while the monitor is as killable as `inherited` says, so that children do not inherit its privilege:
/// neither a runtime nor a container whose spec says nothing may be spared by the kernel.
pub(crate) fn with_inherited_oom_score<T>(inherited: Option<&str>, spawn: impl FnOnce() -> T) -> T {
    let Some(inherited) = inherited else {
        return spawn();
    };
    let _ = fs::write(OOM_SCORE_FILE, inherited);
    let result = spawn();
    let _ = fs::write(OOM_SCORE_FILE, OOM_SCORE_ADJ);
    result
}
