//! One layer: downloaded, verified, decompressed and unpacked in one pass.
//!
//! The async side reads the network and hashes what comes; a blocking thread decompresses and unpacks it, into a
//! folder of its own that goes away unless the layer is committed. Pulls that need the same layer at the same time
//! share one download, even if they belong to different images.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use state::{ChainId, DiffId};
use storage::{Compression, LayerStore, StorageError, UnpackLimits, Unpacked};

use crate::error::ImageError;
use crate::hashing::Hasher;
use crate::manifest::Descriptor;
use crate::registry::{Broken, Download, Session};
use crate::store::Inner;

use super::feed::{self, Feeder};

/// How long to wait before a broken download is started again.
const WAIT_AFTER_BREAK: Duration = Duration::from_millis(500);

/// What is to be fetched, and where it belongs.
#[derive(Clone, Debug)]
pub(crate) struct WantedLayer {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff: DiffId,
    pub(crate) chain: ChainId,
    pub(crate) parent: Option<ChainId>,
    pub(crate) content: LayerContent,
}

/// What a blob becomes on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LayerContent {
    /// The files of a tar, compressed or not.
    Tar,
    /// A file of an artifact: the blob as it is.
    File {
        /// Its path in the layer.
        path: String,
    },
}

impl LayerContent {
    /// Makes a layer of what is read. Blocks.
    fn store(
        &self,
        layers: &LayerStore,
        blob: impl Read,
        limits: &UnpackLimits,
    ) -> Result<Unpacked, StorageError> {
        match self {
            // What media types say of the compression is often wrong; the first bytes are right.
            Self::Tar => layers.unpack(blob, Compression::Detect, limits),
            Self::File { path } => layers.store_blob(blob, path, limits),
        }
    }
}

/// A layer that is unpacked and waits for its image's other layers.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) chain: ChainId,
    pub(crate) parent: Option<ChainId>,
    /// Emptied by the first image that commits the layer.
    unpacked: Mutex<Option<Unpacked>>,
}

impl Prepared {
    pub(crate) fn new(chain: ChainId, parent: Option<ChainId>, unpacked: Unpacked) -> Self {
        Self {
            chain,
            parent,
            unpacked: Mutex::new(Some(unpacked)),
        }
    }

    /// Takes the folder out, to be committed.
    pub(crate) fn take(&self) -> Option<Unpacked> {
        self.unpacked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// Unpacked layers whose images are not committed yet, for other pulls to share.
#[derive(Debug, Default)]
pub(crate) struct PreparedLayers {
    layers: Mutex<HashMap<ChainId, Weak<Prepared>>>,
}

impl PreparedLayers {
    fn get(&self, chain: &ChainId) -> Option<Arc<Prepared>> {
        self.layers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(chain)?
            .upgrade()
    }

    fn add(&self, prepared: &Arc<Prepared>) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.retain(|_, layer| layer.strong_count() > 0);
        layers.insert(prepared.chain.clone(), Arc::downgrade(prepared));
    }
}

/// Gets a layer unpacked: by joining whoever is at it, or by fetching it.
pub(super) async fn prepare(
    inner: &Arc<Inner>,
    session: &Arc<Session>,
    wanted: &WantedLayer,
) -> Result<Arc<Prepared>, ImageError> {
    // Someone else's download may fail for reasons of theirs, their registry or their credentials: then we try ours.
    loop {
        let ticket = inner.layer_flights.join(wanted.chain.clone(), || {
            fetch(Arc::clone(inner), Arc::clone(session), wanted.clone())
        });
        match ticket.wait().await {
            Some(Ok(prepared)) => return Ok(prepared),
            Some(Err(error)) if ticket.started => return Err(error),
            None if ticket.started => {
                return Err(ImageError::interrupted(format!(
                    "the download of layer {}",
                    wanted.descriptor.digest
                )));
            }
            Some(Err(_)) | None => {}
        }
    }
}

async fn fetch(
    inner: Arc<Inner>,
    session: Arc<Session>,
    wanted: WantedLayer,
) -> Result<Arc<Prepared>, ImageError> {
    if let Some(prepared) = inner.prepared.get(&wanted.chain) {
        return Ok(prepared);
    }
    let _permit = inner
        .downloads
        .acquire()
        .await
        .map_err(|_| ImageError::interrupted("the download of a layer"))?;
    let limit = inner.config.limits.layer_bytes;
    if wanted.descriptor.size > limit {
        return Err(ImageError::TooLarge {
            what: format!("layer {}", wanted.descriptor.digest),
            reason: format!(
                "{} bytes, at most {limit} are allowed",
                wanted.descriptor.size
            ),
        });
    }
    let attempt = Attempt {
        what: format!("layer {}", wanted.descriptor.digest),
        inner: &inner,
        session: &session,
        wanted: &wanted,
    };
    let mut last = None;
    for endpoint in 0..session.endpoints() {
        match attempt.try_endpoint(endpoint).await {
            Ok(unpacked) => {
                let prepared = Arc::new(Prepared::new(
                    wanted.chain.clone(),
                    wanted.parent.clone(),
                    unpacked,
                ));
                inner.prepared.add(&prepared);
                return Ok(prepared);
            }
            Err(error) if error.worth_another_host() => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| ImageError::interrupted(attempt.what)))
}

/// Why a download did not become a layer.
enum Failure {
    /// The connection broke or stalled; another attempt may get further.
    Broke(ImageError),
    /// Another attempt would be the same.
    Final(ImageError),
    /// The unpacker stopped reading; its own result says why.
    NotWanted,
}

/// The attempts to get one layer.
struct Attempt<'a> {
    inner: &'a Inner,
    session: &'a Session,
    wanted: &'a WantedLayer,
    what: String,
}

