//! Authentication files, in the form that Docker, podman and Kubernetes share: `auths` by registry or by path on one,
//! `credHelpers` by registry, `credsStore` for the rest. Also the form before that, `.dockercfg`: what stands in `auths` is
//! the whole of it.
//!
//! A file is read when a pull needs it and forgotten with that pull. It holds secrets of many registries, so nothing of
//! its text reaches a message: serde's own words quote values.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use state::Digest;
use zeroize::Zeroizing;

use super::Credentials;
use super::error::NodeCredentialsError;
use super::place::{DOCKER, DOCKER_LEGACY_URL, Place};
use super::secret::Secret;
use crate::reference::clip;

/// The largest authentication file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// How much of a key is repeated, in characters.
const QUOTED_CHARACTERS: usize = 120;

/// Where credentials stand, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) file: Arc<Path>,
    pub(crate) key: String,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.file.display(), self.key)
    }
}

/// One way to come by credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    /// They stand in the file.
    Stated {
        credentials: Credentials,
        source: Source,
    },
    /// A helper is asked, under these names of the registry in turn.
    Helper {
        name: String,
        servers: Vec<String>,
        source: Source,
    },
}

/// A file that was read.
#[derive(Debug)]
pub(crate) struct AuthFile {
    path: Arc<Path>,
    digest: Digest,
    document: Document,
    /// Whether it may name helpers.
    helpers: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    #[serde(rename = "credHelpers")]
    helpers: Option<BTreeMap<String, String>>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: Secret,
    password: Secret,
    auth: Secret,
    identitytoken: Secret,
    registrytoken: Secret,
}

/// A `.dockercfg`: entries by registry, and nothing around them. Members whose names are none of a registry are passed over,
/// for they are what a newer file without credentials has.
#[derive(Debug, Default)]
struct Legacy(BTreeMap<String, Option<Entry>>);

impl<'de> Deserialize<'de> for Legacy {
    // By hand, since whatever serde would sort out by itself it would copy, secrets and all.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Legacy;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("entries by registry")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Legacy, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(key) = members.next_key::<String>()? {
                    if Place::parse(&key).is_some_and(|place| place.is_plain()) {
                        entries.insert(key, members.next_value()?);
                    } else {
                        members.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Legacy(entries))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

impl Document {
    fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        let document: Self = serde_json::from_slice(text)?;
        let says_nothing =
            document.auths.is_none() && document.helpers.is_none() && document.store.is_none();
        if !says_nothing {
            return Ok(document);
        }
        let Legacy(entries) = serde_json::from_slice(text)?;
        Ok(Self {
            auths: Some(entries),
            ..document
        })
    }
}

