//! Calls about the node: version, readiness, settings.

use std::collections::BTreeMap;

use api::cri;
use engine::{
    NodeStatus, NotReady,
    selinux::{Mode, Policy},
};
use serde_json::json;

use crate::face::Face;

/// Version of the kubelet's runtime API, which has been this one for all of its life.
const KUBELET_API_VERSION: &str = "0.1.0";
/// The CRI that is served.
const CRI_VERSION: &str = "v1";

impl Face {
    pub(crate) fn version_reply(&self) -> cri::VersionResponse {
        cri::VersionResponse {
            version: KUBELET_API_VERSION.to_owned(),
            runtime_name: "pintle".to_owned(),
            runtime_version: self.options.version.clone(),
            runtime_api_version: CRI_VERSION.to_owned(),
        }
    }

    pub(crate) fn status_reply(&self, verbose: bool) -> cri::StatusResponse {
        let node = self.engine.node_status();
        let info = if verbose {
            self.status_info(&node)
        } else {
            BTreeMap::new()
        };
        cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", node.runtime),
                    condition("NetworkReady", node.network),
                ],
            }),
            info,
            runtime_handlers: node
                .handlers
                .into_iter()
                .map(|handler| cri::RuntimeHandler {
                    name: handler.name,
                    features: Some(cri::RuntimeHandlerFeatures {
                        recursive_read_only_mounts: handler.recursive_read_only_mounts,
                        user_namespaces: handler.user_namespaces,
                    }),
                })
                .collect(),
            features: Some(cri::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: node.user_namespaces_host_network,
                mount_options: true,
            }),
        }
    }

    /// What operators see with `crictl info`.
    fn status_info(&self, node: &NodeStatus) -> BTreeMap<String, String> {
        let jobs: Vec<_> = self
            .engine
            .jobs()
            .into_iter()
            .map(|job| {
                json!({
                    "operation": job.operation,
                    "key": job.key,
                    "stage": job.stage,
                    "ageSeconds": job.age.as_secs_f64(),
                })
            })
            .collect();
        let stores: Vec<_> = self
            .images
            .additional_stores()
            .into_iter()
            .map(|store| {
                json!({
                    "path": store.root.display().to_string(),
                    "images": store.images,
                    "unusableImages": store.unusable_images,
                    "layers": store.layers,
                    "problem": store.problem.map(|problem| engine::error::in_full(&*problem)),
                })
            })
            .collect();
        let node = json!({
            "warnings": node.warnings,
            "selinux": selinux(node.selinux.as_ref()),
            "additionalImageStores": stores,
            "deferredUndos": node.deferred_undos,
            "jobs": jobs,
        });
        [
            ("config".to_owned(), self.options.config_json.clone()),
            ("node".to_owned(), node.to_string()),
        ]
        .into()
    }

    pub(crate) fn runtime_config_reply(&self) -> cri::RuntimeConfigResponse {
        let driver = if self.engine.systemd_cgroup() {
            cri::CgroupDriver::Systemd
        } else {
            cri::CgroupDriver::Cgroupfs
        };
        cri::RuntimeConfigResponse {
            linux: Some(cri::LinuxRuntimeConfiguration {
                cgroup_driver: driver.into(),
            }),
        }
    }

    /// The pod CIDR is the network provider's business: nothing here depends on it.
    pub(crate) fn note_runtime_config(
        request: cri::UpdateRuntimeConfigRequest,
    ) -> cri::UpdateRuntimeConfigResponse {
        let network = request
            .runtime_config
            .and_then(|config| config.network_config);
        let pod_cidr = network.map(|network| network.pod_cidr).unwrap_or_default();
        tracing::info!(pod_cidr, "the client told the node's pod CIDR");
        cri::UpdateRuntimeConfigResponse {}
    }
}

/// How SELinux is used, in words.
fn selinux(policy: Option<&Policy>) -> &'static str {
    match policy.map(|policy| policy.mode) {
        None => "unused",
        Some(Mode::Enforcing) => "enforcing",
        Some(Mode::Permissive) => "permissive",
    }
}

fn condition(name: &str, ready: Result<(), NotReady>) -> cri::RuntimeCondition {
    let (status, reason, message) = match ready {
        Ok(()) => (true, String::new(), String::new()),
        Err(why) => (false, why.reason, why.message),
    };
    cri::RuntimeCondition {
        r#type: name.to_owned(),
        status,
        reason,
        message,
    }
}
