//! What is known of the files that targets have mapped: each is analysed once, in a process of its own.

use std::{
    collections::HashMap,
    fs::File,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
};

use rustix::fs::{CWD, Mode, OFlags};

use crate::{
    binary::Image,
    hunt::OwnCalls,
    symbols::{Limits, Search, Server, SymbolFinder, SymbolsError},
    target::{MappedObject, PinnedObject, Process},
    text::clean,
    worker::{self, Analysed, Analyst, NoAnalysis},
};

/// Files of which the analysis is kept; a process has some dozens, and those of one machine share most of them.
const KEPT: usize = 1024;
/// A file of which so many analyses were lost isn't analysed again.
const STRIKES: u8 = 2;

/// What a file is, whatever its name: device and inode.
pub type FileId = ((i32, i32), u64);

/// A file at one state of its contents.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    /// Device and inode, of the opened file.
    id: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds of the last change.
    changed: (i64, i64),
    /// Whose word was taken for where its functions are: `None` if only that of the file itself and of this machine.
    root: Option<RootId>,
}

/// A root directory: its device and inode, and the mount namespace in which it was found (what lies below it may be
/// something else in another one).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct RootId {
    device: u64,
    inode: u64,
    mounts: u64,
}

/// The root directory of a target, if it isn't ours. Held open: the process may get another one at any time.
struct ForeignRoot {
    directory: File,
    id: RootId,
}

/// Why a file has no analysis.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnalysisError {
    /// The file can't be read, or is none that can be analysed.
    #[error("{0}")]
    File(String),
    /// The process that was to analyse it has failed: whether an allocator is in the file isn't known.
    #[error("{why}")]
    Lost {
        /// What has happened.
        why: NoAnalysis,
        /// Whether it is worth another look.
        again: bool,
    },
}

/// A file's analysis, or why there is none.
pub type Analysis = Result<Image, AnalysisError>;

/// The analyses made so far.
pub struct Images {
    known: HashMap<Key, (Arc<Analysis>, u64)>,
    /// How many analyses of a file were lost.
    lost: HashMap<Key, u8>,
    analyst: Analyst,
    uses: u64,
    /// Whether Python interpreters are looked into.
    python: bool,
    /// Looks on this machine only, and so at once.
    finder: SymbolFinder,
    remote: Option<Remote>,
    own_calls: Option<OwnCalls>,
}

/// A server for debug files: asked by a thread of its own, unless there is time to wait.
struct Remote {
    finder: Arc<Mutex<SymbolFinder>>,
    waits: bool,
    /// Builds that were asked for, and whether the answer has come.
    asked: HashMap<String, bool>,
    answers: (Sender<String>, Receiver<String>),
}

impl Images {
    /// Nothing is known yet. `debuginfod`: where symbols of stripped programs may be fetched; with `waits`, whoever looks
    /// at such a file waits for the answer, else it comes later ([`Images::news`]).
    ///
    /// # Errors
    ///
    /// If that is no address.
    pub fn new(debuginfod: Option<&str>, waits: bool) -> Result<Self, SymbolsError> {
        let remote = debuginfod.map(|url| {
            let server = Server::new(url, Limits::default())?;
            let finder = Arc::new(Mutex::new(SymbolFinder::new(Some(server))));
            Ok::<_, SymbolsError>(Remote { finder, waits, asked: HashMap::new(), answers: channel() })
        });
        Ok(Self {
            known: HashMap::new(),
            lost: HashMap::new(),
            analyst: Analyst::new(worker::Limits::for_analyses()),
            uses: 0,
            python: false,
            finder: SymbolFinder::default(),
            remote: remote.transpose()?,
            own_calls: None,
        })
    }

    /// Whether Python interpreters are looked into, which takes some tens of milliseconds each.
    pub fn with_python(self, python: bool) -> Self {
        Self { python, ..self }
    }

    /// What analyses may use, instead of the usual.
    pub fn with_limits(self, limits: worker::Limits) -> Self {
        Self { analyst: Analyst::new(limits), ..self }
    }

