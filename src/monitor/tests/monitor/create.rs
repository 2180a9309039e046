//! Creating, starting, ending.

use std::{fs, time::Duration};

use runtime::{Exit, MonitorEvent, Refusal, RuntimeError};

use crate::{
    pod::{LONG, Pod, Wanted, eventually, processes_with, sh},
    with_each_runtime,
};

with_each_runtime!(
    exit_codes,
    signals,
    refused_creations,
    a_failing_runtime_is_quoted,
    an_overdue_creation_leaves_nothing,
    out_of_memory,
    forgetting,
    many_at_once,
    two_clients,
    limits_and_freezing,
);

async fn exit_codes(pod: &Pod) {
    for code in [0, 1, 127, 255] {
        let script = format!("exit {code}");
        pod.run(
            "c",
            &Wanted {
                args: &sh(&script),
                ..Wanted::default()
            },
        )
        .await;
        let exit = pod.exit("c").await;
        assert_eq!((exit.code, exit.oom_killed), (code, false));
        let written: Exit = serde_json::from_slice(&fs::read(pod.path("c/exit")).unwrap()).unwrap();
        assert_eq!(written, exit);
        assert_eq!(pod.container("c").await.unwrap().exit, Some(exit));
        pod.remove("c").await;
        assert!(pod.container("c").await.is_none());
    }
}

async fn signals(pod: &Pod) {
    let pid = pod
        .run(
            "c",
            &Wanted {
                args: &["/bin/sleep", "1000"],
                ..Wanted::default()
            },
        )
        .await;
    assert_eq!(pod.container("c").await.unwrap().pid, Some(pid));
    assert_eq!(
        pod.runtime.state("c", LONG).await.unwrap().unwrap().pid,
        Some(pid)
    );
    // sleep is PID 1 without a handler: the kernel drops what it does not handle.
    pod.monitor.signal("c", 15).await.unwrap();
    pod.monitor.signal("c", 9).await.unwrap();
    assert_eq!(pod.exit("c").await.code, 137);
    let error = pod.monitor.signal("c", 9).await.unwrap_err();
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
    let error = pod.monitor.signal("other", 9).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");

    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    pod.run(
        "t",
        &Wanted {
            args: &sh(script),
            ..Wanted::default()
        },
    )
    .await;
    eventually("the trap is set", || !pod.log("t", "stdout").is_empty()).await;
    pod.monitor.signal("t", 15).await.unwrap();
    assert_eq!(pod.exit("t").await.code, 7);
}

async fn refused_creations(pod: &Pod) {
    let wanted = Wanted {
        args: &["/bin/sleep", "1000"],
        ..Wanted::default()
    };
    pod.create("c", &wanted).await;
    let error = pod
        .monitor
        .create(&pod.request("c", &wanted))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            RuntimeError::Refused {
                kind: Refusal::Exists,
                ..
            }
        ),
        "{error}"
    );
    let error = pod.monitor.end().await.unwrap_err();
    assert!(
        matches!(
            error,
            RuntimeError::Refused {
                kind: Refusal::Busy,
                ..
            }
        ),
        "{error}"
    );

    let mut request = pod.request("d", &wanted);
    request.log = Some(pod.path("no/such/directory/0.log"));
    let error = pod.monitor.create(&request).await.unwrap_err();
    assert!(error.to_string().contains("no/such/directory"), "{error}");
    assert!(pod.container("d").await.is_none());
}

