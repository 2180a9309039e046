//! Tests of [`super`] and of `replace`, as root.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
};

use rstest::rstest;
use state::ChainId;

use super::*;
use crate::{Compression, Rootfs, Unpacked, test_tar::TestTar};

fn tars() -> [Vec<u8>; 2] {
    let below = TestTar::new()
        .owned_dir("./", (0, 0), 0o755)
        .owned_dir("tmp/", (1, 2), 0o1777)
        .owned_dir("etc/", (0, 0), 0o750)
        .pax(&[("SCHILY.xattr.user.colour", b"blue")])
        .owned_file("etc/passwd", b"root", (3, 4), 0o4755)
        .file("etc/empty", b"")
        .hard_link("etc/hard", "etc/passwd")
        .symlink("etc/link", "passwd")
        .node(tar::EntryType::Fifo, "pipe", (0, 0), 0o600)
        .node(tar::EntryType::Char, "null", (1, 3), 0o666)
        .file("a", b"first")
        .file("a", b"second")
        .pax(&[("GNU.sparse.map", b"0,2,10,3"), ("GNU.sparse.size", b"20")])
        .file("sparse", b"12345")
        .end();
    let above = TestTar::new()
        .file("tmp/implied", b"x")
        .file("etc/.wh.empty", b"")
        .file("new/.wh..wh..opq", b"")
        .end();
    [below, above]
}

fn unpack(store: &LayerStore, tar: &[u8]) -> Unpacked {
    store
        .unpack(tar, Compression::Detect, &UnpackLimits::default())
        .unwrap()
}

struct Place {
    dir: tempfile::TempDir,
    store: LayerStore,
    rows: Vec<LayerRow>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = LayerStore::open(dir.path(), &[]).unwrap();
        let mut parent = None;
        let layers = tars()
            .iter()
            .map(|tar| {
                let unpacked = unpack(&store, tar);
                let chain = ChainId::child(parent.as_ref(), &unpacked.diff);
                let below = parent.replace(chain.clone());
                (unpacked, chain, below)
            })
            .collect();
        let rows = store.commit(layers).unwrap();
        Self { dir, store, rows }
    }

    fn verify(&self, layer: usize) -> Vec<String> {
        let found = self
            .store
            .verify(&self.rows[layer], &AtomicBool::new(false));
        let found = found.unwrap();
        self.store.settle();
        assert_eq!(
            fs::read_dir(self.dir.path().join("tmp")).unwrap().count(),
            0
        );
        found
    }

    fn layer(&self, layer: usize) -> std::path::PathBuf {
        self.store.path(&self.rows[layer].chain)
    }
}

#[test]
fn whole_layers_are_whole() {
    let place = Place::new();
    assert_eq!(place.verify(0), [""; 0]);
    assert_eq!(place.verify(1), [""; 0]);
    // Reading it changes nothing, and whoever looks at it leaves the access time only.
    fs::read(place.layer(0).join("etc/passwd")).unwrap();
    assert_eq!(place.verify(0), [""; 0]);
}

type Damage = fn(&Path);

/// Sets the time back, as a flipped bit or a clever attacker would.
fn keeping_time(path: &Path, change: impl FnOnce(&Path)) {
    let before = fs::metadata(path).unwrap().modified().unwrap();
    change(path);
    File::open(path).unwrap().set_modified(before).unwrap();
}

