//! `make demo`: a pod from pull to removal on this machine, with the time of each step and an empty leak ledger.
//!
//! Everything happens in a [`mod@world`] of its own; what is printed is what was measured or read there, nothing is made up.

#![forbid(unsafe_code)]

use std::{collections::BTreeMap, fmt::Write as _, io::Write, process::ExitCode, time::Instant};

use anyhow::{Context, Result, ensure};
use api::cri;
use pintle_test::{
    ledger::Ledger,
    node::{self, Node, Setup, monitors},
    places, processes, registry, settle, world,
};

/// Column in which times begin.
const TIME_COLUMN: usize = 74;
/// The port of the node under which the pod's web server is reached.
const HOST_PORT: i32 = 8080;

fn main() -> ExitCode {
    let result = if world::inside() {
        inside()
    } else {
        world::again([]).and_then(|status| {
            ensure!(status.success(), "the demo ended with {status}");
            Ok(())
        })
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pintle-demo: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn inside() -> Result<()> {
    world::furnish()?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(show())
}

/// Does something, and says what and how long it took.
async fn step<T>(what: &str, action: impl Future<Output = Result<T>>) -> Result<T> {
    let moment = Instant::now();
    let result = action.await.with_context(|| what.to_owned())?;
    let ms = moment.elapsed().as_secs_f64() * 1e3;
    say(&format!("{what:TIME_COLUMN$}{ms:8.1} ms"));
    Ok(result)
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever closes our output does not want to read on.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

fn quote(text: &str) {
    for line in text.lines() {
        say(&format!("    | {line}"));
    }
}

async fn show() -> Result<()> {
    say("A world of its own: network, mount, PID, cgroup, IPC and UTS namespaces of this demo");
    let node = step(
        "docker-registry is filled and started, pintle serves",
        Node::start(Setup::default()),
    )
    .await?;
    let cri = node.cri();
    let server = node.server_pid().context("no server")?;
    let before = Ledger::count(&node.subject())?;

    let image = registry::name("busybox:latest");
    let id = step(&format!("PullImage       {image}"), async {
        Ok(cri.pull(&image).await?)
    })
    .await?;
    say(&format!("    | {id}"));

    let mut config = node.pod_config("shop")?;
    config.labels = BTreeMap::from([("app".to_owned(), "shop".to_owned())]);
    config.port_mappings = vec![cri::PortMapping {
        protocol: cri::Protocol::Tcp.into(),
        container_port: 80,
        host_port: HOST_PORT,
        host_ip: String::new(),
    }];
    let pod = step(
        "RunPodSandbox   shop: CNI bridge and portmap",
        node.run_pod_as(config),
    )
    .await?;
    let web = "mkdir /www && echo \"fresh herring from $HOSTNAME\" > /www/index.html && exec httpd -f -v -p 80 -h /www";
    let buyer = "until wget -q -O - http://127.0.0.1/; do sleep 0.05; done; echo 'that was good' >&2; exec sleep 1000";
    let mut ids = Vec::new();
    for (name, script) in [("web", web), ("buyer", buyer)] {
        let mut container = node::container(name, script);
        container.envs.push(cri::KeyValue {
            key: "HOSTNAME".to_owned(),
            value: b"shop".to_vec(),
        });
        let what = format!("CreateContainer {name}");
        let id = step(&what, async {
            Ok(cri.create(&pod.id, &container, &pod.config).await?)
        })
        .await?;
        step(&format!("StartContainer  {name}"), async {
            Ok(cri.start(&id).await?)
        })
        .await?;
        ids.push(id);
    }

    say("");
    let url = format!("http://127.0.0.1:{HOST_PORT}/");
    say(&format!("The node fetches {url}, a host port of the pod"));
    let fetched = settle::until("the web server answers", async || Ok(fetch().await.ok())).await?;
    quote(&fetched);
    say("The log of buyer");
    pod.output_with("buyer", "good").await?;
    quote(&pod.raw_log("buyer")?);
    for command in [
        &["ps"][..],
        &["grep", "-E", "^(CapEff|Seccomp):", "/proc/self/status"],
    ] {
        let what = format!("ExecSync        web: {}", command[0]);
        let answer = step(&what, async { Ok(cri.exec(&ids[0], command, 10).await?) }).await?;
        quote(&String::from_utf8(answer.stdout)?);
    }

    say("PodSandboxStatus, ListContainers");
    let status = cri.pod_status(&pod.id).await?;
    let address = status
        .network
        .as_ref()
        .map_or("", |network| network.ip.as_str());
    let (short, state) = (&pod.id[..12], status.state().as_str_name());
    quote(&format!("{short}  shop   {state}  {address}"));
    for container in cri.containers(None).await? {
        let name = container
            .metadata
            .as_ref()
            .map_or("", |metadata| metadata.name.as_str());
        let (short, state) = (&container.id[..12], container.state().as_str_name());
        quote(&format!(
            "{short}  {name:<6} {state}  {}",
            container.image.unwrap_or_default().image
        ));
    }
    let mut memory = format!("server {} KiB", processes::pss_kib(server)?);
    for monitor in monitors() {
        let kib = processes::pss_kib(monitor.pid)?;
        // Writing to a String cannot fail.
        let _ = write!(memory, ", monitor of the pod {kib} KiB");
    }
    quote(&format!("memory (PSS): {memory}"));

    say("");
    node.kill_server()?;
    step(
        "kill -9 of the server, and it serves again after",
        node.start_server(),
    )
    .await?;
    let cri = node.cri();
    for id in &ids {
        let running = cri.status(id).await?.state() == cri::ContainerState::ContainerRunning;
        ensure!(running, "{id} does not run any more");
    }
    quote("both containers run on");

    say("");
    for (name, id) in ["web", "buyer"].iter().zip(&ids) {
        step(&format!("StopContainer   {name}"), async {
            Ok(cri.stop(id, 0).await?)
        })
        .await?;
        step(&format!("RemoveContainer {name}"), async {
            Ok(cri.remove(id).await?)
        })
        .await?;
    }
    step("StopPodSandbox  shop", async {
        Ok(cri.stop_pod(&pod.id).await?)
    })
    .await?;
    step("RemovePodSandbox shop", async {
        Ok(cri.remove_pod(&pod.id).await?)
    })
    .await?;
    step(&format!("RemoveImage     {image}"), async {
        Ok(cri.remove_image(&image).await?)
    })
    .await?;

    say("");
    before.compare(&node.subject()).await?;
    let counted: Vec<_> = before
        .totals()
        .iter()
        .map(|(heading, _)| *heading)
        .collect();
    say("The leak ledger, before and after: no difference in");
    quote(&format!(
        "{}, {}",
        counted.join(", "),
        "files and rows of pods and containers"
    ));
    let status = node.stop_server().await?;
    ensure!(status.success(), "the server ended with {status}");
    ensure!(monitors().is_empty(), "a monitor is left");
    std::fs::remove_file(format!("{}/pintle.log", places::SCRATCH))?;
    Ok(())
}

/// What the pod's web server says through the node's port.
async fn fetch() -> Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut stream =
        tokio::net::TcpStream::connect(("127.0.0.1", u16::try_from(HOST_PORT)?)).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    Ok(body.to_owned())
}
