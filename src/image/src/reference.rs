//! Image references: what a user writes (`busybox`, `[::1]:5000/team/app:1.2@sha256:…`) and the one normal form of it.
//!
//! The grammar is the one that registries enforce on their paths, so a reference that parses can be put into a URL as
//! it stands. Two spellings of the same image give equal [`Reference`]s: `busybox`, `docker.io/busybox` and
//! `index.docker.io/library/busybox:latest` are one. Nothing here touches the network or the store.

use std::fmt;
use std::net::Ipv6Addr;

use state::Digest;
use thiserror::Error;

/// The host that a reference without one means.
const DEFAULT_HOST: &str = "docker.io";
/// An old name of [`DEFAULT_HOST`] that still stands in manifests and credentials.
const DEFAULT_HOST_ALIAS: &str = "index.docker.io";
/// The folder of [`DEFAULT_HOST`] that a name without one means.
const DEFAULT_FOLDER: &str = "library";
/// The tag of a reference that names neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// Longest `host/repository`, in bytes: registries refuse longer ones.
const MAX_NAME_BYTES: usize = 255;
/// Longest tag, in bytes.
const MAX_TAG_BYTES: usize = 128;
/// Longest text that is looked at at all: name, tag, the longest digest and their separators.
const MAX_REFERENCE_BYTES: usize = MAX_NAME_BYTES + MAX_TAG_BYTES + 160;
/// How much of a bad reference an error message repeats, in characters.
const QUOTED_CHARACTERS: usize = 80;

/// Why a text is not an image reference.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("image reference \"{reference}\" is not valid: {fault}")]
pub struct ReferenceError {
    /// The text, cut short if it is long.
    pub reference: String,
    /// What is wrong with it.
    pub fault: ReferenceFault,
}

/// What is wrong with a reference.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReferenceFault {
    /// Nothing was given.
    #[error("it is empty")]
    Empty,
    /// More text than any reference may have.
    #[error("it has {bytes} bytes, more than the {limit} that a reference may have")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The longest that is allowed.
        limit: usize,
    },
    /// `https://…`
    #[error("leave out the scheme (\"https://\")")]
    Scheme,
    /// The host part is no host name, IPv4 address or `[IPv6 address]`.
    #[error("\"{0}\" is not a host name or address")]
    Host(String),
    /// The port is not a number from 1 to 65535.
    #[error("\"{0}\" is not a port number")]
    Port(String),
    /// A host with nothing behind it.
    #[error("it names no repository")]
    NoRepository,
    /// Upper case in the repository.
    #[error("the repository name \"{0}\" has to be in lower case")]
    UpperCase(String),
    /// A path component that breaks the grammar.
    #[error(
        "\"{0}\" is not a repository name: lower-case letters and digits, parted by single \".\", \"_\", \"__\" or dashes"
    )]
    Component(String),
    /// 64 hex digits, which everywhere mean an image id.
    #[error("64 hex digits are an image id, not a repository name")]
    ImageId,
    /// A tag that breaks the grammar.
    #[error(
        "\"{0}\" is not a tag: up to 128 letters, digits, \"_\", \".\" and \"-\", not starting with \".\" or \"-\""
    )]
    Tag(String),
    /// What follows `@` is no digest.
    #[error("\"{0}\" is not a digest: expected \"sha256:\" and 64 lower-case hex digits")]
    Digest(String),
}

