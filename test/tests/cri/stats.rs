//! What containers and pods use: values against containers that use something on purpose, filters, what is gone, metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fs,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use api::{cri, list::Items};
use pintle_test::{
    cri::{refused, request},
    driver,
    node::{self, Node, Pod},
    settle, world,
};
use tonic::Code;

const MIB: u64 = 1 << 20;

/// Uses what it gets of one CPU.
const BURN: &str = "while :; do :; done";

fn value(number: Option<cri::UInt64Value>) -> Option<u64> {
    number.map(|number| number.value)
}

async fn container_stats(node: &Node, id: &str) -> Result<cri::ContainerStats> {
    let message = cri::ContainerStatsRequest {
        container_id: id.to_owned(),
    };
    let mut runtime = node.cri().runtime;
    let answer = runtime.container_stats(request(message)).await?;
    answer.into_inner().stats.context("no stats in the answer")
}

async fn list(
    node: &Node,
    filter: Option<cri::ContainerStatsFilter>,
) -> Result<Vec<cri::ContainerStats>> {
    let message = cri::ListContainerStatsRequest { filter };
    let mut runtime = node.cri().runtime;
    let answer = runtime.list_container_stats(request(message)).await?;
    Ok(answer.into_inner().into_vec()?)
}

async fn pod_stats(node: &Node, id: &str) -> Result<cri::PodSandboxStats> {
    let message = cri::PodSandboxStatsRequest {
        pod_sandbox_id: id.to_owned(),
    };
    let mut runtime = node.cri().runtime;
    let answer = runtime.pod_sandbox_stats(request(message)).await?;
    answer.into_inner().stats.context("no stats in the answer")
}

async fn list_pods(
    node: &Node,
    filter: Option<cri::PodSandboxStatsFilter>,
) -> Result<Vec<cri::PodSandboxStats>> {
    let message = cri::ListPodSandboxStatsRequest { filter };
    let mut runtime = node.cri().runtime;
    let answer = runtime.list_pod_sandbox_stats(request(message)).await?;
    Ok(answer.into_inner().into_vec()?)
}

async fn metrics(node: &Node) -> Result<Vec<cri::PodSandboxMetrics>> {
    let mut runtime = node.cri().runtime;
    let message = cri::ListPodSandboxMetricsRequest {};
    let answer = runtime.list_pod_sandbox_metrics(request(message)).await?;
    Ok(answer.into_inner().into_vec()?)
}

async fn descriptors(node: &Node) -> Result<BTreeMap<String, Vec<String>>> {
    let mut runtime = node.cri().runtime;
    let message = cri::ListMetricDescriptorsRequest {};
    let answer = runtime.list_metric_descriptors(request(message)).await?;
    let described = answer.into_inner().descriptors.into_iter();
    Ok(described
        .map(|found| (found.name, found.label_keys))
        .collect())
}

/// The items of all pieces of a stream.
async fn all_of<T: prost::Message + Default>(
    mut pieces: tonic::Streaming<Items<T>>,
) -> Result<Vec<T>> {
    let mut items = Vec::new();
    while let Some(piece) = pieces.message().await? {
        items.extend(piece.into_vec()?);
    }
    Ok(items)
}

fn container_ids(stats: &[cri::ContainerStats]) -> BTreeSet<String> {
    let attributes = stats.iter().filter_map(|one| one.attributes.as_ref());
    attributes.map(|attributes| attributes.id.clone()).collect()
}

fn pod_ids(stats: &[cri::PodSandboxStats]) -> BTreeSet<String> {
    let attributes = stats.iter().filter_map(|one| one.attributes.as_ref());
    attributes.map(|attributes| attributes.id.clone()).collect()
}

fn cpu(stats: &cri::ContainerStats) -> Result<&cri::CpuUsage> {
    stats.cpu.as_ref().context("no CPU in the stats")
}

fn memory(stats: &cri::ContainerStats) -> Result<&cri::MemoryUsage> {
    stats.memory.as_ref().context("no memory in the stats")
}

