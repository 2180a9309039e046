//! `pintle image make-store`: a store for others to use, made without a server.
//!
//! What pulls and imports images is what the server does it with, on another directory. At the end the database is closed, so
//! that the directory can be copied, packed, or mounted read-only, and what only a server needs is taken away.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use image::{Image, ImageError, Images, PullRequest};
use state::{ImagesDb, StateError};
use storage::{LayerStore, StorageError};

use crate::{
    assemble::{self, AssembleError},
    config::Config,
};

/// What a store has that only a server needs, emptied by then.
const OF_SERVERS: [&str; 7] = [
    "containers",
    "retired",
    "partial",
    "tmp",
    "empty/0",
    "empty/1",
    "empty",
];
/// How long the database may take to be closed.
const CLOSING: Duration = Duration::from_secs(30);

/// Why no store is made.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeStoreError {
    /// The directory is full of something else.
    #[error("{} is neither empty nor an image store", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// The directory cannot be used.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory cannot be made.
    #[error(transparent)]
    Directory(#[from] AssembleError),
    /// The database cannot be opened.
    #[error(transparent)]
    State(#[from] StateError),
    /// The layers cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An image cannot be had.
    #[error("{image}")]
    Image {
        /// Its name, or its archive.
        image: String,
        /// Why.
        source: ImageError,
    },
    /// The database stays open.
    #[error("the database of {} is still open", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
    },
}

/// Makes a store at `directory`, or adds to one that was made so, and returns all its images' names.
pub(super) async fn run(
    config: &Config,
    directory: &Path,
    names: &[String],
    archives: &[PathBuf],
) -> Result<Vec<String>, MakeStoreError> {
    let io_error = |doing, source| MakeStoreError::Io {
        doing,
        path: directory.to_owned(),
        source,
    };
    assemble::make_directory(directory, 0o700)?;
    let directory = directory
        .canonicalize()
        .map_err(|source| io_error("find", source))?;
    let database = directory.join("images.db");
    let mut entries = fs::read_dir(&directory).map_err(|source| io_error("list", source))?;
    if entries.next().is_some() && !database.is_file() {
        return Err(MakeStoreError::NotAStore { path: directory });
    }
    let mut config = config.clone();
    config.root.clone_from(&directory);
    // It is to be whole by itself.
    config.image.additional_stores.clear();
    let (db, contents) = ImagesDb::open(&database)?;
    let layers = LayerStore::open(&directory, &contents.layers)?;
    let of_store = |image: &'static str| {
        move |source| MakeStoreError::Image {
            image: image.to_owned(),
            source,
        }
    };
    let images = Images::open(
        assemble::images_config(&config),
        db,
        contents,
        layers.clone(),
    )
    .map_err(of_store("the store"))?;
    images.sweep().await.map_err(of_store("the store"))?;
    for archive in archives {
        let imported = images.import_file(archive, &[]).await;
        imported.map_err(|source| MakeStoreError::Image {
            image: archive.display().to_string(),
            source,
        })?;
    }
    for name in names {
        let pulled = images.pull(PullRequest::anonymous(name)).await;
        pulled.map_err(|source| MakeStoreError::Image {
            image: name.clone(),
            source,
        })?;
    }
    let all = images.list();
    drop(images);
    close(layers, &directory).await?;
    let named = |image: Arc<Image>| match image.names().next() {
        Some(_) => image.names().cloned().collect(),
        None => vec![image.id.to_string()],
    };
    let mut names: Vec<String> = all.into_iter().flat_map(named).collect();
    names.sort();
    Ok(names)
}

/// Waits until all is written and closed, and takes away what is no part of a finished store.
async fn close(layers: LayerStore, directory: &Path) -> Result<(), MakeStoreError> {
    // What was given up on the way is deleted in the background.
    let settled = tokio::task::spawn_blocking(move || layers.settle()).await;
    let log = directory.join("images.db-wal");
    let closed = tokio::time::timeout(CLOSING, async {
        // The last task that has the database lets go of it when it is told of the end.
        while log.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    if settled.is_err() || closed.await.is_err() {
        return Err(MakeStoreError::Open {
            path: directory.to_owned(),
        });
    }
    for name in OF_SERVERS {
        let path = directory.join(name);
        match fs::remove_dir(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(MakeStoreError::Io {
                    doing: "remove",
                    path,
                    source,
                });
            }
            _ => {}
        }
    }
    Ok(())
}
