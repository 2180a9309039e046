//! `registries.d`: where the signatures of images are kept that do not lie in their registries, and whether those that do
//! are looked for. The files are those of containers-registries.d(5); what they say about writing does not concern us.
//!
//! Pure but for [`Places::read`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::Deserialize;
use state::Digest;

use crate::reference::{Reference, clip};

use super::bounded::read_bounded;
use super::scope::scopes;

/// Most files that are read.
const MAX_FILES: usize = 1000;
/// The longest of them, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// One file. Other keys concern those who sign.
#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(rename = "default-docker", default)]
    default: Option<Section>,
    #[serde(default)]
    docker: Option<BTreeMap<String, Option<Section>>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Section {
    #[serde(default)]
    lookaside: Option<String>,
    /// Its old name.
    #[serde(default)]
    sigstore: Option<String>,
    #[serde(rename = "use-sigstore-attachments", default)]
    attachments: Option<bool>,
}

/// What all files say together.
#[derive(Debug, Default)]
pub(super) struct Places {
    default: Option<(Section, PathBuf)>,
    docker: BTreeMap<String, (Section, PathBuf)>,
}

/// Where the signatures of one image are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Where simple signing keeps those of this repository, without the digest.
    pub(super) lookaside: Url,
    /// Whether cosign's are to be looked for in the registry; `None` if nobody said.
    pub(super) attachments: Option<bool>,
}

impl Places {
    /// Reads all files of the folder. One that is not there is empty.
    pub(super) fn read(folder: &Path) -> Result<Self, String> {
        let mut names = Vec::new();
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(format!("{}: {error}", folder.display())),
        };
        for entry in entries {
            let path = entry
                .map_err(|error| format!("{}: {error}", folder.display()))?
                .path();
            if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                names.push(path);
            }
            if names.len() > MAX_FILES {
                return Err(format!(
                    "{} holds more than {MAX_FILES} files",
                    folder.display()
                ));
            }
        }
        names.sort();
        let mut places = Self::default();
        for path in names {
            let bytes = read_bounded(&path, MAX_FILE_BYTES)?;
            places.add(&path, &bytes)?;
        }
        Ok(places)
    }

    fn add(&mut self, path: &Path, bytes: &[u8]) -> Result<(), String> {
        let file = parse(bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        let twice = |what: &str, other: &Path| {
            format!(
                "{what} stands in {} and in {}",
                other.display(),
                path.display()
            )
        };
        if let Some(section) = file.default {
            if let Some((_, other)) = &self.default {
                return Err(twice("default-docker", other));
            }
            self.default = Some((section, path.to_owned()));
        }
        for (scope, section) in file.docker.into_iter().flatten() {
            if let Some((_, other)) = self.docker.get(&scope) {
                return Err(twice(&format!("docker.\"{}\"", clip(&scope, 100)), other));
            }
            self.docker
                .insert(scope, (section.unwrap_or_default(), path.to_owned()));
        }
        Ok(())
    }

    /// Where the signatures of an image are. `fallback` is the folder for those of whom nothing is said.
    pub(super) fn of(&self, reference: &Reference, fallback: &Path) -> Result<Place, String> {
        let sections: Vec<&(Section, PathBuf)> = scopes(reference)
            .iter()
            .filter_map(|scope| self.docker.get(scope))
            .chain(&self.default)
            .collect();
        let attachments = sections.iter().find_map(|(section, _)| section.attachments);
        let base = sections.iter().find_map(|(section, path)| {
            let url = section.lookaside.as_ref().or(section.sigstore.as_ref());
            url.filter(|url| !url.is_empty()).map(|url| (url, path))
        });
        let base = match base {
            Some((text, path)) => {
                let bad = |why: &str| {
                    format!(
                        "{}: lookaside \"{}\" {why}",
                        path.display(),
                        clip(text, 160)
                    )
                };
                let url = Url::parse(text).map_err(|_| bad("is no URL"))?;
                if !matches!(url.scheme(), "http" | "https" | "file") {
                    return Err(bad("is not on http, https or file"));
                }
                if url.scheme() == "file" && url.to_file_path().is_err() {
                    return Err(bad("names no local path"));
                }
                url
            }
            None => Url::from_file_path(fallback)
                .map_err(|()| format!("{} is not an absolute path", fallback.display()))?,
        };
        let mut lookaside = base;
        let path = format!(
            "{}/{}",
            lookaside.path().trim_end_matches('/'),
            reference.repository()
        );
        lookaside.set_path(&path);
        Ok(Place {
            lookaside,
            attachments,
        })
    }
}

impl Place {
    /// Where the signature of this number, from 1 on, is kept.
    pub(super) fn signature(&self, digest: &Digest, number: usize) -> Url {
        let mut url = self.lookaside.clone();
        let path = format!(
            "{}@{}={}/signature-{number}",
            url.path(),
            digest.algorithm().name(),
            digest.hex()
        );
        url.set_path(&path);
        url
    }
}

fn parse(bytes: &[u8]) -> Result<File, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let options = serde_saphyr::options! {
        with_snippet: false,
        emit_comments: false,
    };
    // An empty file is null.
    serde_saphyr::from_str_with_options::<Option<File>>(text, options)
        .map(Option::unwrap_or_default)
        .map_err(|error| clip(&error.without_snippet().render(), 200))
}

#[cfg(test)]
#[path = "lookaside_test.rs"]
mod test;
