//! Debian's containerd with its CRI plugin, configured as for a node with plain CNI and cgroupfs.

use std::{fmt::Write as _, process::Command};

use anyhow::Result;
use pintle_test::{places, registry, world::write};

use super::Places;

pub(super) fn command(places: &Places, runtimes: &[String]) -> Result<Command> {
    let cri = r#"plugins."io.containerd.grpc.v1.cri""#;
    let mut config = format!(
        r#"version = 2
root = "{root}"
state = "{run}/state"
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{root}/opt"
[{cri}]
sandbox_image = "{pause}"
# Where root lacks CAP_SYS_RESOURCE, the pause process cannot have a negative score.
restrict_oom_score_adj = true
[{cri}.cni]
bin_dir = "{bin}"
conf_dir = "{conf}"
[{cri}.registry.mirrors."{registry}"]
endpoint = ["http://{registry}"]
[{cri}.containerd]
snapshotter = "overlayfs"
"#,
        root = places.root.display(),
        run = places.run.display(),
        socket = places.socket.display(),
        pause = registry::name("pause:latest"),
        bin = places::CNI_BIN,
        conf = places::CNI_CONF,
        registry = registry::HOST,
    );
    for runtime in runtimes {
        let table = format!("{cri}.containerd.runtimes.{runtime}");
        write!(
            config,
            "[{table}]\nruntime_type = \"io.containerd.runc.v2\"\n[{table}.options]\nBinaryName = \"{runtime}\"\n"
        )?;
    }
    write(&places.config, config)?;
    let mut command = Command::new("containerd");
    command.arg("--config").arg(&places.config);
    Ok(command)
}
