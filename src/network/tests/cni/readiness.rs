//! Readiness follows the configuration, the plugins' executables and what the plugins say of themselves.

use std::fs;

use pintle_network::Network;
use serde_json::{Value, json};

use crate::node::{Node, eventually, new_pod, on_private_node};

/// Speaks 1.1.0, is ready when there is a file `ready`, and attaches with the version that it was told.
const SPEAKS_STATUS: &str = r#"
input=$(cat)
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}' ;;
STATUS) echo >> asked; test -e ready || { echo '{"code":50,"msg":"agent is not running"}'; exit 1; } ;;
ADD) echo "$input" > input; echo '{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.2/16"}]}' ;;
esac"#;

async fn becomes_ready(network: &Network) {
    eventually("it becomes ready", || network.status().is_ok()).await;
}

async fn becomes_not_ready(network: &Network, reason: &str, words: &str) {
    eventually(&format!("{reason}: {words}"), || {
        network
            .status()
            .is_err_and(|why| why.reason == reason && why.message.contains(words))
    })
    .await;
}

fn plugin(node: &Node, name: &str) {
    node.script(name, "echo '{}'");
}

#[test]
fn configuration_comes_changes_and_goes() {
    on_private_node(
        "readiness::configuration_comes_changes_and_goes",
        async |node| {
            plugin(&node, "good");
            fs::remove_dir(&node.config.conf_dir).unwrap();
            let network = node.open();
            let none = "install a network plugin";
            becomes_not_ready(&network, "NoNetworkConfiguration", none).await;
            // The directory appears after the server, as on every fresh node.
            fs::create_dir(&node.config.conf_dir).unwrap();
            node.conflist("pods", "1.0.0", &json!([{ "type": "good" }]));
            becomes_ready(&network).await;
            fs::write(node.config.conf_dir.join("pods.conflist"), "{ half").unwrap();
            becomes_not_ready(&network, "NetworkConfigurationInvalid", "pods.conflist: ").await;
            node.conflist(
                "pods",
                "1.0.0",
                &json!([{ "type": "good" }, { "type": "bad" }]),
            );
            becomes_not_ready(&network, "NetworkPluginMissing", "plugin bad of ").await;
            plugin(&node, "bad");
            becomes_ready(&network).await;
            fs::remove_dir_all(&node.config.conf_dir).unwrap();
            becomes_not_ready(&network, "NoNetworkConfiguration", none).await;
            fs::create_dir(&node.config.conf_dir).unwrap();
            node.conflist("again", "1.0.0", &json!([{ "type": "good" }]));
            becomes_ready(&network).await;
        },
    );
}

#[test]
fn a_change_is_seen_at_once() {
    on_private_node("readiness::a_change_is_seen_at_once", async |node| {
        plugin(&node, "good");
        node.conflist("pods", "1.0.0", &json!([{ "type": "good" }]));
        let network = node.open();
        becomes_ready(&network).await;
        // While all is well the regular look is far off: only the watch can tell.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let begun = std::time::Instant::now();
        let unfinished = node.config.conf_dir.join(".new");
        fs::write(
            &unfinished,
            json!({ "cniVersion": "1.0.0", "name": "pods", "type": "absent" }).to_string(),
        )
        .unwrap();
        fs::rename(unfinished, node.config.conf_dir.join("00.conf")).unwrap();
        becomes_not_ready(&network, "NetworkPluginMissing", "plugin absent").await;
        assert!(begun.elapsed().as_millis() < 1500, "{:?}", begun.elapsed());
    });
}

#[test]
fn a_network_is_ready_when_its_plugins_say_so() {
    on_private_node(
        "readiness::a_network_is_ready_when_its_plugins_say_so",
        async |node| {
            node.script("agent", SPEAKS_STATUS);
            let network = node.open();
            assert!(network.status().is_err());
            node.conflist("pods", "1.1.0", &json!([{ "type": "agent" }]));
            let words = "network pods: plugin agent STATUS: agent is not running (code 50)";
            becomes_not_ready(&network, "NetworkPluginNotReady", words).await;
            fs::write(node.path("ready"), "").unwrap();
            becomes_ready(&network).await;
        },
    );
}

#[test]
fn plugins_before_1_1_are_not_asked_for_their_status() {
    on_private_node(
        "readiness::plugins_before_1_1_are_not_asked_for_their_status",
        async |node| {
            node.script("agent", SPEAKS_STATUS);
            node.conflist("pods", "1.0.0", &json!([{ "type": "agent" }]));
            let network = node.open();
            becomes_ready(&network).await;
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            assert_eq!(network.status(), Ok(()));
            assert!(!node.path("asked").exists());
        },
    );
}

#[test]
fn the_newest_version_that_all_speak_is_used() {
    on_private_node(
        "readiness::the_newest_version_that_all_speak_is_used",
        async |node| {
            node.script("agent", SPEAKS_STATUS);
            // Debian's tuning plugin speaks up to 1.0.0.
            let json = json!({ "cniVersion": "0.3.1", "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"], "name": "pods",
            "plugins": [{ "type": "agent" }, { "type": "tuning" }] });
            // The configuration appears after the start, so it is in use only when the plugins have been asked.
            let network = node.open();
            fs::write(node.config.conf_dir.join("10.conflist"), json.to_string()).unwrap();
            becomes_ready(&network).await;
            let pod = new_pod("a");
            network.attach(&pod).await.unwrap();
            let input: Value =
                serde_json::from_slice(&fs::read(node.path("input")).unwrap()).unwrap();
            assert_eq!(input["cniVersion"], "1.0.0");
            let record = node
                .path("cache/results")
                .join(format!("pods-{}-eth0", pod.pod_id));
            eventually("the result is on record in that version", || {
                let record: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
                record["result"]["cniVersion"] == "1.0.0"
            })
            .await;
            network.detach(&pod).await.unwrap();
        },
    );
}

#[test]
fn a_version_that_a_plugin_does_not_speak_is_told() {
    on_private_node(
        "readiness::a_version_that_a_plugin_does_not_speak_is_told",
        async |node| {
            node.conflist("pods", "1.1.0", &json!([node.bridge()]));
            let network = node.open();
            becomes_not_ready(
                &network,
                "NetworkPluginIncompatible",
                "plugin bridge speaks only 0.1.0, 0.2.0",
            )
            .await;
            node.conflist("pods", "1.0.0", &json!([node.bridge()]));
            becomes_ready(&network).await;
        },
    );
}

#[test]
fn the_watch_ends_with_the_last_handle() {
    on_private_node(
        "readiness::the_watch_ends_with_the_last_handle",
        async |node| {
            let threads = || {
                fs::read_dir("/proc/self/task")
                    .unwrap()
                    .filter(|task| {
                        let name = task.as_ref().unwrap().path().join("comm");
                        fs::read_to_string(name).is_ok_and(|name| name.contains("notify-rs"))
                    })
                    .count()
            };
            let network = node.open();
            let other = network.clone();
            eventually("the watch begins", || threads() == 1).await;
            drop(network);
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            assert_eq!(threads(), 1);
            drop(other);
            eventually("the watch ends", || threads() == 0).await;
        },
    );
}
