//! What of pods is a unit of systemd, where that is the cgroup driver: names, marks, and the slices that pods need.
//!
//! Scopes of containers are made by the OCI runtime, at the same systemd; here they get a description by which they are known
//! to be of this server, whatever becomes of its records. Slices are made here only where nobody else did, as with clients other
//! than the kubelet.

use std::path::Path;

use oci_spec::runtime::Spec;
use spec::{
    cgroup::CgroupName,
    model::Resources,
    unit_properties::{UnitProperties, UnitValue},
};
use state::PodId;
use systemd::{Property, PropertyValue, Scope, Slice, Systemd};

use crate::{
    error::{EngineError, in_full},
    node::Node,
    world::Pod,
};

/// Beginning of the names of containers' scopes.
const CONTAINER: &str = "pintle-";
/// Beginning of the names of monitors' scopes.
const MONITOR: &str = "pintle-monitor-";
const SCOPE: &str = ".scope";
/// Annotations that begin so are properties of the scope, for every runtime that makes one.
const PROPERTY_ANNOTATION: &str = "org.systemd.property.";

/// The server's units.
#[derive(Clone, Debug)]
pub(crate) struct Units {
    systemd: Systemd,
    /// Stands in every description: a node may have several servers, each with a directory of its own.
    owner: String,
}

impl Units {
    pub(crate) fn new(systemd: Systemd, run: &Path) -> Self {
        Self {
            systemd,
            owner: run.display().to_string(),
        }
    }

    pub(crate) fn systemd(&self) -> &Systemd {
        &self.systemd
    }

    /// How a unit of this server describes itself.
    pub(crate) fn description(&self, what: &str, id: &str) -> String {
        format!("Pintle {what} {id} ({})", self.owner)
    }

    fn is_ours(&self, description: &str) -> bool {
        description.starts_with("Pintle ") && description.ends_with(&format!("({})", self.owner))
    }

    /// Have the runtime make the container's scope one that is forgotten when it failed, and that has no limit of tasks but the
    /// container's own: systemd has a default for those of which nobody says anything.
    pub(crate) fn shape(spec: &mut Spec) {
        let linux = spec.linux().as_ref();
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let tasks = resources
            .and_then(|resources| resources.pids().as_ref())
            .and_then(|pids| u64::try_from(pids.limit()).ok())
            .filter(|limit| *limit > 0)
            .unwrap_or(spec::unit_properties::INFINITY);
        let mut annotations = spec.annotations().clone().unwrap_or_default();
        for (name, value) in [
            ("CollectMode", "'inactive-or-failed'".to_owned()),
            ("TasksMax", format!("uint64 {tasks}")),
        ] {
            annotations.insert(format!("{PROPERTY_ANNOTATION}{name}"), value);
        }
        spec.set_annotations(Some(annotations));
    }

    /// Have a container's scope, just made, say that it is ours, and systemd know the limits that not every runtime tells it
    /// (runc 1.1 is silent about swap): its first reload would lift them. A quota of CPU time every runtime tells; it is left
    /// out, for systemd rounds it where the runtime has written it exactly.
    ///
    /// It is no failure of the container's creation if this fails.
    pub(crate) async fn complete_scope(&self, cgroup: &str, id: &str, limits: &Resources) {
        let mut limits = spec::unit_properties::of_limits(limits);
        limits.retain(|name, _| !name.starts_with("CPUQuota"));
        let mut all = vec![Property::text(
            "Description",
            self.description("container", id),
        )];
        all.extend(properties(&limits));
        let unit = unit_of(cgroup);
        if let Err(error) = self.systemd.set_properties(unit, &all).await {
            let error = in_full(&error);
            tracing::warn!(
                unit,
                error,
                "systemd does not know all limits of this scope: its next reload may lift some"
            );
        }
    }

    /// Put a pod's monitor into a scope of its own.
    pub(crate) async fn adopt_monitor(
        &self,
        pod: &PodId,
        pid: u32,
        slice: &str,
    ) -> Result<(), EngineError> {
        let scope = Scope {
            unit: format!("{MONITOR}{pod}{SCOPE}"),
            slice: slice.to_owned(),
            description: self.description("monitor of pod", pod.as_str()),
            pids: vec![pid],
            properties: Vec::new(),
        };
        Ok(self.systemd.start_scope(&scope).await?)
    }

    /// Make a pod's slice. One that somebody made meanwhile stays as it is.
    pub(crate) async fn make_slice(
        &self,
        unit: &str,
        pod: &PodId,
        limits: &UnitProperties,
    ) -> Result<(), EngineError> {
        let slice = Slice {
            unit: unit.to_owned(),
            description: self.description("slice of pod", pod.as_str()),
            properties: properties(limits),
        };
        self.systemd.start_slice(&slice).await?;
        Ok(())
    }

    /// Change what limits a unit.
    pub(crate) async fn limit(
        &self,
        unit: &str,
        limits: &UnitProperties,
    ) -> Result<(), EngineError> {
        Ok(self
            .systemd
            .set_properties(unit, &properties(limits))
            .await?)
    }

    /// The scopes and slices of this server.
    async fn ours(&self) -> Result<Ours, EngineError> {
        let found = self.systemd.units(&["pintle-*.scope", "*.slice"]).await?;
        let names = found
            .into_iter()
            .filter(|unit| self.is_ours(&unit.description))
            .map(|unit| unit.name);
        let (scopes, slices) = names.partition(|name| name.ends_with(SCOPE));
        Ok(Ours { scopes, slices })
    }

