//! The command line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use pintle_test::places;

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Phase {
    /// Pods are started, executed in and stopped one after the other.
    Start,
    /// The same as `start`: what is started has to be stopped.
    Stop,
    /// Memory of a server that has nothing to do, and with pods.
    Memory,
    /// CPU time of `ListContainers`.
    List,
    /// `ListContainerStats` and `ListPodSandboxStats` with running pods.
    Stats,
    /// Pulls of a large image.
    Pull,
}

impl Phase {
    /// What a progress line calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Start | Self::Stop => "pods, one after the other",
            Self::Memory => "memory",
            Self::List => "lists",
            Self::Stats => "statistics",
            Self::Pull => "pulls",
        }
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Who {
    /// The OCI runtime and the CNI plugins, called by hand.
    Floor,
    /// Pintle.
    Pintle,
    /// Debian's containerd.
    Containerd,
    /// Debian's skopeo, into the storage that CRI-O and podman use. It pulls, and does nothing else.
    Skopeo,
}

impl Who {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Pintle => "Pintle",
            Self::Containerd => "containerd",
            Self::Skopeo => "skopeo",
        }
    }
}

/// Pod start and stop, memory, lists, statistics and pulls of Pintle beside the floor and beside containerd.
#[derive(Debug, Parser)]
#[command(name = "pintle-bench", version)]
pub(crate) struct Options {
    /// What is measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Phase::Memory, Phase::Start, Phase::List, Phase::Stats, Phase::Pull])]
    pub(crate) phases: Vec<Phase>,
    /// Who is measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Who::Floor, Who::Pintle, Who::Containerd, Who::Skopeo])]
    pub(crate) who: Vec<Who>,
    /// The OCI runtimes, by their names in PATH. The first is the one of the memory, list and stats phases.
    #[arg(long, value_delimiter = ',', default_values_t = ["crun".to_owned(), "runc".to_owned()])]
    pub(crate) runtimes: Vec<String>,
    /// Pods of each kind that are measured.
    #[arg(long, default_value_t = 30)]
    pub(crate) iterations: u32,
    /// Pods of each kind before those.
    #[arg(long, default_value_t = 3)]
    pub(crate) warmup: u32,
    /// Time after each pod's end for the kernel to take its network apart, in milliseconds.
    #[arg(long, default_value_t = 150)]
    pub(crate) settle_ms: u64,
    /// Pods of the memory and stats phases.
    #[arg(long, default_value_t = 50)]
    pub(crate) pods: u32,
    /// Containers of the list phase.
    #[arg(long, default_value_t = 1000)]
    pub(crate) records: u32,
    /// Calls of the list and stats phases.
    #[arg(long, default_value_t = 200)]
    pub(crate) calls: u32,
    /// Pulls of each server.
    #[arg(long, default_value_t = 3)]
    pub(crate) pulls: u32,
    /// Leaves masquerading, the dearest part of the CNI chain, away.
    #[arg(long)]
    pub(crate) no_masquerade: bool,
    /// Directory for the results [default: bench in the target directory].
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Options {
    /// Whether a phase runs.
    pub(crate) fn wants(&self, phase: Phase) -> bool {
        let same =
            |wanted: Phase| wanted == phase || (wanted == Phase::Stop && phase == Phase::Start);
        self.phases.iter().copied().any(same)
    }

    /// The runtime of the phases that take one.
    pub(crate) fn first_runtime(&self) -> Result<&str> {
        self.runtimes
            .first()
            .map(String::as_str)
            .context("--runtimes names none")
    }

    /// Where the results go: there, and absolute.
    pub(crate) fn out(&self) -> Result<PathBuf> {
        let out = match &self.out {
            Some(out) => out.clone(),
            None => places::cache()?.with_file_name("bench"),
        };
        fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
        let out = fs::canonicalize(&out).with_context(|| format!("finding {}", out.display()))?;
        for hidden in ["/run", "/var/lib"] {
            anyhow::ensure!(
                !out.starts_with(Path::new(hidden)),
                "--out {}: what is below {hidden} vanishes with the run",
                out.display()
            );
        }
        Ok(out)
    }
}
