//! From the entries of a tar to a layer's directory.
//!
//! Here the entries get their meaning: whiteouts, owners, permissions, attributes, times. Where they go is the business of
//! [`crate::tree`].

use std::{
    fs::File,
    io::BufRead,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags},
    io::Errno,
};

use crate::{
    StorageError, UnpackLimits,
    limits::Limit,
    recipe::Recorder,
    tarball::{Extent, Kind, Member, TarError, TarReader},
    tree::{self, Filled, Owner, Tree, TreeError, doing},
};

/// What the name of a whiteout begins with, in the format of layers.
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// The whiteout that hides everything that layers below have in its directory.
pub(crate) const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";

/// What the names of aufs' own files begin with, which some old layers hold and which mean nothing.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// From this size on, a file is on its way to the disk as soon as it is complete, so that the sync at the commit finds
/// little left to do.
pub(crate) const WRITEBACK_BYTES: u64 = 256 << 10;

/// What is made of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Files as they are in the archive.
    Whole,
    /// Files of the same size with nothing in them but a hole.
    Hollow,
}

/// Unpacks a tar into the empty directory `root`, and writes to `recipe` what is needed to write the tar again. Files that
/// are replaced by later entries are moved to the directory `kept`.
pub(crate) fn unpack(
    input: impl BufRead,
    root: OwnedFd,
    kept: OwnedFd,
    recipe: File,
    contents: Contents,
    limits: &UnpackLimits,
) -> Result<Filled, StorageError> {
    let recorder =
        Recorder::new(recipe).map_err(|source| tar_failed(0, TarError::Recipe(source)))?;
    let mut unpacker = Unpacker {
        tar: TarReader::new(input, limits, recorder),
        tree: Tree::new(root, kept, limits),
        limits,
        contents,
        file_bytes: 0,
    };
    loop {
        let member = unpacker.tar.next();
        match unpacker.told(member)? {
            Some(member) => unpacker.member(&member)?,
            None => break,
        }
    }
    let entries = unpacker.tar.entries();
    let filled = unpacker.tree.finish().map_err(|error| error.of(b"/"))?;
    let finished = unpacker.tar.finish();
    finished.map_err(|error| tar_failed(entries, error))?;
    Ok(filled)
}

fn tar_failed(entry: u64, error: TarError) -> StorageError {
    match error {
        TarError::HeaderTooLarge { max_bytes } => StorageError::TooLarge {
            limit: Limit::HeaderBytes(max_bytes),
        },
        // Not the layer's fault: the disk may be full.
        TarError::Recipe(source) => StorageError::Unpack {
            doing: "write the recipe",
            name: String::new(),
            source,
        },
        source => StorageError::Tar { entry, source },
    }
}

struct Unpacker<'a, R> {
    tar: TarReader<R>,
    tree: Tree,
    limits: &'a UnpackLimits,
    contents: Contents,
    /// Sizes of all files so far, holes included.
    file_bytes: u64,
}

