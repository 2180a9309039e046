//! Trust: whether an image may be used, by the signatures that `policy.json` asks for.
//!
//! ```text
//! policy of the namespace, or of the node ─▶ the most specific scope ─▶ requirements, all of which have to hold
//!                                                                           │
//!    nothing, reject: decided before anything is fetched ◀──────────────────┤
//!    OpenPGP (simple signing): file:// or http(s):// of registries.d ◀──────┤
//!    cosign: tag `sha256-….sig`, then the referrers of the digest ◀─────────┘
//! ```
//!
//! - What is signed is a digest: that to which the reference leads or that of the manifest which an index names for this node.
//! - Nothing is accepted that was not understood: an unknown key in a policy, an unreadable file or key refuses the pull.
//! - Signatures are hostile until they are verified: their number and their sizes are bounded, and they are looked at off
//!   the async workers.
//! - Everything is read when a pull starts and dropped when it ends. A node without a policy pays one look for the file.
//!
//! `pull` calls [`demands`] first and [`Demands::check`] once the digests are known; `store` asks [`own_policy`] for what
//! tells pulls of one image apart, and [`explain`] for people. `permit` asks the same for an image that is here already: what
//! it showed before is known by its [`Demands::seal`].

mod bounded;
mod document;
mod evidence;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod identity;
mod lookaside;
mod openpgp;
mod payload;
mod policy;
mod public_key;
mod scope;
mod seal;
mod transparency;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use state::Digest;

use crate::config::{ImagesConfig, TrustConfig};
use crate::error::ImageError;
use crate::reference::{Reference, clip};
use crate::registry::Session;

use bounded::{read_bounded, read_if_there};
use evidence::Evidence;
use identity::Identity;
use lookaside::{Place, Places};
use openpgp::Keyring;
use policy::{Keys, Policy, Requirement};
use public_key::PublicKey;
use seal::Seal;

/// The longest policy, and the longest file of keys, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The longest name of a Kubernetes namespace.
const MAX_NAMESPACE_BYTES: usize = 63;

/// What the image of one pull has to show.
#[derive(Debug)]
pub(crate) struct Demands {
    reference: Reference,
    /// The policy and the part of it that is about the image, in words.
    policy: String,
    /// What has to be proved; empty if nothing has to be.
    proofs: Vec<Arc<Proof>>,
    /// Where the proofs are; `None` if nothing has to be proved.
    place: Option<Place>,
    /// What is known again of these demands; `None` if nothing has to be proved.
    seal: Option<Digest>,
}

/// One requirement with its keys.
#[derive(Debug)]
enum Proof {
    /// A "simple signing" signature.
    Simple { keys: Keyring, identity: Identity },
    /// A cosign signature.
    Cosign {
        keys: Vec<PublicKey>,
        /// Those of transparency logs. `None`: no entry is asked for.
        logs: Option<Vec<PublicKey>>,
        identity: Identity,
    },
}

/// The policy of a pod's namespace, if it has one of its own: what tells pulls of the same image apart.
pub(crate) async fn own_policy(
    config: &Arc<ImagesConfig>,
    namespace: Option<&str>,
) -> Result<Option<PathBuf>, ImageError> {
    let Some(path) = namespace_file(&config.trust, namespace) else {
        return Ok(None);
    };
    let what = format!("looking for {}", path.display());
    blocking(config, what, move || {
        // A link that leads nowhere is a policy that cannot be read, not none.
        path.symlink_metadata().is_ok().then_some(path)
    })
    .await
}

/// What an image has to show. An image that is refused whatever it shows is refused here.
pub(crate) async fn demands(
    config: &Arc<ImagesConfig>,
    reference: &Reference,
    own_policy: Option<PathBuf>,
) -> Result<Demands, ImageError> {
    let (trust, reference) = (config.trust.clone(), reference.clone());
    let what = format!("reading the signature policy for {reference}");
    blocking(config, what, move || {
        read_demands(&trust, &reference, own_policy)
    })
    .await?
}

