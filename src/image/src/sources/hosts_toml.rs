//! `hosts.toml` of a folder of `certs.d`: the hosts that are asked for what references say is at one registry, in the order
//! of the file, and how to talk to each. Pure: text in, values out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use reqwest::Url;

use super::SourcesError;
use super::document::{At, Document, Place, Section, told};
use super::plan::{Identity, Scheme, Tls};
use crate::reference::{clip, is_registry_host};

/// How much of a value an error message repeats, in characters.
const QUOTED_CHARACTERS: usize = 80;
/// What follows the host in a URL of the distribution API, unless `override_path` says otherwise.
pub(super) const API_PATH: &str = "/v2";

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostsFile {
    /// In the order of the file.
    pub(crate) hosts: Vec<HostEntry>,
    /// Asked last; its URL is `server`, or that of the registry which the reference names.
    pub(crate) server: HostEntry,
}

/// One host of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostEntry {
    /// `None` only for a server whose URL is not said.
    pub(crate) url: Option<BaseUrl>,
    /// May be asked where a tag leads.
    pub(crate) resolve: bool,
    /// May be asked for what a digest names.
    pub(crate) pull: bool,
    pub(crate) tls: Tls,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) dial_timeout: Option<Duration>,
    pub(crate) place: Place,
}

/// Where a host's API begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BaseUrl {
    pub(crate) scheme: Scheme,
    /// `host` or `host:port`.
    pub(crate) authority: String,
    /// `/v2`, `/proxy/v2`; with `override_path` also others and none.
    pub(crate) path: String,
}

impl HostsFile {
    /// Reads one file. Also returns warnings. Relative paths in it start at its folder.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<(Self, Vec<String>), SourcesError> {
        let document = Document::new(file, text);
        let folder = file.parent().unwrap_or(Path::new("/"));
        let mut root = document.root()?;
        let mut hosts = Vec::new();
        if let Some(mut sections) = root.table("host")? {
            for name in sections.names() {
                if let Some(mut section) = sections.table(&name.value)? {
                    hosts.push(host(&mut section, Some(&name), folder)?);
                    section.finish();
                }
            }
        }
        let url = root.string("server")?.filter(|url| !url.value.is_empty());
        let server = host(&mut root, url.as_ref(), folder)?;
        root.finish();
        Ok((Self { hosts, server }, document.into_warnings()))
    }
}

fn host(
    section: &mut Section<'_, '_>,
    url: Option<&At<String>>,
    folder: &Path,
) -> Result<HostEntry, SourcesError> {
    let place = url.map_or_else(|| section.place(), |url| url.place.clone());
    let override_path = section.boolean("override_path")?.unwrap_or(false);
    let (mut resolve, mut pull) = (true, true);
    if let Some(capabilities) = section.strings("capabilities")?
        && !capabilities.value.is_empty()
    {
        (resolve, pull) = (false, false);
        for capability in capabilities.value {
            match capability.value.as_str() {
                "resolve" => resolve = true,
                "pull" => pull = true,
                // Nothing is pushed from here, and referrers are asked of whoever has the image.
                "push" | "referrers" => {}
                other => section.warn(
                    &capability.place,
                    format_args!(
                        "the capability \"{}\" is not known: `pull`, `resolve` and `push` are",
                        clip(other, QUOTED_CHARACTERS)
                    ),
                ),
            }
        }
    }
    let file = |text: &str| folder.join(text);
    let mut tls = Tls {
        skip_verify: section.boolean("skip_verify")?.unwrap_or(false),
        ..Tls::default()
    };
    for authority in section.text_or_texts("ca")?.unwrap_or_default() {
        tls.authorities.push(file(&authority.value));
    }
    for group in section.texts_or_pairs("client")?.unwrap_or_default() {
        let mut parts = group.value.into_iter().map(|part| {
            let present = !part.is_empty();
            present.then(|| file(&part))
        });
        let certificate = parts
            .next()
            .flatten()
            .ok_or_else(|| group.place.wrong("`client` names no certificate"))?;
        tls.identities.push(Identity {
            certificate,
            key: parts.next().flatten(),
        });
    }
    Ok(HostEntry {
        url: url.map(|url| base_url(url, override_path)).transpose()?,
        resolve,
        pull,
        tls,
        headers: headers(section)?,
        dial_timeout: dial_timeout(section)?,
        place,
    })
}

