//! Lets in clients that name the socket in `:authority`.
//!
//! Over a Unix socket there is no host to name, so gRPC libraries differ: the kubelet and crictl send `localhost`,
//! C-core clients (Python, Ruby, C++) the percent-encoded socket path, others the path itself. h2 takes neither `%` nor
//! `/` there and resets the stream before any of our code sees it. So the bytes of an accepted connection pass through
//! [`Mended`], which finds the header blocks and replaces what h2 would refuse.
//!
//! Everything else passes untouched, and so does all that is not HTTP/2: refusing is left to h2. At most one header
//! block of [`MAX_BLOCK_BYTES`] is held back, until its last byte has come.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

mod hpack;

/// What an HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length (3 bytes), type, flags, stream id (4 bytes).
const FRAME_HEADER_BYTES: usize = 9;
/// A longer header block passes unread. h2 itself takes frames of 16 KiB.
const MAX_BLOCK_BYTES: usize = 64 << 10;
/// How much is read from the socket at once.
const CHUNK_BYTES: usize = 8 << 10;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const FLAG_END_HEADERS: u8 = 0x4;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;

/// A server's side of a connection whose incoming `:authority` values are always acceptable to h2.
#[derive(Debug)]
pub(crate) struct Mended<IO> {
    io: IO,
    frames: Frames,
    /// Ready for the reader from `ready_at` on.
    ready: Vec<u8>,
    ready_at: usize,
}

impl<IO> Mended<IO> {
    /// Wraps a connection of which nothing has been read.
    pub(crate) fn new(io: IO) -> Self {
        Self {
            io,
            frames: Frames::default(),
            ready: Vec::new(),
            ready_at: 0,
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Mended<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.ready_at < this.ready.len() {
                let bytes = &this.ready[this.ready_at..];
                let len = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..len]);
                this.ready_at += len;
                return Poll::Ready(Ok(()));
            }
            this.ready.clear();
            this.ready_at = 0;
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            // Payload that passes anyway goes straight to the reader.
            if this.frames.passing() > 0 {
                let len = this.frames.passing().min(buf.remaining()).min(CHUNK_BYTES);
                let mut payload = ReadBuf::new(buf.initialize_unfilled_to(len));
                ready!(Pin::new(&mut this.io).poll_read(cx, &mut payload))?;
                let len = payload.filled().len();
                this.frames.passed(len);
                buf.advance(len);
                return Poll::Ready(Ok(()));
            }
            let mut chunk = [0; CHUNK_BYTES];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                this.frames.finish(&mut this.ready);
                if this.ready.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            } else {
                this.frames.push(chunk.filled(), &mut this.ready);
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Mended<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// Cuts a client's bytes into frames, and mends header blocks as they become complete.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes of the preface seen.
    preface: usize,
    /// The bytes that follow, as far as this, pass untouched.
    passing: usize,
    /// A frame header that is not complete, or the frames of a header block that is not.
    held: Vec<u8>,
    /// Where the last frame in `held` starts.
    frame_at: usize,
}

impl Frames {
    fn passing(&self) -> usize {
        self.passing
    }

    fn passed(&mut self, len: usize) {
        // Verbatim is for ever.
        if self.passing != usize::MAX {
            self.passing -= len;
        }
    }

    /// Takes what the client sent and appends what may go on to `out`.
    fn push(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while !input.is_empty() {
            if self.passing > 0 {
                let (pass, rest) = input.split_at(self.passing.min(input.len()));
                out.extend_from_slice(pass);
                self.passed(pass.len());
                input = rest;
            } else if let Some(wanted) = PREFACE.get(self.preface) {
                if input[0] == *wanted {
                    out.push(input[0]);
                    self.preface += 1;
                    input = &input[1..];
                } else {
                    self.passing = usize::MAX;
                }
            } else {
                let (hold, rest) = input.split_at(self.missing().min(input.len()));
                self.held.extend_from_slice(hold);
                input = rest;
                self.consider(out);
            }
        }
    }

