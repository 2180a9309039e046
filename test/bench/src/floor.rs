//! The floor: a pod made by hand with the same OCI runtime and CNI plugins, and nothing else.
//!
//! What a server adds to it (gRPC, records, a monitor, logs) is what the benchmark wants to see. So the floor does what
//! cannot be left away, in the same order as a server: namespaces made and pinned, the pod's files, the plugins of the
//! CNI chain executed one after the other with the result of the one before, an overlay, a `config.json` as Pintle's own
//! `spec` crate makes it, `RUNTIME create` and `RUNTIME start`; at the end SIGKILL, `RUNTIME delete`, the chain
//! backwards, and the mounts away.

mod bundle;
mod chain;
mod namespaces;
pub(crate) mod pull;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use pintle_test::{images, places, world::make_dirs};
use sys::process::PidFd;

use crate::{options::Who, requests, samples::Steps, stage};

use bundle::Specs;
use chain::{Chain, Pod as ChainPod};
use namespaces::Namespaces;

/// Steps of a start that are the CRI's `RunPodSandbox`.
pub(crate) const RUN_POD: &[&str] = &["pod files", "namespaces", "bridge ADD", "portmap ADD"];
/// Those of `CreateContainer`.
pub(crate) const CREATE: &[&str] = &["overlay mount", "config.json", "create"];
/// That of `StartContainer`.
pub(crate) const START: &[&str] = &["start"];
/// That of `StopContainer`.
pub(crate) const STOP: &[&str] = &["kill"];
/// Those of `RemoveContainer`.
pub(crate) const REMOVE: &[&str] = &["delete", "overlay unmount"];
/// Those of `StopPodSandbox`.
pub(crate) const STOP_POD: &[&str] = &["portmap DEL", "bridge DEL", "unpin"];
/// Those of `RemovePodSandbox`.
pub(crate) const REMOVE_POD: &[&str] = &["remove files"];
/// What the goal for stopping a pod is measured by.
pub(crate) const DEL_AND_DELETE: &[&str] = &["portmap DEL", "bridge DEL", "delete"];

/// A killed process that is not gone after this never will be.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// What stays the same for all pods of one runtime.
#[derive(Debug)]
pub(crate) struct Floor {
    runtime: PathBuf,
    runtime_root: PathBuf,
    layer: PathBuf,
    chain: Chain,
    specs: Specs,
}

/// A pod with its container.
#[derive(Debug)]
pub(crate) struct Pod {
    id: String,
    dir: PathBuf,
    writable: PathBuf,
    namespaces: Namespaces,
    network: ChainPod,
    init: PidFd,
}

impl Floor {
    /// Unpacks the image and makes the directories.
    pub(crate) fn new(runtime: &str, conflist: &serde_json::Value) -> Result<Self> {
        let root = stage::root(Who::Floor);
        let layer = root.join("layers/busybox");
        if !layer.exists() {
            make_dirs(&layer)?;
            let tar = root.join("busybox.tar");
            fs::write(&tar, images::busybox()?.tar()?).context("writing the busybox layer")?;
            let status = Command::new("tar")
                .arg("-xf")
                .arg(&tar)
                .arg("-C")
                .arg(&layer)
                .status()
                .context("running tar")?;
            ensure!(status.success(), "tar: {status}");
        }
        let runtime_root = PathBuf::from(format!("/run/floor/runtime/{runtime}"));
        make_dirs(&runtime_root)?;
        Ok(Self {
            runtime: program(runtime)?,
            runtime_root,
            layer,
            chain: Chain::new(conflist)?,
            specs: Specs::new()?,
        })
    }

