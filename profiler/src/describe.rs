//! What the programs of processes were built from: asked of the worker (their files are hostile), of what is mapped and of
//! what is installed.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::AsFd as _,
    sync::{
        Arc, Weak,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{
    binary::{describe::Description, go::GoImage},
    runtime::{
        go::attach::FileId,
        reader::{Outcome, Reader},
    },
    snapshot::{GoBuild, ProgramDescription, ProgramPart, ProgramTrouble},
    target::{
        MappedObject, Part, Parts, PinnedObject, Process, ProcessFacts, ProgramCache, Runtime, TargetError,
    },
    text::clean,
    worker::{Analyst, Limits, NoAnalysis},
};

/// Files whose descriptions are kept.
const KEPT: usize = 256;
/// A file whose analysis failed for a reason that may pass is left alone for so long: else many processes of one file that
/// takes too long would keep all others waiting.
const LEFT_ALONE: Duration = Duration::from_secs(60);
/// A description may take so long: the analysis of the program is ended after 20 s ([`Limits`]); a file or a directory that
/// doesn't answer (FUSE) never ends.
const PATIENCE: Duration = Duration::from_secs(30);
/// Processes that may wait for their descriptions.
const QUEUE: usize = 4096;

/// A process's program.
#[derive(Clone, Debug)]
pub struct Described {
    /// What is told of it.
    pub program: Arc<ProgramDescription>,
    /// What runs in it.
    pub runtime: Runtime,
    /// If Go made it: what its file says.
    pub go: Option<Arc<GoImage>>,
    /// What its file is, as `/proc/PID/maps` has it: on some file systems, `stat` says another device.
    pub file: FileId,
    /// Which file it is, and in which state it was described.
    pub state: FileState,
    /// Why its file can't be described may pass (memory was short, time was up): worth another look after a minute.
    pub again: bool,
}

/// Why a process isn't described.
#[derive(Debug, Error)]
pub enum NotDescribed {
    /// It has ended, or can't be read.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Looking at it didn't end.
    #[error("process {pid} is not described: no answer within {} s from a file or directory of its", .patience.as_secs())]
    Late {
        /// Its id.
        pid: u32,
        /// How long was waited.
        patience: Duration,
    },
    /// Nobody could look at it.
    #[error("process {pid} is not described: {why}")]
    Refused {
        /// Its id.
        pid: u32,
        /// Why, in words.
        why: String,
    },
}

impl NotDescribed {
    /// Whether the process has ended: nothing is wrong.
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Target(error) if error.is_gone())
    }

    /// One word for it, for labels.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Target(_) => "unreadable",
            Self::Late { .. } => "late",
            Self::Refused { .. } => "refused",
        }
    }
}

/// A file at one state of its contents: device, inode, size and time of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileState((u64, u64), u64, (i64, i64));

impl FileState {
    /// Of an opened file.
    pub const fn of(pinned: &PinnedObject) -> Self {
        Self(pinned.identity(), pinned.size(), pinned.changed())
    }

    /// Device and inode.
    pub const fn identity(&self) -> (u64, u64) {
        self.0
    }
}

/// What a file says, and why it doesn't.
type Said = Arc<Result<Description, ProgramTrouble>>;

/// What is known of a file.
struct Known {
    said: Said,
    /// If it failed for a reason that may pass: until when that is believed.
    until: Option<Instant>,
}

/// Describes programs; remembers files, so that many processes of one program cost one analysis.
pub struct Describer {
    analyst: Analyst,
    programs: ProgramCache,
    known: HashMap<FileState, Known>,
}

impl Default for Describer {
    fn default() -> Self {
        Self {
            analyst: Analyst::new(Limits::for_analyses()),
            programs: ProgramCache::default(),
            known: HashMap::new(),
        }
    }
}

