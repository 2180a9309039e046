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

use sys::file_handle::FileHandle;

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

/// What was found in a walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measurement {
    /// What all that was seen takes.
    pub usage: Usage,
    /// Whether some of it was moved out of sight meanwhile, and takes something beyond.
    pub is_partial: bool,
}

impl AddAssign for Measurement {
    fn add_assign(&mut self, other: Self) {
        self.usage += other.usage;
        self.is_partial |= other.is_partial;
    }
}

/// Measures a directory and everything below it, as it is at the moment: what comes and goes meanwhile may count or not.
///
/// Containers can nest directories deeper than descriptors or paths reach, and would hide there what they take. So of the
/// way back up only the nearest directories are kept open. The others are found again as the parents of their children, or
/// if those were moved, by their handles, which lead to a directory wherever it was moved to.
pub(crate) fn measure(dir: &Path) -> Result<Measurement, StorageError> {
    walk(dir, &mut || ()).map_err(StorageError::io("measure", dir))
}

/// A directory on the way down.
struct Level {
    /// `None` if it was closed for the time being.
    fd: Option<OwnedFd>,
    /// To open it again; `None` if it is open, or its file system has no handles.
    handle: Option<FileHandle>,
    identity: (u64, u64),
    /// The directories in it that are still to be visited.
    pending: Vec<CString>,
}

impl Level {
    fn close(&mut self) {
        if let Some(fd) = self.fd.take() {
            self.handle = FileHandle::of(&fd).ok();
        }
    }

    /// Opens it again. `child` is the directory that was visited in it.
    fn reopen(&mut self, child: Option<&OwnedFd>, top: &OwnedFd) -> Result<(), Lost> {
        let by_child = child.and_then(|child| open_dir(child, "..").ok());
        let fd = match by_child.filter(|fd| self.is(fd)) {
            Some(fd) => fd,
            None => self.reopen_by_handle(top)?,
        };
        self.fd = Some(fd);
        Ok(())
    }

    fn reopen_by_handle(&self, top: &OwnedFd) -> Result<OwnedFd, Lost> {
        let handle = self.handle.as_ref().ok_or(Lost::Unseen)?;
        match handle.open_directory(top) {
            Ok(fd) if self.is(&fd) => Ok(fd),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::STALE) => Err(Lost::Removed),
            _ => Err(Lost::Unseen),
        }
    }

    fn is(&self, fd: &OwnedFd) -> bool {
        rustix::fs::fstat(fd).is_ok_and(|stat| identity(&stat) == self.identity)
    }
}

/// Why a directory could not be opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// It is gone, with all that was in it.
    Removed,
    /// It is somewhere, and what is in it was not seen.
    Unseen,
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn open_dir(parent: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// `deeper` is called whenever the walk goes down.
fn walk(dir: &Path, deeper: &mut dyn FnMut()) -> Result<Measurement, Errno> {
    let top = open_dir(CWD, dir)?;
    let mut usage = of(&rustix::fs::fstat(&top)?);
    let mut is_partial = false;
    let mut seen = HashSet::new();
    let mut levels = vec![visit(open_dir(&top, ".")?, &mut usage, &mut seen)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.pending.pop() else {
            let done = levels.pop().and_then(|level| level.fd);
            if let Some(parent) = levels.last_mut()
                && parent.fd.is_none()
                && let Err(lost) = parent.reopen(done.as_ref(), &top)
            {
                is_partial |= lost == Lost::Unseen && !parent.pending.is_empty();
                parent.pending.clear();
            }
            continue;
        };
        let Some(fd) = &level.fd else {
            continue;
        };
        match open_dir(fd, &name).and_then(|fd| visit(fd, &mut usage, &mut seen)) {
            Ok(next) => {
                levels.push(next);
                if let Some(far) = levels.len().checked_sub(OPEN_LEVELS + 1) {
                    levels[far].close();
                }
                deeper();
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(Measurement { usage, is_partial })
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
        handle: None,
        pending,
    })
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
