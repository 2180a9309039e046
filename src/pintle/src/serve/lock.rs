//! The lock that keeps a second server off the same `run` directory.
//!
//! The lock is the kernel's (`flock`): it ends with the process however that ends, so a stale file means nothing. One thing
//! can hold it a moment longer: a child that a server was starting when it was killed shares the lock until it has become
//! another program. So when the process that is named in the file is gone, the lock is waited for.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// How often, and how long apart, the lock of a dead server is tried: two seconds in all.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(10);

/// Why this server may not run here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another one does.
    #[error("another server (process {holder}) holds {path}", path = .path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Its process id, as far as known.
        holder: String,
    },
    /// What a server left behind does.
    #[error(
        "server {holder} has ended, but a process that it left behind holds {path}: `fuser -v {path}` tells which, end it",
        path = .path.display()
    )]
    LeftBehind {
        /// The lock file.
        path: PathBuf,
        /// The process id of the server.
        holder: String,
    },
    /// The file cannot be made.
    #[error("cannot lock {path}: {source}", path = .path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The lock; dropping it lets the next server in.
#[derive(Debug)]
pub(crate) struct ServerLock(#[expect(dead_code, reason = "held for the lock on it")] File);

impl ServerLock {
    /// Takes `pintle.lock` in `run`, or says who has it. Waits only for what a killed server was starting.
    pub(crate) fn take(run: &Path) -> Result<Self, LockError> {
        let path = run.join("pintle.lock");
        let io = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(io)?;
        for last in (0..TRIES).map(|tried| tried + 1 == TRIES) {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => return Err(io(source)),
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    file.rewind().map_err(io)?;
                    // The holder may just be writing it.
                    let _ = file.read_to_string(&mut holder);
                    let holder = holder.trim();
                    let is_gone = holder
                        .parse::<u32>()
                        .is_ok_and(|pid| !Path::new("/proc").join(pid.to_string()).exists());
                    if is_gone && last {
                        return Err(LockError::LeftBehind {
                            holder: holder.to_owned(),
                            path,
                        });
                    }
                    if !is_gone {
                        return Err(LockError::Held {
                            holder: if holder.is_empty() {
                                "unknown".to_owned()
                            } else {
                                holder.to_owned()
                            },
                            path,
                        });
                    }
                    thread::sleep(PAUSE);
                }
            }
        }
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self(file))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::fs;

    use super::ServerLock;

    #[test]
    fn the_second_server_is_told_who_the_first_is() {
        let run = tempfile::tempdir().unwrap();
        let first = ServerLock::take(run.path()).unwrap();
        let error = ServerLock::take(run.path()).unwrap_err().to_string();
        let expected = format!(
            "another server (process {}) holds {}/pintle.lock",
            std::process::id(),
            run.path().display()
        );
        assert_eq!(error, expected);
        drop(first);
        ServerLock::take(run.path()).unwrap();
    }

    #[test]
    fn what_a_killed_server_was_starting_is_waited_for() {
        let run = tempfile::tempdir().unwrap();
        let held = ServerLock::take(run.path()).unwrap();
        // No process has this id: the kernel's largest is 2^22.
        fs::write(run.path().join("pintle.lock"), "4194305\n").unwrap();
        let child = std::thread::spawn(move || drop(held));
        ServerLock::take(run.path()).unwrap();
        child.join().unwrap();
    }

    #[test]
    fn what_stays_behind_is_told_from_a_server() {
        let run = tempfile::tempdir().unwrap();
        let _held = ServerLock::take(run.path()).unwrap();
        fs::write(run.path().join("pintle.lock"), "4194305\n").unwrap();
        let error = ServerLock::take(run.path()).unwrap_err().to_string();
        let expected = "server 4194305 has ended, but a process that it left behind holds ";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn a_file_that_a_killed_server_left_is_no_obstacle() {
        let run = tempfile::tempdir().unwrap();
        fs::write(run.path().join("pintle.lock"), "123456789\n").unwrap();
        drop(ServerLock::take(run.path()).unwrap());
        let text = fs::read_to_string(run.path().join("pintle.lock")).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }
}
