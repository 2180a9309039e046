//! Opening a database file and bringing it to the newest schema.
//!
//! `PRAGMA user_version` counts the migration steps that a file has been through. A step and the new count are committed
//! in one transaction, so a file is always exactly at some schema.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::StateError;

/// How long an opener waits for a former server that is just closing the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// One step from a schema to the next.
pub(crate) type Step = fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// How much a commit does for durability.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Durability {
    /// Committed changes outlive the process, not the machine: nothing is ever synced.
    Process,
    /// Committed changes outlive a loss of power.
    Disk,
}

/// Opens or creates the file at `path` and runs the steps that it has not been through.
pub(crate) fn open(
    path: &Path,
    durability: Durability,
    steps: &[Step],
) -> Result<Connection, StateError> {
    keep_private(path).map_err(|source| StateError::Create {
        path: path.to_owned(),
        source,
    })?;
    let mut connection = connect(path, durability).map_err(|source| StateError::Open {
        path: path.to_owned(),
        source,
    })?;
    migrate(&mut connection, path, steps)?;
    Ok(connection)
}

/// Opens a file that is another's, perhaps on a file system that cannot be written: nothing is written, locked or made, beside
/// it neither. It has to be at the schema that `steps` lead to.
pub(crate) fn open_read_only(path: &Path, steps: &[Step]) -> Result<Connection, StateError> {
    let log = beside(path, "-wal");
    match fs::metadata(&log) {
        Ok(found) if found.len() > 0 => {
            return Err(StateError::NotClosed {
                path: path.to_owned(),
                log,
            });
        }
        _ => {}
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(immutable(path), flags).map_err(|source| StateError::Open {
            path: path.to_owned(),
            source,
        })?;
    let found = version(&connection, path)?;
    let known = newest(steps);
    match found.cmp(&known) {
        std::cmp::Ordering::Equal => Ok(connection),
        std::cmp::Ordering::Less => Err(StateError::OlderSchema {
            path: path.to_owned(),
            found,
            known,
        }),
        std::cmp::Ordering::Greater => Err(StateError::NewerSchema {
            path: path.to_owned(),
            found,
            known,
        }),
    }
}

/// The path with something appended to its last name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The URI by which SQLite takes the file for one that nobody changes.
fn immutable(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri.push_str("?immutable=1");
    uri
}

/// Sees to it that only the owner reads the file: pods have secrets in their environment. SQLite gives the files beside it
/// the same permissions.
fn keep_private(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

fn connect(path: &Path, durability: Durability) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Must be set before WAL mode is entered: then the WAL index is kept in memory instead of a shared file, and a second
    // server that opens the same file is refused instead of writing between our lines.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    // First of all: already entering WAL mode would sync.
    connection.pragma_update(
        None,
        "synchronous",
        match durability {
            Durability::Process => "OFF",
            Durability::Disk => "FULL",
        },
    )?;
    // WAL in both cases: a rollback journal in memory would be faster to set up, but a server killed inside a commit would
    // leave a corrupt file.
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(32);
    // WAL mode takes its locks with the first transaction: take them now, so that a file held by another server is an
    // error of opening it.
    connection.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path, steps: &[Step]) -> Result<(), StateError> {
    let found = version(connection, path)?;
    for (to, step) in (1_i64..).zip(steps) {
        if to > found {
            run_step(connection, to, *step).map_err(|source| StateError::Migrate {
                path: path.to_owned(),
                to,
                source,
            })?;
        }
    }
    let known = newest(steps);
    if found > known {
        return Err(StateError::NewerSchema {
            path: path.to_owned(),
            found,
            known,
        });
    }
    Ok(())
}

fn version(connection: &Connection, path: &Path) -> Result<i64, StateError> {
    connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|source| StateError::Read {
            path: path.to_owned(),
            source,
        })
}

fn newest(steps: &[Step]) -> i64 {
    i64::try_from(steps.len()).unwrap_or(i64::MAX)
}

fn run_step(connection: &mut Connection, to: i64, step: Step) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    step(&transaction)?;
    transaction.pragma_update(None, "user_version", to)?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn first(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        transaction.execute_batch("CREATE TABLE a (x)")
    }

    fn second(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        transaction.execute_batch("INSERT INTO a VALUES (1); CREATE TABLE b (y)")
    }

    fn broken(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        transaction.execute_batch("CREATE TABLE c (z); INSERT INTO nowhere VALUES (1)")
    }

    fn version(connection: &Connection) -> i64 {
        connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn steps_run_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let connection = open(&path, Durability::Disk, &[first]).unwrap();
        assert_eq!(version(&connection), 1);
        drop(connection);
        let connection = open(&path, Durability::Disk, &[first, second]).unwrap();
        assert_eq!(version(&connection), 2);
        drop(connection);
        let connection = open(&path, Durability::Disk, &[first, second]).unwrap();
        let rows: i64 = connection
            .query_row("SELECT count(*) FROM a", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 1);
    }

    #[test]
    fn a_failed_step_leaves_the_file_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let error = open(&path, Durability::Disk, &[first, broken]).unwrap_err();
        assert!(
            matches!(error, StateError::Migrate { to: 2, .. }),
            "{error}"
        );
        let connection = open(&path, Durability::Disk, &[first]).unwrap();
        assert_eq!(version(&connection), 1);
        assert!(connection.prepare("SELECT * FROM c").is_err());
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        drop(open(&path, Durability::Disk, &[first, second]).unwrap());
        let error = open(&path, Durability::Disk, &[first]).unwrap_err();
        assert!(
            matches!(
                error,
                StateError::NewerSchema {
                    found: 2,
                    known: 1,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        fs::write(&path, "x".repeat(5000)).unwrap();
        assert!(matches!(
            open(&path, Durability::Process, &[first]),
            Err(StateError::Open { .. })
        ));
        assert!(matches!(
            open(
                &dir.path().join("no/such/dir/db"),
                Durability::Process,
                &[first]
            ),
            Err(StateError::Create { .. })
        ));
    }

    #[test]
    fn another_ones_file_is_read_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b%c?#.db");
        let names = || {
            let mut names: Vec<_> = fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        let writer = open(&path, Durability::Disk, &[first, second]).unwrap();
        // What is in the log only is not there for who reads the file alone.
        let error = open_read_only(&path, &[first, second]).unwrap_err();
        assert!(matches!(error, StateError::NotClosed { .. }), "{error}");
        drop(writer);
        assert_eq!(names(), ["a b%c?#.db"]);
        let content = fs::read(&path).unwrap();
        let reader = open_read_only(&path, &[first, second]).unwrap();
        let rows: i64 = reader
            .query_row("SELECT count(*) FROM a", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 1);
        assert!(reader.execute("INSERT INTO a VALUES (2)", []).is_err());
        assert_eq!(names(), ["a b%c?#.db"]);
        drop(reader);
        assert_eq!(fs::read(&path).unwrap(), content);
        assert!(matches!(
            open_read_only(&path, &[first]),
            Err(StateError::NewerSchema { .. })
        ));
        assert!(matches!(
            open_read_only(&path, &[first, second, first]),
            Err(StateError::OlderSchema {
                found: 2,
                known: 3,
                ..
            })
        ));
        let absent = dir.path().join("absent");
        assert!(open_read_only(&absent, &[first]).is_err());
        assert!(!absent.exists());
    }

    #[test]
    fn only_the_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let _connection = open(&path, Durability::Process, &[first]).unwrap();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{entry:?}");
        }
    }
}
