//! The thread that owns the session: attaches, samples at the interval or when asked, and lets go at the end.
//!
//! A thread of its own, because reading `/proc` can block (a target in the middle of `execve`, a dead network mount)
//! and nobody who scrapes should wait for that.

use std::{
    collections::HashSet,
    ffi::OsString,
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::{oneshot, watch};

use crate::{
    chooser::Chooser,
    config::{Config, Leaks, View, What},
    hunt::{Hunt, OwnCalls, Settings},
    keeping::Keeper,
    kernel::{Event, EventReader, Facts, KernelLog, Plan, Wanted},
    launch::{self, Child, Launched},
    push::Pusher,
    session::{Chosen, DetailJob, DetailResult, HuntWish, Images, Session},
    snapshot::Snapshot,
    target::Process,
    worker,
};

/// A snapshot younger than this answers a request as well as a new one.
const FRESH: Duration = Duration::from_millis(10);
/// How soon the end of the last target is noticed where no event tells.
const ALIVE_CHECK: Duration = Duration::from_millis(50);
/// Events that wait to be handled, at most.
const MAX_WAITING: usize = 4096;
/// How long the reader of events may wait without looking whether anybody still listens.
const EVENT_PATIENCE: Duration = Duration::from_secs(1);

/// Of what grows a process, more is sampled than of allocations: each is rare, and costs no trap.
const GROWTH_BYTES: u64 = 64 << 10;
/// How long the last event of an ended process may take to arrive.
const LAST_WORD: Duration = Duration::from_millis(100);
/// Pictures of leaks are not made more often than this.
const PICTURE_INTERVAL: Duration = Duration::from_secs(1);

/// What the sampler can be asked for.
#[derive(Debug)]
pub enum Request {
    /// A new snapshot.
    Sample,
    /// The end.
    Stop,
}

/// What the sampler tells when everything is in place.
pub struct Started {
    /// Snapshots as they are made; holds the first one.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The kernel side's debug lines, if they were asked for.
    pub log: Option<KernelLog>,
    /// Our own child, with `run`.
    pub child: Option<u32>,
}

/// What is left at the end.
pub struct Finished {
    /// Everything, exact to the last call.
    pub last: Snapshot,
    /// What ended the observation before its time.
    pub error: Option<anyhow::Error>,
    /// How our own child ended, with `run`, if it has.
    pub exit: Option<ExitStatus>,
    /// Our own child, if it runs on.
    pub runs_on: Option<u32>,
    /// Still holds the probes, which do nothing any more. Dropping it takes them away.
    pub session: Session,
}

enum Message {
    Request(Request),
    Detail(DetailResult),
    Event(Event),
}

/// Requests to a sampler.
#[derive(Clone, Debug)]
pub struct Handle {
    sender: Sender<Message>,
    /// The end doesn't queue behind what happens to processes.
    stop: Arc<AtomicBool>,
}

impl Handle {
    /// Asks; a sampler that has ended doesn't hear it.
    pub fn ask(&self, request: Request) {
        if matches!(request, Request::Stop) {
            self.stop.store(true, Ordering::Relaxed);
        }
        let _heard = self.sender.send(Message::Request(request));
    }
}

/// A sampler that hasn't begun yet.
pub struct Sampler {
    config: Config,
    keeper: Arc<Keeper>,
    pusher: Option<Arc<Pusher>>,
    stop: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
    messages: Receiver<Message>,
    sender: Sender<Message>,
}

impl Sampler {
    /// Prepares; `run` does the work, on the thread that calls it.
    pub fn new(config: Config, keeper: Arc<Keeper>, pusher: Option<Arc<Pusher>>) -> (Self, Handle) {
        let (sender, messages) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let waiting = Arc::default();
        let handle = Handle { sender: sender.clone(), stop: Arc::clone(&stop) };
        (Self { config, keeper, pusher, stop, waiting, messages, sender }, handle)
    }

    /// Attaches, reports through `started`, samples until the end, lets go.
    ///
    /// # Errors
    ///
    /// If attaching fails or the kernel side can't be read any more. Nothing stays behind.
    pub fn run(self, started: oneshot::Sender<Started>) -> anyhow::Result<Finished> {
        let (mut session, mut chooser, mut child, hunt) = self.begin()?;
        let began = Instant::now();
        let log = session.take_log();
        let (publish, snapshots) = watch::channel(Arc::new(self.sample(&mut session)?));
        give_memory_back();
        let told = started.send(Started { snapshots, log, child: child.as_ref().map(Child::pid) });
        let watched =
            if told.is_ok() { self.watch(&mut session, &mut chooser, began, &publish) } else { Ok(()) };
        let last = session.finish()?;
        drop(hunt);
        self.keeper.end(last.leaks.as_ref());
        let exit = child.as_mut().and_then(Child::try_wait);
        let runs_on = child.filter(|_| exit.is_none()).map(|child| child.pid());
        Ok(Finished { last, error: watched.err(), exit, runs_on, session })
    }

    /// Loads the kernel side and attaches to what exists.
    fn begin(&self) -> anyhow::Result<(Session, Chooser, Option<Child>, Option<Hunt>)> {
        let config = &self.config;
        let growth_bytes = config.hunt.sample_bytes.min(GROWTH_BYTES);
        let growth = match config.hunt.mode {
            Leaks::Growth => Ok(growth_bytes),
            // Where it can't be had, it is done without.
            Leaks::Auto if config.view != View::Summary => {
                Plan::obstacle_to_growth(&Facts::gather()).map_or(Ok(growth_bytes), Err)
            }
            Leaks::Auto | Leaks::On | Leaks::Off => Err(String::new()),
        };
        let wanted = Wanted {
            alloc: config.alloc,
            stalls: config.stalls,
            mappings: config.mappings,
            samples: config.alloc && matches!(config.hunt.mode, Leaks::Auto | Leaks::On),
            growth: growth.as_ref().ok().copied(),
            go_stops: config.go.stops,
        };
        let images = Images::new(config.debuginfod.as_deref(), false)?.with_python(config.python);
        let places = config.places();
        let mut session = Session::open(wanted, places, config.stall_threshold, config.trace, images)?;
        session.describe_programs(config.go, config.interval);
        let mut chooser = match &config.what {
            What::Processes(choice) => Chooser::new(choice.clone()),
            What::Command { children, .. } => Chooser::of_children(*children),
        };
        let hunt = self.begin_hunt(&mut session, (wanted, growth))?;
        // Before anything is looked at: what happens from here on is told.
        if let Some(events) = session.take_events(chooser.may_grow())? {
            spawn_event_reader(events, self.sender.clone(), Arc::clone(&self.waiting))?;
        }
        let child = match &config.what {
            What::Processes(_) => None,
            What::Command { argv, name, children } => {
                let withheld = launch::withheld(config.push.as_ref());
                Some(start(&mut session, (argv, &withheld), name.as_deref(), *children)?)
            }
        };
        chooser.begin(&mut session)?;
        Ok((session, chooser, child, hunt))
    }

    /// Begins the hunt for leaks, if anything is sampled.
    fn begin_hunt(
        &self,
        session: &mut Session,
        (wanted, growth): (Wanted, Result<u64, String>),
    ) -> anyhow::Result<Option<Hunt>> {
        let Some(samples) = session.take_samples() else { return Ok(None) };
        let config = &self.config.hunt;
        if config.mode == Leaks::Growth
            && let Some(obstacle) = session.obstacle_to_growth()
        {
            anyhow::bail!("what makes a process grow can't be seen: {obstacle}");
        }
        let settings = Settings {
            sample_bytes: config.sample_bytes,
            growth_bytes: wanted.growth.unwrap_or(config.sample_bytes),
            patience: config.patience,
            references: config.references,
            perf_map: config.perf_map,
            interval: self.config.interval.max(PICTURE_INTERVAL),
            targets: self.config.places() as usize,
            worker: worker::Limits::default(),
        };
        let own_calls = OwnCalls::default();
        let wish = HuntWish {
            allocations: wanted.samples,
            growth,
            sample_bytes: settings.sample_bytes,
            risky: config.mode == Leaks::On,
        };
        let keeper = Arc::clone(&self.keeper);
        let hunt = Hunt::begin(samples, own_calls.clone(), settings, move |picture| keeper.at_once(picture))
            .context("can't start a thread")?;
        self.keeper.begin(hunt.handle()).context("can't start a thread")?;
        session.join_hunt(hunt.handle(), own_calls, wish);
        Ok(Some(hunt))
    }

    fn watch(
        &self,
        session: &mut Session,
        chooser: &mut Chooser,
        began: Instant,
        publish: &watch::Sender<Arc<Snapshot>>,
    ) -> anyhow::Result<()> {
        let deadline = self.config.duration.and_then(|duration| began.checked_add(duration));
        let details = spawn_detail_reader(self.sender.clone())?;
        let mut due = began + self.config.interval;
        let mut last = began;
        loop {
            for job in session.due_details() {
                // The reader lives as long as this function.
                let _sent = details.send(job);
            }
            let now = Instant::now();
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let over = !session.any_alive() && !chooser.looks_for_new();
            if over {
                self.hear_of_the_end(session, chooser)?;
            }
            if over || deadline.is_some_and(|deadline| now >= deadline) {
                return Ok(());
            }
            if session.due().is_some_and(|due| due <= now) {
                session.keep_up();
            }
            if chooser.due().is_some_and(|due| due <= now)
                && let Err(error) = chooser.keep_up(session)
            {
                // The next look may succeed.
                tracing::warn!("{error:#}");
            }
            if let Some(ended) = session.sample_due() {
                due = due.min(ended);
            }
            let wakes = [deadline, session.due(), chooser.due(), Some(now + ALIVE_CHECK)];
            let wake = wakes.into_iter().flatten().fold(due, Instant::min);
            match self.messages.recv_timeout(wake.saturating_duration_since(now)) {
                Ok(Message::Request(Request::Stop)) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Ok(Message::Request(Request::Sample)) if last.elapsed() < FRESH => {
                    publish.send_modify(|_| {});
                    continue;
                }
                Ok(Message::Request(Request::Sample)) => {}
                Ok(Message::Detail(result)) => {
                    session.detail_done(result, self.config.interval);
                    continue;
                }
                Ok(Message::Event(event)) => {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                    chooser.event(session, event)?;
                    // However much happens: samples are made at their time.
                    if Instant::now() < due {
                        continue;
                    }
                    due += self.config.interval;
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < due => continue,
                Err(RecvTimeoutError::Timeout) => {
                    // A machine that was suspended doesn't make up for missed samples.
                    due = (due + self.config.interval).max(Instant::now());
                }
            }
            last = Instant::now();
            publish.send_replace(Arc::new(self.sample(session)?));
        }
    }

    /// One moment of everything.
    fn sample(&self, session: &mut Session) -> anyhow::Result<Snapshot> {
        let push = self.pusher.as_deref().map(Pusher::figures);
        Ok(Snapshot { history: self.keeper.figures(), push, ..session.sample()? })
    }

    /// The end of the last process was noticed; how it has ended is told a moment later, if that hasn't come yet.
    fn hear_of_the_end(&self, session: &mut Session, chooser: &mut Chooser) -> anyhow::Result<()> {
        let until = Instant::now() + LAST_WORD;
        while session.wonders()
            && let Ok(message) = self.messages.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            if let Message::Event(event) = message {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                chooser.event(session, event)?;
            }
        }
        Ok(())
    }
}

/// Reading the kernel's type information and the targets' libraries took memory that is never needed again: some 20 MB
/// which the C library would keep.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions; it may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Starts our own child and attaches before it has made its first allocation.
fn start(
    session: &mut Session,
    (argv, withheld): (&[OsString], &[&str]),
    name: Option<&str>,
    follow: bool,
) -> anyhow::Result<Child> {
    let mut launched = Launched::start(argv, withheld)?;
    let process = Process::open(launched.pid())?;
    let mut seen = HashSet::new();
    launched.step_until(|| (session.finds_allocator(&process, &mut seen), seen.len()))?;
    let group = match name {
        Some(name) => name.into(),
        None => process.comm()?.into(),
    };
    session.attach(Chosen { process, group, follow })?;
    Ok(launched.release()?)
}

/// A thread that hands on what happens to processes. It ends when nobody listens any more. `waiting`: how many events have
/// been handed on and not taken; when there are many, the rest waits in the kernel's ring, whose losses are counted.
fn spawn_event_reader(
    mut events: EventReader,
    listener: Sender<Message>,
    waiting: Arc<AtomicUsize>,
) -> anyhow::Result<()> {
    let patience = Timespec { tv_sec: EVENT_PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    let read = move || {
        loop {
            let mut fds = [PollFd::new(&events, PollFlags::IN)];
            // Interrupted or in vain: look again.
            let _ready = poll(&mut fds, Some(&patience));
            while let Some(event) = events.next() {
                while waiting.load(Ordering::Relaxed) >= MAX_WAITING {
                    std::thread::sleep(Duration::from_millis(1));
                    if Arc::strong_count(&waiting) == 1 {
                        // The sampler is gone.
                        return;
                    }
                }
                waiting.fetch_add(1, Ordering::Relaxed);
                if listener.send(Message::Event(event)).is_err() {
                    return;
                }
            }
        }
    };
    std::thread::Builder::new()
        .name("profiler-events".to_owned())
        .spawn(read)
        .context("can't start a thread")?;
    Ok(())
}

/// A thread for readings that may take long.
fn spawn_detail_reader(results: Sender<Message>) -> anyhow::Result<Sender<DetailJob>> {
    let (jobs, queue) = channel::<DetailJob>();
    std::thread::Builder::new()
        .name("profiler-detail".to_owned())
        .spawn(move || {
            while let Ok(job) = queue.recv() {
                if results.send(Message::Detail(job.run())).is_err() {
                    return;
                }
            }
        })
        .context("can't start a thread")?;
    Ok(jobs)
}
