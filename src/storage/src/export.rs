//! Writing a layer's tar again, by its recipe.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufWriter, Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use sha2::{Digest as _, Sha256};
use state::{ChainId, DiffId, Digest};

use crate::{
    StorageError,
    recipe::{self, Piece, Recipe},
};

/// What is written at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// Writes the tar of the layer in `layer`, following the recipe in `recipe`, and returns its digest.
pub(crate) fn export(
    chain: &ChainId,
    layer: &Path,
    recipe: &Path,
    writer: impl Write,
) -> Result<DiffId, StorageError> {
    let failed = |source| StorageError::Export {
        chain: chain.clone(),
        source,
    };
    let damaged = |source| StorageError::BadRecipe {
        chain: chain.clone(),
        source,
    };
    let mut output = BufWriter::with_capacity(
        BUFFER_BYTES,
        Hashing {
            output: writer,
            hash: Sha256::new(),
        },
    );
    let places = Places {
        layer: open_dir(layer)?,
        kept: open_dir(&recipe::kept_in(recipe))?,
        replaced: replaced(recipe).map_err(damaged)?,
    };
    let mut pieces = open_recipe(recipe).map_err(damaged)?;
    let mut position = 0;
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Some(piece) = pieces.next().map_err(damaged)? {
        match piece {
            Piece::Bytes(bytes) => output.write_all(&bytes).map_err(failed)?,
            Piece::Replaced { .. } => position += 1,
            Piece::Contents { path, length } => {
                let name = layer.join(OsStr::from_bytes(&path));
                let mut file = places
                    .open(&path, position)
                    .map_err(StorageError::io("open", &name))?
                    .take(length);
                let mut left = length;
                while left > 0 {
                    let count = file
                        .read(&mut buffer)
                        .map_err(StorageError::io("read", &name))?;
                    if count == 0 {
                        return Err(StorageError::io("read", &name)(io::Error::from(
                            io::ErrorKind::UnexpectedEof,
                        )));
                    }
                    output.write_all(&buffer[..count]).map_err(failed)?;
                    left -= count as u64;
                }
            }
        }
    }
    let hashing = output
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    Ok(Digest::from_sha256(hashing.hash.finalize().into()).into())
}

struct Hashing<W> {
    output: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

fn open_recipe(dir: &Path) -> io::Result<Recipe> {
    Recipe::new(File::open(recipe::file_in(dir))?)
}

/// The paths that were replaced, in the order in which they were.
fn replaced(dir: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut recipe = open_recipe(dir)?;
    let mut paths = Vec::new();
    while let Some(piece) = recipe.next()? {
        if let Piece::Replaced { path } = piece {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Where a file's contents are.
struct Places {
    layer: OwnedFd,
    kept: OwnedFd,
    replaced: Vec<Vec<u8>>,
}

impl Places {
    /// Opens what was at `path` when `position` replacements had happened.
    fn open(&self, path: &[u8], position: usize) -> io::Result<File> {
        let later = self.replaced.iter().enumerate().skip(position);
        for (number, replaced) in later {
            // The file itself, or a directory above it.
            let Some(rest) = path.strip_prefix(replaced.as_slice()) else {
                continue;
            };
            if rest.is_empty() || rest.starts_with(b"/") {
                let kept = [number.to_string().as_bytes(), rest].concat();
                return open_file(&self.kept, &kept);
            }
        }
        open_file(&self.layer, path)
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, StorageError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(StorageError::io("open", path))
}

fn open_file(root: &OwnedFd, path: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?.into())
}
