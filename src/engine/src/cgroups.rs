//! The cgroups of pods and containers, named as CRI names them (`/kubepods/…`), on either cgroup version.

use std::path::PathBuf;

use sys::cgroup::Layout;

use crate::{error::EngineError, teardown::joined};

/// The node's cgroup tree.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    layout: Layout,
}

impl Cgroups {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn version(&self) -> runtime::CgroupVersion {
        if self.layout.is_v2() {
            runtime::CgroupVersion::V2
        } else {
            runtime::CgroupVersion::V1
        }
    }

    pub(crate) fn exists(&self, path: &str) -> Result<bool, EngineError> {
        Ok(self.layout.exists(path)?)
    }

    /// Remove a cgroup and those below it from every hierarchy. It may be gone; one with processes stays and is an error.
    pub(crate) async fn remove(&self, path: &str) -> Result<(), EngineError> {
        self.patiently(path, Layout::remove).await
    }

    /// Remove a cgroup that other pods may have begun to use: it stays then.
    pub(crate) fn remove_if_empty(&self, path: &str) -> Result<(), EngineError> {
        for directory in self.layout.dirs(path)? {
            if let Err(error) = std::fs::remove_dir(&directory) {
                tracing::debug!(cgroup = %directory.display(), %error, "a parent cgroup stays");
            }
        }
        Ok(())
    }

    /// Move a process into it; it is made if need be.
    pub(crate) async fn adopt(&self, path: &str, pid: u32) -> Result<(), EngineError> {
        let (layout, path) = (self.layout.clone(), path.to_owned());
        // The kernel holds up all forks of the node meanwhile, and waits for those under way.
        joined(tokio::task::spawn_blocking(move || Ok(layout.adopt(&path, pid)?)).await)
    }

    /// SIGKILL every process in it and below.
    pub(crate) async fn kill_all(&self, path: &str) -> Result<(), EngineError> {
        self.patiently(path, Layout::kill_all).await
    }

    /// Both wait for the kernel, a second when a process does not go: not on a thread that answers requests.
    async fn patiently(
        &self,
        path: &str,
        work: fn(&Layout, &str) -> Result<(), sys::SysError>,
    ) -> Result<(), EngineError> {
        let (layout, path) = (self.layout.clone(), path.to_owned());
        joined(tokio::task::spawn_blocking(move || Ok(work(&layout, &path)?)).await)
    }

    /// Where the kernel tells of memory kills.
    pub(crate) fn memory(
        &self,
        path: &str,
    ) -> Result<Option<(runtime::CgroupVersion, PathBuf)>, EngineError> {
        Ok(self
            .layout
            .memory_dir(path)?
            .map(|directory| (self.version(), directory)))
    }

    /// What still runs in it, for an error that helps: process ids and what each waits for.
    pub(crate) fn describe(&self, path: &str) -> String {
        let processes = self.layout.processes(path).unwrap_or_default();
        if processes.is_empty() {
            return "its cgroup is empty, but its end was not reported; is its monitor alive?"
                .to_owned();
        }
        let mut words = Vec::new();
        for pid in processes.iter().take(5) {
            let read = |name: &str| {
                std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
            };
            let state = read("stat")
                .rsplit_once(") ")
                .map_or('?', |(_, rest)| rest.chars().next().unwrap_or('?'));
            words.push(format!(
                "{pid} {} (state {state}, waits in {})",
                read("comm").trim(),
                read("wchan").trim()
            ));
        }
        format!(
            "{} processes live on after SIGKILL: {}",
            processes.len(),
            words.join(", ")
        )
    }
}
