//! Containers: their life from Created to Exited, what statuses say of it, how they are stopped.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use api::cri::{self, ContainerState};
use pintle_test::{
    cri::{refused, words},
    driver, node, processes, registry, settle, world,
};
use tonic::Code;

#[test]
fn a_container_is_created_runs_and_exits_with_rising_time_stamps() {
    world!(async |node| {
        let pod = node.run_pod("life").await?;
        node.image("busybox:latest").await?;
        let cri = node.cri();
        let config = node::container("c", "echo out; echo err >&2; exit 3");
        let id = cri.create(&pod.id, &config, &pod.config).await?;
        let created = cri.status(&id).await?;
        ensure!(
            created.state() == ContainerState::ContainerCreated,
            "{:?}",
            created.state()
        );
        ensure!(
            created.created_at > 0 && created.started_at == 0 && created.finished_at == 0,
            "{created:?}"
        );
        cri.start(&id).await?;
        let ended = node.exited(&id).await?;
        ensure!(ended.exit_code == 3, "exit code {}", ended.exit_code);
        ensure!(ended.reason == "Error", "reason {:?}", ended.reason);
        ensure!(
            ended.created_at == created.created_at
                && ended.started_at >= ended.created_at
                && ended.finished_at >= ended.started_at,
            "{} {} {}",
            ended.created_at,
            ended.started_at,
            ended.finished_at
        );
        // A time stamp in the future would be another unit.
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_nanos();
        ensure!(
            u128::try_from(ended.finished_at)? <= now,
            "finished in the future"
        );
        refused(cri.start(&id).await, Code::FailedPrecondition)?;
        cri.remove(&id).await?;
        refused(cri.status(&id).await, Code::NotFound)?;
        Ok(())
    });
}

#[test]
fn success_is_completed_and_death_by_a_signal_is_128_and_its_number() {
    world!(async |node| {
        let pod = node.run_pod("ends").await?;
        for (script, code, reason) in [
            ("exit 0", 0, "Completed"),
            ("exit 255", 255, "Error"),
            ("kill -KILL $$", 137, "Error"),
            // A shell that is PID 1 does not die of a signal that it has no handler for.
            ("sh -c 'kill -SEGV $$'; exit $?", 139, "Error"),
        ] {
            let name = format!("c{code}");
            let mut config = node::container(&name, script);
            // A process that kills itself must not be PID 1 of its namespace.
            node::security(&mut config).namespace_options = Some(node::namespaces(
                cri::NamespaceMode::Pod,
                cri::NamespaceMode::Node,
            ));
            node.image("busybox:latest").await?;
            let id = node.start_container(&pod, &config).await?;
            let ended = node.exited(&id).await?;
            ensure!(
                ended.exit_code == code,
                "{script}: exit code {}",
                ended.exit_code
            );
            ensure!(
                ended.reason == reason,
                "{script}: reason {:?}",
                ended.reason
            );
        }
        Ok(())
    });
}

#[test]
fn a_program_that_is_not_there_fails_the_start_in_words_and_leaves_nothing() {
    world!(async |node| {
        let pod = node.run_pod("missing").await?;
        node.image("busybox:latest").await?;
        let config = node::container_of("busybox:latest", "c", &["/no/such/program"]);
        let error = match node.cri().create(&pod.id, &config, &pod.config).await {
            // Some runtimes look for the program when they create, some when they start.
            Ok(id) => node.cri().start(&id).await.err().context("it started")?,
            Err(error) => error,
        };
        ensure!(
            error.message().contains("/no/such/program"),
            "{}",
            error.message()
        );
        Ok(())
    });
}

