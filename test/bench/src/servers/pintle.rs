//! Pintle, as an operator would run it: only paths, the registry and the runtimes are said.

use std::process::Command;

use anyhow::Result;
use pintle_test::{places, registry, world::write};
use serde_json::{Map, json};

use super::Places;

pub(super) fn command(places: &Places, runtimes: &[String]) -> Result<Command> {
    let handlers: Map<_, _> = runtimes
        .iter()
        .map(|runtime| (runtime.clone(), json!({})))
        .collect();
    let config = json!({
        "root": places.root,
        "run": places.run,
        "runtimes": handlers,
        "network": { "cni": {
            "conf_dir": places::CNI_CONF,
            "bin_dirs": [places::CNI_BIN],
            "cache_dir": places::CNI_CACHE,
        } },
        "image": { "registries": { registry::HOST: { "plain_http": true } } },
        "monitor": { "path": places::monitor()? },
    });
    // JSON is YAML.
    write(&places.config, serde_json::to_vec_pretty(&config)?)?;
    let mut command = Command::new(places::pintle()?);
    command.arg("--config").arg(&places.config).arg("serve");
    Ok(command)
}
