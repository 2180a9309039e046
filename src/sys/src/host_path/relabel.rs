//! Gives a volume, with all that is in it, a label of SELinux.
//!
//! The child walks by descriptors and never by a path that could be changed under its feet: no symbolic link is followed,
//! links get the label themselves. It stays on the mount where it begins: what is mounted inside a volume is another volume,
//! or something of the node. A directory is labelled after all that is in it, the top last of all, so that the top's label
//! says that a walk came to its end. What has the label is not written again, so a walk that was cut short goes on quickly
//! at the next try.

use std::{
    ffi::CStr,
    io::{self, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FileType, Mode, OFlags, RawDir, ResolveFlags, XattrFlags},
    io::Errno,
};

use super::{Child, child_answers};
use crate::{SysError, selinux};

/// How many directories may lie in each other. Real volumes have a few dozen; a deeper one is a container's mischief.
const DEPTH_MAX: usize = 512;

/// What one directory's entries are read into, several at a time.
const ENTRIES_BYTES: usize = 4 << 10;

/// Longest label that is compared.
const LABEL_MAX_BYTES: usize = 4 << 10;

/// Room for where something failed: the longest path that the kernel tells, and a name.
const PLACE_BYTES: usize = 4096 + 1 + 256;

/// How often the wait looks whether it is wanted any more.
const LOOK: Duration = Duration::from_millis(100);

/// A label for everything in a volume.
#[derive(Clone, Copy, Debug)]
pub struct Relabelling<'a> {
    /// The label.
    pub label: &'a str,
    /// A top that has the label stands for everything: nothing below it is looked at.
    pub trust_top: bool,
    /// How long it may take. What was done by then stays done.
    pub within: Duration,
    /// Ends it sooner, with the error `Interrupted`.
    pub stop: &'a AtomicBool,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relabelled {
    /// Everything has the label.
    Wholly,
    /// The file system keeps no labels, or was mounted with one for all of it.
    HasNone,
}

/// Labels what `held` stands for, and all below it; `path` names it in errors. Blocks until that is done, or until the time is over: the error then is `TimedOut`.
/// Errors name the file or directory that failed.
pub fn relabel(
    held: &OwnedFd,
    path: &Path,
    order: &Relabelling<'_>,
) -> Result<Relabelled, SysError> {
    let failed = |path: &Path, source: io::Error| SysError::Path {
        doing: "label",
        path: path.to_owned(),
        source,
    };
    let on_top = |source: io::Error| failed(path, source);
    let value = selinux::value(order.label).map_err(on_top)?;
    // Taken before the fork: the child can take none. Untouched pages of it cost nothing.
    let mut entries = vec![MaybeUninit::<u8>::uninit(); DEPTH_MAX * ENTRIES_BYTES];
    let trust_top = order.trust_top;
    let deadline = Instant::now() + order.within;
    let mut child = Child::fork(Some(held), |socket| {
        let mut walk = Walk {
            label: value.to_bytes_with_nul(),
            at: [0; LABEL_MAX_BYTES],
            place: [0; PLACE_BYTES],
            place_bytes: 0,
        };
        let code = match walk.top(held, trust_top, &mut entries) {
            Ok(()) => 0,
            Err(errno) => errno.raw_os_error(),
        };
        // SAFETY: the socket is open, and there is no descriptor to send.
        unsafe { child_answers(socket, code, -1) };
        // SAFETY: the socket is the child's own and open until it ends.
        let socket = unsafe { BorrowedFd::borrow_raw(socket) };
        let place = walk.place.get(..walk.place_bytes).unwrap_or_default();
        let _ = rustix::net::send(socket, place, rustix::net::SendFlags::NOSIGNAL);
    })
    .map_err(on_top)?;
    let outcome = wait(&child, deadline, order.stop).and_then(|()| child.answer(deadline));
    let place = match &outcome {
        Err(error) if error.raw_os_error().is_some() => place(&child, deadline),
        _ => None,
    };
    child.end();
    match outcome {
        Ok(_) => Ok(Relabelled::Wholly),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Relabelled::HasNone),
        Err(error) => Err(failed(place.as_deref().unwrap_or(path), error)),
    }
}

/// Waits for the child's first word as long as it is wanted.
fn wait(child: &Child, deadline: Instant, stop: &AtomicBool) -> io::Result<()> {
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let now = Instant::now();
        match child.wait(deadline.min(now + LOOK)) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut && now < deadline => {}
            outcome => return outcome,
        }
    }
}

/// Where it failed, if the child says so.
fn place(child: &Child, deadline: Instant) -> Option<PathBuf> {
    child.wait(deadline).ok()?;
    let mut bytes = vec![0; PLACE_BYTES];
    let count = rustix::io::read(&child.socket, &mut bytes[..]).ok()?;
    bytes.truncate(count);
    (count > 0).then(|| std::ffi::OsString::from_vec(bytes).into())
}

/// The child's work. Makes nothing but system calls.
struct Walk<'a> {
    /// The label, with the NUL at its end.
    label: &'a [u8],
    /// The label that something has.
    at: [u8; LABEL_MAX_BYTES],
    /// Where it failed.
    place: [u8; PLACE_BYTES],
    place_bytes: usize,
}

/// The path of a descriptor, or of a name in the directory that it stands for.
struct FdPath([u8; 300], usize);