#[test]
fn labels_annotations_and_mounts_come_back_even_after_the_end_and_a_restart() {
    world!(async |node| {
        let pod = node.run_pod("labelled").await?;
        node.image("busybox:latest").await?;
        let message = format!("{}/message", pod.config.log_directory);
        world::write(&message, "")?;
        let mut config = node::container("c", "echo last words > /dev/termination-log");
        config.labels = BTreeMap::from([("odd".to_owned(), "ü\n\"' ".to_owned())]);
        config.annotations = BTreeMap::from([(
            "io.kubernetes.container.hash".to_owned(),
            "x".repeat(70_000),
        )]);
        config.mounts.push(cri::Mount {
            container_path: "/dev/termination-log".to_owned(),
            host_path: message.clone(),
            ..cri::Mount::default()
        });
        let id = node.start_container(&pod, &config).await?;
        node.exited(&id).await?;
        ensure!(
            std::fs::read_to_string(&message)? == "last words\n",
            "no termination message"
        );
        node.kill_server()?;
        node.start_server().await?;
        let status = node.cri().status(&id).await?;
        ensure!(status.metadata == config.metadata, "{:?}", status.metadata);
        ensure!(status.labels == config.labels, "{:?}", status.labels);
        ensure!(
            status.annotations == config.annotations,
            "annotations differ"
        );
        ensure!(
            status.log_path == pod.log_file("c").display().to_string(),
            "{}",
            status.log_path
        );
        let mount = status
            .mounts
            .iter()
            .find(|mount| mount.container_path == "/dev/termination-log")
            .context("the mount is not in the status")?;
        ensure!(mount.host_path == message, "host path {}", mount.host_path);
        Ok(())
    });
}

#[test]
fn image_names_and_ids_are_the_same_everywhere() {
    world!(async |node| {
        let pod = node.run_pod("named").await?;
        let id = node.cri().pull(&registry::name("busybox:latest")).await?;
        let container = node.run(&pod, "c", node::SLEEP).await?;
        let status = node.cri().status(&container).await?;
        ensure!(
            status.image_id == id,
            "image_id {} of image {id}",
            status.image_id
        );
        let image = status.image.context("no image")?;
        ensure!(
            image.image == registry::name("busybox:latest"),
            "image {}",
            image.image
        );
        ensure!(!status.image_ref.is_empty(), "no image_ref");
        let listed = node.cri().containers(None).await?;
        let listed = listed.first().context("an empty list")?;
        ensure!(
            listed.image_id == id && listed.pod_sandbox_id == pod.id,
            "{listed:?}"
        );
        Ok(())
    });
}

#[test]
fn stopping_sends_the_signal_of_the_request_then_of_the_image_then_sigterm() {
    world!(async |node| {
        let pod = node.run_pod("signals").await?;
        for image in ["busybox:latest", "settings:latest"] {
            node.image(image).await?;
        }
        let script = "for s in TERM USR1 USR2 INT; do trap \"echo got $s; exit 0\" $s; done; echo ready; while :; do sleep 0.05; done";
        for (image, requested, expected) in [
            ("busybox:latest", cri::Signal::RuntimeDefault, "TERM"),
            ("settings:latest", cri::Signal::RuntimeDefault, "USR1"),
            ("settings:latest", cri::Signal::Sigusr2, "USR2"),
            ("busybox:latest", cri::Signal::Sigint, "INT"),
        ] {
            let name = format!("c-{expected}");
            let mut config = node::container_of(image, &name, &["sh", "-c", script]);
            config.stop_signal = requested.into();
            let id = node.start_container(&pod, &config).await?;
            pod.output_with(&name, "ready").await?;
            node.cri().stop(&id, 60).await?;
            pod.output_with(&name, &format!("got {expected}")).await?;
            let ended = node.cri().status(&id).await?;
            ensure!(
                ended.state() == ContainerState::ContainerExited,
                "{:?}",
                ended.state()
            );
            ensure!(
                ended.exit_code == 0,
                "{image} {requested:?}: {}",
                ended.exit_code
            );
        }
        Ok(())
    });
}

#[test]
fn what_ignores_its_signal_is_killed_when_its_time_is_over() {
    world!(async |node| {
        let pod = node.run_pod("stubborn").await?;
        let id = node
            .run(
                &pod,
                "c",
                "trap '' TERM; echo ready; while :; do sleep 0.1; done",
            )
            .await?;
        pod.output_with("c", "ready").await?;
        node.cri().stop(&id, 1).await?;
        let ended = node.cri().status(&id).await?;
        ensure!(ended.exit_code == 137, "exit code {}", ended.exit_code);
        Ok(())
    });
}

