//! The server dies and comes back: nothing that ran is lost, nothing that was half-made stays.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use api::cri::{self, ContainerState, PodSandboxState};
use pintle_test::{
    cni,
    cri::Client,
    ledger::Ledger,
    node::{self, Node, Setup},
    places, processes, settle, world,
};

#[test]
fn running_containers_survive_with_their_ids_statuses_and_processes() {
    world!(async |node| {
        let (pod, id) = node.sleeper("survivor").await?;
        let before = (
            node.cri().pod_status(&pod.id).await?,
            node.cri().status(&id).await?,
        );
        let started = node.cri().sh(&id, "stat -c %Z /proc/1").await?;
        for gently in [false, true] {
            if gently {
                let status = node.stop_server().await?;
                ensure!(status.success(), "{status}");
            } else {
                node.kill_server()?;
            }
            node.start_server().await?;
            let after = (
                node.cri().pod_status(&pod.id).await?,
                node.cri().status(&id).await?,
            );
            ensure!(after == before, "{after:?}\ninstead of\n{before:?}");
            ensure!(
                node.cri().sh(&id, "stat -c %Z /proc/1").await? == started,
                "another process"
            );
        }
        Ok(())
    });
}

/// Puts `body` into the record of a pod or container, and answers what was there. The server does not run.
fn exchange_record(table: &str, id: &str, body: &[u8]) -> Result<Vec<u8>> {
    let db = rusqlite::Connection::open(format!("{}/pods.db", places::RUN))?;
    let find = format!("SELECT body FROM {table} WHERE id = ?1");
    let former = db.query_row(&find, [id], |row| row.get(0))?;
    let put = format!("UPDATE {table} SET body = ?2 WHERE id = ?1");
    ensure!(db.execute(&put, rusqlite::params![id, body])? == 1);
    Ok(former)
}

/// A record as a later version might have written it.
fn of_a_later_version(record: &[u8]) -> Result<Vec<u8>> {
    let mut record: serde_json::Value = serde_json::from_slice(record)?;
    record["state"] = "Frozen".into();
    Ok(serde_json::to_vec(&record)?)
}

#[test]
fn what_has_an_unreadable_record_is_left_alone_and_made_no_second_time() {
    world!(async |node| {
        let (pod, id) = node.sleeper("written-later").await?;
        let (other, other_id) = node.sleeper("plain").await?;
        let started = node.cri().sh(&id, "stat -c %Z /proc/1").await?;
        node.kill_server()?;
        let former = exchange_record("containers", &id, b"")?;
        exchange_record("containers", &id, &of_a_later_version(&former)?)?;
        node.start_server().await?;
        ensure!(node.cri().status(&id).await.is_err(), "it is served");
        ensure!(node.cri().sh(&other_id, "echo on").await? == "on\n");
        let second = node::container("second", node::SLEEP);
        let refused = node
            .start_container(&pod, &second)
            .await
            .err()
            .context("a second one was made")?;
        ensure!(format!("{refused:#}").contains(&id), "{refused:#}");

        node.kill_server()?;
        let former_pod = exchange_record("pods", &pod.id, b"")?;
        exchange_record("pods", &pod.id, &of_a_later_version(&former_pod)?)?;
        node.start_server().await?;
        let mut again = pod.config.clone();
        again.metadata.get_or_insert_default().attempt = 1;
        let refused = node.run_pod_as(again).await.err();
        let refused = refused.context("the pod was made again")?;
        ensure!(format!("{refused:#}").contains(&pod.id), "{refused:#}");
        node.cri().stop_pod(&other.id).await?;

        // The version that can read them is back.
        node.stop_server().await?;
        exchange_record("containers", &id, &former)?;
        exchange_record("pods", &pod.id, &former_pod)?;
        node.start_server().await?;
        let now = node
            .cri()
            .sh(&id, "stat -c %Z /proc/1; cat /etc/passwd")
            .await?;
        ensure!(now.starts_with(&started), "{now}");
        ensure!(node.address(&pod).await.is_ok(), "it lost its network");
        Ok(())
    });
}

