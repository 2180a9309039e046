//! Mounts that show the ids of files as a user namespace maps them, and the user namespaces that say how.
//!
//! On such a mount what belongs to id 0 on the disk belongs to the namespace's root, and so on; nothing on the disk is
//! changed. The kernel does it for most file systems, and names none of those for which it does not: [`is_possible`] finds
//! out by trying.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{MoveMountFlags, OpenTreeFlags},
};

use crate::{SysError, child};

/// A range of ids of a user namespace: where it begins inside, where outside, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "told above")]
pub struct IdRange {
    pub inside: u32,
    pub outside: u32,
    pub length: u32,
}

/// How mounts spread between a copy and what it is a copy of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// Not at all.
    #[default]
    Private,
    /// To the copy.
    Slave,
    /// As before: both ways, where the original is shared.
    AsBefore,
}

/// How the copy of a mount is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copying {
    /// Nothing can be changed through it.
    pub readonly: bool,
    /// With the mounts below it, which are shown with mapped ids too.
    pub recursive: bool,
    /// How mounts that are made on one of the two appear on the other.
    pub spread: Spread,
}

/// Shows `source`, a file or directory, at `target` too, with ids mapped as the user namespace behind the file
/// `user_namespace` maps them.
///
/// `EINVAL` says that the file system cannot do that.
pub fn bind(
    source: impl AsFd,
    user_namespace: impl AsFd,
    target: &Path,
    how: Copying,
) -> Result<(), SysError> {
    let tree = mapped_copy(source.as_fd(), user_namespace.as_fd(), how).map_err(SysError::path(
        "map the ids of what is to be mounted on",
        target,
    ))?;
    rustix::mount::move_mount(
        &tree,
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(SysError::path("mount on", target))
}

/// Whether ids can be mapped on the file system of `dir`.
pub fn is_possible(dir: &Path) -> Result<bool, SysError> {
    let range = IdRange {
        inside: 0,
        outside: 1 << 16,
        length: 1 << 16,
    };
    let Ok(namespace) = user_namespace(&[range], &[range]) else {
        // The node's administrator or its container forbids them.
        return Ok(false);
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir_fd =
        rustix::fs::open(dir, flags, Mode::empty()).map_err(SysError::path("open", dir))?;
    let how = Copying {
        spread: Spread::Private,
        ..Copying::default()
    };
    Ok(mapped_copy(dir_fd.as_fd(), namespace.as_fd(), how).is_ok())
}

/// A copy of a mount that is nowhere yet.
fn mapped_copy(
    source: BorrowedFd<'_>,
    user_namespace: BorrowedFd<'_>,
    how: Copying,
) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let mut set_flags = libc::AT_EMPTY_PATH;
    if how.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
        set_flags |= libc::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(source, "", flags)?;
    let mut attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: match how.spread {
            Spread::Private => libc::MS_PRIVATE,
            Spread::Slave => libc::MS_SLAVE,
            Spread::AsBefore => 0,
        },
        userns_fd: u64::try_from(user_namespace.as_raw_fd()).unwrap_or(u64::MAX),
    };
    if how.readonly {
        attributes.attr_set |= libc::MOUNT_ATTR_RDONLY;
    }
    // SAFETY: the descriptors are open, the path is an empty C string, and the call reads one mount_attr of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            set_flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(tree)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes a user namespace that no process is in: it lasts as long as the descriptor, or a mount that was made with it.
pub fn user_namespace(uids: &[IdRange], gids: &[IdRange]) -> Result<OwnedFd, SysError> {
    let failed = |source: io::Error| SysError::System {
        doing: "make a user namespace",
        source,
    };
    let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| failed(error.into()))?;
    // SAFETY: an all-zero clone_args is valid, and asks for nothing.
    let mut order: libc::clone_args = unsafe { std::mem::zeroed() };
    order.flags = libc::CLONE_NEWUSER.cast_unsigned().into();
    order.exit_signal = libc::SIGCHLD.cast_unsigned().into();
    let parent = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: the call reads one clone_args of the size given. The new process shares no memory with this one, and calls
    // nothing that takes a lock or memory: another thread may hold any lock at this moment.
    let made = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const order,
            size_of::<libc::clone_args>(),
        )
    };
    if made == 0 {
        let mut byte = 0_u8;
        // SAFETY: in the child. The descriptor is a copy of its own, the buffer is its own, and `_exit` runs no code of
        // the parent's.
        unsafe {
            child::settle(parent, &[wait.as_raw_fd()]);
            libc::read(wait.as_raw_fd(), (&raw mut byte).cast(), 1);
            libc::_exit(0);
        }
    }
    if made < 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    let opened = map_ids(made, "uid_map", uids)
        .and_then(|()| map_ids(made, "gid_map", gids))
        .and_then(|()| std::fs::File::open(format!("/proc/{made}/ns/user")));
    let pid = i32::try_from(made).unwrap_or(0);
    // The end of the pipe alone may not reach it: other children that begin at this moment have a copy of `go`.
    drop(go);
    // SAFETY: the child was waited for by nobody, so the number is its own.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    // SAFETY: the child is this process's and was waited for by nobody; the status is not asked for.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
    opened.map(OwnedFd::from).map_err(failed)
}

