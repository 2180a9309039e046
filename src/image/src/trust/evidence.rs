//! Looking for one signature that proves what a policy asks for: where the signatures of an image are fetched from, one after the
//! other, until one of them is good, and what was wrong with the others.
//!
//! A signature that is not good is a reason to look at the next one; a place that cannot be asked is the end, since it might
//! have had the good one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use state::Digest;

use crate::config::ImagesConfig;
use crate::error::ImageError;
use crate::manifest::Descriptor;
use crate::reference::{Reference, clip};
use crate::registry::Session;

use super::bounded::read_if_there;
use super::lookaside::Place;
use super::payload::{Form, Statement};
use super::{Demands, Proof, blocking, transparency};

/// Most signatures that are looked at in one place.
const MAX_SIGNATURES: usize = 128;
/// Most referrers that are looked at.
const MAX_REFERRERS: usize = 64;
/// The longest signature or signed document, in bytes. Real ones have less than 16 KiB.
const MAX_SIGNATURE_BYTES: u64 = 256 << 10;
/// How many of the reasons are told.
const TOLD_REASONS: usize = 3;
/// The longest account of it all, in characters: it ends up in an event of a pod.
const MAX_WORDS: usize = 600;

const COSIGN_ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const COSIGN_PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const BUNDLE_ARTIFACT_START: &str = "application/vnd.dev.sigstore.bundle";
const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
const LOG_ANNOTATION: &str = "dev.sigstore.cosign/bundle";

/// The search for one proof.
pub(super) struct Evidence<'a> {
    config: &'a Arc<ImagesConfig>,
    session: &'a Session,
    demands: &'a Demands,
    place: &'a Place,
    digests: &'a [Digest],
    proof: &'a Arc<Proof>,
    /// Where was looked.
    places: Vec<String>,
    /// How many signatures were not good, and why.
    refused: usize,
    reasons: Vec<String>,
}

/// A manifest of signatures.
#[derive(Deserialize)]
struct Signatures {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(flatten)]
    descriptor: Descriptor,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// An index of referrers.
#[derive(Deserialize)]
struct Referrers {
    #[serde(default)]
    manifests: Option<Vec<Referrer>>,
}

#[derive(Deserialize)]
struct Referrer {
    #[serde(flatten)]
    descriptor: Descriptor,
    #[serde(rename = "artifactType", default)]
    artifact_type: Option<String>,
}

impl<'a> Evidence<'a> {
    pub(super) fn new(
        config: &'a Arc<ImagesConfig>,
        session: &'a Session,
        demands: &'a Demands,
        place: &'a Place,
        digests: &'a [Digest],
        proof: &'a Arc<Proof>,
    ) -> Self {
        Self {
            config,
            session,
            demands,
            place,
            digests,
            proof,
            places: Vec::new(),
            refused: 0,
            reasons: Vec::new(),
        }
    }

