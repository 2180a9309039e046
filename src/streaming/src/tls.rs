//! TLS whose files may be replaced while we serve: they are looked at when a client connects, and read again when they have changed.
//!
//! Files that cannot be used are logged once, and what was good before stays in use: a half-written certificate must not shut
//! anyone out.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{VerifierBuilderError, WebPkiClientVerifier},
};

use crate::TlsFiles;

/// Why TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what the variant means")]
pub enum TlsError {
    #[error("{path} cannot be read as PEM: give {wanted} there", path = path.display())]
    Pem {
        path: PathBuf,
        wanted: &'static str,
        #[source]
        source: pem::Error,
    },
    #[error("{path} has no certificate: give {wanted} there", path = path.display())]
    Empty { path: PathBuf, wanted: &'static str },
    #[error("the certificate {certificate} does not go with the key {key}", certificate = certificate.display(), key = key.display())]
    Pair {
        certificate: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("{path} has no authority that clients' certificates can be checked with", path = path.display())]
    Authority {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("{path} has no authority that clients' certificates can be checked with", path = path.display())]
    Verifier {
        path: PathBuf,
        #[source]
        source: VerifierBuilderError,
    },
    #[error("TLS cannot be set up")]
    Versions(#[source] rustls::Error),
}

/// The current configuration.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    /// Of the files when they were last looked at, whether they could be used or not.
    seen: Seen,
}

/// What tells that files have changed, symbolic links followed, as volumes of
/// Kubernetes are replaced by turning a link.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen(Vec<Option<Facts>>);

/// Device, inode, length, and change time in seconds and nanoseconds.
type Facts = (u64, u64, u64, i64, i64);

impl Seen {
    fn of(files: &TlsFiles) -> Self {
        let paths = [
            Some(&files.certificate),
            Some(&files.key),
            files.client_ca.as_ref(),
        ];
        let facts = |path: &PathBuf| {
            let file = fs::metadata(path).ok()?;
            Some((
                file.dev(),
                file.ino(),
                file.len(),
                file.ctime(),
                file.ctime_nsec(),
            ))
        };
        Self(paths.into_iter().flatten().map(facts).collect())
    }
}

impl Tls {
    pub(crate) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        // Before reading, so that a change while we read is seen the next time.
        let seen = Seen::of(&files);
        let config = Arc::new(read(&files)?);
        Ok(Self {
            files,
            current: Mutex::new(Current { config, seen }),
        })
    }

    /// The configuration for a client that connects now.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        let seen = Seen::of(&self.files);
        // Nothing that holds the lock can panic halfway through a change.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.seen != seen {
            match read(&self.files) {
                Ok(config) => {
                    tracing::info!(certificate = %self.files.certificate.display(), "the streaming server has new TLS files");
                    current.config = Arc::new(config);
                }
                Err(error) => tracing::warn!(
                    "the streaming server keeps its former TLS files: {}",
                    crate::process::sentence(&error)
                ),
            }
            current.seen = seen;
        }
        current.config.clone()
    }
}

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(default_provider());
    let chain = certificates(
        &files.certificate,
        "the server's certificate and those between it and its authority",
    )?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::Pem {
        path: files.key.clone(),
        wanted: "the private key of the server's certificate",
        source,
    })?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path, "the authorities of clients' certificates")? {
                roots.add(authority).map_err(|source| TlsError::Authority {
                    path: path.clone(),
                    source,
                })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|source| TlsError::Verifier {
                    path: path.clone(),
                    source,
                })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|source| TlsError::Pair {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            source,
        })?;
    // Upgrades exist in HTTP/1.1 only.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(
    path: &Path,
    wanted: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrap = |source| TlsError::Pem {
        path: path.to_owned(),
        wanted,
        source,
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(wrap)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(wrap)?;
    if certificates.is_empty() {
        return Err(TlsError::Empty {
            path: path.to_owned(),
            wanted,
        });
    }
    Ok(certificates)
}
