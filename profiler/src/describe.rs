//! What the programs of processes were built from: asked of the worker (their files are hostile), of what is mapped and of
//! what is installed.

use std::{
    collections::HashMap,
    os::fd::AsFd as _,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
};

use crate::{
    binary::{describe::Description, go::GoImage},
    runtime::go::attach::FileId,
    snapshot::{GoBuild, ProgramDescription, ProgramPart},
    target::{
        MappedObject, Part, Parts, PinnedObject, Process, ProcessFacts, ProgramCache, Runtime, TargetError,
    },
    text::clean,
    worker::{Analyst, Limits},
};

/// Files whose descriptions are kept.
const KEPT: usize = 256;

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
type Said = Arc<Result<Description, String>>;

/// Describes programs; remembers files, so that many processes of one program cost one analysis.
pub struct Describer {
    analyst: Analyst,
    programs: ProgramCache,
    known: HashMap<FileState, Said>,
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
        let said = self.file(&pinned);
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
                program.trouble = (!description.trouble.is_empty()).then(|| description.trouble.join("; "));
                if let Some(image) = &description.go {
                    let info = image.build.as_ref().ok().cloned();
                    program.go = Some(GoBuild { version: image.version.clone(), info });
                    go = Some(Arc::new(image.clone()));
                }
            }
            Err(why) => program.trouble = Some(why.clone()),
        }
        if process.is_alive() {
            Ok(Described {
                program: Arc::new(program),
                runtime,
                go,
                file: mapped_as(pinned.identity(), &objects),
                state: FileState::of(&pinned),
            })
        } else {
            Err(TargetError::Gone(process.pid()))
        }
    }

    fn file(&mut self, pinned: &PinnedObject) -> Said {
        let key = FileState::of(pinned);
        if let Some(known) = self.known.get(&key) {
            return Arc::clone(known);
        }
        let said = self.analyst.describe(pinned.as_fd(), pinned.size()).map_err(|error| error.to_string());
        let said = Arc::new(said);
        if self.known.len() >= KEPT {
            self.known.clear();
        }
        self.known.insert(key, Arc::clone(&said));
        said
    }
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
pub type Answer = (u64, Result<Described, TargetError>);

/// A thread that describes one program after the other.
pub struct Describing {
    orders: Sender<(u64, Arc<Process>)>,
    answers: Receiver<Answer>,
    waiting: usize,
}

impl Describing {
    /// Starts the thread, which ends when this is dropped.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had.
    pub fn begin() -> std::io::Result<Self> {
        let (orders, queue) = channel::<(u64, Arc<Process>)>();
        let (send, answers) = channel();
        let work = move || {
            let mut describer = Describer::default();
            for (number, process) in queue {
                if send.send((number, describer.look(&process))).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("profiler-describe".to_owned()).spawn(work)?;
        Ok(Self { orders, answers, waiting: 0 })
    }

    /// Asks for a process; the answer will come under this number.
    pub fn ask(&mut self, number: u64, process: Arc<Process>) {
        if self.orders.send((number, process)).is_ok() {
            self.waiting += 1;
        }
    }

    /// Whether answers are to come.
    pub const fn waits(&self) -> bool {
        self.waiting > 0
    }

    /// An answer, if one has come within this time.
    pub fn take(&mut self, patience: std::time::Duration) -> Option<Answer> {
        let answer = self.answers.recv_timeout(patience).ok()?;
        self.waiting -= 1;
        Some(answer)
    }
}
