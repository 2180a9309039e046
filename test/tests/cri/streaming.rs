//! Exec, Attach and PortForward: live streams, their ends, and what is left of them.

use anyhow::{Context, Result, ensure};
use api::cri::{self, NamespaceMode};
use pintle_test::{
    cri::refused,
    node::{self, Node, Pod},
    processes,
    session::{Ports, Process, Wanted},
    settle, world,
};
use sha2::{Digest as _, Sha256};
use streaming::client::ClientStream;
use tonic::Code;

/// A transfer that no buffer on the way can hold.
const BULK_BYTES: usize = 8 << 20;
const BLOCK_BYTES: usize = 1 << 16;

/// One block of a transfer; no two are the same.
fn block(number: usize) -> Vec<u8> {
    let seed = number.to_le_bytes();
    (0..BLOCK_BYTES)
        .map(|at| seed[at % seed.len()] ^ u8::try_from(at % 251).unwrap_or_default())
        .collect()
}

/// Sends a transfer through something that echoes it, and compares what comes back.
async fn echoed(mut there: ClientStream, mut back: ClientStream) -> Result<()> {
    let sender = tokio::spawn(async move {
        let mut sum = Sha256::new();
        for number in 0..BULK_BYTES / BLOCK_BYTES {
            let block = block(number);
            sum.update(&block);
            there.send(&block).await?;
        }
        there.finish().await?;
        anyhow::Ok((sum, there))
    });
    let (mut sum, mut length) = (Sha256::new(), 0);
    while length < BULK_BYTES {
        let bytes = back.next().await?;
        let bytes = bytes.with_context(|| format!("it ended after {length} bytes"))?;
        sum.update(&bytes);
        length += bytes.len();
    }
    let (sent, _there) = sender.await??;
    ensure!(length == BULK_BYTES, "{length} bytes came back");
    ensure!(sum.finalize() == sent.finalize(), "other bytes came back");
    Ok(())
}

/// The same for one stream with both directions.
async fn echoed_by_port(stream: &mut ClientStream) -> Result<()> {
    // One direction at a time for each block: with both at once, neither could be ahead of the other.
    let window = 16;
    let (mut sent, mut sum) = (Sha256::new(), Sha256::new());
    let (mut number, mut length) = (0, 0);
    while length < BULK_BYTES {
        while number < BULK_BYTES / BLOCK_BYTES
            && number * BLOCK_BYTES < length + window * BLOCK_BYTES
        {
            let block = block(number);
            sent.update(&block);
            stream.send(&block).await?;
            number += 1;
        }
        let bytes = stream.next().await?;
        let bytes = bytes.with_context(|| format!("it ended after {length} bytes"))?;
        sum.update(&bytes);
        length += bytes.len();
    }
    ensure!(sum.finalize() == sent.finalize(), "other bytes came back");
    Ok(())
}

/// A container of busybox with an open stdin.
fn with_stdin(name: &str, script: &str) -> cri::ContainerConfig {
    let mut config = node::container(name, script);
    config.stdin = true;
    config
}

async fn started(node: &Node, pod: &Pod, config: &cri::ContainerConfig) -> Result<String> {
    node.image("busybox:latest").await?;
    node.start_container(pod, config).await
}

async fn gone(command: &str) -> Result<()> {
    settle::until_true(&format!("{command:?} is gone"), async || {
        Ok(processes::with_command(command).is_empty())
    })
    .await
}

#[test]
fn a_command_has_its_streams_apart_and_an_exit_code() {
    world!(async |node| {
        let (_, id) = node.sleeper("exec").await?;
        let cri = node.cri();
        let script = "echo out; echo err >&2; exit 7";
        let mut session = cri.sh_session(&id, script, Wanted::OUTPUT).await?;
        ensure!(session.rest("stdout").await? == "out\n");
        ensure!(session.rest("stderr").await? == "err\n");
        ensure!(session.exit_code().await? == 7);

        let killed = cri.sh_session(&id, "kill -9 $$", Wanted::OUTPUT).await?;
        ensure!(killed.exit_code().await? == 137);
        let done = cri.session(&id, &["true"], Wanted::OUTPUT).await?;
        ensure!(done.exit_code().await? == 0);

        // What is not asked for does not keep a command from writing it.
        let wanted = Wanted {
            stderr: true,
            ..Wanted::default()
        };
        let script = "head -c 1000000 /dev/zero; echo err >&2";
        let mut session = cri.sh_session(&id, script, wanted).await?;
        ensure!(session.rest("stderr").await? == "err\n");
        ensure!(session.exit_code().await? == 0);
        Ok(())
    });
}

