//! From what the node runs to CRI messages.
//!
//! The items of lists are encoded here once per object and kept with it; see [`crate::list`].

use api::cri;
use spec::model;

mod container;
mod image;
mod pod;
mod stats;

pub(crate) use container::{container_info, container_item, container_status};
pub(crate) use image::{image_info, image_item, image_message};
pub(crate) use pod::{pod_info, pod_item, pod_status};
pub(crate) use stats::{container_stats, pod_stats};

fn namespace_options(namespaces: &model::Namespaces) -> cri::NamespaceOption {
    let mode = |mode: &model::NamespaceMode| {
        let mode = match mode {
            model::NamespaceMode::Pod => cri::NamespaceMode::Pod,
            model::NamespaceMode::Container => cri::NamespaceMode::Container,
            model::NamespaceMode::Node => cri::NamespaceMode::Node,
            model::NamespaceMode::Target(_) => cri::NamespaceMode::Target,
        };
        mode.into()
    };
    cri::NamespaceOption {
        network: mode(&namespaces.network),
        pid: mode(&namespaces.pid),
        ipc: mode(&namespaces.ipc),
        target_id: match &namespaces.pid {
            model::NamespaceMode::Target(id) => id.clone(),
            _ => String::new(),
        },
        userns_options: namespaces.user.as_ref().map(|user| cri::UserNamespace {
            mode: cri::NamespaceMode::Pod.into(),
            uids: id_mappings(&user.uids),
            gids: id_mappings(&user.gids),
        }),
    }
}

fn id_mappings(mappings: &[model::IdMapping]) -> Vec<cri::IdMapping> {
    mappings
        .iter()
        .map(|mapping| cri::IdMapping {
            host_id: mapping.host_id,
            container_id: mapping.container_id,
            length: mapping.length,
        })
        .collect()
}

fn image_spec(image: &model::ImageSpec) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.image.clone(),
        annotations: image.annotations.clone(),
        user_specified_image: image.user_specified_image.clone(),
        runtime_handler: image.runtime_handler.clone(),
        image_ref: image.image_ref.clone(),
    }
}

/// Labels for people; the process' is null where the policy chooses it.
fn selinux(labels: Option<&spec::selinux::SelinuxContext>) -> serde_json::Value {
    labels.map_or(serde_json::Value::Null, |labels| {
        serde_json::json!({ "processLabel": labels.process(), "mountLabel": labels.mount() })
    })
}

/// The `info` of a verbose reply: one JSON object under the key that crictl looks for.
fn info(value: &serde_json::Value) -> std::collections::BTreeMap<String, String> {
    [("info".to_owned(), value.to_string())].into()
}

#[cfg(test)]
mod tests;
