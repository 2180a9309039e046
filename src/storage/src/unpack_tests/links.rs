//! Unpacking: what links in an archive can reach, and cannot.

use super::*;

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
    assert_eq!(filled.inodes, 1 + 3 + 2 + 1);
}