impl<R: BufRead> Unpacker<'_, R> {
    /// Says at which entry the tar is bad.
    fn told<T>(&self, result: Result<T, TarError>) -> Result<T, StorageError> {
        result.map_err(|error| tar_failed(self.tar.entries(), error))
    }

    fn member(&mut self, member: &Member) -> Result<(), StorageError> {
        let at = |error: TreeError| error.of(&member.name);
        self.check(member)?;
        let components = tree::components(&member.name).map_err(at)?;
        let Some((&name, parents)) = components.split_last() else {
            return self.root(member).map_err(at);
        };
        self.tree.enter(parents).map_err(at)?;
        self.placed(member, name)?;
        self.note_replaced()
    }

    fn placed(&mut self, member: &Member, name: &[u8]) -> Result<(), StorageError> {
        let at = |error: TreeError| error.of(&member.name);
        if name.starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(name).map_err(at);
        }
        match &member.kind {
            Kind::File { extents } => self.file(member, name, extents.as_deref()),
            Kind::Directory => self.directory(member, name).map_err(at),
            Kind::HardLink { target } => self.tree.hard_link(name, target).map_err(at),
            Kind::Symlink { target } => self.symlink(member, name, target).map_err(at),
            Kind::Fifo => self.node(member, name, FileType::Fifo, 0).map_err(at),
            Kind::CharDevice { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                self.node(member, name, FileType::CharacterDevice, device)
                    .map_err(at)
            }
            Kind::BlockDevice { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                self.node(member, name, FileType::BlockDevice, device)
                    .map_err(at)
            }
        }
    }

    /// Tells the recipe what was moved aside, before anything else takes its place there.
    fn note_replaced(&mut self) -> Result<(), StorageError> {
        for path in self.tree.take_replaced() {
            let noted = self.tar.replaced(&path);
            self.told(noted)?;
        }
        Ok(())
    }

    /// Checks the entry against the limits.
    fn check(&mut self, member: &Member) -> Result<(), StorageError> {
        let too_large = |limit| Err(StorageError::TooLarge { limit });
        if self.tar.entries() > self.limits.entries {
            return too_large(Limit::Entries(self.limits.entries));
        }
        let target = match &member.kind {
            Kind::HardLink { target } | Kind::Symlink { target } => target.as_slice(),
            _ => b"",
        };
        if member.name.len().max(target.len()) > self.limits.name_bytes {
            return too_large(Limit::NameBytes(self.limits.name_bytes));
        }
        self.file_bytes = self.file_bytes.saturating_add(member.size);
        if self.file_bytes > self.limits.bytes {
            return too_large(Limit::Bytes(self.limits.bytes));
        }
        Ok(())
    }

    fn root(&mut self, member: &Member) -> Result<(), TreeError> {
        if member.kind != Kind::Directory {
            return Err(TreeError::Name("is the root, but no directory"));
        }
        self.tree.root_entry(member.modified)?;
        self.directory_attributes(member)
    }

    fn whiteout(&mut self, name: &[u8]) -> Result<(), TreeError> {
        if name == OPAQUE_WHITEOUT {
            return self.tree.make_opaque();
        }
        if name.starts_with(AUFS_PREFIX) {
            return Ok(());
        }
        match &name[WHITEOUT_PREFIX.len()..] {
            b"" | b"." | b".." => Err(TreeError::Name("is a whiteout of no name")),
            hidden => self.tree.whiteout(hidden),
        }
    }

    fn file(
        &mut self,
        member: &Member,
        name: &[u8],
        extents: Option<&[Extent]>,
    ) -> Result<(), StorageError> {
        let at = |error: TreeError| error.of(&member.name);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self
            .tree
            .place(name, "create the file", |parent| {
                rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
            })
            .map_err(at)?;
        match extents {
            _ if self.contents == Contents::Hollow => {
                self.pass_over()?;
                rustix::fs::ftruncate(&fd, member.size)
                    .map_err(|errno| at(doing("set the size")(errno)))?;
            }
            None => {
                self.note_replaced()?;
                let path = self.tree.path_of(name);
                let stored = self.tar.stored_as(&path);
                self.told(stored)?;
                self.contents(member, &fd)?;
            }
            Some(extents) => self.extents(member, &fd, extents)?,
        }
        tree::set_owner(&fd, owner(member)).map_err(at)?;
        set_xattrs(&fd, member).map_err(at)?;
        rustix::fs::futimens(&fd, &tree::timestamps_of(member.modified))
            .map_err(doing("set the times"))
            .map_err(at)?;
        if member.size >= WRITEBACK_BYTES && self.contents == Contents::Whole {
            sys::fs::start_writeback(&fd);
        }
        Ok(())
    }

    /// Writes a file's contents straight from the buffers in which the tar arrives.
    fn contents(&mut self, member: &Member, fd: &OwnedFd) -> Result<(), StorageError> {
        loop {
            let entries = self.tar.entries();
            let bytes = self
                .tar
                .contents()
                .map_err(|error| tar_failed(entries, error))?;
            if bytes.is_empty() {
                return Ok(());
            }
            let written = match rustix::io::write(fd, bytes) {
                Ok(written) => written,
                Err(Errno::INTR) => 0,
                Err(errno) => return Err(doing("write the file")(errno).of(&member.name)),
            };
            self.tar.consume(written);
        }
    }

    /// Leaves a file's contents aside.
    fn pass_over(&mut self) -> Result<(), StorageError> {
        loop {
            let entries = self.tar.entries();
            let contents = self.tar.contents();
            let count = contents.map_err(|error| tar_failed(entries, error))?.len();
            if count == 0 {
                return Ok(());
            }
            self.tar.consume(count);
        }
    }

    /// Writes the parts of a file that are no holes.
    fn extents(
        &mut self,
        member: &Member,
        fd: &OwnedFd,
        extents: &[Extent],
    ) -> Result<(), StorageError> {
        let at = |errno| doing("write the file")(errno).of(&member.name);
        for extent in extents {
            let mut offset = extent.offset;
            let end = extent.offset + extent.length;
            while offset < end {
                let entries = self.tar.entries();
                let contents = self.tar.contents();
                let bytes = contents.map_err(|error| tar_failed(entries, error))?;
                let count = usize::try_from(end - offset)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                let written = match rustix::io::pwrite(fd, &bytes[..count], offset) {
                    Ok(written) => written,
                    Err(Errno::INTR) => 0,
                    Err(errno) => return Err(at(errno)),
                };
                offset += written as u64;
                let taken = self.tar.consume_recorded(written);
                self.told(taken)?;
            }
        }
        rustix::fs::ftruncate(fd, member.size).map_err(at)
    }

    fn directory(&mut self, member: &Member, name: &[u8]) -> Result<(), TreeError> {
        self.tree.directory(name, Some(member.modified))?;
        self.directory_attributes(member)
    }

    /// Sets owner, permissions and attributes of the current directory.
    fn directory_attributes(&mut self, member: &Member) -> Result<(), TreeError> {
        tree::set_owner(self.tree.fd(), owner(member))?;
        set_xattrs(self.tree.fd(), member)?;
        let default_acl = member
            .xattrs
            .iter()
            .find(|(key, _)| key == tree::DEFAULT_ACL.as_bytes());
        match default_acl {
            Some((_, acl)) => self.tree.default_acl(acl),
            None => Ok(()),
        }
    }

    fn symlink(&mut self, member: &Member, name: &[u8], target: &[u8]) -> Result<(), TreeError> {
        if target.is_empty() {
            return Err(TreeError::Name("is a symbolic link to nothing"));
        }
        self.tree
            .place(name, "create the symbolic link", |parent| {
                rustix::fs::symlinkat(target, parent, name)
            })?;
        self.unopened(member, name)
    }

    fn node(
        &mut self,
        member: &Member,
        name: &[u8],
        kind: FileType,
        device: u64,
    ) -> Result<(), TreeError> {
        self.tree.place(name, "create the node", |parent| {
            rustix::fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device)
        })?;
        self.unopened(member, name)?;
        // Follows symbolic links, but this is none: it was just made, and nobody else is here.
        rustix::fs::chmodat(
            self.tree.fd(),
            name,
            Mode::from_raw_mode(member.mode),
            AtFlags::empty(),
        )
        .map_err(doing("set the permissions"))
    }

    /// Sets owner, attributes and times of what cannot or must not be opened.
    fn unopened(&self, member: &Member, name: &[u8]) -> Result<(), TreeError> {
        rustix::fs::chownat(
            self.tree.fd(),
            name,
            Some(Uid::from_raw(member.uid)),
            Some(Gid::from_raw(member.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(doing("set the owner"))?;
        if !member.xattrs.is_empty() {
            let mut path = format!("/proc/self/fd/{}/", self.tree.fd().as_raw_fd()).into_bytes();
            path.extend_from_slice(name);
            for (key, value) in kept_xattrs(member) {
                let set = rustix::fs::lsetxattr(path.as_slice(), key, value, XattrFlags::empty());
                unless_unsupported(key, set)?;
            }
        }
        self.times(member, name)
    }

    fn times(&self, member: &Member, name: &[u8]) -> Result<(), TreeError> {
        rustix::fs::utimensat(
            self.tree.fd(),
            name,
            &tree::timestamps_of(member.modified),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(doing("set the times"))
    }
}

fn owner(member: &Member) -> Owner {
    Owner {
        uid: member.uid,
        gid: member.gid,
        mode: member.mode,
    }
}

/// The attributes that a layer may set, but for default ACLs, which come later. Those of `trusted.` are the overlay's, which a layer could use to redirect a name
/// to somewhere else; SELinux labels are the node's to decide.
fn kept_xattrs(member: &Member) -> impl Iterator<Item = (&[u8], &[u8])> {
    member
        .xattrs
        .iter()
        .filter(|(key, _)| {
            key == b"security.capability"
                || key.starts_with(b"user.")
                || key == b"system.posix_acl_access"
        })
        .map(|(key, value)| (key.as_slice(), value.as_slice()))
}

fn set_xattrs(fd: impl AsFd, member: &Member) -> Result<(), TreeError> {
    let fd: BorrowedFd<'_> = fd.as_fd();
    for (key, value) in kept_xattrs(member) {
        let set = rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty());
        unless_unsupported(key, set)?;
    }
    Ok(())
}

/// A file system, or a symbolic link or a device, that takes no attributes of the `user.` or `system.` kind goes without;
/// but a program that lost its capabilities would not work.
fn unless_unsupported(key: &[u8], result: Result<(), Errno>) -> Result<(), TreeError> {
    match result {
        Err(Errno::NOTSUP | Errno::PERM) if key != b"security.capability" => Ok(()),
        result => result.map_err(doing("set an extended attribute")),
    }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
