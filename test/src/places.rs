//! Where things are: programs under test, the run's cache, and the fixed paths inside a world.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Scratch inside a world: a tmpfs that vanishes with it.
pub const SCRATCH: &str = "/run/test";
/// Pintle's `root`.
pub const ROOT: &str = "/var/lib/pintle";
/// Pintle's `run`.
pub const RUN: &str = "/run/pintle";
/// Its socket.
pub const SOCKET: &str = "/run/pintle/pintle.sock";
/// Its configuration.
pub const CONFIG: &str = "/run/test/config.yaml";
/// CNI configuration.
pub const CNI_CONF: &str = "/run/test/cni/net.d";
/// Plugins that a test writes for itself; searched before the real ones.
pub const CNI_OWN_BIN: &str = "/run/test/cni/bin";
/// Where the plugins of Debian's package are.
pub const CNI_BIN: &str = "/usr/lib/cni";
/// CNI results and leases.
pub const CNI_CACHE: &str = "/var/lib/cni";
/// The pods' log directories.
pub const POD_LOGS: &str = "/run/test/pods";

/// What tests say of registries.
pub const REGISTRIES_CONF: &str = "/run/test/registries.conf";
/// And of their hosts.
pub const CERTS: &str = "/run/test/certs.d";

/// The server's program.
pub fn pintle() -> Result<PathBuf> {
    program("pintle")
}

/// The monitor's program: the static one if `make` has built it.
pub fn monitor() -> Result<PathBuf> {
    program("pintle-monitor")
}

/// What one run of the suite leaves for the next, such as the registry's filled storage.
pub fn cache() -> Result<PathBuf> {
    let cache = target()?.join("pintle-test");
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    Ok(cache)
}

fn program(name: &str) -> Result<PathBuf> {
    let profile = profile_dir()?;
    let target = target()?;
    let candidates = [
        env::var_os("PINTLE_BIN_DIR").map(|dir| Path::new(&dir).join(name)),
        // The monitor as it is shipped comes before the one of the debug build.
        (name == "pintle-monitor").then(|| target.join("bin").join(name)),
        Some(profile.join(name)),
    ];
    let tried: Vec<_> = candidates.into_iter().flatten().collect();
    match tried.iter().find(|path| path.exists()) {
        Some(path) => Ok(path.clone()),
        None => bail!("{name} is not built (make build-tests): looked for {tried:?}"),
    }
}

/// `target/debug` of the running program, which stands there or in `deps` below it.
fn profile_dir() -> Result<PathBuf> {
    let program = env::current_exe().context("finding the running program")?;
    let mut dir = program.parent().context("a program in no directory")?;
    if dir.ends_with("deps") {
        dir = dir.parent().context("deps in no directory")?;
    }
    Ok(dir.to_owned())
}

fn target() -> Result<PathBuf> {
    let profile = profile_dir()?;
    Ok(profile
        .parent()
        .context("a profile in no target directory")?
        .to_owned())
}
