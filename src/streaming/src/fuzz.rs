//! What fuzz targets call: each takes bytes as a peer might send them to one of the parsers, in pieces of any length.

use crate::{resize::SizeReader, spdy, tickets::parse_path, websocket};

/// Cuts the bytes into pieces, the first byte telling how long they are.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (len, rest) = bytes
        .split_first()
        .map_or((1, bytes), |(&len, rest)| (usize::from(len).max(1), rest));
    rest.chunks(len)
}

/// Frames of SPDY. What is decoded is encoded again, and has to be decoded to the same.
pub fn spdy_codec(bytes: &[u8]) {
    let mut decoder = spdy::Decoder::default();
    let (mut encoder, mut mirror) = (spdy::Encoder::default(), spdy::Decoder::default());
    for piece in pieces(bytes) {
        decoder.buffer.extend_from_slice(piece);
        while let Ok(Some(frame)) = decoder.frame() {
            // Headers that compress to too much have left their mark in the encoder's state.
            if encoder.encode(&frame, &mut mirror.buffer).is_err() {
                return;
            }
            assert_eq!(mirror.frame(), Ok(Some(frame)));
        }
    }
}

/// Frames of WebSocket.
pub fn websocket_frames(bytes: &[u8]) {
    let mut decoder = websocket::Decoder::default();
    for piece in pieces(bytes) {
        decoder.buffer.extend_from_slice(piece);
        while let Ok(Some(_)) = decoder.event() {}
    }
}

/// A request's path.
pub fn token_path(bytes: &[u8]) {
    if let Ok(path) = std::str::from_utf8(bytes)
        && let Some((endpoint, token)) = parse_path(path)
    {
        assert_eq!(format!("/{}/{token}", endpoint.as_str()), path);
    }
}

/// Sizes of a terminal.
pub fn sizes(bytes: &[u8]) {
    let mut reader = SizeReader::default();
    for piece in pieces(bytes) {
        if reader.push(piece).is_err() {
            return;
        }
    }
}
