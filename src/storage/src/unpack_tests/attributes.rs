//! Unpacking: owners, modes, times, extended attributes and ACLs.

use super::*;

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
