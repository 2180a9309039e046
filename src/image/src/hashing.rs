//! Digests of content that arrives in pieces.

use sha2::{Digest as _, Sha256, Sha512};
use state::{Algorithm, Digest};

/// A running hash of one of the algorithms that digests may name.
#[derive(Clone, Debug)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// A hasher that can confirm `digest`; SHA-256 when there is none to confirm.
    pub(crate) fn like(digest: Option<&Digest>) -> Self {
        match digest.map(Digest::algorithm) {
            Some(Algorithm::Sha512) => Self::Sha512(Sha512::new()),
            Some(Algorithm::Sha256) | None => Self::Sha256(Sha256::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::from_sha256(hasher.finalize().into()),
            Self::Sha512(hasher) => Digest::from_sha512(hasher.finalize().into()),
        }
    }
}
