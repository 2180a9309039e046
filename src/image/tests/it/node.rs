//! A node: a layer store, a database and the images on them, in a temporary folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use image::{Image, ImageError, Images, ImagesConfig, PullRequest, RegistryConfig};
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
            let mounted = Command::new("mount")
                .args(["-t", "tmpfs", "-o", options, "tmpfs"])
                .arg(&config.root)
                .status()
                .unwrap();
            assert!(mounted.success());
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

    pub(crate) async fn pull(&self, reference: &str) -> Result<Arc<Image>, ImageError> {
        self.images.pull(PullRequest::anonymous(reference)).await
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
        for _ in 0..100 {
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
