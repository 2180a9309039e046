//! A node: one `pintle serve` with its configuration, network and registry, in the world of one test.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use api::cri::{self, ContainerState, NamespaceMode};
use serde_json::{Value, json};

use crate::{
    cni,
    cri::{Client, image_spec, request, words},
    driver,
    ledger::{Ledger, Subject},
    places, processes,
    registry::{self, Registry},
    settle,
    world::{self, make_dirs, write},
};

/// Lines of the server's log that a failed test shows.
const LOG_TAIL_LINES: usize = 150;

/// How a node is made.
#[derive(Clone, Debug)]
pub struct Setup {
    config: Value,
    network: Option<Value>,
    /// Plugins of the test's own: name and script.
    plugins: Vec<(String, String)>,
    registry: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: json!({}),
            network: Some(cni::bridge()),
            plugins: Vec::new(),
            registry: true,
        }
    }
}

impl Setup {
    /// With these keys of the configuration on top of the suite's own.
    #[must_use]
    pub fn config(mut self, keys: Value) -> Self {
        merge(&mut self.config, keys);
        self
    }

    /// With this CNI configuration, or none.
    #[must_use]
    pub fn network(mut self, conflist: Option<Value>) -> Self {
        self.network = conflist;
        self
    }

    /// With a CNI plugin of the test's own: see [`cni::write_plugin`].
    #[must_use]
    pub fn plugin(mut self, name: &str, script: &str) -> Self {
        self.plugins.push((name.to_owned(), script.to_owned()));
        self
    }

    /// Without the suite's registry.
    #[must_use]
    pub fn without_registry(mut self) -> Self {
        self.registry = false;
        self
    }
}

/// A running pod and what it was asked to be, which `CreateContainer` wants to see again.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its id.
    pub id: String,
    /// Its configuration.
    pub config: cri::PodSandboxConfig,
}

/// The node of a test.
#[derive(Debug)]
pub struct Node {
    client: Mutex<Option<Client>>,
    server: Mutex<Option<Child>>,
    registry: Option<Registry>,
    /// Makes names and uids of this world's objects differ.
    counter: AtomicU32,
    /// What its server reads.
    config: PathBuf,
    /// What its server says.
    log: PathBuf,
}

/// The OCI runtime under test.
pub fn runtime() -> String {
    env::var("PINTLE_TEST_RUNTIME").unwrap_or_else(|_| "crun".to_owned())
}

/// What [`crate::world!`] does. `here` is the full name of a function inside the test.
pub fn in_world(here: &str, setup: Setup, body: impl AsyncFnOnce(&Node) -> Result<()>) {
    let test = here
        .strip_suffix("::here")
        .and_then(|path| path.split_once("::"))
        .map_or(here, |(_crate, path)| path);
    if !world::inside() {
        let arguments = [test, "--exact", "--nocapture", "--include-ignored"];
        match world::again(arguments.map(Into::into)) {
            Ok(status) if status.success() => return,
            Ok(status) => fail(&format!("{test} failed in its world: {status}")),
            Err(error) => fail(&format!("no world for {test}: {error:#}")),
        }
    }
    let result = world::furnish().and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(live(setup, body))
    });
    if let Err(error) = result {
        fail(&format!("{test}: {error:#}"));
    }
}

/// Fails the test. Where in the harness we are when it fails tells nobody anything: no backtrace.
fn fail(why: &str) -> ! {
    eprintln!("{why}");
    std::panic::resume_unwind(Box::new(()));
}

async fn live(setup: Setup, body: impl AsyncFnOnce(&Node) -> Result<()>) -> Result<()> {
    let node = Node::start(setup).await?;
    let before = Ledger::count(&node.subject())?;
    body(&node).await?;
    node.clear()
        .await
        .context("removing what the test left running")?;
    before.compare(&node.subject()).await?;
    ensure!(
        !node.server_log().contains("panicked at"),
        "the server panicked"
    );
    // A test may end with the server down.
    if node.server_pid().is_some() {
        let status = node.stop_server().await?;
        ensure!(
            status.success(),
            "after SIGTERM the server ended with {status}"
        );
    }
    fs::remove_file(&node.log).context("removing the log of a test that went well")
}

