//! HTTP clients, one for each way to talk to a host, shared by the pulls that use them at the moment.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Proxy};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use super::client_certificates;
use crate::config::ImagesConfig;
use crate::error::ImageError;
use crate::sources::{self, Proxies, Scheme, Stamp, Transport};

/// How long an unused connection stays open between the requests of one pull.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);
/// The longest file of certificates or keys that is read.
const MAX_PEM_BYTES: u64 = 4 << 20;
const USER_AGENT: &str = concat!("pintle/", env!("CARGO_PKG_VERSION"));

/// A host, and the client for it.
pub(crate) struct Host {
    transport: Transport,
    /// `https://registry-1.docker.io`: scheme, host and port, no slash at the end.
    base: String,
    client: Client,
    /// Whether it has asked for a client's certificate.
    certificate_asked: Arc<AtomicBool>,
    /// The files that the client was made from, as they were.
    files: Vec<(PathBuf, Option<Stamp>)>,
}

impl Host {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Whether a URL's scheme and `host[:port]` are this host's.
    pub(crate) fn is_at(&self, scheme: &str, authority: &str) -> bool {
        self.base == format!("{scheme}://{authority}")
    }

    pub(crate) fn unavailable(&self, reason: impl Into<String>) -> ImageError {
        unavailable(&self.transport.authority, reason)
    }

    /// What a connection that the host has cut may be about, as the rest of a sentence, if it is known.
    pub(crate) fn suspicion(&self) -> &'static str {
        if !self.certificate_asked.load(Ordering::Relaxed) {
            ""
        } else if self.transport.tls.identities.is_empty() {
            "; it has asked for a client certificate, and there is none for it in certs.d"
        } else {
            "; it has asked for a client certificate, and may not take the one that it was shown"
        }
    }

    fn is_current(&self) -> bool {
        self.files
            .iter()
            .all(|(path, stamp)| Stamp::of(path) == *stamp)
    }
}

impl fmt::Debug for Host {
    /// Without the client, which would print its proxy with its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.transport, f)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.transport.authority)
    }
}

/// The clients in use. They end with the last pull that holds them, and so do their connections and the system's
/// certificates, a megabyte that an idle server need not hold.
#[derive(Clone)]
pub(crate) struct Hosts {
    config: Arc<ImagesConfig>,
    proxies: Arc<Proxies>,
    in_use: Arc<Mutex<HashMap<Transport, Weak<Host>>>>,
}

impl Hosts {
    pub(crate) fn new(config: Arc<ImagesConfig>, proxies: Arc<Proxies>) -> Self {
        Self {
            config,
            proxies,
            in_use: Arc::default(),
        }
    }

    /// The client for a way to talk to a host.
    pub(crate) fn get(&self, transport: &Transport) -> Result<Arc<Host>, ImageError> {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = in_use.get(transport).and_then(Weak::upgrade)
            // Certificates may have been renewed since.
            && host.is_current()
        {
            return Ok(host);
        }
        let host = Arc::new(build(transport, &self.config)?);
        in_use.retain(|_, host| host.strong_count() > 0);
        in_use.insert(transport.clone(), Arc::downgrade(&host));
        Ok(host)
    }

    /// The client for a host that `near` sends us to, by `host[:port]`: its token server, or where it redirects. What is
    /// said of TLS with the one holds for its other ports.
    pub(crate) fn near(
        &self,
        near: &Host,
        name: &str,
        scheme: &str,
    ) -> Result<Arc<Host>, ImageError> {
        let mut transport = self.transport(name, scheme);
        if sources::bare_host(name) == sources::bare_host(&near.transport.authority) {
            transport.tls.add(&near.transport.tls);
        }
        self.get(&transport)
    }

    /// The client for a host that has nothing to do with the registry, by `host[:port]`.
    pub(crate) fn elsewhere(&self, name: &str, scheme: &str) -> Result<Arc<Host>, ImageError> {
        self.get(&self.transport(name, scheme))
    }

