//! UpdateContainerResources and UpdatePodSandboxResources: what changes in the kernel and in the status, and that a change
//! that fails changes nothing.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result, ensure};
use api::cri::{self, LinuxContainerResources as Limits};
use pintle_test::{
    cri::{Answer, refused, request},
    node::{self, Node, Setup},
    settle, world,
};
use serde_json::{Value, json};
use tonic::Code;

async fn update(node: &Node, id: &str, limits: Limits) -> Answer<()> {
    let message = cri::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(limits),
        ..cri::UpdateContainerResourcesRequest::default()
    };
    let mut runtime = node.cri().runtime;
    runtime.update_container_resources(request(message)).await?;
    Ok(())
}

/// The limits that a container's status tells.
async fn told(node: &Node, id: &str) -> Result<Limits> {
    let status = node.cri().status(id).await?;
    status
        .resources
        .and_then(|resources| resources.linux)
        .context("no resources in the status")
}

/// The verbose part of a container's status.
async fn info(node: &Node, id: &str) -> Result<Value> {
    let message = cri::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: true,
    };
    let mut runtime = node.cri().runtime;
    let answer = runtime.container_status(request(message)).await?;
    Ok(serde_json::from_str(&answer.into_inner().info["info"])?)
}

/// A container's cgroup, as the node sees it.
struct Cgroup(String);

impl Cgroup {
    async fn of(node: &Node, id: &str) -> Result<Self> {
        let info = info(node, id).await?;
        let path = info["cgroup"].as_str().context("no cgroup")?;
        Ok(Self(path.to_owned()))
    }

    /// What a limit's file holds: of cgroup v1 if that has it, else of v2.
    fn file(&self, controller: &str, v1: &str, v2: &str) -> Result<String> {
        let of_v1 = format!("/sys/fs/cgroup/{controller}{}/{v1}", self.0);
        let of_v2 = format!("/sys/fs/cgroup{}/{v2}", self.0);
        let content = fs::read_to_string(&of_v1).or_else(|_| fs::read_to_string(&of_v2));
        Ok(content
            .with_context(|| format!("reading {of_v1}"))?
            .trim()
            .to_owned())
    }

    fn memory(&self) -> Result<String> {
        self.file("memory", "memory.limit_in_bytes", "memory.max")
    }

    fn quota(&self) -> Result<String> {
        let file = self.file("cpu", "cpu.cfs_quota_us", "cpu.max")?;
        Ok(file.split(' ').next().unwrap_or_default().to_owned())
    }

    fn cpus(&self) -> Result<String> {
        self.file("cpuset", "cpuset.cpus", "cpuset.cpus")
    }

    /// Every limit that an update may touch.
    fn all(&self) -> Result<BTreeMap<&'static str, String>> {
        let mut all = BTreeMap::from([
            ("memory", self.memory()?),
            ("cpus", self.cpus()?),
            ("mems", self.file("cpuset", "cpuset.mems", "cpuset.mems")?),
            ("shares", self.file("cpu", "cpu.shares", "cpu.weight")?),
            ("quota", self.file("cpu", "cpu.cfs_quota_us", "cpu.max")?),
            ("period", self.file("cpu", "cpu.cfs_period_us", "cpu.max")?),
        ]);
        // Not every kernel counts swap.
        if let Ok(value) = self.file("memory", "memory.memsw.limit_in_bytes", "memory.swap.max") {
            all.insert("swap", value);
        }
        Ok(all)
    }
}

fn first() -> Limits {
    Limits {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        cpuset_cpus: "0".to_owned(),
        ..Limits::default()
    }
}

fn limited(name: &str, script: &str) -> cri::ContainerConfig {
    let mut config = node::container(name, script);
    config.linux.get_or_insert_default().resources = Some(first());
    config
}

