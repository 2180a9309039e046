//! The exit file: how a container ended, for a server that finds no monitor any more.

use std::{fs, io, path::Path};

use monitor_wire::{ExitRecord, OomLimit};

/// Writes the record as JSON, whole or not at all. It is not synced: it lives on tmpfs and dies with the node, as the
/// container does.
pub(crate) fn write(path: &Path, exit: &ExitRecord) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let ExitRecord {
        code,
        oom_killed,
        oom_limit,
        at_unix_ns,
    } = exit;
    let oom_limit = match oom_limit {
        OomLimit::Unknown => "unknown",
        OomLimit::Own => "own",
        OomLimit::Above => "above",
    };
    fs::write(
        &part,
        format!(
            "{{\"code\":{code},\"oom_killed\":{oom_killed},\"oom_limit\":\"{oom_limit}\",\"at_unix_ns\":{at_unix_ns}}}\n"
        ),
    )?;
    fs::rename(&part, path)
}
