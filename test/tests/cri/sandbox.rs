//! Pod sandboxes: what RunPodSandbox promises, what statuses and lists say, how pods end.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use api::cri::{self, PodSandboxState};
use pintle_test::{
    cri::{refused, request},
    driver, node, places, settle, world,
};
use tonic::Code;

#[test]
fn a_pod_is_ready_with_an_address_when_run_pod_sandbox_returns() {
    world!(async |node| {
        let pod = node.run_pod("web").await?;
        let status = node.cri().pod_status(&pod.id).await?;
        ensure!(status.id == pod.id, "another id: {}", status.id);
        ensure!(status.state() == PodSandboxState::SandboxReady, "not ready");
        ensure!(status.created_at > 0, "no time of creation");
        let address = node.address(&pod).await?;
        ensure!(
            address.to_string().starts_with("10.88."),
            "address {address}"
        );
        Ok(())
    });
}

#[test]
fn metadata_labels_and_annotations_come_back_byte_for_byte() {
    world!(async |node| {
        let mut config = node.pod_config("labelled")?;
        let odd = "späße \"quoted\"\n\ttabbed {json: [1]} \u{1f4cc} ";
        config.labels = BTreeMap::from([
            ("io.kubernetes.pod.name".to_owned(), "labelled".to_owned()),
            ("empty".to_owned(), String::new()),
            ("odd".to_owned(), odd.to_owned()),
        ]);
        config.annotations = BTreeMap::from([
            ("long".to_owned(), "x".repeat(200_000)),
            ("odd key/ü".to_owned(), odd.to_owned()),
        ]);
        let metadata = config.metadata.as_mut().context("metadata")?;
        metadata.attempt = 7;
        metadata.namespace = "kube-system".to_owned();
        let pod = node.run_pod_as(config.clone()).await?;
        let check = async |when: &str| -> Result<()> {
            let status = node.cri().pod_status(&pod.id).await?;
            ensure!(
                status.metadata == config.metadata,
                "{when}: metadata {:?}",
                status.metadata
            );
            ensure!(
                status.labels == config.labels,
                "{when}: labels {:?}",
                status.labels
            );
            ensure!(
                status.annotations == config.annotations,
                "{when}: annotations differ"
            );
            let listed = node.cri().pods(None).await?;
            let listed = listed.first().context("an empty list")?;
            ensure!(
                listed.metadata == config.metadata,
                "{when}: listed metadata differ"
            );
            ensure!(
                listed.labels == config.labels,
                "{when}: listed labels differ"
            );
            ensure!(
                listed.annotations == config.annotations,
                "{when}: listed annotations differ"
            );
            Ok(())
        };
        check("at first").await?;
        node.kill_server()?;
        node.start_server().await?;
        check("after a restart").await
    });
}

#[test]
fn a_stopped_pod_is_not_ready_keeps_its_record_and_gives_back_its_address() {
    world!(async |node| {
        let (pod, container) = node.sleeper("stopping").await?;
        let cri = node.cri();
        let first = node.address(&pod).await?;
        cri.stop_pod(&pod.id).await?;
        let status = cri.pod_status(&pod.id).await?;
        ensure!(
            status.state() == PodSandboxState::SandboxNotready,
            "still ready"
        );
        let ended = cri.status(&container).await?;
        ensure!(
            ended.state() == cri::ContainerState::ContainerExited,
            "its container is {:?}",
            ended.state()
        );
        let leases = format!("{}/networks/pods/{first}", places::CNI_CACHE);
        ensure!(
            !std::path::Path::new(&leases).exists(),
            "the address is still leased"
        );
        ensure!(
            !std::path::Path::new("/run/netns").join(&pod.id).exists(),
            "the network namespace is still pinned"
        );
        // Once more is no error.
        cri.stop_pod(&pod.id).await?;
        cri.remove_pod(&pod.id).await?;
        refused(cri.pod_status(&pod.id).await, Code::NotFound)?;
        refused(cri.status(&container).await, Code::NotFound)?;
        Ok(())
    });
}

