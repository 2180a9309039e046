//! The CNI configuration and the plugins that it names.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::finding::Finding;
use crate::config::Config;

/// Larger configuration files are not read here.
const CONF_BYTES_MAX: u64 = 1 << 20;

/// What would mend an absent network.
const INSTALL: &str = "install your cluster's network plugin: it puts a .conflist there";

/// All of it.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let cni = &config.network.cni;
    let files = match conf_files(&cni.conf_dir) {
        Ok(files) => files,
        Err(error) => {
            return vec![Finding::warn(
                "cni",
                format!(
                    "cannot list {}: {error}; the node stays NotReady",
                    cni.conf_dir.display()
                ),
                INSTALL,
            )];
        }
    };
    if files.is_empty() {
        return vec![Finding::warn(
            "cni",
            format!(
                "no configuration in {}; the node stays NotReady",
                cni.conf_dir.display()
            ),
            INSTALL,
        )];
    }
    let mut findings = Vec::new();
    for file in files {
        let finding = match read(&file) {
            Ok(conf) => network(&file, &conf, |plugin| {
                cni.bin_dirs
                    .iter()
                    .any(|directory| directory.join(plugin).is_file())
            }),
            Err(error) => unusable(&file, &error.to_string()),
        };
        findings.push(finding);
    }
    findings
}

/// In the order of their names, as they are tried.
fn conf_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let known = path.extension().is_some_and(|extension| {
            ["conflist", "conf", "json"]
                .iter()
                .any(|known| extension == *known)
        });
        if known {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> io::Result<serde_json::Value> {
    if fs::metadata(path)?.len() > CONF_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than 1 MiB",
        ));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn unusable(file: &Path, why: &str) -> Finding {
    Finding::warn(
        "cni",
        format!("{}: {why}", file.display()),
        "mend the file or take it away: the first usable one counts",
    )
}

fn network(file: &Path, conf: &serde_json::Value, installed: impl Fn(&str) -> bool) -> Finding {
    let Some(name) = conf["name"].as_str() else {
        return unusable(file, "has no name");
    };
    let plugins = plugins(conf);
    if plugins.is_empty() {
        return unusable(file, "names no plugins");
    }
    let missing: Vec<&str> = plugins
        .iter()
        .map(String::as_str)
        // The server brings the loopback device up by itself.
        .filter(|plugin| *plugin != "loopback" && !installed(plugin))
        .collect();
    if missing.is_empty() {
        let plugins: Vec<&str> = plugins.iter().map(String::as_str).collect();
        Finding::ok("cni", format!("network {name:?}: {}", plugins.join(", ")))
    } else {
        Finding::fail(
            "cni",
            format!(
                "network {name:?}: plugins are not there: {}",
                missing.join(", ")
            ),
            "install them (Debian: containernetworking-plugins), or name their directory in `network.cni.bin_dirs`",
        )
    }
}

/// The plugins of a list, or the one of a single configuration, with their address managers.
fn plugins(conf: &serde_json::Value) -> BTreeSet<String> {
    let single = std::slice::from_ref(conf);
    let list = conf["plugins"].as_array().map_or(single, Vec::as_slice);
    list.iter()
        .flat_map(|plugin| [&plugin["type"], &plugin["ipam"]["type"]])
        .filter_map(|kind| kind.as_str())
        // A name with a slash is no name of a plugin, and would lead out of the directories.
        .filter(|kind| !kind.is_empty() && !kind.contains('/'))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rstest::rstest;
    use serde_json::json;

    use super::network;
    use crate::check::finding::Level;

    #[rstest]
    #[case::list(
        json!({"name": "n", "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "portmap"}]}),
        Level::Ok, "network \"n\": bridge, host-local, portmap"
    )]
    #[case::single(json!({"name": "n", "type": "bridge"}), Level::Ok, "network \"n\": bridge")]
    #[case::loopback(
        json!({"name": "n", "plugins": [{"type": "loopback"}]}),
        Level::Ok, "network \"n\": loopback"
    )]
    #[case::missing(
        json!({"name": "n", "plugins": [{"type": "calico", "ipam": {"type": "calico-ipam"}}]}),
        Level::Fail, "network \"n\": plugins are not there: calico, calico-ipam"
    )]
    #[case::no_name(json!({"type": "bridge"}), Level::Warn, "/f: has no name")]
    #[case::no_plugins(json!({"name": "n", "plugins": []}), Level::Warn, "/f: names no plugins")]
    #[case::climbing(json!({"name": "n", "type": "../sh"}), Level::Warn, "/f: names no plugins")]
    #[case::not_an_object(json!([1]), Level::Warn, "/f: has no name")]
    fn networks(#[case] conf: serde_json::Value, #[case] level: Level, #[case] found: &str) {
        let finding = network(Path::new("/f"), &conf, |plugin| {
            ["bridge", "host-local", "portmap"].contains(&plugin)
        });
        assert_eq!((finding.level, finding.found.as_str()), (level, found));
    }
}
