//! Unpacking: what a layer may cost.

use super::*;

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
