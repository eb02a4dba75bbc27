//! The processes under observation: attaching, sampling, letting go.
//!
//! Synchronous and single-threaded; `sampler` decides when. A session owns the kernel side, so dropping it leaves nothing
//! behind.

mod alloc;
mod go;
mod group;
mod hunted;
mod images;
mod ledger;
mod placed;
mod process;
mod python;
mod sample;
mod slots;
mod strays;
mod upkeep;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{
    config,
    hunt::{self, Order},
    kernel::{
        EventReader, EventScope, Facts, Kernel, KernelError, KernelLog, Placement, Plan, Sizes, Wanted,
        detach_all,
    },
    snapshot::{ProcessInfo, Snapshot},
    target::{Process, TargetError},
};

use alloc::Links;
use go::GoRoom;
use group::{Counters, Group, Part};
use hunted::HuntLine;
pub use hunted::HuntWish;
pub use images::{Analysis, AnalysisError, FileId, Images};
use ledger::ThreadReading;
use process::{Birth, Watched};
pub use process::{DetailJob, DetailResult};
pub use python::allocators;
pub use sample::LOST_HERE;
use slots::Slots;

/// Probe sites of one process, on average: glibc has 10 functions, and half of them are called by the allocator itself,
/// too; so much again for an allocator beside it or an interpreter's layers.
const SITES_PER_TARGET: u32 = 40;

/// What can go wrong with a session.
#[derive(Debug, Error)]
pub enum SessionError {
    /// With the kernel side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// With a process.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// There is no place for another process.
    #[error("no place for another process: {0} are observed already (--max-targets)")]
    Full(u32),
}

impl SessionError {
    /// The word for it among the reasons why a process is not observed.
    const fn reason(&self) -> &'static str {
        match self {
            Self::Full(_) => "max_targets",
            Self::Target(TargetError::Gone(_) | TargetError::NoSuchProcess(_)) => "ended_before",
            Self::Kernel(_) | Self::Target(_) => "failed",
        }
    }
}

/// Processes that have left a target of which that is remembered.
const LEFT: usize = 4096;

/// Reasons why a chosen process is not observed.
pub const NOT_OBSERVED: [&str; 3] = ["max_targets", "ended_before", "failed"];

/// The processes under observation.
pub struct Session {
    kernel: Option<Kernel>,
    images: Images,
    plan: Plan,
    watched: Vec<Watched>,
    groups: Vec<Group>,
    slots: Slots,
    not_observed: [u64; NOT_OBSERVED.len()],
    forgotten: u64,
    /// Processes that have left a target and run on: when they started, and what /proc had counted of them.
    left: HashMap<u32, (f64, Counters)>,
    hunt: HuntLine,
    /// What all Go programs share; `None` if nothing is told of programs.
    go: Option<GoRoom>,
    /// Losses of processes that are no longer observed.
    earlier: Losses,
    own: Option<Process>,
}

/// What was lost while observing, beside what the kernel side counts.
#[derive(Clone, Copy, Default)]
struct Losses {
    threads_not_seen: u64,
    threads_without_place: u64,
    programs_not_seen: u64,
    held_back_ns: u64,
}

/// A process that is chosen, and where it belongs.
pub struct Chosen {
    /// Which one.
    pub process: Process,
    /// The target that it is shown under.
    pub group: Arc<str>,
    /// Whether processes that it forks are observed, too.
    pub follow: bool,
}

impl Session {
    /// Prepares for up to `targets` processes at a time: decides what is possible and loads the kernel side.
    ///
    /// # Errors
    ///
    /// If a wish can't be fulfilled on this machine, or the kernel refuses something.
    pub fn open(
        wanted: Wanted,
        targets: u32,
        stall_threshold: Duration,
        trace: bool,
        images: Images,
    ) -> Result<Self, SessionError> {
        let asked = Instant::now();
        let plan = Plan::decide(wanted, &Facts::gather())?;
        // One process alone may have more allocators than the mean.
        let mut sites = (targets * SITES_PER_TARGET).max(4 * SITES_PER_TARGET);
        if images.look_into_python() {
            sites += (targets * python::SITES_PER_PYTHON).max(python::MAX_SITES);
        }
        let kernel = if plan.needs_kernel() {
            Some(Kernel::load(plan, Sizes { targets, sites }, stall_threshold, trace)?)
        } else {
            None
        };
        let own = Process::open(std::process::id()).ok();
        tracing::info!("kernel side loaded in {} ms", asked.elapsed().as_millis());
        Ok(Self {
            kernel,
            images,
            plan,
            watched: Vec::new(),
            groups: Vec::new(),
            slots: Slots::new(targets),
            not_observed: [0; NOT_OBSERVED.len()],
            forgotten: 0,
            left: HashMap::new(),
            hunt: HuntLine::default(),
            go: None,
            earlier: Losses::default(),
            own,
        })
    }

