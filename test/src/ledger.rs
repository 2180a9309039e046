//! The leak ledger: everything that a pod may leave behind, counted before a test and compared after it.
//!
//! Each entry is a line of text under a heading, without anything that differs from run to run for no reason, so that a
//! difference can be read. What stays by design is left out where it is read, with the reason.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{cni, driver, places, processes, settle, world::run};

/// What was there at one moment: heading, line, how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger(BTreeMap<&'static str, BTreeMap<String, usize>>);

/// What to count beside what is the same for everyone.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The server, whose open files are counted.
    pub server: Option<u32>,
    /// Processes that belong to the test and not to Pintle.
    pub own: Vec<u32>,
}

/// Descriptors of one kind that a server may open for itself after the first count, such as those of a runtime's
/// thread that starts late. A leak per pod is found by tests that run several.
const LAZY_DESCRIPTORS: usize = 4;

impl Ledger {
    /// Counts.
    pub fn count(subject: &Subject) -> Result<Self> {
        let mut ledger = Self::default();
        ledger.count_mounts()?;
        ledger.count_links()?;
        ledger.count_rules()?;
        ledger.count_cgroups();
        ledger.count_processes(subject);
        ledger.count_files();
        ledger.count_rows()?;
        if let Some(pid) = subject.server {
            ledger.count_descriptors(pid);
        }
        Ok(ledger)
    }

    /// Fails, telling the difference, unless things come to be as they were. The kernel and other processes get time to
    /// finish what they are at.
    pub async fn compare(&self, subject: &Subject) -> Result<()> {
        let mut last = String::new();
        let settled = settle::until_true("an empty ledger", async || {
            // What is being written while it is read may be torn: then it is read again.
            last = match Self::count(subject) {
                Ok(now) => now.since(self),
                Err(error) => format!("  {error:#}\n"),
            };
            Ok(last.is_empty())
        })
        .await;
        match settled {
            Ok(()) => Ok(()),
            Err(_) if !last.is_empty() => bail!("left behind:\n{last}"),
            Err(error) => Err(error),
        }
    }

    /// What was added and what went missing since an earlier count; nothing if all is the same.
    pub fn since(&self, earlier: &Self) -> String {
        let nothing = BTreeMap::new();
        let mut text = String::new();
        let headings: std::collections::BTreeSet<_> =
            self.0.keys().chain(earlier.0.keys()).collect();
        for heading in headings {
            let (now, then) = (
                self.0.get(heading).unwrap_or(&nothing),
                earlier.0.get(heading).unwrap_or(&nothing),
            );
            let slack = if *heading == DESCRIPTORS {
                LAZY_DESCRIPTORS
            } else {
                0
            };
            // Writing to a String cannot fail.
            let mut lines = String::new();
            for (line, count) in now {
                let before = then.get(line).copied().unwrap_or_default();
                if *count > before + slack {
                    let _ = writeln!(lines, "    + {line}{}", times(count - before));
                }
            }
            for (line, count) in then {
                let after = now.get(line).copied().unwrap_or_default();
                // A server may well close what it does not need any more, and processes come to their end.
                let may_go = [DESCRIPTORS, PROCESSES].contains(heading);
                if *count > after && !may_go {
                    let _ = writeln!(lines, "    - {line}{}", times(count - after));
                }
            }
            if !lines.is_empty() {
                let _ = write!(text, "  {heading}\n{lines}");
            }
        }
        text
    }

    /// How many lines there are under each heading.
    pub fn totals(&self) -> Vec<(&'static str, usize)> {
        self.0
            .iter()
            .map(|(heading, lines)| (*heading, lines.values().sum()))
            .collect()
    }

    fn add(&mut self, heading: &'static str, line: String) {
        *self.0.entry(heading).or_default().entry(line).or_default() += 1;
    }

