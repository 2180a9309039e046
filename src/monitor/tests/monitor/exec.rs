//! Processes in living containers.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use runtime::{ExecRequest, ExecStdio, Monitor, Refusal, RuntimeError};

use crate::{
    pod::{LONG, Pod, Wanted, eventually, sh},
    with_each_runtime,
};

with_each_runtime!(
    output_and_codes,
    failures,
    a_terminal,
    input,
    timeouts_kill_the_whole_tree,
    a_dropped_exec_is_killed,
    a_dropped_terminal_is_killed_as_a_whole,
    a_lost_connection_kills_its_execs,
    held_pipes_do_not_hold_the_answer,
    many_execs,
);

const SLEEPER: Wanted<'static> = Wanted {
    args: &["/bin/sleep", "1000"],
    tty: false,
    stdin: false,
    stdin_once: false,
    memory_bytes: None,
    log: None,
    share_pid: false,
    deadline: None,
};

async fn output_and_codes(pod: &Pod) {
    pod.run("c", &SLEEPER).await;
    let captured = pod
        .exec("c", &sh("echo out; echo err >&2; exit 3"), None)
        .await
        .unwrap();
    assert_eq!(
        (captured.stdout.as_slice(), captured.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!((captured.exit.code, captured.exit.timed_out), (3, false));
    let captured = pod.exec("c", &sh("kill -9 $$"), None).await.unwrap();
    assert_eq!(captured.exit.code, 137);
    // Limits that milliseconds in 32 bits, or the clock itself, cannot count.
    for seconds in [30 * 24 * 3600, i64::MAX.cast_unsigned(), u64::MAX] {
        let limit = Some(Duration::from_secs(seconds));
        let captured = pod.exec("c", &sh("sleep 0.1; exit 5"), limit).await;
        assert_eq!(captured.unwrap().exit.code, 5, "{seconds}");
    }
    // More than the cap is read and dropped.
    let file = pod.exec_json("exec", &sh("head -c 3000000 /dev/zero"), false);
    let captured = pod
        .monitor
        .exec_capture("c", &pod.runtime, file, 1000, Some(LONG))
        .await
        .unwrap();
    assert_eq!((captured.stdout.len(), captured.exit.code), (1000, 0));
    for leftover in ["exec.pid", "exec.log", "exec.sock"] {
        assert!(!pod.path(leftover).exists(), "{leftover}");
    }
}

async fn failures(pod: &Pod) {
    assert!(
        pod.exec("c", &["/bin/true"], None)
            .await
            .unwrap_err()
            .is_not_found()
    );
    pod.run("c", &SLEEPER).await;
    let error = pod
        .exec("c", &["/no/such/program"], None)
        .await
        .unwrap_err();
    let RuntimeError::Failed {
        operation: "exec",
        message,
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert!(message.contains("/no/such/program"), "{message}");
    pod.monitor.signal("c", 9).await.unwrap();
    pod.exit("c").await;
    let error = pod.exec("c", &["/bin/true"], None).await.unwrap_err();
    assert!(
        matches!(
            error,
            RuntimeError::Refused {
                kind: Refusal::NotRunning,
                ..
            }
        ),
        "{error}"
    );
}

async fn a_terminal(pod: &Pod) {
    pod.run("c", &SLEEPER).await;
    let process_json = pod.exec_json(
        "tty",
        &sh("stty size; read line; echo got $line; exit 5"),
        true,
    );
    let request = ExecRequest {
        id: "c".to_owned(),
        runtime: pod.runtime.clone(),
        process_json,
        stdio: ExecStdio::Terminal,
        deadline: Some(LONG),
    };
    let mut running = pod.monitor.start_exec(request).await.unwrap();
    let mut master = File::from(running.take_terminal().unwrap());
    master.write_all(b"hello\n").unwrap();
    assert_eq!(running.wait().await.unwrap().code, 5);
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..length]);
    }
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.contains("got hello\r\n"), "{seen}");
    assert!(!pod.path("tty.sock").exists());
}

async fn input(pod: &Pod) {
    pod.run("c", &SLEEPER).await;
    let (stdin, mut to_stdin) = std::io::pipe().unwrap();
    let (mut from_stdout, stdout) = std::io::pipe().unwrap();
    let request = ExecRequest {
        id: "c".to_owned(),
        runtime: pod.runtime.clone(),
        process_json: pod.exec_json("cat", &["/bin/cat"], false),
        stdio: ExecStdio::Pipes {
            stdin: Some(stdin.into()),
            stderr: stdout.try_clone().unwrap().into(),
            stdout: stdout.into(),
        },
        deadline: Some(LONG),
    };
    let running = pod.monitor.start_exec(request).await.unwrap();
    to_stdin.write_all(b"some input").unwrap();
    drop(to_stdin);
    assert_eq!(running.wait().await.unwrap().code, 0);
    let mut seen = String::new();
    // Ends only if the monitor kept no copy.
    from_stdout.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "some input");
}