    /// From now on, processes' programs are described, and Go's runtimes are read, at every sample.
    pub fn describe_programs(&mut self, settings: config::Go, interval: Duration) {
        self.go = Some(GoRoom::new(settings, interval));
    }

    /// The kernel side's debug lines, once, if they were asked for.
    pub fn take_log(&mut self) -> Option<KernelLog> {
        self.kernel.as_mut().and_then(Kernel::take_log)
    }

    /// How probes are placed; `None` without the kernel side.
    pub fn placement(&self) -> Option<Placement> {
        self.kernel.as_ref().map(Kernel::placement)
    }

    /// What happens to processes, once. `of_all`: not only of those that are observed.
    ///
    /// # Errors
    ///
    /// If the kernel side can't be told.
    pub fn take_events(&mut self, of_all: bool) -> Result<Option<EventReader>, SessionError> {
        let Some(kernel) = &mut self.kernel else { return Ok(None) };
        kernel.scope_events(if of_all { EventScope::All } else { EventScope::Targets })?;
        Ok(kernel.take_events())
    }

    /// What the kernel side tells of samples, once; `None` if nothing is sampled.
    pub fn take_samples(&mut self) -> Option<hunt::Rings> {
        let kernel = self.kernel.as_mut()?;
        let (reader, live) = kernel.take_samples()?;
        Some((reader, live, kernel.take_pages(), kernel.sample_control()))
    }

    /// Why pages can't be sampled, if so.
    pub fn obstacle_to_growth(&self) -> Option<&str> {
        self.kernel.as_ref().and_then(Kernel::obstacle_to_growth)
    }

    /// Lets a hunt know of every process that is observed from now on.
    pub fn join_hunt(&mut self, handle: hunt::Handle, own_calls: hunt::OwnCalls, wish: HuntWish) {
        self.images.tell_own_calls(own_calls);
        if let Some(kernel) = &mut self.kernel {
            kernel.take_risks(wish.risky);
        }
        self.hunt.join(handle, wish);
    }

    /// Looks at the libraries of this machine that new processes are most likely to have, which are our own: analysing
    /// them takes longer than placing probes, and the first process would run uncounted meanwhile.
    pub fn prepare(&mut self) {
        if let Some(own) = &self.own {
            for object in own.mapped_objects().unwrap_or_default() {
                self.images.look_at(own, &object);
            }
        }
    }

    /// Begins to observe a process.
    ///
    /// # Errors
    ///
    /// If it ends meanwhile or a probe can't be placed; nothing of it stays behind.
    pub fn attach(&mut self, chosen: Chosen) -> Result<&ProcessInfo, SessionError> {
        self.begin(chosen, Birth::default())
    }

    /// Begins to observe a process that nobody has named. `at_ns`: the moment of the kernel's clock from which on its calls
    /// should have been counted; `None` if that is now. `heir_of`: the first of these that is observed has left it its live
    /// objects.
    ///
    /// # Errors
    ///
    /// As [`Session::attach`].
    pub fn adopt(&mut self, chosen: Chosen, at_ns: Option<u64>, heir_of: &[u32]) -> Result<(), SessionError> {
        let inherited = heir_of.iter().find_map(|pid| self.live_objects_of(*pid)).unwrap_or_default();
        let ago = at_ns.map_or(Duration::ZERO, group::since);
        let pid = chosen.process.pid();
        let start = chosen.process.usage()?.start_time_seconds;
        let left = self.left.remove(&pid).filter(|(known, _)| *known == start);
        let counted = left.map(|(_, counters)| counters).unwrap_or_default();
        self.begin(chosen, Birth { ago, inherited, counted }).map(|_| ())
    }

    /// Counts a process that should have been observed.
    pub fn not_adopted(&mut self, pid: u32, error: &SessionError) {
        let reason = error.reason();
        if let Some(index) = NOT_OBSERVED.iter().position(|known| *known == reason) {
            self.not_observed[index] += 1;
        }
        tracing::debug!("process {pid} is not observed: {error}");
    }

