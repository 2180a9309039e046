//! A tar file as a table of its entries, read in any order.
//!
//! Archives name their parts in a file that often stands at the end, so they are not read front to back: the headers
//! are read once, and contents by position. Only regular files count, and links to them inside the archive (older
//! `docker save` writes one layer once and links it). Nothing of an archive is ever written to a path of its choosing,
//! and nothing is read into memory because a header says that it is so long.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tar::EntryType;

use crate::error::ImageError;
use crate::reference::clip;

const BLOCK: u64 = 512;
/// Most entries that an archive may have. `docker save` of old writes four for each layer.
const MAX_ENTRIES: usize = 200_000;
/// Longest path of an entry, in bytes; theirs have about 80.
const MAX_PATH_BYTES: usize = 512;
/// Longest extended header, in bytes.
const MAX_EXTENSION_BYTES: usize = 64 * 1024;
/// How far links are followed.
const MAX_LINKS: usize = 8;

/// The entries of a tar file.
#[derive(Debug)]
pub(super) struct Tape {
    file: Arc<File>,
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    File {
        offset: u64,
        size: u64,
    },
    /// To another entry, by its full path.
    Link(String),
}

/// The content of one entry; reads of several slices of one file do not disturb each other.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

/// What extended headers say about the entry that follows them.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Tape {
    /// Reads the headers. Blocks.
    pub(super) fn read(file: File) -> Result<Self, ImageError> {
        let length = file
            .metadata()
            .map_err(|error| ImageError::file("read the archive", error))?
            .len();
        let mut entries = HashMap::new();
        let mut extended = Extended::default();
        let mut position = 0;
        let mut count = 0;
        // Two empty blocks end a tar; some writers leave them out.
        while let Some(header) = read_header(&file, position, length)? {
            count += 1;
            if count > MAX_ENTRIES {
                return Err(too_large(format!("more than {MAX_ENTRIES} entries")));
            }
            let content = position + BLOCK;
            let kind = header.entry_type();
            let written = header
                .entry_size()
                .map_err(|error| bad_archive(format!("a header in it does not read: {error}")))?;
            let is_extension = matches!(
                kind,
                EntryType::GNULongName
                    | EntryType::GNULongLink
                    | EntryType::XHeader
                    | EntryType::XGlobalHeader
            );
            let size = extended.size.filter(|_| !is_extension).unwrap_or(written);
            let end = content
                .checked_add(size)
                .filter(|end| *end <= length)
                .ok_or_else(|| bad_archive("it is cut short".to_owned()))?;
            if is_extension {
                let bytes = read_extension(&file, content, size)?;
                extended.take_up(kind, &bytes)?;
            } else {
                let extended = std::mem::take(&mut extended);
                if let Some((path, entry)) = entry_of(&header, extended, content, size) {
                    entries.insert(path, entry);
                }
            }
            position = end.next_multiple_of(BLOCK);
        }
        Ok(Self {
            file: Arc::new(file),
            entries,
        })
    }

    /// The content of the entry at `path`.
    pub(super) fn get(&self, path: &str) -> Option<Slice> {
        let mut path = normal_path(path.as_bytes(), "")?;
        for _ in 0..MAX_LINKS {
            match self.entries.get(&path)? {
                Entry::File { offset, size } => {
                    return Some(Slice {
                        file: Arc::clone(&self.file),
                        offset: *offset,
                        left: *size,
                    });
                }
                Entry::Link(target) => path.clone_from(target),
            }
        }
        None
    }

    /// The content of an entry that has to be there.
    pub(super) fn expect(&self, path: &str) -> Result<Slice, ImageError> {
        self.get(path)
            .ok_or_else(|| bad_archive(format!("\"{}\" is missing", clip(path, 120))))
    }
}

impl Slice {
    /// Its length in bytes.
    pub(super) fn size(&self) -> u64 {
        self.left
    }