#[rstest]
#[case(|layer: &Path| keeping_time(&layer.join("etc/passwd"), |path: &Path| fs::write(path, "ROOT").unwrap()), "diff id")]
#[case(|layer: &Path| fs::write(layer.join("etc/passwd"), "ro").unwrap(), "etc/passwd")]
#[case(|layer: &Path| fs::remove_file(layer.join("a")).unwrap(), "/a")]
#[case(|layer: &Path| fs::remove_file(layer.join("etc/empty")).unwrap(), "/etc/empty is not there")]
#[case(|layer: &Path| fs::remove_file(layer.join("pipe")).unwrap(), "/pipe is not there")]
#[case(|layer: &Path| fs::write(layer.join("evil"), "x").unwrap(), "/evil is not of the image")]
#[case(|layer: &Path| fs::set_permissions(layer.join("etc"), PermissionsExt::from_mode(0o777)).unwrap(), "/etc has the mode 777 instead of 750")]
#[case(|layer: &Path| fs::set_permissions(layer.join("etc/passwd"), PermissionsExt::from_mode(0o755)).unwrap(), "has the mode 755 instead of 4755")]
#[case(|layer: &Path| chown(layer.join("null"), Some(7), None).unwrap(), "/null belongs to 7:0 instead of 0:0")]
#[case(|layer: &Path| rustix::fs::setxattr(layer.join("etc/passwd"), "user.colour", b"red", rustix::fs::XattrFlags::empty()).unwrap(), "attribute user.colour")]
#[case(|layer: &Path| rustix::fs::setxattr(layer, "trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap(), "/ has another extended attribute trusted.overlay.opaque")]
#[case(|layer: &Path| { fs::remove_file(layer.join("etc/link")).unwrap(); symlink("shadow", layer.join("etc/link")).unwrap(); }, "/etc/link leads somewhere else")]
#[case(|layer: &Path| { fs::remove_file(layer.join("etc/hard")).unwrap(); fs::copy(layer.join("etc/passwd"), layer.join("etc/hard")).unwrap(); }, "names instead of 2")]
#[case(|layer: &Path| { fs::remove_file(layer.join("null")).unwrap(); fs::create_dir(layer.join("null")).unwrap(); }, "/null is of another kind")]
#[case(|layer: &Path| fs::write(layer.join("sparse"), [1; 20]).unwrap(), "/sparse has another time")]
#[case(|layer: &Path| fs::remove_dir_all(layer).unwrap(), "No such file")]
fn damage_is_found(#[case] damage: Damage, #[case] expected: &str) {
    let place = Place::new();
    damage(&place.layer(0));
    let found = place.verify(0);
    assert!(found.iter().any(|it| it.contains(expected)), "{found:?}");
}

#[test]
fn damage_of_what_is_kept_beside_is_found() {
    let place = Place::new();
    let recipe = place.store.inner().recipe(&place.rows[0].chain);
    fs::write(recipe::kept_in(&recipe).join("0"), "FIRST").unwrap();
    assert!(place.verify(0)[0].contains("diff id"));
    let file = recipe::file_in(&recipe);
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(place.verify(0)[0].contains("recipe"));
    fs::remove_file(&file).unwrap();
    assert!(place.verify(0)[0].contains("recipe"));
}

