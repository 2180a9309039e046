//! What is said of a metric; the metrics themselves are in `table`.

use engine::stats::reading::Interface;

use super::encode::Told;
use super::{InContainer, Subject};
use Kind::{Counter, Gauge};
use Source::Network;

/// Whether a metric only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// What has the metric, and how its values there are told. No values: nothing is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// Containers, and pods that have a cgroup of their own.
    Cgroup(fn(Subject<'_>, &mut Told<'_>)),
    /// Containers alone.
    Container(fn(InContainer<'_>, &mut Told<'_>)),
    /// Containers' writable layers, which are measured beside the requests.
    Layer(fn(InContainer<'_>, &mut Told<'_>)),
    /// Interfaces of pods.
    Network(fn(&Interface) -> u64),
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// Labels beyond [`super::table::BASE_LABELS`].
    pub(super) labels: &'static [&'static str],
    pub(super) kind: Kind,
    pub(super) source: Source,
}

/// A metric without labels of its own that only grows.
pub(super) const fn counter(name: &'static str, help: &'static str, source: Source) -> Descriptor {
    labelled(name, help, &[], Counter, source)
}

/// A metric without labels of its own that goes up and down.
pub(super) const fn gauge(name: &'static str, help: &'static str, source: Source) -> Descriptor {
    labelled(name, help, &[], Gauge, source)
}

/// Any metric.
pub(super) const fn labelled(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    kind: Kind,
    source: Source,
) -> Descriptor {
    Descriptor {
        name,
        help,
        labels,
        kind,
        source,
    }
}

/// A counter of network interfaces.
pub(super) const fn interface(
    name: &'static str,
    help: &'static str,
    of: fn(&Interface) -> u64,
) -> Descriptor {
    labelled(name, help, &["interface"], Counter, Network(of))
}
