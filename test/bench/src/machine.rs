//! The machine of a run, as far as figures depend on it.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use serde::Serialize;

/// Programs whose versions decide the figures, with the argument that makes them tell.
const PROGRAMS: &[(&str, &str)] = &[
    ("crun", "--version"),
    ("runc", "--version"),
    ("containerd", "--version"),
];

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Model name of its processor.
    pub(crate) processor: String,
    /// How many of them.
    pub(crate) processors: usize,
    /// Release of its kernel.
    pub(crate) kernel: String,
    /// First line that each program says of its version.
    pub(crate) versions: Vec<String>,
    /// Load averages before the run.
    pub(crate) load_before: String,
    /// Load averages after it.
    pub(crate) load_after: String,
}

impl Machine {
    /// Looks at it.
    pub(crate) fn look() -> Result<Self> {
        let info = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
        let models: Vec<&str> = info
            .lines()
            .filter_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
            .collect();
        Ok(Self {
            processor: models.first().copied().unwrap_or("unknown").to_owned(),
            processors: std::thread::available_parallelism()?.get(),
            kernel: sys::kernel::release(),
            versions: PROGRAMS.iter().filter_map(version).collect(),
            load_before: load()?,
            load_after: String::new(),
        })
    }

    /// Notes how busy it is at the end.
    pub(crate) fn look_again(&mut self) -> Result<()> {
        self.load_after = load()?;
        Ok(())
    }
}

/// A program that is not there has no version.
fn version((program, argument): &(&str, &str)) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(str::to_owned)
}

fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}