    fn begin(&mut self, chosen: Chosen, birth: Birth) -> Result<&ProcessInfo, SessionError> {
        let Chosen { process, group, follow } = chosen;
        let slot = self.slots.take().ok_or(SessionError::Full(self.slots.all()))?;
        let rooms = (&mut self.kernel, &mut self.images, self.plan);
        let mut watched = Watched::begin(rooms, process, (Arc::clone(&group), follow), slot, birth)
            .inspect_err(|_| self.slots.give_back(slot, (Vec::new(), None), None))?;
        if let Some(room) = &mut self.go {
            watched.go = room.begin(&watched.process);
        }
        match self.groups.iter_mut().find(|known| known.name == group) {
            Some(known) => known.enter(),
            None => {
                let mut new = Group::new(group);
                new.enter();
                self.groups.push(new);
            }
        }
        if let Some(kernel) = &mut self.kernel {
            self.hunt.begin(kernel, &watched)?;
        }
        self.watched.push(watched);
        Ok(&self.watched[self.watched.len() - 1].info)
    }

    fn live_objects_of(&mut self, pid: u32) -> Option<Vec<crate::snapshot::LiveObjects>> {
        let kernel = self.kernel.as_ref()?;
        let parent = self.watched.iter_mut().find(|watched| watched.info.pid == pid)?;
        Some(parent.alloc.read(kernel).ok()?.live)
    }

    /// Whether a process has an allocator mapped. `seen` holds the files that were looked at before.
    pub fn finds_allocator(&mut self, process: &Process, seen: &mut HashSet<FileId>) -> bool {
        let mut found = false;
        for object in process.mapped_objects().unwrap_or_default() {
            if seen.insert(object.id())
                && let Some((_, analysis)) = self.images.look_at(process, &object)
            {
                found |= analysis.as_ref().as_ref().is_ok_and(|image| !image.hooks.is_empty());
            }
        }
        found
    }

    /// Whether a process is observed.
    pub fn observes(&self, pid: u32) -> bool {
        self.watched.iter().any(|watched| watched.info.pid == pid)
    }

    /// The target to which a process belongs.
    pub fn group_of(&self, pid: u32) -> Option<Arc<str>> {
        self.watched.iter().find(|watched| watched.info.pid == pid).map(|watched| Arc::clone(&watched.group))
    }

    /// The target to which the children of a process belong, if they are to be followed.
    pub fn follows(&self, pid: u32) -> Option<Arc<str>> {
        let parent = self.watched.iter().find(|watched| watched.info.pid == pid && watched.follow)?;
        Some(Arc::clone(&parent.group))
    }

    /// The ids of the processes whose children are followed.
    pub fn followed(&self) -> Vec<u32> {
        self.watched.iter().filter(|watched| watched.follow).map(|watched| watched.info.pid).collect()
    }

    /// A process has replaced its program, at a moment of the kernel's clock. `by_main_thread`: as told by the event.
    ///
    /// # Errors
    ///
    /// If the kernel's maps can't be read.
    pub fn replaced(&mut self, pid: u32, by_main_thread: bool, at_ns: u64) -> Result<(), SessionError> {
        let Some(watched) = self.watched.iter_mut().find(|watched| watched.info.pid == pid) else {
            return Ok(());
        };
        watched.rename();
        if let Some(room) = &mut self.go {
            self.slots.drop_stops(watched.go.replaced(room, &watched.process));
        }
        if let Some(kernel) = &mut self.kernel {
            // Reading is what notices it, the sooner the better: a third program would use the first one's bank.
            watched.alloc.read(kernel)?;
            let gone = watched.alloc.began_anew(kernel, by_main_thread, group::since(at_ns));
            self.slots.drop_links(gone);
            self.hunt.tell(Order::Replaced(watched.slot, kernel.epoch(watched.slot)?));
            self.hunt.judge(kernel, watched)?;
        }
        Ok(())
    }

    /// A process has forked another one, which isn't observed.
    pub fn strayed(&mut self, parent: u32, child: u32) {
        if let Some(watched) = self.watched.iter_mut().find(|watched| watched.info.pid == parent) {
            watched.strays.add(child);
        }
    }

