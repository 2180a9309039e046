//! From names to descriptors, without following symbolic links.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

use crate::tree::error::TreeError;

/// Opens a directory that is directly in another.
pub(crate) fn open_dir(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Opens a directory below another without following any symbolic link. The empty name is the directory itself.
pub(crate) fn open_below(root: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let name = if name.is_empty() {
        b".".as_slice()
    } else {
        name
    };
    rustix::fs::openat2(root, name, flags, Mode::empty(), resolve)
}

/// Looks at what a name is, without following it.
pub(crate) fn look(parent: impl AsFd, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Takes a name apart.
pub(crate) fn components(name: &[u8]) -> Result<Vec<&[u8]>, TreeError> {
    let mut components = Vec::new();
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components
                    .pop()
                    .ok_or(TreeError::Name("leads out of the root"))?;
            }
            component => components.push(component),
        }
    }
    Ok(components)
}
