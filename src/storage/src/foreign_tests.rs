//! Tests of [`super`], as root, in a mount namespace of the test's own thread.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    fs::Permissions,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    sync::atomic::AtomicBool,
};

use nix::sched::CloneFlags;
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::*;
use crate::{
    Compression, IdShift, LayerStore, Rootfs, StorageError, UnpackLimits, test_tar::TestTar,
    unmount_scratch,
};

/// Two stores on file systems of their own; the second one, a finished one, is to be the first one's additional store.
struct Fixture {
    dir: tempfile::TempDir,
    own: LayerStore,
    other: LayerStore,
}

fn mount(kind: &str, at: &Path) {
    fs::create_dir_all(at).unwrap();
    rustix::mount::mount(kind, at, kind, MountFlags::empty(), c"").unwrap();
}

fn layer(
    store: &LayerStore,
    tar: &[u8],
    parent: Option<&LayerRow>,
) -> Result<LayerRow, StorageError> {
    let unpacked = store
        .unpack(tar, Compression::Plain, &UnpackLimits::default())
        .unwrap();
    let parent = parent.map(|row| row.chain.clone());
    let chain = ChainId::child(parent.as_ref(), &unpacked.diff);
    let mut rows = store.commit(vec![(unpacked, chain, parent)])?;
    Ok(rows.remove(0))
}

impl Fixture {
    fn new() -> Self {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", flags).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for name in ["own", "other"] {
            mount("tmpfs", &dir.path().join(name));
        }
        fs::create_dir(dir.path().join("target")).unwrap();
        let open = |name: &str| LayerStore::open(&dir.path().join(name), &[]).unwrap();
        Self {
            own: open("own"),
            other: open("other"),
            dir,
        }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes the other store what it is to be.
    fn lend(&self, rows: &[&LayerRow]) {
        let mut layers = ForeignLayers::default();
        let store: Arc<Path> = self.place("other").into();
        layers.add(&store, rows.iter().map(|row| (*row).clone()));
        self.own.set_foreign(Arc::new(layers));
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.own.settle();
        self.other.settle();
    }
}

#[test]
fn layers_of_several_stores_make_one_root_also_for_a_user_namespace() {
    let fixture = Fixture::new();
    let base = TestTar::new()
        .owned_dir("./", (0, 0), 0o755)
        .owned_dir("srv/", (7, 8), 0o751)
        .file("base", b"base")
        .end();
    let base = layer(&fixture.other, &base, None).unwrap();
    let top = TestTar::new().file("srv/top", b"top").end();
    let orphan = layer(&fixture.own, &top, Some(&base)).unwrap_err();
    assert!(
        matches!(orphan, StorageError::NoSuchLayer { .. }),
        "{orphan}"
    );
    fixture.lend(&[&base]);
    let before = fixture.own.usage();
    let top = layer(&fixture.own, &top, Some(&base)).unwrap();
    let usage = fixture.own.usage();
    assert_eq!(usage.bytes - before.bytes, top.size_bytes);
    // What the tar implies was taken from the layer below, in the other store.
    let srv = fs::metadata(fixture.own.path(&top.chain).join("srv")).unwrap();
    assert_eq!((srv.uid(), srv.gid(), srv.mode() & 0o7777), (7, 8, 0o751));
    let chains = [base.chain.clone(), top.chain.clone()];

    let target = fixture.place("target");
    let read = |name: &str| fs::read_to_string(target.join(name)).unwrap();
    fixture
        .own
        .mount("c1", &chains, &target, false, None, None)
        .unwrap();
    assert_eq!(
        (read("base"), read("srv/top")),
        ("base".into(), "top".into())
    );
    fs::write(target.join("base"), "changed").unwrap();
    fixture.own.unmount("c1", &target).unwrap();

    let range = sys::idmap::IdRange {
        inside: 0,
        outside: 300_000,
        length: 65_536,
    };
    let namespace = sys::idmap::user_namespace(&[range], &[range]).unwrap();
    let scratch = fixture.place("scratch");
    fs::create_dir(&scratch).unwrap();
    let shift = IdShift {
        user_namespace: namespace.as_fd(),
        scratch: &scratch,
    };
    for (container, readonly) in [("c2", false), ("c3", true)] {
        fixture
            .own
            .mount(container, &chains, &target, readonly, Some(&shift), None)
            .unwrap();
        let owner = |name: &str| fs::metadata(target.join(name)).unwrap().uid();
        assert_eq!(
            (owner("base"), owner("srv"), owner("srv/top")),
            (300_000, 300_007, 300_000)
        );
        assert_eq!(read("base"), "base");
        for at in fs::read_dir(&scratch).unwrap() {
            assert!(!sys::mount::is_mount_point(&at.unwrap().path()).unwrap());
        }
        fixture.own.unmount(container, &target).unwrap();
    }
    // What a crash leaves, of this version or of one before.
    for left in [scratch.join("1"), scratch.clone()] {
        sys::mount::bind(&fixture.place("own"), &left, true).unwrap();
        unmount_scratch(&scratch).unwrap();
        assert!(!sys::mount::is_mount_point(&left).unwrap());
    }
    unmount_scratch(&fixture.place("nowhere")).unwrap();
}

