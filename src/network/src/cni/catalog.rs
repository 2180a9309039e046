//! Which network pods are attached to: reads the configuration directory, chooses one network, finds its plugins.
//!
//! The choice is made when the directory changes, not when a pod is attached: an attach takes the ready [`Chain`].

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::conf::{Conf, ConfError, MAX_CONF_BYTES};
use super::plugin::PluginError;
use super::version::Version;
use crate::NotReady;

/// Files that are looked at in one directory; a real one has a handful.
const MAX_FILES: usize = 256;

/// A network that is ready to be used: its configuration, and where its plugins are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chain {
    /// The configuration.
    pub conf: Arc<Conf>,
    /// The version that it is used with.
    pub version: Version,
    /// The executable of each plugin of `conf`, in the same order.
    pub binaries: Vec<PathBuf>,
    /// What is wrong with the files that come before in name order, which the administrator may have meant instead.
    pub skipped: Vec<String>,
}

/// Where plugins are looked for.
#[derive(Clone, Debug)]
pub(super) struct BinDirs {
    dirs: Vec<PathBuf>,
    /// The directories as `CNI_PATH`.
    pub search_path: OsString,
}

impl BinDirs {
    /// The directories in order of preference.
    pub(super) fn new(dirs: Vec<PathBuf>) -> Self {
        // Only a path with a colon cannot be joined: it cannot be passed to a plugin, either.
        let search_path = std::env::join_paths(&dirs).unwrap_or_else(|_| {
            let usable = dirs
                .iter()
                .filter(|dir| !dir.to_string_lossy().contains(':'));
            std::env::join_paths(usable).unwrap_or_default()
        });
        Self { dirs, search_path }
    }

    /// The executable of a plugin.
    pub(super) fn find(&self, kind: &str) -> Result<PathBuf, PluginError> {
        let is_executable = |path: &PathBuf| {
            fs::metadata(path)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        let mut candidates = self.dirs.iter().map(|dir| dir.join(kind));
        candidates
            .find(is_executable)
            .ok_or_else(|| PluginError::Missing {
                searched: self.search_path.to_string_lossy().into_owned(),
            })
    }
}

/// Reads the directory, chooses a network and finds its plugins. Blocking.
pub(super) fn load(
    conf_dir: &Path,
    default_network: Option<&str>,
    bin_dirs: &BinDirs,
) -> Result<Chain, NotReady> {
    let confs = scan(conf_dir).map_err(|source| NotReady {
        reason: "NetworkConfigurationUnreadable",
        message: format!("{}: {source}", conf_dir.display()),
    })?;
    let (conf, skipped) = choose(conf_dir, confs, default_network)?;
    let mut binaries = Vec::with_capacity(conf.plugins.len());
    for plugin in &conf.plugins {
        let binary = bin_dirs.find(&plugin.kind).map_err(|error| NotReady {
            reason: "NetworkPluginMissing",
            message: format!("plugin {} of {} {error}", plugin.kind, conf.file.display()),
        })?;
        binaries.push(binary);
    }
    let version = conf.version();
    Ok(Chain {
        conf: Arc::new(conf),
        version,
        binaries,
        skipped,
    })
}

/// Every configuration file of the directory in name order, parsed. A directory that is not there is an empty one.
fn scan(conf_dir: &Path) -> io::Result<Vec<Result<Conf, ConfError>>> {
    let entries = match fs::read_dir(conf_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_conf = path.extension().is_some_and(|extension| {
            extension == "conflist" || extension == "conf" || extension == "json"
        });
        if is_conf {
            files.push(path);
        }
    }
    files.sort();
    files.truncate(MAX_FILES);
    Ok(files
        .iter()
        .map(|file| read(file).and_then(|bytes| Conf::parse(file, &bytes)))
        .collect())
}

fn read(file: &Path) -> Result<Vec<u8>, ConfError> {
    let unreadable = |source| ConfError::Unreadable {
        file: file.to_owned(),
        source,
    };
    // A FIFO in the directory must not hold up the server.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let opened = File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(file)
        .map_err(unreadable)?;
    if !opened.metadata().map_err(unreadable)?.is_file() {
        return Err(ConfError::NotRegular {
            file: file.to_owned(),
        });
    }
    let mut bytes = Vec::new();
    let limit = MAX_CONF_BYTES as u64 + 1;
    opened
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    Ok(bytes)
}

/// Chooses the named network, or else the first valid one, and tells what is wrong with the files before.
fn choose(
    conf_dir: &Path,
    confs: Vec<Result<Conf, ConfError>>,
    default_network: Option<&str>,
) -> Result<(Conf, Vec<String>), NotReady> {
    let dir = conf_dir.display();
    if confs.is_empty() {
        return Err(NotReady {
            reason: "NoNetworkConfiguration",
            message: format!("no CNI configuration in {dir}: install a network plugin"),
        });
    }
    let mut unusable = Vec::new();
    let mut others = Vec::new();
    for conf in confs {
        match conf {
            Ok(conf) if default_network.is_none_or(|name| name == conf.name) => {
                return Ok((conf, unusable));
            }
            Ok(conf) => others.push(conf.name),
            Err(error) => unusable.push(error.to_string()),
        }
    }
    let mut message = match default_network {
        Some(name) => format!("network {name} is not configured in {dir}"),
        None => format!("no usable CNI configuration in {dir}"),
    };
    if !others.is_empty() {
        message = format!("{message}, only {}", others.join(", "));
    }
    if !unusable.is_empty() {
        message = format!("{message}: {}", unusable.join("; "));
    }
    Err(NotReady {
        reason: if unusable.is_empty() {
            "NoNetworkConfiguration"
        } else {
            "NetworkConfigurationInvalid"
        },
        message,
    })
}

#[cfg(test)]
mod tests;
