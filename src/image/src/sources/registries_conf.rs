//! `registries.conf`, version 2, and the files of `registries.conf.d`: mirrors, prohibitions, rewritten prefixes, and what
//! short names mean. Pure: text in, values out.

use std::collections::BTreeMap;
use std::path::Path;

use super::SourcesError;
use super::document::{At, Document, Place, Section};
use crate::reference::{Reference, clip, is_registry_host, normal_host};

/// How much of a value an error message repeats, in characters.
const QUOTED_CHARACTERS: usize = 80;

/// What one file says, or several together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegistriesConf {
    /// Registries that a name without a host may be of. `None`: not said.
    pub(crate) search: Option<At<Vec<String>>>,
    pub(crate) mode: Option<ShortNameMode>,
    /// By prefix.
    pub(crate) registries: BTreeMap<String, RegistryEntry>,
    /// Short names without tags, and the full names that they stand for; `None` takes an earlier file's alias out.
    pub(crate) aliases: BTreeMap<String, Option<At<String>>>,
}

/// What is done about a short name that several registries may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShortNameMode {
    /// Nothing is guessed.
    Enforcing,
    /// All are asked in turn, as nobody can be asked.
    Permissive,
    /// All are asked in turn.
    Disabled,
}

/// One `[[registry]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RegistryEntry {
    /// What names begin with; `*.example.com` for all hosts below a domain.
    pub(crate) prefix: String,
    /// What stands in the prefix's place when the registry is asked. `None`: the prefix itself.
    pub(crate) location: Option<String>,
    pub(crate) insecure: bool,
    pub(crate) blocked: bool,
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) place: Place,
}

/// One `[[registry.mirror]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    pub(crate) location: String,
    pub(crate) insecure: bool,
    pub(crate) wanted_for: WantedFor,
    pub(crate) place: Place,
}

/// Which references a mirror is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WantedFor {
    All,
    Digests,
    Tags,
}

impl RegistriesConf {
    /// Reads one file. Also returns warnings.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<(Self, Vec<String>), SourcesError> {
        let document = Document::new(file, text);
        let mut root = document.root()?;
        if root.has("registries") {
            return Err(root.place().wrong(
                "`[registries.…]` is the old form of this file; write `[[registry]]` and `unqualified-search-registries`",
            ));
        }
        let mut conf = Self::default();
        if let Some(search) = root.strings("unqualified-search-registries")? {
            let mut hosts = Vec::with_capacity(search.value.len());
            for host in search.value {
                let name = host.value.trim_end_matches('/');
                hosts.push(check_location(name, &host.place)?);
            }
            conf.search = Some(At {
                value: hosts,
                place: search.place,
            });
        }
        if let Some(mode) = root.string("short-name-mode")? {
            conf.mode = Some(match mode.value.as_str() {
                "enforcing" => ShortNameMode::Enforcing,
                "permissive" => ShortNameMode::Permissive,
                "disabled" => ShortNameMode::Disabled,
                other => {
                    return Err(mode.place.wrong(format!(
                        "`short-name-mode` has to be `enforcing`, `permissive` or `disabled`, not \"{}\"",
                        clip(other, QUOTED_CHARACTERS)
                    )));
                }
            });
        }
        for section in root.tables("registry")? {
            let entry = registry(section)?;
            if let Some(before) = conf.registries.get(&entry.prefix) {
                return Err(entry.place.wrong(format!(
                    "the prefix {} stands in line {} already",
                    entry.prefix, before.place.line
                )));
            }
            conf.registries.insert(entry.prefix.clone(), entry);
        }
        if let Some(mut aliases) = root.table("aliases")? {
            for name in aliases.names() {
                let target = aliases.string(&name.value)?;
                let alias = alias(&name, target)?;
                conf.aliases.insert(name.value, alias);
            }
        }
        // What these say is for those who have credentials or other stores of layers.
        root.ignore(&[
            "credential-helpers",
            "additional-layer-store-auth-helper",
            "version",
        ]);
        root.finish();
        Ok((conf, document.into_warnings()))
    }

    /// Lays a later file over this one: what it says, it says instead.
    pub(crate) fn overlay(&mut self, later: Self) {
        self.search = later.search.or(self.search.take());
        self.mode = later.mode.or(self.mode.take());
        self.registries.extend(later.registries);
        self.aliases.extend(later.aliases);
    }

    /// The entry with the longest prefix of a reference.
    pub(crate) fn find(&self, reference: &Reference) -> Option<&RegistryEntry> {
        let name = reference.to_string();
        self.registries
            .values()
            .filter_map(|entry| Some((matched_bytes(&entry.prefix, &name)?, entry)))
            // Of equally long matches, the one that says more: `a.example.com` before `*.example.com`.
            .max_by_key(|(matched, entry)| (*matched, !is_wildcard(&entry.prefix)))
            .map(|(_, entry)| entry)
    }
}

