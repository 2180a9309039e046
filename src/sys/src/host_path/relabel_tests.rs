#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use rustix::mount::{MountFlags, MountPropagationFlags};

use super::*;
use crate::host_path::find;

const LONG: Duration = Duration::from_mins(1);
const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";
const OTHER: &str = "system_u:object_r:container_file_t:s0:c3,c4";

fn run(path: &Path, trust_top: bool) -> Result<Relabelled, SysError> {
    let found = find(path, LONG).unwrap();
    relabel(
        &found.fd,
        &found.path,
        &Relabelling {
            label: LABEL,
            trust_top,
            within: LONG,
            stop: &AtomicBool::new(false),
        },
    )
}

fn label(path: &Path) -> Option<String> {
    selinux::label(path).unwrap()
}

fn is_labelled(path: &Path) -> bool {
    label(path).as_deref() == Some(LABEL)
}

#[test]
fn everything_below_is_labelled_and_no_link_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
    fs::create_dir_all(volume.join("a/b/c")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "").unwrap();
    for number in 0..300 {
        fs::write(volume.join(format!("a/{number:0>200}")), "").unwrap();
    }
    fs::write(volume.join("a/b/c/deep"), "").unwrap();
    symlink("../outside", volume.join("to-directory")).unwrap();
    symlink("../outside/file", volume.join("to-file")).unwrap();
    symlink("/", volume.join("a/to-root")).unwrap();
    let mode = Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        volume.join("pipe"),
        FileType::Fifo,
        mode,
        0,
    )
    .unwrap();
    selinux::set_label(&volume.join("a/b"), OTHER).unwrap();

    assert_eq!(run(&volume, false).unwrap(), Relabelled::Wholly);
    for inside in [
        "",
        "a",
        "a/b",
        "a/b/c/deep",
        "pipe",
        "to-directory",
        "to-file",
    ] {
        assert!(is_labelled(&volume.join(inside)), "{inside}");
    }
    assert!(is_labelled(&volume.join(format!("a/{:0>200}", 299))));
    for left_alone in [dir.path(), &outside, &outside.join("file"), Path::new("/")] {
        assert!(!is_labelled(left_alone), "{}", left_alone.display());
    }
    // Again: nothing is to be done, and it is right all the same.
    assert_eq!(run(&volume, false).unwrap(), Relabelled::Wholly);
}

#[test]
fn a_volume_that_is_a_file_is_labelled_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    symlink("file", dir.path().join("link")).unwrap();
    // The path was followed when it was looked up.
    run(&dir.path().join("link"), false).unwrap();
    assert!(is_labelled(&file));
    assert!(!is_labelled(&dir.path().join("link")));
    assert!(!is_labelled(dir.path()));
}

#[test]
fn a_trusted_top_stands_for_what_is_below_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    selinux::set_label(&file, OTHER).unwrap();
    selinux::set_label(dir.path(), LABEL).unwrap();
    run(dir.path(), true).unwrap();
    assert_eq!(label(&file).as_deref(), Some(OTHER));
    // Without trust everything is looked at, whatever the top says.
    run(dir.path(), false).unwrap();
    assert!(is_labelled(&file));
    // A top with another label is no reason for trust.
    selinux::set_label(&file, OTHER).unwrap();
    selinux::set_label(dir.path(), OTHER).unwrap();
    run(dir.path(), true).unwrap();
    assert!(is_labelled(&file) && is_labelled(dir.path()));
}

#[test]
fn values_without_their_nul_are_the_same_label() {
    let dir = tempfile::tempdir().unwrap();
    let value = LABEL.as_bytes();
    let flags = XattrFlags::empty();
    rustix::fs::setxattr(dir.path(), selinux::ATTRIBUTE, value, flags).unwrap();
    run(dir.path(), false).unwrap();
    let mut found = [0; 100];
    let length = rustix::fs::getxattr(dir.path(), selinux::ATTRIBUTE, &mut found).unwrap();
    assert_eq!(length, value.len(), "it was written again");
}

