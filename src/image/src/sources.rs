//! Where images come from: the hosts that are asked for a reference, in which order, and how.
//!
//! [`plan`] decides, from values; the other modules make these values from the operator's files: `registries.conf` with its
//! folder, `certs.d`, our own configuration and the environment. [`Sources`] reads the files at the start of a pull and
//! keeps nothing but the short names afterwards; a pull that finds the files unchanged shares what another one has read.
//!
//! | module | what it owns |
//! | --- | --- |
//! | `document` | TOML with lines |
//! | `registries_conf`, `hosts_toml` | the files' contents |
//! | `files` | the files on the disk |
//! | `short_names` | names without a host |
//! | `proxy` | the way through a proxy |
//! | `plan` | the decision |
//! | `explain` | the decision in words |

mod document;
mod explain;
mod files;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod hosts_toml;
pub(crate) mod plan;
mod proxy;
mod registries_conf;
mod short_names;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use thiserror::Error;

use crate::config::ImagesConfig;
use crate::error::ImageError;
use crate::reference::Reference;

pub(crate) use explain::LastErrors;
pub use explain::{ExplainedHost, ExplainedReference, Explanation, LastError};
pub(crate) use files::Stamp;
pub(crate) use plan::{Plan, PlannedHost, Scheme, Transport, authority, bare_host, transport};
pub(crate) use proxy::Proxies;
pub use proxy::{ProxyConfig, ProxySetting, ProxyUrl};
pub(crate) use short_names::{Meaning, ShortNames};

use files::{Registries, Warning};
use plan::Knowledge;

/// Why it cannot be said whom to ask, or nobody may be asked.
#[derive(Clone, Debug, Error)]
pub enum SourcesError {
    /// A file says something wrong.
    #[error("{place}: {reason}")]
    Wrong {
        /// The file, with the line where that is known.
        place: String,
        /// What is wrong there.
        reason: String,
    },
    /// A file is there and cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// `registries.conf` forbids the image.
    #[error("{reference} is blocked by {place}")]
    Blocked {
        /// The image.
        reference: String,
        /// The file and line.
        place: String,
    },
    /// A short name that several registries may have.
    #[error(
        "the short name {name} is ambiguous: {place} lets it stand for {candidates}; write one of these, or give it an alias"
    )]
    Ambiguous {
        /// As the user writes it.
        name: String,
        /// What it may stand for.
        candidates: String,
        /// The file and line that name these registries.
        place: String,
    },
    /// The plan has no host that may be asked.
    #[error("no host may be asked for {reference}: {reason}")]
    Nobody {
        /// The image.
        reference: String,
        /// Which hosts there are, and why they are not asked.
        reason: String,
    },
}

/// The operator's files, read when they are needed.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// What pulls of this moment go by.
    in_use: Mutex<Weak<Registries>>,
    short_names: ArcSwap<ShortNames>,
    /// Which files were warned about last, and how they were then: a warning is logged once for each change of a file.
    warned: Mutex<HashMap<PathBuf, Option<Stamp>>>,
    pub(crate) errors: LastErrors,
}

/// A plan, and what keeps the files in memory while it is carried out.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) plan: Plan,
    _registries: Arc<Registries>,
}

impl Sources {
    /// What a name stands for as far as that is known without a look at the files.
    pub(crate) fn known_meaning(&self, text: &str) -> Option<Meaning> {
        self.short_names.load().meaning(text).ok()
    }

    /// What a name stands for now. Blocks for the files.
    pub(crate) fn meaning(&self, config: &ImagesConfig, text: &str) -> Result<Meaning, ImageError> {
        if !crate::reference::has_host(text) {
            self.registries(config)?;
        }
        Ok(self.short_names.load().meaning(text)?)
    }

    /// Takes up what short names mean, if there are files that say so. What is wrong with them is logged.
    pub(crate) fn take_up_short_names(&self, config: &ImagesConfig) {
        if let Err(error) = self.registries(config) {
            tracing::warn!(%error, "short names of images have no meaning of their own until this is mended");
        }
    }

    /// Decides whom to ask for a reference. Blocks for the files.
    pub(crate) fn plan(
        &self,
        config: &ImagesConfig,
        proxies: &Proxies,
        reference: &Reference,
    ) -> Result<Found, SourcesError> {
        let registries = self.registries(config)?;
        let warnings = RefCell::new(Vec::new());
        let planned = plan::plan(
            reference,
            &Knowledge {
                own: &config.registries,
                registries: &registries.conf,
                folder: &|host| files::folder(&config.certs_dirs, host, &mut warnings.borrow_mut()),
                default_hosts: &|| {
                    files::default_hosts(&config.certs_dirs, &mut warnings.borrow_mut())
                },
                proxies,
            },
        );
        self.warn(&warnings.into_inner());
        Ok(Found {
            plan: planned?,
            _registries: registries,
        })
    }

    /// `registries.conf` as it is now.
    fn registries(&self, config: &ImagesConfig) -> Result<Arc<Registries>, SourcesError> {
        let path = &config.registries_conf;
        let known = self.lock_in_use().upgrade();
        if let Some(known) = known.filter(|known| known.is_current(path)) {
            return Ok(known);
        }
        let read = Arc::new(Registries::read(path)?);
        self.warn(&read.warnings);
        let names = ShortNames::new(&read.conf);
        if names != **self.short_names.load() {
            self.short_names.store(Arc::new(names));
        }
        *self.lock_in_use() = Arc::downgrade(&read);
        Ok(read)
    }

    fn lock_in_use(&self) -> std::sync::MutexGuard<'_, Weak<Registries>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warn(&self, warnings: &[Warning]) {
        if warnings.is_empty() {
            return;
        }
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let mut files: Vec<&PathBuf> = warnings.iter().map(|warning| &warning.file).collect();
        files.dedup();
        for file in files {
            let stamp = Stamp::of(file);
            if warned.insert(file.clone(), stamp) == Some(stamp) {
                continue;
            }
            for warning in warnings.iter().filter(|warning| warning.file == *file) {
                tracing::warn!("{}", warning.words);
            }
        }
    }
}
