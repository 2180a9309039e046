//! The kernel's list of mounts.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use crate::SysError;

/// A line of /proc/self/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Its number, of which another mount may have the same once it is gone.
    pub id: u64,
    /// The directory of the file system that is mounted, `/` for all of it.
    pub root: PathBuf,
    /// Where it is mounted.
    pub target: PathBuf,
    /// The kind of file system.
    pub fs_type: String,
    /// What is mounted, often a device.
    pub source: String,
    /// The options of the file system, comma-separated.
    pub super_options: String,
    /// How mounts below it spread.
    pub propagation: Propagation,
}

/// How mounts made below a mount spread to its copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Propagation {
    /// It is in a group whose members all see each other's mounts.
    pub shared: bool,
    /// It sees the mounts of another group.
    pub slave: bool,
}

/// All mounts of the calling thread's mount namespace, in the order in which they were made.
pub fn table() -> Result<Vec<MountInfo>, SysError> {
    const TABLE: &str = "/proc/thread-self/mountinfo";
    let bytes = std::fs::read(TABLE).map_err(SysError::path("read", TABLE))?;
    Ok(parse_table(&bytes))
}

/// The mount points at and below `dir`, those made last first, which is an order in which they can be unmounted.
pub fn below(dir: &Path) -> Result<Vec<PathBuf>, SysError> {
    let mut targets: Vec<_> = table()?
        .into_iter()
        .map(|mount| mount.target)
        .filter(|target| target.starts_with(dir))
        .collect();
    targets.reverse();
    Ok(targets)
}

/// The mount that holds a file or directory, which need not be open for more than its path.
///
/// # Errors
/// `NotFound` for a mount that this thread's mount namespace does not have (any more), and what keeps /proc from being read.
pub fn holder(held: impl AsFd) -> Result<MountInfo, SysError> {
    let name = format!("/proc/self/fdinfo/{}", held.as_fd().as_raw_fd());
    let facts = std::fs::read_to_string(&name).map_err(SysError::path("read", &name))?;
    // Not by its path: a mount may be covered by one that was made above it later.
    let id = parse_mount_id(&facts).ok_or_else(|| SysError::Content {
        path: name.clone().into(),
        expected: "the number of a mount",
    })?;
    table()?
        .into_iter()
        .find(|mount| mount.id == id)
        .ok_or_else(|| SysError::path("find the mount of", name)(io::Error::from(Errno::NOENT)))
}

/// The mount's number in what /proc says about a descriptor.
pub(super) fn parse_mount_id(facts: &str) -> Option<u64> {
    let mut lines = facts.lines();
    let number = lines.find_map(|line| line.strip_prefix("mnt_id:"))?;
    number.trim().parse().ok()
}

pub(super) fn parse_table(bytes: &[u8]) -> Vec<MountInfo> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(parse_mount)
        .collect()
}

/// Reads a line such as `36 35 98:0 /root /mnt rw,noatime shared:1 master:2 - ext3 /dev/sda rw`, where any number of words
/// may stand between the options and the hyphen.
fn parse_mount(line: &[u8]) -> Option<MountInfo> {
    let mut words = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    let root = unescape(words.nth(2)?);
    let target = unescape(words.next()?);
    let _options = words.next()?;
    let mut propagation = Propagation::default();
    for tag in words.by_ref().take_while(|word| *word != b"-") {
        propagation.shared |= tag.starts_with(b"shared:");
        propagation.slave |= tag.starts_with(b"master:");
    }
    let text = |word: &[u8]| String::from_utf8_lossy(&unescape_bytes(word)).into_owned();
    Some(MountInfo {
        id,
        root,
        target,
        fs_type: text(words.next()?),
        source: text(words.next()?),
        super_options: text(words.next().unwrap_or_default()),
        propagation,
    })
}

fn unescape(word: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(&unescape_bytes(word)))
}

/// Undoes the kernel's `\040` for a blank and the like.
fn unescape_bytes(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(code) = code {
            plain.push(code);
            rest = &tail[3..];
        } else {
            plain.push(byte);
            rest = tail;
        }
    }
    plain
}
