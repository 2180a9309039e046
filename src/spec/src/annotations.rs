//! Annotations of a spec: what VM runtimes and sandboxes need to know of the pod, and what the operator lets through.
//!
//! kata and gVisor look for the names that containerd's CRI plugin has made usual: which spec is the sandbox, and which
//! sandbox a container belongs to. Nothing else of the client gets here unless its beginning is configured: crun, systemd
//! cgroups and others take orders from annotations. Names of our own always win.

use std::collections::{BTreeMap, HashMap};

use crate::model::{ContainerConfig, PodConfig};

fn passed(
    annotations: &BTreeMap<String, String>,
    prefixes: &[String],
) -> impl Iterator<Item = (String, String)> {
    annotations
        .iter()
        .filter(|(name, _)| {
            !name.is_empty()
                && prefixes
                    .iter()
                    .any(|prefix| !prefix.is_empty() && name.starts_with(prefix.as_str()))
        })
        .map(|(name, value)| (name.clone(), value.clone()))
}

fn of_pod(kind: &str, pod_id: &str, pod: &PodConfig) -> [(String, String); 5] {
    [
        ("container-type", kind),
        ("sandbox-id", pod_id),
        ("sandbox-name", pod.metadata.name.as_str()),
        ("sandbox-namespace", pod.metadata.namespace.as_str()),
        ("sandbox-uid", pod.metadata.uid.as_str()),
    ]
    .map(|(name, value)| (format!("io.kubernetes.cri.{name}"), value.to_owned()))
}

/// Of a container.
pub(crate) fn container(
    pod_id: &str,
    pod: &PodConfig,
    container: &ContainerConfig,
    prefixes: &[String],
) -> HashMap<String, String> {
    passed(&pod.annotations, prefixes)
        .chain(passed(&container.annotations, prefixes))
        .chain(of_pod("container", pod_id, pod))
        .chain(
            [
                ("container-name", &container.metadata.name),
                ("image-name", &container.image.user_specified_image),
            ]
            .map(|(name, value)| (format!("io.kubernetes.cri.{name}"), value.clone())),
        )
        .collect()
}

/// Of a pause container.
pub(crate) fn sandbox(
    pod_id: &str,
    pod: &PodConfig,
    prefixes: &[String],
) -> HashMap<String, String> {
    passed(&pod.annotations, prefixes)
        .chain(of_pod("sandbox", pod_id, pod))
        .collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_configured_names_pass_and_ours_win() {
        let mut pod = PodConfig::default();
        pod.metadata.name = "web".to_owned();
        pod.annotations = [
            ("io.katacontainers.config.x", "1"),
            ("run.oci.handler", "evil"),
            ("io.kubernetes.cri.sandbox-id", "evil"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let prefixes = ["io.katacontainers.".to_owned(), "io.kubernetes.".to_owned()];
        let result = container("p1", &pod, &ContainerConfig::default(), &prefixes);
        assert_eq!(result["io.katacontainers.config.x"], "1");
        assert_eq!(result["io.kubernetes.cri.sandbox-id"], "p1");
        assert_eq!(result["io.kubernetes.cri.container-type"], "container");
        assert!(!result.contains_key("run.oci.handler"));
        let none = sandbox("p1", &pod, &[String::new()]);
        assert_eq!(none.len(), 5);
        assert_eq!(none["io.kubernetes.cri.container-type"], "sandbox");
    }
}