/// A container's stats once they have a rate, which takes a tenth of a second.
async fn with_rate(node: &Node, id: &str) -> Result<cri::ContainerStats> {
    settle::until("there is a rate", async || {
        let stats = container_stats(node, id).await?;
        let rate = value(cpu(&stats)?.usage_nano_cores);
        Ok(rate.is_some().then_some(stats))
    })
    .await
}

/// A container that may use 64 MiB of memory and half a CPU.
fn limited(name: &str, script: &str) -> cri::ContainerConfig {
    let mut config = node::container(name, script);
    config.linux.get_or_insert_default().resources = Some(cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        ..cri::LinuxContainerResources::default()
    });
    config
}

/// A pod in a cgroup of its own, as kubelet makes them.
async fn kubelet_pod(node: &Node, name: &str) -> Result<Pod> {
    let mut config = node.pod_config(name)?;
    let uid = config.metadata.clone().unwrap_or_default().uid;
    config.linux.get_or_insert_default().cgroup_parent =
        driver::parent(&format!("kubepods/besteffort/pod{uid}"));
    node.run_pod_as(config).await
}

#[test]
fn cpu_time_is_counted_and_has_a_rate_from_the_start_on() {
    world!(async |node| {
        let pod = node.run_pod("cpu").await?;
        let (busy, idle) = (
            node.run(&pod, "busy", BURN).await?,
            node.run(&pod, "idle", "sleep 3600").await?,
        );
        let first = with_rate(node, &busy).await?;
        let used = value(cpu(&first)?.usage_core_nano_seconds).unwrap_or(0);
        ensure!(
            used < 1_000_000_000,
            "the first rate took {used} ns of CPU time"
        );
        let second = settle::until("a second of CPU time is used", async || {
            let now = container_stats(node, &busy).await?;
            let used = value(cpu(&now)?.usage_core_nano_seconds).unwrap_or(0);
            Ok((used > 1_500_000_000).then_some(now))
        })
        .await?;
        ensure!(
            cpu(&second)?.timestamp > cpu(&first)?.timestamp,
            "the time stamp stands still"
        );
        let rate = value(cpu(&second)?.usage_nano_cores).context("no rate")?;
        ensure!(
            (1..=1_100_000_000).contains(&rate),
            "one busy loop uses {rate} billionths of a core"
        );
        let idle = with_rate(node, &idle).await?;
        let idle_rate = value(cpu(&idle)?.usage_nano_cores).context("no rate")?;
        ensure!(
            idle_rate < rate / 2,
            "the idle one uses {idle_rate}, the busy one {rate}"
        );
        Ok(())
    });
}

#[test]
fn a_sandbox_made_anew_is_not_charged_with_what_its_cgroup_used_before() {
    world!(async |node| {
        let cri = node.cri();
        let pod = kubelet_pod(node, "again").await?;
        let busy = node.run(&pod, "busy", BURN).await?;
        settle::until_true("two seconds of CPU time are used", async || {
            let stats = container_stats(node, &busy).await?;
            let used = value(cpu(&stats)?.usage_core_nano_seconds);
            Ok(used.unwrap_or(0) > 2_000_000_000)
        })
        .await?;
        // Kubelet's cgroups of pods are its own, and outlive their sandboxes.
        let mut config = pod.config.clone();
        let parent = config.linux.clone().unwrap_or_default().cgroup_parent;
        let parent = ["cpuacct", "cpu,cpuacct", ""]
            .map(|tree| Path::new("/sys/fs/cgroup").join(tree))
            .map(|mount| mount.join(parent.trim_start_matches('/')))
            .into_iter()
            .find(|dir| dir.is_dir())
            .context("no cgroup of the pod")?;
        let keeper = parent.join("keeper");
        fs::create_dir(&keeper)?;
        cri.stop_pod(&pod.id).await?;
        cri.remove_pod(&pod.id).await?;
        ensure!(parent.is_dir(), "the pod's cgroup is gone");
        if let Some(metadata) = &mut config.metadata {
            metadata.attempt += 1;
        }
        let again = node.run_pod_as(config).await?;
        let (rate, used) = settle::until("there is a rate", async || {
            let stats = pod_stats(node, &again.id).await?;
            let cpu = stats.linux.and_then(|linux| linux.cpu).context("no CPU")?;
            let rate = value(cpu.usage_nano_cores);
            Ok(rate.zip(value(cpu.usage_core_nano_seconds)))
        })
        .await?;
        ensure!(used > 2_000_000_000, "{used} ns: another cgroup");
        // It ran on one CPU all the time.
        ensure!(rate < 1_200_000_000, "{rate} billionths of a core");
        cri.stop_pod(&again.id).await?;
        cri.remove_pod(&again.id).await?;
        fs::remove_dir(&keeper)?;
        fs::remove_dir(&parent)?;
        fs::remove_dir(parent.parent().context("no parent")?)?;
        Ok(())
    });
}

