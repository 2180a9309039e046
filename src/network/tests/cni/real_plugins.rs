//! Real plugins: what they make is there after an attach, and nothing of it after a detach, whatever happened in between.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pintle_network::{Attached, Attachment, HostPort, NetworkError, Protocol};
use rstest::rstest;
use serde_json::{Value, json};

use crate::node::{Node, eventually, message, new_pod, on_private_node, sh};

/// Looks at the pod from inside and outside, independently of what the plugins claim.
async fn assert_attached(node: &Node, pod: &Attachment, attached: &Attached) {
    let ip = attached.ips[0];
    let inside = sh(&format!(
        "ip netns exec {} ip -o addr show dev eth0",
        pod.pod_id
    ));
    assert!(inside.contains(&format!("inet {ip}/16")), "{inside}");
    let veth = &attached
        .interfaces
        .iter()
        .find(|interface| interface.name.starts_with("veth"))
        .unwrap()
        .name;
    let ports = sh("ip -o link show master cni0");
    assert!(ports.contains(veth.as_str()), "{veth} in {ports}");
    let lease = node
        .path("leases")
        .join(&attached.network)
        .join(ip.to_string());
    assert!(fs::read_to_string(&lease).unwrap().starts_with(&pod.pod_id));
    let record = node
        .path("cache/results")
        .join(format!("{}-{}-eth0", attached.network, pod.pod_id));
    let recorded = || {
        let record: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        record["result"]["ips"][0]["address"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    // The result is written in the background.
    eventually("the result is on record", || {
        recorded().starts_with(&ip.to_string())
    })
    .await;
}

#[rstest]
#[case("0.3.1")]
#[case("0.4.0")]
#[case("1.0.0")]
fn a_pod_gets_an_address_and_gives_it_back(#[case] version: &str) {
    let case = match version {
        "0.3.1" => "case_1",
        "0.4.0" => "case_2",
        _ => "case_3",
    };
    let name = format!("real_plugins::a_pod_gets_an_address_and_gives_it_back::{case}");
    on_private_node(&name, async |node| {
        // Debian's plugins would be told the newer version if it were not for what they say to VERSION.
        let chain = json!([{ "type": "loopback" }, node.bridge(), { "type": "tuning", "sysctl": {
            "net.ipv4.conf.eth0.arp_filter": "1" } }]);
        node.conflist("pods", version, &chain);
        let network = node.open();
        assert_eq!(network.status(), Ok(()));
        let pod = new_pod("a");
        let attached = network.attach(&pod).await.unwrap();
        assert_eq!(attached.network, "pods");
        assert_attached(&node, &pod, &attached).await;
        let sysctl = format!(
            "ip netns exec {} cat /proc/sys/net/ipv4/conf/eth0/arp_filter",
            pod.pod_id
        );
        assert_eq!(
            sh(&sysctl),
            "1\n",
            "the second plugin of the chain ran, too"
        );
        network.check(&pod).await.unwrap();

        network.detach(&pod).await.unwrap();
        assert_eq!(node.leftovers(), [""; 0]);
        network.detach(&pod).await.unwrap();
        assert!(matches!(
            network.check(&pod).await,
            Err(NetworkError::NotAttached { .. })
        ));
    });
}

#[test]
fn a_single_plugin_file_works_like_a_list() {
    on_private_node(
        "real_plugins::a_single_plugin_file_works_like_a_list",
        async |node| {
            let mut json = node.bridge();
            json["cniVersion"] = "1.0.0".into();
            json["name"] = "single".into();
            fs::write(
                node.config.conf_dir.join("10-single.conf"),
                json.to_string(),
            )
            .unwrap();
            let network = node.open();
            let pod = new_pod("a");
            let attached = network.attach(&pod).await.unwrap();
            assert_attached(&node, &pod, &attached).await;
            network.detach(&pod).await.unwrap();
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}

#[test]
fn ports_of_the_node_are_forwarded_until_the_detach() {
    on_private_node(
        "real_plugins::ports_of_the_node_are_forwarded_until_the_detach",
        async |node| {
            let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
            node.conflist("pods", "1.0.0", &json!([node.bridge(), portmap]));
            let network = node.open();
            let mut pod = new_pod("a");
            pod.port_mappings = vec![
                HostPort {
                    protocol: Protocol::Tcp,
                    container_port: 80,
                    host_port: 18080,
                    host_ip: String::new(),
                },
                HostPort {
                    protocol: Protocol::Udp,
                    container_port: 53,
                    host_port: 0,
                    host_ip: String::new(),
                },
            ];
            let attached = network.attach(&pod).await.unwrap();
            let rules = sh("iptables-save -t nat");
            let target = format!("--to-destination {}:80", attached.ips[0]);
            assert!(
                rules.contains("--dport 18080") && rules.contains(&target),
                "{rules}"
            );
            assert!(!rules.contains("udp"), "{rules}");
            // A later server knows the ports from the record, although nobody tells it of them.
            drop(network);
            let network = node.open();
            pod.port_mappings.clear();
            network.detach(&pod).await.unwrap();
            let rules = sh("iptables-save -t nat");
            assert!(!rules.contains("18080"), "{rules}");
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}

#[test]
fn ranges_of_the_node_reach_the_address_plugin() {
    on_private_node(
        "real_plugins::ranges_of_the_node_reach_the_address_plugin",
        async |node| {
            let ipam = json!({ "type": "host-local", "dataDir": node.path("leases") });
            let bridge = json!({ "type": "bridge", "bridge": "cni0", "ipam": ipam, "capabilities": { "ipRanges": true } });
            node.conflist("pods", "1.0.0", &json!([bridge]));
            let network = node.open();
            network.set_pod_cidrs(vec!["10.77.3.0/24".to_owned(), "fd77::/64".to_owned()]);
            let pod = new_pod("a");
            let attached = network.attach(&pod).await.unwrap();
            let ips: Vec<String> = attached.ips.iter().map(ToString::to_string).collect();
            assert_eq!(ips.len(), 2);
            assert!(
                ips[0].starts_with("10.77.3.") && ips[1].starts_with("fd77::"),
                "{ips:?}"
            );
            network.detach(&pod).await.unwrap();
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}

#[test]
fn a_pod_whose_namespace_is_gone_still_gives_its_address_back() {
    on_private_node(
        "real_plugins::a_pod_whose_namespace_is_gone_still_gives_its_address_back",
        async |node| {
            node.conflist("pods", "1.0.0", &json!([node.bridge()]));
            let network = node.open();
            let (unmounted, removed) = (new_pod("a"), new_pod("b"));
            for pod in [&unmounted, &removed] {
                network.attach(pod).await.unwrap();
            }
            sh(&format!("umount {}", unmounted.netns.display()));
            sh(&format!("ip netns del {}", removed.pod_id));
            for pod in [&unmounted, &removed] {
                network.detach(pod).await.unwrap();
            }
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}

#[test]
fn what_a_former_server_attached_is_detached_without_its_configuration() {
    on_private_node(
        "real_plugins::what_a_former_server_attached_is_detached_without_its_configuration",
        async |node| {
            node.conflist("pods", "1.0.0", &json!([node.bridge()]));
            let network = node.open();
            let (first, second) = (new_pod("a"), new_pod("b"));
            network.attach(&first).await.unwrap();
            network.attach(&second).await.unwrap();
            drop(network);
            // The node was booted again, and its administrator chose another network meanwhile.
            sh(&format!("ip netns del {}", first.pod_id));
            fs::remove_file(node.config.conf_dir.join("pods.conflist")).unwrap();
            node.conflist(
                "others",
                "1.0.0",
                &json!([{ "type": "ptp", "ipam": { "type": "static" } }]),
            );

            let network = node.open();
            let mut left = network.attachments_left();
            left.sort_by(|a, b| a.pod_id.cmp(&b.pod_id));
            assert_eq!(left, [first, second]);
            for pod in &left {
                network.detach(pod).await.unwrap();
            }
            assert_eq!(network.attachments_left(), []);
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}

#[test]
fn a_second_attach_of_a_pod_takes_the_first_one_back() {
    on_private_node(
        "real_plugins::a_second_attach_of_a_pod_takes_the_first_one_back",
        async |node| {
            node.conflist("pods", "1.0.0", &json!([node.bridge()]));
            let network = node.open();
            let pod = new_pod("a");
            network.attach(&pod).await.unwrap();
            let attached = network.attach(&pod).await.unwrap();
            assert_attached(&node, &pod, &attached).await;
            assert_eq!(
                node.leftovers().len(),
                3,
                "one lease, one record, one veth: {:?}",
                node.leftovers()
            );
            network.detach(&pod).await.unwrap();
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}

#[test]
fn pods_are_attached_at_the_same_time_with_different_addresses() {
    on_private_node(
        "real_plugins::pods_are_attached_at_the_same_time_with_different_addresses",
        async |node| {
            node.conflist("pods", "1.0.0", &json!([node.bridge()]));
            let network = node.open();
            let pods: Vec<Attachment> = ["a", "b", "c", "d", "e", "f"].map(new_pod).into();
            let tasks: Vec<_> = pods
                .iter()
                .map(|pod| {
                    let (network, pod) = (network.clone(), pod.clone());
                    tokio::spawn(async move { network.attach(&pod).await.unwrap().ips[0] })
                })
                .collect();
            let mut ips = Vec::new();
            for task in tasks {
                ips.push(task.await.unwrap());
            }
            ips.sort();
            ips.dedup();
            assert_eq!(ips.len(), pods.len());
            let tasks: Vec<_> = pods
                .into_iter()
                .map(|pod| {
                    let network = network.clone();
                    tokio::spawn(async move { network.detach(&pod).await.unwrap() })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}

#[test]
fn a_failure_in_the_middle_of_the_chain_leaves_nothing() {
    on_private_node(
        "real_plugins::a_failure_in_the_middle_of_the_chain_leaves_nothing",
        async |node| {
            node.script("broken", r#"cat > /dev/null; test $CNI_COMMAND = ADD || exit 0; echo '{"code":100,"msg":"no luck"}'; exit 1"#);
            node.script("never", "echo $CNI_COMMAND >> never");
            node.conflist(
                "pods",
                "1.0.0",
                &json!([node.bridge(), { "type": "broken" }, { "type": "never" }]),
            );
            let network = node.open();
            let pod = new_pod("a");
            let error = network.attach(&pod).await.unwrap_err();
            assert!(!error.is_left_attached());
            let expected = format!(
                "attach pod {}: network pods: plugin broken ADD: no luck (code 100)",
                pod.pod_id
            );
            assert_eq!(error.to_string(), expected);
            assert_eq!(node.leftovers(), [""; 0]);
            let asked = fs::read_to_string(node.path("never")).unwrap_or_default();
            assert!(!asked.contains("ADD") && !asked.contains("DEL"), "{asked}");
        },
    );
}

#[test]
fn a_check_notices_a_missing_interface() {
    on_private_node(
        "real_plugins::a_check_notices_a_missing_interface",
        async |node| {
            node.conflist("pods", "1.0.0", &json!([node.bridge()]));
            let network = node.open();
            let pod = new_pod("a");
            network.attach(&pod).await.unwrap();
            network.check(&pod).await.unwrap();
            sh(&format!("ip netns exec {} ip link del eth0", pod.pod_id));
            assert!(message(network.check(&pod).await).contains("plugin bridge CHECK"));
            network.detach(&pod).await.unwrap();
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}

#[test]
fn plugins_are_kept_out_of_what_is_no_pods_namespace() {
    on_private_node(
        "real_plugins::plugins_are_kept_out_of_what_is_no_pods_namespace",
        async |node| {
            node.conflist("pods", "1.0.0", &json!([node.bridge()]));
            let network = node.open();
            let mut pod = new_pod("a");
            fs::write(node.path("file"), "").unwrap();
            for (path, words) in [
                (node.path("file"), "no namespace is pinned there"),
                (node.path("nothing"), "No such file"),
                (
                    Path::new("/proc/self/ns/net").to_owned(),
                    "it is the node's own",
                ),
            ] {
                pod.netns = path;
                let message = message(network.attach(&pod).await);
                assert!(message.contains(words), "{message}");
            }
            // A detach must not work on the node's own interfaces, either: nothing was recorded, so it asks with no namespace.
            network.detach(&pod).await.unwrap();
            assert_eq!(sh("ip -o link show up dev lo").lines().count(), 1);
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}

#[test]
fn the_deadline_of_an_attach_is_the_plugins() {
    on_private_node(
        "real_plugins::the_deadline_of_an_attach_is_the_plugins",
        async |mut node| {
            node.config.plugin_timeout = Duration::from_millis(1);
            node.conflist("pods", "1.0.0", &json!([node.bridge()]));
            let network = node.open();
            let pod = new_pod("a");
            let error = network.attach(&pod).await.unwrap_err();
            assert!(error.is_deadline(), "{error}");
            assert!(error.is_left_attached(), "the undoing had no time, either");
            drop(network);
            node.config.plugin_timeout = Duration::from_secs(30);
            let network = node.open();
            network.detach(&pod).await.unwrap();
            assert_eq!(node.leftovers(), [""; 0]);
        },
    );
}