#[test]
fn exit_codes_and_oom_verdicts_of_the_time_between_are_known_afterwards() {
    world!(async |node| {
        let pod = node.run_pod("meanwhile").await?;
        let wait = "while [ ! -e /run/go/now ]; do sleep 0.05; done;";
        let go = "/run/test/go";
        world::make_dirs(go)?;
        node.image("busybox:latest").await?;
        let mut ids = BTreeMap::new();
        let mut pids = Vec::new();
        for (name, script, memory) in [
            ("three", "exit 3", 0),
            ("killed", "sh -c 'kill -KILL $$'; exit $?", 0),
            ("oom", "tail -c 200m /dev/zero", 32 << 20),
        ] {
            let mut config = node::container(name, &format!("{wait} {script}"));
            config.mounts.push(cri::Mount {
                host_path: go.to_owned(),
                container_path: "/run/go".to_owned(),
                ..cri::Mount::default()
            });
            config.linux.get_or_insert_default().resources = Some(cri::LinuxContainerResources {
                memory_limit_in_bytes: memory,
                ..cri::LinuxContainerResources::default()
            });
            let id = node.start_container(&pod, &config).await?;
            pids.push(node.cri().pid(&id).await?);
            ids.insert(name, id);
        }
        node.kill_server()?;
        world::write(format!("{go}/now"), "")?;
        settle::until_true("they have ended", async || {
            Ok(pids.iter().all(|pid| processes::read(*pid).is_none()))
        })
        .await?;
        node.start_server().await?;
        for (name, code, reason) in [
            ("three", 3, "Error"),
            ("killed", 137, "Error"),
            ("oom", 137, "OOMKilled"),
        ] {
            let ended = node.exited(&ids[name]).await?;
            ensure!(
                ended.exit_code == code && ended.reason == reason,
                "{name}: {} {}",
                ended.exit_code,
                ended.reason
            );
            ensure!(ended.finished_at >= ended.started_at, "{name}: {ended:?}");
        }
        Ok(())
    });
}

#[test]
fn after_a_reboot_nothing_of_the_former_boot_is_left() {
    world!(async |node| {
        let before = Ledger::count(&node.subject())?;
        node.sleeper("before").await?;
        node.kill_server()?;
        reboot().await?;
        node.start_server().await?;
        ensure!(node.cri().pods(None).await?.is_empty(), "a pod is listed");
        ensure!(
            node.cri().containers(None).await?.is_empty(),
            "a container is listed"
        );
        // Images are still there.
        ensure!(
            !node.cri().all_images().await?.is_empty(),
            "the images are gone"
        );
        before.compare(&node.subject()).await?;
        node.sleeper("after").await?;
        Ok(())
    });
}

#[test]
fn a_full_run_costs_no_monitor_its_life() {
    const WAIT: &str = "/run/test/go/wait";
    const FILLER: &str = "/run/filler";
    world!(async |node| {
        let pod = node.run_pod("full").await?;
        let mut config = node::container(
            "c",
            "while [ -e /run/go/wait ]; do sleep 0.05; done; exit 3",
        );
        config.mounts.push(cri::Mount {
            host_path: "/run/test/go".to_owned(),
            container_path: "/run/go".to_owned(),
            ..cri::Mount::default()
        });
        world::make_dirs("/run/test/go")?;
        world::write(WAIT, "")?;
        node.image("busybox:latest").await?;
        let id = node.start_container(&pod, &config).await?;
        let pid = node.cri().pid(&id).await?;
        node.kill_server()?;
        world::run("mount", ["-o", "remount,size=64m", "/run"])?;
        // To the last page: what a container can do to its /etc/hostname.
        let filled = std::process::Command::new("dd")
            .args(["if=/dev/zero", &format!("of={FILLER}"), "bs=4k"])
            .output()?;
        ensure!(!filled.status.success(), "/run is not full");
        std::fs::remove_file(WAIT)?;
        settle::until_true("it has ended", async || Ok(processes::read(pid).is_none())).await?;
        ensure!(node::monitors().len() == 1, "its monitor died");
        std::fs::remove_file(FILLER)?;
        node.start_server().await?;
        let ended = node.exited(&id).await?;
        ensure!(ended.exit_code == 3, "{ended:?}");
        Ok(())
    });
}

