//! CDI devices of a container: the node's CDI files are read when a container asks for a device, so that a file that was
//! put there a moment ago counts.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use spec::{
    DeviceKind, SpecError,
    cdi::{self, CdiFile, DeviceName, Edits, FileError, Registry},
    model::ContainerConfig,
};

use crate::{error::EngineError, node::Node, teardown::joined};

/// Most files of one directory that are read, in the order of their names.
const FILES_MAX: usize = 1024;

impl Node {
    /// What the container's CDI devices change in its spec.
    pub(crate) async fn cdi_edits(&self, config: &ContainerConfig) -> Result<Edits, EngineError> {
        let names = cdi::requested(&config.cdi_devices, &config.annotations)?;
        if names.is_empty() {
            return Ok(Edits::default());
        }
        let directories = self.config.cdi_dirs.clone();
        joined(tokio::task::spawn_blocking(move || find(&directories, &names)).await)
    }
}

fn find(directories: &[PathBuf], names: &[DeviceName]) -> Result<Edits, EngineError> {
    let registry = Registry::new(
        directories
            .iter()
            .enumerate()
            .flat_map(|(index, directory)| {
                files_of(directory)
                    .into_iter()
                    .map(move |file| (index, file))
            }),
    );
    for broken in registry.broken() {
        tracing::warn!(error = %broken, "a CDI file is left out");
    }
    let mut edits = registry
        .resolve(names)
        .map_err(|missing| SpecError::CdiUnresolved(Box::new(missing)))?;
    for node in &mut edits.device_nodes {
        if let Some(path) = node.to_look_at().map(PathBuf::from) {
            let (kind, major, minor) = look_at(&path)?;
            node.complete(kind, major, minor).map_err(|problem| {
                EngineError::invalid(
                    "config.CDI_devices",
                    format!("{} {problem}", path.display()),
                )
            })?;
        }
    }
    Ok(edits)
}

fn look_at(path: &Path) -> Result<(DeviceKind, u32, u32), EngineError> {
    let found = fs::metadata(path).map_err(|source| EngineError::Io {
        action: "look at the CDI device node",
        path: path.to_owned(),
        source,
    })?;
    let kind = if found.file_type().is_block_device() {
        DeviceKind::Block
    } else if found.file_type().is_char_device() {
        DeviceKind::Character
    } else {
        return Err(EngineError::invalid(
            "config.CDI_devices",
            format!("{} is no device node", path.display()),
        ));
    };
    let number = found.rdev();
    Ok((kind, rustix::fs::major(number), rustix::fs::minor(number)))
}

/// The CDI files of a directory. One that is not there has none.
fn files_of(directory: &Path) -> Vec<Result<CdiFile, FileError>> {
    let unreadable = |path: &Path, error: &io::Error| FileError {
        path: path.to_owned(),
        at: None,
        problem: format!("cannot be read: {error}"),
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![Err(unreadable(directory, &error))],
    };
    let mut paths: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        // Links are followed: that is how packages put theirs there.
        .filter(|path| cdi::file::is_cdi_file(path) && path.is_file())
        .collect();
    paths.sort();
    if paths.len() > FILES_MAX {
        tracing::warn!(directory = %directory.display(), files = paths.len(), read = FILES_MAX, "too many CDI files: the last ones by name are left out");
        paths.truncate(FILES_MAX);
    }
    paths
        .iter()
        .map(|path| match read(path) {
            Ok(bytes) => cdi::file::parse(path, &bytes),
            Err(error) => Err(unreadable(path, &error)),
        })
        .collect()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = cdi::file::MAX_BYTES as u64 + 1;
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    const NULL: &str = r#"{"cdiVersion": "0.5.0", "kind": "v.com/dev", "devices": [
        {"name": "null", "containerEdits": {"deviceNodes": [{"path": "/dev/mine", "hostPath": "/dev/null"}]}},
        {"name": "block", "containerEdits": {"deviceNodes": [{"path": "/dev/null", "type": "b"}]}},
        {"name": "file", "containerEdits": {"deviceNodes": [{"path": "/etc/passwd"}]}},
        {"name": "absent", "containerEdits": {"deviceNodes": [{"path": "/dev/absent"}]}}
    ]}"#;

    fn ask(directory: &Path, device: &str) -> Result<Edits, EngineError> {
        let name = DeviceName::parse(&format!("v.com/dev={device}")).unwrap();
        find(&[directory.join("absent"), directory.to_owned()], &[name])
    }

    #[test]
    fn nodes_are_looked_at_on_the_node() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("v.json"), NULL).unwrap();
        fs::write(directory.path().join("broken.yaml"), "x").unwrap();
        fs::create_dir(directory.path().join("directory.json")).unwrap();
        let edits = ask(directory.path(), "null").unwrap();
        let node = &edits.device_nodes[0];
        assert_eq!(
            (node.kind.as_str(), node.major, node.minor),
            ("c", Some(1), Some(3))
        );
        for (device, words) in [
            ("block", "/dev/null is a character device"),
            ("file", "/etc/passwd is no device node"),
            ("absent", "look at the CDI device node /dev/absent"),
            ("other", "left out: "),
        ] {
            let error = ask(directory.path(), device).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
