//! The two ends of a stream, for whoever serves it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::{Gone, Link, MAX_PIECE, Outbound, State};
use crate::{spdy::CANCEL, window::Windows};

/// What a client sends on one stream. Dropping it forgets what is still to come.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(super) link: Arc<Link>,
    pub(super) id: u32,
    pub(super) readable: Arc<Notify>,
}

impl Incoming {
    /// The next bytes; `None` when the client has said that there are no more. Can be given up without losing any.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Gone> {
        loop {
            {
                let mut state = self.link.lock();
                let state = &mut *state;
                let Some(stream) = state.streams.get_mut(&self.id) else {
                    return Err(Gone);
                };
                if !stream.buffer.is_empty() {
                    let bytes = stream.buffer.split().freeze();
                    state.buffered -= bytes.len();
                    stream.receive.take(bytes.len());
                    if !stream.remote_done
                        && let Some(bytes) = stream.receive.grant(state.windows)
                    {
                        self.link.control(Outbound::Grant {
                            stream: self.id,
                            bytes,
                        });
                    }
                    self.link.drained.notify_waiters();
                    return Ok(Some(bytes));
                }
                // What was sent to its end is whole, whatever became of the stream afterwards.
                if stream.remote_done {
                    return Ok(None);
                }
                if stream.reset {
                    return Err(Gone);
                }
            }
            self.readable.notified().await;
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut state = self.link.lock();
        if let Some(stream) = state.streams.get_mut(&self.id) {
            stream.has_reader = false;
            let waiting = std::mem::take(&mut stream.buffer).len();
            stream.receive.take(waiting);
            state.buffered -= waiting;
        }
        state.forget_if_over(self.id);
        self.link.drained.notify_waiters();
    }
}

/// What we send on one stream. Dropping it before [`Self::finish`] resets the stream.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(super) link: Arc<Link>,
    pub(super) id: u32,
    pub(super) data: mpsc::Sender<Outbound>,
    pub(super) done: bool,
}

impl Outgoing {
    /// Sends bytes, as fast as the client takes them.
    pub(crate) async fn send(&mut self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let wanted = bytes.len().min(MAX_PIECE);
            let len = self
                .link
                .when(|state| {
                    if state.is_gone(self.id) {
                        return Some(Err(Gone));
                    }
                    let stream = state.streams.get_mut(&self.id)?;
                    let len = match state.windows {
                        Windows::Kept => {
                            let room = stream.credit.min(state.credit).max(0);
                            wanted.min(usize::try_from(room).unwrap_or(wanted))
                        }
                        Windows::Unknown | Windows::Absent => wanted,
                    };
                    if len == 0 {
                        return None;
                    }
                    // A piece is far shorter than an i64 can count.
                    let spent = i64::try_from(len).unwrap_or(i64::MAX);
                    stream.credit -= spent;
                    state.credit -= spent;
                    Some(Ok(len))
                })
                .await?;
            let payload = bytes.split_to(len);
            self.queue(payload, false).await?;
        }
        Ok(())
    }

    /// Sends a frame without bytes, where that means something.
    pub(crate) async fn announce(&mut self) -> Result<(), Gone> {
        self.queue(Bytes::new(), false).await
    }

    /// Says that there is no more. What is sent afterwards breaks the protocol.
    pub(crate) async fn half_close(&mut self) -> Result<(), Gone> {
        if !self.done {
            self.queue(Bytes::new(), true).await?;
            self.done = true;
        }
        Ok(())
    }

    /// Says that there is no more.
    pub(crate) async fn finish(mut self) -> Result<(), Gone> {
        self.half_close().await
    }

    /// Resets the stream once all that was sent on it is on its way.
    pub(crate) async fn reset(mut self) -> Result<(), Gone> {
        let (stream, status) = (self.id, CANCEL);
        self.enqueue(Outbound::Reset { stream, status }).await?;
        self.done = true;
        self.link.remote_reset(stream);
        Ok(())
    }

    /// Resolves when the client has gone or has reset the stream. Does not borrow the stream.
    pub(crate) fn gone(&self) -> impl Future<Output = ()> + use<> {
        let (link, id) = (self.link.clone(), self.id);
        async move {
            link.when(|state: &mut State| state.is_gone(id).then_some(()))
                .await;
        }
    }

    async fn queue(&mut self, payload: Bytes, fin: bool) -> Result<(), Gone> {
        let stream = self.id;
        self.enqueue(Outbound::Data {
            stream,
            payload,
            fin,
        })
        .await
    }

    async fn enqueue(&mut self, frame: Outbound) -> Result<(), Gone> {
        tokio::select! {
            biased;
            () = self.gone() => Err(Gone),
            room = self.data.reserve() => {
                room.map_err(|_| Gone)?.send(frame);
                Ok(())
            }
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let mut state = self.link.lock();
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return;
        };
        stream.has_writer = false;
        stream.local_done = true;
        if !self.done && !stream.reset {
            let (stream, status) = (self.id, CANCEL);
            self.link.control(Outbound::Reset { stream, status });
            self.link.reset(&mut state, stream);
        }
        state.forget_if_over(self.id);
    }
}
