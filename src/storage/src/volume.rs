//! Volumes that an image declares: directories of a container's own, which begin as copies of what the image has there.
//!
//! They are directories of the disk, not of the overlay: programs that cannot work on an overlay (another container runtime
//! for instance) have their images declare a volume, and so does who wants to write although the root is read-only. A volume
//! goes with its container's writable layer, and is counted with it.
//!
//! What is copied is the image's: hostile. It is walked by descriptors, no symbolic link is followed, holes stay holes, and all
//! volumes of a container together are not larger than a [`VolumeBudget`].

use std::{
    collections::HashMap,
    ffi::{CStr, OsStr},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
        XattrFlags,
    },
    io::Errno,
};
use sys::root::FileKind;

use crate::{LayerStore, Limit, StorageError, UnpackLimits, tree};

/// Name of the directory of a container's volumes, beside its writable layer.
pub(crate) const DIRECTORY: &str = "volumes";

/// Longest list of attributes' names, and longest value, that the kernel has.
const XATTR_BYTES: usize = 64 << 10;

/// Longest path that the kernel takes, with its NUL.
const PATH_BYTES: usize = 4096;

/// How many bytes of paths are remembered for files of several names. Files that come when that is full are copied again
/// under their other names.
const NAMES_BYTES: usize = 32 << 20;

/// What the volumes of one container may still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeBudget {
    bytes: Purse,
    entries: Purse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Purse {
    left: u64,
    of: u64,
}

impl Default for VolumeBudget {
    /// What an image may reasonably want copied for each of its containers: much less than its layers may hold, for it is
    /// written anew each time that one is made.
    fn default() -> Self {
        Self::new(16 << 30, 1 << 20)
    }
}

impl VolumeBudget {
    /// So many bytes of contents (without holes), attributes and links, and so many files, directories and all other entries.
    pub fn new(bytes: u64, entries: u64) -> Self {
        let purse = |of| Purse { left: of, of };
        Self {
            bytes: purse(bytes),
            entries: purse(entries),
        }
    }

    fn take_bytes(&mut self, amount: u64) -> Result<(), CopyError> {
        let limit = Limit::VolumeBytes(self.bytes.of);
        self.bytes.take(amount, limit)
    }

    fn take_entries(&mut self, amount: u64) -> Result<(), CopyError> {
        let limit = Limit::VolumeEntries(self.entries.of);
        self.entries.take(amount, limit)
    }
}

impl Purse {
    fn take(&mut self, amount: u64, limit: Limit) -> Result<(), CopyError> {
        self.left = self
            .left
            .checked_sub(amount)
            .ok_or(CopyError::TooLarge(limit))?;
        Ok(())
    }
}

/// Why a volume could not be copied.
#[derive(Debug)]
enum CopyError {
    Io(io::Error),
    TooLarge(Limit),
}

impl<E: Into<io::Error>> From<E> for CopyError {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}

/// A volume to be made.
#[expect(
    missing_debug_implementations,
    reason = "a function has nothing to show"
)]
pub struct VolumeOrder<'a> {
    /// The container, whose root file system is mounted.
    pub container: &'a str,
    /// Tells the container's volumes apart.
    pub index: usize,
    /// Where the root file system is mounted. Nothing runs in it yet.
    pub root: &'a Path,
    /// The path that the image declares.
    pub declared: &'a Path,
    /// User and group of directories that the image does not have, as the node sees them.
    pub owner: (u32, u32),
    /// Whether there shall be a volume at this path of the container, which is free of symbolic links.
    pub wanted: &'a dyn Fn(&Path) -> bool,
    /// What may be copied; what was copied is taken from it.
    pub budget: &'a mut VolumeBudget,
    /// Copying ends with an error soon after this is set.
    pub stop: &'a AtomicBool,
}

/// A volume, ready to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The directory with its contents.
    pub directory: PathBuf,
    /// Where it belongs: an absolute path in the container's root, free of symbolic links.
    pub container_path: PathBuf,
}

