//! OpenPGP signatures of the kind that `skopeo copy --sign-by` makes: a signed message with its content inside.
//!
//! Pure but for the time, which is told. A signature counts if exactly one stands on the message, made over binary content with
//! a hash of the SHA-2 or SHA-3 family, by a primary key or a bound signing subkey of the keyring that may sign and is
//! neither revoked nor expired now. (GnuPG is asked the same by containers/image: an expired key's old signatures do not count.)
//!
//! A keyring is a file of the operator's: a revocation that stands in it counts without being verified.

use std::io::{Cursor, Read};

use pgp::composed::{Deserializable, Message, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType, SubpacketData};
use pgp::types::{KeyDetails, KeyVersion, Tag, VerifyingKey};

use crate::reference::clip;

/// The longest content of a signed message. Real ones have some hundred bytes; compressed ones could unpack to anything.
const MAX_CONTENT_BYTES: u64 = 64 << 10;
/// Most keys of one file.
const MAX_KEYS: usize = 1000;
/// How far in the future a signature may seem to have been made, in seconds: clocks differ.
const CLOCK_SKEW: u32 = 3600;

/// The keys whose signatures count.
#[derive(Debug)]
pub(super) struct Keyring {
    keys: Vec<SignedPublicKey>,
}

impl Keyring {
    /// Reads the public keys of a file, binary or armoured.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let (found, _) = SignedPublicKey::from_reader_many(Cursor::new(bytes))
            .map_err(|error| clip(&format!("it is not an OpenPGP keyring: {error}"), 200))?;
        let mut keys = Vec::new();
        let mut unusable = None;
        for key in found.take(MAX_KEYS) {
            match key {
                Ok(key) => keys.push(key),
                // A keyring may hold keys of kinds that we do not know beside those that we do.
                Err(error) => unusable = Some(error.to_string()),
            }
        }
        if keys.is_empty() {
            let why = unusable.map_or_else(String::new, |why| format!(" ({})", clip(&why, 120)));
            return Err(format!("it holds no OpenPGP public key{why}"));
        }
        Ok(Self { keys })
    }

    /// Takes up the keys of another.
    pub(super) fn extend(&mut self, other: Self) {
        self.keys.extend(other.keys);
    }

    /// The content of a message that one of the keys signed. `now` is in seconds since 1970.
    pub(super) fn open(&self, message: &[u8], now: u32) -> Result<Vec<u8>, String> {
        let (message, content) = read_message(message)
            .map_err(|error| clip(&format!("it is not an OpenPGP signature: {error}"), 200))?;
        let Message::Signed { reader, .. } = &message else {
            return Err("it is an OpenPGP message without a signature".to_owned());
        };
        if reader.num_signatures() != 1 {
            return Err(format!(
                "{} signatures stand on one message, expected one",
                reader.num_signatures()
            ));
        }
        if !matches!(reader.get_ref(), Message::Literal { .. }) {
            return Err("what is signed is no plain content".to_owned());
        }
        let signature = reader
            .signature(0)
            .ok_or("its OpenPGP signature is cut short")?;
        check_signature(signature, now)?;
        let mut refused = None;
        for key in &self.keys {
            match key_of(key, &message, now) {
                Some(Ok(())) => return Ok(content),
                Some(Err(reason)) => refused = Some(reason),
                None => {}
            }
        }
        Err(refused.unwrap_or_else(|| {
            let issuers: Vec<String> = signature
                .issuer_key_id()
                .iter()
                .take(2)
                .map(|id| id.to_string().to_uppercase())
                .collect();
            format!(
                "it is signed by another key{}",
                if issuers.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", issuers.join(", "))
                }
            )
        }))
    }
}

