//! SELinux on this node: whether it is used, found out once at start, and the labels that pods and containers get.
//!
//! A pod's two categories are taken when its creation begins. From then on the pod's record holds them, and whatever is on
//! record is in use: nothing has to be given back, and a server that takes over reads them with the records.

mod volumes;

pub(crate) use self::volumes::relabel;

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use spec::{
    model::{ContainerConfig, NamespaceMode, PodConfig},
    selinux::{Categories, Context, PolicyLabels, SelinuxContext},
};
use state::PodId;
pub use sys::selinux::Mode;

use crate::{
    error::EngineError,
    node::{Handler, Node},
    pod_files,
    world::{Pod, World},
};

/// Where a request asks for labels.
const FIELD: &str = "config.linux.security_context.selinux_options";

/// Where tools and policies say what containers are called: the first that is there.
const TOOLS_CONTEXTS: &str = "/usr/share/containers/selinux/contexts";

/// Names the policy of the node.
const POLICY_CONFIG: &str = "/etc/selinux/config";

/// What the configuration says of SELinux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelinuxConfig {
    /// `None`: where it is active.
    pub enabled: Option<bool>,
    /// Pods get categories below this.
    pub categories: u16,
}

/// How SELinux is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What the kernel does with what is forbidden.
    pub mode: Mode,
    /// What the policy calls containers.
    pub labels: PolicyLabels,
    /// Pods get categories below this; 0 where the policy has no levels.
    pub categories: u16,
}

/// Why SELinux is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unused {
    /// The kernel does not have it, or has no policy.
    #[error("SELinux is not active on this node")]
    Inactive,
    /// The operator does not want it.
    #[error(
        "SELinux is active, and `selinux.enabled` turns labels off: containers run without them"
    )]
    TurnedOff,
    /// The policy is not made for containers.
    #[error(
        "SELinux is active, but its policy does not know {0}: containers run without labels; install the policy of containers (package container-selinux), or lower `selinux.category_range`"
    )]
    Unknown(String),
}

/// Find out whether SELinux is used, and how.
pub fn look(config: SelinuxConfig) -> Result<Policy, Unused> {
    let labels = PolicyLabels::parse(&contexts_file());
    judge(config, sys::selinux::mode(), labels, |context| {
        // A kernel that does not answer knows nothing.
        matches!(sys::selinux::canonical(context), Ok(Some(_)))
    })
}

fn judge(
    config: SelinuxConfig,
    mode: Option<Mode>,
    labels: PolicyLabels,
    knows: impl Fn(&str) -> bool,
) -> Result<Policy, Unused> {
    let mode = mode.ok_or(Unused::Inactive)?;
    if config.enabled == Some(false) {
        return Err(Unused::TurnedOff);
    }
    let has_levels = !labels.process.level.is_empty();
    let categories = if has_levels { config.categories } else { 0 };
    // Whoever knows the last pair knows all.
    let last = Categories::pairs(categories)
        .checked_sub(1)
        .and_then(Categories::nth)
        .map(|pair| pair.to_string())
        .unwrap_or_default();
    for context in [&labels.process, &labels.file] {
        let context = Context {
            level: last.clone(),
            ..context.clone()
        }
        .to_string();
        if !knows(&context) {
            return Err(Unused::Unknown(context));
        }
    }
    Ok(Policy {
        mode,
        labels,
        categories,
    })
}

/// The text that says what containers are called; empty if there is none.
fn contexts_file() -> String {
    let read = |path: &str| {
        let mut bytes = std::fs::read(path).ok()?;
        bytes.truncate(spec::selinux::MAX_FILE_BYTES);
        String::from_utf8(bytes).ok()
    };
    let of_policy = || {
        let config = read(POLICY_CONFIG)?;
        let name = policy_name(&config)?;
        read(&format!("/etc/selinux/{name}/contexts/lxc_contexts"))
    };
    read(TOOLS_CONTEXTS).or_else(of_policy).unwrap_or_default()
}

