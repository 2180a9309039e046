//! For which image a signature was made, and whether that is the image that is being pulled. Pure.
//!
//! The semantics are those of containers/image, so that a `policy.json` means the same here: names are compared in their
//! normal form, and a claim without a tag and digest, which is what cosign writes, satisfies only those ways that compare
//! repositories. A reference with a digest counts as one without its tag.

use crate::reference::{Reference, clip, is_registry_host};

use super::document::{Fault, Fields, Node};

/// How the identity that a signature claims has to match.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) enum Identity {
    /// Exactly the reference that is pulled.
    Exact,
    /// The reference if it has a tag; if it has a digest, the same repository with any tag or digest.
    RepoDigestOrExact,
    /// The same repository.
    Repository,
    /// This very reference, in its normal form.
    ExactReference(String),
    /// This repository: `host/path`.
    ExactRepository(String),
    /// As [`Self::RepoDigestOrExact`], with a changed beginning of the name.
    Remap {
        prefix: String,
        signed_prefix: String,
    },
}

impl Identity {
    /// Reads a `signedIdentity`. An absent one has the default.
    pub(super) fn read(node: Option<&Node>, place: &str) -> Result<Self, Fault> {
        let Some(node) = node else {
            return Ok(Self::RepoDigestOrExact);
        };
        let kind = node.members(place)?.required_text("type")?;
        let only = |keys: &[&str]| node.fields(place, keys);
        match kind {
            "matchExact" => only(&["type"]).map(|_| Self::Exact),
            "matchRepoDigestOrExact" => only(&["type"]).map(|_| Self::RepoDigestOrExact),
            "matchRepository" => only(&["type"]).map(|_| Self::Repository),
            "exactReference" => {
                let fields = only(&["type", "dockerReference"])?;
                let claim = claim_of(&fields, "dockerReference")?;
                if claim.bare {
                    return Err(Fault::new(
                        &fields.place("dockerReference"),
                        "it has neither a tag nor a digest",
                    ));
                }
                Ok(Self::ExactReference(claim.reference.to_string()))
            }
            "exactRepository" => {
                let fields = only(&["type", "dockerRepository"])?;
                let claim = claim_of(&fields, "dockerRepository")?;
                Ok(Self::ExactRepository(claim.reference.name()))
            }
            "remapIdentity" => {
                let fields = only(&["type", "prefix", "signedPrefix"])?;
                Ok(Self::Remap {
                    prefix: prefix_of(&fields, "prefix")?,
                    signed_prefix: prefix_of(&fields, "signedPrefix")?,
                })
            }
            other => Err(Fault::new(
                &node.members(place)?.place("type"),
                format!(
                    "unknown kind of identity \"{}\"; known are matchExact, matchRepoDigestOrExact, matchRepository, \
                     exactReference, exactRepository, remapIdentity",
                    clip(other, 60)
                ),
            )),
        }
    }

    /// Whether a signature for `claimed` is one for `pulled`; else what was expected.
    pub(super) fn check(&self, pulled: &Reference, claimed: &str) -> Result<(), String> {
        let mismatch = |expected: &str| {
            format!(
                "it is signed for \"{}\", not for {expected}",
                clip(claimed, 160)
            )
        };
        let Ok(claim) = Claim::parse(claimed) else {
            return Err(mismatch(&pulled.identity()));
        };
        let (matches, expected) = match self {
            Self::Exact => (
                !claim.bare && claim.reference.to_string() == pulled.identity(),
                pulled.identity(),
            ),
            Self::RepoDigestOrExact => (
                claim.is_digest_or_exact(pulled),
                digest_or_exact_words(pulled),
            ),
            Self::Repository => (claim.reference.name() == pulled.name(), pulled.name()),
            Self::ExactReference(reference) => (
                !claim.bare && claim.reference.to_string() == *reference,
                reference.clone(),
            ),
            Self::ExactRepository(repository) => {
                (claim.reference.name() == *repository, repository.clone())
            }
            Self::Remap {
                prefix,
                signed_prefix,
            } => match remap(pulled, prefix, signed_prefix) {
                Some(remapped) => (
                    claim.is_digest_or_exact(&remapped),
                    digest_or_exact_words(&remapped),
                ),
                None => (
                    false,
                    format!("any name that \"{signed_prefix}\" could give {pulled}"),
                ),
            },
        };
        if matches {
            return Ok(());
        }
        let hint = if claim.bare && claim.reference.name() == pulled.name() {
            " (it names no tag, as cosign's do not; \"matchRepository\" would accept it)"
        } else {
            ""
        };
        Err(format!("{}{hint}", mismatch(&expected)))
    }
}

/// A reference as a signature or a policy writes it.
struct Claim {
    reference: Reference,
    /// Without tag and digest.
    bare: bool,
}

impl Claim {
    fn parse(text: &str) -> Result<Self, crate::reference::ReferenceError> {
        let last = text.rsplit('/').next().unwrap_or_default();
        Ok(Self {
            reference: Reference::parse(text)?,
            bare: !text.contains('@') && !last.contains(':'),
        })
    }

    fn is_digest_or_exact(&self, pulled: &Reference) -> bool {
        if self.bare {
            return false;
        }
        match pulled.digest() {
            Some(_) => self.reference.name() == pulled.name(),
            None => self.reference.to_string() == pulled.to_string(),
        }
    }
}

fn digest_or_exact_words(pulled: &Reference) -> String {
    match pulled.digest() {
        Some(_) => format!("a tag of {}", pulled.name()),
        None => pulled.to_string(),
    }
}

fn claim_of(fields: &Fields<'_>, key: &str) -> Result<Claim, Fault> {
    let text = fields.required_text(key)?;
    Claim::parse(text).map_err(|error| Fault::new(&fields.place(key), error.to_string()))
}

/// A host, a namespace on it, or a repository: no tag, no digest.
fn prefix_of(fields: &Fields<'_>, key: &str) -> Result<String, Fault> {
    let text = fields.required_text(key)?;
    let (host, path) = match text.split_once('/') {
        Some((host, path)) => (host, Some(path)),
        None => (text, None),
    };
    let valid = is_registry_host(host)
        && path.is_none_or(|path| {
            !path.contains([':', '@']) && Reference::parse(&format!("r.example/{path}")).is_ok()
        });
    if valid {
        Ok(text.to_owned())
    } else {
        Err(Fault::new(
            &fields.place(key),
            format!(
                "\"{}\" is not a host, a namespace or a repository",
                clip(text, 100)
            ),
        ))
    }
}

/// The reference with `prefix` at the start of its name replaced; unchanged if it does not start so. `None` if the result
/// is no reference in normal form.
fn remap(reference: &Reference, prefix: &str, signed_prefix: &str) -> Option<Reference> {
    let identity = reference.identity();
    let name = reference.name();
    let Some(rest) = name.strip_prefix(prefix) else {
        return Some(reference.clone());
    };
    if !rest.is_empty() && !rest.starts_with('/') {
        return Some(reference.clone());
    }
    let text = format!("{signed_prefix}{}", &identity[prefix.len()..]);
    Reference::parse(&text)
        .ok()
        .filter(|parsed| parsed.to_string() == text)
}

#[cfg(test)]
#[path = "identity_test.rs"]
mod test;
