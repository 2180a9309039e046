//! Log files.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    time::Duration,
};

use monitor_wire::{Failure, FrameBuffer, FromMonitor, Request};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::{
    pod::{Pod, Wanted, eventually, sh},
    with_each_runtime,
};

with_each_runtime!(
    streams_and_long_lines,
    an_unfinished_line,
    reopening,
    reopening_too_late,
    a_full_disk,
    grandchildren_holding_the_pipe,
    nothing_is_lost_at_the_end,
);

async fn streams_and_long_lines(pod: &Pod) {
    let script = "echo out; echo err >&2; printf 'no newline'";
    pod.run(
        "c",
        &Wanted {
            args: &sh(script),
            ..Wanted::default()
        },
    )
    .await;
    pod.exit("c").await;
    let line = |tag: &str, text: &str| (tag.to_owned(), text.to_owned());
    assert_eq!(
        pod.log("c", "stdout"),
        [line("F", "out"), line("F", "no newline")]
    );
    assert_eq!(pod.log("c", "stderr"), [line("F", "err")]);

    let script = "head -c 40000 /dev/zero | busybox tr '\\0' x; echo";
    pod.run(
        "d",
        &Wanted {
            args: &sh(script),
            ..Wanted::default()
        },
    )
    .await;
    pod.exit("d").await;
    let lengths: Vec<_> = pod
        .log("d", "stdout")
        .into_iter()
        .map(|(tag, text)| (tag, text.len()))
        .collect();
    assert_eq!(
        lengths,
        [
            ("P".to_owned(), 16384),
            ("P".to_owned(), 16384),
            ("F".to_owned(), 40000 - 32768)
        ]
    );
}

async fn an_unfinished_line(pod: &Pod) {
    pod.run(
        "c",
        &Wanted {
            args: &sh("printf 'name? '; sleep 1000"),
            ..Wanted::default()
        },
    )
    .await;
    eventually("the prompt shows", || {
        pod.log("c", "stdout") == [("P".to_owned(), "name? ".to_owned())]
    })
    .await;
    pod.monitor.signal("c", 9).await.unwrap();
    pod.exit("c").await;
    assert_eq!(
        pod.log("c", "stdout").last().unwrap(),
        &("F".to_owned(), String::new())
    );
}

async fn reopening(pod: &Pod) {
    let script = "n=0; while :; do echo $n; n=$((n+1)); sleep 0.01; done";
    pod.run(
        "c",
        &Wanted {
            args: &sh(script),
            ..Wanted::default()
        },
    )
    .await;
    let log = pod.path("c/0.log");
    let mut numbers = Vec::new();
    for round in 0..5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let rotated = pod.path(&format!("c/0.log.{round}"));
        fs::rename(&log, &rotated).unwrap();
        pod.monitor.reopen_log("c").await.unwrap();
        numbers.extend(
            fs::read_to_string(&rotated)
                .unwrap()
                .lines()
                .map(|line| line.rsplit(' ').next().unwrap().to_owned()),
        );
    }
    // A directory in the way: an error, and nothing is lost.
    let rotated = pod.path("c/0.log.last");
    fs::rename(&log, &rotated).unwrap();
    fs::create_dir(&log).unwrap();
    pod.monitor.reopen_log("c").await.unwrap_err();
    fs::remove_dir(&log).unwrap();
    let before = fs::read_to_string(&rotated).unwrap().len();
    eventually("the old file grows", || {
        fs::read_to_string(&rotated).unwrap().len() > before
    })
    .await;
    pod.monitor.signal("c", 9).await.unwrap();
    pod.exit("c").await;
    assert!(!log.exists());
    numbers.extend(
        fs::read_to_string(&rotated)
            .unwrap()
            .lines()
            .map(|line| line.rsplit(' ').next().unwrap().to_owned()),
    );
    let expected: Vec<String> = (0..numbers.len()).map(|n| n.to_string()).collect();
    assert_eq!(numbers, expected);
    assert!(
        pod.monitor
            .reopen_log("nobody")
            .await
            .unwrap_err()
            .is_not_found()
    );
}

