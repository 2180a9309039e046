//! Whose credentials a pull uses, and who may share that pull.
//!
//! ```text
//! the request brings credentials ──yes──▶ those, and nothing else
//!        │ no
//!        ▼ for each host that is asked, the first that has an entry for it:
//! DIR/NAMESPACE-SHA256.json ─▶ DIR/NAMESPACE.json ─▶ image.auth_file ─▶ anonymous
//! ```
//!
//! Credentials that a registry refuses are refused: there is no second try with those of somebody else, or a pod would be
//! let in by secrets that it was not given. Files are read for each pull before it joins another one, and the
//! [`Scope`] tells which pulls had the same; nothing is held when no pull runs, but which files were warned of.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use state::Digest;
use tokio::sync::OnceCell;

use super::Credentials;
use super::error::NodeCredentialsError;
use super::file::{AuthFile, Candidate, Source, namespace_files};
use super::helper::Helpers;
use crate::config::ImagesConfig;
use crate::reference::{Reference, clip};

/// How many files are remembered as warned of. More namespaces than that are warned of again.
const MAX_WARNED: usize = 256;

/// Where the node's own credentials are.
#[derive(Debug)]
pub(crate) struct NodeCredentials {
    auth_file: Option<PathBuf>,
    namespaced_dir: Option<PathBuf>,
    helpers: Arc<Helpers>,
    warned: Warned,
}

impl NodeCredentials {
    pub(crate) fn new(config: &ImagesConfig) -> Self {
        let settings = &config.credentials;
        Self {
            auth_file: settings.auth_file.clone(),
            namespaced_dir: settings.namespaced_auth_dir.clone(),
            helpers: Arc::new(Helpers::new(
                &settings.helper_dirs,
                config.timeouts.credential_helper,
            )),
            warned: Warned::default(),
        }
    }

    /// The credentials of a request that brings its own.
    pub(crate) fn given(&self, credentials: Credentials) -> Keyring {
        Keyring {
            given: Some(credentials),
            files: Vec::new(),
            helpers: Arc::clone(&self.helpers),
        }
    }

    /// The credentials of a request without any. Blocks: reads the files that there are for it.
    pub(crate) fn read(
        &self,
        reference: &Reference,
        namespace: Option<&str>,
    ) -> Result<Keyring, NodeCredentialsError> {
        let mut files = Vec::new();
        let mut add = |path: &Path, helpers| {
            let found = AuthFile::read(path, helpers)?;
            if let Some((file, metadata)) = found {
                self.warned.look_at(path, &metadata);
                files.push(file);
            }
            Ok::<_, NodeCredentialsError>(())
        };
        if let (Some(dir), Some(namespace)) = (&self.namespaced_dir, namespace) {
            if let Some(paths) = namespace_files(dir, namespace, &reference.name()) {
                paths.iter().try_for_each(|path| add(path, false))?;
            } else {
                tracing::debug!(
                    namespace = clip(namespace, 80),
                    "no name of a namespace, so it has no authentication file"
                );
            }
        }
        if let Some(path) = &self.auth_file {
            add(path, true)?;
        }
        Ok(Keyring {
            given: None,
            files,
            helpers: Arc::clone(&self.helpers),
        })
    }
}

/// Whose credentials a pull has. Pulls of the same image with equal scopes are one pull.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// The request's.
    Given(Credentials),
    /// Those of these files, by path and digest. None: anonymous.
    Files(Vec<(PathBuf, Digest)>),
}

/// All credentials that one pull may use.
#[derive(Debug)]
pub(crate) struct Keyring {
    given: Option<Credentials>,
    /// Best first.
    files: Vec<AuthFile>,
    helpers: Arc<Helpers>,
}

impl Keyring {
    /// What stands in one file, and nothing else.
    pub(super) fn of_file(file: AuthFile, helpers: Helpers) -> Self {
        Self {
            given: None,
            files: vec![file],
            helpers: Arc::new(helpers),
        }
    }

    pub(crate) fn scope(&self) -> Scope {
        match &self.given {
            Some(credentials) => Scope::Given(credentials.clone()),
            None => Scope::Files(
                self.files
                    .iter()
                    .map(|file| (file.path().to_owned(), file.digest().clone()))
                    .collect(),
            ),
        }
    }

    /// What is shown to a host that is asked for a repository: the origin of a reference or a mirror of it, each by its own
    /// name and path.
    pub(crate) fn login(
        &self,
        host: &str,
        repository: &str,
        is_origin: bool,
    ) -> Result<Login, NodeCredentialsError> {
        let ways = match &self.given {
            Some(given) if given.meant_for(host, is_origin) => {
                vec![Way::Given(given.clone())]
            }
            Some(given) => {
                let elsewhere = is_origin.then(|| given.server()).flatten();
                return Ok(Login {
                    elsewhere: elsewhere.map(str::to_owned),
                    ..self.with(Vec::new())
                });
            }
            None => self
                .candidates(host, repository)?
                .into_iter()
                .map(Way::Found)
                .collect(),
        };
        Ok(self.with(ways))
    }

    fn with(&self, ways: Vec<Way>) -> Login {
        Login {
            ways,
            elsewhere: None,
            helpers: Arc::clone(&self.helpers),
            chosen: OnceCell::new(),
        }
    }

    /// Says whose credentials a host would be shown, without running a helper: `from /etc/pintle/auth.json
    /// (quay.io/team)`. `None`: nobody's.
    pub(crate) fn source(
        &self,
        host: &str,
        repository: &str,
    ) -> Result<Option<String>, NodeCredentialsError> {
        let ways: Vec<String> = self
            .candidates(host, repository)?
            .iter()
            .map(|candidate| match candidate {
                Candidate::Stated { source, .. } => format!("from {source}"),
                Candidate::Helper { name, source, .. } => {
                    format!(
                        "from docker-credential-{}, named in {source}",
                        clip(name, 80)
                    )
                }
            })
            .collect();
        Ok((!ways.is_empty()).then(|| ways.join(", or else ")))
    }

