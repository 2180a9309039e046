//! Header blocks: names and values, deflated with one state for a connection's whole life in each direction.
//!
//! The state makes order matter: every block has to pass through it, those of refused streams too, and in the order of the wire.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{
    dictionary::DICTIONARY,
    frame::{MAX_CONTROL_LEN, SpdyError},
};

/// Longest header block taken, uncompressed, in bytes.
const MAX_HEADER_BLOCK: usize = 64 * 1024;
/// Most headers in a block.
const MAX_HEADERS: u32 = 100;

/// Headers in the order of the wire, names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of a header, whatever the case of its name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self
            .0
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        // Several values of one name stand in one header, separated by NUL.
        value.split('\0').next()
    }
}

impl<N: AsRef<str>, V: Into<String>> FromIterator<(N, V)> for Headers {
    /// Of several pairs with one name, the first stays.
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, value) in pairs {
            let name = name.as_ref().to_ascii_lowercase();
            if !headers.iter().any(|(known, _)| *known == name) {
                headers.push((name, value.into()));
            }
        }
        Self(headers)
    }
}

/// Uncompresses a peer's header blocks.
pub(super) struct Inflater {
    zlib: Decompress,
    /// Reused for every block; at most [`MAX_HEADER_BLOCK`] and one byte.
    block: Vec<u8>,
}

impl Inflater {
    pub(super) fn new() -> Self {
        Self {
            zlib: Decompress::new(true),
            block: Vec::new(),
        }
    }

    /// Uncompresses and parses one block.
    pub(super) fn headers(&mut self, mut compressed: &[u8]) -> Result<Headers, SpdyError> {
        self.block.clear();
        // One byte more than allowed tells a block that is too long from one that just fits.
        self.block.reserve(4096);
        loop {
            let (read, written) = (self.zlib.total_in(), self.zlib.total_out());
            let outcome =
                self.zlib
                    .decompress_vec(compressed, &mut self.block, FlushDecompress::Sync);
            let read = usize::try_from(self.zlib.total_in() - read).unwrap_or(usize::MAX);
            compressed = compressed.get(read..).ok_or(SpdyError::Compression)?;
            match outcome {
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| SpdyError::Compression)?;
                    continue;
                }
                // A stream of zlib's that ends is an error too: it lasts as long as the connection.
                Ok(Status::StreamEnd) | Err(_) => return Err(SpdyError::Compression),
            }
            if self.block.len() > MAX_HEADER_BLOCK {
                return Err(SpdyError::HeadersTooLong);
            }
            if self.block.len() == self.block.capacity() {
                self.block.reserve(4096);
                continue;
            }
            if compressed.is_empty() {
                return parse(&self.block);
            }
            if self.zlib.total_out() == written && read == 0 {
                return Err(SpdyError::Compression);
            }
        }
    }
}

/// Compresses our header blocks.
pub(super) struct Deflater {
    zlib: Compress,
    /// Whether the dictionary is in place.
    primed: bool,
}

impl Deflater {
    pub(super) fn new() -> Self {
        let mut zlib = Compress::new(Compression::fast(), true);
        let primed = zlib.set_dictionary(&DICTIONARY).is_ok();
        Self { zlib, primed }
    }

    /// Appends the compressed block to `out`. What would not be taken by [`Inflater`] is refused.
    pub(super) fn headers(
        &mut self,
        headers: &Headers,
        out: &mut Vec<u8>,
    ) -> Result<(), SpdyError> {
        let block = serialize(headers)?;
        if !self.primed {
            return Err(SpdyError::Compression);
        }
        let mut rest = block.as_slice();
        loop {
            out.reserve(block.len() / 2 + 64);
            let read = self.zlib.total_in();
            self.zlib
                .compress_vec(rest, out, FlushCompress::Sync)
                .map_err(|_| SpdyError::Compression)?;
            let read = usize::try_from(self.zlib.total_in() - read).unwrap_or(usize::MAX);
            rest = rest.get(read..).ok_or(SpdyError::Compression)?;
            // A flush is whole when it left room.
            if rest.is_empty() && out.len() < out.capacity() {
                return if out.len() > MAX_CONTROL_LEN {
                    Err(SpdyError::HeadersTooLong)
                } else {
                    Ok(())
                };
            }
        }
    }
}