impl Node {
    /// Writes what a node needs and starts its server.
    pub async fn start(setup: Setup) -> Result<Self> {
        make_dirs(places::SCRATCH)?;
        make_dirs(places::CNI_CONF)?;
        make_dirs(places::CNI_OWN_BIN)?;
        make_dirs(places::ROOT)?;
        make_dirs(places::CNI_CACHE)?;
        make_dirs("/run/netns")?;
        for (name, script) in &setup.plugins {
            cni::write_plugin(name, script)?;
        }
        if let Some(conflist) = &setup.network {
            cni::install("10-pods.conflist", conflist)?;
        }
        let registry = if setup.registry {
            Some(Registry::start().await?)
        } else {
            None
        };
        let node = Self {
            client: Mutex::new(None),
            server: Mutex::new(None),
            registry,
            counter: AtomicU32::new(0),
            config: places::CONFIG.into(),
            log: Path::new(places::SCRATCH).join("pintle.log"),
        };
        node.configure(setup.config)?;
        node.start_server().await?;
        Ok(node)
    }

    /// Writes the configuration: the suite's own with these keys on top. A running server does not know yet.
    pub fn configure(&self, keys: Value) -> Result<()> {
        let runtime = runtime();
        let mut config = json!({
            "root": places::ROOT,
            "run": places::RUN,
            "default_runtime": runtime,
            "runtimes": {},
            "log": { "level": "debug" },
            "network": { "cni": {
                "conf_dir": places::CNI_CONF,
                "bin_dirs": [places::CNI_OWN_BIN, places::CNI_BIN],
                "cache_dir": places::CNI_CACHE,
            } },
            "image": {
                "registries": { registry::HOST: { "plain_http": true } },
                // What the machine that runs the suite has does not count.
                "registries_conf": places::REGISTRIES_CONF,
                "certs_dirs": [places::CERTS],
            },
            "monitor": { "path": places::monitor()? },
        });
        config["runtimes"][&runtime] = json!({});
        if driver::is_systemd() {
            config["cgroup"] = json!({ "driver": "systemd" });
        }
        merge(&mut config, keys);
        // JSON is YAML.
        write(&self.config, serde_json::to_vec_pretty(&config)?)
    }

    /// Starts the server and waits until it answers.
    pub async fn start_server(&self) -> Result<()> {
        let child = self.spawn_server(&[])?;
        *lock(&self.server) = Some(child);
        let client = settle::until("the server answers", async || {
            if let Some(child) = &mut *lock(&self.server)
                && let Some(status) = child.try_wait()?
            {
                bail!("the server ended with {status}");
            }
            let Ok(client) = Client::connect(places::SOCKET).await else {
                return Ok(None);
            };
            let version = cri::VersionRequest {
                version: "v1".to_owned(),
            };
            let answer = client.runtime.clone().version(request(version)).await;
            Ok(answer.is_ok().then_some(client))
        })
        .await;
        match client {
            Ok(client) => {
                *lock(&self.client) = Some(client);
                Ok(())
            }
            Err(error) => {
                self.show_log();
                Err(error)
            }
        }
    }

