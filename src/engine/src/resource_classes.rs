//! A container's class of block I/O and of RDT, looked up on the node: the file of classes, the devices that its wildcards
//! mean, and the kernel's resctrl file system.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Component, Path, PathBuf},
};

use spec::{
    ResourceClasses, SpecError,
    classes::{self, ClassKind, ClassName},
    model::{ContainerConfig, PodConfig},
};

use crate::{error::EngineError, node::Node, teardown::joined};

/// Where resctrl is mounted.
const RESCTRL: &str = "/sys/fs/resctrl";
/// Most devices that one path with wildcards means.
const DEVICES_MAX: usize = 4096;

impl Node {
    /// The classes that a container asks for.
    pub(crate) async fn resource_classes(
        &self,
        pod: &PodConfig,
        config: &ContainerConfig,
    ) -> Result<ResourceClasses, EngineError> {
        let requested = |kind| {
            classes::requested(
                kind,
                &config.metadata.name,
                &config.annotations,
                &pod.annotations,
            )
        };
        let (block_io, rdt) = (requested(ClassKind::BlockIo)?, requested(ClassKind::Rdt)?);
        if block_io.is_none() && rdt.is_none() {
            return Ok(ResourceClasses::default());
        }
        let file = self.config.blockio_classes.clone();
        let look = tokio::task::spawn_blocking(move || {
            Ok(ResourceClasses {
                block_io: block_io
                    .map(|class| find_block_io(&class, file.as_deref()))
                    .transpose()?,
                rdt: rdt
                    .map(|class| find_rdt(class, Path::new(RESCTRL)))
                    .transpose()?,
            })
        });
        joined(look.await)
    }
}

fn refuse(class: &ClassName, problem: String) -> EngineError {
    SpecError::Class {
        field: class.field.clone(),
        name: class.name.clone(),
        problem,
    }
    .into()
}

fn find_block_io(
    class: &ClassName,
    file: Option<&Path>,
) -> Result<oci_spec::runtime::LinuxBlockIo, EngineError> {
    let Some(path) = file else {
        return Err(refuse(
            class,
            "is not defined: `containers.blockio_classes` names no file".to_owned(),
        ));
    };
    let mut bytes = Vec::new();
    let limit = classes::MAX_BYTES as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|source| EngineError::Io {
            action: "read the classes of block I/O of",
            path: path.to_owned(),
            source,
        })?;
    let known = classes::parse(&bytes)
        .map_err(|problem| refuse(class, format!("{}: {problem}", path.display())))?;
    let Some(entries) = known.get(&class.name) else {
        let names: Vec<_> = known.keys().take(16).map(String::as_str).collect();
        return Err(refuse(
            class,
            format!(
                "is not in {}, which has {}",
                path.display(),
                names.join(", ")
            ),
        ));
    };
    let mut found = Vec::with_capacity(entries.len());
    for entry in entries {
        let mut devices = Vec::new();
        for pattern in &entry.devices {
            for path in expand(Path::new(pattern)) {
                if let Some(number) = block_device(&path)
                    && !devices.contains(&number)
                {
                    devices.push(number);
                }
            }
        }
        if devices.is_empty() && !entry.devices.is_empty() {
            // A class may name disks that not every node has.
            tracing::warn!(class = class.name, devices = ?entry.devices, "an entry of a class of block I/O matches no block device");
        }
        found.push((entry.clone(), devices));
    }
    Ok(classes::block_io(&found)?)
}

fn find_rdt(class: ClassName, resctrl: &Path) -> Result<String, EngineError> {
    if !resctrl.join("schemata").exists() {
        return Err(refuse(
            &class,
            format!(
                "cannot be given: no resctrl file system is mounted at {} (does this processor have RDT?)",
                resctrl.display()
            ),
        ));
    }
    if !resctrl.join(&class.name).join("schemata").exists() {
        return Err(refuse(
            &class,
            format!(
                "is not there: make it with mkdir {}/{}",
                resctrl.display(),
                class.name
            ),
        ));
    }
    Ok(class.name)
}

/// The paths that a path with wildcards means; each part of it may have some.
fn expand(pattern: &Path) -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::from("/")];
    for part in pattern.components() {
        let Component::Normal(part) = part else {
            continue;
        };
        let text = part.to_string_lossy();
        if !text.contains(['*', '?']) {
            for path in &mut paths {
                path.push(part);
            }
            continue;
        }
        let mut next = Vec::new();
        for directory in &paths {
            let names = fs::read_dir(directory).into_iter().flatten().flatten();
            next.extend(
                names
                    .filter(|entry| classes::matches(&text, &entry.file_name().to_string_lossy()))
                    .map(|entry| entry.path())
                    .take(DEVICES_MAX.saturating_sub(next.len())),
            );
        }
        next.sort();
        paths = next;
    }
    paths
}

fn block_device(path: &Path) -> Option<(u32, u32)> {
    let found = fs::metadata(path).ok()?;
    let number = found.rdev();
    found
        .file_type()
        .is_block_device()
        .then(|| (rustix::fs::major(number), rustix::fs::minor(number)))
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn class(name: &str) -> ClassName {
        ClassName {
            name: name.to_owned(),
            field: "annotations[x]".to_owned(),
        }
    }

    #[test]
    fn wildcards_are_expanded_part_by_part() {
        let root = tempfile::tempdir().unwrap();
        for path in ["a1/x", "a2/x", "b1/x", "a1/y"] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = expand(&root.path().join("a?/x*"));
        assert_eq!(found, [root.path().join("a1/x"), root.path().join("a2/x")]);
        assert!(expand(&root.path().join("c*/x")).is_empty());
    }

    #[test]
    fn a_class_that_is_not_defined_is_refused_with_those_that_are() {
        let error = find_block_io(&class("a"), None).unwrap_err().to_string();
        assert!(
            error.contains("`containers.blockio_classes` names no file"),
            "{error}"
        );
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("classes.yaml");
        fs::write(&file, "Classes: {slow: [{Weight: 20}], fast: []}").unwrap();
        let error = find_block_io(&class("a"), Some(&file))
            .unwrap_err()
            .to_string();
        assert!(error.contains("which has fast, slow"), "{error}");
        let slow = find_block_io(&class("slow"), Some(&file)).unwrap();
        assert_eq!(slow.weight(), Some(20));
        fs::write(&file, "Classes: [").unwrap();
        let error = find_block_io(&class("a"), Some(&file))
            .unwrap_err()
            .to_string();
        assert!(error.contains("classes.yaml: "), "{error}");
    }

    #[test]
    fn a_class_of_rdt_is_a_directory_of_resctrl() {
        let root = tempfile::tempdir().unwrap();
        let error = find_rdt(class("a"), root.path()).unwrap_err().to_string();
        assert!(
            error.contains("no resctrl file system is mounted"),
            "{error}"
        );
        fs::write(root.path().join("schemata"), "").unwrap();
        let error = find_rdt(class("a"), root.path()).unwrap_err().to_string();
        assert!(error.contains("make it with mkdir"), "{error}");
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("a/schemata"), "").unwrap();
        assert_eq!(find_rdt(class("a"), root.path()).unwrap(), "a");
    }
}
