//! A monitor with a directory, and containers to make in it.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use runtime::{
    CgroupVersion, ContainerState, CreateRequest, ExecCaptured, Exit, HandlerConfig, Monitor,
    MonitorEvent, MonitorSpawn, OciRuntime, RuntimeError, RuntimeKind,
};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc::UnboundedReceiver};

pub(crate) const LONG: Duration = Duration::from_mins(1);

pub(crate) struct Pod {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) monitor: Monitor,
    pub(crate) runtime: OciRuntime,
    events: Mutex<UnboundedReceiver<MonitorEvent>>,
}

/// What a test wants of a container; the rest is usual.
#[derive(Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) args: &'a [&'a str],
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) log: Option<PathBuf>,
    pub(crate) share_pid: bool,
    pub(crate) deadline: Option<Duration>,
}

pub(crate) fn sh(script: &str) -> [&str; 3] {
    ["/bin/sh", "-c", script]
}

/// The test's thread gets mounts of its own, and a cgroup layout that crun accepts. All its children inherit both.
fn private_mounts() {
    // SAFETY: no descriptor table or memory is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .unwrap();
    // crun refuses a hybrid layout, and makes directories where it was: in a file system that goes with the test.
    let unified = "/sys/fs/cgroup/unified";
    if fs::exists(unified).unwrap() {
        unmount(unified, UnmountFlags::DETACH).unwrap();
        mount("tmpfs", unified, "tmpfs", MountFlags::empty(), None).unwrap();
    }
}

impl Pod {
    pub(crate) async fn new(runtime: &str) -> Self {
        private_mounts();
        let directory = tempfile::tempdir().unwrap();
        let rootfs = directory.path().join("rootfs/bin");
        fs::create_dir_all(&rootfs).unwrap();
        fs::copy("/bin/busybox", rootfs.join("busybox")).unwrap();
        for applet in [
            "sh", "echo", "sleep", "cat", "dd", "kill", "true", "ps", "stty", "head", "tail",
            "sysctl",
        ] {
            symlink("busybox", rootfs.join(applet)).unwrap();
        }
        for name in ["proc", "dev", "tmp", "sys"] {
            fs::create_dir(directory.path().join("rootfs").join(name)).unwrap();
        }
        let runtime = OciRuntime::probe(HandlerConfig {
            name: runtime.to_owned(),
            path: None,
            kind: RuntimeKind::Auto,
            root: directory.path().join("state"),
            args: Vec::new(),
            systemd_cgroup: false,
        })
        .await
        .unwrap();
        let runtime::SpawnedMonitor {
            monitor, events, ..
        } = Monitor::spawn(&MonitorSpawn {
            binary: Self::binary(),
            pod_id: "test".to_owned(),
            socket: directory.path().join("monitor.sock"),
            log: Some(directory.path().join("monitor.log")),
        })
        .await
        .unwrap();
        Self {
            directory,
            monitor,
            runtime,
            events: Mutex::new(events),
        }
    }

    /// The monitor under test; the measurements take the static build.
    pub(crate) fn binary() -> PathBuf {
        std::env::var_os("PINTLE_MONITOR").map_or_else(
            || env!("CARGO_BIN_EXE_pintle-monitor").into(),
            PathBuf::from,
        )
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The parent of all cgroups of this pod, below each hierarchy.
    fn cgroup(&self) -> String {
        format!(
            "pintle-monitor-test-{}",
            self.directory.path().file_name().unwrap().to_str().unwrap()
        )
    }

    /// The bundle of a container, made on first use.
    pub(crate) fn bundle(&self, id: &str, wanted: &Wanted<'_>) -> PathBuf {
        let bundle = self.path(id);
        fs::create_dir_all(&bundle).unwrap();
        let mut namespaces = vec![
            json!({"type": "mount"}),
            json!({"type": "ipc"}),
            json!({"type": "uts"}),
        ];
        if !wanted.share_pid {
            namespaces.push(json!({"type": "pid"}));
        }
        let mut resources = json!({"devices": [{"allow": true, "access": "rwm"}]});
        if let Some(limit) = wanted.memory_bytes {
            resources["memory"] = json!({"limit": limit});
        }
        let config = json!({
            "ociVersion": "1.0.0",
            "process": Self::process(wanted.args, wanted.tty),
            "root": {"path": self.path("rootfs"), "readonly": false},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755", "nosuid"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "namespaces": namespaces,
                "cgroupsPath": format!("/{}/{id}", self.cgroup()),
                "resources": resources,
            },
        });
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        bundle
    }

    fn process(args: &[&str], tty: bool) -> Value {
        json!({
            "terminal": tty,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        })
    }

    pub(crate) fn request(&self, id: &str, wanted: &Wanted<'_>) -> CreateRequest {
        let bundle = self.bundle(id, wanted);
        CreateRequest {
            id: id.to_owned(),
            runtime: self.runtime.clone(),
            pid_file: bundle.join("pid"),
            log: Some(wanted.log.clone().unwrap_or_else(|| bundle.join("0.log"))),
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdin_once: wanted.stdin_once,
            memory_cgroup: Some(self.memory_cgroup(id)),
            exit_file: bundle.join("exit"),
            attach_socket: Some(bundle.join("attach.sock")),
            deadline: wanted.deadline.unwrap_or(LONG),
            bundle,
        }
    }

