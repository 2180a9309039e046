//! What all phases need: the registry with its images, the CNI network, the parent cgroup, a disk for each server.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use pintle_test::{
    cni,
    images::{self, Image, Layer, PATH_ENV, Packing},
    places,
    registry::{self, Registry},
    world::{make_dirs, write},
};
use serde_json::{Value, json};

use crate::{
    big_image,
    disk::Disk,
    options::{Options, Who},
    requests,
};

/// Changes with what is in the registry.
const STORAGE: &str = "bench-registry-1";
/// Room of one disk.
const DISK_BYTES: u64 = 6 << 30;

/// containerd's sandbox process; as small as a static C program gets without tricks, so that its memory is not held
/// against containerd.
const PAUSE: &str = "#include <signal.h>\n#include <unistd.h>\n\
    static void down(int s) { (void)s; _exit(0); }\n\
    int main(void) { signal(SIGTERM, down); signal(SIGINT, down); for (;;) pause(); }\n";

/// The stage. Dropping it takes everything away that the world's end would not.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The network that pods join: its conflist.
    pub(crate) conflist: Value,
    _registry: Registry,
    _disks: Vec<Disk>,
}

/// Where someone's files are: on a disk of its own.
pub(crate) fn root(who: Who) -> &'static Path {
    Path::new(match who {
        Who::Floor => "/var/lib/floor",
        Who::Pintle => places::ROOT,
        Who::Containerd => "/var/lib/containerd",
        Who::Skopeo => "/var/lib/containers/storage",
    })
}

impl Stage {
    /// Sets everything up.
    pub(crate) async fn set_up(options: &Options) -> Result<Self> {
        for dir in [
            places::SCRATCH,
            places::CNI_CONF,
            places::CNI_CACHE,
            "/run/netns",
        ] {
            make_dirs(dir)?;
        }
        let mut conflist = cni::bridge();
        conflist["plugins"][0]["ipMasq"] = (!options.no_masquerade).into();
        cni::install("10-pods.conflist", &conflist)?;
        come_first()?;
        make_cgroup_parent()?;
        let storage = registry::filled(STORAGE, fill).await?;
        let registry = Registry::serve(&storage, registry::HOST, true).await?;
        let mut disks = Vec::new();
        for &who in options.who.iter().filter(|who| **who != Who::Skopeo) {
            disks.push(Disk::mount(who.name(), DISK_BYTES, root(who))?);
        }
        Ok(Self {
            conflist,
            _registry: registry,
            _disks: disks,
        })
    }
}

/// Whatever else the machine does comes second. By itself a world weighs as much as one other process, and who makes more
/// processes for a pod would pay more for the others' load.
fn come_first() -> Result<()> {
    const FILES: [(&str, &str); 2] = [("cpu.shares", "262144"), ("cpu.weight", "10000")];
    let pods = sys::cgroup::Layout::detect()?.dir("cpu", requests::CGROUP_PARENT)?;
    let Some(world) = pods.as_deref().and_then(Path::parent) else {
        return Ok(());
    };
    for (file, most) in FILES {
        let path = world.join(file);
        if path.exists() {
            write(&path, most)?;
        }
    }
    Ok(())
}

/// The kubelet makes the pods' parent; a v1 cpuset takes no process before it has CPUs and memory.
fn make_cgroup_parent() -> Result<()> {
    for dir in sys::cgroup::Layout::detect()?.dirs(requests::CGROUP_PARENT)? {
        make_dirs(&dir)?;
        let above = dir.parent().context("a cgroup without a parent")?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            match fs::read_to_string(above.join(file)) {
                Ok(value) if !value.trim().is_empty() => write(dir.join(file), value)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn fill() -> Result<()> {
    eprintln!("bench: making images (once)");
    let plain = json!({ "Env": [PATH_ENV], "Cmd": ["sh"] });
    let busybox = Image::new(&[images::busybox()?.tar()?], Packing::Gzip, &plain)?;
    registry::push(&busybox, &requests::image(), &[])?;

    let layer = Layer::new().file("pause", 0o755, &pause()?)?.tar()?;
    let config = json!({ "Env": [PATH_ENV], "Entrypoint": ["/pause"] });
    let pause = Image::new(&[layer], Packing::Gzip, &config)?;
    registry::push(&pause, &registry::name("pause:latest"), &[])?;

    big_image::push()
}

fn pause() -> Result<Vec<u8>> {
    let (source, program) = (
        Path::new(places::SCRATCH).join("pause.c"),
        Path::new(places::SCRATCH).join("pause"),
    );
    write(&source, PAUSE)?;
    let status = Command::new("cc")
        .args(["-static", "-Os", "-s", "-o"])
        .args([&program, &source])
        .status()
        .context("running cc")?;
    ensure!(status.success(), "cc: {status}");
    fs::read(&program).context("reading pause")
}
