//! The configuration: YAML files, merged, checked and given types.
//!
//! [`keys`] declares every key once; [`setting`] makes the reader and the printer out of that. Everything has a default
//! that works without a file. What is wrong is reported all at once, each problem with its file, line and column.

mod consistency;
mod error;
mod files;
mod keys;
mod nearest;
mod node;
mod print;
mod proxy;
mod reload;
mod scalars;
mod setting;

pub(crate) use self::{
    error::ConfigError,
    files::{Sources, load},
    keys::{
        CgroupDriver, Config, LogFilter, LogFormat, MonitorCgroup, Runtime, RuntimeKind,
        SandboxKind,
    },
    print::{to_json, to_yaml},
    reload::changes,
};
use self::{error::Problem, node::Node, setting::Setting};

/// Gives the merged files their types.
fn from_tree(tree: &Node) -> Result<Config, ConfigError> {
    let mut problems: Vec<Problem> = Vec::new();
    let config = Config::default().read(tree.clone(), "", &mut problems);
    if problems.is_empty() {
        consistency::check(&config, tree, &mut problems);
    }
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError(problems))
    }
}

/// The full path of a key that was written in the wrong section.
fn known_elsewhere(key: &str) -> Option<String> {
    let mut keys = Vec::new();
    Config::keys("", &mut keys);
    keys.into_iter()
        .find(|path| path.rsplit('.').next() == Some(key))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests;
