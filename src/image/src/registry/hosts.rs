//! HTTP clients, one per registry host, shared by the pulls that use them at the moment.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client};

use crate::config::ImagesConfig;
use crate::error::ImageError;

/// How long an unused connection stays open between the requests of one pull.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("pintle/", env!("CARGO_PKG_VERSION"));

/// A registry host as it stands in references, and how to reach it.
#[derive(Debug)]
pub(crate) struct Host {
    name: String,
    /// `https://registry-1.docker.io`: scheme, host and port, no slash at the end.
    base: String,
    client: Client,
}

impl Host {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(crate) fn unavailable(&self, reason: impl Into<String>) -> ImageError {
        ImageError::RegistryUnavailable {
            host: self.name.clone(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// By name and whether it is plain HTTP.
type InUse = HashMap<(String, bool), Weak<Host>>;

/// The clients in use. They end with the last pull that holds them, and so do their connections and the system's
/// certificates, a megabyte that an idle server need not hold.
#[derive(Clone)]
pub(crate) struct Hosts {
    config: Arc<ImagesConfig>,
    in_use: Arc<Mutex<InUse>>,
}

impl Hosts {
    pub(crate) fn new(config: Arc<ImagesConfig>) -> Self {
        Self {
            config,
            in_use: Arc::default(),
        }
    }

    /// The client for a host, as configured under its name.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Host>, ImageError> {
        self.with_scheme(name, self.plain_http(name))
    }

    /// The client for a host that a redirect with this scheme leads to.
    pub(crate) fn for_redirect(&self, name: &str, scheme: &str) -> Result<Arc<Host>, ImageError> {
        self.with_scheme(name, scheme == "http")
    }

    fn with_scheme(&self, name: &str, plain_http: bool) -> Result<Arc<Host>, ImageError> {
        let key = (name.to_owned(), plain_http);
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = in_use.get(&key).and_then(Weak::upgrade) {
            return Ok(host);
        }
        let host = Arc::new(build(name, plain_http, &self.config)?);
        in_use.retain(|_, host| host.strong_count() > 0);
        in_use.insert(key, Arc::downgrade(&host));
        Ok(host)
    }

    /// Whether the operator allows plain HTTP with a host.
    pub(crate) fn plain_http(&self, name: &str) -> bool {
        self.config.registry(name).plain_http
    }
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hosts")
    }
}

fn build(name: &str, plain_http: bool, config: &ImagesConfig) -> Result<Host, ImageError> {
    install_crypto();
    let settings = config.registry(name);
    let unusable = |reason: String| ImageError::RegistryUnavailable {
        host: name.to_owned(),
        reason,
    };
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        // Redirects are followed by `exchange`, which knows what may go along.
        .redirect(Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .pool_idle_timeout(IDLE_CONNECTION)
        .tcp_keepalive(Duration::from_secs(30));
    if !config.timeouts.connect.is_zero() {
        builder = builder.connect_timeout(config.timeouts.connect);
    }
    if is_loopback(name) {
        builder = builder.no_proxy();
    }
    if plain_http {
        // Spares reading the system's certificates for a host that shows none.
        builder = builder.tls_certs_only([]);
    } else if settings.insecure_skip_verify {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    if let Some(path) = &settings.ca {
        let pem = std::fs::read(path)
            .map_err(|error| unusable(format!("its CA file {}: {error}", path.display())))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|_| {
            unusable(format!(
                "its CA file {} is not PEM certificates",
                path.display()
            ))
        })?;
        builder = builder.tls_certs_merge(certificates);
    }
    let client = builder.build().map_err(|error| {
        unusable(format!(
            "TLS set-up failed: {}",
            super::exchange::root_cause(&error)
        ))
    })?;
    let scheme = if plain_http { "http" } else { "https" };
    // Docker's registry answers under another name than the one that references carry.
    let address = match name {
        "docker.io" => "registry-1.docker.io",
        other => other,
    };
    Ok(Host {
        name: name.to_owned(),
        base: format!("{scheme}://{address}"),
        client,
    })
}

/// Whether a `host[:port]` is this machine: a proxy cannot reach what we mean by it.
fn is_loopback(name: &str) -> bool {
    let host = match name.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => name.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Makes ring the process's TLS provider, unless someone chose one before.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::ring::default_provider()
            .install_default()
            .is_err()
        {
            tracing::debug!("a TLS provider was installed before");
        }
    });
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn loopback_hosts() {
        for name in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:5000",
            "[::1]",
        ] {
            assert!(is_loopback(name), "{name}");
        }
        for name in [
            "docker.io",
            "10.0.0.1:5000",
            "[fe80::1]",
            "localhost.example",
        ] {
            assert!(!is_loopback(name), "{name}");
        }
    }

    #[test]
    fn clients_are_shared_and_end_with_their_users() {
        let mut config = ImagesConfig::new("/x");
        config.registries.insert(
            "127.0.0.1:1".into(),
            crate::config::RegistryConfig {
                plain_http: true,
                ..Default::default()
            },
        );
        let hosts = Hosts::new(Arc::new(config));
        let one = hosts.get("127.0.0.1:1").unwrap();
        let two = hosts.get("127.0.0.1:1").unwrap();
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(one.url("/v2/"), "http://127.0.0.1:1/v2/");
        let gone = Arc::downgrade(&one);
        drop((one, two));
        assert!(gone.upgrade().is_none());
    }

    #[test]
    fn a_missing_ca_file_is_named() {
        let mut config = ImagesConfig::new("/x");
        config.registries.insert(
            "r.example".into(),
            crate::config::RegistryConfig {
                ca: Some("/no/such/ca.pem".into()),
                ..Default::default()
            },
        );
        let error = Hosts::new(Arc::new(config))
            .get("r.example")
            .unwrap_err()
            .to_string();
        assert!(error.contains("/no/such/ca.pem"), "{error}");
    }
}
