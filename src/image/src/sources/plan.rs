//! The plan of a pull: which hosts are asked for a reference, in which order, how, and under which name. Pure: what the
//! files of the node say comes in as values.
//!
//! One source decides on the list of hosts, the first of these that has something to say:
//!
//! 1. `image.registries.HOST.mirrors` of our own configuration;
//! 2. `hosts.toml` of the host's own folder in `certs.d`;
//! 3. the `[[registry]]` of `registries.conf` with the longest prefix of the reference;
//! 4. `hosts.toml` of the folder `_default`.
//!
//! The registry itself is always asked last: it can be replaced (`server`, `location`), but not left out. What is said of
//! how to talk to a host adds up over all sources, and a prohibition of `registries.conf` holds whatever the others say.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use reqwest::Url;

use super::SourcesError;
use super::hosts_toml::{API_PATH, HostEntry, HostsFile};
use super::proxy::{Proxies, ProxyUrl};
use super::registries_conf::{Mirror, RegistriesConf, RegistryEntry, WantedFor};
use crate::config::RegistryConfig;
use crate::reference::{Reference, normal_host};

/// Where Docker's registry, which references call `docker.io`, really answers.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_ADDRESS: &str = "registry-1.docker.io";

/// With or without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Https,
    Http,
}

impl Scheme {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }

    fn port(self) -> &'static str {
        match self {
            Self::Https => "443",
            Self::Http => "80",
        }
    }
}

/// What a TLS connection with a host takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tls {
    /// PEM files of authorities beside the system's.
    pub(crate) authorities: Vec<PathBuf>,
    pub(crate) identities: Vec<Identity>,
    pub(crate) skip_verify: bool,
}

impl Tls {
    /// Adds what is said elsewhere.
    pub(crate) fn add(&mut self, other: &Self) {
        for authority in &other.authorities {
            if !self.authorities.contains(authority) {
                self.authorities.push(authority.clone());
            }
        }
        for identity in &other.identities {
            if !self.identities.contains(identity) {
                self.identities.push(identity.clone());
            }
        }
        self.skip_verify |= other.skip_verify;
    }
}

/// A certificate to show, and its key: in a file of its own, or in the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: Option<PathBuf>,
}

/// Everything about a connection. Pulls with equal ones share connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transport {
    pub(crate) scheme: Scheme,
    /// `host` or `host:port`, as messages name it.
    pub(crate) authority: String,
    pub(crate) tls: Tls,
    pub(crate) proxy: Option<ProxyUrl>,
    /// `None`: that of the configuration.
    pub(crate) dial_timeout: Option<Duration>,
}

impl Transport {
    /// `https://host:port`, where the host really answers.
    pub(crate) fn base(&self) -> String {
        let address = match self.authority.as_str() {
            DOCKER_HUB => DOCKER_HUB_ADDRESS,
            other => other,
        };
        format!("{}://{address}", self.scheme.word())
    }
}

/// One host of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedHost {
    pub(crate) transport: Transport,
    /// Taken when the host does not speak TLS.
    pub(crate) plain: Option<Transport>,
    /// What stands between host and repository in URLs: `/v2`, `/proxy/v2`.
    pub(crate) path: String,
    /// What the repository is called there.
    pub(crate) repository: String,
    /// For `?ns=`: the registry that a host of `hosts.toml` stands in for.
    pub(crate) stands_for: Option<String>,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// May be asked where a tag leads.
    pub(crate) resolve: bool,
    /// May be asked for what a digest names.
    pub(crate) pull: bool,
    /// Why it is not asked for this reference at all.
    pub(crate) skipped: Option<&'static str>,
    /// The registry that the reference names: who gives credentials without saying for whom means this one.
    pub(crate) origin: bool,
    /// The file and line, or the key, that names this host.
    pub(crate) from: String,
}

impl PlannedHost {
    /// `https://host/v2/repository`.
    pub(crate) fn url(&self) -> String {
        format!("{}{}/{}", self.transport.base(), self.path, self.repository)
    }

    /// `https://host/v2`: what errors are remembered under.
    pub(crate) fn root(&self) -> String {
        format!("{}{}", self.transport.base(), self.path)
    }
}

/// Whom to ask for a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In the order of asking; those that are skipped are among them.
    pub(crate) hosts: Vec<PlannedHost>,
    /// The `[[registry]]` that forbids the reference.
    pub(crate) blocked: Option<String>,
}

/// What one host's folders in `certs.d` say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) hosts: Option<HostsFile>,
    /// Of `*.crt`, `*.cert` and `*.key` files.
    pub(crate) tls: Tls,
}

