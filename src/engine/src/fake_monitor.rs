//! What stands behind a monitor's socket in tests: connections that a test answers, or does not.

use std::path::Path;

use monitor_wire::{ContainerRecord, FrameBuffer, FromMonitor, Request};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};

/// A monitor's socket.
pub(crate) struct FakeMonitor(UnixListener);

/// One connection to it.
pub(crate) struct FakeConnection {
    stream: UnixStream,
    input: FrameBuffer,
}

impl FakeMonitor {
    pub(crate) fn listen(socket: &Path) -> Self {
        let directory = socket.parent().unwrap_or_else(|| panic!("{socket:?}"));
        std::fs::create_dir_all(directory).unwrap_or_else(|error| panic!("{error}"));
        Self(UnixListener::bind(socket).unwrap_or_else(|error| panic!("{error}")))
    }

    /// The next connection that the server makes.
    pub(crate) async fn accept(&self) -> FakeConnection {
        let (stream, _) = self
            .0
            .accept()
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        FakeConnection {
            stream,
            input: FrameBuffer::default(),
        }
    }
}

impl FakeConnection {
    /// The next request, with its number.
    pub(crate) async fn request(&mut self) -> (u32, Request) {
        loop {
            let frame = self.input.next_frame();
            if let Some(frame) = frame.unwrap_or_else(|error| panic!("{error}")) {
                let request = Request::from_frame(&frame);
                return (
                    frame.correlation,
                    request.unwrap_or_else(|error| panic!("{error}")),
                );
            }
            let mut buffer = [0; 4096];
            let read = self.stream.read(&mut buffer).await;
            match read.unwrap_or_else(|error| panic!("{error}")) {
                0 => panic!("the server hung up"),
                length => self.input.push(buffer.get(..length).unwrap_or_default()),
            }
        }
    }

    /// Sends an answer; 0 is the number of events.
    pub(crate) async fn send(&mut self, number: u32, message: &FromMonitor) {
        let bytes = message.to_frame(number).encode();
        let bytes = bytes.unwrap_or_else(|error| panic!("{error}"));
        let sent = self.stream.write_all(&bytes).await;
        sent.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Waits for the question for the state, and answers it.
    pub(crate) async fn tell_state(&mut self, containers: Vec<ContainerRecord>) {
        loop {
            let (number, request) = self.request().await;
            if request == Request::State {
                let release = "fake".to_owned();
                let state = FromMonitor::State {
                    release,
                    containers,
                };
                return self.send(number, &state).await;
            }
        }
    }
}
