//! Tests of [`super`], as root, in a mount namespace of the test's own thread.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use nix::sched::CloneFlags;
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::*;
use crate::{Compression, UnpackLimits, test_tar::TestTar};

/// A store on a tmpfs of its own, which vanishes with the thread, and a mount point.
struct Fixture {
    dir: tempfile::TempDir,
    store: LayerStore,
}

impl Fixture {
    fn new() -> Self {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", flags).unwrap();
        let dir = tempfile::tempdir().unwrap();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), c"").unwrap();
        fs::create_dir(dir.path().join("target")).unwrap();
        let store = LayerStore::open(&dir.path().join("store"), &[]).unwrap();
        Self { dir, store }
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    fn layers(&self, tars: &[Vec<u8>]) -> Vec<ChainId> {
        let mut chains: Vec<ChainId> = Vec::new();
        for tar in tars {
            let unpacked = self
                .store
                .unpack(tar.as_slice(), Compression::Plain, &UnpackLimits::default())
                .unwrap();
            let parent = chains.last().cloned();
            let chain = ChainId::child(parent.as_ref(), &unpacked.diff);
            self.store
                .commit(vec![(unpacked, chain.clone(), parent)])
                .unwrap();
            chains.push(chain);
        }
        chains
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.dir.path().join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        for target in [self.target(), self.dir.path().to_owned()] {
            let _ = sys::mount::unmount(&target);
        }
    }
}

fn tars() -> Vec<Vec<u8>> {
    vec![
        TestTar::new()
            .owned_dir("./", (0, 0), 0o711)
            .file("base", b"base")
            .file("gone", b"gone")
            .file("dir/old", b"old")
            .file("over", b"1")
            .end(),
        TestTar::new()
            .file(".wh.gone", b"")
            .file("dir/.wh..wh..opq", b"")
            .file("dir/new", b"new")
            .file("over", b"2")
            .end(),
    ]
}

#[test]
fn layers_upon_each_other() {
    let fixture = Fixture::new();
    let layers = fixture.layers(&tars());
    let target = fixture.target();
    fixture
        .store
        .mount("c1", &layers, &target, false, None, None)
        .unwrap();
    assert_eq!(fixture.names("target"), ["base", "dir", "over"]);
    assert_eq!(fixture.names("target/dir"), ["new"]);
    assert_eq!(fs::read_to_string(target.join("over")).unwrap(), "2");
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o711);
    let options = sys::mount::table().unwrap();
    let found = options.iter().find(|mount| mount.target == target).unwrap();
    assert!(found.super_options.contains("volatile"), "{found:?}");

    let before = fixture.store.writable_usage("c1").unwrap().usage;
    fs::write(target.join("new"), vec![7; 100_000]).unwrap();
    fs::remove_file(target.join("base")).unwrap();
    let after = fixture.store.writable_usage("c1").unwrap().usage;
    assert!(after.bytes >= before.bytes + 100_000);
    assert_eq!(after.inodes, before.inodes + 2);

    // A second container of the same image does not see that.
    let other = fixture.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fixture
        .store
        .mount("c2", &layers, &other, false, None, None)
        .unwrap();
    assert!(other.join("base").exists() && !other.join("new").exists());

    let error = fixture
        .store
        .mount("c1", &layers, &target, false, None, None)
        .unwrap_err();
    assert!(
        matches!(error, StorageError::ContainerExists { .. }),
        "{error}"
    );
    for _ in 0..2 {
        fixture.store.unmount("c1", &target).unwrap();
        fixture.store.unmount("c2", &other).unwrap();
    }
    assert!(fixture.names("target").is_empty());
    fixture.store.settle();
    assert!(fixture.names("store/containers").is_empty());
    assert!(fixture.names("store/tmp").is_empty());
}

#[test]
fn few_layers_and_none() {
    let fixture = Fixture::new();
    let target = fixture.target();
    let one = fixture.layers(&tars()[..1]);
    for (layers, readonly, file) in [
        (&one[..], true, true),
        (&one[..], false, true),
        (&[], true, false),
        (&[], false, false),
    ] {
        fixture
            .store
            .mount("c1", layers, &target, readonly, None, None)
            .unwrap();
        assert_eq!(target.join("base").exists(), file);
        assert_eq!(fs::write(target.join("x"), "").is_err(), readonly);
        fixture.store.unmount("c1", &target).unwrap();
    }
    assert!(fixture.names("store/empty/0").is_empty());
}

