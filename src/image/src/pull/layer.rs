//! One layer: downloaded, verified, decompressed and unpacked in one pass.
//!
//! The async side reads the network and hashes what comes; a blocking thread decompresses and unpacks it, into a
//! folder of its own that goes away unless the layer is committed. Pulls that need the same layer at the same time
//! share one download, even if they belong to different images.
//!
//! A pass survives broken connections and changes of hosts. When its result is wrong, nobody can tell whose bytes were:
//! those of a file, of one host or another, of a range that was none. Then the layer is fetched anew from each host by
//! itself, as a whole, so that one that is right gets it through and one that is wrong is named.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use state::{ChainId, DiffId};
use storage::{Compression, LayerStore, StorageError, UnpackLimits, Unpacked};

use crate::error::ImageError;
use crate::manifest::Descriptor;
use crate::registry::Session;
use crate::store::Inner;

use super::course::Course;
use super::feed;
use super::partial::{Claim, Spool};
use super::progress::{LayerState, LayerWatch};
use super::ranges;
use super::transfer::{Failure, Job, Sink};
use super::turns::Share;

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
    /// The compressed layer, in case that the server dies before that. Whoever gives the layer up leaves it there.
    partial: Mutex<Option<Claim>>,
}

impl Prepared {
    pub(crate) fn new(chain: ChainId, parent: Option<ChainId>, unpacked: Unpacked) -> Self {
        Self {
            chain,
            parent,
            unpacked: Mutex::new(Some(unpacked)),
            partial: Mutex::new(None),
        }
    }

    fn with_partial(self, partial: Option<Claim>) -> Self {
        Self {
            partial: Mutex::new(partial),
            ..self
        }
    }

