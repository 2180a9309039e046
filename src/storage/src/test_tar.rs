//! Makes tars for tests: real ones with the `tar` crate, hostile ones byte by byte.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use tar::{Builder, EntryType, Header};

/// A tar being made.
pub(crate) struct TestTar {
    builder: Builder<Vec<u8>>,
}

/// A header with which nothing is wrong, for what has no contents.
fn header(kind: EntryType, name: &[u8], mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    set_name(&mut header, name);
    header
}

/// Sets a name as it is, where the `tar` crate would refuse it.
fn set_name(header: &mut Header, name: &[u8]) {
    let field = &mut header.as_old_mut().name;
    field.fill(0);
    field[..name.len()].copy_from_slice(name);
}

impl TestTar {
    pub(crate) fn new() -> Self {
        Self {
            builder: Builder::new(Vec::new()),
        }
    }

    pub(crate) fn add(self, mut header: Header, contents: &[u8]) -> Self {
        header.set_size(contents.len() as u64);
        self.add_as_is(header, contents)
    }

    /// Keeps the size that the header claims.
    pub(crate) fn add_as_is(mut self, mut header: Header, contents: &[u8]) -> Self {
        header.set_cksum();
        self.builder.append(&header, contents).unwrap();
        self
    }

    pub(crate) fn file(self, name: &str, contents: &[u8]) -> Self {
        self.add(header(EntryType::Regular, name.as_bytes(), 0o644), contents)
    }

    pub(crate) fn owned_file(
        self,
        name: &str,
        contents: &[u8],
        ids: (u64, u64),
        mode: u32,
    ) -> Self {
        let mut header = header(EntryType::Regular, name.as_bytes(), mode);
        header.set_uid(ids.0);
        header.set_gid(ids.1);
        self.add(header, contents)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.add(header(EntryType::Directory, name.as_bytes(), 0o755), b"")
    }

    pub(crate) fn owned_dir(self, name: &str, ids: (u64, u64), mode: u32) -> Self {
        let mut header = header(EntryType::Directory, name.as_bytes(), mode);
        header.set_uid(ids.0);
        header.set_gid(ids.1);
        self.add(header, b"")
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        let mut header = header(kind, name.as_bytes(), 0o777);
        let field = &mut header.as_old_mut().linkname;
        field[..target.len()].copy_from_slice(target.as_bytes());
        self.add(header, b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, name, target)
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Link, name, target)
    }

    pub(crate) fn node(self, kind: EntryType, name: &str, device: (u32, u32), mode: u32) -> Self {
        let mut header = header(kind, name.as_bytes(), mode);
        header.set_device_major(device.0).unwrap();
        header.set_device_minor(device.1).unwrap();
        self.add(header, b"")
    }

    /// Puts a PAX header before the next entry.
    pub(crate) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.builder
            .append_pax_extensions(records.iter().copied())
            .unwrap();
        self
    }

    /// An extended header of any kind with any contents.
    pub(crate) fn extended(self, kind: u8, contents: &[u8]) -> Self {
        self.add(header(EntryType::new(kind), b"extended", 0o644), contents)
    }

    /// An entry of any kind.
    pub(crate) fn kind(self, kind: u8, name: &str) -> Self {
        let mut header = header(EntryType::Regular, name.as_bytes(), 0o644);
        // As it is: the `tar` crate writes the oldest kind as today's.
        header.as_old_mut().linkflag = [kind];
        self.add(header, b"")
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.builder.into_inner().unwrap()
    }

    /// Without the zeros at the end.
    pub(crate) fn open_end(self) -> Vec<u8> {
        let mut bytes = self.end();
        bytes.truncate(bytes.len() - 1024);
        bytes
    }
}