async fn a_failing_runtime_is_quoted(pod: &Pod) {
    let request = pod.request(
        "c",
        &Wanted {
            args: &["/no/such/program"],
            ..Wanted::default()
        },
    );
    // crun notices at create, runc as well; both say which program it was.
    let error = pod.monitor.create(&request).await.unwrap_err();
    let RuntimeError::Failed {
        runtime,
        operation: "create",
        message,
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(runtime, pod.runtime.name());
    assert!(message.contains("/no/such/program"), "{message}");
    assert!(
        !message.contains('\n') && !message.contains("{\"level"),
        "{message}"
    );
    assert!(pod.container("c").await.is_none());
    assert!(!pod.path("c/attach.sock").exists());
    // Nothing of the runtime's words is in the container's log.
    assert_eq!(fs::read_to_string(pod.path("c/0.log")).unwrap(), "");
    pod.runtime.delete("c", true, LONG).await.unwrap();
    let error = pod.runtime.start("c", LONG).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(pod.runtime.state("c", LONG).await.unwrap(), None);
}

/// A hook that hangs stands for any runtime that does.
async fn an_overdue_creation_leaves_nothing(pod: &Pod) {
    let mut request = pod.request(
        "c",
        &Wanted {
            args: &["/bin/true"],
            ..Wanted::default()
        },
    );
    request.deadline = Duration::from_millis(700);
    let config = request.bundle.join("config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    let mark = pod.path("hook").to_str().unwrap().to_owned();
    let script = format!("sleep 1000; : {mark}");
    json["hooks"] =
        serde_json::json!({"prestart": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    fs::write(&config, json.to_string()).unwrap();
    let error = pod.monitor.create(&request).await.unwrap_err();
    assert!(
        matches!(
            error,
            RuntimeError::Deadline {
                operation: "create",
                ..
            }
        ),
        "{error}"
    );
    eventually("the hook is gone", || processes_with(&mark).is_empty()).await;
    pod.runtime.delete("c", true, LONG).await.unwrap();
    assert!(pod.container("c").await.is_none());
    // The runtime was killed before it made a record of what it had made.
    pod.remove_cgroup("c").await;

    // Forgetting ends a creation too.
    request.deadline = LONG;
    let creation = pod.monitor.create(&request);
    let forgetting = async {
        eventually("the hook runs", || !processes_with(&mark).is_empty()).await;
        pod.monitor.forget("c").await
    };
    let (created, forgotten) = tokio::join!(creation, forgetting);
    assert!(created.is_err());
    forgotten.unwrap();
    pod.runtime.delete("c", true, LONG).await.unwrap();
    pod.remove_cgroup("c").await;
}

async fn out_of_memory(pod: &Pod) {
    let memory_bytes = Some(24 << 20);
    // tail keeps the whole of a line that never ends.
    let hog = ["/bin/tail", "/dev/zero"];
    pod.run(
        "c",
        &Wanted {
            args: &hog,
            memory_bytes,
            ..Wanted::default()
        },
    )
    .await;
    let exit = pod.exit("c").await;
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    assert!(
        fs::read_to_string(pod.path("c/exit"))
            .unwrap()
            .contains("\"oom_killed\":true")
    );

    // A child is killed, the container lives on: told at once, and remembered to the end.
    let script = "tail /dev/zero; echo survived; sleep 1000";
    pod.run(
        "d",
        &Wanted {
            args: &sh(script),
            memory_bytes,
            ..Wanted::default()
        },
    )
    .await;
    assert_eq!(pod.event().await, MonitorEvent::Oom("d".to_owned()));
    let state = pod.container("d").await.unwrap();
    assert!(state.oom_killed && state.exit.is_none());
    pod.monitor.signal("d", 9).await.unwrap();
    assert!(pod.exit("d").await.oom_killed);

    // Killed without a lack of memory.
    pod.run(
        "e",
        &Wanted {
            args: &["/bin/sleep", "1000"],
            memory_bytes,
            ..Wanted::default()
        },
    )
    .await;
    pod.monitor.signal("e", 9).await.unwrap();
    let exit = pod.exit("e").await;
    assert_eq!((exit.code, exit.oom_killed), (137, false));
}

async fn forgetting(pod: &Pod) {
    pod.run(
        "c",
        &Wanted {
            args: &["/bin/sleep", "1000"],
            ..Wanted::default()
        },
    )
    .await;
    // The runtime kills and answers before the monitor has reaped; forgetting waits for that.
    pod.runtime.delete("c", true, LONG).await.unwrap();
    pod.monitor.forget("c").await.unwrap();
    assert!(pod.monitor.forget("c").await.unwrap_err().is_not_found());
    pod.run(
        "d",
        &Wanted {
            args: &["/bin/sleep", "1000"],
            ..Wanted::default()
        },
    )
    .await;
    let error = pod.monitor.forget("d").await.unwrap_err();
    assert!(
        matches!(
            error,
            RuntimeError::Refused {
                kind: Refusal::Busy,
                ..
            }
        ),
        "{error}"
    );
    assert!(pod.container("d").await.is_some());
}

async fn many_at_once(pod: &Pod) {
    let ids: Vec<String> = (0..8).map(|n| format!("c{n}")).collect();
    let wanted = Wanted {
        args: &sh("echo hello; exit 3"),
        ..Wanted::default()
    };
    let requests: Vec<_> = ids.iter().map(|id| pod.request(id, &wanted)).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for request in requests {
        let (monitor, runtime) = (pod.monitor.clone(), pod.runtime.clone());
        tasks.spawn(async move {
            monitor.create(&request).await.unwrap();
            runtime.start(&request.id, LONG).await.unwrap();
        });
    }
    tasks.join_all().await;
    for _ in &ids {
        let MonitorEvent::Exited(_, exit) = pod.event().await else {
            panic!()
        };
        assert_eq!(exit.code, 3);
    }
    for id in &ids {
        assert_eq!(
            pod.log(id, "stdout"),
            [("F".to_owned(), "hello".to_owned())]
        );
    }
}

async fn two_clients(pod: &Pod) {
    let (second, mut events) = runtime::Monitor::connect(pod.monitor.socket())
        .await
        .unwrap();
    pod.run(
        "c",
        &Wanted {
            args: &sh("exit 4"),
            ..Wanted::default()
        },
    )
    .await;
    assert_eq!(pod.exit("c").await.code, 4);
    let MonitorEvent::Exited(id, exit) = events.recv().await.unwrap() else {
        panic!()
    };
    assert_eq!((id.as_str(), exit.code), ("c", 4));
    assert_eq!(
        second.state().await.unwrap(),
        pod.monitor.state().await.unwrap()
    );
}

async fn limits_and_freezing(pod: &Pod) {
    let wanted = Wanted {
        args: &["/bin/sleep", "1000"],
        memory_bytes: Some(64 << 20),
        ..Wanted::default()
    };
    pod.run("c", &wanted).await;
    pod.runtime
        .update("c", br#"{"memory":{"limit":50331648}}"#, LONG)
        .await
        .unwrap();
    let (version, cgroup) = pod.memory_cgroup("c");
    let file = match version {
        runtime::CgroupVersion::V1 => "memory.limit_in_bytes",
        runtime::CgroupVersion::V2 => "memory.max",
    };
    assert_eq!(
        fs::read_to_string(cgroup.join(file)).unwrap().trim(),
        "50331648"
    );
    pod.runtime
        .update("c", b"{nonsense", LONG)
        .await
        .unwrap_err();
    pod.runtime.pause("c", LONG).await.unwrap();
    assert_eq!(
        pod.runtime.state("c", LONG).await.unwrap().unwrap().status,
        "paused"
    );
    pod.runtime.resume("c", LONG).await.unwrap();
    assert_eq!(
        pod.runtime.state("c", LONG).await.unwrap().unwrap().status,
        "running"
    );
    pod.runtime.kill("c", 9, false, LONG).await.unwrap();
    assert_eq!(pod.exit("c").await.code, 137);
    assert_eq!(
        pod.runtime.state("c", LONG).await.unwrap().unwrap().pid,
        None
    );
}
