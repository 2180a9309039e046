//! Tests of [`super`].

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{fs, os::unix::fs::symlink};

use rustix::fs::CWD;

use super::*;
use crate::usage::measure;

/// Makes directories below each other, deeper than any path can be.
fn deep_chain(dir: &Path, depth: usize) {
    let name = "d".repeat(100);
    let mut current = rustix::fs::openat(CWD, dir, OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&current, &name, Mode::RWXU).unwrap();
        let file = OFlags::CREATE | OFlags::WRONLY;
        rustix::fs::openat(&current, "f", file, Mode::RWXU).unwrap();
        current = rustix::fs::openat(&current, &name, OFlags::PATH, Mode::empty()).unwrap();
    }
}

#[test]
fn trees_deeper_than_any_path() {
    let dir = tempfile::tempdir().unwrap();
    let trash = dir.path().join("trash");
    fs::create_dir(&trash).unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    deep_chain(&tree, 300);
    // The directory itself, and a file and a directory at each depth.
    assert_eq!(measure(&tree).unwrap().usage.inodes, 601);
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::create_dir_all(tree.join("z/b")).unwrap();
    assert_eq!(measure(&tree).unwrap().usage.inodes, 605);
    let trash = Trash::open(&trash).unwrap();
    trash.put(&tree).unwrap();
    trash.settle();
    assert!(!tree.exists());
    assert_eq!(fs::read_dir(dir.path().join("trash")).unwrap().count(), 0);
}

#[test]
fn links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), vec![7; 100_000]).unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    symlink(&outside, tree.join("sub/link")).unwrap();
    symlink(outside.join("file"), tree.join("link")).unwrap();
    assert_eq!(measure(&tree).unwrap().usage.inodes, 4);
    assert!(measure(&tree).unwrap().usage.bytes < 50_000);
    let top = rustix::fs::openat(CWD, dir.path(), OFlags::PATH, Mode::empty()).unwrap();
    remove_at(top.as_fd(), b"tree", &AtomicBool::new(false)).unwrap();
    assert!(!tree.exists());
    assert!(outside.join("file").exists());
    // Of a link it is the link that goes.
    symlink(&outside, dir.path().join("link")).unwrap();
    remove_at(top.as_fd(), b"link", &AtomicBool::new(false)).unwrap();
    assert!(!dir.path().join("link").is_symlink());
    assert!(outside.join("file").exists());
    remove_at(top.as_fd(), b"never-there", &AtomicBool::new(false)).unwrap();
}

#[test]
fn files_of_several_names_count_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("one"), vec![7; 8192]).unwrap();
    let alone = measure(dir.path()).unwrap();
    fs::hard_link(dir.path().join("one"), dir.path().join("two")).unwrap();
    assert_eq!(measure(dir.path()).unwrap(), alone);
    assert_eq!(alone.usage.inodes, 2);
}

#[test]
fn leftovers_are_deleted_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let trash = Trash::open(dir.path()).unwrap();
    trash.settle();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_thread_ends_with_its_last_trash_and_leaves_the_rest_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let trash = Trash::open(dir.path()).unwrap();
    for tree in 0..8 {
        let tree = dir.path().join(format!("tree-{tree}"));
        for folder in 0..8 {
            let folder = tree.join(folder.to_string());
            fs::create_dir_all(&folder).unwrap();
            for file in 0..64 {
                fs::write(folder.join(file.to_string()), "").unwrap();
            }
        }
        trash.delete(tree);
    }
    let clone = trash.clone();
    let running = Arc::downgrade(&trash.thread);
    drop(trash);
    // A clone keeps it.
    let running = running.upgrade().unwrap();
    assert!(!running.stop.load(Ordering::Relaxed));
    let stop = Arc::clone(&running.stop);
    drop((running, clone));
    // The flag is shared by the thread and its owner, neither of which is left.
    assert_eq!(Arc::strong_count(&stop), 1);
    assert!(stop.load(Ordering::Relaxed));

    let next = Trash::open(dir.path()).unwrap();
    next.settle();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_removal_stops_between_two_files_and_can_be_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("tree/sub")).unwrap();
    fs::write(dir.path().join("tree/sub/file"), "").unwrap();
    let top = rustix::fs::openat(CWD, dir.path(), OFlags::PATH, Mode::empty()).unwrap();
    let stop = AtomicBool::new(true);
    assert_eq!(remove_at(top.as_fd(), b"tree", &stop), Err(Errno::CANCELED));
    assert!(dir.path().join("tree/sub/file").exists());
    stop.store(false, Ordering::Relaxed);
    remove_at(top.as_fd(), b"tree", &stop).unwrap();
    assert!(!dir.path().join("tree").exists());
}
