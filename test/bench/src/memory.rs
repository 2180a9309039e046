//! Memory: a server with nothing to do, the same with pods, and what stands beside each pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use pintle_test::processes;

use crate::{
    life::{self, Pod},
    options::{Options, Who},
    requests,
    results::Memory,
    samples::Steps,
    servers::{self, Server},
    stage::Stage,
};

/// Pods that are started or stopped at the same time, as a kubelet would.
const AT_A_TIME: usize = 10;
/// What a server is given to put its memory in order.
const REST: Duration = Duration::from_secs(3);

/// Measures all servers, one after the other: memory does not depend on the machine's load.
pub(crate) async fn measure(_stage: &Stage, options: &Options) -> Result<Vec<Memory>> {
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
        measured.push(one.with_context(|| format!("memory of {}", who.name()))?);
        server.stop().await?;
    }
    Ok(measured)
}

async fn of(server: &Server, options: &Options) -> Result<Memory> {
    // Each with the runtime that its packages bring along.
    let shipped = options.runtimes.iter().find(|runtime| *runtime == "runc");
    let runtime = match (server.who, shipped) {
        (Who::Containerd, Some(runc)) => runc,
        _ => options.first_runtime()?,
    };
    let client = &server.client;
    tokio::time::sleep(REST).await;
    let idle_kib = processes::pss_kib(server.pid())?;
    let before: BTreeSet<u32> = processes::all().iter().map(|process| process.pid).collect();

    let begin = Instant::now();
    let pods: Vec<Pod> = stream::iter(0..options.pods)
        .map(async |_| life::start(client, runtime, &mut Steps::default()).await)
        .buffer_unordered(AT_A_TIME)
        .try_collect()
        .await?;
    let start_s = begin.elapsed().as_secs_f64();
    tokio::time::sleep(REST).await;
    let with_pods_kib = processes::pss_kib(server.pid())?;
    let companions_kib = companions(&before)?;

    let begin = Instant::now();
    stream::iter(&pods)
        .map(async |pod| life::stop(client, pod, &mut Steps::default()).await)
        .buffer_unordered(AT_A_TIME)
        .try_collect::<()>()
        .await?;
    let stop_s = begin.elapsed().as_secs_f64();
    tokio::time::sleep(REST).await;
    Ok(Memory {
        who: server.who,
        runtime: runtime.to_owned(),
        idle_kib,
        with_pods_kib,
        after_kib: processes::pss_kib(server.pid())?,
        pods: options.pods,
        companions_kib,
        start_s,
        stop_s,
    })
}

/// The processes that came since, but for the containers' own.
fn companions(before: &BTreeSet<u32>) -> Result<BTreeMap<String, Vec<u64>>> {
    let payload = requests::COMMAND.join(" ");
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for process in processes::all() {
        if before.contains(&process.pid) || process.zombie || process.command == payload {
            continue;
        }
        let kib = processes::pss_kib(process.pid)?;
        found.entry(process.name).or_default().push(kib);
    }
    Ok(found)
}
