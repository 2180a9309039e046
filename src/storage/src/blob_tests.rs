//! Tests of [`super`], as root: what a blob becomes, and that it goes the way of every layer.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
};

use rstest::rstest;
use state::{ChainId, DiffId, Digest, LayerRow};
use tempfile::TempDir;

use super::*;
use crate::{LayerStore, Usage};

fn commit(store: &LayerStore, name: &str, content: &[u8]) -> LayerRow {
    let limits = UnpackLimits::default();
    let stored = store.store_blob(content, name, &limits).unwrap();
    assert_eq!(stored.diff, DiffId::from(Digest::sha256_of(content)));
    let chain = ChainId::from(Digest::sha256_of(name.as_bytes()));
    store.commit(vec![(stored, chain, None)]).unwrap().remove(0)
}

#[rstest]
#[case("model.bin", 0)]
#[case("model.bin", 5)]
#[case("deep/er/model.bin", 3_000_000)]
// Names that mean something in a layer's tar mean nothing here.
#[case(".wh..wh..opq", 10)]
fn a_blob_is_a_file_and_comes_out_as_it_went_in(#[case] name: &str, #[case] length: usize) {
    let dir = TempDir::new().unwrap();
    let store = LayerStore::open(dir.path(), &[]).unwrap();
    let content = vec![7; length];
    let row = commit(&store, name, &content);

    let file = store.path(&row.chain).join(name);
    assert!(fs::read(&file).unwrap() == content);
    let stat = fs::metadata(&file).unwrap();
    let looks = (stat.mode() & 0o7777, stat.uid(), stat.gid(), stat.mtime());
    assert_eq!(looks, (0o644, 0, 0, 0));
    let mut out = Vec::new();
    assert_eq!(store.export_layer(&row.chain, &mut out).unwrap(), row.diff);
    assert!(out == content);

    // What it takes is what is counted: its blocks, its directories, its recipe with two more.
    let parents = name.split('/').count() as u64;
    assert_eq!(row.inodes, parents + 1 + 3);
    let blocks = |bytes: u64| bytes.next_multiple_of(4096);
    assert_eq!(
        row.size_bytes,
        blocks(length as u64) + (parents + 2 + 1) * 4096
    );
    store.remove(&row.chain).unwrap();
    assert_eq!(store.usage(), Usage::default());
}

#[rstest]
#[case("")]
#[case(".")]
#[case("a/..")]
#[case("../a")]
#[case("a/../../b")]
fn a_name_stays_inside(#[case] name: &str) {
    let dir = TempDir::new().unwrap();
    let store = LayerStore::open(dir.path(), &[]).unwrap();
    let error = store
        .store_blob(b"x".as_slice(), name, &UnpackLimits::default())
        .unwrap_err();
    assert!(matches!(error, StorageError::BadEntry { .. }), "{error}");
    store.settle();
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

/// A connection that breaks.
struct Breaking;
impl Read for Breaking {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

#[test]
fn a_blob_is_bounded_and_a_broken_one_is_deleted() {
    let dir = TempDir::new().unwrap();
    let store = LayerStore::open(dir.path(), &[]).unwrap();
    let limits = UnpackLimits {
        bytes: 1 << 20,
        ..UnpackLimits::default()
    };
    let error = store.store_blob(io::repeat(1), "a", &limits).unwrap_err();
    let wanted = matches!(
        error,
        StorageError::TooLarge {
            limit: Limit::Bytes(_)
        }
    );
    assert!(wanted, "{error}");

    let broken = b"beginning".chain(Breaking);
    let error = store.store_blob(broken, "a", &limits).unwrap_err();
    assert!(matches!(error, StorageError::Read(_)), "{error}");

    store.settle();
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(store.usage(), Usage::default());
}
