//! Identifiers of pods and containers: 64 lower-case hexadecimal digits, drawn at random.
//!
//! Both kinds look alike on purpose (kubelet and the CNI and OCI tools expect that), and are different types so that one
//! is never taken for the other. A clone is a reference count.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// How many hexadecimal digits an id has.
const ID_DIGITS: usize = 64;

/// How many digits of an id suffice for people.
const SHORT_DIGITS: usize = 12;

/// A text that is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {kind} id: it takes {ID_DIGITS} lower-case hexadecimal digits")]
pub struct BadId {
    kind: &'static str,
    text: String,
}

/// 256 bits of the kernel's randomness in hexadecimal.
fn random_digits() -> Arc<str> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut bytes = [0_u8; ID_DIGITS / 2];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            // getrandom(2) without flags fails in no other way on a kernel that has it, and Pintle needs a far newer one.
            Err(error) => panic!("getrandom: {error}"),
        }
    }
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect::<String>()
        .into()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// A new id that nothing else has.
            pub fn random() -> Self {
                Self(random_digits())
            }

            /// All 64 digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 digits, for people.
            pub fn short(&self) -> &str {
                &self.0[..SHORT_DIGITS]
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                if text.len() == ID_DIGITS
                    && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
                {
                    Ok(Self(text.into()))
                } else {
                    // Ids come from clients: what is echoed back is bounded.
                    let text = text.chars().take(2 * ID_DIGITS).collect();
                    Err(BadId { kind: $kind, text })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;

            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

id! {
    /// The id of a pod sandbox.
    PodId, "pod"
}
id! {
    /// The id of a container.
    ContainerId, "container"
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn random_ids_differ_and_parse_back() {
        let (one, two) = (PodId::random(), PodId::random());
        assert_ne!(one, two);
        assert_eq!(one.as_str().len(), 64);
        assert_eq!(one.as_str().parse::<PodId>().unwrap(), one);
        assert_eq!(one.short(), &one.as_str()[..12]);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let long = "a".repeat(65);
        let upper = "A".repeat(64);
        let path = format!("../{}", "a".repeat(61));
        for text in ["", "abc", &long, &upper, &path] {
            assert!(text.parse::<ContainerId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_error_does_not_echo_megabytes() {
        let error = "x".repeat(1 << 20).parse::<PodId>().unwrap_err();
        assert!(error.to_string().len() < 300);
    }

    #[test]
    fn json_is_a_plain_string_and_is_validated() {
        let id = ContainerId::random();
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<ContainerId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<ContainerId>("\"../../etc\"").is_err());
    }
}
