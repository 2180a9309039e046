//! Owners, permissions, times and extended attributes, and what some of them mean to an overlay.

use std::os::fd::AsFd;

use rustix::{
    fs::{FileType, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags},
    io::Errno,
};

use crate::{
    tarball::Time,
    tree::error::{TreeError, doing},
};

/// The attribute by which an overlay takes a directory for one that hides those below it.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// The attribute that tells which ACL new files of a directory get.
pub(crate) const DEFAULT_ACL: &str = "system.posix_acl_default";

/// Owner and permissions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

/// Whether this is what an overlay takes for "nothing here, whatever is below".
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(crate) fn set_opaque(fd: impl AsFd) -> Result<(), TreeError> {
    rustix::fs::fsetxattr(fd, OPAQUE, b"y", XattrFlags::empty())
        .map_err(doing("make the directory opaque"))
}

pub(crate) fn set_default_acl(dir: impl AsFd, acl: &[u8]) -> Result<(), TreeError> {
    match rustix::fs::fsetxattr(dir, DEFAULT_ACL, acl, XattrFlags::empty()) {
        // The file system has none.
        Err(Errno::NOTSUP) => Ok(()),
        result => result.map_err(doing("set the default ACL")),
    }
}

/// Sets owner and then permissions, in this order because changing the owner takes setuid and setgid away.
pub(crate) fn set_owner(fd: impl AsFd, owner: Owner) -> Result<(), TreeError> {
    rustix::fs::fchown(
        &fd,
        Some(Uid::from_raw(owner.uid)),
        Some(Gid::from_raw(owner.gid)),
    )
    .map_err(doing("set the owner"))?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(owner.mode)).map_err(doing("set the permissions"))
}

pub(crate) fn to_timespec(time: Time) -> Timespec {
    Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.into(),
    }
}

/// The modification time alone: nobody asks when a file of an image was last read.
pub(crate) fn timestamps(modified: Timespec) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: modified,
    }
}

/// As [`timestamps`], from a time of the archive.
pub(crate) fn timestamps_of(time: Time) -> Timestamps {
    timestamps(to_timespec(time))
}
