//! PAX headers: records of `length key=value\n` that say of the next entry what its header block cannot hold.

use std::collections::HashMap;

use crate::tarball::{TarError, Time, sparse};

/// The prefix of keys that carry extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// The records of one PAX header. Where a key stands more than once, the last one counts.
#[derive(Debug, Default)]
pub(super) struct Records {
    values: HashMap<Vec<u8>, Vec<u8>>,
    /// The map of a sparse file in format 0.0, where the same two keys stand again and again in turn.
    offsets_and_lengths: Vec<(bool, Vec<u8>)>,
}

impl Records {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, TarError> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let (record, rest) = split_record(bytes).ok_or(TarError::Pax)?;
            bytes = rest;
            let equals = record.iter().position(|byte| *byte == b'=');
            let (key, value) = record.split_at(equals.ok_or(TarError::Pax)?);
            let value = &value[1..];
            if key.is_empty() || key.contains(&0) {
                return Err(TarError::Pax);
            }
            match key {
                b"GNU.sparse.offset" => records.offsets_and_lengths.push((true, value.to_owned())),
                b"GNU.sparse.numbytes" => {
                    records.offsets_and_lengths.push((false, value.to_owned()));
                }
                _ => {
                    records.values.insert(key.to_owned(), value.to_owned());
                }
            }
        }
        Ok(records)
    }

    /// A value; an empty one means that the header's own counts.
    fn value(&self, key: &str) -> Option<&[u8]> {
        self.values
            .get(key.as_bytes())
            .map(Vec::as_slice)
            .filter(|value| !value.is_empty())
    }

    pub(super) fn name(&self, key: &str) -> Result<Option<Vec<u8>>, TarError> {
        match self.value(key) {
            Some(name) if name.contains(&0) => Err(TarError::NulInName),
            name => Ok(name.map(<[u8]>::to_owned)),
        }
    }

    pub(super) fn number(&self, key: &'static str) -> Result<Option<u64>, TarError> {
        self.value(key)
            .map(|digits| sparse::decimal(digits).ok_or(TarError::Number { field: key }))
            .transpose()
    }

    pub(super) fn time(&self, key: &'static str) -> Result<Option<Time>, TarError> {
        self.value(key)
            .map(|text| parse_time(text).ok_or(TarError::Number { field: key }))
            .transpose()
    }

    /// The extended attributes, in the order of their names.
    pub(super) fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut xattrs: Vec<_> = self
            .values
            .iter()
            .filter_map(|(key, value)| {
                let name = key.strip_prefix(XATTR)?;
                (!name.is_empty()).then(|| (name.to_owned(), value.clone()))
            })
            .collect();
        xattrs.sort();
        xattrs
    }

    /// How these records describe a sparse file, if they do.
    pub(super) fn sparse_map(&self) -> Result<Option<sparse::PaxMap>, TarError> {
        let version = (
            self.value("GNU.sparse.major"),
            self.value("GNU.sparse.minor"),
        );
        let map = self.value("GNU.sparse.map");
        let real_size = match self.number("GNU.sparse.realsize")? {
            Some(size) => Some(size),
            None => self.number("GNU.sparse.size")?,
        };
        let extents = match (version, map) {
            ((Some(b"1"), Some(b"0")), _) => None,
            (_, Some(map)) => Some(sparse::parse_list(map.split(|byte| *byte == b','))?),
            _ if !self.offsets_and_lengths.is_empty() => {
                // Offset, length, offset, length…
                let in_turn = self
                    .offsets_and_lengths
                    .iter()
                    .enumerate()
                    .all(|(index, (is_offset, _))| *is_offset == (index % 2 == 0));
                if !in_turn {
                    return Err(TarError::Sparse);
                }
                let numbers = self
                    .offsets_and_lengths
                    .iter()
                    .map(|(_, value)| value.as_slice());
                Some(sparse::parse_list(numbers)?)
            }
            _ => return Ok(None),
        };
        Ok(Some(sparse::PaxMap { real_size, extents }))
    }
}

/// Splits off the first record, without its length, blank and newline.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(sparse::decimal(&bytes[..blank])?).ok()?;
    let record = bytes.get(blank + 1..length)?;
    let record = record.strip_suffix(b"\n")?;
    Some((record, &bytes[length..]))
}

/// Reads seconds with an optional fraction, as in `-12.5`, rounding down to nanoseconds.
fn parse_time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(sparse::decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction
        .iter()
        .copied()
        .chain(std::iter::repeat(b'0'))
        .take(9);
    let nanoseconds = digits.fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Some(if !negative {
        Time {
            seconds,
            nanoseconds,
        }
    } else if nanoseconds == 0 {
        Time {
            seconds: -seconds,
            nanoseconds: 0,
        }
    } else {
        Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        }
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn times() {
        let time = |seconds, nanoseconds| {
            Some(Time {
                seconds,
                nanoseconds,
            })
        };
        assert_eq!(parse_time(b"12"), time(12, 0));
        assert_eq!(parse_time(b"12.5"), time(12, 500_000_000));
        assert_eq!(parse_time(b"12.1234567899"), time(12, 123_456_789));
        assert_eq!(parse_time(b"-12"), time(-12, 0));
        assert_eq!(parse_time(b"-0.25"), time(-1, 750_000_000));
        for bad in [
            b"".as_slice(),
            b"x",
            b"1.x",
            b"1-",
            b"--1",
            b"99999999999999999999",
        ] {
            assert_eq!(parse_time(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn values_may_hold_anything() {
        let records = Records::parse(b"12 path=a\nb\n23 SCHILY.xattr.user.a=\0\n11 path=last\n");
        // The second record's length is one too large.
        assert!(matches!(records, Err(TarError::Pax)));
        let records =
            Records::parse(b"12 path=a\nb\n26 SCHILY.xattr.user.a=\0\n\n13 path=last\n").unwrap();
        assert_eq!(records.name("path").unwrap().unwrap(), b"last");
        assert_eq!(records.xattrs(), [(b"user.a".to_vec(), b"\0\n".to_vec())]);
    }

    #[test]
    fn malformed_records() {
        for bad in [
            b"x".as_slice(),
            b"5 a=b",
            b"6 a=bc",
            b"6 abc\n",
            b"0 \n",
            b"3 =\n",
            b"99999999999999999999999 a=b\n",
            b"18446744073709551615 a=b\n",
            b" a=b\n",
            b"6 a=b\nx",
        ] {
            assert!(
                matches!(Records::parse(bad), Err(TarError::Pax)),
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
        let records = Records::parse(b"10 path=\0\n").unwrap();
        assert!(matches!(records.name("path"), Err(TarError::NulInName)));
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
            if let Ok(records) = Records::parse(&bytes) {
                let _ = records.sparse_map();
                let _ = records.time("mtime");
            }
        }
    }
}
