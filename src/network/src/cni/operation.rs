//! One pod on one network: runs the chain of plugins forwards (ADD, CHECK) or backwards (DEL).

use std::path::{Path, PathBuf};

use super::Shared;
use super::conf::{Conf, PluginConf};
use super::plugin::{self, PluginError, PluginFailure, Run, Subject, Verb};
use super::record::Record;
use super::request::{self, Capabilities};
use super::result::{self, AddResult};
use super::version::Version;
use crate::INTERFACE;
use crate::pod::Attached;

/// All that the plugins of a chain are told alike.
pub(super) struct Operation<'a> {
    /// Where plugins are and how long they may take.
    pub shared: &'a Shared,
    /// The chain.
    pub conf: &'a Conf,
    /// The version that is spoken.
    pub version: Version,
    /// The pod.
    pub pod_id: &'a str,
    /// Its namespace, if that is still there.
    pub netns: Option<&'a Path>,
    /// `CNI_ARGS`.
    pub arguments: String,
    /// Values by capability.
    pub capabilities: &'a Capabilities,
    /// Whether `capabilities` are what the pod was attached with, so that they tell which plugins had nothing to do.
    pub is_certain: bool,
}

/// An ADD that failed in the middle of the chain.
pub(super) struct Refused<'a> {
    /// What happened.
    pub failure: PluginFailure,
    /// The plugins that have run, the failed one included.
    pub ran: &'a [PluginConf],
    /// The result of the last plugin that succeeded.
    pub result: Option<AddResult>,
}

impl<'a> Operation<'a> {
    /// An operation on an attachment that is on record.
    pub(super) fn recorded(
        shared: &'a Shared,
        conf: &'a Conf,
        record: &'a Record,
        netns: Option<&'a Path>,
    ) -> Self {
        Self {
            shared,
            conf,
            version: record.version().unwrap_or_else(|| conf.version()),
            pod_id: &record.container_id,
            netns,
            arguments: request::join(&record.cni_args),
            capabilities: &record.capability_args,
            is_certain: true,
        }
    }

    /// Runs ADD along the chain; `binaries` are the executables of its plugins.
    pub(super) async fn add(
        &self,
        binaries: &[PathBuf],
    ) -> Result<(Attached, AddResult), Refused<'a>> {
        let mut result: Option<AddResult> = None;
        for (index, (plugin, binary)) in self.conf.plugins.iter().zip(binaries).enumerate() {
            if self.is_idle(index, plugin) {
                continue;
            }
            let added = self.run(plugin, binary, Verb::Add, result.as_ref()).await;
            let parsed = added.and_then(|stdout| {
                result::parse(&stdout, self.version)
                    .map_err(|error| self.failure(plugin, Verb::Add, error))
            });
            match parsed {
                Ok(newer) => result = Some(newer),
                Err(failure) => {
                    return Err(Refused {
                        failure,
                        ran: &self.conf.plugins[..=index],
                        result,
                    });
                }
            }
        }
        let final_result = result.unwrap_or_default();
        match result::attached(&self.conf.name, INTERFACE, &final_result) {
            Ok(attached) => Ok((attached, final_result)),
            Err(error) => Err(Refused {
                failure: self.failure(&self.conf.plugins[0], Verb::Add, error),
                ran: &self.conf.plugins,
                result: Some(final_result),
            }),
        }
    }

    /// Runs DEL along `plugins` in reverse order. One that fails does not keep the others from their part.
    pub(super) async fn delete(
        &self,
        plugins: &[PluginConf],
        result: Option<&AddResult>,
    ) -> Vec<PluginFailure> {
        let result = result.filter(|_| self.version.has_check());
        let mut failures = Vec::new();
        for (index, plugin) in plugins.iter().enumerate().rev() {
            if self.is_idle(index, plugin) {
                continue;
            }
            let deleted = match self.shared.bin_dirs.find(&plugin.kind) {
                Ok(binary) => self.run(plugin, &binary, Verb::Del, result).await.map(drop),
                Err(error) => Err(self.failure(plugin, Verb::Del, error)),
            };
            failures.extend(deleted.err());
        }
        failures
    }

    /// Runs CHECK along the chain, up to the first complaint.
    pub(super) async fn check(&self, result: &AddResult) -> Result<(), PluginFailure> {
        for (index, plugin) in self.conf.plugins.iter().enumerate() {
            if self.is_idle(index, plugin) {
                continue;
            }
            let binary = self.shared.bin_dirs.find(&plugin.kind);
            let binary = binary.map_err(|error| self.failure(plugin, Verb::Check, error))?;
            self.run(plugin, &binary, Verb::Check, Some(result)).await?;
        }
        Ok(())
    }

    /// Whether the plugin at this place of the chain need not be run. The first one makes the result that others pass on.
    fn is_idle(&self, index: usize, plugin: &PluginConf) -> bool {
        index > 0 && self.is_certain && request::is_idle(plugin, self.capabilities)
    }

    async fn run(
        &self,
        plugin: &PluginConf,
        binary: &Path,
        verb: Verb,
        prev_result: Option<&AddResult>,
    ) -> Result<Vec<u8>, PluginFailure> {
        let input = request::input(
            self.conf,
            plugin,
            self.version,
            self.capabilities,
            prev_result,
        );
        plugin::run(Run {
            network: &self.conf.name,
            plugin: &plugin.kind,
            binary,
            verb,
            subject: Subject {
                container_id: self.pod_id,
                netns: self.netns,
                ifname: INTERFACE,
                args: &self.arguments,
            },
            search_path: &self.shared.bin_dirs.search_path,
            input: &input,
            limit: self.shared.config.plugin_timeout,
        })
        .await
    }

    fn failure(&self, plugin: &PluginConf, verb: Verb, error: PluginError) -> PluginFailure {
        PluginFailure {
            network: self.conf.name.clone(),
            plugin: plugin.kind.clone(),
            verb,
            error,
        }
    }
}
