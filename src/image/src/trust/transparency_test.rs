#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rstest::rstest;
use serde_json::{Value, json};

use super::*;

const PAYLOAD: &[u8] = b"what is signed";
const SIGNATURE: &[u8] = b"how it is signed";

struct Log {
    pair: EcdsaKeyPair,
    key: PublicKey,
}

fn pem(info: &[u8]) -> String {
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(info)
    )
}

fn log() -> Log {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
    // The constant beginning of every SubjectPublicKeyInfo over P-256.
    let mut info = vec![
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    info.extend(pair.public_key().as_ref());
    Log {
        key: PublicKey::read(pem(&info).as_bytes()).unwrap(),
        pair,
    }
}

fn entry(key_info: &[u8]) -> Value {
    json!({
        "apiVersion": "0.0.1", "kind": "hashedrekord",
        "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": Digest::sha256_of(PAYLOAD).hex()}},
            "signature": {
                "content": STANDARD.encode(SIGNATURE),
                "publicKey": {"content": STANDARD.encode(pem(key_info))},
            },
        },
    })
}

/// What cosign would carry for this entry.
fn bundle(log: &Log, entry: &Value) -> Value {
    let body = STANDARD.encode(entry.to_string());
    let canonical =
        format!(r#"{{"body":"{body}","integratedTime":1700000000,"logID":"c0d2","logIndex":7}}"#);
    let promise = log
        .pair
        .sign(&SystemRandom::new(), canonical.as_bytes())
        .unwrap();
    json!({
        "SignedEntryTimestamp": STANDARD.encode(promise),
        "Payload": {"body": body, "integratedTime": 1_700_000_000, "logIndex": 7, "logID": "c0d2"},
    })
}

fn judge(bundle: &Value, log: &Log, key_info: &[u8]) -> Result<(), String> {
    let other = self::log();
    let logs = [other.key, log.key.clone()];
    check(&bundle.to_string(), &logs, key_info, PAYLOAD, SIGNATURE)
}

#[test]
fn a_recorded_signature_counts() {
    let log = log();
    assert_eq!(judge(&bundle(&log, &entry(b"key")), &log, b"key"), Ok(()));
}

#[rstest]
#[case("/Payload/logIndex", json!(8), "not signed by a log")]
#[case("/Payload/integratedTime", json!(1), "not signed by a log")]
#[case("/Payload/logID", json!("c0d3"), "not signed by a log")]
#[case("/Payload/logID", json!("c0\",\"x\":\""), "not hexadecimal")]
#[case("/Payload/body", json!("e30="), "not signed by a log")]
#[case("/Payload/body", json!("*"), "its body is not base64")]
#[case("/SignedEntryTimestamp", json!("AAAA"), "not signed by a log")]
#[case("/SignedEntryTimestamp", json!("*"), "its signature is not base64")]
#[case("/Payload", json!({}), "not a bundle")]
fn a_changed_promise_does_not(#[case] place: &str, #[case] value: Value, #[case] expected: &str) {
    let log = log();
    let mut bundle = bundle(&log, &entry(b"key"));
    *bundle.pointer_mut(place).unwrap() = value;
    let reason = judge(&bundle, &log, b"key").unwrap_err();
    assert!(reason.contains(expected), "{reason}");
}

#[rstest]
#[case("/kind", json!("rekord"), "no hashedrekord 0.0.1")]
#[case("/apiVersion", json!("0.0.2"), "no hashedrekord 0.0.1")]
#[case("/spec", json!({}), "no hashedrekord")]
#[case("/spec/data/hash/algorithm", json!("sha512"), "another payload")]
#[case("/spec/data/hash/value", json!("00"), "another payload")]
#[case("/spec/signature/content", json!("AAAA"), "another signature")]
#[case("/spec/signature/publicKey/content", json!("AAAA"), "another key")]
#[case("/spec/signature/publicKey/content", json!(STANDARD.encode(pem(b"other"))), "another key")]
fn an_entry_about_something_else_does_not(
    #[case] place: &str,
    #[case] value: Value,
    #[case] expected: &str,
) {
    let log = log();
    let mut entry = entry(b"key");
    *entry.pointer_mut(place).unwrap() = value;
    let reason = judge(&bundle(&log, &entry), &log, b"key").unwrap_err();
    assert!(reason.contains(expected), "{reason}");
}