    fn transport(&self, name: &str, scheme: &str) -> Transport {
        let scheme = if scheme == "http" {
            Scheme::Http
        } else {
            Scheme::Https
        };
        sources::transport(name, scheme, &self.config.registries, &self.proxies)
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

fn unavailable(host: &str, reason: impl Into<String>) -> ImageError {
    ImageError::RegistryUnavailable {
        host: host.to_owned(),
        reason: reason.into(),
    }
}

fn build(transport: &Transport, config: &ImagesConfig) -> Result<Host, ImageError> {
    install_crypto();
    let unusable = |reason: String| unavailable(&transport.authority, reason);
    let mut files = Vec::new();
    let mut read = |what: &str, path: &Path| {
        files.push((path.to_owned(), Stamp::of(path)));
        read_pem(path).map_err(|error| unusable(format!("its {what} {}: {error}", path.display())))
    };
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        // Redirects are followed by `exchange`, which knows what may go along.
        .redirect(Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .pool_idle_timeout(IDLE_CONNECTION)
        .tcp_keepalive(Duration::from_secs(30))
        // The environment has been looked at.
        .no_proxy();
    let connect = transport.dial_timeout.unwrap_or(config.timeouts.connect);
    if !connect.is_zero() {
        builder = builder.connect_timeout(connect);
    }
    if let Some(proxy) = &transport.proxy {
        let through = Proxy::all(proxy.with_secrets())
            .map_err(|_| unusable(format!("the proxy {proxy} cannot be used")))?;
        builder = builder.proxy(through);
    }
    let tls = &transport.tls;
    let certificate_asked = Arc::new(AtomicBool::new(false));
    let failed = |why: &dyn fmt::Display| unusable(format!("TLS set-up failed: {why}"));
    if transport.scheme == Scheme::Http {
        // Spares reading the system's certificates for a host that shows none; a proxy may show one.
        if transport.proxy.is_none() {
            builder = builder.tls_certs_only([]);
        }
    } else {
        let mut authorities = Vec::new();
        for path in &tls.authorities {
            let pem = read("CA file", path)?;
            let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
            let certificates = certificates
                .ok()
                .filter(|certificates| !certificates.is_empty())
                .ok_or_else(|| {
                    unusable(format!(
                        "its CA file {} is not PEM certificates",
                        path.display()
                    ))
                })?;
            authorities.extend(certificates);
        }
        let mut keys = Vec::with_capacity(tls.identities.len());
        for identity in &tls.identities {
            let mut pem = Zeroizing::new(read("client certificate", &identity.certificate)?);
            if let Some(key) = &identity.key {
                let key = Zeroizing::new(read("client key", key)?);
                *pem = [&pem[..], b"\n", &key[..]].concat();
            }
            let key = client_certificates::read(&pem).map_err(|unfit| {
                let certificate = identity.certificate.display();
                let words = unfit.words();
                unusable(format!(
                    "its client certificate {certificate} and key {words}"
                ))
            })?;
            keys.push(key);
        }
        let asked = Arc::clone(&certificate_asked);
        let connections =
            client_certificates::connections(keys, asked, authorities, tls.skip_verify)
                .map_err(|error| failed(&error))?;
        builder = builder.tls_backend_preconfigured(connections);
    }
    let client = builder
        .build()
        .map_err(|error| failed(&super::exchange::root_cause(&error)))?;
    Ok(Host {
        base: transport.base(),
        transport: transport.clone(),
        client,
        certificate_asked,
        files,
    })
}

fn read_pem(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::{Error, Read as _};

    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_PEM_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_PEM_BYTES {
        return Err(Error::other("it is too large"));
    }
    Ok(bytes)
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

    fn hosts_of(config: ImagesConfig) -> Hosts {
        Hosts::new(Arc::new(config), Arc::default())
    }

    fn transport(scheme: Scheme, authority: &str, authorities: &[&str]) -> Transport {
        Transport {
            scheme,
            authority: authority.to_owned(),
            tls: sources::plan::Tls {
                authorities: authorities.iter().map(PathBuf::from).collect(),
                ..sources::plan::Tls::default()
            },
            proxy: None,
            dial_timeout: None,
        }
    }

    #[test]
    fn clients_are_shared_and_end_with_their_users() {
        let hosts = hosts_of(ImagesConfig::new("/x"));
        let plain = transport(Scheme::Http, "127.0.0.1:1", &[]);
        let one = hosts.get(&plain).unwrap();
        let two = hosts.get(&plain).unwrap();
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(one.url("/v2/"), "http://127.0.0.1:1/v2/");
        assert!(one.is_at("http", "127.0.0.1:1") && !one.is_at("https", "127.0.0.1:1"));
        let gone = Arc::downgrade(&one);
        drop((one, two));
        assert!(gone.upgrade().is_none());
    }

    #[test]
    fn a_missing_ca_file_is_named() {
        let error = hosts_of(ImagesConfig::new("/x"))
            .get(&transport(Scheme::Https, "r.example", &["/no/such/ca.pem"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("/no/such/ca.pem"), "{error}");
    }

    #[test]
    fn other_ports_of_a_host_have_its_authorities() {
        let hosts = hosts_of(ImagesConfig::new("/x"));
        let near = hosts
            .get(&transport(Scheme::Http, "r.example:5000", &["/a"]))
            .unwrap();
        let error = hosts.near(&near, "r.example:5001", "https").unwrap_err();
        assert!(error.to_string().contains("CA file /a"), "{error}");
        assert!(hosts.near(&near, "other.example", "https").is_ok());
    }
}
