//! What a container's processes have open, and what its first one may have.

use std::{collections::BTreeSet, path::Path};

use sys::{
    process_files::{OpenFiles, open_files},
    small_file::SmallFile,
};

use super::{parse, reading::ProcessUse};

/// Processes of a container that are looked into.
const MOST_PROCESSES: usize = 1024;

/// Descriptors of a container that are looked at, to tell sockets from other files and, before Linux 6.2, to count them.
const MOST_LOOKS: u64 = 8192;

/// What these processes of one container have. `init` is its first process.
pub(super) fn usage(processes: &BTreeSet<u32>, init: u32, buffer: &mut SmallFile) -> ProcessUse {
    let (descriptors, sockets) = if processes.len() > MOST_PROCESSES {
        (None, None)
    } else {
        let mut looks = MOST_LOOKS;
        sum(processes.iter().map(|pid| open_files(*pid, &mut looks)))
    };
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

/// Descriptors and sockets of processes together, each only as long as all of them have it. A process that ended
/// meanwhile has nothing open. Once nothing is left to be told, no other process is looked at.
fn sum(processes: impl Iterator<Item = Option<OpenFiles>>) -> (Option<u64>, Option<u64>) {
    let (mut descriptors, mut sockets) = (Some(0_u64), Some(0_u64));
    for open in processes.flatten() {
        descriptors = descriptors
            .zip(open.descriptors)
            .map(|(sum, more)| sum.saturating_add(more));
        sockets = sockets
            .zip(open.sockets)
            .map(|(sum, more)| sum.saturating_add(more));
        if descriptors.or(sockets).is_none() {
            break;
        }
    }
    (descriptors, sockets)
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

    #[test]
    fn processes_are_looked_at_until_nothing_can_be_told() {
        let open = |descriptors, sockets| {
            Some(OpenFiles {
                descriptors,
                sockets,
            })
        };
        for (processes, wanted, looked_at) in [
            (vec![], (Some(0), Some(0)), 0),
            (
                vec![open(Some(3), Some(1)), None, open(Some(4), Some(2))],
                (Some(7), Some(3)),
                3,
            ),
            (
                vec![open(Some(3), None), open(Some(4), Some(2))],
                (Some(7), None),
                2,
            ),
            (
                vec![
                    open(Some(3), Some(1)),
                    open(None, None),
                    open(Some(4), None),
                ],
                (None, None),
                2,
            ),
        ] {
            let mut seen = 0;
            let found = sum(processes.iter().copied().inspect(|_| seen += 1));
            assert_eq!((found, seen), (wanted, looked_at), "{processes:?}");
        }
    }
}