    /// See [`Images::with_python`].
    pub const fn look_into_python(&self) -> bool {
        self.python
    }

    /// From now on, the allocators' own calls of every file are noted there before anybody can place probes in it.
    pub fn tell_own_calls(&mut self, own_calls: OwnCalls) {
        self.own_calls = Some(own_calls);
    }

    /// A mapped file and what the analysis says of it; `None` if the file can't be had.
    pub fn look_at(
        &mut self,
        process: &Process,
        object: &MappedObject,
    ) -> Option<(PinnedObject, Arc<Analysis>)> {
        let (pinned, analysis) = self.find(process, object)?;
        if let (Some(own_calls), Ok(image)) = (&self.own_calls, analysis.as_ref()) {
            let calls = image.hooks.iter().flat_map(|hook| &hook.internal_calls);
            own_calls.add(object.id(), calls.filter_map(|call| call.returns_to));
        }
        Some((pinned, analysis))
    }

    fn find(&mut self, process: &Process, object: &MappedObject) -> Option<(PinnedObject, Arc<Analysis>)> {
        let pinned = process.pin(object);
        let pinned = pinned.inspect_err(|error| tracing::debug!("{}: {error}", clean(&object.path))).ok()?;
        let key = Key { id: pinned.identity(), size: pinned.size(), changed: pinned.changed(), root: None };
        let analysis = self.known_or_made(key, object, &pinned, None);
        let lacks_symbols =
            analysis.as_ref().as_ref().is_ok_and(|image| image.wants_symbols && image.build_id.is_some());
        if !lacks_symbols {
            return Some((pinned, analysis));
        }
        // What its root says of a program that others share is believed for processes with that root only.
        let Some(foreign) = ForeignRoot::of(process) else { return Some((pinned, analysis)) };
        let key = Key { root: Some(foreign.id), ..key };
        let analysis = self.known_or_made(key, object, &pinned, Some(&foreign.path()));
        Some((pinned, analysis))
    }

    /// The analysis of a file, with symbols from a foreign root if one is given: it has to be the key's.
    fn known_or_made(
        &mut self,
        key: Key,
        object: &MappedObject,
        pinned: &PinnedObject,
        root: Option<&Path>,
    ) -> Arc<Analysis> {
        self.uses += 1;
        if let Some((analysis, used)) = self.known.get_mut(&key) {
            *used = self.uses;
            return Arc::clone(analysis);
        }
        let analysis = self.analyse(pinned, root).map_err(|error| self.judge(key, error));
        if let Err(error) = &analysis {
            match error {
                AnalysisError::File(words) => tracing::debug!("{}: {words}", clean(&object.path)),
                AnalysisError::Lost { why, .. } => tracing::warn!("{}: {why}", clean(&object.path)),
            }
        }
        let again = matches!(analysis, Err(AnalysisError::Lost { again: true, .. }));
        let analysis = Arc::new(analysis);
        if again {
            return analysis;
        }
        if self.known.len() >= KEPT {
            let oldest = self.known.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            oldest.map(|key| self.known.remove(&key));
        }
        self.known.insert(key, (Arc::clone(&analysis), self.uses));
        analysis
    }

    /// Counts a lost analysis, unless no file can help it.
    fn judge(&mut self, key: Key, error: AnalysisError) -> AnalysisError {
        let AnalysisError::Lost { why, .. } = error else { return error };
        if matches!(why, NoAnalysis::Unstartable(_)) {
            return AnalysisError::Lost { why, again: true };
        }
        if self.lost.len() >= KEPT {
            self.lost.clear();
        }
        let strikes = self.lost.entry(key).or_default();
        *strikes = strikes.saturating_add(1);
        AnalysisError::Lost { why, again: *strikes < STRIKES }
    }

