//! The processes of a world, read from its own `/proc`.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::driver;

/// One process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its PID in this world.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Name of its program, at most 15 bytes.
    pub name: String,
    /// Its command line; empty for a zombie.
    pub command: String,
    /// Whether it has ended and nobody has asked for its status.
    pub zombie: bool,
}

/// All processes of this world.
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| driver::is_of_world(*pid))
        // One that ends while we look is none.
        .filter_map(read)
        .collect()
}

/// One process, if it is there.
pub fn read(pid: u32) -> Option<Process> {
    let dir = Path::new("/proc").join(pid.to_string());
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    // The name stands in parentheses and may hold any character: the last one closes it.
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let command = fs::read(dir.join("cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    Some(Process {
        pid,
        parent,
        name: name.to_owned(),
        command: command.trim_end().to_owned(),
        zombie: matches!(state, "Z" | "X"),
    })
}

/// Processes whose command line holds `part`; zombies have none.
pub fn with_command(part: &str) -> Vec<Process> {
    all()
        .into_iter()
        .filter(|process| process.command.contains(part))
        .collect()
}

/// CPU time that a process has used, user and system, in microseconds.
pub fn cpu_us(pid: u32) -> Result<u64> {
    // schedstat counts nanoseconds on the CPU per thread; stat would round to hundredths of a second.
    let tasks = format!("/proc/{pid}/task");
    let mut sum_ns = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))? {
        let path = task?.path().join("schedstat");
        // A thread may end while we count.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let on_cpu = text.split(' ').next().unwrap_or_default();
        sum_ns += on_cpu
            .parse::<u64>()
            .with_context(|| format!("reading {}", path.display()))?;
    }
    Ok(sum_ns / 1000)
}

/// Proportional set size of a process in KiB.
pub fn pss_kib(pid: u32) -> Result<u64> {
    rollup_kib(pid, "Pss:")
}

/// One line of `smaps_rollup`, in KiB.
pub fn rollup_kib(pid: u32, field: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.split_whitespace().next())
        .and_then(|kib| kib.parse().ok())
        .with_context(|| format!("{path} has no {field}"))
}
