//! What requests say to a monitor.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use monitor_wire::FrameBuffer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
};

use super::*;

#[tokio::test]
async fn a_log_is_to_be_reopened_well_before_the_answer_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("monitor.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (monitor, _events) = Monitor::connect(&socket).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let before = monotonic_ns(Duration::ZERO);
    let answer = async {
        let mut input = FrameBuffer::default();
        let frame = loop {
            if let Some(frame) = input.next_frame().unwrap() {
                break frame;
            }
            let mut buffer = [0; 4096];
            let length = stream.read(&mut buffer).await.unwrap();
            assert_ne!(length, 0);
            input.push(&buffer[..length]);
        };
        let done = FromMonitor::Done.to_frame(frame.correlation);
        stream.write_all(&done.encode().unwrap()).await.unwrap();
        Request::from_frame(&frame).unwrap()
    };
    let (reopened, request) = tokio::join!(monitor.reopen_log("c"), answer);
    reopened.unwrap();
    let Request::ReopenLog {
        until_ns: Some(until_ns),
        ..
    } = request
    else {
        panic!("{request:?}");
    };
    assert!(until_ns > before);
    // The answer is awaited for longer by this much.
    let margin = Duration::from_secs(1);
    let limit = REOPEN + GRACE;
    assert!(until_ns <= monotonic_ns(limit.saturating_sub(margin)));
}