#[test]
fn input_reaches_a_command_and_its_end_too() {
    world!(async |node| {
        let (_, id) = node.sleeper("stdin").await?;
        let cri = node.cri();
        let mut session = cri.session(&id, &["cat"], Wanted::ALL).await?;
        session.send("first\n").await?;
        session.expect("stdout", "first\n").await?;
        session.send("second\n").await?;
        session.expect("stdout", "second\n").await?;
        session.close_stdin().await?;
        ensure!(session.rest("stdout").await?.is_empty());
        ensure!(session.exit_code().await? == 0);

        // Without stdin, there is none: the command does not wait.
        let mut session = cri.session(&id, &["cat"], Wanted::OUTPUT).await?;
        ensure!(session.rest("stdout").await?.is_empty());
        ensure!(session.exit_code().await? == 0);
        Ok(())
    });
}

#[test]
fn a_command_on_a_terminal_sees_its_size_and_its_changes() {
    world!(async |node| {
        let (_, id) = node.sleeper("tty").await?;
        let cri = node.cri();
        // The size may come after the command has looked.
        let script = "while [ \"$(stty size)\" != '31 97' ]; do sleep 0.05; done; tty; \
            trap 'stty size; exit 4' WINCH; echo trap set; while :; do sleep 0.05; done";
        let mut session = cri.sh_session(&id, script, Wanted::TERMINAL).await?;
        session.resize(31, 97).await?;
        session.expect("stdout", "/dev/pts/").await?;
        session.expect("stdout", "trap set\r\n").await?;
        session.resize(40, 120).await?;
        session.expect("stdout", "40 120\r\n").await?;
        ensure!(session.exit_code().await? == 4);

        // The end of input is what a terminal takes for it.
        let mut session = cri.session(&id, &["cat"], Wanted::TERMINAL).await?;
        session.send("line\n").await?;
        session.expect("stdout", "line\r\nline\r\n").await?;
        session.close_stdin().await?;
        ensure!(session.exit_code().await? == 0);
        Ok(())
    });
}

#[test]
fn a_command_that_cannot_be_run_is_told_in_words() {
    world!(async |node| {
        let (_, id) = node.sleeper("missing").await?;
        for wanted in [Wanted::OUTPUT, Wanted::TERMINAL] {
            let mut session = node
                .cri()
                .session(&id, &["/no/such/program"], wanted)
                .await?;
            // A runtime may also start and then fail, as a shell does.
            let said = session.rest("stdout").await?;
            match session.outcome().await? {
                Ok(code) => ensure!(code != 0, "success, having said {said:?}"),
                Err(words) => ensure!(words.contains("/no/such/program"), "{words}"),
            }
        }
        Ok(())
    });
}

#[test]
fn a_client_that_vanishes_takes_its_command_along() {
    world!(async |node| {
        let (_, id) = node.sleeper("vanish").await?;
        let cri = node.cri();
        let script = "setsid sleep 543210 & sleep 543210 & echo started; wait";
        for wanted in [Wanted::OUTPUT, Wanted::TERMINAL] {
            let mut session = cri.sh_session(&id, script, wanted).await?;
            session.expect("stdout", "started").await?;
            session.vanish();
            gone("sleep 543210").await?;
        }
        ensure!(cri.sh(&id, "echo alive").await? == "alive\n");
        Ok(())
    });
}

#[test]
fn commands_end_with_the_server_and_containers_do_not() {
    world!(async |node| {
        let pod = node.run_pod("restart").await?;
        let config = with_stdin("c", "while read line; do echo got $line; done");
        let id = started(node, &pod, &config).await?;
        for kill in [true, false] {
            let cri = node.cri();
            let mut session = cri
                .sh_session(&id, "echo started; sleep 432109", Wanted::OUTPUT)
                .await?;
            session.expect("stdout", "started").await?;
            let mut attached = cri.attached(&id, Wanted::ALL).await?;
            attached.send("a\n").await?;
            attached.expect("stdout", "got a\n").await?;
            if kill {
                node.kill_server()?;
            } else {
                node.stop_server().await?;
            }
            gone("sleep 432109").await?;
            node.start_server().await?;
            let mut again = node.cri().attached(&id, Wanted::ALL).await?;
            again.send("b\n").await?;
            again.expect("stdout", "got b\n").await?;
            again.vanish();
        }
        Ok(())
    });
}

