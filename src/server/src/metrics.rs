//! Metrics of pods and containers, which kubelet passes on at `/metrics/cadvisor`.
//!
//! Dashboards know these metrics from cAdvisor, so names, units and labels are cAdvisor's: `id` is the cgroup, `name` the
//! id of the container or pod. Metrics of a pod itself have an empty `container` and `image`, as theirs have. What they are
//! and where their values come from stands in one table (`table`); a value that this kernel or this container does not have
//! is left out, never invented. Values are whole numbers: CRI has no others.

use api::cri;
use bytes::Bytes;
use engine::stats::reading::{
    CgroupDetail, CgroupUse, ContainerMetrics, LayersDisk, NetworkUse, PodMetrics,
};
use engine::{Container, Pod};
use tonic::{Response, Status};

mod descriptor;
mod fit;
mod table;

use crate::errors::engine_status;
use crate::face::Face;
use crate::list::{Pieces, beside, encoded, pieces, whole};
use descriptor::{Descriptor, Kind, Source};
use fit::Kept;
use table::{BASE_LABELS, TABLE};

/// The RPC that tells all metrics of however many pods.
const STREAM: &str = "StreamPodSandboxMetrics";

/// One value of a metric, and what its own labels say.
#[derive(Debug, PartialEq, Eq)]
struct Value {
    labels: Vec<String>,
    value: u64,
}

/// A cgroup that metrics are told of: a container's, or a pod's own.
#[derive(Clone, Copy, Debug)]
struct Subject<'a> {
    started_at_unix_ns: i64,
    usage: &'a CgroupUse,
    detail: &'a CgroupDetail,
}

/// A container with the file system that its writable layer is on.
#[derive(Clone, Copy, Debug)]
struct InContainer<'a> {
    found: &'a ContainerMetrics,
    disk: Option<&'a LayersDisk>,
}

impl Face {
    pub(crate) fn metric_descriptors() -> cri::ListMetricDescriptorsResponse {
        let descriptors = TABLE.iter().map(|descriptor| cri::MetricDescriptor {
            name: descriptor.name.to_owned(),
            help: descriptor.help.to_owned(),
            label_keys: BASE_LABELS
                .iter()
                .chain(descriptor.labels)
                .map(|label| (*label).to_owned())
                .collect(),
        });
        cri::ListMetricDescriptorsResponse {
            descriptors: descriptors.collect(),
        }
    }

    pub(crate) async fn list_metrics(
        &self,
    ) -> Result<Response<cri::ListPodSandboxMetricsResponse>, Status> {
        let (items, kept) = self
            .metrics_items(|encode| fit::fitting(api::MAX_MESSAGE_BYTES, encode))
            .await?;
        kept.tell();
        whole(items, "metrics of pods", STREAM)
    }

    pub(crate) async fn stream_metrics(
        &self,
    ) -> Result<Response<Pieces<cri::PodSandboxMetrics>>, Status> {
        let items = self.metrics_items(|encode| encode(Kept::ALL)).await?;
        Ok(pieces(items))
    }

    /// What `of` makes of a function that encodes as much of each pod's metrics as are kept.
    async fn metrics_items<T: Send + 'static>(
        &self,
        of: impl FnOnce(&dyn Fn(Kept) -> Vec<Bytes>) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let found = self.engine.pod_metrics().await;
        let found = found.map_err(|error| engine_status(&error))?;
        let disk = self.engine.writable_layers_disk();
        beside(move || {
            of(&|kept| {
                let message = |pod| encoded(&pod_message(pod, disk.as_ref(), kept));
                found.iter().map(message).collect()
            })
        })
        .await
    }
}

