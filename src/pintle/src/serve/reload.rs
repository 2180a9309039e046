//! SIGHUP: what can change in a running server is taken over, what cannot is named.

use std::collections::BTreeSet;

use engine::Engine;
use image::Images;

use super::logging::{Log, LogError};
use crate::{
    assemble::{self, runtimes},
    config::{self, Config, Sources},
    exit::in_full,
};

/// The parts of a running server that can change.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    /// What the server goes by; changes with what is taken over.
    pub(crate) config: &'a mut Config,
    /// Takes another level.
    pub(crate) log: &'a Log,
    /// Take other settings of registries, other pinned images and other additional stores.
    pub(crate) images: &'a Images,
    /// Takes more runtimes.
    pub(crate) engine: &'a Engine,
}

impl Running<'_> {
    /// Reads the files again. A configuration with errors changes nothing.
    pub(crate) async fn reload(&mut self, sources: &Sources) {
        let new = match config::load(sources) {
            Ok(new) => new,
            Err(error) => {
                tracing::error!(%error, "the configuration is wrong; nothing is changed");
                return;
            }
        };
        let in_use = self.runtimes_in_use();
        let changes = config::changes(self.config, &new, &in_use);
        if changes.is_empty() {
            tracing::info!("the configuration has not changed");
        }
        if let Err(error) = self.take_over(&new, &in_use).await {
            tracing::error!(
                error = in_full(&error),
                "the configuration is not taken over"
            );
            return;
        }
        for change in changes {
            if change.live {
                tracing::info!(key = change.key, "changed");
            } else {
                tracing::warn!(
                    key = change.key,
                    "changed, but needs a restart of the server"
                );
            }
        }
    }

    fn runtimes_in_use(&self) -> BTreeSet<String> {
        let handlers = self.engine.node_status().handlers.into_iter();
        // The default handler stands there once more, under the empty name.
        handlers
            .map(|handler| handler.name)
            .filter(|name| !name.is_empty())
            .collect()
    }

    /// Takes over every key that is marked `@live` in `config::keys`.
    async fn take_over(&mut self, new: &Config, in_use: &BTreeSet<String>) -> Result<(), LogError> {
        let config = &mut *self.config;
        if config.log.level != new.log.level {
            self.log.change(&new.log.level)?;
            config.log.level = new.log.level.clone();
        }
        // Also when nothing has changed: `registries.conf` may have, and with it the meaning of short names.
        self.images.set_registries(assemble::registries(new)).await;
        let (own, image) = (&mut config.image, &new.image);
        own.registries.clone_from(&image.registries);
        own.registries_conf.clone_from(&image.registries_conf);
        own.certs_dirs.clone_from(&image.certs_dirs);
        own.proxy.clone_from(&image.proxy);
        if own.pinned != image.pinned {
            self.images.set_pinned(assemble::pinned(new)).await;
            own.pinned.clone_from(&image.pinned);
        }
        if own.additional_stores != image.additional_stores {
            let stores = image.additional_stores.clone();
            self.images.set_additional_stores(stores).await;
            own.additional_stores.clone_from(&image.additional_stores);
        }
        // Also those that could not be used when they were looked at last: they may be installed by now.
        let mut additions = config.clone();
        additions.runtimes.clone_from(&new.runtimes);
        additions.runtimes.retain(|name, _| !in_use.contains(name));
        let probed = runtimes::probe(&additions).await;
        self.engine
            .add_handlers(&assemble::handlers(&additions, probed));
        config.runtimes.retain(|name, _| in_use.contains(name));
        config.runtimes.append(&mut additions.runtimes);
        Ok(())
    }
}
