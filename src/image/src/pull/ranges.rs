//! A large layer in pieces, several at the same time.
//!
//! ```text
//!   connections ──▶ files of the spool, each at its offset ──▶ one thread reads them in order ──▶ hash, unpacker
//! ```
//!
//! One connection waits for its turn like any other; further ones are opened only while nobody else wants them, and every
//! piece gives its turn back. Memory does not grow with the layer: what is ahead of the unpacker is in files. When that does
//! not work any more, because the host turns out to ignore ranges or the disk is full, the layer goes on in order.

use std::collections::VecDeque;

use bytes::BytesMut;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use crate::error::ImageError;
use crate::registry::Part;

use super::course::{Course, Setback};
use super::partial::{PieceWriter, Refused, Spool};
use super::progress::LayerState;
use super::transfer::{Body, Failure, Job, Opened, Sink};
use super::turns::Turn;

/// What one request brings at most: small enough for pulls to take turns.
const MAX_PIECE_BYTES: u64 = 16 << 20;
/// What one request brings at least: large enough for the request not to matter.
const MIN_PIECE_BYTES: u64 = 1 << 20;
/// Into how many pieces a layer is divided, as far as the two above allow.
const PIECES: u64 = 12;
/// What is written to the disk at a time. As much is lost for each connection when the server dies.
const WRITE_BYTES: usize = 64 << 10;

/// A part of the layer that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// What one piece's download came to.
struct Outcome {
    brought: u64,
    /// What is still missing of it.
    left: Option<Gap>,
    result: Result<(), Trouble>,
    /// As it was when the piece began.
    epoch: u64,
    endpoint: usize,
}

enum Trouble {
    Setback(Setback),
    /// The bytes cannot be kept.
    Refused(Refused),
}

impl From<Setback> for Trouble {
    fn from(setback: Setback) -> Self {
        Self::Setback(setback)
    }
}

/// Ends the reading thread with the download that it follows.
struct Follow<'a>(&'a Spool);

impl Drop for Follow<'_> {
    fn drop(&mut self) {
        self.0.abandon_flow();
    }
}

