//! GetContainerEvents: what is told, in which order, to whom, and what slow readers and dying servers do to it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use api::cri::{self, ContainerEventResponse, ContainerEventType, ContainerState, PodSandboxState};
use pintle_test::{
    cri::{Client, request},
    node::{self, Node},
    places, processes, settle, world,
};
use tonic::{Code, Streaming};

use ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
    ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
};

type Events = Streaming<ContainerEventResponse>;

pub(crate) async fn subscribe(client: &Client) -> Result<Events> {
    let events = client
        .runtime
        .clone()
        .get_container_events(request(cri::GetEventsRequest {}))
        .await
        .context("GetContainerEvents")?;
    Ok(events.into_inner())
}

pub(crate) async fn next(events: &mut Events) -> Result<ContainerEventResponse> {
    events
        .message()
        .await
        .context("an event")?
        .context("the stream ended")
}

/// All events up to the deletion of `id`.
async fn until_deleted(events: &mut Events, id: &str) -> Result<Vec<ContainerEventResponse>> {
    let mut seen = Vec::new();
    loop {
        let event = next(events).await?;
        let last = event.container_id == id && event.container_event_type() == Deleted;
        seen.push(event);
        if last {
            return Ok(seen);
        }
    }
}

async fn end_of(node: &Node, pod: &node::Pod, container: &str) -> Result<()> {
    let cri = node.cri();
    cri.stop(container, 0).await?;
    cri.remove(container).await?;
    cri.stop_pod(&pod.id).await?;
    cri.remove_pod(&pod.id).await?;
    Ok(())
}

#[test]
fn a_pods_life_is_told_in_order_with_the_statuses_of_each_moment() {
    world!(async |node| {
        node.image("busybox:latest").await?;
        let mut events = subscribe(&node.cri()).await?;
        let (pod, id) = node.sleeper("life").await?;
        end_of(node, &pod, &id).await?;
        let seen = until_deleted(&mut events, &pod.id).await?;
        let order: Vec<_> = seen
            .iter()
            .map(|event| (event.container_id.as_str(), event.container_event_type()))
            .collect();
        let (pod_id, id) = (pod.id.as_str(), id.as_str());
        ensure!(
            order
                == [
                    (pod_id, Created),
                    (pod_id, Started),
                    (id, Created),
                    (id, Started),
                    (id, Stopped),
                    (id, Deleted),
                    (pod_id, Stopped),
                    (pod_id, Deleted),
                ],
            "{order:?}"
        );
        ensure!(
            seen.windows(2)
                .all(|pair| pair[0].created_at < pair[1].created_at),
            "not one after the other"
        );
        let states: Vec<_> = seen
            .iter()
            .map(|event| {
                event
                    .containers_statuses
                    .iter()
                    .map(cri::ContainerStatus::state)
                    .collect::<Vec<_>>()
            })
            .collect();
        ensure!(
            states
                == [
                    vec![],
                    vec![],
                    vec![ContainerState::ContainerCreated],
                    vec![ContainerState::ContainerRunning],
                    vec![ContainerState::ContainerExited],
                    vec![],
                    vec![],
                    vec![],
                ],
            "{states:?}"
        );
        for (number, event) in seen.iter().enumerate() {
            let status = event
                .pod_sandbox_status
                .as_ref()
                .context("no status of the pod")?;
            let ready = number < 6;
            ensure!(status.id == pod.id, "{status:?}");
            ensure!(
                (status.state() == PodSandboxState::SandboxReady) == ready,
                "{number}: {status:?}"
            );
            // What the kubelet finds its pod by.
            ensure!(status.metadata == pod.config.metadata, "{status:?}");
        }
        Ok(())
    });
}

#[test]
fn what_an_event_tells_is_visible_and_newer_than_what_was_seen_before() {
    world!(async |node| {
        let (pod, id) = node.sleeper("seen").await?;
        let cri = node.cri();
        let look = async || -> Result<cri::PodSandboxStatusResponse> {
            let message = cri::PodSandboxStatusRequest {
                pod_sandbox_id: pod.id.clone(),
                verbose: false,
            };
            let mut runtime = cri.runtime.clone();
            let answer = runtime.pod_sandbox_status(request(message)).await?;
            Ok(answer.into_inner())
        };
        let mut events = subscribe(&cri).await?;
        let before = look().await?;
        cri.stop(&id, 0).await?;
        let event = next(&mut events).await?;
        ensure!(event.container_event_type() == Stopped, "{event:?}");
        ensure!(
            event.created_at > before.timestamp,
            "the event of {} is older than a status of {}",
            event.created_at,
            before.timestamp
        );
        let after = look().await?;
        ensure!(after.timestamp > event.created_at, "{after:?}");
        ensure!(
            after.containers_statuses == event.containers_statuses,
            "{after:?}\ninstead of\n{event:?}"
        );
        ensure!(after.status == event.pod_sandbox_status, "{after:?}");
        Ok(())
    });
}