#[test]
fn two_clients_share_a_container() {
    world!(async |node| {
        let pod = node.run_pod("attach").await?;
        let config = with_stdin(
            "c",
            "while read line; do echo got $line; echo err $line >&2; done",
        );
        let id = started(node, &pod, &config).await?;
        let cri = node.cri();
        let mut first = cri.attached(&id, Wanted::ALL).await?;
        let mut second = cri.attached(&id, Wanted::OUTPUT).await?;
        // Each is there when it hears something.
        let mut number = 0;
        settle::until_true("the second client hears", async || {
            number += 1;
            first.send(format!("ping{number}\n")).await?;
            first
                .expect("stdout", &format!("got ping{number}\n"))
                .await?;
            let heard = second.expect("stdout", "got ping");
            let heard = tokio::time::timeout(std::time::Duration::from_millis(200), heard).await;
            Ok(heard.is_ok_and(|heard| heard.is_ok()))
        })
        .await?;
        first.send("both\n").await?;
        for client in [&mut first, &mut second] {
            client.expect("stdout", "got both\n").await?;
            client.expect("stderr", "err both\n").await?;
        }
        // One client's end of input, and its going, are nothing to the container.
        first.close_stdin().await?;
        first.vanish();
        let mut third = cri.attached(&id, Wanted::ALL).await?;
        third.send("third\n").await?;
        second.expect("stdout", "got third\n").await?;
        third.vanish();
        // The container's end is the session's.
        cri.stop(&id, 0).await?;
        ensure!(second.rest("stdout").await?.is_empty());
        ensure!(second.exit_code().await? == 0);
        let log = pod.output("c")?;
        ensure!(
            log.contains("got both\n") && log.contains("got third\n"),
            "{log}"
        );
        Ok(())
    });
}

#[test]
fn the_only_client_of_a_stdin_closes_it() {
    world!(async |node| {
        let pod = node.run_pod("once").await?;
        for (name, vanishes) in [("leaves", false), ("vanishes", true)] {
            let mut config = with_stdin(name, "read line; echo heard; wc -c");
            config.stdin_once = true;
            let id = started(node, &pod, &config).await?;
            let mut client = node.cri().attached(&id, Wanted::ALL).await?;
            client.send("first line\n").await?;
            client.expect("stdout", "heard\n").await?;
            if vanishes {
                client.vanish();
            } else {
                client.send("12345").await?;
                client.close_stdin().await?;
                ensure!(client.rest("stdout").await? == "5\n");
                ensure!(client.exit_code().await? == 0);
            }
            let status = node.exited(&id).await?;
            ensure!(status.exit_code == 0, "{status:?}");
        }
        Ok(())
    });
}

#[test]
fn a_created_container_can_be_attached_to_and_nothing_is_missed() {
    world!(async |node| {
        let pod = node.run_pod("early").await?;
        node.image("busybox:latest").await?;
        let cri = node.cri();
        let config = node::container("c", "echo first words; stty size 2>/dev/null; exit 3");
        let id = cri.create(&pod.id, &config, &pod.config).await?;
        let mut client = cri.attached(&id, Wanted::OUTPUT).await?;
        // The session is there when the server has connected it to the monitor.
        settle::until_true("the client is connected", async || {
            let text = std::fs::read_to_string("/proc/net/unix")?;
            let socket = format!("{id}/attach.sock");
            Ok(text.lines().filter(|line| line.ends_with(&socket)).count() > 1)
        })
        .await?;
        cri.start(&id).await?;
        ensure!(client.rest("stdout").await? == "first words\n");
        ensure!(
            client.exit_code().await? == 0,
            "an attached session has no exit code"
        );
        let status = cri.attach_url(&id, Wanted::OUTPUT).await;
        node.exited(&id).await?;
        ensure!(
            status.is_ok()
                || refused(status, Code::FailedPrecondition)?.contains("created or running")
        );
        refused(
            cri.attach_url(&id, Wanted::OUTPUT).await,
            Code::FailedPrecondition,
        )?;
        Ok(())
    });
}

#[test]
fn a_containers_terminal_takes_input_and_sizes() {
    world!(async |node| {
        let pod = node.run_pod("terminal").await?;
        let mut config = with_stdin("c", "sh");
        config.tty = true;
        let id = started(node, &pod, &config).await?;
        let mut client = node.cri().attached(&id, Wanted::TERMINAL).await?;
        client.resize(23, 45).await?;
        client
            .send("while [ \"$(stty size)\" != '23 45' ]; do sleep 0.05; done; echo size'-'seen\n")
            .await?;
        client.expect("stdout", "size-seen\r\n").await?;
        client.send("exit 6\n").await?;
        ensure!(client.exit_code().await? == 0);
        ensure!(node.exited(&id).await?.exit_code == 6);
        Ok(())
    });
}

