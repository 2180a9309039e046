//! Pulls on bad days: connections that break, a server that is killed, a client that looks on or goes away.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use api::admin::{ListPullsRequest, ListPullsResponse, admin_client::AdminClient};
use pintle_test::{
    fault_proxy::FaultProxy,
    images::{Image, Layer, Packing},
    node::{Node, Setup},
    places, registry, settle, world,
};
use serde_json::{Value, json};

/// Where the proxy listens.
const PROXY: &str = "127.0.0.1:5001";
/// A file for credentials.
const CREDENTIALS: &str = "/run/test/credentials";
/// Where the registry behind it listens.
pub(crate) const BEHIND: &str = "127.0.0.1:5002";

pub(crate) fn setup(image: &Value) -> Setup {
    Setup::default()
        .config(json!({ "image": { "registries": { PROXY: { "plain_http": true } } } }))
        .config(json!({ "image": image }))
}

/// Bytes that do not compress.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// A registry of one image, `large:latest`, of layers of so many MiB; and the bytes of these layers.
pub(crate) async fn registry_with(layers: &[usize]) -> Result<(registry::Registry, u64)> {
    let dir = Path::new(places::SCRATCH).join("large");
    let registry = registry::Registry::serve(&dir, BEHIND, false).await?;
    let mut tars = Vec::new();
    for (number, mib) in layers.iter().enumerate() {
        let file = noise(number as u64 * 7 + 3, mib << 20);
        tars.push(
            Layer::new()
                .file(&format!("file-{number}"), 0o644, &file)?
                .tar()?,
        );
    }
    let image = Image::new(&tars, Packing::Gzip, &json!({}))?;
    let bytes = image
        .layers
        .iter()
        .map(|layer| layer.data.len() as u64)
        .sum();
    registry::push(&image, &format!("{BEHIND}/large:latest"), &[])?;
    Ok((registry, bytes))
}

async fn list(node: &Node) -> Result<ListPullsResponse> {
    let mut client = AdminClient::new(node.cri().channel);
    Ok(client.list_pulls(ListPullsRequest {}).await?.into_inner())
}

fn partials() -> usize {
    fs::read_dir(Path::new(places::ROOT).join("partial")).map_or(0, Iterator::count)
}

/// Cut twenty times, the server killed five times; what the registry's side sent is counted, down to the last header.
async fn cut_and_killed(node: &Node) -> Result<()> {
    const MIB: [usize; 2] = [40, 24];
    let (_registry, size) = registry_with(&MIB).await?;
    let cuts = (1..=20).map(|number| 400_000 + number * 9_973 % 1_000_000);
    let proxy = FaultProxy::listen(5001, BEHIND, Duration::from_millis(6), cuts)?;
    let name = proxy.name("large");
    for kill in 1..=5 {
        let (cri, name) = (node.cri(), name.clone());
        let pull = tokio::spawn(async move { cri.pull(&name).await });
        settle::until_true("enough of the image has come", async || {
            Ok(proxy.passed() >= size * kill / 6)
        })
        .await?;
        node.kill_server()?;
        ensure!(pull.await?.is_err(), "the server is dead");
        node.start_server().await?;
    }
    let id = node.cri().pull(&name).await?;
    let image = node.cri().image(&id).await?.context("not there")?;
    let files = (MIB.iter().sum::<usize>() as u64) << 20;
    ensure!(image.size >= files, "{image:?}");
    ensure!(proxy.cuts_made() == 20, "{} cuts", proxy.cuts_made());
    let passed = proxy.passed();
    println!("{size} bytes of layers, {passed} bytes sent");
    ensure!(passed * 10 <= size * 11, "{passed} bytes for {size}");
    ensure!(partials() == 0, "{} partial files are left", partials());
    let totals = list(node).await?.totals.context("no totals")?;
    ensure!(
        totals.succeeded == 1 && totals.bytes_resumed > 0,
        "{totals:?}"
    );
    Ok(())
}

