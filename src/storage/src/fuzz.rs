//! What the fuzz target of layers calls: a blob as a registry might send it, unpacked with small limits below a directory that
//! the target chooses.

#![expect(clippy::expect_used, reason = "a broken promise is a finding")]

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use state::{ChainId, Digest};

use crate::{Compression, LayerStore, UnpackLimits};

/// Far below what a fuzzer's tmpfs holds.
const LIMITS: UnpackLimits = UnpackLimits {
    bytes: 4 << 20,
    entries: 2000,
    name_bytes: 4095,
    depth: 64,
    held_bytes: 1 << 20,
    header_bytes: 64 << 10,
    ratio: 200,
    ratio_floor_bytes: 1 << 20,
};

/// A layer, whatever compression it has. One that can be unpacked is committed, comes out as it went in, and leaves nothing;
/// nothing is ever made outside of the store, which is in the directory `below`, beside a file that nobody touches.
pub fn layer(bytes: &[u8], below: &Path) {
    let witness = below.join("witness");
    fs::write(&witness, "untouched").expect("write the witness");
    let before = fs::metadata(&witness).expect("look at the witness");
    let root = below.join("store");
    let store = LayerStore::open(&root, &[]).expect("open the store");
    if let Ok(unpacked) = store.unpack(bytes, Compression::Detect, &LIMITS) {
        let diff = unpacked.diff.clone();
        let chain = ChainId::child(None, &diff);
        if store.commit(vec![(unpacked, chain.clone(), None)]).is_ok() {
            let out = store.export_layer(&chain, io::sink());
            assert_eq!(out.expect("export the layer"), diff);
            store.remove(&chain).expect("remove the layer");
        }
    }
    let stored = store
        .store_blob(bytes, "blob", &LIMITS)
        .map(|stored| stored.diff.clone());
    match stored {
        Ok(diff) => assert_eq!(diff, Digest::sha256_of(bytes).into()),
        Err(error) => assert!(bytes.len() as u64 > LIMITS.bytes, "{error}"),
    }
    store.settle();
    assert_eq!(store.usage(), crate::Usage::default());
    for place in ["layers", "recipes", "tmp"] {
        let left = fs::read_dir(root.join(place)).expect("list the store");
        assert_eq!(left.count(), 0, "{place} is not empty");
    }
    let after = fs::metadata(&witness).expect("look at the witness again");
    let looks = |stat: &fs::Metadata| {
        (
            stat.ino(),
            stat.mode(),
            stat.uid(),
            stat.nlink(),
            stat.len(),
        )
    };
    assert_eq!(looks(&before), looks(&after));
    assert_eq!(fs::read_dir(below).expect("list").count(), 2);
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::test_tar::TestTar;

    #[test]
    fn good_and_bad_layers_pass() {
        let dir = tempfile::tempdir().unwrap();
        let good = TestTar::new().file("etc/passwd", b"root").end();
        layer(&good, dir.path());
        layer(&good[..600], dir.path());
        layer(b"", dir.path());
        layer(&zstd::encode_all(good.as_slice(), 1).unwrap(), dir.path());
    }

    /// The seeds of the target, which are also where it begins. A finding is kept by adding it to them.
    #[test]
    fn every_seed_passes() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../test/fuzz/seeds/layer");
        let dir = tempfile::tempdir().unwrap();
        let mut count = 0;
        for seed in fs::read_dir(seeds).unwrap() {
            layer(&fs::read(seed.unwrap().path()).unwrap(), dir.path());
            count += 1;
        }
        assert!(count >= 5, "{count}");
    }
}