/// The policy that `/etc/selinux/config` names: `SELINUXTYPE=targeted`.
fn policy_name(config: &str) -> Option<&str> {
    let mut lines = config.lines().map(str::trim);
    let name = lines.find_map(|line| line.strip_prefix("SELINUXTYPE="))?;
    let name = name.trim();
    spec::selinux::is_name(name).then_some(name)
}

/// SELinux in use.
#[derive(Debug)]
pub(crate) struct Selinux {
    pub(crate) policy: Policy,
    /// Categories of pods that are being made.
    pending: Mutex<HashSet<Categories>>,
}

/// Categories of a pod that is being made: nobody else gets them until this is dropped, or as long as a record has them.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    of: &'a Selinux,
    categories: Categories,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.of
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.categories);
    }
}

impl Selinux {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            pending: Mutex::default(),
        }
    }

    /// Two categories that neither a pod nor a container has, nor any that is being made. `seed` is at random.
    fn take(&self, seed: u64, world: impl FnOnce() -> std::sync::Arc<World>) -> Option<Taken<'_>> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock: who is not pending any more is on record by now.
        let world = world();
        let on_record: HashSet<Categories> = world
            .pods
            .values()
            .filter_map(|pod| pod.selinux.as_ref())
            .chain(
                world
                    .containers
                    .values()
                    .filter_map(|container| container.selinux.as_ref()),
            )
            .filter_map(|labels| Categories::of_level(&labels.label.level))
            .collect();
        let is_free = |pair: &Categories| !pending.contains(pair) && !on_record.contains(pair);
        let total = Categories::pairs(self.policy.categories);
        let first = seed.checked_rem(total)?;
        let categories = (first..total)
            .chain(0..first)
            .filter_map(Categories::nth)
            .find(is_free)?;
        pending.insert(categories);
        Some(Taken {
            of: self,
            categories,
        })
    }

    /// The labels of a new pod, and the categories that were taken for it if it asks for no level.
    fn pod(
        &self,
        id: &PodId,
        config: &PodConfig,
        guest: spec::selinux::Guest,
        world: impl FnOnce() -> std::sync::Arc<World>,
    ) -> Result<(SelinuxContext, Option<Taken<'_>>), EngineError> {
        let asked = &config.security.selinux;
        let taken = if asked.level.is_empty() && self.policy.categories > 0 {
            // The id is made of random digits.
            let seed = id.as_str().get(..15).unwrap_or_default();
            let seed = u64::from_str_radix(seed, 16).unwrap_or_default();
            let taken = self.take(seed, world);
            Some(taken.ok_or(EngineError::NoCategories {
                below: self.policy.categories,
            })?)
        } else {
            None
        };
        let level = taken
            .as_ref()
            .map(|taken| taken.categories.to_string())
            .unwrap_or_default();
        let labels = spec::selinux::pod(&config.security, &self.policy.labels, &level, guest);
        Ok((labels, taken))
    }
}

/// The labels as the kernel writes them, which is what files are compared with. Labels that the policy does not have are
/// refused here: the OCI runtime's words for it would tell nobody what is wrong.
fn known(
    mut labels: SelinuxContext,
    canonical: impl Fn(&str) -> Result<Option<String>, sys::SysError>,
) -> Result<SelinuxContext, EngineError> {
    let known = |context: &Context| {
        let text = context.to_string();
        match canonical(&text)? {
            Some(text) => Ok(text.parse().unwrap_or_else(|_| context.clone())),
            None => Err(EngineError::invalid(
                FIELD,
                format!("the policy of this node does not have all that is in {text}"),
            )),
        }
    };
    if labels.confined {
        labels.label = known(&labels.label)?;
    }
    labels.files = known(&labels.files)?;
    Ok(labels)
}