    /// Mounts of this world, the pins of namespaces among them.
    fn count_mounts(&mut self) -> Result<()> {
        let text =
            fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
        for line in text.lines() {
            let place = line.split(' ').nth(4).unwrap_or_default();
            let kind = line
                .split_once(" - ")
                .and_then(|(_, after)| after.split(' ').next())
                .unwrap_or_default();
            // A mount over a mount has one line each. `ip netns` and its kin make /run/netns a mount once.
            if place != "/run/netns" {
                self.add("mounts", format!("{place} ({kind})"));
            }
        }
        Ok(())
    }

    /// Network devices and their addresses. The plugin's bridge stays when its last port goes.
    fn count_links(&mut self) -> Result<()> {
        let json = run("ip", ["-json", "address", "show"])?;
        let links: Vec<Value> = serde_json::from_slice(&json).context("reading ip's output")?;
        for link in links {
            let name = link["ifname"].as_str().unwrap_or_default();
            if name == cni::BRIDGE {
                continue;
            }
            let addresses: Vec<_> = link["addr_info"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|address| address["local"].as_str())
                .collect();
            let master = link["master"].as_str().unwrap_or("-");
            let line = format!("{name}, master {master}, {}", addresses.join(" "));
            self.add("network devices", line);
        }
        Ok(())
    }

    /// Firewall rules. portmap's own chains, and the jumps to them, stay when the last port mapping goes.
    fn count_rules(&mut self) -> Result<()> {
        for program in ["iptables-save", "ip6tables-save"] {
            let text = String::from_utf8(run(program, [] as [&str; 0])?)?;
            let mut table = "";
            for line in text.lines() {
                if let Some(name) = line.strip_prefix('*') {
                    table = name;
                    continue;
                }
                let by_design = line.starts_with('#')
                    || line == "COMMIT"
                    || (line.starts_with(':') && !line.contains(" - "))
                    || line.starts_with(":CNI-HOSTPORT-")
                    || line.starts_with("-A CNI-HOSTPORT-SETMARK ")
                    || line.starts_with("-A CNI-HOSTPORT-MASQ ")
                    || line.contains("-j CNI-HOSTPORT-");
                if !by_design {
                    let rule = line.split(" [").next().unwrap_or(line);
                    self.add("firewall rules", format!("{program} {table}: {rule}"));
                }
            }
        }
        Ok(())
    }

    /// Control groups. Parents that a client names, or that the configuration names, belong to the client or the node.
    fn count_cgroups(&mut self) {
        let mut dirs = Vec::new();
        directories_below(Path::new("/sys/fs/cgroup"), &mut dirs);
        for dir in dirs {
            if driver::is_of_pods(&dir) {
                self.add("cgroups", dir.display().to_string());
            }
        }
    }

    /// Every process of the world that is neither the test's nor the server's.
    fn count_processes(&mut self, subject: &Subject) {
        let myself = std::process::id();
        for process in processes::all() {
            let known = process.pid == 1
                || process.pid == myself
                || subject.server == Some(process.pid)
                || subject.own.contains(&process.pid);
            if !known {
                let zombie = if process.zombie { " (zombie)" } else { "" };
                self.add(
                    PROCESSES,
                    format!("{} {}{zombie}", process.name, process.command),
                );
            }
        }
    }

    /// Files and directories of pods, of containers, of downloads, of plugins.
    fn count_files(&mut self) {
        let run = Path::new(places::RUN);
        let root = Path::new(places::ROOT);
        let cache = Path::new(places::CNI_CACHE);
        for dir in [
            run.join("pods"),
            run.join("containers"),
            run.join("ns"),
            run.join("runtime"),
            root.join("containers"),
            root.join("tmp"),
            cache.join("results"),
            cache.join("cache"),
            cache.join("networks"),
            PathBuf::from("/run/netns"),
        ] {
            let mut paths = Vec::new();
            paths_below(&dir, 3, &mut paths);
            for path in paths {
                let name = path
                    .file_name()
                    .and_then(|name| name.to_str())
                    .unwrap_or_default();
                // Directories that hold what comes and goes; host-local's lock and memory of the last address.
                let frame = path.parent() == Some(&run.join("runtime"))
                    || path.parent() == Some(&cache.join("networks"))
                    || name == "lock"
                    || name.starts_with("last_reserved_ip.");
                if !frame {
                    self.add("files", path.display().to_string());
                }
            }
        }
    }