    /// All of it in memory, if it is no longer than `limit`. Blocks.
    pub(super) fn whole(mut self, what: &str, limit: u64) -> Result<Bytes, ImageError> {
        if self.left > limit {
            return Err(ImageError::TooLarge {
                what: what.to_owned(),
                reason: format!("{} bytes, at most {limit} are allowed", self.left),
            });
        }
        let mut bytes = Vec::new();
        let expected = self.left;
        self.read_to_end(&mut bytes)
            .map_err(|error| ImageError::file(format!("read {what}"), error))?;
        if bytes.len() as u64 != expected {
            return Err(bad_archive("it is cut short".to_owned()));
        }
        Ok(bytes.into())
    }
}

impl Read for Slice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.offset)?;
        if count == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive is cut short",
            ));
        }
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Extended {
    fn take_up(&mut self, kind: EntryType, bytes: &[u8]) -> Result<(), ImageError> {
        let name = || Some(bytes.split(|b| *b == 0).next().unwrap_or_default().to_vec());
        match kind {
            EntryType::GNULongName => self.path = name(),
            EntryType::GNULongLink => self.link = name(),
            EntryType::XHeader => {
                for record in tar::PaxExtensions::new(bytes) {
                    let record = record.map_err(|error| {
                        bad_archive(format!("a header in it does not read: {error}"))
                    })?;
                    match record.key_bytes() {
                        b"path" => self.path = Some(record.value_bytes().to_vec()),
                        b"linkpath" => self.link = Some(record.value_bytes().to_vec()),
                        b"size" => {
                            let size = record.value().ok().and_then(|text| text.parse().ok());
                            let size = size.ok_or_else(|| {
                                bad_archive("a size in it is not a number".to_owned())
                            })?;
                            self.size = Some(size);
                        }
                        _ => {}
                    }
                }
            }
            // Of all entries at once: nothing that matters here.
            _ => {}
        }
        Ok(())
    }
}

/// What an entry is to us, if anything.
fn entry_of(
    header: &tar::Header,
    extended: Extended,
    content: u64,
    size: u64,
) -> Option<(String, Entry)> {
    let written_path = extended
        .path
        .unwrap_or_else(|| header.path_bytes().into_owned());
    let path = normal_path(&written_path, "")?;
    let entry = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous => Entry::File {
            offset: content,
            size,
        },
        kind @ (EntryType::Link | EntryType::Symlink) => {
            let target = extended
                .link
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))?;
            // Hard links are written from the archive's root, symbolic ones from where they stand.
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let base = if kind == EntryType::Symlink {
                folder
            } else {
                ""
            };
            Entry::Link(normal_path(&target, base)?)
        }
        _ => return None,
    };
    Some((path, entry))
}

/// The header at a position; `None` at the end of the archive.
fn read_header(file: &File, position: u64, length: u64) -> Result<Option<tar::Header>, ImageError> {
    if position >= length {
        return Ok(None);
    }
    let mut header = tar::Header::new_old();
    file.read_exact_at(header.as_mut_bytes(), position)
        .map_err(|_| bad_archive("it is cut short".to_owned()))?;
    let bytes = header.as_bytes();
    if bytes.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    // The sum is made with the field of the sum itself blank.
    let (before, rest) = bytes.split_at(148);
    let sum: u32 = before
        .iter()
        .chain(&rest[8..])
        .map(|b| u32::from(*b))
        .sum::<u32>()
        + 8 * 32;
    if header.cksum().ok() != Some(sum) {
        return Err(bad_archive("it is not a tar file, or damaged".to_owned()));
    }
    Ok(Some(header))
}

fn read_extension(file: &File, position: u64, size: u64) -> Result<Vec<u8>, ImageError> {
    let size = usize::try_from(size)
        .ok()
        .filter(|size| *size <= MAX_EXTENSION_BYTES)
        .ok_or_else(|| too_large(format!("a header of {size} bytes")))?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, position)
        .map_err(|error| ImageError::file("read the archive", error))?;
    Ok(bytes)
}

fn too_large(reason: String) -> ImageError {
    ImageError::TooLarge {
        what: "the archive".to_owned(),
        reason,
    }
}

pub(super) fn bad_archive(reason: String) -> ImageError {
    ImageError::corrupt("the archive", reason)
}

