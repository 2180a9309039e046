//! `/run/pintle/pods.db`: pods, containers, undo records, and a few notes about the server itself.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use rusqlite::{Connection, Transaction, params};

use crate::{
    ContainerId, PodId, StateError,
    schema::{self, Durability, Step},
    writer::{Change, Writer},
};

/// The steps that lead to today's schema; never change one that was released, add one.
const STEPS: &[Step] = &[create_tables];

fn create_tables(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "CREATE TABLE pods (id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
         CREATE TABLE containers (id TEXT PRIMARY KEY, pod TEXT NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
         CREATE TABLE undos (seq INTEGER PRIMARY KEY, owner TEXT NOT NULL, body BLOB NOT NULL);
         CREATE INDEX undos_owner ON undos (owner);
         CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;",
    )
}

/// One change of the pods database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodsChange {
    /// Writes a pod's record, new or not.
    PutPod {
        /// Its id.
        id: PodId,
        /// Its record.
        body: Vec<u8>,
    },
    /// Removes a pod's record; nothing happens if there is none. Containers of the pod are not touched.
    DeletePod(PodId),
    /// Writes a container's record, new or not.
    PutContainer {
        /// Its id.
        id: ContainerId,
        /// The pod it belongs to.
        pod: PodId,
        /// Its record.
        body: Vec<u8>,
    },
    /// Removes a container's record; nothing happens if there is none.
    DeleteContainer(ContainerId),
    /// Writes down how a side effect that is about to happen is undone.
    PutUndo {
        /// Its place in the order of all undo records, which are undone last first; at most `i64::MAX`.
        seq: u64,
        /// The pod or container id that the side effect is for.
        owner: String,
        /// The record.
        body: Vec<u8>,
    },
    /// Forgets one undo record.
    DeleteUndo {
        /// Its place.
        seq: u64,
    },
    /// Forgets all undo records of an owner.
    DeleteUndosOf {
        /// The pod or container id.
        owner: String,
    },
    /// Writes a note, such as the boot id under which the records were written.
    PutMeta {
        /// Its name.
        key: String,
        /// Its value.
        value: String,
    },
}

impl Change for PodsChange {
    fn apply(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        match self {
            Self::PutPod { id, body } => transaction
                .prepare_cached("INSERT OR REPLACE INTO pods (id, body) VALUES (?1, ?2)")?
                .execute(params![id.as_str(), body]),
            Self::DeletePod(id) => transaction
                .prepare_cached("DELETE FROM pods WHERE id = ?1")?
                .execute([id.as_str()]),
            Self::PutContainer { id, pod, body } => transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO containers (id, pod, body) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![id.as_str(), pod.as_str(), body]),
            Self::DeleteContainer(id) => transaction
                .prepare_cached("DELETE FROM containers WHERE id = ?1")?
                .execute([id.as_str()]),
            Self::PutUndo { seq, owner, body } => transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO undos (seq, owner, body) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![seq_to_sql(*seq)?, owner, body]),
            Self::DeleteUndo { seq } => transaction
                .prepare_cached("DELETE FROM undos WHERE seq = ?1")?
                .execute([seq_to_sql(*seq)?]),
            Self::DeleteUndosOf { owner } => transaction
                .prepare_cached("DELETE FROM undos WHERE owner = ?1")?
                .execute([owner]),
            Self::PutMeta { key, value } => transaction
                .prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?
                .execute([key, value]),
        }
        .map(drop)
    }
}

fn seq_to_sql(seq: u64) -> rusqlite::Result<i64> {
    i64::try_from(seq).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// An undo record as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoRow {
    /// Its place in the order.
    pub seq: u64,
    /// The pod or container id.
    pub owner: String,
    /// The record.
    pub body: Vec<u8>,
}

/// Everything that a pods database held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodsContents {
    /// Pods and their records, by id.
    pub pods: Vec<(PodId, Vec<u8>)>,
    /// Containers, the pods they belong to, and their records, by id.
    pub containers: Vec<(ContainerId, PodId, Vec<u8>)>,
    /// Undo records in the order of their `seq`.
    pub undos: Vec<UndoRow>,
    /// Notes.
    pub meta: BTreeMap<String, String>,
}

/// The pods database, open for writing. Clones share one writer thread.
#[derive(Clone)]
pub struct PodsDb {
    writer: Arc<Writer<PodsChange>>,
}

impl PodsDb {
    /// Opens or creates the file and reads all it holds. Blocks; meant for the start of the server.
    pub fn open(path: &Path) -> Result<(Self, PodsContents), StateError> {
        let connection = schema::open(path, Durability::Process, STEPS)?;
        let contents = read(&connection).map_err(|source| StateError::Read {
            path: path.to_owned(),
            source,
        })?;
        let writer = Writer::start(connection, path, "pods-db")?;
        Ok((Self { writer }, contents))
    }

    /// Commits the changes in order, all or none. When this returns they outlive the server, though not a reboot.
    ///
    /// Cancelling the wait does not take them back.
    pub async fn write(&self, changes: Vec<PodsChange>) -> Result<(), StateError> {
        self.writer.write(changes).await
    }

    /// As [`Self::write`], but the changes are queued before this returns: requests are committed in the order of the calls.
    pub fn submit(
        &self,
        changes: Vec<PodsChange>,
    ) -> impl Future<Output = Result<(), StateError>> + Send + use<> {
        self.writer.submit(changes)
    }

    /// Queues a transaction that changes nothing; the future tells when the writer has come to it. Shows that there is a writer,
    /// and that the file can be locked for writing.
    pub fn barrier(&self) -> impl Future<Output = Result<(), StateError>> + Send + use<> {
        self.writer.barrier()
    }
}

impl fmt::Debug for PodsDb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PodsDb")
    }
}

fn read(connection: &Connection) -> rusqlite::Result<PodsContents> {
    let pods = connection
        .prepare("SELECT id, body FROM pods ORDER BY id")?
        .query_map([], |row| Ok((text(row, 0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let containers = connection
        .prepare("SELECT id, pod, body FROM containers ORDER BY id")?
        .query_map([], |row| Ok((text(row, 0)?, text(row, 1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let undos = connection
        .prepare("SELECT seq, owner, body FROM undos ORDER BY seq")?
        .query_map([], |row| {
            Ok(UndoRow {
                seq: unsigned(row, 0)?,
                owner: row.get(1)?,
                body: row.get(2)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    let meta = connection
        .prepare("SELECT key, value FROM meta")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    Ok(PodsContents {
        pods,
        containers,
        undos,
        meta,
    })
}

/// Reads a column that holds the text form of an id or digest.
pub(crate) fn text<T>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    row.get_ref(column)?
        .as_str()?
        .parse()
        .map_err(|error: T::Err| {
            rusqlite::Error::FromSqlConversionFailure(
                column,
                rusqlite::types::Type::Text,
                error.into(),
            )
        })
}

/// Reads a column that holds a number from 0 to `i64::MAX`.
pub(crate) fn unsigned(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(|_| {
        rusqlite::Error::IntegralValueOutOfRange(column, row.get(column).unwrap_or(-1))
    })
}
