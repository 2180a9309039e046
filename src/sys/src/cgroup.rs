//! Control groups, version 1 and 2, as directories.
//!
//! A cgroup is named by its path from the top of the hierarchy, such as `/kubepods/pod1/c1`, whatever the version; on a
//! version 1 (or hybrid) node the same path stands in every controller's hierarchy. Here cgroups are found, emptied and
//! removed. They are made by kubelet and by the OCI runtime; only those of monitors are made here.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Component, Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal},
};

use crate::{SysError, fs::magic_of, mount};

/// Where distributions mount cgroup file systems.
pub(crate) const MOUNT_ROOT: &str = "/sys/fs/cgroup";

/// The file system of cgroup v2.
pub(crate) const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// How often the processes of a cgroup are killed one by one before it counts as hopeless.
const KILL_ROUNDS: u32 = 100;

/// The pause between two such rounds, and between two attempts at removing a cgroup that is just dying.
const ROUND_PAUSE: Duration = Duration::from_millis(10);

/// How often the removal of a cgroup is tried whose processes have ended but are not gone yet.
const REMOVE_ATTEMPTS: u32 = 20;

/// How the node's cgroups are laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Version 1, also when version 2 is mounted beside it without controllers ("hybrid").
    V1 {
        /// The controllers (and `name=systemd`), and where each one's hierarchy is mounted.
        controllers: BTreeMap<String, PathBuf>,
    },
    /// Version 2 alone.
    V2 {
        /// Where it is mounted.
        mount: PathBuf,
    },
}

impl Layout {
    /// Looks how this node's cgroups are laid out.
    pub fn detect() -> Result<Self, SysError> {
        if magic_of(Path::new(MOUNT_ROOT))? == CGROUP2_MAGIC {
            return Ok(Self::V2 {
                mount: MOUNT_ROOT.into(),
            });
        }
        Self::from_table(&mount::table()?).ok_or(SysError::NoCgroups)
    }

    fn from_table(table: &[mount::MountInfo]) -> Option<Self> {
        let mut controllers = BTreeMap::new();
        for found in table.iter().filter(|found| found.fs_type == "cgroup") {
            // The controllers stand among options such as "rw" and "xattr".
            let words = found.super_options.split(',');
            for controller in words.filter(|word| {
                !matches!(*word, "rw" | "ro" | "xattr" | "noprefix" | "clone_children")
                    && !word.starts_with("release_agent=")
            }) {
                // The usual place wins over others where a hierarchy is mounted too.
                let usual = found.target.starts_with(MOUNT_ROOT);
                if usual || !controllers.contains_key(controller) {
                    controllers.insert(controller.to_owned(), found.target.clone());
                }
            }
        }
        (!controllers.is_empty()).then_some(Self::V1 { controllers })
    }

