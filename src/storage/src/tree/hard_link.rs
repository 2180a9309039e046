//! Hard links: a further name in the current directory for a file that this layer has already.
//!
//! The target is named from the tree's root and looked for without leaving it. It has to be of this layer: a file of a layer
//! below has another filesystem identity, which a link cannot share.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

use super::{Tree, TreeError, components, doing, look};

impl Tree {
    /// Makes a further name of what `target` names, which stays where it is even if it is a symbolic link.
    pub(crate) fn hard_link(&mut self, name: &[u8], target: &[u8]) -> Result<(), TreeError> {
        let components = components(target)?;
        let Some((target_name, target_dir)) = components.split_last() else {
            return Err(TreeError::Name("is a hard link to the root"));
        };
        let missing = TreeError::Name("is a hard link to what is not in the layer");
        let opened;
        let same_names = self.levels.len() >= target_dir.len()
            && self
                .levels
                .iter()
                .zip(target_dir)
                .all(|(level, component)| level.name == **component);
        let target_fd = if same_names {
            match target_dir.len() {
                0 => self.root.fd.as_fd(),
                depth => self.levels[depth - 1].fd.as_fd(),
            }
        } else {
            opened = match self.find_dir(target_dir) {
                Ok(fd) => fd,
                Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing),
                Err(errno) => return Err(doing("find the hard link's target")(errno)),
            };
            opened.as_fd()
        };
        let link = |fd: BorrowedFd<'_>| {
            rustix::fs::linkat(target_fd, *target_name, fd, name, AtFlags::empty())
        };
        let mut result = link(self.fd());
        if result == Err(Errno::EXIST) {
            let file = |stat: &Stat| (stat.st_dev, stat.st_ino);
            let here = look(self.fd(), name).map_err(doing("look at"))?;
            match look(target_fd, target_name) {
                // The two names are one file already, or even the same name.
                Ok(target) if file(&target) == file(&here) => return Ok(()),
                Ok(_) => {}
                Err(Errno::NOENT) => return Err(missing),
                Err(errno) => return Err(doing("look at the hard link's target")(errno)),
            }
            let target_fd =
                rustix::io::dup(target_fd).map_err(doing("find the hard link's target"))?;
            self.clear(name)?;
            result =
                rustix::fs::linkat(&target_fd, *target_name, self.fd(), name, AtFlags::empty());
        }
        match result {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing),
            Err(Errno::PERM) => return Err(TreeError::Name("is a hard link to a directory")),
            Err(errno) => return Err(doing("create the hard link")(errno)),
        }
        self.current_mut().touched = true;
        Ok(())
    }

    /// Opens a directory somewhere in the tree, following its symbolic links inside it.
    fn find_dir(&self, components: &[&[u8]]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let path = components.join(b"/".as_slice());
        rustix::fs::openat2(&self.root.fd, path, flags, Mode::empty(), resolve)
    }
}
