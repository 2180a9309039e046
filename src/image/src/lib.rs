//! Images: what they are called, where they come from, and which of their layers have to stay on the disk.
//!
//! [`Images`] is the whole of it for the rest of the server: [`Images::get`] and [`Images::list`] answer from an
//! immutable snapshot, [`Images::pull`] joins or starts a pull, [`Images::remove`] forgets an image, and an
//! [`ImageLease`] keeps the layers of a container's image whatever happens to the image.
//!
//! | module | what it owns |
//! | --- | --- |
//! | `reference` | names of images and their one normal form |
//! | `credentials` | secrets that cannot be printed, and whose of them a pull uses |
//! | `registry` | HTTP: tokens, redirects, retries, stalls, mirrors |
//! | `sources` | whom to ask for a reference: mirrors, prohibitions, short names, proxies |
//! | `manifest`, `image` | documents that registries hand out, read and refused |
//! | `artifact` | OCI artifacts: which files they stand for |
//! | `trust` | policies, and the signatures that they ask for |
//! | `pull` | from a reference to a committed image, layers in parallel and in one pass, over breaks and restarts |
//! | `flight` | one job however many ask, ended when nobody waits |
//! | `layers` | which layer is needed by whom |
//! | `catalogue` | names and ids, as a snapshot |
//! | `pinned` | which images nobody may collect |
//! | `archive` | images as files: import and export |
//! | `additional` | images of other stores, which are only read |
//! | `store` | all of them together, and the database |
//!
//! Everything that a registry or an archive sends is hostile until its digest is checked, and bounded before.

#![forbid(unsafe_code)]

mod additional;
mod archive;
mod artifact;
mod catalogue;
mod config;
mod credentials;
mod error;
mod flight;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod hashing;
mod image;
mod layers;
mod manifest;
mod pinned;
mod pull;
mod reference;
mod registry;
mod sources;
mod store;
mod trust;

pub use additional::{AdditionalStore, AdditionalStoreError};
pub use archive::ArchiveFormat;
pub use artifact::ImageKind;
pub use config::{
    ImageLimits, ImagesConfig, NodeCredentialsConfig, PartialConfig, Platform, RangesConfig,
    RegistryConfig, RegistrySettings, Timeouts, TrustConfig,
};
pub use credentials::{
    AuthFileProblem, AuthFileState, Credentials, CredentialsError, HelperFault,
    MAX_AUTH_FILE_BYTES, NodeCredentialsError, Revealed,
};
pub use error::ImageError;
pub use image::{Image, ImageRunConfig};
pub use layers::{ImageDisk, ImageLayer, ImageLease};
pub use pinned::{BadPattern, PinnedImages};
pub use pull::normal_reference;
pub use pull::{LayerProgress, LayerState, PullProgress, PullRequest, PullTotals};
pub use reference::{Reference, ReferenceError, ReferenceFault, is_registry_host};
pub use sources::{
    ExplainedHost, ExplainedReference, Explanation, LastError, ProxyConfig, ProxySetting, ProxyUrl,
    SourcesError,
};
pub use store::{DamagedLayer, FsUsage, Images, Prune, Pruned, Verified, VerifySummary};
