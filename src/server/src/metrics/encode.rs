//! Metrics in their encoded form.
//!
//! A node has thousands of metrics, each with a name and seven labels or more: as messages they would be tens of thousands of
//! strings, made only to be copied once. So each is written as it is sent, and the labels that all metrics of a container
//! have in common are encoded once. Field numbers are those of `proto/cri/v1/api.proto`; the tests decode what is written.

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::descriptor::{Descriptor, Kind};

/// Field numbers of `Metric`.
mod metric {
    pub(super) const NAME: u32 = 1;
    pub(super) const TIMESTAMP: u32 = 2;
    pub(super) const TYPE: u32 = 3;
    pub(super) const LABEL_VALUES: u32 = 4;
    pub(super) const VALUE: u32 = 5;
}

/// The field of `PodSandboxMetrics` and of `ContainerMetrics` that holds the id.
const ID: u32 = 1;
/// The field of both that holds metrics.
const METRICS: u32 = 2;
/// The field of `PodSandboxMetrics` that holds `ContainerMetrics`.
const CONTAINER_METRICS: u32 = 3;
/// The field of `UInt64Value`.
const UINT64: u32 = 1;

/// A `PodSandboxMetrics` or a `ContainerMetrics` in the making.
#[derive(Debug)]
pub(super) struct Metrics {
    /// The values of [`super::table::BASE_LABELS`], as fields of a `Metric`.
    base: Vec<u8>,
    message: Vec<u8>,
}

impl Metrics {
    /// Without a metric yet.
    pub(super) fn new(id: &str, base: [&str; super::table::BASE_LABELS.len()]) -> Self {
        let (mut labels, mut message) = (Vec::new(), Vec::new());
        for value in base {
            // An empty one counts, too: labels are known by their places.
            put_text(metric::LABEL_VALUES, value, &mut labels);
        }
        if !id.is_empty() {
            put_text(ID, id, &mut message);
        }
        Self {
            base: labels,
            message,
        }
    }

    /// Where to tell the values that a metric has at a time.
    pub(super) fn of<'a>(&'a mut self, descriptor: &'a Descriptor, at_unix_ns: i64) -> Told<'a> {
        Told {
            descriptor,
            at_unix_ns,
            metrics: self,
        }
    }

    /// Adds a container's to its pod's. A message has its fields in their order: after this the pod's own cannot follow.
    pub(super) fn add_container(&mut self, container: &Self) {
        put_bytes(CONTAINER_METRICS, &container.message, &mut self.message);
    }

    /// The message.
    pub(super) fn into_message(self) -> Vec<u8> {
        self.message
    }
}

/// Takes the values of one metric.
#[derive(Debug)]
pub(super) struct Told<'a> {
    descriptor: &'a Descriptor,
    at_unix_ns: i64,
    metrics: &'a mut Metrics,
}

impl Told<'_> {
    /// A value without labels of its own, if there is one.
    pub(super) fn one(&mut self, value: Option<u64>) {
        if let Some(value) = value {
            self.value(&[], value);
        }
    }

    /// A value, and what the metric's own labels say.
    pub(super) fn value(&mut self, labels: &[&str], value: u64) {
        let name = self.descriptor.name;
        let kind = match self.descriptor.kind {
            Kind::Counter => api::cri::MetricType::Counter,
            Kind::Gauge => api::cri::MetricType::Gauge,
        };
        let numbers = [
            (metric::TIMESTAMP, self.at_unix_ns.cast_unsigned()),
            (metric::TYPE, u64::from(i32::from(kind).cast_unsigned())),
        ];
        let Metrics { base, message } = &mut *self.metrics;
        let bytes = text_len(metric::NAME, name)
            + numbers
                .iter()
                .map(|(field, number)| number_len(*field, *number))
                .sum::<usize>()
            + base.len()
            + labels
                .iter()
                .map(|label| text_len(metric::LABEL_VALUES, label))
                .sum::<usize>()
            + bytes_len(metric::VALUE, number_len(UINT64, value));
        put_head(METRICS, bytes, message);
        put_text(metric::NAME, name, message);
        for (field, number) in numbers {
            put_number(field, number, message);
        }
        message.extend_from_slice(base);
        for label in labels {
            put_text(metric::LABEL_VALUES, label, message);
        }
        put_head(metric::VALUE, number_len(UINT64, value), message);
        put_number(UINT64, value, message);
    }
}