#[test]
fn a_timeout_of_zero_kills_at_once() {
    world!(async |node| {
        let pod = node.run_pod("at-once").await?;
        let id = node
            .run(
                &pod,
                "c",
                "trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.1; done",
            )
            .await?;
        pod.output_with("c", "ready").await?;
        node.cri().stop(&id, 0).await?;
        let ended = node.cri().status(&id).await?;
        ensure!(ended.exit_code == 137, "exit code {}", ended.exit_code);
        ensure!(!pod.output("c")?.contains("asked"), "it was asked first");
        Ok(())
    });
}

#[test]
fn a_shorter_timeout_that_comes_later_wins() {
    world!(async |node| {
        let pod = node.run_pod("impatient").await?;
        let id = node
            .run(
                &pod,
                "c",
                "trap '' TERM; echo ready; while :; do sleep 0.1; done",
            )
            .await?;
        pod.output_with("c", "ready").await?;
        let patient = {
            let (cri, id) = (node.cri(), id.clone());
            // Longer than any call of the suite waits.
            tokio::spawn(async move { cri.stop(&id, 3600).await })
        };
        // The patient one has to be there first; a container that is being stopped still runs.
        tokio::time::sleep(Duration::from_millis(200)).await;
        ensure!(!patient.is_finished(), "it did not wait");
        node.cri().stop(&id, 1).await?;
        let ended = node.cri().status(&id).await?;
        ensure!(ended.exit_code == 137, "exit code {}", ended.exit_code);
        patient.await??;
        Ok(())
    });
}

#[test]
fn a_container_that_was_only_created_is_stopped_and_removed_like_any_other() {
    world!(async |node| {
        let pod = node.run_pod("unstarted").await?;
        node.image("busybox:latest").await?;
        let cri = node.cri();
        for (name, stop) in [("stopped", true), ("removed", false)] {
            let id = cri
                .create(&pod.id, &node::container(name, "true"), &pod.config)
                .await?;
            if stop {
                cri.stop(&id, 5).await?;
                let ended = cri.status(&id).await?;
                ensure!(
                    ended.state() == ContainerState::ContainerExited,
                    "{:?}",
                    ended.state()
                );
                ensure!(ended.finished_at > 0, "no time of its end");
            }
            cri.remove(&id).await?;
            refused(cri.status(&id).await, Code::NotFound)?;
        }
        Ok(())
    });
}

