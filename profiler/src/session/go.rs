//! Go programs: their description, and what their runtime says of itself at each sample.
//!
//! Reading memory may hang, so it is done by a thread that may be lost (`runtime::reader`). Until it answers, a process's last
//! figures are shown for [`STALE`] at most, and no sample waits for it any more.

mod parts;
mod stops;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
    time::{Duration, Instant},
};

use profiler_common::sched::StallCounts;

pub(super) use parts::{GoEnded, GoPart};
use stops::StopsWatch;

use crate::{
    ask::GoProgram,
    binary::go::GoImage,
    config,
    describe::{Described, Describing, NotDescribed},
    kernel::{Kernel, KernelError, StopsLink},
    runtime::{
        go::{
            GoError,
            attach::FileId,
            figures::{Counters, Figures, HeldBack, PauseFollower, View},
            heap_profile::HeapProfile,
            totals::Totals,
        },
        reader::{Outcome, Reader},
    },
    snapshot::{GoLosses, GoProcess, GoSnapshot, GoTrouble, ProgramDescription, ProgramTrouble},
    stalls,
    target::Process,
};

/// A sample waits so long for a process's memory: it takes some microseconds, unless it hangs.
const PATIENCE: Duration = Duration::from_millis(250);
/// Figures that are older than this aren't shown any more.
const STALE: Duration = Duration::from_secs(10);
/// The first pause before a runtime is looked at again that couldn't be read; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Readings in a row that contradict themselves until the runtime is looked at anew.
const CONTRADICTIONS: u32 = 3;
/// The heap profile is read this often at most: it changes with every garbage collection.
const PROFILE_INTERVAL: Duration = Duration::from_secs(1);
/// And so seldom that it takes half a percent of a CPU at most.
const PROFILE_PACE: u32 = 200;
/// How long the end may wait for descriptions.
const LAST_DESCRIPTIONS: Duration = Duration::from_secs(10);

/// What all Go programs of a session share.
pub(super) struct GoRoom {
    settings: config::Go,
    /// Time between two samples.
    interval: Duration,
    began: Instant,
    describing: Option<Describing>,
    reader: Reader,
    numbers: u64,
}

/// What is known of the Go runtime of a process.
#[derive(Default)]
pub(super) struct GoWatch {
    /// Under which its description will come.
    number: u64,
    described: Option<Arc<Described>>,
    state: State,
    follower: PauseFollower,
    pauses: StallCounts,
    /// Of earlier programs of this process, too.
    losses: GoLosses,
    /// The last figures, and when they were read.
    last: Option<(Figures, Instant)>,
    /// When they were read last, or tried to be.
    tried: Option<Instant>,
    /// The totals of earlier programs of this process, and with them those of this one as they were read last.
    earlier: Totals,
    totals: Totals,
    trouble: Option<GoError>,
    /// Why it isn't known what it runs.
    undescribed: Option<Arc<ProgramDescription>>,
    /// Why the heap profile can't be read, and the last one that could.
    profile: Profile,
    profile_due: Option<Instant>,
    contradictions: u32,
    failures: u32,
    read_seconds: f64,
    stops: StopsWatch,
}

/// Nothing at first; then the last profile, or why there is none.
type Profile = Option<Result<Arc<HeapProfile>, GoError>>;

#[derive(Default)]
enum State {
    /// Its program has not been described yet, or isn't Go's, or isn't to be read.
    #[default]
    Nothing,
    /// To be opened at that moment, or when there is time.
    Closed(Option<Instant>),
    /// Ready to be read.
    Open(Box<Opened>),
    /// A thread is at it, and late.
    Away(Receiver<Answer>),
}

/// A runtime that is read again and again.
struct Opened {
    program: GoProgram,
    counters: Counters,
    read_at: Instant,
}

impl Opened {
    fn of(program: GoProgram) -> Box<Self> {
        Box::new(Self { program, counters: Counters::default(), read_at: Instant::now() })
    }

    fn read(&mut self, view: View) -> Result<Figures, GoError> {
        let figures = self.program.runtime.read(view)?;
        let elapsed = self.read_at.elapsed();
        self.read_at = Instant::now();
        let Self { program, counters, .. } = self;
        counters.admit(figures, elapsed, || program.runtime.read(view))
    }
}