#[test]
fn other_mounts_are_left_alone_and_file_systems_without_labels_are_no_failure() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("mounted");
    fs::create_dir_all(inner.join("below")).unwrap();
    fs::create_dir(dir.path().join("z")).unwrap();
    let flags = MountFlags::empty();
    rustix::mount::mount("tmpfs", &inner, "tmpfs", flags, c"").unwrap();
    fs::write(inner.join("file"), "").unwrap();

    run(dir.path(), false).unwrap();
    assert!(is_labelled(&dir.path().join("z")) && is_labelled(dir.path()));
    assert!(!is_labelled(&inner) && !is_labelled(&inner.join("file")));
    // Asked for by itself, it is labelled.
    run(&inner, false).unwrap();
    assert!(is_labelled(&inner) && is_labelled(&inner.join("file")));

    for place in ["", "below"] {
        let place = inner.join(place);
        fs::create_dir_all(&place).unwrap();
        rustix::mount::mount("ramfs", &place, "ramfs", flags, c"").unwrap();
        fs::write(place.join("file"), "").unwrap();
        assert_eq!(run(&place, false).unwrap(), Relabelled::HasNone);
        assert_eq!(
            run(&place.join("file"), false).unwrap(),
            Relabelled::HasNone
        );
    }
    crate::mount::unmount(&inner.join("below")).unwrap();

    // Read-only, the file that cannot be labelled is named.
    let fixed = dir.path().join("fixed");
    fs::create_dir(&fixed).unwrap();
    rustix::mount::mount("tmpfs", &fixed, "tmpfs", flags, c"").unwrap();
    fs::create_dir(fixed.join("sub")).unwrap();
    fs::write(fixed.join("sub/file"), "").unwrap();
    rustix::mount::mount_remount(&fixed, MountFlags::RDONLY, c"").unwrap();
    let error = run(&fixed, false).unwrap_err();
    let place = dir.path().canonicalize().unwrap().join("fixed/sub/file");
    assert_eq!(error.to_string(), format!("label {}", place.display()));
    assert_eq!(
        error.io().unwrap().raw_os_error(),
        Some(Errno::ROFS.raw_os_error())
    );
    for mount in [&fixed, &inner] {
        crate::mount::unmount(mount).unwrap();
    }
}

/// Makes directories in each other, deeper than a path can name.
fn nest(top: &Path, depth: usize) {
    let mut at = rustix::fs::open(top, OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
        at = rustix::fs::openat(&at, "d", OFlags::PATH, Mode::empty()).unwrap();
    }
}

#[test]
fn depth_has_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    nest(dir.path(), DEPTH_MAX - 1);
    run(dir.path(), false).unwrap();
    assert!(is_labelled(dir.path()));
    let dir = tempfile::tempdir().unwrap();
    nest(dir.path(), DEPTH_MAX);
    let error = run(dir.path(), false).unwrap_err();
    assert_eq!(
        error.io().unwrap().raw_os_error(),
        Some(Errno::NAMETOOLONG.raw_os_error())
    );
    assert!(!is_labelled(dir.path()), "the top says that all was done");
}

#[test]
fn it_ends_with_its_time_and_when_nobody_wants_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let found = find(dir.path(), LONG).unwrap();
    let order = Relabelling {
        label: LABEL,
        trust_top: false,
        within: LONG,
        stop: &AtomicBool::new(true),
    };
    let error = relabel(&found.fd, &found.path, &order).unwrap_err();
    assert_eq!(error.io().unwrap().kind(), io::ErrorKind::Interrupted);
    let order = Relabelling {
        within: Duration::ZERO,
        stop: &AtomicBool::new(false),
        ..order
    };
    // With no time at all either the child was quicker, or it was killed.
    match relabel(&found.fd, &found.path, &order) {
        Ok(outcome) => assert_eq!(outcome, Relabelled::Wholly),
        Err(error) => assert_eq!(error.io().unwrap().kind(), io::ErrorKind::TimedOut),
    }
}
