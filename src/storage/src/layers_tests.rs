//! Tests of [`super`], as root: the life of a layer, and what is left after a crash.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
};

use state::Digest;

use super::*;
use crate::{Limit, test_tar::TestTar};

fn store(dir: &tempfile::TempDir) -> LayerStore {
    LayerStore::open(dir.path(), &[]).unwrap()
}

fn unpack(store: &LayerStore, tar: &[u8]) -> Unpacked {
    store
        .unpack(tar, Compression::Detect, &UnpackLimits::default())
        .unwrap()
}

/// Commits tars as the layers of one image and returns their rows.
fn commit(store: &LayerStore, tars: &[Vec<u8>]) -> Vec<LayerRow> {
    let mut parent = None;
    let layers = tars
        .iter()
        .map(|tar| {
            let unpacked = unpack(store, tar);
            let chain = ChainId::child(parent.as_ref(), &unpacked.diff);
            let below = parent.replace(chain.clone());
            (unpacked, chain, below)
        })
        .collect();
    store.commit(layers).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn from_unpacking_to_removal() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let tar = TestTar::new().file("etc/passwd", b"root").end();
    let rows = commit(&store, std::slice::from_ref(&tar));
    let row = &rows[0];
    assert_eq!(row.diff, Digest::sha256_of(&tar).into());
    assert!(store.contains(&row.chain));
    let layer = store.path(&row.chain);
    assert_eq!(fs::read(layer.join("etc/passwd")).unwrap(), b"root");
    let usage = Usage {
        bytes: row.size_bytes,
        inodes: row.inodes,
    };
    assert_eq!(store.usage(), usage);
    // Three of the layer, three of the recipe.
    assert_eq!(row.inodes, 6);

    store.remove(&row.chain).unwrap();
    assert!(!store.contains(&row.chain));
    assert_eq!(store.usage(), Usage::default());
    assert!(!layer.exists());
    store.settle();
    for left in ["layers", "recipes", "tmp"] {
        assert_eq!(names(&dir.path().join(left)), [""; 0], "{left}");
    }
    store.remove(&row.chain).unwrap();
}

/// `du` is asked what layers of every kind of file take.
#[test]
fn usage_is_what_du_says() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let large: Vec<u8> = (0..3_000_001_u32).map(|n| n.to_le_bytes()[1]).collect();
    let attribute = [7; 3000];
    let mut files = TestTar::new()
        .dir("usr/")
        .file("usr/large", &large)
        .hard_link("usr/large-too", "usr/large")
        .file("usr/replaced", b"first")
        .file("usr/replaced", b"second")
        .pax(&[("SCHILY.xattr.user.large", &attribute)])
        .file("usr/attribute", b"x")
        .symlink("usr/short", "large")
        .extended(b'K', &[b'x'; 200])
        .symlink("usr/long", "x")
        .pax(&[
            ("GNU.sparse.map", b"0,2,1000000,3"),
            ("GNU.sparse.size", b"5000000"),
        ])
        .file("usr/sparse", b"12345")
        .file(".wh.gone", b"");
    // More names than one block of a directory takes.
    for number in 0..500 {
        files = files.file(&format!("usr/{number:090}"), b"some");
    }
    // An extent each, and more of them than an inode has room for.
    let offsets: Vec<String> = (0..64).map(|n| format!("{},4096", n * 65536)).collect();
    let map = offsets.join(",");
    let fragments = TestTar::new()
        .pax(&[
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.size", b"4194304"),
        ])
        .file("fragments", &vec![7; 64 * 4096]);
    let rows = commit(&store, &[files.end(), fragments.end(), Vec::new()]);
    let du = |paths: &[PathBuf]| -> u64 {
        let output = std::process::Command::new("du")
            .args(["--summarize", "--block-size=1", "--total"])
            .args(paths)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let total = text.lines().last().unwrap();
        total.split('\t').next().unwrap().parse().unwrap()
    };
    let mut all = Vec::new();
    for row in &rows {
        let recipe = dir.path().join("recipes").join(row.chain.hex());
        let paths = [store.path(&row.chain), recipe];
        assert_eq!(row.size_bytes, du(&paths), "{row:?}");
        all.extend(paths);
    }
    assert_eq!(store.usage().bytes, du(&all));
    assert!(rows[0].size_bytes > 3_000_000);
}

