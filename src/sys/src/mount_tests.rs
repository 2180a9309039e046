//! Tests of [`super`]: what needs mounts makes them in a mount namespace of the test's own thread, as root.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;

use nix::sched::CloneFlags;
use rustix::mount::MountPropagationFlags;

use super::{
    table::{parse_mount_id, parse_table},
    *,
};

/// A directory to mount in, unseen by the rest of the machine; the mounts go with the thread.
fn private_dir() -> tempfile::TempDir {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).unwrap();
    let dir = tempfile::tempdir().unwrap();
    // A tmpfs of its own, because on the node's file system another overlay might be below.
    rustix::mount::mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), c"").unwrap();
    dir
}

struct Dirs {
    lower: Vec<PathBuf>,
    upper: PathBuf,
    work: PathBuf,
    target: PathBuf,
}

impl Dirs {
    /// `count` lower directories, each with a file of its own and a file `same` that says which one it is in.
    fn make(root: &Path, count: usize, suffix: &str) -> Self {
        let dir = |name: &str| {
            let dir = root.join(name);
            fs::create_dir(&dir).unwrap();
            dir
        };
        let lower: Vec<_> = (0..count)
            .map(|index| {
                let lower = dir(&format!("lower-{index}{suffix}"));
                fs::write(lower.join(format!("file-{index}")), "").unwrap();
                fs::write(lower.join("same"), index.to_string()).unwrap();
                lower
            })
            .collect();
        Self {
            lower,
            upper: dir(&format!("upper{suffix}")),
            work: dir(&format!("work{suffix}")),
            target: dir("target"),
        }
    }

    fn mount(&self) -> OverlayMount<'_> {
        OverlayMount {
            lower: &self.lower,
            upper: Some(UpperDirs {
                upper: &self.upper,
                work: &self.work,
            }),
            target: &self.target,
            volatile: true,
            readonly: false,
            label: None,
        }
    }

    fn check(&self) {
        assert!(is_mount_point(&self.target).unwrap());
        assert_eq!(fs::read_to_string(self.target.join("same")).unwrap(), "0");
        for index in 0..self.lower.len() {
            assert!(self.target.join(format!("file-{index}")).exists());
        }
        let found = table()
            .unwrap()
            .into_iter()
            .find(|mount| mount.target == self.target);
        assert!(found.unwrap().super_options.contains("volatile"));
        fs::write(self.target.join("new"), "x").unwrap();
        assert!(self.upper.join("new").exists());
        unmount(&self.target).unwrap();
        assert!(!is_mount_point(&self.target).unwrap());
        assert!(!self.target.join("same").exists());
        unmount(&self.target).unwrap();
    }
}

#[test]
fn a_short_overlay() {
    let root = private_dir();
    let dirs = Dirs::make(root.path(), 3, "");
    overlay(&dirs.mount()).unwrap();
    dirs.check();
}

#[test]
fn more_layers_than_the_option_page_holds() {
    let root = private_dir();
    let dirs = Dirs::make(root.path(), 120, &"-long".repeat(20));
    assert_eq!(overlay_options(&dirs.mount(), &dirs.lower), None);
    overlay(&dirs.mount()).unwrap();
    dirs.check();
}

#[test]
fn names_that_the_option_text_cannot_hold() {
    let root = private_dir();
    let dirs = Dirs::make(root.path(), 2, ":a,b\\c d");
    assert_eq!(overlay_options(&dirs.mount(), &dirs.lower), None);
    overlay(&dirs.mount()).unwrap();
    dirs.check();
}

#[test]
fn what_kernels_before_6_8_get() {
    let root = private_dir();
    let dirs = Dirs::make(root.path(), 120, &",long".repeat(20));
    overlay_by_descriptors(&dirs.mount()).unwrap();
    dirs.check();
}

