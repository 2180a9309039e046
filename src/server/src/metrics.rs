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
mod encode;
mod fit;
mod table;

use crate::errors::engine_status;
use crate::face::Face;
use crate::list::{Pieces, beside, pieces, whole};
use descriptor::Source;
use encode::Metrics;
use fit::Kept;
use table::{BASE_LABELS, TABLE};

/// The RPC that tells all metrics of however many pods.
const STREAM: &str = "StreamPodSandboxMetrics";

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
                let message = |pod| pod_message(pod, disk.as_ref(), kept).into();
                found.iter().map(message).collect()
            })
        })
        .await
    }
}

/// An encoded `PodSandboxMetrics`.
fn pod_message(found: &PodMetrics, disk: Option<&LayersDisk>, kept: Kept) -> Vec<u8> {
    let pod = &found.pod;
    let mut metrics = Metrics::new(pod.id.as_str(), pod_labels(pod));
    if let Some((usage, detail)) = &found.cgroup
        && kept.has_cgroups_of_pods()
    {
        let subject = Subject {
            started_at_unix_ns: pod.created_at_unix_ns,
            usage,
            detail,
        };
        of_cgroup(subject, kept, &mut metrics);
    }
    if let Some(network) = &found.network {
        of_network(network, kept, &mut metrics);
    }
    for container in &found.containers {
        metrics.add_container(&of_container(pod, container, disk, kept));
    }
    metrics.into_message()
}

fn of_container(
    pod: &Pod,
    found: &ContainerMetrics,
    disk: Option<&LayersDisk>,
    kept: Kept,
) -> Metrics {
    let container = &found.usage.container;
    let mut metrics = Metrics::new(container.id.as_str(), container_labels(pod, container));
    if let Some(usage) = &found.usage.cgroup {
        let subject = Subject {
            started_at_unix_ns: container.started_at_unix_ns,
            usage,
            detail: &found.detail,
        };
        of_cgroup(subject, kept, &mut metrics);
        let inside = InContainer { found, disk };
        for descriptor in kept.table() {
            // A layer was measured some time ago, but Prometheus wants one time of all: with the old one, what was read of
            // the layer's filesystem meanwhile would be another value at the same time, and the series have gaps.
            if let Source::Container(tell) | Source::Layer(tell) = descriptor.source {
                tell(inside, &mut metrics.of(descriptor, usage.at_unix_ns));
            }
        }
    }
    metrics
}

fn of_cgroup(subject: Subject<'_>, kept: Kept, metrics: &mut Metrics) {
    for descriptor in kept.table() {
        if let Source::Cgroup(tell) = descriptor.source {
            let at = subject.usage.at_unix_ns;
            tell(subject, &mut metrics.of(descriptor, at));
        }
    }
}

fn of_network(network: &NetworkUse, kept: Kept, metrics: &mut Metrics) {
    for descriptor in kept.table() {
        if let Source::Network(value) = descriptor.source {
            let mut told = metrics.of(descriptor, network.at_unix_ns);
            for interface in network.default.iter().chain(&network.others) {
                told.value(&[&interface.name], value(interface));
            }
        }
    }
}

/// Values of [`BASE_LABELS`].
fn pod_labels(pod: &Pod) -> [&str; BASE_LABELS.len()] {
    [
        &pod.cgroup_parent,
        pod.id.as_str(),
        "",
        "",
        &pod.config.metadata.name,
        &pod.config.metadata.namespace,
    ]
}

/// Values of [`BASE_LABELS`].
fn container_labels<'a>(pod: &'a Pod, container: &'a Container) -> [&'a str; BASE_LABELS.len()] {
    // Kubelet asks for images by id, and says beside it what the user wrote.
    let image = if container.image.user_specified_image.is_empty() {
        &container.image.image
    } else {
        &container.image.user_specified_image
    };
    [
        &container.cgroup,
        container.id.as_str(),
        image,
        &container.config.metadata.name,
        &pod.config.metadata.name,
        &pod.config.metadata.namespace,
    ]
}

#[cfg(test)]
mod tests;
