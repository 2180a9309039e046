//! Two threads for one layer: the caller's reads and uncompresses, another hashes the tar and writes the files.
//!
//! Hashing is done where there is less to do besides: uncompressing gzip takes about as long as writing files, uncompressing
//! zstd half of that. The two meet at a channel of a few buffers that travel in a circle, so a layer takes the same memory
//! whatever its size: eight buffers of 256 KiB and what the decoder needs.

use std::{
    cell::Cell,
    io::{self, BufRead, BufReader, Read},
    rc::Rc,
    sync::mpsc::{self, Receiver, Sender, SyncSender},
    thread,
};

use sha2::{Digest as _, Sha256};
use state::{DiffId, Digest};

use crate::{Compression, StorageError, UnpackLimits, compression::Decoder, limits::Limit};

/// How many bytes travel together.
const BUFFER_BYTES: usize = 256 << 10;

/// How many buffers may wait for the writer.
const QUEUE_BUFFERS: usize = 8;

/// What is read from the compressed layer at a time.
const INPUT_BYTES: usize = 128 << 10;

enum Message {
    /// Bytes of the tar that are still to be hashed.
    Bytes(Vec<u8>),
    /// Bytes of the tar that the reading side has hashed.
    Hashed(Vec<u8>),
    /// The tar is complete, and the reading side's hash of it, if that is the one that hashes. A queue that ends without
    /// this was given up.
    End(Option<Sha256>),
}

/// Uncompresses `input` on this thread and has `consume` read the tar on another. Returns what `consume` made of it, and
/// the digest of the whole tar, including whatever `consume` left unread.
pub(crate) fn run<T: Send>(
    input: impl Read,
    compression: Compression,
    limits: &UnpackLimits,
    consume: impl FnOnce(&mut TarStream) -> Result<T, StorageError> + Send,
) -> Result<(T, DiffId), StorageError> {
    let (full, queue) = mpsc::sync_channel(QUEUE_BUFFERS);
    let (give_back, empty) = mpsc::channel();
    thread::scope(|scope| {
        let consumer = thread::Builder::new()
            .name("unpack".to_owned())
            .spawn_scoped(scope, move || {
                let mut stream = TarStream::new(queue, give_back);
                let made = consume(&mut stream)?;
                let diff = stream.finish().map_err(StorageError::Read)?;
                Ok((made, diff))
            })
            .map_err(StorageError::Thread)?;
        let pumped = pump(input, compression, limits, &full, &empty);
        // The consumer must see the end of the queue before it is waited for.
        drop(full);
        let consumed = consumer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What goes wrong while reading makes the consumer fail too, of a tar cut short: the cause is the better answer.
        pumped.and(consumed)
    })
}

/// Reads and uncompresses until the end of the input, or until the consumer is gone.
fn pump(
    input: impl Read,
    compression: Compression,
    limits: &UnpackLimits,
    full: &SyncSender<Message>,
    empty: &Receiver<Vec<u8>>,
) -> Result<(), StorageError> {
    let meter = Meter::default();
    let input = BufReader::with_capacity(
        INPUT_BYTES,
        Metered {
            input,
            meter: meter.clone(),
        },
    );
    let mut decoder = Decoder::new(input, compression)?;
    let mut hash = (!matches!(decoder, Decoder::Gzip(_))).then(Sha256::new);
    let mut total: u64 = 0;
    loop {
        let mut buffer = empty.try_recv().unwrap_or_default();
        buffer.resize(BUFFER_BYTES, 0);
        let mut filled = 0;
        let mut ended = false;
        while filled < buffer.len() && !ended {
            match decoder.read(&mut buffer[filled..]) {
                Ok(0) => ended = true,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(decoder.error(error, meter.failed.get())),
            }
        }
        total += filled as u64;
        if total > limits.bytes {
            return Err(StorageError::TooLarge {
                limit: Limit::Bytes(limits.bytes),
            });
        }
        let unread = decoder.input().buffer().len() as u64;
        let taken = meter.bytes.get().saturating_sub(unread);
        if total > limits.ratio_floor_bytes && total / limits.ratio.max(1) > taken {
            return Err(StorageError::TooLarge {
                limit: Limit::Ratio(limits.ratio),
            });
        }
        buffer.truncate(filled);
        if filled > 0 {
            let message = match &mut hash {
                Some(hash) => {
                    hash.update(&buffer);
                    Message::Hashed(buffer)
                }
                None => Message::Bytes(buffer),
            };
            if full.send(message).is_err() {
                // The consumer failed, and says why.
                return Ok(());
            }
        }
        if ended {
            let _ = full.send(Message::End(hash));
            return Ok(());
        }
    }
}

/// What has come in, for a reader that is buried in a decoder.
#[derive(Clone, Default)]
struct Meter {
    bytes: Rc<Cell<u64>>,
    failed: Rc<Cell<bool>>,
}

struct Metered<R> {
    input: R,
    meter: Meter,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.input.read(buffer);
        match &result {
            Ok(count) => self.meter.bytes.set(self.meter.bytes.get() + *count as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.meter.failed.set(true),
        }
        result
    }
}

/// The uncompressed tar as the consumer sees it, which hashes what was not hashed before.
pub(crate) struct TarStream {
    queue: Receiver<Message>,
    give_back: Sender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    ended: bool,
    hash: Sha256,
}

impl TarStream {
    fn new(queue: Receiver<Message>, give_back: Sender<Vec<u8>>) -> Self {
        Self {
            queue,
            give_back,
            current: Vec::new(),
            position: 0,
            ended: false,
            hash: Sha256::new(),
        }
    }

