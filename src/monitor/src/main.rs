//! `pintle-monitor`: the small process that parents the containers of one pod.
//!
//! The server starts one per pod and can die, restart or be upgraded at any time; the monitor goes on. It owns what must
//! not be lost meanwhile: the containers' exit status (they are its children), their output (it writes the log files),
//! the verdict on out-of-memory kills, and the pod's namespaces, which it makes and pins.
//!
//! One thread and one epoll loop ([`event_loop`]); nothing in it waits for a runtime, a client or a container. Requests come
//! over a Unix socket in the language of `monitor_wire`. Its memory counts, for a node runs hundreds: no hash maps, no
//! async runtime, buffers only while they hold something.
//!
//! ```text
//! pintle-monitor POD_ID   stdin is the listening socket, stdout and stderr the monitor's own log
//! pintle-monitor pause    PID 1 of a pod's sandbox container; also when started under the name `pause`
//! ```

mod attach;
mod clock;
mod complaint;
mod connection;
mod console;
mod container;
mod create;
mod event_loop;
mod exec;
mod exit_file;
mod log;
mod namespaces;
mod oom;
mod output_hold;
mod pause;
mod poller;
mod process_tree;
mod refusal;
mod requests;
mod settler;
mod setup;
mod spawn;
mod stdio;
mod sysctl;

use std::{os::unix::ffi::OsStrExt as _, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let argument = arguments.next();
    let is_pause = |name: &std::ffi::OsStr| name.as_bytes() == b"pause";
    if Path::new(&program).file_name().is_some_and(is_pause)
        || argument.as_deref().is_some_and(is_pause)
    {
        return pause::run();
    }
    if argument.is_none() {
        complaint::complain(format_args!(
            "pintle-monitor is started by pintle, one for each pod"
        ));
        return ExitCode::from(2);
    }
    match setup::start().and_then(|start| event_loop::Monitor::new(start)?.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complaint::complain(format_args!("pintle-monitor: {error}"));
            ExitCode::FAILURE
        }
    }
}