/// A request that waited while the monitor could not serve it: whoever sent it has moved the old file back.
async fn reopening_too_late(pod: &Pod) {
    pod.run(
        "c",
        &Wanted {
            args: &sh("echo before; sleep 1000"),
            ..Wanted::default()
        },
    )
    .await;
    eventually("the line is written", || !pod.log("c", "stdout").is_empty()).await;
    let log = pod.path("c/0.log");
    let inode = || fs::metadata(&log).unwrap().ino();
    let kept = inode();
    let rotated = pod.path("c/0.log.old");
    let mut stream = UnixStream::connect(pod.monitor.socket()).unwrap();
    let mut ask = |until_ns| {
        let id = "c".to_owned();
        let request = Request::ReopenLog { id, until_ns };
        let bytes = request.to_frame(7).encode().unwrap();
        stream.write_all(&bytes).unwrap();
        let mut input = FrameBuffer::default();
        loop {
            if let Some(frame) = input.next_frame().unwrap() {
                return FromMonitor::from_frame(&frame).unwrap();
            }
            let mut buffer = [0; 4096];
            let length = stream.read(&mut buffer).unwrap();
            assert_ne!(length, 0, "the monitor hung up");
            input.push(&buffer[..length]);
        }
    };
    // The clock began at the node's boot.
    let FromMonitor::Failed { failure, .. } = ask(Some(1)) else {
        panic!("a request from before was served");
    };
    assert_eq!(failure, Failure::Deadline);
    assert_eq!(inode(), kept);
    // In time, and of a server that sets no limit.
    for until_ns in [Some(u64::MAX), None] {
        fs::rename(&log, &rotated).unwrap();
        assert_eq!(ask(until_ns), FromMonitor::Done);
        assert!(log.exists());
    }
    pod.monitor.signal("c", 9).await.unwrap();
    pod.exit("c").await;
}

async fn a_full_disk(pod: &Pod) {
    let small = pod.path("small");
    fs::create_dir(&small).unwrap();
    mount(
        "tmpfs",
        &small,
        "tmpfs",
        MountFlags::empty(),
        Some(c"size=64k"),
    )
    .unwrap();
    let script = "n=0; while [ $n -lt 3000 ]; do echo a line of some length, number $n; n=$((n+1)); done; echo done >&2; sleep 1000";
    let wanted = Wanted {
        args: &sh(script),
        log: Some(small.join("0.log")),
        ..Wanted::default()
    };
    pod.run("c", &wanted).await;
    let mut dropped = 0;
    for _ in 0..1000 {
        let state = pod.container("c").await.unwrap();
        assert!(state.exit.is_none());
        if state.log_dropped_bytes > 0 && state.log_dropped_bytes == dropped {
            break;
        }
        dropped = state.log_dropped_bytes;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(dropped > 0);
    // Only whole lines are in it.
    let text = fs::read_to_string(small.join("0.log")).unwrap();
    assert!(text.ends_with('\n'));
    assert!(
        text.lines()
            .all(|line| line.contains(" stdout F a line of some length, number ")),
        "{text}"
    );
    // Room again: it goes on.
    fs::rename(small.join("0.log"), pod.path("c/full.log")).unwrap_err();
    fs::remove_file(small.join("0.log")).unwrap();
    pod.monitor.reopen_log("c").await.unwrap();
    pod.exec("c", &sh("echo more > /proc/1/fd/1"), None)
        .await
        .unwrap();
    eventually("it goes on", || {
        fs::read_to_string(small.join("0.log"))
            .unwrap()
            .contains("stdout F more")
    })
    .await;
    pod.monitor.signal("c", 9).await.unwrap();
    pod.exit("c").await;
    pod.remove("c").await;
    unmount(&small, UnmountFlags::DETACH).unwrap();
}

/// In a shared PID namespace a container's children outlive it.
async fn grandchildren_holding_the_pipe(pod: &Pod) {
    let script = "(busybox setsid sh -c 'sleep 0.3; echo late; sleep 1000' &) ; echo early";
    pod.run(
        "c",
        &Wanted {
            args: &sh(script),
            share_pid: true,
            ..Wanted::default()
        },
    )
    .await;
    pod.exit("c").await;
    assert_eq!(
        pod.log("c", "stdout"),
        [("F".to_owned(), "early".to_owned())]
    );
    eventually("late output is taken", || pod.log("c", "stdout").len() == 2).await;
    pod.runtime
        .kill("c", 9, true, Duration::from_secs(10))
        .await
        .ok();
    let processes = pod.memory_cgroup("c").1.join("cgroup.procs");
    for pid in fs::read_to_string(processes).unwrap_or_default().lines() {
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

async fn nothing_is_lost_at_the_end(pod: &Pod) {
    let script = "n=0; while [ $n -lt 5000 ]; do echo $n; n=$((n+1)); done";
    pod.run(
        "c",
        &Wanted {
            args: &sh(script),
            ..Wanted::default()
        },
    )
    .await;
    pod.exit("c").await;
    // The event comes after the log is complete.
    assert_eq!(pod.log("c", "stdout").len(), 5000);
}