    /// Starts a pod.
    pub(crate) fn start(&self, steps: &mut Steps) -> Result<Pod> {
        let id = requests::pod_name();
        let dir = PathBuf::from("/run/floor/pods").join(&id);
        let writable = stage::root(Who::Floor).join("containers").join(&id);
        let rootfs = dir.join("rootfs");

        steps.time("pod files", || pod_files(&dir))?;
        let namespaces = steps.time("namespaces", || Namespaces::pin(&id, &dir))?;
        let network = self.chain.add(&id, namespaces.network(), steps)?;
        steps.time("overlay mount", || self.mount(&writable, &rootfs))?;
        steps.time("config.json", || {
            self.specs.write(&id, &dir, &namespaces, &rootfs)
        })?;
        let pid_file = dir.join("pid");
        steps.time("create", || {
            self.call(&[
                "create",
                "--bundle",
                text(&dir)?,
                "--pid-file",
                text(&pid_file)?,
                &id,
            ])
        })?;
        let pid = fs::read_to_string(&pid_file).context("reading the runtime's pid file")?;
        let pid = pid
            .trim()
            .parse()
            .context("reading the runtime's pid file")?;
        let init = PidFd::open(pid)?.context("the container ended by itself")?;
        steps.time("start", || self.call(&["start", &id]))?;
        Ok(Pod {
            id,
            dir,
            writable,
            namespaces,
            network,
            init,
        })
    }

    /// Executes something in its container.
    pub(crate) fn exec(&self, pod: &Pod, steps: &mut Steps) -> Result<()> {
        let process = pod.dir.join("process.json");
        self.specs.write_process(&process)?;
        steps.time("ExecSync", || {
            self.call(&["exec", "--process", text(&process)?, &pod.id])
        })
    }

    /// Stops and removes it.
    pub(crate) fn stop(&self, pod: &Pod, steps: &mut Steps) -> Result<()> {
        steps.time("kill", || {
            pod.init.signal(rustix::process::Signal::KILL.as_raw())?;
            ensure!(
                pod.init.wait(KILL_PATIENCE)?,
                "the killed container is still there"
            );
            Ok(())
        })?;
        steps.time("delete", || self.call(&["delete", &pod.id]))?;
        steps.time("overlay unmount", || {
            sys::mount::unmount(&pod.dir.join("rootfs"))?;
            fs::remove_dir_all(&pod.writable).context("removing the writable layer")
        })?;
        self.chain.del(&pod.network, steps)?;
        steps.time("unpin", || pod.namespaces.unpin())?;
        steps.time("remove files", || {
            sys::mount::unmount(&pod.dir.join("shm"))?;
            fs::remove_dir_all(&pod.dir).context("removing the pod's files")
        })
    }

    fn mount(&self, writable: &Path, rootfs: &Path) -> Result<()> {
        let (upper, work) = (writable.join("upper"), writable.join("work"));
        for dir in [&upper, &work, rootfs] {
            make_dirs(dir)?;
        }
        sys::mount::overlay(&sys::mount::OverlayMount {
            lower: std::slice::from_ref(&self.layer),
            upper: Some(sys::mount::UpperDirs {
                upper: &upper,
                work: &work,
            }),
            target: rootfs,
            volatile: true,
            readonly: false,
            label: None,
        })?;
        Ok(())
    }

    /// Calls the runtime. Its output goes to a file: a pipe would be inherited by the container and never end.
    fn call(&self, arguments: &[&str]) -> Result<()> {
        const SAID: &str = "/run/floor/said";
        let said = File::create(SAID).with_context(|| format!("making {SAID}"))?;
        let status = Command::new(&self.runtime)
            .arg("--root")
            .arg(&self.runtime_root)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .status()
            .with_context(|| format!("running {}", self.runtime.display()))?;
        ensure!(
            status.success(),
            "{} {arguments:?}: {status}: {}",
            self.runtime.display(),
            fs::read_to_string(SAID).unwrap_or_default()
        );
        Ok(())
    }
}

/// What a pod's containers see in /etc, and their shared memory.
fn pod_files(dir: &Path) -> Result<()> {
    let shm = dir.join("shm");
    make_dirs(&shm)?;
    fs::copy("/etc/resolv.conf", dir.join("resolv.conf")).context("copying resolv.conf")?;
    fs::write(dir.join("hostname"), "bench\n").context("writing hostname")?;
    sys::mount::tmpfs(&shm, &sys::mount::Tmpfs::new(64 << 20, 0o1777))?;
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// Where a program of PATH is.
fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A user's PATH may lack the directories of root's programs.
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    match found {
        Some(path) => Ok(path),
        None => bail!("{name} is not in PATH"),
    }
}

/// Where the CNI plugins are.
fn plugin(kind: &str) -> PathBuf {
    Path::new(places::CNI_BIN).join(kind)
}
