//! New sizes of a terminal: JSON objects, one after the other on their stream.

use engine::streams::TerminalSize;
use serde::Deserialize;

/// Longest object that is waited for, in bytes.
const MAX_LEN: usize = 4096;

/// Reads sizes from the pieces that a stream comes in. Pure.
#[derive(Debug, Default)]
pub(crate) struct SizeReader {
    rest: Vec<u8>,
}

/// The stream has something else than sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the resize stream has something else than {{\"Width\":…,\"Height\":…}}")]
pub(crate) struct NotASize;

#[derive(Deserialize)]
struct Size {
    #[serde(alias = "Width", default)]
    width: u16,
    #[serde(alias = "Height", default)]
    height: u16,
}

impl SizeReader {
    /// The sizes that are whole with this piece.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<TerminalSize>, NotASize> {
        self.rest.extend_from_slice(bytes);
        let mut sizes = Vec::new();
        let mut objects = serde_json::Deserializer::from_slice(&self.rest).into_iter::<Size>();
        let mut read = 0;
        while let Some(object) = objects.next() {
            match object {
                Ok(size) => sizes.push(TerminalSize {
                    rows: size.height,
                    columns: size.width,
                }),
                Err(error) if error.is_eof() => break,
                Err(_) => return Err(NotASize),
            }
            read = objects.byte_offset();
        }
        self.rest.drain(..read);
        if self.rest.len() > MAX_LEN {
            return Err(NotASize);
        }
        Ok(sizes)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sizes_arrive_however_they_are_cut(sent in proptest::collection::vec(any::<(u16, u16)>(), 0..20), step in 1_usize..60) {
            let text: Vec<String> = sent
                .iter()
                .map(|(columns, rows)| format!("{{\"Width\":{columns},\"Height\":{rows}}}\n"))
                .collect();
            let text = text.concat();
            let mut reader = SizeReader::default();
            let sizes: Vec<(u16, u16)> = text
                .as_bytes()
                .chunks(step)
                .flat_map(|piece| reader.push(piece).unwrap())
                .map(|size| (size.columns, size.rows))
                .collect();
            prop_assert_eq!(sizes, sent);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = SizeReader::default();
            let _ = bytes.chunks(7).try_for_each(|piece| reader.push(piece).map(drop));
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["12", "{\"Width\":70000}", "x", "{\"Width\":\"80\"}"] {
            assert_eq!(
                SizeReader::default().push(text.as_bytes()),
                Err(NotASize),
                "{text}"
            );
        }
        let mut reader = SizeReader::default();
        let endless = std::iter::repeat_n([b' '; 100], 100);
        let refused = endless.into_iter().any(|piece| {
            let open = [b"{", &piece[..]].concat();
            reader
                .push(&open[usize::from(!reader.rest.is_empty())..])
                .is_err()
        });
        assert!(refused, "an object without an end is not waited for");
    }
}
