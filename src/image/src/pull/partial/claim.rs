//! One download's use of its layer's files.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;

use super::{FREE_FACTOR, Shared, open_file};

/// A download's right to the files of its layer.
#[derive(Debug)]
pub(crate) struct Claim {
    held: Arc<Held>,
}

/// A share in a claim.
#[derive(Clone, Debug)]
pub(crate) struct Spool {
    held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    shared: Arc<Shared>,
    name: String,
    /// Nothing is written any more.
    closed: AtomicBool,
    flow: Mutex<Flow>,
    moved: Condvar,
}

/// Whether more is to come, for whoever reads behind the writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Open,
    /// What is there is all that will be.
    Ended,
    /// Nobody wants it any more.
    Abandoned,
}

/// Why bytes are not kept.
#[derive(Debug)]
pub(crate) enum Refused {
    /// There would be too many, by configuration.
    Budget,
    /// The disk says no.
    Disk(io::Error),
}

/// What a reader finds at a position.
#[derive(Debug)]
pub(crate) enum Found {
    /// So many bytes in a file that starts there.
    Bytes { start: u64, available: u64 },
    /// No more are coming.
    Ended,
    /// Nobody wants them.
    Abandoned,
}

impl Claim {
    pub(super) fn new(shared: &Arc<Shared>, name: String) -> Self {
        Self {
            held: Arc::new(Held {
                shared: Arc::clone(shared),
                name,
                closed: AtomicBool::new(false),
                flow: Mutex::new(Flow::Open),
                moved: Condvar::new(),
            }),
        }
    }

    pub(crate) fn spool(&self) -> Spool {
        Spool {
            held: Arc::clone(&self.held),
        }
    }

    /// Says that the layer is whole: its files only wait for its image, unless the space is needed.
    pub(crate) fn set_whole(&self) {
        self.held.closed.store(true, Ordering::Relaxed);
        self.held.shared.index().set_whole(&self.held.name);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.held.end(Flow::Abandoned);
        self.held.shared.index().leave(&self.held.name);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.index().release(&self.name);
        self.shared.released.notify_waiters();
    }
}

impl Held {
    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, how: Flow) {
        *self.flow() = how;
        self.moved.notify_all();
    }

    /// Says how long a file is now.
    fn set_length(&self, start: u64, length: u64) {
        self.shared.index().set_length(&self.name, start, length);
        // Whoever looks for bytes holds this while looking, and must not miss the call.
        drop(self.flow());
        self.moved.notify_all();
    }
}

