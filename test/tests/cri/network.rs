//! Pod networking with real CNI plugins: addresses, host ports, traffic, configuration that comes and goes.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use api::cri;
use pintle_test::{
    cni,
    cri::refused,
    node::{self, Setup},
    settle, world,
};
use tonic::Code;

/// A web server in a few words.
const SERVE: &str = "mkdir /www; hostname > /www/index.html; httpd -f -p 80 -h /www";

#[test]
fn pods_reach_each_other_and_the_node_reaches_them() {
    world!(async |node| {
        let server = node.run_pod("server").await?;
        node.run(&server, "c", SERVE).await?;
        let address = node.address(&server).await?;
        ensure!(
            fetch(SocketAddr::new(address, 80))
                .await?
                .contains("server"),
            "from the node"
        );
        let (_, client) = node.sleeper("client").await?;
        let fetched = settle::until("the other pod answers", async || {
            let command = format!("wget -q -O - http://{address}/");
            let answer = node
                .cri()
                .exec(&client, &["sh", "-c", &command], 20)
                .await?;
            Ok((answer.exit_code == 0)
                .then(|| String::from_utf8_lossy(&answer.stdout).into_owned()))
        })
        .await?;
        ensure!(fetched == "server\n", "{fetched}");
        Ok(())
    });
}

#[test]
fn containers_of_a_pod_share_its_loopback_device() {
    world!(async |node| {
        let pod = node.run_pod("shared").await?;
        node.run(&pod, "server", SERVE).await?;
        let client = node.run(&pod, "client", node::SLEEP).await?;
        let cri = node.cri();
        settle::until_true("the server answers on 127.0.0.1", async || {
            let answer = cri
                .exec(&client, &["wget", "-q", "-O", "-", "http://127.0.0.1/"], 20)
                .await?;
            Ok(answer.stdout == b"shared\n")
        })
        .await
    });
}

#[test]
fn a_host_port_leads_to_its_pod_and_ends_with_it() {
    world!(async |node| {
        let mut config = node.pod_config("mapped")?;
        config.port_mappings = vec![cri::PortMapping {
            protocol: cri::Protocol::Tcp.into(),
            container_port: 80,
            host_port: 18080,
            host_ip: String::new(),
        }];
        let pod = node.run_pod_as(config).await?;
        node.run(&pod, "c", SERVE).await?;
        let bridge: IpAddr = "10.88.0.1".parse()?;
        ensure!(
            fetch(SocketAddr::new(bridge, 18080))
                .await?
                .contains("mapped")
        );
        ensure!(fetch("127.0.0.1:18080".parse()?).await?.contains("mapped"));
        node.cri().stop_pod(&pod.id).await?;
        ensure!(
            connect("127.0.0.1:18080".parse()?).is_err(),
            "the port is still open"
        );
        Ok(())
    });
}

#[test]
fn a_container_port_alone_opens_nothing_on_the_node() {
    world!(async |node| {
        let mut config = node.pod_config("unmapped")?;
        config.port_mappings = vec![cri::PortMapping {
            protocol: cri::Protocol::Tcp.into(),
            container_port: 80,
            ..cri::PortMapping::default()
        }];
        let pod = node.run_pod_as(config).await?;
        node.run(&pod, "c", SERVE).await?;
        let address = node.address(&pod).await?;
        ensure!(
            fetch(SocketAddr::new(address, 80))
                .await?
                .contains("unmapped")
        );
        ensure!(
            connect("127.0.0.1:80".parse()?).is_err(),
            "port 80 of the node is open"
        );
        Ok(())
    });
}

#[test]
fn a_pod_in_the_nodes_network_has_it_and_needs_no_plugin() {
    world!(Setup::default().network(None), async |node| {
        let mut config = node.pod_config("hostnet")?;
        config.hostname = String::new();
        let options = node::namespaces(cri::NamespaceMode::Node, cri::NamespaceMode::Container);
        node::pod_security(&mut config).namespace_options = Some(options.clone());
        let pod = node.run_pod_as(config).await?;
        let mut container = node::container("c", node::SLEEP);
        node::security(&mut container).namespace_options = Some(options);
        node.image("busybox:latest").await?;
        let id = node.start_container(&pod, &container).await?;
        let seen = node
            .cri()
            .sh(&id, "readlink /proc/self/ns/net; hostname")
            .await?;
        let ours = std::fs::read_link("/proc/self/ns/net")?;
        ensure!(
            seen == format!("{}\npintle-node\n", ours.display()),
            "{seen}"
        );
        let network = node.cri().pod_status(&pod.id).await?.network;
        ensure!(
            network.is_none_or(|network| network.ip.is_empty()),
            "it has an address"
        );
        Ok(())
    });
}

