//! Those who sign: GnuPG through skopeo, and OpenSSL with keys and documents as cosign makes them.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use state::Digest;
use tempfile::TempDir;

use crate::published::descriptor;

pub(crate) const COSIGN_PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
pub(crate) const COSIGN_ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Runs a program to its success and gives its output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A key pair of OpenSSL's.
pub(crate) struct Key {
    folder: TempDir,
    is_ed25519: bool,
}

impl Key {
    /// `generate` is what follows `openssl genpkey`.
    pub(crate) fn new(generate: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = Self {
            folder,
            is_ed25519: generate.contains("ed25519"),
        };
        run(key
            .openssl()
            .arg("genpkey")
            .args(generate.split(' '))
            .args(["-out", "key"]));
        run(key
            .openssl()
            .args(["pkey", "-in", "key", "-pubout", "-out", "key.pub"]));
        key
    }

    pub(crate) fn ecdsa() -> Self {
        Self::new("-algorithm EC -pkeyopt ec_paramgen_curve:P-256")
    }

    /// The file of the public key.
    pub(crate) fn public(&self) -> PathBuf {
        self.folder.path().join("key.pub")
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        std::fs::write(self.folder.path().join("message"), message).unwrap();
        if self.is_ed25519 {
            let line = "pkeyutl -sign -inkey key -rawin -in message -out signature";
            run(self.openssl().args(line.split(' ')));
        } else {
            let line = "dgst -sha256 -sign key -out signature message";
            run(self.openssl().args(line.split(' ')));
        }
        std::fs::read(self.folder.path().join("signature")).unwrap()
    }

    fn openssl(&self) -> Command {
        let mut command = Command::new("openssl");
        command.current_dir(self.folder.path());
        command
    }
}

/// What cosign signs.
pub(crate) fn payload(reference: &str, digest: &Digest) -> Vec<u8> {
    json!({
        "critical": {
            "identity": {"docker-reference": reference},
            "image": {"docker-manifest-digest": digest.to_string()},
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
    .into_bytes()
}

/// A layer of a manifest of signatures.
pub(crate) fn layer(payload: &[u8], signature: &[u8]) -> Value {
    let mut layer = descriptor(COSIGN_PAYLOAD, payload);
    layer["annotations"] =
        json!({"dev.cosignproject.cosign/signature": STANDARD.encode(signature)});
    layer
}

/// A manifest of signatures as cosign pushes it. Its configuration is the empty document.
pub(crate) fn manifest(layers: &[Value]) -> Vec<u8> {
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", b"{}"),
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

/// The tag under which cosign keeps the signatures of a digest.
pub(crate) fn tag(digest: &Digest) -> String {
    format!("sha256-{}.sig", digest.hex())
}

/// GnuPG with a key.
pub(crate) struct Gpg {
    home: TempDir,
}

impl Gpg {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let gpg = Self { home };
        run(gpg
            .gpg()
            .args(["--quick-generate-key", "signer", "ed25519", "sign", "never"]));
        let key = gpg.public();
        run(gpg.gpg().args(["--export", "--armor", "--output"]).arg(key));
        gpg
    }

    /// The file of the public key.
    pub(crate) fn public(&self) -> PathBuf {
        self.home.path().join("public.asc")
    }

    /// Copies an image within registries on plain HTTP and leaves a signature below `lookaside`.
    pub(crate) fn copy_signed(&self, from: &str, to: &str, lookaside: &Path) {
        let registries = self.home.path().join("registries.d");
        std::fs::create_dir_all(&registries).unwrap();
        std::fs::write(
            registries.join("all.yaml"),
            format!(
                "default-docker:\n  sigstore-staging: file://{}\n",
                lookaside.display()
            ),
        )
        .unwrap();
        run(Command::new("skopeo")
            .env("GNUPGHOME", self.home.path())
            .arg("--insecure-policy")
            .arg("--registries.d")
            .arg(registries)
            .args([
                "copy",
                "--all",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
            ])
            .args(["--sign-by", self.fingerprint().as_str()])
            .args([format!("docker://{from}"), format!("docker://{to}")]));
    }

    fn fingerprint(&self) -> String {
        let listed = run(self.gpg().args(["--with-colons", "--list-keys"]));
        listed
            .lines()
            .find_map(|line| line.strip_prefix("fpr:"))
            .unwrap()
            .trim_matches(':')
            .to_owned()
    }

    fn gpg(&self) -> Command {
        let mut command = Command::new("gpg");
        command
            .env("GNUPGHOME", self.home.path())
            .args([
                "--batch",
                "--quiet",
                "--no-tty",
                "--pinentry-mode",
                "loopback",
            ])
            .args(["--passphrase", ""]);
        command
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        // Only the agent of this home.
        let _ = Command::new("gpgconf")
            .env("GNUPGHOME", self.home.path())
            .args(["--kill", "gpg-agent"])
            .status();
    }
}
