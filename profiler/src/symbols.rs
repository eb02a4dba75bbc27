//! Debug files: the symbols that a stripped program lacks, from this machine, from its own root, and, only if one was
//! named, from a debuginfod server.
//!
//! The target's root may belong to somebody hostile. Nothing outside it is reached through it, nothing but a regular
//! file is opened, and no more is read than the symbols; [`read`] does that, which is for the worker to call. What such a file
//! says of a program may be a lie, and the program may be one that processes with other roots run, too: for those it must not
//! be used.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::binary;

mod server;

pub use server::{Limits, Server};

/// A larger file isn't read. Of one of that size, the symbols may still be some ten megabytes.
const FILE_LIMIT: u64 = 1 << 30;
/// Bytes of symbols that are read.
const READ_LIMIT: u64 = 256 << 20;
/// Bytes of downloaded files that are kept, for other processes of the same program. They have no name, and are gone
/// with this process.
const KEPT_LIMIT: u64 = 1 << 30;

/// Where a debug file was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the target's root, by the path there.
    Target(PathBuf),
    /// On this machine.
    Host(PathBuf),
    /// On a server, by its address.
    Server(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(path) => write!(f, "{} in the target's root", path.display()),
            Self::Host(path) => write!(f, "{}", path.display()),
            Self::Server(url) => f.write_str(url),
        }
    }
}

/// Why a place has no debug file for us.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SymbolsError {
    /// Nothing there.
    #[error("there is none")]
    Missing,
    /// A pipe, a device, a directory.
    #[error("it is no regular file")]
    NotRegular,
    /// Too large to be read.
    #[error("it has {size} bytes, more than the {limit} that are read")]
    TooLarge {
        /// Its size, as far as it is known.
        size: u64,
        /// How many are accepted.
        limit: u64,
    },
    /// It belongs to another program, or has no symbols.
    #[error("{0}")]
    Useless(String),
    /// The system says no.
    #[error("it can't be read: {0}")]
    Io(Arc<io::Error>),
    /// The server says no, or nothing at all.
    #[error("{0}")]
    Server(String),
}

impl From<io::Error> for SymbolsError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing,
            _ => Self::Io(Arc::new(error)),
        }
    }
}

impl From<rustix::io::Errno> for SymbolsError {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}

/// What a search came to.
#[derive(Debug)]
pub struct Search<T> {
    /// What was made of the file, and where it is from, if there is one.
    pub found: Option<(T, Origin)>,
    /// The places without one before it, and why.
    pub tried: Vec<(Origin, SymbolsError)>,
}

impl<T> Default for Search<T> {
    fn default() -> Self {
        Self { found: None, tried: Vec::new() }
    }
}

/// Finds debug files by build id. May take as long as [`Limits::total`] for each build if there is a server: not for a
/// thread that others wait for.
#[derive(Default)]
pub struct SymbolFinder {
    server: Option<Server>,
    /// What the server said, by build id: nobody is asked twice.
    answers: HashMap<String, Result<Arc<File>, SymbolsError>>,
    kept: u64,
}

impl SymbolFinder {
    /// Without a server, nothing leaves this machine.
    pub fn new(server: Option<Server>) -> Self {
        Self { server, ..Self::default() }
    }

    /// Looks on this machine, then in the target's root (`/proc/PID/root`), then asks the server. `use_it` makes something of
    /// a file or says why it is of no use; then the search goes on.
    pub fn find<T>(
        &mut self,
        build_id: &str,
        root: Option<&Path>,
        mut use_it: impl FnMut(&File) -> Result<T, SymbolsError>,
    ) -> Search<T> {
        let mut search = Search::default();
        let paths = binary::debug_files(build_id);
        for path in &paths {
            let file = open_inside(Path::new("/"), path);
            if search.take(Origin::Host(path.clone()), file.and_then(|file| use_it(&file))) {
                return search;
            }
        }
        let inside = root.into_iter().flat_map(|root| paths.iter().map(move |path| (root, path)));
        for (root, path) in inside {
            let file = open_inside(root, path);
            if search.take(Origin::Target(path.clone()), file.and_then(|file| use_it(&file))) {
                return search;
            }
        }
        if self.server.is_some() && binary::is_build_id(build_id) {
            let url = self.server.as_ref().map(|server| server.address_of(build_id)).unwrap_or_default();
            let file = self.fetch(build_id);
            search.take(Origin::Server(url), file.and_then(|file| use_it(&file)));
        }
        search
    }

