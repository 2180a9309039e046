//! What a container's processes have open, and what its first one may have.

use std::{collections::BTreeSet, path::Path};

use sys::{process_files::open_files, small_file::SmallFile};

use super::{parse, reading::ProcessUse};

/// Processes of a container that are looked into.
const MOST_PROCESSES: usize = 1024;

/// Descriptors of a container that are looked at to tell sockets from other files.
const MOST_LOOKS: u64 = 8192;

/// What these processes of one container have. `init` is its first process.
pub(super) fn usage(processes: &BTreeSet<u32>, init: u32, buffer: &mut SmallFile) -> ProcessUse {
    let (mut descriptors, mut sockets) = (Some(0), Some(0));
    if processes.len() > MOST_PROCESSES {
        (descriptors, sockets) = (None, None);
    } else {
        let mut looks = MOST_LOOKS;
        for pid in processes {
            // One that ended meanwhile has nothing open.
            let Some(open) = open_files(*pid, &mut looks) else {
                continue;
            };
            descriptors = descriptors.map(|count: u64| count + open.descriptors);
            sockets = sockets
                .zip(open.sockets)
                .map(|(count, more): (u64, u64)| count + more);
        }
    }
    // Its number may be another process's by now; the cgroup tells.
    let soft_limits = if processes.contains(&init) {
        buffer
            .read(Path::new(&format!("/proc/{init}/limits")))
            .map(parse::soft_limits)
            .unwrap_or_default()
    } else {
        Vec::new()
    };
    ProcessUse {
        processes: processes.len() as u64,
        descriptors,
        sockets,
        soft_limits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_files_and_limits() {
        let own = std::process::id();
        let mut buffer = SmallFile::default();
        let found = usage(&BTreeSet::from([own]), own, &mut buffer);
        assert_eq!(found.processes, 1);
        assert!(found.descriptors.is_some_and(|count| count >= 3));
        assert!(found.sockets.is_some());
        assert!(
            found
                .soft_limits
                .iter()
                .any(|(name, _)| name == "max_open_files")
        );
        let other = usage(&BTreeSet::from([own]), own + 1, &mut buffer);
        assert!(other.soft_limits.is_empty());
        let many = usage(&(1..2000).collect(), own, &mut buffer);
        assert_eq!((many.descriptors, many.sockets), (None, None));
    }
}