#[test]
fn what_is_not_committed_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    drop(unpack(&store, &TestTar::new().file("a/b/c", b"x").end()));
    let limits = UnpackLimits {
        entries: 2,
        ..UnpackLimits::default()
    };
    let tar = TestTar::new()
        .file("a", b"")
        .file("b", b"")
        .file("c", b"")
        .end();
    let error = store
        .unpack(tar.as_slice(), Compression::Plain, &limits)
        .unwrap_err();
    assert!(matches!(
        error,
        StorageError::TooLarge {
            limit: Limit::Entries(2)
        }
    ));
    store.settle();
    assert_eq!(names(&dir.path().join("tmp")), [""; 0]);
}

#[test]
fn a_restart_keeps_what_has_a_row_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let tars = ["one", "two", "three"].map(|name| TestTar::new().file(name, b"x").end());
    let rows = commit(&store, &tars);
    drop(store);
    fs::create_dir_all(dir.path().join("tmp/layer-of-a-crash/layer/etc")).unwrap();
    fs::create_dir_all(dir.path().join("layers/strange")).unwrap();
    fs::remove_dir_all(dir.path().join("layers").join(rows[1].chain.hex())).unwrap();

    // The third one's row was never written, the second one's directory is gone.
    let store = LayerStore::open(dir.path(), &rows[..2]).unwrap();
    let there: Vec<_> = rows.iter().map(|row| store.contains(&row.chain)).collect();
    assert_eq!(there, [true, false, false]);
    assert_eq!(store.usage().bytes, rows[0].size_bytes);
    store.settle();
    assert_eq!(names(&dir.path().join("layers")), [rows[0].chain.hex()]);
    assert_eq!(names(&dir.path().join("recipes")), [rows[0].chain.hex()]);
    assert_eq!(names(&dir.path().join("tmp")), [""; 0]);
}

#[test]
fn only_root_may_enter() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("storage");
    LayerStore::open(&root, &[]).unwrap();
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn a_layer_that_is_there_already_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let tar = TestTar::new().file("a", b"x").end();
    let first = commit(&store, std::slice::from_ref(&tar));
    let inode = fs::metadata(store.path(&first[0].chain)).unwrap().ino();
    let again = commit(&store, &[tar.clone(), tar.clone()]);
    assert_eq!(first[0], again[0]);
    assert_eq!(
        fs::metadata(store.path(&first[0].chain)).unwrap().ino(),
        inode
    );
    // The same tar upon itself is another chain.
    assert_ne!(again[1].chain, again[0].chain);
    // The same chain twice in one list.
    let (one, two) = (unpack(&store, b""), unpack(&store, b""));
    let chain = ChainId::child(None, &one.diff);
    let rows = store
        .commit(vec![(one, chain.clone(), None), (two, chain, None)])
        .unwrap();
    assert_eq!(rows[0], rows[1]);
    store.settle();
    assert_eq!(names(&dir.path().join("tmp")), [""; 0]);
}

#[test]
fn a_commit_is_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let good = unpack(&store, &TestTar::new().file("a", b"x").end());
    let orphan = unpack(&store, &TestTar::new().file("b", b"x").end());
    let (chain, missing) = (
        ChainId::child(None, &good.diff),
        ChainId::from(Digest::sha256_of(b"missing")),
    );
    let orphan_chain = ChainId::child(Some(&missing), &orphan.diff);
    let error = store
        .commit(vec![
            (good, chain.clone(), None),
            (orphan, orphan_chain, Some(missing.clone())),
        ])
        .unwrap_err();
    let StorageError::NoSuchLayer { chain: named } = error else {
        panic!("{error}");
    };
    assert_eq!(named, missing);
    assert!(!store.contains(&chain));
    store.settle();
    for left in ["layers", "recipes", "tmp"] {
        assert_eq!(names(&dir.path().join(left)), [""; 0], "{left}");
    }
}

