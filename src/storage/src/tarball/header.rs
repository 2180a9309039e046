//! The block of 512 bytes that opens every entry.

use crate::tarball::{TarError, Time};

/// Everything in a tar comes in blocks of this size.
pub(super) const BLOCK_BYTES: usize = 512;

/// A header block. Numbers and names are looked up in place.
pub(super) struct Block(pub(super) [u8; BLOCK_BYTES]);

impl Block {
    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// Checks the checksum, which is the sum of all bytes with the checksum itself taken as blanks. Some old tars summed
    /// signed bytes.
    pub(super) fn check(&self) -> Result<(), TarError> {
        let counted = |index: usize, byte: u8| {
            if (148..156).contains(&index) {
                b' '
            } else {
                byte
            }
        };
        let bytes = self.0.iter().enumerate();
        let unsigned: i64 = bytes
            .clone()
            .map(|(index, byte)| i64::from(counted(index, *byte)))
            .sum();
        let signed: i64 = bytes
            .map(|(index, byte)| i64::from(counted(index, *byte).cast_signed()))
            .sum();
        let told = number(&self.0[148..156]).ok_or(TarError::Checksum)?;
        if told == unsigned || told == signed {
            Ok(())
        } else {
            Err(TarError::Checksum)
        }
    }

    /// The type letter.
    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = text(&self.0[345..500]);
        // Only ustar has a prefix: GNU keeps times and sparse maps in its place, and says so by another magic.
        if &self.0[257..263] == b"ustar\0" && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_owned()
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_owned()
    }

    pub(super) fn mode(&self) -> Result<u32, TarError> {
        let mode = self.unsigned(100..108, "mode")?;
        // Some tars put the file type into the higher bits.
        Ok(u32::try_from(mode & 0o7777).unwrap_or(0))
    }

    pub(super) fn uid(&self) -> Result<u64, TarError> {
        self.unsigned(108..116, "uid")
    }

    pub(super) fn gid(&self) -> Result<u64, TarError> {
        self.unsigned(116..124, "gid")
    }

    pub(super) fn size(&self) -> Result<u64, TarError> {
        self.unsigned(124..136, "size")
    }

    pub(super) fn modified(&self) -> Result<Time, TarError> {
        let seconds = number(&self.0[136..148]).ok_or(TarError::Number { field: "mtime" })?;
        Ok(Time {
            seconds,
            nanoseconds: 0,
        })
    }

    pub(super) fn device(&self) -> Result<(u32, u32), TarError> {
        let part = |range, field| {
            let number = self.unsigned(range, field)?;
            u32::try_from(number).map_err(|_| TarError::Number { field })
        };
        Ok((part(329..337, "devmajor")?, part(337..345, "devminor")?))
    }

    /// GNU's sparse fields: up to four pairs of offset and length, whether more follow, and the file's real size.
    pub(super) fn gnu_sparse(&self) -> (&[u8], bool, &[u8]) {
        (&self.0[386..482], self.0[482] != 0, &self.0[483..495])
    }

    fn unsigned(
        &self,
        range: std::ops::Range<usize>,
        field: &'static str,
    ) -> Result<u64, TarError> {
        number(&self.0[range])
            .and_then(|number| u64::try_from(number).ok())
            .ok_or(TarError::Number { field })
    }
}

fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}

/// Reads a number: octal digits among blanks and NULs, or GNU's base 256 in two's complement, told by the first bit.
/// An empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // The second bit is the sign; the rest must fit.
        let mut value = if first & 0x40 != 0 { -1_i64 } else { 0 };
        value = value.checked_mul(0x40)? | i64::from(first & 0x3f);
        for byte in &field[1..] {
            value = value.checked_mul(0x100)? | i64::from(*byte);
        }
        return Some(value);
    }
    let is_filling = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_filling(byte));
    let Some(start) = start else {
        return Some(0);
    };
    let digits = &field[start..];
    let end = digits.iter().position(is_filling).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if !rest.iter().all(is_filling) {
        return None;
    }
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_in_all_notations() {
        for (field, expected) in [
            (b"0000644\0".as_slice(), Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777777\0", Some(0o777_7777_7777)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"0000888\0", None),
            (b"12 34\0\0\0", None),
            (b"-0000644", None),
            (b"", None),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }
}
