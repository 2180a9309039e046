//! Tests of [`super`] and of `tree`, as root: what tars make of a directory, and what they cannot.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    fs::{self, Metadata},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rstest::rstest;
use tar::EntryType;

use super::*;
use crate::test_tar::TestTar;

#[path = "unpack_tests/archives.rs"]
mod archives;
#[path = "unpack_tests/attributes.rs"]
mod attributes;
#[path = "unpack_tests/hostile.rs"]
mod hostile;
#[path = "unpack_tests/limits.rs"]
mod limits;
#[path = "unpack_tests/links.rs"]
mod links;

/// A directory that holds the layer, with a file beside it that a layer must never reach.
struct Place {
    dir: tempfile::TempDir,
}

const SECRET: &str = "of the node";

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), SECRET).unwrap();
        fs::create_dir(dir.path().join("layer")).unwrap();
        fs::create_dir(dir.path().join("kept")).unwrap();
        Self { dir }
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join("layer").join(inside)
    }

    fn unpack_limited(&self, tar: &[u8], limits: &UnpackLimits) -> Result<Filled, StorageError> {
        let open = |name: &str| OwnedFd::from(File::open(self.dir.path().join(name)).unwrap());
        let recipe = File::create(self.dir.path().join("recipe")).unwrap();
        let result = unpack(
            tar,
            open("layer"),
            open("kept"),
            recipe,
            Contents::Whole,
            limits,
        );
        let secret = self.dir.path().join("secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), SECRET);
        assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1);
        assert_eq!(fs::metadata(&secret).unwrap().mode() & 0o7777, 0o644);
        let beside: Vec<_> = fs::read_dir(self.dir.path()).unwrap().collect();
        assert_eq!(beside.len(), 4, "{beside:?}");
        result
    }

    fn unpack(&self, tar: &[u8]) -> Result<Filled, StorageError> {
        self.unpack_limited(tar, &UnpackLimits::default())
    }

    fn read(&self, inside: &str) -> String {
        fs::read_to_string(self.path(inside)).unwrap()
    }

    fn look(&self, inside: &str) -> Metadata {
        fs::symlink_metadata(self.path(inside)).unwrap()
    }

    fn xattr(&self, inside: &str, key: &str) -> Option<Vec<u8>> {
        let mut value = [0; 100];
        let length = rustix::fs::lgetxattr(self.path(inside), key, &mut value).ok()?;
        Some(value[..length].to_vec())
    }

    fn is_opaque(&self, inside: &str) -> bool {
        self.xattr(inside, tree::OPAQUE).as_deref() == Some(b"y")
    }

    fn is_whiteout(&self, inside: &str) -> bool {
        let found = self.look(inside);
        found.file_type().is_char_device() && found.rdev() == 0
    }
}

fn problem(result: Result<Filled, StorageError>) -> String {
    match result {
        Err(error @ StorageError::BadEntry { .. }) => error.to_string(),
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("unpacked"),
    }
}

