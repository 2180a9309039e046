//! A directory tree that is filled by names from a hostile list.
//!
//! No name leads out of the tree, because no name is ever given to the kernel as a path: each is taken apart, and every
//! component is opened by itself, below the descriptor of the directory before it, without following symbolic links.
//! Archives list what is in one directory together, so the descriptors from the root to the current directory are kept;
//! most files cost no lookup at all.
//!
//! What a name means, component by component:
//! - empty ones and `.` are nothing, a leading `/` is nothing; `..` goes up, and above the root is an error;
//! - a symbolic link *of this layer* is followed where a directory is needed (a layer whose `lib` is a link to `usr/lib` may
//!   list `lib/x`, and other engines unpack that to `usr/lib/x`): its target is taken apart in the same way, from this tree's
//!   root if it is absolute, so it stays inside; what it names is made where it is missing. A link of a layer below is not
//!   seen: the name makes a directory, which covers the link, as it does elsewhere;
//! - a directory that no entry made is made (see [`Filled::implied`]); a file, pipe or device in its place is an error;
//! - the last component is never followed: an entry takes the place of whatever was there, only a directory stays a
//!   directory.
//!
//! Times of directories are set when they are left, since every file made in them changes them.

mod attributes;
mod error;
mod hard_link;
mod lookup;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, Timespec},
    io::Errno,
};

use crate::{UnpackLimits, limits::Limit, tarball::Time};

pub(crate) use attributes::{
    DEFAULT_ACL, OPAQUE, Owner, is_whiteout, set_default_acl, set_opaque, set_owner, timestamps,
    timestamps_of, to_timespec,
};
pub(crate) use error::{TreeError, doing};
pub(crate) use lookup::{components, look, open_below, open_dir};

/// How many symbolic links are followed for one name: as many as the kernel does.
const MAX_LINKS: usize = 40;

/// What an item that is kept in memory takes beside its bytes: two heap blocks and a place in a collection.
const HELD_OVERHEAD_BYTES: usize = 128;

/// A directory with an open descriptor.
struct Level {
    name: Vec<u8>,
    fd: OwnedFd,
    /// When it was last modified, as far as anyone is to know; `None` if nobody cares.
    modified: Option<Timespec>,
    /// Whether something was made in it since that was last set.
    touched: bool,
}

/// The tree being filled, and where in it the last entry was.
pub(crate) struct Tree {
    root: Level,
    levels: Vec<Level>,
    max_depth: usize,
    max_entries: u64,
    max_held_bytes: usize,
    implied: BTreeSet<Vec<u8>>,
    /// Components of all symbolic links that were followed: each costs a system call, and a short name can lead through
    /// forty long links.
    link_components: u64,
    /// Bytes that are held in memory because of names and values that the layer chose.
    held_bytes: usize,
    /// Files, directories and so on, each once however many names it has.
    inodes: u64,
    /// Where replaced files are kept, how many are there, and the paths of those that nobody was told of yet.
    kept: OwnedFd,
    kept_count: u64,
    replaced: Vec<Vec<u8>>,
    /// Directories and their default ACLs, which new files would inherit if they were set already.
    default_acls: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Tree {
    /// A tree in the empty directory `root`. `kept`, on the same file system, takes files that are replaced.
    pub(crate) fn new(root: OwnedFd, kept: OwnedFd, limits: &UnpackLimits) -> Self {
        let mut tree = Self {
            root: Level {
                name: Vec::new(),
                fd: root,
                modified: None,
                touched: false,
            },
            levels: Vec::new(),
            max_depth: limits.depth,
            max_entries: limits.entries,
            max_held_bytes: limits.held_bytes,
            implied: BTreeSet::new(),
            link_components: 0,
            held_bytes: 0,
            inodes: 1,
            kept,
            kept_count: 0,
            replaced: Vec::new(),
            default_acls: BTreeMap::new(),
        };
        // The root has attributes of its own only if the layer says so.
        tree.implied.insert(Vec::new());
        tree
    }

    /// The current directory.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.current().fd.as_fd()
    }