    /// The client has closed its side: nothing more will complete what is held.
    fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        self.frame_at = 0;
    }

    /// Bytes until the last held frame has a header, or until it is complete. Not 0 between two calls of `push`.
    fn missing(&self) -> usize {
        let frame = &self.held[self.frame_at..];
        let wanted = if frame.len() < FRAME_HEADER_BYTES {
            FRAME_HEADER_BYTES
        } else {
            FRAME_HEADER_BYTES + payload_bytes(frame)
        };
        wanted - frame.len()
    }

    /// Decides about the last held frame, once its header is there and again once it is complete.
    fn consider(&mut self, out: &mut Vec<u8>) {
        let frame = &self.held[self.frame_at..];
        if frame.len() < FRAME_HEADER_BYTES {
            return;
        }
        let payload = payload_bytes(frame);
        let wanted = if self.frame_at == 0 {
            HEADERS
        } else {
            CONTINUATION
        };
        let too_long = self.frame_at + FRAME_HEADER_BYTES + payload > MAX_BLOCK_BYTES;
        if frame[3] != wanted || too_long {
            self.passing = payload - (frame.len() - FRAME_HEADER_BYTES);
            self.finish(out);
            return;
        }
        if frame.len() < FRAME_HEADER_BYTES + payload {
            return;
        }
        if frame[4] & FLAG_END_HEADERS == 0 {
            self.frame_at = self.held.len();
        } else {
            mend_frames(&mut self.held);
            self.finish(out);
        }
    }
}

fn payload_bytes(frame: &[u8]) -> usize {
    usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2])
}

/// Mends the header block that the frames carry. Does nothing if they are malformed.
fn mend_frames(frames: &mut [u8]) {
    let Some(fragments) = fragments(frames) else {
        return;
    };
    let mut block: Vec<u8> = fragments
        .iter()
        .flat_map(|range| &frames[range.clone()])
        .copied()
        .collect();
    // What could not be mended is for h2 to judge.
    let _ = hpack::mend(&mut block);
    let mut rest = &block[..];
    for range in fragments {
        let (fragment, next) = rest.split_at(range.len());
        frames[range].copy_from_slice(fragment);
        rest = next;
    }
}

