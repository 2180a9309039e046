//! Public keys as cosign and OpenSSL write them, and signatures by them.
//!
//! Pure. A key is PEM: `PUBLIC KEY` (SubjectPublicKeyInfo) of ECDSA over P-256 or P-384, Ed25519 or RSA from 2048 bits on, or
//! `RSA PUBLIC KEY` (PKCS #1). Signatures are what sigstore makes with them: ECDSA in ASN.1 and RSA PKCS #1 v1.5, both over SHA-256
//! whatever the curve, and plain Ed25519.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};

const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const OID_P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const BIT_STRING: u8 = 0x03;

/// A key that can verify.
#[derive(Clone)]
pub(super) struct PublicKey {
    algorithm: &'static dyn VerificationAlgorithm,
    /// As `algorithm` wants it.
    bytes: Vec<u8>,
    /// The SubjectPublicKeyInfo, if the key was given as one.
    info: Option<Vec<u8>>,
    is_ecdsa: bool,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublicKey")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl PublicKey {
    /// Reads one key.
    pub(super) fn read(pem: &[u8]) -> Result<Self, String> {
        let (label, der) = decode_pem(pem)?;
        match label.as_str() {
            "PUBLIC KEY" => Self::from_info(der),
            "RSA PUBLIC KEY" => Ok(Self {
                algorithm: &RSA_PKCS1_2048_8192_SHA256,
                bytes: der,
                info: None,
                is_ecdsa: false,
            }),
            other => Err(format!(
                "it holds PEM of \"{}\", expected \"PUBLIC KEY\"",
                crate::reference::clip(other, 40)
            )),
        }
    }

    fn from_info(info: Vec<u8>) -> Result<Self, String> {
        let (algorithm, bytes) = read_info(&info)
            .ok_or_else(|| "its DER is not a SubjectPublicKeyInfo".to_owned())??;
        let is_ecdsa = std::ptr::eq(
            std::ptr::from_ref(algorithm).cast::<()>(),
            std::ptr::from_ref(&ECDSA_P256_SHA256_ASN1).cast::<()>(),
        ) || std::ptr::eq(
            std::ptr::from_ref(algorithm).cast::<()>(),
            std::ptr::from_ref(&ECDSA_P384_SHA256_ASN1).cast::<()>(),
        );
        Ok(Self {
            algorithm,
            bytes: bytes.to_vec(),
            is_ecdsa,
            info: Some(info),
        })
    }

    /// Whether `signature` is one of `message` by this key.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.bytes)
            .verify(message, signature)
            .is_ok()
    }

    /// Whether it is an ECDSA key, as those of transparency logs have to be.
    pub(super) fn is_ecdsa(&self) -> bool {
        self.is_ecdsa
    }

    /// Its SubjectPublicKeyInfo in DER; `None` if it was given in another form.
    pub(super) fn info(&self) -> Option<&[u8]> {
        self.info.as_deref()
    }
}

/// The label and the content of the only PEM block.
pub(super) fn decode_pem(pem: &[u8]) -> Result<(String, Vec<u8>), String> {
    let missing = || "it holds no PEM, expected \"-----BEGIN PUBLIC KEY-----\"".to_owned();
    let text = std::str::from_utf8(pem).map_err(|_| missing())?;
    let (_, rest) = text.split_once("-----BEGIN ").ok_or_else(missing)?;
    let (label, rest) = rest.split_once("-----").ok_or_else(missing)?;
    let (body, behind) = rest
        .split_once(&format!("-----END {label}-----"))
        .ok_or("its PEM has no end")?;
    if behind.contains("-----BEGIN ") {
        return Err("it holds more than one key; name a file for each".to_owned());
    }
    let body: String = body.split_ascii_whitespace().collect();
    let der = STANDARD
        .decode(body)
        .map_err(|_| "its PEM is not base64".to_owned())?;
    Ok((label.to_owned(), der))
}

type Usable<'a> = Result<(&'static dyn VerificationAlgorithm, &'a [u8]), String>;

/// Takes a SubjectPublicKeyInfo apart; `None` if it is none.
fn read_info(info: &[u8]) -> Option<Usable<'_>> {
    let (outer, behind) = element(info, SEQUENCE)?;
    let (algorithm, rest) = element(outer, SEQUENCE)?;
    let (kind, parameters) = element(algorithm, OBJECT_IDENTIFIER)?;
    let (bits, end) = element(rest, BIT_STRING)?;
    let (0, key) = (*bits.first()?, bits.get(1..)?) else {
        return None;
    };
    if !behind.is_empty() || !end.is_empty() {
        return None;
    }
    let algorithm: &'static dyn VerificationAlgorithm = match kind {
        OID_ED25519 => &ED25519,
        OID_RSA => &RSA_PKCS1_2048_8192_SHA256,
        OID_EC => match element(parameters, OBJECT_IDENTIFIER)?.0 {
            OID_P256 => &ECDSA_P256_SHA256_ASN1,
            OID_P384 => &ECDSA_P384_SHA256_ASN1,
            OID_P521 => {
                return Some(Err(
                    "keys over P-521 are not supported; P-256, P-384, Ed25519 and RSA are"
                        .to_owned(),
                ));
            }
            _ => return Some(Err("its curve is neither P-256 nor P-384".to_owned())),
        },
        _ => {
            return Some(Err(
                "it is neither an ECDSA, nor an Ed25519, nor an RSA key".to_owned(),
            ));
        }
    };
    Some(Ok((algorithm, key)))
}

/// The content of the DER element at the start, which has to have this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (&length, rest) = rest.split_first()?;
            (usize::from(length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_at_checked(2)?;
            (
                usize::from(u16::from_be_bytes([length[0], length[1]])),
                rest,
            )
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
#[path = "public_key_test.rs"]
mod test;