/// Tells what the folders of a host say.
pub(crate) type FolderOf<'a> = dyn Fn(&str) -> Result<Folder, SourcesError> + 'a;

/// What a plan is made from.
pub(crate) struct Knowledge<'a> {
    pub(crate) own: &'a BTreeMap<String, RegistryConfig>,
    pub(crate) registries: &'a RegistriesConf,
    pub(crate) folder: &'a FolderOf<'a>,
    /// Of the folder `_default`.
    pub(crate) default_hosts: &'a dyn Fn() -> Result<Option<HostsFile>, SourcesError>,
    pub(crate) proxies: &'a Proxies,
}

/// Decides whom to ask for a reference.
pub(crate) fn plan(reference: &Reference, known: &Knowledge<'_>) -> Result<Plan, SourcesError> {
    let origin = reference.host();
    let entry = known.registries.find(reference);
    let folder = (known.folder)(origin)?;
    let mirrors = own(known.own, origin).map_or(&[][..], |own| &own.mirrors);
    let hosts = if !mirrors.is_empty() {
        from_own(reference, mirrors, entry, known)?
    } else if let Some(file) = &folder.hosts {
        from_hosts_file(reference, file, known)?
    } else if let Some(entry) = entry {
        from_registry(reference, entry, known)?
    } else if let Some(file) = (known.default_hosts)()? {
        from_hosts_file(reference, &file, known)?
    } else {
        let key = match own(known.own, origin) {
            Some(_) => format!("image.registries.{origin}"),
            None => "the reference".to_owned(),
        };
        vec![known.host(reference, reference, false, key)?]
    };
    Ok(Plan {
        hosts,
        blocked: entry
            .filter(|entry| entry.blocked)
            .map(|entry| entry.place.to_string()),
    })
}

/// The settings under a host's name in our own configuration.
pub(crate) fn own<'a>(
    registries: &'a BTreeMap<String, RegistryConfig>,
    host: &str,
) -> Option<&'a RegistryConfig> {
    registries
        .iter()
        .find(|(name, _)| normal_host(name) == host)
        .map(|(_, config)| config)
}

fn from_own(
    reference: &Reference,
    mirrors: &[String],
    entry: Option<&RegistryEntry>,
    known: &Knowledge<'_>,
) -> Result<Vec<PlannedHost>, SourcesError> {
    let origin = reference.host();
    let mut hosts = Vec::with_capacity(mirrors.len() + 1);
    for (position, mirror) in mirrors.iter().enumerate() {
        let there = reference.on_host(&normal_host(mirror));
        let key = format!("image.registries.{origin}.mirrors[{position}]");
        hosts.push(known.host(reference, &there, false, key)?);
    }
    let insecure = entry.is_some_and(|entry| entry.insecure && entry.location.is_none());
    let key = format!("image.registries.{origin}");
    hosts.push(known.host(reference, reference, insecure, key)?);
    Ok(hosts)
}

fn from_registry(
    reference: &Reference,
    entry: &RegistryEntry,
    known: &Knowledge<'_>,
) -> Result<Vec<PlannedHost>, SourcesError> {
    let unfit = |place: &super::document::Place, location: &str| {
        place.wrong(format!(
            "{reference} becomes no image reference at {location}"
        ))
    };
    let mut hosts = Vec::with_capacity(entry.mirrors.len() + 1);
    for mirror in &entry.mirrors {
        let there = entry
            .rewritten(reference, &mirror.location)
            .ok_or_else(|| unfit(&mirror.place, &mirror.location))?;
        let mut host = known.host(reference, &there, mirror.insecure, mirror.place.to_string())?;
        host.skipped = unwanted(mirror, reference);
        hosts.push(host);
    }
    let there = match &entry.location {
        Some(location) => entry
            .rewritten(reference, location)
            .ok_or_else(|| unfit(&entry.place, location))?,
        None => reference.clone(),
    };
    hosts.push(known.host(reference, &there, entry.insecure, entry.place.to_string())?);
    Ok(hosts)
}

fn unwanted(mirror: &Mirror, reference: &Reference) -> Option<&'static str> {
    match (mirror.wanted_for, reference.digest().is_some()) {
        (WantedFor::Digests, false) => Some("it is asked for references with a digest only"),
        (WantedFor::Tags, true) => Some("it is asked for references without a digest only"),
        _ => None,
    }
}