impl AuthFile {
    /// Reads a file; `None` if there is none. `helpers` says whether it may name helpers. Blocks. Also tells what the
    /// file system says of it.
    pub(crate) fn read(
        path: &Path,
        helpers: bool,
    ) -> Result<Option<(Self, Metadata)>, NodeCredentialsError> {
        let unreadable = |source: io::Error| NodeCredentialsError::Read {
            file: path.to_owned(),
            source: Arc::new(source),
        };
        // A pipe in the file's place must not hold the thread.
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let mut file = match OpenOptions::new()
            .read(true)
            .custom_flags(nonblocking)
            .open(path)
        {
            Ok(file) => file,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(unreadable(error)),
        };
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(NodeCredentialsError::NotAFile {
                file: path.to_owned(),
            });
        }
        let text = read_all(&mut file, &metadata)
            .map_err(unreadable)?
            .ok_or_else(|| NodeCredentialsError::TooLarge {
                file: path.to_owned(),
            })?;
        Ok(Some((Self::parse(path, &text, helpers)?, metadata)))
    }

    /// Reads what a file holds.
    pub(super) fn parse(
        path: &Path,
        text: &[u8],
        helpers: bool,
    ) -> Result<Self, NodeCredentialsError> {
        let document = Document::parse(text).map_err(|error| NodeCredentialsError::Malformed {
            file: path.to_owned(),
            line: error.line(),
            column: error.column(),
            problem: match error.classify() {
                Category::Eof => "the JSON ends too early",
                Category::Data => {
                    "a value of another kind than an authentication file has here, or a key twice"
                }
                Category::Syntax | Category::Io => "not JSON",
            },
        })?;
        Ok(Self {
            path: path.into(),
            digest: Digest::sha256_of(text),
            document,
            helpers,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The digest of its text: files with the same text have the same credentials.
    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The ways to credentials for a repository, best first, in Docker's order: the registry's helper, the store, the
    /// entry with the longest path. Entries without content, which Docker leaves for what is in the store, are none.
    pub(crate) fn candidates(
        &self,
        host: &str,
        repository: &str,
    ) -> Result<Vec<Candidate>, NodeCredentialsError> {
        let mut candidates = Vec::new();
        let helpers = self.document.helpers.iter().flatten();
        let helper = closest(helpers, host, repository, |name| !name.is_empty())
            .map(|(key, name)| (key.as_str(), name));
        let store = self
            .document
            .store
            .as_ref()
            .filter(|name| !name.is_empty())
            .map(|name| ("credsStore", name));
        for (key, name) in helper.into_iter().chain(store) {
            let source = self.source(key);
            if !self.helpers {
                return Err(NodeCredentialsError::HelperInNamespace {
                    file: self.path.to_path_buf(),
                    key: source.key,
                });
            }
            candidates.push(Candidate::Helper {
                name: name.clone(),
                servers: servers(host),
                source,
            });
        }
        let entries = self
            .document
            .auths
            .iter()
            .flatten()
            .filter_map(|(key, entry)| Some((key, entry.as_ref()?)));
        if let Some((key, entry)) = closest(entries, host, repository, |entry| !entry.is_empty()) {
            let source = self.source(key);
            let credentials =
                entry
                    .credentials()
                    .map_err(|error| NodeCredentialsError::BadEntry {
                        file: self.path.to_path_buf(),
                        key: source.key.clone(),
                        source: error,
                    })?;
            candidates.extend(credentials.map(|credentials| Candidate::Stated {
                credentials,
                source,
            }));
        }
        Ok(candidates)
    }

    fn source(&self, key: &str) -> Source {
        Source {
            file: Arc::clone(&self.path),
            key: clip(key, QUOTED_CHARACTERS),
        }
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        [
            &self.username,
            &self.password,
            &self.auth,
            &self.identitytoken,
            &self.registrytoken,
        ]
        .into_iter()
        .all(Secret::is_empty)
    }

    fn credentials(&self) -> Result<Option<Credentials>, super::CredentialsError> {
        Credentials::from_parts(
            self.username.reveal(),
            self.password.reveal(),
            self.auth.reveal(),
            "",
            self.identitytoken.reveal(),
            self.registrytoken.reveal(),
        )
    }
}

/// The usable value whose key covers a repository most closely; of equally close ones, the first in the order of keys.
fn closest<'a, V>(
    entries: impl Iterator<Item = (&'a String, &'a V)>,
    host: &str,
    repository: &str,
    usable: impl Fn(&V) -> bool,
) -> Option<(&'a String, &'a V)> {
    let mut best: Option<(usize, (&String, &V))> = None;
    for (key, value) in entries.filter(|(_, value)| usable(value)) {
        let Some(length) = Place::parse(key).and_then(|place| place.covers(host, repository))
        else {
            continue;
        };
        if best.is_none_or(|(longest, _)| length > longest) {
            best = Some((length, (key, value)));
        }
    }
    best.map(|(_, entry)| entry)
}

/// The names under which a helper may know a registry. Docker's own stands in its stores under a URL of long ago.
fn servers(host: &str) -> Vec<String> {
    if host == DOCKER {
        vec![DOCKER_LEGACY_URL.to_owned(), DOCKER.to_owned()]
    } else {
        vec![host.to_owned()]
    }
}

/// The text of a file, `None` if there is too much of it. The buffer never grows, for that would leave copies behind.
fn read_all(file: &mut File, metadata: &Metadata) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let announced = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if announced > MAX_FILE_BYTES {
        return Ok(None);
    }
    let mut text = Zeroizing::new(vec![0; announced + 1]);
    let mut length = 0;
    // A file that grows meanwhile is cut, which its parser notices.
    while length < text.len() {
        match file.read(&mut text[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(length);
    Ok(Some(text))
}

/// Where a namespace's file is expected, by its path.
pub(crate) fn namespace_files(dir: &Path, namespace: &str, name: &str) -> Option<[PathBuf; 2]> {
    is_dns_label(namespace).then(|| {
        let image = Digest::sha256_of(name.as_bytes());
        [
            // As CRI-O's credential provider names what it writes for one image of one namespace. No namespace is long
            // enough to be mistaken for it.
            dir.join(format!("{namespace}-{}.json", image.hex())),
            dir.join(format!("{namespace}.json")),
        ]
    })
}

/// What Kubernetes allows as the name of a namespace: nothing that could lead out of a folder.
fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
#[path = "file_test.rs"]
mod test;
