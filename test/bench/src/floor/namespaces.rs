//! The namespaces of a pod: made by a thread that leaves everyone else's, and pinned by bind mounts.

use std::{
    fs::File,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::sched::CloneFlags;

/// Pinned namespaces.
#[derive(Debug)]
pub(super) struct Namespaces {
    network: PathBuf,
    ipc: PathBuf,
    uts: PathBuf,
}

impl Namespaces {
    /// Where they are to be: the network namespace where `ip netns` looks, the others in the pod's directory.
    pub(super) fn at(id: &str, dir: &Path) -> Self {
        Self {
            network: Path::new("/run/netns").join(id),
            ipc: dir.join("ipc"),
            uts: dir.join("uts"),
        }
    }

    /// Makes and pins them.
    pub(super) fn pin(id: &str, dir: &Path) -> Result<Self> {
        let pins = Self::at(id, dir);
        let made = thread::scope(|scope| scope.spawn(|| pins.make()).join());
        made.map_err(|_panic| anyhow!("the thread that makes namespaces panicked"))??;
        Ok(pins)
    }

    /// Runs on a thread that ends afterwards: nothing else may run in the new namespaces.
    fn make(&self) -> Result<()> {
        nix::sched::unshare(
            CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS,
        )
        .context("unsharing namespaces")?;
        rustix::system::sethostname(b"bench").context("setting the host name")?;
        for (kind, pin) in [
            ("net", &self.network),
            ("ipc", &self.ipc),
            ("uts", &self.uts),
        ] {
            File::create(pin).with_context(|| format!("making {}", pin.display()))?;
            sys::mount::bind(&Path::new("/proc/thread-self/ns").join(kind), pin, false)?;
        }
        Ok(())
    }

    pub(super) fn network(&self) -> &Path {
        &self.network
    }

    pub(super) fn ipc(&self) -> &Path {
        &self.ipc
    }

    pub(super) fn uts(&self) -> &Path {
        &self.uts
    }

    /// Lets go of them; the kernel takes them apart.
    pub(super) fn unpin(&self) -> Result<()> {
        for pin in [&self.network, &self.ipc, &self.uts] {
            sys::mount::unmount(pin)?;
            std::fs::remove_file(pin).with_context(|| format!("removing {}", pin.display()))?;
        }
        Ok(())
    }
}