/// What a thread brings back.
struct Answer {
    /// The program, unless it couldn't be opened.
    program: Option<Box<Opened>>,
    figures: Result<Figures, GoError>,
    /// What was not shown of this reading.
    held_back: HeldBack,
    profile: Option<Result<HeapProfile, GoError>>,
    /// When the figures were read.
    read_at: Instant,
    /// Reading the figures.
    took: Duration,
    /// Reading the profile.
    profile_took: Duration,
}

impl GoRoom {
    pub fn new(settings: config::Go, interval: Duration) -> Self {
        let describing =
            Describing::begin().inspect_err(|error| tracing::warn!("programs aren't described: {error}"));
        let describing = describing.ok();
        Self { settings, interval, began: Instant::now(), describing, reader: Reader::default(), numbers: 0 }
    }

    /// A process is observed from now on.
    pub fn begin(&mut self, process: &Arc<Process>) -> GoWatch {
        GoWatch { number: self.describe(process), ..GoWatch::default() }
    }

    /// Asks for a description, which will come under this number.
    fn describe(&mut self, process: &Arc<Process>) -> u64 {
        self.numbers += 1;
        if let Some(describing) = &mut self.describing {
            describing.ask(self.numbers, Arc::clone(process));
        }
        self.numbers
    }

    /// Hands on the descriptions that have come; at the end, waits for those that are to come.
    pub fn hand_on<'a>(&mut self, watches: impl Iterator<Item = &'a mut GoWatch>, last: bool) {
        let Some(describing) = &mut self.describing else { return };
        let mut watches: Vec<_> = watches.collect();
        // Who has watched for long doesn't wait for the one program that came last.
        let wait = last && self.began.elapsed() < LAST_DESCRIPTIONS;
        let until = Instant::now() + if wait { LAST_DESCRIPTIONS } else { Duration::ZERO };
        while describing.waits() {
            let Some((number, answer)) = describing.take(until.saturating_duration_since(Instant::now()))
            else {
                return;
            };
            if let Some(watch) = watches.iter_mut().find(|watch| watch.number == number) {
                match answer {
                    Ok(described) => watch.described(described, self.settings.read),
                    // A process that has ended isn't worth a word.
                    Err(error) if error.is_gone() => {}
                    Err(error) => watch.not_described(&error),
                }
            }
        }
    }
}

impl GoWatch {
    fn described(&mut self, described: Described, read: bool) {
        self.undescribed = None;
        if described.again && described.go.is_none() {
            self.state = State::Closed(Some(Instant::now() + LONGEST_PAUSE));
        }
        if let Some(image) = described.go.as_ref().filter(|_| read) {
            match &image.runtime {
                Ok(_) => self.state = State::Closed(None),
                // That doesn't change before it runs another program.
                Err(why) => self.trouble = Some(GoError::Unavailable(why.clone())),
            }
        }
        self.described = Some(Arc::new(described));
    }

    /// Nothing is known of its program: told as that, and tried again.
    fn not_described(&mut self, why: &NotDescribed) {
        let trouble = ProgramTrouble { what: "program", kind: why.word(), reason: why.to_string() };
        let program = ProgramDescription { trouble: vec![trouble], ..ProgramDescription::default() };
        self.undescribed = Some(Arc::new(program));
        self.fail(GoError::Unavailable(why.to_string()), Instant::now());
    }

    /// Whether the process runs another program than the one that was described: events of that may be lost, or not be had.
    pub fn is_outdated(&self, process: &Process) -> bool {
        let described = self.described.as_ref().map(|described| described.state.identity());
        described.is_some_and(|known| process.exe_identity().is_some_and(|now| now != known))
    }

    /// The process runs another program from now on. Probes of the former one are returned, to be taken away.
    #[must_use]
    pub fn replaced(&mut self, room: &mut GoRoom, process: &Arc<Process>) -> Option<StopsLink> {
        let (earlier, pauses, losses) = (self.totals.of_ended(), self.pauses, self.losses);
        let (link, stops) = (self.take_link(), self.stops.replaced());
        *self = Self {
            earlier,
            totals: earlier,
            pauses,
            losses,
            stops,
            follower: PauseFollower::of_new_program(),
            ..room.begin(process)
        };
        link
    }