#[test]
fn a_plugin_that_hangs_after_a_reboot_does_not_keep_the_server_from_serving() {
    const HANGS: &str = "/run/test/plugin-hangs";
    let setup = Setup::default()
        .network(Some(cni::script("stubborn")))
        .plugin(
            "stubborn",
            r#"if [ $CNI_COMMAND = DEL ]; then while [ -e /run/test/plugin-hangs ]; do sleep 0.05; done; exit 0; fi
            echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.2/24"}]}'"#,
        );
    world!(setup, async |node| {
        let before = Ledger::count(&node.subject())?;
        for name in ["one", "two"] {
            node.run_pod(name).await?;
        }
        node.kill_server()?;
        reboot().await?;
        world::write(HANGS, "")?;
        // It waits for a pod of this node, say, which the kubelet can only start when the server serves.
        node.start_server().await?;
        ensure!(node.cri().pods(None).await?.is_empty(), "a pod is listed");
        // Once more, with what is to be undone on record by now.
        node.kill_server()?;
        node.start_server().await?;
        ensure!(
            !Ledger::count(&node.subject())?.since(&before).is_empty(),
            "nothing was left to detach: the test proves nothing"
        );
        std::fs::remove_file(HANGS)?;
        before.compare(&node.subject()).await?;
        Ok(())
    });
}

/// An ADD that goes on after the DEL of the next server would leave an address that nobody knows of.
#[test]
fn a_plugin_that_outlives_its_server_does_not_attach_what_the_next_one_has_detached() {
    const PLUGIN: &str = "/run/test/plugin";
    const GO: &str = "/run/test/go";
    let setup = Setup::default().network(Some(cni::script("slow"))).plugin(
        "slow",
        r#"[ $CNI_COMMAND = ADD ] || exit 0
            (echo $$ > /run/test/plugin.new; mv /run/test/plugin.new /run/test/plugin
             while [ ! -e /run/test/go ]; do sleep 0.05; done; echo x > /run/test/address)
            echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.2/24"}]}'"#,
    );
    world!(setup, async |node| {
        let (cri, config) = (node.cri(), node.pod_config("halfway")?);
        let pod = tokio::spawn(async move { cri.run_pod(&config, "").await });
        settle::until_true("the plugin runs", async || Ok(Path::new(PLUGIN).exists())).await?;
        let plugin: u32 = std::fs::read_to_string(PLUGIN)?.trim().parse()?;
        let of_plugin = |pid: &u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let told = b"CNI_CONTAINERID=";
            environment.windows(told.len()).any(|part| part == told)
        };
        node.kill_server()?;
        ensure!(pod.await?.is_err(), "the killed server answered");
        ensure!(
            of_plugin(&plugin),
            "the plugin ended with its server: the test proves nothing"
        );
        node.start_server().await?;
        let all = processes::all().into_iter().map(|process| process.pid);
        let left: Vec<u32> = all.filter(of_plugin).collect();
        ensure!(left.is_empty(), "{left:?} go on");
        world::write(GO, "")?;
        ensure!(node.cri().pods(None).await?.is_empty(), "a pod is listed");
        node.run_pod("afterwards").await?;
        Ok(())
    });
}

#[test]
fn a_server_killed_fifteen_times_in_a_churn_loses_nothing() {
    world!(async |node| torture(node, 15).await);
}

#[test]
#[ignore = "takes minutes: make torture"]
fn a_server_killed_two_hundred_times_in_a_churn_loses_nothing() {
    world!(async |node| torture(node, 200).await);
}