    /// Asks the server for the debug file of a build, once.
    ///
    /// # Errors
    ///
    /// If there is no server or it has none.
    pub fn fetch(&mut self, build_id: &str) -> Result<Arc<File>, SymbolsError> {
        if !binary::is_build_id(build_id) {
            return Err(SymbolsError::Missing);
        }
        if let Some(answer) = self.answers.get(build_id) {
            return answer.clone();
        }
        let Some(server) = &mut self.server else { return Err(SymbolsError::Missing) };
        let answer = server.fetch(build_id).map(Arc::new);
        let size = answer.as_ref().map_or(0, |file| file.metadata().map_or(0, |metadata| metadata.len()));
        let remembered = if self.kept + size > KEPT_LIMIT {
            Err(SymbolsError::Server("it was had from there before, and isn't asked for twice".to_owned()))
        } else {
            self.kept += size;
            answer.clone()
        };
        self.answers.insert(build_id.to_owned(), remembered);
        answer
    }
}

impl<T> Search<T> {
    fn take(&mut self, origin: Origin, result: Result<T, SymbolsError>) -> bool {
        match result {
            Ok(found) => self.found = Some((found, origin)),
            Err(error) => self.tried.push((origin, error)),
        }
        self.found.is_some()
    }
}

/// Opens the debug file of a build below a root, if there is one. What is in it wasn't looked at.
pub fn open_debug_file(root: &Path, build_id: &str) -> Option<File> {
    binary::debug_files(build_id).iter().find_map(|path| open_inside(root, path).ok())
}

/// Opens a regular file below a root, for reading; links in its path lead to where a process with that root would get.
///
/// # Errors
///
/// If it isn't there, is something else, or the system says no.
pub(crate) fn open_inside(root: &Path, path: &Path) -> Result<File, SymbolsError> {
    let root =
        rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // To find it is not to open it: a pipe or a device would take notice of that.
    let found: OwnedFd =
        rustix::fs::openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    let found = File::from(found);
    if !found.metadata()?.is_file() {
        return Err(SymbolsError::NotRegular);
    }
    // The same file once more, this time to read it.
    let name = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(File::options().read(true).custom_flags(flags.bits().cast_signed()).open(name)?)
}

/// Reads what matters of a debug file and checks that it belongs to the program: as many bytes as it has, all of them zero but
/// those that concern symbols. The zeroes take no memory.
///
/// # Errors
///
/// If it can't be read, is too large, belongs to another program or has no symbols.
pub fn read(file: &File, build_id: &str) -> Result<Vec<u8>, SymbolsError> {
    let size = file.metadata()?.len();
    if size > FILE_LIMIT {
        return Err(SymbolsError::TooLarge { size, limit: FILE_LIMIT });
    }
    // Zeroed memory is the system's: it takes none until something is read into it.
    let mut contents = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    let (mut done, mut total) = (Vec::new(), 0);
    for _ in 0..4 {
        let mut parts = binary::debug_file_parts(&contents);
        parts.retain(|part| !done.contains(part));
        for part in parts {
            total += part.end - part.start;
            if total > READ_LIMIT {
                return Err(SymbolsError::TooLarge { size: total, limit: READ_LIMIT });
            }
            // The parts lie inside the file, so inside its length in memory.
            file.read_exact_at(&mut contents[part.start as usize..part.end as usize], part.start)?;
            done.push(part);
        }
    }
    binary::check_debug_file(build_id, &contents)
        .map_err(|error| SymbolsError::Useless(error.to_string()))?;
    Ok(contents)
}

/// A file without a name, for what is downloaded: it is gone with the last descriptor, whatever happens to us.
fn nameless_file() -> io::Result<File> {
    let directory = std::env::temp_dir();
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, &directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(File::from(file)),
        // Not every file system has that. In memory, then: a file with a name may stay behind.
        Err(_) => Ok(File::from(rustix::fs::memfd_create("debug file", rustix::fs::MemfdFlags::CLOEXEC)?)),
    }
}
