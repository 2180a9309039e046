//! The CNI backend: runs the plugins of one configured network for each pod.
//!
//! | part | what it owns |
//! | --- | --- |
//! | [`conf`], [`version`] | what a configuration file says |
//! | [`catalog`] | which network is used, and where its plugins are |
//! | [`watch`], [`health`] | keeping that current, and asking the plugins whether they are ready |
//! | [`request`], [`result`] | what a plugin is told, and what it answers |
//! | [`operation`], [`plugin`] | the run of a chain for one pod, the run of one plugin |
//! | [`record`] | what is known of every attachment, on disk |
//! | [`netns`], [`serial`] | the check of a namespace, and one operation per pod at a time |
//!
//! An attach: record → ADD of each plugin in order, each given the result of the one before → record with the result.
//! A detach: record → DEL of each plugin in reverse order, with the recorded configuration and result → record removed.
//! If an ADD fails, the plugins that ran get their DEL at once. Should the server die or the future be dropped anywhere
//! in between, the record is there, and the next detach does what is left.
//!
//! Two kinds of plugins are left out of a chain: `loopback`, whose work is done by the monitor, and those that would
//! only pass on the result (see [`request::is_idle`]).

mod catalog;
mod conf;
mod health;
mod netns;
mod operation;
mod plugin;
mod record;
mod request;
mod result;
mod serial;
mod version;
mod watch;

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

pub use conf::ConfError;
pub use plugin::{ATTACHMENT_VARIABLE, PluginError, PluginFailure, Verb};

use crate::pod::{Attached, Attachment};
use crate::{NetworkConfig, NetworkError, NotReady};
use catalog::{BinDirs, Chain};
use conf::Conf;
use operation::{Operation, Refused};
use record::{Record, Records};
use serial::{PodLocks, Turn};
use watch::TaskGuard;

/// Handle of the CNI backend; clones share one state.
#[derive(Clone, Debug)]
pub(crate) struct Cni {
    shared: Arc<Shared>,
    /// Ends the watcher with the last handle.
    _watcher: Arc<TaskGuard>,
}

/// What operations and the watcher share.
#[derive(Debug)]
struct Shared {
    config: NetworkConfig,
    bin_dirs: BinDirs,
    records: Records,
    pod_locks: PodLocks,
    state: ArcSwap<State>,
    pod_cidrs: ArcSwap<Vec<String>>,
}

/// The snapshot that status and attach answer from.
#[derive(Clone, Debug)]
struct State {
    /// The network, or why there is none.
    chain: Result<Arc<Chain>, NotReady>,
    /// What the plugins say of themselves. Does not keep from attaching: it may be out of date.
    health: Result<(), NotReady>,
}

