//! What tells whether an image showed already what is asked of it now. Pure.
//!
//! The seal of a demand is a digest of everything that the answer depends on beside the image itself: for which reference,
//! which requirements, and the keys' bytes. An image's record keeps the seals of the demands that it met. So a container can be
//! made again while no registry answers, and a changed requirement or key asks for the signatures anew.

use state::Digest;

use crate::reference::Reference;

use super::policy::Requirement;

/// Changes when the same demand is to be checked anew, because checking became stricter.
const VERSION: &[u8] = b"1";

/// A seal in the making.
#[derive(Debug)]
pub(super) struct Seal(Vec<u8>);

impl Seal {
    /// For demands on what this reference leads to.
    pub(super) fn new(reference: &Reference) -> Self {
        let mut seal = Self(Vec::new());
        seal.add(VERSION);
        seal.add(reference.identity().as_bytes());
        seal
    }

    /// Takes a requirement in; its keys come after it.
    pub(super) fn require(&mut self, requirement: &Requirement) -> Result<(), String> {
        let bytes = serde_json::to_vec(requirement)
            .map_err(|error| format!("a requirement cannot be written down: {error}"))?;
        self.add(&bytes);
        Ok(())
    }

    /// Takes bytes in, such as a key's.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        // With its length, so that nothing can pass for two other things.
        self.0.extend((bytes.len() as u64).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    /// The seal.
    pub(super) fn finish(self) -> Digest {
        Digest::sha256_of(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::collections::BTreeSet;

    use super::super::identity::Identity;
    use super::super::policy::Keys;
    use super::*;

    fn seal(reference: &str, requirement: &Requirement, keys: &[&[u8]]) -> String {
        let mut seal = Seal::new(&Reference::parse(reference).unwrap());
        seal.require(requirement).unwrap();
        for key in keys {
            seal.add(key);
        }
        seal.finish().to_string()
    }

    #[test]
    fn whatever_the_answer_depends_on_changes_the_seal() {
        let keys = || Keys::Files(vec!["/k".into()]);
        let simple = |identity| Requirement::SignedBy {
            keys: keys(),
            identity,
        };
        let cosign = |log_keys| Requirement::SigstoreSigned {
            keys: keys(),
            log_keys,
            identity: Identity::Exact,
        };
        let exact = simple(Identity::Exact);
        let of = |keys: &[&[u8]]| seal("r.example/a:1", &exact, keys);
        assert_eq!(of(&[b"key"]), of(&[b"key"]));
        let different = [
            of(&[b"key"]),
            of(&[b"other"]),
            of(&[b"ke", b"y"]),
            of(&[b"k", b"ey"]),
            seal("r.example/a:2", &exact, &[b"key"]),
            seal("r.example/b:1", &exact, &[b"key"]),
            seal("r.example/a:1", &simple(Identity::Repository), &[b"key"]),
            seal("r.example/a:1", &cosign(None), &[b"key"]),
            seal("r.example/a:1", &cosign(Some(keys())), &[b"key"]),
        ];
        assert_eq!(BTreeSet::from(different.clone()).len(), different.len());
    }
}
