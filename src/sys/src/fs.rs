//! Facts about file systems.

use std::{
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use rustix::fs::FileType;

use crate::SysError;

/// The number of the device that holds what `path` names; two paths with the same number are on the same file system.
pub fn device_of(path: &Path) -> Result<u64, SysError> {
    rustix::fs::stat(path)
        .map(|stat| stat.st_dev)
        .map_err(SysError::path("look at", path))
}

/// How full a file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilesystemUsage {
    /// Its size.
    pub total_bytes: u64,
    /// What is taken.
    pub used_bytes: u64,
    /// What is left for others than root.
    pub available_bytes: u64,
    /// How many inodes it has room for; 0 where they are made as needed.
    pub total_inodes: u64,
    /// How many are left.
    pub free_inodes: u64,
}

/// How full the file system is that holds `path`.
pub fn filesystem_usage(path: &Path) -> Result<FilesystemUsage, SysError> {
    let found =
        rustix::fs::statvfs(path).map_err(SysError::path("ask the file system of", path))?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(FilesystemUsage {
        total_bytes: bytes(found.f_blocks),
        used_bytes: bytes(found.f_blocks.saturating_sub(found.f_bfree)),
        available_bytes: bytes(found.f_bavail),
        total_inodes: found.f_files,
        free_inodes: found.f_ffree,
    })
}

/// Whether `path` is on a tmpfs.
pub fn is_tmpfs(path: &Path) -> Result<bool, SysError> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    Ok(magic_of(path)? == TMPFS_MAGIC)
}

/// The number that tells the kind of the file system that holds `path`.
pub(crate) fn magic_of(path: &Path) -> Result<u64, SysError> {
    let found = rustix::fs::statfs(path).map_err(SysError::path("ask the file system of", path))?;
    // The kernel's type is signed on some machines; every number in use is positive and fits 32 bits.
    Ok(u64::try_from(found.f_type).unwrap_or(0))
}

/// What a device node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    /// A block device rather than a character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The device node that `path` names, through symbolic links; `None` if it is something else.
pub fn device_node(path: &Path) -> Result<Option<DeviceNode>, SysError> {
    let stat = rustix::fs::stat(path).map_err(SysError::path("look at", path))?;
    let block = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => true,
        FileType::CharacterDevice => false,
        _ => return Ok(None),
    };
    Ok(Some(DeviceNode {
        block,
        major: rustix::fs::major(stat.st_rdev),
        minor: rustix::fs::minor(stat.st_rdev),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
    }))
}

/// Has the kernel begin to write a file's contents to the disk, without waiting for that. It makes a later sync shorter,
/// and promises nothing.
pub fn start_writeback(file: impl AsFd) {
    // SAFETY: the call reads and writes no memory of ours, and the descriptor is open.
    unsafe {
        // A file system that cannot do this need not.
        libc::sync_file_range(file.as_fd().as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn usage_is_plausible() {
        let usage = filesystem_usage(Path::new("/")).unwrap();
        assert!(usage.total_bytes >= usage.used_bytes);
        assert!(usage.total_bytes >= usage.available_bytes);
        assert!(usage.total_bytes > 0);
        assert!(filesystem_usage(Path::new("/no/such/path")).is_err());
    }

    #[test]
    fn kinds() {
        assert_ne!(
            device_of(Path::new("/proc")).unwrap(),
            device_of(Path::new("/")).unwrap()
        );
        assert!(!is_tmpfs(Path::new("/proc")).unwrap());
        let null = device_node(Path::new("/dev/null")).unwrap().unwrap();
        assert_eq!((null.block, null.major, null.minor), (false, 1, 3));
        assert_eq!(device_node(Path::new("/")).unwrap(), None);
    }
}
