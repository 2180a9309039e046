//! Connections that break, and reports that cannot be recorded.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use runtime::Monitor;
use tokio::time::timeout;

use crate::{
    fake_monitor::{FakeConnection, FakeMonitor},
    samples::{self, PATIENCE, TestNode, ended, exited, running},
    world::{Container, ContainerState, Pod, PodState},
};

/// A node that follows the monitor of its only pod, with the connection that it follows it by.
async fn followed(pod: &Pod, containers: &[Container]) -> (TestNode, FakeMonitor, FakeConnection) {
    let test = TestNode::new(std::slice::from_ref(pod), containers);
    let socket = test.node.paths.monitor_socket(&pod.id);
    let fake = FakeMonitor::listen(&socket);
    let (monitor, reports) = Monitor::connect(&socket).await.unwrap();
    test.node.adopt_monitor(&pod.id, monitor, reports);
    let connection = fake.accept().await;
    (test, fake, connection)
}

#[tokio::test]
async fn a_monitor_whose_connections_break_is_asked_until_it_tells() {
    let pod = samples::pod();
    let (stays, ends) = (samples::container(&pod.id), samples::container(&pod.id));
    let (test, fake, first) = followed(&pod, &[stays.clone(), ends.clone()]).await;
    drop(first);
    for _ in 0..3 {
        let mut broken = timeout(PATIENCE, fake.accept()).await.unwrap();
        // With the question unanswered.
        broken.request().await;
    }
    let mut lasting = timeout(PATIENCE, fake.accept()).await.unwrap();
    lasting
        .tell_state(vec![running(&stays.id), exited(&ends.id)])
        .await;
    assert_eq!(ended(&test, &ends.id).await, 3);
    assert_eq!(test.state(&stays.id), ContainerState::Running);
    assert_eq!(
        test.node.ledger.world().pods[&pod.id].state,
        PodState::Ready
    );
    // What is asked from now on goes by the connection that lasts.
    let live = test.node.live.pod(&pod.id).unwrap();
    let (asked, ()) = tokio::join!(live.monitor.state(), lasting.tell_state(Vec::new()));
    assert!(asked.is_ok());
}

#[tokio::test]
async fn a_monitor_that_refuses_has_died() {
    let pod = samples::pod();
    let container = samples::container(&pod.id);
    let (test, fake, first) = followed(&pod, std::slice::from_ref(&container)).await;
    drop(fake);
    drop(first);
    assert_eq!(ended(&test, &container.id).await, 255);
    assert!(test.node.live.pod(&pod.id).is_none());
}
