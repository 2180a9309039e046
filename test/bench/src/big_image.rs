//! The image of the pull phase: about 200 MiB of gzip in five layers of this machine's own mixed files.
//!
//! Files are dealt out to the layers in the order of their paths, each to the emptiest layer, so that every layer has
//! programs, libraries, texts and many small files alike.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use pintle_test::{
    images::{Blob, Image, Layer, PATH_ENV, Packing, digest},
    registry,
};
use serde_json::json;

/// Where the files come from.
const SOURCE: &str = "/usr";
/// How many layers.
pub(crate) const LAYERS: usize = 5;
/// What each of them holds, unpacked.
const LAYER_BYTES: u64 = 112 << 20;
/// Larger files would make a layer of one file.
const FILE_MAX_BYTES: u64 = 40 << 20;

/// Makes it and pushes it to the registry that runs.
pub(crate) fn push() -> Result<()> {
    let mut files = Vec::new();
    collect(Path::new(SOURCE), &mut files)?;
    let dealt = deal(&files);
    let filled: u64 = dealt.iter().flatten().map(|&(_, bytes)| bytes).sum();
    ensure!(
        filled > LAYER_BYTES * LAYERS as u64 / 2,
        "{SOURCE} has only {} MiB of files for the image of the pull phase",
        filled >> 20
    );
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for files in dealt {
        let mut layer = Layer::new();
        for (path, _) in files {
            let data = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            let mode = fs::metadata(path)?.permissions().mode() & 0o777;
            layer = layer.file(&format!("data{}", path.display()), mode, &data)?;
        }
        let tar = layer.tar()?;
        diff_ids.push(digest(&tar));
        layers.push(Blob::new(
            "application/vnd.oci.image.layer.v1.tar+gzip",
            Packing::Gzip.pack(&tar)?,
        ));
    }
    let config = json!({ "Env": [PATH_ENV], "Cmd": ["sh"] });
    let image = Image::of_blobs(layers, &diff_ids, &config)?;
    registry::push(&image, &registry::name("big:latest"), &[])
}

type Found = (PathBuf, u64);

/// Regular files below a directory with their sizes, in the order of their paths.
fn collect(dir: &Path, found: &mut Vec<Found>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), found)?;
        } else if kind.is_file() && entry.path().to_str().is_some() {
            let bytes = entry.metadata()?.len();
            if bytes < FILE_MAX_BYTES {
                found.push((entry.path(), bytes));
            }
        }
    }
    Ok(())
}

/// Which files go into which layer: some of them, evenly taken, until the layers are full.
fn deal(files: &[Found]) -> [Vec<&Found>; LAYERS] {
    let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    let step = total / (LAYER_BYTES * LAYERS as u64);
    let step = usize::try_from(step).unwrap_or(usize::MAX).max(1);
    let mut dealt: [(u64, Vec<&Found>); LAYERS] = Default::default();
    for file in files.iter().step_by(step) {
        let emptiest = dealt.iter_mut().min_by_key(|(filled, _)| *filled);
        if let Some((filled, layer)) = emptiest
            && *filled + file.1 <= LAYER_BYTES
        {
            *filled += file.1;
            layer.push(file);
        }
    }
    dealt.map(|(_, layer)| layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_filled_evenly_and_not_over() {
        let files: Vec<Found> = (0..3000)
            .map(|n| (PathBuf::from(format!("/{n}")), (n % 7 + 1) << 18))
            .collect();
        for layer in deal(&files) {
            let filled: u64 = layer.iter().map(|(_, bytes)| bytes).sum();
            assert!(filled <= LAYER_BYTES && filled > LAYER_BYTES * 9 / 10);
        }
    }
}