    /// Starts `pintle serve` with more arguments and does not wait for anything.
    pub fn spawn_server(&self, arguments: &[&str]) -> Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .context("opening the server's log")?;
        Command::new(places::pintle()?)
            .args(["serve", "--config"])
            .arg(&self.config)
            .args(arguments)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting pintle serve")
    }

    /// Ends the server by SIGKILL, in the middle of whatever it is at.
    pub fn kill_server(&self) -> Result<()> {
        if let Some(mut child) = lock(&self.server).take() {
            child.kill().context("killing the server")?;
            child.wait().context("waiting for the killed server")?;
        }
        Ok(())
    }

    /// Ends the server by SIGTERM and waits until it is gone.
    pub async fn stop_server(&self) -> Result<ExitStatus> {
        let Some(mut child) = lock(&self.server).take() else {
            bail!("no server is running");
        };
        signal(child.id(), rustix::process::Signal::TERM)?;
        let ended = settle::until("the server ends after SIGTERM", async || {
            Ok(child.try_wait()?)
        });
        let ended = ended.await;
        if ended.is_err() {
            // The test fails anyway; what is left dies with the world.
            let _ = child.kill();
        }
        ended
    }

    /// The server's PID, if one is running.
    pub fn server_pid(&self) -> Option<u32> {
        lock(&self.server).as_ref().map(Child::id)
    }

    /// A client of the running server.
    pub fn cri(&self) -> Client {
        match &*lock(&self.client) {
            Some(client) => client.clone(),
            None => panic!("the test has not started a server"),
        }
    }

    /// What the ledger counts and what not.
    pub fn subject(&self) -> Subject {
        Subject {
            server: self.server_pid(),
            own: self.registry.iter().map(Registry::pid).collect(),
        }
    }

    /// What the server has said so far.
    pub fn server_log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Shows the end of the server's log.
    pub fn show_log(&self) {
        let log = self.server_log();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        eprintln!("--- the server's log, last {} lines", tail.len());
        for line in tail {
            eprintln!("{line}");
        }
        for entry in fs::read_dir(Path::new(places::RUN).join("pods"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path().join("monitor.log");
            if let Ok(text) = fs::read_to_string(&path)
                && !text.is_empty()
            {
                eprintln!("--- {}\n{text}", path.display());
            }
        }
        eprintln!("---");
    }

    /// Stops and removes every pod.
    pub async fn clear(&self) -> Result<()> {
        if self.server_pid().is_none() {
            return Ok(());
        }
        let cri = self.cri();
        for pod in cri.pods(None).await? {
            cri.stop_pod(&pod.id)
                .await
                .with_context(|| format!("stopping {}", pod.id))?;
            cri.remove_pod(&pod.id)
                .await
                .with_context(|| format!("removing {}", pod.id))?;
        }
        Ok(())
    }

    /// A number that no other object of this world has.
    pub fn number(&self) -> u32 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// The configuration of an ordinary pod: a network of its own, one PID namespace per container.
    pub fn pod_config(&self, name: &str) -> Result<cri::PodSandboxConfig> {
        let uid = format!("uid-{}-{}", std::process::id(), self.number());
        let log_directory = format!("{}/{name}-{uid}", places::POD_LOGS);
        make_dirs(&log_directory)?;
        Ok(cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_owned(),
                uid,
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory,
            dns_config: None,
            port_mappings: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: driver::parent("kubepods"),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces(
                        NamespaceMode::Pod,
                        NamespaceMode::Container,
                    )),
                    seccomp: Some(runtime_default()),
                    ..cri::LinuxSandboxSecurityContext::default()
                }),
                ..cri::LinuxPodSandboxConfig::default()
            }),
            windows: None,
        })
    }

    /// Runs an ordinary pod.
    pub async fn run_pod(&self, name: &str) -> Result<Pod> {
        self.run_pod_as(self.pod_config(name)?).await
    }

    /// Runs a pod.
    pub async fn run_pod_as(&self, config: cri::PodSandboxConfig) -> Result<Pod> {
        let id = self
            .cri()
            .run_pod(&config, "")
            .await
            .context("RunPodSandbox")?;
        Ok(Pod { id, config })
    }

    /// Makes sure that an image of the suite's registry is there; its full name.
    pub async fn image(&self, image: &str) -> Result<String> {
        let name = registry::name(image);
        self.cri()
            .pull(&name)
            .await
            .with_context(|| format!("pulling {name}"))?;
        Ok(name)
    }

    /// Creates and starts a container; its id.
    pub async fn start_container(
        &self,
        pod: &Pod,
        config: &cri::ContainerConfig,
    ) -> Result<String> {
        let cri = self.cri();
        let id = cri
            .create(&pod.id, config, &pod.config)
            .await
            .context("CreateContainer")?;
        cri.start(&id).await.context("StartContainer")?;
        Ok(id)
    }

    /// Runs a shell script in a new busybox container; its id.
    pub async fn run(&self, pod: &Pod, name: &str, script: &str) -> Result<String> {
        self.image("busybox:latest").await?;
        self.start_container(pod, &container(name, script)).await
    }

    /// Runs a pod with one container that sleeps; both.
    pub async fn sleeper(&self, name: &str) -> Result<(Pod, String)> {
        let pod = self.run_pod(name).await?;
        let id = self.run(&pod, name, SLEEP).await?;
        Ok((pod, id))
    }

    /// Waits until a container has ended.
    pub async fn exited(&self, id: &str) -> Result<cri::ContainerStatus> {
        let cri = self.cri();
        settle::until("the container ends", async || {
            let status = cri.status(id).await?;
            Ok((status.state() == ContainerState::ContainerExited).then_some(status))
        })
        .await
    }

    /// A pod's address.
    pub async fn address(&self, pod: &Pod) -> Result<IpAddr> {
        let status = self.cri().pod_status(&pod.id).await?;
        let network = status.network.context("no network in the pod's status")?;
        network
            .ip
            .parse()
            .with_context(|| format!("the pod's address is {:?}", network.ip))
    }
}

