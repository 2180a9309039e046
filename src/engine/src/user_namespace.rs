//! Pods with user namespaces: whether this node can have them, and who root is in one.
//!
//! The kernel shows files of layers and volumes with the namespace's ids by idmapped mounts, which the server makes itself:
//! it does not depend on the OCI runtime. What is needed is a file system below the layers that can be mapped, and an
//! overlay that takes such layers.

use std::path::Path;

use spec::model::{ContainerConfig, IdMapping, PodConfig, UserNamespace};
use sys::idmap::IdRange;

use crate::{
    error::EngineError,
    node::{Handler, Node},
    world::Pod,
};

/// The first kernel whose overlay takes layers with mapped ids.
const OVERLAY_OF_MAPPED_LAYERS: (u32, u32) = (5, 19);

/// Why pods cannot have user namespaces here; `None` if they can.
pub(crate) fn obstacle(layers: &Path) -> Result<Option<String>, EngineError> {
    let kernel = sys::kernel::version();
    let (major, minor) = OVERLAY_OF_MAPPED_LAYERS;
    if (kernel.major, kernel.minor) < OVERLAY_OF_MAPPED_LAYERS {
        return Ok(Some(format!(
            "the kernel is older than {major}.{minor}, whose overlay takes layers with mapped ids"
        )));
    }
    if !sys::idmap::is_possible(layers)? {
        return Ok(Some(format!(
            "the file system of {} cannot be mounted with mapped ids, or user namespaces are forbidden",
            layers.display()
        )));
    }
    Ok(None)
}

impl Node {
    /// Whether pods of this handler can have user namespaces, or why not.
    pub(crate) fn user_namespaces(&self, handler: &Handler) -> Result<(), String> {
        if handler.sandbox_container {
            return Err(format!(
                "runtime {:?} runs pods in machines of their own",
                handler.name
            ));
        }
        match &self.no_user_namespaces {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        }
    }

    /// Refuse a pod whose user namespace cannot be made. Nothing less would do: without one, its root would be the node's.
    pub(crate) fn check_user_namespace(
        &self,
        config: &PodConfig,
        handler: &Handler,
    ) -> Result<(), EngineError> {
        if config.security.namespaces.user.is_none() {
            return Ok(());
        }
        self.user_namespaces(handler)
            .map_err(|why| EngineError::NoUserNamespaces { why })
    }
}

/// Whom the node takes the pod's root for: user and group.
pub(crate) fn root(config: &PodConfig) -> (u32, u32) {
    let Some(user) = &config.security.namespaces.user else {
        return (0, 0);
    };
    let first = |ranges: &[IdMapping]| {
        let range = ranges.iter().find(|range| range.container_id == 0);
        range.map_or(0, |range| range.host_id)
    };
    (first(&user.uids), first(&user.gids))
}

/// Nobody but the node's root may make device nodes, so in a user namespace runtimes mount the node's own, which they look
/// for where the container is to see them.
pub(crate) fn check_devices(pod: &Pod, config: &ContainerConfig) -> Result<(), EngineError> {
    if pod.config.security.namespaces.user.is_none() {
        return Ok(());
    }
    for (index, device) in config.devices.iter().enumerate() {
        if device.host_path != device.container_path {
            return Err(EngineError::invalid(
                format!("config.devices[{index}].container_path"),
                format!(
                    "must be {:?} as on the node, because the pod has a user namespace",
                    device.host_path
                ),
            ));
        }
    }
    Ok(())
}

/// Give a file of ours to a user and group.
pub(crate) fn give(path: &Path, (uid, gid): (u32, u32)) -> Result<(), EngineError> {
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(|source| EngineError::Io {
        action: "set the owner of",
        path: path.to_owned(),
        source,
    })
}

/// What a monitor is asked for.
pub(crate) fn request(user: &UserNamespace, pin: &Path) -> runtime::UserNamespaceRequest {
    let ranges = |mappings: &[IdMapping]| {
        let range = |mapping: &IdMapping| (mapping.container_id, mapping.host_id, mapping.length);
        mappings.iter().map(range).collect()
    };
    runtime::UserNamespaceRequest {
        pin: pin.to_owned(),
        uids: ranges(&user.uids),
        gids: ranges(&user.gids),
    }
}

/// Ranges of ids as `sys` takes them.
pub(crate) fn ranges(mappings: &[IdMapping]) -> Vec<IdRange> {
    let range = |mapping: &IdMapping| IdRange {
        inside: mapping.container_id,
        outside: mapping.host_id,
        length: mapping.length,
    };
    mappings.iter().map(range).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn root_is_who_the_mapping_says() {
        let mut config = PodConfig::default();
        assert_eq!(root(&config), (0, 0));
        let range = |host_id| {
            vec![IdMapping {
                host_id,
                container_id: 0,
                length: 65_536,
            }]
        };
        config.security.namespaces.user = Some(UserNamespace {
            uids: range(100_000),
            gids: range(200_000),
        });
        assert_eq!(root(&config), (100_000, 200_000));
    }
}
