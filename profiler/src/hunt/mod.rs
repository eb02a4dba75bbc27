//! The hunt for leaks: takes samples from the kernel side, has their stacks unwound and named, keeps the books, and gives a
//! picture of it whenever somebody asks.
//!
//! A thread of its own, because naming functions may take seconds and nobody who scrapes should wait for that. `hunted` is a
//! process, `books` a target, `sites` the table of stacks, `files` and `names` what the worker is asked about, `search` the
//! look into memory, `pace` how many samples are taken, `waiting` when they are looked at, `reconcile` what the kernel side
//! couldn't tell, `pictures` what is published.

mod books;
mod chase;
mod death;
pub(crate) mod files;
mod hunted;
mod names;
mod pace;
mod pictures;
mod reconcile;
mod search;
mod sites;
mod waiting;

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Sender, SyncSender, channel, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use rustix::event::{EventfdFlags, eventfd};

use crate::{
    kernel::{LivePages, LiveSamples, SampleControl, SampleReader, now_ns},
    leaks::{Picture, Source, ledger::Limits},
    session::FileId,
    worker,
};

pub use books::LOSSES;
pub use death::Death;
pub use hunted::Subject;
pub use search::Found;

use chase::Chase;

/// How the hunt goes about it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One sample per so many bytes, on average, unless there are too many.
    pub sample_bytes: u64,
    /// The same of pages.
    pub growth_bytes: u64,
    /// See `leaks::Circumstances::patience`.
    pub patience: Duration,
    /// Look in the targets' memory whether anything still points to old blocks.
    pub references: bool,
    /// Name the functions of JIT compilers by the perf maps that they write.
    pub perf_map: bool,
    /// A picture is made this often.
    pub interval: Duration,
    /// Targets at once, at most: they share the room for books.
    pub targets: usize,
    /// What the worker may use.
    pub worker: worker::Limits,
}

impl Settings {
    /// One sample per so many bytes is asked for.
    const fn mean(&self, source: Source) -> u64 {
        match source {
            Source::Allocator => self.sample_bytes,
            Source::Growth => self.growth_bytes,
        }
    }

    /// What each target's books may take.
    fn limits(&self) -> Limits {
        let all = Limits::default();
        let share = |whole: usize, least: usize| (whole / self.targets.max(1)).max(least);
        Limits {
            sites: share(all.sites, 500),
            windows: share(all.windows, 5_000),
            buckets: share(all.buckets, 5_000),
            // Found twice, some time apart, is what makes a proof; that it isn't quite new saves looks at what is freed anyway.
            old_ns: 3_000_000_000,
            ..all
        }
    }
}

/// Instructions by which allocators call their own functions, by what they return to: file and place in the file. Samples
/// that were drawn there are the allocator's own, and stand for nothing.
#[derive(Clone, Default)]
pub struct OwnCalls(Arc<Mutex<HashMap<FileId, HashSet<u64>>>>);

impl OwnCalls {
    /// Adds those of a file. To be called before its probes are placed.
    pub fn add(&self, file: FileId, returns: impl Iterator<Item = u64>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(file).or_default().extend(returns);
    }

    fn has(&self, (file, offset): (FileId, u64)) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&file)
            .is_some_and(|known| known.contains(&offset))
    }
}

/// What the kernel side gives to the hunt: what it tells, what lives, and the switches.
pub type Rings = (SampleReader, LiveSamples, Option<LivePages>, SampleControl);

/// What the hunt is told.
pub enum Order {
    /// A process is observed from now on.
    Begin(Subject),
    /// It has mapped or unmapped a library.
    Loaded(u32),
    /// It has replaced its program, and is in this epoch now.
    Replaced(u32, u32),
    /// Its samples come from there from now on, or not at all. And the functions that aren't sampled although they hand out
    /// blocks.
    Source(u32, Result<Source, String>, Vec<&'static str>),
    /// It is not observed any more: it has ended like this (or was let go).
    End(u32, Option<Death>),
    /// A search of memory has come to its end.
    Found(Found),
    /// Somebody wants a new picture.
    Picture(SyncSender<Arc<Picture>>),
    /// The end of the hunt.
    Stop,
}

/// The hunt, from outside.
#[derive(Clone)]
pub struct Handle {
    orders: Sender<Order>,
    wake: Arc<OwnedFd>,
    latest: Arc<Mutex<Arc<Picture>>>,
    worker: Arc<Mutex<worker::Figures>>,
}

impl Handle {
    /// Tells it something; a hunt that has ended doesn't hear it.
    pub fn tell(&self, order: Order) {
        let _heard = self.orders.send(order);
        // It can't be full: the hunt empties it.
        let _woken = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// The newest picture.
    pub fn latest(&self) -> Arc<Picture> {
        Arc::clone(&self.latest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the worker had been through when the newest picture was made.
    pub fn worker(&self) -> worker::Figures {
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A picture of this moment; the newest one if that takes longer.
    pub fn fresh(&self, patience: Duration) -> Arc<Picture> {
        let (answer, picture) = sync_channel(1);
        self.tell(Order::Picture(answer));
        picture.recv_timeout(patience).unwrap_or_else(|_| self.latest())
    }
}

/// A hunt that goes on until it is stopped or this is dropped.
pub struct Hunt {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Hunt {
    /// Begins. `on_death` gets the picture that holds the last report of a target, as soon as it has ended.
    ///
    /// # Errors
    ///
    /// If there is no descriptor or thread to be had.
    pub fn begin(
        rings: Rings,
        own_calls: OwnCalls,
        settings: Settings,
        on_death: impl Fn(&Arc<Picture>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (orders, queue) = channel();
        let empty = Picture { taken_at: SystemTime::now(), targets: Vec::new() };
        let handle =
            Handle { orders, wake, latest: Arc::new(Mutex::new(Arc::new(empty))), worker: Arc::default() };
        let chase = Chase::new(rings, (handle.clone(), queue), own_calls, settings, Box::new(on_death))?;
        let thread =
            std::thread::Builder::new().name("profiler-hunt".to_owned()).spawn(move || chase.run())?;
        Ok(Self { handle, thread: Some(thread) })
    }

    /// For whoever has something to tell or wants to see.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Hunt {
    fn drop(&mut self) {
        self.handle.tell(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// This moment by both clocks.
fn this_moment() -> (SystemTime, u64) {
    (SystemTime::now(), now_ns())
}
