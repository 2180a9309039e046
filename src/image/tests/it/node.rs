//! A node: a layer store, a database and the images on them, in a temporary folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use image::{Image, ImageError, Images, ImagesConfig, PullRequest, RegistryConfig, TrustConfig};
use state::ImagesDb;
use storage::LayerStore;
use tempfile::TempDir;

pub(crate) struct Node {
    pub(crate) images: Images,
    config: ImagesConfig,
    folder: TempDir,
}

impl Node {
    /// A node that may talk plain HTTP to these hosts.
    pub(crate) fn with_plain_hosts(hosts: &[&str]) -> Self {
        Self::with(hosts, |_| {})
    }

    /// A node whose layers are on a disk of its own. Only for a private mount namespace.
    pub(crate) fn on_small_disk(hosts: &[&str], options: &str) -> Self {
        Self::with(hosts, |config| {
            std::fs::create_dir_all(&config.root).unwrap();
            mount_small_disk(&config.root, options);
        })
    }

    /// The same, with changes to its configuration.
    pub(crate) fn with(hosts: &[&str], change: impl FnOnce(&mut ImagesConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = ImagesConfig::new(folder.path().join("root"));
        for host in hosts {
            let plain = RegistryConfig {
                plain_http: true,
                ..RegistryConfig::default()
            };
            config.registries.insert((*host).to_owned(), plain);
        }
        config.timeouts.retry_wait = Duration::from_millis(50);
        // What the machine that runs the tests has does not count.
        config.registries_conf = folder.path().join("registries.conf");
        config.certs_dirs = vec![folder.path().join("certs.d")];
        // What this machine trusts is nobody's concern here.
        config.trust = TrustConfig {
            default_policy: folder.path().join("policy.json"),
            registries_d: folder.path().join("registries.d"),
            lookaside: folder.path().join("sigstore"),
            ..TrustConfig::default()
        };
        change(&mut config);
        let images = open(&config, folder.path());
        Self {
            images,
            config,
            folder,
        }
    }

    /// Ends this server and starts another on the same folder. Nothing is swept yet.
    pub(crate) async fn restart(self) -> Self {
        let Self {
            images,
            config,
            folder,
        } = self;
        drop(images);
        // The reaper may still hold the database for a moment.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let images = open(&config, folder.path());
        Self {
            images,
            config,
            folder,
        }
    }

    /// Ends this server, and makes its folder a store by itself: with the database in it.
    pub(crate) async fn into_store(self) -> TempDir {
        let Self {
            images,
            config,
            folder,
        } = self;
        drop(images);
        let database = folder.path().join("images.db");
        let log = folder.path().join("images.db-wal");
        for _ in 0..100 {
            if !log.exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(!log.exists(), "the database is still open");
        std::fs::rename(database, config.root.join("images.db")).unwrap();
        folder
    }

    pub(crate) async fn pull(&self, reference: &str) -> Result<Arc<Image>, ImageError> {
        self.images.pull(PullRequest::anonymous(reference)).await
    }

    /// Writes `registries.conf`.
    pub(crate) fn write_registries(&self, text: &str) {
        std::fs::write(&self.config.registries_conf, text).unwrap();
    }

    /// Writes a file of a host's folder in `certs.d`, and returns its path.
    pub(crate) fn write_certs(&self, host: &str, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let folder = self.config.certs_dirs[0].join(host);
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The folder above everything of this node.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn root(&self) -> &Path {
        &self.config.root
    }

    /// The folders of layers.
    pub(crate) fn layers_on_disk(&self) -> Vec<PathBuf> {
        entries(&self.root().join("layers"))
    }

    /// Waits until what is deleted in the background is gone, then tells what is left in tmp.
    pub(crate) async fn leftovers(&self) -> Vec<PathBuf> {
        let tmp = self.root().join("tmp");
        for _ in 0..1200 {
            if entries(&tmp).is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        entries(&tmp)
    }

    /// The files of layers that are not whole.
    pub(crate) fn partials(&self) -> Vec<PathBuf> {
        entries(&self.root().join("partial"))
    }

    /// What a file of an image holds, looked up from its top layer down.
    pub(crate) fn read(&self, image: &Image, path: &str) -> Option<Vec<u8>> {
        image.layers.iter().rev().find_map(|chain| {
            std::fs::read(self.root().join("layers").join(chain.hex()).join(path)).ok()
        })
    }

    /// Asserts that a failed pull left no image, no layer and nothing half-made.
    pub(crate) async fn assert_untouched(&self) {
        assert!(self.images.list().is_empty());
        assert_eq!(self.layers_on_disk(), Vec::<PathBuf>::new());
        assert_eq!(self.leftovers().await, Vec::<PathBuf>::new());
        assert_eq!(self.images.usage().bytes, 0);
    }
}

fn open(config: &ImagesConfig, folder: &Path) -> Images {
    std::fs::create_dir_all(&config.root).unwrap();
    let (db, contents) = ImagesDb::open(&folder.join("images.db")).unwrap();
    let layers = LayerStore::open(&config.root, &contents.layers).unwrap();
    Images::open(config.clone(), db, contents, layers).unwrap()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(read) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = read.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Puts a disk of its own over a folder. Only for a private mount namespace.
pub(crate) fn mount_small_disk(at: &Path, options: &str) {
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "tmpfs"])
        .arg(at)
        .status()
        .unwrap();
    assert!(mounted.success());
}