#[test]
fn the_node_is_not_ready_without_a_network_and_says_why_until_there_is_one() {
    world!(Setup::default().network(None), async |node| {
        let network_ready = async || -> Result<cri::RuntimeCondition> {
            let status = node
                .cri()
                .node_status()
                .await?
                .status
                .context("no status")?;
            let condition = status
                .conditions
                .into_iter()
                .find(|c| c.r#type == "NetworkReady");
            condition.context("no condition NetworkReady")
        };
        let condition = network_ready().await?;
        ensure!(!condition.status, "ready without a network");
        ensure!(
            condition.message.contains(pintle_test::places::CNI_CONF),
            "{}",
            condition.message
        );
        let refusal = node.cri().run_pod(&node.pod_config("early")?, "").await;
        refused(refusal, Code::Unavailable)?;

        cni::install("10-pods.conflist", &cni::bridge())?;
        settle::until_true("the network is ready", async || {
            Ok(network_ready().await?.status)
        })
        .await?;
        node.run_pod("late").await?;
        node.clear().await?;

        cni::uninstall("10-pods.conflist")?;
        settle::until_true("the network is not ready", async || {
            Ok(!network_ready().await?.status)
        })
        .await
    });
}

#[test]
fn a_pod_is_detached_by_the_configuration_it_was_attached_with() {
    world!(async |node| {
        let (pod, _) = node.sleeper("kept").await?;
        let address = node.address(&pod).await?;
        // The provider is replaced while the pod runs.
        let mut other = cni::bridge();
        other["name"] = "other".into();
        cni::install("10-pods.conflist", &other)?;
        node.cri().stop_pod(&pod.id).await?;
        node.cri().remove_pod(&pod.id).await?;
        let lease = Path::new(pintle_test::places::CNI_CACHE)
            .join("networks/pods")
            .join(address.to_string());
        ensure!(!lease.exists(), "{} is still there", lease.display());
        Ok(())
    });
}

#[test]
fn a_detach_that_fails_is_tried_again_and_keeps_no_pod_from_ending() {
    let marker = "/run/test/del-works";
    let setup = Setup::default().network(Some(cni::script("flaky"))).plugin("flaky", &format!(
                r#"case $CNI_COMMAND in
                ADD) echo '{{"cniVersion":"1.0.0","ips":[{{"address":"10.99.0.2/24"}}]}}';;
                DEL) if [ ! -e {marker} ]; then echo '{{"cniVersion":"1.0.0","code":100,"msg":"not now"}}'; exit 1; fi; touch /run/test/deleted;;
                esac"#
            ));
    world!(setup, async |node| {
        let pod = node.run_pod("detached").await?;
        node.cri().stop_pod(&pod.id).await?;
        node.cri().remove_pod(&pod.id).await?;
        ensure!(
            node.cri().pods(None).await?.is_empty(),
            "the pod is still listed"
        );
        world::write(marker, "")?;
        settle::until_true("the detachment is made up for", async || {
            Ok(Path::new("/run/test/deleted").exists())
        })
        .await
    });
}

#[test]
fn an_attachment_that_fails_half_way_is_undone_and_can_be_tried_again() {
    let mut conflist = cni::bridge();
    if let Some(plugins) = conflist["plugins"].as_array_mut() {
        plugins.push(serde_json::json!({ "type": "last" }));
    }
    let setup = Setup::default().network(Some(conflist)).plugin("last", r#"case $CNI_COMMAND in
            ADD) if [ ! -e /run/test/add-works ]; then echo '{"cniVersion":"1.0.0","code":107,"msg":"the last straw"}'; exit 1; fi
                printf %s "$conf" | sed 's/.*"prevResult"://; s/}$//' ;;
            esac"#);
    world!(setup, async |node| {
        let config = node.pod_config("halfway")?;
        let before = pintle_test::ledger::Ledger::count(&node.subject())?;
        let status = node
            .cri()
            .run_pod(&config, "")
            .await
            .err()
            .context("it ran")?;
        ensure!(
            status.message().contains("the last straw"),
            "{}",
            status.message()
        );
        before.compare(&node.subject()).await?;
        Ok(())
    });
}

async fn fetch(address: SocketAddr) -> Result<String> {
    settle::until(&format!("{address} answers"), async || {
        Ok(try_fetch(address).ok())
    })
    .await
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let limit = Duration::from_secs(2);
    let stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    Ok(stream)
}

fn try_fetch(address: SocketAddr) -> Result<String> {
    let mut stream = connect(address)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains("200 OK"), "{answer}");
    Ok(answer)
}