impl FdPath {
    fn new(fd: &OwnedFd, name: Option<&CStr>) -> Result<Self, Errno> {
        let mut bytes = [0_u8; 300];
        let whole = bytes.len();
        let mut rest = &mut bytes[..];
        let number = fd.as_raw_fd();
        write!(rest, "/proc/self/fd/{number}").map_err(|_| Errno::NAMETOOLONG)?;
        if let Some(name) = name {
            rest.write_all(b"/")
                .and_then(|()| rest.write_all(name.to_bytes()))
                .map_err(|_| Errno::NAMETOOLONG)?;
        }
        rest.write_all(b"\0").map_err(|_| Errno::NAMETOOLONG)?;
        let used = whole - rest.len();
        Ok(Self(bytes, used))
    }

    fn as_c_str(&self) -> Result<&CStr, Errno> {
        let bytes = self.0.get(..self.1).unwrap_or_default();
        CStr::from_bytes_with_nul(bytes).map_err(|_| Errno::INVAL)
    }
}

impl Walk<'_> {
    fn top(
        &mut self,
        held: &OwnedFd,
        trust_top: bool,
        entries: &mut [MaybeUninit<u8>],
    ) -> Result<(), Errno> {
        let itself = FdPath::new(held, None)?;
        if trust_top {
            let length = rustix::fs::getxattr(itself.as_c_str()?, selinux::ATTRIBUTE, &mut self.at)
                .unwrap_or(0);
            if self.is_it(length) {
                return Ok(());
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(held, c".", flags, Mode::empty()) {
            Ok(directory) => self.directory(&directory, entries),
            Err(Errno::NOTDIR) => {
                let path = itself.as_c_str()?;
                let length = match rustix::fs::getxattr(path, selinux::ATTRIBUTE, &mut self.at) {
                    Err(Errno::OPNOTSUPP) => return Err(Errno::OPNOTSUPP),
                    length => length.unwrap_or(0),
                };
                if self.is_it(length) {
                    return Ok(());
                }
                rustix::fs::setxattr(path, selinux::ATTRIBUTE, self.label, XattrFlags::empty())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether what was read is the label. The kernel's own values end with a NUL, those of some programs do not.
    fn is_it(&self, length: usize) -> bool {
        let at = self.at.get(..length).unwrap_or_default();
        at.strip_suffix(b"\0").unwrap_or(at) == self.label.strip_suffix(b"\0").unwrap_or_default()
    }

    fn directory(
        &mut self,
        directory: &OwnedFd,
        entries: &mut [MaybeUninit<u8>],
    ) -> Result<(), Errno> {
        let Some((own, below)) = entries.split_at_mut_checked(ENTRIES_BYTES) else {
            return self.failed(directory, None, Errno::NAMETOOLONG);
        };
        let mut list = RawDir::new(directory, own);
        while let Some(entry) = list.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.failed(directory, None, error),
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
                let flags = OFlags::RDONLY
                    | OFlags::DIRECTORY
                    | OFlags::NOFOLLOW
                    | OFlags::NONBLOCK
                    | OFlags::CLOEXEC;
                let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
                match rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve) {
                    Ok(inner) => {
                        self.directory(&inner, below)?;
                        continue;
                    }
                    // Something else is mounted there, or it has gone.
                    Err(Errno::XDEV | Errno::NOENT) => continue,
                    // None, or none any more.
                    Err(Errno::NOTDIR | Errno::LOOP) => {}
                    Err(error) => return self.failed(directory, Some(name), error),
                }
            }
            match self.entry(directory, name) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return self.failed(directory, Some(name), error),
            }
        }
        let has = match rustix::fs::fgetxattr(directory, selinux::ATTRIBUTE, &mut self.at) {
            Err(Errno::OPNOTSUPP) => return Err(Errno::OPNOTSUPP),
            length => length.unwrap_or(0),
        };
        if self.is_it(has) {
            return Ok(());
        }
        let flags = XattrFlags::empty();
        rustix::fs::fsetxattr(directory, selinux::ATTRIBUTE, self.label, flags)
            .or_else(|error| self.failed(directory, None, error))
    }

    /// Labels what is no directory; a link itself, not what it leads to.
    fn entry(&mut self, directory: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        let path = FdPath::new(directory, Some(name))?;
        let path = path.as_c_str()?;
        let length = match rustix::fs::lgetxattr(path, selinux::ATTRIBUTE, &mut self.at) {
            Err(error @ (Errno::OPNOTSUPP | Errno::NOENT)) => return Err(error),
            length => length.unwrap_or(0),
        };
        if self.is_it(length) {
            return Ok(());
        }
        rustix::fs::lsetxattr(path, selinux::ATTRIBUTE, self.label, XattrFlags::empty())
    }

    /// Notes where it failed. A directory that was deleted meanwhile is no failure.
    fn failed(
        &mut self,
        directory: &OwnedFd,
        name: Option<&CStr>,
        error: Errno,
    ) -> Result<(), Errno> {
        if error == Errno::NOENT {
            return Ok(());
        }
        let whole = self.place.len();
        let link = FdPath::new(directory, None)?;
        // SAFETY: the path is a C string, and the buffer is this process's own and longer than what may be written.
        let count = unsafe {
            libc::readlink(
                link.as_c_str()?.as_ptr(),
                self.place.as_mut_ptr().cast(),
                whole - 257,
            )
        };
        let count = usize::try_from(count).unwrap_or(0);
        let mut rest = self.place.get_mut(count..).unwrap_or_default();
        if let Some(name) = name {
            let _ = rest.write_all(b"/");
            let _ = rest.write_all(name.to_bytes());
        }
        self.place_bytes = whole - rest.len();
        Err(error)
    }
}

#[cfg(test)]
#[path = "relabel_tests.rs"]
mod tests;