/// What goes before the `bytes` of a text or message.
fn put_head(field: u32, bytes: usize, out: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(bytes as u64, out);
}

fn put_bytes(field: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_head(field, bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn put_text(field: u32, text: &str, out: &mut Vec<u8>) {
    put_bytes(field, text.as_bytes(), out);
}

/// Zero is what a number is that is not there.
fn put_number(field: u32, number: u64, out: &mut Vec<u8>) {
    if number != 0 {
        encode_key(field, WireType::Varint, out);
        encode_varint(number, out);
    }
}

fn number_len(field: u32, number: u64) -> usize {
    if number == 0 {
        0
    } else {
        key_len(field) + encoded_len_varint(number)
    }
}

fn bytes_len(field: u32, bytes: usize) -> usize {
    key_len(field) + encoded_len_varint(bytes as u64) + bytes
}

fn text_len(field: u32, text: &str) -> usize {
    bytes_len(field, text.len())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use api::cri;
    use prost::Message as _;

    use super::super::table::TABLE;
    use super::*;

    fn descriptor(name: &str) -> &'static Descriptor {
        TABLE.iter().find(|found| found.name == name).unwrap()
    }

    #[test]
    fn what_is_written_is_what_messages_would_be() {
        let base = ["/p/c", "c1", "", "app", "web", "default"];
        let long = "x".repeat(300);
        let mut pod = Metrics::new("p1", ["/p", "p1", "", "", "web", "default"]);
        let mut container = Metrics::new("c1", base);
        let counter = descriptor("container_memory_failures_total");
        let gauge = descriptor("container_threads");
        pod.of(gauge, 7).one(None);
        pod.of(gauge, 7).one(Some(0));
        let mut told = container.of(counter, -1);
        told.value(&["pgfault", &long], u64::MAX);
        told.value(&["", ""], 1);
        container.of(gauge, 0).one(Some(300));
        pod.add_container(&container);
        pod.add_container(&Metrics::new("", [""; 6]));
        let metric = |of: &Descriptor, kind: cri::MetricType, at, labels: &[&str], value| {
            let labels = labels.iter().map(|label| (*label).to_owned());
            cri::Metric {
                name: of.name.to_owned(),
                timestamp: at,
                metric_type: kind.into(),
                label_values: labels.collect(),
                value: Some(cri::UInt64Value { value }),
            }
        };
        let of_container = |more: &[&'static str]| [base.as_slice(), more].concat();
        let wanted = cri::PodSandboxMetrics {
            pod_sandbox_id: "p1".to_owned(),
            metrics: vec![metric(
                gauge,
                cri::MetricType::Gauge,
                7,
                &["/p", "p1", "", "", "web", "default"],
                0,
            )],
            container_metrics: vec![
                cri::ContainerMetrics {
                    container_id: "c1".to_owned(),
                    metrics: vec![
                        metric(
                            counter,
                            cri::MetricType::Counter,
                            -1,
                            &[base.as_slice(), &["pgfault", &long]].concat(),
                            u64::MAX,
                        ),
                        metric(
                            counter,
                            cri::MetricType::Counter,
                            -1,
                            &of_container(&["", ""]),
                            1,
                        ),
                        metric(gauge, cri::MetricType::Gauge, 0, &base, 300),
                    ],
                },
                cri::ContainerMetrics::default(),
            ],
        };
        let written = pod.into_message();
        assert_eq!(
            cri::PodSandboxMetrics::decode(&written[..]).unwrap(),
            wanted
        );
        assert_eq!(written, wanted.encode_to_vec());
    }
}
