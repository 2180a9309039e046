//! `pintle check`: whether this node can run pods, and what would mend it if not.
//!
//! Each part gathers facts and judges them; the judging is pure. Everything is looked at again at every call; nothing of
//! it needs a running server.

mod cni;
mod credentials;
mod disk;
mod finding;
mod kernel;
mod rights;
mod selinux;
mod stores;
mod streaming;
mod systemd;

use std::path::Path;

use self::finding::{Finding, Level};
use crate::{
    args::Json,
    assemble::runtimes,
    config::{self, Config, Sources},
    exit::{Exit, Failure, in_full},
    monitor_binary,
};

/// Looks, prints, and says by the exit code whether something keeps pods from running.
pub(crate) async fn run(config_file: Option<&Path>, arguments: &Json) -> Result<Exit, Failure> {
    let sources = Sources::new(config_file);
    let (config, mut findings) = match config::load(&sources) {
        Ok(config) => (config, Vec::new()),
        Err(error) => (
            Config::default(),
            vec![Finding::fail(
                "config",
                format!("{error}; the rest is checked with the defaults"),
                "mend the file: `pintle config --defaults` shows every key",
            )],
        ),
    };
    findings.extend(all(&config).await);
    if arguments.json {
        println!("{}", finding::json(&findings));
    } else {
        print!("{}", finding::text(&findings));
    }
    Ok(match finding::worst(&findings) {
        Level::Ok | Level::Warn => Exit::Passed(0),
        Level::Fail => Exit::CheckFailed,
    })
}

async fn all(config: &Config) -> Vec<Finding> {
    let mut findings = kernel::check();
    let (runtimes, crun_is_default) = oci_runtimes(config).await;
    findings.extend(rights::check(crun_is_default));
    findings.extend(systemd::check(config).await);
    findings.extend(runtimes);
    findings.push(match monitor_binary::find(config.monitor.path.as_deref()) {
        Ok(path) => Finding::ok("monitor", path.display().to_string()),
        Err(error) => Finding::fail(
            "monitor",
            error.to_string(),
            "install pintle-monitor beside pintle",
        ),
    });
    findings.push(selinux::check(config));
    findings.extend(cni::check(config));
    findings.extend(streaming::check(config));
    findings.extend(credentials::check(config));
    findings.extend(disk::check(config));
    findings.extend(stores::check(config).await);
    findings
}

/// What is said of each handler, and whether pods get crun unless they ask.
async fn oci_runtimes(config: &Config) -> (Vec<Finding>, bool) {
    let found = runtimes::probe(config).await;
    let mut findings = Vec::new();
    for (name, error) in &found.unusable {
        findings.push(Finding::warn(
            "runtime",
            format!("{name}: {}", in_full(error)),
            format!(
                "install it, or take it out of the configuration: `runtimes: {{{name}: null}}`"
            ),
        ));
    }
    let default = found.default_handler(config);
    for runtime in &found.usable {
        let mark = match &default {
            Ok(default) if default == runtime.name() => " (default)",
            _ => "",
        };
        let version = runtime.version();
        let path = runtime.path().display();
        findings.push(Finding::ok(
            "runtime",
            format!("{}: {version} at {path}{mark}", runtime.name()),
        ));
    }
    let crun_is_default = match &default {
        Ok(default) => found.usable.iter().any(|handler| {
            handler.name() == default && handler.kind() == runtime::RuntimeKind::Crun
        }),
        Err(error) => {
            findings.push(Finding::fail(
                "runtime",
                error.to_string(),
                "install crun or runc, or set `default_runtime`",
            ));
            false
        }
    };
    (findings, crun_is_default)
}