#[test]
fn implied_directories_are_like_those_below() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let rows = commit(
        &store,
        &[
            TestTar::new()
                .owned_dir("./", (7, 8), 0o711)
                .owned_dir("tmp/", (1, 2), 0o1777)
                .owned_dir("hidden/", (1, 2), 0o1777)
                .owned_dir("twice/", (1, 2), 0o700)
                .symlink("lib", "usr/lib")
                .end(),
            TestTar::new()
                .file(".wh.hidden", b"")
                .owned_dir("twice/", (3, 4), 0o750)
                .end(),
            TestTar::new()
                .file("tmp/x", b"")
                .file("hidden/x", b"")
                .file("twice/new/x", b"")
                .file("lib/x", b"")
                .end(),
        ],
    );
    let top = store.path(&rows[2].chain);
    let of = |name: &str| {
        let found = fs::symlink_metadata(top.join(name)).unwrap();
        assert!(found.is_dir());
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    assert_eq!(of(""), (7, 8, 0o711));
    assert_eq!(of("tmp"), (1, 2, 0o1777));
    assert_eq!(of("hidden"), (0, 0, 0o755));
    assert_eq!(of("twice"), (3, 4, 0o750));
    assert_eq!(of("twice/new"), (0, 0, 0o755));
    assert_eq!(of("lib"), (0, 0, 0o755));
    let hidden = fs::symlink_metadata(store.path(&rows[1].chain).join("hidden")).unwrap();
    assert!(hidden.file_type().is_char_device());
}

#[test]
fn a_tar_comes_out_as_it_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let large: Vec<u8> = (0..400_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let mut tar = TestTar::new()
        .dir("usr/")
        .file("usr/large", &large)
        .file("a", b"first")
        .hard_link("b", "a")
        .file("a", b"second")
        .file("d/e/f", b"deep")
        .file("d/e", b"over")
        .file("d", b"over all")
        .symlink("d", "gone")
        .file("s/x", b"through")
        .symlink("s", "usr")
        .file("s/x", b"a link")
        .file("a/", b"not empty")
        .file("empty", b"")
        .pax(&[("path", b"dir/with\nnewline"), ("comment", b"lost?")])
        .file("x", b"pax")
        .pax(&[("GNU.sparse.map", b"0,2,10,3"), ("GNU.sparse.size", b"20")])
        .file("sparse", b"12345")
        .file(".wh.gone", b"")
        .file("usr/.wh.with-contents", b"that nobody reads")
        .end();
    tar.extend_from_slice(b"something after the end");
    let rows = commit(&store, std::slice::from_ref(&tar));
    let mut out = Vec::new();
    let diff = store.export_layer(&rows[0].chain, &mut out).unwrap();
    assert!(out == tar);
    assert_eq!(diff, rows[0].diff);
    let sparse = fs::read(store.path(&rows[0].chain).join("sparse")).unwrap();
    assert_eq!(sparse, b"12\0\0\0\0\0\0\0\x00345\0\0\0\0\0\0\0");

    // Someone who changes a file of a layer shows.
    fs::write(store.path(&rows[0].chain).join("a"), b"NOT EMPTY").unwrap();
    assert_ne!(
        store.export_layer(&rows[0].chain, io::sink()).unwrap(),
        diff
    );
    fs::write(store.path(&rows[0].chain).join("a"), b"short").unwrap();
    assert!(store.export_layer(&rows[0].chain, io::sink()).is_err());
    let missing = ChainId::from(Digest::sha256_of(b"missing"));
    assert!(matches!(
        store.export_layer(&missing, io::sink()),
        Err(StorageError::NoSuchLayer { .. })
    ));
}

#[test]
fn many_layers_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = store.clone();
            scope.spawn(move || {
                let tars: Vec<_> = (0..5)
                    .map(|index| {
                        // Half of the threads share all their layers.
                        TestTar::new()
                            .file(&format!("{}-{index}", thread / 2), b"x")
                            .end()
                    })
                    .collect();
                let rows = commit(&store, &tars);
                assert!(rows.iter().all(|row| store.contains(&row.chain)));
            });
        }
    });
    assert_eq!(names(&dir.path().join("layers")).len(), 10);
    assert_eq!(store.usage().inodes, 10 * 5);
}

#[test]
fn a_full_disk_is_told_apart() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let flags =
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).unwrap();
    let dir = tempfile::tempdir().unwrap();
    sys::mount::tmpfs(dir.path(), &sys::mount::Tmpfs::new(1 << 20, 0o755)).unwrap();
    let store = store(&dir);
    let tar = TestTar::new().file("large", &vec![1; 2 << 20]).end();
    let error = store
        .unpack(tar.as_slice(), Compression::Plain, &UnpackLimits::default())
        .unwrap_err();
    assert!(error.is_disk_full(), "{error:?}");
    assert!(!error.is_bad_layer());
    store.settle();
    assert_eq!(names(&dir.path().join("tmp")), [""; 0]);
    sys::mount::unmount(dir.path()).unwrap();
}
