//! Pods one after the other: each contender starts, executes in, stops and removes one, then the next contender does.

use std::time::Duration;

use anyhow::{Context, Result};
use pintle_test::cri::Client;

use crate::{
    floor::{self, Floor},
    options::{Options, Who},
    requests,
    results::Life,
    samples::Steps,
    servers::{self, Server},
    stage::Stage,
};

/// Calls of a start.
pub(crate) const START_STEPS: &[&str] = &["RunPodSandbox", "CreateContainer", "StartContainer"];
/// Calls of a stop.
pub(crate) const STOP_STEPS: &[&str] = &[
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];
/// The sum of [`START_STEPS`].
pub(crate) const POD_START: &str = "pod start";
/// The sum of [`STOP_STEPS`].
pub(crate) const POD_STOP: &str = "pod stop";
/// The floor's network and runtime share of a stop.
pub(crate) const DEL_AND_DELETE: &str = "CNI DEL + delete";
/// The probe.
pub(crate) const EXEC: &str = "ExecSync";

/// One who makes pods.
enum Contender {
    Floor(Box<Floor>),
    Server(Box<Client>),
}

/// Measures all contenders.
pub(crate) async fn measure(stage: &Stage, options: &Options) -> Result<Vec<Life>> {
    let mut running = Vec::new();
    for who in [Who::Pintle, Who::Containerd] {
        if options.who.contains(&who) {
            running.push(Server::start(who, &options.runtimes).await?);
        }
    }
    let mut contenders = Vec::new();
    for runtime in &options.runtimes {
        if options.who.contains(&Who::Floor) {
            let floor = Floor::new(runtime, &stage.conflist)?;
            contenders.push((
                Contender::Floor(Box::new(floor)),
                Life::new(Who::Floor, runtime),
            ));
        }
        for server in &running {
            contenders.push((
                Contender::Server(Box::new(server.client.clone())),
                Life::new(server.who, runtime),
            ));
        }
    }
    let lived = rounds(options, &mut contenders).await;
    if lived.is_err() {
        servers::show_logs();
    }
    lived?;
    for server in running {
        server.stop().await?;
    }
    Ok(contenders.into_iter().map(|(_, life)| life).collect())
}

async fn rounds(options: &Options, contenders: &mut [(Contender, Life)]) -> Result<()> {
    for round in 0..options.warmup + options.iterations {
        for (contender, life) in contenders.iter_mut() {
            let steps = contender
                .live(&life.runtime)
                .await
                .with_context(|| format!("a pod of {}", life.name()))?;
            if round >= options.warmup {
                life.add(&steps);
            }
            // The kernel still takes the namespace and its interfaces apart, holding locks that the next pod wants.
            tokio::time::sleep(Duration::from_millis(options.settle_ms)).await;
        }
        // Nobody always comes after the same other.
        contenders.reverse();
        if round % 10 == 9 {
            eprintln!("bench: {} rounds", round + 1);
        }
    }
    contenders
        .sort_by(|(_, one), (_, other)| (one.who, &one.runtime).cmp(&(other.who, &other.runtime)));
    Ok(())
}

impl Contender {
    async fn live(&self, runtime: &str) -> Result<Steps> {
        match self {
            // Nothing else is to be done meanwhile, so it may block.
            Self::Floor(floor) => by_hand(floor),
            Self::Server(client) => {
                let mut steps = Steps::default();
                let pod = start(client, runtime, &mut steps).await?;
                let probe = client.exec(&pod.container, requests::PROBE, 30);
                let answer = steps.time_async(EXEC, probe).await.context(EXEC)?;
                anyhow::ensure!(answer.exit_code == 0, "{EXEC}: {answer:?}");
                stop(client, &pod, &mut steps).await?;
                Ok(steps)
            }
        }
    }
}

/// A life whose steps are summed up as the calls of a server.
fn by_hand(floor: &Floor) -> Result<Steps> {
    let mut steps = Steps::default();
    let pod = floor.start(&mut steps)?;
    floor.exec(&pod, &mut steps)?;
    floor.stop(&pod, &mut steps)?;
    let calls = [
        ("RunPodSandbox", floor::RUN_POD),
        ("CreateContainer", floor::CREATE),
        ("StartContainer", floor::START),
        ("StopContainer", floor::STOP),
        ("RemoveContainer", floor::REMOVE),
        ("StopPodSandbox", floor::STOP_POD),
        ("RemovePodSandbox", floor::REMOVE_POD),
        (DEL_AND_DELETE, floor::DEL_AND_DELETE),
    ];
    for (call, parts) in calls {
        let ms = steps.sum(parts);
        steps.note(call, ms);
    }
    steps.note(POD_START, steps.sum(START_STEPS));
    steps.note(POD_STOP, steps.sum(STOP_STEPS));
    Ok(steps)
}

/// A pod of a server.
#[derive(Debug)]
pub(crate) struct Pod {
    id: String,
    container: String,
}

/// Starts a pod with a container.
pub(crate) async fn start(client: &Client, handler: &str, steps: &mut Steps) -> Result<Pod> {
    let pod = requests::pod()?;
    let container = requests::container("c");
    let id = steps
        .time_async("RunPodSandbox", client.run_pod(&pod, handler))
        .await
        .context("RunPodSandbox")?;
    let container = steps
        .time_async("CreateContainer", client.create(&id, &container, &pod))
        .await
        .context("CreateContainer")?;
    steps
        .time_async("StartContainer", client.start(&container))
        .await
        .context("StartContainer")?;
    steps.note(POD_START, steps.sum(START_STEPS));
    Ok(Pod { id, container })
}

/// Stops and removes it.
pub(crate) async fn stop(client: &Client, pod: &Pod, steps: &mut Steps) -> Result<()> {
    steps
        .time_async("StopContainer", client.stop(&pod.container, 0))
        .await
        .context("StopContainer")?;
    steps
        .time_async("RemoveContainer", client.remove(&pod.container))
        .await
        .context("RemoveContainer")?;
    steps
        .time_async("StopPodSandbox", client.stop_pod(&pod.id))
        .await
        .context("StopPodSandbox")?;
    steps
        .time_async("RemovePodSandbox", client.remove_pod(&pod.id))
        .await
        .context("RemovePodSandbox")?;
    steps.note(POD_STOP, steps.sum(STOP_STEPS));
    Ok(())
}
