//! What single keys cannot know: whether values fit each other and the system's bounds.

use std::{ffi::OsStr, path::Path};

use super::{
    error::{MaybeAt, Problem},
    keys::{CgroupDriver, Config},
    node::Node,
    setting::join,
};

/// Longest path of a Unix socket; the kernel's field has 108 bytes with the closing NUL.
const SOCKET_PATH_MAX: usize = 107;
/// What the server puts behind `run` for the longest of its own sockets: that on which a command's terminal is handed over.
const LONGEST_SOCKET: usize = "/containers/".len() + 64 + "/x9999999.sock".len();

/// Two categories have to differ; no policy in use has more than 1024.
const CATEGORY_RANGES: std::ops::RangeInclusive<u32> = 2..=1024;

/// Appends what is wrong with `config`; `tree` knows where it was said.
pub(super) fn check(config: &Config, tree: &Node, problems: &mut Vec<Problem>) {
    let mut contradiction = |path: &[&str], message: String| {
        problems.push(Problem::Contradiction {
            key: path
                .iter()
                .fold(String::new(), |section, key| join(&section, key)),
            at: MaybeAt(tree.place_of(path).cloned()),
            message,
        });
    };
    if let Some(name) = &config.default_runtime
        && !config.runtimes.contains_key(name)
    {
        let known: Vec<&str> = config.runtimes.keys().map(String::as_str).collect();
        contradiction(
            &["default_runtime"],
            format!("`runtimes` has no {name:?}, only: {}", known.join(", ")),
        );
    }
    for name in config.runtimes.keys() {
        let fits = (1..=63).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b))
            && name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !fits {
            contradiction(
                &["runtimes", name],
                format!(
                    "{name:?} cannot be a handler: lower-case letters, digits, `-`, `_` and `.`, at most 63 of them"
                ),
            );
        }
    }
    let socket_bytes = config.socket_path().as_os_str().len();
    if socket_bytes > SOCKET_PATH_MAX {
        contradiction(
            &["socket"],
            format!("the path has {socket_bytes} bytes, a socket's may have {SOCKET_PATH_MAX}"),
        );
    }
    let run_bytes = config.run.as_os_str().len();
    if run_bytes + LONGEST_SOCKET > SOCKET_PATH_MAX {
        contradiction(
            &["run"],
            format!(
                "the path has {run_bytes} bytes, sockets below it leave room for {}",
                SOCKET_PATH_MAX - LONGEST_SOCKET
            ),
        );
    }
    if config.root.starts_with(&config.run) || config.run.starts_with(&config.root) {
        contradiction(
            &["run"],
            "`root` and `run` cannot lie in each other".to_owned(),
        );
    }
    let stores = &config.image.additional_stores;
    for (number, store) in stores.iter().enumerate() {
        let fault = if !store.is_absolute() {
            Some("is no absolute path")
        } else if store.starts_with(&config.root) || config.root.starts_with(store) {
            Some("and `root` cannot lie in each other")
        } else if stores[..number].contains(store) {
            Some("is there twice")
        } else {
            None
        };
        if let Some(fault) = fault {
            contradiction(
                &["image", "additional_stores"],
                format!("{} {fault}", store.display()),
            );
        }
    }
    for (name, value) in &config.containers.default_sysctls.0 {
        // A pod with namespaces of its own: what such a one may not set, no pod may.
        if let Err(error) = spec::sysctl::validate(name, value, &spec::model::Namespaces::default())
        {
            let message = error.to_string();
            // The error speaks of the pod's field first; here the key does that.
            let reason = message
                .split_once(": ")
                .map_or(message.as_str(), |(_, reason)| reason);
            contradiction(&["containers", "default_sysctls", name], reason.to_owned());
        }
    }
    let categories = config.selinux.category_range;
    if !CATEGORY_RANGES.contains(&categories) {
        contradiction(
            &["selinux", "category_range"],
            format!(
                "{categories} is not in {} to {}",
                CATEGORY_RANGES.start(),
                CATEGORY_RANGES.end()
            ),
        );
    }
    let streaming = &config.streaming;
    if let Some(url) = &streaming.advertise
        && !is_origin(url)
    {
        contradiction(
            &["streaming", "advertise"],
            format!(
                "{url:?} is no scheme and authority: http:// or https://, then a host and a port, without a path"
            ),
        );
    }
    let tls = &streaming.tls;
    let (with, without) = if tls.certificate.is_some() {
        ("certificate", "key")
    } else if tls.key.is_some() {
        ("key", "certificate")
    } else {
        ("client_ca", "certificate")
    };
    let complete = match (&tls.certificate, &tls.key, &tls.client_ca) {
        (Some(_), Some(_), _) | (None, None, None) => true,
        (_, _, _) => false,
    };
    if !complete {
        contradiction(
            &["streaming", "tls", with],
            format!("needs `streaming.tls.{without}` beside it"),
        );
    }
    let parent = config.cgroup.parent();
    let fault = match config.cgroup.driver {
        CgroupDriver::Systemd if Path::new(parent).extension() != Some(OsStr::new("slice")) => {
            Some("the systemd driver needs a slice, such as pintle.slice")
        }
        CgroupDriver::Cgroupfs if !parent.starts_with('/') => {
            Some("the cgroupfs driver needs an absolute path, such as /pintle")
        }
        _ if parent.split('/').any(|part| part == "..") => Some("the path climbs with `..`"),
        _ => None,
    };
    if let Some(fault) = fault {
        contradiction(&["cgroup", "parent"], fault.to_owned());
    }
}

/// Scheme and authority of a URL.
fn is_origin(url: &str) -> bool {
    let authority = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    authority.is_some_and(|authority| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]%".contains(c);
        !authority.is_empty() && authority.chars().all(fits)
    })
}
