//! Mounting and unmounting.
//!
//! Everything that Pintle unmounts, it unmounts lazily and without following a symbolic link at the end of the path, and
//! unmounting what is not there is no error: the callers undo half-done work with it.

mod table;

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags,
        MoveMountFlags, UnmountFlags,
    },
};

use crate::SysError;

pub use table::{MountInfo, Propagation, below, holder, table};

/// mount(2) copies its options into one page, with a NUL at the end.
const OPTION_PAGE_BYTES: usize = 4096;

/// How many mounts on top of each other [`unmount`] takes away: more than anything of ours ever stacks.
const STACKED_LIMIT: usize = 16;

/// An overlay file system to mount.
#[derive(Clone, Copy, Debug)]
pub struct OverlayMount<'a> {
    /// The read-only directories, topmost first; at least one, and at least two without `upper`. Their names may hold any byte.
    pub lower: &'a [PathBuf],
    /// The directory that takes the changes, and the overlay's work directory beside it on the same file system.
    /// Without them the mount is read-only.
    pub upper: Option<UpperDirs<'a>>,
    /// Where to mount it.
    pub target: &'a Path,
    /// Never sync the upper directory, not even at unmounting, which otherwise syncs its whole file system. After a crash
    /// of the machine, the upper directory is to be thrown away.
    pub volatile: bool,
    /// Mount it read-only although there is an upper directory.
    pub readonly: bool,
    /// The SELinux label that everything in it is to have, whatever the layers say. Only where SELinux is active.
    pub label: Option<&'a str>,
}

/// The writable side of an overlay.
#[derive(Clone, Copy, Debug)]
pub struct UpperDirs<'a> {
    /// Takes the changes.
    pub upper: &'a Path,
    /// The kernel's own, empty at mounting.
    pub work: &'a Path,
}

/// Mounts an overlay.
///
/// The directories are given to mount(2) as text if they fit into its one page, because that works on every kernel and
/// leaves the paths in /proc/self/mountinfo; else one by one by fsconfig(2) (Linux 6.8); else, and if a path has letters
/// that mean something in the text (kernels differ in how they read them), as descriptors in mount(2)'s text.
pub fn overlay(mount: &OverlayMount<'_>) -> Result<(), SysError> {
    let failed = |source: Errno| SysError::Path {
        doing: "mount an overlay on",
        path: mount.target.to_owned(),
        source: source.into(),
    };
    if let Some(options) = overlay_options(mount, mount.lower) {
        return overlay_by_text(mount, &options).map_err(failed);
    }
    let upper = mount.upper.iter().flat_map(|dirs| [dirs.upper, dirs.work]);
    let mut dirs = mount.lower.iter().map(PathBuf::as_path).chain(upper);
    if !dirs.all(is_plain) {
        return overlay_by_descriptors(mount);
    }
    match overlay_by_fsconfig(mount) {
        Ok(()) => Ok(()),
        // Before Linux 6.8 there is no "lowerdir+".
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => overlay_by_descriptors(mount),
        Err(error) => Err(failed(error)),
    }
}

fn overlay_flags(mount: &OverlayMount<'_>) -> MountFlags {
    if mount.readonly || mount.upper.is_none() {
        MountFlags::RDONLY
    } else {
        MountFlags::empty()
    }
}

fn overlay_by_text(mount: &OverlayMount<'_>, options: &CString) -> Result<(), Errno> {
    rustix::mount::mount(
        "overlay",
        mount.target,
        "overlay",
        overlay_flags(mount),
        options.as_c_str(),
    )
}

/// The options that are switched the same way on every node, whatever its overlay module defaults to: no index and no
/// metacopy, whose bookkeeping in the upper directory costs time at mounting and buys containers nothing.
const SWITCHES: [(&str, &str); 2] = [("index", "off"), ("metacopy", "off")];

/// The options for mount(2), or `None` if they do not fit into its page or a path cannot be written there.
fn overlay_options(mount: &OverlayMount<'_>, lower: &[PathBuf]) -> Option<CString> {
    let mut options = Vec::with_capacity(1024);
    options.extend_from_slice(b"lowerdir=");
    for (index, dir) in lower.iter().enumerate() {
        if index > 0 {
            options.push(b':');
        }
        push_plain(&mut options, dir)?;
    }
    if let Some(dirs) = mount.upper {
        options.extend_from_slice(b",upperdir=");
        push_plain(&mut options, dirs.upper)?;
        options.extend_from_slice(b",workdir=");
        push_plain(&mut options, dirs.work)?;
        if mount.volatile {
            options.extend_from_slice(b",volatile");
        }
    }
    for (key, value) in SWITCHES {
        options.extend_from_slice(format!(",{key}={value}").as_bytes());
    }
    if let Some(label) = mount.label {
        // Quoted, for a level has commas.
        options.extend_from_slice(format!(",context=\"{label}\"").as_bytes());
    }
    if options.len() >= OPTION_PAGE_BYTES {
        return None;
    }
    CString::new(options).ok()
}

