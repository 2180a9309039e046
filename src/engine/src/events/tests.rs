//! Connections that break, and reports that cannot be recorded.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::atomic::Ordering;

use monitor_wire::FromMonitor;
use rstest::rstest;
use runtime::Monitor;
use tokio::time::timeout;

use crate::{
    fake_monitor::{FakeConnection, FakeMonitor},
    samples::{self, PATIENCE, TestNode, ended, exited, running},
    world::{Container, ContainerState, Pod, PodState},
};

/// Makes a node follow a monitor, and answers the monitor with the connection that it is followed by.
async fn follow(test: &TestNode, pod: &Pod) -> (FakeMonitor, FakeConnection) {
    let socket = test.node.paths.monitor_socket(&pod.id);
    let fake = FakeMonitor::listen(&socket);
    let (monitor, reports) = Monitor::connect(&socket).await.unwrap();
    test.node.adopt_monitor(&pod.id, monitor, reports);
    let connection = fake.accept().await;
    (fake, connection)
}

#[tokio::test]
async fn a_monitor_whose_connections_break_is_asked_until_it_tells() {
    let pod = samples::pod();
    let (stays, ends) = (samples::container(&pod.id), samples::container(&pod.id));
    let test = TestNode::new(std::slice::from_ref(&pod), &[stays.clone(), ends.clone()]);
    let (fake, first) = follow(&test, &pod).await;
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
    let test = TestNode::new(std::slice::from_ref(&pod), std::slice::from_ref(&container));
    let (fake, first) = follow(&test, &pod).await;
    drop(fake);
    drop(first);
    assert_eq!(ended(&test, &container.id).await, 255);
    assert!(test.node.live.pod(&pod.id).is_none());
}

#[rstest]
#[case::running(ContainerState::Running, false)]
#[case::quicker_than_its_start(ContainerState::Created, true)]
#[tokio::test]
async fn an_end_that_the_database_refuses_is_an_end_all_the_same(
    #[case] state: ContainerState,
    #[case] starting: bool,
) {
    let pod = samples::pod();
    let container = Container {
        state,
        ..samples::container(&pod.id)
    };
    let test = TestNode::refusing(std::slice::from_ref(&pod), std::slice::from_ref(&container));
    let (_fake, mut monitor) = follow(&test, &pod).await;
    test.make_cgroup(&container);
    test.node
        .live
        .container(&container.id)
        .starting
        .store(starting, Ordering::SeqCst);
    let id = container.id.to_string();
    let exit = exited(&container.id).exit.unwrap();
    monitor.send(0, &FromMonitor::Exited { id, exit }).await;
    assert_eq!(ended(&test, &container.id).await, 3);
    // It is killed after the end is seen; the report of another one comes after both.
    let id = pod.id.to_string();
    monitor.send(0, &FromMonitor::Exited { id, exit }).await;
    let not_ready = test
        .node
        .ledger
        .until(|world| (world.pods[&pod.id].state == PodState::NotReady).then_some(()));
    timeout(PATIENCE, not_ready).await.unwrap();
    assert!(test.was_killed(&container), "what it left behind lives on");
}