    /// Rows of the pods database. The server locks it for itself, so a copy is read.
    fn count_rows(&mut self) -> Result<()> {
        let path = Path::new(places::RUN).join("pods.db");
        if !path.exists() {
            return Ok(());
        }
        let scratch = tempfile::tempdir_in(places::SCRATCH)?;
        let copy = scratch.path().join("pods.db");
        for suffix in ["", "-wal"] {
            let from = path.with_file_name(format!("pods.db{suffix}"));
            if from.exists() {
                fs::copy(&from, copy.with_file_name(format!("pods.db{suffix}")))
                    .with_context(|| format!("copying {}", from.display()))?;
            }
        }
        let database = rusqlite::Connection::open(&copy).context("opening the copy of pods.db")?;
        for (table, column) in [("pods", "id"), ("containers", "id"), ("undos", "owner")] {
            let mut query = database.prepare(&format!("SELECT {column} FROM {table}"))?;
            let rows = query.query_map([], |row| row.get::<_, String>(0))?;
            for row in rows {
                self.add("database rows", format!("{table} {}", row?));
            }
        }
        Ok(())
    }

    /// The server's open descriptors by kind.
    fn count_descriptors(&mut self, pid: u32) {
        let dir = format!("/proc/{pid}/fd");
        // Connections to registries are kept for the next pull, and closed by time.
        let tcp = tcp_inodes(pid);
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            let target = target.to_string_lossy();
            let kind = if let Some(inode) = target.strip_prefix("socket:") {
                let inode = inode.trim_matches(['[', ']']);
                if tcp.iter().any(|known| known == inode) {
                    continue;
                }
                "socket".to_owned()
            } else if let Some((kind, _)) = target.split_once(":[") {
                kind.to_owned()
            } else {
                target.into_owned()
            };
            self.add(DESCRIPTORS, kind);
        }
    }
}

const DESCRIPTORS: &str = "descriptors of the server";
const PROCESSES: &str = "processes";

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.since(&Self::default()))
    }
}

fn times(count: usize) -> String {
    if count == 1 {
        String::new()
    } else {
        format!(" ({count} times)")
    }
}

fn tcp_inodes(pid: u32) -> Vec<String> {
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|file| fs::read_to_string(format!("/proc/{pid}/net/{file}")).ok())
        .flat_map(|text| {
            text.lines()
                .skip(1)
                .filter_map(|line| line.split_whitespace().nth(9).map(str::to_owned))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn directories_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            directories_below(&entry.path(), found);
            found.push(entry.path());
        }
    }
}

fn paths_below(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            paths_below(&entry.path(), depth - 1, found);
        }
        found.push(entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_what_came_what_went_and_how_often() {
        let mut before = Ledger::default();
        before.add("mounts", "/a (tmpfs)".to_owned());
        let mut after = Ledger::default();
        after.add("mounts", "/b (nsfs)".to_owned());
        after.add("mounts", "/b (nsfs)".to_owned());
        assert_eq!(
            after.since(&before),
            "  mounts\n    + /b (nsfs) (2 times)\n    - /a (tmpfs)\n"
        );
        assert_eq!(after.since(&after), "");
    }

    #[test]
    fn a_server_may_open_a_few_descriptors_late_and_close_what_it_likes() {
        let mut before = Ledger::default();
        before.add(DESCRIPTORS, "pipe".to_owned());
        let mut after = Ledger::default();
        for _ in 0..LAZY_DESCRIPTORS {
            after.add(DESCRIPTORS, "socket".to_owned());
        }
        assert_eq!(after.since(&before), "");
        after.add(DESCRIPTORS, "socket".to_owned());
        assert_eq!(
            after.since(&before),
            "  descriptors of the server\n    + socket (5 times)\n"
        );
    }
}
