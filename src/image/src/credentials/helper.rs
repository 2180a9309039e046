//! Credential helpers: programs `docker-credential-NAME` that know the credentials of a registry.
//!
//! They are somebody else's: they may hang, print without end, or leave children behind that hold their pipes. Hence a
//! deadline, a bound on what is read, and a process group that is killed as a whole. What they print may be secret: their
//! stderr goes nowhere, and of their stdout nothing is repeated.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use sys::process_group::ProcessGroup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Credentials;
use super::error::HelperFault;
use super::secret::Secret;

/// Most that a helper may print. Tokens have a few thousand bytes.
pub(super) const MAX_ANSWER_BYTES: usize = 64 << 10;
/// The longest name.
const MAX_NAME_BYTES: usize = 100;
/// How long the pipe is read after the helper's exit, when a child of its own keeps it open.
const DRAIN: Duration = Duration::from_millis(250);
/// How long a killed helper is waited for: one in an uninterruptible sleep is left to the kernel.
const REAP: Duration = Duration::from_secs(1);
/// When the server itself has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What else of the server's environment helpers get: where their own files are, and the way to the network.
const INHERITED: [&str; 7] = [
    "HOME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];
/// How helpers say, on stdout and with a failure, that they know of no credentials.
const NOT_FOUND: [&str; 2] = ["credentials not found", "no credentials "];
/// The user name that marks a secret as an identity token.
const TOKEN_USER: &str = "<token>";

/// Where helpers are, and how long one may take.
#[derive(Clone, Debug)]
pub(crate) struct Helpers {
    dirs: Vec<PathBuf>,
    /// Zero: for ever.
    limit: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Answer {
    username: Secret,
    secret: Secret,
}

impl Helpers {
    /// Helpers of these directories; of the server's `PATH` if there are none.
    pub(crate) fn new(dirs: &[PathBuf], limit: Duration) -> Self {
        let dirs = if dirs.is_empty() {
            let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
            std::env::split_paths(&path).collect()
        } else {
            dirs.to_vec()
        };
        Self {
            // Whatever the server's working directory is, no program is taken from it.
            dirs: dirs.into_iter().filter(|dir| dir.is_absolute()).collect(),
            limit,
        }
    }

    /// What the helper `docker-credential-NAME` knows of a registry; `None` if it says that it knows nothing.
    pub(crate) async fn get(
        &self,
        name: &str,
        server: &str,
    ) -> Result<Option<Credentials>, HelperFault> {
        let name_is_plain = (1..=MAX_NAME_BYTES).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !name_is_plain {
            return Err(HelperFault::BadName);
        }
        let dirs = self.dirs.clone();
        let file_name = format!("docker-credential-{name}");
        let binary = tokio::task::spawn_blocking(move || {
            dirs.iter()
                .map(|dir| dir.join(&file_name))
                .find(|path| is_program(path))
        });
        let binary = binary
            .await
            .ok()
            .flatten()
            .ok_or_else(|| HelperFault::Missing {
                searched: self.search_path().to_string_lossy().into_owned(),
            })?;
        let (status, answer) = self.run(&binary, server).await?;
        read_answer(status, &answer, server)
    }

    fn search_path(&self) -> std::ffi::OsString {
        std::env::join_paths(&self.dirs).unwrap_or_default()
    }

    async fn run(
        &self,
        binary: &Path,
        server: &str,
    ) -> Result<(ExitStatus, Zeroizing<Vec<u8>>), HelperFault> {
        let run_failed = |error: std::io::Error| HelperFault::Run(error.kind());
        let mut child = self.spawn(binary).map_err(run_failed)?;
        let group = ProcessGroup::of(child.id());
        let talk = converse(&mut child, server);
        let talked = if self.limit.is_zero() {
            talk.await
        } else {
            match timeout(self.limit, talk).await {
                Ok(talked) => talked,
                Err(_) => Err(HelperFault::Deadline { limit: self.limit }),
            }
        };
        if talked.is_ok() {
            group.release();
        } else {
            end(group, &mut child).await;
        }
        talked
    }

    fn spawn(&self, binary: &Path) -> std::io::Result<Child> {
        let mut command = Command::new(binary);
        command
            .arg("get")
            .env_clear()
            .env("PATH", self.search_path())
            .env("LANG", "C")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        for name in INHERITED {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if std::env::var_os("HOME").is_none() {
            command.env("HOME", OsStr::new("/root"));
        }
        command.spawn()
    }
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Tells the helper which registry, reads what it prints and waits for its end.
async fn converse(
    child: &mut Child,
    server: &str,
) -> Result<(ExitStatus, Zeroizing<Vec<u8>>), HelperFault> {
    let run_failed = |error: std::io::Error| HelperFault::Run(error.kind());
    // One allocation for all, for growing it would leave copies behind.
    let mut answer = Zeroizing::new(Vec::with_capacity(MAX_ANSWER_BYTES));
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let status = {
        let pipes = async {
            if let Some(mut stdin) = stdin {
                // A helper need not read the question: then the pipe breaks, and its answer counts.
                let _ = stdin.write_all(server.as_bytes()).await;
            }
            match stdout {
                Some(stdout) => read_stdout(stdout, &mut answer).await,
                None => Ok(()),
            }
        };
        tokio::pin!(pipes);
        let mut open = true;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.map_err(run_failed)?,
                read = &mut pipes, if open => {
                    read?;
                    open = false;
                }
            }
        };
        if open && let Ok(read) = timeout(DRAIN, pipes).await {
            read?;
        }
        status
    };
    Ok((status, answer))
}

async fn read_stdout(mut stdout: ChildStdout, answer: &mut Vec<u8>) -> Result<(), HelperFault> {
    let mut piece = Zeroizing::new([0_u8; 4096]);
    loop {
        let count = stdout
            .read(&mut *piece)
            .await
            .map_err(|error| HelperFault::Run(error.kind()))?;
        if count == 0 {
            return Ok(());
        }
        if answer.len() + count > MAX_ANSWER_BYTES {
            return Err(HelperFault::TooMuchOutput);
        }
        answer.extend_from_slice(&piece[..count]);
    }
}

/// What an ended helper has said.
fn read_answer(
    status: ExitStatus,
    answer: &[u8],
    server: &str,
) -> Result<Option<Credentials>, HelperFault> {
    if !status.success() {
        let knows_nothing = std::str::from_utf8(answer)
            .is_ok_and(|text| NOT_FOUND.iter().any(|words| text.trim().starts_with(words)));
        if knows_nothing {
            return Ok(None);
        }
        return Err(HelperFault::Failed {
            status: status.to_string(),
            server: server.to_owned(),
        });
    }
    let answer: Answer = serde_json::from_slice(answer).map_err(|_| HelperFault::Garbage)?;
    if answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(if answer.username.reveal() == TOKEN_USER {
        Credentials::of_identity_token(answer.secret)
    } else {
        Credentials::of_user(answer.username, answer.secret)
    }))
}

/// Kills the helper and waits for its end.
async fn end(group: ProcessGroup, child: &mut Child) {
    drop(group);
    let _ = timeout(REAP, child.wait()).await;
}

#[cfg(test)]
#[path = "helper_test.rs"]
mod test;