#[test]
fn what_ends_at_once_is_told_to_have_started() {
    world!(async |node| {
        let pod = node.run_pod("quick").await?;
        node.image("busybox:latest").await?;
        let mut events = subscribe(&node.cri()).await?;
        for number in 0..10 {
            let config = node::container(&format!("c{number}"), "exit 3");
            let id = node.start_container(&pod, &config).await?;
            for wanted in [Created, Started, Stopped] {
                let event = next(&mut events).await?;
                ensure!(
                    event.container_id == id && event.container_event_type() == wanted,
                    "{number}: {event:?} instead of {wanted:?}"
                );
            }
        }
        Ok(())
    });
}

#[test]
fn every_subscriber_is_told_and_one_that_comes_back_is_told_what_follows() {
    world!(async |node| {
        node.image("busybox:latest").await?;
        let (mut stays, goes) = (
            subscribe(&node.cri()).await?,
            subscribe(&Client::connect(places::SOCKET).await?).await?,
        );
        drop(goes);
        let (first, first_id) = node.sleeper("first").await?;
        let mut back = subscribe(&Client::connect(places::SOCKET).await?).await?;
        end_of(node, &first, &first_id).await?;
        let (second, second_id) = node.sleeper("second").await?;
        end_of(node, &second, &second_id).await?;
        let all = until_deleted(&mut stays, &second.id).await?;
        let rest = until_deleted(&mut back, &second.id).await?;
        ensure!(all.len() == 16, "{} events", all.len());
        ensure!(rest == all[4..], "{rest:?}");
        Ok(())
    });
}