#[test]
fn all_kinds_of_entries() {
    let place = Place::new();
    let tar = TestTar::new()
        .owned_dir("./", (5, 6), 0o1777)
        .owned_dir("etc/", (1, 2), 0o750)
        .owned_file("etc/passwd", b"root", (1000, 100), 0o4755)
        .owned_file("etc/empty", b"", (0, 0), 0)
        .symlink("etc/link", "/etc/passwd")
        .hard_link("etc/hard", "etc/passwd")
        .hard_link("hard-link-to-link", "./etc/link")
        .node(EntryType::Char, "null", (1, 3), 0o666)
        .node(EntryType::Block, "disk", (8, 0), 0o660)
        .node(EntryType::Fifo, "pipe", (0, 0), 0o2600)
        .end();
    let filled = place.unpack(&tar).unwrap();
    assert_eq!(filled.inodes, 8);
    assert!(filled.implied.is_empty());

    let passwd = place.look("etc/passwd");
    assert_eq!((passwd.uid(), passwd.gid()), (1000, 100));
    assert_eq!(passwd.mode() & 0o7777, 0o4755);
    assert_eq!(passwd.mtime(), 1_000_000_000);
    assert_eq!(passwd.nlink(), 2);
    assert_eq!(place.read("etc/hard"), "root");
    assert_eq!(place.look("etc/empty").mode() & 0o7777, 0);
    assert_eq!(
        fs::read_link(place.path("etc/link")).unwrap(),
        Path::new("/etc/passwd")
    );
    assert_eq!(place.look("etc/link").mtime(), 1_000_000_000);
    assert!(place.look("hard-link-to-link").is_symlink());
    let etc = place.look("etc");
    assert_eq!((etc.uid(), etc.gid(), etc.mtime()), (1, 2, 1_000_000_000));
    assert_eq!(etc.mode() & 0o7777, 0o750);
    let root = place.look("");
    assert_eq!(
        (root.uid(), root.gid(), root.mtime()),
        (5, 6, 1_000_000_000)
    );
    assert_eq!(root.mode() & 0o7777, 0o1777);
    let null = place.look("null");
    assert!(null.file_type().is_char_device());
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(null.mode() & 0o7777, 0o666);
    assert!(place.look("disk").file_type().is_block_device());
    let pipe = place.look("pipe");
    assert!(pipe.file_type().is_fifo());
    assert_eq!(pipe.mode() & 0o7777, 0o2600);
    assert_eq!(pipe.mtime(), 1_000_000_000);
}

#[test]
fn whiteouts() {
    let place = Place::new();
    let tar = TestTar::new()
        .dir("a/")
        .file("a/.wh.gone", b"")
        .dir("b/")
        .file("b/.wh..wh..opq", b"")
        .file("b/new", b"new")
        .file("c/d/.wh..wh..opq", b"")
        .file(".wh..wh.aufs", b"")
        .file(".wh..wh.plnk", b"")
        .end();
    place.unpack(&tar).unwrap();
    assert!(place.is_whiteout("a/gone"));
    assert!(!place.is_opaque("a"));
    assert!(place.is_opaque("b"));
    assert_eq!(place.read("b/new"), "new");
    assert!(place.is_opaque("c/d"));
    assert!(!place.is_opaque("c"));
    let names: Vec<_> = fs::read_dir(place.path("")).unwrap().collect();
    assert_eq!(names.len(), 3);
}

#[test]
fn a_whiteout_and_the_same_name_in_one_layer() {
    let place = Place::new();
    let tar = TestTar::new()
        .file(".wh.dir-after", b"")
        .file("dir-after/x", b"x")
        .file(".wh.file-after", b"")
        .file("file-after", b"x")
        .file("dir-before/x", b"x")
        .file(".wh.dir-before", b"")
        .file("file-before", b"x")
        .file(".wh.file-before", b"")
        .file(".wh.twice", b"")
        .file(".wh.twice", b"")
        .file(".wh.explicit", b"")
        .dir("explicit")
        .end();
    place.unpack(&tar).unwrap();
    for dir in ["dir-after", "dir-before"] {
        assert_eq!(place.read(&format!("{dir}/x")), "x");
        assert!(place.is_opaque(dir), "{dir}");
    }
    assert_eq!(place.read("file-after"), "x");
    assert_eq!(place.read("file-before"), "x");
    assert!(place.is_whiteout("twice"));
    assert!(place.is_opaque("explicit"));
}

#[rstest]
#[case(".wh.")]
#[case(".wh..")]
#[case(".wh...")]
#[case("a/.wh...")]
fn a_whiteout_of_nothing(#[case] name: &str) {
    let tar = TestTar::new().file(name, b"").end();
    let problem = problem(Place::new().unpack(&tar));
    assert!(problem.contains("whiteout of no name"), "{problem}");
}