impl Cni {
    /// Reads configuration and records and starts the watcher.
    pub(crate) fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(NetworkError::NoRuntime)?;
        let bin_dirs = BinDirs::new(config.bin_dirs.clone());
        let records = Records::open(&config.cache_dir)?;
        let chain = catalog::load(
            &config.conf_dir,
            config.default_network.as_deref(),
            &bin_dirs,
        );
        watch::announce(chain.as_ref());
        let state = State {
            chain: chain.map(Arc::new),
            // Until the plugins have been asked: a restart of the server must not turn the node NotReady.
            health: Ok(()),
        };
        let shared = Arc::new(Shared {
            config,
            bin_dirs,
            records,
            pod_locks: PodLocks::default(),
            state: ArcSwap::from_pointee(state),
            pod_cidrs: ArcSwap::default(),
        });
        let watcher = TaskGuard::new(runtime.spawn(watch::keep_current(Arc::clone(&shared))));
        Ok(Self {
            shared,
            _watcher: Arc::new(watcher),
        })
    }

    /// See [`crate::Network::status`].
    pub(crate) fn status(&self) -> Result<(), NotReady> {
        let state = self.shared.state.load();
        match &state.chain {
            Ok(_) => state.health.clone(),
            Err(not_ready) => Err(not_ready.clone()),
        }
    }

    /// See [`crate::Network::set_pod_cidrs`].
    pub(crate) fn set_pod_cidrs(&self, cidrs: Vec<String>) {
        self.shared.pod_cidrs.store(Arc::new(cidrs));
    }

    /// See [`crate::Network::attach`].
    pub(crate) async fn attach(&self, attachment: &Attachment) -> Result<Attached, NetworkError> {
        let shared = &*self.shared;
        let pod_id = &attachment.pod_id;
        request::validate(attachment)?;
        let chain = shared
            .state
            .load()
            .chain
            .clone()
            .map_err(NetworkError::NotReady)?;
        let turn = shared.pod_locks.lock(pod_id).await;
        netns::verify(&attachment.netns).map_err(|problem| NetworkError::BadNetns {
            pod_id: pod_id.clone(),
            path: attachment.netns.clone(),
            problem,
        })?;
        if shared.records.contains(pod_id) {
            shared.detach_recorded(attachment, &turn).await?;
        }
        let mut record = Record::new(
            &chain,
            pod_id.clone(),
            attachment.netns.clone(),
            request::arguments(attachment),
            request::capabilities(attachment, &shared.pod_cidrs.load()),
        );
        // Must be before the first plugin runs, because what nobody knows of cannot be taken back.
        shared.records.put(&record, &turn).await?;
        let network = Operation {
            shared,
            conf: &chain.conf,
            version: chain.version,
            pod_id,
            netns: Some(&attachment.netns),
            arguments: request::join(&record.cni_args),
            capabilities: &record.capability_args,
            is_certain: true,
        };
        let (attached, result) = match network.add(&chain.binaries).await {
            Ok(added) => added,
            Err(Refused {
                failure,
                ran,
                result,
            }) => {
                let undo_failures = network.delete(ran, result.as_ref()).await;
                if undo_failures.is_empty()
                    && let Err(error) = shared.records.remove(&chain.conf.name, pod_id, &turn).await
                {
                    // Harmless: the next detach finds nothing to do. Why the attach failed is what the caller has to know.
                    tracing::warn!(%error, "record of an undone attach is still there");
                }
                return Err(NetworkError::Attach {
                    pod_id: pod_id.clone(),
                    failure: Box::new(failure),
                    undo_failures,
                });
            }
        };
        record.result = Some(result);
        shared.records.put_in_background(record, turn);
        Ok(attached)
    }

    /// See [`crate::Network::detach`].
    pub(crate) async fn detach(&self, attachment: &Attachment) -> Result<(), NetworkError> {
        let shared = &*self.shared;
        request::validate(attachment)?;
        let turn = shared.pod_locks.lock(&attachment.pod_id).await;
        if shared.records.contains(&attachment.pod_id) {
            return shared.detach_recorded(attachment, &turn).await;
        }
        // Without a record all that can be done is to ask the network of today; without one, there is nothing to do.
        let Ok(chain) = shared.state.load().chain.clone() else {
            return Ok(());
        };
        let network = Operation {
            shared,
            conf: &chain.conf,
            version: chain.version,
            pod_id: &attachment.pod_id,
            netns: live(&attachment.netns),
            arguments: request::join(&request::arguments(attachment)),
            capabilities: &request::capabilities(attachment, &shared.pod_cidrs.load()),
            is_certain: false,
        };
        let failures = network.delete(&chain.conf.plugins, None).await;
        detached(&attachment.pod_id, failures)
    }

    /// See [`crate::Network::check`].
    pub(crate) async fn check(&self, attachment: &Attachment) -> Result<(), NetworkError> {
        let shared = &*self.shared;
        let pod_id = &attachment.pod_id;
        request::validate(attachment)?;
        let _turn = shared.pod_locks.lock(pod_id).await;
        let mut any = false;
        for record in shared.records.load(pod_id).await? {
            let Some(result) = &record.result else {
                continue;
            };
            any = true;
            let conf = shared.recorded_conf(&record)?;
            let network = Operation::recorded(shared, &conf, &record, Some(&record.netns));
            if network.version.has_check() && !conf.disable_check {
                network
                    .check(result)
                    .await
                    .map_err(|failure| NetworkError::Check {
                        pod_id: pod_id.clone(),
                        failure: Box::new(failure),
                    })?;
            }
        }
        if any {
            Ok(())
        } else {
            Err(NetworkError::NotAttached {
                pod_id: pod_id.clone(),
            })
        }
    }

    /// See [`crate::Network::attachments_left`].
    pub(crate) fn attachments_left(&self) -> Vec<Attachment> {
        let records = &self.shared.records;
        let pods = records.pods().into_iter();
        pods.filter_map(|pod_id| {
            // One that cannot be read any more still has to be detached; its id is all that is needed to try.
            let record = records
                .load_now(&pod_id)
                .ok()
                .map(|records| records.into_iter().next());
            match record {
                Some(None) => None,
                Some(Some(record)) => Some(Attachment {
                    name: record.argument("K8S_POD_NAME"),
                    namespace: record.argument("K8S_POD_NAMESPACE"),
                    uid: record.argument("K8S_POD_UID"),
                    netns: record.netns,
                    pod_id,
                    ..Attachment::default()
                }),
                None => Some(Attachment {
                    pod_id,
                    ..Attachment::default()
                }),
            }
        })
        .collect()
    }
}

impl Shared {
    /// Takes back everything that is on record for the pod. The caller has the pod's turn.
    async fn detach_recorded(
        &self,
        attachment: &Attachment,
        turn: &Turn,
    ) -> Result<(), NetworkError> {
        let pod_id = &attachment.pod_id;
        let mut failures = Vec::new();
        for record in self.records.load(pod_id).await? {
            let conf = self.recorded_conf(&record)?;
            let netns = live(&attachment.netns).or_else(|| live(&record.netns));
            let network = Operation::recorded(self, &conf, &record, netns);
            let failed = network.delete(&conf.plugins, record.result.as_ref()).await;
            if failed.is_empty() {
                self.records
                    .remove(&record.network_name, pod_id, turn)
                    .await?;
            }
            failures.extend(failed);
        }
        detached(pod_id, failures)
    }

    /// The configuration that an attachment was made with; usually it is still the one in use.
    fn recorded_conf(&self, record: &Record) -> Result<Arc<Conf>, NetworkError> {
        if let Ok(chain) = &self.state.load().chain
            && chain.conf.list_json == record.config
        {
            return Ok(Arc::clone(&chain.conf));
        }
        let conf = Conf::parse(Path::new("recorded configuration"), &record.config);
        conf.map(Arc::new)
            .map_err(|source| NetworkError::RecordedConf {
                pod_id: record.container_id.clone(),
                source,
            })
    }
}

/// The namespace if it is still there: a plugin must be told the truth, or it cleans up in a namespace that is not the pod's.
fn live(path: &Path) -> Option<&Path> {
    netns::verify(path).is_ok().then_some(path)
}

fn detached(pod_id: &str, failures: Vec<PluginFailure>) -> Result<(), NetworkError> {
    if failures.is_empty() {
        return Ok(());
    }
    Err(NetworkError::Detach {
        pod_id: pod_id.to_owned(),
        failures,
    })
}