#[test]
fn new_limits_reach_a_running_container_and_its_status_and_outlive_the_server() {
    world!(async |node| {
        let pod = node.run_pod("running").await?;
        node.image("busybox:latest").await?;
        let id = node
            .start_container(&pod, &limited("c", node::SLEEP))
            .await?;
        let cgroup = Cgroup::of(node, &id).await?;
        ensure!(cgroup.memory()? == (64 << 20).to_string(), "memory");

        // Up, also beyond the old limit of memory and swap; what is not given stays.
        update(
            node,
            &id,
            Limits {
                memory_limit_in_bytes: 256 << 20,
                cpu_quota: 80_000,
                ..Limits::default()
            },
        )
        .await?;
        ensure!(cgroup.memory()? == (256 << 20).to_string(), "not up");
        ensure!(cgroup.quota()? == "80000", "quota {}", cgroup.quota()?);
        ensure!(cgroup.cpus()? == "0", "cpus {}", cgroup.cpus()?);
        let mut wanted = Limits {
            memory_limit_in_bytes: 256 << 20,
            cpu_quota: 80_000,
            ..first()
        };
        ensure!(
            told(node, &id).await? == wanted,
            "{:?}",
            told(node, &id).await?
        );

        // Down, on other CPUs, and with another score.
        update(
            node,
            &id,
            Limits {
                memory_limit_in_bytes: 128 << 20,
                cpuset_cpus: "0-1".to_owned(),
                oom_score_adj: 321,
                ..Limits::default()
            },
        )
        .await?;
        wanted.memory_limit_in_bytes = 128 << 20;
        wanted.cpuset_cpus = "0-1".to_owned();
        wanted.oom_score_adj = 321;
        ensure!(cgroup.memory()? == (128 << 20).to_string(), "not down");
        ensure!(cgroup.cpus()? == "0-1", "cpus {}", cgroup.cpus()?);
        let score = node.cri().sh(&id, "cat /proc/1/oom_score_adj").await?;
        ensure!(score.trim() == "321", "{score}");
        ensure!(
            told(node, &id).await? == wanted,
            "{:?}",
            told(node, &id).await?
        );

        for gently in [false, true] {
            if gently {
                node.stop_server().await?;
            } else {
                node.kill_server()?;
            }
            node.start_server().await?;
            ensure!(
                told(node, &id).await? == wanted,
                "{:?}",
                told(node, &id).await?
            );
            ensure!(cgroup.memory()? == (128 << 20).to_string(), "forgotten");
        }

        // And no limits at all.
        update(
            node,
            &id,
            Limits {
                cpu_quota: -1,
                memory_limit_in_bytes: -1,
                ..Limits::default()
            },
        )
        .await?;
        let quota = cgroup.quota()?;
        ensure!(quota == "-1" || quota == "max", "quota {quota}");
        let memory = cgroup.memory()?;
        ensure!(
            memory == "max" || memory.parse::<u64>()? > 1 << 60,
            "memory {memory}"
        );
        let told = told(node, &id).await?;
        ensure!(
            (told.cpu_quota, told.memory_limit_in_bytes) == (-1, -1),
            "{told:?}"
        );
        Ok(())
    });
}