#[test]
fn memory_that_is_allocated_shows_and_so_does_what_is_left() {
    world!(async |node| {
        let pod = node.run_pod("memory").await?;
        node.image("busybox:latest").await?;
        // A shell that holds 16 MiB in a variable.
        let script =
            "x=$(head -c 16777216 /dev/zero | tr '\\0' x); echo held; sleep 3600; echo ${#x}";
        let holder = node
            .start_container(&pod, &limited("holder", script))
            .await?;
        let free = node.run(&pod, "free", "sleep 3600").await?;
        pod.output_with("holder", "held").await?;
        let stats = container_stats(node, &holder).await?;
        let found = memory(&stats)?;
        let usage = value(found.usage_bytes).context("no usage")?;
        let working_set = value(found.working_set_bytes).context("no working set")?;
        let rss = value(found.rss_bytes).context("no rss")?;
        ensure!(
            (16 * MIB..=64 * MIB).contains(&rss) && usage >= rss && working_set <= usage,
            "rss {rss}, usage {usage}, working set {working_set}"
        );
        ensure!(
            value(found.available_bytes) == Some(64 * MIB - working_set),
            "{:?} is left of 64 MiB with {working_set} in use",
            found.available_bytes
        );
        ensure!(
            value(found.page_faults).is_some_and(|faults| faults > 1000),
            "{:?} page faults",
            found.page_faults
        );
        if let Some(swap) = &stats.swap {
            ensure!(
                value(swap.swap_available_bytes) == Some(0),
                "swap is left where none was given: {swap:?}"
            );
        }
        let stats = container_stats(node, &free).await?;
        ensure!(
            memory(&stats)?.available_bytes.is_none(),
            "something is left of a limit that there is not"
        );
        Ok(())
    });
}

#[test]
fn what_a_container_writes_is_found_in_its_writable_layer() {
    world!(async |node| {
        let (pod, id) = node.sleeper("writer").await?;
        let layer = container_stats(node, &id)
            .await?
            .writable_layer
            .context("a fresh container's layer is not measured")?;
        let before = value(layer.used_bytes).context("no size")?;
        let info = node.cri().image_fs().await?;
        let filesystem = &info.container_filesystems[0];
        ensure!(layer.fs_id == filesystem.fs_id, "{:?}", layer.fs_id);
        // Whoever was never looked at is measured at once.
        let writer = node
            .run(
                &pod,
                "writer2",
                "mkdir /d; for i in 1 2 3 4 5 6 7 8; do head -c 1048576 /dev/zero > /d/$i; done; echo written; sleep 3600",
            )
            .await?;
        pod.output_with("writer2", "written").await?;
        let layer = container_stats(node, &writer)
            .await?
            .writable_layer
            .context("not measured")?;
        let bytes = value(layer.used_bytes).context("no size")?;
        let inodes = value(layer.inodes_used).context("no inodes")?;
        ensure!(
            bytes >= before + 8 * MIB && bytes < before + 10 * MIB,
            "{before} bytes before, {bytes} after 8 MiB were written"
        );
        ensure!(
            inodes >= 10,
            "{inodes} inodes for a directory of eight files"
        );
        Ok(())
    });
}