impl Describer {
    /// Looks at a process. Takes as long as the analysis of its program, some tenths of a second for a large one.
    ///
    /// # Errors
    ///
    /// If the process has ended or can't be read. What can't be read of its program is told in the description.
    pub fn look(&mut self, process: &Process) -> Result<Described, TargetError> {
        let pinned = process.pin_exe()?;
        let objects = process.mapped_objects()?;
        let mut facts = ProcessFacts::read(process.pid())?;
        let found = facts.program(&mut self.programs);
        let runtime = facts.runtime(found.as_ref(), &objects);
        let (said, again) = self.file(&pinned);
        let mut program = ProgramDescription { exe: process.exe().unwrap_or_default(), ..Default::default() };
        let mut add = |kind: &'static str, parts: Parts| {
            program.left_out += parts.left_out;
            program.parts.extend(parts.list.into_iter().map(|part| told(kind, part)));
        };
        add("library", process.libraries(&objects, &mut self.programs));
        if let Runtime::CPython(_) = &runtime {
            add("python", process.python_distributions(&mut facts, &runtime, &objects));
        }
        let mut go = None;
        match said.as_ref() {
            Ok(description) => {
                let crates = description.crates.iter();
                let crates = crates.map(|(name, version)| ProgramPart {
                    kind: "rust",
                    name: name.clone(),
                    version: version.clone(),
                    build_id: String::new(),
                });
                program.parts.extend(crates);
                let damaged = |reason: &String| ProgramTrouble {
                    what: "parts",
                    kind: "damaged",
                    reason: reason.clone(),
                };
                program.trouble.extend(description.trouble.iter().map(damaged));
                if let Some(image) = &description.go {
                    let info = image.build.as_ref().ok().cloned();
                    program.trouble.extend(image.build.as_ref().err().map(unknown_modules));
                    program.go = Some(GoBuild { version: image.version.clone(), info });
                    go = Some(Arc::new(image.clone()));
                }
            }
            Err(why) => program.trouble.push(why.clone()),
        }
        if process.is_alive() {
            Ok(Described {
                program: Arc::new(program),
                runtime,
                go,
                file: mapped_as(pinned.identity(), &objects),
                state: FileState::of(&pinned),
                again,
            })
        } else {
            Err(TargetError::Gone(process.pid()))
        }
    }

    /// What the file says, and whether it may say something else later.
    fn file(&mut self, pinned: &PinnedObject) -> (Said, bool) {
        let key = FileState::of(pinned);
        if let Some(Known { said, until }) = self.known.get(&key)
            && until.is_none_or(|until| Instant::now() < until)
        {
            return (Arc::clone(said), until.is_some());
        }
        let said = self.analyst.describe(pinned.as_fd(), pinned.size());
        let until = said.as_ref().is_err_and(may_pass).then(|| Instant::now() + LEFT_ALONE);
        let said = Arc::new(said.map_err(|error| not_analysed(&error)));
        if self.known.len() >= KEPT {
            self.known.clear();
        }
        self.known.insert(key, Known { said: Arc::clone(&said), until });
        (said, until.is_some())
    }
}

/// Whether it may be the machine's fault, and not the file's.
const fn may_pass(error: &NoAnalysis) -> bool {
    match error {
        NoAnalysis::Unstartable(_) | NoAnalysis::Late(_) | NoAnalysis::Killed | NoAnalysis::Crashed => true,
        NoAnalysis::Refused | NoAnalysis::Failed | NoAnalysis::Senseless => false,
    }
}

/// Nothing is known of a program's file.
fn not_analysed(error: &NoAnalysis) -> ProgramTrouble {
    let kind = if matches!(error, NoAnalysis::Late(_)) { "late" } else { "failed" };
    ProgramTrouble { what: "program", kind, reason: error.to_string() }
}

/// It was built without them, or names more than are read.
fn unknown_modules(why: &String) -> ProgramTrouble {
    ProgramTrouble { what: "modules", kind: "unavailable", reason: format!("its modules: {why}") }
}

