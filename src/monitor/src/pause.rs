//! PID 1 of a sandbox container: holds the pod's PID namespace, reaps whatever is orphaned in it, and ends when asked.

use std::process::ExitCode;

use rustix::process::{WaitOptions, wait};

use crate::spawn::SignalSet;

/// Runs until SIGTERM or SIGINT. Signals are blocked before anything else, so that one sent early is kept, not lost:
/// the kernel drops signals that a fresh PID 1 has neither blocked nor handled.
pub(crate) fn run() -> ExitCode {
    let signals = SignalSet::of(&[libc::SIGTERM, libc::SIGINT, libc::SIGCHLD]);
    if let Err(error) = signals.block() {
        crate::complaint::complain(format_args!("pause: {error}"));
        return ExitCode::FAILURE;
    }
    loop {
        // Before waiting: children may have ended before the block.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        match signals.wait() {
            libc::SIGTERM | libc::SIGINT => return ExitCode::SUCCESS,
            _ => {}
        }
    }
}
