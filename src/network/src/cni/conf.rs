//! Parsing of CNI configuration: network lists (`.conflist`) and single plugins (`.conf`, `.json`).
//!
//! Pure: bytes in, a [`Conf`] or an error that names file and key out. Only keys that the specification gives to the runtime are
//! looked at, and those strictly; the others belong to the plugins and are handed on as they are. Sizes are bounded:
//! a configuration is written by whatever the node's administrator installed, not by us.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::version::Version;

/// Largest configuration file. Real ones have one or two KiB.
pub(super) const MAX_CONF_BYTES: usize = 1 << 20;
const MAX_PLUGINS: usize = 32;
/// The name is part of a record's file name, next to a pod id (64) and an interface name, within NAME_MAX (255).
const MAX_NAME_BYTES: usize = 160;
/// What a plugin called so does is done by the monitor when it makes the namespace.
const LOOPBACK: &str = "loopback";

/// A network: a chain of plugins that run one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Conf {
    /// The file it was read from, for messages.
    pub file: PathBuf,
    /// Name of the network.
    pub name: String,
    /// Versions that the configuration can be used with, newest first; never empty.
    pub versions: Vec<Version>,
    /// Whether CHECK must not be called.
    pub disable_check: bool,
    /// The chain without `loopback`; never empty.
    pub plugins: Vec<PluginConf>,
    /// The configuration as a network list, as it is recorded with an attachment.
    pub list_json: Vec<u8>,
}

/// One plugin of a chain.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PluginConf {
    /// File name of the plugin's binary.
    pub kind: String,
    /// Names of the capabilities it declares.
    pub capabilities: BTreeSet<String>,
    /// Its whole object, unknown keys too.
    pub object: Map<String, Value>,
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// It cannot be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is a directory, a device, a pipe…
    #[error("{}: not a regular file", file.display())]
    NotRegular {
        /// The file.
        file: PathBuf,
    },
    /// It is too large to be a CNI configuration.
    #[error("{}: larger than {MAX_CONF_BYTES} bytes", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// It is not JSON.
    #[error("{}: {source}", file.display())]
    NotJson {
        /// The file.
        file: PathBuf,
        /// Says line and column.
        #[source]
        source: serde_json::Error,
    },
    /// A key is missing or its value is wrong.
    #[error("{}: {key}: {problem}", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// The way to the key, as in `plugins[1].type`.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Conf {
    /// Parses the content of `file`; a `.conflist` must be a list, others may be either.
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Self, ConfError> {
        if bytes.len() > MAX_CONF_BYTES {
            return Err(ConfError::TooLarge {
                file: file.to_owned(),
            });
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|source| ConfError::NotJson {
            file: file.to_owned(),
            source,
        })?;
        let keys = Keys { file };
        let Value::Object(top) = value else {
            return Err(keys.wrong("(top level)", "an object", &value));
        };
        let name = keys.name(&top)?;
        let versions = keys.versions(&top)?;
        let is_list =
            top.contains_key("plugins") || file.extension().is_some_and(|e| e == "conflist");
        if !is_list {
            let plugin = keys.plugin("", top.clone())?;
            let list_json =
                json!({ "cniVersion": top["cniVersion"], "name": name, "plugins": [top] });
            let list_json = list_json.to_string().into_bytes();
            return keys.conf(name, versions, false, vec![plugin], list_json);
        }
        let disable_check = match top.get("disableCheck") {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            // libcni takes the two words as well.
            Some(Value::String(word)) if word == "true" => true,
            Some(Value::String(word)) if word == "false" => false,
            Some(other) => return Err(keys.wrong("disableCheck", "true or false", other)),
        };
        let plugins = match top.get("plugins") {
            None => return Err(keys.missing("plugins")),
            Some(Value::Array(plugins)) => plugins,
            Some(other) => return Err(keys.wrong("plugins", "a list of plugins", other)),
        };
        if plugins.len() > MAX_PLUGINS {
            let problem = format!("{} plugins, more than {MAX_PLUGINS}", plugins.len());
            return Err(keys.error("plugins", problem));
        }
        let mut chain = Vec::with_capacity(plugins.len());
        for (index, plugin) in plugins.iter().enumerate() {
            let at = format!("plugins[{index}]");
            match plugin {
                Value::Object(object) => {
                    chain.push(keys.plugin(&format!("{at}."), object.clone())?);
                }
                other => return Err(keys.wrong(&at, "an object", other)),
            }
        }
        keys.conf(name, versions, disable_check, chain, bytes.to_vec())
    }

    /// The version to use unless the plugins say otherwise: the newest.
    pub(super) fn version(&self) -> Version {
        self.versions[0]
    }
}

/// Reads keys of one file and words the errors.
struct Keys<'a> {
    file: &'a Path,
}

