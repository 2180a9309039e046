//! Reading `/etc/passwd` and `/etc/group` of an image, which may hold anything.
//!
//! Bounded: at most [`super::MAX_FILE_BYTES`] are looked at, in one pass without copies; lines that are too long, not of
//! the format or for NIS are passed over, as the C library does. Names are compared as bytes.

use super::{MAX_FILE_BYTES, MAX_ID};

/// The longest line that is taken seriously.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// One of the two files.
#[derive(Clone, Copy)]
pub(super) struct Database<'a>(&'a [u8]);

/// A user.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) id: u32,
    pub(super) group: u32,
}

fn number(field: &[u8]) -> Option<u32> {
    // `parse` alone would let a plus sign through.
    if !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let id = str::from_utf8(field).ok()?.parse().ok()?;
    (id <= MAX_ID).then_some(id)
}

impl<'a> Database<'a> {
    pub(super) fn new(file: Option<&'a [u8]>) -> Self {
        let bytes = file.unwrap_or_default();
        if bytes.len() <= MAX_FILE_BYTES {
            return Self(bytes);
        }
        // The line that the bound cuts through could be read as another entry: `root:x:1000:1000` has `root:x:1`.
        let head = &bytes[..MAX_FILE_BYTES];
        let end = head.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        Self(&head[..end])
    }

    /// The fields of each line, cut at colons.
    fn lines(self) -> impl Iterator<Item = std::slice::Split<'a, u8, impl FnMut(&u8) -> bool>> {
        self.0
            .split(|byte| *byte == b'\n')
            .filter(|line| {
                line.len() <= MAX_LINE_BYTES
                    && !matches!(line.first(), None | Some(b'#' | b'+' | b'-' | b':'))
            })
            .map(|line| line.split(|byte| *byte == b':'))
    }

    fn users(self) -> impl Iterator<Item = Entry<'a>> {
        self.lines().filter_map(|mut fields| {
            Some(Entry {
                name: fields.next()?,
                id: fields.nth(1).and_then(number)?,
                group: fields.next().and_then(number)?,
            })
        })
    }

    pub(super) fn user_by_name(self, name: &[u8]) -> Option<Entry<'a>> {
        self.users().find(|entry| entry.name == name)
    }

    pub(super) fn user_by_id(self, id: u32) -> Option<Entry<'a>> {
        self.users().find(|entry| entry.id == id)
    }

    /// Name, id and members of each group.
    fn groups(self) -> impl Iterator<Item = (&'a [u8], u32, &'a [u8])> {
        self.lines().filter_map(|mut fields| {
            Some((
                fields.next()?,
                fields.nth(1).and_then(number)?,
                fields.next().unwrap_or_default(),
            ))
        })
    }

    pub(super) fn group_by_name(self, name: &[u8]) -> Option<u32> {
        self.groups()
            .find(|(group, ..)| *group == name)
            .map(|(_, id, _)| id)
    }

    /// The groups that list `user` as a member.
    pub(super) fn groups_of(self, user: &[u8]) -> impl Iterator<Item = u32> {
        self.groups()
            .filter(move |(.., members)| members.split(|byte| *byte == b',').any(|m| m == user))
            .map(|(_, id, _)| id)
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_that_are_no_entries_are_passed_over() {
        let file =
            b"\n# root:x:1:1\n+root:x:2:2\nroot\nroot:x\nroot:x::\nroot:x:a:b\nroot:x:+3:+3\n\
            root:x:4294967295:0\nroot:x:-1:0\n:x:5:5\nroot:x:7:8";
        let entry = Database::new(Some(file)).user_by_name(b"root");
        assert_eq!(
            entry,
            Some(Entry {
                name: b"root",
                id: 7,
                group: 8
            })
        );
    }

    #[test]
    fn names_are_bytes() {
        let file = b"caf\xe9:x:7:8::/:/\n";
        assert!(Database::new(Some(file)).user_by_name(b"caf\xe9").is_some());
    }

    #[test]
    fn a_line_cut_by_the_bound_is_no_entry() {
        let mut file = vec![b'#'; MAX_FILE_BYTES - 11];
        file.push(b'\n');
        file.extend(b"eve:x:0:0000000000000000:/:/\n");
        assert_eq!(Database::new(Some(&file)).user_by_name(b"eve"), None);
        let unbroken = vec![b'x'; MAX_FILE_BYTES * 2];
        assert_eq!(Database::new(Some(&unbroken)).user_by_id(0), None);
    }

    #[test]
    fn a_line_that_is_too_long_is_no_entry() {
        let mut file = b"eve:x:0:0:".to_vec();
        file.resize(MAX_LINE_BYTES + 1, b'x');
        assert_eq!(Database::new(Some(&file)).user_by_name(b"eve"), None);
    }

    proptest! {
        #[test]
        fn anything_is_survived(
            bytes in proptest::collection::vec(any::<u8>(), 0..2048),
            name in proptest::collection::vec(any::<u8>(), 0..4),
        ) {
            // Mostly what such files are made of, so that some of it is entries.
            let bytes: Vec<u8> = bytes
                .into_iter()
                .map(|byte| *b":::\n\n,0r".get(usize::from(byte / 16)).unwrap_or(&byte))
                .collect();
            let database = Database::new(Some(&bytes));
            for entry in database.users() {
                prop_assert!(entry.id <= MAX_ID && entry.group <= MAX_ID);
                prop_assert!(!entry.name.contains(&b':') && !entry.name.contains(&b'\n'));
            }
            let lines = bytes.split(|byte| *byte == b'\n').count();
            prop_assert!(database.groups_of(&name).count() <= lines);
            if let Some(entry) = database.user_by_name(&name) {
                prop_assert_eq!(entry.name, name.as_slice());
            }
        }
    }
}