#[test]
fn bytes_over_the_network_are_counted_on_the_pods_interface() {
    world!(async |node| {
        let server = node.run_pod("server").await?;
        let script = "mkdir /www; head -c 2097152 /dev/zero > /www/big; httpd -f -p 80 -h /www";
        node.run(&server, "c", script).await?;
        let address = node.address(&server).await?;
        let (client, shell) = node.sleeper("client").await?;
        let command = format!("wget -q -O /dev/null http://{address}/big");
        settle::until_true("the file is fetched", async || {
            let answer = node.cri().exec(&shell, &["sh", "-c", &command], 60).await?;
            Ok(answer.exit_code == 0)
        })
        .await?;
        for (pod, receives) in [(&server, false), (&client, true)] {
            let stats = pod_stats(node, &pod.id).await?;
            let network = stats
                .linux
                .and_then(|linux| linux.network)
                .context("no network")?;
            ensure!(network.timestamp > 0, "no time stamp");
            let default = network.default_interface.context("no interface")?;
            ensure!(default.name == "eth0", "{}", default.name);
            let bytes = if receives {
                default.rx_bytes
            } else {
                default.tx_bytes
            };
            let bytes = value(bytes).context("no bytes")?;
            ensure!(
                (2 * MIB..8 * MIB).contains(&bytes),
                "{bytes} bytes for a file of 2 MiB"
            );
            ensure!(
                network.interfaces.iter().all(|other| other.name != "lo"),
                "the loopback device is listed"
            );
        }
        let mut config = node.pod_config("host")?;
        node::pod_security(&mut config).namespace_options = Some(node::namespaces(
            cri::NamespaceMode::Node,
            cri::NamespaceMode::Container,
        ));
        let host = node.run_pod_as(config).await?;
        let stats = pod_stats(node, &host.id).await?;
        ensure!(
            stats.linux.is_some_and(|linux| linux.network.is_none()),
            "the node's network is no pod's"
        );
        Ok(())
    });
}

#[test]
fn a_pod_counts_what_its_own_cgroup_does_or_else_the_sum_of_its_containers() {
    world!(async |node| {
        let own = kubelet_pod(node, "own").await?;
        let shared = node.run_pod("shared").await?;
        let neighbour = node.run_pod("neighbour").await?;
        for pod in [&own, &shared, &neighbour] {
            for name in ["a", "b"] {
                let script = format!(
                    "x=$(head -c 8388608 /dev/zero | tr '\\0' x); echo {name} holds; sleep 3600; echo ${{#x}}"
                );
                node.run(pod, name, &script).await?;
                pod.output_with(name, "holds").await?;
            }
        }
        for pod in [&own, &shared, &neighbour] {
            let stats = pod_stats(node, &pod.id).await?;
            let linux = stats.linux.context("no values")?;
            ensure!(linux.containers.len() == 2, "{}", linux.containers.len());
            let memory = linux.memory.context("no memory")?;
            let rss = value(memory.rss_bytes).context("no rss")?;
            ensure!(
                (16 * MIB..32 * MIB).contains(&rss),
                "two containers with 8 MiB each: {rss}"
            );
            let cpu = linux.cpu.context("no CPU")?;
            ensure!(
                cpu.timestamp > 0 && value(cpu.usage_core_nano_seconds).unwrap_or(0) > 0,
                "{cpu:?}"
            );
            let processes = linux.process.context("no processes")?;
            ensure!(
                value(processes.process_count).is_some_and(|count| (2..=12).contains(&count)),
                "{processes:?}"
            );
            let attributes = stats.attributes.context("no attributes")?;
            ensure!(
                attributes.metadata == pod.config.metadata,
                "{:?}",
                attributes.metadata
            );
        }
        Ok(())
    });
}

