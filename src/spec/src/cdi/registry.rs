//! All CDI files of the node together, and the edits for the devices that somebody asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::file::{CdiFile, FileError};
use super::{DeviceName, Edits};

/// How many names, and how many broken files, an error tells.
const TOLD: usize = 16;

/// The devices of the node.
#[derive(Debug, Default)]
pub struct Registry {
    files: Vec<CdiFile>,
    devices: BTreeMap<DeviceName, Entry>,
    broken: Vec<FileError>,
}

#[derive(Debug)]
enum Entry {
    /// The file and its device, by index.
    Defined {
        directory: usize,
        file: usize,
        device: usize,
    },
    /// Several files of one directory define it.
    Conflicting { directory: usize, files: Vec<usize> },
}

/// Devices that cannot be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// What was asked for.
    names: Vec<String>,
    /// Why a name has no device although files have it, in words.
    conflicts: Vec<String>,
    /// What there is; cut short.
    known: Vec<String>,
    /// How many more there are.
    more: usize,
    /// Files that were left out, in words; cut short.
    broken: Vec<String>,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no CDI file defines {}", self.names.join(", "))?;
        for conflict in &self.conflicts {
            write!(f, "; {conflict}")?;
        }
        if self.known.is_empty() {
            write!(f, "; there are no CDI devices on this node")?;
        } else {
            write!(f, "; known are {}", self.known.join(", "))?;
        }
        if self.more > 0 {
            write!(f, " and {} more", self.more)?;
        }
        for broken in &self.broken {
            write!(f, "; left out: {broken}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Unresolved {}

impl Registry {
    /// Puts files together. Each has the index of its directory: of two that define the same device, the one of the higher
    /// index wins.
    pub fn new(files: impl IntoIterator<Item = (usize, Result<CdiFile, FileError>)>) -> Self {
        let mut registry = Self::default();
        for (directory, file) in files {
            match file {
                Ok(file) => registry.add(directory, file),
                Err(error) => registry.broken.push(error),
            }
        }
        registry
    }

    fn add(&mut self, directory: usize, new: CdiFile) {
        let file = self.files.len();
        for (device, (name, _)) in new.devices.iter().enumerate() {
            let name = DeviceName {
                kind: new.kind.clone(),
                device: name.clone(),
            };
            let mine = Entry::Defined {
                directory,
                file,
                device,
            };
            let entry = match self.devices.remove(&name) {
                None => mine,
                Some(
                    Entry::Defined {
                        directory: other, ..
                    }
                    | Entry::Conflicting {
                        directory: other, ..
                    },
                ) if other < directory => mine,
                Some(Entry::Defined {
                    directory: other,
                    file: its,
                    ..
                }) if other == directory => Entry::Conflicting {
                    directory,
                    files: vec![its, file],
                },
                Some(Entry::Conflicting {
                    directory: other,
                    mut files,
                }) if other == directory => {
                    files.push(file);
                    Entry::Conflicting { directory, files }
                }
                Some(theirs) => theirs,
            };
            self.devices.insert(name, entry);
        }
        self.files.push(new);
    }

    /// The files that were left out.
    pub fn broken(&self) -> &[FileError] {
        &self.broken
    }

    /// The edits for devices, in their order. What a file says for all of its devices comes once, before the first of them.
    pub fn resolve(&self, names: &[DeviceName]) -> Result<Edits, Unresolved> {
        let mut edits = Edits::default();
        let (mut missing, mut conflicts) = (Vec::new(), Vec::new());
        let mut begun = BTreeSet::new();
        for name in names {
            match self.devices.get(name) {
                Some(Entry::Defined { file, device, .. }) => {
                    let source = &self.files[*file];
                    if begun.insert(*file) {
                        edits.append(&source.edits);
                    }
                    edits.append(&source.devices[*device].1);
                }
                Some(Entry::Conflicting { files, .. }) => {
                    missing.push(name.to_string());
                    let paths: Vec<_> = files
                        .iter()
                        .take(TOLD)
                        .map(|file| self.files[*file].path.display().to_string())
                        .collect();
                    conflicts.push(format!(
                        "{name} is defined by each of {}: take it out of all but one",
                        paths.join(", ")
                    ));
                }
                None => missing.push(name.to_string()),
            }
        }
        if missing.is_empty() {
            return Ok(edits);
        }
        missing.truncate(TOLD);
        conflicts.truncate(TOLD);
        Err(Unresolved {
            names: missing,
            conflicts,
            known: self
                .devices
                .keys()
                .take(TOLD)
                .map(ToString::to_string)
                .collect(),
            more: self.devices.len().saturating_sub(TOLD),
            broken: self
                .broken
                .iter()
                .take(TOLD)
                .map(ToString::to_string)
                .collect(),
        })
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::path::Path;

    use super::*;
    use crate::cdi::file;

    fn file_of(path: &str, devices: &[&str]) -> Result<CdiFile, FileError> {
        let devices: Vec<_> = devices
            .iter()
            .map(|name| {
                let edits = serde_json::json!({"env": [format!("FROM={path}:{name}")]});
                serde_json::json!({"name": name, "containerEdits": edits})
            })
            .collect();
        let text = serde_json::json!({
            "cdiVersion": "0.5.0",
            "kind": "v.com/gpu",
            "devices": devices,
            "containerEdits": {"env": [format!("ALL={path}")]},
        });
        file::parse(Path::new(path), text.to_string().as_bytes())
    }

    fn names(names: &[&str]) -> Vec<DeviceName> {
        names
            .iter()
            .map(|name| DeviceName::parse(&format!("v.com/gpu={name}")).unwrap())
            .collect()
    }

    #[test]
    fn edits_of_a_file_come_once_before_those_of_its_devices() {
        let registry = Registry::new([
            (0, file_of("/etc/a.json", &["0", "1"])),
            (0, file_of("/etc/b.json", &["2"])),
        ]);
        let edits = registry.resolve(&names(&["1", "2", "0"])).unwrap();
        assert_eq!(
            edits.env,
            [
                "ALL=/etc/a.json",
                "FROM=/etc/a.json:1",
                "ALL=/etc/b.json",
                "FROM=/etc/b.json:2",
                "FROM=/etc/a.json:0"
            ]
        );
        assert!(registry.resolve(&[]).unwrap().is_empty());
    }

    #[test]
    fn a_later_directory_wins_in_whichever_order_they_are_read() {
        let files = || {
            [
                (0, file_of("/etc/a.json", &["0", "1"])),
                (1, file_of("/run/a.json", &["0"])),
                (0, file_of("/etc/b.json", &["0"])),
            ]
        };
        for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0], [0, 2, 1]] {
            let mut files = files().map(Some);
            let registry = Registry::new(order.map(|index| files[index].take().unwrap()));
            let edits = registry.resolve(&names(&["0", "1"])).unwrap();
            assert!(
                edits.env.contains(&"FROM=/run/a.json:0".to_owned()),
                "{edits:?}"
            );
            assert!(
                edits.env.contains(&"FROM=/etc/a.json:1".to_owned()),
                "{edits:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_given_is_told_with_all_that_helps() {
        let broken = file::parse(Path::new("/etc/bad.json"), b"{");
        let registry = Registry::new([
            (0, file_of("/etc/a.json", &["0", "1"])),
            (0, file_of("/etc/b.json", &["0"])),
            (0, broken),
        ]);
        let error = registry.resolve(&names(&["0", "7", "1"])).unwrap_err();
        let words = error.to_string();
        for part in [
            "no CDI file defines v.com/gpu=0, v.com/gpu=7;",
            "v.com/gpu=0 is defined by each of /etc/a.json, /etc/b.json: take it out of all but one",
            "known are v.com/gpu=0, v.com/gpu=1",
            "left out: /etc/bad.json:1:1: ",
        ] {
            assert!(words.contains(part), "{words}");
        }
        let nothing = Registry::default().resolve(&names(&["0"])).unwrap_err();
        assert!(
            nothing
                .to_string()
                .contains("there are no CDI devices on this node")
        );
    }

    #[test]
    fn an_error_does_not_grow_with_the_node() {
        let many: Vec<_> = (0..2000).map(|number| format!("d{number}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let registry = Registry::new([(0, file_of("/etc/a.json", &many))]);
        let error = registry.resolve(&names(&["x"])).unwrap_err().to_string();
        assert!(error.contains("and 1984 more"), "{error}");
        assert!(error.len() < 1000, "{error}");
    }
}