/// Reads a message to its end.
fn read_message(bytes: &[u8]) -> Result<(Message<'_>, Vec<u8>), String> {
    let words = |error: pgp::errors::Error| error.to_string();
    let (mut message, _) = Message::from_reader(Cursor::new(bytes)).map_err(words)?;
    if message.is_compressed() {
        message = message.decompress().map_err(words)?;
    }
    let mut content = Vec::new();
    (&mut message)
        .take(MAX_CONTENT_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(|error| error.to_string())?;
    if content.len() as u64 > MAX_CONTENT_BYTES {
        return Err(format!(
            "its content has more than {MAX_CONTENT_BYTES} bytes"
        ));
    }
    Ok((message, content))
}

/// Whether a signature is of a kind that counts, at this time.
fn check_signature(signature: &Signature, now: u32) -> Result<(), String> {
    if signature.typ() != Some(SignatureType::Binary) {
        return Err("its OpenPGP signature is not one of binary content".to_owned());
    }
    match signature.hash_alg() {
        Some(
            HashAlgorithm::Sha224
            | HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512,
        ) => {}
        Some(other) => return Err(format!("its OpenPGP signature is made with {other}")),
        None => return Err("its OpenPGP signature is of an unknown version".to_owned()),
    }
    let Some(created) = signature.created() else {
        return Err("its OpenPGP signature has no date".to_owned());
    };
    if created.as_secs() > now.saturating_add(CLOCK_SKEW) {
        return Err("its OpenPGP signature is dated in the future".to_owned());
    }
    if signature
        .signature_expiration_time()
        .is_some_and(|life| is_over(created.as_secs(), life.as_secs(), now))
    {
        return Err("its OpenPGP signature expired".to_owned());
    }
    Ok(())
}

/// Whether the message is signed by this key or one of its subkeys, and then whether that one counts.
fn key_of(key: &SignedPublicKey, message: &Message<'_>, now: u32) -> Option<Result<(), String>> {
    let signed_by =
        |candidate: &dyn VerifyingKey| message.verify_nested_explicit(0, candidate).is_ok();
    if signed_by(&key.primary_key) {
        return Some(check_primary(key, now, true));
    }
    let subkey = key
        .public_subkeys
        .iter()
        .find(|subkey| signed_by(&subkey.key))?;
    Some(check_primary(key, now, false).and_then(|()| check_subkey(key, subkey, now)))
}

fn check_primary(key: &SignedPublicKey, now: u32, signs: bool) -> Result<(), String> {
    let primary = &key.primary_key;
    let name = format!("the key {}", primary.legacy_key_id());
    if matches!(primary.version(), KeyVersion::V2 | KeyVersion::V3) {
        return Err(format!("{name} is of a version that is not safe any more"));
    }
    if !key.details.revocation_signatures.is_empty() {
        return Err(format!("{name} is revoked"));
    }
    let direct = key
        .details
        .direct_signatures
        .iter()
        .filter(|signature| signature.verify_key(primary).is_ok());
    let by_user = key
        .details
        .users
        .iter()
        .filter(|user| {
            !user
                .signatures
                .iter()
                .any(|signature| signature.typ() == Some(SignatureType::CertRevocation))
        })
        .flat_map(|user| {
            user.signatures.iter().filter(|signature| {
                signature
                    .verify_certification(primary, Tag::UserId, &user.id)
                    .is_ok()
            })
        });
    let Some(newest) = direct.chain(by_user).max_by_key(|own| own.created()) else {
        return Err(format!("{name} is not signed by itself"));
    };
    check_life(&name, primary.created_at().as_secs(), newest, now)?;
    if signs && may_sign(newest) == Some(false) {
        return Err(format!("{name} is not one for signing"));
    }
    Ok(())
}

fn check_subkey(
    key: &SignedPublicKey,
    subkey: &SignedPublicSubKey,
    now: u32,
) -> Result<(), String> {
    let primary = &key.primary_key;
    let name = format!("the key {}", subkey.key.legacy_key_id());
    if subkey
        .signatures
        .iter()
        .any(|signature| signature.typ() == Some(SignatureType::SubkeyRevocation))
    {
        return Err(format!("{name} is revoked"));
    }
    let newest = subkey
        .signatures
        .iter()
        .filter(|signature| {
            signature.typ() == Some(SignatureType::SubkeyBinding)
                && signature
                    .verify_subkey_binding(primary, &subkey.key)
                    .is_ok()
        })
        .max_by_key(|binding| binding.created())
        .ok_or_else(|| format!("{name} is not bound to its primary key"))?;
    check_life(&name, subkey.key.created_at().as_secs(), newest, now)?;
    if may_sign(newest) != Some(true) {
        return Err(format!("{name} is not one for signing"));
    }
    // Without this, anyone could bind somebody else's signing key to their own.
    let bound_back = newest.embedded_signature().is_some_and(|back| {
        back.verify_primary_key_binding(&subkey.key, primary)
            .is_ok()
    });
    if bound_back {
        Ok(())
    } else {
        Err(format!("{name} does not name its primary key"))
    }
}

fn check_life(name: &str, created: u32, own: &Signature, now: u32) -> Result<(), String> {
    if created > now.saturating_add(CLOCK_SKEW) {
        return Err(format!("{name} is dated in the future"));
    }
    if own
        .key_expiration_time()
        .is_some_and(|life| is_over(created, life.as_secs(), now))
    {
        return Err(format!("{name} expired"));
    }
    Ok(())
}

/// Whether a life of these many seconds is over. None at all means for ever.
fn is_over(created: u32, life: u32, now: u32) -> bool {
    life != 0 && u64::from(created) + u64::from(life) <= u64::from(now)
}

/// Whether a key's own signature says that it may sign; `None` if it does not say, as those of old do not.
fn may_sign(own: &Signature) -> Option<bool> {
    own.config()?
        .hashed_subpackets()
        .find_map(|subpacket| match &subpacket.data {
            SubpacketData::KeyFlags(flags) => Some(flags.sign()),
            _ => None,
        })
}

#[cfg(test)]
#[path = "openpgp_test.rs"]
mod test;
