//! What is not done on the paths that have to be quick. Times themselves are `make bench`'s.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use api::cri;
use pintle_test::{
    cni,
    cri::request,
    node::{self, Node, Setup},
    places, processes, registry, settle, world,
};
use serde_json::json;

use crate::{events, lists::many_records};

/// Calls that wait for a disk.
const SYNCS: &str = "fsync,fdatasync,syncfs,sync,sync_file_range,msync";

/// A trace of the server and of all that it and its monitors start from now on.
struct Trace {
    strace: Child,
    file: String,
}

impl Trace {
    async fn begin(node: &Node, name: &str, calls: &str) -> Result<Self> {
        let file = format!("{}/{name}.trace", places::SCRATCH);
        let server = node.server_pid().context("no server")?;
        let mut command = Command::new("strace");
        command.args([
            "-f",
            "-qq",
            "-e",
            &format!("trace={calls}"),
            "-e",
            "signal=none",
            "-o",
            &file,
        ]);
        command.args(["-p", &server.to_string()]);
        for monitor in node::monitors() {
            command.args(["-p", &monitor.pid.to_string()]);
        }
        let strace = command
            .stdin(Stdio::null())
            .spawn()
            .context("running strace")?;
        let trace = Self { strace, file };
        settle::until_true("strace holds every thread of the server", async || {
            let threads = fs::read_dir(format!("/proc/{server}/task"))?;
            let traced = |path: std::path::PathBuf| {
                fs::read_to_string(path.join("status"))
                    .is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
            };
            Ok(threads.flatten().all(|thread| traced(thread.path())))
        })
        .await?;
        Ok(trace)
    }

