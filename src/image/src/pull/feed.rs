//! The bridge from an asynchronous download to a blocking unpacker: a bounded channel of chunks, read as a stream.
//!
//! A feed that just stops is not an end. Only [`Feeder::end`] makes the reader see the end of the stream; a feeder that
//! is dropped before, because the download broke or its task was aborted, makes it see an error, so that a layer cut
//! short between two tar entries cannot pass for a whole one.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// How many chunks wait for the unpacker. A chunk is what one read of a socket brought: mostly 8 to 64 KiB.
const CHUNKS_AHEAD: usize = 16;

/// The writing end.
#[derive(Debug)]
pub(crate) struct Feeder {
    chunks: mpsc::Sender<Piece>,
}

/// The reading end, for a thread that may block.
#[derive(Debug)]
pub(crate) struct Feed {
    chunks: mpsc::Receiver<Piece>,
    /// What was received and not read yet.
    current: Bytes,
    ended: bool,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    End,
}

/// The reader does not want any more: it has ended or failed.
#[derive(Debug)]
pub(crate) struct NotWanted;

pub(crate) fn feed() -> (Feeder, Feed) {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    (
        Feeder { chunks: sender },
        Feed {
            chunks: receiver,
            current: Bytes::new(),
            ended: false,
        },
    )
}

impl Feeder {
    /// Hands over a chunk, when there is room for it.
    pub(crate) async fn push(&self, bytes: Bytes) -> Result<(), NotWanted> {
        self.chunks
            .send(Piece::Data(bytes))
            .await
            .map_err(|_| NotWanted)
    }

    /// Says that all is there.
    pub(crate) async fn end(self) {
        // A reader that is gone does not need to know.
        let _ = self.chunks.send(Piece::End).await;
    }
}

impl Feed {
    /// Takes the next chunk. `false` at the end of the stream.
    fn receive(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        match self.chunks.blocking_recv() {
            Some(Piece::Data(bytes)) => {
                self.current = bytes;
                Ok(true)
            }
            Some(Piece::End) => {
                self.ended = true;
                Ok(false)
            }
            None => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the download ended early",
            )),
        }
    }
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if !self.receive()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    async fn read_all(mut feed: Feed) -> io::Result<Vec<u8>> {
        tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            feed.read_to_end(&mut bytes).map(|_| bytes)
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn what_goes_in_comes_out() {
        let (feeder, feed) = feed();
        let reader = tokio::spawn(read_all(feed));
        let mut expected = Vec::new();
        for size in [0, 1, 3, 100_000, 0, 7] {
            let chunk = vec![u8::try_from(size % 251).unwrap(); size];
            expected.extend_from_slice(&chunk);
            feeder.push(chunk.into()).await.unwrap();
        }
        feeder.end().await;
        assert_eq!(reader.await.unwrap().unwrap(), expected);
    }

    #[tokio::test]
    async fn a_dropped_feeder_is_an_error_not_an_end() {
        let (feeder, feed) = feed();
        feeder.push(Bytes::from_static(b"half")).await.unwrap();
        drop(feeder);
        let error = read_all(feed).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn a_dropped_reader_is_noticed() {
        let (feeder, feed) = feed();
        drop(feed);
        assert!(feeder.push(Bytes::from_static(b"x")).await.is_err());
    }
}