#[test]
fn an_update_of_memory_gives_no_swap_to_a_container_without() {
    world!(async |node| {
        let pod = node.run_pod("swap").await?;
        node.image("busybox:latest").await?;
        let both = |bytes: i64| Limits {
            memory_limit_in_bytes: bytes,
            memory_swap_limit_in_bytes: bytes,
            ..Limits::default()
        };
        let mut config = node::container("c", node::SLEEP);
        config.linux.get_or_insert_default().resources = Some(both(64 << 20));
        let id = node.start_container(&pod, &config).await?;
        let cgroup = Cgroup::of(node, &id).await?;
        for bytes in [32 << 20, 128 << 20] {
            let asked = Limits {
                memory_limit_in_bytes: bytes,
                ..Limits::default()
            };
            update(node, &id, asked).await?;
            ensure!(cgroup.memory()? == bytes.to_string(), "memory");
            let told = told(node, &id).await?;
            ensure!(told == both(bytes), "{told:?}");
            // Memory and swap in the one version, swap in the other; not every kernel counts it.
            if let Some(swap) = cgroup.all()?.get("swap") {
                ensure!(*swap == bytes.to_string() || swap == "0", "swap {swap}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_created_container_starts_with_its_new_limits() {
    world!(async |node| {
        let pod = node.run_pod("created").await?;
        node.image("busybox:latest").await?;
        let config = limited("c", node::SLEEP);
        let id = node.cri().create(&pod.id, &config, &pod.config).await?;
        let asked = Limits {
            memory_limit_in_bytes: 96 << 20,
            cpu_shares: 256,
            ..Limits::default()
        };
        update(node, &id, asked).await?;
        let cgroup = Cgroup::of(node, &id).await?;
        let check = || -> Result<()> {
            ensure!(cgroup.memory()? == (96 << 20).to_string(), "memory");
            // 256 shares are a weight of 10 or, with crun's later formula, 28.
            let shares = cgroup.file("cpu", "cpu.shares", "cpu.weight")?;
            ensure!(matches!(shares.as_str(), "256" | "10" | "28"), "{shares}");
            Ok(())
        };
        check()?;
        node.cri().start(&id).await?;
        check()?;
        ensure!(told(node, &id).await?.cpu_shares == 256, "not told");
        Ok(())
    });
}

#[test]
fn limits_of_a_container_that_has_ended_are_recorded() {
    world!(async |node| {
        let pod = node.run_pod("ended").await?;
        node.image("busybox:latest").await?;
        let id = node.start_container(&pod, &limited("c", "true")).await?;
        node.exited(&id).await?;
        let asked = Limits {
            memory_limit_in_bytes: 96 << 20,
            ..Limits::default()
        };
        update(node, &id, asked).await?;
        let wanted = Limits {
            memory_limit_in_bytes: 96 << 20,
            ..first()
        };
        ensure!(
            told(node, &id).await? == wanted,
            "{:?}",
            told(node, &id).await?
        );
        // And held against the rules all the same.
        let words = refused(
            update(
                node,
                &id,
                Limits {
                    cpu_period: 1,
                    ..Limits::default()
                },
            )
            .await,
            Code::InvalidArgument,
        )?;
        ensure!(words.starts_with("linux.cpu_period"), "{words}");
        Ok(())
    });
}

#[test]
fn a_change_that_fails_in_its_middle_changes_nothing() {
    world!(async |node| {
        let pod = node.run_pod("rollback").await?;
        node.image("busybox:latest").await?;
        let id = node
            .start_container(&pod, &limited("c", node::SLEEP))
            .await?;
        let cgroup = Cgroup::of(node, &id).await?;
        let before = cgroup.all()?;
        // The kernel refuses the CPUs, whatever was set before and after.
        let asked = Limits {
            cpu_shares: 100,
            cpu_quota: 20_000,
            memory_limit_in_bytes: 200 << 20,
            cpuset_cpus: "4000".to_owned(),
            oom_score_adj: 77,
            ..Limits::default()
        };
        for _ in 0..2 {
            let error = update(node, &id, asked.clone()).await.err();
            let error = error.context("CPU 4000 is there")?;
            ensure!(!error.message().is_empty(), "no words");
            let now = cgroup.all()?;
            ensure!(
                now == before,
                "{now:?}\ninstead of\n{before:?}\nafter {error}"
            );
            let score = node.cri().sh(&id, "cat /proc/1/oom_score_adj").await?;
            ensure!(score.trim() == "0", "{score}");
            ensure!(told(node, &id).await? == first(), "told");
        }
        // Nothing of it is in the way of the next one.
        let asked = Limits {
            cpu_quota: 20_000,
            ..Limits::default()
        };
        update(node, &id, asked).await?;
        ensure!(cgroup.quota()? == "20000", "{}", cgroup.quota()?);
        Ok(())
    });
}

#[test]
fn a_limit_below_what_is_in_use_is_refused_and_kills_nothing() {
    world!(async |node| {
        let pod = node.run_pod("in-use").await?;
        node.image("busybox:latest").await?;
        // A variable of 40 MB.
        let script = format!(
            "x=$(head -c 40m /dev/zero | tr '\\0' x); echo full; {}",
            node::SLEEP
        );
        let mut config = node::container("c", &script);
        config.linux.get_or_insert_default().resources = Some(Limits {
            memory_limit_in_bytes: 400 << 20,
            ..Limits::default()
        });
        let id = node.start_container(&pod, &config).await?;
        pod.output_with("c", "full").await?;
        let cgroup = Cgroup::of(node, &id).await?;
        let asked = Limits {
            memory_limit_in_bytes: 20 << 20,
            ..Limits::default()
        };
        let words = refused(update(node, &id, asked).await, Code::FailedPrecondition)?;
        ensure!(
            words.starts_with("linux.memory_limit_in_bytes: 20971520 is less than the"),
            "{words}"
        );
        ensure!(cgroup.memory()? == (400 << 20).to_string(), "changed");
        ensure!(
            node.cri().status(&id).await?.state() == cri::ContainerState::ContainerRunning,
            "killed"
        );
        Ok(())
    });
}

#[test]
fn every_bad_limit_is_refused_by_its_name_and_changes_nothing() {
    world!(async |node| {
        let pod = node.run_pod("bad").await?;
        node.image("busybox:latest").await?;
        let id = node
            .start_container(&pod, &limited("c", node::SLEEP))
            .await?;
        let cgroup = Cgroup::of(node, &id).await?;
        let before = cgroup.all()?;
        let page = |page_size: &str| cri::HugepageLimit {
            page_size: page_size.to_owned(),
            limit: 0,
        };
        for (limits, field) in [
            (
                Limits {
                    cpu_period: -1,
                    ..Limits::default()
                },
                "linux.cpu_period",
            ),
            (
                Limits {
                    cpu_period: 10,
                    ..Limits::default()
                },
                "linux.cpu_period",
            ),
            (
                Limits {
                    cpu_shares: -1,
                    ..Limits::default()
                },
                "linux.cpu_shares",
            ),
            (
                Limits {
                    cpu_quota: 10,
                    ..Limits::default()
                },
                "linux.cpu_quota",
            ),
            (
                Limits {
                    memory_limit_in_bytes: 1,
                    ..Limits::default()
                },
                "linux.memory_limit_in_bytes",
            ),
            (
                Limits {
                    memory_swap_limit_in_bytes: 1,
                    ..Limits::default()
                },
                "linux.memory_swap_limit_in_bytes",
            ),
            (
                Limits {
                    oom_score_adj: 1001,
                    ..Limits::default()
                },
                "linux.oom_score_adj",
            ),
            (
                Limits {
                    cpuset_cpus: "x".to_owned(),
                    ..Limits::default()
                },
                "linux.cpuset_cpus",
            ),
            (
                Limits {
                    cpuset_mems: "1-".to_owned(),
                    ..Limits::default()
                },
                "linux.cpuset_mems",
            ),
            (
                Limits {
                    hugepage_limits: vec![page("../x")],
                    ..Limits::default()
                },
                "linux.hugepage_limits",
            ),
            (
                Limits {
                    unified: BTreeMap::from([("../x".to_owned(), String::new())]),
                    ..Limits::default()
                },
                "linux.unified",
            ),
        ] {
            let answer = update(node, &id, limits).await;
            let status = answer.err().context(field)?;
            ensure!(
                matches!(
                    status.code(),
                    Code::InvalidArgument | Code::FailedPrecondition
                ) && status.message().starts_with(field),
                "{field}: {status:?}"
            );
            ensure!(cgroup.all()? == before, "{field} changed something");
        }
        let mut runtime = node.cri().runtime;
        let message = cri::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            ..cri::UpdateContainerResourcesRequest::default()
        };
        let answer = runtime.update_container_resources(request(message)).await;
        let words = refused(answer, Code::InvalidArgument)?;
        ensure!(words == "linux: must be given", "{words}");
        let nobody = update(node, &"0".repeat(64), first()).await;
        refused(nobody, Code::NotFound)?;
        ensure!(told(node, &id).await? == first(), "told");
        Ok(())
    });
}

#[test]
fn huge_pages_are_limited_where_the_kernel_has_them() {
    world!(async |node| {
        let pod = node.run_pod("huge").await?;
        let id = node.run(&pod, "c", node::SLEEP).await?;
        let cgroup = Cgroup::of(node, &id).await?;
        let limit = || cgroup.file("hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max");
        let has = limit().is_ok();
        let asked = Limits {
            hugepage_limits: vec![cri::HugepageLimit {
                page_size: "2MB".to_owned(),
                limit: 4 << 20,
            }],
            ..Limits::default()
        };
        update(node, &id, asked.clone()).await?;
        ensure!(told(node, &id).await?.hugepage_limits == asked.hugepage_limits);
        if has {
            ensure!(limit()? == (4 << 20).to_string(), "{}", limit()?);
        } else {
            let warnings = info(node, &id).await?["warnings"].to_string();
            ensure!(warnings.contains("hugetlb"), "{warnings}");
        }
        Ok(())
    });
}

/// Has the server use a runtime whose `update` goes on with a script when all is set.
async fn update_goes_on(node: &Node, script: &str) -> Result<()> {
    const WRAPPER: &str = "/run/test/wrapper";
    let name = node::runtime();
    let real = world::run("sh", ["-c", &format!("command -v {name}")])?;
    let real = String::from_utf8(real)?.trim().to_owned();
    let text = format!(
        "#!/bin/sh\ncase \" $* \" in *\" update \"*) {real} \"$@\" || exit 1; {script} ;; esac\nexec {real} \"$@\"\n"
    );
    world::write(WRAPPER, text)?;
    fs::set_permissions(WRAPPER, fs::Permissions::from_mode(0o755))?;
    node.stop_server().await?;
    node.configure(json!({ "runtimes": { &name: { "path": WRAPPER, "kind": &name } } }))?;
    node.start_server().await
}

fn new() -> Limits {
    Limits {
        cpu_quota: 30_000,
        cpu_shares: 300,
        memory_limit_in_bytes: 160 << 20,
        cpuset_cpus: "0-1".to_owned(),
        ..Limits::default()
    }
}

#[test]
fn a_change_that_fails_at_its_end_is_taken_back_whole() {
    world!(async |node| {
        update_goes_on(node, "echo late >&2; exit 1").await?;
        let pod = node.run_pod("late").await?;
        node.image("busybox:latest").await?;
        let id = node
            .start_container(&pod, &limited("c", node::SLEEP))
            .await?;
        let cgroup = Cgroup::of(node, &id).await?;
        let before = cgroup.all()?;
        let error = update(node, &id, new()).await.err().context("no error")?;
        ensure!(error.message().contains("late"), "{error}");
        ensure!(cgroup.all()? == before, "{:?}", cgroup.all()?);
        ensure!(told(node, &id).await? == first(), "told");
        Ok(())
    });
}

#[test]
fn a_change_that_cannot_be_recorded_is_taken_back_whole() {
    const FULL: &str = "/run/test/full";
    world!(async |node| {
        // When all is set there is no room any more for the record of it.
        let script = format!(
            "[ ! -e {FULL} ] || mount -o remount,size=$(df --output=used -B1 /run | tail -n 1) /run; exit 0"
        );
        update_goes_on(node, &script).await?;
        let pod = node.run_pod("full").await?;
        node.image("busybox:latest").await?;
        let id = node
            .start_container(&pod, &limited("c", node::SLEEP))
            .await?;
        let cgroup = Cgroup::of(node, &id).await?;
        let before = cgroup.all()?;
        world::write(FULL, "")?;
        let error = update(node, &id, new()).await.err().context("recorded")?;
        world::run("mount", ["-o", "remount,size=1g", "/run"])?;
        fs::remove_file(FULL)?;
        ensure!(error.message().contains("full"), "{error}");
        ensure!(cgroup.all()? == before, "{:?}", cgroup.all()?);
        ensure!(told(node, &id).await? == first(), "told");
        // Nothing of it is in the way of the next one, or comes back after it.
        update(node, &id, new()).await?;
        let after = cgroup.all()?;
        ensure!(after != before, "nothing changed");
        node.kill_server()?;
        node.start_server().await?;
        ensure!(cgroup.all()? == after, "{:?}", cgroup.all()?);
        Ok(())
    });
}

#[test]
fn a_server_killed_in_the_middle_of_a_change_brings_the_old_limits_back() {
    const HANG: &str = "/run/test/hang";
    world!(async |node| {
        let script = format!("while [ -e {HANG} ]; do sleep 0.05; done; exit 0");
        update_goes_on(node, &script).await?;
        let pod = node.run_pod("torn").await?;
        node.image("busybox:latest").await?;
        let id = node
            .start_container(&pod, &limited("c", node::SLEEP))
            .await?;
        let cgroup = Cgroup::of(node, &id).await?;
        let before = cgroup.all()?;
        world::write(HANG, "")?;
        let changing = tokio::spawn({
            let message = cri::UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(new()),
                ..cri::UpdateContainerResourcesRequest::default()
            };
            let mut runtime = node.cri().runtime;
            async move { runtime.update_container_resources(request(message)).await }
        });
        settle::until_true("the new limits hold", async || {
            Ok(cgroup.memory()? == (160 << 20).to_string() && cgroup.cpus()? == "0-1")
        })
        .await?;
        // Nobody was told that they do.
        ensure!(told(node, &id).await? == first(), "told");
        node.kill_server()?;
        ensure!(changing.await?.is_err(), "answered by a dead server");
        fs::remove_file(HANG)?;
        node.start_server().await?;
        ensure!(cgroup.all()? == before, "{:?}", cgroup.all()?);
        ensure!(told(node, &id).await? == first(), "told");
        // And what is changed for good stays at the next start.
        update(node, &id, new()).await?;
        let after = cgroup.all()?;
        node.kill_server()?;
        node.start_server().await?;
        ensure!(cgroup.all()? == after, "{:?}", cgroup.all()?);
        Ok(())
    });
}

#[test]
fn callers_of_one_change_share_it_and_the_change_asked_for_last_holds() {
    const HANG: &str = "/run/test/hang";
    world!(async |node| {
        let script = format!(
            "echo . >> /run/test/updates; while [ -e {HANG} ]; do sleep 0.05; done; exit 0"
        );
        update_goes_on(node, &script).await?;
        let pod = node.run_pod("shared").await?;
        node.image("busybox:latest").await?;
        let id = node
            .start_container(&pod, &limited("c", node::SLEEP))
            .await?;
        let cgroup = Cgroup::of(node, &id).await?;
        let other = Limits {
            cpu_quota: 70_000,
            ..Limits::default()
        };
        world::write(HANG, "")?;
        let mut changes = tokio::task::JoinSet::new();
        // The third is not the first any more, for another was asked for in between; the fourth is the third.
        for (limits, jobs) in [(new(), 1), (other, 2), (new(), 3), (new(), 3)] {
            let message = cri::UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(limits),
                ..cri::UpdateContainerResourcesRequest::default()
            };
            let mut runtime = node.cri().runtime;
            changes
                .spawn(async move { runtime.update_container_resources(request(message)).await });
            settle::until_true("they wait for each other", async || {
                let status = node.cri().node_status().await?;
                let info: Value = serde_json::from_str(&status.info["node"])?;
                let all = info["jobs"].as_array().context("no jobs")?;
                let waits = |job: &&Value| job["stage"] == "waiting for its turn";
                Ok(all.len() == jobs && all.iter().filter(waits).count() == jobs - 1)
            })
            .await?;
        }
        fs::remove_file(HANG)?;
        while let Some(change) = changes.join_next().await {
            change??;
        }
        let updates = fs::read_to_string("/run/test/updates")?.lines().count();
        ensure!(updates == 3, "{updates} updates");
        let told = told(node, &id).await?;
        ensure!(
            (told.memory_limit_in_bytes, told.cpu_quota) == (160 << 20, 30_000),
            "{told:?}"
        );
        ensure!(cgroup.quota()? == "30000", "{}", cgroup.quota()?);
        Ok(())
    });
}

#[test]
fn classes_of_block_io_and_rdt_are_given_or_refused() {
    const CLASSES: &str = "/run/test/classes.yaml";
    let setup = Setup::default().config(json!({ "containers": { "blockio_classes": CLASSES } }));
    world!(setup, async |node| {
        world::write(
            CLASSES,
            "Classes:\n  slow:\n  - Devices: [/dev/loop0]\n    ThrottleReadBps: 1Mi\n",
        )?;
        node.image("busybox:latest").await?;
        let mut config = node.pod_config("classes")?;
        for (name, class) in [("slow", "slow"), ("other", "fast")] {
            let key = format!("blockio.resources.beta.kubernetes.io/container.{name}");
            config.annotations.insert(key, class.to_owned());
        }
        let key = "rdt.resources.beta.kubernetes.io/container.cache";
        config.annotations.insert(key.to_owned(), "gold".to_owned());
        let pod = node.run_pod_as(config).await?;
        let id = node
            .start_container(&pod, &node::container("slow", node::SLEEP))
            .await?;
        let cgroup = Cgroup::of(node, &id).await?;
        let rates = cgroup.file("blkio", "blkio.throttle.read_bps_device", "io.max")?;
        ensure!(
            rates.starts_with("7:0 ") && rates.contains("1048576"),
            "{rates:?}"
        );
        let refusal = async |name: &str| -> Result<String> {
            let config = node::container(name, node::SLEEP);
            let answer = node.cri().create(&pod.id, &config, &pod.config).await;
            refused(answer, Code::FailedPrecondition)
        };
        let words = refusal("other").await?;
        ensure!(
            words.contains("\"fast\" is not in /run/test/classes.yaml, which has slow"),
            "{words}"
        );
        // No processor that this suite runs on shares its cache out.
        if !fs::exists("/sys/fs/resctrl/schemata")? {
            let words = refusal("cache").await?;
            ensure!(
                words.contains("no resctrl file system is mounted"),
                "{words}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_pods_resources_are_on_its_record() {
    world!(async |node| {
        let mut config = node.pod_config("pod")?;
        let linux = config.linux.get_or_insert_default();
        linux.overhead = Some(Limits {
            memory_limit_in_bytes: 1 << 20,
            ..Limits::default()
        });
        linux.resources = Some(Limits {
            cpu_shares: 100,
            memory_limit_in_bytes: 100 << 20,
            ..Limits::default()
        });
        let pod = node.run_pod_as(config.clone()).await?;
        let recorded = async || -> Result<Value> {
            let message = cri::PodSandboxStatusRequest {
                pod_sandbox_id: pod.id.clone(),
                verbose: true,
            };
            let mut runtime = node.cri().runtime;
            let answer = runtime.pod_sandbox_status(request(message)).await?;
            Ok(serde_json::from_str(&answer.into_inner().info["info"])?)
        };
        let before = recorded().await?;
        ensure!(
            before["overhead"]["memory_limit_bytes"] == 1 << 20,
            "{before}"
        );
        ensure!(before["resources"]["cpu_shares"] == 100, "{before}");
        let message = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: pod.id.clone(),
            overhead: None,
            resources: Some(Limits {
                memory_limit_in_bytes: 200 << 20,
                ..Limits::default()
            }),
        };
        let mut runtime = node.cri().runtime;
        runtime
            .update_pod_sandbox_resources(request(message.clone()))
            .await?;
        node.kill_server()?;
        node.start_server().await?;
        let after = recorded().await?;
        ensure!(
            after["resources"]["memory_limit_bytes"] == 200 << 20,
            "{after}"
        );
        ensure!(after["resources"]["cpu_shares"] == 100, "{after}");
        ensure!(after["overhead"] == before["overhead"], "{after}");
        // It is still the pod that was asked for.
        let again = node.cri().run_pod(&config, "").await?;
        ensure!(again == pod.id, "another pod");
        let unknown = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: "0".repeat(64),
            ..message.clone()
        };
        let mut runtime = node.cri().runtime;
        let answer = runtime.update_pod_sandbox_resources(request(unknown)).await;
        refused(answer, Code::NotFound)?;
        let mut bad = message;
        bad.overhead = Some(Limits {
            cpu_shares: -1,
            ..Limits::default()
        });
        let answer = runtime.update_pod_sandbox_resources(request(bad)).await;
        let words = refused(answer, Code::InvalidArgument)?;
        ensure!(words.starts_with("overhead.cpu_shares"), "{words}");
        Ok(())
    });
}