impl RegistryEntry {
    /// A reference of this registry as it reads at `location`, which is a mirror's or the registry's own.
    pub(crate) fn rewritten(&self, reference: &Reference, location: &str) -> Option<Reference> {
        let name = reference.to_string();
        let rest = &name[matched_bytes(&self.prefix, &name)?..];
        Reference::parse_located(&format!("{location}{rest}")).ok()
    }
}

/// How many bytes of a full name a prefix covers; `None` if it is none of its.
///
/// A prefix ends where a component ends: at a slash, a colon or an at sign. `*.example.com` covers the host and, if there is
/// one, the path that stands behind the star.
pub(crate) fn matched_bytes(prefix: &str, name: &str) -> Option<usize> {
    let end = if let Some(tail) = prefix.strip_prefix('*') {
        let host_bytes = name.find('/').unwrap_or(name.len());
        let start = name.find(tail)?;
        if start == 0 || start >= host_bytes {
            return None;
        }
        // The last place inside the host where it fits: `*.a.com` covers all of `x.a.com.a.com`.
        let start = name
            .match_indices(tail)
            .map(|(at, _)| at)
            .take_while(|at| *at < host_bytes)
            .filter(|at| ends_component(&name[at + tail.len()..]))
            .last()
            .unwrap_or(start);
        start + tail.len()
    } else {
        name.starts_with(prefix).then_some(prefix.len())?
    };
    ends_component(&name[end..]).then_some(end)
}

fn ends_component(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(['/', ':', '@'])
}

fn is_wildcard(prefix: &str) -> bool {
    prefix.starts_with('*')
}

fn registry(mut section: Section<'_, '_>) -> Result<RegistryEntry, SourcesError> {
    let place = section.place();
    let location = match section.string("location")? {
        Some(location) => {
            let trimmed = location.value.trim_end_matches('/');
            (!trimmed.is_empty())
                .then(|| check_location(trimmed, &location.place))
                .transpose()?
        }
        None => None,
    };
    let prefix = match section.string("prefix")? {
        Some(prefix) if !prefix.value.is_empty() => {
            check_prefix(prefix.value.trim_end_matches('/'), &prefix.place)?
        }
        _ => location
            .clone()
            .ok_or_else(|| place.wrong("this registry has neither a `prefix` nor a `location`"))?,
    };
    let digests_only = section.boolean("mirror-by-digest-only")?.unwrap_or(false);
    let mut mirrors = Vec::new();
    let insecure = section.boolean("insecure")?.unwrap_or(false);
    let blocked = section.boolean("blocked")?.unwrap_or(false);
    for section in section.tables("mirror")? {
        mirrors.push(mirror(section, digests_only)?);
    }
    section.finish();
    Ok(RegistryEntry {
        prefix,
        location,
        insecure,
        blocked,
        mirrors,
        place,
    })
}

