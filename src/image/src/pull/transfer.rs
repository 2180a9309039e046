//! Getting the bytes of one layer, in order, into its unpacker: over however many connections and hosts it takes.
//!
//! The hash and the unpacker go on over all of them. When a connection breaks, the next request asks for what is missing;
//! a host that sends the whole all the same has it skipped up to there.

use std::time::Duration;

use bytes::Buf;
use state::Digest;

use crate::error::ImageError;
use crate::hashing::Hasher;
use crate::manifest::Descriptor;
use crate::registry::{Blob, BlobError, Broken, Part, Session};
use crate::store::Inner;

use super::course::{Course, Setback};
use super::feed::{Feeder, NotWanted};
use super::partial::{Found, PieceReader, Spool};
use super::progress::{LayerState, LayerWatch};
use super::ranges::Gap;
use super::turns::{Share, Turn};

/// What is read of a partial file at a time.
const READ_BYTES: usize = 128 << 10;

/// What every step of a layer's download needs to know.
pub(super) struct Job<'a> {
    pub(super) inner: &'a Inner,
    pub(super) session: &'a Session,
    pub(super) descriptor: &'a Descriptor,
    pub(super) share: &'a Share,
    pub(super) watch: &'a LayerWatch,
    /// `layer sha256:…`.
    pub(super) what: String,
}

/// Where a layer's bytes go, and how far they have come.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) feeder: Feeder,
    pub(super) hasher: Hasher,
    pub(super) offset: u64,
}

/// An answer whose body is the next part of a layer.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) blob: Blob,
    pub(super) endpoint: usize,
}

/// Why a layer did not come.
#[derive(Debug)]
pub(super) enum Failure {
    /// No host is left to be asked.
    GaveUp(ImageError),
    /// What came is not the layer.
    Wrong(ImageError),
    /// The unpacker stopped reading; its own result says why.
    NotWanted,
}

impl From<NotWanted> for Failure {
    fn from(NotWanted: NotWanted) -> Self {
        Self::NotWanted
    }
}

impl Opened {
    /// Whether it begins and ends where this gap does.
    pub(super) fn is(&self, gap: Gap) -> bool {
        (self.blob.from, self.blob.to) == (gap.from, gap.to)
    }
}

impl Sink {
    pub(super) fn new(feeder: Feeder, digest: &Digest) -> Self {
        Self {
            feeder,
            hasher: Hasher::like(Some(digest)),
            offset: 0,
        }
    }

    /// Reads on from the files of a spool as they grow, until there is no more. Blocks.
    pub(super) fn follow(mut self, spool: &Spool) -> Result<Self, NotWanted> {
        let mut reader = None;
        loop {
            let (start, available) = match spool.wait_for(self.offset) {
                Found::Bytes { start, available } => (start, available),
                Found::Ended => return Ok(self),
                Found::Abandoned => return Err(NotWanted),
            };
            let file = match reader.take() {
                Some(file) if PieceReader::start(&file) == start => Ok(file),
                _ => spool.reader(start),
            };
            let count = usize::try_from(available).map_or(READ_BYTES, |n| n.min(READ_BYTES));
            let mut buffer = vec![0; count];
            let read = file.and_then(|file| file.read_at(&mut buffer, self.offset).map(|()| file));
            match read {
                Ok(file) => reader = Some(file),
                Err(error) => {
                    // As good as not there: what is missing is fetched.
                    tracing::warn!(%error, "a partial layer cannot be read");
                    spool.remove_from(start);
                    return Ok(self);
                }
            }
            self.hasher.update(&buffer);
            self.offset += count as u64;
            self.feeder.push_kept(buffer.into())?;
        }
    }
}

