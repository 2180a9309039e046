//! The files and the reach of the streaming server.

use std::{fs::File, path::Path};

use super::finding::Finding;
use crate::config::Config;

/// All of it.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let streaming = &config.streaming;
    let tls = &streaming.tls;
    let mut findings: Vec<Finding> = [
        ("certificate", &tls.certificate),
        ("key", &tls.key),
        ("client_ca", &tls.client_ca),
    ]
    .into_iter()
    .filter_map(|(key, path)| unreadable(key, path.as_deref()?))
    .collect();
    // Whoever learns a URL in the minute in which it is good may have its session.
    if !streaming.listen.ip().is_loopback() && tls.client_ca.is_none() {
        findings.push(Finding::warn(
            "streaming",
            format!(
                "sessions are served at {} to everyone who can reach it and has a URL",
                streaming.listen
            ),
            "set `streaming.tls.client_ca`, or listen at 127.0.0.1: the kubelet is on this node",
        ));
    }
    if findings.is_empty() {
        let scheme = if tls.certificate.is_some() {
            "https"
        } else {
            "http"
        };
        findings.push(Finding::ok(
            "streaming",
            format!("{scheme} at {}", streaming.listen),
        ));
    }
    findings
}

fn unreadable(key: &str, path: &Path) -> Option<Finding> {
    let error = File::open(path)
        .and_then(|file| file.metadata())
        .map(|metadata| metadata.is_file());
    let why = match error {
        Ok(true) => return None,
        Ok(false) => "it is no regular file".to_owned(),
        Err(error) => error.to_string(),
    };
    Some(Finding::fail(
        "streaming",
        format!("`streaming.tls.{key}`: {}: {why}", path.display()),
        "put the PEM file there, or take `streaming.tls` out of the configuration",
    ))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::check;
    use crate::{
        check::finding::{Level, worst},
        config::Config,
    };

    #[test]
    fn the_defaults_are_right() {
        assert_eq!(worst(&check(&Config::default())), Level::Ok);
    }

    #[rstest]
    #[case("/no/such.pem")]
    #[case("/")]
    fn files_that_cannot_be_read_are_named(#[case] path: &str) {
        let mut config = Config::default();
        config.streaming.tls.key = Some(path.into());
        let findings = check(&config);
        assert_eq!(worst(&findings), Level::Fail);
        let found = &findings[0].found;
        assert!(
            found.starts_with(&format!("`streaming.tls.key`: {path}: ")),
            "{found}"
        );
    }

    #[test]
    fn a_server_for_everyone_is_warned_of() {
        let mut config = Config::default();
        config.streaming.listen = ([0, 0, 0, 0], 10010).into();
        assert_eq!(worst(&check(&config)), Level::Warn);
        config.streaming.tls.client_ca = Some("/proc/self/exe".into());
        assert_eq!(worst(&check(&config)), Level::Ok);
    }
}
