//! Entries in a transparency log (Rekor): the promise of a log, carried by a cosign signature, that it recorded this very signature by
//! this very key. Pure.
//!
//! What the log signs is the canonical JSON of four members. It is not cut out of what came, but written anew from the values
//! that were understood, so nothing else can be in it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use state::Digest;

use super::public_key::{PublicKey, decode_pem};

/// What cosign writes into the annotation `dev.sigstore.cosign/bundle`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bundle {
    #[serde(rename = "SignedEntryTimestamp")]
    signature: String,
    #[serde(rename = "Payload")]
    payload: Payload,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Payload {
    body: String,
    integrated_time: i64,
    log_index: i64,
    #[serde(rename = "logID")]
    log_id: String,
}

/// The entry, of the kind `hashedrekord` 0.0.1.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    api_version: String,
    kind: String,
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    data: Data,
    signature: Signature,
}

#[derive(Deserialize)]
struct Data {
    hash: Hash,
}

#[derive(Deserialize)]
struct Hash {
    algorithm: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signature {
    content: String,
    public_key: Key,
}

#[derive(Deserialize)]
struct Key {
    content: String,
}

/// Checks that one of `logs` promises to have recorded `signature` of `payload` by the key whose SubjectPublicKeyInfo this is.
pub(super) fn check(
    bundle: &str,
    logs: &[PublicKey],
    key_info: &[u8],
    payload: &[u8],
    signature: &[u8],
) -> Result<(), String> {
    let unusable = |what: &str| format!("its entry of a transparency log is not usable: {what}");
    let bundle: Bundle =
        serde_json::from_str(bundle).map_err(|_| unusable("it is not a bundle of cosign's"))?;
    let promise = STANDARD
        .decode(&bundle.signature)
        .map_err(|_| unusable("its signature is not base64"))?;
    let body = STANDARD
        .decode(&bundle.payload.body)
        .map_err(|_| unusable("its body is not base64"))?;
    if !bundle.payload.log_id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(unusable("its log id is not hexadecimal"));
    }
    let canonical = format!(
        r#"{{"body":"{}","integratedTime":{},"logID":"{}","logIndex":{}}}"#,
        bundle.payload.body,
        bundle.payload.integrated_time,
        bundle.payload.log_id,
        bundle.payload.log_index,
    );
    if !logs
        .iter()
        .any(|log| log.verifies(canonical.as_bytes(), &promise))
    {
        return Err(
            "its entry of a transparency log is not signed by a log that the policy knows"
                .to_owned(),
        );
    }
    let entry: Entry =
        serde_json::from_slice(&body).map_err(|_| unusable("its body is no hashedrekord"))?;
    if entry.kind != "hashedrekord" || entry.api_version != "0.0.1" {
        return Err(unusable("its body is no hashedrekord 0.0.1"));
    }
    let of_other = |what: &str| format!("its entry of a transparency log is about another {what}");
    let recorded_key = STANDARD
        .decode(&entry.spec.signature.public_key.content)
        .ok()
        .and_then(|pem| decode_pem(&pem).ok())
        .map(|(_, der)| der);
    if recorded_key.as_deref() != Some(key_info) {
        return Err(of_other("key"));
    }
    if STANDARD
        .decode(&entry.spec.signature.content)
        .ok()
        .as_deref()
        != Some(signature)
    {
        return Err(of_other("signature"));
    }
    let hash = &entry.spec.data.hash;
    if hash.algorithm != "sha256" || hash.value != Digest::sha256_of(payload).hex() {
        return Err(of_other("payload"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "transparency_test.rs"]
mod test;
