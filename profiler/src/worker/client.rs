//! The client: starts the process, asks it, and goes on when it dies.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Code, FileKey, Limits, RawUnwound, Space,
    process::{Death, Running},
    protocol::{Reply, Request},
    serve::failed,
};
use crate::{
    stack::{Function, MAX_FRAMES},
    text,
};

/// Who kills the process so often is not asked about again.
const STRIKES: u8 = 2;
/// So many times in a row it is started again at once.
const AT_ONCE: u32 = 3;
/// The pause before it is started after that; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A process that has lived so long died of something new.
const LONG_LIFE: Duration = Duration::from_secs(60);
/// Places that are named with one request, at most.
const BATCH: usize = 256;
/// Spaces whose misdeeds are remembered.
const SUSPECTS: usize = 4096;
/// Functions of one place that are kept.
const FUNCTIONS_LIMIT: usize = 100;
/// Longest name of a function that is kept, bytes: those of templates are long, and differ at their ends.
const NAME_LIMIT: usize = 1024;

/// What has happened so far. Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Times that the process was started.
    pub started: u64,
    /// Times that it couldn't be.
    pub unstartable: u64,
    /// Times that it was killed because an answer took too long.
    pub killed_for_time: u64,
    /// Times that it ended otherwise: out of memory, a file cut short while it was read, a fault, somebody's signal.
    pub crashed: u64,
    /// Times that it was killed for a system call that it must not make.
    pub refused: u64,
    /// Questions that were asked.
    pub requests: u64,
    /// Questions that have no answer because the process died, gave up, couldn't be started, or isn't to be asked.
    pub failed: u64,
    /// Files and spaces that are not given to it any more.
    pub quarantined: u64,
}