/// One line about which policy an image is under and what it asks for. Blocks for reading files.
pub(crate) fn explain(
    trust: &TrustConfig,
    reference: &Reference,
    namespace: Option<&str>,
) -> Result<String, ImageError> {
    let own = namespace_file(trust, namespace).filter(|path| path.symlink_metadata().is_ok());
    let Some((path, policy)) = read_policy(trust, reference, own)? else {
        return Ok(format!(
            "{} does not exist: everything is accepted",
            trust.default_policy.display()
        ));
    };
    let (scope, requirements) = policy.demands(reference);
    let words: Vec<String> = requirements.iter().map(Requirement::describe).collect();
    Ok(format!(
        "{}, {scope}: {}",
        path.display(),
        words.join("; and ")
    ))
}

impl Demands {
    /// What an image's record says of these demands once they are met; `None` if nothing has to be proved.
    pub(crate) fn seal(&self) -> Option<&Digest> {
        self.seal.as_ref()
    }

    /// Whether the image shows what it has to. `digests` are those that lead to it, one of which has to be signed: that of the
    /// reference, and that of the manifest for this node.
    pub(crate) async fn check(
        &self,
        config: &Arc<ImagesConfig>,
        session: &Session,
        digests: &[Digest],
    ) -> Result<(), ImageError> {
        let Some(place) = &self.place else {
            return Ok(());
        };
        let mut distinct: Vec<Digest> = Vec::with_capacity(digests.len());
        for digest in digests {
            if !distinct.contains(digest) {
                distinct.push(digest.clone());
            }
        }
        for proof in &self.proofs {
            let mut evidence = Evidence::new(config, session, self, place, &distinct, proof);
            if !evidence.is_there().await? {
                return Err(self.refuse(evidence.words()));
            }
        }
        Ok(())
    }

    fn refuse(&self, reason: impl Into<String>) -> ImageError {
        ImageError::SignatureValidationFailed {
            reference: self.reference.to_string(),
            policy: self.policy.clone(),
            reason: reason.into(),
        }
    }
}

/// Where a namespace's policy would be. What cannot be the name of a namespace has none.
fn namespace_file(trust: &TrustConfig, namespace: Option<&str>) -> Option<PathBuf> {
    let (folder, namespace) = (trust.policy_dir.as_ref()?, namespace?);
    let is_name = (1..=MAX_NAMESPACE_BYTES).contains(&namespace.len())
        && namespace
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    is_name.then(|| folder.join(format!("{namespace}.json")))
}

fn read_demands(
    trust: &TrustConfig,
    reference: &Reference,
    own_policy: Option<PathBuf>,
) -> Result<Demands, ImageError> {
    let Some((path, policy)) = read_policy(trust, reference, own_policy)? else {
        return Ok(Demands {
            reference: reference.clone(),
            policy: String::new(),
            proofs: Vec::new(),
            place: None,
            seal: None,
        });
    };
    let (scope, requirements) = policy.demands(reference);
    let mut demands = Demands {
        reference: reference.clone(),
        policy: format!("{} ({scope})", path.display()),
        proofs: Vec::new(),
        place: None,
        seal: None,
    };
    let refuse = |reason: String| demands.refuse(reason);
    let mut proofs = Vec::new();
    let mut seal = Seal::new(reference);
    for requirement in requirements {
        seal.require(requirement).map_err(refuse)?;
        let proof = match requirement {
            Requirement::AcceptAnything => continue,
            Requirement::Reject | Requirement::Certificate { .. } => {
                return Err(refuse(format!("it {}", requirement.describe())));
            }
            Requirement::SignedBy { keys, identity } => Proof::Simple {
                keys: read_keyring(keys, &mut seal).map_err(refuse)?,
                identity: identity.clone(),
            },
            Requirement::SigstoreSigned {
                keys,
                log_keys,
                identity,
            } => Proof::Cosign {
                keys: read_public_keys(keys, &mut seal).map_err(refuse)?,
                logs: log_keys
                    .as_ref()
                    .map(|keys| read_log_keys(keys, &mut seal))
                    .transpose()
                    .map_err(refuse)?,
                identity: identity.clone(),
            },
        };
        if let Proof::Cosign {
            keys,
            logs: Some(_),
            ..
        } = &proof
            && keys.iter().any(|key| key.info().is_none())
        {
            return Err(refuse(
                "entries of a transparency log can only be compared with keys in PEM of \"PUBLIC KEY\"".to_owned(),
            ));
        }
        proofs.push(Arc::new(proof));
    }
    if !proofs.is_empty() {
        let place = Places::read(&trust.registries_d)
            .and_then(|places| places.of(reference, &trust.lookaside))
            .map_err(refuse)?;
        demands.place = Some(place);
        demands.seal = Some(seal.finish());
        demands.proofs = proofs;
    }
    Ok(demands)
}