/// Whether a path needs no escaping.
fn is_plain(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    !bytes.is_empty()
        && !bytes
            .iter()
            .any(|byte| matches!(byte, b':' | b',' | b'\\' | b'"'))
}

/// Appends a path that needs no escaping; `None` for any other.
fn push_plain(options: &mut Vec<u8>, path: &Path) -> Option<()> {
    is_plain(path).then(|| options.extend_from_slice(path.as_os_str().as_bytes()))
}

fn overlay_by_fsconfig(mount: &OverlayMount<'_>) -> Result<(), Errno> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", "overlay")?;
    for dir in mount.lower {
        rustix::mount::fsconfig_set_string(&context, "lowerdir+", dir)?;
    }
    if let Some(dirs) = mount.upper {
        rustix::mount::fsconfig_set_string(&context, "upperdir", dirs.upper)?;
        rustix::mount::fsconfig_set_string(&context, "workdir", dirs.work)?;
        if mount.volatile {
            rustix::mount::fsconfig_set_flag(&context, "volatile")?;
        }
    }
    for (key, value) in SWITCHES {
        rustix::mount::fsconfig_set_string(&context, key, value)?;
    }
    if let Some(label) = mount.label {
        rustix::mount::fsconfig_set_string(&context, "context", label)?;
    }
    let attributes = if overlay_flags(mount).contains(MountFlags::RDONLY) {
        rustix::mount::fsconfig_set_flag(&context, "ro")?;
        MountAttrFlags::MOUNT_ATTR_RDONLY
    } else {
        MountAttrFlags::empty()
    };
    rustix::mount::fsconfig_create(&context)?;
    let tree = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    rustix::mount::move_mount(
        &tree,
        "",
        CWD,
        mount.target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

fn overlay_by_descriptors(mount: &OverlayMount<'_>) -> Result<(), SysError> {
    let open = |dir: &Path| -> Result<(OwnedFd, PathBuf), SysError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(dir, flags, Mode::empty())
            .map_err(SysError::path("open the overlay directory", dir))?;
        let name = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        Ok((fd, name))
    };
    let (_lower, names): (Vec<_>, Vec<_>) = mount
        .lower
        .iter()
        .map(|dir| open(dir))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .unzip();
    let (upper, work);
    let upper_dirs = match mount.upper {
        None => None,
        Some(dirs) => {
            upper = open(dirs.upper)?;
            work = open(dirs.work)?;
            Some(UpperDirs {
                upper: &upper.1,
                work: &work.1,
            })
        }
    };
    let short = OverlayMount {
        upper: upper_dirs,
        ..*mount
    };
    overlay_options(&short, &names)
        .ok_or(Errno::TOOBIG)
        .and_then(|options| overlay_by_text(&short, &options))
        .map_err(SysError::path("mount an overlay on", mount.target))
}

/// Makes `source`, a file or a directory, also appear at `target`, without the mounts below it.
pub fn bind(source: &Path, target: &Path, readonly: bool) -> Result<(), SysError> {
    rustix::mount::mount_bind(source, target).map_err(SysError::path("bind to", target))?;
    if readonly {
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        if let Err(error) = rustix::mount::mount_remount(target, flags, c"") {
            let error = SysError::path("make read-only", target)(error);
            // Half a bind would give away write access.
            let _ = unmount(target);
            return Err(error);
        }
    }
    Ok(())
}

/// An empty tmpfs.
#[derive(Clone, Copy, Debug)]
pub struct Tmpfs {
    /// The most that its files take together.
    pub size_bytes: u64,
    /// The most files and directories in it, the top directory among them; `None` for as many as fit.
    pub max_inodes: Option<u32>,
    /// Permission bits of the top directory.
    pub mode: u32,
    /// Owner of the top directory.
    pub uid: u32,
    /// Group of the top directory.
    pub gid: u32,
}

impl Tmpfs {
    /// One that belongs to root.
    pub fn new(size_bytes: u64, mode: u32) -> Self {
        Self {
            size_bytes,
            max_inodes: None,
            mode,
            uid: 0,
            gid: 0,
        }
    }
}

/// Mounts an empty tmpfs; nothing in it can be a device, be executed or be setuid.
pub fn tmpfs(target: &Path, tmpfs: &Tmpfs) -> Result<(), SysError> {
    let mut options = format!(
        "size={},mode={:o},uid={},gid={}",
        tmpfs.size_bytes, tmpfs.mode, tmpfs.uid, tmpfs.gid
    );
    if let Some(max_inodes) = tmpfs.max_inodes {
        options.push_str(",nr_inodes=");
        options.push_str(&max_inodes.to_string());
    }
    let options = CString::new(options).map_err(|error| SysError::Path {
        doing: "mount a tmpfs on",
        path: target.to_owned(),
        source: error.into(),
    })?;
    rustix::mount::mount(
        "tmpfs",
        target,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        options.as_c_str(),
    )
    .map_err(SysError::path("mount a tmpfs on", target))
}

/// Takes away whatever is mounted at `target`, at once for whoever looks the path up, later for whoever still uses it.
///
/// A target that is not there or on which nothing is mounted is fine. A symbolic link at the end of the path is not
/// followed.
pub fn unmount(target: &Path) -> Result<(), SysError> {
    for _ in 0..STACKED_LIMIT {
        match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // "Not a mount point" and "not there".
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(SysError::path("unmount", target)(error)),
        }
    }
    Ok(())
}