    /// Whether this is version 2.
    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2 { .. })
    }

    /// The controllers that containers can be limited by.
    pub fn controllers(&self) -> Result<BTreeSet<String>, SysError> {
        match self {
            Self::V1 { controllers } => Ok(controllers
                .keys()
                .filter(|name| !name.starts_with("name="))
                .cloned()
                .collect()),
            Self::V2 { mount } => {
                let path = mount.join("cgroup.controllers");
                let text = std::fs::read_to_string(&path).map_err(SysError::path("read", &path))?;
                Ok(text.split_whitespace().map(str::to_owned).collect())
            }
        }
    }

    /// The directory of a cgroup in a controller's hierarchy; `None` if this node has no such controller. It need not
    /// exist. On version 2 all controllers share one directory.
    pub fn dir(&self, controller: &str, cgroup: &str) -> Result<Option<PathBuf>, SysError> {
        let relative = relative(cgroup)?;
        Ok(match self {
            Self::V1 { controllers } => controllers
                .get(controller)
                .map(|mount| mount.join(relative)),
            Self::V2 { mount } => Some(mount.join(relative)),
        })
    }

    /// The directory with a cgroup's memory files.
    pub fn memory_dir(&self, cgroup: &str) -> Result<Option<PathBuf>, SysError> {
        self.dir("memory", cgroup)
    }

    /// The directories of a cgroup in all hierarchies, whether they exist or not, each once.
    pub fn dirs(&self, cgroup: &str) -> Result<Vec<PathBuf>, SysError> {
        let relative = relative(cgroup)?;
        let mounts: BTreeSet<&PathBuf> = match self {
            Self::V1 { controllers } => controllers.values().collect(),
            Self::V2 { mount } => BTreeSet::from([mount]),
        };
        Ok(mounts
            .into_iter()
            .map(|mount| mount.join(&relative))
            .collect())
    }

    /// Whether the cgroup exists, in any hierarchy.
    pub fn exists(&self, cgroup: &str) -> Result<bool, SysError> {
        Ok(self.dirs(cgroup)?.iter().any(|dir| dir.is_dir()))
    }

    /// The processes in the cgroup and all cgroups below it.
    pub fn processes(&self, cgroup: &str) -> Result<BTreeSet<u32>, SysError> {
        let mut processes = BTreeSet::new();
        for dir in self.dirs(cgroup)? {
            for dir in subtree(&dir)? {
                processes.extend(processes_of(&dir)?);
            }
        }
        Ok(processes)
    }

    /// Moves a process into a cgroup, which is made if it is not there. On version 1 it is moved where systemd looks for the
    /// service that a process belongs to, and where its memory is counted; the other hierarchies matter to neither.
    pub fn adopt(&self, cgroup: &str, pid: u32) -> Result<(), SysError> {
        let relative = relative(cgroup)?;
        let mounts: Vec<&PathBuf> = match self {
            Self::V1 { controllers } => ["name=systemd", "memory"]
                .iter()
                .filter_map(|name| controllers.get(*name))
                .collect(),
            Self::V2 { mount } => vec![mount],
        };
        for mount in mounts {
            let dir = mount.join(&relative);
            std::fs::create_dir_all(&dir).map_err(SysError::path("make the cgroup", &dir))?;
            let file = dir.join("cgroup.procs");
            std::fs::write(&file, pid.to_string())
                .map_err(SysError::path("move a process to", &file))?;
        }
        Ok(())
    }

    /// Whether the cgroup has neither processes nor cgroups below it, in any hierarchy. One that is not there is empty.
    pub fn is_empty(&self, cgroup: &str) -> Result<bool, SysError> {
        for dir in self.dirs(cgroup)? {
            if subtree(&dir)?.len() > 1 || !processes_of(&dir)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Kills every process in the cgroup and below it, and waits until they are gone. A cgroup that is not there is fine.
    ///
    /// Blocks for a second at most, then gives up: a process in an uninterruptible call does not die.
    pub fn kill_all(&self, cgroup: &str) -> Result<(), SysError> {
        // Version 2 kills a whole tree at once, without a race against forks (Linux 5.14).
        let at_once = match self {
            Self::V1 { .. } => false,
            Self::V2 { mount } => {
                std::fs::write(mount.join(relative(cgroup)?).join("cgroup.kill"), "1").is_ok()
            }
        };
        let mut left = BTreeSet::new();
        for _ in 0..KILL_ROUNDS {
            left = self.processes(cgroup)?;
            // Zombies stay listed in version 1 until they are reaped; they are dead all the same.
            left.retain(|pid| !is_zombie(*pid));
            if left.is_empty() {
                return Ok(());
            }
            if !at_once {
                for pid in &left {
                    kill(*pid)?;
                }
            }
            thread::sleep(ROUND_PAUSE);
        }
        match left.first() {
            None => Ok(()),
            Some(&pid) => Err(SysError::WillNotDie {
                path: cgroup.to_owned(),
                count: left.len(),
                pid,
            }),
        }
    }

    /// Removes the cgroup and all cgroups below it, from every hierarchy. One that is not there is fine; one that still has
    /// processes is an error (`EBUSY`).
    pub fn remove(&self, cgroup: &str) -> Result<(), SysError> {
        for dir in self.dirs(cgroup)? {
            // Children come after their parents in the list.
            for dir in subtree(&dir)?.into_iter().rev() {
                remove_dir(&dir)?;
            }
        }
        Ok(())
    }
}

/// The path of a cgroup below a mount, free of anything that could lead elsewhere.
pub(crate) fn relative(cgroup: &str) -> Result<PathBuf, SysError> {
    let bad = || SysError::BadCgroupPath {
        path: cgroup.chars().take(512).collect(),
    };
    let mut relative = PathBuf::new();
    for component in Path::new(cgroup).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => relative.push(name),
            Component::ParentDir | Component::Prefix(_) => return Err(bad()),
        }
    }
    if relative.as_os_str().is_empty() || cgroup.contains('\0') {
        return Err(bad());
    }
    Ok(relative)
}

/// What the kernel says about a cgroup that vanished meanwhile.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

/// The directory and all below it, parents first; nothing if it is not there.
pub(crate) fn subtree(dir: &Path) -> Result<Vec<PathBuf>, SysError> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(SysError::path("list the cgroup", dir)(error)),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if is_gone(&error) => break,
                Err(error) => return Err(SysError::path("list the cgroup", dir)(error)),
            };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(entry.path());
            }
        }
        found.push(dir);
    }
    Ok(found)
}

/// The processes that a `cgroup.procs` lists.
pub(crate) fn listed(text: &str) -> impl Iterator<Item = u32> {
    let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
    // A process of another PID namespace is listed as 0, and cannot be told from here.
    pids.filter(|pid| *pid != 0)
}

/// The file that lists a cgroup's processes.
pub(crate) const PROCESSES: &str = "cgroup.procs";

pub(crate) fn processes_of(dir: &Path) -> Result<Vec<u32>, SysError> {
    let path = dir.join(PROCESSES);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(listed(&text).collect()),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        // A threaded cgroup of version 2 lists its processes at the top of its threaded domain only.
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
            Ok(Vec::new())
        }
        Err(error) => Err(SysError::path("read", path)(error)),
    }
}

fn is_zombie(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/stat")).is_ok_and(|bytes| {
        let end_of_name = bytes.iter().rposition(|byte| *byte == b')');
        end_of_name
            .and_then(|end| bytes.get(end + 2))
            .is_some_and(|state| matches!(state, b'Z' | b'X'))
    })
}

fn kill(pid: u32) -> Result<(), SysError> {
    let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    match rustix::process::kill_process(raw, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(SysError::process("kill", pid)(error)),
    }
}

fn remove_dir(dir: &Path) -> Result<(), SysError> {
    let mut attempts = 0;
    loop {
        match std::fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            // The last process has ended, but the kernel has not quite let go of it.
            Err(error)
                if error.raw_os_error() == Some(Errno::BUSY.raw_os_error())
                    && attempts < REMOVE_ATTEMPTS
                    && processes_of(dir)?.iter().all(|pid| is_zombie(*pid)) =>
            {
                attempts += 1;
                thread::sleep(ROUND_PAUSE);
            }
            Err(error) => return Err(SysError::path("remove the cgroup", dir)(error)),
        }
    }
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