impl Job<'_> {
    pub(super) fn wrong(&self, reason: impl Into<String>) -> ImageError {
        ImageError::corrupt(self.what.clone(), reason)
    }

    /// Asks for the layer from `from` on until some host sends it.
    pub(super) async fn open(
        &self,
        course: &mut Course,
        from: u64,
        to: Option<u64>,
    ) -> Result<Opened, Failure> {
        loop {
            match self.ask(course, from, to).await {
                Ok(opened) => return Ok(opened),
                Err(setback) => self.after(course, setback).await?,
            }
        }
    }

    /// Asks the current host once, which includes the attempts that a request has.
    pub(super) async fn ask(
        &self,
        course: &mut Course,
        from: u64,
        to: Option<u64>,
    ) -> Result<Opened, Setback> {
        let Some(endpoint) = course.endpoint() else {
            return Err(Setback::Useless(ImageError::interrupted(self.what.clone())));
        };
        let part = if course.ranges() {
            Part {
                from,
                to,
                etag: course.etag().filter(|_| from > 0).cloned(),
            }
        } else {
            Part::default()
        };
        let mut blob = self.session.blob(endpoint, self.descriptor, &part).await?;
        course.set_etag(endpoint, blob.etag.take());
        if blob.from > 0 || blob.to < self.descriptor.size {
            course.set_used_ranges();
        }
        self.watch.set_host(self.session.host(endpoint));
        self.watch.set_state(LayerState::Downloading);
        Ok(Opened { blob, endpoint })
    }

    /// Counts a failure, decides how to go on, and waits as long as that takes.
    pub(super) async fn after(&self, course: &mut Course, setback: Setback) -> Result<(), Failure> {
        let wait = self.decide(course, setback)?;
        if !wait.is_zero() {
            self.watch.set_state(LayerState::Waiting);
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// The same without the wait.
    pub(super) fn decide(
        &self,
        course: &mut Course,
        setback: Setback,
    ) -> Result<Duration, Failure> {
        use std::sync::atomic::Ordering::Relaxed;

        let watch = &self.inner.watch;
        match &setback {
            Setback::Broke(error) => {
                watch.breaks.fetch_add(1, Relaxed);
                tracing::debug!(%error, "a download broke");
            }
            Setback::Stalled(error) => {
                watch.stalls.fetch_add(1, Relaxed);
                tracing::info!(%error, "a download stalled");
            }
            Setback::Unanswered(error) | Setback::Useless(error) => {
                tracing::debug!(%error, "no luck at this registry");
            }
            Setback::NoRanges => tracing::debug!("this registry does no ranges"),
        }
        let next = course.after(setback).map_err(Failure::GaveUp)?;
        if next.elsewhere {
            watch.host_changes.fetch_add(1, Relaxed);
        }
        Ok(next.wait.min(self.inner.config.timeouts.retry_wait))
    }

    /// Reads what is there of the layer from its start on.
    pub(super) async fn replay(&self, spool: &Spool, sink: Sink) -> Result<Sink, Failure> {
        spool.end_flow();
        let followed = tokio::task::spawn_blocking({
            let spool = spool.clone();
            move || sink.follow(&spool)
        });
        let sink = followed
            .await
            .map_err(|_| Failure::GaveUp(ImageError::interrupted(self.what.clone())))??;
        let (spool, offset) = (spool.clone(), sink.offset);
        // What lies behind would be in the way of what comes now.
        let _ = tokio::task::spawn_blocking(move || spool.remove_from(offset)).await;
        Ok(sink)
    }

    /// Counts bytes that were taken from a partial file.
    pub(super) fn count_resumed(&self, bytes: u64) {
        self.inner
            .watch
            .bytes_resumed
            .fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    }

    /// Counts bytes that came over the network.
    pub(super) fn count(&self, bytes: u64) {
        self.watch.count(bytes);
        self.inner
            .watch
            .bytes_fetched
            .fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        self.inner.count_download(bytes);
    }

    /// Fetches what is missing, one connection after the other. `first` is the answer to begin with.
    pub(super) async fn in_order(
        &self,
        course: &mut Course,
        mut sink: Sink,
        first: Option<(Opened, Turn)>,
    ) -> Result<Sink, Failure> {
        let mut next = first;
        while sink.offset < self.descriptor.size {
            let (opened, turn) = if let Some(opened) = next.take() {
                opened
            } else {
                let turn = self.share.take().await;
                (self.open(course, sink.offset, None).await?, turn)
            };
            let drained = self.drain(course, opened, &mut sink).await;
            drop(turn);
            match drained {
                Ok(()) => {}
                Err(Drained::NotWanted) => return Err(Failure::NotWanted),
                Err(Drained::Setback(setback)) => self.after(course, setback).await?,
            }
        }
        Ok(sink)
    }

    /// Passes one answer's body on.
    async fn drain(
        &self,
        course: &mut Course,
        opened: Opened,
        sink: &mut Sink,
    ) -> Result<(), Drained> {
        let mut body = Body::new(opened);
        let mut skip = sink.offset.saturating_sub(body.position);
        course.contributed(body.endpoint);
        while let Some(mut bytes) = body.chunk(self).await? {
            let skipped = skip.min(bytes.len() as u64);
            skip -= skipped;
            // Not more than the length, which fits.
            bytes.advance(usize::try_from(skipped).unwrap_or(bytes.len()));
            if bytes.is_empty() {
                continue;
            }
            course.brought(bytes.len() as u64);
            sink.hasher.update(&bytes);
            sink.offset += bytes.len() as u64;
            sink.feeder.push(bytes).await?;
        }
        Ok(())
    }
}

/// How the reading of one answer ended.
#[derive(Debug)]
pub(super) enum Drained {
    Setback(Setback),
    NotWanted,
}

impl From<Setback> for Drained {
    fn from(setback: Setback) -> Self {
        Self::Setback(setback)
    }
}

impl From<NotWanted> for Drained {
    fn from(NotWanted: NotWanted) -> Self {
        Self::NotWanted
    }
}

/// The body of an answer, which has to be as long as it was said to be.
pub(super) struct Body {
    blob: Blob,
    pub(super) endpoint: usize,
    /// Where the next byte belongs.
    pub(super) position: u64,
    pub(super) end: u64,
}

impl Body {
    pub(super) fn new(opened: Opened) -> Self {
        Self {
            position: opened.blob.from,
            end: opened.blob.to,
            endpoint: opened.endpoint,
            blob: opened.blob,
        }
    }

    /// The next bytes; `None` when all that was announced has come.
    pub(super) async fn chunk(&mut self, job: &Job<'_>) -> Result<Option<bytes::Bytes>, Setback> {
        let size = job.descriptor.size;
        match self.blob.download.chunk().await {
            Ok(Some(bytes)) => {
                job.count(bytes.len() as u64);
                if bytes.len() as u64 > self.end - self.position {
                    return Err(Setback::Useless(job.wrong(format!(
                        "{} sends more than the {size} bytes that the manifest says",
                        self.blob.download.host()
                    ))));
                }
                self.position += bytes.len() as u64;
                Ok(Some(bytes))
            }
            Ok(None) if self.position == self.end => Ok(None),
            Ok(None) => Err(Setback::Broke(job.wrong(format!(
                "{} ends it after {} of {size} bytes",
                self.blob.download.host(),
                self.position
            )))),
            Err(Broken::Stalled(error)) => Err(Setback::Stalled(error)),
            Err(Broken::CutShort(reason)) => Err(Setback::Broke(ImageError::RegistryUnavailable {
                host: self.blob.download.host().to_owned(),
                reason: format!(
                    "it cut {} short after {} of {size} bytes ({reason})",
                    job.what, self.position
                ),
            })),
        }
    }
}

impl From<BlobError> for Setback {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NoRanges => Self::NoRanges,
            BlobError::Failed(error @ ImageError::RegistryUnavailable { .. }) => {
                Self::Unanswered(error)
            }
            BlobError::Failed(error) => Self::Useless(error),
        }
    }
}