#[test]
fn lists_hold_what_runs_and_what_the_filter_asks_for() {
    world!(async |node| {
        let one = node.run_pod("one").await?;
        let other = node.run_pod("other").await?;
        node.image("busybox:latest").await?;
        let mut config = node::container("a", "sleep 3600");
        config.labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let a = node.start_container(&one, &config).await?;
        let b = node.run(&other, "b", "sleep 3600").await?;
        let created = node
            .cri()
            .create(&one.id, &node::container("c", "true"), &one.config)
            .await?;
        let exited = node.run(&one, "d", "true").await?;
        node.exited(&exited).await?;

        let filter = |id: &str, pod: &str, label: Option<&str>| cri::ContainerStatsFilter {
            id: id.to_owned(),
            pod_sandbox_id: pod.to_owned(),
            label_selector: label
                .map(|value| ("app".to_owned(), value.to_owned()))
                .into_iter()
                .collect(),
        };
        let both = [a.as_str(), b.as_str()];
        for (asked, wanted) in [
            (None, &both[..]),
            (Some(filter("", "", None)), &both),
            (Some(filter(&a, "", None)), &[a.as_str()]),
            (Some(filter(&a[..20], "", None)), &[a.as_str()]),
            (Some(filter("", &other.id, None)), &[b.as_str()]),
            (Some(filter("", &other.id[..20], None)), &[b.as_str()]),
            (Some(filter(&a, &other.id, None)), &[]),
            (Some(filter("", "", Some("web"))), &[a.as_str()]),
            (Some(filter("", "", Some("db"))), &[]),
            (Some(filter(&created, "", None)), &[]),
            (Some(filter(&exited, "", None)), &[]),
            (Some(filter("no-such", "", None)), &[]),
        ] {
            let found = container_ids(&list(node, asked.clone()).await?);
            let wanted = wanted.iter().map(|id| (*id).to_owned()).collect();
            ensure!(
                found == wanted,
                "{asked:?}: {found:?} instead of {wanted:?}"
            );
        }
        let pods = pod_ids(&list_pods(node, None).await?);
        ensure!(
            pods == [one.id.clone(), other.id.clone()].into(),
            "{pods:?}"
        );
        let asked = cri::PodSandboxStatsFilter {
            id: other.id[..20].to_owned(),
            label_selector: BTreeMap::new(),
        };
        let pods = pod_ids(&list_pods(node, Some(asked)).await?);
        ensure!(pods == [other.id.clone()].into(), "{pods:?}");
        node.cri().stop_pod(&other.id).await?;
        let pods = pod_ids(&list_pods(node, None).await?);
        ensure!(pods == [one.id.clone()].into(), "{pods:?}");

        // One by one, what exists is answered for even when it does not run.
        let stats = container_stats(node, &exited).await?;
        ensure!(
            stats.cpu.is_none() && stats.attributes.is_some_and(|found| found.id == exited),
            "an exited container uses CPU"
        );
        let stats = pod_stats(node, &other.id).await?;
        ensure!(
            stats.attributes.is_some_and(|found| found.id == other.id),
            "a stopped pod is not answered for"
        );
        Ok(())
    });
}

#[test]
fn what_does_not_exist_is_not_found() {
    world!(async |node| {
        let mut runtime = node.cri().runtime;
        let id = "f".repeat(64);
        let message = cri::ContainerStatsRequest {
            container_id: id.clone(),
        };
        let answer = runtime.container_stats(request(message)).await;
        refused(answer, Code::NotFound)?;
        let message = cri::PodSandboxStatsRequest { pod_sandbox_id: id };
        let answer = runtime.pod_sandbox_stats(request(message)).await;
        refused(answer, Code::NotFound)?;
        let answer = runtime
            .container_stats(request(cri::ContainerStatsRequest::default()))
            .await;
        refused(answer, Code::InvalidArgument)?;
        let answer = runtime
            .pod_sandbox_stats(request(cri::PodSandboxStatsRequest::default()))
            .await;
        refused(answer, Code::InvalidArgument)?;
        Ok(())
    });
}

#[test]
fn lists_pass_over_what_vanishes_meanwhile() {
    world!(async |node| {
        let (_, steady) = node.sleeper("steady").await?;
        node.image("busybox:latest").await?;
        let cri = node.cri();
        let pod = node.run_pod("churn").await?;
        let churn = async {
            for number in 0..8 {
                let config = node::container(&format!("c{number}"), "sleep 3600");
                let id = node.start_container(&pod, &config).await?;
                cri.stop(&id, 0).await?;
                cri.remove(&id).await?;
            }
            anyhow::Ok(())
        };
        tokio::select! {
            ended = churn => ended,
            failed = look_on_and_on(node, &steady) => failed.map(|never| match never {}),
        }
    });
}

