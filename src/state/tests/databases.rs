//! Both databases as their users see them: what is written is read back by the next server, however the last one ended.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use pintle_state::{
    self as state, ChainId, ContainerId, DiffId, Digest, ImageId, ImagesChange, ImagesDb, LayerRow,
    PodId, PodsChange, PodsDb, StateError,
};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn put_pod(id: &PodId, body: &[u8]) -> PodsChange {
    PodsChange::PutPod {
        id: id.clone(),
        body: body.to_vec(),
    }
}

#[test]
fn pods_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pods.db");
    let runtime = runtime();
    let (pod, other) = (PodId::random(), PodId::random());
    let (container, gone) = (ContainerId::random(), ContainerId::random());
    let owner = pod.to_string();
    let undo = |seq, owner: &str| PodsChange::PutUndo {
        seq,
        owner: owner.to_owned(),
        body: vec![u8::try_from(seq % 256).unwrap()],
    };

    let (db, contents) = PodsDb::open(&path).unwrap();
    assert_eq!(contents, state::PodsContents::default());
    runtime
        .block_on(db.write(vec![
            put_pod(&pod, b"first"),
            put_pod(&pod, b"second \0 bytes"),
            put_pod(&other, b""),
            PodsChange::PutContainer {
                id: container.clone(),
                pod: pod.clone(),
                body: b"c".to_vec(),
            },
            PodsChange::PutContainer {
                id: gone.clone(),
                pod: pod.clone(),
                body: b"g".to_vec(),
            },
            PodsChange::DeleteContainer(gone),
            PodsChange::DeleteContainer(ContainerId::random()),
            undo(30, &owner),
            undo(2, &owner),
            undo(7, "other"),
            undo(8, "third"),
            PodsChange::DeleteUndo { seq: 8 },
            PodsChange::PutMeta {
                key: "boot".to_owned(),
                value: "one".to_owned(),
            },
            PodsChange::PutMeta {
                key: "boot".to_owned(),
                value: "two".to_owned(),
            },
        ]))
        .unwrap();
    runtime
        .block_on(db.write(vec![
            PodsChange::DeletePod(other),
            PodsChange::DeleteUndosOf {
                owner: "other".to_owned(),
            },
        ]))
        .unwrap();
    drop(db);

    let (_db, contents) = PodsDb::open(&path).unwrap();
    assert_eq!(contents.pods, [(pod.clone(), b"second \0 bytes".to_vec())]);
    assert_eq!(contents.containers, [(container, pod, b"c".to_vec())]);
    let undos: Vec<_> = contents
        .undos
        .iter()
        .map(|undo| (undo.seq, undo.owner.as_str(), undo.body.as_slice()))
        .collect();
    assert_eq!(
        undos,
        [(2, owner.as_str(), [2].as_slice()), (30, &owner, &[30])]
    );
    assert_eq!(contents.meta["boot"], "two");
    assert_eq!(contents.meta.len(), 1);
}