    /// End a unit with everything in it, at once.
    pub(crate) async fn end(&self, unit: &str) -> Result<(), EngineError> {
        self.systemd.kill(unit).await?;
        Ok(self.systemd.stop(unit).await?)
    }
}

/// Units of one server, by name.
struct Ours {
    scopes: Vec<String>,
    slices: Vec<String>,
}

fn properties(limits: &UnitProperties) -> Vec<Property> {
    limits
        .iter()
        .map(|(name, value)| Property {
            name,
            value: match value {
                UnitValue::Number(number) => PropertyValue::Number(*number),
                UnitValue::Bits(bits) => PropertyValue::Bits(bits.clone()),
            },
        })
        .collect()
}

/// What a scope of ours is for, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScopeOf<'a> {
    /// A pod's monitor.
    Monitor(&'a str),
    /// A container, or the pause container of the pod of this id.
    Container(&'a str),
}

/// Reads a scope's name.
pub(crate) fn scope_of(name: &str) -> Option<ScopeOf<'_>> {
    let stem = name.strip_suffix(SCOPE)?;
    match stem.strip_prefix(MONITOR) {
        Some(pod) => Some(ScopeOf::Monitor(pod)),
        None => stem.strip_prefix(CONTAINER).map(ScopeOf::Container),
    }
}

/// The unit of a cgroup: its last part.
pub(crate) fn unit_of(cgroup: &str) -> &str {
    cgroup.rsplit('/').next().unwrap_or(cgroup)
}

impl Node {
    /// What limits the slice of a pod, if that was made for it.
    pub(crate) async fn limit_pod(&self, pod: &Pod) -> Result<(), EngineError> {
        let Some(units) = &self.units else {
            return Ok(());
        };
        if pod.own_cgroups.first() != Some(&pod.cgroup_parent) {
            return Ok(());
        }
        let limits = spec::unit_properties::of_pod(pod.resources.as_ref(), pod.overhead.as_ref());
        units.limit(unit_of(&pod.cgroup_parent), &limits).await
    }

    /// Remove a slice that was made for a pod, or for none that is known, unless others use it by now.
    pub(crate) async fn remove_slice(
        &self,
        pod: Option<&PodId>,
        cgroup: &str,
    ) -> Result<(), EngineError> {
        let Some(units) = &self.units else {
            return self.cgroups.remove_if_empty(cgroup);
        };
        let below = |parent: &str| {
            parent
                .strip_prefix(cgroup)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let world = self.ledger.world();
        let is_used = world
            .pods
            .values()
            .any(|other| Some(&other.id) != pod && !other.released && below(&other.cgroup_parent));
        if is_used || !self.cgroups.exists(cgroup)? || !self.cgroups.layout().is_empty(cgroup)? {
            return Ok(());
        }
        Ok(units.systemd().stop(unit_of(cgroup)).await?)
    }

    /// End the scopes of this server that belong to no record. What cannot be ended is logged.
    pub(crate) async fn sweep_scopes(&self) {
        let Some(units) = &self.units else { return };
        let found = match units.ours().await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(
                    error = in_full(&error),
                    "systemd does not tell which scopes there are; leftovers stay"
                );
                return;
            }
        };
        let note = |name: &str, outcome: Result<(), EngineError>| {
            if let Err(error) = outcome {
                let error = in_full(&error);
                tracing::warn!(unit = name, error, "a leftover could not be removed whole");
            }
        };
        for name in found.scopes {
            if !self.is_scope_known(&name) {
                tracing::warn!(unit = name, "a scope without a record is ended");
                note(&name, units.end(&name).await);
            }
        }
        let world = self.ledger.world();
        for name in found.slices {
            let Ok(path) = CgroupName::slice_path(&name) else {
                continue;
            };
            let is_known = world
                .pods
                .values()
                .any(|pod| pod.own_cgroups.contains(&path));
            if !is_known && self.deferred.count() == 0 {
                note(&name, self.remove_slice(None, &path).await);
            }
        }
    }

    fn is_scope_known(&self, name: &str) -> bool {
        let world = self.ledger.world();
        let is_pod = |id: &str| {
            id.parse::<PodId>().is_ok_and(|id| {
                world.pods.contains_key(&id)
                    || self.set_aside.has_pod(&id)
                    || self.deferred.has_pod(&id)
            })
        };
        match scope_of(name) {
            Some(ScopeOf::Monitor(id)) => is_pod(id),
            Some(ScopeOf::Container(id)) => {
                is_pod(id) || id.parse().is_ok_and(|id| self.keeps_container(&world, &id))
            }
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_a_scope_is_for() {
        assert_eq!(scope_of("pintle-ab.scope"), Some(ScopeOf::Container("ab")));
        assert_eq!(
            scope_of("pintle-monitor-ab.scope"),
            Some(ScopeOf::Monitor("ab"))
        );
        assert_eq!(scope_of("pintle.slice"), None);
        assert_eq!(scope_of("docker-ab.scope"), None);
        assert_eq!(unit_of("/a.slice/a-b.slice"), "a-b.slice");
    }

    #[test]
    fn units_of_another_server_are_not_ours() {
        let bus = Systemd::new("unix:path=/none", systemd::Deadlines::default());
        let units = Units::new(bus.clone(), Path::new("/run/pintle"));
        let other = Units::new(bus, Path::new("/run/pintle2"));
        let description = units.description("container", "ab");
        assert_eq!(description, "Pintle container ab (/run/pintle)");
        assert!(units.is_ours(&description));
        assert!(!other.is_ours(&description));
        assert!(!units.is_ours("libcontainer container ab"));
    }
}