    /// Removes the compressed layer. Blocks. To be called before the image is synced, so that it is not written to the disk.
    pub(crate) fn discard_partial(&self) {
        let partial = self
            .partial
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(partial) = partial {
            partial.spool().discard();
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
    share: &Arc<Share>,
    watch: &Arc<LayerWatch>,
    wanted: &WantedLayer,
) -> Result<Arc<Prepared>, ImageError> {
    // Someone else's download may fail for reasons of theirs, their registry or their credentials: then we try ours.
    loop {
        let ticket = inner.layer_flights.join(wanted.chain.clone(), || {
            fetch(
                Arc::clone(inner),
                Arc::clone(session),
                Arc::clone(share),
                Arc::clone(watch),
                wanted.clone(),
            )
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
    share: Arc<Share>,
    watch: Arc<LayerWatch>,
    wanted: WantedLayer,
) -> Result<Arc<Prepared>, ImageError> {
    let prepared = if let Some(prepared) = inner.prepared.get(&wanted.chain) {
        prepared
    } else {
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
        let work = Work {
            job: Job {
                inner: &inner,
                session: &session,
                descriptor: &wanted.descriptor,
                share: &share,
                watch: &watch,
                what: format!("layer {}", wanted.descriptor.digest),
            },
            diff: &wanted.diff,
            content: &wanted.content,
        };
        let (unpacked, partial) = work.run().await?;
        let prepared = Prepared::new(wanted.chain.clone(), wanted.parent.clone(), unpacked);
        let prepared = Arc::new(prepared.with_partial(partial));
        inner.prepared.add(&prepared);
        prepared
    };
    watch.set_state(LayerState::Done);
    Ok(prepared)
}

/// Why a pass did not make a layer.
enum Failed {
    /// No host is left. What came is of use to the next pull.
    GaveUp(ImageError),
    /// What came is not the layer. Another host, or a host by itself, may send the right one.
    Wrong(ImageError),
    /// No host can do anything about it.
    Final(ImageError),
}

/// The attempts to get one layer.
struct Work<'a> {
    job: Job<'a>,
    diff: &'a DiffId,
    content: &'a LayerContent,
}

impl Work<'_> {
    /// The layer, and what there is of its compressed form, which is of use until the image is complete.
    async fn run(&self) -> Result<(Unpacked, Option<Claim>), ImageError> {
        let job = &self.job;
        let attempts = job.inner.config.attempts;
        let endpoints = job.session.endpoints();
        let descriptor = job.descriptor;
        let partials = &job.inner.partials;
        let claim = partials.claim(&descriptor.digest, descriptor.size).await;
        let spool = claim.as_ref().map(Claim::spool);
        let mut course = Course::new(0..endpoints, attempts);
        let resumed = spool.as_ref().is_some_and(|spool| spool.kept_bytes() > 0);
        let spooled = spool.as_ref().is_some_and(Spool::is_open);
        let made = self.pass(&mut course, spool.as_ref()).await;
        if made.is_ok() {
            if let Some(claim) = &claim {
                claim.set_whole();
            }
        } else if let Some(spool) = spool.filter(|_| !matches!(made, Err(Failed::GaveUp(_)))) {
            // Files that stay are swept later.
            let _ = tokio::task::spawn_blocking(move || spool.discard()).await;
        }
        let made = match made {
            Ok(unpacked) => return Ok((unpacked, claim)),
            // The space that was lacking may have been taken by partial files.
            Err(Failed::Final(error @ ImageError::DiskFull { .. })) => {
                drop(claim);
                if !spooled && partials.usage() == (0, 0) {
                    return Err(error);
                }
                partials.free_all().await;
                course = Course::new(0..endpoints, attempts);
                self.pass(&mut course, None).await
            }
            made => {
                drop(claim);
                made
            }
        };
        let mut last = match made {
            Ok(unpacked) => return Ok((unpacked, None)),
            Err(Failed::GaveUp(error) | Failed::Final(error)) => return Err(error),
            Err(Failed::Wrong(error)) => error,
        };
        tracing::debug!(error = %last, "fetching a layer anew, from each registry by itself");
        let to_blame = course
            .only_contributor()
            .filter(|_| !resumed && !course.used_ranges());
        for endpoint in (0..endpoints).filter(|endpoint| Some(*endpoint) != to_blame) {
            match self
                .pass(&mut Course::plain(endpoint, attempts), None)
                .await
            {
                Ok(unpacked) => return Ok((unpacked, None)),
                Err(Failed::Final(error)) => return Err(error),
                Err(Failed::Wrong(error)) => last = error,
                // That one sends something wrong says more than that another one sends nothing.
                Err(Failed::GaveUp(_)) => {}
            }
        }
        Err(last)
    }

    /// Downloads and unpacks the layer once.
    async fn pass(&self, course: &mut Course, spool: Option<&Spool>) -> Result<Unpacked, Failed> {
        let job = &self.job;
        let size = job.descriptor.size;
        let spool = spool.filter(|spool| spool.is_open() || spool.kept_bytes() > 0);
        let resumed = spool.map_or(0, Spool::kept_bytes);
        job.watch.restart(resumed);
        let pieces = spool.filter(|spool| {
            let config = &job.inner.config.ranges;
            config.parallel > 1
                && size >= config.min_bytes
                && spool.has_room_for(size.saturating_sub(resumed))
        });
        let prefix = spool.map_or(0, Spool::prefix);
        let turn = job.share.take().await;
        // Also when all is here: the registry decides who may have it.
        let gap = pieces
            .and_then(|spool| ranges::gaps(&spool.pieces(), size).front().copied())
            .filter(|_| course.ranges());
        let opened = match gap {
            Some(gap) => job.open(course, gap.from, Some(gap.to)).await,
            None => {
                job.open(course, prefix.min(size.saturating_sub(1)), None)
                    .await
            }
        };
        let opened = opened.map_err(|failure| self.failed(failure))?;

        let (feeder, feed) = feed::feed(job.inner.slots.slot(), spool.cloned());
        let unpacking = tokio::task::spawn_blocking({
            let layers = job.inner.layers.clone();
            let limits = job.inner.config.limits.unpack;
            let content = self.content.clone();
            move || content.store(&layers, feed, &limits)
        });
        let received = async {
            let mut sink = Sink::new(feeder, &job.descriptor.digest);
            let mut first = Some((opened, turn));
            if let Some(spool) = spool {
                let piecewise = first.take_if(|(opened, _)| gap.is_some_and(|gap| opened.is(gap)));
                if let Some(first) = piecewise {
                    sink = job.in_pieces(course, spool, sink, first).await?;
                } else if prefix > 0 {
                    sink = job.replay(spool, sink).await?;
                }
                job.count_resumed(resumed.min(sink.offset));
            }
            let sink = job.in_order(course, sink, first).await?;
            job.watch.set_state(LayerState::Unpacking);
            self.check(course, sink).await
        }
        .await;
        // Also after a failure: the unpacker sees a broken feed and removes what it made, so that nothing is left by
        // the time that the error is told.
        let unpacked = unpacking
            .await
            .map_err(|_| Failed::Final(ImageError::interrupted(job.what.clone())))?;
        match (received, unpacked) {
            (Err(Failure::NotWanted), Ok(_)) => Err(Failed::Wrong(
                job.wrong("there is more in it than a compressed tar"),
            )),
            (Err(Failure::NotWanted), Err(error)) => {
                Err(match ImageError::storage(&job.what, error) {
                    // It was not whole, so it may not have been what it should have been.
                    error @ ImageError::Corrupt { .. } => Failed::Wrong(error),
                    error => Failed::Final(error),
                })
            }
            (Err(failure), _) => Err(self.failed(failure)),
            (Ok(()), Err(error)) => Err(Failed::Final(ImageError::storage(&job.what, error))),
            // A file's digest is the blob's own, which was compared on the way.
            (Ok(()), Ok(unpacked))
                if *self.content == LayerContent::Tar && unpacked.diff != *self.diff =>
            {
                Err(Failed::Final(job.wrong(format!(
                    "its content has the diff id {}, the image's configuration says {}",
                    unpacked.diff, self.diff
                ))))
            }
            (Ok(()), Ok(unpacked)) => Ok(unpacked),
        }
    }

    /// Tells the unpacker that the layer is whole, if it is what was asked for.
    async fn check(&self, course: &Course, sink: Sink) -> Result<(), Failure> {
        let digest = &self.job.descriptor.digest;
        let found = sink.hasher.finish();
        if found != *digest {
            let sender = match course.only_contributor() {
                Some(endpoint) => self.job.session.host(endpoint),
                None => "one of several registries".to_owned(),
            };
            let wrong = format!("what {sender} sends has the digest {found}");
            return Err(Failure::Wrong(self.job.wrong(wrong)));
        }
        sink.feeder.end().await;
        Ok(())
    }

    fn failed(&self, failure: Failure) -> Failed {
        match failure {
            Failure::GaveUp(error) => Failed::GaveUp(error),
            Failure::Wrong(error) => Failed::Wrong(error),
            Failure::NotWanted => Failed::Final(ImageError::interrupted(self.job.what.clone())),
        }
    }
}