async fn look_on_and_on(node: &Node, steady: &str) -> Result<Infallible> {
    loop {
        ensure!(
            container_ids(&list(node, None).await?).contains(steady),
            "the one that stays is not listed"
        );
        list_pods(node, None).await?;
        metrics(node).await?;
    }
}

#[test]
fn streams_hold_what_lists_hold() {
    world!(async |node| {
        for name in ["one", "two", "three"] {
            node.sleeper(name).await?;
        }
        let mut runtime = node.cri().runtime;
        let message = cri::StreamContainerStatsRequest { filter: None };
        let pieces = runtime.stream_container_stats(request(message)).await?;
        let streamed = all_of(pieces.into_inner()).await?;
        let listed = list(node, None).await?;
        ensure!(streamed.len() == 3, "{} containers", streamed.len());
        ensure!(
            container_ids(&streamed) == container_ids(&listed),
            "containers differ"
        );
        ensure!(
            cpu(&listed[0])?.timestamp > cpu(&streamed[0])?.timestamp,
            "the time stamp stands still"
        );

        let message = cri::StreamPodSandboxStatsRequest { filter: None };
        let pieces = runtime.stream_pod_sandbox_stats(request(message)).await?;
        let streamed = all_of(pieces.into_inner()).await?;
        ensure!(
            streamed.len() == 3 && pod_ids(&streamed) == pod_ids(&list_pods(node, None).await?),
            "pods differ"
        );

        let message = cri::StreamPodSandboxMetricsRequest {};
        let pieces = runtime.stream_pod_sandbox_metrics(request(message)).await?;
        let streamed = all_of(pieces.into_inner()).await?;
        let series = |pods: &[cri::PodSandboxMetrics]| -> BTreeSet<(String, Vec<String>)> {
            let of_pod = |pod: &cri::PodSandboxMetrics| {
                let containers = pod
                    .container_metrics
                    .iter()
                    .flat_map(|one| one.metrics.clone());
                pod.metrics
                    .clone()
                    .into_iter()
                    .chain(containers)
                    .collect::<Vec<_>>()
            };
            pods.iter()
                .flat_map(of_pod)
                .map(|metric| (metric.name, metric.label_values))
                .collect()
        };
        ensure!(
            series(&streamed) == series(&metrics(node).await?),
            "series differ"
        );
        Ok(())
    });
}

