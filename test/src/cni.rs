//! CNI configuration of a world: the network that pods join, and plugins that misbehave on purpose.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    places,
    world::{make_dirs, write},
};

/// The bridge of the suite's network.
pub const BRIDGE: &str = "pintle-test0";
/// Name of that network.
pub const NETWORK: &str = "pods";

/// The network of most tests: bridge, host-local and portmap, as nodes without a fancy provider have it.
pub fn bridge() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": NETWORK,
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": "10.88.0.0/16" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                    "dataDir": Path::new(places::CNI_CACHE).join("networks"),
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
        ],
    })
}

/// Puts a conflist in place, atomically, as providers' daemons do.
pub fn install(file: &str, conflist: &Value) -> Result<()> {
    make_dirs(places::CNI_CONF)?;
    let target = Path::new(places::CNI_CONF).join(file);
    let fresh = Path::new(places::SCRATCH).join("conflist.new");
    write(&fresh, serde_json::to_vec_pretty(conflist)?)?;
    fs::rename(&fresh, &target).with_context(|| format!("putting {} in place", target.display()))
}

/// Takes a conflist away.
pub fn uninstall(file: &str) -> Result<()> {
    let target = Path::new(places::CNI_CONF).join(file);
    fs::remove_file(&target).with_context(|| format!("removing {}", target.display()))
}

/// A network of one plugin that is a shell script of the test's.
pub fn script(plugin: &str) -> Value {
    json!({ "cniVersion": "1.0.0", "name": "scripted", "plugins": [{ "type": plugin }] })
}

/// Writes a plugin. It answers VERSION properly; `body` is what it does for any other command, `$CNI_COMMAND`.
pub fn write_plugin(plugin: &str, body: &str) -> Result<()> {
    make_dirs(places::CNI_OWN_BIN)?;
    let path = Path::new(places::CNI_OWN_BIN).join(plugin);
    // The configuration on standard input is read, as a real plugin would; `$conf` has it.
    let script = format!(
        "#!/bin/sh\nconf=$(cat)\nif [ \"$CNI_COMMAND\" = VERSION ]; then\n\
         echo '{{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\"]}}'; exit 0\nfi\n{body}\n"
    );
    write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("making {} executable", path.display()))
}