    /// Reads what is left and returns the digest of all.
    fn finish(mut self) -> io::Result<DiffId> {
        loop {
            let left = self.fill_buf()?.len();
            if left == 0 {
                return Ok(Digest::from_sha256(self.hash.finalize().into()).into());
            }
            self.consume(left);
        }
    }
}

impl Read for TarStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for TarStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.current.len() && !self.ended {
            let used = std::mem::take(&mut self.current);
            self.position = 0;
            if used.capacity() > 0 {
                // The reading side may be done already.
                let _ = self.give_back.send(used);
            }
            match self.queue.recv() {
                Ok(Message::Bytes(bytes)) => {
                    self.hash.update(&bytes);
                    self.current = bytes;
                }
                Ok(Message::Hashed(bytes)) => self.current = bytes,
                Ok(Message::End(hash)) => {
                    self.ended = true;
                    if let Some(hash) = hash {
                        self.hash = hash;
                    }
                }
                Err(mpsc::RecvError) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, count: usize) {
        self.position = (self.position + count).min(self.current.len());
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read_all(input: &[u8], compression: Compression) -> Result<(Vec<u8>, DiffId), StorageError> {
        run(input, compression, &UnpackLimits::default(), |stream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).map_err(StorageError::Read)?;
            Ok(all)
        })
    }

    fn bytes() -> Vec<u8> {
        (0..3_000_000_u32)
            .map(|n| (n.wrapping_mul(n) >> 7).to_le_bytes()[0])
            .collect()
    }

    #[test]
    fn every_compression_arrives_whole() {
        let bytes = bytes();
        let expected: DiffId = Digest::sha256_of(&bytes).into();
        let two_members = [gzip(&bytes[..1000]), gzip(&bytes[1000..])].concat();
        let zstd = zstd::encode_all(bytes.as_slice(), 1).unwrap();
        for (compressed, compression) in [
            (bytes.clone(), Compression::Plain),
            (gzip(&bytes), Compression::Gzip),
            (two_members.clone(), Compression::Gzip),
            (two_members, Compression::Detect),
            (zstd.clone(), Compression::Zstd),
            (zstd, Compression::Detect),
        ] {
            let (read, diff) = read_all(&compressed, compression).unwrap();
            assert!(read == bytes);
            assert_eq!(diff, expected);
        }
    }

    #[test]
    fn what_the_consumer_leaves_is_hashed_too() {
        let bytes = bytes();
        let ((), diff) = run(
            bytes.as_slice(),
            Compression::Plain,
            &UnpackLimits::default(),
            |stream| stream.read_exact(&mut [0; 10]).map_err(StorageError::Read),
        )
        .unwrap();
        assert_eq!(diff, Digest::sha256_of(&bytes).into());
    }

    #[test]
    fn a_compression_cut_short_or_wrong_is_told() {
        let whole = gzip(&bytes());
        let zstd = zstd::encode_all(bytes().as_slice(), 1).unwrap();
        for (broken, compression) in [
            (&whole[..whole.len() - 1], Compression::Gzip),
            (&whole[..whole.len() / 2], Compression::Gzip),
            (b"<html>".as_slice(), Compression::Gzip),
            (&zstd[..zstd.len() - 1], Compression::Zstd),
            (&whole, Compression::Zstd),
        ] {
            let error = read_all(broken, compression).unwrap_err();
            assert!(matches!(error, StorageError::Uncompress { .. }), "{error}");
        }
        let mut flipped = whole.clone();
        let middle = whole.len() / 2;
        flipped[middle] ^= 0x55;
        assert!(
            read_all(&flipped, Compression::Gzip)
                .unwrap_err()
                .is_bad_layer()
        );
    }

    #[test]
    fn the_readers_own_error_comes_back() {
        struct Failing(usize);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "too slow"));
                }
                self.0 -= 1;
                buffer.fill(0x1f);
                Ok(buffer.len())
            }
        }
        let limits = UnpackLimits::default();
        for compression in [Compression::Plain, Compression::Detect] {
            let error = run(Failing(5), compression, &limits, |stream| {
                io::copy(stream, &mut io::sink()).map_err(StorageError::Read)
            })
            .unwrap_err();
            let StorageError::Read(source) = error else {
                panic!("{error}");
            };
            assert_eq!(source.kind(), io::ErrorKind::TimedOut);
        }
    }

    #[test]
    fn the_consumers_error_stops_the_reading() {
        let error = run(
            io::repeat(0),
            Compression::Plain,
            &UnpackLimits::default(),
            |_| -> Result<(), _> {
                Err(StorageError::BadEntry {
                    name: "x".to_owned(),
                    problem: "is bad",
                })
            },
        )
        .unwrap_err();
        assert!(matches!(error, StorageError::BadEntry { .. }), "{error}");
    }

    #[test]
    fn bombs_do_not_go_off() {
        let limits = UnpackLimits {
            bytes: 10 << 20,
            ..UnpackLimits::default()
        };
        let drain =
            |stream: &mut TarStream| io::copy(stream, &mut io::sink()).map_err(StorageError::Read);
        let error = run(io::repeat(0), Compression::Plain, &limits, drain).unwrap_err();
        assert!(
            matches!(
                error,
                StorageError::TooLarge {
                    limit: Limit::Bytes(_)
                }
            ),
            "{error}"
        );
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        io::copy(&mut io::repeat(0).take(30 << 20), &mut encoder).unwrap();
        let bomb = encoder.finish().unwrap();
        let limits = UnpackLimits {
            ratio_floor_bytes: 10 << 20,
            ..UnpackLimits::default()
        };
        let error = run(bomb.as_slice(), Compression::Detect, &limits, drain).unwrap_err();
        assert!(
            matches!(
                error,
                StorageError::TooLarge {
                    limit: Limit::Ratio(_)
                }
            ),
            "{error}"
        );
    }
}
