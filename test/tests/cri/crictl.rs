//! Live sessions by the client that people use: crictl, over both of its transports, with a gibibyte each way.
//!
//! Long runs, and crictl is not everywhere: `make test-crictl` runs them. `PINTLE_CRICTL` says where crictl is if not in PATH.

use std::{
    env,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use pintle_test::{
    node::{self, Node},
    places, settle, world,
};
use sha2::{Digest as _, Sha256};

const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 1 << 10;
const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

fn crictl(arguments: &[&str]) -> Command {
    let program = env::var_os("PINTLE_CRICTL").unwrap_or_else(|| "crictl".into());
    let mut command = Command::new(program);
    let endpoint = format!("unix://{}", places::SOCKET);
    command
        .args([
            "--runtime-endpoint",
            &endpoint,
            "--image-endpoint",
            &endpoint,
        ])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    command
}

fn spawn(command: &mut Command) -> Result<Child> {
    command
        .spawn()
        .context("starting crictl: put it into PATH, or set PINTLE_CRICTL")
}

/// Exit code, and what is said on both outputs.
fn run(arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = spawn(crictl(arguments).stderr(Stdio::piped()))?.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

fn block(number: usize) -> Vec<u8> {
    let seed = number.to_le_bytes();
    (0..BLOCK)
        .map(|at| seed[at % seed.len()] ^ u8::try_from(at % 251).unwrap_or_default())
        .collect()
}

/// Writes a gibibyte and reads as much: the sums of both.
fn echo(
    mut there: impl std::io::Write + Send,
    mut back: impl std::io::Read,
) -> Result<(String, String)> {
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let mut sum = Sha256::new();
            for number in 0..BLOCKS {
                let block = block(number);
                sum.update(&block);
                there.write_all(&block)?;
            }
            anyhow::Ok(sum)
        });
        let (mut sum, mut left) = (Sha256::new(), BLOCK * BLOCKS);
        let mut buffer = vec![0; BLOCK];
        while left > 0 {
            let space = buffer.len().min(left);
            let length = back.read(&mut buffer[..space])?;
            ensure!(length > 0, "it ended with {left} bytes to come");
            sum.update(&buffer[..length]);
            left -= length;
        }
        let sent = writer.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        Ok((
            format!("{:x?}", sent.finalize()),
            format!("{:x?}", sum.finalize()),
        ))
    })
}

fn echo_by(arguments: &[&str]) -> Result<()> {
    let mut child = spawn(crictl(arguments).stdin(Stdio::piped()))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let sums = echo(stdin.context("no stdin")?, stdout.context("no stdout")?);
    let _ = child.kill();
    child.wait()?;
    let (sent, got) = sums.with_context(|| arguments.join(" "))?;
    ensure!(sent == got, "{arguments:?}: other bytes came back");
    Ok(())
}

async fn pod(node: &Node) -> Result<(String, String, String)> {
    let pod = node.run_pod("crictl").await?;
    let server = node
        .run(&pod, "server", "exec nc -ll -p 8080 -e cat")
        .await?;
    let mut config = node::container("attached", "cat");
    config.stdin = true;
    config.log_path = String::new();
    let attached = node.start_container(&pod, &config).await?;
    Ok((pod.id, server, attached))
}

#[test]
#[ignore = "needs crictl"]
fn crictl_runs_commands_over_both_transports() {
    world!(async |node| {
        let (_, server, _) = pod(node).await?;
        for transport in TRANSPORTS {
            let exec = ["exec", "--transport", transport];
            let (code, said) =
                run(&[&exec[..], &[&server, "sh", "-c", "echo out; exit 0"]].concat())?;
            ensure!(
                code == Some(0) && said.starts_with("out\n"),
                "{code:?} {said}"
            );
            let (code, said) = run(&[&exec[..], &[&server, "sh", "-c", "exit 7"]].concat())?;
            ensure!(
                code != Some(0) && said.contains("exit code 7"),
                "{code:?} {said}"
            );
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs crictl"]
fn crictl_carries_a_gibibyte_each_way_by_exec() {
    world!(async |node| {
        let (_, server, _) = pod(node).await?;
        for transport in TRANSPORTS {
            echo_by(&["exec", "--transport", transport, "-i", &server, "cat"])?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs crictl"]
fn crictl_carries_a_gibibyte_each_way_by_attach() {
    world!(async |node| {
        let (_, _, attached) = pod(node).await?;
        for transport in TRANSPORTS {
            echo_by(&["attach", "--transport", transport, "-i", &attached])?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs crictl"]
fn crictl_carries_a_gibibyte_each_way_by_port_forward() {
    world!(async |node| {
        let (pod, _, _) = pod(node).await?;
        for (transport, port) in TRANSPORTS.into_iter().zip([18080_u16, 18081]) {
            let mapping = format!("{port}:8080");
            let arguments = ["port-forward", "--transport", transport, &pod, &mapping];
            let mut child = spawn(crictl(&arguments).stdout(Stdio::null()))?;
            let stream = settle::until("the forwarded port answers", async || {
                let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
                    return Ok(None);
                };
                stream.write_all(b"x")?;
                let mut answer = [0];
                Ok(matches!(stream.read(&mut answer), Ok(1)).then_some(stream))
            })
            .await?;
            let sums = echo(stream.try_clone()?, &stream);
            let _ = child.kill();
            child.wait()?;
            let (sent, got) = sums.with_context(|| transport.to_owned())?;
            ensure!(sent == got, "{transport}: other bytes came back");
        }
        Ok(())
    });
}
