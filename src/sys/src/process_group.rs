//! A child with all that it starts, to be killed together.

use rustix::process::{Pid, Signal, kill_process_group};

/// The process group of a running child that leads one (`Command::process_group(0)`): killed when this is dropped, so that
/// what the child started goes with it.
#[derive(Debug)]
pub struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    /// That of this child, by the child's number; of none once the child has been waited for.
    pub fn of(leader: Option<u32>) -> Self {
        let pid = leader.and_then(|pid| i32::try_from(pid).ok());
        Self(pid.and_then(Pid::from_raw))
    }

    /// Kills nothing any more. For a child that has ended by itself: what it left running deliberately is its own affair.
    pub fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Fails only if the whole group is gone already.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::{
        os::unix::process::{CommandExt, ExitStatusExt},
        process::{Child, Command},
    };

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep")
            .arg("600")
            .process_group(0)
            .spawn()
            .unwrap()
    }

    #[test]
    fn a_dropped_group_is_killed_and_a_released_one_is_not() {
        let mut child = sleeper();
        drop(ProcessGroup::of(Some(child.id())));
        assert_eq!(child.wait().unwrap().signal(), Some(9));

        let mut child = sleeper();
        ProcessGroup::of(Some(child.id())).release();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        // Of no child there is nothing to kill, and certainly not this test's own group.
        drop(ProcessGroup::of(None));
        drop(ProcessGroup::of(Some(0)));
    }
}
