//! How a layer's tar is compressed.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

use crate::StorageError;

/// Log2 of the largest zstd window that is accepted: 128 MiB, what `zstd` itself accepts without being asked. The window
/// is memory that the layer decides about.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// A compression that image specifications allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// None: the tar itself.
    Plain,
    /// gzip, in one or several members.
    Gzip,
    /// zstd, in one or several frames.
    Zstd,
    /// Whichever the first bytes tell. Registries hold layers whose media type is wrong, and docker archives say nothing.
    Detect,
}

impl Compression {
    /// Tells the compression from the first bytes of a layer; `Plain` if they are none of a compression's.
    fn of_magic(start: &[u8]) -> Result<Self, StorageError> {
        const GZIP: &[u8] = &[0x1f, 0x8b];
        const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
        // Frames to skip, with which zstd:chunked begins at times: 0x184d2a5? in little-endian.
        const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];
        let unknown = |name| Err(StorageError::UnknownCompression { name });
        if start.starts_with(GZIP) {
            Ok(Self::Gzip)
        } else if start.starts_with(ZSTD)
            || start
                .get(1..)
                .is_some_and(|rest| rest.starts_with(ZSTD_SKIPPABLE))
        {
            Ok(Self::Zstd)
        } else if start.starts_with(b"BZh") {
            unknown("bzip2")
        } else if start.starts_with(b"\xfd7zXZ\0") {
            unknown("xz")
        } else {
            Ok(Self::Plain)
        }
    }
}

/// Reads the tar out of a compressed layer.
pub(crate) enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
}

impl<R: BufRead> Decoder<R> {
    pub(crate) fn new(mut input: R, compression: Compression) -> Result<Self, StorageError> {
        let compression = match compression {
            Compression::Detect => {
                Compression::of_magic(input.fill_buf().map_err(StorageError::Read)?)?
            }
            told => told,
        };
        Ok(match compression {
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(input))),
            Compression::Zstd => {
                let failed = |source| StorageError::Uncompress {
                    compression: "zstd",
                    source,
                };
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(input).map_err(failed)?;
                decoder
                    .window_log_max(ZSTD_WINDOW_LOG_MAX)
                    .map_err(failed)?;
                Self::Zstd(Box::new(decoder))
            }
            Compression::Plain | Compression::Detect => Self::Plain(input),
        })
    }

    /// The reader of the compressed bytes.
    pub(crate) fn input(&self) -> &R {
        match self {
            Self::Plain(input) => input,
            Self::Gzip(decoder) => decoder.get_ref(),
            Self::Zstd(decoder) => decoder.get_ref(),
        }
    }

    /// What an error of reading means, given whether it was the input that failed.
    pub(crate) fn error(&self, source: io::Error, input_failed: bool) -> StorageError {
        let compression = match self {
            Self::Gzip(_) if !input_failed => "gzip",
            Self::Zstd(_) if !input_failed => "zstd",
            _ => return StorageError::Read(source),
        };
        StorageError::Uncompress {
            compression,
            source,
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn first_bytes_tell() {
        let of = |start: &[u8]| Compression::of_magic(start);
        assert_eq!(of(b"\x1f\x8b\x08").unwrap(), Compression::Gzip);
        assert_eq!(of(b"\x28\xb5\x2f\xfd").unwrap(), Compression::Zstd);
        assert_eq!(of(b"\x50\x2a\x4d\x18").unwrap(), Compression::Zstd);
        assert_eq!(of(b"etc/passwd").unwrap(), Compression::Plain);
        assert_eq!(of(b"").unwrap(), Compression::Plain);
        let error = of(b"\xfd7zXZ\0").unwrap_err();
        assert!(error.to_string().contains("xz"), "{error}");
        assert!(of(b"BZh9").unwrap_err().is_bad_layer());
    }
}