#[test]
fn a_subscriber_that_does_not_read_is_cut_off_and_holds_up_nobody() {
    /// More than what the server keeps for a subscriber, and what lies in buffers on the way to it.
    const CONTAINERS: u32 = 220;
    world!(async |node| {
        let mut config = node.pod_config("slow")?;
        // Few events fill the buffers on the way then.
        config
            .annotations
            .insert("big".to_owned(), "x".repeat(400 << 10));
        let pod = node.run_pod_as(config).await?;
        node.image("busybox:latest").await?;
        let mut slow = subscribe(&Client::connect(places::SOCKET).await?).await?;
        let quick = tokio::spawn(async move {
            let client = Client::connect(places::SOCKET).await?;
            let mut events = subscribe(&client).await?;
            let mut told: BTreeMap<String, Vec<ContainerEventType>> = BTreeMap::new();
            let mut deleted = 0;
            while deleted < CONTAINERS {
                let event = next(&mut events).await?;
                let kind = event.container_event_type();
                deleted += u32::from(kind == Deleted);
                told.entry(event.container_id).or_default().push(kind);
            }
            anyhow::Ok(told)
        });
        let mut workers = tokio::task::JoinSet::new();
        for worker in 0..4 {
            let (cri, pod) = (node.cri(), pod.clone());
            workers.spawn(async move {
                // The copy of the pod's configuration says nothing new, and would be sent each time.
                let short = cri::PodSandboxConfig::default();
                for number in 0..CONTAINERS / 4 {
                    let config = node::container(&format!("c{worker}-{number}"), "true");
                    let id = cri.create(&pod.id, &config, &short).await?;
                    cri.remove(&id).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(worker) = workers.join_next().await {
            worker??;
        }
        let told = quick.await??;
        ensure!(told.len() == CONTAINERS as usize, "{} told", told.len());
        for kinds in told.values() {
            ensure!(*kinds == [Created, Stopped, Deleted], "{kinds:?}");
        }
        let refused = loop {
            match slow.message().await {
                Ok(Some(_)) => {}
                Ok(None) => bail!("the stream ended without a word"),
                Err(status) => break status,
            }
        };
        ensure!(refused.code() == Code::ResourceExhausted, "{refused:?}");
        ensure!(
            refused.message().contains("subscribe again and list"),
            "{refused:?}"
        );
        Ok(())
    });
}

#[test]
fn streams_end_with_the_server_and_do_not_hold_it_up() {
    world!(async |node| {
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(subscribe(&node.cri()).await?);
        }
        let status = node.stop_server().await?;
        ensure!(status.success(), "{status}");
        for mut events in streams {
            match events.message().await {
                Err(status) => {
                    ensure!(
                        status.code() == Code::Unavailable
                            && status.message().contains("subscribe again"),
                        "{status:?}"
                    );
                }
                other => bail!("{other:?}"),
            }
        }
        ensure!(
            !node.server_log().contains("calls are cut off"),
            "the server waited for the streams until its patience ended"
        );
        Ok(())
    });
}

#[test]
fn what_ended_while_no_server_ran_is_told_by_the_next_one() {
    const GO: &str = "/run/test/go";
    world!(async |node| {
        world::make_dirs(GO)?;
        let pod = node.run_pod("meanwhile").await?;
        node.image("busybox:latest").await?;
        let script = "while [ ! -e /run/go/now ]; do sleep 0.05; done; exit 3";
        let mut config = node::container("ends", script);
        config.mounts.push(cri::Mount {
            host_path: GO.to_owned(),
            container_path: "/run/go".to_owned(),
            ..cri::Mount::default()
        });
        let ends = node.start_container(&pod, &config).await?;
        let stays = node.run(&pod, "stays", node::SLEEP).await?;
        let pid = node.cri().pid(&ends).await?;
        node.kill_server()?;
        world::write(format!("{GO}/now"), "")?;
        settle::until_true("it has ended", async || Ok(processes::read(pid).is_none())).await?;
        node.start_server().await?;
        // Also whoever comes second.
        for _ in 0..2 {
            let mut events = subscribe(&node.cri()).await?;
            let event = next(&mut events).await?;
            ensure!(
                event.container_id == ends && event.container_event_type() == Stopped,
                "{event:?}"
            );
            let statuses: BTreeMap<_, _> = event
                .containers_statuses
                .iter()
                .map(|status| (status.id.clone(), status.clone()))
                .collect();
            ensure!(statuses[&ends].exit_code == 3, "{event:?}");
            ensure!(event.created_at > statuses[&ends].finished_at, "{event:?}");
            ensure!(
                statuses[&stays].state() == ContainerState::ContainerRunning,
                "{event:?}"
            );
        }
        let mut events = subscribe(&node.cri()).await?;
        next(&mut events).await?;
        // What goes on is not told to have stopped; what comes next is what happens next.
        node.cri().stop(&stays, 0).await?;
        let event = next(&mut events).await?;
        ensure!(event.container_id == stays, "{event:?}");
        Ok(())
    });
}

#[test]
fn what_ends_while_the_server_ends_is_told() {
    world!(async |node| {
        let pod = node.run_pod("drain").await?;
        node.image("busybox:latest").await?;
        let script = "trap 'sleep 2; exit 4' TERM; while :; do sleep 0.05; done";
        let ends = node.run(&pod, "ends", script).await?;
        let mut events = subscribe(&node.cri()).await?;
        // A stop that goes on when the server is told to end.
        let client = node.cri();
        let stopping = tokio::spawn({
            let ends = ends.clone();
            async move { client.stop(&ends, 30).await }
        });
        settle::until_true("the container ends", async || {
            // Not the shell, which has the same words in its script.
            let sleeps = processes::with_command("sleep 2");
            Ok(sleeps
                .iter()
                .any(|process| process.command.starts_with("sleep")))
        })
        .await?;
        let status = node.stop_server().await?;
        ensure!(status.success(), "{status}");
        stopping.await.context("the stop")??;
        let event = next(&mut events).await?;
        ensure!(
            event.container_id == ends && event.container_event_type() == Stopped,
            "{event:?}"
        );
        // Last of all.
        match events.message().await {
            Err(status) => ensure!(status.code() == Code::Unavailable, "{status:?}"),
            other => bail!("{other:?}"),
        }
        // Who had gone already is told by the next server.
        node.start_server().await?;
        let mut events = subscribe(&node.cri()).await?;
        let event = next(&mut events).await?;
        ensure!(
            event.container_id == ends && event.container_event_type() == Stopped,
            "{event:?}"
        );
        Ok(())
    });
}