fn pod_message(
    found: &PodMetrics,
    disk: Option<&LayersDisk>,
    kept: Kept,
) -> cri::PodSandboxMetrics {
    let pod = &found.pod;
    let base = pod_labels(pod);
    let mut metrics = Vec::new();
    if let Some((usage, detail)) = &found.cgroup
        && kept.has_cgroups_of_pods()
    {
        let subject = Subject {
            started_at_unix_ns: pod.created_at_unix_ns,
            usage,
            detail,
        };
        of_cgroup(subject, kept, &base, &mut metrics);
    }
    if let Some(network) = &found.network {
        of_network(network, kept, &base, &mut metrics);
    }
    cri::PodSandboxMetrics {
        pod_sandbox_id: pod.id.to_string(),
        metrics,
        container_metrics: found
            .containers
            .iter()
            .map(|container| container_message(pod, container, disk, kept))
            .collect(),
    }
}

fn container_message(
    pod: &Pod,
    found: &ContainerMetrics,
    disk: Option<&LayersDisk>,
    kept: Kept,
) -> cri::ContainerMetrics {
    let container = &found.usage.container;
    let base = container_labels(pod, container);
    let mut metrics = Vec::new();
    if let Some(usage) = &found.usage.cgroup {
        let subject = Subject {
            started_at_unix_ns: container.started_at_unix_ns,
            usage,
            detail: &found.detail,
        };
        of_cgroup(subject, kept, &base, &mut metrics);
        let inside = InContainer { found, disk };
        for descriptor in kept.table() {
            // A layer was measured some time ago, but Prometheus wants one time of all: with the old one, what was read of
            // the layer's filesystem meanwhile would be another value at the same time, and the series have gaps.
            if let Source::Container(of) | Source::Layer(of) = descriptor.source {
                let at = usage.at_unix_ns;
                add(descriptor, of(inside), at, &base, &mut metrics);
            }
        }
    }
    cri::ContainerMetrics {
        container_id: container.id.to_string(),
        metrics,
    }
}

fn of_cgroup(subject: Subject<'_>, kept: Kept, base: &[String], metrics: &mut Vec<cri::Metric>) {
    for descriptor in kept.table() {
        if let Source::Cgroup(of) = descriptor.source {
            let at = subject.usage.at_unix_ns;
            add(descriptor, of(subject), at, base, metrics);
        }
    }
}

fn of_network(network: &NetworkUse, kept: Kept, base: &[String], metrics: &mut Vec<cri::Metric>) {
    for descriptor in kept.table() {
        let Source::Network(of) = descriptor.source else {
            continue;
        };
        let values = network.default.iter().chain(&network.others);
        let values = values.map(|interface| Value {
            labels: vec![interface.name.clone()],
            value: of(interface),
        });
        let at = network.at_unix_ns;
        add(descriptor, values.collect(), at, base, metrics);
    }
}

fn add(
    descriptor: &Descriptor,
    values: Vec<Value>,
    at_unix_ns: i64,
    base: &[String],
    metrics: &mut Vec<cri::Metric>,
) {
    let kind = match descriptor.kind {
        Kind::Counter => cri::MetricType::Counter,
        Kind::Gauge => cri::MetricType::Gauge,
    };
    metrics.extend(values.into_iter().map(|value| cri::Metric {
        name: descriptor.name.to_owned(),
        timestamp: at_unix_ns,
        metric_type: kind.into(),
        label_values: base.iter().cloned().chain(value.labels).collect(),
        value: Some(cri::UInt64Value { value: value.value }),
    }));
}

/// Values of [`BASE_LABELS`].
fn pod_labels(pod: &Pod) -> Vec<String> {
    vec![
        pod.cgroup_parent.clone(),
        pod.id.to_string(),
        String::new(),
        String::new(),
        pod.config.metadata.name.clone(),
        pod.config.metadata.namespace.clone(),
    ]
}

/// Values of [`BASE_LABELS`].
fn container_labels(pod: &Pod, container: &Container) -> Vec<String> {
    // Kubelet asks for images by id, and says beside it what the user wrote.
    let image = if container.image.user_specified_image.is_empty() {
        &container.image.image
    } else {
        &container.image.user_specified_image
    };
    vec![
        container.cgroup.clone(),
        container.id.to_string(),
        image.clone(),
        container.config.metadata.name.clone(),
        pod.config.metadata.name.clone(),
        pod.config.metadata.namespace.clone(),
    ]
}

#[cfg(test)]
mod tests;