#[test]
fn the_own_layer_comes_first_and_the_other_one_is_never_touched() {
    let fixture = Fixture::new();
    let tar = TestTar::new().file("a", b"1").end();
    let row = layer(&fixture.other, &tar, None).unwrap();
    fixture.lend(&[&row]);
    let there = fixture.place("other").join("layers").join(row.chain.hex());
    assert_eq!(fixture.own.path(&row.chain), there);
    assert!(!fixture.own.contains(&row.chain));
    assert!(
        fixture
            .own
            .verify(&row, &AtomicBool::new(false))
            .unwrap()
            .is_empty()
    );
    let mut written = Vec::new();
    assert_eq!(
        fixture.own.export_layer(&row.chain, &mut written).unwrap(),
        row.diff
    );
    assert_eq!(written, tar);
    fixture.own.remove(&row.chain).unwrap();
    assert!(there.join("a").is_file());
    let again = layer(&fixture.own, &tar, None).unwrap();
    assert_eq!(again.chain, row.chain);
    assert_ne!(fixture.own.path(&row.chain), there);
    fixture.own.remove(&row.chain).unwrap();
    assert_eq!(fixture.own.path(&row.chain), there);

    fs::write(there.join("a"), "2").unwrap();
    let findings = fixture.own.verify(&row, &AtomicBool::new(false)).unwrap();
    assert!(!findings.is_empty());
    fs::remove_dir_all(&there).unwrap();
    let target = fixture.place("target");
    let chains = [row.chain.clone()];
    let gone = fixture
        .own
        .mount("c", &chains, &target, false, None, None)
        .unwrap_err();
    assert!(gone.to_string().ends_with("other still mounted?"), "{gone}");
}

#[test]
fn a_layer_whose_lower_ones_are_away_is_looked_at_as_far_as_it_goes() {
    let fixture = Fixture::new();
    let base = TestTar::new().owned_dir("srv/", (7, 8), 0o751).end();
    let base = layer(&fixture.other, &base, None).unwrap();
    fixture.lend(&[&base]);
    let implying = TestTar::new().file("srv/top", b"top").end();
    let implying = layer(&fixture.own, &implying, Some(&base)).unwrap();
    let plain = TestTar::new()
        .owned_dir("./", (0, 0), 0o755)
        .file("plain", b"plain")
        .end();
    let plain = layer(&fixture.own, &plain, Some(&base)).unwrap();
    let look = |row| fixture.own.verify(row, &AtomicBool::new(false)).unwrap();
    assert!(look(&implying).is_empty());
    fixture.lend(&[]);
    let told = look(&implying);
    assert!(told[0].contains(base.chain.as_str()), "{told:?}");
    assert!(look(&plain).is_empty());
}

#[test]
fn what_cannot_be_a_store_is_told() {
    let fixture = Fixture::new();
    let tar = TestTar::new().file("a", b"1").end();
    let row = layer(&fixture.other, &tar, None).unwrap();
    let lost = layer(&fixture.other, &TestTar::new().file("b", b"").end(), None).unwrap();
    fixture.other.remove(&lost.chain).unwrap();
    let store = fixture.place("other");
    let database = store.join("images.db");
    let look = |store: &Path| look_at(store, &database, vec![row.clone(), lost.clone()]);
    let words = |store: &Path| look(store).unwrap_err().to_string();
    assert!(words(&store).starts_with("look at"));
    fs::write(&database, "").unwrap();
    fs::set_permissions(&database, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(look(&store).unwrap(), std::slice::from_ref(&row));
    for (path, mode, sound) in [(&database, 0o620, 0o600), (&store, 0o703, 0o755)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        assert!(words(&store).contains("chmod go-w"), "{}", words(&store));
        fs::set_permissions(path, Permissions::from_mode(sound)).unwrap();
    }
    std::os::unix::fs::chown(store.join("layers"), Some(5), None).unwrap();
    assert!(words(&store).contains("chown root:root"));
    // Has no attributes, as NFS.
    let without = fixture.place("without");
    mount("ramfs", &without);
    fs::create_dir(without.join("layers")).unwrap();
    assert!(words(&without).contains("trusted.*"), "{}", words(&without));
}
