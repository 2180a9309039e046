//! A file by itself as a layer: how the content of an OCI artifact is stored.
//!
//! It goes the way of every layer (unpacked aside, committed, in the index, removed), so whatever keeps layers of images
//! keeps it. Its recipe is the file itself: what [`LayerStore::export_layer`](crate::LayerStore::export_layer) writes are the
//! bytes that were stored, and the layer's diff id is their digest.

use std::{fs::File, io::BufRead, os::fd::OwnedFd};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use crate::{
    Limit, StorageError, UnpackLimits,
    recipe::Recorder,
    tarball::Time,
    tree::{self, Filled, Owner, Tree, TreeError, doing},
    unpack::{Contents, WRITEBACK_BYTES},
};

/// Everyone may read it, as is usual for volumes; nobody takes content for a program that nobody said is one.
const OWNER: Owner = Owner {
    uid: 0,
    gid: 0,
    mode: 0o644,
};

/// Writes all of `input` to the file `name`, a path below the empty directory `root`, and its recipe to `recipe`. The file is
/// root's and of the epoch, since nothing says otherwise: equal content is an equal layer.
pub(crate) fn store(
    mut input: impl BufRead,
    name: &[u8],
    root: OwnedFd,
    kept: OwnedFd,
    recipe: File,
    contents: Contents,
    limits: &UnpackLimits,
) -> Result<Filled, StorageError> {
    let at = |error: TreeError| error.of(name);
    if name.len() > limits.name_bytes {
        return Err(StorageError::TooLarge {
            limit: Limit::NameBytes(limits.name_bytes),
        });
    }
    let components = tree::components(name).map_err(at)?;
    let Some((&last, parents)) = components.split_last() else {
        return Err(at(TreeError::Name("names no file")));
    };
    let mut tree = Tree::new(root, kept, limits);
    tree.enter(parents).map_err(at)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = tree
        .place(last, "create the file", |parent| {
            rustix::fs::openat(parent, last, flags, Mode::RUSR | Mode::WUSR)
        })
        .map_err(at)?;
    let mut length: u64 = 0;
    loop {
        let bytes = input.fill_buf().map_err(StorageError::Read)?;
        if bytes.is_empty() {
            break;
        }
        let written = match contents {
            Contents::Hollow => bytes.len(),
            Contents::Whole => match rustix::io::write(&file, bytes) {
                Ok(written) => written,
                Err(Errno::INTR) => 0,
                Err(errno) => return Err(at(doing("write the file")(errno))),
            },
        };
        input.consume(written);
        length += written as u64;
    }
    if contents == Contents::Hollow {
        rustix::fs::ftruncate(&file, length).map_err(|errno| at(doing("set the size")(errno)))?;
    }
    tree::set_owner(&file, OWNER).map_err(at)?;
    let epoch = Time {
        seconds: 0,
        nanoseconds: 0,
    };
    rustix::fs::futimens(&file, &tree::timestamps_of(epoch))
        .map_err(doing("set the times"))
        .map_err(at)?;
    if length >= WRITEBACK_BYTES {
        sys::fs::start_writeback(&file);
    }
    let recorded = Recorder::new(recipe).and_then(|mut recorder| {
        recorder.contents(&tree.path_of(last), length)?;
        recorder.finish()
    });
    recorded.map_err(|source| StorageError::Unpack {
        doing: "write the recipe",
        name: String::new(),
        source,
    })?;
    tree.finish().map_err(at)
}

#[cfg(test)]
#[path = "blob_tests.rs"]
mod tests;
