//! A private node for one test: the test's binary runs itself again below `unshare`, so whatever a plugin does to interfaces,
//! addresses, sysctls, iptables or `/run` ends with the test.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pintle_network::{Attachment, Network, NetworkConfig, NetworkError};
use serde_json::{Value, json};
use tempfile::TempDir;

const INSIDE: &str = "PINTLE_NETWORK_TEST_NODE";
/// Where Debian keeps the plugins.
const REAL_PLUGINS: &str = "/usr/lib/cni";

/// Runs `test`, the body of the test called `name`, on a private node.
pub(crate) fn on_private_node<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Node) -> F) {
    if std::env::var_os(INSIDE).is_none() {
        let output = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}"
        );
        return;
    }
    sh("mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test(Node::new()));
}

/// The directories of a private node.
pub(crate) struct Node {
    dir: TempDir,
    /// As given to [`Network::open`]; may be changed before.
    pub(crate) config: NetworkConfig,
}

impl Node {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        for name in ["net.d", "bin"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let config = NetworkConfig {
            conf_dir: dir.path().join("net.d"),
            bin_dirs: vec![dir.path().join("bin"), REAL_PLUGINS.into()],
            cache_dir: dir.path().join("cache"),
            plugin_timeout: Duration::from_secs(30),
            default_network: None,
        };
        Self { dir, config }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a plugin list, with a file name that follows the network's.
    pub(crate) fn conflist(&self, network: &str, version: &str, plugins: &Value) {
        let json = json!({ "cniVersion": version, "name": network, "plugins": plugins });
        fs::write(
            self.config.conf_dir.join(format!("{network}.conflist")),
            json.to_string(),
        )
        .unwrap();
    }

    /// Bridge with host-local addresses, as in most tests.
    pub(crate) fn bridge(&self) -> Value {
        json!({ "type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": {
            "type": "host-local", "dataDir": self.path("leases"), "ranges": [[{ "subnet": "10.88.0.0/16" }]]
        } })
    }

    /// A plugin that is a shell script. It runs in the node's directory.
    pub(crate) fn script(&self, name: &str, body: &str) {
        // Written by a shell and not by us, so that no descriptor is open for writing when it is executed.
        let written = Command::new("sh")
            .args(["-c", r#"printf '#!/bin/sh\ncd %s\n%s\n' "$1" "$3" > "$1/new" && chmod 755 "$1/new" && mv "$1/new" "$1/bin/$2""#, "sh"])
            .arg(self.dir.path())
            .args([name, body])
            .status();
        assert!(written.unwrap().success());
    }

    pub(crate) fn open(&self) -> Network {
        Network::open(self.config.clone()).unwrap()
    }

    /// What is left of attachments: leases, records, veths.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (dir, is_ours) in [
            ("leases", is_address as fn(&str) -> bool),
            ("cache/results", |_| true),
        ] {
            left.extend(
                names(&self.path(dir))
                    .into_iter()
                    .filter(|name| is_ours(name)),
            );
        }
        // The kernel takes its time with a veth whose namespace went away.
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let veths = sh("ip -o link show type veth");
            if veths.is_empty() {
                return left;
            }
            if Instant::now() > deadline {
                left.push(veths);
                return left;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A pod with a fresh network namespace.
pub(crate) fn new_pod(name: &str) -> Attachment {
    let pod_id = format!("{name}{}", "0".repeat(64 - name.len()));
    sh(&format!("ip netns add {pod_id}"));
    Attachment {
        netns: Path::new("/run/netns").join(&pod_id),
        pod_id,
        name: name.to_owned(),
        namespace: "default".to_owned(),
        uid: format!("uid-{name}"),
        ..Attachment::default()
    }
}

/// Leases of host-local are files called like the address, in a directory called like the network.
fn is_address(path: &str) -> bool {
    path.rsplit('/')
        .next()
        .is_some_and(|name| name.parse::<IpAddr>().is_ok())
}

/// Paths of all files below a directory.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(names(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

/// Runs a shell command that must succeed and returns what it prints.
pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until the condition holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The message of an operation that must have failed.
pub(crate) fn message<T>(result: Result<T, NetworkError>) -> String {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.to_string(),
    }
}
