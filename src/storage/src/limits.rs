//! How much a layer may ask for.

use std::fmt;

/// The most that one layer may have. A layer that exceeds one is refused as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnpackLimits {
    /// The most bytes of the uncompressed tar, and of the files in it with their holes filled.
    pub bytes: u64,
    /// Files, directories and all other entries, and directories that no entry mentions but the names imply.
    pub entries: u64,
    /// Bytes of an entry's name, and of a link's target. Linux resolves none of more than 4095.
    pub name_bytes: usize,
    /// How deep directories may nest. One file descriptor is held for each level.
    pub depth: usize,
    /// Bytes of what is kept in memory until the end: names of directories that no entry mentions, default ACLs.
    pub held_bytes: usize,
    /// Bytes of the extended headers (long names, attributes) of one entry.
    pub header_bytes: u64,
    /// How many times larger than the compressed layer the tar may be, once it is larger than `ratio_floor_bytes`.
    pub ratio: u64,
    /// Below this size a good ratio harms nobody: an all-zero file in a small image compresses a thousandfold.
    pub ratio_floor_bytes: u64,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self {
            bytes: 256 << 30,
            entries: 4 << 20,
            name_bytes: 4095,
            depth: 256,
            held_bytes: 64 << 20,
            header_bytes: 1 << 20,
            ratio: 200,
            ratio_floor_bytes: 1 << 30,
        }
    }
}

/// Which bound was exceeded, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "most variants are the fields of UnpackLimits, told there"
)]
pub enum Limit {
    Bytes(u64),
    Entries(u64),
    NameBytes(usize),
    Depth(usize),
    HeaderBytes(u64),
    Ratio(u64),
    HeldBytes(usize),
    /// Of directories that the names imply, in the layers below: no field, since it is a matter of time only.
    Lookups(u64),
    /// Components of names that lead through symbolic links, as many as there may be entries.
    Links(u64),
    /// Of all volumes that an image declares: a [`VolumeBudget`](crate::VolumeBudget), as the next.
    VolumeBytes(u64),
    VolumeEntries(u64),
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(max) => write!(formatter, "{max} bytes unpacked"),
            Self::Entries(max) => write!(formatter, "{max} entries"),
            Self::NameBytes(max) => write!(formatter, "{max} bytes in a name"),
            Self::Depth(max) => write!(formatter, "{max} directories deep"),
            Self::HeaderBytes(max) => write!(formatter, "{max} bytes of headers for one entry"),
            Self::Ratio(max) => write!(formatter, "{max} times the compressed size"),
            Self::Lookups(max) => write!(
                formatter,
                "{max} lookups in the layers below of directories that it does not list"
            ),
            Self::Links(max) => {
                write!(
                    formatter,
                    "{max} components of symbolic links on the way to entries"
                )
            }
            Self::VolumeBytes(max) => write!(formatter, "{max} bytes"),
            Self::VolumeEntries(max) => write!(formatter, "{max} files and directories"),
            Self::HeldBytes(max) => {
                write!(formatter, "{max} bytes of what is kept in memory")
            }
        }
    }
}
