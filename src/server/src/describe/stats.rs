//! What containers and pods use, in CRI's words.

use std::path::Path;

use api::cri;
use engine::stats::reading::{
    CgroupUse, ContainerUse, Interface, MemoryUse, NetworkUse, PodUse, Pressure, PressureLine,
};
use engine::{Container, Pod};

use super::{container, pod};

/// Nanoseconds of a microsecond, the kernel's unit of pressure.
const US: u64 = 1_000;

/// What a container uses. `layers` is where writable layers are.
pub(crate) fn container_stats(found: &ContainerUse, layers: &Path) -> cri::ContainerStats {
    let cgroup = found.cgroup.as_ref();
    cri::ContainerStats {
        attributes: Some(container_attributes(&found.container)),
        cpu: cgroup.and_then(cpu),
        memory: cgroup.and_then(memory),
        writable_layer: found.disk.map(|disk| cri::FilesystemUsage {
            timestamp: disk.at_unix_ns,
            fs_id: Some(cri::FilesystemIdentifier {
                mountpoint: layers.to_string_lossy().into_owned(),
            }),
            used_bytes: count(disk.bytes),
            inodes_used: count(disk.inodes),
        }),
        swap: cgroup.and_then(|cgroup| {
            cgroup.swap.map(|swap| cri::SwapUsage {
                timestamp: cgroup.at_unix_ns,
                swap_available_bytes: swap.available_bytes.and_then(count),
                swap_usage_bytes: count(swap.usage_bytes),
            })
        }),
        io: cgroup.and_then(io),
    }
}

/// What a pod and its containers use.
pub(crate) fn pod_stats(found: &PodUse, layers: &Path) -> cri::PodSandboxStats {
    let cgroup = found.cgroup.as_ref();
    cri::PodSandboxStats {
        attributes: Some(pod_attributes(&found.pod)),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: cgroup.and_then(cpu),
            memory: cgroup.and_then(memory),
            network: found.network.as_ref().map(network),
            process: cgroup.and_then(|cgroup| {
                cgroup.tasks.map(|tasks| cri::ProcessUsage {
                    timestamp: cgroup.at_unix_ns,
                    process_count: count(tasks),
                })
            }),
            containers: found
                .containers
                .iter()
                .map(|one| container_stats(one, layers))
                .collect(),
            io: cgroup.and_then(io),
        }),
        windows: None,
    }
}

fn container_attributes(found: &Container) -> cri::ContainerAttributes {
    cri::ContainerAttributes {
        id: found.id.to_string(),
        metadata: Some(container::metadata(found)),
        labels: found.config.labels.clone(),
        annotations: found.config.annotations.clone(),
    }
}

