//! One run of a runtime's subcommand by the server itself: bounded in time and in output.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};

/// Most that is kept of each stream: `features` and `state` print a few kilobytes.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// How long output is awaited when the command has ended and something else holds its streams.
const DRAIN: Duration = Duration::from_millis(500);
/// How long a killed command may take to be reaped.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// Why a command has no end to tell of.
#[derive(Debug)]
pub(crate) enum NotFinished {
    /// It could not be started or watched.
    Spawn(std::io::Error),
    /// It was killed, with its process group, at its deadline.
    Deadline,
}

/// Runs a command. A caller that goes away kills it.
pub(crate) async fn run<I, A>(
    program: &Path,
    arguments: I,
    input: Option<&[u8]>,
    deadline: Duration,
) -> Result<Finished, NotFinished>
where
    I: IntoIterator<Item = A>,
    A: AsRef<std::ffi::OsStr>,
{
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    // Runtimes take these for their own: runc would proxy the server's readiness socket into the container.
    for name in [
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
    ] {
        command.env_remove(name);
    }
    let mut child = command.spawn().map_err(NotFinished::Spawn)?;
    let group = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Ok(result) = timeout(deadline, finish(&mut child, input)).await {
        return result.map_err(NotFinished::Spawn);
    }
    // Not reaped yet, so the group's number is still its own.
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = timeout(KILL_GRACE, child.wait()).await;
    Err(NotFinished::Deadline)
}

async fn finish(child: &mut Child, input: Option<&[u8]>) -> std::io::Result<Finished> {
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // A command that does not want its input says so by its exit status.
        let _ = stdin.write_all(input).await;
    }
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (from_stdout, from_stderr) = (child.stdout.take(), child.stderr.take());
    let status = {
        let read = async {
            tokio::join!(
                collect(from_stdout, &mut stdout),
                collect(from_stderr, &mut stderr)
            );
        };
        tokio::pin!(read);
        tokio::select! {
            () = &mut read => child.wait().await?,
            status = child.wait() => {
                let _ = timeout(DRAIN, &mut read).await;
                status?
            }
        }
    };
    Ok(Finished {
        status,
        stdout,
        stderr,
    })
}

/// Reads to the end and keeps the beginning.
async fn collect(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(buffer.get(..length.min(room)).unwrap_or_default());
    }
}