#[test]
fn a_label_is_quoted_for_its_commas() {
    let root = private_dir();
    let dirs = Dirs::make(root.path(), 2, "");
    let mount = OverlayMount {
        label: Some("u:object_r:f_t:s0:c1,c2"),
        ..dirs.mount()
    };
    let options = overlay_options(&mount, &dirs.lower).unwrap();
    let text = options.to_str().unwrap();
    assert!(
        text.ends_with(",context=\"u:object_r:f_t:s0:c1,c2\""),
        "{text}"
    );
    // A kernel in which SELinux is not active does not pass over it.
    if crate::selinux::mode().is_none() {
        assert!(overlay(&mount).is_err());
    }
}

#[test]
fn read_only_ways() {
    let root = private_dir();
    let dirs = Dirs::make(root.path(), 2, "");
    let without_upper = OverlayMount {
        upper: None,
        ..dirs.mount()
    };
    let with_upper = OverlayMount {
        readonly: true,
        ..dirs.mount()
    };
    for mount in [without_upper, with_upper] {
        overlay(&mount).unwrap();
        assert!(dirs.target.join("file-1").exists());
        let error = fs::write(dirs.target.join("new"), "").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        unmount(&dirs.target).unwrap();
        fs::remove_dir_all(&dirs.work).unwrap();
        fs::create_dir(&dirs.work).unwrap();
    }
}

#[test]
fn a_missing_layer_is_named() {
    let root = private_dir();
    let mut dirs = Dirs::make(root.path(), 2, "");
    dirs.lower.push(root.path().join("gone"));
    let error = overlay(&dirs.mount()).unwrap_err();
    assert!(error.to_string().contains("target"), "{error}");
    assert_eq!(error.io().unwrap().kind(), io::ErrorKind::NotFound);
    assert!(!is_mount_point(&dirs.target).unwrap());
}

#[test]
fn binds() {
    let root = private_dir();
    let (source, target) = (root.path().join("source"), root.path().join("target"));
    fs::write(&source, "x").unwrap();
    fs::write(&target, "").unwrap();
    bind(&source, &target, false).unwrap();
    fs::write(&target, "y").unwrap();
    assert_eq!(fs::read_to_string(&source).unwrap(), "y");
    // A second mount on the same target goes with the same call.
    bind(&source, &target, true).unwrap();
    assert!(fs::write(&target, "z").is_err());
    assert_eq!(
        below(root.path()).unwrap(),
        [target.clone(), target.clone(), root.path().into()]
    );
    unmount(&target).unwrap();
    assert_eq!(below(root.path()).unwrap(), [root.path()]);
    assert_eq!(fs::read_to_string(&target).unwrap(), "");
    assert!(bind(&root.path().join("gone"), &target, true).is_err());
}

#[test]
fn a_tmpfs_is_small_and_harmless() {
    let root = private_dir();
    let target = root.path().join("shm");
    fs::create_dir(&target).unwrap();
    tmpfs(&target, &Tmpfs::new(1 << 20, 0o1777)).unwrap();
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&target).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o1777);
    let usage = crate::fs::filesystem_usage(&target).unwrap();
    assert_eq!(usage.total_bytes, 1 << 20);
    assert!(crate::fs::is_tmpfs(&target).unwrap());
    assert!(fs::write(target.join("large"), vec![0; 2 << 20]).is_err());
    unmount(&target).unwrap();
}

#[test]
fn unmounting_what_is_not_there() {
    let root = private_dir();
    unmount(&root.path().join("gone")).unwrap();
    unmount(&root.path().join("gone/below")).unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    unmount(&root.path().join("file")).unwrap();
    unmount(&root.path().join("file/below")).unwrap();
    // A link to a mount point does not take the mount away.
    let link = root.path().join("link");
    std::os::unix::fs::symlink(root.path(), &link).unwrap();
    unmount(&link).unwrap();
    assert!(is_mount_point(root.path()).unwrap());
}

