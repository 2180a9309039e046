//! Sparse files: GNU's own format, and the three that GNU tar writes into PAX headers.

use std::io::BufRead;

use crate::tarball::{
    BLOCK_BYTES, TarError, TarReader,
    header::{Block, number},
};

/// A part of a file that is not a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What a PAX header says of a sparse file.
#[derive(Debug)]
pub(super) struct PaxMap {
    pub(super) real_size: Option<u64>,
    /// `None` in format 1.0, where the map stands before the file's contents.
    pub(super) extents: Option<Vec<Extent>>,
}

/// One pair of offset and length in GNU's format: 12 bytes each.
const PAIR_BYTES: usize = 24;

impl<R: BufRead> TarReader<R> {
    /// Reads the map of GNU's own format, which begins in the header and goes on in blocks after it.
    pub(super) fn gnu_map(
        &mut self,
        block: &Block,
        budget: &mut u64,
    ) -> Result<(u64, Vec<Extent>), TarError> {
        let (pairs, mut more, real_size) = block.gnu_sparse();
        let real_size = unsigned(real_size)?;
        let mut extents = Vec::new();
        push_pairs(&mut extents, pairs)?;
        while more {
            self.spend(BLOCK_BYTES as u64, budget)?;
            // These blocks do not count as contents.
            let block = self.block()?;
            push_pairs(&mut extents, &block[..504])?;
            more = block[504] != 0;
        }
        Ok((real_size, extents))
    }

    /// Reads the map of PAX format 1.0: decimal numbers on lines of their own, first how many extents there are, then
    /// offset and length of each; then zeros up to the end of the block.
    pub(super) fn map_in_contents(&mut self, budget: &mut u64) -> Result<Vec<Extent>, TarError> {
        let mut lines = Vec::new();
        let mut ended = 0;
        let mut needed: Option<u64> = None;
        loop {
            if needed.is_none() && ended > 0 {
                let count = lines.split(|byte| *byte == b'\n').next();
                let count = count.and_then(decimal).ok_or(TarError::Sparse)?;
                needed = Some(count.saturating_mul(2).saturating_add(1));
            }
            if needed.is_some_and(|needed| ended >= needed) {
                break;
            }
            let size = BLOCK_BYTES as u64;
            self.spend(size, budget)?;
            if self.remaining < size {
                return Err(TarError::Sparse);
            }
            let block = self.block()?;
            ended += block.split(|byte| *byte == b'\n').skip(1).count() as u64;
            lines.extend_from_slice(&block);
            self.remaining -= size;
        }
        let numbers = usize::try_from(needed.unwrap_or(1) - 1).unwrap_or(usize::MAX);
        parse_list(lines.split(|byte| *byte == b'\n').skip(1).take(numbers))
    }
}

fn push_pairs(extents: &mut Vec<Extent>, pairs: &[u8]) -> Result<(), TarError> {
    for pair in pairs.chunks_exact(PAIR_BYTES) {
        let (offset, length) = pair.split_at(PAIR_BYTES / 2);
        // An empty pair ends the list.
        if offset[0] == 0 || length[0] == 0 {
            break;
        }
        extents.push(Extent {
            offset: unsigned(offset)?,
            length: unsigned(length)?,
        });
    }
    Ok(())
}

fn unsigned(field: &[u8]) -> Result<u64, TarError> {
    number(field)
        .and_then(|number| u64::try_from(number).ok())
        .ok_or(TarError::Sparse)
}

/// Reads offsets and lengths in turn.
pub(super) fn parse_list<'a>(
    numbers: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<Extent>, TarError> {
    let numbers = numbers
        .map(|digits| decimal(digits).ok_or(TarError::Sparse))
        .collect::<Result<Vec<_>, _>>()?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(TarError::Sparse);
    }
    Ok(pairs
        .iter()
        .map(|&[offset, length]| Extent { offset, length })
        .collect())
}

/// Reads a number of decimal digits and nothing else.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Checks that the extents stand in order, within the file, and take exactly what the archive has for them.
pub(super) fn check(extents: &[Extent], real_size: u64, stored: u64) -> Result<(), TarError> {
    let mut end = 0_u64;
    let mut total = 0_u64;
    for extent in extents {
        if extent.offset < end {
            return Err(TarError::Sparse);
        }
        end = extent
            .offset
            .checked_add(extent.length)
            .ok_or(TarError::Sparse)?;
        total += extent.length;
    }
    if end > real_size || total != stored || real_size > i64::MAX as u64 {
        return Err(TarError::Sparse);
    }
    Ok(())
}
