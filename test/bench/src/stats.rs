//! `ListContainerStats` and `ListPodSandboxStats` with many running pods: how long a client waits, and what it costs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use api::cri;
use futures_util::{StreamExt, TryStreamExt, stream};
use pintle_test::{cri::Client, cri::request, processes};

use crate::{
    life::{self, Pod},
    options::{Options, Who},
    results::Stats,
    samples::{Steps, ms},
    servers::{self, Server},
    stage::Stage,
};

/// Pods that are started or stopped at the same time.
const AT_A_TIME: usize = 10;
/// Calls before those that count.
const WARMUP: u32 = 5;
/// What all servers are given to come to rest after the pods' start.
const REST: Duration = Duration::from_secs(3);

/// The calls that are measured.
pub(crate) const CONTAINERS: &str = "ListContainerStats";
/// The same for pods.
pub(crate) const PODS: &str = "ListPodSandboxStats";

/// Measures all servers, taking turns call by call.
pub(crate) async fn measure(_stage: &Stage, options: &Options) -> Result<Vec<Stats>> {
    let mut running = Vec::new();
    for who in [Who::Pintle, Who::Containerd] {
        if options.who.contains(&who) {
            running.push(Server::start(who, &options.runtimes).await?);
        }
    }
    let measured = with_pods(&running, options).await;
    if measured.is_err() {
        servers::show_logs();
    }
    let measured = measured?;
    for server in running {
        server.stop().await?;
    }
    Ok(measured)
}

async fn with_pods(running: &[Server], options: &Options) -> Result<Vec<Stats>> {
    let mut pods = Vec::new();
    for server in running {
        let started: Vec<Pod> = stream::iter(0..options.pods)
            .map(async |_| {
                let runtime = options.first_runtime()?;
                life::start(&server.client, runtime, &mut Steps::default()).await
            })
            .buffer_unordered(AT_A_TIME)
            .try_collect()
            .await?;
        pods.push(started);
    }
    tokio::time::sleep(REST).await;
    let mut measured = Vec::new();
    for call in [CONTAINERS, PODS] {
        measured.extend(turns(running, call, options).await?);
    }
    for (server, pods) in running.iter().zip(&pods) {
        stream::iter(pods)
            .map(async |pod| life::stop(&server.client, pod, &mut Steps::default()).await)
            .buffer_unordered(AT_A_TIME)
            .try_collect::<()>()
            .await?;
    }
    Ok(measured)
}

async fn turns(running: &[Server], call: &str, options: &Options) -> Result<Vec<Stats>> {
    let mut measured: Vec<Stats> = running
        .iter()
        .map(|server| Stats {
            who: server.who,
            call: call.to_owned(),
            items: 0,
            wall_ms: Vec::new(),
            cpu_ms: 0.0,
        })
        .collect();
    for turn in 0..WARMUP + options.calls {
        for (server, stats) in running.iter().zip(&mut measured) {
            let cpu_before_us = processes::cpu_us(server.pid())?;
            let begin = Instant::now();
            let items = list(&server.client, call)
                .await
                .with_context(|| format!("{call} of {}", server.who.name()))?;
            if turn < WARMUP {
                continue;
            }
            stats.items = items;
            stats.wall_ms.push(ms(begin.elapsed()));
            let cpu = Duration::from_micros(processes::cpu_us(server.pid())? - cpu_before_us);
            stats.cpu_ms += ms(cpu) / f64::from(options.calls);
        }
    }
    Ok(measured)
}

/// How many items the answer has.
async fn list(client: &Client, call: &str) -> Result<usize> {
    let mut runtime = client.runtime.clone();
    Ok(if call == CONTAINERS {
        let message = cri::ListContainerStatsRequest { filter: None };
        runtime
            .list_container_stats(request(message))
            .await?
            .into_inner()
            .len()
    } else {
        let message = cri::ListPodSandboxStatsRequest { filter: None };
        runtime
            .list_pod_sandbox_stats(request(message))
            .await?
            .into_inner()
            .len()
    })
}
