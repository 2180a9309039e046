//! Device nodes of the node, looked up for containers that ask for them.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use spec::{DeviceKind, HostDevice, model::Device};

use crate::error::EngineError;

/// Device directories can nest; real ones (`/dev/bus/usb/…`) are four deep.
const MAX_DEPTH: u32 = 8;

/// Directories of `/dev` that a privileged container gets from its own mounts, not as nodes.
const NOT_FROM_THE_NODE: [&str; 6] = ["pts", "shm", "mqueue", "fd", "console", "ptmx"];

/// The device nodes behind `devices`, and with `every` all of the node's too.
pub(crate) fn resolve(devices: &[Device], every: bool) -> Result<Vec<HostDevice>, EngineError> {
    let mut found = Vec::new();
    if every {
        collect(Path::new("/dev"), Path::new("/dev"), "rwm", 0, &mut found);
    }
    for (index, device) in devices.iter().enumerate() {
        let (host, inside) = (
            Path::new(&device.host_path),
            Path::new(&device.container_path),
        );
        let action = "look at the device";
        let kind = fs::metadata(host).map_err(|source| EngineError::Io {
            action,
            path: host.to_owned(),
            source,
        })?;
        if kind.is_dir() {
            collect(host, inside, &device.permissions, 0, &mut found);
        } else if let Some(device) = node(host, inside, &device.permissions) {
            found.retain(|other: &HostDevice| other.container_path != device.container_path);
            found.push(device);
        } else {
            return Err(EngineError::invalid(
                format!("config.devices[{index}].host_path"),
                format!(
                    "{} is neither a device node nor a directory of them",
                    host.display()
                ),
            ));
        }
    }
    Ok(found)
}

/// Nodes below a directory. What vanishes or cannot be read meanwhile is not there.
fn collect(
    directory: &Path,
    inside: &Path,
    permissions: &str,
    depth: u32,
    found: &mut Vec<HostDevice>,
) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if depth == 0
            && directory == Path::new("/dev")
            && NOT_FROM_THE_NODE.iter().any(|skipped| name == *skipped)
        {
            continue;
        }
        let (host, inside) = (entry.path(), inside.join(&name));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => {
                collect(&host, &inside, permissions, depth + 1, found);
            }
            Ok(kind) if kind.is_block_device() || kind.is_char_device() => {
                found.extend(node(&host, &inside, permissions));
            }
            _ => {}
        }
    }
}

fn node(host: &Path, inside: &Path, permissions: &str) -> Option<HostDevice> {
    let metadata = fs::metadata(host).ok()?;
    let kind = if metadata.file_type().is_block_device() {
        DeviceKind::Block
    } else if metadata.file_type().is_char_device() {
        DeviceKind::Character
    } else {
        return None;
    };
    let number = metadata.rdev();
    Some(HostDevice {
        container_path: inside.to_string_lossy().into_owned(),
        kind,
        major: rustix::fs::major(number),
        minor: rustix::fs::minor(number),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: if permissions.is_empty() {
            "rwm".to_owned()
        } else {
            permissions.to_owned()
        },
    })
}
