//! Processes that a former server started and did not live to wait for, known by their environment.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read as _,
    time::{Duration, Instant},
};

use crate::{SysError, process::PidFd};

/// Bytes of an environment that are looked through. Ours have some hundred.
const ENVIRONMENT_BYTES: u64 = 256 << 10;

/// SIGKILL.
const KILL: i32 = libc::SIGKILL;

/// Kills all processes that have one of these values for a variable, with what they start meanwhile, and waits until they are
/// gone, but no longer than `patience`. Returns how many were killed, and whether all of them are gone. Blocks.
pub fn kill_by_environment(
    variable: &str,
    values: &BTreeSet<&str>,
    patience: Duration,
) -> Result<(usize, bool), SysError> {
    let until = Instant::now() + patience;
    let mut count = 0;
    loop {
        let found = with_environment(variable, values)?;
        if found.is_empty() {
            return Ok((count, true));
        }
        for process in &found {
            count += usize::from(process.signal(KILL)?);
        }
        for process in &found {
            let left = until.saturating_duration_since(Instant::now());
            // One in an uninterruptible call is left to the kernel.
            if !process.wait(left)? {
                return Ok((count, false));
            }
        }
        // What one of them started while it was looked for is found the next time.
        if Instant::now() >= until {
            return Ok((count, false));
        }
    }
}

fn with_environment(variable: &str, values: &BTreeSet<&str>) -> Result<Vec<PidFd>, SysError> {
    let entries = std::fs::read_dir("/proc").map_err(SysError::path("list", "/proc"))?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        // Held before it is looked at: what is looked at is what is killed.
        let Some(process) = PidFd::open(pid)? else {
            continue;
        };
        if has_environment(pid, variable, values) {
            found.push(process);
        }
    }
    Ok(found)
}

/// A process that has ended, a kernel's thread and one that may not be looked at have none.
fn has_environment(pid: u32, variable: &str, values: &BTreeSet<&str>) -> bool {
    let mut environment = Vec::new();
    let read = File::open(format!("/proc/{pid}/environ"))
        .and_then(|file| file.take(ENVIRONMENT_BYTES).read_to_end(&mut environment));
    read.is_ok()
        && environment.split(|byte| *byte == 0).any(|entry| {
            let value = entry
                .strip_prefix(variable.as_bytes())
                .and_then(|rest| rest.strip_prefix(b"="));
            value
                .and_then(|value| std::str::from_utf8(value).ok())
                .is_some_and(|value| values.contains(value))
        })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::{
        io::{BufRead as _, BufReader},
        process::{Child, Command, Stdio},
    };

    use super::*;

    const VARIABLE: &str = "PINTLE_LEFTOVERS_TEST";

    /// A shell with a child, and that child's number.
    fn family(value: &str) -> (Child, u32) {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 600 & echo $!; wait"])
            .env(VARIABLE, value)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = shell.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        (shell, line.trim().parse().unwrap())
    }

    #[test]
    fn whole_families_are_killed_and_others_are_not() {
        let own = std::process::id();
        let values = [format!("a-{own}"), format!("b-{own}"), format!("c-{own}")];
        let mut families: Vec<_> = values.iter().map(|value| family(value)).collect();
        let wanted: BTreeSet<&str> = values[..2].iter().map(String::as_str).collect();
        let patience = Duration::from_secs(20);
        let (count, gone) = kill_by_environment(VARIABLE, &wanted, patience).unwrap();
        assert_eq!((count, gone), (4, true));
        for (shell, child) in &mut families[..2] {
            assert!(!shell.wait().unwrap().success());
            let held = PidFd::open(*child).unwrap();
            assert!(held.is_none_or(|held| held.has_ended().unwrap()));
        }
        let (shell, child) = &mut families[2];
        assert!(shell.try_wait().unwrap().is_none());
        assert!(!PidFd::open(*child).unwrap().unwrap().has_ended().unwrap());
        let all: BTreeSet<&str> = values.iter().map(String::as_str).collect();
        let (count, gone) = kill_by_environment(VARIABLE, &all, patience).unwrap();
        assert_eq!((count, gone), (2, true));
        assert!(!shell.wait().unwrap().success());
        assert_eq!(
            kill_by_environment(VARIABLE, &all, patience).unwrap(),
            (0, true)
        );
    }
}
