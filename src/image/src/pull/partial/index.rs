//! What there is of which layer, and who uses it. In memory; the files are the truth at the start only.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::SystemTime;

/// What a file system allots at a time.
const BLOCK_BYTES: u64 = 4096;

#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<String, Entry>,
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    /// Lengths of files by the offset that they start at. They do not overlap.
    pieces: BTreeMap<u64, u64>,
    used: SystemTime,
    held: Held,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    No,
    Yes,
    /// By a layer that is whole, and is kept in case that the server dies before its image is. Nobody is at the files.
    Whole,
    /// By threads of a download that was given up.
    Leaving,
}

/// The answer to a claim.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    Taken,
    Busy,
    Leaving,
}

impl Index {
    /// Reads the directory. What is none of its files is removed.
    pub(super) fn read(dir: &Path) -> Self {
        let mut index = Self::default();
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return index,
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "partial layers of a former run are not used");
                return index;
            }
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            // Of a link this tells about the link.
            let metadata = entry.metadata();
            let piece = entry.file_name().to_str().and_then(parse_name);
            match (piece, metadata) {
                (Some((name, start)), Ok(metadata)) if metadata.is_file() && metadata.len() > 0 => {
                    let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    found.push((name, start, metadata.len(), used));
                }
                _ => remove(&path),
            }
        }
        found.sort();
        for (name, start, length, used) in found {
            if !index.add_found(&name, start, length, used) {
                remove(&dir.join(format!("{name}.{start}")));
            }
        }
        index
    }

    /// Takes note of a file that comes after those already known. `false` if it overlaps with them.
    fn add_found(&mut self, name: &str, start: u64, length: u64, used: SystemTime) -> bool {
        let entry = self.entries.entry(name.to_owned()).or_insert(Entry {
            pieces: BTreeMap::new(),
            used,
            held: Held::No,
        });
        let end_before = entry
            .pieces
            .last_key_value()
            .map_or(0, |(start, length)| start + length);
        if start < end_before || start.checked_add(length).is_none() {
            return false;
        }
        entry.pieces.insert(start, length);
        entry.used = entry.used.max(used);
        self.bytes += length;
        true
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the files take on the disk, and how many they are.
    pub(super) fn disk_usage(&self) -> (u64, u64) {
        let lengths = self
            .entries
            .values()
            .flat_map(|entry| entry.pieces.values());
        lengths.fold((0, 0), |(bytes, files), length| {
            (bytes + length.next_multiple_of(BLOCK_BYTES), files + 1)
        })
    }

    pub(super) fn claim(&mut self, name: &str) -> Claimed {
        let entry = self.entries.entry(name.to_owned()).or_insert(Entry {
            pieces: BTreeMap::new(),
            used: SystemTime::now(),
            held: Held::No,
        });
        match entry.held {
            Held::No => {
                entry.held = Held::Yes;
                Claimed::Taken
            }
            Held::Yes | Held::Whole => Claimed::Busy,
            Held::Leaving => Claimed::Leaving,
        }
    }

    /// The layer of a claim is whole.
    pub(super) fn set_whole(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.held = Held::Whole;
        }
    }

    /// The download of a claim is over; its threads may still be at the files.
    pub(super) fn leave(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.held = Held::Leaving;
        }
    }

    pub(super) fn release(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.held = Held::No;
            entry.used = SystemTime::now();
            if entry.pieces.is_empty() {
                self.entries.remove(name);
            }
        }
    }

    /// Where the files of a layer start, and how long they are.
    pub(super) fn pieces(&self, name: &str) -> Vec<(u64, u64)> {
        self.entries.get(name).map_or_else(Vec::new, |entry| {
            entry
                .pieces
                .iter()
                .map(|(start, length)| (*start, *length))
                .collect()
        })
    }

    /// The file that has the byte at `position`, and how many there are from there on.
    pub(super) fn find(&self, name: &str, position: u64) -> Option<(u64, u64)> {
        let pieces = &self.entries.get(name)?.pieces;
        let (start, length) = pieces.range(..=position).next_back()?;
        let end = start + length;
        (position < end).then_some((*start, end - position))
    }

    /// The file that ends at `position`.
    pub(super) fn ending_at(&self, name: &str, position: u64) -> Option<(u64, u64)> {
        let pieces = &self.entries.get(name)?.pieces;
        let (start, length) = pieces.range(..position).next_back()?;
        (start + length == position).then_some((*start, *length))
    }

    /// Sets how long a file is.
    pub(super) fn set_length(&mut self, name: &str, start: u64, length: u64) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let before = if length == 0 {
            entry.pieces.remove(&start)
        } else {
            entry.pieces.insert(start, length)
        };
        self.bytes = self.bytes - before.unwrap_or_default() + length;
    }

    /// Forgets those of a layer's files that start at `from` or later, and tells them.
    pub(super) fn take_from(&mut self, name: &str, from: u64) -> Vec<u64> {
        let Some(entry) = self.entries.get_mut(name) else {
            return Vec::new();
        };
        let gone = entry.pieces.split_off(&from);
        self.bytes -= gone.values().sum::<u64>();
        gone.into_keys().collect()
    }

    /// Forgets layers that nobody has used since, and tells their files.
    pub(super) fn take_older_than(&mut self, limit: SystemTime) -> Vec<(String, Vec<u64>)> {
        let old: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.held == Held::No && entry.used < limit)
            .map(|(name, _)| name.clone())
            .collect();
        old.into_iter().filter_map(|name| self.take(name)).collect()
    }

    /// Forgets the layer that nobody has used for longest, and tells its files.
    pub(super) fn take_oldest(&mut self) -> Option<(String, Vec<u64>)> {
        let name = self
            .entries
            .iter()
            .filter(|(_, entry)| match entry.held {
                Held::No => true,
                Held::Whole => !entry.pieces.is_empty(),
                Held::Yes | Held::Leaving => false,
            })
            // Whole ones last: an image waits for them.
            .min_by_key(|(_, entry)| (entry.held == Held::Whole, entry.used))
            .map(|(name, _)| name.clone())?;
        self.take(name)
    }

    fn take(&mut self, name: String) -> Option<(String, Vec<u64>)> {
        let entry = self.entries.get_mut(&name)?;
        let pieces = std::mem::take(&mut entry.pieces);
        // Somebody's claim is still to it.
        if entry.held == Held::No {
            self.entries.remove(&name);
        }
        self.bytes -= pieces.values().sum::<u64>();
        Some((name, pieces.into_keys().collect()))
    }
}

/// `sha256-<hex>.<offset>` of a file's name.
fn parse_name(name: &str) -> Option<(String, u64)> {
    let (layer, start) = name.rsplit_once('.')?;
    let (algorithm, hex) = layer.split_once('-')?;
    let digits = match algorithm {
        "sha256" => 64,
        "sha512" => 128,
        _ => return None,
    };
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (hex.len() == digits && hex.bytes().all(is_hex)).then_some(())?;
    let start_number: u64 = start.parse().ok()?;
    // One spelling for each.
    (start_number.to_string() == start).then(|| (layer.to_owned(), start_number))
}

fn remove(path: &Path) {
    tracing::debug!(path = %path.display(), "removing what is no partial layer");
    let removed = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        _ => std::fs::remove_file(path),
    };
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "cannot remove what is no partial layer");
    }
}