impl Spool {
    /// Makes the directory and room, and forgets what cannot belong to a layer of `size` bytes. Blocks.
    pub(super) fn prepare(&self, size: u64) {
        let shared = &self.held.shared;
        shared.evict_expired();
        if self
            .pieces()
            .last()
            .is_some_and(|(start, length)| start + length > size)
        {
            self.remove_from(0);
        }
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&shared.dir);
        let free = sys::fs::filesystem_usage(&shared.dir).map(|usage| usage.available_bytes);
        match (made, free) {
            (Ok(()), Ok(free)) if free / FREE_FACTOR >= size => {}
            (Err(error), _) => {
                tracing::warn!(dir = %shared.dir.display(), %error, "partial layers are not kept");
                self.close();
            }
            // Too little space, or it is not known.
            _ => self.close(),
        }
    }

    /// Stops keeping what comes from now on.
    fn close(&self) {
        self.held.closed.store(true, Ordering::Relaxed);
    }

    /// Whether bytes are being kept.
    pub(crate) fn is_open(&self) -> bool {
        !self.held.closed.load(Ordering::Relaxed)
    }

    /// Whether so many more bytes may be kept, if need be instead of older ones. Blocks.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        self.is_open() && self.held.shared.make_room(bytes)
    }

    /// Where the files start, and how long they are.
    pub(crate) fn pieces(&self) -> Vec<(u64, u64)> {
        self.held.shared.index().pieces(&self.held.name)
    }

    /// How many bytes there are from the start on without a gap.
    pub(crate) fn prefix(&self) -> u64 {
        let mut end = 0;
        for (start, length) in self.pieces() {
            if start != end {
                break;
            }
            end = start + length;
        }
        end
    }

    /// All bytes there are, gaps or not.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.pieces().iter().map(|(_, length)| length).sum()
    }

    /// Removes the files that start at `from` or later. Blocks.
    pub(crate) fn remove_from(&self, from: u64) {
        let gone = self.held.shared.index().take_from(&self.held.name, from);
        self.held
            .shared
            .unlink_all([(self.held.name.clone(), gone)]);
    }

    /// Removes everything, and keeps nothing more. Blocks.
    pub(crate) fn discard(&self) {
        self.close();
        self.remove_from(0);
    }

    /// Takes note that bytes were not kept. A full disk needs the space for better things.
    pub(crate) fn refused(&self, refused: Refused) {
        match refused {
            Refused::Budget => self.close(),
            Refused::Disk(error) => {
                tracing::debug!(layer = self.held.name, %error, "a partial layer is not kept");
                self.discard();
            }
        }
    }

    /// A writer of the bytes from `start` on. Blocks.
    pub(crate) fn writer(&self, start: u64) -> Result<PieceWriter, Refused> {
        if !self.is_open() {
            return Err(Refused::Budget);
        }
        let before = self.held.shared.index().ending_at(&self.held.name, start);
        let (start, length) = before.unwrap_or((start, 0));
        let path = self.held.shared.path(&self.held.name, start);
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = File::from(open_file(&path, flags).map_err(Refused::Disk)?);
        // Whatever is behind what is known to be there was never told of.
        file.set_len(length).map_err(Refused::Disk)?;
        Ok(PieceWriter {
            held: Arc::clone(&self.held),
            file,
            start,
            length,
        })
    }

    /// A reader of the file that starts there. Blocks.
    pub(crate) fn reader(&self, start: u64) -> io::Result<PieceReader> {
        let path = self.held.shared.path(&self.held.name, start);
        let file = File::from(open_file(&path, OFlags::RDONLY)?);
        Ok(PieceReader { file, start })
    }

    /// Waits for bytes at a position. Blocks.
    pub(crate) fn wait_for(&self, position: u64) -> Found {
        let mut flow = self.held.flow();
        loop {
            if *flow == Flow::Abandoned {
                return Found::Abandoned;
            }
            let found = self.held.shared.index().find(&self.held.name, position);
            if let Some((start, available)) = found {
                return Found::Bytes { start, available };
            }
            if *flow == Flow::Ended {
                return Found::Ended;
            }
            flow = self
                .held
                .moved
                .wait(flow)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says that what is there is all that will be.
    pub(crate) fn end_flow(&self) {
        self.held.end(Flow::Ended);
    }

    /// Says that more is coming.
    pub(crate) fn open_flow(&self) {
        self.held.end(Flow::Open);
    }

    /// Says that nobody wants it any more.
    pub(crate) fn abandon_flow(&self) {
        self.held.end(Flow::Abandoned);
    }
}

/// Appends to one file.
#[derive(Debug)]
pub(crate) struct PieceWriter {
    held: Arc<Held>,
    file: File,
    start: u64,
    length: u64,
}

impl PieceWriter {
    /// Keeps the next bytes. Blocks.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        if self.held.closed.load(Ordering::Relaxed)
            || !self.held.shared.make_room(bytes.len() as u64)
        {
            return Err(Refused::Budget);
        }
        // Half a chunk on the disk does no harm: whoever appends cuts it off, and whoever reads does not look at it.
        self.file
            .write_all_at(bytes, self.length)
            .map_err(Refused::Disk)?;
        self.length += bytes.len() as u64;
        self.held.set_length(self.start, self.length);
        Ok(())
    }
}

/// Reads one file.
#[derive(Debug)]
pub(crate) struct PieceReader {
    file: File,
    start: u64,
}

impl PieceReader {
    /// Where the file starts.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Fills the buffer with the bytes at a position of the layer. Blocks.
    pub(crate) fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, position - self.start)
    }
}