    /// Measures the stops of its world, if that is wanted, as soon as it is known where.
    pub fn place_stops(&mut self, room: &GoRoom, kernel: &mut Kernel, process: &Process, slot: u32) {
        if let Some(described) = self.described.as_ref().filter(|_| room.settings.stops) {
            self.stops.place(kernel, process, slot, described);
        }
    }

    /// Reads what was measured of them.
    pub fn read_stops(&mut self, kernel: &Kernel, slot: u32) -> Result<(), KernelError> {
        self.stops.read(kernel, slot)
    }

    /// Its probes, to be taken away.
    pub const fn take_link(&mut self) -> Option<StopsLink> {
        self.stops.take_link()
    }

    /// Reads what is due. Waits for [`PATIENCE`] at most.
    pub fn read(&mut self, room: &mut GoRoom, process: &Arc<Process>) {
        let now = Instant::now();
        match std::mem::take(&mut self.state) {
            State::Nothing => {}
            State::Closed(Some(at)) if now < at => self.state = State::Closed(Some(at)),
            // It has failed before: perhaps it runs another program by now.
            State::Closed(Some(_)) => self.number = room.describe(process),
            State::Closed(None) => {
                let Some((described, image)) =
                    self.described.as_ref().and_then(|described| Some((described, described.go.as_ref()?)))
                else {
                    return;
                };
                let (process, image, file) = (Arc::clone(process), Arc::clone(image), described.file);
                self.ask(room, now, move || GoProgram::open(process, image, file).map(Opened::of));
            }
            State::Open(program) => self.ask(room, now, move || Ok(program)),
            State::Away(answer) => match answer.try_recv() {
                Ok(answer) => {
                    self.take(answer, now);
                    // It may have come long ago.
                    match std::mem::take(&mut self.state) {
                        State::Open(program) => self.ask(room, now, move || Ok(program)),
                        other => self.state = other,
                    }
                }
                Err(TryRecvError::Empty) => self.state = State::Away(answer),
                Err(TryRecvError::Disconnected) => {
                    self.fail(GoError::Memory("reading has failed".to_owned()), now);
                }
            },
        }
    }

    fn ask(
        &mut self,
        room: &mut GoRoom,
        now: Instant,
        program: impl FnOnce() -> Result<Box<Opened>, GoError> + Send + 'static,
    ) {
        let view = room.settings.view;
        let wants_profile = self.profile_due.is_none_or(|due| due <= now);
        let job = move || {
            let began = Instant::now();
            let mut program = match program() {
                Ok(program) => program,
                Err(error) => {
                    let took = began.elapsed();
                    return Answer {
                        program: None,
                        figures: Err(error),
                        held_back: HeldBack::default(),
                        profile: None,
                        read_at: Instant::now(),
                        took,
                        profile_took: took,
                    };
                }
            };
            let figures = program.read(view);
            let (took, read_at) = (began.elapsed(), Instant::now());
            let held_back = program.counters.take_held_back();
            let profile = (wants_profile && figures.is_ok()).then(|| program.program.heap_profile());
            let profile_took = began.elapsed().saturating_sub(took);
            Answer { program: Some(program), figures, held_back, profile, read_at, took, profile_took }
        };
        match room.reader.ask(PATIENCE, job) {
            Outcome::Done(answer) => self.take(answer, now),
            Outcome::Late(answer) => {
                self.losses.readers_lost = self.losses.readers_lost.saturating_add(1);
                self.state = State::Away(answer);
            }
            Outcome::Refused(why) => self.fail(GoError::Memory(why), now),
        }
    }

    fn take(&mut self, answer: Answer, now: Instant) {
        self.read_seconds = answer.took.as_secs_f64();
        self.tried = Some(answer.read_at);
        let HeldBack { jumps: readings_repeated, counters: counters_held_back } = answer.held_back;
        self.losses.add(&GoLosses { readings_repeated, counters_held_back, ..GoLosses::default() });
        if let Some(profile) = answer.profile {
            self.profile_due = Some(now + PROFILE_INTERVAL.max(answer.profile_took * PROFILE_PACE));
            self.take_profile(profile);
        }
        match answer.figures {
            Ok(figures) => {
                self.note_pauses(&figures, answer.read_at);
                self.totals = self.earlier.with(&Totals::of(&figures));
                self.last = Some((figures, answer.read_at));
                self.trouble = None;
                (self.contradictions, self.failures) = (0, 0);
            }
            Err(error) if answer.program.is_none() => return self.fail(error, now),
            // The last figures stand until they are too old.
            Err(error @ GoError::Restless(_)) => self.trouble = Some(error),
            Err(error) => {
                self.contradictions += 1;
                self.last = None;
                if self.contradictions >= CONTRADICTIONS {
                    return self.fail(error, now);
                }
                self.trouble = Some(error);
            }
        }
        if let Some(program) = answer.program {
            self.state = State::Open(program);
        }
    }