/// The mapped file that is the program: of the same inode, on the same device if there are several of these.
fn mapped_as((device, inode): (u64, u64), objects: &[MappedObject]) -> FileId {
    let device = (rustix::fs::major(device).cast_signed(), rustix::fs::minor(device).cast_signed());
    let same = |object: &&MappedObject| object.inode == inode;
    let exactly = objects.iter().filter(same).find(|object| object.device == device);
    exactly.or_else(|| objects.iter().find(same)).map_or((device, inode), MappedObject::id)
}

fn told(kind: &'static str, part: Part) -> ProgramPart {
    ProgramPart { kind, name: clean(&part.name), version: clean(&part.version), build_id: part.build_id }
}

/// A description that was asked for by a number.
pub type Answer = (u64, Result<Described, NotDescribed>);

/// What is asked: a process that has ended meanwhile is kept by nobody.
struct Order {
    number: u64,
    pid: u32,
    process: Weak<Process>,
}

/// A thread that has one program after the other described, each by a thread that may be lost: libraries and directories of
/// targets are opened, which may hang.
pub struct Describing {
    orders: SyncSender<Order>,
    answers: Receiver<Answer>,
    /// Those that could not be asked for.
    refused: VecDeque<Answer>,
    waiting: usize,
}

impl Describing {
    /// Starts the thread, which ends when this is dropped.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had.
    pub fn begin() -> std::io::Result<Self> {
        let (orders, queue) = sync_channel(QUEUE);
        let (send, answers) = channel();
        std::thread::Builder::new()
            .name("profiler-describe".to_owned())
            .spawn(move || describe_all(&queue, &send))?;
        Ok(Self { orders, answers, refused: VecDeque::new(), waiting: 0 })
    }

    /// Asks for a process; the answer will come under this number. Never waits.
    pub fn ask(&mut self, number: u64, process: Arc<Process>) {
        let pid = process.pid();
        let order = Order { number, pid, process: Arc::downgrade(&process) };
        self.waiting += 1;
        if let Err(error) = self.orders.try_send(order) {
            let why = format!("nobody takes the order: {error}");
            self.refused.push_back((number, Err(NotDescribed::Refused { pid, why })));
        }
    }

    /// Whether answers are to come.
    pub const fn waits(&self) -> bool {
        self.waiting > 0
    }

    /// An answer, if one has come within this time.
    pub fn take(&mut self, patience: Duration) -> Option<Answer> {
        let refused = self.refused.pop_front();
        let answer = refused.or_else(|| self.answers.recv_timeout(patience).ok())?;
        self.waiting -= 1;
        Some(answer)
    }
}

/// What the thread does.
fn describe_all(queue: &Receiver<Order>, answers: &Sender<Answer>) {
    let mut reader = Reader::default();
    let mut describer = Describer::default();
    for Order { number, pid, process } in queue {
        let answer = match process.upgrade() {
            None => Err(TargetError::Gone(pid).into()),
            Some(process) => {
                let job = move || {
                    let looked = describer.look(&process);
                    (describer, looked)
                };
                let answer;
                (describer, answer) = looked(pid, reader.ask(PATIENCE, job));
                answer
            }
        };
        if answers.send((number, answer)).is_err() {
            return;
        }
    }
}

