#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use tokio::net::UnixListener;

use super::*;

/// A monitor played by the test, and a client's request for everything.
struct Stage {
    _directory: tempfile::TempDir,
    listener: UnixListener,
    request: AttachRequest,
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("attach.sock");
        Self {
            listener: UnixListener::bind(&socket).unwrap(),
            request: AttachRequest {
                id: "c".to_owned(),
                socket,
                stdin: true,
                stdout: true,
                stderr: true,
                close_stdin: true,
            },
            _directory: directory,
        }
    }

    async fn greet(&self, terminal: bool, stdin: bool) -> UnixStream {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        send(&mut stream, &AttachFrame::Hello { terminal, stdin }).await;
        stream
    }

    async fn connected(&self, terminal: bool, stdin: bool) -> (Attached, UnixStream) {
        let client = Attached::connect(self.request.clone());
        let (client, monitor) = tokio::join!(client, self.greet(terminal, stdin));
        (client.unwrap(), monitor)
    }
}

async fn send(stream: &mut UnixStream, frame: &AttachFrame) {
    stream.write_all(&frame.encode().unwrap()).await.unwrap();
}

async fn receive(stream: &mut UnixStream, buffer: &mut AttachBuffer) -> Option<AttachFrame> {
    loop {
        if let Some(frame) = buffer.next_frame().unwrap() {
            return Some(frame);
        }
        let mut bytes = [0; 100];
        match stream.read(&mut bytes).await.unwrap() {
            0 => return None,
            length => buffer.push(&bytes[..length]),
        }
    }
}

#[tokio::test]
async fn both_directions_and_the_end() {
    let stage = Stage::new();
    let (client, mut monitor) = stage.connected(false, true).await;
    let (mut stdin, mut stdout, mut stderr) = (
        client.stdin.unwrap(),
        client.stdout.unwrap(),
        client.stderr.unwrap(),
    );
    assert!(client.resize.is_none());
    stdin.write_all(b"in").await.unwrap();
    stdin.shutdown().await.unwrap();
    let mut buffer = AttachBuffer::default();
    assert_eq!(
        receive(&mut monitor, &mut buffer).await,
        Some(AttachFrame::Stdin(b"in".to_vec()))
    );
    assert_eq!(
        receive(&mut monitor, &mut buffer).await,
        Some(AttachFrame::CloseStdin)
    );
    for frame in [
        AttachFrame::Stdout(b"out".to_vec()),
        AttachFrame::Stderr(b"err".to_vec()),
        AttachFrame::Ended,
    ] {
        send(&mut monitor, &frame).await;
    }
    client.end.await.unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    stdout.read_to_end(&mut out).await.unwrap();
    stderr.read_to_end(&mut err).await.unwrap();
    assert_eq!(
        (out.as_slice(), err.as_slice()),
        (b"out".as_slice(), b"err".as_slice())
    );
}

#[tokio::test]
async fn a_terminal_has_sizes_and_no_stderr() {
    let stage = Stage::new();
    let (client, mut monitor) = stage.connected(true, false).await;
    assert!(client.stderr.is_none(), "a terminal has one output");
    assert!(client.stdin.is_none(), "the container has no open stdin");
    let size = TerminalSize {
        rows: 3,
        columns: 4,
    };
    client.resize.unwrap().send(size).await.unwrap();
    let mut buffer = AttachBuffer::default();
    assert_eq!(
        receive(&mut monitor, &mut buffer).await,
        Some(AttachFrame::Resize {
            rows: 3,
            columns: 4
        })
    );
    // Its going is a hang-up.
    drop(client.end);
    assert_eq!(receive(&mut monitor, &mut buffer).await, None);
}

#[tokio::test]
async fn input_that_ends_leaves_a_shared_stdin_open() {
    let mut stage = Stage::new();
    stage.request.close_stdin = false;
    let (client, mut monitor) = stage.connected(false, true).await;
    let mut stdin = client.stdin.unwrap();
    stdin.write_all(b"in").await.unwrap();
    stdin.shutdown().await.unwrap();
    let mut buffer = AttachBuffer::default();
    assert_eq!(
        receive(&mut monitor, &mut buffer).await,
        Some(AttachFrame::Stdin(b"in".to_vec()))
    );
    drop(client.end);
    assert_eq!(receive(&mut monitor, &mut buffer).await, None);
}

#[tokio::test]
async fn a_stream_that_was_dropped_holds_up_nothing() {
    let stage = Stage::new();
    let (client, mut monitor) = stage.connected(false, true).await;
    drop((client.stderr, client.stdin));
    let mut stdout = client.stdout.unwrap();
    let writer = tokio::spawn(async move {
        for _ in 0..64 {
            send(&mut monitor, &AttachFrame::Stderr(vec![b'e'; CHUNK_BYTES])).await;
            send(&mut monitor, &AttachFrame::Stdout(vec![b'o'; CHUNK_BYTES])).await;
        }
        send(&mut monitor, &AttachFrame::Ended).await;
    });
    let mut out = Vec::new();
    stdout.read_to_end(&mut out).await.unwrap();
    assert_eq!(out.len(), 64 * CHUNK_BYTES);
    writer.await.unwrap();
    client.end.await.unwrap();
}

#[tokio::test]
async fn hang_ups_and_nonsense_are_told() {
    let stage = Stage::new();
    let (client, monitor) = stage.connected(false, true).await;
    drop(monitor);
    let error = client.end.await.unwrap_err();
    assert!(matches!(error, RuntimeError::CutOff { .. }), "{error}");

    let (client, mut monitor) = stage.connected(false, true).await;
    monitor
        .write_all(&[1, 0xff, 0xff, 0xff, 0xff])
        .await
        .unwrap();
    let error = client.end.await.unwrap_err();
    assert!(matches!(error, RuntimeError::Protocol { .. }), "{error}");

    let refuse = async { drop(stage.listener.accept().await.unwrap()) };
    let (client, ()) = tokio::join!(Attached::connect(stage.request.clone()), refuse);
    let error = client.unwrap_err();
    assert!(
        matches!(
            error,
            RuntimeError::Refused {
                kind: Refusal::Busy,
                ..
            }
        ),
        "{error}"
    );

    let mut request = stage.request.clone();
    request.socket.set_file_name("nobody");
    let error = Attached::connect(request).await.unwrap_err();
    assert!(
        matches!(error, RuntimeError::Disconnected { .. }),
        "{error}"
    );
}
