//! The CRI log format: `TIMESTAMP STREAM TAG CONTENT`, one record per line.
//!
//! A line of the container longer than the writer's limit comes as several records tagged `P` and a last one tagged `F`;
//! only the latter ends with the container's newline.

/// Which of the container's outputs a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Longest record that is waited for: the writer's content limit is 16 KiB, the rest of the record is short.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// Puts records together from the pieces in which a file is read.
#[derive(Debug, Default)]
pub(crate) struct LogReader {
    unfinished: Vec<u8>,
}

impl LogReader {
    /// Takes the next bytes of the file; returns what the container wrote, as far as it is complete.
    ///
    /// A line that is no record is passed on as standard error, so that nothing is lost silently.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<(Stream, Vec<u8>)> {
        self.unfinished.extend_from_slice(bytes);
        let mut written = Vec::new();
        let mut start = 0;
        while let Some(length) = self.unfinished[start..].iter().position(|b| *b == b'\n') {
            let line = &self.unfinished[start..=start + length];
            let (stream, content) = parse(line).unwrap_or((Stream::Stderr, line));
            written.push((stream, content.to_vec()));
            start += length + 1;
        }
        self.unfinished.drain(..start);
        if self.unfinished.len() > RECORD_BYTES_MAX {
            written.push((Stream::Stderr, std::mem::take(&mut self.unfinished)));
        }
        written
    }
}

/// What the container wrote, from a record with its newline.
fn parse(line: &[u8]) -> Option<(Stream, &[u8])> {
    let mut fields = line.splitn(4, |b| *b == b' ');
    let timestamp = fields.next()?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let tags = fields.next()?;
    let content = fields.next()?;
    if !timestamp.first()?.is_ascii_digit() {
        return None;
    }
    // Tags may be joined by colons; the first one says whether the line is complete.
    match tags.split(|b| *b == b':').next()? {
        b"F" => Some((stream, content)),
        b"P" => Some((stream, &content[..content.len() - 1])),
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::{LogReader, Stream, parse};

    #[rstest]
    #[case::full(
        b"2026-08-21T00:17:09.669794202Z stdout F hello  world\n",
        Some((Stream::Stdout, b"hello  world\n".as_slice()))
    )]
    #[case::partial(b"2026-08-21T00:17:09Z stderr P half\n", Some((Stream::Stderr, b"half".as_slice())))]
    #[case::empty_line(b"2026-08-21T00:17:09Z stdout F \n", Some((Stream::Stdout, b"\n".as_slice())))]
    #[case::more_tags(b"2026-08-21T00:17:09Z stdout F:x y\n", Some((Stream::Stdout, b"y\n".as_slice())))]
    #[case::not_utf8(b"2026-08-21T00:17:09Z stdout F \xff\n", Some((Stream::Stdout, b"\xff\n".as_slice())))]
    #[case::other_stream(b"2026-08-21T00:17:09Z stdin F x\n", None)]
    #[case::no_content(b"2026-08-21T00:17:09Z stdout F\n", None)]
    #[case::other_tag(b"2026-08-21T00:17:09Z stdout X x\n", None)]
    #[case::empty(b"\n", None)]
    fn records(#[case] line: &[u8], #[case] expected: Option<(Stream, &[u8])>) {
        assert_eq!(parse(line), expected);
    }

    /// What one process wrote to one stream, and whether the line goes on.
    fn written() -> impl Strategy<Value = Vec<(bool, bool, Vec<u8>)>> {
        let content =
            prop::collection::vec(any::<u8>().prop_filter("newline", |b| *b != b'\n'), 0..40);
        prop::collection::vec((any::<bool>(), any::<bool>(), content), 0..20)
    }

    proptest! {
        #[test]
        fn what_was_written_is_what_is_read(records in written(), cuts in prop::collection::vec(1..64_usize, 1..64)) {
            let mut file = Vec::new();
            let mut expected = (Vec::new(), Vec::new());
            for (to_stderr, partial, content) in &records {
                let stream = if *to_stderr { "stderr" } else { "stdout" };
                let tag = if *partial { "P" } else { "F" };
                file.extend_from_slice(format!("2026-08-21T00:17:09.1Z {stream} {tag} ").as_bytes());
                file.extend_from_slice(content);
                file.push(b'\n');
                let out = if *to_stderr { &mut expected.1 } else { &mut expected.0 };
                out.extend_from_slice(content);
                if !partial {
                    out.push(b'\n');
                }
            }
            let mut found = (Vec::new(), Vec::new());
            let mut reader = LogReader::default();
            let mut rest = file.as_slice();
            let mut sizes = cuts.iter().cycle();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                rest = after;
                for (stream, bytes) in reader.feed(piece) {
                    match stream {
                        Stream::Stdout => found.0.extend_from_slice(&bytes),
                        Stream::Stderr => found.1.extend_from_slice(&bytes),
                    }
                }
            }
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_bytes_come_through_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            drop(LogReader::default().feed(&bytes));
        }
    }
}
