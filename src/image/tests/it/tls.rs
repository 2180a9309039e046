//! HTTPS: with a certificate that is trusted, one that is not, and one that nobody asks about.

use std::path::{Path, PathBuf};
use std::process::Command;

use image::{ImageError, RegistryConfig};

use crate::node::Node;
use crate::real_registry::RealRegistry;

/// An authority and a certificate of it for 127.0.0.1.
struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = "set -e
            openssl ecparam -name prime256v1 -genkey -noout -out ca.key
            openssl req -x509 -new -key ca.key -days 2 -subj /CN=test-authority -out ca.pem
            openssl ecparam -name prime256v1 -genkey -noout -out key.pem
            openssl req -new -key key.pem -subj /CN=registry -out request.pem
            printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth\\n' > extensions
            openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -set_serial 7 -days 2 \
                -extfile extensions -out certificate.pem";
        let output = Command::new("sh")
            .args(["-c", script])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

async fn error_with(host: &str, ca: Option<&Path>, insecure: bool) -> ImageError {
    let node = Node::with(&[], |config| {
        config.registries.insert(
            host.to_owned(),
            RegistryConfig {
                ca: ca.map(Path::to_owned),
                insecure_skip_verify: insecure,
                ..RegistryConfig::default()
            },
        );
    });
    // Nothing was pushed: a registry that can be talked to says that it has no such image.
    node.pull(&format!("{host}/app:1")).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked() {
    let certificates = Certificates::make();
    let registry = RealRegistry::with_tls(
        &certificates.path("certificate.pem"),
        &certificates.path("key.pem"),
    );

    let error = error_with(&registry.host, Some(&certificates.path("ca.pem")), false).await;
    assert!(matches!(error, ImageError::NotFound { .. }), "{error:?}");

    let error = error_with(&registry.host, None, true).await;
    assert!(matches!(error, ImageError::NotFound { .. }), "{error:?}");

    let error = error_with(&registry.host, None, false).await;
    assert!(
        matches!(error, ImageError::RegistryUnavailable { .. }),
        "{error:?}"
    );

    let others = Certificates::make();
    let error = error_with(&registry.host, Some(&others.path("ca.pem")), false).await;
    assert!(
        matches!(error, ImageError::RegistryUnavailable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("not trusted"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_to_a_tls_registry_says_so() {
    let certificates = Certificates::make();
    let registry = RealRegistry::with_tls(
        &certificates.path("certificate.pem"),
        &certificates.path("key.pem"),
    );
    let node = Node::with_plain_hosts(&[&registry.host]);
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(error.to_string().contains("HTTPS server"), "{error}");
}