#[test]
fn metrics_are_those_described_with_labels_and_values() {
    world!(async |node| {
        let described = descriptors(node).await?;
        ensure!(described.len() == 56, "{} descriptors", described.len());
        let pod = kubelet_pod(node, "measured").await?;
        node.image("busybox:latest").await?;
        let script = "echo hi > /file; nc -l -p 9999 & echo up; sleep 3600";
        let config = limited("c", script);
        let id = node.start_container(&pod, &config).await?;
        pod.output_with("c", "up").await?;
        let found = settle::until("the listener has its socket", async || {
            let found = metrics(node).await?;
            let sockets = found
                .iter()
                .flat_map(|pod| &pod.container_metrics)
                .flat_map(|container| &container.metrics)
                .find(|metric| metric.name == "container_sockets")
                .and_then(|metric| value(metric.value));
            Ok((sockets == Some(1)).then_some(found))
        })
        .await?;
        ensure!(found.len() == 1, "metrics of {} pods", found.len());
        let found = &found[0];
        ensure!(found.pod_sandbox_id == pod.id, "another pod's");
        ensure!(
            found.container_metrics.len() == 1 && found.container_metrics[0].container_id == id,
            "another container's"
        );
        let inside = &found.container_metrics[0].metrics;
        let all: Vec<_> = found.metrics.iter().chain(inside).collect();
        let mut series = BTreeSet::new();
        for metric in &all {
            let keys = described
                .get(&metric.name)
                .with_context(|| format!("{} is not described", metric.name))?;
            ensure!(
                keys.len() == metric.label_values.len(),
                "{}: {keys:?} but {:?}",
                metric.name,
                metric.label_values
            );
            ensure!(metric.timestamp > 0, "{}: no time stamp", metric.name);
            ensure!(
                series.insert((&metric.name, &metric.label_values)),
                "{} {:?} twice",
                metric.name,
                metric.label_values
            );
        }
        // What depends on the kernel or on traffic with a disk may be missing; all else may not.
        let optional = |name: &str| {
            ["pressure", "hugetlb", "blkio", "fs_reads", "fs_writes"]
                .iter()
                .any(|part| name.contains(part))
                || (fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false)
                    && name == "container_memory_max_usage_bytes")
        };
        let names: BTreeSet<_> = all.iter().map(|metric| metric.name.as_str()).collect();
        let missing: Vec<_> = described
            .keys()
            .filter(|name| !names.contains(name.as_str()) && !optional(name))
            .collect();
        ensure!(missing.is_empty(), "no values of {missing:?}");

        let of = |name: &str| {
            let found = inside.iter().find(|metric| metric.name == name);
            found
                .and_then(|metric| value(metric.value))
                .with_context(|| format!("no value of {name}"))
        };
        for (name, wanted) in [
            ("container_spec_cpu_period", 100_000),
            ("container_spec_cpu_quota", 50_000),
            ("container_spec_memory_limit_bytes", 64 * MIB),
            ("container_oom_events_total", 0),
        ] {
            let found = of(name)?;
            ensure!(found == wanted, "{name}: {found} instead of {wanted}");
        }
        let processes = of("container_processes")?;
        ensure!((2..=4).contains(&processes), "{processes} processes");
        let threads = of("container_threads")?;
        ensure!(threads >= processes, "{threads} threads");
        ensure!(of("container_file_descriptors")? >= 4, "few descriptors");
        ensure!(of("container_fs_usage_bytes")? > 0, "an empty layer");
        ensure!(
            of("container_last_seen")? >= of("container_start_time_seconds")?,
            "seen before it was started"
        );
        let cpu = inside
            .iter()
            .find(|metric| metric.name == "container_cpu_usage_seconds_total")
            .context("no CPU time")?;
        let labels: BTreeMap<_, _> = described[&cpu.name].iter().zip(&cpu.label_values).collect();
        let label = |key: &str| labels.get(&key.to_owned()).map(|value| value.as_str());
        let metadata = pod.config.metadata.clone().unwrap_or_default();
        ensure!(
            label("name") == Some(&*id)
                && label("container") == Some("c")
                && label("pod") == Some(&*metadata.name)
                && label("namespace") == Some(&*metadata.namespace)
                && label("cpu") == Some("total")
                && label("id")
                    .is_some_and(|id| id.starts_with(&driver::parent("kubepods/besteffort"))),
            "{labels:?}"
        );
        Ok(())
    });
}

#[test]
fn a_process_killed_for_memory_is_an_oom_event() {
    world!(async |node| {
        let pod = node.run_pod("oom").await?;
        node.image("busybox:latest").await?;
        // The shell lives on; what dies is its child.
        let script = "sh -c 'x=x; while :; do x=$x$x; done'; echo survived; sleep 3600";
        let id = node.start_container(&pod, &limited("c", script)).await?;
        pod.output_with("c", "survived").await?;
        let found = metrics(node).await?;
        let events = found
            .iter()
            .flat_map(|pod| &pod.container_metrics)
            .filter(|container| container.container_id == id)
            .flat_map(|container| &container.metrics)
            .find(|metric| metric.name == "container_oom_events_total")
            .and_then(|metric| value(metric.value));
        ensure!(events.is_some_and(|count| count >= 1), "{events:?}");
        Ok(())
    });
}

#[test]
fn a_new_server_tells_rates() {
    world!(async |node| {
        let (_, id) = node.sleeper("restarted").await?;
        node.kill_server()?;
        node.start_server().await?;
        with_rate(node, &id).await?;
        Ok(())
    });
}