#[test]
fn an_opaque_root() {
    let place = Place::new();
    place
        .unpack(&TestTar::new().file(".wh..wh..opq", b"").end())
        .unwrap();
    assert!(place.is_opaque(""));
}

#[rstest]
#[case("../secret")]
#[case("a/../../secret")]
#[case("/../secret")]
#[case("..")]
#[case("a/b/../../..")]
fn names_that_climb(#[case] name: &str) {
    let tar = TestTar::new().file(name, b"evil").end();
    let problem = problem(Place::new().unpack(&tar));
    assert!(problem.contains("leads out of the root"), "{problem}");
    assert!(problem.contains(name), "{problem}");
}

#[test]
fn names_that_only_look_odd() {
    let place = Place::new();
    let tar = TestTar::new()
        .file("/absolute", b"1")
        .file("//a//./b/", b"2")
        .file("c/x/../d", b"3")
        .file("...", b"4")
        .file("..e", b"5")
        .end();
    place.unpack(&tar).unwrap();
    for (name, contents) in [
        ("absolute", "1"),
        ("a/b", "2"),
        ("c/d", "3"),
        ("...", "4"),
        ("..e", "5"),
    ] {
        assert_eq!(place.read(name), contents);
    }
    assert!(!place.path("c/x").exists());
}

#[test]
fn a_later_entry_takes_the_place_of_an_earlier_one() {
    let place = Place::new();
    let tar = TestTar::new()
        .file("a", b"1")
        .file("a", b"22")
        .file("dir/x", b"x")
        .file("dir/sub/y", b"y")
        .file("dir", b"now a file")
        .file("b", b"b")
        .dir("b/")
        .owned_dir("c/", (1, 1), 0o700)
        .file("c/kept", b"kept")
        .owned_dir("c/", (2, 2), 0o711)
        .hard_link("d", "a")
        .symlink("d", "a")
        .end();
    let filled = place.unpack(&tar).unwrap();
    assert_eq!(place.read("a"), "22");
    assert_eq!(place.read("dir"), "now a file");
    assert!(place.look("b").is_dir());
    assert_eq!(place.read("c/kept"), "kept");
    assert_eq!(
        (place.look("c").uid(), place.look("c").mode() & 0o7777),
        (2, 0o711)
    );
    assert_eq!(filled.implied, [b""]);
}

#[test]
fn a_directory_where_something_else_is() {
    let tar = TestTar::new().file("a", b"").file("a/b", b"").end();
    let problem = problem(Place::new().unpack(&tar));
    assert!(problem.contains("needs a directory"), "{problem}");
}

#[test]
fn the_root_is_a_directory() {
    let tar = TestTar::new().file("/", b"x").end();
    let problem = problem(Place::new().unpack(&tar));
    assert!(problem.contains("is the root"), "{problem}");
}

#[test]
fn implied_directories_are_remembered_until_they_have_an_entry() {
    let place = Place::new();
    let tar = TestTar::new()
        .file("a/b/x", b"")
        .file("c/y", b"")
        .owned_dir("c/", (3, 3), 0o700)
        .end();
    let filled = place.unpack(&tar).unwrap();
    assert_eq!(filled.implied, [b"".as_slice(), b"a", b"a/b"]);
    assert_eq!(place.look("a").mode() & 0o7777, 0o755);
    assert_eq!(place.look("c").uid(), 3);
}

#[test]
fn times_of_directories_survive_what_is_made_in_them() {
    let place = Place::new();
    let tar = TestTar::new()
        .dir("a/")
        .dir("a/b/")
        .dir("z/")
        .file("a/late", b"")
        .file("a/b/late", b"")
        .hard_link("z/link", "a/late")
        .file("z/.wh.gone", b"")
        .file("a/b/late", b"again")
        .end();
    place.unpack(&tar).unwrap();
    for dir in ["a", "a/b", "z"] {
        assert_eq!(place.look(dir).mtime(), 1_000_000_000, "{dir}");
    }
}
