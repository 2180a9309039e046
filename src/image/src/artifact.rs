//! OCI artifacts: manifests whose blobs are files rather than layers of a file system. Models, policies, WebAssembly modules,
//! configuration: whatever people keep in registries because they have one.
//!
//! An artifact is kept as an image whose layers are made of one file each, so that leases, garbage collection, sizes and
//! crash safety are those of images; its id is the digest of its manifest, since its configuration says nothing and is mostly
//! the same two bytes. It can be mounted as an image volume, and nothing can run in it.
//!
//! Pure: from a manifest to the files that it stands for, or the words with which it is refused. Blobs are stored as they
//! are, byte for byte. What a blob calls itself (a tar, something compressed, ORAS's annotation that its own client unpacks it)
//! changes nothing, as in CRI-O: an artifact is what its publisher signed, and its consumer knows what to do with it.

use std::collections::HashSet;

use state::{ChainId, DiffId, Digest};

use crate::error::ImageError;
use crate::manifest::{Descriptor, Manifest};
use crate::pull::{LayerContent, WantedLayer};
use crate::reference::clip;

/// The media type of a blob that stands for none.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Longest name of a file or directory on Linux.
const NAME_BYTES: usize = 255;

/// Longest path of a file in an artifact.
const PATH_BYTES: usize = 1024;

/// Whether an image can run, or only be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageKind {
    /// Layers of a root file system, and a configuration of how to run it.
    #[default]
    Container,
    /// Files, for volumes only.
    Artifact,
}

/// A blob of an artifact and the file that it is to be.
#[derive(Debug)]
struct File<'a> {
    descriptor: &'a Descriptor,
    /// Relative, without `.` and `..`.
    path: String,
}

/// The layers of an artifact: a file each, in the manifest's order. `what` names the artifact in errors.
pub(crate) fn layers(
    manifest: &Manifest,
    what: &str,
    max_layers: usize,
) -> Result<Vec<WantedLayer>, ImageError> {
    manifest.check_count(what, max_layers)?;
    let files = files(manifest, what)?;
    Ok(files
        .into_iter()
        .map(|file| WantedLayer {
            descriptor: file.descriptor.clone(),
            diff: DiffId::from(file.descriptor.digest.clone()),
            chain: chain(&file),
            parent: None,
            content: LayerContent::File { path: file.path },
        })
        .collect())
}

fn files<'a>(manifest: &'a Manifest, what: &str) -> Result<Vec<File<'a>>, ImageError> {
    let mut files = Vec::with_capacity(manifest.layers.len());
    for descriptor in &manifest.layers {
        let title = descriptor.title();
        if title.is_none() && descriptor.media_type == EMPTY {
            // An artifact that is all annotations has to list something.
            continue;
        }
        let path = match title {
            Some(title) => path(title).map_err(|problem| {
                let title = clip(title, 80);
                let name = format!("the file name {title:?} of blob {}", descriptor.digest);
                unusable(what, &format!("{name} {problem}"))
            })?,
            None => descriptor.digest.hex().to_owned(),
        };
        files.push(File { descriptor, path });
    }
    let mut taken = HashSet::with_capacity(files.len());
    for file in &files {
        if !taken.insert(file.path.as_str()) {
            let path = clip(&file.path, 80);
            return Err(unusable(
                what,
                &format!("two of its blobs have the file name {path:?}"),
            ));
        }
    }
    for file in &files {
        for (end, _) in file.path.match_indices('/') {
            let above = &file.path[..end];
            if taken.contains(above) {
                let (path, above) = (clip(&file.path, 80), clip(above, 80));
                let words = format!("{above:?} is a file of it, and the directory of {path:?}");
                return Err(unusable(what, &words));
            }
        }
    }
    Ok(files)
}

/// Takes a title for a path below the root of the volume, or says what is wrong with it.
fn path(title: &str) -> Result<String, &'static str> {
    if title.len() > PATH_BYTES {
        return Err("is longer than 1024 bytes");
    }
    if title.chars().any(char::is_control) {
        return Err("has control characters");
    }
    if title.starts_with('/') {
        return Err("is an absolute path; only paths relative to the volume are files");
    }
    if title.ends_with('/') {
        return Err("is that of a directory");
    }
    let mut path = String::with_capacity(title.len());
    for part in title.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err("leads upwards"),
            part if part.len() > NAME_BYTES => {
                return Err("has a part of more than 255 bytes");
            }
            part => {
                if !path.is_empty() {
                    path.push('/');
                }
                path.push_str(part);
            }
        }
    }
    if path.is_empty() {
        return Err("names no file");
    }
    Ok(path)
}

/// The chain id of a file: equal for equal content under an equal name, whichever artifact it is of. What is hashed is too
/// short for a tar, so no layer of an image has this id.
fn chain(file: &File<'_>) -> ChainId {
    let name = Digest::sha256_of(file.path.as_bytes());
    let words = format!("pintle artifact {} {name}", file.descriptor.digest);
    ChainId::from(Digest::sha256_of(words.as_bytes()))
}

fn unusable(what: &str, reason: &str) -> ImageError {
    ImageError::unsupported(format!("artifact {what}"), reason)
}

#[cfg(test)]
#[path = "artifact_test.rs"]
mod test;
