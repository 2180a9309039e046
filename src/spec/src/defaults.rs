//! What the operator may configure about every container.

use std::collections::BTreeMap;

use crate::capability::Capability;
use crate::rlimit::Rlimit;
use crate::seccomp::Profile;

/// Configuration of spec generation. [`SpecDefaults::default`] is what holds without a configuration file.
#[derive(Clone, Debug)]
pub struct SpecDefaults {
    /// Capabilities of a container that asks for no changes.
    pub capabilities: Vec<Capability>,
    /// The `RuntimeDefault` seccomp profile.
    pub seccomp: Profile,
    /// The `RuntimeDefault` AppArmor profile, if it is loaded.
    pub apparmor: Option<String>,
    /// Sysctls of pods that do not set them; those of a namespace that the pod shares with the node are left out.
    pub sysctls: BTreeMap<String, String>,
    /// Process limits; others are inherited from the server.
    pub rlimits: Vec<Rlimit>,
    /// Memory limits below this are refused, because the OCI runtime's own start would not fit.
    pub min_memory_bytes: i64,
    /// Beginnings of annotation names that are handed on to the OCI runtime. None by default: crun and others take
    /// orders from annotations, and pods are written by users.
    pub annotation_prefixes: Vec<String>,
    /// Give privileged containers only the devices that they ask for.
    pub privileged_without_host_devices: bool,
}

impl Default for SpecDefaults {
    fn default() -> Self {
        Self {
            capabilities: Capability::CONTAINER_DEFAULT.to_vec(),
            seccomp: Profile::built_in(),
            apparmor: None,
            sysctls: BTreeMap::new(),
            rlimits: Vec::new(),
            min_memory_bytes: 6 * 1024 * 1024,
            annotation_prefixes: Vec::new(),
            privileged_without_host_devices: false,
        }
    }
}