const PORT: u16 = 8080;

/// A server in a pod that sends back what it gets, one connection after the other.
const ECHO_SERVER: &str = "exec nc -ll -p 8080 -e cat";

async fn answers(ports: &mut Ports, port: u16, text: &str) -> Result<bool> {
    let answer = ports.connect(port)?.exchange(text.as_bytes()).await;
    Ok(answer.is_ok_and(|answer| answer == text.as_bytes()))
}

#[test]
fn a_pods_port_is_reached_on_its_own_loopback() {
    world!(async |node| {
        let pod = node.run_pod("ports").await?;
        let id = node.run(&pod, "server", ECHO_SERVER).await?;
        let cri = node.cri();
        let mut ports = cri.ports(&pod.id).await?;
        settle::until_true("the port answers", async || {
            answers(&mut ports, PORT, "hello").await
        })
        .await?;
        // Side by side on one session, and after each other.
        let (one, two) = (ports.connect(PORT)?, ports.connect(PORT)?);
        let (one, two) = tokio::join!(one.exchange(b"one"), two.exchange(b"two"));
        ensure!(one? == b"one" && two? == b"two");
        // The node's own port of the same number is another one.
        let refusal = cri.ports(&pod.id).await?.connect(81)?.refusal().await?;
        ensure!(
            refusal.contains("81") && refusal.contains(&pod.id) && refusal.contains("refuse"),
            "{refusal}"
        );
        // A refusal ends its own connection only.
        ensure!(ports.connect(81)?.refusal().await?.contains("81"));
        ensure!(answers(&mut ports, PORT, "still here").await?);
        ports.close().await;
        cri.stop(&id, 0).await?;
        Ok(())
    });
}

#[test]
fn the_port_of_a_pod_on_the_nodes_network_is_the_nodes() {
    world!(async |node| {
        let mut config = node.pod_config("host-network")?;
        node::pod_security(&mut config).namespace_options = Some(node::namespaces(
            NamespaceMode::Node,
            NamespaceMode::Container,
        ));
        config.hostname = String::new();
        let pod = node.run_pod_as(config).await?;
        for address in ["127.0.0.1", "[::1]"] {
            let listener = tokio::net::TcpListener::bind(format!("{address}:0")).await?;
            let port = listener.local_addr()?.port();
            let serve = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
            let mut ports = node.cri().ports(&pod.id).await?;
            let answer = ports.connect(port)?.exchange(b"node").await?;
            ensure!(answer == b"node", "{address}: {answer:?}");
            serve.await??;
            ports.vanish();
        }
        Ok(())
    });
}

