//! What a layer takes over from the layers below it.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{fs::XattrFlags, io::Errno};

use crate::{
    StorageError,
    layers::open_dir,
    tree::{self, Owner, TreeError},
};

/// Gives directories that the layer's names imply the attributes they have in the nearest layer below. Without that, an
/// image whose layer lists `tmp/x` but not `tmp` would have a `tmp` that only root may write to.
pub(crate) fn adopt(
    layer: &Path,
    implied: &[Vec<u8>],
    parents: &[PathBuf],
) -> Result<(), StorageError> {
    if implied.is_empty() || parents.is_empty() {
        return Ok(());
    }
    let parents = parents
        .iter()
        .map(|path| open_dir(path))
        .collect::<Result<Vec<_>, _>>()?;
    let layer_fd = open_dir(layer)?;
    for name in implied {
        let failed = |error: TreeError| error.of(name);
        let Ok(Some(model)) = parents
            .iter()
            .map(|parent| find(parent, name))
            .find(|found| !matches!(found, Ok(None)))
            .unwrap_or(Ok(None))
        else {
            continue;
        };
        let dir = tree::open_below(&layer_fd, name)
            .map_err(tree::doing("open the directory"))
            .map_err(failed)?;
        let stat = rustix::fs::fstat(&model)
            .map_err(tree::doing("look at the directory below"))
            .map_err(failed)?;
        let owner = Owner {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
        };
        tree::set_owner(&dir, owner).map_err(failed)?;
        for key in ["system.posix_acl_access", tree::DEFAULT_ACL] {
            let mut value = Vec::with_capacity(4096);
            // No such attribute, or a file system without them: nothing to adopt.
            if rustix::fs::fgetxattr(&model, key, rustix::buffer::spare_capacity(&mut value))
                .is_ok()
            {
                rustix::fs::fsetxattr(&dir, key, &value, XattrFlags::empty())
                    .map_err(tree::doing("set an extended attribute"))
                    .map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// Looks a directory up in a layer: `None` if the layer has nothing to say about it, an error if it has something else in
/// its place, such as a whiteout, so that layers further below do not count.
fn find(layer: &OwnedFd, name: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    match tree::open_below(layer, name) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