impl Attempt<'_> {
    /// Downloads from one host, again if the connection breaks.
    async fn try_endpoint(&self, endpoint: usize) -> Result<Unpacked, ImageError> {
        let mut attempt = 1;
        loop {
            match self.once(endpoint).await {
                Ok(unpacked) => return Ok(unpacked),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::NotWanted) => {
                    return Err(self.corrupt("there is more in it than a compressed tar"));
                }
                Err(Failure::Broke(error)) if attempt >= self.inner.config.attempts => {
                    return Err(error);
                }
                Err(Failure::Broke(error)) => {
                    tracing::debug!(%error, attempt, "downloading a layer again");
                    let longest = self.inner.config.timeouts.retry_wait;
                    tokio::time::sleep(WAIT_AFTER_BREAK.min(longest)).await;
                    attempt += 1;
                }
            }
        }
    }

    async fn once(&self, endpoint: usize) -> Result<Unpacked, Failure> {
        let download = self
            .session
            .blob(endpoint, &self.wanted.descriptor)
            .await
            .map_err(Failure::Final)?;
        let (feeder, feed) = feed::feed();
        let unpacking = tokio::task::spawn_blocking({
            let layers = self.inner.layers.clone();
            let limits = self.inner.config.limits.unpack;
            let content = self.wanted.content.clone();
            move || content.store(&layers, feed, &limits)
        });
        let received = self.receive(download, feeder).await;
        // Also after a failure: the unpacker sees a broken feed and removes what it made, so that nothing is left by
        // the time that the error is told.
        let unpacked = unpacking
            .await
            .map_err(|_| Failure::Final(ImageError::interrupted(self.what.clone())))?;
        match (received, unpacked) {
            (Err(failure @ (Failure::Broke(_) | Failure::Final(_))), _) => Err(failure),
            (_, Err(error)) => Err(Failure::Final(ImageError::storage(&self.what, error))),
            (Err(Failure::NotWanted), Ok(_)) => Err(Failure::NotWanted),
            // A file's digest is the blob's own, which was compared on the way.
            (Ok(()), Ok(unpacked))
                if self.wanted.content == LayerContent::Tar
                    && unpacked.diff != self.wanted.diff =>
            {
                Err(Failure::Final(self.corrupt(format!(
                    "its content has the diff id {}, the image's configuration says {}",
                    unpacked.diff, self.wanted.diff
                ))))
            }
            (Ok(()), Ok(unpacked)) => Ok(unpacked),
        }
    }

    /// Passes a download on, and tells the unpacker that it is whole only when it is what was asked for.
    async fn receive(&self, mut download: Download, feeder: Feeder) -> Result<(), Failure> {
        let size = self.wanted.descriptor.size;
        let digest = &self.wanted.descriptor.digest;
        let mut hasher = Hasher::like(Some(digest));
        let mut received = 0_u64;
        let cut_short = |received: u64, host: &str, reason: &str| {
            Failure::Broke(self.corrupt(format!(
                "{host} cuts it short after {received} of {size} bytes{reason}"
            )))
        };
        loop {
            match download.chunk().await {
                Ok(None) => break,
                Ok(Some(bytes)) => {
                    received += bytes.len() as u64;
                    self.inner.count_download(bytes.len() as u64);
                    if received > size {
                        return Err(Failure::Final(self.corrupt(format!(
                            "{} sends more than the {size} bytes that the manifest says",
                            download.host()
                        ))));
                    }
                    hasher.update(&bytes);
                    if feeder.push(bytes).await.is_err() {
                        return Err(Failure::NotWanted);
                    }
                }
                Err(Broken::Stalled(error)) => return Err(Failure::Broke(error)),
                Err(Broken::CutShort(reason)) => {
                    return Err(cut_short(
                        received,
                        download.host(),
                        &format!(" ({reason})"),
                    ));
                }
            }
        }
        if received < size {
            return Err(cut_short(received, download.host(), ""));
        }
        let found = hasher.finish();
        if found != *digest {
            return Err(Failure::Final(self.corrupt(format!(
                "what {} sends has the digest {found}",
                download.host()
            ))));
        }
        feeder.end().await;
        Ok(())
    }

    fn corrupt(&self, reason: impl Into<String>) -> ImageError {
        ImageError::corrupt(self.what.clone(), reason)
    }
}
