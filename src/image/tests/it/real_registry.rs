//! Debian's docker-registry on a port of its own choice, and a small client that pushes to it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use reqwest::{Client, Method, RequestBuilder};
use state::Digest;
use tempfile::TempDir;

use crate::published::Published;

/// The user that [`Auth::Password`] knows: `user` with the password `secret`, as bcrypt.
const HTPASSWD: &str = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

pub(crate) enum Auth {
    Nobody,
    Password,
    /// Any bearer token will do, and this token server is named as the place to get one.
    Token {
        realm: String,
    },
    /// Tokens that a key signed whose certificate is in the bundle.
    SignedToken {
        realm: String,
        service: String,
        issuer: String,
        bundle: PathBuf,
    },
}

pub(crate) struct RealRegistry {
    /// `127.0.0.1:port`.
    pub(crate) host: String,
    server: Child,
    credentials: Option<(&'static str, &'static str)>,
    _folder: TempDir,
}

impl RealRegistry {
    pub(crate) fn start() -> Self {
        Self::with_auth(&Auth::Nobody)
    }

    pub(crate) fn with_auth(auth: &Auth) -> Self {
        Self::with(auth, None)
    }

    /// A registry on HTTPS, whose certificate is for 127.0.0.1. It cannot be pushed to.
    pub(crate) fn with_tls(certificate: &Path, key: &Path) -> Self {
        Self::with(&Auth::Nobody, Some((certificate, key)))
    }

    fn with(auth: &Auth, tls: Option<(&Path, &Path)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tls_section = tls.map_or_else(String::new, |(certificate, key)| {
            format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                certificate.display(),
                key.display()
            )
        });
        let htpasswd = folder.path().join("htpasswd");
        std::fs::write(&htpasswd, HTPASSWD).unwrap();
        let auth_section = match auth {
            Auth::Nobody => String::new(),
            Auth::Password => format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                htpasswd.display()
            ),
            Auth::Token { realm } => {
                format!("auth:\n  silly:\n    realm: {realm}\n    service: test-service\n")
            }
            Auth::SignedToken {
                realm,
                service,
                issuer,
                bundle,
            } => format!(
                "auth:\n  token:\n    realm: {realm}\n    service: {service}\n    issuer: {issuer}\n    \
                 rootcertbundle: {}\n",
                bundle.display()
            ),
        };
        let config = folder.path().join("config.yml");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
                 http:\n  addr: 127.0.0.1:0\n{tls_section}{auth_section}",
                folder.path().join("data").display()
            ),
        )
        .unwrap();
        let mut server = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env_remove("HTTP_PROXY")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(server.stderr.take().unwrap());
        let port = loop {
            let mut line = String::new();
            assert_ne!(
                log.read_line(&mut line).unwrap(),
                0,
                "docker-registry did not start"
            );
            if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
                break rest
                    .chars()
                    .take_while(char::is_ascii_digit)
                    .collect::<String>();
            }
        };
        // A full pipe would stop it.
        std::thread::spawn(move || log.lines().for_each(drop));
        Self {
            host: format!("127.0.0.1:{port}"),
            server,
            credentials: matches!(auth, Auth::Password).then_some(("user", "secret")),
            _folder: folder,
        }
    }

    /// `127.0.0.1:port/name`.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    /// Pushes an image under `repository:tag`.
    pub(crate) async fn push(&self, repository: &str, tag: &str, image: &Published) {
        for blob in image.blobs() {
            self.push_blob(repository, &blob).await;
        }
        self.push_manifest(repository, tag, &image.manifest, image.manifest_type)
            .await;
    }

    pub(crate) async fn push_manifest(
        &self,
        repository: &str,
        tag: &str,
        bytes: &[u8],
        kind: &str,
    ) {
        let answer = self
            .request(Method::PUT, &format!("/v2/{repository}/manifests/{tag}"))
            .header("Content-Type", kind)
            .body(bytes.to_vec())
            .send()
            .await
            .unwrap();
        let status = answer.status();
        assert!(
            status.is_success(),
            "{status}: {}",
            answer.text().await.unwrap()
        );
    }

    pub(crate) async fn push_blob(&self, repository: &str, bytes: &[u8]) {
        let begun = self
            .request(Method::POST, &format!("/v2/{repository}/blobs/uploads/"))
            .send()
            .await
            .unwrap();
        assert!(begun.status().is_success(), "{}", begun.status());
        let location = begun.headers()["location"].to_str().unwrap().to_owned();
        let path = location
            .strip_prefix(&format!("http://{}", self.host))
            .unwrap_or(&location);
        let joint = if path.contains('?') { '&' } else { '?' };
        let answer = self
            .request(
                Method::PUT,
                &format!("{path}{joint}digest={}", Digest::sha256_of(bytes)),
            )
            .header("Content-Type", "application/octet-stream")
            .body(bytes.to_vec())
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = client().request(method, format!("http://{}{path}", self.host));
        match self.credentials {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            // The token flavour takes any authorization.
            None => request.bearer_auth("pushing"),
        }
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn client() -> Client {
    // Whoever comes first installs it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()
        .unwrap()
}
