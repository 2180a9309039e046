//! Image layers on disk, and the root file systems made of them.
//!
//! A layer is unpacked once, in the very pass in which it is downloaded, to a directory that an overlay can take as it is:
//! whiteouts are character devices 0/0, opaque directories have the attribute `trusted.overlay.opaque`. Layers become
//! part of the store by renaming, and a store finds its way back after a crash by one rule: what has no row in the images
//! database does not belong.
//!
//! ```text
//! <root>/layers/<hex of chain id>/    a layer
//! <root>/recipes/<hex of chain id>/   how to write its tar again, bit for bit
//! <root>/containers/<id>/{upper,work} what a container changed
//! <root>/containers/<id>/volumes/<n>  volumes that its image declares
//! <root>/retired/<hex>-<random>/     directories that were layers, for containers that run on them
//! <root>/empty/{0,1}                  directories for overlays of fewer layers than the kernel wants
//! <root>/tmp/                         layers being unpacked, and what is being deleted; emptied at every start
//! ```
//!
//! Who may enter `<root>` is root alone, so nobody else touches a directory while it is filled. What fills it is hostile all
//! the same: see [`UnpackLimits`] and the module `tree` for what a tar can do and what it cannot.

#![forbid(unsafe_code)]

mod adopt;
mod blob;
mod compression;
mod error;
mod export;
mod foreign;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod layers;
mod limits;
mod pipeline;
mod recipe;
mod removal;
mod replace;
mod rootfs;
mod tarball;
#[cfg(test)]
mod test_tar;
mod tree;
mod unpack;
mod usage;
mod verify;
mod volume;

pub use compression::Compression;
pub use error::StorageError;
pub use foreign::{ForeignLayer, ForeignLayers, ForeignStoreError, look_at};
pub use layers::{LayerStore, Unpacked};
pub use limits::{Limit, UnpackLimits};
pub use replace::Replaced;
pub use rootfs::{IdShift, Rootfs, unmount_scratch};
pub use tarball::TarError;
pub use usage::{Measurement, Usage};
pub use volume::{Volume, VolumeBudget, VolumeOrder};