/// A normalised image reference: a host, a repository, and a tag or a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads and normalises what a user wrote.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        parse(text, looks_like_host).map_err(|fault| ReferenceError {
            reference: clip(text, QUOTED_CHARACTERS),
            fault,
        })
    }

    /// Reads a name whose first component is a host, also where it does not look like one: `mirror/team/app:1`.
    pub(crate) fn parse_located(text: &str) -> Result<Self, ReferenceError> {
        parse(text, |_| true).map_err(|fault| ReferenceError {
            reference: clip(text, QUOTED_CHARACTERS),
            fault,
        })
    }

    /// The registry's host, in lower case, with its port if one was given: `docker.io`, `[::1]:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path on that host: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Host and repository: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// The tag. `None` only when there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the reference insists on.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What a registry is asked for: the digest, which binds, or else the tag.
    pub fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// The name under which an image is recorded: `name@digest` if there is a digest, whatever the tag says, since
    /// the tag was not looked at; else `name:tag`.
    pub fn identity(&self) -> String {
        match &self.digest {
            Some(digest) => format!("{}@{digest}", self.name()),
            None => format!("{}:{}", self.name(), self.target()),
        }
    }

    /// The same image as another host that stands in for this one knows it.
    pub(crate) fn on_host(&self, host: &str) -> Self {
        Self {
            host: host.to_owned(),
            ..self.clone()
        }
    }

    /// The same repository by digest only: `name@digest`.
    #[must_use]
    pub fn at(&self, digest: &Digest) -> Self {
        Self {
            host: self.host.clone(),
            repository: self.repository.clone(),
            tag: None,
            digest: Some(digest.clone()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The normal form of a registry's host: lower case, and one name for Docker's own.
pub(crate) fn normal_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host == DEFAULT_HOST_ALIAS {
        DEFAULT_HOST.to_owned()
    } else {
        host
    }
}

/// Whether a text can be the host of a registry in a reference: `host`, `host:port`, an address; no scheme and no path.
pub fn is_registry_host(text: &str) -> bool {
    check_host(text).is_ok()
}

/// Whether a name says its host, so that it cannot be a short name that an operator's files give a meaning to.
pub(crate) fn has_host(name: &str) -> bool {
    let name = name.split('@').next().unwrap_or_default();
    name.starts_with('[')
        || name
            .split_once('/')
            .is_some_and(|(first, _)| looks_like_host(first))
}

/// The first `characters` of a text that may be hostile, without control characters, for an error message.
pub(crate) fn clip(text: &str, characters: usize) -> String {
    let mut clipped: String = text
        .chars()
        .take(characters)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(characters).is_some() {
        clipped.push('…');
    }
    clipped
}

fn parse(text: &str, is_host: impl Fn(&str) -> bool) -> Result<Reference, ReferenceFault> {
    if text.is_empty() {
        return Err(ReferenceFault::Empty);
    }
    if text.len() > MAX_REFERENCE_BYTES {
        return Err(ReferenceFault::TooLong {
            bytes: text.len(),
            limit: MAX_REFERENCE_BYTES,
        });
    }
    if text.contains("://") {
        return Err(ReferenceFault::Scheme);
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (
            rest,
            Some(
                digest
                    .parse::<Digest>()
                    .map_err(|_| ReferenceFault::Digest(clip(digest, QUOTED_CHARACTERS)))?,
            ),
        ),
        None => (text, None),
    };
    // A colon behind the last slash starts the tag; before it, it belongs to the host's port or IPv6 address.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') && !name.is_empty() => {
            (name, Some(check_tag(tag)?))
        }
        _ => (rest, None),
    };
    let (host, path) = match name.split_once('/') {
        Some((first, path)) if is_host(first) => (normal_host(&check_host(first)?), path),
        // `localhost:5000` reads as a tag but `[::1]:5000` cannot be anything but a host without a repository.
        None if name.starts_with('[') => return Err(ReferenceFault::NoRepository),
        _ => (DEFAULT_HOST.to_owned(), name),
    };
    if path.is_empty() {
        return Err(ReferenceFault::NoRepository);
    }
    for component in path.split('/') {
        check_component(component)?;
    }
    if !path.contains('/') && path.len() == 64 && path.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ReferenceFault::ImageId);
    }
    let repository = if host == DEFAULT_HOST && !path.contains('/') {
        format!("{DEFAULT_FOLDER}/{path}")
    } else {
        path.to_owned()
    };
    let name_bytes = host.len() + 1 + repository.len();
    if name_bytes > MAX_NAME_BYTES {
        return Err(ReferenceFault::TooLong {
            bytes: name_bytes,
            limit: MAX_NAME_BYTES,
        });
    }
    let tag = match (tag, &digest) {
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference {
        host,
        repository,
        tag,
        digest,
    })
}

/// Whether the part before the first slash is a host and not a folder of the default host.
fn looks_like_host(first: &str) -> bool {
    first.contains(['.', ':', '[']) || first.eq_ignore_ascii_case("localhost")
}

fn check_host(text: &str) -> Result<String, ReferenceFault> {
    let bad_host = || ReferenceFault::Host(clip(text, QUOTED_CHARACTERS));
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (address, behind) = bracketed.split_once(']').ok_or_else(bad_host)?;
        address.parse::<Ipv6Addr>().map_err(|_| bad_host())?;
        match behind.strip_prefix(':') {
            Some(port) => (format!("[{address}]"), Some(port)),
            None if behind.is_empty() => (format!("[{address}]"), None),
            None => return Err(bad_host()),
        }
    } else {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        if !host.split('.').all(is_host_label) {
            return Err(bad_host());
        }
        (host.to_owned(), port)
    };
    match port {
        None => Ok(host),
        Some(port) if is_port(port) => Ok(format!("{host}:{port}")),
        Some(port) => Err(ReferenceFault::Port(clip(port, QUOTED_CHARACTERS))),
    }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Leading zeros and signs are refused, so that one port has one spelling.
fn is_port(port: &str) -> bool {
    port.parse::<u16>()
        .is_ok_and(|number| number != 0 && number.to_string() == port)
}

fn check_component(component: &str) -> Result<(), ReferenceFault> {
    let quoted = || clip(component, QUOTED_CHARACTERS);
    if component.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ReferenceFault::UpperCase(quoted()));
    }
    let mut rest = component;
    loop {
        let word = rest
            .bytes()
            .take_while(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let word_bytes = word.count();
        if word_bytes == 0 {
            return Err(ReferenceFault::Component(quoted()));
        }
        rest = &rest[word_bytes..];
        if rest.is_empty() {
            return Ok(());
        }
        let separator_bytes = rest
            .bytes()
            .take_while(|b| matches!(b, b'.' | b'_' | b'-'))
            .count();
        let separator = &rest[..separator_bytes];
        let allowed = matches!(separator, "." | "_" | "__")
            || (!separator.is_empty() && separator.bytes().all(|b| b == b'-'));
        if !allowed {
            return Err(ReferenceFault::Component(quoted()));
        }
        rest = &rest[separator_bytes..];
    }
}

fn check_tag(tag: &str) -> Result<&str, ReferenceFault> {
    let valid = (1..=MAX_TAG_BYTES).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if valid {
        Ok(tag)
    } else {
        Err(ReferenceFault::Tag(clip(tag, QUOTED_CHARACTERS)))
    }
}

#[cfg(test)]
#[path = "reference_test.rs"]
mod test;
