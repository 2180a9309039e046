//! `pintle serve`: the life of the server, from its configuration to its last answer.
//!
//! The order matters. Everything that changes the process as a whole comes before there are threads. The lock comes
//! before the socket, so that two servers never look at each other's socket; the socket comes before the rest, so that
//! clients that come early wait instead of failing. `READY` is said when calls are answered.

mod listen;
mod lock;
mod logging;
mod notify;
mod process;
mod reload;
mod signals;
mod watchdog;

use std::{
    io,
    num::NonZeroUsize,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Rlimit;
use sys::kernel::CAP_SYS_ADMIN;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{
    listen::{ListenError, Listening},
    lock::{LockError, ServerLock},
    logging::Log,
    notify::Notifier,
    reload::Running,
    signals::{Signals, Wish},
    watchdog::Watchdog,
};
use crate::{
    assemble::{self, AssembleError, Assembled},
    config::{self, Config, Sources},
    exit::{Exit, Failure, OrExit, in_full},
};

/// More threads than this would only wait for each other: the work is done by other processes.
const THREADS_MAX: usize = 8;
/// Containers' bundles lie below `run`; user namespaces need the way through, nobody needs the list.
const RUN_MODE: u32 = 0o711;
/// Of the environment that systemd gives us, what is not meant for our children.
const OURS_ALONE: [&str; 6] = [
    "NOTIFY_SOCKET",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Runs the server until a signal ends it.
pub(crate) fn serve(config_file: Option<&Path>) -> Result<Exit, Failure> {
    let sources = Sources::new(config_file);
    let config = config::load(&sources).or_exit(Exit::Usage)?;
    let log = Log::start(&config.log.level, config.log.format).or_exit(Exit::Internal)?;
    match run(sources, config, log) {
        Ok(()) => Ok(Exit::Passed(0)),
        // From here on what goes wrong is a line of the log, in its format.
        Err(failure) => {
            tracing::error!(error = in_full(failure.error.as_ref()), "cannot serve");
            Ok(failure.exit)
        }
    }
}

fn run(sources: Sources, config: Config, log: Log) -> Result<(), Failure> {
    // Without it nothing works, and the first thing that fails would tell less.
    if !sys::kernel::has_capability(CAP_SYS_ADMIN).or_exit(Exit::Unavailable)? {
        return Err(Failure {
            exit: Exit::NotPermitted,
            error: NotPrivileged.into(),
        });
    }
    let inherited = sys::startup::take_listeners().or_exit(Exit::Unavailable)?;
    let notifier = Notifier::from_environment();
    let watchdog = Watchdog::from_environment();
    sys::startup::forget_environment(&OURS_ALONE).or_exit(Exit::Unavailable)?;
    let open_files = process::prepare();
    assemble::make_directory(&config.run, RUN_MODE).map_err(not_assembled)?;
    let _lock = ServerLock::take(&config.run).map_err(not_locked)?;
    let listening = listen::listen(inherited, &config.socket_path()).map_err(not_listening)?;
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.min(THREADS_MAX))
        .thread_name("pintle")
        .enable_all()
        .build()
        .or_exit(Exit::Internal)?;
    let life = Life {
        sources,
        config,
        log,
        notifier,
        watchdog,
        open_files,
    };
    let outcome = runtime.block_on(life.live(&listening));
    listening.remove_file();
    // What still blocks a thread, such as a dead network filesystem, must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

#[derive(Debug, thiserror::Error)]
#[error("CAP_SYS_ADMIN is missing: the server has to run as root")]
struct NotPrivileged;

/// What the server has before it has anything of its own.
struct Life {
    sources: Sources,
    config: Config,
    log: Log,
    notifier: Notifier,
    watchdog: Option<Watchdog>,
    open_files: Rlimit,
}

impl Life {
    async fn live(mut self, listening: &Listening) -> Result<(), Failure> {
        let started = Instant::now();
        let mut signals = Signals::new().or_exit(Exit::Internal)?;
        let assembled = tokio::select! {
            assembled = assemble::assemble(&self.config, self.open_files) => {
                assembled.map_err(not_assembled)?
            }
            () = signals.end() => {
                tracing::info!("ended by a signal before it served");
                return Ok(());
            }
        };
        let listener = listening.listener.try_clone().or_exit(Exit::Internal)?;
        let listener = tokio::net::UnixListener::from_std(listener).or_exit(Exit::Internal)?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            socket = %self.config.socket_path().display(),
            startup_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "serving"
        );
        self.notifier.ready();
        // What only the start needed, the parser of the configuration for one, is not kept for the months that follow.
        tokio::task::spawn_blocking(sys::memory::trim);
        let Assembled {
            images,
            engine,
            server,
            streaming,
        } = assembled;
        // Not while it ends: jobs that are waited for may take their time, and the manager has its own limit for that.
        let _watched = self.watchdog.take().map(|watchdog| {
            let (engine, notifier) = (engine.clone(), self.notifier.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                watchdog
                    .watch(|| engine.self_check(), || notifier.alive())
                    .await;
            }))
        });
        let shutdown = CancellationToken::new();
        // A task of its own, so that a reload does not keep new connections waiting.
        let mut serving = tokio::spawn(server.serve(
            UnixListenerStream::new(listener),
            shutdown.clone().cancelled_owned(),
        ));
        // Sessions get two seconds to end once calls are not taken any more; they are over before the calls are.
        let sessions = tokio::spawn(streaming.serve(shutdown.clone().cancelled_owned()));
        let mut drain_until: Option<Instant> = None;
        loop {
            tokio::select! {
                ended = &mut serving => {
                    ended.or_exit(Exit::Internal)?;
                    break;
                }
                wish = signals.next() => match wish {
                    Wish::Reload => {
                        self.notifier.reloading();
                        let mut running = Running {
                            config: &mut self.config,
                            log: &self.log,
                            images: &images,
                            engine: &engine,
                        };
                        running.reload(&self.sources).await;
                        self.notifier.ready();
                    }
                    Wish::End if drain_until.is_some() => {
                        tracing::warn!("a second signal: ending now");
                        return Ok(());
                    }
                    Wish::End => {
                        let drain = self.config.timeouts.drain;
                        tracing::info!(?drain, "ending: no new calls are taken");
                        self.notifier.stopping(drain);
                        drain_until = Some(Instant::now() + drain);
                        shutdown.cancel();
                    }
                }
            }
        }
        let drain_until = drain_until.unwrap_or_else(Instant::now);
        let end = async {
            // A panic of it has been told already.
            let _ = sessions.await;
            engine.shutdown().await;
        };
        tokio::select! {
            () = end => tracing::info!("ended"),
            () = tokio::time::sleep_until(drain_until.into()) => {
                for job in engine.jobs() {
                    tracing::warn!(?job, "cut off; finished or undone at the next start");
                }
            }
            () = signals.end() => tracing::warn!("a second signal: ending now"),
        }
        Ok(())
    }
}

fn not_locked(error: LockError) -> Failure {
    let exit = match &error {
        LockError::Held { .. } | LockError::LeftBehind { .. } => Exit::Busy,
        LockError::Io { source, .. } => of_io(source),
    };
    Failure {
        exit,
        error: error.into(),
    }
}

fn not_listening(error: ListenError) -> Failure {
    let exit = match &error {
        ListenError::Alive { .. } => Exit::Busy,
        ListenError::NotASocket { .. } | ListenError::BadHandover { .. } => Exit::Unavailable,
        ListenError::Io { source, .. } => of_io(source),
    };
    Failure {
        exit,
        error: error.into(),
    }
}

fn not_assembled(error: AssembleError) -> Failure {
    let exit = match &error {
        AssembleError::ReadProfile { .. } | AssembleError::Profile { .. } => Exit::Usage,
        AssembleError::Directory { source, .. } => of_io(source),
        _ => Exit::Unavailable,
    };
    Failure {
        exit,
        error: error.into(),
    }
}

fn of_io(error: &io::Error) -> Exit {
    if error.kind() == io::ErrorKind::PermissionDenied {
        Exit::NotPermitted
    } else {
        Exit::Unavailable
    }
}
