//! Which changes are told, to whom, and in which order.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use rstest::rstest;

use super::*;
use crate::samples;

use LifeEventKind::{Created, Deleted, Started, Stopped};

fn kinds(changes: &[Change]) -> Vec<LifeEventKind> {
    changes.iter().map(|change| change.kind).collect()
}

#[rstest]
#[case(None, Some(PodState::Ready), &[Created, Started])]
#[case(None, Some(PodState::NotReady), &[Created, Stopped])]
#[case(Some(PodState::Ready), Some(PodState::Ready), &[])]
#[case(Some(PodState::Ready), Some(PodState::NotReady), &[Stopped])]
#[case(Some(PodState::NotReady), Some(PodState::NotReady), &[])]
#[case(Some(PodState::Ready), None, &[Stopped, Deleted])]
#[case(Some(PodState::NotReady), None, &[Deleted])]
#[case(None, None, &[])]
fn a_pods_changes(
    #[case] old: Option<PodState>,
    #[case] new: Option<PodState>,
    #[case] wanted: &[LifeEventKind],
) {
    let make = |state| {
        Arc::new(Pod {
            state,
            ..samples::pod()
        })
    };
    let (old, new) = (old.map(make), new.map(make));
    let changes = pod_changes(old.as_ref(), new.as_ref());
    assert_eq!(kinds(&changes), wanted);
    // A deleted pod goes with what it was at last: clients find out by it whose pod it was.
    assert!(changes.iter().all(|change| change.pod.is_some()));
}

#[rstest]
#[case(None, Some(ContainerState::Created), &[Created])]
#[case(Some(ContainerState::Created), Some(ContainerState::Created), &[])]
#[case(Some(ContainerState::Created), Some(ContainerState::Running), &[Started])]
#[case(Some(ContainerState::Created), Some(ContainerState::Exited), &[Stopped])]
#[case(Some(ContainerState::Running), Some(ContainerState::Exited), &[Stopped])]
#[case(Some(ContainerState::Exited), Some(ContainerState::Exited), &[])]
#[case(Some(ContainerState::Exited), None, &[Deleted])]
#[case(Some(ContainerState::Created), None, &[Stopped, Deleted])]
#[case(Some(ContainerState::Running), None, &[Stopped, Deleted])]
#[case(None, None, &[])]
fn a_containers_changes(
    #[case] old: Option<ContainerState>,
    #[case] new: Option<ContainerState>,
    #[case] wanted: &[LifeEventKind],
) {
    let make = |state| Container {
        state,
        ..samples::container(&samples::pod().id)
    };
    let (old, new) = (old.map(make), new.map(make));
    let changes = container_changes(old.as_ref(), new.as_ref(), None);
    assert_eq!(kinds(&changes), wanted);
}

fn pod_event(feed: &Feed, pod: &Arc<Pod>, number: &mut i64) {
    let world = Arc::new(World::default());
    feed.tell(pod_changes(Some(pod), None), &world, || {
        *number += 1;
        *number
    });
}

#[tokio::test]
async fn every_subscriber_gets_every_event_in_order() {
    let feed = Feed::default();
    feed.open(Vec::new());
    let world = Arc::new(World::default());
    let mut subscribers = [feed.subscribe(&world, || 0), feed.subscribe(&world, || 0)];
    let pod = Arc::new(samples::pod());
    let mut number = 0;
    pod_event(&feed, &pod, &mut number);
    for subscriber in &mut subscribers {
        for wanted in [(Stopped, 1), (Deleted, 2)] {
            let event = subscriber.next().await.unwrap().unwrap();
            assert_eq!((event.kind, event.at_unix_ns), wanted);
            assert_eq!(event.subject.id(), pod.id.as_str());
        }
    }
    drop(feed);
    assert!(subscribers[0].next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_told_that_it_lost_events() {
    let feed = Feed::default();
    feed.open(Vec::new());
    let world = Arc::new(World::default());
    let mut slow = feed.subscribe(&world, || 0);
    let pod = Arc::new(samples::pod());
    let mut number = 0;
    for _ in 0..RING_EVENTS {
        pod_event(&feed, &pod, &mut number);
    }
    let events = RING_EVENTS as u64;
    assert_eq!(slow.next().await.unwrap_err(), Lost { events });
    // And what it did not read is not kept for it.
    drop(slow);
    assert_eq!(feed.sender.receiver_count(), 0);
}

#[tokio::test]
async fn what_stopped_during_the_start_is_told_to_those_who_come_later() {
    let feed = Feed::default();
    let pod = Arc::new(samples::pod());
    let gone = Arc::new(Pod {
        id: PodId::random(),
        ..samples::pod()
    });
    let running = Arc::new(samples::container(&pod.id));
    let ended = Arc::new(Container {
        state: ContainerState::Exited,
        ..Container::clone(&running)
    });
    let mut world = World::default();
    world.pods.insert(pod.id.clone(), Arc::clone(&pod));
    world
        .containers
        .insert(ended.id.clone(), Arc::clone(&ended));
    let world = Arc::new(world);
    let changes = container_changes(Some(&running), Some(&ended), Some(&pod));
    feed.tell(changes, &world, || 1);
    feed.tell(pod_changes(Some(&gone), None), &world, || 2);
    feed.open(Vec::new());
    for _ in 0..2 {
        let mut subscriber = feed.subscribe(&world, || 3);
        let event = subscriber.next().await.unwrap().unwrap();
        assert_eq!((event.kind, event.at_unix_ns), (Stopped, 3));
        assert_eq!(event.subject.id(), ended.id.as_str());
        assert_eq!(event.pod.unwrap().id, pod.id);
        assert!(
            subscriber.meanwhile.next().is_none(),
            "what is gone is told"
        );
    }
}

#[tokio::test]
async fn recent_stops_on_record_are_told_once_more() {
    const SECOND: i64 = 1_000_000_000;
    let now = 10_000 * SECOND;
    let pod = Arc::new(samples::pod());
    let paused_out = Arc::new(Pod {
        id: PodId::random(),
        state: PodState::NotReady,
        ..samples::pod()
    });
    let stopped = Arc::new(Pod {
        id: PodId::random(),
        state: PodState::NotReady,
        released: true,
        ..samples::pod()
    });
    let ended = |seconds_ago| {
        Arc::new(Container {
            state: ContainerState::Exited,
            finished_at_unix_ns: now - seconds_ago * SECOND,
            ..samples::container(&pod.id)
        })
    };
    let (old, early, late) = (ended(3_600), ended(20), ended(10));
    let mut world = World::default();
    for pod in [&pod, &paused_out, &stopped] {
        world.pods.insert(pod.id.clone(), Arc::clone(pod));
    }
    let running = Arc::new(samples::container(&pod.id));
    for container in [&old, &late, &early, &running] {
        world
            .containers
            .insert(container.id.clone(), Arc::clone(container));
    }
    let world = Arc::new(world);
    let feed = Feed::default();
    // The restore found one of them anew.
    let found = container_changes(Some(&running), Some(&late), Some(&pod));
    feed.tell(found, &world, || 1);
    feed.open(recent_stops(&world, now));
    let mut subscriber = feed.subscribe(&world, || 3);
    for wanted in [late.id.as_str(), early.id.as_str(), paused_out.id.as_str()] {
        let event = subscriber.next().await.unwrap().unwrap();
        assert_eq!((event.kind, event.subject.id()), (Stopped, wanted));
    }
    assert!(subscriber.meanwhile.next().is_none());
}