impl Node {
    /// The labels of a new pod; `None` where SELinux is not used.
    pub(crate) fn pod_labels(
        &self,
        id: &PodId,
        config: &PodConfig,
        handler: &Handler,
    ) -> Result<Option<(SelinuxContext, Option<Taken<'_>>)>, EngineError> {
        let Ok(selinux) = &self.selinux else {
            return Ok(None);
        };
        let (labels, taken) = selinux.pod(id, config, handler.guest, || self.ledger.world())?;
        Ok(Some((known(labels, sys::selinux::canonical)?, taken)))
    }

    /// The labels of a new container; `None` where SELinux is not used, or was not when its pod was made.
    pub(crate) fn container_labels(
        &self,
        pod: &Pod,
        config: &ContainerConfig,
    ) -> Result<Option<SelinuxContext>, EngineError> {
        let (Some(pods), Ok(_)) = (&pod.selinux, &self.selinux) else {
            return Ok(None);
        };
        // Whoever joins another container's PID namespace is to see into it.
        let target = match &config.security.namespaces.pid {
            NamespaceMode::Target(target) => self.find_container(target).ok(),
            _ => None,
        };
        let base = target
            .as_ref()
            .filter(|target| target.pod == pod.id)
            .and_then(|target| target.selinux.as_ref())
            .unwrap_or(pods);
        let labels = spec::selinux::container(&config.security, &pod.config.security, base);
        Ok(Some(known(labels, sys::selinux::canonical)?))
    }

    /// Lets a container use the pod's files although its level is not the pod's.
    pub(crate) fn share_pod_files(
        &self,
        pod: &Pod,
        labels: &SelinuxContext,
    ) -> Result<(), EngineError> {
        match &pod.selinux {
            Some(pods) if pods.files != labels.files => {
                pod_files::label(&self.paths, &pod.id, &pods.shared().to_string())
            }
            _ => Ok(()),
        }
    }

    /// Labels a file of ours that every container may read, where SELinux is used.
    pub(crate) fn label_for_all(&self, path: &std::path::Path) -> Result<(), EngineError> {
        let Ok(selinux) = &self.selinux else {
            return Ok(());
        };
        let label = selinux.policy.labels.readonly_file.to_string();
        Ok(sys::selinux::set_label(path, &label)?)
    }

    /// Labels the directories below which layers stand, so that what is made in them later inherits it: the kernel looks at
    /// the label of a layer's own file when a program of it is mapped, whatever the overlay's label is.
    pub(crate) fn label_layers(&self) -> Result<(), EngineError> {
        if self.selinux.is_err() {
            return Ok(());
        }
        let root = self.store.root();
        let failed = |source| EngineError::Io {
            action: "list",
            path: root.to_owned(),
            source,
        };
        for entry in std::fs::read_dir(root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                self.label_for_all(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Says at start how it stands with SELinux.
    pub(crate) fn tell_of_selinux(&self) {
        if let Ok(selinux) = &self.selinux {
            tracing::info!(
                mode = ?selinux.policy.mode,
                process = %selinux.policy.labels.process,
                "containers get SELinux labels"
            );
        }
        for warning in self.selinux_warnings() {
            tracing::warn!("{warning}");
        }
    }

    /// What an operator has to know of SELinux on this node.
    pub(crate) fn selinux_warnings(&self) -> Vec<String> {
        match &self.selinux {
            Err(why @ Unused::Unknown(_)) => return vec![why.to_string()],
            Err(Unused::Inactive | Unused::TurnedOff) => return Vec::new(),
            Ok(_) => {}
        }
        let handlers = self.handlers.load();
        let unable = handlers.iter().filter(|handler| !handler.labels_processes);
        unable
            .map(|handler| {
                format!(
                    "runtime {:?} gives processes no SELinux labels: its pods run under the label that the policy chooses",
                    handler.name
                )
            })
            .collect()
    }
}

/// What the specification gets: a runtime that cannot label processes is not asked to.
pub(crate) fn for_runtime(
    labels: Option<&SelinuxContext>,
    handler: &Handler,
) -> Option<SelinuxContext> {
    labels.filter(|_| handler.labels_processes).cloned()
}

#[cfg(test)]
mod test;