#[test]
fn images_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images.db");
    let runtime = runtime();
    let diffs: Vec<DiffId> = (0..12_u8).map(|n| Digest::sha256_of(&[n]).into()).collect();
    let chains: Vec<ChainId> = (1..=12).filter_map(|n| ChainId::of(&diffs[..n])).collect();
    let image: ImageId = Digest::sha256_of(b"config").into();
    let row = |n: usize| LayerRow {
        chain: chains[n].clone(),
        diff: diffs[n].clone(),
        parent: n.checked_sub(1).map(|below| chains[below].clone()),
        size_bytes: 1 << n,
        inodes: n as u64,
    };

    let (db, contents) = ImagesDb::open(&path).unwrap();
    assert_eq!(contents, state::ImagesContents::default());
    let mut changes: Vec<_> = (0..12).map(|n| ImagesChange::PutLayer(row(n))).collect();
    changes.extend([
        ImagesChange::PutImage {
            id: image.clone(),
            body: b"a".to_vec(),
            layers: chains[..3].to_vec(),
        },
        ImagesChange::PutImage {
            id: image.clone(),
            body: b"b".to_vec(),
            layers: chains.clone(),
        },
        ImagesChange::PutReference {
            reference: "docker.io/library/x:1".to_owned(),
            image: image.clone(),
        },
        ImagesChange::PutReference {
            reference: "gone:1".to_owned(),
            image: image.clone(),
        },
        ImagesChange::DeleteReference("gone:1".to_owned()),
        ImagesChange::DeleteReference("never:1".to_owned()),
    ]);
    runtime.block_on(db.write(changes)).unwrap();
    drop(db);

    let (db, contents) = ImagesDb::open(&path).unwrap();
    assert_eq!(
        contents.images,
        [(image.clone(), b"b".to_vec(), chains.clone())]
    );
    assert_eq!(
        contents.references,
        [("docker.io/library/x:1".to_owned(), image.clone())]
    );
    assert_eq!(contents.layers.len(), 12);
    for n in 0..12 {
        assert!(contents.layers.contains(&row(n)));
    }
    runtime
        .block_on(db.write(vec![
            ImagesChange::DeleteImage(image),
            ImagesChange::DeleteLayer(chains[0].clone()),
        ]))
        .unwrap();
    drop(db);
    let (_db, contents) = ImagesDb::open(&path).unwrap();
    assert!(contents.images.is_empty());
    assert_eq!(contents.layers.len(), 11);
}

#[test]
fn a_failing_request_changes_nothing_and_harms_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pods.db");
    let runtime = runtime();
    let (db, _) = PodsDb::open(&path).unwrap();
    let (good, bad) = (PodId::random(), PodId::random());
    let impossible = PodsChange::PutUndo {
        seq: u64::MAX,
        owner: String::new(),
        body: Vec::new(),
    };
    let (one, two) = runtime.block_on(async {
        let (one, two) = (db.clone(), db.clone());
        tokio::join!(
            one.write(vec![put_pod(&bad, b"x"), impossible]),
            two.write(vec![put_pod(&good, b"y")]),
        )
    });
    assert!(matches!(one, Err(StateError::Write { .. })), "{one:?}");
    two.unwrap();
    drop(db);
    let (_db, contents) = PodsDb::open(&path).unwrap();
    assert_eq!(contents.pods, [(good, b"y".to_vec())]);
}

