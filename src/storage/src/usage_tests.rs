#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::*;

/// Deeper than directories are kept open.
const DEPTH: u64 = 40;
const CHAINS: u64 = 8;

/// Directories below each other in `m`, of which the walk takes one first: that one.
fn chains(root: &Path) -> PathBuf {
    for chain in 0..CHAINS {
        let mut dir = root.join(format!("m/{chain}"));
        for _ in 1..DEPTH {
            dir.push("d");
        }
        fs::create_dir_all(dir).unwrap();
    }
    let entries = fs::read_dir(root.join("m")).unwrap();
    entries.last().unwrap().unwrap().path()
}

/// The walk of `root/m` during which something happens once, at the deepest place of the first chain.
fn measure_while(root: &Path, happens: impl FnOnce()) -> Measurement {
    let (mut depth, mut happens) = (0, Some(happens));
    walk(&root.join("m"), &mut || {
        depth += 1;
        if depth == DEPTH
            && let Some(happens) = happens.take()
        {
            happens();
        }
    })
    .unwrap()
}

fn has_handles(dir: &Path) -> bool {
    let top = fs::File::open(dir).unwrap();
    FileHandle::of(&top).is_ok_and(|handle| handle.open_directory(&top).is_ok())
}

#[test]
fn a_directory_that_is_moved_away_hides_nothing_beside_it() {
    let root = tempfile::tempdir().unwrap();
    let first = chains(root.path());
    let all = 1 + CHAINS * DEPTH;
    assert_eq!(measure_while(root.path(), || ()).usage.inodes, all);
    let moved = measure_while(root.path(), || {
        fs::rename(&first, root.path().join("away")).unwrap();
    });
    if has_handles(root.path()) {
        assert_eq!((moved.usage.inodes, moved.is_partial), (all, false));
    } else {
        assert!(moved.is_partial && moved.usage.inodes < all, "{moved:?}");
    }
}

#[test]
fn what_is_removed_meanwhile_takes_nothing_and_is_no_error() {
    let root = tempfile::tempdir().unwrap();
    chains(root.path());
    let found = measure_while(root.path(), || {
        fs::remove_dir_all(root.path().join("m")).unwrap();
    });
    if has_handles(root.path()) {
        assert!(!found.is_partial, "{found:?}");
    }
    assert!(found.usage.inodes < 1 + CHAINS * DEPTH, "{found:?}");
}

#[test]
fn without_handles_what_was_moved_away_is_missed_and_said_to_be() {
    let root = tempfile::tempdir().unwrap();
    for name in ["one/child", "other"] {
        fs::create_dir_all(root.path().join(name)).unwrap();
    }
    let top = open_dir(CWD, root.path()).unwrap();
    let parent = open_dir(&top, "one").unwrap();
    let child = open_dir(&parent, "child").unwrap();
    let (mut usage, mut seen) = (Usage::default(), HashSet::new());
    let mut level = visit(parent, &mut usage, &mut seen).unwrap();
    level.fd = None;
    assert_eq!(level.reopen(Some(&child), &top), Ok(()));
    level.fd = None;
    fs::rename(
        root.path().join("one/child"),
        root.path().join("other/child"),
    )
    .unwrap();
    assert_eq!(level.reopen(Some(&child), &top), Err(Lost::Unseen));
    assert!(level.fd.is_none());
}