/// Children, children in sessions of their own, a child whose parent has ended, and a fork that never stops.
const TREE: &str = "
    sleep 1001 & \
    busybox setsid sleep 1002 & \
    (sleep 1003 & sleep 1004 & exit 0) ; \
    sh -c 'while :; do sleep 0.01; done' & \
    sleep 1005";

async fn timeouts_kill_the_whole_tree(pod: &Pod) {
    pod.run("c", &SLEEPER).await;
    let before = Instant::now();
    let captured = pod
        .exec("c", &sh(TREE), Some(Duration::from_secs(1)))
        .await
        .unwrap();
    assert!(captured.exit.timed_out, "{captured:?}");
    assert!(before.elapsed() < Duration::from_secs(20));
    // Only the container's own process is left, and no zombie of the monitor.
    eventually("the tree is gone", || tree_of(pod, "c").len() == 1).await;
    assert!(pod.container("c").await.unwrap().exit.is_none());
    let captured = pod.exec("c", &["/bin/true"], None).await.unwrap();
    assert_eq!((captured.exit.code, captured.exit.timed_out), (0, false));
}

/// The processes in a container's cgroup.
fn tree_of(pod: &Pod, id: &str) -> Vec<String> {
    let text =
        std::fs::read_to_string(pod.memory_cgroup(id).1.join("cgroup.procs")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

async fn a_dropped_exec_is_killed(pod: &Pod) {
    pod.run("c", &SLEEPER).await;
    let script = sh(TREE);
    let exec = pod.exec("c", &script, None);
    tokio::select! {
        _ = exec => panic!("it ended"),
        () = eventually("it runs", || tree_of(pod, "c").len() > 5) => {}
    }
    eventually("the tree is gone", || tree_of(pod, "c").len() == 1).await;
}

async fn a_dropped_terminal_is_killed_as_a_whole(pod: &Pod) {
    pod.run("c", &SLEEPER).await;
    let request = ExecRequest {
        id: "c".to_owned(),
        runtime: pod.runtime.clone(),
        process_json: pod.exec_json("tty", &sh(TREE), true),
        stdio: ExecStdio::Terminal,
        deadline: None,
    };
    let mut running = pod.monitor.start_exec(request).await.unwrap();
    let master = running.take_terminal().unwrap();
    eventually("it runs", || tree_of(pod, "c").len() > 5).await;
    // The other way round would give the monitor time.
    drop(master);
    drop(running);
    eventually("the tree is gone", || tree_of(pod, "c").len() == 1).await;
}

async fn a_lost_connection_kills_its_execs(pod: &Pod) {
    pod.run("c", &SLEEPER).await;
    let file = pod.exec_json("second", &sh(TREE), false);
    let (second, events) = Monitor::connect(pod.monitor.socket()).await.unwrap();
    let (runtime, client) = (pod.runtime.clone(), second.clone());
    let task =
        tokio::spawn(async move { client.exec_capture("c", &runtime, file, 100, None).await });
    eventually("it runs", || tree_of(pod, "c").len() > 5).await;
    task.abort();
    let _ = task.await;
    drop((second, events));
    eventually("the tree is gone", || tree_of(pod, "c").len() == 1).await;
}

async fn held_pipes_do_not_hold_the_answer(pod: &Pod) {
    pod.run("c", &SLEEPER).await;
    let before = Instant::now();
    let captured = pod
        .exec("c", &sh("echo hi; busybox setsid sleep 100 & exit 0"), None)
        .await
        .unwrap();
    assert_eq!(
        (captured.stdout.as_slice(), captured.exit.code),
        (&b"hi\n"[..], 0)
    );
    assert!(before.elapsed() < Duration::from_secs(30));
}

async fn many_execs(pod: &Pod) {
    pod.run("c", &SLEEPER).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..12 {
        let file = pod.exec_json(
            &format!("exec{n}"),
            &sh(&format!("echo {n}; exit {n}")),
            false,
        );
        let (monitor, runtime) = (pod.monitor.clone(), pod.runtime.clone());
        tasks.spawn(async move {
            (
                n,
                monitor
                    .exec_capture("c", &runtime, file, 100, Some(LONG))
                    .await
                    .unwrap(),
            )
        });
    }
    for (n, captured) in tasks.join_all().await {
        assert_eq!(
            (captured.exit.code, captured.stdout),
            (n, format!("{n}\n").into_bytes())
        );
    }
}
