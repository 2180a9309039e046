//! `ListContainers` with many containers: what one call costs the server.
//!
//! The containers are real ones, created and not started, a number of them in each pod. Records could be written into
//! the databases before a server starts, but then they would be what the benchmark thinks that a record is.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use pintle_test::processes;

use crate::{
    options::{Options, Who},
    requests,
    results::List,
    samples::ms,
    servers::{self, Server},
    stage::Stage,
};

/// Containers of one pod.
const PER_POD: u32 = 50;
/// Containers that are created at the same time.
const AT_A_TIME: usize = 4;
/// Calls before those that count.
const WARMUP: u32 = 10;

/// Measures all servers, one after the other: CPU time does not depend much on the machine's load.
pub(crate) async fn measure(_stage: &Stage, options: &Options) -> Result<Vec<List>> {
    let mut measured = Vec::new();
    for who in [Who::Pintle, Who::Containerd] {
        if !options.who.contains(&who) {
            continue;
        }
        let server = Server::start(who, &options.runtimes).await?;
        let one = of(&server, options).await;
        if one.is_err() {
            servers::show_logs();
        }
        measured.push(one.with_context(|| format!("lists of {}", who.name()))?);
        server.stop().await?;
    }
    Ok(measured)
}

async fn of(server: &Server, options: &Options) -> Result<List> {
    let client = &server.client;
    let handler = options.first_runtime()?;
    let (mut pods, mut create_ms) = (Vec::new(), Vec::new());
    for first in (0..options.records).step_by(PER_POD as usize) {
        let config = requests::pod()?;
        let id = client
            .run_pod(&config, handler)
            .await
            .context("RunPodSandbox")?;
        let (id, config) = (&id, &config);
        let count = PER_POD.min(options.records - first);
        let took: Vec<f64> = stream::iter(0..count)
            .map(async |number| {
                let container = requests::container(&format!("c{number}"));
                let begin = Instant::now();
                client
                    .create(id, &container, config)
                    .await
                    .context("CreateContainer")?;
                anyhow::Ok(ms(begin.elapsed()))
            })
            .buffer_unordered(AT_A_TIME)
            .try_collect()
            .await?;
        create_ms.extend(took);
        pods.push(id.clone());
    }

    let mut wall_ms = Vec::new();
    let (mut records, mut cpu_before_us) = (0, 0);
    for call in 0..WARMUP + options.calls {
        if call == WARMUP {
            cpu_before_us = processes::cpu_us(server.pid())?;
        }
        let begin = Instant::now();
        records = client
            .containers(None)
            .await
            .context("ListContainers")?
            .len();
        if call >= WARMUP {
            wall_ms.push(ms(begin.elapsed()));
        }
    }
    let cpu_us = processes::cpu_us(server.pid())? - cpu_before_us;
    ensure!(
        records == options.records as usize,
        "{records} containers are listed"
    );
    let server_kib = processes::pss_kib(server.pid())?;

    stream::iter(&pods)
        .map(async |id| {
            client.stop_pod(id).await.context("StopPodSandbox")?;
            client.remove_pod(id).await.context("RemovePodSandbox")
        })
        .buffer_unordered(AT_A_TIME)
        .try_collect::<()>()
        .await?;
    Ok(List {
        who: server.who,
        records,
        calls: options.calls,
        cpu_ms: std::time::Duration::from_micros(cpu_us).as_secs_f64() * 1e3
            / f64::from(options.calls),
        wall_ms,
        server_kib,
        create_ms,
    })
}
