//! The same request twice: kubelet repeats itself after every timeout and every restart of its own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api::cri;
use pintle_test::{
    cni,
    cri::{refused, request_within},
    node::{self, Setup},
    world,
};
use tonic::Code;

#[test]
fn stopping_and_removing_what_is_not_there_succeeds() {
    world!(async |node| {
        let cri = node.cri();
        for id in ["no-such-thing", &"f".repeat(64)] {
            cri.stop_pod(id).await?;
            cri.remove_pod(id).await?;
            cri.stop(id, 5).await?;
            cri.remove(id).await?;
            cri.remove_image(id).await?;
        }
        Ok(())
    });
}

#[test]
fn stopping_and_removing_twice_succeeds() {
    world!(async |node| {
        let (pod, id) = node.sleeper("twice").await?;
        let cri = node.cri();
        for _ in 0..2 {
            cri.stop(&id, 0).await?;
        }
        let ended = cri.status(&id).await?;
        for _ in 0..2 {
            cri.remove(&id).await?;
        }
        ensure!(ended.finished_at > 0, "no time of its end");
        for _ in 0..2 {
            cri.stop_pod(&pod.id).await?;
        }
        for _ in 0..2 {
            cri.remove_pod(&pod.id).await?;
        }
        Ok(())
    });
}

#[test]
fn whoever_asks_again_for_the_same_pod_gets_the_same_pod() {
    // A plugin that takes its time makes sure that both are under way together.
    let setup = Setup::default().network(Some(cni::script("slow"))).plugin("slow", r#"[ "$CNI_COMMAND" = ADD ] && sleep 1 && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.2/24"}]}'; exit 0"#);
    world!(setup, async |node| {
        let config = node.pod_config("again")?;
        let message = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let impatient = request_within(message, Duration::from_millis(200));
        let given_up = node.cri().runtime.clone().run_pod_sandbox(impatient).await;
        ensure!(given_up.is_err(), "it did not take its time");
        let first = {
            let (cri, config) = (node.cri(), config.clone());
            tokio::spawn(async move { cri.run_pod(&config, "").await })
        };
        let second = node.cri().run_pod(&config, "").await?;
        let first = first.await??;
        ensure!(first == second, "{first} and {second}");
        let pods = node.cri().pods(None).await?;
        ensure!(pods.len() == 1, "{} pods", pods.len());
        Ok(())
    });
}

#[test]
fn a_pod_that_is_there_is_not_made_twice_whatever_is_answered() {
    world!(async |node| {
        let pod = node.run_pod("there").await?;
        // The answer may have been lost on the way: the same request then gets the same pod, or is told of it.
        match node.cri().run_pod(&pod.config, "").await {
            Ok(id) => ensure!(id == pod.id, "a twin: {id}"),
            Err(status) => ensure!(
                status.code() == Code::AlreadyExists && status.message().contains(&pod.id),
                "{status}"
            ),
        }
        ensure!(node.cri().pods(None).await?.len() == 1, "a twin");
        // The next attempt is another pod.
        let mut next = pod.config.clone();
        next.metadata.get_or_insert_default().attempt = 1;
        let next = node.cri().run_pod(&next, "").await?;
        ensure!(next != pod.id, "the same id");
        Ok(())
    });
}

#[test]
fn whoever_asks_again_for_the_same_container_gets_the_same_container() {
    world!(async |node| {
        let pod = node.run_pod("container").await?;
        node.image("busybox:latest").await?;
        let config = node::container("c", node::SLEEP);
        let mut group = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (cri, config, pod) = (node.cri(), config.clone(), pod.clone());
            group.spawn(async move { cri.create(&pod.id, &config, &pod.config).await });
        }
        let mut ids = Vec::new();
        while let Some(result) = group.join_next().await {
            match result? {
                Ok(id) => ids.push(id),
                // Too late to join: told of the one that is there.
                Err(status) => ensure!(status.code() == Code::AlreadyExists, "{status}"),
            }
        }
        ids.dedup();
        ensure!(ids.len() == 1, "{ids:?}");
        ensure!(node.cri().containers(None).await?.len() == 1, "a twin");
        Ok(())
    });
}

#[test]
fn a_pod_that_failed_can_be_made_with_the_same_name() {
    let setup = Setup::default().network(Some(cni::script("failing"))).plugin("failing", r#"if [ "$CNI_COMMAND" = ADD ] && [ ! -e /run/test/works ]; then echo '{"cniVersion":"1.0.0","code":11,"msg":"try again"}'; exit 1; fi
            echo '{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.2/24"}]}'"#);
    world!(setup, async |node| {
        let config = node.pod_config("retried")?;
        for _ in 0..3 {
            let status = node
                .cri()
                .run_pod(&config, "")
                .await
                .err()
                .context("it ran")?;
            ensure!(
                status.message().contains("try again"),
                "{}",
                status.message()
            );
            ensure!(
                node.cri().pods(None).await?.is_empty(),
                "a failed pod is listed"
            );
        }
        world::write("/run/test/works", "")?;
        node.cri().run_pod(&config, "").await?;
        Ok(())
    });
}

#[test]
fn a_container_name_is_free_again_when_its_container_is_gone() {
    world!(async |node| -> Result<()> {
        let pod = node.run_pod("names").await?;
        for _ in 0..3 {
            let id = node.run(&pod, "c", "true").await?;
            node.exited(&id).await?;
            node.cri().remove(&id).await?;
        }
        let id = node.run(&pod, "c", node::SLEEP).await?;
        let answer = node.cri().start(&id).await;
        refused(answer, Code::FailedPrecondition)?;
        Ok(())
    });
}