fn mirror(mut section: Section<'_, '_>, digests_only: bool) -> Result<Mirror, SourcesError> {
    let place = section.place();
    let location = section
        .string("location")?
        .ok_or_else(|| place.wrong("this mirror has no `location`"))?;
    let wanted_for = match section.string("pull-from-mirror")? {
        Some(_) if digests_only => {
            return Err(place.wrong(
                "`pull-from-mirror` cannot stand beside `mirror-by-digest-only` of the registry",
            ));
        }
        None if digests_only => WantedFor::Digests,
        None => WantedFor::All,
        Some(words) => match words.value.as_str() {
            "all" | "" => WantedFor::All,
            "digest-only" => WantedFor::Digests,
            "tag-only" => WantedFor::Tags,
            other => {
                return Err(words.place.wrong(format!(
                    "`pull-from-mirror` has to be `all`, `digest-only` or `tag-only`, not \"{}\"",
                    clip(other, QUOTED_CHARACTERS)
                )));
            }
        },
    };
    let insecure = section.boolean("insecure")?.unwrap_or(false);
    let location = check_location(location.value.trim_end_matches('/'), &location.place)?;
    section.finish();
    Ok(Mirror {
        location,
        insecure,
        wanted_for,
        place,
    })
}

/// `host` or `host/path`, in normal form.
fn check_location(text: &str, place: &Place) -> Result<String, SourcesError> {
    let wrong = |why: &str| place.wrong(format!("\"{}\" {why}", clip(text, QUOTED_CHARACTERS)));
    if text.contains("://") {
        return Err(wrong(
            "must not have a scheme; `insecure = true` allows http",
        ));
    }
    let (host, path) = text
        .split_once('/')
        .map_or((text, None), |(host, path)| (host, Some(path)));
    // Whether the path is one is asked of the grammar of references, which it becomes a part of.
    let is_path = |path: &str| Reference::parse(&format!("h.example/{path}/x")).is_ok();
    if !is_registry_host(host) || !path.is_none_or(is_path) {
        return Err(wrong(
            "is not a registry: write `host`, `host:port` or `host/path`",
        ));
    }
    Ok(match path {
        Some(path) => format!("{}/{path}", normal_host(host)),
        None => normal_host(host),
    })
}

/// `host[/path[:tag|@digest]]`, or the same with `*.` before the host.
fn check_prefix(text: &str, place: &Place) -> Result<String, SourcesError> {
    let (star, rest) = match text.strip_prefix("*.") {
        Some(rest) => ("*.", rest),
        None => ("", text),
    };
    if let Ok(location) = check_location(rest, place) {
        return Ok(format!("{star}{location}"));
    }
    // With a tag or a digest.
    let named = rest
        .contains('/')
        .then(|| Reference::parse_located(rest).ok())
        .flatten();
    match named {
        Some(reference) if star.is_empty() => Ok(reference.to_string()),
        _ => Err(place.wrong(format!(
            "\"{}\" is not a prefix: write `host`, `host/path`, `host/path:tag` or `*.domain`",
            clip(text, QUOTED_CHARACTERS)
        ))),
    }
}

fn alias(
    name: &At<String>,
    target: Option<At<String>>,
) -> Result<Option<At<String>>, SourcesError> {
    let quoted = clip(&name.value, QUOTED_CHARACTERS);
    let short = !crate::reference::has_host(&name.value)
        && !name.value.contains([':', '@'])
        && Reference::parse(&name.value).is_ok();
    if !short {
        return Err(name.place.wrong(format!(
            "the alias \"{quoted}\" is not a short name: no host, no tag and no digest"
        )));
    }
    let Some(target) = target.filter(|target| !target.value.is_empty()) else {
        return Ok(None);
    };
    let (host, path) = target.value.split_once('/').unwrap_or_default();
    let full = crate::reference::has_host(&target.value)
        && !path.contains([':', '@'])
        && !host.is_empty()
        && Reference::parse(&target.value).is_ok();
    if !full {
        return Err(target.place.wrong(format!(
            "the alias {quoted} stands for \"{}\", which is not a full name: a host and a path, without tag and digest",
            clip(&target.value, QUOTED_CHARACTERS)
        )));
    }
    Ok(Some(target))
}

#[cfg(test)]
#[path = "registries_conf_test.rs"]
pub(crate) mod test;