#[test]
fn whiteouts_and_implied_directories_are_compared() {
    let place = Place::new();
    fs::remove_file(place.layer(1).join("etc/empty")).unwrap();
    rustix::fs::removexattr(place.layer(1).join("new"), "trusted.overlay.opaque").unwrap();
    chown(place.layer(1).join("tmp"), Some(0), Some(0)).unwrap();
    let found = place.verify(1).join("\n");
    for expected in [
        "/etc/empty is not there",
        "/new has another extended attribute trusted.overlay.opaque",
        "/tmp belongs to 0:0 instead of 1:2",
    ] {
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn many_findings_are_counted() {
    let place = Place::new();
    for number in 0..100 {
        fs::write(place.layer(0).join(format!("x{number}")), "").unwrap();
    }
    let found = place.verify(0);
    assert_eq!(found.len(), MAX_FINDINGS + 1);
    // The time of the root is one, too.
    assert_eq!(
        found[MAX_FINDINGS],
        format!("and {} more", 101 - MAX_FINDINGS)
    );
}

#[test]
fn it_can_be_stopped() {
    let place = Place::new();
    place
        .store
        .verify(&place.rows[0], &AtomicBool::new(true))
        .unwrap_err();
    place.store.settle();
    assert_eq!(
        fs::read_dir(place.dir.path().join("tmp")).unwrap().count(),
        0
    );
}

#[test]
fn a_replaced_layer_is_whole_and_who_has_mounted_it_goes_on() {
    let place = Place::new();
    let chains: Vec<ChainId> = place.rows.iter().map(|row| row.chain.clone()).collect();
    let merged = place.dir.path().join("merged");
    fs::create_dir(&merged).unwrap();
    place
        .store
        .mount("before", &chains, &merged, false, None, None)
        .unwrap();
    let before = place.store.usage();
    fs::write(place.layer(0).join("etc/passwd"), "evil").unwrap();
    fs::set_permissions(place.layer(0).join("etc"), PermissionsExt::from_mode(0o700)).unwrap();
    assert!(!place.verify(0).is_empty());

    let unpacked = unpack(&place.store, &tars()[0]);
    let replaced = place.store.replace(&unpacked, &chains[0]).unwrap();
    drop(unpacked);
    place.store.settle();
    assert_eq!(place.verify(0), [""; 0]);
    assert_eq!(place.verify(1), [""; 0]);
    assert_eq!(place.store.usage(), before);
    assert_eq!(replaced.row, place.rows[0]);
    // What was not opened before is still to be had, and it is the old one.
    assert_eq!(fs::read(merged.join("etc/passwd")).unwrap(), b"evil");
    assert_eq!(fs::read(merged.join("a")).unwrap(), b"second");
    fs::write(merged.join("a"), "copied up").unwrap();
    let fresh = place.dir.path().join("fresh");
    fs::create_dir(&fresh).unwrap();
    place
        .store
        .mount("after", &chains, &fresh, false, None, None)
        .unwrap();
    assert_eq!(fs::read(fresh.join("etc/passwd")).unwrap(), b"root");
    place.store.unmount("before", &merged).unwrap();
    place.store.unmount("after", &fresh).unwrap();

    // A new server finds what the old one left, and nothing else.
    let Place { dir, store, rows } = place;
    drop(store);
    let store = LayerStore::open(dir.path(), &rows).unwrap();
    let retired = vec![(chains[0].clone(), replaced.retired.clone())];
    assert_eq!(store.retired().unwrap(), retired);
    store.release(&replaced.retired).unwrap();
    assert!(store.retired().unwrap().is_empty());
    store.settle();
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_layer_whose_directory_is_gone_can_be_replaced() {
    let place = Place::new();
    fs::remove_dir_all(place.layer(0)).unwrap();
    let unpacked = unpack(&place.store, &tars()[0]);
    place
        .store
        .replace(&unpacked, &place.rows[0].chain)
        .unwrap();
    drop(unpacked);
    assert_eq!(place.verify(0), [""; 0]);
    assert!(place.store.retired().unwrap().is_empty());
    // Only by what it is.
    let other = unpack(&place.store, &tars()[1]);
    place
        .store
        .replace(&other, &place.rows[0].chain)
        .unwrap_err();
}

#[test]
fn a_blob_is_compared_as_the_file_that_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path(), &[]).unwrap();
    let limits = UnpackLimits::default();
    let stored = store
        .store_blob(b"a model".as_slice(), "deep/model.bin", &limits)
        .unwrap();
    let chain = ChainId::from(stored.diff.digest().clone());
    let row = store.commit(vec![(stored, chain, None)]).unwrap().remove(0);
    let go_on = AtomicBool::new(false);
    let found = || store.verify(&row, &go_on).unwrap().join("; ");
    assert_eq!(found(), "");
    let file = store.path(&row.chain).join("deep/model.bin");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(found().contains("deep/model.bin"), "{}", found());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let stamps = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, "a mOdel").unwrap();
    let written = File::options().write(true).open(&file).unwrap();
    written.set_modified(stamps).unwrap();
    assert!(found().contains("contents of files"), "{}", found());
    fs::remove_file(&file).unwrap();
    assert_ne!(found(), "");
}
