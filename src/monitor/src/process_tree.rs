//! Killing a process with everything that came of it.
//!
//! Killing a parent first would hide its children: orphans go to their PID namespace's init. So the tree is stopped
//! first, until nobody runs and nobody new appears, and then killed as a whole. Members are descendants, and whatever is in
//! a session or process group that a member made, for a descendant whose parent has ended is only found that way. Nobody
//! can enter a session from outside, so such a session holds no stranger.

use std::{fs, thread, time::Duration};

use rustix::{
    fd::OwnedFd,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// Rounds of looking; each waits a millisecond if someone still runs.
const ROUNDS_MAX: usize = 100;

/// One process, held by a descriptor so that its number cannot come to mean another.
struct Member {
    pid: i32,
    handle: OwnedFd,
}

/// What `/proc/PID/stat` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    pid: i32,
    state: u8,
    parent: i32,
    group: i32,
    session: i32,
}

/// Kills `root`, which must be an unreaped child of ours, with all that came of it. `spared` are children of ours that
/// are never members, such as containers' init processes and other execs. Answers how many were killed.
pub(crate) fn kill(root: Pid, spared: &[Pid]) -> usize {
    let root = root.as_raw_nonzero().get();
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let spared: Vec<i32> = spared
        .iter()
        .map(|pid| pid.as_raw_nonzero().get())
        .filter(|&pid| pid != root)
        .collect();
    let mut members: Vec<Member> = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let processes = processes();
        let tree = tree(root, own, &processes, &spared);
        let mut settled = true;
        for process in &tree {
            if members.iter().any(|member| member.pid == process.pid) {
                // A stopped, traced, dead or uninterruptibly sleeping process forks nobody.
                settled &= !matches!(process.state, b'R' | b'S');
                continue;
            }
            settled = false;
            if let Some(handle) = hold(process) {
                let _ = pidfd_send_signal(&handle, Signal::STOP);
                members.push(Member {
                    pid: process.pid,
                    handle,
                });
            }
        }
        if settled {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    for member in &members {
        let _ = pidfd_send_signal(&member.handle, Signal::KILL);
    }
    members.len()
}

/// A handle on this very process: it must still have the same parent once the handle is there.
fn hold(process: &Stat) -> Option<OwnedFd> {
    let handle = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
    let now = stat(process.pid)?;
    (now.session == process.session && now.group == process.group || now.parent == process.parent)
        .then_some(handle)
}

/// Members among all processes; ended ones are left out, but counted as links.
fn tree(root: i32, own: i32, processes: &[Stat], spared: &[i32]) -> Vec<Stat> {
    // Sessions and groups that members may be in without having made them; 0 is the kernel's.
    let outside: Vec<&Stat> = processes
        .iter()
        .filter(|process| process.pid == own || spared.contains(&process.pid))
        .collect();
    let made =
        |id: i32, of: fn(&Stat) -> i32| id != 0 && !outside.iter().any(|process| of(process) == id);
    let mut found: Vec<Stat> = Vec::new();
    let belongs = |process: &Stat, found: &[Stat]| {
        process.pid == root
            || found.iter().any(|member| {
                process.parent == member.pid
                    || process.session == member.session
                        && made(member.session, |process| process.session)
                    || process.group == member.group && made(member.group, |process| process.group)
            })
    };
    loop {
        let before = found.len();
        for process in processes {
            if !spared.contains(&process.pid)
                && !found.iter().any(|member| member.pid == process.pid)
                && belongs(process, &found)
            {
                found.push(*process);
            }
        }
        if found.len() == before {
            break;
        }
    }
    found.retain(|process| !matches!(process.state, b'Z' | b'X'));
    found
}

fn processes() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(stat)
        .collect()
}

fn stat(pid: i32) -> Option<Stat> {
    parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The name stands in parentheses and may hold anything, parentheses too: what counts comes after the last one.
fn parse(pid: i32, line: &[u8]) -> Option<Stat> {
    let end = line.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(line.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.bytes().next()?;
    let mut number = || fields.next()?.parse().ok();
    Some(Stat {
        pid,
        state,
        parent: number()?,
        group: number()?,
        session: number()?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Stat, parse, tree};

    fn process(pid: i32, parent: i32, group: i32, session: i32) -> Stat {
        Stat {
            pid,
            state: b'S',
            parent,
            group,
            session,
        }
    }

    #[test]
    fn names_with_parentheses_are_skipped() {
        assert_eq!(
            parse(7, b"7 (a) S 1 (b)) T 5 6 8 0 -1 4194304"),
            Some(Stat {
                pid: 7,
                state: b'T',
                parent: 5,
                group: 6,
                session: 8
            })
        );
        assert_eq!(parse(7, b"7 (a"), None);
        assert_eq!(parse(7, b""), None);
    }

    #[test]
    fn a_tree_is_descendants_and_their_sessions_but_never_the_spared() {
        let processes = [
            process(30, 20, 30, 30), // grandchild in a session of its own
            process(5, 1, 5, 5),     // the monitor
            process(10, 5, 10, 5),   // root: a runtime's command, in the monitor's session
            process(20, 10, 10, 5),
            process(31, 1, 31, 30),  // orphan of the grandchild's session
            process(40, 1, 10, 5),   // orphan of the root's group
            process(50, 10, 50, 50), // a container's init: spared
            process(60, 50, 50, 50),
            process(70, 5, 70, 5), // another command
            process(90, 0, 0, 0),  // the kernel's
        ];
        let mut pids: Vec<i32> = tree(10, 5, &processes, &[50])
            .iter()
            .map(|process| process.pid)
            .collect();
        pids.sort_unstable();
        assert_eq!(pids, [10, 20, 30, 31, 40]);
    }
}
