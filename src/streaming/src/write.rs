//! The one writer of a session: takes frames from its queues and puts them on the wire.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::{
    link::{Link, Outbound, Queues},
    spdy::SpdyError,
};

/// How a transport writes its frames.
pub(crate) trait Encode {
    /// Appends the frame to `out`, its payload excepted, which is given back to be sent behind it.
    fn encode(&mut self, frame: Outbound, out: &mut BytesMut) -> Result<Option<Bytes>, SpdyError>;
}

/// Writes until the frame [`Outbound::Close`] is out, or no one can send any more.
pub(crate) async fn write(
    mut wire: impl AsyncWrite + Unpin,
    mut encoder: impl Encode,
    mut queues: Queues,
    link: &Link,
) -> io::Result<()> {
    let mut head = BytesMut::new();
    loop {
        // Control frames go first: answers and grants must not stand behind output that the client is slow to take.
        let frame = tokio::select! {
            biased;
            frame = queues.control.recv() => frame,
            frame = queues.data.recv() => frame,
        };
        let Some(frame) = frame else {
            break;
        };
        let last = matches!(frame, Outbound::Close(_));
        let payload = encoder
            .encode(frame, &mut head)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        match payload {
            Some(payload) => {
                let len = payload.len();
                wire.write_all_buf(&mut head.split().chain(payload)).await?;
                link.meter.sent(len);
            }
            None => wire.write_all_buf(&mut head).await?,
        }
        head.clear();
        if last {
            break;
        }
        if queues.control.is_empty() && queues.data.is_empty() {
            wire.flush().await?;
        }
    }
    wire.flush().await?;
    wire.shutdown().await
}
