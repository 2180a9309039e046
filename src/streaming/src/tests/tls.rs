//! TLS: who is let in, and that new files are taken without a restart.

use std::{fs, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{Served, Setup, wanted};
use crate::{TlsError, TlsFiles, tls::Tls};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(by: &Issuer<'_, KeyPair>) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    (params.signed_by(&key, by).unwrap(), key)
}

fn write(folder: &Path, certificate: &rcgen::Certificate, key: &KeyPair) -> TlsFiles {
    let files = TlsFiles {
        certificate: folder.join("tls.crt"),
        key: folder.join("tls.key"),
        client_ca: None,
    };
    fs::write(&files.certificate, certificate.pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    files
}

/// Connects, and gives the server's certificate and what it answers to a request for an unknown URL.
async fn visit(
    served: &Served,
    trusted: &Authority,
    as_client: Option<(rcgen::Certificate, KeyPair)>,
) -> std::io::Result<(CertificateDer<'static>, String)> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match as_client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            builder
                .with_client_auth_cert(vec![certificate.der().clone()], key)
                .unwrap()
        }
    };
    let stream = TcpStream::connect(served.address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    stream
        .write_all(b"GET /exec/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().unwrap()[0].clone().into_owned();
    Ok((certificate, answer))
}

async fn served(tls: TlsFiles) -> Served {
    Served::with(Setup {
        tls: Some(tls),
        ..Setup::default()
    })
    .await
}

#[tokio::test]
async fn new_certificates_are_taken_and_bad_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority();
    let (first, key) = issue(&authority);
    let served = served(write(folder.path(), &first, &key)).await;
    assert!(
        served
            .exec(&["cat"], wanted("i"))
            .starts_with("https://127.0.0.1:")
    );
    let (seen, answer) = visit(&served, &authority, None).await.unwrap();
    assert_eq!(&seen, first.der());
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");

    let (second, second_key) = issue(&authority);
    // Half of a renewal: the new certificate does not go with the old key.
    fs::write(folder.path().join("tls.crt"), second.pem()).unwrap();
    assert_eq!(
        &visit(&served, &authority, None).await.unwrap().0,
        first.der()
    );
    fs::write(folder.path().join("tls.crt"), "nonsense").unwrap();
    assert_eq!(
        &visit(&served, &authority, None).await.unwrap().0,
        first.der()
    );
    fs::remove_file(folder.path().join("tls.crt")).unwrap();
    assert_eq!(
        &visit(&served, &authority, None).await.unwrap().0,
        first.der()
    );
    write(folder.path(), &second, &second_key);
    assert_eq!(
        &visit(&served, &authority, None).await.unwrap().0,
        second.der()
    );
}

#[tokio::test]
async fn only_clients_of_the_configured_authority_are_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, clients) = (authority(), authority());
    let (certificate, key) = issue(&authority);
    let mut files = write(folder.path(), &certificate, &key);
    let client_ca = folder.path().join("clients.crt");
    fs::write(&client_ca, clients.pem()).unwrap();
    files.client_ca = Some(client_ca.clone());
    let served = served(files).await;
    assert!(visit(&served, &authority, None).await.is_err());
    assert!(
        visit(&served, &authority, Some(issue(&authority)))
            .await
            .is_err()
    );
    assert!(
        visit(&served, &authority, Some(issue(&clients)))
            .await
            .is_ok()
    );
    // And so are those of an authority that is put in its place.
    fs::write(&client_ca, authority.pem()).unwrap();
    assert!(
        visit(&served, &authority, Some(issue(&clients)))
            .await
            .is_err()
    );
    assert!(
        visit(&served, &authority, Some(issue(&authority)))
            .await
            .is_ok()
    );
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority();
    let (certificate, key) = issue(&authority);
    let files = write(folder.path(), &certificate, &key);
    let load = |change: &dyn Fn(&mut TlsFiles)| {
        let mut files = files.clone();
        change(&mut files);
        Tls::load(files).unwrap_err()
    };
    let empty = folder.path().join("empty");
    fs::write(&empty, "").unwrap();
    let other = folder.path().join("other.key");
    fs::write(&other, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(
        matches!(load(&|files| files.certificate = "/none".into()), TlsError::Pem { path, .. } if path == Path::new("/none"))
    );
    assert!(
        matches!(load(&|files| files.certificate.clone_from(&empty)), TlsError::Empty { path, .. } if path == empty)
    );
    assert!(
        matches!(load(&|files| files.key.clone_from(&empty)), TlsError::Pem { path, .. } if path == empty)
    );
    assert!(
        matches!(load(&|files| files.key.clone_from(&other)), TlsError::Pair { key, .. } if key == other)
    );
    assert!(
        matches!(load(&|files| files.client_ca = Some(empty.clone())), TlsError::Empty { path, .. } if path == empty)
    );
}