    /// A process has mapped or unmapped a library, at a moment of the kernel's clock.
    ///
    /// # Errors
    ///
    /// If the kernel's maps can't be written.
    pub fn loaded(&mut self, pid: u32, at_ns: u64) -> Result<(), SessionError> {
        let Some(kernel) = &mut self.kernel else { return Ok(()) };
        let Some(watched) = self.watched.iter_mut().find(|watched| watched.info.pid == pid) else {
            return Ok(());
        };
        // Before looking: what is mapped from here on tells again.
        kernel.clear_loaded(watched.slot)?;
        watched.alloc.loaded(kernel, &mut self.images, &watched.process);
        watched.alloc.note_delay(group::since(at_ns));
        self.hunt.tell(Order::Loaded(watched.slot));
        self.hunt.judge(kernel, watched)
    }

    /// Whether any process still runs.
    pub fn any_alive(&mut self) -> bool {
        self.watched.iter_mut().any(|watched| !watched.has_ended())
    }

    /// A process has ended. `status`: how, as `wait` tells it.
    pub fn ended(&mut self, pid: u32, status: u32) {
        if let Some(watched) = self.watched.iter_mut().find(|watched| watched.info.pid == pid) {
            watched.ended_with(status);
            watched.has_ended();
        }
    }

    /// Whether a process has ended and it isn't known yet how.
    pub fn wonders(&self) -> bool {
        self.kernel.as_ref().is_some_and(Kernel::has_events)
            && self.watched.iter().any(|watched| watched.over_at().is_some() && watched.end().is_none())
    }

    /// A process is not observed any more: what it had counted stays with its target.
    fn conclude(&mut self, mut watched: Watched, part: Part) -> Result<(), SessionError> {
        self.earlier.add(&watched);
        if let Some(kernel) = &mut self.kernel {
            watched.alloc.stop(kernel);
            self.hunt.end(kernel, &mut watched)?;
            // Its id may be used again, by a process that is no business of ours.
            kernel.unwatch_process(watched.info.pid, watched.slot);
            kernel.retire_epoch(watched.slot)?;
            if let Some(ledger) = &watched.ledger {
                ledger.end(kernel)?;
            }
        }
        let living = self.watched.iter().filter(|other| other.group == watched.group).count();
        if let Some(group) = self.groups.iter_mut().find(|group| group.name == watched.group) {
            group.retire(part, living);
        }
        let links: Links = watched.alloc.take_links();
        self.slots.give_back(watched.slot, links, watched.go.take_link());
        Ok(())
    }

    /// Ends the observation of a process that runs on.
    ///
    /// # Errors
    ///
    /// If the kernel's maps can't be read.
    pub fn release(&mut self, pid: u32) -> Result<(), SessionError> {
        let Some(index) = self.watched.iter().position(|watched| watched.info.pid == pid) else {
            return Ok(());
        };
        let mut watched = self.watched.swap_remove(index);
        let mut reading = match &self.kernel {
            Some(kernel) if watched.ledger.is_some() => ThreadReading::take(kernel, [watched.slot])?,
            _ => ThreadReading::default(),
        };
        let part = watched.read(&mut self.kernel, &mut reading)?;
        if self.left.len() >= LEFT {
            self.left.clear();
        }
        if let Some(start) = watched.start() {
            self.left.insert(pid, (start, watched.counters()));
        }
        self.conclude(watched, part)
    }

    /// Stops counting and reads what there was, exact to the last call. The probes are taken away when the session is
    /// dropped; they do nothing any more meanwhile.
    ///
    /// # Errors
    ///
    /// If the kernel's maps can't be read.
    pub fn finish(&mut self) -> Result<Snapshot, SessionError> {
        if let Some(kernel) = &mut self.kernel {
            self.watched.iter().for_each(|watched| watched.alloc.stop(kernel));
        }
        if let Some(kernel) = &mut self.kernel {
            // What has ended is to be told in the last picture.
            for watched in
                self.watched.iter_mut().filter_map(|watched| watched.has_ended().then_some(watched))
            {
                self.hunt.end(kernel, watched)?;
            }
        }
        self.hunt.last_look();
        self.hand_on_descriptions(true);
        self.sample()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut links = Vec::new();
        for watched in &mut self.watched {
            let (probes, loader) = watched.alloc.take_links();
            links.extend(probes);
            drop(loader);
            drop(watched.go.take_link());
        }
        detach_all(links);
    }
}