/// The policy that counts and its file; `None` if there is none.
fn read_policy(
    trust: &TrustConfig,
    reference: &Reference,
    own_policy: Option<PathBuf>,
) -> Result<Option<(PathBuf, Policy)>, ImageError> {
    let refuse = |path: &Path, reason: String| ImageError::SignatureValidationFailed {
        reference: reference.to_string(),
        policy: path.display().to_string(),
        reason,
    };
    let (path, bytes) = if let Some(path) = own_policy.or_else(|| trust.policy.clone()) {
        let bytes = read_bounded(&path, MAX_FILE_BYTES).map_err(|why| refuse(&path, why))?;
        (path, bytes)
    } else {
        let path = trust.default_policy.clone();
        match read_if_there(&path, MAX_FILE_BYTES).map_err(|why| refuse(&path, why))? {
            Some(bytes) => (path, bytes),
            None => return Ok(None),
        }
    };
    let policy = Policy::parse(&bytes).map_err(|fault| refuse(&path, fault.to_string()))?;
    Ok(Some((path, policy)))
}

/// Calls `read` with every key's bytes; errors name the key.
fn each_key<T>(
    keys: &Keys,
    seal: &mut Seal,
    read: impl Fn(&[u8]) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    match keys {
        Keys::Files(paths) => paths
            .iter()
            .map(|path| {
                let bytes = read_bounded(path, MAX_FILE_BYTES)?;
                seal.add(&bytes);
                read(&bytes).map_err(|why| format!("the key {}: {why}", path.display()))
            })
            .collect(),
        Keys::Data(datas) => datas
            .iter()
            .enumerate()
            .map(|(position, data)| {
                read(data).map_err(|why| format!("the policy's own key {}: {why}", position + 1))
            })
            .collect(),
    }
}

fn read_keyring(keys: &Keys, seal: &mut Seal) -> Result<Keyring, String> {
    let rings = each_key(keys, seal, Keyring::read)?;
    rings
        .into_iter()
        .reduce(|mut all, one| {
            all.extend(one);
            all
        })
        .ok_or_else(|| "the policy names no key".to_owned())
}

fn read_public_keys(keys: &Keys, seal: &mut Seal) -> Result<Vec<PublicKey>, String> {
    each_key(keys, seal, PublicKey::read)
}

fn read_log_keys(keys: &Keys, seal: &mut Seal) -> Result<Vec<PublicKey>, String> {
    each_key(keys, seal, |bytes| {
        let key = PublicKey::read(bytes)?;
        if key.is_ecdsa() {
            Ok(key)
        } else {
            Err("keys of transparency logs have to be ECDSA".to_owned())
        }
    })
}

/// Runs what blocks or computes on a thread for that, for as long as one answer of a registry may take.
async fn blocking<T: Send + 'static>(
    config: &ImagesConfig,
    what: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ImageError> {
    let limit = config.timeouts.header;
    let limit = if limit.is_zero() {
        Duration::MAX
    } else {
        limit
    };
    match tokio::time::timeout(limit, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(ImageError::Interrupted {
            what: clip(&what, 300),
        }),
        Err(_) => Err(ImageError::Deadline {
            what: clip(&what, 300),
        }),
    }
}

#[cfg(test)]
#[path = "trust/trust_test.rs"]
mod test;
