//! The files of a container's cgroup that hold its limits: read before a change, written beside the runtime's `update`, and
//! written back when a part of the change fails.
//!
//! Everything here blocks (lowering a limit makes the kernel reclaim memory): call it on a thread for that.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use spec::update::{LimitFile, WrittenLimit};
use sys::cgroup::Layout;

use crate::{error::EngineError, stop::Stop};

/// Longest content of such a file. `io.max` has a line per device.
const CONTENT_MAX_BYTES: u64 = 64 << 10;
/// How often the files are written back: some take their old value only after another one has (a memory limit cannot pass
/// the limit of memory and swap).
const ROUNDS: usize = 4;
/// Bits of the mode of a file that someone may read.
const READABLE: u32 = 0o444;

/// What a file held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    path: PathBuf,
    content: String,
}

impl Held {
    /// What it means for the unit of systemd whose cgroup it is of.
    pub(crate) fn unit_properties(&self) -> spec::unit_properties::UnitProperties {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        spec::unit_properties::of_file(&name, &self.content)
    }

    /// Whether it is the file of this name.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        self.path.file_name().is_some_and(|own| own == name)
    }
}

/// The directory of a controller's files; `None` if this node has no such controller.
fn locate(layout: &Layout, cgroup: &str, file: &LimitFile) -> Result<Option<PathBuf>, EngineError> {
    Ok(layout
        .dir(&file.controller, cgroup)?
        .map(|directory| directory.join(&file.name)))
}

/// What the files hold that are there.
pub(crate) fn read_all(
    layout: &Layout,
    cgroup: &str,
    files: &[LimitFile],
) -> Result<Vec<Held>, EngineError> {
    let mut held = Vec::new();
    for file in files {
        if let Some(path) = locate(layout, cgroup, file)?
            && let Some(content) = read(&path)?
        {
            held.push(Held { path, content });
        }
    }
    Ok(held)
}

/// Those of the limits that can be written, and put back. Others are left out unless this change asks for them: there is no
/// file for them, or the file takes orders (`memory.reclaim`), of which one was carried out when the container was made.
///
/// # Errors
/// Names the field of one that is asked for and cannot be written, or not be put back.
pub(crate) fn writable(
    layout: &Layout,
    cgroup: &str,
    limits: Vec<WrittenLimit>,
) -> Result<Vec<WrittenLimit>, EngineError> {
    let mut writable = Vec::with_capacity(limits.len());
    for limit in limits {
        let directory = layout.dir(&limit.file.controller, cgroup)?;
        let path = directory.as_ref().map(|dir| dir.join(&limit.file.name));
        let found = path.and_then(|path| fs::metadata(path).ok());
        let Some(found) = found else {
            // A cgroup that went with its container lacks everything: that is no fault of the request.
            if limit.is_asked && directory.is_none_or(|directory| directory.exists()) {
                return Err(no_file(&limit));
            }
            continue;
        };
        // Root may open any file: the kernel tells by the mode what it has an answer for.
        if found.permissions().mode() & READABLE != 0 {
            writable.push(limit);
        } else if limit.is_asked {
            let why = format!(
                "{} takes orders and tells nothing, so an update could not be taken back",
                limit.file.name
            );
            return Err(EngineError::invalid(&limit.field, why));
        }
    }
    Ok(writable)
}

/// Those of the limits that this cgroup has files for.
pub(crate) fn present(
    layout: &Layout,
    cgroup: &str,
    limits: &[WrittenLimit],
) -> Result<Vec<WrittenLimit>, EngineError> {
    let mut present = limits.to_vec();
    for limit in &mut present {
        limit.is_asked = false;
    }
    writable(layout, cgroup, present)
}

fn no_file(limit: &WrittenLimit) -> EngineError {
    let why = format!("this node's cgroups have no file {}", limit.file.name);
    EngineError::invalid(&limit.field, why)
}

/// Write the limits one by one, until told to stop.
pub(crate) fn write_all(
    layout: &Layout,
    cgroup: &str,
    limits: &[WrittenLimit],
    stop: &Stop,
) -> Result<(), EngineError> {
    limits.iter().try_for_each(|limit| {
        stop.go_on()?;
        write(layout, cgroup, limit)
    })
}

