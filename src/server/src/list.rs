//! List replies, put together from items that were encoded once.
//!
//! A pod, container or image is an immutable value, and its encoded form is kept with it: until it changes, listing it
//! costs a copy of some hundred bytes. What is kept is the item alone, so single messages and pieces of a stream are made
//! of the same bytes.

use api::list::{Items, framed_len};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use prost::Message;
use tonic::{Code, Response, Status};

use crate::errors::status;

/// Bytes of one piece of a stream. Far below the limit of a message, and large enough to need few of them.
const PIECE_BYTES: usize = 1 << 20;

/// A reply stream of a List-like RPC.
pub(crate) type Pieces<T> = BoxStream<'static, Result<Items<T>, Status>>;

/// A message's encoded form.
pub(crate) fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// Does what takes the processor for long, such as encoding thousands of statistics, beside the threads that serve.
pub(crate) async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| status(Code::Internal, &format!("put the reply together: {error}")))
}

/// One reply with all items. `what` names them and `stream` the RPC that has no limit.
pub(crate) fn whole<T>(
    items: Vec<Bytes>,
    what: &str,
    stream: &str,
) -> Result<Response<Items<T>>, Status> {
    let bytes: usize = items.iter().map(|item| framed_len(item.len())).sum();
    if bytes > api::MAX_MESSAGE_BYTES {
        return Err(status(
            Code::ResourceExhausted,
            &format!(
                "{} {what} take {} MiB, and a reply can hold {} MiB: use {stream} or a filter",
                items.len(),
                bytes >> 20,
                api::MAX_MESSAGE_BYTES >> 20
            ),
        ));
    }
    Ok(Response::new(Items::Encoded(items)))
}

/// A stream with all items, each exactly once.
pub(crate) fn pieces<T: Send + 'static>(items: Vec<Bytes>) -> Response<Pieces<T>> {
    let mut pieces = Vec::new();
    let (mut piece, mut bytes) = (Vec::new(), 0);
    for item in items {
        let len = framed_len(item.len());
        if bytes + len > PIECE_BYTES && !piece.is_empty() {
            pieces.push(std::mem::take(&mut piece));
            bytes = 0;
        }
        bytes += len;
        piece.push(item);
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    let pieces = pieces.into_iter().map(|piece| Ok(Items::Encoded(piece)));
    Response::new(stream::iter(pieces).boxed())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use api::cri;

    use super::*;

    fn items(count: usize, bytes: usize) -> Vec<Bytes> {
        (0..count)
            .map(|index| {
                encoded(&cri::Container {
                    id: format!("{index}-{}", "x".repeat(bytes)),
                    ..cri::Container::default()
                })
            })
            .collect()
    }

    #[tokio::test]
    async fn work_is_done_beside_the_thread_that_serves() {
        let here = std::thread::current().id();
        let there = beside(|| std::thread::current().id()).await.unwrap();
        assert_ne!(here, there);
        let error = beside(|| panic!("on purpose")).await.unwrap_err();
        assert_eq!(error.code(), Code::Internal);
    }

    #[test]
    fn a_reply_holds_all_items() {
        let reply = whole::<cri::Container>(items(3, 2), "containers", "StreamContainers");
        let ids: Vec<_> = reply
            .unwrap()
            .into_inner()
            .into_vec()
            .unwrap()
            .into_iter()
            .map(|container| container.id)
            .collect();
        assert_eq!(ids, ["0-xx", "1-xx", "2-xx"]);
    }

    #[test]
    fn a_reply_beyond_the_limit_is_refused_with_the_way_out() {
        let item = items(1, 1 << 20).remove(0);
        let fits = vec![item.clone(); 15];
        assert!(whole::<cri::Container>(fits, "containers", "StreamContainers").is_ok());
        let error =
            whole::<cri::Container>(vec![item; 16], "containers", "StreamContainers").unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert!(error.message().contains("16 containers"), "{error}");
        assert!(error.message().contains("StreamContainers"), "{error}");
    }

    #[tokio::test]
    async fn pieces_hold_every_item_once() {
        for (count, bytes) in [(0, 1), (1, 1), (1, 3 << 20), (5, 1 << 19), (4000, 1000)] {
            let sent = items(count, bytes);
            let pieces: Vec<_> = pieces::<cri::Container>(sent.clone())
                .into_inner()
                .collect()
                .await;
            let mut received = Vec::new();
            for piece in pieces {
                let Items::Encoded(piece) = piece.unwrap() else {
                    panic!("items are sent encoded");
                };
                assert!(!piece.is_empty());
                let len: usize = piece.iter().map(|item| framed_len(item.len())).sum();
                assert!(len <= PIECE_BYTES || piece.len() == 1);
                received.extend(piece);
            }
            assert_eq!(received, sent);
        }
    }
}