impl Keys<'_> {
    fn error(&self, key: &str, problem: String) -> ConfError {
        ConfError::Key {
            file: self.file.to_owned(),
            key: key.to_owned(),
            problem,
        }
    }

    fn missing(&self, key: &str) -> ConfError {
        self.error(key, "missing".to_owned())
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> ConfError {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.error(key, format!("expected {expected}, found {found}"))
    }

    fn name(&self, top: &Map<String, Value>) -> Result<String, ConfError> {
        match top.get("name") {
            None => Err(self.missing("name")),
            Some(Value::String(name)) if !is_identifier(name) => {
                let problem =
                    format!("{name:?} is not a network name (letters, digits, '_', '.', '-')");
                Err(self.error("name", problem))
            }
            Some(Value::String(name)) if name.len() > MAX_NAME_BYTES => {
                let problem = format!("{} bytes long, more than {MAX_NAME_BYTES}", name.len());
                Err(self.error("name", problem))
            }
            Some(Value::String(name)) => Ok(name.clone()),
            Some(other) => Err(self.wrong("name", "a string", other)),
        }
    }

    /// `cniVersion`, and the versions of `cniVersions` (specification 1.1) that are spoken here.
    fn versions(&self, top: &Map<String, Value>) -> Result<Vec<Version>, ConfError> {
        let mut known = BTreeSet::new();
        let mut unknown = None;
        for (key, value) in [
            ("cniVersion", top.get("cniVersion")),
            ("cniVersions", top.get("cniVersions")),
        ] {
            let texts = match (key, value) {
                (_, None) => &[][..],
                ("cniVersion", Some(text @ Value::String(_))) => std::slice::from_ref(text),
                ("cniVersions", Some(Value::Array(texts))) => texts,
                (_, Some(other)) if key == "cniVersion" => {
                    return Err(self.wrong(key, "a string", other));
                }
                (_, Some(other)) => return Err(self.wrong(key, "a list of versions", other)),
            };
            for text in texts {
                let Value::String(text) = text else {
                    return Err(self.wrong(key, "a string", text));
                };
                match Version::parse(text) {
                    Some(version) => {
                        known.insert(version);
                    }
                    None => unknown = Some((key, text)),
                }
            }
        }
        if !known.is_empty() {
            return Ok(known.into_iter().rev().collect());
        }
        let (oldest, newest) = (Version::V0_3_0, Version::V1_1_0);
        if let Some((key, text)) = unknown {
            let problem = format!("{text:?} is not supported; versions {oldest} to {newest} are");
            return Err(self.error(key, problem));
        }
        let problem = format!("missing; versions {oldest} to {newest} are supported");
        Err(self.error("cniVersion", problem))
    }

    fn plugin(&self, prefix: &str, object: Map<String, Value>) -> Result<PluginConf, ConfError> {
        let key = format!("{prefix}type");
        let kind = match object.get("type") {
            None => return Err(self.missing(&key)),
            Some(Value::String(kind)) if is_plugin_name(kind) => kind.clone(),
            Some(Value::String(kind)) => {
                return Err(self.error(&key, format!("{kind:?} is not the file name of a plugin")));
            }
            Some(other) => return Err(self.wrong(&key, "a string", other)),
        };
        let key = format!("{prefix}capabilities");
        let mut capabilities = BTreeSet::new();
        match object.get("capabilities") {
            None | Some(Value::Null) => {}
            Some(Value::Object(flags)) => {
                for (name, flag) in flags {
                    match flag {
                        Value::Bool(true) => {
                            capabilities.insert(name.clone());
                        }
                        Value::Bool(false) => {}
                        other => {
                            return Err(self.wrong(
                                &format!("{key}.{name}"),
                                "true or false",
                                other,
                            ));
                        }
                    }
                }
            }
            Some(other) => return Err(self.wrong(&key, "an object", other)),
        }
        Ok(PluginConf {
            kind,
            capabilities,
            object,
        })
    }

    fn conf(
        &self,
        name: String,
        versions: Vec<Version>,
        disable_check: bool,
        mut plugins: Vec<PluginConf>,
        list_json: Vec<u8>,
    ) -> Result<Conf, ConfError> {
        let had_plugins = !plugins.is_empty();
        plugins.retain(|plugin| plugin.kind != LOOPBACK);
        if plugins.is_empty() {
            let problem = if had_plugins {
                "only loopback, which gives a pod no address"
            } else {
                "no plugin in the list"
            };
            return Err(self.error("plugins", problem.to_owned()));
        }
        Ok(Conf {
            file: self.file.to_owned(),
            name,
            versions,
            disable_check,
            plugins,
            list_json,
        })
    }
}

/// What the specification allows as network name and container id; such a text is a safe file name, too.
pub(super) fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

fn is_plugin_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && !text.contains(['/', '\0'])
        && text != "."
        && text != ".."
}

#[cfg(test)]
mod tests;
