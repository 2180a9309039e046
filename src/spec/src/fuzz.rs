//! What fuzz targets call, and what has to hold whatever they send.

#![expect(clippy::expect_used, reason = "a broken promise is a finding")]

use std::path::Path;

use oci_spec::runtime::Spec;

use crate::cdi::{DeviceName, Edits, Registry, file};
use crate::classes::{self, ClassKind};
use crate::model::{ContainerConfig, PodConfig, Resources};
use crate::{
    CgroupVersion, ContainerInput, DeviceKind, HostDevice, ImageProcess, NamespacePaths, NodeFacts,
    PodFiles, ResourceClasses, RuntimeFeatures, SpecDefaults, SpecError, container,
    container::sample, update,
};

/// Longest sentence about a file. It is logged once for each request that asks for a device.
const WORDS_MAX_BYTES: usize = 8 << 10;

/// A CDI file, as JSON and as YAML. Each device of a file that is in order can be given to a container.
pub fn cdi_file(bytes: &[u8]) {
    for path in ["/etc/cdi/a.json", "/etc/cdi/a.yaml"].map(Path::new) {
        let file = match file::parse(path, bytes) {
            Ok(file) => file,
            Err(error) => {
                let words = error.to_string();
                assert!(words.starts_with("/etc/cdi/a."), "{words}");
                assert!(words.len() <= WORDS_MAX_BYTES, "{words}");
                continue;
            }
        };
        let names = file.devices.iter().map(|(device, _)| DeviceName {
            kind: file.kind.clone(),
            device: device.clone(),
        });
        let names: Vec<_> = names.collect();
        for name in &names {
            assert_eq!(DeviceName::parse(&name.to_string()).as_ref(), Ok(name));
        }
        let registry = Registry::new([(0, Ok(file))]);
        let mut edits = registry.resolve(&names).expect("devices of the file");
        for node in &mut edits.device_nodes {
            if node.to_look_at().is_some() {
                // A file may say that it is something else than what is found: such a container is refused.
                let _ = node.complete(DeviceKind::Character, 1, 3);
            }
        }
        let (pod, asked) = (PodConfig::default(), ContainerConfig::default());
        let _ = container_spec(&pod, &asked, edits, false);
    }
}

/// The spec of a container that the border let through, on a node with cgroup v1 or with `v2`.
pub fn request(pod: &PodConfig, asked: &ContainerConfig, v2: bool) {
    let _ = crate::check_pod(pod, &facts(v2), &SpecDefaults::default());
    let _ = crate::cdi::requested(&asked.cdi_devices, &asked.annotations);
    for kind in [ClassKind::BlockIo, ClassKind::Rdt] {
        let name = &asked.metadata.name;
        let _ = classes::requested(kind, name, &asked.annotations, &pod.annotations);
    }
    let _ = container_spec(pod, asked, Edits::default(), v2);
}

/// Limits of an update.
pub fn limits(asked: &Resources, v2: bool) {
    let facts = facts(v2);
    let in_force = Resources {
        cpu_shares: 2,
        memory_limit_bytes: 1 << 20,
        ..Resources::default()
    };
    let next = update::merged(&in_force, asked);
    assert_eq!(update::merged(&next, asked).cpu_shares, next.cpu_shares);
    let defaults = SpecDefaults::default();
    let _ = crate::linux_resources(&next, "linux", &facts, &defaults, &mut Vec::new());
    for limit in update::written(&next, asked, &facts) {
        assert!(!limit.file.name.contains('/'), "{limit:?}");
    }
}

fn facts(v2: bool) -> NodeFacts {
    NodeFacts {
        cgroup_version: if v2 {
            CgroupVersion::V2
        } else {
            CgroupVersion::V1
        },
        ..sample::facts()
    }
}

fn container_spec(
    pod: &PodConfig,
    asked: &ContainerConfig,
    cdi: Edits,
    v2: bool,
) -> Result<(), SpecError> {
    let image = ImageProcess {
        cmd: vec!["sh".to_owned()],
        ..ImageProcess::default()
    };
    let devices = asked.devices.iter().map(|device| HostDevice {
        container_path: device.container_path.clone(),
        kind: DeviceKind::Character,
        major: 1,
        minor: 3,
        mode: 0o600,
        uid: 0,
        gid: 0,
        access: device.permissions.clone(),
    });
    let made = container(&ContainerInput {
        pod_id: "1",
        pod,
        container: asked,
        image: &image,
        passwd: Some(b"root:x:0:0:root:/root:/bin/sh\n"),
        group: Some(b"root:x:0:\nwheel:x:10:root\n"),
        facts: &facts(v2),
        features: &RuntimeFeatures::default(),
        defaults: &SpecDefaults::default(),
        namespaces: NamespacePaths::default(),
        cgroups_path: "/p/c".to_owned(),
        rootfs: "rootfs".into(),
        files: PodFiles::default(),
        mounts: asked.mounts.clone(),
        host_devices: devices.collect(),
        classes: ResourceClasses::default(),
        cdi,
        seccomp_file: None,
        selinux: None,
    })?;
    check(&made.spec);
    Ok(())
}

/// What every runtime takes for granted of a spec, and would otherwise say in words that name no field.
fn check(spec: &Spec) {
    let text = serde_json::to_vec(spec).expect("a spec is JSON");
    let read: Spec = serde_json::from_slice(&text).expect("what was written");
    assert_eq!(&read, spec);
    let process = spec.process().as_ref().expect("a process");
    let words = process.args().iter().chain(process.env()).flatten();
    for word in words {
        assert!(!word.contains('\0'), "{word:?}");
    }
    assert!(process.cwd().is_absolute(), "{}", process.cwd().display());
    for mount in spec.mounts().iter().flatten() {
        let destination = mount.destination();
        assert!(destination.is_absolute(), "{mount:?}");
        assert!(!destination.to_string_lossy().contains('\0'), "{mount:?}");
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_file_in_order_gets_as_far_as_a_spec() {
        cdi_file(
            br#"{"cdiVersion": "0.5.0", "kind": "v.com/gpu", "devices": [{"name": "0", "containerEdits": {"env": ["A=b"]}}]}"#,
        );
        cdi_file(b"{");
        request(&PodConfig::default(), &ContainerConfig::default(), true);
        limits(&Resources::default(), false);
    }
}
