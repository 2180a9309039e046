//! What the fuzz targets of `registries.conf` and `hosts.toml` call.

use std::collections::BTreeMap;
use std::path::Path;

use reqwest::Url;

use super::SourcesError;
use super::hosts_toml::HostsFile;
use super::plan::{self, Folder, Knowledge, Plan, PlannedHost};
use super::proxy::Proxies;
use super::registries_conf::{RegistriesConf, matched_bytes};
use super::short_names::ShortNames;
use crate::error::ImageError;
use crate::fuzz::{WORDS_MAX_BYTES, check, references};
use crate::reference::Reference;

/// How many of a file's own prefixes are tried.
const OWN_REFERENCES: usize = 8;
/// Longest URL of a repository: a reference, and a path of the file.
const URL_MAX_BYTES: usize = 20 << 10;

/// `registries.conf`: what is blocked stays so, the longest prefix decides, every mirror is asked in its turn, and nobody but
/// whom the file names.
pub fn registries_conf(bytes: &[u8]) {
    // Other bytes are refused when the file is read.
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let file = Path::new("/etc/containers/registries.conf");
    let conf = match RegistriesConf::parse(file, text) {
        Ok((conf, warnings)) => {
            check_warnings(&warnings);
            conf
        }
        Err(error) => return refused(file, error),
    };
    let mut twice = conf.clone();
    twice.overlay(conf.clone());
    assert_eq!(twice, conf);
    short_names(&conf);
    let own = conf.registries.keys().filter_map(|prefix| {
        let host = prefix
            .strip_prefix('*')
            .map_or_else(|| prefix.clone(), |domain| format!("below{domain}"));
        let below = format!("{host}/app:1");
        Reference::parse_located(&below)
            .or_else(|_| Reference::parse_located(&host))
            .ok()
    });
    let own: Vec<Reference> = own.take(OWN_REFERENCES).collect();
    for reference in references().into_iter().chain(own) {
        let entry = conf.find(&reference);
        let name = reference.to_string();
        let longest = conf
            .registries
            .keys()
            .filter_map(|prefix| matched_bytes(prefix, &name))
            .max();
        let chosen = entry.and_then(|entry| matched_bytes(&entry.prefix, &name));
        assert_eq!(chosen, longest, "{name}");
        let Some(plan) = plan_of(&reference, &conf, &Folder::default()) else {
            continue;
        };
        let blocked = entry.filter(|entry| entry.blocked);
        assert_eq!(
            plan.blocked,
            blocked.map(|entry| entry.place.to_string()),
            "{name}"
        );
        let mirrors = entry.map_or(0, |entry| entry.mirrors.len());
        assert_eq!(plan.hosts.len(), mirrors + 1, "{name}");
        for host in &plan.hosts {
            assert!(host.resolve && host.pull && host.stands_for.is_none());
            // What may go in the open, the file says so.
            let insecure = host.plain.is_some() || host.transport.tls.skip_verify;
            let allowed = entry.is_some_and(|entry| {
                entry.insecure || entry.mirrors.iter().any(|mirror| mirror.insecure)
            });
            assert!(!insecure || allowed, "{host:?}");
        }
    }
}

fn short_names(conf: &RegistriesConf) {
    let names = ShortNames::new(conf);
    let aliases = conf.aliases.keys().map(String::as_str);
    for name in aliases
        .take(OWN_REFERENCES)
        .chain(["busybox:1", "team/app"])
    {
        match names.meaning(name) {
            Ok(meaning) => {
                let references = meaning.references.clone();
                assert!(!references.is_empty(), "{name}");
                let ambiguous = meaning.ambiguous;
                match meaning.decided(name) {
                    Ok(decided) => assert!(!ambiguous && decided == references, "{name}"),
                    Err(error) => {
                        assert!(ambiguous && references.len() > 1, "{name}");
                        check(&error.into());
                    }
                }
            }
            Err(error) => check(&error.into()),
        }
    }
}

/// `hosts.toml`: every host is asked in its turn for what it can do, the registry last, and no header can be printed.
pub fn hosts_toml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let file = Path::new("/etc/pintle/certs.d/r.example/hosts.toml");
    let hosts = match HostsFile::parse(file, text) {
        Ok((hosts, warnings)) => {
            check_warnings(&warnings);
            hosts
        }
        Err(error) => return refused(file, error),
    };
    let entries: Vec<_> = hosts.hosts.iter().chain([&hosts.server]).collect();
    for entry in &entries {
        assert!(entry.headers.iter().all(|(_, value)| value.is_sensitive()));
        assert!(entry.dial_timeout.is_none_or(|limit| !limit.is_zero()));
        for identity in &entry.tls.identities {
            assert!(identity.certificate.is_absolute());
            assert!(identity.key.as_ref().is_none_or(|key| key.is_absolute()));
        }
        assert!(entry.tls.authorities.iter().all(|path| path.is_absolute()));
    }
    let folder = Folder {
        hosts: Some(hosts.clone()),
        ..Folder::default()
    };
    for reference in references() {
        let Some(plan) = plan_of(&reference, &RegistriesConf::default(), &folder) else {
            continue;
        };
        assert_eq!(plan.blocked, None);
        assert_eq!(plan.hosts.len(), entries.len());
        for (host, entry) in plan.hosts.iter().zip(&entries) {
            let can = entry.pull || (entry.resolve && reference.digest().is_none());
            assert_eq!(host.skipped.is_none(), can, "{host:?}");
            assert_eq!(host.repository, reference.repository());
            let stands_for = (!host.origin).then(|| reference.host());
            assert_eq!(host.stands_for.as_deref(), stands_for);
            assert_eq!(host.transport.tls.skip_verify, entry.tls.skip_verify);
        }
    }
}

/// The plan for a reference, each host of which is asked where it is said to be; `None` if the files allow none.
fn plan_of(reference: &Reference, conf: &RegistriesConf, folder: &Folder) -> Option<Plan> {
    let planned = plan::plan(
        reference,
        &Knowledge {
            own: &BTreeMap::new(),
            registries: conf,
            folder: &|_| Ok(folder.clone()),
            default_hosts: &|| Ok(None),
            proxies: &Proxies::default(),
        },
    );
    match planned {
        Ok(plan) => {
            assert!(!plan.hosts.is_empty(), "{reference}");
            plan.hosts.iter().for_each(check_host);
            Some(plan)
        }
        Err(error) => {
            check(&error.into());
            None
        }
    }
}

fn check_host(host: &PlannedHost) {
    let text = host.url();
    assert!(text.len() <= URL_MAX_BYTES, "{text}");
    // What is no host after all, as `xn--a`, is an error when it is asked.
    let Ok(url) = Url::parse(&text) else {
        return;
    };
    assert!(
        url.username().is_empty() && url.password().is_none(),
        "{text}"
    );
    assert!(url.query().is_none() && url.fragment().is_none(), "{text}");
    assert_eq!(url.scheme(), host.transport.scheme.word());
    assert_eq!(url.path(), format!("{}/{}", host.path, host.repository));
    let base = Url::parse(&host.transport.base()).ok();
    let base = base.map(|base| (base.host_str().map(str::to_owned), base.port()));
    assert_eq!(base, Some((url.host_str().map(str::to_owned), url.port())));
}

fn refused(file: &Path, error: SourcesError) {
    let names_file = error.to_string().starts_with(&file.display().to_string());
    assert!(names_file, "{error}");
    check(&ImageError::from(error));
}

fn check_warnings(warnings: &[String]) {
    for words in warnings {
        assert!(words.len() <= WORDS_MAX_BYTES, "{words}");
    }
}