fn map_ids(process: libc::c_long, map: &str, ranges: &[IdRange]) -> io::Result<()> {
    use std::fmt::Write as _;

    let mut lines = String::new();
    for range in ranges {
        let _ = writeln!(lines, "{} {} {}", range.inside, range.outside, range.length);
    }
    // The kernel takes a map in one write, and only once.
    std::fs::write(format!("/proc/{process}/{map}"), lines)
}

/// The user namespace that is pinned at `path`.
pub fn open_user_namespace(path: &Path) -> Result<OwnedFd, SysError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(SysError::path("open the user namespace", path))
}

/// A descriptor that stands for a file or directory, without opening it.
pub fn hold(path: &Path) -> Result<OwnedFd, SysError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(SysError::path("look up", path))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::os::unix::fs::MetadataExt;

    use rustix::mount::{MountFlags, MountPropagationFlags};

    use super::*;

    fn range() -> Vec<IdRange> {
        vec![IdRange {
            inside: 0,
            outside: 300_000,
            length: 1000,
        }]
    }

    #[test]
    fn ids_are_shown_as_the_namespace_maps_them() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        let dir = tempfile::tempdir().unwrap();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), c"").unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("file"), "x").unwrap();
        std::os::unix::fs::chown(from.join("file"), Some(5), Some(7)).unwrap();

        let namespace = user_namespace(&range(), &range()).unwrap();
        let how = Copying {
            readonly: true,
            spread: Spread::Private,
            ..Copying::default()
        };
        bind(hold(&from).unwrap(), &namespace, &to, how).unwrap();
        let seen = std::fs::metadata(to.join("file")).unwrap();
        assert_eq!((seen.uid(), seen.gid()), (300_005, 300_007));
        assert!(std::fs::write(to.join("new"), "x").is_err());
        assert_eq!(std::fs::metadata(from.join("file")).unwrap().uid(), 5);
        crate::mount::unmount(&to).unwrap();

        // A file system that cannot do it.
        let error = bind(hold(Path::new("/proc")).unwrap(), &namespace, &to, how).unwrap_err();
        assert!(error.io().is_some(), "{error}");
        assert!(is_possible(dir.path()).unwrap());
        assert!(!is_possible(Path::new("/proc")).unwrap());
        crate::mount::unmount(dir.path()).unwrap();
    }

    #[test]
    fn mounts_spread_between_a_copy_and_its_original_as_asked() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mount = |at: &Path| {
            rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::empty(), c"").unwrap();
        };
        let is_mount = |at: &Path| crate::mount::is_mount_point(at).unwrap();
        mount(dir.path());
        let namespace = user_namespace(&range(), &range()).unwrap();
        for (spread, to_copy, to_original) in [
            (Spread::Private, false, false),
            (Spread::Slave, true, false),
            (Spread::AsBefore, true, true),
        ] {
            let original = dir.path().join(format!("{spread:?}"));
            let copy = dir.path().join(format!("{spread:?}-copy"));
            for place in [&original, &copy] {
                std::fs::create_dir(place).unwrap();
            }
            mount(&original);
            for name in ["before", "later", "back"] {
                std::fs::create_dir(original.join(name)).unwrap();
            }
            mount(&original.join("before"));
            let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
            rustix::mount::mount_change(&original, shared).unwrap();
            let how = Copying {
                recursive: true,
                spread,
                ..Copying::default()
            };
            bind(hold(&original).unwrap(), &namespace, &copy, how).unwrap();
            assert!(is_mount(&copy.join("before")), "{spread:?}");
            mount(&original.join("later"));
            assert_eq!(is_mount(&copy.join("later")), to_copy, "{spread:?}");
            mount(&copy.join("back"));
            assert_eq!(is_mount(&original.join("back")), to_original, "{spread:?}");
            crate::mount::unmount_copy(&copy).unwrap();
            assert!(!is_mount(&copy), "{spread:?}");
            for name in ["before", "later"] {
                assert!(is_mount(&original.join(name)), "{spread:?} {name}");
            }
        }
    }

    #[test]
    fn a_namespace_without_a_process() {
        let namespace = user_namespace(&range(), &range()).unwrap();
        let own = crate::namespace::own(crate::namespace::Kind::User);
        let path = format!("/proc/self/fd/{}", namespace.as_raw_fd());
        assert!(crate::namespace::is_nsfs(Path::new(&path)).unwrap());
        assert!(!crate::namespace::same(Path::new(&path), &own).unwrap());
        // Ids past the last one.
        let bad = [IdRange {
            inside: 0,
            outside: u32::MAX,
            length: 5,
        }];
        assert!(user_namespace(&bad, &range()).is_err());
    }
}
