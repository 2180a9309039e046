//! Files inside a root that others filled: a container's root file system, an image's layers.
//!
//! Paths are resolved as a process that was chrooted there would resolve them, by the kernel, so no symbolic link and no
//! `..` leads out of the root, however it is changed meanwhile. What is opened is looked at before it is read: a device or
//! a pipe with the right name is never opened for reading.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::SysError;

/// How often a lookup is tried again when something was renamed in its way. The kernel asks for that with `EAGAIN`.
const LOOKUP_ATTEMPTS: usize = 128;

/// Reads a regular file, `None` if there is none.
///
/// `path_inside` may be absolute; it starts at the root either way. A file of more than `max_bytes` is an error, so is
/// anything that is not a regular file.
pub fn read_file(
    root: &Path,
    path_inside: &Path,
    max_bytes: usize,
) -> Result<Option<Vec<u8>>, SysError> {
    let failed = |source: io::Error| SysError::Path {
        doing: "read",
        path: root.join(path_inside.strip_prefix("/").unwrap_or(path_inside)),
        source,
    };
    let root_fd = rustix::fs::open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(SysError::path("open the root", root))?;
    let found = match lookup(&root_fd, path_inside) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(failed(error.into())),
    };
    let stat = rustix::fs::fstat(&found).map_err(|error| failed(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(SysError::NotRegular {
            root: root.to_owned(),
            path: path_inside.to_owned(),
        });
    }
    // Opens the very file that was looked at, by its descriptor.
    let name = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, name, flags, Mode::empty())
        .map_err(|error| failed(error.into()))?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large from one that just fits.
    let limit = u64::try_from(max_bytes)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    File::from(file)
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > max_bytes {
        return Err(SysError::TooLarge {
            root: root.to_owned(),
            path: path_inside.to_owned(),
            max_bytes,
        });
    }
    Ok(Some(bytes))
}

/// Makes a directory and those above it, each with mode 0755 and owned by root. Whatever directory is there is left as it is.
///
/// `path_inside` may be absolute; it starts at the root either way. Links on the way are followed inside the root.
pub fn make_dir(root: &Path, path_inside: &Path) -> Result<(), SysError> {
    let failed = |errno: Errno| SysError::Path {
        doing: "make the directory",
        path: root.join(path_inside.strip_prefix("/").unwrap_or(path_inside)),
        source: errno.into(),
    };
    let root_fd = rustix::fs::open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(SysError::path("open the root", root))?;
    let mut walked = std::path::PathBuf::new();
    let mut parent = lookup(&root_fd, Path::new(".")).map_err(failed)?;
    for part in path_inside.components() {
        let std::path::Component::Normal(name) = part else {
            // Nothing but a leading slash is of use in a path that an image's author wrote.
            if part == std::path::Component::ParentDir {
                return Err(failed(Errno::INVAL));
            }
            continue;
        };
        walked.push(name);
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        // Looked up from the root again: a link that stood here leads somewhere inside it.
        parent = lookup(&root_fd, &walked).map_err(failed)?;
        let stat = rustix::fs::fstat(&parent).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(failed(Errno::NOTDIR));
        }
    }
    Ok(())
}

/// Finds what `path` names inside the root, without opening it.
fn lookup(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..LOOKUP_ATTEMPTS {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directories_are_made_inside_the_root_whatever_links_say() {
        let dir = root();
        let root = dir.path().join("root");
        make_dir(&root, Path::new("/var/lib/data")).unwrap();
        assert!(root.join("var/lib/data").is_dir());
        make_dir(&root, Path::new("var/lib/data")).unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        symlink("/real", root.join("linked")).unwrap();
        make_dir(&root, Path::new("/linked/inside")).unwrap();
        assert!(root.join("real/inside").is_dir());
        symlink("../..", root.join("escape")).unwrap();
        make_dir(&root, Path::new("/escape/made")).unwrap();
        assert!(root.join("made").is_dir());
        assert!(!dir.path().join("made").exists());
        assert!(make_dir(&root, Path::new("/../made")).is_err());
        assert!(make_dir(&root, Path::new("/etc/passwd/made")).is_err());
    }

    fn root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "of the node").unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc/sub")).unwrap();
        std::fs::write(root.join("etc/passwd"), "root:x:0:0").unwrap();
        symlink("../../../../etc/passwd", root.join("etc/sub/up")).unwrap();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        symlink("/secret", root.join("out")).unwrap();
        symlink("../secret", root.join("out2")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        rustix::fs::mknodat(
            CWD,
            root.join("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        dir
    }

    #[test]
    fn links_stay_inside() {
        let dir = root();
        let root = dir.path().join("root");
        for inside in [
            "etc/passwd",
            "/etc/passwd",
            "../../etc/passwd",
            "etc/sub/up",
            "absolute",
        ] {
            let bytes = read_file(&root, Path::new(inside), 100).unwrap();
            assert_eq!(bytes.as_deref(), Some(b"root:x:0:0".as_slice()), "{inside}");
        }
        for nothing in [
            "out",
            "out2",
            "../secret",
            "nowhere",
            "etc/passwd/x",
            "magic/etc/passwd",
        ] {
            assert_eq!(
                read_file(&root, Path::new(nothing), 100).unwrap(),
                None,
                "{nothing}"
            );
        }
    }

    #[test]
    fn only_regular_files_of_bearable_size() {
        let dir = root();
        let root = dir.path().join("root");
        for odd in ["pipe", "etc", "/"] {
            let error = read_file(&root, Path::new(odd), 100).unwrap_err();
            assert!(matches!(error, SysError::NotRegular { .. }), "{error}");
        }
        assert!(
            read_file(&root, Path::new("etc/passwd"), 10)
                .unwrap()
                .is_some()
        );
        let error = read_file(&root, Path::new("etc/passwd"), 9).unwrap_err();
        assert!(matches!(error, SysError::TooLarge { .. }), "{error}");
        assert!(read_file(&root, Path::new("loop"), 10).is_err());
        assert!(read_file(&root.join("gone"), Path::new("etc/passwd"), 10).is_err());
    }
}
