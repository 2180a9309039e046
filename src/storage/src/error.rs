//! What can go wrong in the store.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use state::ChainId;

use crate::{limits::Limit, tarball::TarError};

/// A failed operation of the store.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A file of the store could not be used.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done, as in "create".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file of the layer could not be made, though the layer is not to blame.
    #[error("unpack {name:?}: {doing}")]
    Unpack {
        /// What was being done, as in "create the file".
        doing: &'static str,
        /// The entry's name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The compressed layer could not be read: the source is the reader's own error.
    #[error("read the layer")]
    Read(#[source] io::Error),
    /// The layer's compression is damaged or cut short.
    #[error("uncompress the {compression} layer")]
    Uncompress {
        /// The compression's name.
        compression: &'static str,
        /// What the library said.
        #[source]
        source: io::Error,
    },
    /// The layer is compressed in a way that images do not use.
    #[error("the layer is compressed with {name}, which no image specification allows")]
    UnknownCompression {
        /// The compression's name.
        name: &'static str,
    },
    /// The tar is damaged, cut short or of a kind that nobody makes.
    #[error("read the layer's tar at entry {entry}")]
    Tar {
        /// Which entry, from 1.
        entry: u64,
        /// What is wrong with it.
        #[source]
        source: TarError,
    },
    /// An entry is well-formed, but must not or cannot be unpacked.
    #[error("the layer's entry {name:?} {problem}")]
    BadEntry {
        /// The entry's name.
        name: String,
        /// What is wrong with it, as in "leads out of the root".
        problem: &'static str,
    },
    /// The layer is larger than is allowed.
    #[error("the layer exceeds the limit of {limit}")]
    TooLarge {
        /// Which bound it exceeds.
        limit: Limit,
    },
    /// The thread that writes files could not be started.
    #[error("start a thread")]
    Thread(#[source] io::Error),
    /// A layer is in no store.
    #[error("layer {chain} is not in the store, nor in an additional one that is there")]
    NoSuchLayer {
        /// Its chain id.
        chain: ChainId,
    },
    /// A layer is not where its additional store had it.
    #[error("the layer {} of an additional store; is {} still mounted?", layer.display(), store.display())]
    StoreGone {
        /// The layer's directory.
        layer: PathBuf,
        /// The store's.
        store: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Layers on such a file system cannot be shown to a pod with a user namespace.
    #[error(
        "the file system of the store {} does not take idmapped mounts, so pods with user namespaces cannot use its layers",
        store.display()
    )]
    CannotMapIds {
        /// The store's directory.
        store: PathBuf,
        /// What failed.
        #[source]
        source: sys::SysError,
    },
    /// A container's writable layer exists already.
    #[error("the root file system of container {container} exists already")]
    ContainerExists {
        /// The container.
        container: String,
    },
    /// A text that cannot be the name of a container's directory.
    #[error("{container:?} is no container id")]
    BadContainerId {
        /// The text.
        container: String,
    },
    /// Mounting or unmounting failed.
    #[error("the root file system of container {container}")]
    Mount {
        /// The container.
        container: String,
        /// What failed.
        #[source]
        source: sys::SysError,
    },
    /// What the image has at the volumes that it declares is too much to be copied for each container.
    #[error(
        "the volume {} that the image declares: the image's volumes exceed the limit of {limit} that are copied for one container; \
         mount a volume of the pod there",
        declared.display()
    )]
    VolumesTooLarge {
        /// The volume at which it was too much.
        declared: PathBuf,
        /// Which bound they exceed.
        limit: Limit,
    },
    /// What is kept for writing a layer's tar again is damaged.
    #[error("read the recipe of layer {chain}")]
    BadRecipe {
        /// The layer.
        chain: ChainId,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// Writing a layer's tar to its destination failed.
    #[error("write the tar of layer {chain}")]
    Export {
        /// The layer.
        chain: ChainId,
        /// What the writer said.
        #[source]
        source: io::Error,
    },
}

impl StorageError {
    /// Whether the file system of the store is full, or the quota on it.
    pub fn is_disk_full(&self) -> bool {
        let source = match self {
            Self::Io { source, .. } | Self::Unpack { source, .. } => source,
            Self::Mount { source, .. } | Self::CannotMapIds { source, .. } => match source.io() {
                Some(source) => source,
                None => return false,
            },
            _ => return false,
        };
        [Errno::NOSPC, Errno::DQUOT]
            .iter()
            .any(|errno| source.raw_os_error() == Some(errno.raw_os_error()))
    }

    /// Whether the layer itself is to blame: trying again with the same bytes fails again.
    pub fn is_bad_layer(&self) -> bool {
        matches!(
            self,
            Self::Uncompress { .. }
                | Self::UnknownCompression { .. }
                | Self::Tar { .. }
                | Self::BadEntry { .. }
                | Self::TooLarge { .. }
        )
    }

    /// Whether a file of the store that was asked for is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// A closure for `map_err` on a call that concerns a file of the store.
    pub(crate) fn io<E: Into<io::Error>>(
        doing: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            doing,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}
