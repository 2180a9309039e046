//! Device nodes in the container, and the rules of its device cgroup.
//!
//! `/dev/null`, `/dev/zero`, terminals and their like are made and allowed by every OCI runtime itself.

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use crate::error::SpecError;
use crate::input::{DeviceKind, HostDevice};

/// What the OCI runtime makes below `/dev` itself, or what belongs to one terminal or one mount namespace.
fn is_the_runtimes(path: &str) -> bool {
    let Some(name) = path.strip_prefix("/dev/") else {
        return false;
    };
    matches!(
        name,
        "null" | "zero" | "full" | "random" | "urandom" | "tty" | "console" | "ptmx"
    ) || ["pts/", "shm/", "mqueue/", "fd/", ".lxc/", ".lxd-mounts/"]
        .iter()
        .any(|directory| name.starts_with(directory))
}

fn check(device: &HostDevice) -> Result<(), SpecError> {
    if !device.container_path.starts_with('/') || device.container_path.contains('\0') {
        return Err(SpecError::NotAbsolute {
            field: "config.devices.container_path".to_owned(),
            path: device.container_path.clone(),
        });
    }
    let mut letters = device.access.bytes();
    if device.access.is_empty() || !letters.all(|letter| b"rwm".contains(&letter)) {
        return Err(SpecError::DevicePermissions {
            container_path: device.container_path.clone(),
            permissions: device.access.chars().take(64).collect(),
        });
    }
    Ok(())
}

/// The nodes to make. A later device at the same path replaces an earlier one.
pub(crate) fn nodes(devices: &[HostDevice]) -> Result<Vec<LinuxDevice>, SpecError> {
    let mut nodes: Vec<LinuxDevice> = Vec::with_capacity(devices.len());
    for device in devices {
        check(device)?;
        if is_the_runtimes(&device.container_path) {
            continue;
        }
        let node = LinuxDeviceBuilder::default()
            .path(device.container_path.as_str())
            .typ(kind(device))
            .major(i64::from(device.major))
            .minor(i64::from(device.minor))
            .file_mode(device.mode & 0o7777)
            .uid(device.uid)
            .gid(device.gid)
            .build()?;
        nodes.retain(|other| other.path() != node.path());
        nodes.push(node);
    }
    Ok(nodes)
}

fn kind(device: &HostDevice) -> LinuxDeviceType {
    match device.kind {
        DeviceKind::Character => LinuxDeviceType::C,
        DeviceKind::Block => LinuxDeviceType::B,
    }
}

/// The rules: nothing but what is given, or everything for a privileged container.
pub(crate) fn rules(
    devices: &[HostDevice],
    everything: bool,
) -> Result<Vec<LinuxDeviceCgroup>, SpecError> {
    let all = LinuxDeviceCgroupBuilder::default()
        .allow(everything)
        .access("rwm")
        .build()?;
    let mut rules = vec![all];
    if !everything {
        for device in devices {
            rules.push(
                LinuxDeviceCgroupBuilder::default()
                    .allow(true)
                    .typ(kind(device))
                    .major(i64::from(device.major))
                    .minor(i64::from(device.minor))
                    .access(device.access.as_str())
                    .build()?,
            );
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn device(container_path: &str, access: &str) -> HostDevice {
        HostDevice {
            container_path: container_path.to_owned(),
            kind: DeviceKind::Character,
            major: 10,
            minor: 229,
            mode: 0o020_666,
            uid: 0,
            gid: 5,
            access: access.to_owned(),
        }
    }

    #[test]
    fn a_device_is_made_and_allowed() {
        let devices = [device("/dev/fuse", "rw")];
        assert_eq!(
            serde_json::to_value(nodes(&devices).unwrap()).unwrap(),
            json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 5}])
        );
        assert_eq!(
            serde_json::to_value(rules(&devices, false).unwrap()).unwrap(),
            json!([
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            ])
        );
        assert_eq!(
            serde_json::to_value(rules(&devices, true).unwrap()).unwrap(),
            json!([{"allow": true, "access": "rwm"}])
        );
    }

    #[test]
    fn what_the_runtime_makes_is_left_to_it() {
        let devices = [
            "/dev/null",
            "/dev/pts/3",
            "/dev/console",
            "/dev/ptmx",
            "/dev/sda",
        ]
        .map(|path| device(path, "rwm"));
        let made = nodes(&devices).unwrap();
        assert_eq!(made.len(), 1);
        assert_eq!(made[0].path().to_str(), Some("/dev/sda"));
    }

    #[rstest]
    #[case("dev/fuse", "rwm")]
    #[case("", "rwm")]
    #[case("/dev/fuse", "")]
    #[case("/dev/fuse", "rx")]
    fn impossible_devices(#[case] path: &str, #[case] access: &str) {
        assert!(nodes(&[device(path, access)]).is_err());
    }
}
