//! A registry that speaks HTTP/2 over TLS and nothing else, with certificates of an authority of its own, and who wants can
//! have it ask for a client's certificate.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::faulty::{Reply, Seen, honest};
use crate::published::Published;

/// An authority, and what it has certified.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// PEM.
    pub(crate) certificate: String,
    der: CertificateDer<'static>,
}

/// A certificate and its key, as PEM.
pub(crate) struct Certified {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("an authority")
    }

    /// One that servers can tell from others by its name.
    pub(crate) fn named(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Certifies a name or an address.
    pub(crate) fn certify(&self, name: &str) -> Certified {
        let (certificate, key) = self.signed(name);
        Certified {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    fn signed(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

pub(crate) struct Secure {
    /// `127.0.0.1:port`.
    pub(crate) host: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
    _server: AbortOnDropHandle<()>,
}

impl Secure {
    /// A registry that holds one image, as tag `1`; whether only those may come whom `clients` has certified.
    pub(crate) async fn holding(
        authority: &Authority,
        image: &Published,
        clients: Option<&Authority>,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.der.clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let (certificate, key) = authority.signed("127.0.0.1");
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let images = Arc::new(vec![("1".to_owned(), image.clone())]);
        let server = tokio::spawn({
            let (seen, connections) = (Arc::clone(&seen), Arc::clone(&connections));
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        continue;
                    };
                    *connections.lock().unwrap() += 1;
                    let (seen, images) = (Arc::clone(&seen), Arc::clone(&images));
                    let service = service_fn(move |request| {
                        let reply = answer(&images, &seen, &request);
                        async move { Ok::<_, Infallible>(reply) }
                    });
                    tokio::spawn(
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(stream), service),
                    );
                }
            }
        });
        Self {
            host,
            seen,
            connections,
            _server: AbortOnDropHandle::new(server),
        }
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    /// How many requests were answered.
    pub(crate) fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Over how many connections.
    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

fn answer(
    images: &[(String, Published)],
    seen: &Mutex<Vec<Seen>>,
    request: &hyper::Request<Incoming>,
) -> hyper::Response<Full<Bytes>> {
    let headers = request.headers().iter();
    let request = Seen {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect(),
        body: String::new(),
    };
    let reply = honest(images, &request);
    let head = request.method == "HEAD";
    seen.lock().unwrap().push(request);
    let Reply::Full(status, headers, body) = reply else {
        unreachable!("an honest registry answers in full");
    };
    let mut response = hyper::Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    let body = if head { Vec::new() } else { body };
    response.body(Full::from(body)).unwrap()
}