#[test]
fn propagation_of_the_holding_mount() {
    let root = private_dir();
    let inside = root.path().join("some/path");
    fs::create_dir_all(&inside).unwrap();
    let held = crate::idmap::hold(&inside).unwrap();
    let spread = || holder(&held).unwrap().propagation;
    assert!(!spread().shared);
    rustix::mount::mount_change(root.path(), MountPropagationFlags::SHARED).unwrap();
    assert!(spread().shared);
    assert_eq!(holder(&held).unwrap().target, root.path());
    let above = crate::idmap::hold(Path::new("/")).unwrap();
    assert!(!holder(&above).unwrap().propagation.shared);
}

#[test]
fn a_mount_that_a_later_one_covers_holds_nothing() {
    let root = private_dir();
    let outer = root.path().join("outer");
    fs::create_dir_all(outer.join("inner")).unwrap();
    bind(&outer.join("inner"), &outer.join("inner"), false).unwrap();
    rustix::mount::mount_change(outer.join("inner"), MountPropagationFlags::SHARED).unwrap();
    rustix::mount::mount("tmpfs", &outer, "tmpfs", MountFlags::empty(), c"").unwrap();
    fs::create_dir(outer.join("inner")).unwrap();
    let held = crate::idmap::hold(&outer.join("inner")).unwrap();
    let found = holder(&held).unwrap();
    assert_eq!(
        (found.target, found.propagation.shared),
        (outer.clone(), false)
    );
    unmount(&outer).unwrap();
    let error = holder(&held).unwrap_err();
    assert_eq!(error.io().unwrap().kind(), io::ErrorKind::NotFound);
}

#[test]
fn mount_points_are_told_by_the_table_too() {
    let root = private_dir();
    let (file, link) = (root.path().join("file"), root.path().join("link"));
    fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink(root.path(), &link).unwrap();
    bind(&file, &file, false).unwrap();
    for (place, expected) in [
        (root.path().to_owned(), true),
        (file.clone(), true),
        (link.join("file"), true),
        (link.clone(), false),
        (PathBuf::from("/"), true),
        (root.path().join("none"), false),
    ] {
        assert_eq!(is_in_table(&place).unwrap(), expected, "{place:?}");
        assert_eq!(is_mount_point(&place).unwrap(), expected, "{place:?}");
    }
}

#[test]
fn a_descriptors_mount_is_a_number() {
    let facts = "pos:\t0\nflags:\t012100000\nmnt_id:\t27\nino:\t2\n";
    assert_eq!(parse_mount_id(facts), Some(27));
    assert_eq!(parse_mount_id("pos:\t0\n"), None);
    assert_eq!(parse_mount_id("mnt_id:\tx\n"), None);
}

#[test]
fn the_table_is_read_as_the_kernel_writes_it() {
    let text = b"36 35 98:0 /a\\040b /mnt\\134x rw,noatime shared:1 master:2 future:9 - ext3 /dev/root rw,errors=continue\n\
                 37 36 0:5 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\nrubbish\n\n";
    let table = parse_table(text);
    assert_eq!(table.len(), 2);
    assert_eq!(table[0].id, 36);
    assert_eq!(table[0].root, Path::new("/a b"));
    assert_eq!(table[0].target, Path::new("/mnt\\x"));
    assert_eq!(table[0].fs_type, "ext3");
    assert!(table[0].propagation.shared && table[0].propagation.slave);
    assert_eq!(table[1].super_options, "rw,cpu");
    assert_eq!(table[1].propagation, Propagation::default());
}

/// A shared tmpfs with one mounted below it, as a user's volume may be, and a place of ours on a shared mount, of which
/// another mount namespace has a copy.
struct Volume {
    dir: tempfile::TempDir,
    top: PathBuf,
    inner: PathBuf,
    place: PathBuf,
    elsewhere: PathBuf,
}

