//! The database file: its tables, and how connections to it are opened.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Unavailable;

/// Name of the database in the store's folder.
pub(crate) const FILE: &str = "backstop.db";

/// `PRAGMA application_id` of our databases: "bkst".
const APPLICATION: i32 = 0x626b_7374;

/// `PRAGMA user_version`: layout of the tables.
const LAYOUT: i32 = 1;

const TABLES: &str = "
CREATE TABLE workload(key TEXT PRIMARY KEY, revision INTEGER NOT NULL, generation INTEGER NOT NULL, state BLOB NOT NULL) STRICT;
CREATE TABLE ledger(seq INTEGER PRIMARY KEY, key TEXT NOT NULL, release TEXT NOT NULL, record BLOB NOT NULL, signature BLOB NOT NULL,
    UNIQUE(key, release)) STRICT;
CREATE TABLE outbox(seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, leaf BLOB NOT NULL) STRICT;
CREATE TABLE leaf(idx INTEGER PRIMARY KEY, bytes BLOB NOT NULL, hash BLOB NOT NULL) STRICT;
CREATE TABLE node(level INTEGER NOT NULL, idx INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY(level, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE tree(one INTEGER PRIMARY KEY CHECK(one = 1), size INTEGER NOT NULL, edge BLOB NOT NULL) STRICT;
CREATE TABLE checkpoint(size INTEGER PRIMARY KEY, note TEXT NOT NULL) STRICT;
CREATE TABLE notice(seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, notice BLOB NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, failure TEXT, sent INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX notice_due ON notice(seq) WHERE sent = 0;
CREATE TABLE document(kind TEXT NOT NULL, name TEXT NOT NULL, json BLOB NOT NULL, PRIMARY KEY(kind, name)) STRICT, WITHOUT ROWID;
CREATE TABLE evidence(image TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY(image, digest)) STRICT, WITHOUT ROWID;
CREATE TABLE clock(one INTEGER PRIMARY KEY CHECK(one = 1), mono INTEGER NOT NULL, boot TEXT, offset INTEGER NOT NULL) STRICT;
CREATE TABLE replayed(digest TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
INSERT INTO tree VALUES(1, 0, x'');
INSERT INTO clock VALUES(1, 0, NULL, 0);
";

/// Makes the folder, for its owner alone.
pub(super) fn folder(dir: &Path) -> Result<(), Unavailable> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| Unavailable(format!("folder {}: {error}", dir.display())))
}

/// A connection that writes; the database is made if it is not there.
pub(super) fn writer(dir: &Path, busy: Duration) -> Result<Connection, Unavailable> {
    let path = dir.join(FILE);
    // SQLite would make it readable by others; its side files take over the mode of this one.
    if !path.exists() {
        let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        made.map_err(|error| Unavailable(format!("{}: {error}", path.display())))?;
    }
    let say = |error| Unavailable::at(&path, &error);
    let connection =
        Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(say)?;
    connection.busy_timeout(busy).map_err(say)?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(say)?;
    if application != 0 {
        recognise(&connection, &path)?;
    }
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;")
        .map_err(say)?;
    if application == 0 {
        lay_out(&connection).map_err(say)?;
        recognise(&connection, &path)?;
    }
    Ok(connection)
}

/// Makes the tables, unless another process has just done so.
fn lay_out(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let made = connection.pragma_query_value(None, "application_id", |row| row.get::<_, i32>(0)).and_then(|application| {
        if application != 0 {
            return Ok(());
        }
        connection.execute_batch(TABLES)?;
        connection.pragma_update(None, "user_version", LAYOUT)?;
        connection.pragma_update(None, "application_id", APPLICATION)
    });
    connection.execute_batch(if made.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    made
}

/// A connection that only reads.
pub(crate) struct Reader {
    /// The connection.
    pub(crate) connection: Connection,
    /// Whether it sees what is written from now on. On a read-only file system `SQLite` cannot make the side files of a
    /// write-ahead log, and the file is read as it stands.
    pub(crate) lasting: bool,
}

/// Opens a connection that only reads.
pub(crate) fn reader(dir: &Path, busy: Duration) -> Result<Reader, Unavailable> {
    let path = dir.join(FILE);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if !path.exists() {
        return Err(Unavailable(format!("{}: there is no store here", path.display())));
    }
    let open = || -> Result<Reader, Unavailable> {
        let say = |error| Unavailable::at(&path, &error);
        let connection = Connection::open_with_flags(&path, flags).map_err(say)?;
        connection.busy_timeout(busy).map_err(say)?;
        recognise(&connection, &path)?;
        Ok(Reader { connection, lasting: true })
    };
    let first = open();
    if first.is_ok() || path.with_extension("db-wal").metadata().is_ok_and(|wal| wal.len() > 0) {
        return first;
    }
    let name = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let still = Connection::open_with_flags(format!("file:{name}?immutable=1"), flags | OpenFlags::SQLITE_OPEN_URI);
    match still {
        Ok(connection) if recognise(&connection, &path).is_ok() => Ok(Reader { connection, lasting: false }),
        _ => first,
    }
}

fn recognise(connection: &Connection, path: &Path) -> Result<(), Unavailable> {
    let value = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(|error| Unavailable::at(path, &error));
    if value("application_id")? != APPLICATION {
        return Err(Unavailable(format!("{} is not a database of backstop: name another folder for the store", path.display())));
    }
    match value("user_version")? {
        LAYOUT => Ok(()),
        other => Err(Unavailable(format!(
            "{} has layout {other}, and this backstop knows {LAYOUT}: use the backstop that wrote it, or a newer one",
            path.display()
        ))),
    }
}

impl Unavailable {
    /// Says what `SQLite` said, and what to do about it.
    pub(crate) fn at(path: &Path, error: &rusqlite::Error) -> Self {
        let fix = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another process holds it; it is tried again",
            Some(ErrorCode::DiskFull) => "free space on its file system; it is tried again",
            Some(ErrorCode::ReadOnly) => "its file system or file is read-only; make it writable",
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                "the file is damaged: stop, keep a copy, restore a backup (nothing was changed)"
            }
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => "check that its folder exists and belongs to this user",
            Some(ErrorCode::SystemIoFailure) => "the disk reports an error; check it",
            _ => "see the message",
        };
        Self(format!("{}: {error}: {fix}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is acknowledged is on disk: a later change of these settings must fail here.
    #[test]
    fn a_writer_syncs_its_write_ahead_log_with_every_commit() {
        let dir = tempfile::tempdir().unwrap();
        let connection = writer(dir.path(), Duration::from_millis(100)).unwrap();
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        let sync: i32 = connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        assert_eq!((mode.as_str(), sync), ("wal", 2));
    }
}
