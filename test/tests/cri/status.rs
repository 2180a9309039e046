//! `pintle status`: what is under way shows, with how far it is and since when, and what is over does not.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use pintle_test::{cni, fault_proxy::FaultProxy, node::Setup, settle, world};
use serde_json::{Value, json};

use crate::{cli::pintle, pulls};

/// What `pintle status` prints, and its exit code.
fn status(arguments: &[&str]) -> Result<(String, Option<i32>)> {
    let output = pintle(&[&["status"], arguments].concat())?;
    let said = String::from_utf8(output.stdout)?;
    Ok((said, output.status.code()))
}

fn json() -> Result<Value> {
    Ok(serde_json::from_str(&status(&["--json"])?.0)?)
}

#[test]
fn a_stuck_pod_and_a_slow_pull_are_told_with_their_stage_and_speed() {
    let setup = pulls::setup(&json!({}))
        .network(Some(cni::script("stuck")))
        .plugin(
            "stuck",
            r#"[ "$CNI_COMMAND" = ADD ] && while [ -e /run/test/stuck ]; do sleep 0.1; done
            [ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.2/24"}]}'; exit 0"#,
        );
    world!(setup, async |node| {
        let (text, code) = status(&[])?;
        ensure!(code == Some(0), "{text}");
        ensure!(
            text.contains("runtime     ready") && text.contains("jobs        0 under way"),
            "{text}"
        );

        world::write("/run/test/stuck", "")?;
        let (cri, config) = (node.cri(), node.pod_config("held-up")?);
        let pod = tokio::spawn(async move { cri.run_pod(&config, "").await });
        settle::until_true("the pod waits for its network", async || {
            let job = &json()?["jobs"][0];
            let waits = job["stage"].as_str().is_some_and(|s| s.contains("network"));
            Ok(waits && job["ageSeconds"].as_f64() > Some(0.0))
        })
        .await?;
        let (text, _) = status(&[])?;
        ensure!(
            text.contains("jobs        1 under way") && text.contains(" RunPodSandbox "),
            "{text}"
        );
        ensure!(text.contains("held-up"), "{text}");
        fs::remove_file("/run/test/stuck")?;
        let pod = pod.await??;
        let seen = json()?;
        ensure!(seen["jobs"] == json!([]), "{seen}");
        ensure!(seen["pods"]["ready"] == 1, "{seen}");
        node.cri().stop_pod(&pod).await?;

        let (_registry, size) = pulls::registry_with(&[8]).await?;
        let proxy = FaultProxy::listen(5001, pulls::BEHIND, Duration::from_millis(10), [])?;
        let (cri, name) = (node.cri(), proxy.name("large:latest"));
        let pull = tokio::spawn(async move { cri.pull(&name).await });
        settle::until_true("bytes come with a speed", async || {
            let layer = &json()?["pulls"]["underWay"][0]["layers"][0];
            let fetched = layer["fetchedBytes"].as_u64().unwrap_or(0);
            Ok(layer["sizeBytes"] == size && fetched > 0 && layer["bytesPerSecond"] != 0)
        })
        .await?;
        let (text, _) = status(&[])?;
        ensure!(
            text.contains("pulls       1 under way, 0 done") && text.contains("large:latest ["),
            "{text}"
        );
        pull.await??;
        let seen = json()?;
        ensure!(seen["pulls"]["underWay"] == json!([]), "{seen}");
        ensure!(
            seen["pulls"]["succeeded"] == 1 && seen["images"] == 1,
            "{seen}"
        );
        ensure!(seen["pods"]["not ready"] == 1, "{seen}");
        Ok(())
    });
}

#[test]
fn a_node_without_a_network_is_told_as_one() {
    world!(Setup::default().network(None), async |node| {
        let (text, code) = status(&[])?;
        ensure!(
            code == Some(1) && text.contains("network     not ready: "),
            "{text}"
        );
        node.stop_server().await?;
        let (text, code) = status(&[])?;
        ensure!(code == Some(69) && text.is_empty(), "{text}");
        node.start_server().await
    });
}