#[test]
fn a_pull_that_is_cut_and_whose_server_is_killed_fetches_a_tenth_more_at_most() {
    world!(setup(&json!({})), cut_and_killed);
}

#[test]
fn so_does_one_in_pieces() {
    world!(
        setup(&json!({ "ranges": { "min_size": "2MiB" } })),
        cut_and_killed
    );
}

#[test]
fn a_pull_is_looked_on_at_and_given_up_by_the_command_line() {
    world!(setup(&json!({})), async |node| {
        let (_registry, size) = registry_with(&[8]).await?;
        let proxy = FaultProxy::listen(5001, BEHIND, Duration::from_millis(10), [])?;
        let name = proxy.name("large:latest");
        let pintle = |arguments: &[&str]| -> Result<Command> {
            let mut command = Command::new(places::pintle()?);
            command
                .args(["image", "pull"])
                .args(arguments)
                .env("PINTLE_CONFIG", places::CONFIG)
                .env("PINTLE_SOCKET", places::SOCKET)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            Ok(command)
        };

        // Interrupted: the pull ends, and leaves what it has.
        let mut child = pintle(&["--quiet", &name])?.spawn()?;
        settle::until_true("some of the layer is kept", async || {
            Ok(proxy.passed() > 3 << 20)
        })
        .await?;
        let pulls = list(node).await?.pulls;
        let layer = pulls.first().and_then(|pull| pull.layers.first());
        let layer = layer.context("the pull is not listed")?;
        ensure!(
            pulls[0].reference == name && layer.size == size,
            "{pulls:?}"
        );
        ensure!(layer.fetched > 1 << 20 && layer.host == PROXY, "{layer:?}");
        let pid = rustix::process::Pid::from_child(&child);
        // What Ctrl-C does; but in a world, whose shell runs tests in the background, SIGINT is ignored from birth.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        ensure!(!child.wait()?.success());
        settle::until_true("the pull is given up", async || {
            let told = list(node).await?;
            let cancelled = told.totals.is_some_and(|totals| totals.cancelled == 1);
            Ok(told.pulls.is_empty() && cancelled)
        })
        .await?;
        ensure!(partials() == 1, "{} partial files", partials());

        // Another one goes on from there, and tells how far it is.
        let before = proxy.passed();
        let output = pintle(&["--json", &name])?.output()?;
        ensure!(output.status.success(), "{output:?}");
        let lines = String::from_utf8(output.stdout)?;
        let lines: Vec<Value> = lines
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        let (last, rest) = lines.split_last().context("nothing was told")?;
        let id = last["id"].as_str().context("no id")?;
        ensure!(node.cri().image(&name).await?.context("not there")?.id == id);
        let told = rest.last().context("no progress was told")?;
        let resumed = told["layers"][0]["resumedBytes"]
            .as_u64()
            .context("no bytes")?;
        ensure!(resumed > 2 << 20, "{told}");
        ensure!(
            proxy.passed() - before < size - (2 << 20),
            "all of it again"
        );
        ensure!(partials() == 0);

        // What is here is pulled at once; what is nowhere is told in words.
        let output = pintle(&[&name])?.output()?;
        ensure!(String::from_utf8(output.stdout)?.trim() == id);
        let output = pintle(&[&proxy.name("nothing")])?.output()?;
        let words = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(69), "{}", output.status);
        ensure!(
            words.contains("nothing") && words.contains(PROXY),
            "{words}"
        );
        // Credentials that the registry did not ask for do no harm; a file that is none does.
        fs::write(CREDENTIALS, "me:secret\n")?;
        let output = pintle(&["--creds-file", CREDENTIALS, &name])?.output()?;
        ensure!(output.status.success(), "{output:?}");
        fs::write(CREDENTIALS, "secret")?;
        let output = pintle(&["--creds-file", CREDENTIALS, &name])?.output()?;
        let words = String::from_utf8(output.stderr)?;
        ensure!(
            output.status.code() == Some(64) && !words.contains("secret"),
            "{words}"
        );
        Ok(())
    });
}