fn base_url(text: &At<String>, override_path: bool) -> Result<BaseUrl, SourcesError> {
    let quoted = told(&text.value);
    let wrong = |why: &str| text.place.wrong(format!("\"{quoted}\" {why}"));
    let whole = if text.value.contains("://") {
        text.value.clone()
    } else {
        format!("https://{}", text.value)
    };
    let url = Url::parse(&whole).map_err(|_| wrong("is not a URL"))?;
    if !url.username().is_empty() || url.password().is_some() {
        // Not repeated: it holds a secret.
        return Err(text.place.wrong(
            "a URL of a registry must not hold a user and a password; credentials have places of their own",
        ));
    }
    let scheme = match url.scheme() {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        _ => return Err(wrong("is neither https nor http")),
    };
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has more than a scheme, a host and a path"));
    }
    let authority = super::plan::authority(&url)
        .filter(|authority| is_registry_host(authority))
        .ok_or_else(|| wrong("has no host"))?;
    let path = url.path().trim_end_matches('/');
    let path = if override_path || path.ends_with(API_PATH) {
        path.to_owned()
    } else {
        format!("{path}{API_PATH}")
    };
    Ok(BaseUrl {
        scheme,
        authority,
        path,
    })
}

fn headers(section: &mut Section<'_, '_>) -> Result<Vec<(HeaderName, HeaderValue)>, SourcesError> {
    let mut headers = Vec::new();
    let Some(mut table) = section.table("header")? else {
        return Ok(headers);
    };
    for name in table.names() {
        let header: HeaderName = name.value.parse().map_err(|_| {
            name.place.wrong(format!(
                "\"{}\" is not the name of a header",
                clip(&name.value, QUOTED_CHARACTERS)
            ))
        })?;
        for text in table.text_or_texts(&name.value)?.unwrap_or_default() {
            let mut value = HeaderValue::from_str(&text.value).map_err(|_| {
                text.place.wrong(format!(
                    "the value of the header {header} has characters that cannot be sent"
                ))
            })?;
            // Often it is a key.
            value.set_sensitive(true);
            headers.push((header.clone(), value));
        }
    }
    Ok(headers)
}

fn dial_timeout(section: &mut Section<'_, '_>) -> Result<Option<Duration>, SourcesError> {
    let Some(text) = section.string("dial_timeout")? else {
        return Ok(None);
    };
    duration(&text.value).map(Some).ok_or_else(|| {
        text.place.wrong(format!(
            "`dial_timeout` has to be a duration such as \"3s\" or \"500ms\", not \"{}\"",
            clip(&text.value, QUOTED_CHARACTERS)
        ))
    })
}

/// Numbers with units, as in `1m30s` and `1.5s`. Zero is no duration.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_bytes = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..number_bytes].parse().ok()?;
        rest = &rest[number_bytes..];
        let unit_bytes = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let seconds = match &rest[..unit_bytes] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit_bytes..];
    }
    (!total.is_zero()).then_some(total)
}

/// The folders of a registry's host below one of `certs.d`, the likeliest first: `host_port_`, then the host as it is.
pub(crate) fn folders(root: &Path, host: &str) -> Vec<PathBuf> {
    let mut folders = Vec::with_capacity(2);
    if let Some((name, port)) = host.rsplit_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        folders.push(root.join(format!("{name}_{port}_")));
    }
    folders.push(root.join(host));
    folders
}

#[cfg(test)]
#[path = "hosts_toml_test.rs"]
mod test;
