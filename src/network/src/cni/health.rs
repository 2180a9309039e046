//! Asks plugins about themselves in the background: which versions they speak, and whether they can attach pods (STATUS).
//!
//! Answers land in the snapshot; nobody waits for a plugin to learn them. One failed STATUS of a network that was well is looked
//! at again before it counts, because a node that turns NotReady is expensive.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;
use tokio::time::sleep;

use super::catalog::Chain;
use super::plugin::{self, PluginFailure, Run, Subject, Verb};
use super::request::{self, Capabilities};
use super::version::Version;
use super::{Shared, State};
use crate::NotReady;

/// How long a plugin may take to answer about itself, if plugins may run longer.
const MAX_LIMIT: Duration = Duration::from_secs(10);
/// Between two questions to a network that is well.
const UNHURRIED: Duration = Duration::from_secs(10);
/// Between two questions to a network that is not.
const EAGER: Duration = Duration::from_secs(2);
/// Failures in a row after which a network that was well is not ready.
const MAX_FAILURES: u32 = 2;

/// Chooses the newest version that the configuration allows and every plugin speaks.
///
/// A plugin that does not answer is taken to speak anything: whether it works is for ADD to find out.
pub(super) async fn negotiate(
    shared: &Shared,
    chain: Result<Chain, NotReady>,
) -> Result<Chain, NotReady> {
    let mut chain = chain?;
    let asked = chain.conf.plugins.iter().zip(&chain.binaries);
    let answers = join_all(asked.map(async |(plugin, binary)| {
        let question = format!(r#"{{"cniVersion":"{}"}}"#, chain.version);
        let run = Run {
            network: &chain.conf.name,
            plugin: &plugin.kind,
            binary,
            verb: Verb::Version,
            subject: Subject::default(),
            search_path: &shared.bin_dirs.search_path,
            input: question.as_bytes(),
            limit: limit(shared),
        };
        match plugin::run(run).await {
            Ok(stdout) => supported(&stdout),
            Err(failure) => {
                tracing::debug!(%failure, "plugin does not tell its versions");
                None
            }
        }
    }))
    .await;
    let is_spoken = |version: &Version| {
        answers
            .iter()
            .flatten()
            .all(|spoken| spoken.contains(version.as_str()))
    };
    if let Some(version) = chain.conf.versions.iter().copied().find(is_spoken) {
        chain.version = version;
        return Ok(chain);
    }
    let mut speakers = chain.conf.plugins.iter().zip(&answers);
    let culprit = speakers.find_map(|(plugin, spoken)| {
        let spoken = spoken.as_ref()?;
        let fits = chain
            .conf
            .versions
            .iter()
            .any(|version| spoken.contains(version.as_str()));
        (!fits).then(|| format!("plugin {} speaks only {}", plugin.kind, words(spoken)))
    });
    let culprit = culprit.unwrap_or_else(|| "its plugins have no version in common".to_owned());
    Err(NotReady {
        reason: "NetworkPluginIncompatible",
        message: format!(
            "{}: cniVersion {} cannot be used: {culprit}",
            chain.conf.file.display(),
            chain.version
        ),
    })
}

fn words(versions: &BTreeSet<String>) -> String {
    let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
    versions.join(", ")
}

/// The versions in an answer to VERSION.
fn supported(stdout: &[u8]) -> Option<BTreeSet<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        supported_versions: BTreeSet<String>,
    }
    let answer: Answer = serde_json::from_slice(stdout).ok()?;
    Some(answer.supported_versions)
}

/// The state of a network that has not answered yet.
pub(super) fn unknown(chain: &Chain) -> NotReady {
    NotReady {
        reason: "NetworkPluginNotReady",
        message: format!(
            "network {}: its plugins have not yet said that they are ready",
            chain.conf.name
        ),
    }
}

/// Asks the plugins of the chain for their STATUS again and again, until the task is aborted.
pub(super) async fn keep_asking(shared: Arc<Shared>, chain: Arc<Chain>) {
    let mut history = History::default();
    loop {
        let answer = ask(&shared, &chain).await;
        if history.counts(answer.is_ok()) {
            let health = answer.map_err(|failure| NotReady {
                reason: "NetworkPluginNotReady",
                message: failure.to_string(),
            });
            tell(&shared, &chain, &health);
        }
        sleep(history.pause()).await;
    }
}

/// What a network's plugins have answered so far.
#[derive(Debug, Default)]
struct History {
    /// The last answer that counted was that all is well.
    is_well: bool,
    /// Failures since the last good answer.
    failures: u32,
}

impl History {
    /// Takes note of an answer and says whether it counts: a good one always does, a failure not as long as it may be a hiccup.
    fn counts(&mut self, is_good: bool) -> bool {
        self.failures = if is_good { 0 } else { self.failures + 1 };
        let counts = is_good || !self.is_well || self.failures >= MAX_FAILURES;
        if counts {
            self.is_well = is_good;
        }
        counts
    }

    /// How long to wait before asking again.
    fn pause(&self) -> Duration {
        if self.failures == 0 { UNHURRIED } else { EAGER }
    }
}

async fn ask(shared: &Shared, chain: &Chain) -> Result<(), PluginFailure> {
    for (plugin, binary) in chain.conf.plugins.iter().zip(&chain.binaries) {
        let input = request::input(
            &chain.conf,
            plugin,
            chain.version,
            &Capabilities::new(),
            None,
        );
        let run = Run {
            network: &chain.conf.name,
            plugin: &plugin.kind,
            binary,
            verb: Verb::Status,
            subject: Subject::default(),
            search_path: &shared.bin_dirs.search_path,
            input: &input,
            limit: limit(shared),
        };
        plugin::run(run).await?;
    }
    Ok(())
}

/// Puts the answer into the snapshot, unless that is of another configuration by now.
fn tell(shared: &Shared, chain: &Arc<Chain>, health: &Result<(), NotReady>) {
    let former = shared.state.rcu(|state| {
        let is_current = state
            .chain
            .as_ref()
            .is_ok_and(|current| Arc::ptr_eq(current, chain));
        if is_current {
            Arc::new(State {
                chain: state.chain.clone(),
                health: health.clone(),
            })
        } else {
            Arc::clone(state)
        }
    });
    match health {
        Ok(()) if former.health.is_err() => {
            tracing::info!(network = chain.conf.name, "CNI plugins are ready");
        }
        Err(not_ready) if former.health.is_ok() => {
            tracing::warn!(reason = not_ready.reason, "{not_ready}");
        }
        _ => {}
    }
}

fn limit(shared: &Shared) -> Duration {
    shared.config.plugin_timeout.min(MAX_LIMIT)
}

#[cfg(test)]
mod tests;