    /// The path of something in the current directory, from the root.
    pub(crate) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::with_capacity(64);
        for level in &self.levels {
            path.extend_from_slice(&level.name);
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// Goes to the directory of these components, making what is missing.
    pub(crate) fn enter(&mut self, components: &[&[u8]]) -> Result<(), TreeError> {
        let common = self
            .levels
            .iter()
            .zip(components)
            .take_while(|(level, component)| level.name == **component)
            .count();
        self.leave_to(common)?;
        let mut links = 0;
        // What is still to be entered, last first: a link puts its target on top.
        let mut pending: Vec<Vec<u8>> = components[common..]
            .iter()
            .rev()
            .map(|component| component.to_vec())
            .collect();
        while let Some(name) = pending.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    self.leave_to(self.levels.len().saturating_sub(1))?;
                    continue;
                }
                _ => {}
            }
            if let Some(target) = self.descend(&name)? {
                links += 1;
                if links > MAX_LINKS {
                    return Err(TreeError::Name("leads through too many symbolic links"));
                }
                self.link_components += target.split(|byte| *byte == b'/').count() as u64;
                if self.link_components > self.max_entries {
                    return Err(TreeError::Limit(Limit::Links(self.max_entries)));
                }
                if target.first() == Some(&b'/') {
                    self.leave_to(0)?;
                }
                pending.extend(target.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec));
            }
        }
        Ok(())
    }

    /// Enters one directory of the current one; if its name is a symbolic link, returns the link's target instead.
    fn descend(&mut self, name: &[u8]) -> Result<Option<Vec<u8>>, TreeError> {
        match open_dir(self.fd(), name) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).map_err(doing("look at the directory"))?;
                let modified = Timespec {
                    tv_sec: stat.st_mtime,
                    tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or(0),
                };
                self.push(name, fd, Some(modified))?;
                Ok(None)
            }
            Err(Errno::NOENT) => self.make_implied(name).map(|()| None),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let stat = look(self.fd(), name).map_err(doing("look at the directory"))?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Symlink => {
                        let target = rustix::fs::readlinkat(self.fd(), name, Vec::new())
                            .map_err(doing("read the symbolic link"))?;
                        Ok(Some(target.into_bytes()))
                    }
                    _ if is_whiteout(&stat) => self.make_implied(name).map(|()| None),
                    _ => Err(TreeError::Name(
                        "needs a directory where the layer has something else",
                    )),
                }
            }
            Err(errno) => Err(doing("open the directory")(errno)),
        }
    }

    /// Makes a directory that no entry has made so far. It gets root's ownership and 0755, until a layer below is known
    /// to have it with others.
    fn make_implied(&mut self, name: &[u8]) -> Result<(), TreeError> {
        let path = self.path_of(name);
        self.hold(path.len())?;
        self.directory(name, None)?;
        let owner = Owner {
            uid: 0,
            gid: 0,
            mode: 0o755,
        };
        set_owner(self.fd(), owner)?;
        self.implied.insert(path);
        Ok(())
    }

    /// Makes a directory in the current one, or takes the one that is there, and enters it. The caller sets its owner.
    pub(crate) fn directory(
        &mut self,
        name: &[u8],
        modified: Option<Time>,
    ) -> Result<(), TreeError> {
        let mut opaque = false;
        for attempt in 0.. {
            match rustix::fs::mkdirat(self.fd(), name, Mode::RWXU) {
                Ok(()) => {
                    self.made()?;
                    break;
                }
                Err(Errno::EXIST) if attempt == 0 => {
                    let stat = look(self.fd(), name).map_err(doing("look at"))?;
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                        break;
                    }
                    // Where the layer also removes what is below, none of that is to be seen in the new directory.
                    opaque = is_whiteout(&stat);
                    self.clear(name)?;
                }
                Err(errno) => return Err(doing("create the directory")(errno)),
            }
        }
        let fd = open_dir(self.fd(), name).map_err(doing("open the directory"))?;
        self.push(name, fd, modified.map(to_timespec))?;
        if opaque {
            self.make_opaque()?;
        }
        if modified.is_some() {
            self.current_mut().touched = true;
            self.forget_implied();
        }
        Ok(())
    }

    /// Notes that the root has an entry of its own.
    pub(crate) fn root_entry(&mut self, modified: Time) -> Result<(), TreeError> {
        self.leave_to(0)?;
        self.root.modified = Some(to_timespec(modified));
        self.root.touched = true;
        self.forget_implied();
        Ok(())
    }

    /// The current directory has an entry of its own after all.
    fn forget_implied(&mut self) {
        if self.implied.is_empty() {
            return;
        }
        let mut path = self.path_of(b"");
        path.pop();
        if self.implied.remove(&path) {
            self.held_bytes = self
                .held_bytes
                .saturating_sub(HELD_OVERHEAD_BYTES + path.len());
        }
    }

    /// Makes something in the current directory by `make`, in the place of what may be there.
    pub(crate) fn place<T>(
        &mut self,
        name: &[u8],
        what: &'static str,
        make: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, TreeError> {
        let made = match make(self.fd()) {
            Err(Errno::EXIST) => {
                self.clear(name)?;
                make(self.fd())
            }
            result => result,
        };
        let made = made.map_err(doing(what))?;
        self.made()?;
        Ok(made)
    }

    /// Hides what layers below have under this name.
    pub(crate) fn whiteout(&mut self, name: &[u8]) -> Result<(), TreeError> {
        let make = |fd: BorrowedFd<'_>| {
            rustix::fs::mknodat(fd, name, FileType::CharacterDevice, Mode::empty(), 0)
        };
        match make(self.fd()) {
            Ok(()) => self.made(),
            // A whiteout concerns the layers below only: what this layer has itself stays, and hides them anyway,
            // unless it is a directory.
            Err(Errno::EXIST) => {
                let stat = look(self.fd(), name).map_err(doing("look at"))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    let dir = open_dir(self.fd(), name).map_err(doing("open the directory"))?;
                    set_opaque(&dir)?;
                }
                Ok(())
            }
            Err(errno) => Err(doing("create the whiteout")(errno)),
        }
    }

    /// Hides what layers below have in the current directory.
    pub(crate) fn make_opaque(&mut self) -> Result<(), TreeError> {
        set_opaque(self.fd())
    }

    /// Notes the current directory's default ACL, which is set when everything is in place.
    pub(crate) fn default_acl(&mut self, acl: &[u8]) -> Result<(), TreeError> {
        let path = self.path_of(b"");
        if let Some(value) = self.default_acls.get_mut(&path) {
            self.held_bytes = self
                .held_bytes
                .saturating_sub(HELD_OVERHEAD_BYTES + value.len());
        } else {
            self.hold(path.len())?;
        }
        self.hold(acl.len())?;
        self.default_acls.insert(path, acl.to_owned());
        Ok(())
    }

    /// Notes that something of the layer's is kept in memory.
    fn hold(&mut self, bytes: usize) -> Result<(), TreeError> {
        self.held_bytes += HELD_OVERHEAD_BYTES + bytes;
        if self.held_bytes > self.max_held_bytes {
            return Err(TreeError::Limit(Limit::HeldBytes(self.max_held_bytes)));
        }
        Ok(())
    }

    /// Sets the times that are still to be set, and tells what the tree holds.
    pub(crate) fn finish(mut self) -> Result<Filled, TreeError> {
        for (path, acl) in std::mem::take(&mut self.default_acls) {
            match open_below(&self.root.fd, &path) {
                Ok(dir) => set_default_acl(&dir, &acl)?,
                // Replaced by something else meanwhile.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(doing("find the directory")(errno)),
            }
        }
        self.leave_to(0)?;
        settle(&mut self.root)?;
        Ok(Filled {
            #[cfg(test)]
            inodes: self.inodes,
            implied: self.implied.into_iter().collect(),
        })
    }

    fn current(&self) -> &Level {
        self.levels.last().unwrap_or(&self.root)
    }

    fn current_mut(&mut self) -> &mut Level {
        self.levels.last_mut().unwrap_or(&mut self.root)
    }

    fn push(
        &mut self,
        name: &[u8],
        fd: OwnedFd,
        modified: Option<Timespec>,
    ) -> Result<(), TreeError> {
        if self.levels.len() >= self.max_depth {
            return Err(TreeError::Limit(Limit::Depth(self.max_depth)));
        }
        self.levels.push(Level {
            name: name.to_owned(),
            fd,
            modified,
            touched: false,
        });
        Ok(())
    }

    /// Leaves directories until only `depth` are left.
    fn leave_to(&mut self, depth: usize) -> Result<(), TreeError> {
        while self.levels.len() > depth {
            if let Some(mut level) = self.levels.pop() {
                settle(&mut level)?;
            }
        }
        Ok(())
    }

    /// Something was made in the current directory.
    fn made(&mut self) -> Result<(), TreeError> {
        self.current_mut().touched = true;
        self.inodes += 1;
        if self.inodes > self.max_entries {
            return Err(TreeError::Limit(Limit::Entries(self.max_entries)));
        }
        Ok(())
    }

    /// Takes away what is under this name in the current directory, for an entry that replaces it. Files with contents, and
    /// directories, are kept aside.
    fn clear(&mut self, name: &[u8]) -> Result<(), TreeError> {
        self.current_mut().touched = true;
        let stat = look(self.fd(), name).map_err(doing("look at"))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_dir = kind == FileType::Directory;
        if !is_dir && (kind != FileType::RegularFile || stat.st_size == 0) {
            if stat.st_nlink == 1 {
                self.inodes = self.inodes.saturating_sub(1);
            }
            return rustix::fs::unlinkat(self.fd(), name, AtFlags::empty())
                .map_err(doing("replace"));
        }
        let place = self.kept_count.to_string();
        rustix::fs::renameat(self.fd(), name, &self.kept, place).map_err(doing("replace"))?;
        self.kept_count += 1;
        let path = self.path_of(name);
        if is_dir {
            let below = [path.as_slice(), b"/"].concat();
            // In their order those below stand together: a layer that replaces directories over and over must not make
            // us look at all of them each time.
            self.implied.remove(&path);
            let gone: Vec<_> = self
                .implied
                .range(below.clone()..)
                .take_while(|implied| implied.starts_with(&below))
                .cloned()
                .collect();
            for implied in gone {
                self.implied.remove(&implied);
            }
            // Their names end with the slash that `below` ends with.
            let gone: Vec<_> = self
                .default_acls
                .range(below.clone()..)
                .map(|(directory, _)| directory)
                .take_while(|directory| directory.starts_with(&below))
                .cloned()
                .collect();
            for directory in gone {
                self.default_acls.remove(&directory);
            }
        }
        self.replaced.push(path);
        Ok(())
    }

    /// The paths of what was moved aside since the last call, in the order of the names `0`, `1`… it has there.
    pub(crate) fn take_replaced(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.replaced)
    }
}

/// What became of a tree.
pub(crate) struct Filled {
    /// How many there are of files, directories and so on.
    #[cfg(test)]
    pub(crate) inodes: u64,
    /// Directories that names implied but no entry made, in the order of their names. The root is the empty name.
    pub(crate) implied: Vec<Vec<u8>>,
}

fn settle(level: &mut Level) -> Result<(), TreeError> {
    if let Some(modified) = level.modified
        && level.touched
    {
        rustix::fs::futimens(&level.fd, &timestamps(modified)).map_err(doing("set the times"))?;
        level.touched = false;
    }
    Ok(())
}
