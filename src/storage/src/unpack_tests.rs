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
        let result = unpack(tar, open("layer"), open("kept"), recipe, limits);
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
    assert_eq!(filled.usage.inodes, 8);
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
fn writing_through_links_stays_inside() {
    // What lies at the link's target inside the layer: never the node's.
    let secret_dir = tempfile::tempdir().unwrap();
    let outside = secret_dir.path().to_str().unwrap();
    let inside = &outside[1..];
    for (target, lands_in) in [
        (outside.to_owned(), inside.to_owned()),
        (format!("../../../../../..{outside}"), inside.to_owned()),
        ("..".to_owned(), ".".to_owned()),
        ("/".to_owned(), ".".to_owned()),
        ("../..".to_owned(), ".".to_owned()),
        ("usr/lib".to_owned(), "usr/lib".to_owned()),
        ("./usr//lib/".to_owned(), "usr/lib".to_owned()),
    ] {
        let place = Place::new();
        let tar = TestTar::new()
            .symlink("lib", &target)
            .file("lib/x", b"x")
            .file("lib/sub/y", b"y")
            .end();
        place.unpack(&tar).unwrap();
        assert_eq!(place.read(&format!("{lands_in}/x")), "x", "{target}");
        assert_eq!(place.read(&format!("{lands_in}/sub/y")), "y", "{target}");
        assert!(place.look("lib").is_symlink());
        assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
    }
}

#[test]
fn chains_of_links() {
    let place = Place::new();
    let tar = TestTar::new()
        .dir("real/")
        .symlink("real/up", "..")
        .symlink("one", "two/up")
        .symlink("two", "/real")
        .file("one/real/x", b"x")
        .end();
    place.unpack(&tar).unwrap();
    assert_eq!(place.read("real/x"), "x");
    let tar = TestTar::new()
        .symlink("a", "b")
        .symlink("b", "a")
        .file("a/x", b"")
        .end();
    let problem = problem(Place::new().unpack(&tar));
    assert!(problem.contains("too many symbolic links"), "{problem}");
}

#[test]
fn a_last_component_is_never_followed() {
    let place = Place::new();
    let secret = place.dir.path().join("secret");
    let secret = secret.to_str().unwrap();
    let tar = TestTar::new()
        .symlink("file", secret)
        .file("file", b"new")
        .symlink("dir", secret)
        .dir("dir/")
        .symlink("node", secret)
        .node(EntryType::Fifo, "node", (0, 0), 0o600)
        .symlink("link", secret)
        .symlink("link", "elsewhere")
        .symlink("owned", secret)
        .pax(&[("SCHILY.xattr.user.x", b"x")])
        .symlink("with-attribute", secret)
        .end();
    place.unpack(&tar).unwrap();
    assert_eq!(place.read("file"), "new");
    assert!(place.look("dir").is_dir());
    assert!(place.look("node").file_type().is_fifo());
    assert_eq!(
        fs::read_link(place.path("link")).unwrap(),
        Path::new("elsewhere")
    );
}

#[rstest]
#[case("../secret", "leads out of the root")]
#[case("/../secret", "leads out of the root")]
#[case("nowhere", "what is not in the layer")]
#[case("/etc/passwd", "what is not in the layer")]
#[case("out/secret", "what is not in the layer")]
#[case("file/x", "what is not in the layer")]
#[case("dir", "to a directory")]
#[case("", "to the root")]
#[case("/", "to the root")]
fn hard_links_out(#[case] target: &str, #[case] expected: &str) {
    let tar = TestTar::new()
        .dir("dir/")
        .file("file", b"")
        .symlink("out", "../..")
        .hard_link("x", target)
        .end();
    let problem = problem(Place::new().unpack(&tar));
    assert!(problem.contains(expected), "{problem}");
}

