//! What has come of layers that are not whole yet, in files: a pull that was given up, or whose server died, goes on
//! where it was.
//!
//! ```text
//! <root>/partial/sha256-<hex>.<offset>   compressed bytes of that layer from that offset on, as many as the file is long
//! ```
//!
//! A layer has one such file, or several if it is fetched in pieces. They are written as the bytes come and never
//! synced: nothing in them counts until the digest of the whole is right, and a layer whose digest is wrong is fetched anew
//! without them. They go away when the layer's image is complete, by age, and oldest first when they take too much.
//!
//! - [`Partials`] is the store: who uses what, how much there is.
//! - A [`Claim`] is one download's right to a layer's files. Dropping it means that the download is over or was given up.
//! - A [`Spool`] is a share in a claim for the threads that write and read; the files are free again with the last one.
//!
//! A file is no right to what is in it: a registry is asked for the layer before any byte of it is used.

mod claim;
mod index;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Mode, OFlags};
use state::Digest;
use tokio::sync::Notify;

use index::{Claimed, Index};

pub(crate) use claim::{Claim, Found, PieceReader, PieceWriter, Refused, Spool};

/// Layers below this are fetched again rather than kept.
const LEAST_LAYER_BYTES: u64 = 1 << 20;
/// How many times a layer's size has to be free on the disk before its bytes are also kept compressed: they must not be
/// what its unpacked files lack.
const FREE_FACTOR: u64 = 4;

/// The partial files of this node.
#[derive(Debug)]
pub(crate) struct Partials {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    max_bytes: u64,
    max_age: Duration,
    index: Mutex<Index>,
    /// Told when a claim's files are free again.
    released: Notify,
}

impl Partials {
    /// Takes up what a former run left in `dir`, which need not exist, except what is too old or too much. Blocks.
    pub(crate) fn open(dir: PathBuf, max_bytes: u64, max_age: Duration) -> Self {
        let index = Index::read(&dir);
        let shared = Shared {
            dir,
            max_bytes,
            max_age,
            index: Mutex::new(index),
            released: Notify::new(),
        };
        shared.evict_expired();
        shared.make_room(0);
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Disk space in bytes, and files. Costs nothing to speak of.
    pub(crate) fn usage(&self) -> (u64, u64) {
        self.shared.index().disk_usage()
    }

    /// Removes all that no download is at: the disk is full.
    pub(crate) async fn free_all(&self) {
        let shared = Arc::clone(&self.shared);
        let freed = tokio::task::spawn_blocking(move || {
            while let Some(gone) = {
                let mut index = shared.index();
                index.take_oldest()
            } {
                shared.unlink_all([gone]);
            }
        });
        // What is left is swept later.
        let _ = freed.await;
    }

    /// Takes a layer's files for one download. `None` if another download is at this layer, or if it is too small or
    /// nothing is to be kept. Waits for a download that was given up and is about to end.
    pub(crate) async fn claim(&self, digest: &Digest, size: u64) -> Option<Claim> {
        if self.shared.max_bytes == 0 || size < LEAST_LAYER_BYTES {
            return None;
        }
        let name = format!("{}-{}", digest.algorithm().name(), digest.hex());
        loop {
            let released = self.shared.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            let claimed = self.shared.index().claim(&name);
            match claimed {
                Claimed::Taken => break,
                Claimed::Busy => return None,
                Claimed::Leaving => released.await,
            }
        }
        let claim = Claim::new(&self.shared, name);
        let spool = claim.spool();
        // A preparation that does not end well leaves a spool that keeps nothing.
        let _ = tokio::task::spawn_blocking(move || spool.prepare(size)).await;
        Some(claim)
    }
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        // Nothing panics while it is half changed.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str, start: u64) -> PathBuf {
        self.dir.join(format!("{name}.{start}"))
    }

    /// Removes what nobody has used for too long.
    fn evict_expired(&self) {
        let limit = SystemTime::now()
            .checked_sub(self.max_age)
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let gone = self.index().take_older_than(limit);
        self.unlink_all(gone);
    }

    /// Removes the oldest until `bytes` more are allowed. Whether they are.
    fn make_room(&self, bytes: u64) -> bool {
        loop {
            let gone = {
                let mut index = self.index();
                if index.bytes().saturating_add(bytes) <= self.max_bytes {
                    return true;
                }
                index.take_oldest()
            };
            let Some(gone) = gone else {
                return false;
            };
            self.unlink_all([gone]);
        }
    }

    fn unlink_all(&self, gone: impl IntoIterator<Item = (String, Vec<u64>)>) {
        for (name, starts) in gone {
            for start in starts {
                unlink(&self.path(&name, start));
            }
        }
    }
}

fn unlink(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(file = %path.display(), %error, "cannot remove a partial layer");
        }
        _ => {}
    }
}

/// Opens one of the files, never through a link.
fn open_file(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(
        CWD,
        path,
        flags,
        Mode::RUSR | Mode::WUSR,
    )?)
}

#[cfg(test)]
#[path = "partial_test.rs"]
mod test;
