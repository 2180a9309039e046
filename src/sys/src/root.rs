//! Files inside a root that others filled: a container's root file system, an image's layers.
//!
//! Paths are resolved as a process that was chrooted there would resolve them, by the kernel, so no symbolic link and no
//! `..` leads out of the root, however it is changed meanwhile. What is opened is looked at before it is read: a device or
//! a pipe with the right name is never opened for reading.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid},
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

/// Makes a directory and those above it, each with mode 0755 and of the given user and group. Whatever directory is there is
/// left as it is.
///
/// `path_inside` may be absolute; it starts at the root either way. Links on the way are followed inside the root.
pub fn make_dir(root: &Path, path_inside: &Path, owner: (u32, u32)) -> Result<(), SysError> {
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
    let mut walked = PathBuf::new();
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
            Ok(()) if owner != (0, 0) => {
                let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(&parent, name, Some(uid), Some(gid), flags).map_err(failed)?;
            }
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

/// What a path inside a root names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Where it is, free of symbolic links and inside the root, as long as nobody changes the root.
    pub path: PathBuf,
    /// The same, relative to the root.
    pub inside: PathBuf,
    /// What it is.
    pub kind: FileKind,
}

/// What a file is, as far as it matters for mounting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's own words")]
pub enum FileKind {
    Directory,
    Regular,
    /// A device, a pipe or a socket.
    Special,
}

/// Finds what `path_inside` names, following links inside the root; `None` if there is nothing.
///
/// `path_inside` may be absolute; it starts at the root either way.
pub fn locate(root: &Path, path_inside: &Path) -> Result<Option<Located>, SysError> {
    let failed = |errno: Errno| SysError::Path {
        doing: "find",
        path: root.join(path_inside.strip_prefix("/").unwrap_or(path_inside)),
        source: errno.into(),
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
        Err(error) => return Err(failed(error)),
    };
    let kind = match FileType::from_raw_mode(rustix::fs::fstat(&found).map_err(failed)?.st_mode) {
        FileType::Directory => FileKind::Directory,
        FileType::RegularFile => FileKind::Regular,
        _ => FileKind::Special,
    };
    let whereabouts = |fd: &OwnedFd| {
        std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
            .map_err(SysError::path("find", root.join(path_inside)))
    };
    let path = whereabouts(&found)?;
    let inside = path
        .strip_prefix(whereabouts(&root_fd)?)
        .map_err(|_outside| failed(Errno::XDEV))?
        .to_owned();
    Ok(Some(Located { path, inside, kind }))
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
        make_dir(&root, Path::new("/var/lib/data"), (0, 0)).unwrap();
        assert!(root.join("var/lib/data").is_dir());
        make_dir(&root, Path::new("var/cache/x"), (5, 6)).unwrap();
        for (made, owner) in [
            ("var", (0, 0)),
            ("var/cache", (5, 6)),
            ("var/cache/x", (5, 6)),
        ] {
            use std::os::unix::fs::MetadataExt;

            let found = std::fs::metadata(root.join(made)).unwrap();
            assert_eq!((found.uid(), found.gid()), owner, "{made}");
        }
        make_dir(&root, Path::new("var/lib/data"), (0, 0)).unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        symlink("/real", root.join("linked")).unwrap();
        make_dir(&root, Path::new("/linked/inside"), (0, 0)).unwrap();
        assert!(root.join("real/inside").is_dir());
        symlink("../..", root.join("escape")).unwrap();
        make_dir(&root, Path::new("/escape/made"), (0, 0)).unwrap();
        assert!(root.join("made").is_dir());
        assert!(!dir.path().join("made").exists());
        assert!(make_dir(&root, Path::new("/../made"), (0, 0)).is_err());
        assert!(make_dir(&root, Path::new("/etc/passwd/made"), (0, 0)).is_err());
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
    fn what_a_path_names_is_found_inside_the_root() {
        let dir = root();
        let root = dir.path().canonicalize().unwrap().join("root");
        for (path, inside, kind) in [
            ("etc", "etc", FileKind::Directory),
            ("/", "", FileKind::Directory),
            ("", "", FileKind::Directory),
            ("../..", "", FileKind::Directory),
            ("etc/sub/up", "etc/passwd", FileKind::Regular),
            ("absolute", "etc/passwd", FileKind::Regular),
            ("pipe", "pipe", FileKind::Special),
        ] {
            let path_inside = if path.is_empty() { "." } else { path };
            let found = locate(&root, Path::new(path_inside)).unwrap().unwrap();
            assert_eq!(found.inside, Path::new(inside), "{path}");
            assert_eq!(found.path, root.join(inside), "{path}");
            assert_eq!(found.kind, kind, "{path}");
        }
        for nothing in ["out", "../secret", "nowhere", "etc/passwd/x"] {
            assert_eq!(locate(&root, Path::new(nothing)).unwrap(), None);
        }
        assert!(locate(&root, Path::new("loop")).is_err());
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
