//! A reader of tar archives for hostile input.
//!
//! It reads the formats in which layers come (ustar, GNU and PAX with all their ways of writing long names, large numbers
//! and sparse files) the way Go's archive/tar does, because that is what wrote nearly all of them and what every other
//! engine reads them with: two readers that disagree about an archive are a hole. The `tar` crate is not used for it:
//! it takes extended headers of any size into memory, and splits PAX records at newlines, which occur in values
//! (`security.capability` of CAP_DAC_OVERRIDE and CAP_FOWNER has one).
//!
//! Memory is bounded by [`UnpackLimits::header_bytes`]; file contents are never held, but handed out as they pass.

mod header;
mod pax;
mod sparse;

use std::io::{self, BufRead};

use crate::{
    UnpackLimits,
    recipe::Recorder,
    tarball::{
        header::{BLOCK_BYTES, Block},
        pax::Records,
    },
};

pub(crate) use sparse::Extent;

/// What is wrong with a tar.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It ends in the middle of an entry, or of a header.
    #[error("the tar is cut short")]
    CutShort,
    /// A header is not one: its checksum is wrong.
    #[error("the header's checksum is wrong: this is no tar, or a damaged one")]
    Checksum,
    /// A number in a header is none, or does not fit.
    #[error("the header's {field} is no number, or out of range")]
    Number {
        /// Which one.
        field: &'static str,
    },
    /// The extended headers of an entry are too large.
    #[error("the entry's extended headers exceed {max_bytes} bytes")]
    HeaderTooLarge {
        /// How large they may be.
        max_bytes: u64,
    },
    /// A PAX header's records are malformed.
    #[error("the entry's PAX header is malformed")]
    Pax,
    /// A name holds a NUL byte.
    #[error("a name in the entry's extended header holds a NUL byte")]
    NulInName,
    /// A sparse file's map of holes is malformed.
    #[error("the map of the sparse file is malformed")]
    Sparse,
    /// An entry of a type that nobody can unpack.
    #[error("entries of type {:?} are not known", char::from(*.kind))]
    UnknownType {
        /// The type letter.
        kind: u8,
    },
    /// The tar ends properly, but one of its extended headers describes nothing.
    #[error("an extended header stands at the end, where it describes nothing")]
    Dangling,
    /// Reading failed.
    #[error("read the tar")]
    Read(#[source] io::Error),
    /// The recipe for writing the tar again could not be written. The tar is not to blame.
    #[error("write the tar's recipe")]
    Recipe(#[source] io::Error),
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file. If `extents` are told, only these are in the archive, and the rest are holes.
    File {
        extents: Option<Vec<Extent>>,
    },
    Directory,
    /// A further name for an earlier file.
    HardLink {
        target: Vec<u8>,
    },
    Symlink {
        target: Vec<u8>,
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// A point in time since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// An entry of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    /// Size of the file, holes included.
    pub(crate) size: u64,
    /// Permission bits, with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified: Time,
    /// Extended attributes, each once.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads the entries of an archive, one after the other.
pub(crate) struct TarReader<R> {
    input: R,
    recorder: Recorder,
    max_header_bytes: u64,
    /// Bytes of the current member's contents that were not handed out yet.
    remaining: u64,
    /// Bytes between the current member's contents and the next header.
    padding: u64,
    /// Entries so far.
    entries: u64,
}

impl<R: BufRead> TarReader<R> {
    pub(crate) fn new(input: R, limits: &UnpackLimits, recorder: Recorder) -> Self {
        Self {
            input,
            recorder,
            max_header_bytes: limits.header_bytes,
            remaining: 0,
            padding: 0,
            entries: 0,
        }
    }

    /// How many entries were read so far, the current one included.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// The next entry, `None` at the end of the archive. What was not read of the current one's contents is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, TarError> {
        let mut records = Records::default();
        let mut long_name = None;
        let mut long_link = None;
        let mut extended = false;
        let mut budget = self.max_header_bytes;
        loop {
            self.skip_rest()?;
            let Some(block) = self.header()? else {
                return if extended {
                    Err(TarError::Dangling)
                } else {
                    Ok(None)
                };
            };
            let size = block.size()?;
            match block.kind() {
                b'x' => records = Records::parse(&self.extended_header(size, &mut budget)?)?,
                b'L' => long_name = Some(cut_at_nul(self.extended_header(size, &mut budget)?)),
                b'K' => long_link = Some(cut_at_nul(self.extended_header(size, &mut budget)?)),
                // Global headers set nothing that concerns a layer; Go's reader leaves them aside too.
                b'g' => {
                    self.set_contents(size)?;
                    continue;
                }
                _ => {
                    self.entries += 1;
                    return self
                        .member(&block, &records, long_name, long_link, budget)
                        .map(Some);
                }
            }
            extended = true;
        }
    }

    /// The next piece of the current member's contents as it is stored, empty at their end. [`Self::consume`] takes it.
    pub(crate) fn contents(&mut self) -> Result<&[u8], TarError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let available = self.input.fill_buf().map_err(TarError::Read)?;
        if available.is_empty() {
            return Err(TarError::CutShort);
        }
        let count = usize::try_from(self.remaining)
            .unwrap_or(usize::MAX)
            .min(available.len());
        Ok(&available[..count])
    }

    /// Takes `count` bytes of what [`Self::contents`] showed. They can be found in the layer afterwards, at the place
    /// given to [`Self::stored_as`], so they are not recorded.
    pub(crate) fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.remaining = self.remaining.saturating_sub(count as u64);
    }

    /// As [`Self::consume`], for contents that are not in the layer as they are in the archive.
    pub(crate) fn consume_recorded(&mut self, count: usize) -> Result<(), TarError> {
        self.take_recorded(count as u64)?;
        self.remaining = self.remaining.saturating_sub(count as u64);
        Ok(())
    }

    /// Tells where in the layer the current member's contents are going to be.
    pub(crate) fn stored_as(&mut self, path: &[u8]) -> Result<(), TarError> {
        if self.remaining == 0 {
            return Ok(());
        }
        self.recorder
            .contents(path, self.remaining)
            .map_err(TarError::Recipe)
    }

    /// Tells that what was at this place of the layer was moved aside.
    pub(crate) fn replaced(&mut self, path: &[u8]) -> Result<(), TarError> {
        self.recorder.replaced(path).map_err(TarError::Recipe)
    }

    /// Reads what stands after the end of the archive, and completes the recipe.
    pub(crate) fn finish(mut self) -> Result<(), TarError> {
        loop {
            let left = self.input.fill_buf().map_err(TarError::Read)?.len();
            if left == 0 {
                return self.recorder.finish().map_err(TarError::Recipe);
            }
            self.take_recorded(left as u64)?;
        }
    }

    fn member(
        &mut self,
        block: &Block,
        records: &Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        mut budget: u64,
    ) -> Result<Member, TarError> {
        let mut name = match long_name {
            Some(name) => name,
            None => records.name("path")?.unwrap_or_else(|| block.name()),
        };
        let link = match long_link {
            Some(link) => link,
            None => records.name("linkpath")?.unwrap_or_else(|| block.link()),
        };
        let mut size = match records.number("size")? {
            Some(size) => size,
            None => block.size()?,
        };
        let kind = match block.kind() {
            // The oldest tars had no letter for a directory.
            0 if name.ends_with(b"/") => Kind::Directory,
            b'0' | b'7' | b'S' | 0 => Kind::File { extents: None },
            b'1' => Kind::HardLink { target: link },
            b'2' => Kind::Symlink { target: link },
            b'3' => {
                let (major, minor) = block.device()?;
                Kind::CharDevice { major, minor }
            }
            b'4' => {
                let (major, minor) = block.device()?;
                Kind::BlockDevice { major, minor }
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            kind => return Err(TarError::UnknownType { kind }),
        };
        let kind = if let Kind::File { .. } = kind {
            self.set_contents(size)?;
            let extents = if block.kind() == b'S' {
                let (real_size, extents) = self.gnu_map(block, &mut budget)?;
                size = real_size;
                Some(extents)
            } else if let Some(map) = records.sparse_map()? {
                if let Some(real_name) = records.name("GNU.sparse.name")? {
                    name = real_name;
                }
                size = map.real_size.unwrap_or(size);
                Some(match map.extents {
                    Some(extents) => extents,
                    None => self.map_in_contents(&mut budget)?,
                })
            } else {
                None
            };
            if let Some(extents) = &extents {
                sparse::check(extents, size, self.remaining)?;
            }
            Kind::File { extents }
        } else {
            // Whatever size such an entry claims, nothing follows its header.
            size = 0;
            self.set_contents(0)?;
            kind
        };
        let id = |field: &'static str, header: Result<u64, TarError>| {
            let number = match records.number(field)? {
                Some(number) => number,
                None => header?,
            };
            // The largest one means "leave it" to chown(2).
            u32::try_from(number)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or(TarError::Number { field })
        };
        Ok(Member {
            kind,
            size,
            mode: block.mode()? & 0o7777,
            uid: id("uid", block.uid())?,
            gid: id("gid", block.gid())?,
            modified: match records.time("mtime")? {
                Some(time) => time,
                None => block.modified()?,
            },
            xattrs: records.xattrs(),
            name,
        })
    }

    /// Reads the block of 512 bytes that opens an entry, `None` at the end.
    fn header(&mut self) -> Result<Option<Block>, TarError> {
        if self.at_end()? {
            return Ok(None);
        }
        let block = Block(self.block()?);
        if !block.is_zero() {
            block.check()?;
            return Ok(Some(block));
        }
        // Two blocks of zeros end the archive; one will do where nothing follows.
        if self.at_end()? || Block(self.block()?).is_zero() {
            Ok(None)
        } else {
            Err(TarError::Checksum)
        }
    }

    fn at_end(&mut self) -> Result<bool, TarError> {
        Ok(self.input.fill_buf().map_err(TarError::Read)?.is_empty())
    }

    /// The next 512 bytes.
    fn block(&mut self) -> Result<[u8; BLOCK_BYTES], TarError> {
        let mut block = [0; BLOCK_BYTES];
        self.read_recorded(&mut block)?;
        Ok(block)
    }

    /// The contents of an extended header.
    fn extended_header(&mut self, size: u64, budget: &mut u64) -> Result<Vec<u8>, TarError> {
        self.spend(size, budget)?;
        self.set_contents(size)?;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        self.read_recorded(&mut bytes)?;
        self.remaining = 0;
        Ok(bytes)
    }

    fn spend(&self, bytes: u64, budget: &mut u64) -> Result<(), TarError> {
        *budget = budget.checked_sub(bytes).ok_or(TarError::HeaderTooLarge {
            max_bytes: self.max_header_bytes,
        })?;
        Ok(())
    }

    /// Notes how much follows a header.
    fn set_contents(&mut self, size: u64) -> Result<(), TarError> {
        const BLOCK: u64 = BLOCK_BYTES as u64;
        // No archive is that large, and sums of such numbers could overflow.
        if size > i64::MAX as u64 {
            return Err(TarError::Number { field: "size" });
        }
        self.remaining = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let left = self.remaining;
        self.take_recorded(left)?;
        self.remaining = 0;
        let padding = self.padding;
        self.take_recorded(padding)?;
        self.padding = 0;
        Ok(())
    }

    fn read_recorded(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        match self.input.read_exact(buffer) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(TarError::CutShort);
            }
            Err(error) => return Err(TarError::Read(error)),
        }
        self.recorder.bytes(buffer).map_err(TarError::Recipe)
    }

    /// Passes over `count` bytes.
    fn take_recorded(&mut self, mut count: u64) -> Result<(), TarError> {
        while count > 0 {
            let available = self.input.fill_buf().map_err(TarError::Read)?;
            if available.is_empty() {
                return Err(TarError::CutShort);
            }
            let taken = usize::try_from(count)
                .unwrap_or(usize::MAX)
                .min(available.len());
            self.recorder
                .bytes(&available[..taken])
                .map_err(TarError::Recipe)?;
            self.input.consume(taken);
            count -= taken as u64;
        }
        Ok(())
    }
}

fn cut_at_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

#[cfg(test)]
#[path = "tarball_tests.rs"]
mod tests;
