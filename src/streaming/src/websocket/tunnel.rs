//! A WebSocket that carries a byte stream, in which the client speaks SPDY: kubectl's port-forward through proxies.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    sync::mpsc,
};

use super::{
    channels::control,
    frame::{self, Decoder, Event},
};
use crate::{
    drive::{self, End},
    link::{Close, Link, Outbound},
    spdy::SpdyError,
    window::Windows,
    write::Encode,
};

/// How much is read at once, and kept between the two protocols.
const READ_LEN: usize = 64 * 1024;
/// The one stream of the tunnel.
const STREAM: u32 = 0;

/// Starts to carry bytes over a WebSocket. The future runs it, and ends with it.
pub(crate) fn tunnel<R, W>(
    read: R,
    write: W,
    early: Bytes,
    idle: Duration,
) -> (DuplexStream, impl Future<Output = End>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (inner, outer) = tokio::io::duplex(READ_LEN);
    let (from_inner, to_inner) = tokio::io::split(outer);
    let (link, data, queues) = Link::new(Windows::Absent);
    let driver = drive::drive(
        link.clone(),
        inbound(read, early, to_inner, link),
        write,
        Encoder,
        queues,
        idle,
    );
    let run = async move {
        let mut driver = std::pin::pin!(driver);
        // What SPDY has to say to its end, and then the end of the WebSocket.
        tokio::select! {
            end = &mut driver => return end,
            () = outbound(from_inner, data) => {}
        }
        driver.await
    };
    (inner, run)
}

async fn inbound(
    mut wire: impl AsyncRead + Unpin,
    early: Bytes,
    mut inner: impl AsyncWrite + Unpin,
    link: Arc<Link>,
) -> End {
    let mut decoder = Decoder::default();
    decoder.buffer.extend_from_slice(&early);
    loop {
        loop {
            match decoder.event() {
                Ok(Some(Event::Piece { payload, .. })) => {
                    // SPDY that has ended takes no more; what the client still sends is read to its end all the same.
                    let _ = inner.write_all(&payload).await;
                }
                Ok(Some(Event::Ping(payload))) => link.control(Outbound::Pong(payload)),
                Ok(Some(Event::Pong)) => {}
                Ok(Some(Event::Close)) => return End::Closed,
                Ok(None) => break,
                Err(error) => return End::Garbage(error.to_string()),
            }
        }
        decoder.buffer.reserve(READ_LEN);
        match wire.read_buf(&mut decoder.buffer).await {
            Ok(0) => return End::Left,
            Ok(_) => link.meter.touch(),
            Err(error) => return End::Broken(error),
        }
    }
}

async fn outbound(mut inner: impl AsyncRead + Unpin, data: mpsc::Sender<Outbound>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_LEN / 2);
        match inner.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let frame = Outbound::Data {
            stream: STREAM,
            payload: buffer.split().freeze(),
            fin: false,
        };
        if data.send(frame).await.is_err() {
            return;
        }
    }
    let _ = data.send(Outbound::Close(Close::Done)).await;
}

struct Encoder;

impl Encode for Encoder {
    fn encode(&mut self, frame: Outbound, out: &mut BytesMut) -> Result<Option<Bytes>, SpdyError> {
        if let Outbound::Data { payload, .. } = frame {
            frame::message_head(false, payload.len(), out);
            return Ok(Some(payload));
        }
        control(frame, out);
        Ok(None)
    }
}