/// As [`unmount`], for a copy of a tree of mounts, which may spread what happens below it to the tree that it was copied from:
/// it stops to do so first, or what is mounted there would be unmounted too.
pub fn unmount_copy(target: &Path) -> Result<(), SysError> {
    let alone = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    for _ in 0..STACKED_LIMIT {
        match rustix::mount::mount_change(target, alone) {
            Ok(()) => {}
            // "Not a mount point" and "not there".
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => {
                let doing = "keep the unmounting to itself of";
                return Err(SysError::path(doing, target)(error));
            }
        }
        rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(SysError::path("unmount", target))?;
    }
    Ok(())
}

/// Makes a directory a mount of its own, on which mounts appear in no other mount namespace and in no other copy. One that is a
/// mount already is left as it is. [`unmount_copy`] undoes it.
///
/// On a mount that is shared, as most are, what is mounted would be copied to namespaces of others. From there a copy of a
/// tree could not be called back without calling back what is mounted below its original, and kept file systems busy.
pub fn set_apart(dir: &Path) -> Result<(), SysError> {
    if is_mount_point(dir)? {
        return Ok(());
    }
    bind(dir, dir, false)?;
    rustix::mount::mount_change(dir, MountPropagationFlags::PRIVATE).map_err(|error| {
        let _ = unmount(dir);
        SysError::path("set apart", dir)(error)
    })
}

/// Whether something is mounted exactly at `target`. A target that is not there is none.
pub fn is_mount_point(target: &Path) -> Result<bool, SysError> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(CWD, target, flags, StatxFlags::empty()) {
        Ok(found)
            if found
                .stx_attributes_mask
                .contains(StatxAttributes::MOUNT_ROOT) =>
        {
            Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        // Before Linux 5.8.
        Ok(_) => is_in_table(target),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => Err(SysError::path("look at", target)(error)),
    }
}

/// What [`is_mount_point`] asks, by the list of all mounts.
fn is_in_table(target: &Path) -> Result<bool, SysError> {
    let resolve = |path: &Path| path.canonicalize().map_err(SysError::path("find", path));
    let place = match (target.parent(), target.file_name()) {
        (Some(parent), Some(name)) => resolve(parent)?.join(name),
        _ => resolve(target)?,
    };
    Ok(table()?.iter().any(|mount| mount.target == place))
}

/// Removes a directory with all below it, but nothing that is mounted there: a mount that is met is an error, and what is in
/// it is left alone. A directory that is not there is fine.
///
/// # Errors
/// `ResourceBusy` for a mount, of kind [`SysError::Path`] with its place.
pub fn remove_tree(directory: &Path) -> Result<(), SysError> {
    let listed = match std::fs::read_dir(directory) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(SysError::path("list", directory)(error)),
    };
    for entry in listed {
        let entry = entry.map_err(SysError::path("list", directory))?;
        let path = entry.path();
        let kind = match entry.file_type() {
            Ok(kind) => kind,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(SysError::path("look at", &path)(error)),
        };
        if !kind.is_dir() {
            is_gone(std::fs::remove_file(&path)).map_err(SysError::path("remove", &path))?;
        } else if is_mount_point(&path)? {
            let busy = io::Error::new(io::ErrorKind::ResourceBusy, "something is mounted there");
            return Err(SysError::path("remove", &path)(busy));
        } else {
            remove_tree(&path)?;
        }
    }
    is_gone(std::fs::remove_dir(directory)).map_err(SysError::path("remove", directory))
}

fn is_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "mount_tests.rs"]
mod tests;