#[test]
fn removing_a_running_container_kills_it_with_all_its_processes() {
    world!(async |node| {
        let pod = node.run_pod("family").await?;
        let id = node
            .run(
                &pod,
                "c",
                "setsid sleep 987654 & setsid sleep 987654 & echo ready; wait",
            )
            .await?;
        pod.output_with("c", "ready").await?;
        node.cri().remove(&id).await?;
        let left = processes::with_command("sleep 987654");
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn what_outgrows_its_memory_is_oom_killed_and_says_so() {
    world!(async |node| {
        let pod = node.run_pod("greedy").await?;
        node.image("busybox:latest").await?;
        let mut config = node::container("c", "tail -c 200m /dev/zero");
        config.linux.get_or_insert_default().resources = Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 32 << 20,
            ..cri::LinuxContainerResources::default()
        });
        let id = node.start_container(&pod, &config).await?;
        let ended = node.exited(&id).await?;
        ensure!(
            ended.reason == "OOMKilled",
            "reason {:?}, code {}",
            ended.reason,
            ended.exit_code
        );
        ensure!(ended.exit_code == 137, "exit code {}", ended.exit_code);
        Ok(())
    });
}

#[test]
fn resources_reach_the_cgroup_and_the_status() {
    world!(async |node| {
        let pod = node.run_pod("limited").await?;
        node.image("busybox:latest").await?;
        let mut config = node::container("c", node::SLEEP);
        let asked = cri::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            oom_score_adj: 500,
            cpuset_cpus: "0".to_owned(),
            ..cri::LinuxContainerResources::default()
        };
        config.linux.get_or_insert_default().resources = Some(asked.clone());
        let id = node.start_container(&pod, &config).await?;
        let status = node.cri().status(&id).await?;
        let told = status
            .resources
            .and_then(|r| r.linux)
            .context("no resources in the status")?;
        ensure!(
            told.memory_limit_in_bytes == asked.memory_limit_in_bytes,
            "{told:?}"
        );
        ensure!(
            told.cpu_quota == asked.cpu_quota && told.cpu_shares == asked.cpu_shares,
            "{told:?}"
        );
        let cri = node.cri();
        ensure!(
            cri.sh(&id, "cat /proc/1/oom_score_adj").await?.trim() == "500",
            "oom_score_adj"
        );
        // The cgroup as the node sees it, v1 or v2.
        let pid = processes::with_command("while :; do sleep 0.1")
            .first()
            .context("no process")?
            .pid;
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let file = |controller: &str, v1: &str, v2: &str| -> Result<String> {
            let of = |prefix: &str| {
                groups
                    .lines()
                    .find_map(|line| line.split_once(prefix).map(|(_, path)| path.to_owned()))
            };
            let path = match of(&format!(":{controller}:")) {
                Some(path) => format!("/sys/fs/cgroup/{controller}{path}/{v1}"),
                None => format!("/sys/fs/cgroup{}/{v2}", of("0::").context("no cgroup")?),
            };
            Ok(std::fs::read_to_string(&path)
                .context(path)?
                .trim()
                .to_owned())
        };
        ensure!(
            groups.contains(&format!("{}/", driver::parent("kubepods"))),
            "not below its parent: {groups}"
        );
        ensure!(
            file("memory", "memory.limit_in_bytes", "memory.max")? == (64 << 20).to_string(),
            "memory"
        );
        ensure!(
            file("cpuset", "cpuset.cpus", "cpuset.cpus")? == "0",
            "cpuset"
        );
        let quota = file("cpu", "cpu.cfs_quota_us", "cpu.max")?;
        ensure!(quota.split(' ').next() == Some("50000"), "quota {quota}");
        Ok(())
    });
}

#[test]
fn what_the_image_sets_is_inherited_and_what_the_request_sets_wins() {
    world!(async |node| {
        let pod = node.run_pod("inherit").await?;
        node.image("settings:latest").await?;
        let mut plain = node::container_of("settings:latest", "plain", &[]);
        plain.envs = vec![env("OVERRIDDEN", "request"), env("FROM_REQUEST", "a=b c")];
        node.start_container(&pod, &plain).await?;
        let output = pod.output_with("plain", "groups=").await?;
        for line in [
            "from-image ",
            "FROM_IMAGE=image",
            "OVERRIDDEN=request",
            "FROM_REQUEST=a=b c",
            "/tmp",
            "uid=1000(app) gid=1000(app)",
        ] {
            ensure!(output.contains(line), "no {line:?} in\n{output}");
        }
        // Arguments replace the image's command, not its entry point.
        let mut arguments = node::container_of("settings:latest", "arguments", &[]);
        arguments.args = words(&["first", "second word"]);
        arguments.working_dir = "/home/app".to_owned();
        node.start_container(&pod, &arguments).await?;
        let output = pod.output_with("arguments", "groups=").await?;
        ensure!(
            output.contains("first second word") && output.contains("/home/app"),
            "{output}"
        );
        // A command replaces both.
        let command = node::container_of("settings:latest", "command", &["echo", "only this"]);
        let id = node.start_container(&pod, &command).await?;
        node.exited(&id).await?;
        ensure!(
            pod.output("command")? == "only this\n",
            "{}",
            pod.output("command")?
        );
        Ok(())
    });
}

