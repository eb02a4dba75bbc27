//! The file: tables, their sizes, opening and copying.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase as _, ReadableTable,
    StorageBackend as _, StorageError, TableDefinition, WriteTransaction,
    backends::{FileBackend, InMemoryBackend},
};

use super::{HIGHEST_BYTES, HistoryError};
use crate::own_file::{self, Access};

/// What the pictures and stacks look like inside. A test pins it: raise this when that test fails.
pub const FORMAT: u64 = 2;

/// Counts, by name.
pub const META: TableDefinition<&str, u64> = TableDefinition::new("profiler-history");
/// Pictures by moment (milliseconds since 1970) and part. Parts, because redb gives a large value a power of two of pages.
pub const MOMENTS: TableDefinition<(u64, u16), &[u8]> = TableDefinition::new("moments");
/// Stacks by site.
pub const STACKS: TableDefinition<&str, &[u8]> = TableDefinition::new("stacks");

/// The key of [`FORMAT`].
const FORMAT_KEY: &str = "format";
/// Bytes that are stored, with what each entry takes besides.
pub const USED: &str = "used";
/// See [`super::Told`].
pub const THINNED_MOMENTS: &str = "thinned-moments";
/// See [`super::Told`].
pub const DROPPED_SITES: &str = "dropped-sites";

/// How a redb database begins (redb's docs/design.md).
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";
/// Bytes at the beginning that change with every commit.
const HEADER: usize = 4096;
/// Bytes of one part: three of them fill a page of 4 KiB.
const PART: usize = 1200;
/// What an entry takes besides its bytes: key, offsets, its part of the tree.
const ENTRY: u64 = 40;
/// Memory for pages; redb would take 1 GiB.
const CACHE: usize = 4 << 20;

/// Opens a file for writing. What is in it is looked at in a copy first, so that nothing foreign is written to.
pub fn open(path: &Path) -> Result<Database, HistoryError> {
    let refused = |source| HistoryError::Open { path: path.to_owned(), source };
    let file = own_file::open(path, Access::ReadWrite).map_err(refused)?;
    if file.metadata().map_err(refused)?.len() > 0 {
        drop(checked_copy(path, &file)?);
    }
    let backend = FileBackend::new(file).map_err(|error| opening(path, error))?;
    let database = Builder::new()
        .set_cache_size(CACHE)
        .create_with_backend(backend)
        .map_err(|error| opening(path, error))?;
    prepare(&database).map_err(|error| told(path, error))?;
    Ok(database)
}

/// A copy in memory of what the file has now.
pub fn copy(path: &Path) -> Result<Database, HistoryError> {
    let file = own_file::open_to_read(path)
        .map_err(|source| HistoryError::Open { path: path.to_owned(), source })?;
    checked_copy(path, &file)
}

/// A copy in memory, every page of which has been checked.
fn checked_copy(path: &Path, file: &File) -> Result<Database, HistoryError> {
    let foreign = |what| HistoryError::Foreign { path: path.to_owned(), what };
    let unreadable = |source| HistoryError::Open { path: path.to_owned(), source };
    let bytes = file.metadata().map_err(unreadable)?.len();
    if bytes == 0 {
        return Err(foreign("it is empty"));
    }
    if bytes > HIGHEST_BYTES * 2 {
        return Err(HistoryError::TooLarge { path: path.to_owned(), bytes });
    }
    let mut magic = [0; MAGIC.len()];
    // A file that is shorter has other bytes there as well.
    let _short = file.read_at(&mut magic, 0).map_err(unreadable)?;
    if magic != MAGIC {
        return Err(foreign(if magic == [0; MAGIC.len()] {
            "it is all zeroes at the beginning, as of a profiler that was ended while it made it"
        } else {
            "it is something else"
        }));
    }
    let backend = quiet_copy(file).map_err(unreadable)?;
    // With its check redb says of every changed byte that something is wrong; where it would panic all the same, so do we.
    let open = || {
        Builder::new().set_cache_size(CACHE).set_check_integrity_on_open(true).create_with_backend(backend)
    };
    let database = catch_unwind(AssertUnwindSafe(open))
        .map_err(|_| HistoryError::Damaged {
            path: path.to_owned(),
            what: "it can't be understood".to_owned(),
        })?
        .map_err(|error| opening(path, error))?;
    match format(&database).map_err(|error| told(path, error))? {
        None => Err(foreign("it is a database of another program")),
        Some(FORMAT) => Ok(database),
        Some(found) => Err(HistoryError::Format { path: path.to_owned(), found, known: FORMAT }),
    }
}

