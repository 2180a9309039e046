#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use futures_util::FutureExt;
use state::Digest;
use tempfile::TempDir;

use super::*;

const SIZE: u64 = 4 << 20;
const DAY: Duration = Duration::from_hours(24);

fn open(folder: &TempDir, max_bytes: u64) -> Partials {
    Partials::open(folder.path().join("partial"), max_bytes, DAY)
}

fn digest(seed: &str) -> Digest {
    Digest::sha256_of(seed.as_bytes())
}

async fn claim(partials: &Partials, seed: &str) -> Claim {
    partials.claim(&digest(seed), SIZE).await.unwrap()
}

fn write(spool: &Spool, start: u64, bytes: &[u8]) {
    spool.writer(start).unwrap().write(bytes).unwrap();
}

fn read(spool: &Spool, position: u64) -> Vec<u8> {
    let Found::Bytes { start, available } = spool.wait_for(position) else {
        panic!("nothing at {position}");
    };
    let mut bytes = vec![0; usize::try_from(available).unwrap()];
    let reader = spool.reader(start).unwrap();
    reader.read_at(&mut bytes, position).unwrap();
    bytes
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let partials = open(&folder, 1 << 30);
    let spool = claim(&partials, "a").await.spool();
    write(&spool, 0, b"one");
    // What follows without a gap goes into the same file.
    write(&spool, 3, b"two");
    write(&spool, 100, b"far");
    assert_eq!(spool.pieces(), [(0, 6), (100, 3)]);
    drop((spool, partials));

    let partials = open(&folder, 1 << 30);
    assert_eq!(partials.usage(), (2 * 4096, 2));
    let claim = claim(&partials, "a").await;
    let spool = claim.spool();
    assert_eq!((spool.prefix(), spool.kept_bytes()), (6, 9));
    assert_eq!(read(&spool, 0), b"onetwo");
    assert_eq!(read(&spool, 4), b"wo");
    assert_eq!(read(&spool, 101), b"ar");
    spool.end_flow();
    assert!(matches!(spool.wait_for(6), Found::Ended));
    spool.remove_from(6);
    assert_eq!(spool.pieces(), [(0, 6)]);
    spool.discard();
    assert!(spool.writer(0).is_err(), "nothing more is kept");
    drop((spool, claim));
    assert_eq!(partials.usage(), (0, 0));
    assert_eq!(std::fs::read_dir(&partials.shared.dir).unwrap().count(), 0);
}

#[tokio::test]
async fn a_layer_has_one_download_and_the_next_waits_for_the_threads_of_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let partials = open(&folder, 1 << 30);
    let first = claim(&partials, "a").await;
    assert!(partials.claim(&digest("a"), SIZE).await.is_none());
    let thread = first.spool();
    drop(first);
    assert!(matches!(thread.wait_for(0), Found::Abandoned));
    let mut next = Box::pin(claim(&partials, "a"));
    assert!((&mut next).now_or_never().is_none());
    drop(thread);
    next.await;
}

#[tokio::test]
async fn small_layers_and_those_of_nodes_that_keep_nothing_have_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let partials = open(&folder, 1 << 30);
    let small = partials.claim(&digest("a"), LEAST_LAYER_BYTES - 1).await;
    assert!(small.is_none());
    let nothing = open(&folder, 0);
    assert!(nothing.claim(&digest("a"), SIZE).await.is_none());
    assert!(!folder.path().join("partial").exists());
}

#[tokio::test]
async fn the_oldest_make_room_and_those_in_use_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let partials = open(&folder, 10);
    for seed in ["a", "b"] {
        write(&claim(&partials, seed).await.spool(), 0, b"1234");
    }
    let used = claim(&partials, "a").await;
    let new = claim(&partials, "c").await.spool();
    write(&new, 0, b"12345");
    assert_eq!(used.spool().kept_bytes(), 4);
    assert_eq!(claim(&partials, "b").await.spool().kept_bytes(), 0);
    let refused = new.writer(5).unwrap().write(b"67").unwrap_err();
    assert!(matches!(refused, Refused::Budget), "{refused:?}");
    assert!(!new.has_room_for(2) && new.has_room_for(1));
}

#[tokio::test]
async fn a_size_that_does_not_fit_means_another_layer() {
    let folder = tempfile::tempdir().unwrap();
    let partials = open(&folder, 1 << 30);
    write(&claim(&partials, "a").await.spool(), SIZE - 1, b"12");
    assert_eq!(claim(&partials, "a").await.spool().kept_bytes(), 0);
}

#[tokio::test]
async fn files_that_overlap_or_are_links_are_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("partial");
    std::fs::create_dir(&dir).unwrap();
    let file = |start: &str| dir.join(format!("sha256-{}.{start}", digest("a").hex()));
    for (start, bytes) in [
        ("0", "1234"),
        ("3", "overlaps"),
        ("04", "misspelt"),
        ("4", "5"),
    ] {
        std::fs::write(file(start), bytes).unwrap();
    }
    let partials = open(&folder, 1 << 30);
    let spool = claim(&partials, "a").await.spool();
    assert_eq!(spool.pieces(), [(0, 4), (4, 1)]);
    assert!(!file("3").exists() && !file("04").exists());
    // A link in the place of a file that is to be written or read, whoever made it.
    let outside = folder.path().join("outside");
    std::fs::write(&outside, "precious").unwrap();
    std::os::unix::fs::symlink(&outside, file("9")).unwrap();
    assert!(spool.writer(9).is_err() && spool.reader(9).is_err());
    assert_eq!(std::fs::read(&outside).unwrap(), b"precious");
}

#[tokio::test]
async fn a_whole_layer_waits_for_its_image_unless_the_space_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let partials = open(&folder, 10);
    let whole = claim(&partials, "a").await;
    write(&whole.spool(), 0, b"12345678");
    whole.set_whole();
    assert!(whole.spool().writer(8).is_err());
    assert!(partials.claim(&digest("a"), SIZE).await.is_none());
    let new = claim(&partials, "b").await.spool();
    write(&new, 0, b"123");
    assert_eq!(whole.spool().kept_bytes(), 0);
    drop(whole);
    let again = claim(&partials, "a").await;
    write(&again.spool(), 0, b"1234567");
    again.set_whole();
    partials.free_all().await;
    assert_eq!(partials.usage(), (4096, 1), "what is being written stays");
    drop((again, new));
    partials.free_all().await;
    assert_eq!(partials.usage(), (0, 0));
}