impl Job<'_> {
    /// Fetches what is missing in pieces. `first` is the answer with which the first missing one begins. The layer may come
    /// back incomplete: then the rest has to be fetched in order.
    pub(super) async fn in_pieces(
        &self,
        course: &mut Course,
        spool: &Spool,
        sink: Sink,
        first: (Opened, Turn),
    ) -> Result<Sink, Failure> {
        spool.open_flow();
        let mut following = tokio::task::spawn_blocking({
            let spool = spool.clone();
            move || sink.follow(&spool)
        });
        let guard = Follow(spool);
        let fetched = tokio::select! {
            fetched = self.fetch_pieces(course, spool, first) => Some(fetched),
            // It ends by itself only when nobody wants the layer, or the files cannot be read.
            followed = &mut following => {
                let sink = self.joined(followed)?;
                self.drop_from(spool, sink.offset).await;
                return Ok(sink);
            }
        };
        let pieces = fetched.transpose()?;
        spool.end_flow();
        let sink = self.joined(following.await)?;
        drop(guard);
        if let Some(Some(refused)) = pieces {
            let spool = spool.clone();
            // Even if that does not work, the layer goes on.
            let _ = tokio::task::spawn_blocking(move || spool.refused(refused)).await;
        }
        if sink.offset < self.descriptor.size {
            self.drop_from(spool, sink.offset).await;
        }
        Ok(sink)
    }

    fn joined(
        &self,
        followed: Result<Result<Sink, super::feed::NotWanted>, tokio::task::JoinError>,
    ) -> Result<Sink, Failure> {
        match followed {
            Ok(Ok(sink)) => Ok(sink),
            Ok(Err(_)) => Err(Failure::NotWanted),
            Err(_) => Err(Failure::GaveUp(ImageError::interrupted(self.what.clone()))),
        }
    }

    async fn drop_from(&self, spool: &Spool, offset: u64) {
        let spool = spool.clone();
        // A file that stays is cut off or swept later.
        let _ = tokio::task::spawn_blocking(move || spool.remove_from(offset)).await;
    }

    /// Fetches all that is missing, unless that is not possible in pieces: then it ends early, and says whether the disk is
    /// why.
    async fn fetch_pieces(
        &self,
        course: &mut Course,
        spool: &Spool,
        first: (Opened, Turn),
    ) -> Result<Option<Refused>, Failure> {
        let size = self.descriptor.size;
        let mut missing = gaps(&spool.pieces(), size);
        let mut running = FuturesUnordered::new();
        let mut first = Some(first);
        let mut not_before = Instant::now();
        loop {
            while running.len() < self.inner.config.ranges.parallel.max(1)
                && not_before <= Instant::now()
            {
                let Some(gap) = missing.front().copied() else {
                    break;
                };
                if first.is_none() && !course.ranges() {
                    return Ok(None);
                }
                let (opened, turn) = match first.take() {
                    Some((opened, turn)) => (Some(opened), turn),
                    None if running.is_empty() => (None, self.share.take().await),
                    None => match self.share.try_take() {
                        Some(turn) => (None, turn),
                        None => break,
                    },
                };
                let Some(endpoint) = course.endpoint() else {
                    break;
                };
                missing.pop_front();
                course.contributed(endpoint);
                let part = Part {
                    from: gap.from,
                    to: Some(gap.to),
                    etag: course.etag().filter(|_| gap.from > 0).cloned(),
                };
                let epoch = course.epoch();
                running.push(async move {
                    let _turn = turn;
                    let (reached, result) = self.piece(spool, endpoint, part, gap, opened).await;
                    Outcome {
                        brought: reached - gap.from,
                        left: (reached < gap.to).then_some(Gap {
                            from: reached,
                            to: gap.to,
                        }),
                        result,
                        epoch,
                        endpoint,
                    }
                });
            }
            if running.is_empty() && missing.is_empty() {
                return Ok(None);
            }
            let outcome = tokio::select! {
                Some(outcome) = running.next() => outcome,
                () = tokio::time::sleep_until(not_before), if not_before > Instant::now() => continue,
                // Nothing runs and there is nothing to wait for: no host is left.
                else => return Ok(None),
            };
            course.brought(outcome.brought);
            // Nearest first: the unpacker waits for it.
            if let Some(left) = outcome.left {
                let place = missing.partition_point(|gap| gap.from < left.from);
                missing.insert(place, left);
            }
            match outcome.result {
                Ok(()) => {}
                Err(Trouble::Refused(refused)) => return Ok(Some(refused)),
                // Connections that broke together broke for one reason, and an old host's failure is not the new one's.
                Err(Trouble::Setback(_))
                    if outcome.epoch != course.epoch()
                        || course.endpoint() != Some(outcome.endpoint) => {}
                // Without waiting here: the other pieces go on.
                Err(Trouble::Setback(setback)) => {
                    not_before = Instant::now() + self.decide(course, setback)?;
                }
            }
        }
    }

    /// Fetches one piece into its file. Also tells how far it came.
    async fn piece(
        &self,
        spool: &Spool,
        endpoint: usize,
        part: Part,
        gap: Gap,
        opened: Option<Opened>,
    ) -> (u64, Result<(), Trouble>) {
        let mut kept = gap.from;
        let result = async {
            let opened = match opened {
                Some(opened) => opened,
                None => Opened {
                    blob: self
                        .session
                        .blob(endpoint, self.descriptor, &part)
                        .await
                        .map_err(Setback::from)?,
                    endpoint,
                },
            };
            self.watch.set_host(self.session.host(endpoint));
            self.watch.set_state(LayerState::Downloading);
            let mut body = Body::new(opened);
            if body.position != gap.from || body.end > gap.to {
                return Err(Setback::NoRanges.into());
            }
            let mut writer = None;
            let mut pending = BytesMut::with_capacity(WRITE_BYTES);
            loop {
                let chunk = body.chunk(self).await;
                if let Ok(Some(bytes)) = &chunk {
                    pending.extend_from_slice(bytes);
                }
                let more = matches!(chunk, Ok(Some(_)));
                if pending.len() >= WRITE_BYTES || (!more && !pending.is_empty()) {
                    let count = pending.len() as u64;
                    let full =
                        std::mem::replace(&mut pending, BytesMut::with_capacity(WRITE_BYTES));
                    writer = Some(write(spool, writer, kept, full).await?);
                    kept += count;
                }
                if !more {
                    return chunk.map(|_| ()).map_err(Trouble::from);
                }
            }
        }
        .await;
        (kept, result)
    }
}

/// Writes on a thread that may block.
async fn write(
    spool: &Spool,
    writer: Option<PieceWriter>,
    position: u64,
    bytes: BytesMut,
) -> Result<PieceWriter, Trouble> {
    let spool = spool.clone();
    let written = tokio::task::spawn_blocking(move || {
        let mut writer = match writer {
            Some(writer) => writer,
            None => spool.writer(position)?,
        };
        writer.write(&bytes)?;
        Ok(writer)
    });
    match written.await {
        Ok(written) => written.map_err(Trouble::Refused),
        Err(_) => Err(Trouble::Refused(Refused::Budget)),
    }
}

/// What is missing of a layer of `size` bytes, in pieces, nearest first.
pub(super) fn gaps(there: &[(u64, u64)], size: u64) -> VecDeque<Gap> {
    let piece = (size / PIECES).clamp(MIN_PIECE_BYTES, MAX_PIECE_BYTES);
    let mut gaps = VecDeque::new();
    let mut from = 0;
    let ends = there.iter().copied().chain([(size, 0)]);
    for (start, length) in ends {
        while from < start {
            let to = from.saturating_add(piece).min(start);
            gaps.push_back(Gap { from, to });
            from = to;
        }
        from = from.max(start + length);
    }
    gaps
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_is_missing_between_what_is_there() {
        let gap = |from, to| Gap { from, to };
        assert_eq!(gaps(&[], 10), [gap(0, 10)]);
        assert_eq!(gaps(&[(0, 10)], 10), []);
        assert_eq!(gaps(&[(0, 3), (3, 2), (7, 1)], 10), [gap(5, 7), gap(8, 10)]);
        let size = 1 << 30;
        let piece = MAX_PIECE_BYTES;
        let found = gaps(&[(piece, 5)], size);
        assert_eq!(found[0], gap(0, piece));
        assert_eq!(found[1], gap(piece + 5, piece * 2 + 5));
        assert_eq!(found.back().map(|last| last.to), Some(size));
    }
}
