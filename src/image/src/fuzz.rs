//! What the fuzz targets of images call: bytes as registries, publishers and archives might hold them, and what has to hold
//! whatever they are.

#![expect(clippy::expect_used, reason = "a broken promise is a finding")]

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use state::ImageId;

use crate::archive;
use crate::artifact;
use crate::config::{ImageLimits, Platform};
use crate::error::ImageError;
use crate::image::ParsedConfig;
use crate::manifest::{self, Document};
use crate::reference::Reference;

pub use crate::credentials::fuzz::auth_json;
pub use crate::sources::fuzz::{hosts_toml, registries_conf};
pub use crate::trust::fuzz::policy_json;

/// Longest message of an error, which ends in a pod's events.
pub(crate) const WORDS_MAX_BYTES: usize = 2000;

/// What the operator's files are asked about: every kind of host and target.
pub(crate) fn references() -> Vec<Reference> {
    const DIGEST: &str = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let texts = [
        "busybox".to_owned(),
        format!("docker.io/team/app:1{DIGEST}"),
        "r.example/team/app:1".to_owned(),
        format!("r.example/team/app{DIGEST}"),
        "a.b.r.example:5000/app:1".to_owned(),
        "localhost:5000/app".to_owned(),
        "[::1]:5000/app:1".to_owned(),
        "127.0.0.1/app:1".to_owned(),
    ];
    texts
        .iter()
        .map(|text| Reference::parse(text).expect("a reference"))
        .collect()
}

pub(crate) fn check(error: &ImageError) {
    let words = error.to_string();
    assert!(!words.is_empty());
    assert!(words.len() <= WORDS_MAX_BYTES, "{words}");
}

/// A reference as a user might write it: its normal form is a fixed point.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Reference::parse(text) {
        Ok(reference) => {
            let normal = reference.to_string();
            assert_eq!(
                Reference::parse(&normal).as_ref(),
                Ok(&reference),
                "{text:?}"
            );
            let identity = reference.identity();
            let again = Reference::parse(&identity).expect("an identity is a reference");
            assert_eq!(again.identity(), identity, "{text:?}");
        }
        Err(error) => check(&ImageError::from(error)),
    }
}

/// A manifest or an index: an index's choice is one of its entries, an artifact's files stay below their volume.
pub fn manifest(bytes: &[u8]) {
    let (what, limits) = ("host/x:1", ImageLimits::default());
    match manifest::parse(bytes, None, what) {
        Ok(Document::Index(entries)) => {
            match manifest::choose(&entries, &Platform::default(), what) {
                Ok(chosen) => assert!(entries.iter().any(|entry| std::ptr::eq(entry, chosen))),
                Err(error) => check(&error),
            }
        }
        Ok(Document::Manifest(manifest)) if manifest.artifact_type().is_some() => {
            match artifact::layers(&manifest, what, limits.layers) {
                Ok(layers) => assert!(layers.len() <= manifest.layers.len()),
                Err(error) => check(&error),
            }
        }
        Ok(Document::Manifest(manifest)) => {
            if let Err(error) = manifest.check(what, limits.layers) {
                check(&error);
            }
        }
        Err(error) => check(&error),
    }
}

/// An image's configuration.
pub fn config(bytes: &[u8]) {
    let parsed = match ParsedConfig::parse(bytes, "configuration of host/x:1") {
        Ok(parsed) => parsed,
        Err(error) => return check(&error),
    };
    if let Err(error) = parsed.check_platform(&Platform::default(), "host/x:1") {
        check(&error);
    }
    assert_eq!(parsed.chains().len(), parsed.diffs.len());
    let again = ParsedConfig::parse(bytes, "x").expect("what was read once");
    assert_eq!(again, parsed);
    let _ = ImageId::from(state::Digest::sha256_of(bytes));
}

/// An archive, as far as its table of contents and the documents in it. `folder` takes the file that it is.
pub fn archive(bytes: &[u8], folder: &Path) {
    let mut file = tempfile(folder);
    file.write_all(bytes).expect("write the archive");
    file.seek(SeekFrom::Start(0)).expect("rewind");
    let limits = ImageLimits {
        archive_images: 16,
        ..ImageLimits::default()
    };
    match archive::contents(file, &Platform::default(), &limits) {
        Ok(images) => assert!(images <= limits.archive_images),
        Err(error) => check(&error),
    }
}

fn tempfile(folder: &Path) -> std::fs::File {
    archive::nameless(folder).expect("make a file")
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::fs;

    use super::*;

    type Target<'a> = (&'a str, &'a dyn Fn(&[u8]));

    /// The seeds of the targets, which are also where they begin. A finding is kept by adding it to them.
    #[test]
    fn every_seed_passes() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../test/fuzz/seeds");
        let folder = std::env::temp_dir();
        let policy = tempfile::tempdir().unwrap();
        let targets: [Target<'_>; 8] = [
            ("reference", &reference),
            ("manifest", &manifest),
            ("image_config", &config),
            ("image_archive", &|bytes| archive(bytes, &folder)),
            ("registries_conf", &registries_conf),
            ("hosts_toml", &hosts_toml),
            ("policy_json", &|bytes| policy_json(bytes, policy.path())),
            ("auth_json", &auth_json),
        ];
        for (name, target) in targets {
            let mut count = 0;
            for seed in fs::read_dir(seeds.join(name)).unwrap() {
                target(&fs::read(seed.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count >= 3, "{name}: {count}");
        }
        for bytes in [&b""[..], b"{}", b"\xff", b"[]"] {
            for (_, target) in targets {
                target(bytes);
            }
        }
    }
}
