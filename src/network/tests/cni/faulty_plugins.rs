//! Bad plugins: each fault becomes an error that says what happened, in time, and what is left can be detached later.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::node::{Node, eventually, message, new_pod, on_private_node};

/// Answers to ADD; notes every question in the file `calls`.
const GOOD: &str = r#"
input=$(cat)
echo "$CNI_COMMAND" >> calls
test $CNI_COMMAND = ADD || exit 0
echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.2/16"}]}'"#;

fn calls(node: &Node) -> Vec<String> {
    let text = fs::read_to_string(node.path("calls")).unwrap_or_default();
    text.lines()
        .filter(|call| *call != "VERSION")
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_plugin_that_hangs_fails_the_attach_within_its_deadline() {
    on_private_node(
        "faulty_plugins::a_plugin_that_hangs_fails_the_attach_within_its_deadline",
        async |mut node| {
            node.config.plugin_timeout = Duration::from_millis(500);
            node.script(
                "hangs",
                "test $CNI_COMMAND = ADD || exit 0; sleep 60 & echo $! > child; wait",
            );
            node.conflist("pods", "1.0.0", &json!([{ "type": "hangs" }]));
            let network = node.open();
            let pod = new_pod("a");
            let begun = Instant::now();
            let error = network.attach(&pod).await.unwrap_err();
            assert!(
                begun.elapsed() < Duration::from_secs(3),
                "{:?}",
                begun.elapsed()
            );
            assert!(error.is_deadline());
            assert!(!error.is_left_attached());
            assert!(
                error
                    .to_string()
                    .ends_with("plugin hangs ADD: killed after 500ms without an answer"),
                "{error}"
            );
            assert_eq!(node.leftovers(), [""; 0]);
            let child = fs::read_to_string(node.path("child")).unwrap();
            let stat = format!("/proc/{}/stat", child.trim());
            eventually("the plugin's child ends", || {
                fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
            })
            .await;
        },
    );
}

#[test]
fn garbage_is_quoted() {
    on_private_node("faulty_plugins::garbage_is_quoted", async |node| {
        node.script("garbage", "cat > /dev/null; echo '<html>login</html>'");
        node.conflist("pods", "1.0.0", &json!([{ "type": "garbage" }]));
        let network = node.open();
        let message = message(network.attach(&new_pod("a")).await);
        assert!(
            message.contains("answer is not JSON") && message.contains("<html>login"),
            "{message}"
        );
        assert_eq!(node.leftovers(), [""; 0]);
    });
}

#[test]
fn success_without_an_address_is_none() {
    on_private_node(
        "faulty_plugins::success_without_an_address_is_none",
        async |node| {
            node.script("shy", "echo $CNI_COMMAND >> calls; test $CNI_COMMAND = ADD || exit 0; echo '{\"cniVersion\":\"1.0.0\"}'");
            node.conflist("pods", "1.0.0", &json!([{ "type": "shy" }]));
            let network = node.open();
            let message = message(network.attach(&new_pod("a")).await);
            assert!(
                message.ends_with("plugin shy ADD: no address for the pod in the result"),
                "{message}"
            );
            assert_eq!(calls(&node), ["ADD", "DEL"]);
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}

#[test]
fn a_plugin_that_vanished_is_named() {
    on_private_node(
        "faulty_plugins::a_plugin_that_vanished_is_named",
        async |node| {
            // It goes after the network was found ready, and before its turn.
            node.script(
                "good",
                &format!("test $CNI_COMMAND = ADD && rm -f bin/gone\n{GOOD}"),
            );
            node.script("gone", GOOD);
            node.conflist(
                "pods",
                "1.0.0",
                &json!([{ "type": "good" }, { "type": "gone" }]),
            );
            let network = node.open();
            assert_eq!(network.status(), Ok(()));
            let pod = new_pod("a");
            let error = network.attach(&pod).await.unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("plugin gone ADD: execute ") && text.contains("No such file"),
                "{text}"
            );
            // Its DEL cannot run either, so the record stays until the plugin is back.
            assert!(error.is_left_attached());
            assert_eq!(calls(&node), ["ADD", "DEL"]);
            assert!(message(network.detach(&pod).await).contains("plugin gone DEL: not found in "));
            node.script("gone", GOOD);
            network.detach(&pod).await.unwrap();
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}

#[test]
fn a_failed_detach_asks_every_plugin_and_can_be_tried_again() {
    on_private_node(
        "faulty_plugins::a_failed_detach_asks_every_plugin_and_can_be_tried_again",
        async |node| {
            let stubborn = GOOD.replace(
            "test $CNI_COMMAND = ADD || exit 0",
            "test $CNI_COMMAND = ADD || { test -e willing && exit 0; echo '{\"code\":11,\"msg\":\"API is away\"}'; exit 1; }",
        );
            for plugin in ["first", "third"] {
                node.script(plugin, &stubborn);
            }
            node.script("second", GOOD);
            node.conflist(
                "pods",
                "1.0.0",
                &json!([{ "type": "first" }, { "type": "second" }, { "type": "third" }]),
            );
            let network = node.open();
            let pod = new_pod("a");
            network.attach(&pod).await.unwrap();
            let text = message(network.detach(&pod).await);
            let third = text
                .find("plugin third DEL: API is away (code 11)")
                .unwrap();
            let first = text
                .find("plugin first DEL: API is away (code 11)")
                .unwrap();
            assert!(third < first, "{text}");
            assert_eq!(calls(&node), ["ADD", "ADD", "ADD", "DEL", "DEL", "DEL"]);
            assert_eq!(network.attachments_left().len(), 1);
            fs::write(node.path("willing"), "").unwrap();
            network.detach(&pod).await.unwrap();
            assert_eq!(network.attachments_left(), []);
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}

#[test]
fn an_attach_that_is_abandoned_can_be_taken_back() {
    on_private_node(
        "faulty_plugins::an_attach_that_is_abandoned_can_be_taken_back",
        async |node| {
            node.script(
                "slow",
                &format!("test $CNI_COMMAND = ADD && {{ echo > begun; sleep 60; }}\n{GOOD}"),
            );
            node.conflist("pods", "1.0.0", &json!([{ "type": "slow" }]));
            let network = node.open();
            let pod = new_pod("a");
            tokio::select! {
                _ = network.attach(&pod) => panic!("it ended"),
                () = eventually("the plugin begins", || node.path("begun").exists()) => {}
            }
            assert_eq!(network.attachments_left().len(), 1);
            network.detach(&pod).await.unwrap();
            assert_eq!(calls(&node), ["DEL"]);
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}

#[test]
fn operations_of_one_pod_take_turns() {
    on_private_node(
        "faulty_plugins::operations_of_one_pod_take_turns",
        async |node| {
            node.script(
            "slow",
            &format!("test $CNI_COMMAND = VERSION && exit 1; mkdir turn || {{ echo overlap >> calls; exit 1; }}; sleep 0.2; rmdir turn\n{GOOD}"),
        );
            node.conflist("pods", "1.0.0", &json!([{ "type": "slow" }]));
            let network = node.open();
            let pod = new_pod("a");
            let (attached, detached) = tokio::join!(network.attach(&pod), async {
                eventually("the attach begins", || node.path("turn").exists()).await;
                network.detach(&pod).await
            });
            attached.unwrap();
            detached.unwrap();
            assert_eq!(calls(&node), ["ADD", "DEL"]);
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}

#[test]
fn pods_do_not_wait_for_each_other() {
    on_private_node(
        "faulty_plugins::pods_do_not_wait_for_each_other",
        async |node| {
            // Each ADD waits until the other one has begun.
            node.script(
            "meets",
            &format!("test $CNI_COMMAND = ADD && {{ touch met-$CNI_CONTAINERID; while test $(ls -d met-* | wc -l) -lt 2; do sleep 0.01; done; }}\n{GOOD}"),
        );
            node.conflist("pods", "1.0.0", &json!([{ "type": "meets" }]));
            let network = node.open();
            let (a, b) = (new_pod("a"), new_pod("b"));
            let (a, b) = tokio::join!(network.attach(&a), network.attach(&b));
            a.unwrap();
            b.unwrap();
        },
    );
}

#[test]
fn without_configuration_nothing_is_attached_and_nothing_needs_detaching() {
    on_private_node(
        "faulty_plugins::without_configuration_nothing_is_attached_and_nothing_needs_detaching",
        async |node| {
            let network = node.open();
            let pod = new_pod("a");
            let text = message(network.attach(&pod).await);
            assert!(
                text.starts_with("network is not ready: no CNI configuration in "),
                "{text}"
            );
            network.detach(&pod).await.unwrap();
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}

#[test]
fn plugins_that_have_nothing_to_do_are_not_run() {
    on_private_node(
        "faulty_plugins::plugins_that_have_nothing_to_do_are_not_run",
        async |node| {
            node.script("first", GOOD);
            node.script("portmap", &GOOD.replace("calls", "portmap-calls"));
            let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
            node.conflist("pods", "1.0.0", &json!([{ "type": "first" }, portmap]));
            let network = node.open();
            let pod = new_pod("a");
            network.attach(&pod).await.unwrap();
            network.detach(&pod).await.unwrap();
            assert_eq!(calls(&node), ["ADD", "DEL"]);
            let portmap_calls =
                || fs::read_to_string(node.path("portmap-calls")).unwrap_or_default();
            assert!(!portmap_calls().contains("ADD") && !portmap_calls().contains("DEL"));
            // Without a record nobody knows whether the pod had ports.
            network.detach(&pod).await.unwrap();
            assert_eq!(portmap_calls().matches("DEL").count(), 1);
        },
    );
}