#[test]
fn hard_links_within() {
    let place = Place::new();
    let tar = TestTar::new()
        .file("a/b/file", b"1")
        .hard_link("a/b/two", "a/b/file")
        .hard_link("a/c/three", "/a/b/file")
        .symlink("s", "a/b")
        .hard_link("four", "s/file")
        .hard_link("four", "four")
        .hard_link("four", "a/b/two")
        .file("other", b"2")
        .hard_link("other", "a/b/file")
        .end();
    let filled = place.unpack(&tar).unwrap();
    assert_eq!(place.look("a/b/file").nlink(), 5);
    assert_eq!(place.read("other"), "1");
    assert_eq!(filled.usage.inodes, 1 + 3 + 2 + 1);
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

#[test]
fn attributes() {
    let capability = [
        1, 0, 0, 2, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let place = Place::new();
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.user.a", b"line\nline\0="),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"label"),
        ("mtime", b"1234567890.123456789"),
        ("uid", b"70000"),
        ("path", b"dir/with\nnewline"),
    ];
    let tar = TestTar::new()
        .pax(records)
        .file("ignored", b"x")
        .pax(&records[1..4])
        .dir("dir/")
        .end();
    place.unpack(&tar).unwrap();
    let name = "dir/with\nnewline";
    let found = place.look(name);
    assert_eq!(found.uid(), 70000);
    assert_eq!(
        (found.mtime(), found.mtime_nsec()),
        (1_234_567_890, 123_456_789)
    );
    assert_eq!(
        place.xattr(name, "security.capability").unwrap(),
        capability
    );
    assert_eq!(place.xattr(name, "user.a").unwrap(), b"line\nline\0=");
    assert_eq!(place.xattr("dir", "user.a").unwrap(), b"line\nline\0=");
    for (inside, key) in [
        (name, "trusted.overlay.redirect"),
        (name, "security.selinux"),
        ("dir", "trusted.overlay.redirect"),
        ("dir", "trusted.overlay.opaque"),
    ] {
        assert_eq!(place.xattr(inside, key), None, "{inside} {key}");
    }
}

#[test]
fn default_acls_are_not_inherited_from_the_layer_itself() {
    // rwx for the owner, user 7 and the mask, nothing for others.
    let entry = |tag: u16, permissions: u16, id: u32| {
        [
            tag.to_le_bytes().as_slice(),
            &permissions.to_le_bytes(),
            &id.to_le_bytes(),
        ]
        .concat()
    };
    let acl = [
        2_u32.to_le_bytes().to_vec(),
        entry(1, 7, u32::MAX),
        entry(2, 7, 7),
        entry(4, 0, u32::MAX),
        entry(0x10, 7, u32::MAX),
        entry(0x20, 0, u32::MAX),
    ]
    .concat();
    let place = Place::new();
    let tar = TestTar::new()
        .pax(&[("SCHILY.xattr.system.posix_acl_default", &acl)])
        .dir("shared/")
        .file("shared/file", b"")
        .dir("shared/sub/")
        .pax(&[("SCHILY.xattr.system.posix_acl_default", &acl)])
        .dir("./")
        .pax(&[("SCHILY.xattr.system.posix_acl_default", &acl)])
        .dir("replaced/")
        .symlink("replaced", "shared/sub")
        .file("x", b"")
        .end();
    place.unpack(&tar).unwrap();
    assert_eq!(place.xattr("shared", tree::DEFAULT_ACL).unwrap(), acl);
    assert_eq!(place.xattr("", tree::DEFAULT_ACL).unwrap(), acl);
    assert_eq!(place.xattr("x", "system.posix_acl_access"), None);
    assert_eq!(place.xattr("shared/sub", tree::DEFAULT_ACL), None);
    assert_eq!(place.xattr("shared/file", "system.posix_acl_access"), None);
    assert_eq!(place.look("shared/file").mode() & 0o7777, 0o644);
}

#[test]
fn long_names() {
    let place = Place::new();
    let dir = "d".repeat(200);
    let name = format!("{dir}/{dir}/{}", "f".repeat(250));
    let target = format!("/{}", "t".repeat(1000));
    let tar = TestTar::new()
        .extended(b'L', name.as_bytes())
        .file("short", b"gnu")
        .extended(b'K', format!("{target}\0").as_bytes())
        .symlink("link", "short")
        .pax(&[("path", b"pax"), ("linkpath", target.as_bytes())])
        .symlink("short", "short")
        .end();
    place.unpack(&tar).unwrap();
    assert_eq!(place.read(&name), "gnu");
    for link in ["link", "pax"] {
        assert_eq!(fs::read_link(place.path(link)).unwrap(), Path::new(&target));
    }
}

#[test]
fn a_name_of_more_than_255_bytes_is_told() {
    let tar = TestTar::new()
        .extended(b'L', "x".repeat(256).as_bytes())
        .file("short", b"")
        .end();
    let Err(error) = Place::new().unpack(&tar) else {
        panic!("unpacked");
    };
    assert!(matches!(error, StorageError::Unpack { .. }), "{error:?}");
    assert!(error.to_string().contains("xxx"), "{error}");
}

fn limit_of(tar: &[u8], limits: &UnpackLimits) -> Limit {
    match Place::new().unpack_limited(tar, limits) {
        Err(StorageError::TooLarge { limit }) => limit,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("unpacked"),
    }
}

#[test]
fn limits_hold() {
    let limits = UnpackLimits {
        bytes: 10_000,
        entries: 10,
        name_bytes: 50,
        depth: 5,
        header_bytes: 2000,
        ..UnpackLimits::default()
    };
    let many = (0..11).fold(TestTar::new(), |tar, index| {
        tar.file(&format!("f{index}"), b"")
    });
    assert_eq!(limit_of(&many.end(), &limits), Limit::Entries(10));
    // Directories that are only implied count as well.
    let deep = TestTar::new().file("a/a/a/a/x", b"").file("b/b/b/b/x", b"");
    assert_eq!(limit_of(&deep.end(), &limits), Limit::Entries(10));
    let deep = TestTar::new().file("a/b/c/d/e/f/g", b"");
    assert_eq!(limit_of(&deep.end(), &limits), Limit::Depth(5));
    let long = TestTar::new().extended(b'L', &[b'x'; 51]).file("x", b"");
    assert_eq!(limit_of(&long.end(), &limits), Limit::NameBytes(50));
    let long = TestTar::new().extended(b'K', &[b'x'; 51]).symlink("x", "y");
    assert_eq!(limit_of(&long.end(), &limits), Limit::NameBytes(50));
    let large = TestTar::new().file("x", &[0; 5001]).file("y", &[0; 5000]);
    assert_eq!(limit_of(&large.end(), &limits), Limit::Bytes(10_000));
    let header = TestTar::new().extended(b'x', &[0; 2001]).file("x", b"");
    assert_eq!(limit_of(&header.end(), &limits), Limit::HeaderBytes(2000));
    // Several extended headers of one entry count together.
    let headers = TestTar::new()
        .extended(b'L', &[b'x'; 40])
        .extended(b'x', &[0; 1990])
        .file("x", b"");
    assert_eq!(limit_of(&headers.end(), &limits), Limit::HeaderBytes(2000));
}

#[test]
fn a_huge_pax_header_is_not_read_into_memory() {
    // It claims 8 GiB and brings none.
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(0o77_777_777_777);
    let tar = TestTar::new().add_as_is(header, b"").end();
    assert_eq!(
        limit_of(&tar, &UnpackLimits::default()),
        Limit::HeaderBytes(1 << 20)
    );
}

#[test]
fn a_sparse_bomb() {
    // A file of a terabyte that takes nothing in the archive.
    let tar = TestTar::new()
        .pax(&[
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
            ("GNU.sparse.map", b"0,0"),
            ("GNU.sparse.size", b"1099511627776"),
        ])
        .file("x", b"")
        .end();
    assert_eq!(
        limit_of(&tar, &UnpackLimits::default()),
        Limit::Bytes(256 << 30)
    );
}

#[test]
fn implied_names_do_not_fill_the_memory() {
    let limits = UnpackLimits {
        held_bytes: 7000,
        ..UnpackLimits::default()
    };
    let name = format!("{}x", "0123456789/".repeat(20));
    let tar = TestTar::new()
        .extended(b'L', name.as_bytes())
        .file("x", b"");
    // 10 + 21 + 32 + … bytes, and 128 for each: all 20 fit.
    Place::new().unpack_limited(&tar.end(), &limits).unwrap();
    let tar = TestTar::new()
        .extended(b'L', name.as_bytes())
        .file("x", b"")
        .extended(b'L', format!("a/{name}").as_bytes())
        .file("x", b"");
    assert_eq!(limit_of(&tar.end(), &limits), Limit::HeldBytes(7000));
    // What got entries of its own after all counts no more.
    let half = "0123456789/".repeat(10);
    let mut tar = TestTar::new();
    for round in 0..40 {
        tar = tar
            .extended(b'L', format!("{round}/{half}x").as_bytes())
            .file("x", b"");
        tar = tar.dir(&format!("{round}"));
        for depth in 1..=10 {
            let dir = format!("{round}/{}", "0123456789/".repeat(depth));
            tar = tar.extended(b'L', dir.as_bytes()).dir("x");
        }
    }
    Place::new().unpack_limited(&tar.end(), &limits).unwrap();
}

#[test]
fn default_acls_of_one_directory_are_held_once() {
    let limits = UnpackLimits {
        held_bytes: 7000,
        ..UnpackLimits::default()
    };
    let acl = [
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 5, 0, 255, 255, 255, 255, 32, 0, 5, 0,
        255, 255, 255, 255,
    ];
    let mut tar = TestTar::new();
    for _ in 0..200 {
        tar = tar
            .pax(&[("SCHILY.xattr.system.posix_acl_default", &acl)])
            .dir("a");
    }
    Place::new().unpack_limited(&tar.end(), &limits).unwrap();
}

#[test]
fn names_through_long_links_are_bounded() {
    let limits = UnpackLimits {
        entries: 1000,
        ..UnpackLimits::default()
    };
    let mut tar = TestTar::new()
        .dir("a")
        .symlink("l", &format!("{}a", "a/../".repeat(18)));
    for member in 0..40 {
        tar = tar.file(&format!("l/{member}"), b"");
    }
    assert_eq!(limit_of(&tar.end(), &limits), Limit::Links(1000));
}

fn tar_error(tar: &[u8]) -> TarError {
    match Place::new().unpack(tar) {
        Err(StorageError::Tar { source, .. }) => source,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("unpacked"),
    }
}

#[test]
fn cut_short_anywhere() {
    let whole = TestTar::new()
        .dir("a/")
        .pax(&[("path", b"a/b")])
        .file("x", &[7; 700])
        .file("c", b"c")
        .end();
    // From the end of the last entry's contents on nothing is missing that matters.
    let entries_end = whole.len() - 1024;
    // Every length near a block's border, and a few in between.
    let near = |length: &usize| (length + 1) % 512 <= 2 || length.is_multiple_of(61);
    for length in (1..entries_end).filter(near) {
        let result = Place::new().unpack(&whole[..length]);
        // Between two entries the loss does not show; the digest tells.
        let between = [512, 512 + 1024 + 512 + 1024].contains(&length);
        match result {
            Ok(_) => assert!(between, "{length}"),
            Err(StorageError::Tar {
                source: TarError::CutShort | TarError::Dangling,
                ..
            }) => assert!(!between, "{length}"),
            Err(error) => panic!("{length}: {error:?}"),
        }
    }
    Place::new().unpack(&whole[..entries_end]).unwrap();
    Place::new().unpack(&whole[..entries_end + 512]).unwrap();
    Place::new().unpack(&[]).unwrap();
}

#[test]
fn what_is_no_tar() {
    assert!(matches!(tar_error(&[b'<'; 2000]), TarError::Checksum));
    assert!(matches!(tar_error(b"<html>"), TarError::CutShort));
    let mut damaged = TestTar::new().file("a", b"a").file("b", b"b").end();
    damaged[1024 + 50] ^= 1;
    assert!(matches!(tar_error(&damaged), TarError::Checksum));
    let mut zeros_between = TestTar::new().file("a", b"a").open_end();
    zeros_between.extend_from_slice(&[0; 512]);
    zeros_between.extend(TestTar::new().file("b", b"b").end());
    assert!(matches!(tar_error(&zeros_between), TarError::Checksum));
    let unknown = TestTar::new().kind(b'Z', "x").end();
    assert!(matches!(
        tar_error(&unknown),
        TarError::UnknownType { kind: b'Z' }
    ));
    let dangling = TestTar::new().pax(&[("path", b"x")]).end();
    assert!(matches!(tar_error(&dangling), TarError::Dangling));
    let nul = TestTar::new()
        .pax(&[("path", b"x\0y")])
        .file("x", b"")
        .end();
    assert!(matches!(tar_error(&nul), TarError::NulInName));
    let id = TestTar::new()
        .pax(&[("uid", b"4294967295")])
        .file("x", b"")
        .end();
    assert!(matches!(tar_error(&id), TarError::Number { field: "uid" }));
}

#[test]
fn errors_say_which_entry() {
    let mut damaged = TestTar::new().file("a", b"a").file("b", b"b").end();
    damaged.truncate(1024 + 512 + 100);
    let Err(error) = Place::new().unpack(&damaged) else {
        panic!("unpacked");
    };
    assert_eq!(error.to_string(), "read the layer's tar at entry 2");
    assert!(error.is_bad_layer());
}

#[test]
fn what_links_and_directories_claim_to_contain_is_not_there() {
    // Go's reader takes such sizes for zero, so must everyone.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_path("link").unwrap();
    header.set_link_name("target").unwrap();
    header.set_size(512);
    let place = Place::new();
    let tar = TestTar::new()
        .add_as_is(header, b"")
        .file("after", b"x")
        .end();
    place.unpack(&tar).unwrap();
    assert_eq!(place.read("after"), "x");
}

#[test]
fn old_and_global_headers() {
    let place = Place::new();
    let tar = TestTar::new()
        .extended(b'g', b"13 path=evil\n")
        .extended(b'g', &[b'x'; 3000])
        .kind(0, "old-dir/")
        .kind(0, "old-file")
        .kind(b'7', "contiguous")
        .end();
    place.unpack(&tar).unwrap();
    assert!(place.look("old-dir").is_dir());
    assert!(place.look("old-file").is_file());
    assert!(place.look("contiguous").is_file());
    assert!(!place.path("evil").exists());
}

/// What GNU tar itself writes, in every format it has, compared with what it was made of.
#[rstest]
#[case("v7", false)]
#[case("ustar", false)]
#[case("gnu", false)]
#[case("posix", false)]
#[case("gnu", true)]
#[case("posix", true)]
#[case("posix --sparse-version=0.0", true)]
#[case("posix --sparse-version=0.1", true)]
fn what_gnu_tar_writes(#[case] format: &str, #[case] sparse: bool) {
    let source = tempfile::tempdir().unwrap();
    let at = |name: &str| source.path().join(name);
    fs::create_dir_all(at("usr/share/doc")).unwrap();
    fs::write(at("usr/share/doc/copyright"), "free").unwrap();
    fs::set_permissions(
        at("usr/share/doc/copyright"),
        PermissionsExt::from_mode(0o640),
    )
    .unwrap();
    fs::hard_link(at("usr/share/doc/copyright"), at("usr/copyright")).unwrap();
    std::os::unix::fs::symlink("share/doc", at("usr/doc")).unwrap();
    fs::write(
        at("large"),
        (0..300_000_u32)
            .map(|n| n.to_le_bytes()[1])
            .collect::<Vec<_>>(),
    )
    .unwrap();
    std::os::unix::fs::chown(at("large"), Some(1234), Some(5678)).unwrap();
    if format != "v7" && format != "ustar" {
        let long = format!("usr/{}", "n".repeat(240));
        fs::write(at(&long), "long").unwrap();
    }
    if sparse {
        let holes = File::create(at("holes")).unwrap();
        for index in 0..40_u64 {
            std::os::unix::fs::FileExt::write_all_at(&holes, b"data", index * (1 << 20)).unwrap();
        }
        holes.set_len(100 << 20).unwrap();
    }
    let mut command = std::process::Command::new("tar");
    command.current_dir(source.path());
    let mut words = format.split(' ');
    command
        .arg(format!("--format={}", words.next().unwrap()))
        .args(words);
    if sparse {
        command.arg("--sparse");
    }
    let output = command.args(["-c", "."]).output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let place = Place::new();
    place.unpack(&output.stdout).unwrap();
    let compared = std::process::Command::new("diff")
        .args(["-r", "--no-dereference"])
        .args([source.path(), &place.path("")])
        .output()
        .unwrap();
    assert!(compared.status.success(), "{compared:?}");
    assert_eq!(place.look("usr/copyright").nlink(), 2);
    assert_eq!(
        (place.look("large").uid(), place.look("large").gid()),
        (1234, 5678)
    );
    assert_eq!(place.look("usr/copyright").mode() & 0o7777, 0o640);
    if sparse {
        assert!(place.look("holes").blocks() * 512 < 1 << 20);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(100))]

    /// Whatever names, kinds and targets come in whatever order, nothing outside is touched; `unpack` itself checks that.
    #[test]
    fn nothing_leads_out(entries in proptest::collection::vec(
        (0_u8..6, "(/|\\.\\./|\\./)?[ab]{1}(/(\\.\\.|[abc]|\\.wh\\.[ab])){0,3}", "(/|\\.\\./){0,3}(secret|[ab])(/[abc]){0,2}"),
        1..12,
    )) {
        let place = Place::new();
        let tar = entries.iter().fold(TestTar::new(), |tar, (kind, name, target)| match kind {
            0 => tar.dir(name),
            1 => tar.symlink(name, target),
            2 => tar.hard_link(name, target),
            3 => tar.node(EntryType::Fifo, name, (0, 0), 0o644),
            4 => tar.owned_file(name, b"evil", (1, 1), 0o777),
            _ => tar.owned_dir(name, (1, 1), 0o777),
        });
        let _ = place.unpack(&tar.end());
    }

    /// Damaged archives are refused or unpacked, but nothing panics and nothing leads out.
    #[test]
    fn damage_is_survived(flips in proptest::collection::vec((0_usize..6000, 0_u8..=255), 1..4)) {
        let mut tar = TestTar::new()
            .dir("a/")
            .pax(&[("path", b"a/b"), ("GNU.sparse.map", b"0,700"), ("GNU.sparse.size", b"900")])
            .file("x", &[7; 700])
            .extended(b'L', &[b'n'; 120])
            .symlink("s", "../secret")
            .file("s/x", b"x")
            .end();
        for (position, byte) in flips {
            let length = tar.len();
            tar[position % length] = byte;
        }
        // Checksums are made right again, so that the damage gets further than that.
        for start in (0..tar.len() - 512).step_by(512) {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&tar[start..start + 512]);
            if header.as_bytes()[..100].iter().any(|byte| *byte != 0) && header.as_bytes()[148] != 7 {
                header.set_cksum();
                tar[start..start + 512].copy_from_slice(header.as_bytes());
            }
        }
        let _ = Place::new().unpack(&tar);
    }
}
