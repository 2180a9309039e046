//! What an attach and a detach cost beyond the plugins: `cargo bench -p pintle-network`, as root.
//!
//! The same chain is run by [`Network`] and by a bare loop (spawn, write, read, wait; nothing checked, recorded or bounded), in turns
//! and with a fresh network namespace each time. Two chains: real plugins, and `busybox cat`, which answers with its own configuration
//! and so shows the difference best. Everything happens in a network and a mount namespace of its own.
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot go on may as well panic"
)]

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use pintle_network::{Attachment, Network, NetworkConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

const INSIDE: &str = "PINTLE_NETWORK_BENCH_NODE";
const ROUNDS: usize = 60;
const BIN_DIR: &str = "/usr/lib/cni";

fn main() -> ExitCode {
    if std::env::var_os(INSIDE).is_none() {
        let inside = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "--"])
            .arg(std::env::current_exe().unwrap())
            .env(INSIDE, "1")
            .status();
        return if inside.unwrap().success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    sh("mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up");
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("bin")).unwrap();
    fs::copy("/bin/busybox", dir.path().join("bin/cat")).unwrap();
    let echo = json!({ "type": "cat", "ips": [{ "address": "10.1.0.2/16" }] });
    let bridge = json!({ "type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": {
        "type": "host-local", "dataDir": dir.path().join("leases"), "ranges": [[{ "subnet": "10.88.0.0/16" }]]
    } });
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    let tuning = json!({ "type": "tuning", "mtu": 1400 });
    println!("| chain | verb | bare loop, p50 ms | network, p50 ms | overhead, ms |");
    println!("|---|---|---|---|---|");
    for (chain, plugins) in [
        ("busybox cat", vec![echo.clone()]),
        ("busybox cat ×3", vec![echo.clone(), echo.clone(), echo]),
        ("bridge + tuning", vec![bridge.clone(), tuning]),
        ("bridge + portmap, idle", vec![bridge, portmap]),
    ] {
        measure(dir.path(), chain, &plugins);
    }
    ExitCode::SUCCESS
}

fn measure(dir: &Path, chain: &str, plugins: &[Value]) {
    let conf_dir = dir.join("net.d");
    let _ = fs::remove_dir_all(&conf_dir);
    fs::create_dir(&conf_dir).unwrap();
    let list = json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": plugins });
    fs::write(conf_dir.join("pods.conflist"), list.to_string()).unwrap();
    let bin_dirs = [dir.join("bin"), BIN_DIR.into()];
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let network = Network::open(NetworkConfig {
        conf_dir,
        bin_dirs: bin_dirs.to_vec(),
        cache_dir: dir.join("cache"),
        plugin_timeout: Duration::from_mins(1),
        default_network: None,
    })
    .unwrap();
    let mut times: [Vec<Duration>; 4] = Default::default();
    let mut time = |slot: usize, work: &mut dyn FnMut()| {
        let begun = Instant::now();
        work();
        times[slot].push(begun.elapsed());
    };
    for round in 0..2 * ROUNDS {
        let pod_id = format!("{round:064x}");
        let netns = Path::new("/run/netns").join(&pod_id);
        let pod = Attachment {
            pod_id: pod_id.clone(),
            netns: netns.clone(),
            ..Attachment::default()
        };
        sh(&format!("ip netns add {pod_id}"));
        if round % 2 == 0 {
            let mut result = None;
            time(0, &mut || {
                for plugin in plugins {
                    let former = result.as_ref();
                    result = Some(bare(&bin_dirs, plugin, "ADD", &pod_id, &netns, former));
                }
            });
            time(2, &mut || {
                for plugin in plugins.iter().rev() {
                    bare(&bin_dirs, plugin, "DEL", &pod_id, &netns, result.as_ref());
                }
            });
        } else {
            time(1, &mut || {
                runtime.block_on(network.attach(&pod)).unwrap();
            });
            time(3, &mut || runtime.block_on(network.detach(&pod)).unwrap());
        }
        sh(&format!("ip netns del {pod_id}"));
    }
    let [bare_add, add, bare_del, del] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    });
    println!(
        "| {chain} | ADD | {bare_add:.2} | {add:.2} | {:.2} |",
        add - bare_add
    );
    println!(
        "| {chain} | DEL | {bare_del:.2} | {del:.2} | {:.2} |",
        del - bare_del
    );
}

/// The least that running a plugin takes.
fn bare(
    bin_dirs: &[std::path::PathBuf],
    plugin: &Value,
    verb: &str,
    pod_id: &str,
    netns: &Path,
    result: Option<&Value>,
) -> Value {
    let kind = plugin["type"].as_str().unwrap();
    let binary = bin_dirs
        .iter()
        .map(|dir| dir.join(kind))
        .find(|path| path.exists())
        .unwrap();
    let mut input = plugin.clone();
    input["name"] = "pods".into();
    input["cniVersion"] = "1.0.0".into();
    if let Some(result) = result {
        input["prevResult"] = result.clone();
    }
    let mut child = Command::new(binary)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", pod_id)
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", BIN_DIR)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.to_string().as_bytes())
        .unwrap();
    let mut stdout = Vec::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut stdout)
        .unwrap();
    assert!(
        child.wait().unwrap().success(),
        "{}",
        String::from_utf8_lossy(&stdout)
    );
    serde_json::from_slice(&stdout).unwrap_or_default()
}

fn sh(command: &str) {
    assert!(
        Command::new("sh")
            .args(["-c", command])
            .status()
            .unwrap()
            .success(),
        "{command}"
    );
}