/// Where in the frames the pieces of the header block stand.
fn fragments(frames: &[u8]) -> Option<Vec<std::ops::Range<usize>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < frames.len() {
        let frame = &frames[at..];
        let mut start = at + FRAME_HEADER_BYTES;
        let mut end = start + payload_bytes(frame);
        if frame[3] == HEADERS {
            if frame[4] & FLAG_PADDED != 0 {
                let padding = usize::from(*frames.get(start)?);
                start += 1;
                end = end.checked_sub(padding)?;
            }
            if frame[4] & FLAG_PRIORITY != 0 {
                start += 5;
            }
        }
        if start > end {
            return None;
        }
        ranges.push(start..end);
        at += FRAME_HEADER_BYTES + payload_bytes(frame);
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;
    use rstest::rstest;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    const BAD: &[u8] = b"%2Ftmp%2Fp.sock";
    const GOOD: &[u8] = b"-2Ftmp-2Fp.sock";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![len[1], len[2], len[3], kind, flags, 0, 0, 0, 1];
        frame.extend(payload);
        frame
    }

    fn block(value: &[u8]) -> Vec<u8> {
        let mut block = vec![0x83, 0x41, u8::try_from(value.len()).unwrap()];
        block.extend(value);
        block.extend([0x86, 0x84]);
        block
    }

    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(4, 0, &[0, 3, 0, 0, 0, 100]));
        for frame in frames {
            bytes.extend(frame);
        }
        // DATA that looks like a header field stays as it is.
        bytes.extend(frame(0, 1, &block(BAD)));
        bytes
    }

    fn pass(input: &[u8], chunk: usize) -> Vec<u8> {
        let (mut frames, mut out) = (Frames::default(), Vec::new());
        for piece in input.chunks(chunk) {
            frames.push(piece, &mut out);
        }
        frames.finish(&mut out);
        out
    }

    fn plain(value: &[u8]) -> Vec<Vec<u8>> {
        vec![frame(HEADERS, FLAG_END_HEADERS, &block(value))]
    }

    fn padded(value: &[u8]) -> Vec<Vec<u8>> {
        let mut payload = vec![3, 0, 0, 0, 0, 16];
        payload.extend(block(value));
        payload.extend([0; 3]);
        let flags = FLAG_END_HEADERS | FLAG_PADDED | FLAG_PRIORITY;
        vec![frame(HEADERS, flags, &payload)]
    }

    fn continued(value: &[u8]) -> Vec<Vec<u8>> {
        let block = block(value);
        vec![
            frame(HEADERS, 0, &block[..7]),
            frame(CONTINUATION, 0, &[]),
            frame(CONTINUATION, FLAG_END_HEADERS, &block[7..]),
        ]
    }

    #[rstest]
    #[case(plain)]
    #[case(padded)]
    #[case(continued)]
    fn header_blocks_are_mended_however_they_arrive(#[case] frames: fn(&[u8]) -> Vec<Vec<u8>>) {
        let input = connection(&frames(BAD));
        let wanted = connection(&frames(GOOD));
        for chunk in [1, 2, 7, 9, 10, 1000] {
            assert_eq!(pass(&input, chunk), wanted, "{chunk} bytes at a time");
        }
    }

    #[rstest]
    #[case::http1(b"GET /a%2Fb HTTP/1.1\r\nhost: %2F\r\n\r\n".to_vec())]
    #[case::interrupted_block(connection(&[frame(HEADERS, 0, &block(BAD)), frame(6, 0, &[0; 8])]))]
    #[case::padding_longer_than_the_frame(connection(&[frame(HEADERS, 0xc, &[200, 1, 2])]))]
    #[case::cut_short(connection(&plain(BAD))[..50].to_vec())]
    #[case::too_long(connection(&[frame(HEADERS, FLAG_END_HEADERS, &vec![0x41; MAX_BLOCK_BYTES])]))]
    fn what_is_not_understood_passes_untouched(#[case] input: Vec<u8>) {
        for chunk in [1, 11, 100_000] {
            assert!(pass(&input, chunk) == input, "{chunk} bytes at a time");
        }
    }

    #[tokio::test]
    async fn reading_gives_the_same_bytes() {
        let big = vec![7; 100_000];
        let frames = |value| [plain(value), vec![frame(0, 0, &big)], continued(value)].concat();
        let (input, wanted) = (connection(&frames(BAD)), connection(&frames(GOOD)));
        for (pipe, read) in [(64, 16), (1 << 20, 1 << 20), (100, 5000)] {
            let (mut client, server) = tokio::io::duplex(pipe);
            let sent = input.clone();
            tokio::spawn(async move {
                tokio::io::AsyncWriteExt::write_all(&mut client, &sent)
                    .await
                    .unwrap();
            });
            let mut server = Mended::new(server);
            let (mut found, mut buf) = (Vec::<u8>::new(), vec![0; read]);
            loop {
                let len = server.read(&mut buf).await.unwrap();
                if len == 0 {
                    break;
                }
                found.extend(&buf[..len]);
            }
            assert!(found == wanted, "pipe {pipe}, read {read}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_pass_with_their_length(tail: Vec<u8>, preface: bool, chunk in 1usize..40) {
            let mut input = if preface { PREFACE.to_vec() } else { Vec::new() };
            input.extend(tail);
            let out = pass(&input, chunk);
            prop_assert_eq!(out.len(), input.len());
            prop_assert_eq!(out, pass(&input, usize::MAX));
        }

        #[test]
        fn any_header_block_is_safe(mut payloads: Vec<(bool, u8, Vec<u8>)>, chunk in 1usize..40) {
            payloads.truncate(8);
            let frames: Vec<_> = payloads
                .iter()
                .map(|(headers, flags, payload)| {
                    frame(if *headers { HEADERS } else { CONTINUATION }, *flags, payload)
                })
                .collect();
            let input = connection(&frames);
            prop_assert_eq!(pass(&input, chunk).len(), input.len());
        }
    }
}