impl LayerStore {
    /// Makes a volume with what the root file system has at the declared path, an empty directory where it has nothing.
    /// `None` if a file is there, which stays part of the writable layer, and where none is wanted.
    pub fn make_volume(&self, order: &mut VolumeOrder<'_>) -> Result<Option<Volume>, StorageError> {
        let failed = |directory: &Path, error| match error {
            CopyError::Io(error) => StorageError::io("copy the image's files to", directory)(error),
            CopyError::TooLarge(limit) => StorageError::VolumesTooLarge {
                declared: order.declared.to_owned(),
                limit,
            },
        };
        // Each part of the path may have to be made, and the volume is one too.
        let parts = order.declared.components().count() as u64;
        order
            .budget
            .take_entries(parts + 1)
            .map_err(|error| failed(order.declared, error))?;
        let found = sys::root::make_dir(order.root, order.declared, order.owner)
            .and_then(|()| sys::root::locate(order.root, order.declared));
        let source = match found {
            Ok(Some(source)) if source.kind == FileKind::Directory => source,
            Ok(_) => return Ok(None),
            Err(error) => match error.io().map(io::Error::kind) {
                Some(io::ErrorKind::NotADirectory) => return Ok(None),
                _ => {
                    return Err(StorageError::Mount {
                        container: order.container.to_owned(),
                        source: error,
                    });
                }
            },
        };
        let container_path = Path::new("/").join(&source.inside);
        if !(order.wanted)(&container_path) {
            return Ok(None);
        }
        let parent = self.container_dir(order.container)?.join(DIRECTORY);
        match fs::create_dir(&parent) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StorageError::io("create", &parent)(error));
            }
            _ => {}
        }
        let directory = parent.join(order.index.to_string());
        fs::create_dir(&directory).map_err(StorageError::io("create", &directory))?;
        copy(&source.path, &directory, order.budget, order.stop)
            .map_err(|error| failed(&directory, error))?;
        Ok(Some(Volume {
            directory,
            container_path,
        }))
    }
}

/// Copies what is in a directory, and the directory's own attributes, to an empty one.
fn copy(
    from: &Path,
    to: &Path,
    budget: &mut VolumeBudget,
    stop: &AtomicBool,
) -> Result<(), CopyError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty());
    let (source, target) = (open(from)?, open(to)?);
    let mut copier = Copier {
        top: target.try_clone()?,
        names: HashMap::new(),
        names_left: NAMES_BYTES,
        path: PathBuf::new(),
        budget,
        stop,
    };
    copier.directory(&source, &target, 0)
}

struct Copier<'a> {
    /// The directory that everything is copied to.
    top: OwnedFd,
    /// Files of several names that were copied: under which name, from `top`.
    names: HashMap<(u64, u64), PathBuf>,
    /// How many bytes of them may still be remembered.
    names_left: usize,
    /// The directory that is being copied, from `top`.
    path: PathBuf,
    budget: &'a mut VolumeBudget,
    stop: &'a AtomicBool,
}