fn from_hosts_file(
    reference: &Reference,
    file: &HostsFile,
    known: &Knowledge<'_>,
) -> Result<Vec<PlannedHost>, SourcesError> {
    let mut hosts = Vec::with_capacity(file.hosts.len() + 1);
    for entry in file.hosts.iter().chain([&file.server]) {
        hosts.push(from_host_entry(reference, entry, known)?);
    }
    Ok(hosts)
}

fn from_host_entry(
    reference: &Reference,
    entry: &HostEntry,
    known: &Knowledge<'_>,
) -> Result<PlannedHost, SourcesError> {
    let authority = entry.url.as_ref().map_or_else(
        || reference.host().to_owned(),
        |url| official_name(&url.authority),
    );
    let there = reference.on_host(&authority);
    let mut host = known.host(reference, &there, false, entry.place.to_string())?;
    if let Some(url) = &entry.url {
        host.path.clone_from(&url.path);
        if url.scheme == Scheme::Http && host.transport.scheme == Scheme::Https {
            known.redirect(&mut host.transport, Scheme::Http);
        }
        host.origin = is_origin(&host.transport, reference);
    }
    host.transport.tls.add(&entry.tls);
    host.transport.dial_timeout = entry.dial_timeout;
    host.headers.clone_from(&entry.headers);
    host.resolve = entry.resolve;
    host.pull = entry.pull;
    if !entry.resolve && !entry.pull {
        host.skipped = Some("its capabilities are neither `pull` nor `resolve`");
    } else if !entry.pull && reference.digest().is_some() {
        host.skipped = Some("its capabilities lack `pull`, and the reference has a digest");
    }
    host.stands_for = (!host.origin).then(|| reference.host().to_owned());
    Ok(host)
}

impl Knowledge<'_> {
    /// The host that `there` names, as far as our own configuration, its folder and `insecure` tell how to talk to it.
    fn host(
        &self,
        reference: &Reference,
        there: &Reference,
        insecure: bool,
        from: String,
    ) -> Result<PlannedHost, SourcesError> {
        let name = there.host();
        let transport = transport(name, Scheme::Https, self.own, self.proxies);
        let mut transport = match own(self.own, name) {
            Some(own) if own.plain_http => {
                let mut plain = transport;
                self.redirect(&mut plain, Scheme::Http);
                plain
            }
            _ => transport,
        };
        transport.tls.add(&(self.folder)(name)?.tls);
        transport.tls.skip_verify |= insecure;
        let plain = (insecure && transport.scheme == Scheme::Https).then(|| {
            let mut plain = transport.clone();
            self.redirect(&mut plain, Scheme::Http);
            plain
        });
        Ok(PlannedHost {
            origin: is_origin(&transport, reference),
            transport,
            plain,
            path: API_PATH.to_owned(),
            repository: there.repository().to_owned(),
            stands_for: None,
            headers: Vec::new(),
            resolve: true,
            pull: true,
            skipped: None,
            from,
        })
    }

    fn redirect(&self, transport: &mut Transport, scheme: Scheme) {
        transport.scheme = scheme;
        transport.proxy = self
            .proxies
            .choose(scheme == Scheme::Https, &transport.authority)
            .cloned();
    }
}

/// How to talk to a host of which only our own configuration speaks: a token server, or where a redirect leads.
pub(crate) fn transport(
    name: &str,
    scheme: Scheme,
    registries: &BTreeMap<String, RegistryConfig>,
    proxies: &Proxies,
) -> Transport {
    let own = own(registries, name);
    Transport {
        scheme,
        authority: name.to_owned(),
        tls: Tls {
            authorities: own.and_then(|own| own.ca.clone()).into_iter().collect(),
            identities: Vec::new(),
            skip_verify: own.is_some_and(|own| own.insecure_skip_verify),
        },
        proxy: proxies.choose(scheme == Scheme::Https, name).cloned(),
        dial_timeout: None,
    }
}

/// Whether a host is the registry that the reference names.
fn is_origin(transport: &Transport, reference: &Reference) -> bool {
    let port = format!(":{}", transport.scheme.port());
    let bare = |name: &str| name.strip_suffix(&port).unwrap_or(name).to_owned();
    bare(&transport.authority) == bare(reference.host())
}

/// A host without its port.
pub(crate) fn bare_host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The name under which references know a host.
fn official_name(authority: &str) -> String {
    match normal_host(authority) {
        name if name == DOCKER_HUB_ADDRESS => DOCKER_HUB.to_owned(),
        name => name,
    }
}

/// `host` or `host:port` of a URL, as references and configuration write it.
pub(crate) fn authority(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod test;