    /// What was called.
    async fn end(mut self) -> Result<Vec<String>> {
        node::signal(self.strace.id(), rustix::process::Signal::INT)?;
        settle::until("strace ends", async || Ok(self.strace.try_wait()?)).await?;
        let text = fs::read_to_string(&self.file)?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

#[test]
fn nothing_is_synced_between_a_start_request_and_its_answer() {
    world!(async |node| {
        // A pull does sync: the trace would see it.
        let trace = Trace::begin(node, "pull", SYNCS).await?;
        node.cri().pull(&registry::name("tree:latest")).await?;
        let calls = trace.end().await?;
        ensure!(
            !calls.is_empty(),
            "not even a pull syncs: the trace sees nothing"
        );

        node.image("busybox:latest").await?;
        let trace = Trace::begin(node, "start", SYNCS).await?;
        let (pod, id) = node.sleeper("traced").await?;
        node.cri().stop(&id, 0).await?;
        node.cri().remove(&id).await?;
        node.cri().stop_pod(&pod.id).await?;
        node.cri().remove_pod(&pod.id).await?;
        let calls = trace.end().await?;
        // strace itself tells of processes that ended; what counts are calls.
        let syncs: Vec<_> = calls.iter().filter(|line| line.contains("sync")).collect();
        ensure!(syncs.is_empty(), "{syncs:#?}");
        Ok(())
    });
}

#[test]
fn reads_start_no_process_and_touch_no_disk() {
    world!(async |node| {
        let (pod, id) = node.sleeper("read").await?;
        let cri = node.cri();
        let trace = Trace::begin(
            node,
            "reads",
            "execve,fork,vfork,fsync,syncfs,mount,umount2,setns",
        )
        .await?;
        for _ in 0..20 {
            cri.pods(None).await?;
            cri.containers(None).await?;
            cri.pod_status(&pod.id).await?;
            cri.status(&id).await?;
            cri.node_status().await?;
            cri.all_images().await?;
            cri.image(&registry::name("busybox:latest")).await?;
            cri.image_fs().await?;
        }
        let calls = trace.end().await?;
        let calls: Vec<_> = calls.iter().filter(|line| line.contains('(')).collect();
        ensure!(calls.is_empty(), "{calls:#?}");
        Ok(())
    });
}

#[test]
fn statistics_start_no_process_and_write_nothing() {
    world!(async |node| {
        let (pod, id) = node.sleeper("measured").await?;
        let mut runtime = node.cri().runtime;
        let trace = Trace::begin(
            node,
            "statistics",
            "execve,fork,vfork,fsync,syncfs,mount,umount2,unlink,unlinkat,mkdir,mkdirat,rename,renameat2,pwrite64",
        )
        .await?;
        for _ in 0..20 {
            let message = cri::ContainerStatsRequest {
                container_id: id.clone(),
            };
            runtime.container_stats(request(message)).await?;
            let message = cri::PodSandboxStatsRequest {
                pod_sandbox_id: pod.id.clone(),
            };
            runtime.pod_sandbox_stats(request(message)).await?;
            let message = cri::ListContainerStatsRequest { filter: None };
            runtime.list_container_stats(request(message)).await?;
            let message = cri::ListPodSandboxStatsRequest { filter: None };
            runtime.list_pod_sandbox_stats(request(message)).await?;
            let message = cri::ListPodSandboxMetricsRequest {};
            runtime.list_pod_sandbox_metrics(request(message)).await?;
        }
        let calls = trace.end().await?;
        let calls: Vec<_> = calls.iter().filter(|line| line.contains('(')).collect();
        ensure!(calls.is_empty(), "{calls:#?}");
        Ok(())
    });
}

#[test]
fn reads_answer_while_an_operation_hangs() {
    let setup = Setup::default().network(Some(cni::script("stuck"))).plugin(
                "stuck",
                r#"[ "$CNI_COMMAND" = ADD ] && touch /run/test/adding && while [ ! -e /run/test/go ]; do sleep 0.05; done
            [ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.2/24"}]}'; exit 0"#,
            );
    world!(setup, async |node| {
        let (cri, config) = (node.cri(), node.pod_config("stuck")?);
        let stuck = tokio::spawn(async move { cri.run_pod(&config, "").await });
        settle::until_true("the plugin hangs", async || {
            Ok(fs::exists("/run/test/adding")?)
        })
        .await?;
        let cri = node.cri();
        for _ in 0..10 {
            cri.pods(None).await?;
            cri.containers(None).await?;
            cri.node_status().await?;
            cri.image_fs().await?;
        }
        ensure!(!stuck.is_finished(), "it did not hang");
        world::write("/run/test/go", "")?;
        stuck.await??;
        Ok(())
    });
}

#[test]
fn a_list_of_forty_costs_the_server_less_than_ten_single_answers() {
    world!(async |node| {
        let pod = node.run_pod("many").await?;
        node.image("busybox:latest").await?;
        let cri = node.cri();
        let mut ids = Vec::new();
        for number in 0..40 {
            let config = node::container(&format!("c{number}"), "true");
            ids.push(cri.create(&pod.id, &config, &pod.config).await?);
        }
        let server = node.server_pid().context("no server")?;
        let before = processes::cpu_us(server)?;
        for _ in 0..50 {
            ensure!(cri.containers(None).await?.len() == 40, "not all");
        }
        let lists = processes::cpu_us(server)? - before;
        let before = processes::cpu_us(server)?;
        for number in 0..500 {
            cri.status(&ids[number % ids.len()]).await?;
        }
        let singles = processes::cpu_us(server)? - before;
        ensure!(
            lists < singles,
            "50 lists took {lists} µs, 500 answers {singles} µs"
        );
        Ok(())
    });
}

/// How long a list of everything takes at its 99th percentile. Told call by call, for who runs this with `--no-capture`.
async fn slowest_list(node: &Node, count: usize, when: &str) -> Result<Duration> {
    const CALLS: [&str; 6] = [
        "ListPodSandbox",
        "ListContainers",
        "ListImages",
        "ListContainerStats",
        "ListPodSandboxStats",
        "ListPodSandboxMetrics",
    ];
    let (mut times, mut both) = (CALLS.map(|_| Vec::new()), Vec::new());
    for _ in 0..100 {
        let cri = node.cri();
        let mut start = Instant::now();
        let mut took = || {
            let now = Instant::now();
            now - std::mem::replace(&mut start, now)
        };
        let pods = cri.pods(None).await?;
        let of_pods = took();
        let containers = cri.containers(None).await?;
        let of_containers = took();
        ensure!(
            pods.len() >= count && containers.len() >= count,
            "{} pods, {} containers",
            pods.len(),
            containers.len()
        );
        took();
        cri.all_images().await?;
        let of_images = took();
        let message = cri::ListContainerStatsRequest { filter: None };
        let mut runtime = cri.runtime;
        runtime.list_container_stats(request(message)).await?;
        let of_stats = took();
        let message = cri::ListPodSandboxStatsRequest { filter: None };
        runtime.list_pod_sandbox_stats(request(message)).await?;
        let of_pod_stats = took();
        let message = cri::ListPodSandboxMetricsRequest {};
        runtime.list_pod_sandbox_metrics(request(message)).await?;
        let all = [
            of_pods,
            of_containers,
            of_images,
            of_stats,
            of_pod_stats,
            took(),
        ];
        for (times, time) in times.iter_mut().zip(all) {
            times.push(time);
        }
        both.push(of_pods + of_containers);
    }
    let p99 = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() * 99 / 100 - 1]
    };
    let log = node.server_log();
    for (call, times) in CALLS.iter().zip(&mut times) {
        // What the server says of itself; the last hundred are ours.
        let mut own: Vec<Duration> = log
            .lines()
            .rev()
            .filter(|line| line.contains(&format!("method=\"{call}\"")))
            .filter_map(|line| line.split_once("duration_us=")?.1.split(' ').next())
            .filter_map(|micros| micros.parse().ok())
            .map(Duration::from_micros)
            .take(times.len())
            .collect();
        ensure!(
            own.len() == times.len(),
            "the server tells of {}",
            own.len()
        );
        println!(
            "{when}: {call} p99 {:?}, at the server {:?}, half of them within {:?}",
            p99(times),
            p99(&mut own),
            own[own.len() / 2]
        );
    }
    Ok(p99(&mut both))
}

#[test]
fn lists_of_a_thousand_are_as_quick_while_fifty_operations_are_stuck() {
    const RECORDS: usize = 1000;
    // As a node logs, but for the requests' own lines, which tell their times.
    let log = json!({ "log": { "level": "info,pintle_server::request=debug" } });
    let setup = Setup::default().config(log).network(Some(cni::script("stuck"))).plugin(
        "stuck",
        r#"[ "$CNI_COMMAND" = ADD ] && while [ -e /run/test/stuck ]; do sleep 0.5; done
        [ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.2/24"}]}'; exit 0"#,
    );
    world!(setup, async |node| {
        many_records(node, RECORDS, 0).await?;
        let pod = node.run_pod("stubborn").await?;
        node.image("busybox:latest").await?;
        let mut ids = Vec::new();
        for number in 0..25 {
            let name = format!("c{number}");
            let config =
                node::container(&name, "trap '' TERM; echo deaf; while :; do sleep 1; done");
            ids.push(node.start_container(&pod, &config).await?);
            pod.output_with(&name, "deaf").await?;
        }
        world::write("/run/test/stuck", "")?;
        let mut stuck = tokio::task::JoinSet::new();
        // First the pause: what is compared has the same processes beside it.
        let idle = slowest_list(node, RECORDS, "nothing is stuck").await?;
        for number in 0..25 {
            let (cri, config) = (node.cri(), node.pod_config(&format!("stuck{number}"))?);
            stuck.spawn(async move { cri.run_pod(&config, "").await.map(drop) });
        }
        for id in &ids {
            let (cri, id) = (node.cri(), id.clone());
            stuck.spawn(async move { cri.stop(&id, 90).await });
        }
        settle::until_true("fifty operations are stuck", async || {
            let status = node.cri().node_status().await?;
            let info: serde_json::Value = serde_json::from_str(&status.info["node"])?;
            Ok(info["jobs"].as_array().is_some_and(|jobs| jobs.len() == 50))
        })
        .await?;
        // A neighbour of the machine may disturb one round; a lock that is held would disturb all.
        settle::until_true("lists are as quick as before", async || {
            Ok(slowest_list(node, RECORDS, "fifty operations are stuck").await? < idle * 3)
        })
        .await?;
        ensure!(
            stuck.len() == 50 && stuck.try_join_next().is_none(),
            "they were not stuck"
        );
        fs::remove_file("/run/test/stuck")?;
        for id in &ids {
            node.cri().stop(id, 0).await?;
        }
        while let Some(done) = stuck.join_next().await {
            done??;
        }
        Ok(())
    });
}

#[test]
fn a_monitor_keeps_little_memory_to_itself() {
    world!(async |node| {
        node.image("busybox:latest").await?;
        for number in 0..10 {
            node.sleeper(&format!("m{number}")).await?;
        }
        let monitors = node::monitors();
        ensure!(monitors.len() == 10, "{} monitors", monitors.len());
        for monitor in monitors {
            let private = processes::rollup_kib(monitor.pid, "Private_Dirty:")?
                + processes::rollup_kib(monitor.pid, "Private_Clean:")?;
            ensure!(private <= 130, "{private} KiB");
        }
        Ok(())
    });
}

#[test]
fn twenty_pods_later_the_server_holds_what_it_held_before() {
    world!(async |node| -> Result<()> {
        for number in 0..20 {
            let (pod, id) = node.sleeper(&format!("p{number}")).await?;
            node.cri().exec(&id, &["true"], 10).await?;
            node.cri().stop_pod(&pod.id).await?;
            node.cri().remove_pod(&pod.id).await?;
        }
        // The ledger at the end of every test has room for a few late descriptors, not for twenty.
        Ok(())
    });
}

#[test]
fn a_container_that_ends_by_itself_is_noticed_without_asking() {
    world!(async |node| {
        let pod = node.run_pod("noticed").await?;
        let cri = node.cri();
        let mut told = events::subscribe(&cri).await?;
        let id = node.run(&pod, "c", "sleep 0.3").await?;
        // Nothing is asked for until its end is told; the first answer already knows.
        loop {
            let event = events::next(&mut told).await?;
            if event.container_id == id
                && event.container_event_type() == cri::ContainerEventType::ContainerStoppedEvent
            {
                break;
            }
        }
        let state = cri.status(&id).await?.state();
        ensure!(state == cri::ContainerState::ContainerExited, "{state:?}");
        Ok(())
    });
}
