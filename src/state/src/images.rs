//! `/var/lib/pintle/images.db`: images, the references that name them, and the layers on disk.

use std::{fmt, path::Path, sync::Arc};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::{
    ChainId, DiffId, ImageId, StateError,
    pods::{text, unsigned},
    schema::{self, Durability, Step},
    writer::{Change, Writer},
};

/// The steps that lead to today's schema; never change one that was released, add one.
const STEPS: &[Step] = &[create_tables];

fn create_tables(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "CREATE TABLE images (id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
         CREATE TABLE image_layers (image TEXT NOT NULL, position INTEGER NOT NULL, chain TEXT NOT NULL,
                                    PRIMARY KEY (image, position)) WITHOUT ROWID;
         CREATE TABLE image_references (reference TEXT PRIMARY KEY, image TEXT NOT NULL) WITHOUT ROWID;
         CREATE TABLE layers (chain TEXT PRIMARY KEY, diff TEXT NOT NULL, parent TEXT,
                              size_bytes INTEGER NOT NULL, inodes INTEGER NOT NULL) WITHOUT ROWID;",
    )
}

/// What is known about a layer on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRow {
    /// Its name, and that of its directory.
    pub chain: ChainId,
    /// The digest of its uncompressed tar.
    pub diff: DiffId,
    /// The layer below it.
    pub parent: Option<ChainId>,
    /// Bytes of disk space it takes.
    pub size_bytes: u64,
    /// Inodes it takes.
    pub inodes: u64,
}

/// One change of the images database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImagesChange {
    /// Writes an image's record, new or not.
    PutImage {
        /// Its id.
        id: ImageId,
        /// Its record.
        body: Vec<u8>,
        /// Its layers, lowest first.
        layers: Vec<ChainId>,
    },
    /// Removes an image's record; nothing happens if there is none. References and layers are not touched.
    DeleteImage(ImageId),
    /// Makes a reference name an image, whatever it named before.
    PutReference {
        /// The reference, normalised.
        reference: String,
        /// The image.
        image: ImageId,
    },
    /// Removes a reference; nothing happens if there is none.
    DeleteReference(String),
    /// Writes a layer's row, new or not. The layer must be on disk by then.
    PutLayer(LayerRow),
    /// Removes a layer's row; nothing happens if there is none.
    DeleteLayer(ChainId),
}

impl Change for ImagesChange {
    fn apply(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        match self {
            Self::PutImage { id, body, layers } => {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO images (id, body) VALUES (?1, ?2)")?
                    .execute(params![id.as_str(), body])?;
                delete_layers_of(transaction, id)?;
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO image_layers (image, position, chain) VALUES (?1, ?2, ?3)",
                )?;
                for (position, chain) in (0_i64..).zip(layers) {
                    insert.execute(params![id.as_str(), position, chain.as_str()])?;
                }
                Ok(())
            }
            Self::DeleteImage(id) => {
                delete_layers_of(transaction, id)?;
                transaction
                    .prepare_cached("DELETE FROM images WHERE id = ?1")?
                    .execute([id.as_str()])
                    .map(drop)
            }
            Self::PutReference { reference, image } => transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO image_references (reference, image) VALUES (?1, ?2)",
                )?
                .execute([reference, image.as_str()])
                .map(drop),
            Self::DeleteReference(reference) => transaction
                .prepare_cached("DELETE FROM image_references WHERE reference = ?1")?
                .execute([reference])
                .map(drop),
            Self::PutLayer(row) => transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO layers (chain, diff, parent, size_bytes, inodes)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    row.chain.as_str(),
                    row.diff.as_str(),
                    row.parent.as_ref().map(ChainId::as_str),
                    i64::try_from(row.size_bytes).unwrap_or(i64::MAX),
                    i64::try_from(row.inodes).unwrap_or(i64::MAX),
                ])
                .map(drop),
            Self::DeleteLayer(chain) => transaction
                .prepare_cached("DELETE FROM layers WHERE chain = ?1")?
                .execute([chain.as_str()])
                .map(drop),
        }
    }
}