impl Volume {
    fn make() -> Self {
        let dir = private_dir();
        let root = dir.path().to_owned();
        let at = |name: &str| {
            let place = root.join(name);
            fs::create_dir_all(&place).unwrap();
            place
        };
        let mount = |at: &Path| {
            rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::empty(), c"").unwrap();
            rustix::mount::mount_change(at, MountPropagationFlags::SHARED).unwrap();
        };
        let top = at("volume");
        mount(&top);
        let inner = at("volume/inner");
        mount(&inner);
        let (node, elsewhere) = (at("node"), at("elsewhere"));
        mount(&node);
        rustix::mount::mount_bind(&node, &elsewhere).unwrap();
        rustix::mount::mount_change(&elsewhere, MountPropagationFlags::DOWNSTREAM).unwrap();
        let place = at("node/volumes");
        Self {
            dir,
            top,
            inner,
            place,
            elsewhere,
        }
    }

    fn copy_to(&self, copy: &Path) {
        fs::create_dir_all(copy).unwrap();
        rustix::mount::mount_bind_recursive(&self.top, copy).unwrap();
    }
}

#[test]
fn what_is_mounted_below_the_original_of_a_copy_stays_mounted() {
    let made = Volume::make();
    let copy = made.dir.path().join("copy");
    made.copy_to(&copy);
    unmount_copy(&copy).unwrap();
    assert!(!is_mount_point(&copy).unwrap());
    assert!(is_mount_point(&made.inner).unwrap(), "the original lost it");
    // Neither there nor mounted: fine.
    unmount_copy(&copy).unwrap();
    unmount_copy(&made.dir.path().join("none")).unwrap();
}

#[test]
fn what_is_mounted_at_a_place_apart_reaches_no_other_namespace() {
    let made = Volume::make();
    set_apart(&made.place).unwrap();
    // Again is fine.
    set_apart(&made.place).unwrap();
    let copy = made.place.join("0");
    made.copy_to(&copy);
    assert!(is_mount_point(&copy.join("inner")).unwrap());
    let seen = below(&made.elsewhere).unwrap();
    assert!(
        !seen.iter().any(|mount| mount.ends_with("inner")),
        "{seen:?}"
    );
    unmount_copy(&copy).unwrap();
    unmount_copy(&made.place).unwrap();
    assert!(is_mount_point(&made.inner).unwrap());
    // Nothing keeps the volume's file systems busy there.
    assert_eq!(
        below(&made.elsewhere).unwrap(),
        std::slice::from_ref(&made.elsewhere)
    );
    assert_eq!(below(&made.place).unwrap(), [] as [PathBuf; 0]);
    // What is left goes with the place.
    set_apart(&made.place).unwrap();
    made.copy_to(&copy);
    unmount_copy(&made.place).unwrap();
    assert!(is_mount_point(&made.inner).unwrap());
    assert_eq!(
        below(&made.elsewhere).unwrap(),
        std::slice::from_ref(&made.elsewhere)
    );
    assert!(set_apart(&made.place.join("none")).is_err());
}

#[test]
fn a_tree_is_removed_but_not_what_is_mounted_in_it() {
    let dir = private_dir();
    let (tree, elsewhere) = (dir.path().join("tree"), dir.path().join("elsewhere"));
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/file"), "").unwrap();
    std::os::unix::fs::symlink(&elsewhere, tree.join("link")).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("precious"), "").unwrap();
    bind(&elsewhere, &tree.join("a/b"), false).unwrap();
    let error = remove_tree(&tree).unwrap_err();
    assert_eq!(
        error.io().unwrap().kind(),
        io::ErrorKind::ResourceBusy,
        "{error}"
    );
    assert!(error.to_string().ends_with("tree/a/b"), "{error}");
    assert!(elsewhere.join("precious").exists());
    unmount(&tree.join("a/b")).unwrap();
    remove_tree(&tree).unwrap();
    assert!(!tree.exists() && elsewhere.join("precious").exists());
    remove_tree(&tree).unwrap();
}