    /// Analyses a file, with its debug file if it lacks symbols and there is one.
    fn analyse(&mut self, pinned: &PinnedObject, root: Option<&Path>) -> Analysis {
        let Self { analyst, finder, remote, python, .. } = self;
        let (file, size) = (pinned.as_fd(), pinned.size());
        let analysed = analyst.analyse(file, None, size, *python);
        let analysed = analysed.map_err(|why| AnalysisError::Lost { why, again: true })?;
        let mut image = analysed.image.map_err(AnalysisError::File)?;
        let Some(build_id) = image.build_id.clone().filter(|_| image.wants_symbols) else {
            return Ok(image);
        };
        let mut with = |debug: &File| {
            let useless = |words: String| SymbolsError::Useless(words);
            match analyst.analyse(file, Some(debug.as_fd()), size, *python) {
                Err(why) => Err(useless(why.to_string())),
                Ok(Analysed { debug_problem: Some(problem), .. }) => Err(useless(problem)),
                Ok(Analysed { image, .. }) => image.map_err(useless),
            }
        };
        let mut search = finder.find(&build_id, root, &mut with);
        if search.found.is_none()
            && let Some(remote) = remote
        {
            let more = remote.find(&build_id, &mut with);
            search.found = more.found;
            search.tried.extend(more.tried);
        }
        if let Some((with_symbols, _)) = search.found {
            image = with_symbols;
        } else {
            let tried = search.tried.iter().map(|(origin, error)| format!("{origin}: {error}"));
            image.symbol_problems.extend(tried);
        }
        Ok(image)
    }

    /// Whether answers about debug files have arrived: what is known of the programs they belong to is forgotten, and they
    /// should be looked at again.
    pub fn news(&mut self) -> bool {
        let Some(remote) = &mut self.remote else { return false };
        let mut news = false;
        for build_id in remote.answers.1.try_iter() {
            self.known.retain(|_, (analysis, _)| {
                analysis.as_ref().as_ref().is_ok_and(|image| image.build_id.as_ref() != Some(&build_id))
            });
            remote.asked.insert(build_id, true);
            news = true;
        }
        news
    }
}

impl ForeignRoot {
    /// `None` if it is our own, where nothing more is to be found than on this machine, or can't be had.
    fn of(process: &Process) -> Option<Self> {
        // The mount namespace is asked for afterwards: into one of its own a process gets any time, but back into that
        // of others only with rights over it.
        let directory = open_directory(&process.root())?;
        let id = RootId::of(&directory, &format!("/proc/{}/ns/mnt", process.pid()))?;
        // The process id may be another process's by now.
        let own = RootId::of(&open_directory(Path::new("/"))?, "/proc/self/ns/mnt");
        (process.is_alive() && own != Some(id)).then_some(Self { directory, id })
    }

    /// A path that leads there as long as `self` lives.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))
    }
}

impl RootId {
    fn of(directory: &File, mounts: &str) -> Option<Self> {
        let metadata = directory.metadata().ok()?;
        let mounts = std::fs::metadata(mounts).ok()?.ino();
        Some(Self { device: metadata.dev(), inode: metadata.ino(), mounts })
    }
}

fn open_directory(path: &Path) -> Option<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).ok().map(File::from)
}

impl Remote {
    /// Asks, once for each build. Without waiting, the answer is at first that there is none yet.
    fn find<T>(&mut self, build_id: &str, use_it: impl FnMut(&File) -> Result<T, SymbolsError>) -> Search<T> {
        // What was answered once is remembered there.
        if self.waits || self.asked.get(build_id) == Some(&true) {
            return lock(&self.finder).find(build_id, None, use_it);
        }
        if self.asked.insert(build_id.to_owned(), false).is_none() {
            let finder = Arc::clone(&self.finder);
            let (id, answers) = (build_id.to_owned(), self.answers.0.clone());
            let ask = move || {
                // The answer, whatever it is, is remembered.
                let _answer = lock(&finder).fetch(&id);
                // Nobody listens any more: we are on the way out.
                let _heard = answers.send(id);
            };
            // Without a thread to be had there is no answer.
            let _thread = std::thread::Builder::new().name("profiler-symbols".to_owned()).spawn(ask);
        }
        Search::default()
    }
}

fn lock(finder: &Mutex<SymbolFinder>) -> MutexGuard<'_, SymbolFinder> {
    finder.lock().unwrap_or_else(PoisonError::into_inner)
}