    /// A reading that failed by chance doesn't make the last profile wrong.
    fn take_profile(&mut self, profile: Result<HeapProfile, GoError>) {
        match profile {
            Ok(profile) => self.profile = Some(Ok(Arc::new(profile))),
            Err(GoError::Restless(_) | GoError::Memory(_)) if matches!(self.profile, Some(Ok(_))) => {}
            Err(error) => self.profile = Some(Err(error)),
        }
    }

    fn note_pauses(&mut self, figures: &Figures, read_at: Instant) {
        let elapsed =
            self.last.as_ref().map_or(Duration::ZERO, |(_, at)| read_at.saturating_duration_since(*at));
        let new = self.follower.follow(figures, elapsed);
        self.losses.pauses_missed = self.losses.pauses_missed.saturating_add(new.missed);
        for (length, _) in new.pauses {
            stalls::note(&mut self.pauses, length);
        }
    }

    /// It can't be read; later, perhaps.
    fn fail(&mut self, why: GoError, now: Instant) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.contradictions = 0;
        self.state = State::Closed(Some(now + pause));
        self.trouble = Some(why);
        self.last = None;
    }

    /// When the ring of pauses must be read again, so that nothing is lost.
    pub fn due(&self, room: &GoRoom) -> Option<Instant> {
        let at = self.tried.filter(|_| self.last.is_some() && matches!(self.state, State::Open(_)))?;
        Some(at + self.follower.due(room.interval))
    }

    /// The heap profile that the runtime keeps; or why it can't be had. `None` before there is any.
    pub const fn heap_profile(&self) -> Option<&Result<Arc<HeapProfile>, GoError>> {
        self.profile.as_ref()
    }

    /// Its part of what is told of its target.
    pub fn part(&self, process: &Arc<Process>) -> GoPart {
        let described = self.described.as_ref();
        let program = described.map(|described| Arc::clone(&described.program));
        let go = described
            .and_then(|described| Some(self.snapshot(process, described.file, described.go.as_ref()?)));
        GoPart {
            go,
            totals: self.totals,
            pauses: self.pauses,
            losses: self.losses,
            program: program.or_else(|| self.undescribed.clone()),
        }
    }

    fn snapshot(&self, process: &Arc<Process>, file: FileId, image: &Arc<GoImage>) -> GoSnapshot {
        let fresh = self.last.as_ref().filter(|(_, at)| at.elapsed() < STALE);
        let trouble =
            |what, error: &GoError| GoTrouble { what, kind: error.word(), reason: error.to_string() };
        let late =
            || GoTrouble { what: "figures", kind: "late", reason: "its memory doesn't answer".to_owned() };
        let figures = self.trouble.as_ref().map(|error| trouble("figures", error));
        let figures = figures.or_else(|| matches!(self.state, State::Away(_)).then(late));
        let profile = self.profile.as_ref().and_then(|profile| profile.as_ref().err());
        let stops =
            self.stops.trouble.clone().map(|reason| GoTrouble { what: "stops", kind: "unavailable", reason });
        let trouble = [
            // While there are figures they are true, whatever the last try came to.
            figures.filter(|_| fresh.is_none()),
            profile.map(|error| trouble("heap_profile", error)),
            stops,
        ];
        GoSnapshot {
            versions: vec![image.version.clone()],
            figures: fresh.map(|(figures, _)| self.earlier.added_to(figures.clone())),
            processes: u64::from(fresh.is_some()),
            trouble: trouble.into_iter().flatten().collect(),
            pauses: self.pauses,
            losses: self.losses,
            stops: self.stops.counts().map(stops::told),
            tables: image.runtime.iter().map(|places| (places.table.clone(), places.exact)).collect(),
            read_seconds: self.read_seconds,
            programs: vec![GoProcess { process: Arc::clone(process), image: Arc::clone(image), file }],
        }
    }
}