fn pod_attributes(found: &Pod) -> cri::PodSandboxAttributes {
    cri::PodSandboxAttributes {
        id: found.id.to_string(),
        metadata: Some(pod::metadata(found)),
        labels: found.config.labels.clone(),
        annotations: found.config.annotations.clone(),
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "CRI's numbers are messages, which may be absent"
)]
fn count(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

fn cpu(cgroup: &CgroupUse) -> Option<cri::CpuUsage> {
    cgroup.cpu.map(|cpu| cri::CpuUsage {
        timestamp: cgroup.at_unix_ns,
        usage_core_nano_seconds: count(cpu.usage_ns),
        usage_nano_cores: cpu.nano_cores.and_then(count),
        psi: cpu.pressure.map(psi),
    })
}

fn memory(cgroup: &CgroupUse) -> Option<cri::MemoryUsage> {
    cgroup.memory.map(|memory: MemoryUse| cri::MemoryUsage {
        timestamp: cgroup.at_unix_ns,
        working_set_bytes: count(memory.working_set_bytes),
        available_bytes: memory.available_bytes.and_then(count),
        usage_bytes: count(memory.usage_bytes),
        rss_bytes: memory.rss_bytes.and_then(count),
        page_faults: memory.page_faults.and_then(count),
        major_page_faults: memory.major_page_faults.and_then(count),
        psi: memory.pressure.map(psi),
    })
}

fn io(cgroup: &CgroupUse) -> Option<cri::IoUsage> {
    cgroup.io_pressure.map(|pressure| cri::IoUsage {
        timestamp: cgroup.at_unix_ns,
        psi: Some(psi(pressure)),
    })
}

fn psi(pressure: Pressure) -> cri::PsiStats {
    let line = |line: PressureLine| cri::PsiData {
        total: line.total_us.saturating_mul(US),
        avg10: line.avg10,
        avg60: line.avg60,
        avg300: line.avg300,
    };
    cri::PsiStats {
        full: pressure.full.map(line),
        some: Some(line(pressure.some)),
    }
}

fn network(found: &NetworkUse) -> cri::NetworkUsage {
    let interface = |one: &Interface| cri::NetworkInterfaceUsage {
        name: one.name.clone(),
        rx_bytes: count(one.receive.bytes),
        rx_errors: count(one.receive.errors),
        tx_bytes: count(one.transmit.bytes),
        tx_errors: count(one.transmit.errors),
    };
    cri::NetworkUsage {
        timestamp: found.at_unix_ns,
        default_interface: found.default.as_ref().map(interface),
        interfaces: found.others.iter().map(interface).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::sync::Arc;

    use engine::stats::reading::{CpuUse, Direction, DiskUse, SwapUse};

    use super::*;
    use crate::samples;

    fn value(number: Option<&cri::UInt64Value>) -> Option<u64> {
        number.map(|number| number.value)
    }

    fn usage() -> CgroupUse {
        let some = PressureLine {
            avg10: 1.5,
            avg60: 0.5,
            avg300: 0.25,
            total_us: 7,
        };
        CgroupUse {
            at_unix_ns: 99,
            cpu: Some(CpuUse {
                usage_ns: 1,
                nano_cores: Some(2),
                pressure: Some(Pressure { some, full: None }),
            }),
            memory: Some(MemoryUse {
                usage_bytes: 3,
                working_set_bytes: 4,
                available_bytes: None,
                rss_bytes: Some(5),
                page_faults: Some(6),
                major_page_faults: Some(7),
                pressure: None,
            }),
            swap: Some(SwapUse {
                usage_bytes: 8,
                available_bytes: Some(9),
            }),
            io_pressure: None,
            tasks: Some(10),
        }
    }

    #[test]
    fn everything_that_is_known_is_told_and_nothing_else() {
        let one = ContainerUse {
            container: Arc::new(samples::container("c", "a", &[("app", "web")])),
            cgroup: Some(usage()),
            disk: Some(DiskUse {
                at_unix_ns: 50,
                bytes: 11,
                inodes: 12,
            }),
        };
        let interface = |name: &str| Interface {
            name: name.to_owned(),
            receive: Direction {
                bytes: 1,
                packets: 2,
                errors: 3,
                dropped: 4,
            },
            transmit: Direction {
                bytes: 5,
                packets: 6,
                errors: 7,
                dropped: 8,
            },
        };
        let found = pod_stats(
            &PodUse {
                pod: Arc::new(samples::pod("a", &[])),
                cgroup: Some(usage()),
                network: Some(NetworkUse {
                    at_unix_ns: 98,
                    default: Some(interface("eth0")),
                    others: vec![interface("net1")],
                }),
                containers: vec![one],
            },
            Path::new("/layers"),
        );
        let attributes = found.attributes.unwrap();
        assert_eq!(attributes.metadata.unwrap().attempt, 4);
        let linux = found.linux.unwrap();
        assert_eq!(
            value(linux.process.unwrap().process_count.as_ref()),
            Some(10)
        );
        assert_eq!(linux.io, None);
        let network = linux.network.unwrap();
        let default = network.default_interface.unwrap();
        assert_eq!(default.name, "eth0");
        assert_eq!(value(default.rx_bytes.as_ref()), Some(1));
        assert_eq!(value(default.rx_errors.as_ref()), Some(3));
        assert_eq!(value(default.tx_bytes.as_ref()), Some(5));
        assert_eq!(value(default.tx_errors.as_ref()), Some(7));
        assert_eq!(network.interfaces[0].name, "net1");

        let container = &linux.containers[0];
        let cpu = container.cpu.as_ref().unwrap();
        assert_eq!(cpu.timestamp, 99);
        assert_eq!(value(cpu.usage_core_nano_seconds.as_ref()), Some(1));
        assert_eq!(value(cpu.usage_nano_cores.as_ref()), Some(2));
        let psi = cpu.psi.as_ref().unwrap();
        assert_eq!(psi.some.as_ref().unwrap().total, 7_000);
        assert_eq!(psi.full, None);
        let memory = container.memory.as_ref().unwrap();
        assert_eq!(value(memory.usage_bytes.as_ref()), Some(3));
        assert_eq!(value(memory.working_set_bytes.as_ref()), Some(4));
        assert_eq!(memory.available_bytes, None);
        assert_eq!(value(memory.rss_bytes.as_ref()), Some(5));
        assert_eq!(value(memory.page_faults.as_ref()), Some(6));
        assert_eq!(value(memory.major_page_faults.as_ref()), Some(7));
        let swap = container.swap.as_ref().unwrap();
        assert_eq!(value(swap.swap_usage_bytes.as_ref()), Some(8));
        assert_eq!(value(swap.swap_available_bytes.as_ref()), Some(9));
        let layer = container.writable_layer.as_ref().unwrap();
        assert_eq!(layer.timestamp, 50);
        assert_eq!(layer.fs_id.as_ref().unwrap().mountpoint, "/layers");
        assert_eq!(value(layer.used_bytes.as_ref()), Some(11));
        assert_eq!(value(layer.inodes_used.as_ref()), Some(12));
        let attributes = container.attributes.as_ref().unwrap();
        assert_eq!(attributes.labels["app"], "web");
    }

    #[test]
    fn a_container_whose_cgroup_is_gone_has_attributes_alone() {
        let found = container_stats(
            &ContainerUse {
                container: Arc::new(samples::container("c", "a", &[])),
                cgroup: None,
                disk: None,
            },
            Path::new("/layers"),
        );
        assert!(found.attributes.is_some());
        assert_eq!(
            found,
            cri::ContainerStats {
                attributes: found.attributes.clone(),
                ..cri::ContainerStats::default()
            }
        );
    }
}