#[test]
fn volumes_of_the_image_and_of_the_request_are_mounted() {
    world!(async |node| {
        let pod = node.run_pod("volumes").await?;
        node.image("settings:latest").await?;
        let volume = format!("{}/volume", pod.config.log_directory);
        world::make_dirs(&volume)?;
        world::write(format!("{volume}/file"), "from the node")?;
        let mut config = node::container_of("settings:latest", "c", &["sh", "-c", node::SLEEP]);
        config.mounts = vec![
            mount(&volume, "/mnt/rw", false),
            mount(&volume, "/mnt/made/on/the/way", true),
            // A file onto a path that is not in the image.
            mount(&format!("{volume}/file"), "/etc/given", true),
        ];
        node::security(&mut config).run_as_user = Some(cri::Int64Value { value: 0 });
        let id = node.start_container(&pod, &config).await?;
        let cri = node.cri();
        ensure!(
            cri.sh(&id, "cat /etc/given /mnt/made/on/the/way/file")
                .await?
                == "from the nodefrom the node"
        );
        cri.sh(&id, "echo back > /mnt/rw/new").await?;
        ensure!(std::fs::read_to_string(format!("{volume}/new"))? == "back\n");
        let denied = cri
            .exec(&id, &["sh", "-c", "echo no > /mnt/made/on/the/way/new"], 60)
            .await?;
        ensure!(denied.exit_code != 0, "a read-only mount was written");
        ensure!(
            cri.sh(&id, "ls -d /data").await? == "/data\n",
            "the image's volume is not there"
        );
        Ok(())
    });
}

#[test]
fn containers_are_listed_by_pod_state_and_label() {
    world!(async |node| {
        let (first, second) = (node.run_pod("first").await?, node.run_pod("second").await?);
        let running = node.run(&first, "running", node::SLEEP).await?;
        let ended = node.run(&first, "ended", "true").await?;
        node.exited(&ended).await?;
        let mut labelled = node::container("labelled", node::SLEEP);
        labelled
            .labels
            .insert("colour".to_owned(), "blue".to_owned());
        let labelled = node.start_container(&second, &labelled).await?;
        let list = async |filter: cri::ContainerFilter| -> Result<Vec<String>> {
            let found = node.cri().containers(Some(filter)).await?;
            Ok(found.into_iter().map(|container| container.id).collect())
        };
        let of_pod = cri::ContainerFilter {
            pod_sandbox_id: first.id.clone(),
            ..cri::ContainerFilter::default()
        };
        ensure!(list(of_pod.clone()).await?.len() == 2, "wrong by pod");
        let exited = cri::ContainerFilter {
            state: Some(cri::ContainerStateValue {
                state: ContainerState::ContainerExited.into(),
            }),
            ..of_pod
        };
        ensure!(list(exited).await? == [ended], "wrong by pod and state");
        let blue = cri::ContainerFilter {
            label_selector: BTreeMap::from([("colour".to_owned(), "blue".to_owned())]),
            ..cri::ContainerFilter::default()
        };
        ensure!(list(blue).await? == [labelled], "wrong by label");
        let by_id = cri::ContainerFilter {
            id: running.clone(),
            ..cri::ContainerFilter::default()
        };
        ensure!(list(by_id).await? == [running], "wrong by id");
        Ok(())
    });
}

#[test]
fn a_quick_end_is_never_missed() {
    world!(async |node| {
        let pod = node.run_pod("quick").await?;
        node.image("busybox:latest").await?;
        for number in 0..20 {
            let mut config = node::container(&format!("c{number}"), &format!("exit {number}"));
            config.metadata.get_or_insert_default().attempt = number;
            let id = node.start_container(&pod, &config).await?;
            let ended = node.exited(&id).await?;
            ensure!(
                ended.exit_code == i32::try_from(number)?,
                "{number}: {}",
                ended.exit_code
            );
        }
        settle::until_true("no process is left of them", async || {
            Ok(processes::all().iter().all(|process| !process.zombie))
        })
        .await
    });
}

fn env(key: &str, value: &str) -> cri::KeyValue {
    cri::KeyValue {
        key: key.to_owned(),
        value: value.as_bytes().to_vec(),
    }
}

fn mount(host: &str, container: &str, readonly: bool) -> cri::Mount {
    cri::Mount {
        host_path: host.to_owned(),
        container_path: container.to_owned(),
        readonly,
        ..cri::Mount::default()
    }
}
