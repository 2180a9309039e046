//! Pods whose monitors cannot be reached, are gone, or do not tell at once.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{os::unix::fs::symlink, sync::Arc};

use tokio::time::timeout;

use crate::{
    fake_monitor::FakeMonitor,
    samples::{self, PATIENCE, TestNode, ended, exited, running},
    world::{Container, ContainerState, PodState, World},
};

#[tokio::test]
async fn a_monitor_that_cannot_be_reached_now_is_not_taken_for_dead() {
    let pod = samples::pod();
    let (stays, ends) = (samples::container(&pod.id), samples::container(&pod.id));
    let test = TestNode::new(std::slice::from_ref(&pod), &[stays.clone(), ends.clone()]);
    // To connect fails with ELOOP, as it fails with EMFILE or EAGAIN on a bad day.
    let socket = test.node.paths.monitor_socket(&pod.id);
    let directory = test.node.paths.pod(&pod.id);
    std::fs::create_dir_all(directory).unwrap();
    symlink(&socket, &socket).unwrap();
    test.node.restore_pod(&pod).await;
    assert_eq!(test.state(&stays.id), ContainerState::Running);
    assert_eq!(test.state(&ends.id), ContainerState::Running);
    assert_eq!(
        test.node.ledger.world().pods[&pod.id].state,
        PodState::Ready
    );
    // A stop would take what the monitor holds from under it.
    let refused = test.node.release_pod(&test.node.remains(&pod)).await;
    assert!(refused.is_err());
    // It is reached as soon as it can be.
    std::fs::remove_file(&socket).unwrap();
    let monitor = FakeMonitor::listen(&socket);
    let mut connection = timeout(PATIENCE, monitor.accept()).await.unwrap();
    connection
        .tell_state(vec![running(&stays.id), exited(&ends.id)])
        .await;
    assert_eq!(ended(&test, &ends.id).await, 3);
    assert_eq!(test.state(&stays.id), ContainerState::Running);
    assert!(test.node.live.pod(&pod.id).is_some());
}

#[tokio::test]
async fn without_a_monitor_a_pod_has_ended() {
    let pod = samples::pod();
    let container = samples::container(&pod.id);
    let test = TestNode::new(std::slice::from_ref(&pod), std::slice::from_ref(&container));
    test.node.restore_pod(&pod).await;
    assert_eq!(test.state(&container.id), ContainerState::Exited);
    assert_eq!(
        test.node.ledger.world().pods[&pod.id].state,
        PodState::NotReady
    );
}

#[tokio::test]
async fn a_monitor_is_asked_by_the_connection_that_lasts() {
    let pod = samples::pod();
    // Only who takes stock ends what the monitor does not know.
    let unknown = samples::container(&pod.id);
    let test = TestNode::new(std::slice::from_ref(&pod), std::slice::from_ref(&unknown));
    let fake = FakeMonitor::listen(&test.node.paths.monitor_socket(&pod.id));
    let restored = tokio::spawn({
        let (node, pod) = (Arc::clone(&test.node), pod.clone());
        async move { node.restore_pod(&pod).await }
    });
    let mut first = fake.accept().await;
    first.request().await;
    drop(first);
    let mut lasting = timeout(PATIENCE, fake.accept()).await.unwrap();
    restored.await.unwrap();
    let told = async {
        loop {
            lasting.tell_state(Vec::new()).await;
        }
    };
    tokio::select! {
        code = ended(&test, &unknown.id) => assert_eq!(code, 255),
        () = told => {}
    }
}

#[tokio::test]
async fn a_runtime_that_does_not_tell_keeps_no_other_container_from_its_record() {
    let pod = samples::pod();
    let created = || Container {
        state: ContainerState::Created,
        started_at_unix_ns: 0,
        ..samples::container(&pod.id)
    };
    let containers = [created(), created(), created()];
    // Whichever it is asked for first, it does not tell of.
    let script = r#"case "$*" in
        *state*) if mkdir asked; then exit 1; fi; echo '{"status":"running","pid":1}' ;;
    esac"#;
    let test = TestNode::with_runtime(std::slice::from_ref(&pod), &containers, script).await;
    let fake = FakeMonitor::listen(&test.node.paths.monitor_socket(&pod.id));
    let known = containers
        .iter()
        .map(|container| running(&container.id))
        .collect();
    let answer = async {
        let mut connection = fake.accept().await;
        connection.tell_state(known).await;
        connection
    };
    let ((), _connection) = tokio::join!(test.node.restore_pod(&pod), answer);
    let started = |world: &World| {
        let containers = world.containers.values();
        containers
            .filter(|container| container.state == ContainerState::Running)
            .count()
    };
    assert!(started(&test.node.ledger.world()) >= 2);
    let all = test
        .node
        .ledger
        .until(|world| (started(world) == 3).then_some(()));
    timeout(PATIENCE, all).await.unwrap();
    assert!(test.directory.path().join("asked").exists());
}