impl Copier<'_> {
    fn directory(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        depth: usize,
    ) -> Result<(), CopyError> {
        let most = UnpackLimits::default().depth;
        if depth > most {
            return Err(CopyError::TooLarge(Limit::Depth(most)));
        }
        for entry in Dir::read_from(source)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(stopped());
            }
            self.budget.take_entries(1)?;
            let stat = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
            self.path.push(OsStr::from_bytes(name.to_bytes()));
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let inner = open_dir(source, name)?;
                    rustix::fs::mkdirat(target, name, Mode::from_raw_mode(0o700))?;
                    let made = open_dir(target, name)?;
                    self.directory(&inner, &made, depth + 1)?;
                }
                kind => self.file(source, target, name, &stat, kind)?,
            }
            self.path.pop();
        }
        // Last: times change with every file that is made, and a directory may be closed to its owner.
        let stat = rustix::fs::fstat(source)?;
        self.xattrs(source, target)?;
        rustix::fs::fchown(
            target,
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
        )?;
        rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        rustix::fs::futimens(target, &times(&stat))?;
        Ok(())
    }

    fn file(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        name: &CStr,
        stat: &Stat,
        kind: FileType,
    ) -> Result<(), CopyError> {
        if stat.st_nlink > 1 {
            // Layers may be on several file systems.
            let file = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.names.get(&file) {
                rustix::fs::linkat(&self.top, first, target, name, AtFlags::empty())?;
                return Ok(());
            }
            // One whose path the kernel would not take is copied again under its other names.
            let length = self.path.as_os_str().len();
            if length < PATH_BYTES && length <= self.names_left {
                self.names_left -= length;
                self.names.insert(file, self.path.clone());
            }
        }
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let read = rustix::fs::openat(source, name, flags, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let written = rustix::fs::openat(target, name, flags, Mode::from_raw_mode(0o600))?;
                let (mut read, mut written) = (File::from(read), File::from(written));
                self.contents(&mut read, &mut written)?;
                rustix::fs::ftruncate(&written, stat.st_size.cast_unsigned())?;
                self.xattrs(&read, &written)?;
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(source, name, Vec::new())?;
                self.budget.take_bytes(link.as_bytes().len() as u64)?;
                rustix::fs::symlinkat(link, target, name)?;
            }
            kind => {
                // Devices are as harmless here as in the image's own layer: the container's cgroup says which it may use.
                rustix::fs::mknodat(target, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)?;
            }
        }
        // Owner before permissions: changing the owner takes setuid and setgid away.
        rustix::fs::chownat(
            target,
            name,
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        if kind != FileType::Symlink {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::chmodat(target, name, mode, AtFlags::empty())?;
        }
        rustix::fs::utimensat(target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Copies what is not a hole.
    fn contents(&mut self, read: &mut File, written: &mut File) -> Result<(), CopyError> {
        /// After how many bytes it is seen whether anyone still wants them.
        const STEP_BYTES: u64 = 16 << 20;

        let mut place = 0;
        loop {
            place = match rustix::fs::seek(&*read, SeekFrom::Data(place)) {
                Ok(begin) => begin,
                Err(Errno::NXIO) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let end = rustix::fs::seek(&*read, SeekFrom::Hole(place))?;
            while place < end {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(stopped());
                }
                rustix::fs::seek(&*read, SeekFrom::Start(place))?;
                rustix::fs::seek(&*written, SeekFrom::Start(place))?;
                let step = STEP_BYTES.min(end - place);
                self.budget.take_bytes(step)?;
                if io::copy(&mut io::Read::take(&mut *read, step), written)? < step {
                    // Shorter than it was a moment ago.
                    return Ok(());
                }
                place += step;
            }
        }
    }

    /// Copies extended attributes: capabilities, ACLs, what users keep there. A file system that cannot hold one goes without.
    fn xattrs(&mut self, source: impl AsFd, target: impl AsFd) -> Result<(), CopyError> {
        /// The node's policy labels what is made on it.
        const SELINUX: &[u8] = b"security.selinux";

        let mut names = vec![0_u8; XATTR_BYTES];
        let length = match rustix::fs::flistxattr(&source, &mut names[..]) {
            Ok(length) => length,
            Err(Errno::NOTSUP) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if length == 0 {
            return Ok(());
        }
        let mut value = vec![0_u8; XATTR_BYTES];
        for name in names[..length].split(|byte| *byte == 0) {
            if name.is_empty() || name == SELINUX {
                continue;
            }
            let size = match rustix::fs::fgetxattr(&source, name, &mut value[..]) {
                Ok(size) => size,
                Err(Errno::NODATA | Errno::NOTSUP) => continue,
                Err(error) => return Err(error.into()),
            };
            self.budget.take_bytes((name.len() + size) as u64)?;
            match rustix::fs::fsetxattr(&target, name, &value[..size], XattrFlags::empty()) {
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Nobody wants the copy any more.
fn stopped() -> CopyError {
    CopyError::Io(io::ErrorKind::Interrupted.into())
}

fn open_dir(parent: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn times(stat: &Stat) -> Timestamps {
    tree::timestamps(Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

    use rustix::{
        fs::CWD,
        mount::{MountFlags, MountPropagationFlags},
    };

    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
        store: LayerStore,
        root: PathBuf,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = LayerStore::open(&dir.path().join("store"), &[]).unwrap();
            fs::create_dir(dir.path().join("store/containers/c1")).unwrap();
            let root = dir.path().canonicalize().unwrap().join("root");
            fs::create_dir(&root).unwrap();
            Self { dir, store, root }
        }

        fn volume(&self, index: usize, path: &str) -> Result<Option<Volume>, StorageError> {
            self.volume_of(index, path, &|_| true, &mut VolumeBudget::default())
        }

        fn volume_of(
            &self,
            index: usize,
            path: &str,
            wanted: &dyn Fn(&Path) -> bool,
            budget: &mut VolumeBudget,
        ) -> Result<Option<Volume>, StorageError> {
            self.store.make_volume(&mut VolumeOrder {
                container: "c1",
                index,
                root: &self.root,
                declared: Path::new(path),
                owner: (0, 0),
                wanted,
                budget,
                stop: &AtomicBool::new(false),
            })
        }
    }

    #[test]
    fn what_the_image_has_there_is_copied_with_all_its_attributes() {
        let fixture = Fixture::new();
        let data = fixture.root.join("data");
        fs::create_dir_all(data.join("sub/deep")).unwrap();
        fs::write(data.join("sub/file"), "text").unwrap();
        fs::hard_link(data.join("sub/file"), data.join("again")).unwrap();
        symlink("/etc/shadow", data.join("link")).unwrap();
        let fifo = data.join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        std::os::unix::fs::chown(data.join("sub/file"), Some(7), Some(8)).unwrap();
        std::os::unix::fs::chown(&data, Some(1000), Some(1001)).unwrap();
        fs::set_permissions(data.join("sub/file"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o1770)).unwrap();

        let volume = fixture.volume(0, "/data").unwrap().unwrap();
        assert_eq!(volume.container_path, Path::new("/data"));
        let made = volume.directory;
        let owner = |path: &Path| {
            let found = fs::symlink_metadata(path).unwrap();
            (found.uid(), found.gid(), found.mode() & 0o7777)
        };
        assert_eq!(owner(&made), (1000, 1001, 0o1770));
        assert_eq!(owner(&made.join("sub/file")), (7, 8, 0o4711));
        assert_eq!(fs::read(made.join("again")).unwrap(), b"text");
        let inode = |name: &str| fs::metadata(made.join(name)).unwrap().ino();
        assert_eq!(inode("again"), inode("sub/file"));
        assert_eq!(
            fs::read_link(made.join("link")).unwrap(),
            Path::new("/etc/shadow")
        );
        assert!(
            fs::symlink_metadata(made.join("fifo"))
                .unwrap()
                .file_type()
                .is_fifo()
        );
        assert!(made.join("sub/deep").is_dir());
        let time = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(time(&made.join("sub")), time(&data.join("sub")));
        fs::create_dir(fixture.dir.path().join("store/containers/c1/upper")).unwrap();
        let usage = crate::Rootfs::writable_usage(&fixture.store, "c1")
            .unwrap()
            .usage;
        assert!(usage.inodes >= 7, "the volume counts: {usage:?}");
        assert!(
            fixture
                .dir
                .path()
                .join("store/containers/c1/volumes/0")
                .is_dir()
        );
    }

    #[test]
    fn links_do_not_lead_out_and_files_are_left_alone() {
        let fixture = Fixture::new();
        fs::write(fixture.dir.path().join("secret"), "of the node").unwrap();
        fs::create_dir(fixture.root.join("run")).unwrap();
        fs::create_dir(fixture.root.join("var")).unwrap();
        fs::write(fixture.root.join("plain"), "x").unwrap();
        symlink("../run", fixture.root.join("var/run")).unwrap();
        symlink("../../..", fixture.root.join("out")).unwrap();

        let through = fixture.volume(0, "/var/run").unwrap().unwrap();
        assert_eq!(through.container_path, Path::new("/run"));
        let out = fixture.volume(1, "/out").unwrap().unwrap();
        assert_eq!(out.container_path, Path::new("/"));
        assert!(!out.directory.join("secret").exists());
        assert_eq!(fixture.volume(2, "/plain").unwrap(), None);
        assert_eq!(fixture.volume(3, "/plain/below").unwrap(), None);
        let fresh = fixture.volume(4, "/not/there").unwrap().unwrap();
        assert_eq!(fs::read_dir(&fresh.directory).unwrap().count(), 0);
        assert_eq!(
            fs::metadata(&fresh.directory).unwrap().mode() & 0o7777,
            0o755
        );
        assert!(fixture.volume(5, "/../x").is_err());
    }

    #[test]
    fn copying_stops_when_nobody_wants_it() {
        let fixture = Fixture::new();
        fs::create_dir(fixture.root.join("data")).unwrap();
        fs::write(fixture.root.join("data/file"), "x").unwrap();
        let result = fixture.store.make_volume(&mut VolumeOrder {
            container: "c1",
            index: 0,
            root: &fixture.root,
            declared: Path::new("/data"),
            owner: (0, 0),
            wanted: &|_| true,
            budget: &mut VolumeBudget::default(),
            stop: &AtomicBool::new(true),
        });
        assert!(result.is_err());
    }

    #[test]
    fn holes_stay_holes_and_cost_nothing() {
        let fixture = Fixture::new();
        let data = fixture.root.join("data");
        fs::create_dir(&data).unwrap();
        let file = File::create(data.join("sparse")).unwrap();
        let size = 1_u64 << 40;
        file.set_len(size).unwrap();
        rustix::io::pwrite(&file, b"middle", 1 << 30).unwrap();
        let mut budget = VolumeBudget::new(1 << 20, 10);
        let volume = fixture.volume_of(0, "/data", &|_| true, &mut budget);
        let made = volume.unwrap().unwrap().directory.join("sparse");
        let stat = fs::metadata(&made).unwrap();
        assert_eq!(stat.len(), size);
        assert!(stat.blocks() < 1 << 11, "{} blocks", stat.blocks());
        let mut word = [0; 6];
        rustix::io::pread(File::open(&made).unwrap(), &mut word, 1 << 30).unwrap();
        assert_eq!(&word, b"middle");
        assert!(budget.bytes.left < 1 << 20);
    }

    #[test]
    fn volumes_of_a_container_have_one_budget_and_say_when_it_is_spent() {
        let fixture = Fixture::new();
        for (name, bytes) in [("a", 3000), ("b", 3000)] {
            fs::create_dir(fixture.root.join(name)).unwrap();
            fs::write(fixture.root.join(name).join("file"), vec![7; bytes]).unwrap();
        }
        let mut bytes = VolumeBudget::new(5000, 10);
        fixture.volume_of(0, "/a", &|_| true, &mut bytes).unwrap();
        let error = fixture.volume_of(1, "/b", &|_| true, &mut bytes);
        let words = error.unwrap_err().to_string();
        for part in ["/b", "5000 bytes", "mount a volume of the pod"] {
            assert!(words.contains(part), "{words}");
        }
        // The volume, the two parts of its path, and the file in it.
        let mut entries = VolumeBudget::new(1 << 20, 4);
        fixture.volume_of(2, "/a", &|_| true, &mut entries).unwrap();
        assert_eq!(entries.entries.left, 0);
        let error = fixture.volume_of(3, "/b", &|_| true, &mut entries);
        let words = error.unwrap_err().to_string();
        assert!(words.contains("4 files and directories"), "{words}");
        // Neither is anything made for it.
        assert!(fixture.volume_of(4, "/c", &|_| true, &mut entries).is_err());
        assert!(!fixture.root.join("c").exists());
    }

    #[test]
    fn what_is_no_content_counts_too() {
        let fixture = Fixture::new();
        let data = fixture.root.join("data");
        fs::create_dir(&data).unwrap();
        let taken = |index: usize| {
            let mut budget = VolumeBudget::default();
            let made = fixture.volume_of(index, "/data", &|_| true, &mut budget);
            let made = made.unwrap().unwrap().directory;
            (budget.bytes.of - budget.bytes.left, made)
        };
        let (nothing, _) = taken(0);
        symlink("0123456789", data.join("link")).unwrap();
        let (link, _) = taken(1);
        assert_eq!(link - nothing, 10);
        let value = [b'x'; 500];
        rustix::fs::setxattr(&data, "user.a", &value, XattrFlags::empty()).unwrap();
        let (attribute, made) = taken(2);
        assert_eq!(attribute - link, 506);
        let mut read = [0; 600];
        assert_eq!(
            rustix::fs::getxattr(&made, "user.a", &mut read[..]).unwrap(),
            500
        );
    }

    /// Copies a directory as a volume, with so much room for the names of files that have several.
    fn copied(fixture: &Fixture, from: &Path, names_left: usize) -> PathBuf {
        let to = fixture.dir.path().join("to");
        fs::create_dir(&to).unwrap();
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).unwrap()
        };
        let (source, target) = (open(from), open(&to));
        let mut copier = Copier {
            top: target.try_clone().unwrap(),
            names: HashMap::new(),
            names_left,
            path: PathBuf::new(),
            budget: &mut VolumeBudget::default(),
            stop: &AtomicBool::new(false),
        };
        copier.directory(&source, &target, 0).unwrap();
        to
    }

    #[test]
    fn names_that_are_not_remembered_are_files_of_their_own() {
        for (room, inodes) in [(NAMES_BYTES, 1), (3, 2)] {
            let fixture = Fixture::new();
            fs::write(fixture.root.join("1234"), "text").unwrap();
            fs::hard_link(fixture.root.join("1234"), fixture.root.join("5678")).unwrap();
            let made = copied(&fixture, &fixture.root, room);
            let inode = |name: &str| fs::metadata(made.join(name)).unwrap().ino();
            let different = usize::from(inode("1234") != inode("5678"));
            assert_eq!(1 + different, inodes);
            assert_eq!(fs::read(made.join("5678")).unwrap(), b"text");
        }
    }

    #[test]
    fn names_too_far_down_for_a_path_are_copied_again() {
        let fixture = Fixture::new();
        let open = |parent: &OwnedFd, name: &CStr| open_dir(parent, name).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::open(&fixture.root, flags, Mode::empty()).unwrap();
        let name = std::ffi::CString::new(vec![b'd'; 250]).unwrap();
        let mut bottom = top.try_clone().unwrap();
        let depth = PATH_BYTES / name.as_bytes().len() + 2;
        for _ in 0..depth {
            rustix::fs::mkdirat(&bottom, &name, Mode::from_raw_mode(0o755)).unwrap();
            bottom = open(&bottom, &name);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&bottom, c"one", flags, Mode::from_raw_mode(0o644)).unwrap();
        rustix::io::write(file, b"text").unwrap();
        rustix::fs::linkat(&bottom, c"one", &bottom, c"two", AtFlags::empty()).unwrap();

        let made = fixture.volume(0, "/").unwrap().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut bottom = rustix::fs::open(&made.directory, flags, Mode::empty()).unwrap();
        for _ in 0..depth {
            bottom = open(&bottom, &name);
        }
        for name in [c"one", c"two"] {
            let stat = rustix::fs::statat(&bottom, name, AtFlags::empty()).unwrap();
            assert_eq!((stat.st_size, stat.st_nlink), (4, 1), "{name:?}");
        }
    }

    #[test]
    fn files_of_one_number_on_two_file_systems_are_two() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        let fixture = Fixture::new();
        let mut numbers = Vec::new();
        for name in ["a", "b"] {
            let place = fixture.root.join(name);
            fs::create_dir(&place).unwrap();
            rustix::mount::mount("tmpfs", &place, "tmpfs", MountFlags::empty(), c"").unwrap();
            fs::write(place.join("one"), name).unwrap();
            fs::hard_link(place.join("one"), place.join("two")).unwrap();
            numbers.push(fs::metadata(place.join("one")).unwrap().ino());
        }
        assert_eq!(numbers[0], numbers[1], "the test needs the same number");
        let made = fixture.volume(0, "/").unwrap().unwrap().directory;
        for name in ["a", "b"] {
            for file in ["one", "two"] {
                let text = fs::read_to_string(made.join(name).join(file)).unwrap();
                assert_eq!(text, name, "{name}/{file}");
            }
        }
    }

    #[test]
    fn what_is_not_wanted_is_not_copied() {
        let fixture = Fixture::new();
        symlink("/", fixture.root.join("all")).unwrap();
        let mut budget = VolumeBudget::default();
        let wanted = |place: &Path| place != Path::new("/");
        let volume = fixture.volume_of(0, "/all", &wanted, &mut budget).unwrap();
        assert_eq!(volume, None);
        assert_eq!(budget.bytes, VolumeBudget::default().bytes);
        assert!(
            !fixture
                .dir
                .path()
                .join("store/containers/c1/volumes")
                .exists()
        );
    }
}