fn serialize(headers: &Headers) -> Result<Vec<u8>, SpdyError> {
    let count = u32::try_from(headers.0.len()).unwrap_or(u32::MAX);
    if count > MAX_HEADERS {
        return Err(SpdyError::TooManyHeaders(count));
    }
    let mut block = count.to_be_bytes().to_vec();
    for text in headers.0.iter().flat_map(|(name, value)| [name, value]) {
        let len = u32::try_from(text.len()).map_err(|_| SpdyError::HeadersTooLong)?;
        block.extend_from_slice(&len.to_be_bytes());
        block.extend_from_slice(text.as_bytes());
    }
    if block.len() > MAX_HEADER_BLOCK {
        return Err(SpdyError::HeadersTooLong);
    }
    Ok(block)
}

fn parse(block: &[u8]) -> Result<Headers, SpdyError> {
    let mut rest = block;
    let count = take_u32(&mut rest)?;
    if count > MAX_HEADERS {
        return Err(SpdyError::TooManyHeaders(count));
    }
    let mut headers: Vec<(String, String)> = Vec::new();
    for _ in 0..count {
        // Names have to be in lower case; who sends others means the same.
        let name = take_text(&mut rest)?.to_ascii_lowercase();
        let value = take_text(&mut rest)?;
        if name.is_empty() || headers.iter().any(|(known, _)| *known == name) {
            return Err(SpdyError::HeaderName);
        }
        headers.push((name, value));
    }
    if rest.is_empty() {
        Ok(Headers(headers))
    } else {
        Err(SpdyError::HeadersCut)
    }
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, SpdyError> {
    let (number, after) = rest.split_first_chunk().ok_or(SpdyError::HeadersCut)?;
    *rest = after;
    Ok(u32::from_be_bytes(*number))
}

fn take_text(rest: &mut &[u8]) -> Result<String, SpdyError> {
    let len = usize::try_from(take_u32(rest)?).map_err(|_| SpdyError::HeadersCut)?;
    let (text, after) = rest.split_at_checked(len).ok_or(SpdyError::HeadersCut)?;
    *rest = after;
    Ok(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::spdy::dictionary::ADLER32;

    #[test]
    fn the_dictionary_is_the_protocols() {
        let mut zlib = Compress::new(Compression::fast(), true);
        assert_eq!(zlib.set_dictionary(&DICTIONARY).unwrap(), ADLER32);
    }

    #[test]
    fn blocks_keep_their_state_from_one_to_the_next() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let headers: Headers = [("streamType", "stdin"), ("port", "80"), ("Empty", "")]
            .into_iter()
            .collect();
        let mut lengths = Vec::new();
        for _ in 0..3 {
            let mut out = Vec::new();
            deflater.headers(&headers, &mut out).unwrap();
            lengths.push(out.len());
            assert_eq!(inflater.headers(&out).unwrap(), headers);
        }
        assert!(
            lengths[1] < lengths[0],
            "the second refers to the first: {lengths:?}"
        );
        assert_eq!(headers.get("STREAMTYPE"), Some("stdin"));
        assert_eq!(headers.get("absent"), None);
    }

    #[test]
    fn a_block_that_uncompresses_to_too_much_is_refused() {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(&DICTIONARY).unwrap();
        let mut bomb = Vec::with_capacity(1 << 20);
        zlib.compress_vec(&vec![0; 16 << 20], &mut bomb, FlushCompress::Sync)
            .unwrap();
        assert!(bomb.len() < MAX_CONTROL_LEN, "{}", bomb.len());
        assert_eq!(
            Inflater::new().headers(&bomb),
            Err(SpdyError::HeadersTooLong)
        );
    }

    #[test]
    fn blocks_that_lie_are_refused() {
        let number = |n: u32| n.to_be_bytes().to_vec();
        let table: &[(Vec<u8>, SpdyError)] = &[
            (vec![], SpdyError::HeadersCut),
            (number(1), SpdyError::HeadersCut),
            (number(101), SpdyError::TooManyHeaders(101)),
            (number(u32::MAX), SpdyError::TooManyHeaders(u32::MAX)),
            (
                [number(1), number(u32::MAX)].concat(),
                SpdyError::HeadersCut,
            ),
            (
                [number(1), number(0), number(0)].concat(),
                SpdyError::HeaderName,
            ),
            ([number(0), vec![1]].concat(), SpdyError::HeadersCut),
            (
                [
                    number(2),
                    number(1),
                    b"a".to_vec(),
                    number(0),
                    number(1),
                    b"A".to_vec(),
                    number(0),
                ]
                .concat(),
                SpdyError::HeaderName,
            ),
        ];
        for (block, error) in table {
            assert_eq!(parse(block), Err(*error), "{block:?}");
        }
    }
}
