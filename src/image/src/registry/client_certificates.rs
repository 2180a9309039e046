//! TLS connections and the certificates of the node that are shown on them: reading them, and which of several a host is
//! shown.
//!
//! A host that wants a certificate tells which authorities it goes by. It is shown the first certificate that one of these
//! has issued, and the first of all where none is or the host does not tell: some servers tell nothing, some tell the root
//! only of a chain that is not in our file. Servers that want one and get none often just close the connection, so that it
//! is noted that they have asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, InconsistentKeys,
    SignatureScheme,
};
use rustls_platform_verifier::Verifier;
use webpki::EndEntityCert;

/// What the HTTP client can speak.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why a certificate and its key cannot be shown, as the rest of a sentence that begins with both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// One of them is not there, or no PEM.
    Form,
    /// The key is another one's.
    Apart,
}

impl Unfit {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Form => "are not a PEM certificate with a PEM private key",
            Self::Apart => "do not belong together",
        }
    }
}

/// The certificates of one host that may be shown, in the order of its files.
#[derive(Debug)]
struct ClientCertificates {
    keys: Vec<Arc<CertifiedKey>>,
    asked: Arc<AtomicBool>,
}

/// Reads a certificate, those that lead from it to its authority, and its key: PEM, in any order.
pub(super) fn read(pem: &[u8]) -> Result<Arc<CertifiedKey>, Unfit> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| Unfit::Form)?;
    if chain.is_empty() {
        return Err(Unfit::Form);
    }
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| Unfit::Form)?;
    CertifiedKey::from_der(chain, key, &provider())
        .map(Arc::new)
        .map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Unfit::Apart,
            _ => Unfit::Form,
        })
}

/// Connections that show one of these certificates, and trust the system's authorities and those given; or anybody, with
/// `skip_verify`. `asked` is set as soon as the host asks for a certificate.
pub(super) fn connections(
    keys: Vec<Arc<CertifiedKey>>,
    asked: Arc<AtomicBool>,
    authorities: Vec<CertificateDer<'static>>,
    skip_verify: bool,
) -> Result<ClientConfig, Error> {
    let provider = provider();
    let verifier: Arc<dyn ServerCertVerifier> = if skip_verify {
        Arc::new(Anybody(Arc::clone(&provider)))
    } else {
        let provider = Arc::clone(&provider);
        Arc::new(Verifier::new_with_extra_roots(authorities, provider)?)
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(ClientCertificates { keys, asked }));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    Ok(config)
}

/// The provider that the process has, which the HTTP client uses as well.
fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().map_or_else(
        || Arc::new(rustls::crypto::ring::default_provider()),
        Arc::clone,
    )
}

impl ResolvesClientCert for ClientCertificates {
    fn resolve(
        &self,
        acceptable: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        self.keys
            .iter()
            .filter(usable)
            .find(|key| key.cert.iter().any(|one| is_issued_by(one, acceptable)))
            .or_else(|| self.keys.iter().find(usable))
            .cloned()
    }

    fn has_certs(&self) -> bool {
        !self.keys.is_empty()
    }
}

/// Whether the issuer of a certificate is one of these distinguished names, in DER.
fn is_issued_by(certificate: &CertificateDer<'_>, names: &[&[u8]]) -> bool {
    EndEntityCert::try_from(certificate).is_ok_and(|certificate| {
        let issuer = DistinguishedName::in_sequence(certificate.issuer());
        names.contains(&issuer.as_ref())
    })
}