/// What came of a look. What the describer knew is lost with a thread that hangs.
fn looked(
    pid: u32,
    outcome: Outcome<(Describer, Result<Described, TargetError>)>,
) -> (Describer, Result<Described, NotDescribed>) {
    match outcome {
        Outcome::Done((describer, looked)) => (describer, looked.map_err(NotDescribed::from)),
        Outcome::Late(_) => (Describer::default(), Err(NotDescribed::Late { pid, patience: PATIENCE })),
        Outcome::Refused(why) => (Describer::default(), Err(NotDescribed::Refused { pid, why })),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    fn own() -> Arc<Process> {
        Arc::new(Process::open(std::process::id()).unwrap())
    }

    #[test]
    fn a_failure_that_may_pass_is_not_believed_for_long() {
        let nowhere = Limits { program: "/nonexistent".into(), ..Limits::for_analyses() };
        let mut describer = Describer { analyst: Analyst::new(nowhere), ..Describer::default() };
        let described = describer.look(&own()).unwrap();
        assert!(described.again && described.go.is_none());
        assert!(described.program.trouble().unwrap().contains("can't be started"), "{described:?}");
        assert_eq!(
            (described.program.trouble[0].what, described.program.trouble[0].kind),
            ("program", "failed")
        );
        let known = describer.known.values_mut().next().unwrap();
        assert!(known.until.unwrap() <= Instant::now() + LEFT_ALONE);
        // While it is believed, it is told from memory.
        known.said = Arc::new(Err(not_analysed(&NoAnalysis::Late(Duration::from_secs(7)))));
        let described = describer.look(&own()).unwrap();
        assert_eq!(described.program.trouble[0].kind, "late");
        assert_eq!(described.program.trouble().unwrap(), "its analysis was not finished within 7 s");
        describer.known.values_mut().next().unwrap().until = Some(Instant::now());
        let described = describer.look(&own()).unwrap();
        assert!(described.program.trouble().unwrap().contains("can't be started"), "{described:?}");
    }

    #[test]
    fn what_a_file_does_not_say_is_told_beside_what_it_says() {
        let mut describer = Describer::default();
        let build = Err("it names more than 4096 modules".to_owned());
        let runtime = Err("unknown".to_owned());
        let image = GoImage { version: "go1.23.9".to_owned(), build, runtime };
        let description = Description {
            go: Some(image),
            trouble: vec!["the list of its crates: it makes no sense".to_owned()],
            ..Description::default()
        };
        let state = FileState::of(&own().pin_exe().unwrap());
        describer.known.insert(state, Known { said: Arc::new(Ok(description)), until: None });
        let program = describer.look(&own()).unwrap().program;
        let told: Vec<_> = program.trouble.iter().map(|trouble| (trouble.what, trouble.kind)).collect();
        assert_eq!(told, [("parts", "damaged"), ("modules", "unavailable")]);
        assert_eq!(
            program.trouble().unwrap(),
            "the list of its crates: it makes no sense; its modules: it names more than 4096 modules"
        );
    }

    #[test]
    fn who_has_ended_is_told_to_be_gone_and_the_next_one_is_looked_at() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Arc::new(Process::open(child.id()).unwrap());
        drop(child.stdin.take());
        child.wait().unwrap();
        let mut describing = Describing::begin().unwrap();
        describing.ask(1, Arc::clone(&process));
        let (number, answer) = describing.take(SOON).unwrap();
        assert!(number == 1 && answer.as_ref().is_err_and(NotDescribed::is_gone), "{answer:?}");
        // Nobody else keeps it, if nobody observes it any more.
        describing.ask(2, process);
        let (number, answer) = describing.take(SOON).unwrap();
        assert!(number == 2 && answer.is_err_and(|error| error.is_gone()));
        assert!(!describing.waits());
    }

    #[test]
    fn an_order_that_finds_no_room_is_answered_at_once() {
        let ((orders, queue), (_send, answers)) = (sync_channel(1), channel());
        let mut describing = Describing { orders, answers, refused: VecDeque::new(), waiting: 0 };
        let process = own();
        describing.ask(1, Arc::clone(&process));
        describing.ask(2, Arc::clone(&process));
        let (number, answer) = describing.take(Duration::ZERO).unwrap();
        assert_eq!((number, answer.unwrap_err().to_string().contains("is not described")), (2, true));
        assert!(describing.take(Duration::ZERO).is_none() && describing.waits());
        assert_eq!(queue.recv().unwrap().number, 1);
    }

    #[test]
    fn a_look_that_does_not_end_is_given_up() {
        let late = looked(7, Outcome::Late(channel().1)).1.unwrap_err();
        assert_eq!(
            late.to_string(),
            "process 7 is not described: no answer within 30 s from a file or directory of its"
        );
        let refused = looked(7, Outcome::Refused("16 readings hang already".to_owned())).1.unwrap_err();
        assert_eq!(refused.to_string(), "process 7 is not described: 16 readings hang already");
    }
}
