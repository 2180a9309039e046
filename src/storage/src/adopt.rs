//! What a layer takes over from the layers below it.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{fs::XattrFlags, io::Errno};

use crate::{
    StorageError,
    layers::open_dir,
    limits::Limit,
    tree::{self, Owner, TreeError},
};

/// The most lookups of one layer, some seconds of them. An honest layer lists its directories, or lies on few others.
const MAX_LOOKUPS: u64 = 4 << 20;

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
    let lookups = (implied.len() as u64).saturating_mul(parents.len() as u64);
    if lookups > MAX_LOOKUPS {
        return Err(StorageError::TooLarge {
            limit: Limit::Lookups(MAX_LOOKUPS),
        });
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn lookups_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let parents = vec![dir.path().to_owned(); 500];
        let implied: Vec<Vec<u8>> = (0..10_000).map(|name| format!("{name}").into()).collect();
        assert!(matches!(
            adopt(dir.path(), &implied, &parents),
            Err(StorageError::TooLarge {
                limit: Limit::Lookups(_)
            })
        ));
        // As many in one layer, and in five hundred a few, are nothing special.
        adopt(dir.path(), &implied, &parents[..1]).unwrap();
        adopt(dir.path(), &implied[..10], &parents).unwrap();
    }
}