    fn candidates(
        &self,
        host: &str,
        repository: &str,
    ) -> Result<Vec<Candidate>, NodeCredentialsError> {
        let mut all = Vec::new();
        for file in &self.files {
            let found = file.candidates(host, repository)?;
            let certain = found
                .iter()
                .any(|candidate| matches!(candidate, Candidate::Stated { .. }));
            all.extend(found);
            // What stands there ends the search; a helper may know nothing.
            if certain {
                break;
            }
        }
        Ok(all)
    }
}

#[derive(Debug)]
enum Way {
    Given(Credentials),
    Found(Candidate),
}

/// The credentials that one host is shown, if it asks for any. Helpers run when it does, once.
#[derive(Debug)]
pub(crate) struct Login {
    ways: Vec<Way>,
    /// The registry that the request's credentials are for instead.
    elsewhere: Option<String>,
    helpers: Arc<Helpers>,
    chosen: OnceCell<Result<Option<Chosen>, NodeCredentialsError>>,
}

#[derive(Debug)]
struct Chosen {
    credentials: Credentials,
    /// `None`: the request.
    source: Option<Source>,
}

impl Login {
    /// Nothing to show.
    pub(crate) fn anonymous() -> Self {
        let helpers = Arc::new(Helpers::new(&[], std::time::Duration::ZERO));
        Self {
            ways: Vec::new(),
            elsewhere: None,
            helpers,
            chosen: OnceCell::new(),
        }
    }

    /// The credentials; `None` for an anonymous pull. The first call may run helpers, and the answer stays the same.
    pub(crate) async fn credentials(&self) -> Result<Option<&Credentials>, NodeCredentialsError> {
        let chosen = self.chosen.get_or_init(|| self.choose()).await;
        match chosen {
            Ok(chosen) => Ok(chosen.as_ref().map(|chosen| &chosen.credentials)),
            Err(error) => Err(error.clone()),
        }
    }

    async fn choose(&self) -> Result<Option<Chosen>, NodeCredentialsError> {
        for way in &self.ways {
            let found = match way {
                Way::Given(credentials) => Some((credentials.clone(), None)),
                Way::Found(Candidate::Stated {
                    credentials,
                    source,
                }) => Some((credentials.clone(), Some(source.clone()))),
                Way::Found(Candidate::Helper {
                    name,
                    servers,
                    source,
                }) => self
                    .ask(name, servers, source)
                    .await?
                    .map(|credentials| (credentials, Some(source.clone()))),
            };
            if let Some((credentials, source)) = found {
                return Ok(Some(Chosen {
                    credentials,
                    source,
                }));
            }
        }
        Ok(None)
    }

    async fn ask(
        &self,
        name: &str,
        servers: &[String],
        source: &Source,
    ) -> Result<Option<Credentials>, NodeCredentialsError> {
        for server in servers {
            let answer = self.helpers.get(name, server).await;
            let answer = answer.map_err(|fault| NodeCredentialsError::Helper {
                name: clip(name, 80),
                file: source.file.to_path_buf(),
                key: source.key.clone(),
                fault,
            })?;
            if answer.is_some() {
                return Ok(answer);
            }
        }
        Ok(None)
    }

    /// What a refusal means for whoever can mend it.
    pub(crate) fn hint(&self) -> String {
        match (self.chosen.get(), &self.elsewhere) {
            (Some(Ok(Some(chosen))), _) => match &chosen.source {
                None => "the given credentials were not accepted".to_owned(),
                Some(source) => format!("the credentials from {source} were not accepted"),
            },
            (_, Some(server)) => format!(
                "the given credentials are for {} and were not shown",
                clip(server, 80)
            ),
            _ => "no credentials were given; the image may not exist or need some".to_owned(),
        }
    }
}

/// Which files were warned of, as they were then.
#[derive(Debug, Default)]
struct Warned(Mutex<HashMap<PathBuf, (u64, i64, i64)>>);

impl Warned {
    /// Warns of a file that others may read or write, once until it changes.
    fn look_at(&self, path: &Path, metadata: &Metadata) {
        let Some(problem) = exposure_of(metadata) else {
            return;
        };
        let state = (metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
        let mut warned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.get(path) == Some(&state) {
            return;
        }
        if warned.len() >= MAX_WARNED {
            warned.clear();
        }
        warned.insert(path.to_owned(), state);
        drop(warned);
        tracing::warn!(
            file = %path.display(),
            mode = format!("{:04o}", metadata.permissions().mode() & 0o7777),
            "an authentication file {problem}; mend it with `chown root:root` and `chmod 600`"
        );
    }
}

/// Who beside root can come at the secrets of a file, as the rest of a sentence that begins with its name.
pub(crate) fn exposure_of(metadata: &Metadata) -> Option<&'static str> {
    exposure(
        metadata.permissions().mode(),
        metadata.uid(),
        metadata.gid(),
    )
}

fn exposure(mode: u32, uid: u32, gid: u32) -> Option<&'static str> {
    if uid != 0 {
        Some("belongs to another user than root")
    } else if mode & 0o002 != 0 || (gid != 0 && mode & 0o020 != 0) {
        Some("can be written by others than root")
    } else if mode & 0o004 != 0 || (gid != 0 && mode & 0o040 != 0) {
        Some("can be read by others than root")
    } else {
        None
    }
}

#[cfg(test)]
#[path = "keyring_test.rs"]
mod test;