impl Figures {
    /// Ends before its time, by cause.
    pub const fn deaths(&self) -> [(&'static str, u64); 4] {
        [
            ("time", self.killed_for_time),
            ("crash", self.crashed),
            ("refused", self.refused),
            ("unstartable", self.unstartable),
        ]
    }
}

/// A process that reads what targets have made; see the room's words. Not shared: calls block, each no longer than the limits
/// say (twice if the process dies at once).
#[derive(Debug)]
pub struct Worker {
    limits: Limits,
    running: Option<Running>,
    files: HashMap<u32, Registered>,
    next_key: u32,
    /// How often a space was the end of the process.
    suspects: HashMap<u64, u8>,
    /// Deaths without a long life in between.
    deaths: u32,
    not_before: Option<Instant>,
    figures: Figures,
}

#[derive(Debug)]
struct Registered {
    file: Arc<OwnedFd>,
    debug: Option<Arc<OwnedFd>>,
    build: Arc<str>,
    strikes: u8,
}

/// What a question is about: who is to blame if the process dies of it.
#[derive(Clone, Copy)]
enum About {
    File(u32),
    Space(u64),
    Nothing,
}

impl Worker {
    /// Nothing is started yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            running: None,
            files: HashMap::new(),
            next_key: 0,
            suspects: HashMap::new(),
            deaths: 0,
            not_before: None,
            figures: Figures::default(),
        }
    }

    /// Registers a mapped file and, if there is one, its debug file. Cheap: they are handed over when they are first needed,
    /// and again after a restart; until [`Worker::remove_file`] their descriptors stay open. `build` names the file in reports.
    pub fn add_file(&mut self, file: Arc<OwnedFd>, debug: Option<Arc<OwnedFd>>, build: Arc<str>) -> FileKey {
        let key = self.next_key;
        self.next_key = self.next_key.wrapping_add(1);
        self.files.insert(key, Registered { file, debug, build, strikes: 0 });
        FileKey(key)
    }

    /// The file won't be asked for again.
    pub fn remove_file(&mut self, file: FileKey) {
        self.files.remove(&file.0);
        let deadline = Instant::now() + self.limits.unwind;
        let Some(running) = &mut self.running else { return };
        if running.files.remove(&file.0)
            && let Err(error) = running.tell(&Request::Forget { key: file.0 }, &[], deadline)
        {
            self.died(&error, About::Nothing);
        }
    }

    /// What the file was registered as.
    pub fn build(&self, file: FileKey) -> Option<&Arc<str>> {
        self.files.get(&file.0).map(|file| &file.build)
    }

    /// What has happened so far.
    pub const fn figures(&self) -> Figures {
        self.figures
    }

    /// The id of the process, if one runs.
    pub fn process_id(&self) -> Option<u32> {
        self.running.as_ref().map(Running::id)
    }

    /// Unwinds a stack. `stack` is a copy of the bytes from `sp` upwards. `first_is_return_address`: `ip` is where a call has
    /// just returned to (and `sp` is behind the return address).
    pub fn unwind(
        &mut self,
        space: &Space,
        registers: &profiler_common::sample::Registers,
        first_is_return_address: bool,
        stack: &[u8],
    ) -> RawUnwound {
        let request = Request::Unwind {
            space: space.id,
            registers: [registers.ip, registers.sp, registers.bp],
            returned: first_is_return_address,
            stack,
        };
        let about = About::Space(space.id);
        let answer = self.attempts(about, |worker, deadline| {
            worker.tell_space(space, deadline)?;
            match worker.ask(&request, &[], deadline)? {
                Reply::WhichSpace => {
                    if let Some(running) = &mut worker.running {
                        running.spaces.remove(&space.id);
                    }
                    worker.tell_space(space, deadline)?;
                    worker.ask(&request, &[], deadline)
                }
                reply => Ok(reply),
            }
        });
        let known = |code: Code| space.modules.iter().any(|module| module.code == code);
        match answer {
            Some(Reply::Unwound(unwound))
                if unwound.frames.len() <= MAX_FRAMES
                    && unwound.frames.iter().all(|frame| known(frame.code)) =>
            {
                unwound
            }
            Some(_) => {
                self.figures.failed += 1;
                failed()
            }
            None => failed(),
        }
    }

    /// The functions at places of a file (file offsets; of callers, within the call instruction): for each, the innermost
    /// inlined one first; none if nobody knows.
    pub fn symbolise(&mut self, file: FileKey, offsets: &[u64]) -> Vec<Vec<Function>> {
        let mut names = Vec::with_capacity(offsets.len());
        for batch in offsets.chunks(BATCH) {
            let request = Request::Symbolise { key: file.0, offsets: batch.to_vec() };
            let answer = self.attempts(About::File(file.0), |worker, deadline| {
                worker.tell_file(file.0, deadline)?;
                worker.ask(&request, &[], deadline)
            });
            match answer {
                Some(Reply::Names(told)) if told.len() == batch.len() => {
                    names.extend(told.into_iter().map(clean_functions));
                }
                other => {
                    self.figures.failed += u64::from(other.is_some());
                    names.resize(names.len() + batch.len(), Vec::new());
                }
            }
        }
        names
    }

    /// The names of code made at run time, by a perf map ([`super::open_perf_map`]).
    pub fn perf_map(&mut self, map: &File, addresses: &[u64]) -> Vec<Option<Arc<str>>> {
        let request = Request::PerfMap { addresses: addresses.to_vec() };
        let answer =
            self.attempts(About::Nothing, |worker, deadline| worker.ask(&request, &[map.as_fd()], deadline));
        match answer {
            Some(Reply::Jitted(names)) if names.len() == addresses.len() => {
                names.into_iter().map(|name| name.map(|name| clean(&name))).collect()
            }
            other => {
                self.figures.failed += u64::from(other.is_some());
                vec![None; addresses.len()]
            }
        }
    }

    /// Asks, and once more if the process dies at once: it may have been somebody's signal, or the last question's fault.
    fn attempts(
        &mut self,
        about: About,
        ask: impl Fn(&mut Self, Instant) -> io::Result<Reply>,
    ) -> Option<Reply> {
        self.figures.requests += 1;
        for _ in 0..2 {
            if !self.may_ask(about) || !self.start() {
                break;
            }
            let limit = match about {
                About::Space(_) => self.limits.unwind,
                About::File(_) | About::Nothing => self.limits.symbolise,
            };
            match ask(self, Instant::now() + limit) {
                Ok(reply) => return Some(reply),
                Err(error) => {
                    if self.died(&error, about) == Death::Late {
                        break;
                    }
                }
            }
        }
        self.figures.failed += 1;
        None
    }

    fn may_ask(&self, about: About) -> bool {
        match about {
            About::File(key) => self.files.get(&key).is_some_and(|file| file.strikes < STRIKES),
            About::Space(id) => self.suspects.get(&id).is_none_or(|strikes| *strikes < STRIKES),
            About::Nothing => true,
        }
    }

    fn start(&mut self) -> bool {
        if self.running.is_some() {
            return true;
        }
        if self.not_before.is_some_and(|time| Instant::now() < time) {
            return false;
        }
        match Running::start(&self.limits) {
            Ok(running) => {
                self.figures.started += 1;
                self.running = Some(running);
                true
            }
            Err(_) => {
                self.figures.unstartable += 1;
                self.pause();
                false
            }
        }
    }

    fn pause(&mut self) {
        self.deaths = self.deaths.saturating_add(1);
        let Some(doublings) = self.deaths.checked_sub(AT_ONCE + 1) else { return };
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings.min(10)).min(LONGEST_PAUSE);
        self.not_before = Some(Instant::now() + pause);
    }

    fn died(&mut self, error: &io::Error, about: About) -> Death {
        let Some(running) = self.running.take() else { return Death::Crashed };
        if running.since.elapsed() > LONG_LIFE {
            self.deaths = 0;
        }
        let (death, reading) = running.bury(error);
        match death {
            Death::Late => self.figures.killed_for_time += 1,
            Death::Refused => self.figures.refused += 1,
            Death::Killed | Death::Crashed => self.figures.crashed += 1,
        }
        self.pause();
        let about = match death {
            Death::Killed => About::Nothing,
            // What it was reading for the first time is the likelier cause.
            _ => reading.map_or(about, About::File),
        };
        self.strike(about);
        death
    }

    fn strike(&mut self, about: About) {
        let out = match about {
            About::File(key) => {
                let Some(file) = self.files.get_mut(&key) else { return };
                file.strikes = file.strikes.saturating_add(1);
                let out = file.strikes == STRIKES;
                if out && file.debug.take().is_some() {
                    // It may be the debug file's fault alone.
                    file.strikes = 0;
                }
                out
            }
            About::Space(id) => {
                if self.suspects.len() >= SUSPECTS {
                    self.suspects.clear();
                }
                let strikes = self.suspects.entry(id).or_default();
                *strikes = strikes.saturating_add(1);
                *strikes == STRIKES
            }
            About::Nothing => false,
        };
        self.figures.quarantined += u64::from(out);
    }

    fn ask(
        &mut self,
        request: &Request<'_>,
        with: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> io::Result<Reply> {
        let running = self.running.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        running.reading = None;
        running.ask(request, with, deadline)
    }

    /// Hands over a file, unless that has been done or it must not be: then the process does without it.
    fn tell_file(&mut self, key: u32, deadline: Instant) -> io::Result<()> {
        let running = self.running.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let Some(file) = self.files.get(&key).filter(|file| file.strikes < STRIKES) else { return Ok(()) };
        if running.files.insert(key) {
            let files: Vec<_> = [Some(&file.file), file.debug.as_ref()]
                .into_iter()
                .flatten()
                .map(|file| file.as_fd())
                .collect();
            running.tell(&Request::File { key }, &files, deadline)?;
        }
        Ok(())
    }

    fn tell_space(&mut self, space: &Space, deadline: Instant) -> io::Result<()> {
        if self.running.as_ref().is_some_and(|running| running.spaces.contains(&space.id)) {
            return Ok(());
        }
        for module in &space.modules {
            if let Code::File(FileKey(key)) = module.code {
                self.tell_file(key, deadline)?;
            }
        }
        let running = self.running.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        if running.spaces.len() >= SUSPECTS {
            // It has forgotten most of them, and asks.
            running.spaces.clear();
        }
        running.spaces.insert(space.id);
        running.tell(&Request::Space { id: space.id, modules: space.modules.clone() }, &[], deadline)
    }
}

fn clean_functions(functions: Vec<Function>) -> Vec<Function> {
    functions
        .into_iter()
        .take(FUNCTIONS_LIMIT)
        .map(|function| Function {
            name: clean(&function.name),
            file: function.file.map(|file| clean(&file)),
            line: function.line,
        })
        .collect()
}

fn clean(name: &str) -> Arc<str> {
    Arc::from(text::clean_to(name, NAME_LIMIT))
}