#[test]
fn transfers_of_any_size_arrive_whole() {
    world!(async |node| {
        let pod = node.run_pod("bulk").await?;
        let id = node.run(&pod, "server", ECHO_SERVER).await?;
        let cri = node.cri();

        let mut session = cri.session(&id, &["cat"], Wanted::ALL).await?;
        echoed(session.take("stdin")?, session.take("stdout")?).await?;
        ensure!(session.exit_code().await? == 0);

        let mut config = with_stdin("attached", "cat");
        config.stdin_once = true;
        config.log_path = String::new();
        let attached = started(node, &pod, &config).await?;
        let mut session = cri.attached(&attached, Wanted::ALL).await?;
        echoed(session.take("stdin")?, session.take("stdout")?).await?;
        ensure!(session.exit_code().await? == 0);

        let mut ports = cri.ports(&pod.id).await?;
        settle::until_true("the port answers", async || {
            answers(&mut ports, PORT, "hello").await
        })
        .await?;
        let mut port = ports.connect(PORT)?;
        echoed_by_port(&mut port.data).await?;
        ports.close().await;
        Ok(())
    });
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    world!(async |node| {
        let (pod, id) = node.sleeper("refused").await?;
        let cri = node.cri();
        let none = Wanted::default();
        let both = Wanted {
            stderr: true,
            ..Wanted::TERMINAL
        };
        for wanted in [none, both] {
            refused(
                cri.exec_url(&id, &["true"], wanted).await,
                Code::InvalidArgument,
            )?;
            refused(cri.attach_url(&id, wanted).await, Code::InvalidArgument)?;
        }
        let output = Wanted::OUTPUT;
        refused(cri.exec_url(&id, &[], output).await, Code::InvalidArgument)?;
        refused(
            cri.exec_url("", &["true"], output).await,
            Code::InvalidArgument,
        )?;
        refused(cri.attach_url("", output).await, Code::InvalidArgument)?;
        refused(cri.port_forward_url("", &[]).await, Code::InvalidArgument)?;
        for port in [0, -1, 65_536] {
            let words = refused(
                cri.port_forward_url(&pod.id, &[80, port]).await,
                Code::InvalidArgument,
            )?;
            ensure!(
                words.contains("port") && words.contains(&port.to_string()),
                "{words}"
            );
        }
        refused(
            cri.exec_url("no-such", &["true"], output).await,
            Code::NotFound,
        )?;
        refused(cri.attach_url("no-such", output).await, Code::NotFound)?;
        refused(cri.port_forward_url("no-such", &[]).await, Code::NotFound)?;

        // A URL is good for one session, and the beginning of an id is an id.
        let url = cri.exec_url(&id[..13], &["true"], output).await?;
        ensure!(Process::open(&url, output).await?.exit_code().await? == 0);
        ensure!(
            Process::open(&url, output).await.is_err(),
            "it was good twice"
        );

        // What ended between the call and the session is told in the session.
        let (exec, attach, ports) = (
            cri.exec_url(&id, &["true"], output).await?,
            cri.attach_url(&id, output).await?,
            cri.ports(&pod.id).await?,
        );
        cri.stop(&id, 0).await?;
        for url in [exec, attach] {
            let outcome = Process::open(&url, output).await?.outcome().await?;
            let words = outcome.err().context("a container that has ended")?;
            ensure!(words.contains("exited") && words.contains(&id), "{words}");
        }
        refused(
            cri.exec_url(&id, &["true"], output).await,
            Code::FailedPrecondition,
        )?;
        refused(cri.attach_url(&id, output).await, Code::FailedPrecondition)?;
        cri.stop_pod(&pod.id).await?;
        let mut ports = ports;
        ensure!(ports.connect(80)?.refusal().await?.contains("not ready"));
        refused(
            cri.port_forward_url(&pod.id, &[]).await,
            Code::FailedPrecondition,
        )?;
        Ok(())
    });
}

/// Descriptors of the server, TCP included.
fn descriptors(node: &Node) -> Result<usize> {
    let pid = node.server_pid().context("no server runs")?;
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

#[test]
fn two_hundred_torn_sessions_leave_nothing() {
    world!(async |node| {
        let pod = node.run_pod("torn").await?;
        let server = node.run(&pod, "server", ECHO_SERVER).await?;
        let config = with_stdin("c", "while read line; do echo got $line; done");
        let id = started(node, &pod, &config).await?;
        let cri = node.cri();
        let mut ports = cri.ports(&pod.id).await?;
        settle::until_true("the port answers", async || {
            answers(&mut ports, PORT, "hello").await
        })
        .await?;
        ports.close().await;
        let before = descriptors(node)?;
        for round in 0..50 {
            let wanted = if round % 2 == 0 {
                Wanted::ALL
            } else {
                Wanted::TERMINAL
            };
            let script = "echo started; sleep 321098";
            // From the client's side, before and after the command is there.
            let mut session = cri.sh_session(&id, script, wanted).await?;
            if round % 3 != 0 {
                session.expect("stdout", "started").await?;
            }
            session.vanish();
            // From the command's side, while the client goes on sending.
            let mut session = cri.sh_session(&id, "exec <&-; exit 9", Wanted::ALL).await?;
            let _ = session.send(vec![0; 100_000]).await;
            ensure!(session.exit_code().await? == 9);
            let mut attached = cri.attached(&id, Wanted::ALL).await?;
            attached.send(format!("{round}\n")).await?;
            if round % 2 == 0 {
                attached.expect("stdout", &format!("got {round}\n")).await?;
            }
            attached.vanish();
            let mut ports = cri.ports(&pod.id).await?;
            let mut port = ports.connect(PORT)?;
            port.data.send(b"half a conversation").await?;
            ports.vanish();
        }
        gone("sleep 321098").await?;
        settle::until_true("the server has let go of every session", async || {
            Ok(descriptors(node)? <= before)
        })
        .await?;
        ensure!(cri.sh(&server, "echo alive").await? == "alive\n");
        Ok(())
    });
}
