//! Keeps the snapshot current: reads the configuration again when its directory changes, and now and then regardless.
//!
//! The regular look is for what no event tells: a directory that is not there yet, a plugin that gets installed later, a link whose target
//! changed, a node that has run out of inotify instances. It costs a directory listing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::catalog::{self, Chain};
use super::{Shared, State, health};
use crate::NotReady;

/// A directory is read when it was quiet for so long: installers write several files, and not atomically.
const QUIET: Duration = Duration::from_millis(100);
/// A directory that is never quiet is read after so many changes.
const MAX_CHANGES: usize = 20;
/// The regular look while all is well.
const UNHURRIED: Duration = Duration::from_secs(15);
/// The regular look while there is no network or no watch.
const EAGER: Duration = Duration::from_secs(1);

/// Ends a task when dropped.
#[derive(Debug)]
pub(super) struct TaskGuard(JoinHandle<()>);

impl TaskGuard {
    /// Takes over the task.
    pub(super) fn new(task: JoinHandle<()>) -> Self {
        Self(task)
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs until it is aborted.
pub(super) async fn keep_current(shared: Arc<Shared>) {
    let changes = Arc::new(Notify::new());
    let mut watcher = start_watcher(&changes);
    // What the snapshot was made of, before the plugins had a say in the version.
    let mut loaded = None;
    let mut _health = None;
    loop {
        let is_watching = watcher
            .as_mut()
            .is_some_and(|watcher| arm(watcher, &shared.config.conf_dir));
        if let Some(newer) = load(&shared).await
            && loaded.as_ref() != Some(&newer)
        {
            let settled = health::negotiate(&shared, newer.clone()).await;
            // A failed negotiation is tried again: the plugin may be upgraded without a change of configuration.
            loaded = settled.is_ok().then_some(newer);
            _health = publish(&shared, settled);
        }
        let is_ready = shared.state.load().chain.is_ok();
        let pause = if is_ready && is_watching {
            UNHURRIED
        } else {
            EAGER
        };
        if timeout(pause, changes.notified()).await.is_ok() {
            settle(&changes).await;
        }
    }
}

/// Reads the configuration; `None` if that could not even be tried.
async fn load(shared: &Arc<Shared>) -> Option<Result<Chain, NotReady>> {
    let shared = Arc::clone(shared);
    let loading = spawn_blocking(move || {
        let config = &shared.config;
        catalog::load(
            &config.conf_dir,
            config.default_network.as_deref(),
            &shared.bin_dirs,
        )
    });
    loading.await.ok()
}

/// Makes the snapshot and returns the task that asks the plugins for their health, if they know how to answer.
fn publish(shared: &Arc<Shared>, chain: Result<Chain, NotReady>) -> Option<TaskGuard> {
    let former = shared.state.load_full();
    let is_same = match (&former.chain, &chain) {
        (Ok(former), Ok(chain)) => **former == *chain,
        (Err(former), Err(not_ready)) => former == not_ready,
        _ => false,
    };
    if !is_same {
        announce(chain.as_ref());
    }
    let chain = chain.map(Arc::new);
    let asks = chain
        .as_ref()
        .ok()
        .filter(|chain| chain.version.has_status())
        .cloned();
    let health = match &asks {
        // A network that comes up proves itself first; one that was in use stays so until its plugins say otherwise.
        Some(chain) if former.chain.is_err() => Err(health::unknown(chain)),
        Some(_) => former.health.clone(),
        None => Ok(()),
    };
    shared.state.store(Arc::new(State { chain, health }));
    asks.map(|chain| TaskGuard::new(tokio::spawn(health::keep_asking(Arc::clone(shared), chain))))
}

/// Tells the log which network is in use, or why there is none.
pub(super) fn announce(chain: Result<&Chain, &NotReady>) {
    match chain {
        Ok(chain) => {
            let (conf, version) = (&chain.conf, chain.version);
            tracing::info!(network = conf.name, file = %conf.file.display(), %version, "CNI network chosen");
            for problem in &chain.skipped {
                tracing::warn!("unusable CNI configuration skipped: {problem}");
            }
        }
        Err(not_ready) => tracing::warn!(reason = not_ready.reason, "{not_ready}"),
    }
}

fn start_watcher(changes: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let changes = Arc::clone(changes);
    let handler = move |event: notify::Result<Event>| {
        // Our own reading is an event, too: it must not cause the next one.
        let is_reading = event.is_ok_and(|event| match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => true,
            _ => false,
        });
        if !is_reading {
            changes.notify_one();
        }
    };
    match notify::recommended_watcher(handler) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(%error, "CNI configuration cannot be watched and is read every second instead");
            None
        }
    }
}

/// Watches the directory; asked again each time, because a watch ends with its directory and knows nothing of a new one.
fn arm(watcher: &mut RecommendedWatcher, conf_dir: &Path) -> bool {
    watcher.watch(conf_dir, RecursiveMode::NonRecursive).is_ok()
}

async fn settle(changes: &Notify) {
    for _ in 0..MAX_CHANGES {
        tokio::select! {
            () = changes.notified() => {}
            () = sleep(QUIET) => return,
        }
    }
}