/// Takes every server for the one that is meant, as the operator wants with `skip_verify`.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName as Names, DnType, IsCa, Issuer,
        KeyPair,
    };

    use super::*;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(vec!["x.example".to_owned()]).unwrap();
        params.distinguished_name = Names::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    /// An authority; what it is called as servers tell it.
    fn authority(name: &str) -> (Issuer<'static, KeyPair>, Vec<u8>) {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let certificate = EndEntityCert::try_from(certificate.der()).map(|found| {
            DistinguishedName::in_sequence(found.subject())
                .as_ref()
                .to_vec()
        });
        (Issuer::new(params, key), certificate.unwrap())
    }

    /// A certificate of an authority, with its key, as PEM.
    fn certified(issuer: &Issuer<'_, KeyPair>, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name).signed_by(&key, issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn pem(issuer: &Issuer<'_, KeyPair>, name: &str) -> String {
        let (certificate, key) = certified(issuer, name);
        format!("{certificate}\n{key}")
    }

    #[test]
    fn the_first_of_an_acceptable_authority_is_shown_or_else_the_first() {
        let ((one, one_name), (two, two_name), (_, other_name)) =
            (authority("one"), authority("two"), authority("other"));
        let keys: Vec<_> = [pem(&one, "a"), pem(&two, "b"), pem(&two, "c")]
            .iter()
            .map(|pem| read(pem.as_bytes()).unwrap())
            .collect();
        let certificates = ClientCertificates {
            keys: keys.clone(),
            asked: Arc::default(),
        };
        assert!(!certificates.asked.load(Ordering::Relaxed));
        let shown = |acceptable: &[&[u8]], scheme| {
            let shown = certificates.resolve(acceptable, &[scheme])?;
            keys.iter().position(|key| Arc::ptr_eq(key, &shown))
        };
        let ecdsa = SignatureScheme::ECDSA_NISTP256_SHA256;
        assert_eq!(shown(&[&one_name], ecdsa), Some(0));
        assert_eq!(shown(&[&two_name], ecdsa), Some(1));
        assert_eq!(shown(&[&other_name, &two_name], ecdsa), Some(1));
        assert_eq!(shown(&[&two_name, &one_name], ecdsa), Some(0));
        assert_eq!(shown(&[&other_name], ecdsa), Some(0));
        assert_eq!(shown(&[], ecdsa), Some(0));
        // What is no name is nobody's.
        assert_eq!(shown(&[b"", b"\x30", &two_name[1..]], ecdsa), Some(0));
        assert!(certificates.asked.load(Ordering::Relaxed));
        // No key can sign in this way.
        assert_eq!(shown(&[&two_name], SignatureScheme::RSA_PKCS1_SHA256), None);
    }

    #[test]
    fn an_authority_further_up_the_chain_is_acceptable_too() {
        let (root, root_name) = authority("root");
        let (_, other_name) = authority("other");
        let mut between = params("between");
        between.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = between.signed_by(&key, &root).unwrap().pem();
        let between = Issuer::new(between, key);
        let chained = format!("{}\n{certificate}", pem(&between, "leaf"));
        let (other, _) = authority("other");
        let keys = [pem(&other, "x"), chained].map(|pem| read(pem.as_bytes()).unwrap());
        let certificates = ClientCertificates {
            keys: keys.to_vec(),
            asked: Arc::default(),
        };
        let ecdsa = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let shown = certificates.resolve(&[&root_name], &ecdsa).unwrap();
        assert!(Arc::ptr_eq(&shown, &keys[1]));
        let shown = certificates.resolve(&[&other_name], &ecdsa).unwrap();
        assert!(Arc::ptr_eq(&shown, &keys[0]));
    }

    #[test]
    fn what_cannot_be_shown_is_told() {
        let (issuer, _) = authority("one");
        let ((certificate, key), (_, other_key)) =
            (certified(&issuer, "a"), certified(&issuer, "b"));
        for (pem, expected) in [
            (format!("{certificate}\n{other_key}"), Unfit::Apart),
            (certificate.clone(), Unfit::Form),
            (key.clone(), Unfit::Form),
            (String::new(), Unfit::Form),
            (
                format!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{key}"),
                Unfit::Form,
            ),
        ] {
            assert_eq!(read(pem.as_bytes()).err(), Some(expected), "{pem}");
        }
        assert!(read(format!("{key}\n{certificate}").as_bytes()).is_ok());
    }
}
