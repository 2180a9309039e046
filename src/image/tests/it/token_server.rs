//! A small token server: it knows one user, and signs what docker-registry verifies (JSON Web Tokens, RS256, whose key the
//! registry trusts by its certificate).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::faulty::{Faulty, Reply, Seen};

pub(crate) const ISSUER: &str = "test-issuer";
pub(crate) const SERVICE: &str = "test-registry";
pub(crate) const USER: &str = "user";
pub(crate) const PASSWORD: &str = "s3cret";

pub(crate) struct TokenServer {
    pub(crate) http: Faulty,
    keys: Keys,
}

impl TokenServer {
    /// Whoever knows the password may do all; everybody else may pull what is below `public/`.
    pub(crate) async fn start() -> Self {
        let keys = Keys::make();
        let signer = Signer {
            key: keys.path("key.pem"),
            certificate: keys.certificate(),
        };
        let http = Faulty::start(move |seen| answer(seen, &signer)).await;
        Self { http, keys }
    }

    /// What the registry's challenges name.
    pub(crate) fn realm(&self) -> String {
        format!("http://{}/token", self.http.host)
    }

    /// The certificates that the registry is to trust.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.keys.path("certificate.pem")
    }
}

/// A key and its certificate, made by openssl.
struct Keys {
    folder: TempDir,
}

impl Keys {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args([
                "-subj",
                "/CN=tokens",
                "-keyout",
                "key.pem",
                "-out",
                "certificate.pem",
            ])
            .current_dir(folder.path())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success());
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its DER in base64: a PEM file without its frame.
    fn certificate(&self) -> String {
        let pem = std::fs::read_to_string(self.path("certificate.pem")).unwrap();
        pem.lines().filter(|line| !line.starts_with('-')).collect()
    }
}

struct Signer {
    key: PathBuf,
    certificate: String,
}

impl Signer {
    fn sign(&self, claims: &Value) -> String {
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [self.certificate]});
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(rsa_sha256(&self.key, signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

fn rsa_sha256(key: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(bytes).unwrap();
    openssl.wait_with_output().unwrap().stdout
}

fn answer(seen: &Seen, signer: &Signer) -> Reply {
    let (_, query) = seen.path.split_once('?').unwrap_or_default();
    let mut scopes = Vec::new();
    let mut service = String::new();
    for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let value = value
            .replace("%3A", ":")
            .replace("%2F", "/")
            .replace("%2C", ",");
        match key {
            "scope" => scopes.push(value),
            "service" => service = value,
            _ => {}
        }
    }
    assert_eq!(service, SERVICE, "{}", seen.path);
    let known = match seen.header("authorization") {
        None => false,
        Some(shown) => {
            let right = BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"));
            if shown != format!("Basic {right}") {
                return Reply::refusal(401, "UNAUTHORIZED");
            }
            true
        }
    };
    let access: Vec<Value> = scopes
        .iter()
        .filter_map(|scope| grant(scope, known))
        .collect();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let token = signer.sign(&json!({
        "iss": ISSUER, "aud": SERVICE, "sub": if known { USER } else { "" },
        "iat": now - 5, "nbf": now - 5, "exp": now + 300, "jti": format!("{now}"),
        "access": access,
    }));
    let body = json!({"token": token, "expires_in": 300});
    Reply::typed("application/json", body.to_string())
}

/// What of a scope is granted.
fn grant(scope: &str, known: bool) -> Option<Value> {
    let mut parts = scope.split(':');
    let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
    let actions: Vec<&str> = actions
        .split(',')
        .filter(|action| known || (name.starts_with("public/") && *action == "pull"))
        .collect();
    Some(json!({"type": kind, "name": name, "actions": actions}))
}