fn write(layout: &Layout, cgroup: &str, limit: &WrittenLimit) -> Result<(), EngineError> {
    let path = locate(layout, cgroup, &limit.file)?.filter(|path| path.exists());
    let Some(path) = path else {
        return Err(no_file(limit));
    };
    write_lines(&path, &limit.value).map_err(|source| EngineError::Io {
        action: "write the limit",
        path,
        source,
    })
}

/// Write back what the files held, until told to stop. Those of a cgroup that has gone need nothing.
pub(crate) fn put_back(held: &[Held], stop: &Stop) -> Result<(), EngineError> {
    let mut failed = None;
    for _ in 0..ROUNDS {
        failed = None;
        for old in held {
            stop.go_on()?;
            match read(&old.path)? {
                Some(now) if now != old.content => {
                    if let Err(source) = revert(&old.path, &now, &old.content) {
                        failed = Some(EngineError::Io {
                            action: "put the old limit back to",
                            path: old.path.clone(),
                            source,
                        });
                    }
                }
                _ => {}
            }
        }
        if failed.is_none() {
            break;
        }
    }
    failed.map_or(Ok(()), Err)
}

/// The memory that a container cannot give up: its use less the part of the page cache that is not in use.
pub(crate) fn memory_in_use(layout: &Layout, cgroup: &str) -> Result<Option<u64>, EngineError> {
    let Some(directory) = layout.memory_dir(cgroup)? else {
        return Ok(None);
    };
    let (usage, inactive) = if layout.is_v2() {
        ("memory.current", "inactive_file ")
    } else {
        ("memory.usage_in_bytes", "total_inactive_file ")
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let Some(used) = read(&directory.join(usage))?.as_deref().and_then(number) else {
        return Ok(None);
    };
    let reclaimable = read(&directory.join("memory.stat"))?.and_then(|stat| {
        stat.lines()
            .find_map(|line| line.strip_prefix(inactive))
            .and_then(number)
    });
    Ok(Some(used.saturating_sub(reclaimable.unwrap_or(0))))
}

/// `None` if the file, or its cgroup, is not there.
fn read(path: &Path) -> Result<Option<String>, EngineError> {
    let outcome = File::open(path).and_then(|file| {
        let mut content = String::new();
        file.take(CONTENT_MAX_BYTES).read_to_string(&mut content)?;
        Ok(content)
    });
    match outcome {
        Ok(content) => Ok(Some(content)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(EngineError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
        // A file that is there and cannot be read now, such as `cpu.max` of a cgroup that is being removed.
        || error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
}

/// The kernel takes one line per call, and an empty one where an empty value is one.
fn write_lines(path: &Path, value: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    if value.trim().is_empty() {
        return file.write_all(b"\n");
    }
    for line in value.lines().filter(|line| !line.trim().is_empty()) {
        file.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// Also takes back lines for devices that had none before.
fn revert(path: &Path, now: &str, old: &str) -> io::Result<()> {
    let device = |line: &str| {
        let (first, _) = line.split_once(' ')?;
        let (major, minor) = first.split_once(':')?;
        (major.parse::<u32>().is_ok() && minor.parse::<u32>().is_ok()).then(|| first.to_owned())
    };
    let known: Vec<_> = old.lines().filter_map(device).collect();
    let added: Vec<_> = now
        .lines()
        .filter_map(device)
        .filter(|device| !known.contains(device))
        .collect();
    if added.is_empty() {
        return write_lines(path, old);
    }
    let reset = if path.file_name().is_some_and(|name| name == "io.max") {
        "rbps=max wbps=max riops=max wiops=max"
    } else {
        "default"
    };
    let lines: Vec<_> = added
        .iter()
        .map(|device| format!("{device} {reset}"))
        .chain(old.lines().map(str::to_owned))
        .collect();
    write_lines(path, &lines.join("\n"))
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn layout(root: &Path) -> Layout {
        let mount = |name: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.join("c")).unwrap();
            (name.to_owned(), path)
        };
        Layout::V1 {
            controllers: ["cpu", "memory"].map(mount).into(),
        }
    }

    fn file(controller: &str, name: &str) -> LimitFile {
        LimitFile {
            controller: controller.to_owned(),
            name: name.to_owned(),
        }
    }

    fn limit(file: &LimitFile, value: &str, field: &str) -> WrittenLimit {
        WrittenLimit {
            file: file.clone(),
            value: value.to_owned(),
            field: field.to_owned(),
            is_asked: true,
        }
    }

    #[test]
    fn what_was_held_is_put_back() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        let shares = root.path().join("cpu/c/cpu.shares");
        fs::write(&shares, "1024\n").unwrap();
        let files = [
            file("cpu", "cpu.shares"),
            file("cpu", "cpu.absent"),
            file("pids", "pids.max"),
        ];
        let held = read_all(&layout, "/c", &files).unwrap();
        assert_eq!(held.len(), 1);
        write(&layout, "/c", &limit(&files[0], "2", "linux.cpu_shares")).unwrap();
        // A plain file is not cut by the kernel, as a cgroup's is replaced: the first bytes tell.
        assert!(fs::read_to_string(&shares).unwrap().starts_with('2'));
        fs::write(&shares, "2\n").unwrap();
        put_back(&held, &Stop::new("a test")).unwrap();
        assert!(fs::read_to_string(&shares).unwrap().starts_with("1024"));
        fs::remove_file(&shares).unwrap();
        put_back(&held, &Stop::new("a test")).unwrap();
        assert!(!shares.exists());
    }

    #[test]
    fn a_limit_without_a_file_names_its_field() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        let absent = file("hugetlb", "hugetlb.3MB.max");
        let error =
            write(&layout, "/c", &limit(&absent, "1", "linux.hugepage_limits")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "linux.hugepage_limits: this node's cgroups have no file hugetlb.3MB.max"
        );
    }

    #[test]
    fn limits_are_written_where_a_file_can_take_and_tell_them() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        fs::write(root.path().join("memory/c/memory.high"), "max\n").unwrap();
        let kept = |name: &str, is_asked: bool| {
            let limit = WrittenLimit {
                is_asked,
                ..limit(&file("memory", name), "1", "linux.unified[…]")
            };
            writable(&layout, "/c", vec![limit]).map(|limits| limits.len())
        };
        assert_eq!(kept("memory.high", true).unwrap(), 1);
        assert_eq!(kept("memory.high", false).unwrap(), 1);
        assert_eq!(kept("memory.none", false).unwrap(), 0);
        assert_eq!(
            kept("memory.none", true).unwrap_err().to_string(),
            "linux.unified[…]: this node's cgroups have no file memory.none"
        );
        let order = root.path().join("memory/c/memory.reclaim");
        fs::write(&order, "").unwrap();
        fs::set_permissions(&order, fs::Permissions::from_mode(0o200)).unwrap();
        assert_eq!(kept("memory.reclaim", false).unwrap(), 0);
        assert_eq!(
            kept("memory.reclaim", true).unwrap_err().to_string(),
            "linux.unified[…]: memory.reclaim takes orders and tells nothing, so an update could not be taken back"
        );
        fs::remove_dir_all(root.path().join("memory/c")).unwrap();
        assert_eq!(kept("memory.high", true).unwrap(), 0);
    }

    #[test]
    fn page_cache_is_not_in_use() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        assert_eq!(memory_in_use(&layout, "/c").unwrap(), None);
        let directory = root.path().join("memory/c");
        fs::write(directory.join("memory.usage_in_bytes"), "1000\n").unwrap();
        assert_eq!(memory_in_use(&layout, "/c").unwrap(), Some(1000));
        let stat = "cache 500\ninactive_file 1\ntotal_inactive_file 400\n";
        fs::write(directory.join("memory.stat"), stat).unwrap();
        assert_eq!(memory_in_use(&layout, "/c").unwrap(), Some(600));
    }
}