    /// Looks until there is a good signature. An error means that nobody knows.
    pub(super) async fn is_there(&mut self) -> Result<bool, ImageError> {
        let is_cosign = matches!(**self.proof, Proof::Cosign { .. });
        if is_cosign && self.place.attachments == Some(false) {
            self.reasons.push(
                "registries.d turns use-sigstore-attachments off for it, so its signatures are not looked for"
                    .to_owned(),
            );
            return Ok(false);
        }
        for digest in self.digests {
            let found = if is_cosign {
                self.under_the_tag(digest).await? || self.among_referrers(digest).await?
            } else {
                self.beside(digest).await?
            };
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Why nothing was found.
    pub(super) fn words(&self) -> String {
        let told = self.reasons.join("; ");
        let words = match (self.refused, self.places.as_slice()) {
            (0, _) if !told.is_empty() => told,
            (0, [place]) => format!("no signature was found {place}"),
            (0, places) => format!("no signature was found, neither {}", places.join(" nor ")),
            (1, _) => format!("its signature does not count: {told}"),
            (count, _) => format!("none of its {count} signatures counts: {told}"),
        };
        clip(&words, MAX_WORDS)
    }

    /// Simple signing: `signature-1`, `signature-2`, … in a folder named by the digest.
    async fn beside(&mut self, digest: &Digest) -> Result<bool, ImageError> {
        self.places.push(format!(
            "at {}",
            clip(self.place.signature(digest, 1).as_str(), 300)
        ));
        for number in 1..=MAX_SIGNATURES {
            let url = self.place.signature(digest, number);
            let found = match url.to_file_path() {
                Ok(path) if url.scheme() == "file" => {
                    let what = format!("reading {}", path.display());
                    let read = move || read_if_there(&path, MAX_SIGNATURE_BYTES);
                    let read = blocking(self.config, what, read).await?;
                    match read {
                        Ok(found) => found.map(Bytes::from),
                        Err(reason) => {
                            self.refuse(&reason);
                            continue;
                        }
                    }
                }
                _ => match self.session.elsewhere(&url, MAX_SIGNATURE_BYTES).await {
                    Ok(found) => found,
                    Err(error) => {
                        self.refuse_if_its_own_fault(error)?;
                        continue;
                    }
                },
            };
            let Some(signature) = found else {
                return Ok(false);
            };
            if self.counts(signature, None).await? {
                return Ok(true);
            }
        }
        self.refuse(&format!("there are more than {MAX_SIGNATURES}"));
        Ok(false)
    }

    /// cosign's own way: a manifest under a tag that is made of the digest.
    async fn under_the_tag(&mut self, digest: &Digest) -> Result<bool, ImageError> {
        let tag = format!("{}-{}.sig", digest.algorithm().name(), digest.hex());
        self.places.push(format!("under the tag {tag}"));
        match self.session.tagged(&tag).await {
            Ok(Some(manifest)) => self.in_manifest(&manifest.bytes).await,
            Ok(None) => Ok(false),
            Err(error) => self.refuse_if_its_own_fault(error).map(|()| false),
        }
    }

    /// OCI's way: an index of what refers to the digest, from the registry or, where it keeps none, under a tag.
    async fn among_referrers(&mut self, digest: &Digest) -> Result<bool, ImageError> {
        self.places.push(format!("among the referrers of {digest}"));
        let index = match self.session.referrers(digest, COSIGN_ARTIFACT).await {
            Ok(Some(index)) => index,
            Ok(None) => {
                let tag = format!("{}-{}", digest.algorithm().name(), digest.hex());
                match self.session.tagged(&tag).await {
                    Ok(Some(index)) => index.bytes,
                    Ok(None) => return Ok(false),
                    Err(error) => return self.refuse_if_its_own_fault(error).map(|()| false),
                }
            }
            Err(error) => return self.refuse_if_its_own_fault(error).map(|()| false),
        };
        let Ok(index) = serde_json::from_slice::<Referrers>(&index) else {
            self.refuse("the list of its referrers is not an index");
            return Ok(false);
        };
        let mut looked = 0;
        for referrer in index.manifests.unwrap_or_default() {
            match referrer.artifact_type.as_deref() {
                None | Some("" | COSIGN_ARTIFACT) => {}
                Some(other) if other.starts_with(BUNDLE_ARTIFACT_START) => {
                    self.refuse("it is a sigstore bundle, a form that is not read");
                    continue;
                }
                Some(_) => continue,
            }
            looked += 1;
            if looked > MAX_REFERRERS {
                self.refuse(&format!("more than {MAX_REFERRERS} documents refer to it"));
                return Ok(false);
            }
            match self.session.named(&referrer.descriptor).await {
                Ok(Some(manifest)) => {
                    if self.in_manifest(&manifest.bytes).await? {
                        return Ok(true);
                    }
                }
                Ok(None) => self.refuse("the registry does not have it any more"),
                Err(error) => self.refuse_if_its_own_fault(error)?,
            }
        }
        Ok(false)
    }

    /// The signatures of a manifest: each layer is a signed document, its annotations have the signature.
    async fn in_manifest(&mut self, manifest: &[u8]) -> Result<bool, ImageError> {
        let Ok(signatures) = serde_json::from_slice::<Signatures>(manifest) else {
            self.refuse("its manifest of signatures is none");
            return Ok(false);
        };
        let layers = signatures
            .layers
            .into_iter()
            .filter(|layer| layer.descriptor.media_type == COSIGN_PAYLOAD);
        for (position, layer) in layers.enumerate() {
            if position == MAX_SIGNATURES {
                self.refuse(&format!("there are more than {MAX_SIGNATURES}"));
                return Ok(false);
            }
            let payload = match self
                .session
                .small_blob(&layer.descriptor, MAX_SIGNATURE_BYTES)
                .await
            {
                Ok(Some(payload)) => payload,
                Ok(None) => {
                    self.refuse("the registry does not have it any more");
                    continue;
                }
                Err(error) => {
                    self.refuse_if_its_own_fault(error)?;
                    continue;
                }
            };
            let annotations = layer.annotations.unwrap_or_default();
            if self.counts(payload, Some(annotations)).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a signature is good. `annotations` are those of a cosign signature.
    async fn counts(
        &mut self,
        document: Bytes,
        annotations: Option<BTreeMap<String, String>>,
    ) -> Result<bool, ImageError> {
        let proof = Arc::clone(self.proof);
        let reference = self.demands.reference.clone();
        let digests = self.digests.to_vec();
        let what = format!("verifying a signature of {reference}");
        let verdict = blocking(self.config, what, move || {
            judge(
                &proof,
                &reference,
                &digests,
                &document,
                &annotations.unwrap_or_default(),
            )
        })
        .await;
        match verdict {
            Ok(Ok(())) => Ok(true),
            Ok(Err(reason)) => {
                self.refuse(&reason);
                Ok(false)
            }
            // A parser that could not bear it.
            Err(ImageError::Interrupted { .. }) => {
                self.refuse("it cannot be read");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn refuse(&mut self, reason: &str) {
        self.refused += 1;
        if self.reasons.len() < TOLD_REASONS && !self.reasons.iter().any(|told| told == reason) {
            self.reasons.push(clip(reason, 300));
        }
    }

    /// Takes an error of fetching as one of the signature, if the place where it is did answer.
    fn refuse_if_its_own_fault(&mut self, error: ImageError) -> Result<(), ImageError> {
        match error {
            ImageError::TooLarge { .. }
            | ImageError::Corrupt { .. }
            | ImageError::Unsupported { .. } => {
                self.refuse(&error.to_string());
                Ok(())
            }
            error => Err(error),
        }
    }
}

/// Whether one signature proves what is asked for; else why not.
fn judge(
    proof: &Proof,
    reference: &Reference,
    digests: &[Digest],
    document: &[u8],
    annotations: &BTreeMap<String, String>,
) -> Result<(), String> {
    let (statement, identity) = match proof {
        Proof::Simple { keys, identity } => {
            let content = keys.open(document, now())?;
            (Statement::read(&content, Form::Simple)?, identity)
        }
        Proof::Cosign {
            keys,
            logs,
            identity,
        } => {
            let signature = annotations
                .get(SIGNATURE_ANNOTATION)
                .and_then(|text| STANDARD.decode(text).ok())
                .filter(|bytes| !bytes.is_empty())
                .ok_or_else(|| {
                    format!("its annotation {SIGNATURE_ANNOTATION} is missing or not base64")
                })?;
            let key = keys
                .iter()
                .find(|key| key.verifies(document, &signature))
                .ok_or("it is signed by another key")?;
            if let Some(logs) = logs {
                let bundle = annotations
                    .get(LOG_ANNOTATION)
                    .ok_or("it has no entry of a transparency log")?;
                let info = key.info().ok_or("its key has no comparable form")?;
                transparency::check(bundle, logs, info, document, &signature)?;
            }
            (Statement::read(document, Form::Cosign)?, identity)
        }
    };
    if !digests.contains(&statement.digest) {
        return Err(format!(
            "it is a signature of {}, another image",
            statement.digest
        ));
    }
    identity.check(reference, &statement.reference)
}

/// Seconds since 1970. A clock beyond what OpenPGP can say makes everything expire.
fn now() -> u32 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u32::try_from(since.as_secs()).ok())
        .unwrap_or(u32::MAX)
}