/// Kills the server again and again while pods come and go, and looks whether all that was answered is true.
async fn torture(node: &Node, kills: u32) -> Result<()> {
    node.image("busybox:latest").await?;
    // One that is there all the time and counts.
    let pod = node.run_pod("witness").await?;
    let witness = node
        .run(
            &pod,
            "witness",
            "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done",
        )
        .await?;
    let known: Arc<Mutex<BTreeMap<String, i32>>> = Arc::default();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut churn = tokio::task::JoinSet::new();
    for worker in 0..3 {
        let (stop, known) = (Arc::clone(&stop), Arc::clone(&known));
        let mut configs = Vec::new();
        for number in 0..200 {
            configs.push(node.pod_config(&format!("churn-{worker}-{number}"))?);
        }
        churn.spawn(async move {
            let mut code = worker;
            for config in configs {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                code = (code + 3) % 120;
                // Whatever fails, fails because the server died; kubelet would try again, here the next pod does.
                if let Ok((container, removed)) = one_pod(&config, code).await {
                    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                    if removed {
                        known.remove(&container);
                    } else {
                        known.insert(container, code);
                    }
                }
            }
        });
    }
    // A pseudo-random walk through the moments of a pod's life.
    let mut state = 0x2545_f491_u64;
    for kill in 0..kills {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        tokio::time::sleep(Duration::from_millis((state >> 33) % 150)).await;
        node.kill_server()?;
        node.start_server()
            .await
            .with_context(|| format!("after kill {kill}"))?;
        let status = node.cri().status(&witness).await?;
        ensure!(
            status.state() == ContainerState::ContainerRunning,
            "kill {kill}: the witness is {:?}",
            status.state()
        );
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    while let Some(result) = churn.join_next().await {
        result?;
    }
    let known = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (id, code) in known {
        let ended = node
            .exited(&id)
            .await
            .with_context(|| format!("container {id}"))?;
        ensure!(
            ended.exit_code == code,
            "{id} ended with {} instead of {code}",
            ended.exit_code
        );
    }
    for pod in node.cri().pods(None).await? {
        // Every pod that is listed is whole: its status can be asked for.
        let status = node.cri().pod_status(&pod.id).await?;
        if status.state() == PodSandboxState::SandboxReady {
            ensure!(
                status.network.is_some_and(|network| !network.ip.is_empty()),
                "{} has no address",
                pod.id
            );
        }
    }
    // The witness was logged all the time, without a gap.
    let output = pod.output("witness")?;
    for (expected, line) in output.lines().enumerate() {
        ensure!(
            line == expected.to_string(),
            "line {line} instead of {expected}"
        );
    }
    Ok(())
}

/// One pod with one container that exits with a code, through a server that may die at any moment. The container's id when
/// its start was answered, and whether its removal was answered too.
async fn one_pod(config: &cri::PodSandboxConfig, code: i32) -> Result<(String, bool)> {
    let client = async || -> Result<Client> {
        settle::until("the server is back", async || {
            Ok(Client::connect(places::SOCKET).await.ok())
        })
        .await
    };
    let pod = client().await?.run_pod(config, "").await?;
    let container = node::container("c", &format!("exit {code}"));
    let id = client().await?.create(&pod, &container, config).await?;
    client().await?.start(&id).await?;
    // Every other pod is taken down again at once.
    if code % 2 == 0 {
        let removed = async {
            client().await?.stop_pod(&pod).await?;
            anyhow::Ok(client().await?.remove_pod(&pod).await?)
        };
        if removed.await.is_ok() {
            return Ok((id, true));
        }
        // Half removed by a server that died: nothing can be said of the container.
        anyhow::bail!("not removed");
    }
    Ok((id, false))
}

/// What a reboot does: processes and everything on a tmpfs are gone, the disk and CNI's cache are not.
async fn reboot() -> Result<()> {
    for monitor in node::monitors() {
        node::signal(monitor.pid, rustix::process::Signal::KILL)?;
    }
    for process in processes::with_command("while :; do sleep 0.1") {
        node::signal(process.pid, rustix::process::Signal::KILL)?;
    }
    settle::until_true("all processes are gone", async || {
        Ok(processes::with_command("while :; do sleep 0.1").is_empty())
    })
    .await?;
    unmount_below(places::RUN)?;
    unmount_below("/run/netns")?;
    for dir in [places::RUN, "/run/netns"] {
        std::fs::remove_dir_all(dir).with_context(|| format!("removing {dir}"))?;
    }
    world::make_dirs("/run/netns")?;
    world::make_dirs(places::RUN)?;
    // A killed process holds its cgroup until the kernel is done with it, which is after its command line is gone.
    settle::until_true("the cgroups of the former boot are gone", async || {
        Ok(remove_cgroups_below(Path::new("/sys/fs/cgroup")))
    })
    .await?;
    Ok(())
}

/// Unmounts a directory, if something is mounted there, and everything below it.
fn unmount_below(dir: &str) -> Result<()> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    let prefix = format!("{dir}/");
    for place in text.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
        if place == dir || place.starts_with(&prefix) {
            match rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH) {
                // Its peer went before, and took it along.
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error).with_context(|| format!("unmounting {place}")),
            }
        }
    }
    Ok(())
}

/// Removes what a reboot would have removed, and tells whether all of it went.
fn remove_cgroups_below(dir: &Path) -> bool {
    let mut all_gone = true;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all_gone &= remove_cgroups_below(&entry.path());
            // The root of a hierarchy of v1 is a mount, and stays.
            all_gone &= std::fs::remove_dir(entry.path()).is_ok() || is_mount(&entry.path());
        }
    }
    all_gone
}

fn is_mount(path: &Path) -> bool {
    std::fs::read_to_string("/proc/self/mountinfo").is_ok_and(|text| {
        text.lines()
            .any(|line| line.split(' ').nth(4) == path.to_str())
    })
}
