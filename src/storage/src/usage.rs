//! What directories take on the disk.

use std::{
    collections::HashSet,
    ffi::CString,
    ops::AddAssign,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use crate::StorageError;

/// How many directories of the way down to the current one are kept open.
const OPEN_LEVELS: usize = 32;

/// Disk space and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes, in whole blocks.
    pub bytes: u64,
    /// Files, directories and so on, each once however many names it has.
    pub inodes: u64,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.inodes = self.inodes.saturating_add(other.inodes);
    }
}

/// What a file takes by itself.
pub(crate) fn of(stat: &Stat) -> Usage {
    Usage {
        bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
        inodes: 1,
    }
}

/// Measures a directory and everything below it, as it is at the moment: what comes and goes meanwhile may count or not.
///
/// Containers can nest directories deeper than descriptors or paths reach, and would hide there what they take. So of the
/// way back up only the nearest directories are kept open; the others are found again as the parents of their children,
/// if they are still the same.
pub(crate) fn measure(dir: &Path) -> Result<Usage, StorageError> {
    walk(dir).map_err(StorageError::io("measure", dir))
}

/// A directory on the way down.
struct Level {
    /// `None` if it was closed for the time being.
    fd: Option<OwnedFd>,
    identity: (u64, u64),
    /// The directories in it that are still to be visited.
    pending: Vec<CString>,
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn open_dir(parent: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn walk(dir: &Path) -> Result<Usage, Errno> {
    let top = open_dir(CWD, dir)?;
    let mut usage = of(&rustix::fs::fstat(&top)?);
    let mut seen = HashSet::new();
    let mut levels = vec![visit(top, &mut usage, &mut seen)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.pending.pop() else {
            let done = levels.pop().and_then(|level| level.fd);
            if let (Some(done), Some(parent)) = (done, levels.last_mut())
                && parent.fd.is_none()
            {
                let fd = open_dir(&done, "..")?;
                if identity(&rustix::fs::fstat(&fd)?) != parent.identity {
                    // The container moved it just now. The next measurement will be luckier.
                    return Ok(usage);
                }
                parent.fd = Some(fd);
            }
            continue;
        };
        let Some(fd) = &level.fd else {
            continue;
        };
        match open_dir(fd, &name) {
            Ok(fd) => {
                let next = visit(fd, &mut usage, &mut seen)?;
                levels.push(next);
                if let Some(far) = levels.len().checked_sub(OPEN_LEVELS + 1) {
                    levels[far].fd = None;
                }
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(usage)
}

/// Counts what is in a directory, and notes which directories are.
fn visit(fd: OwnedFd, usage: &mut Usage, seen: &mut HashSet<(u64, u64)>) -> Result<Level, Errno> {
    let mut pending = Vec::new();
    for entry in Dir::read_from(&fd)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = match rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_dir || stat.st_nlink <= 1 || seen.insert(identity(&stat)) {
            *usage += of(&stat);
        }
        if is_dir {
            pending.push(name.to_owned());
        }
    }
    Ok(Level {
        identity: identity(&rustix::fs::fstat(&fd)?),
        fd: Some(fd),
        pending,
    })
}
