//! Keys and signatures of OpenSSL's, which are those of cosign.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::Write;
use std::path::Path;
use std::process::Command;

use rstest::rstest;

use super::*;

fn openssl(folder: &Path, line: &str) {
    let output = Command::new("openssl")
        .args(line.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A public key of this kind in PEM, and its signature of `message`.
fn sign(generate: &str, message: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::File::create(path.join("message"))
        .unwrap()
        .write_all(message)
        .unwrap();
    openssl(path, &format!("genpkey {generate} -out key"));
    openssl(path, "pkey -in key -pubout -out pub");
    if generate.contains("ed25519") {
        openssl(path, "pkeyutl -sign -inkey key -rawin -in message -out sig");
    } else {
        openssl(path, "dgst -sha256 -sign key -out sig message");
    }
    (
        std::fs::read(path.join("pub")).unwrap(),
        std::fs::read(path.join("sig")).unwrap(),
    )
}

#[rstest]
#[case("-algorithm EC -pkeyopt ec_paramgen_curve:P-256", true)]
#[case("-algorithm EC -pkeyopt ec_paramgen_curve:P-384", true)]
#[case("-algorithm ed25519", false)]
#[case("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", false)]
#[case("-algorithm RSA -pkeyopt rsa_keygen_bits:3072", false)]
fn verifies(#[case] generate: &str, #[case] is_ecdsa: bool) {
    let (pem, signature) = sign(generate, b"message");
    let key = PublicKey::read(&pem).unwrap();
    assert_eq!(key.is_ecdsa(), is_ecdsa);
    assert!(key.info().is_some());
    assert!(key.verifies(b"message", &signature));
    assert!(!key.verifies(b"massage", &signature));
    assert!(!key.verifies(b"message", &signature[1..]));
    assert!(!key.verifies(b"message", b""));
    let mut turned = signature.clone();
    let last = turned.last_mut().unwrap();
    *last ^= 1;
    assert!(!key.verifies(b"message", &turned));
    let (other, _) = sign(generate, b"message");
    assert!(
        !PublicKey::read(&other)
            .unwrap()
            .verifies(b"message", &signature)
    );
}

#[test]
fn rsa_keys_of_pkcs1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::write(path.join("message"), b"m").unwrap();
    openssl(path, "genpkey -algorithm RSA -out key");
    openssl(path, "rsa -in key -RSAPublicKey_out -out pub");
    openssl(path, "dgst -sha256 -sign key -out sig message");
    let key = PublicKey::read(&std::fs::read(path.join("pub")).unwrap()).unwrap();
    assert!(key.verifies(b"m", &std::fs::read(path.join("sig")).unwrap()));
    assert!(key.info().is_none());
}

#[test]
fn short_rsa_keys_verify_nothing() {
    let (pem, signature) = sign("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", b"m");
    assert!(!PublicKey::read(&pem).unwrap().verifies(b"m", &signature));
}

#[rstest]
#[case("", "it holds no PEM")]
#[case("\u{0}", "it holds no PEM")]
#[case("-----BEGIN PUBLIC KEY-----\nMCow", "its PEM has no end")]
#[case(
    "-----BEGIN PUBLIC KEY-----\n*\n-----END PUBLIC KEY-----\n",
    "its PEM is not base64"
)]
#[case(
    "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    "its DER is not"
)]
#[case(
    "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
    "its DER is not"
)]
#[case(
    "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    "it holds PEM of \"PRIVATE KEY\""
)]
fn no_keys(#[case] pem: &str, #[case] expected: &str) {
    let reason = PublicKey::read(pem.as_bytes()).unwrap_err();
    assert!(reason.starts_with(expected), "{reason}");
}

#[rstest]
#[case("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", "P-521")]
#[case(
    "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1",
    "its curve is neither"
)]
#[case("-algorithm X25519", "it is neither an ECDSA")]
fn keys_of_other_kinds(#[case] generate: &str, #[case] expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    openssl(folder.path(), &format!("genpkey {generate} -out key"));
    openssl(folder.path(), "pkey -in key -pubout -out pub");
    let reason = PublicKey::read(&std::fs::read(folder.path().join("pub")).unwrap()).unwrap_err();
    assert!(reason.contains(expected), "{reason}");
}

#[test]
fn two_keys_in_one_file_are_refused() {
    let (pem, _) = sign("-algorithm ed25519", b"m");
    let reason = PublicKey::read(&[pem.clone(), pem].concat()).unwrap_err();
    assert!(reason.contains("more than one key"), "{reason}");
}

#[test]
fn cut_der_is_no_key() {
    let (pem, _) = sign("-algorithm EC -pkeyopt ec_paramgen_curve:P-256", b"m");
    let (_, der) = decode_pem(&pem).unwrap();
    for length in 0..der.len() {
        assert!(
            PublicKey::from_info(der[..length].to_vec()).is_err(),
            "{length}"
        );
    }
}
