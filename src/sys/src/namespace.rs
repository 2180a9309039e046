//! Namespaces as files: `/proc/<pid>/ns/*`, and the bind mounts that keep them alive.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::{SysError, fs::magic_of};

/// The file system that namespaces are files of.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Whether two paths name the same namespace (or, for that matter, the same file).
///
/// After a namespace is gone, another may get its number, but not while one of the two is held by a mount or a process.
pub fn same(one: &Path, other: &Path) -> Result<bool, SysError> {
    let look = |path: &Path| {
        rustix::fs::stat(path)
            .map(|stat| (stat.st_dev, stat.st_ino))
            .map_err(SysError::path("look at", path))
    };
    Ok(look(one)? == look(other)?)
}

/// Whether a namespace is pinned at `path`, rather than nothing or the plain file that a pin is mounted on.
pub fn is_nsfs(path: &Path) -> Result<bool, SysError> {
    match magic_of(path) {
        Ok(magic) => Ok(magic == NSFS_MAGIC),
        Err(SysError::Path { source, .. })
            if source.raw_os_error() == Some(Errno::NOENT.raw_os_error()) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// A kind of namespace, by its name below `/proc/<pid>/ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "namespaces(7) says what each one is")]
pub enum Kind {
    Cgroup,
    Ipc,
    Mount,
    Network,
    Pid,
    User,
    Uts,
}

impl Kind {
    /// The name below `/proc/<pid>/ns`.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Ipc => "ipc",
            Self::Mount => "mnt",
            Self::Network => "net",
            Self::Pid => "pid",
            Self::User => "user",
            Self::Uts => "uts",
        }
    }
}

/// Where a process's namespace is found as long as the process lives.
pub fn path_of(pid: u32, kind: Kind) -> PathBuf {
    format!("/proc/{pid}/ns/{}", kind.file_name()).into()
}

/// Where the server's own namespace is found.
pub fn own(kind: Kind) -> PathBuf {
    format!("/proc/self/ns/{}", kind.file_name()).into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn own_namespaces() {
        let net = own(Kind::Network);
        assert!(same(&net, &path_of(std::process::id(), Kind::Network)).unwrap());
        assert!(!same(&net, &own(Kind::Uts)).unwrap());
        assert!(is_nsfs(&net).unwrap());
        assert!(!is_nsfs(Path::new("/tmp")).unwrap());
        assert!(!is_nsfs(Path::new("/no/such")).unwrap());
        assert!(same(&net, Path::new("/no/such")).is_err());
    }
}
