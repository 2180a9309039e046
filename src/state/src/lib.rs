//! What Pintle remembers: identifiers, and the two SQLite databases.
//!
//! - [`PodsDb`] (`/run/pintle/pods.db`): pods, containers and undo records. It lives on tmpfs and dies with the boot, as
//!   pods do, so it never syncs anything; a killed server still finds every committed change in it.
//! - [`ImagesDb`] (`/var/lib/pintle/images.db`): images, references and layers. Every write is on the disk when it returns.
//!
//! Records of pods, containers, undos and images are opaque bytes here: their shape belongs to the crates that write them.
//! Each database is read once, whole, when it is opened; from then on it is only written, by one thread of its own, and
//! memory answers all questions. Neither file can be opened by two servers at a time.

mod digest;
mod error;
mod id;
mod images;
mod pods;
mod schema;
mod writer;

pub use digest::{Algorithm, BadDigest, ChainId, DiffId, Digest, ImageId};
pub use error::StateError;
pub use id::{BadId, ContainerId, PodId};
pub use images::{ImagesChange, ImagesContents, ImagesDb, LayerRow, read_only_record};
pub use pods::{PodsChange, PodsContents, PodsDb, UndoRow};
