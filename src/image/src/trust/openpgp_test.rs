//! Against what GnuPG makes; `fixtures/make.sh` tells how.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use rstest::rstest;

use super::*;

const CONTENT: &[u8] = b"what is signed\n";
/// When the fixtures were made: 2025-01-01.
const MADE: u32 = 1_735_689_600;
const DAY: u32 = 86_400;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("fixtures/", $name)).as_slice()
    };
}

const RSA: &[u8] = fixture!("rsa.asc");
const YEAR: &[u8] = fixture!("year.gpg");

fn open(keyring: &[u8], message: &[u8], now: u32) -> Result<Vec<u8>, String> {
    Keyring::read(keyring).unwrap().open(message, now)
}

#[rstest]
#[case(RSA, fixture!("rsa.sig"), MADE + 1)]
#[case(RSA, fixture!("rsa.sig"), u32::MAX)]
#[case(RSA, fixture!("armoured.sig"), MADE + 1)]
#[case(RSA, fixture!("short.sig"), MADE + DAY - 1)]
#[case(YEAR, fixture!("year.sig"), MADE + 364 * DAY)]
#[case(fixture!("sub.gpg"), fixture!("sub.sig"), MADE + 364 * DAY)]
// A little early: clocks differ.
#[case(RSA, fixture!("rsa.sig"), MADE - 600)]
fn opens(#[case] keyring: &[u8], #[case] message: &[u8], #[case] now: u32) {
    assert_eq!(open(keyring, message, now).unwrap(), CONTENT);
}

#[rstest]
#[case(YEAR, fixture!("rsa.sig"), MADE + 1, "it is signed by another key (73A231639797F0F6)")]
#[case(YEAR, fixture!("year.sig"), MADE + 366 * DAY, "expired")]
#[case(YEAR, fixture!("year.sig"), MADE - 7200, "dated in the future")]
#[case(RSA, fixture!("short.sig"), MADE + DAY, "its OpenPGP signature expired")]
#[case(fixture!("sub.gpg"), fixture!("sub.sig"), MADE + 366 * DAY, "expired")]
#[case(fixture!("sub-revoked.gpg"), fixture!("sub.sig"), MADE + 1, "is revoked")]
#[case(fixture!("revoked.gpg"), fixture!("revoked.sig"), MADE + 1, "is revoked")]
#[case(RSA, fixture!("two.sig"), MADE + 1, "2 signatures stand on one message")]
#[case(RSA, fixture!("sha1.sig"), MADE + 1, "is made with SHA1")]
#[case(RSA, fixture!("text.sig"), MADE + 1, "not one of binary content")]
#[case(RSA, fixture!("unsigned.sig"), MADE + 1, "without a signature")]
#[case(RSA, fixture!("detached.sig"), MADE + 1, "it is not an OpenPGP signature")]
#[case(RSA, fixture!("clear.sig"), MADE + 1, "it is not an OpenPGP signature")]
#[case(RSA, fixture!("bomb.sig"), MADE + 1, "more than 65536 bytes")]
#[case(RSA, RSA, MADE + 1, "it is not an OpenPGP signature")]
#[case(RSA, b"", MADE + 1, "it is not an OpenPGP signature")]
#[case(RSA, b"{}", MADE + 1, "it is not an OpenPGP signature")]
fn refuses(
    #[case] keyring: &[u8],
    #[case] message: &[u8],
    #[case] now: u32,
    #[case] expected: &str,
) {
    let reason = open(keyring, message, now).unwrap_err();
    assert!(reason.contains(expected), "{reason}");
}

#[test]
fn several_files_are_one_keyring() {
    let mut keys = Keyring::read(YEAR).unwrap();
    keys.extend(Keyring::read(RSA).unwrap());
    assert_eq!(keys.open(fixture!("rsa.sig"), MADE + 1).unwrap(), CONTENT);
    let both = [YEAR, fixture!("sub.gpg")].concat();
    assert_eq!(open(&both, fixture!("sub.sig"), MADE + 1).unwrap(), CONTENT);
}

#[rstest]
#[case(b"")]
#[case(b"no key at all")]
#[case(fixture!("rsa.sig"))]
#[case(&YEAR[..40])]
fn no_keyrings(#[case] bytes: &[u8]) {
    let reason = Keyring::read(bytes).unwrap_err();
    assert!(reason.starts_with("it "), "{reason}");
}

/// The signing subkey of one key, taken by another that it never named.
#[test]
fn a_stolen_subkey_does_not_count() {
    let mut keys = Keyring::read(YEAR).unwrap();
    let thief = &mut keys.keys[0];
    let other = Keyring::read(fixture!("sub.gpg")).unwrap();
    thief
        .public_subkeys
        .extend(other.keys[0].public_subkeys.iter().cloned());
    let reason = keys.open(fixture!("sub.sig"), MADE + 1).unwrap_err();
    assert!(
        reason.contains("is not bound to its primary key"),
        "{reason}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is done to a signature, it either still says what was signed or says nothing.
    #[test]
    fn a_changed_signature_says_nothing_else(position in 0..158usize, byte in any::<u8>()) {
        let mut message = fixture!("year.sig").to_vec();
        message[position] = byte;
        let keys = Keyring::read(YEAR).unwrap();
        if let Ok(content) = keys.open(&message, MADE + 1) {
            prop_assert_eq!(content, CONTENT);
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Keyring::read(YEAR).unwrap().open(&bytes, MADE + 1).is_err());
        let _ = Keyring::read(&bytes);
    }
}
