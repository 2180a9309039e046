//! Content digests, and the three kinds of thing that are named by one.
//!
//! - an image id is the digest of the image's config;
//! - a diff id is the digest of a layer's uncompressed tar;
//! - a chain id names a layer together with all layers below it, as the OCI image specification defines it:
//!   the chain id of the lowest layer is its diff id, that of every other is `sha256(parent chain id + " " + diff id)`.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A hash function that digests of the OCI world use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, which nearly everyone uses.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The name that stands before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits its hashes have.
    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A text that is no digest, or one of an unknown algorithm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no digest: sha256:<64 lower-case hexadecimal digits> is (or sha512 with 128)")]
pub struct BadDigest {
    text: String,
}

/// The hash of some bytes, written `sha256:<hex>`. A clone is a reference count.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(Arc<str>);

impl Digest {
    /// The SHA-256 digest of bytes at hand.
    pub fn sha256_of(bytes: &[u8]) -> Self {
        Self::from_hash(Algorithm::Sha256, &Sha256::digest(bytes))
    }

    /// The digest with this SHA-256 hash value.
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        Self::from_hash(Algorithm::Sha256, &hash)
    }

    /// The digest with this SHA-512 hash value.
    pub fn from_sha512(hash: [u8; 64]) -> Self {
        Self::from_hash(Algorithm::Sha512, &hash)
    }

    fn from_hash(algorithm: Algorithm, hash: &[u8]) -> Self {
        let mut text = String::with_capacity(8 + 2 * hash.len());
        text.push_str(algorithm.name());
        text.push(':');
        for byte in hash {
            for nibble in [byte >> 4, byte & 0xf] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        Self(text.into())
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        if self.0.starts_with("sha512:") {
            Algorithm::Sha512
        } else {
            Algorithm::Sha256
        }
    }

    /// The hexadecimal digits after the colon; safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0[self.algorithm().name().len() + 1..]
    }

    /// The whole text, algorithm and digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let known = [Algorithm::Sha256, Algorithm::Sha512]
            .into_iter()
            .any(|algorithm| {
                text.strip_prefix(algorithm.name())
                    .and_then(|rest| rest.strip_prefix(':'))
                    .is_some_and(|hex| {
                        hex.len() == algorithm.digits()
                            && hex
                                .bytes()
                                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
                    })
            });
        if known {
            Ok(Self(text.into()))
        } else {
            // Digests come from registries: what is echoed back is bounded.
            let text = text.chars().take(160).collect();
            Err(BadDigest { text })
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = BadDigest;

    fn try_from(text: String) -> Result<Self, BadDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0.as_ref().to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Borrow<str> for Digest {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Digest {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

macro_rules! digest_kind {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Digest);

        impl $name {
            /// The digest it is.
            pub fn digest(&self) -> &Digest {
                &self.0
            }

            /// The hexadecimal digits after the colon; safe as a file name.
            pub fn hex(&self) -> &str {
                self.0.hex()
            }

            /// The whole text, algorithm and digits.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl From<Digest> for $name {
            fn from(digest: Digest) -> Self {
                Self(digest)
            }
        }

        impl From<$name> for Digest {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = BadDigest;

            fn from_str(text: &str) -> Result<Self, BadDigest> {
                text.parse().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, formatter)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, formatter)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.0.as_str()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.0.as_str()
            }
        }
    };
}

digest_kind! {
    /// The digest of an image's config: what CRI calls the image's id.
    ImageId
}
digest_kind! {
    /// The digest of a layer's uncompressed tar.
    DiffId
}
digest_kind! {
    /// The name of a layer on top of all layers below it.
    ChainId
}

impl ChainId {
    /// The chain id of the topmost of these layers, lowest first; `None` if there are none.
    pub fn of(diffs: &[DiffId]) -> Option<Self> {
        diffs.iter().fold(None, |parent, diff| {
            Some(Self::child(parent.as_ref(), diff))
        })
    }

    /// The chain id of the layer `diff` on top of `parent`.
    pub fn child(parent: Option<&Self>, diff: &DiffId) -> Self {
        match parent {
            None => Self(diff.0.clone()),
            Some(parent) => Self(Digest::sha256_of(format!("{parent} {diff}").as_bytes())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;

    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn known_hash() {
        assert_eq!(Digest::sha256_of(b"").as_str(), EMPTY);
        assert_eq!(
            Digest::sha256_of(b"").hex(),
            EMPTY.strip_prefix("sha256:").unwrap()
        );
    }

    #[test]
    fn sha512_is_known_too() {
        let digest = Digest::from_sha512([0xab; 64]);
        assert_eq!(digest.algorithm(), Algorithm::Sha512);
        assert_eq!(digest.hex(), "ab".repeat(64));
        assert_eq!(digest.as_str().parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        for text in [
            "",
            "sha256:",
            "sha256",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            &EMPTY.to_uppercase(),
            &EMPTY[..EMPTY.len() - 1],
            &format!("{EMPTY}0"),
            &EMPTY.replace("sha256", "sha512"),
            "sha256:../../../../../../../../../../../../../../../../../../../etc/pas",
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn chain_ids_follow_the_oci_rule() {
        let diffs: Vec<DiffId> = [b"a", b"b", b"c"]
            .into_iter()
            .map(|bytes| Digest::sha256_of(bytes).into())
            .collect();
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(
            ChainId::of(&diffs[..1]).unwrap().as_str(),
            diffs[0].as_str()
        );
        let two = Digest::sha256_of(format!("{} {}", diffs[0], diffs[1]).as_bytes());
        assert_eq!(ChainId::of(&diffs[..2]).unwrap().digest(), &two);
        let three = Digest::sha256_of(format!("{two} {}", diffs[2]).as_bytes());
        assert_eq!(ChainId::of(&diffs).unwrap().digest(), &three);
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_keeps_the_text(text in "(sha256|sha512|x)?:?[0-9a-fA-F./]{0,130}") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.as_str(), text.as_str());
                prop_assert_eq!(format!("{}:{}", digest.algorithm().name(), digest.hex()), text);
            }
        }
    }
}
