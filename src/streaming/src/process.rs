//! Exec and attach: connects a process to its client's streams, whichever transport they came by, and tells the outcome.

use std::{convert::Infallible, time::Duration};

use bytes::BytesMut;
use engine::{
    error::SharedError,
    streams::{Input, Output, ProcessStreams, TerminalSize},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    link::{Incoming, Outgoing},
    resize::SizeReader,
    status::{Outcome, StatusForm},
};

/// How much of a process's output is read at once.
const READ_LEN: usize = 32 * 1024;
/// When a process has ended, its output is over when nothing comes for this long: what it wrote is there already, and a descendant
/// that goes on with the same output is not waited for.
const QUIET: Duration = Duration::from_secs(2);

/// A client's ends of all streams. Both ends of each are kept until the outcome is told, so that none is reset before.
#[derive(Debug)]
pub(crate) struct ClientStreams {
    pub(crate) stdin: Option<(Incoming, Outgoing)>,
    pub(crate) stdout: Option<(Incoming, Outgoing)>,
    pub(crate) stderr: Option<(Incoming, Outgoing)>,
    pub(crate) error: (Incoming, Outgoing),
    pub(crate) resize: Option<(Incoming, Outgoing)>,
    pub(crate) form: StatusForm,
}

/// Serves a session to its end. The process is started by `start`, once. When this future is dropped, or `stop` is cancelled, the
/// process is let go of.
pub(crate) async fn serve(
    client: ClientStreams,
    start: impl Future<Output = Result<ProcessStreams, SharedError>>,
    stop: &CancellationToken,
) -> Outcome {
    let ClientStreams {
        stdin,
        stdout,
        stderr,
        error: (error_in, mut error),
        resize,
        form,
    } = client;
    let (stdin, stdin_out) = stdin.unzip();
    let (stdout_in, stdout) = stdout.unzip();
    let (stderr_in, stderr) = stderr.unzip();
    let (resize, resize_out) = resize.unzip();
    let run = async {
        match start.await {
            Ok(process) => carry(process, stdin, stdout, stderr, resize).await,
            Err(error) => {
                finish(stdout).await;
                finish(stderr).await;
                Outcome::Failed(sentence(&error))
            }
        }
    };
    let outcome = tokio::select! {
        outcome = run => outcome,
        () = stop.cancelled() => Outcome::Failed("the runtime on the node ends: connect again in a moment".to_owned()),
    };
    let said = outcome.tell(form);
    // A client that resets its error stream does not want to know.
    let _ = error.send(said.into()).await;
    finish(Some(error)).await;
    finish(stdin_out).await;
    finish(resize_out).await;
    drop((error_in, stdout_in, stderr_in));
    outcome
}

/// The whole chain of causes: the client has no other way to see it.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors tell their cause themselves.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

async fn finish(outgoing: Option<Outgoing>) {
    if let Some(outgoing) = outgoing {
        let _ = outgoing.finish().await;
    }
}

async fn carry(
    process: ProcessStreams,
    stdin: Option<Incoming>,
    stdout: Option<Outgoing>,
    stderr: Option<Outgoing>,
    resize: Option<Incoming>,
) -> Outcome {
    let (ended, has_ended) = watch::channel(false);
    let end = async {
        let end = process.end.await;
        // The pumps may have ended before.
        let _ = ended.send(true);
        end
    };
    let outputs = async {
        tokio::join!(
            pump_output(process.stdout, stdout, has_ended.clone()),
            pump_output(process.stderr, stderr, has_ended.clone()),
        );
    };
    let inputs = async {
        tokio::join!(
            pump_input(stdin, process.stdin),
            pump_sizes(resize, process.resize)
        );
        // The session's end is not for its input to tell.
        std::future::pending::<Infallible>().await
    };
    let end = tokio::select! {
        (end, ()) = async { tokio::join!(end, outputs) } => end,
        never = inputs => match never {},
    };
    match end {
        Ok(end) => Outcome::Ended(end),
        Err(error) => Outcome::Failed(sentence(&error)),
    }
}

/// From the client to the process, until either has enough.
async fn pump_input(client: Option<Incoming>, process: Option<Input>) {
    let (Some(mut client), Some(mut process)) = (client, process) else {
        return;
    };
    // A reset is an end too: the process sees its input end.
    while let Ok(Some(bytes)) = client.next().await {
        // A process that reads no more need not be told; what is still sent is forgotten.
        if process.write_all(&bytes).await.is_err() || process.flush().await.is_err() {
            return;
        }
    }
    let _ = process.shutdown().await;
}

/// From the process to the client, until the process's output ends.
async fn pump_output(
    process: Option<Output>,
    client: Option<Outgoing>,
    mut ended: watch::Receiver<bool>,
) {
    let Some(mut process) = process else {
        finish(client).await;
        return;
    };
    let mut client = client;
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_LEN);
        let quiet = async {
            // An error means that the process has ended: its sender is gone.
            let _ = ended.wait_for(|ended| *ended).await;
            tokio::time::sleep(QUIET).await;
        };
        let read = tokio::select! {
            biased;
            read = process.read_buf(&mut buffer) => read,
            () = quiet => break,
        };
        // A terminal whose other side is closed reads as an error.
        if !matches!(read, Ok(1..)) {
            break;
        }
        let bytes = buffer.split().freeze();
        // Without its client the output is still read: the process must not block on it.
        if let Some(outgoing) = &mut client
            && outgoing.send(bytes).await.is_err()
        {
            client = None;
        }
    }
    finish(client).await;
}

/// New sizes of the terminal.
async fn pump_sizes(client: Option<Incoming>, process: Option<mpsc::Sender<TerminalSize>>) {
    let (Some(mut client), Some(process)) = (client, process) else {
        return;
    };
    let mut reader = SizeReader::default();
    while let Ok(Some(bytes)) = client.next().await {
        let Ok(sizes) = reader.push(&bytes) else {
            tracing::debug!(
                "sizes of a terminal are no longer read: {}",
                crate::resize::NotASize
            );
            return;
        };
        for size in sizes {
            if process.send(size).await.is_err() {
                return;
            }
        }
    }
}