#[test]
fn removing_a_running_pod_stops_it_and_removes_its_containers() {
    world!(async |node| {
        let (pod, container) = node.sleeper("forced").await?;
        let cri = node.cri();
        cri.remove_pod(&pod.id).await?;
        ensure!(cri.pods(None).await?.is_empty(), "the pod is still listed");
        ensure!(
            cri.containers(None).await?.is_empty(),
            "its container is still listed"
        );
        refused(cri.status(&container).await, Code::NotFound)?;
        Ok(())
    });
}

#[test]
fn lists_are_filtered_by_id_state_and_labels_all_together() {
    world!(async |node| {
        let cri = node.cri();
        let mut pods = Vec::new();
        for (name, colour) in [("one", "blue"), ("two", "blue"), ("three", "red")] {
            let mut config = node.pod_config(name)?;
            config.labels.insert("colour".to_owned(), colour.to_owned());
            config.labels.insert("name".to_owned(), name.to_owned());
            pods.push(node.run_pod_as(config).await?.id);
        }
        cri.stop_pod(&pods[1]).await?;
        let list = async |filter: cri::PodSandboxFilter| -> Result<Vec<String>> {
            let found = node.cri().pods(Some(filter)).await?;
            let mut ids: Vec<_> = found.into_iter().map(|pod| pod.id).collect();
            ids.sort();
            Ok(ids)
        };
        let with_colour = |colour: &str| cri::PodSandboxFilter {
            label_selector: BTreeMap::from([("colour".to_owned(), colour.to_owned())]),
            ..cri::PodSandboxFilter::default()
        };
        let ready = Some(cri::PodSandboxStateValue {
            state: PodSandboxState::SandboxReady.into(),
        });
        let mut blue = vec![pods[0].clone(), pods[1].clone()];
        blue.sort();
        ensure!(
            list(cri::PodSandboxFilter::default()).await?.len() == 3,
            "not all"
        );
        ensure!(list(with_colour("blue")).await? == blue, "wrong by label");
        ensure!(
            list(with_colour("green")).await?.is_empty(),
            "found by a label nobody has"
        );
        let mut filter = with_colour("blue");
        filter.state = ready;
        ensure!(
            list(filter.clone()).await? == [pods[0].clone()],
            "wrong by label and state"
        );
        filter.id.clone_from(&pods[2]);
        ensure!(
            list(filter).await?.is_empty(),
            "a filter's parts are not all applied"
        );
        let by_id = cri::PodSandboxFilter {
            id: pods[2].clone(),
            ..cri::PodSandboxFilter::default()
        };
        ensure!(list(by_id).await? == [pods[2].clone()], "wrong by id");
        // A shortened id finds its pod, as crictl's users expect.
        let by_prefix = cri::PodSandboxFilter {
            id: pods[2][..13].to_owned(),
            ..cri::PodSandboxFilter::default()
        };
        ensure!(
            list(by_prefix).await? == [pods[2].clone()],
            "wrong by the beginning of an id"
        );
        Ok(())
    });
}

#[test]
fn pods_are_ordered_in_time_by_their_creation() {
    world!(async |node| {
        let mut last = 0;
        for name in ["first", "second", "third"] {
            let pod = node.run_pod(name).await?;
            let created = node.cri().pod_status(&pod.id).await?.created_at;
            ensure!(
                created > last,
                "{name} was created at {created}, the one before at {last}"
            );
            last = created;
        }
        Ok(())
    });
}

#[test]
fn a_pod_costs_one_monitor_and_no_pause_process() {
    world!(async |node| {
        let pod = node.run_pod("frugal").await?;
        for name in ["a", "b", "c"] {
            node.run(&pod, name, node::SLEEP).await?;
        }
        let monitors = node::monitors();
        ensure!(
            monitors.len() == 1,
            "{} monitors: {monitors:?}",
            monitors.len()
        );
        let pauses = pintle_test::processes::all()
            .into_iter()
            .filter(|process| process.name == "pause")
            .count();
        ensure!(pauses == 0, "{pauses} pause processes");
        Ok(())
    });
}

