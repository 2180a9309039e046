//! The server goes, the monitor stays; the monitor goes, the exit files stay.

use std::{fs, time::Duration};

use runtime::{Exit, Monitor, MonitorEvent, RuntimeError};

use crate::{
    pod::{Pod, Wanted, eventually, sh},
    with_each_runtime,
};

with_each_runtime!(
    events_missed_are_in_the_state,
    a_creation_outlives_its_requester,
    a_killed_monitor,
    odd_requests
);

async fn events_missed_are_in_the_state(pod: &Pod) {
    pod.run(
        "c",
        &Wanted {
            args: &sh("sleep 0.5; echo hello; exit 9"),
            ..Wanted::default()
        },
    )
    .await;
    // The pod's own connection is the test's; a second one stands for the server that comes back.
    let (before, events) = Monitor::connect(pod.monitor.socket()).await.unwrap();
    before.state().await.unwrap();
    drop((before, events));
    assert_eq!(pod.exit("c").await.code, 9);
    let (after, mut events) = Monitor::connect(pod.monitor.socket()).await.unwrap();
    let state = after.state().await.unwrap();
    assert_eq!(state.first().unwrap().exit.unwrap().code, 9);
    after.forget("c").await.unwrap();
    pod.runtime
        .delete("c", true, Duration::from_secs(10))
        .await
        .unwrap();
    drop(after);
    assert_eq!(events.recv().await, Some(MonitorEvent::Disconnected));
    assert_eq!(events.recv().await, None);
}

async fn a_creation_outlives_its_requester(pod: &Pod) {
    let (gone, events) = Monitor::connect(pod.monitor.socket()).await.unwrap();
    let request = pod.request(
        "c",
        &Wanted {
            args: &["/bin/sleep", "1000"],
            ..Wanted::default()
        },
    );
    {
        let creation = gone.create(&request);
        tokio::pin!(creation);
        // Long enough to be sent, too short to be done.
        let _ = tokio::time::timeout(Duration::from_millis(3), &mut creation).await;
    }
    drop((gone, events));
    let mut pid = None;
    for _ in 0..1000 {
        pid = pod.container("c").await.and_then(|container| container.pid);
        if pid.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(pid.is_some());
    pod.start("c").await;
    pod.monitor.signal("c", 9).await.unwrap();
    assert_eq!(pod.exit("c").await.code, 137);
}

async fn a_killed_monitor(pod: &Pod) {
    let request = pod.request(
        "c",
        &Wanted {
            args: &sh("exit 5"),
            ..Wanted::default()
        },
    );
    let socket = pod.path("second.sock");
    let runtime::SpawnedMonitor {
        monitor,
        mut events,
        ..
    } = Monitor::spawn(&runtime::MonitorSpawn {
        binary: Pod::binary(),
        pod_id: "second".to_owned(),
        socket: socket.clone(),
        log: None,
    })
    .await
    .unwrap();
    let pid = monitor.create(&request).await.unwrap().pid;
    let parent = parent_of(pid);
    pod.start("c").await;
    assert!(matches!(
        events.recv().await,
        Some(MonitorEvent::Exited(..))
    ));
    let parent = rustix::process::Pid::from_raw(parent).unwrap();
    rustix::process::kill_process(parent, rustix::process::Signal::KILL).unwrap();
    assert_eq!(events.recv().await, Some(MonitorEvent::Disconnected));
    let error = monitor.state().await.unwrap_err();
    assert!(
        matches!(error, RuntimeError::Disconnected { .. }),
        "{error}"
    );
    // The kernel closes a killed process's sockets one after the other.
    let start = std::time::Instant::now();
    let error = loop {
        match Monitor::connect(&socket).await {
            Err(error) => break error,
            Ok(_) => assert!(start.elapsed() < crate::pod::LONG, "it still listens"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(
        matches!(error, RuntimeError::Disconnected { .. }),
        "{error}"
    );
    let exit: Exit = serde_json::from_slice(&fs::read(pod.path("c/exit")).unwrap()).unwrap();
    assert_eq!(exit.code, 5);
    pod.runtime
        .delete("c", true, Duration::from_secs(10))
        .await
        .unwrap();
}

fn parent_of(pid: u32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

/// What no client of ours sends: a later release's request, garbage, half a frame.
async fn odd_requests(pod: &Pod) {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream,
    };

    use monitor_wire::{Failure, Frame, FrameBuffer, FromMonitor};

    let mut stream = UnixStream::connect(pod.monitor.socket()).unwrap();
    let frame = Frame {
        descriptors: 0,
        kind: 77,
        correlation: 5,
        body: vec![],
    };
    stream.write_all(&frame.encode().unwrap()).unwrap();
    let mut buffer = FrameBuffer::default();
    let reply = loop {
        if let Some(frame) = buffer.next_frame().unwrap() {
            break frame;
        }
        let mut bytes = [0; 512];
        let length = stream.read(&mut bytes).unwrap();
        assert_ne!(length, 0);
        buffer.push(&bytes[..length]);
    };
    assert_eq!(reply.correlation, 5);
    let FromMonitor::Failed { failure, .. } = FromMonitor::from_frame(&reply).unwrap() else {
        panic!()
    };
    assert_eq!(failure, Failure::Unsupported);

    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[255; 64],
        &[8, 0, 0, 0, 1, 3, 7, 0, 1, 0, 0, 0],
    ] {
        let mut stream = UnixStream::connect(pod.monitor.socket()).unwrap();
        stream.write_all(garbage).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
    let half = UnixStream::connect(pod.monitor.socket()).unwrap();
    (&half).write_all(&[8, 0, 0]).unwrap();
    assert_eq!(pod.monitor.state().await.unwrap(), []);
    drop(half);
    let complaints = || {
        fs::read_to_string(pod.path("monitor.log"))
            .unwrap()
            .lines()
            .count()
    };
    eventually("it complained", || complaints() >= 3).await;
}