impl Pod {
    /// Where the log of a container made by [`container_of`] is.
    pub fn log_file(&self, name: &str) -> PathBuf {
        Path::new(&self.config.log_directory).join(format!("{name}.log"))
    }

    /// The log of a container as it is on disk.
    pub fn raw_log(&self, name: &str) -> Result<String> {
        let path = self.log_file(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// What a container has written so far: the messages of its log, lines put together again.
    pub fn output(&self, name: &str) -> Result<String> {
        let mut text = String::new();
        for line in self.raw_log(name)?.lines() {
            let mut fields = line.splitn(4, ' ');
            let (tag, message) = (fields.nth(2), fields.next());
            text += message.with_context(|| format!("no CRI log line: {line:?}"))?;
            if tag == Some("F") {
                text.push('\n');
            }
        }
        Ok(text)
    }

    /// Waits until a container has written something.
    pub async fn output_with(&self, name: &str, part: &str) -> Result<String> {
        settle::until(&format!("{name} writes {part:?}"), async || {
            let output = self.output(name)?;
            Ok(output.contains(part).then_some(output))
        })
        .await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It is removed at the end of a test that went well.
        if self.log.exists() {
            self.show_log();
        }
        if let Some(mut child) = lock(&self.server).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a container runs that only has to be there: it ends on SIGTERM like a well-bred program.
pub const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// The configuration of a busybox container that runs a shell script, logging to `NAME.log`.
pub fn container(name: &str, script: &str) -> cri::ContainerConfig {
    container_of("busybox:latest", name, &["sh", "-c", script])
}

/// The configuration of a container of an image of the suite's registry.
pub fn container_of(image: &str, name: &str, command: &[&str]) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(image_spec(&registry::name(image))),
        command: words(command),
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            resources: None,
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(NamespaceMode::Pod, NamespaceMode::Container)),
                seccomp: Some(runtime_default()),
                ..cri::LinuxContainerSecurityContext::default()
            }),
        }),
        ..cri::ContainerConfig::default()
    }
}

/// The security context of a container made by [`container_of`], to be changed.
pub fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
}

/// The security context of a pod, to be changed.
pub fn pod_security(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    config
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
}

/// Namespace options: the network's mode, and the PID namespace's; IPC is the pod's.
pub fn namespaces(network: NamespaceMode, pid: NamespaceMode) -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: NamespaceMode::Pod.into(),
        ..cri::NamespaceOption::default()
    }
}

/// The seccomp profile that kubelet asks for with `seccompDefault`.
pub fn runtime_default() -> cri::SecurityProfile {
    cri::SecurityProfile {
        profile_type: cri::security_profile::ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    }
}

/// Sends a signal to a process of this world.
pub fn signal(pid: u32, signal: rustix::process::Signal) -> Result<()> {
    let raw = i32::try_from(pid).context("a PID is small")?;
    let target = rustix::process::Pid::from_raw(raw).context("a PID is not 0")?;
    rustix::process::kill_process(target, signal).with_context(|| format!("signalling {pid}"))
}

/// The monitors that are running.
pub fn monitors() -> Vec<processes::Process> {
    processes::all()
        .into_iter()
        .filter(|process| process.name.starts_with("pintle-monitor") && !process.zombie)
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lays `over` on top of `value`: objects key by key, all else replaced.
fn merge(value: &mut Value, over: Value) {
    match (value, over) {
        (Value::Object(value), Value::Object(over)) => {
            for (key, over) in over {
                merge(value.entry(key).or_insert(Value::Null), over);
            }
        }
        (value, over) => *value = over,
    }
}