    pub(crate) fn memory_cgroup(&self, id: &str) -> (CgroupVersion, PathBuf) {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        if v1.exists() {
            (CgroupVersion::V1, v1.join(self.cgroup()).join(id))
        } else {
            (
                CgroupVersion::V2,
                Path::new("/sys/fs/cgroup").join(self.cgroup()).join(id),
            )
        }
    }

    pub(crate) async fn create(&self, id: &str, wanted: &Wanted<'_>) -> u32 {
        self.monitor
            .create(&self.request(id, wanted))
            .await
            .unwrap()
            .pid
    }

    pub(crate) async fn start(&self, id: &str) {
        self.runtime.start(id, LONG).await.unwrap();
    }

    /// Creates and starts.
    pub(crate) async fn run(&self, id: &str, wanted: &Wanted<'_>) -> u32 {
        let pid = self.create(id, wanted).await;
        self.start(id).await;
        pid
    }

    /// The next event.
    pub(crate) async fn event(&self) -> MonitorEvent {
        tokio::time::timeout(LONG, self.events.lock().await.recv())
            .await
            .unwrap()
            .unwrap()
    }

    /// Waits for a container's end; skips other events.
    pub(crate) async fn exit(&self, id: &str) -> Exit {
        loop {
            match self.event().await {
                MonitorEvent::Exited(ended, exit) if ended == id => return exit,
                MonitorEvent::Disconnected => panic!("disconnected"),
                _ => {}
            }
        }
    }

    /// Deletes and forgets an ended container.
    pub(crate) async fn remove(&self, id: &str) {
        self.runtime.delete(id, true, LONG).await.unwrap();
        self.monitor.forget(id).await.unwrap();
    }

    pub(crate) fn exec_json(&self, name: &str, args: &[&str], tty: bool) -> PathBuf {
        let file = self.path(&format!("{name}.json"));
        fs::write(&file, Self::process(args, tty).to_string()).unwrap();
        file
    }

    pub(crate) async fn exec(
        &self,
        id: &str,
        args: &[&str],
        deadline: Option<Duration>,
    ) -> Result<ExecCaptured, RuntimeError> {
        let file = self.exec_json("exec", args, false);
        self.monitor
            .exec_capture(id, &self.runtime, file, 1 << 20, deadline.or(Some(LONG)))
            .await
    }

    pub(crate) async fn container(&self, id: &str) -> Option<ContainerState> {
        self.monitor
            .state()
            .await
            .unwrap()
            .into_iter()
            .find(|container| container.id == id)
    }

    /// Tag and message of each line of a stream.
    pub(crate) fn log(&self, id: &str, stream: &str) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.path(id).join("0.log")).unwrap();
        let mut before = String::new();
        let mut lines = Vec::new();
        for line in text.lines() {
            let mut parts = line.splitn(4, ' ');
            let timestamp = parts.next().unwrap().to_owned();
            assert!(
                timestamp.len() == 30 && timestamp.ends_with('Z') && timestamp >= before,
                "{line}"
            );
            before = timestamp;
            if parts.next().unwrap() == stream {
                lines.push((
                    parts.next().unwrap().to_owned(),
                    parts.next().unwrap().to_owned(),
                ));
            }
        }
        lines
    }

    /// Removes a container's cgroups, as the engine does for a creation that was cut off.
    pub(crate) async fn remove_cgroup(&self, id: &str) {
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
            let cgroup = hierarchy.unwrap().path().join(self.cgroup()).join(id);
            if cgroup.starts_with("/sys/fs/cgroup/unified") {
                continue;
            }
            // Busy as long as a killed process is not quite gone.
            eventually("the cgroup is gone", || {
                fs::remove_dir(&cgroup).is_ok() || !cgroup.exists()
            })
            .await;
        }
    }

    /// Ends the monitor and checks that nothing is left.
    pub(crate) async fn finish(self) {
        for container in self.monitor.state().await.unwrap() {
            self.remove(&container.id).await;
        }
        self.monitor.end().await.unwrap();
        while self.event().await != MonitorEvent::Disconnected {}
        let complaints = fs::read_to_string(self.path("monitor.log")).unwrap();
        assert_eq!(
            complaints
                .lines()
                .filter(|line| line.contains("panicked"))
                .count(),
            0,
            "{complaints}"
        );
        // Whatever belongs to this pod has its directory in its command line, or is in its cgroup.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
            let hierarchy = hierarchy.unwrap().path();
            if hierarchy.is_symlink() || hierarchy.ends_with("unified") {
                continue;
            }
            match fs::remove_dir(hierarchy.join(self.cgroup())) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    panic!("{}: {error}", hierarchy.display());
                }
                _ => {}
            }
        }
        let mark = self.directory.path().to_str().unwrap().to_owned();
        eventually("all processes are gone", || {
            processes_with(&mark).is_empty()
        })
        .await;
    }
}

/// Pids of processes with `mark` in their command line.
pub(crate) fn processes_with(mark: &str) -> Vec<i32> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(mark)
        })
        .collect()
}

pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