/// A path as `a/b/c`, seen from `base`. `None` for what leaves the archive or is no text.
fn normal_path(path: &[u8], base: &str) -> Option<String> {
    if path.len() > MAX_PATH_BYTES {
        return None;
    }
    let path = std::str::from_utf8(path).ok()?;
    let mut parts: Vec<&str> = if path.starts_with('/') {
        Vec::new()
    } else {
        base.split('/').filter(|part| !part.is_empty()).collect()
    };
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::Write;

    use super::*;

    fn tape(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Tape {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&builder.into_inner().unwrap()).unwrap();
        Tape::read(file).unwrap()
    }

    fn add(builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, content).unwrap();
    }

    fn link(builder: &mut tar::Builder<Vec<u8>>, kind: EntryType, path: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, path, target).unwrap();
    }

    fn text(tape: &Tape, path: &str) -> Option<String> {
        let bytes = tape.get(path)?.whole("x", 100).unwrap();
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn entries_are_found_in_any_spelling_and_order() {
        let tape = tape(|builder| {
            add(builder, "./a/layer.tar", b"A");
            add(builder, "manifest.json", b"[]");
            link(builder, EntryType::Symlink, "b/layer.tar", "../a/layer.tar");
            link(builder, EntryType::Link, "c/layer.tar", "b/layer.tar");
        });
        assert_eq!(text(&tape, "manifest.json").unwrap(), "[]");
        assert_eq!(text(&tape, "a/layer.tar").unwrap(), "A");
        assert_eq!(text(&tape, "./b//layer.tar").unwrap(), "A");
        assert_eq!(text(&tape, "c/layer.tar").unwrap(), "A");
        assert!(
            tape.expect("d")
                .unwrap_err()
                .to_string()
                .contains("\"d\" is missing")
        );
    }

    #[test]
    fn hostile_links_lead_nowhere() {
        let tape = tape(|builder| {
            link(builder, EntryType::Symlink, "loop", "loop");
            link(builder, EntryType::Symlink, "out", "../../etc/passwd");
            link(builder, EntryType::Symlink, "abs", "/etc/passwd");
        });
        for path in ["loop", "out", "abs", "../x", "/etc/passwd", ""] {
            assert!(tape.get(path).is_none(), "{path}");
        }
    }

    #[test]
    fn what_is_no_tar_or_cut_short_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[b'x'; 2000]).unwrap();
        assert!(Tape::read(file).is_err());

        let mut builder = tar::Builder::new(Vec::new());
        add(&mut builder, "a", &[7; 5000]);
        let mut bytes = builder.into_inner().unwrap();
        bytes.truncate(2048);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        if let Ok(tape) = Tape::read(file) {
            assert!(tape.get("a").unwrap().whole("a", 10_000).is_err());
        }
    }

    #[test]
    fn long_paths_and_sizes_in_extended_headers_count() {
        let long = format!("{}/layer.tar", "d".repeat(200));
        let tape = tape(|builder| {
            add(builder, &long, b"A");
            builder
                .append_pax_extensions([("path", &b"named/by/pax"[..]), ("size", b"3")])
                .unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_path("other").unwrap();
            header.set_size(3);
            header.set_cksum();
            builder.append(&header, &b"pax"[..]).unwrap();
        });
        assert_eq!(text(&tape, &long).unwrap(), "A");
        assert_eq!(text(&tape, "named/by/pax").unwrap(), "pax");
        assert!(tape.get("other").is_none());
    }

    #[test]
    fn a_header_that_claims_gigabytes_is_not_read() {
        for kind in [
            EntryType::GNULongName,
            EntryType::XHeader,
            EntryType::Regular,
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(1 << 40);
            header.set_cksum();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(header.as_bytes()).unwrap();
            assert!(Tape::read(file).is_err());
            let sparse = tempfile::tempfile().unwrap();
            sparse.write_all_at(header.as_bytes(), 0).unwrap();
            sparse.set_len((1 << 40) + 1024).unwrap();
            let read = Tape::read(sparse);
            assert_eq!(read.is_ok(), kind == EntryType::Regular, "{kind:?}");
        }
    }

    #[test]
    fn large_parts_do_not_get_into_memory() {
        let tape = tape(|builder| add(builder, "a", &[7; 5000]));
        assert!(matches!(
            tape.get("a").unwrap().whole("a", 4999),
            Err(ImageError::TooLarge { .. })
        ));
    }
}
