//! The thread that owns the session: attaches, samples at the interval or when asked, and lets go at the end.
//!
//! A thread of its own, because reading `/proc` can block (a target in the middle of `execve`, a dead network mount)
//! and nobody who scrapes should wait for that.

use std::{
    ffi::OsString,
    process::ExitStatus,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::sync::{oneshot, watch};

use crate::{
    config::{Chosen, Config, What},
    kernel::{KernelLog, Wanted},
    launch::{Child, Launched},
    session::{DetailJob, DetailResult, Session, label_targets},
    snapshot::Snapshot,
    target::Process,
};

/// A snapshot younger than this answers a request as well as a new one.
const FRESH: Duration = Duration::from_millis(10);
/// How soon the end of the last target is noticed.
const ALIVE_CHECK: Duration = Duration::from_millis(50);

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
    /// Still holds the probes, which do nothing any more. Dropping it takes them away, about a second per target.
    pub session: Session,
}

enum Message {
    Request(Request),
    Detail(DetailResult),
}

/// Requests to a sampler.
#[derive(Clone, Debug)]
pub struct Handle(Sender<Message>);

impl Handle {
    /// Asks; a sampler that has ended doesn't hear it.
    pub fn ask(&self, request: Request) {
        let _heard = self.0.send(Message::Request(request));
    }
}

/// A sampler that hasn't begun yet.
pub struct Sampler {
    config: Config,
    messages: Receiver<Message>,
    sender: Sender<Message>,
}

impl Sampler {
    /// Prepares; `run` does the work, on the thread that calls it.
    pub fn new(config: Config) -> (Self, Handle) {
        let (sender, messages) = channel();
        (Self { config, messages, sender: sender.clone() }, Handle(sender))
    }

    /// Attaches, reports through `started`, samples until the end, lets go.
    ///
    /// # Errors
    ///
    /// If attaching fails or the kernel side can't be read any more. Nothing stays behind.
    pub fn run(self, started: oneshot::Sender<Started>) -> anyhow::Result<Finished> {
        let wanted = Wanted { alloc: self.config.alloc, stalls: self.config.stalls, mappings: false };
        let open = |targets: usize| {
            let targets = u32::try_from(targets).context("too many targets")?;
            anyhow::Ok(Session::open(wanted, targets, self.config.stall_threshold, self.config.trace)?)
        };
        let (mut session, mut child) = match &self.config.what {
            What::Pids(chosen) => {
                let processes = open_all(chosen)?;
                let mut session = open(processes.len())?;
                for (process, name) in processes {
                    session.attach(process, name)?;
                }
                (session, None)
            }
            What::Command { argv, name } => {
                let mut session = open(1)?;
                let child = start(&mut session, argv, name.clone())?;
                (session, Some(child))
            }
        };
        let began = Instant::now();
        let log = session.take_log();
        let (publish, snapshots) = watch::channel(Arc::new(session.sample()?));
        give_memory_back();
        let told = started.send(Started { snapshots, log, child: child.as_ref().map(Child::pid) });
        let error = if told.is_ok() { self.watch(&mut session, began, &publish).err() } else { None };
        let last = session.finish()?;
        let exit = child.as_mut().and_then(Child::try_wait);
        let runs_on = child.filter(|_| exit.is_none()).map(|child| child.pid());
        Ok(Finished { last, error, exit, runs_on, session })
    }

    fn watch(
        &self,
        session: &mut Session,
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
            if deadline.is_some_and(|deadline| now >= deadline) || !session.any_alive() {
                return Ok(());
            }
            let wake = deadline.map_or(due, |deadline| due.min(deadline)).min(now + ALIVE_CHECK);
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
                Err(RecvTimeoutError::Timeout) if Instant::now() < due => continue,
                Err(RecvTimeoutError::Timeout) => {
                    // A machine that was suspended doesn't make up for missed samples.
                    due = (due + self.config.interval).max(Instant::now());
                }
            }
            last = Instant::now();
            publish.send_replace(Arc::new(session.sample()?));
        }
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

/// Opens all chosen processes before anything is loaded: a wrong number should cost nothing.
fn open_all(chosen: &[Chosen]) -> anyhow::Result<Vec<(Process, String)>> {
    let mut processes = Vec::with_capacity(chosen.len());
    let mut wishes = Vec::with_capacity(chosen.len());
    for Chosen { pid, name } in chosen {
        let process = Process::open(*pid)?;
        wishes.push((*pid, process.comm()?, name.clone()));
        processes.push(process);
    }
    Ok(processes.into_iter().zip(label_targets(&wishes)).collect())
}

/// Starts our own child and attaches before it has made its first allocation.
fn start(session: &mut Session, argv: &[OsString], name: Option<String>) -> anyhow::Result<Child> {
    let mut launched = Launched::start(argv)?;
    let process = Process::open(launched.pid())?;
    launched.step_until_allocator(&process)?;
    let label = match name {
        Some(name) => name,
        None => process.comm()?,
    };
    session.attach(process, label)?;
    Ok(launched.release()?)
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