fn delete_layers_of(transaction: &Transaction<'_>, image: &ImageId) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM image_layers WHERE image = ?1")?
        .execute([image.as_str()])
        .map(drop)
}

/// Everything that an images database held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagesContents {
    /// Images, their records, and their layers (lowest first), by id.
    pub images: Vec<(ImageId, Vec<u8>, Vec<ChainId>)>,
    /// References and the images they name, in the order of the references.
    pub references: Vec<(String, ImageId)>,
    /// Layers on disk, by chain id.
    pub layers: Vec<LayerRow>,
}

impl ImagesContents {
    /// Reads a database that is another's and that nobody changes meanwhile, such as one on a read-only file system. Writes
    /// nothing, and keeps nothing open. Blocks.
    pub fn read_only(path: &Path) -> Result<Self, StateError> {
        let connection = schema::open_read_only(path, STEPS)?;
        read(&connection).map_err(|source| StateError::Read {
            path: path.to_owned(),
            source,
        })
    }
}

/// Reads the record of one image as [`ImagesContents::read_only`] reads them all; `None` if there is none. Blocks.
pub fn read_only_record(path: &Path, id: &ImageId) -> Result<Option<Vec<u8>>, StateError> {
    let connection = schema::open_read_only(path, STEPS)?;
    connection
        .query_row(
            "SELECT body FROM images WHERE id = ?1",
            [id.as_str()],
            |row| row.get(0),
        )
        .optional()
        .map_err(|source| StateError::Read {
            path: path.to_owned(),
            source,
        })
}

/// The images database, open for writing. Clones share one writer thread.
#[derive(Clone)]
pub struct ImagesDb {
    writer: Arc<Writer<ImagesChange>>,
}

impl ImagesDb {
    /// Opens or creates the file and reads all it holds. Blocks; meant for the start of the server.
    pub fn open(path: &Path) -> Result<(Self, ImagesContents), StateError> {
        let connection = schema::open(path, Durability::Disk, STEPS)?;
        let contents = read(&connection).map_err(|source| StateError::Read {
            path: path.to_owned(),
            source,
        })?;
        let writer = Writer::start(connection, path, "images-db")?;
        Ok((Self { writer }, contents))
    }

    /// Commits the changes in order, all or none. When this returns they outlive a loss of power.
    ///
    /// Cancelling the wait does not take them back.
    pub async fn write(&self, changes: Vec<ImagesChange>) -> Result<(), StateError> {
        self.writer.write(changes).await
    }
}

impl fmt::Debug for ImagesDb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ImagesDb")
    }
}

fn read(connection: &Connection) -> rusqlite::Result<ImagesContents> {
    let mut images: Vec<(ImageId, Vec<u8>, Vec<ChainId>)> = connection
        .prepare("SELECT id, body FROM images ORDER BY id")?
        .query_map([], |row| Ok((text(row, 0)?, row.get(1)?, Vec::new())))?
        .collect::<Result<_, _>>()?;
    let mut layers_of =
        connection.prepare("SELECT chain FROM image_layers WHERE image = ?1 ORDER BY position")?;
    for (id, _, layers) in &mut images {
        *layers = layers_of
            .query_map([id.as_str()], |row| text(row, 0))?
            .collect::<Result<_, _>>()?;
    }
    let references = connection
        .prepare("SELECT reference, image FROM image_references ORDER BY reference")?
        .query_map([], |row| Ok((row.get(0)?, text(row, 1)?)))?
        .collect::<Result<_, _>>()?;
    let layers = connection
        .prepare("SELECT chain, diff, parent, size_bytes, inodes FROM layers ORDER BY chain")?
        .query_map([], |row| {
            let parent = match row.get_ref(2)? {
                rusqlite::types::ValueRef::Null => None,
                _ => Some(text(row, 2)?),
            };
            Ok(LayerRow {
                chain: text(row, 0)?,
                diff: text(row, 1)?,
                parent,
                size_bytes: unsigned(row, 3)?,
                inodes: unsigned(row, 4)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    Ok(ImagesContents {
        images,
        references,
        layers,
    })
}