#[test]
fn many_writers_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pods.db");
    let (db, _) = PodsDb::open(&path).unwrap();
    runtime().block_on(async {
        let tasks: Vec<_> = (0..500)
            .map(|_| {
                let db = db.clone();
                tokio::spawn(async move { db.write(vec![put_pod(&PodId::random(), b"x")]).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    });
    drop(db);
    let (_db, contents) = PodsDb::open(&path).unwrap();
    assert_eq!(contents.pods.len(), 500);
}

#[test]
fn a_cancelled_wait_takes_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pods.db");
    let (db, _) = PodsDb::open(&path).unwrap();
    let pod = PodId::random();
    runtime().block_on(async {
        // Polled once, then dropped.
        let write = db.write(vec![put_pod(&pod, b"x")]);
        let _ = tokio::time::timeout(Duration::ZERO, write).await;
    });
    drop(db);
    let (_db, contents) = PodsDb::open(&path).unwrap();
    assert_eq!(contents.pods.len(), 1);
}

#[test]
fn two_servers_cannot_have_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pods.db");
    let (db, _) = PodsDb::open(&path).unwrap();
    assert!(matches!(PodsDb::open(&path), Err(StateError::Open { .. })));
    drop(db);
    PodsDb::open(&path).unwrap();
}

/// Where a child of one of these tests keeps its databases.
const CHILD_DIR: &str = "PINTLE_STATE_TEST_DIR";

/// A command that runs one ignored test of this file as a child process.
fn child(wrapper: &[&str], test: &str, dir: &Path) -> Command {
    let executable = std::env::current_exe().unwrap();
    let mut words: Vec<PathBuf> = wrapper.iter().map(PathBuf::from).collect();
    words.push(executable);
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn child_dir() -> PathBuf {
    PathBuf::from(std::env::var_os(CHILD_DIR).unwrap())
}

#[test]
#[ignore = "run by `a_killed_server_leaves_a_sound_database` in a process of its own"]
fn child_writes_until_killed() {
    let (db, _) = PodsDb::open(&child_dir().join("pods.db")).unwrap();
    runtime().block_on(async {
        for n in 0_u64.. {
            // A pod and its note stand or fall together.
            db.write(vec![
                put_pod(&PodId::random(), &[7; 1500]),
                PodsChange::PutMeta {
                    key: "count".to_owned(),
                    value: (n + 1).to_string(),
                },
            ])
            .await
            .unwrap();
            std::fs::write(child_dir().join("acknowledged"), (n + 1).to_string()).unwrap();
        }
    });
}

#[test]
fn a_killed_server_leaves_a_sound_database() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let dir = dir.path().join(round.to_string());
        std::fs::create_dir(&dir).unwrap();
        let mut child = child(&[], "child_writes_until_killed", &dir)
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(150 + 13 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged: usize = std::fs::read_to_string(dir.join("acknowledged"))
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let (_db, contents) = PodsDb::open(&dir.join("pods.db")).unwrap();
        let counted = contents.meta.get("count").map_or(0, |n| n.parse().unwrap());
        assert_eq!(contents.pods.len(), counted);
        assert!(counted >= acknowledged, "{counted} of {acknowledged}");
    }
}

#[test]
#[ignore = "run by the tests that trace system calls, in a process of its own"]
fn child_writes_pods() {
    let (db, _) = PodsDb::open(&child_dir().join("pods.db")).unwrap();
    runtime().block_on(async {
        // Enough to fill the write-ahead log and make SQLite fold it into the database a few times.
        for _ in 0..4000 {
            db.write(vec![put_pod(&PodId::random(), &[7; 1500])])
                .await
                .unwrap();
        }
    });
}

#[test]
#[ignore = "run by the tests that trace system calls, in a process of its own"]
fn child_writes_an_image() {
    let (db, _) = ImagesDb::open(&child_dir().join("images.db")).unwrap();
    let image = Digest::sha256_of(b"x").into();
    let put = ImagesChange::PutReference {
        reference: "x".to_owned(),
        image,
    };
    runtime().block_on(db.write(vec![put])).unwrap();
}

/// The syncing system calls that a child makes.
fn syncs_of(test: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("trace");
    let log_text = log.to_str().unwrap();
    let calls = "trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync";
    let status = child(
        &[
            "strace",
            "-f",
            "-qq",
            "-e",
            calls,
            "-e",
            "signal=none",
            "-o",
            log_text,
        ],
        test,
        dir.path(),
    )
    .status()
    .expect("strace, which this test needs, should be installed");
    assert!(status.success());
    let log = std::fs::read_to_string(log).unwrap();
    log.lines()
        .filter(|line| line.contains("sync"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn pods_are_never_synced() {
    assert_eq!(syncs_of("child_writes_pods"), "");
}

#[test]
fn images_are_synced() {
    assert!(syncs_of("child_writes_an_image").contains("sync("));
}

#[test]
#[ignore = "a measurement: run it with --release --nocapture"]
fn measure_commits() {
    for place in ["/dev/shm", "/var/tmp"] {
        let dir = tempfile::tempdir_in(place).unwrap();
        let (db, _) = PodsDb::open(&dir.path().join("pods.db")).unwrap();
        let mut times: Vec<Duration> = runtime().block_on(async {
            let id = PodId::random();
            let mut times = Vec::new();
            for _ in 0..5000 {
                let start = Instant::now();
                db.write(vec![put_pod(&id, &[7; 1500])]).await.unwrap();
                times.push(start.elapsed());
            }
            times
        });
        times.sort();
        let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        println!("{place}: one 1.5 kB record, p50 {p50:?}, p99 {p99:?}");
    }
}
