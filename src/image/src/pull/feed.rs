//! The bridge from an asynchronous download to a blocking unpacker: a bounded channel of chunks, read as a stream.
//!
//! A feed that just stops is not an end. Only [`Feeder::end`] makes the reader see the end of the stream; a feeder that
//! is dropped before, because the download was given up or its task aborted, makes it see an error, so that a layer cut
//! short between two tar entries cannot pass for a whole one.
//!
//! What passes is also written to the layer's partial file, if it has one: here, because this thread may block and has
//! the bytes at hand.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::partial::{PieceWriter, Spool};
use super::slots::Slot;

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
    /// Held while there is something to unpack.
    slot: Slot,
    copy: Option<Copy>,
}

/// What is passed on, in a file.
#[derive(Debug)]
struct Copy {
    spool: Spool,
    writer: Option<PieceWriter>,
    /// Where the next chunk belongs.
    position: u64,
}

#[derive(Debug)]
enum Piece {
    Fresh(Bytes),
    /// Came out of the partial file.
    Kept(Bytes),
    End,
}

/// The reader does not want any more: it has ended or failed.
#[derive(Debug)]
pub(crate) struct NotWanted;

/// A feed that works while it has `slot` and keeps what it passes in `spool`.
pub(crate) fn feed(slot: Slot, spool: Option<Spool>) -> (Feeder, Feed) {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    (
        Feeder { chunks: sender },
        Feed {
            chunks: receiver,
            current: Bytes::new(),
            ended: false,
            slot,
            copy: spool.map(|spool| Copy {
                spool,
                writer: None,
                position: 0,
            }),
        },
    )
}

impl Feeder {
    /// Hands over a chunk from the network, when there is room for it.
    pub(crate) async fn push(&self, bytes: Bytes) -> Result<(), NotWanted> {
        self.chunks
            .send(Piece::Fresh(bytes))
            .await
            .map_err(|_| NotWanted)
    }

    /// Hands over a chunk that came out of the partial file. Blocks.
    pub(crate) fn push_kept(&self, bytes: Bytes) -> Result<(), NotWanted> {
        self.chunks
            .blocking_send(Piece::Kept(bytes))
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
        let piece = if let Ok(piece) = self.chunks.try_recv() {
            Some(piece)
        } else {
            self.slot.leave();
            self.chunks.blocking_recv()
        };
        let (bytes, fresh) = match piece {
            Some(Piece::Fresh(bytes)) => (bytes, true),
            Some(Piece::Kept(bytes)) => (bytes, false),
            Some(Piece::End) => {
                self.ended = true;
                return Ok(false);
            }
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the download ended early",
                ));
            }
        };
        // Before waiting for a slot: what has come is then on the disk, whatever happens meanwhile.
        if let Some(copy) = &mut self.copy
            && !copy.pass(&bytes, fresh)
        {
            self.copy = None;
        }
        self.slot.take();
        self.slot.worked(bytes.len() as u64);
        self.current = bytes;
        Ok(true)
    }
}

impl Copy {
    /// Keeps a chunk that is fresh. `false` when no more can be kept.
    fn pass(&mut self, bytes: &[u8], fresh: bool) -> bool {
        let position = self.position;
        self.position += bytes.len() as u64;
        if !fresh {
            return true;
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => match self.spool.writer(position) {
                Ok(writer) => self.writer.insert(writer),
                Err(refused) => {
                    self.spool.refused(refused);
                    return false;
                }
            },
        };
        match writer.write(bytes) {
            Ok(()) => true,
            Err(refused) => {
                self.spool.refused(refused);
                false
            }
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

    use super::super::slots::Slots;
    use super::*;

    fn plain() -> (Feeder, Feed) {
        feed(Slots::new(1).slot(), None)
    }

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
        let (feeder, feed) = plain();
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
        let (feeder, feed) = plain();
        feeder.push(Bytes::from_static(b"half")).await.unwrap();
        drop(feeder);
        let error = read_all(feed).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn a_dropped_reader_is_noticed() {
        let (feeder, feed) = plain();
        drop(feed);
        assert!(feeder.push(Bytes::from_static(b"x")).await.is_err());
    }

    #[tokio::test]
    async fn a_feed_without_bytes_keeps_no_slot() {
        let slots = Slots::new(1);
        let (idle, idle_feed) = feed(slots.slot(), None);
        let idle_reader = tokio::spawn(read_all(idle_feed));
        idle.push(Bytes::from_static(b"first")).await.unwrap();
        // The idle one has had the slot, and waits for more. The other one gets it all the same.
        let (busy, busy_feed) = feed(slots.slot(), None);
        let busy_reader = tokio::spawn(read_all(busy_feed));
        busy.push(Bytes::from_static(b"all")).await.unwrap();
        busy.end().await;
        assert_eq!(busy_reader.await.unwrap().unwrap(), b"all");
        idle.end().await;
        assert_eq!(idle_reader.await.unwrap().unwrap(), b"first");
    }
}