#[test]
fn the_pod_of_a_dead_monitor_is_not_ready_and_can_be_removed() {
    world!(async |node| {
        let (pod, _) = node.sleeper("orphaned").await?;
        let cri = node.cri();
        for monitor in node::monitors() {
            node::signal(monitor.pid, rustix::process::Signal::KILL)?;
        }
        settle::until_true("the pod is not ready", async || {
            let state = cri.pod_status(&pod.id).await?.state();
            Ok(state == PodSandboxState::SandboxNotready)
        })
        .await?;
        cri.stop_pod(&pod.id).await?;
        cri.remove_pod(&pod.id).await?;
        Ok(())
    });
}

#[test]
fn the_node_is_ready_and_says_what_it_offers() {
    world!(async |node| {
        let status = node.cri().node_status().await?;
        let conditions = status.status.context("no status")?.conditions;
        for name in ["RuntimeReady", "NetworkReady"] {
            let condition = conditions
                .iter()
                .find(|condition| condition.r#type == name)
                .with_context(|| format!("no condition {name}"))?;
            ensure!(
                condition.status,
                "{name}: {} {}",
                condition.reason,
                condition.message
            );
        }
        let handlers: Vec<_> = status
            .runtime_handlers
            .iter()
            .map(|h| h.name.as_str())
            .collect();
        ensure!(
            handlers.first() == Some(&""),
            "the default is not the first of {handlers:?}"
        );
        ensure!(handlers.contains(&node::runtime().as_str()), "{handlers:?}");
        let message = cri::VersionRequest {
            version: "v1".to_owned(),
        };
        let version = node
            .cri()
            .runtime
            .clone()
            .version(request(message))
            .await?
            .into_inner();
        ensure!(
            version.runtime_name == "pintle",
            "its name is {}",
            version.runtime_name
        );
        ensure!(
            version.runtime_api_version == "v1",
            "API {}",
            version.runtime_api_version
        );
        for text in [&version.version, &version.runtime_version] {
            ensure!(!text.is_empty(), "{version:?}");
        }
        let config = node
            .cri()
            .runtime
            .clone()
            .runtime_config(request(cri::RuntimeConfigRequest {}))
            .await?
            .into_inner();
        let linux = config.linux.context("no cgroup driver")?;
        let driver = linux.cgroup_driver();
        let wanted = if driver::is_systemd() {
            cri::CgroupDriver::Systemd
        } else {
            cri::CgroupDriver::Cgroupfs
        };
        ensure!(driver == wanted, "driver {driver:?}");
        Ok(())
    });
}

#[test]
fn many_pods_at_once_all_run_and_all_go() {
    world!(async |node| {
        node.image("busybox:latest").await?;
        let mut group = tokio::task::JoinSet::new();
        for number in 0..12 {
            let (cri, config) = (node.cri(), node.pod_config(&format!("many{number}"))?);
            group.spawn(async move {
                let pod = cri.run_pod(&config, "").await?;
                let container = cri
                    .create(&pod, &node::container("c", node::SLEEP), &config)
                    .await?;
                cri.start(&container).await?;
                anyhow::Ok((cri.pod_status(&pod).await?, container))
            });
        }
        let mut addresses = Vec::new();
        while let Some(result) = group.join_next().await {
            let (status, _) = result??;
            addresses.push(status.network.context("no network")?.ip);
        }
        addresses.sort();
        addresses.dedup();
        ensure!(addresses.len() == 12, "only {} addresses", addresses.len());
        let mut group = tokio::task::JoinSet::new();
        for pod in node.cri().pods(None).await? {
            let cri = node.cri();
            group.spawn(async move {
                cri.stop_pod(&pod.id).await?;
                cri.remove_pod(&pod.id).await
            });
        }
        while let Some(result) = group.join_next().await {
            result??;
        }
        Ok(())
    });
}