/// Copies until nobody has committed meanwhile: pages are never changed in place, so that all of them then belong together.
fn quiet_copy(file: &File) -> io::Result<InMemoryBackend> {
    const TRIES: u32 = 40;
    for _ in 0..TRIES {
        let mut header = [0; HEADER];
        let seen = file.read_at(&mut header, 0)?;
        let bytes = file.metadata()?.len().min(HIGHEST_BYTES * 2);
        let backend = InMemoryBackend::new();
        backend.set_len(bytes).map_err(io::Error::other)?;
        let mut buffer = vec![0; 1 << 18];
        let mut offset = 0;
        while offset < bytes {
            let part = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(buffer.len());
            let read = file.read_at(&mut buffer[..part], offset)?;
            if read == 0 {
                break;
            }
            backend.write(offset, &buffer[..read]).map_err(io::Error::other)?;
            offset += read as u64;
        }
        let mut again = [0; HEADER];
        if file.read_at(&mut again, 0)? == seen && again == header && offset == bytes {
            return Ok(backend);
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    Err(io::Error::other("it is written to all the time"))
}

/// Makes the tables of a new file.
fn prepare(database: &Database) -> Result<(), redb::Error> {
    if format(database)?.is_some() {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    transaction.open_table(MOMENTS)?;
    transaction.open_table(STACKS)?;
    transaction.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
    transaction.commit()?;
    Ok(())
}

fn format(database: &Database) -> Result<Option<u64>, redb::Error> {
    let transaction = database.begin_read()?;
    match transaction.open_table(META) {
        Ok(table) => Ok(table.get(FORMAT_KEY)?.map(|value| value.value())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        // A table of that name with other contents is somebody else's.
        Err(redb::TableError::TableTypeMismatch { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What redb says of a file that it can't open.
fn opening(path: &Path, error: DatabaseError) -> HistoryError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            HistoryError::Locked { path }
        }
        DatabaseError::Storage(StorageError::Io(source)) if source.kind() != io::ErrorKind::InvalidData => {
            HistoryError::Open { path, source }
        }
        DatabaseError::UpgradeRequired(_) => {
            HistoryError::Foreign { path, what: "it is a database of an older kind" }
        }
        error => HistoryError::Damaged { path, what: error.to_string() },
    }
}

/// What redb says of a file that is open.
pub fn told(path: &Path, error: redb::Error) -> HistoryError {
    let path = path.to_owned();
    match error {
        redb::Error::Corrupted(what) => HistoryError::Damaged { path, what },
        error => HistoryError::Storage { path, what: error.to_string() },
    }
}

/// One of the counts.
pub fn count(transaction: &ReadTransaction, name: &str) -> Result<u64, redb::Error> {
    let table = transaction.open_table(META)?;
    Ok(table.get(name)?.map_or(0, |value| value.value()))
}

/// One of the counts, or another number with a name.
pub fn number(transaction: &WriteTransaction, name: &str) -> Result<u64, redb::Error> {
    let table = transaction.open_table(META)?;
    let value = table.get(name)?.map_or(0, |value| value.value());
    Ok(value)
}

/// Sets it.
pub fn set(transaction: &WriteTransaction, name: &str, value: u64) -> Result<(), redb::Error> {
    transaction.open_table(META)?.insert(name, value)?;
    Ok(())
}

/// Counts more.
pub fn add(transaction: &WriteTransaction, name: &str, more: u64) -> Result<(), redb::Error> {
    if more == 0 { Ok(()) } else { set(transaction, name, number(transaction, name)?.saturating_add(more)) }
}

/// Bytes that are stored.
pub fn used(transaction: &WriteTransaction) -> Result<u64, redb::Error> {
    number(transaction, USED)
}

/// Bytes that are stored now.
pub fn set_used(transaction: &WriteTransaction, used: u64) -> Result<(), redb::Error> {
    set(transaction, USED, used)
}

/// Stores a picture.
pub fn insert(
    transaction: &WriteTransaction,
    key: u64,
    bytes: &[u8],
    used: &mut u64,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(MOMENTS)?;
    for (part, bytes) in (0..=u16::MAX).zip(bytes.chunks(PART)) {
        table.insert((key, part), bytes)?;
        *used += bytes.len() as u64 + ENTRY;
    }
    Ok(())
}

/// Removes a picture, if there is one.
pub fn remove(transaction: &WriteTransaction, key: u64, used: &mut u64) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(MOMENTS)?;
    for entry in table.extract_from_if((key, 0)..=(key, u16::MAX), |_, _| true)? {
        *used = used.saturating_sub(entry?.1.value().len() as u64 + ENTRY);
    }
    Ok(())
}

/// A picture's bytes, put together.
pub fn bytes_of(
    table: &impl ReadableTable<(u64, u16), &'static [u8]>,
    key: u64,
) -> Result<Vec<u8>, redb::Error> {
    let mut bytes = Vec::new();
    for entry in table.range((key, 0)..=(key, u16::MAX))? {
        bytes.extend_from_slice(entry?.1.value());
    }
    Ok(bytes)
}

/// Stores a site's stack.
pub fn insert_stack(
    transaction: &WriteTransaction,
    id: &str,
    bytes: &[u8],
    used: &mut u64,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(STACKS)?;
    let before = table.insert(id, bytes)?.map_or(0, |before| stack_bytes(id, before.value()));
    *used = (*used + stack_bytes(id, bytes)).saturating_sub(before);
    Ok(())
}

/// What a stack takes.
pub fn stack_bytes(id: &str, bytes: &[u8]) -> u64 {
    (id.len() + bytes.len()) as u64 + ENTRY
}