#[test]
fn an_opaque_root_hides_what_is_below() {
    let fixture = Fixture::new();
    let mut tars = tars();
    tars.push(
        TestTar::new()
            .file(".wh..wh..opq", b"")
            .file("only", b"")
            .end(),
    );
    let layers = fixture.layers(&tars);
    let target = fixture.target();
    for readonly in [true, false] {
        fixture
            .store
            .mount("c1", &layers, &target, readonly, None, None)
            .unwrap();
        assert_eq!(fixture.names("target"), ["only"]);
        fixture.store.unmount("c1", &target).unwrap();
    }
}

#[test]
fn a_hundred_layers() {
    let fixture = Fixture::new();
    let tars: Vec<_> = (0..100)
        .map(|index| TestTar::new().file(&format!("f{index}"), b"").end())
        .collect();
    let layers = fixture.layers(&tars);
    let target = fixture.target();
    fixture
        .store
        .mount("c1", &layers, &target, false, None, None)
        .unwrap();
    assert_eq!(fixture.names("target").len(), 100);
    fs::write(target.join("new"), "").unwrap();
    fixture.store.unmount("c1", &target).unwrap();
}

#[test]
fn a_failed_mount_leaves_nothing() {
    let fixture = Fixture::new();
    let layers = fixture.layers(&tars());
    let nowhere = fixture.dir.path().join("nowhere");
    let error = fixture
        .store
        .mount("c1", &layers, &nowhere, false, None, None)
        .unwrap_err();
    assert!(matches!(error, StorageError::Mount { .. }), "{error}");
    let missing = ChainId::from(state::Digest::sha256_of(b"missing"));
    let error = fixture
        .store
        .mount("c1", &[missing], &fixture.target(), false, None, None)
        .unwrap_err();
    assert!(matches!(error, StorageError::NoSuchLayer { .. }), "{error}");
    assert!(fixture.names("store/containers").is_empty());
    fixture.store.unmount("c1", &nowhere).unwrap();
}

#[test]
fn ids_lead_nowhere() {
    let fixture = Fixture::new();
    let target = fixture.target();
    for id in ["", ".", "..", "a/b", "../layers", "a\0b", &"a".repeat(129)] {
        for result in [
            fixture.store.mount(id, &[], &target, false, None, None),
            fixture.store.unmount(id, &target),
            fixture.store.writable_usage(id).map(drop),
        ] {
            assert!(
                matches!(result, Err(StorageError::BadContainerId { .. })),
                "{id:?}"
            );
        }
    }
}

#[test]
fn a_sweep_spares_those_to_keep() {
    let fixture = Fixture::new();
    for id in ["keep", "drop1", "drop2"] {
        fs::create_dir_all(
            fixture
                .dir
                .path()
                .join("store/containers")
                .join(id)
                .join("upper/a/b"),
        )
        .unwrap();
    }
    fixture.store.sweep_containers(|id| id == "keep").unwrap();
    assert_eq!(fixture.names("store/containers"), ["keep"]);
    fixture.store.settle();
    assert!(fixture.names("store/tmp").is_empty());
}

#[test]
fn in_a_user_namespace_files_belong_to_its_ids() {
    use std::os::{fd::AsFd, unix::fs::MetadataExt};

    let fixture = Fixture::new();
    let layers = fixture.layers(&[TestTar::new()
        .owned_dir("./", (0, 0), 0o711)
        .owned_dir("home/", (1000, 1001), 0o755)
        .file("base", b"base")
        .end()]);
    let range = sys::idmap::IdRange {
        inside: 0,
        outside: 400_000,
        length: 65_536,
    };
    let namespace = sys::idmap::user_namespace(&[range], &[range]).unwrap();
    let scratch = fixture.dir.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let shift = IdShift {
        user_namespace: namespace.as_fd(),
        scratch: &scratch,
    };
    let target = fixture.target();
    let mounted = fixture
        .store
        .mount("c1", &layers, &target, false, Some(&shift), None);
    mounted.unwrap();
    assert!(!sys::mount::is_mount_point(&scratch).unwrap());
    let owner = |name: &str| {
        let found = fs::metadata(target.join(name)).unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!(owner(""), (400_000, 400_000));
    assert_eq!(owner("home"), (401_000, 401_001));
    assert_eq!(owner("base"), (400_000, 400_000));
    // Copied up on a write, it stays whose it is.
    fs::write(target.join("base"), "changed").unwrap();
    assert_eq!(owner("base"), (400_000, 400_000));
    let upper = fixture.dir.path().join("store/containers/c1/upper/base");
    assert_eq!(fs::metadata(upper).unwrap().uid(), 400_000);
    fixture.store.unmount("c1", &target).unwrap();

    // Read-only too, and with nothing at all in it.
    let mounted = fixture
        .store
        .mount("c2", &[], &target, true, Some(&shift), None);
    mounted.unwrap();
    assert_eq!(owner(""), (400_000, 400_000));
    sys::mount::unmount(&target).unwrap();
}
