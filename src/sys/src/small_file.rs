//! Small files that the kernel writes while they are read: /proc, /sys, cgroups.
//!
//! Statistics read thousands of them, so one buffer serves all and nothing is called but open, read and close.

use std::{os::fd::AsFd, path::Path};

use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
};

/// What a file starts with room for: nearly all are smaller.
const FIRST_BYTES: usize = 8 << 10;

/// The longest file that is read. A file that is longer (`blkio` of a node with thousands of disks) counts as unreadable.
const MAX_BYTES: usize = 4 << 20;

/// Holds the text of the file that was read last.
#[derive(Debug, Default)]
pub struct SmallFile {
    buffer: Vec<u8>,
}

impl SmallFile {
    /// The text of a file. `None` if it is not there, cannot be read, is too long or is no text: statistics leave out what
    /// vanished meanwhile and what this kernel does not have.
    pub fn read(&mut self, path: &Path) -> Option<&str> {
        self.read_at(CWD, path)
    }

    /// The same for a path that starts at a directory: what is above it is not looked up again.
    pub fn read_at(&mut self, dir: impl AsFd, path: &Path) -> Option<&str> {
        self.read_as(dir, path, false)
    }

    /// The same for a file that the kernel writes as one record, as nearly all of a cgroup are: it comes whole if there is
    /// room for it, so that nothing can follow when there was more room than text, and needs no second read to tell so.
    pub fn read_record_at(&mut self, dir: impl AsFd, path: &Path) -> Option<&str> {
        self.read_as(dir, path, true)
    }

    fn read_as(&mut self, dir: impl AsFd, path: &Path, one_record: bool) -> Option<&str> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, path, flags, Mode::empty()).ok()?;
        if self.buffer.is_empty() {
            self.buffer.resize(FIRST_BYTES, 0);
        }
        let mut len = 0;
        loop {
            match rustix::io::read(&file, &mut self.buffer[len..]) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(Errno::INTR) => continue,
                Err(_) => return None,
            }
            if len < self.buffer.len() && one_record {
                break;
            }
            if len == self.buffer.len() {
                if len >= MAX_BYTES {
                    return None;
                }
                self.buffer.resize(len * 2, 0);
            }
        }
        std::str::from_utf8(&self.buffer[..len]).ok()
    }

    /// Holds a text as if it had been read.
    pub(crate) fn hold(&mut self, text: &str) -> Option<&str> {
        if self.buffer.len() < text.len().max(FIRST_BYTES) {
            self.buffer.resize(text.len().max(FIRST_BYTES), 0);
        }
        let held = &mut self.buffer[..text.len()];
        held.copy_from_slice(text.as_bytes());
        std::str::from_utf8(held).ok()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn files_of_all_sizes_are_read_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = SmallFile::default();
        for len in [0, 1, FIRST_BYTES - 1, FIRST_BYTES, 3 * FIRST_BYTES + 1, 2] {
            let text = "x".repeat(len);
            let path = dir.path().join(len.to_string());
            std::fs::write(&path, &text).unwrap();
            assert_eq!(file.read(&path), Some(text.as_str()), "{len} bytes");
            let at = std::fs::File::open(dir.path()).unwrap();
            let record = file.read_record_at(&at, Path::new(&len.to_string()));
            assert_eq!(record, Some(text.as_str()), "{len} bytes");
        }
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (long, binary) = (dir.path().join("long"), dir.path().join("binary"));
        std::fs::write(&long, vec![b'x'; MAX_BYTES]).unwrap();
        std::fs::write(&binary, [0xff, 0xfe]).unwrap();
        let mut file = SmallFile::default();
        assert_eq!(file.read(&long), None);
        assert_eq!(file.read(&binary), None);
        assert_eq!(file.read(dir.path()), None);
        assert_eq!(file.read(Path::new("/no/such")), None);
    }
}
