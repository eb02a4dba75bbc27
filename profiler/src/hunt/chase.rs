//! The thread of the hunt: orders and samples in, pictures out.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, atomic::Ordering, mpsc::Receiver},
    time::{Duration, Instant},
};

use profiler_common::sample::{LARGEST_MEAN, LiveKey, SampleHeader};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    Handle, Order, OwnCalls, Settings,
    books::{Books, Tools},
    death::Death,
    files::Files,
    hunted::{Hunted, Subject},
    names::Names,
    search::{self, Found},
    sites::{SiteNumber, Sites},
    this_moment,
};
use crate::{
    kernel::{LiveSamples, Sample, SampleReader},
    leaks::{
        Picture, Source, TargetReport,
        ledger::{NewSample, Placed, SiteIndex},
    },
    stack::{End, Place, RawStack},
    target::PAGE,
    worker::{Code, Worker},
};

/// Samples that are handled before orders and duties are looked at again.
const BATCH: usize = 256;
/// How often the books are compared with the kernel's map.
const RECONCILE: Duration = Duration::from_secs(30);
/// So few processes have their memory read every time that the rate is looked at, others with the pages.
const FEW: usize = 16;
/// How often page samples are looked up.
const PAGES: Duration = Duration::from_secs(5);
/// How often memory is searched, at most; and no more than this part of the time.
const SEARCH: Duration = Duration::from_secs(5);
/// See [`SEARCH`]: one hundredth of a CPU.
const SEARCH_PACE: u32 = 100;
/// A picture takes this part of the time at most: one twentieth of a CPU.
const PICTURE_PACE: u32 = 20;
/// For a picture, functions are named no longer than this.
const NAMING: Duration = Duration::from_millis(500);
/// For the last one.
const LAST_NAMING: Duration = Duration::from_secs(20);
/// So many samples a second are enough, of all targets together: a stack takes some 100 us to unwind.
const ENOUGH: u64 = 300;
/// The rate of sampling is looked at this often.
const PACE: Duration = Duration::from_secs(1);
/// Targets that have ended and are remembered.
const ENDED: usize = 64;

/// Called with the picture that holds a target's last report.
pub(super) type OnDeath = Box<dyn Fn(&Arc<Picture>) + Send>;

/// Everything that the thread has.
pub(super) struct Chase {
    reader: SampleReader,
    live: LiveSamples,
    handle: Handle,
    orders: Receiver<Order>,
    own_calls: OwnCalls,
    settings: Settings,
    on_death: OnDeath,
    worker: Worker,
    files: Files,
    names: Names,
    sites: Sites,
    /// By slot.
    processes: HashMap<u32, Hunted>,
    books: Vec<Books>,
    spaces: u64,
    stopping: bool,
    searching: bool,
    /// When each process's memory was searched last.
    searched: HashMap<u32, Instant>,
    due: Due,
    drawn: HashMap<u32, u64>,
}

/// When what is to be done next.
struct Due {
    picture: Instant,
    reconcile: Instant,
    pages: Instant,
    search: Instant,
    pace: Instant,
}

impl Due {
    fn next(&self) -> Instant {
        self.picture.min(self.reconcile).min(self.pages).min(self.search).min(self.pace)
    }
}

impl Chase {
    pub fn new(
        (reader, live): (SampleReader, LiveSamples),
        (handle, orders): (Handle, Receiver<Order>),
        own_calls: OwnCalls,
        settings: Settings,
        on_death: OnDeath,
    ) -> Self {
        let now = Instant::now();
        Self {
            reader,
            live,
            handle,
            orders,
            own_calls,
            on_death,
            worker: Worker::new(settings.worker.clone()),
            files: Files::default(),
            names: Names::default(),
            sites: Sites::default(),
            processes: HashMap::new(),
            books: Vec::new(),
            spaces: 0,
            stopping: false,
            searching: false,
            searched: HashMap::new(),
            due: Due {
                picture: now + settings.interval,
                reconcile: now + RECONCILE,
                pages: now + PAGES,
                search: now + SEARCH,
                pace: now + PACE,
            },
            drawn: HashMap::new(),
            settings,
        }
    }

    pub fn run(mut self) {
        while !self.stopping {
            let wait = self.due.next().saturating_duration_since(Instant::now());
            let wait =
                Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: i64::from(wait.subsec_nanos()) };
            let mut fds =
                [PollFd::new(&self.reader, PollFlags::IN), PollFd::new(&*self.handle.wake, PollFlags::IN)];
            // Interrupted or in vain: look again.
            let _ready = poll(&mut fds, Some(&wait));
            let mut counter = [0; 8];
            let _emptied = rustix::io::read(&*self.handle.wake, &mut counter);
            self.take_orders();
            self.take_samples(BATCH);
            self.do_what_is_due();
        }
        self.take_samples(usize::MAX);
        self.publish(LAST_NAMING);
    }

    fn take_orders(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Begin(subject) => self.begin(subject),
                Order::Loaded(slot) => {
                    if let Some(hunted) = self.processes.get_mut(&slot) {
                        hunted.changed();
                    }
                }
                Order::Replaced(slot, epoch) => self.replaced(slot, epoch),
                Order::End(slot, death) => {
                    // What it did last has been told before.
                    self.take_samples(usize::MAX);
                    self.end(slot, death);
                }
                Order::Found(found) => self.found(&found),
                Order::Picture(answer) => {
                    self.take_samples(usize::MAX);
                    let picture = self.publish(LAST_NAMING);
                    // Whoever has stopped waiting has the one before.
                    let _taken = answer.try_send(picture);
                }
                Order::Stop => self.stopping = true,
            }
        }
    }

    fn begin(&mut self, subject: Subject) {
        let mean = subject.mean.load(Ordering::Relaxed);
        let index = match self.books.iter().position(|books| books.name == subject.group) {
            Some(index) => index,
            None => {
                self.forget_ended();
                let limits = self.settings.limits();
                let source = subject.source.clone();
                self.books.push(Books::new(Arc::clone(&subject.group), source, this_moment(), limits, mean));
                self.books.len() - 1
            }
        };
        let hunted = Hunted::new(subject);
        if self.books[index].source.is_err() && hunted.subject.source.is_ok() {
            self.books[index].source = hunted.subject.source.clone();
        }
        self.books[index].enter(&hunted);
        self.processes.insert(hunted.subject.slot, hunted);
    }

    fn forget_ended(&mut self) {
        while self.books.iter().filter(|books| books.living == 0).count() >= ENDED {
            let Some(index) = self.books.iter().position(|books| books.living == 0) else { return };
            let books = self.books.remove(index);
            for (site, _) in books.ledger.sites() {
                self.sites.release(SiteNumber(site.0), true);
            }
        }
    }

    fn replaced(&mut self, slot: u32, epoch: u32) {
        let Some(hunted) = self.processes.get_mut(&slot) else { return };
        if hunted.epoch == epoch {
            return;
        }
        let (pid, before) = (hunted.pid(), hunted.epoch);
        hunted.epoch = epoch;
        hunted.changed();
        hunted.pages.clear();
        let group = Arc::clone(&hunted.subject.group);
        self.names.forget(pid);
        self.forget_blocks(slot, pid, &group, Some(before));
    }

    /// What lived in a process, or in its program of one epoch, lives no more.
    fn forget_blocks(&mut self, slot: u32, pid: u32, group: &Arc<str>, epoch: Option<u32>) {
        let Some(books) = self.books.iter_mut().find(|books| books.name == *group) else { return };
        for (id, epoch, address) in books.ledger.living_in(pid, epoch) {
            if let Err(error) = self.live.remove(&LiveKey { slot, epoch, address }, id) {
                tracing::debug!("{error}");
            }
        }
        books.ledger.process_ended(pid, epoch, crate::kernel::now_ns());
    }

    fn end(&mut self, slot: u32, death: Option<Death>) {
        let Some(hunted) = self.processes.get(&slot) else { return };
        let (pid, group) = (hunted.pid(), Arc::clone(&hunted.subject.group));
        let Some(index) = self.books.iter().position(|books| books.name == group) else { return };
        let last = self.books[index].living <= 1;
        let report = death.filter(|_| last).map(|death| {
            let killed = matches!(death, Death::Killed(_) | Death::Unknown);
            let how = if self.books[index].killed_for_memory && killed {
                "killed for memory".to_owned()
            } else {
                death.to_string()
            };
            self.report_of(index, Some(how), LAST_NAMING)
        });
        self.books[index].living = self.books[index].living.saturating_sub(1);
        self.books[index].last = report;
        self.names.forget(pid);
        self.forget_blocks(slot, pid, &group, None);
        if let Some(mut hunted) = self.processes.remove(&slot) {
            hunted.leave(&mut self.worker, &mut self.files);
        }
        if last && death.is_some() {
            let picture = self.publish(NAMING);
            (self.on_death)(&picture);
        }
    }

    fn take_samples(&mut self, most: usize) {
        for _ in 0..most {
            let Some(sample) = self.reader.next() else { return };
            match sample {
                Sample::Allocated(header, stack) => self.allocated(&header, &stack),
                Sample::Page(header, stack) => self.page(&header, &stack),
                Sample::Freed(header) => {
                    if let Some(books) = self.books_of(header.slot) {
                        books.ledger.freed(header.id, header.at_ns);
                    }
                }
                Sample::OutOfMemory { pid, .. } => self.out_of_memory(pid),
            }
        }
    }

    fn books_of(&mut self, slot: u32) -> Option<&mut Books> {
        let group = &self.processes.get(&slot)?.subject.group;
        self.books.iter_mut().find(|books| books.name == *group)
    }

    /// The process of a sample, looked at if need be; `None` if nobody is to know of it.
    fn hunted(&mut self, header: &SampleHeader) -> Option<()> {
        if !self.processes.contains_key(&header.slot) {
            // Its beginning may have been told a moment later than its first sample.
            self.take_orders();
        }
        let epoch = self.processes.get(&header.slot)?.epoch;
        if epoch.wrapping_sub(header.epoch).cast_signed() > 0 {
            if let Some(books) = self.books_of(header.slot) {
                books.lost.late += 1;
            }
            return None;
        }
        self.replaced(header.slot, header.epoch);
        let hunted = self.processes.get_mut(&header.slot)?;
        if hunted.wants_look(header.registers.ip) {
            self.spaces += 1;
            if let Err(error) = hunted.look(&mut self.worker, &mut self.files, self.spaces) {
                tracing::debug!("{error}");
            }
        }
        Some(())
    }

    fn allocated(&mut self, header: &SampleHeader, stack: &[u8]) {
        let key = LiveKey { slot: header.slot, epoch: header.epoch, address: header.address };
        if header.replaced != 0
            && let Some(books) = self.books_of(header.slot)
        {
            books.ledger.gone(header.replaced, header.at_ns);
        }
        if self.hunted(header).is_none() || !self.book(header, stack, Source::Allocator) {
            // Nobody is to be told of its end.
            if let Err(error) = self.live.remove(&key, header.id) {
                tracing::debug!("{error}");
            }
        }
    }

    fn page(&mut self, header: &SampleHeader, stack: &[u8]) {
        let address = header.address & !(PAGE - 1);
        if self.hunted(header).is_none() {
            return;
        }
        let Some(hunted) = self.processes.get_mut(&header.slot) else { return };
        if !hunted.grows_at(address) {
            return;
        }
        if let Some(earlier) = hunted.pages.insert(address, header.id)
            && let Some(books) = self.books_of(header.slot)
        {
            // It was given back and touched anew between two looks.
            books.ledger.gone(earlier, header.at_ns);
        }
        if !self.book(header, stack, Source::Growth)
            && let Some(hunted) = self.processes.get_mut(&header.slot)
        {
            hunted.pages.remove(&address);
        }
    }

    /// Enters a sample into the books; `false` if it isn't there now.
    fn book(&mut self, header: &SampleHeader, stack: &[u8], source: Source) -> bool {
        let Some(hunted) = self.processes.get(&header.slot) else { return false };
        let returned = source == Source::Allocator;
        let own =
            returned && hunted.place_of(header.registers.ip).is_some_and(|place| self.own_calls.has(place));
        let Some(books) = self.books.iter_mut().find(|books| books.name == hunted.subject.group) else {
            return false;
        };
        if own {
            books.lost.of_allocator += 1;
            return false;
        }
        if books.source != Ok(source) {
            books.lost.other_source += 1;
            return false;
        }
        *self.drawn.entry(header.slot).or_default() += 1;
        let unwound = self.worker.unwind(hunted.space(), &header.registers, returned, stack);
        match unwound.end {
            End::Failed => books.lost.failed_stacks += 1,
            End::Complete => (),
            End::Cut | End::TooDeep | End::Lost => books.lost.cut_stacks += 1,
        }
        let place = |frame: &crate::worker::RawFrame| {
            let build = match frame.code {
                Code::File(key) => self.worker.build(key).cloned().unwrap_or_else(|| "[unknown]".into()),
                unnamed => unnamed.unnamed().unwrap_or("[unknown]").into(),
            };
            Place { build, offset: frame.offset }
        };
        let raw = RawStack { places: unwound.frames.iter().map(place).collect(), end: unwound.end };
        let number = self.sites.number(&raw).or_else(|| {
            books.lost.refused_stacks += 1;
            // What has no place any more is one site: the stack that nobody knows.
            self.sites.number(&RawStack { places: Vec::new(), end: End::Failed })
        });
        let Some(number) = number else { return false };
        let site = SiteIndex(number.0);
        let held = books.ledger.holds(site);
        let placed = books.ledger.allocated(NewSample {
            id: header.id,
            pid: hunted.pid(),
            epoch: header.epoch,
            site,
            address: header.address,
            bytes: header.bytes,
            threshold: header.threshold,
            at_ns: header.at_ns,
        });
        if let Placed::Site(forgotten) = placed {
            if !held {
                self.sites.hold(number);
            }
            if let Some(forgotten) = forgotten {
                self.sites.release(SiteNumber(forgotten.0), true);
            }
        } else {
            self.sites.release(number, false);
        }
        placed != Placed::Refused
    }

    fn out_of_memory(&mut self, pid: u32) {
        let Some(hunted) = self.processes.values().find(|hunted| hunted.pid() == pid) else { return };
        let group = Arc::clone(&hunted.subject.group);
        let Some(index) = self.books.iter().position(|books| books.name == group) else { return };
        self.books[index].killed_for_memory = true;
        // While it can still be read.
        let picture = self.publish(NAMING);
        (self.on_death)(&picture);
    }

    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        if self.due.pace <= now {
            self.due.pace = now + PACE;
            self.keep_pace();
            // A picture may be long in coming.
            if self.processes.len() <= FEW {
                self.read_memory();
            }
        }
        if self.due.pages <= now {
            self.due.pages = now + PAGES;
            self.look_up_pages();
            self.read_memory();
        }
        if self.due.reconcile <= now {
            self.due.reconcile = now + RECONCILE;
            self.reconcile();
        }
        if self.due.search <= now {
            self.due.search = now + SEARCH;
            self.search();
        }
        if self.due.picture <= now {
            let (began, named) = (Instant::now(), self.names.spent);
            self.publish(NAMING);
            let took = began.elapsed().saturating_sub(self.names.spent.saturating_sub(named));
            let pause = self.settings.interval.max(took * PICTURE_PACE);
            self.due.picture = Instant::now() + pause;
        }
    }

    /// Raises the mean of a target that has too many samples, and lowers it again.
    fn keep_pace(&mut self) {
        let drawn = std::mem::take(&mut self.drawn);
        let all: u64 = drawn.values().sum();
        for hunted in self.processes.values() {
            let (mean, own) = (hunted.mean(), drawn.get(&hunted.subject.slot).copied().unwrap_or(0));
            let busy = own * (self.processes.len() as u64) >= all && own > 0;
            let new = if all > ENOUGH && busy {
                (mean * 2).min(LARGEST_MEAN)
            } else if all < ENOUGH / 4 && mean > self.settings.sample_bytes {
                (mean / 2).max(self.settings.sample_bytes)
            } else {
                continue;
            };
            if new == mean {
                continue;
            }
            hunted.subject.mean.store(new, Ordering::Relaxed);
            if let Some(books) = self.books.iter_mut().find(|books| books.name == hunted.subject.group) {
                books.mean = new;
                books.ledger.sampled_every(new);
            }
        }
    }

    fn read_memory(&mut self) {
        let now_ns = crate::kernel::now_ns();
        for books in self.books.iter_mut().filter(|books| books.living > 0) {
            let name = Arc::clone(&books.name);
            let of_target = self.processes.values().filter(|hunted| hunted.subject.group == name);
            books.read_memory(of_target, now_ns);
        }
    }

    fn look_up_pages(&mut self) {
        let now_ns = crate::kernel::now_ns();
        for hunted in self.processes.values_mut().filter(|hunted| !hunted.pages.is_empty()) {
            let Some(books) = self.books.iter_mut().find(|books| books.name == hunted.subject.group) else {
                continue;
            };
            let mut addresses: Vec<u64> = hunted.pages.keys().copied().collect();
            addresses.sort_unstable();
            let states =
                hunted.subject.process.pagemap().ok().and_then(|pages| pages.states(&addresses).ok());
            // Without an answer nothing is known.
            let Some(states) = states else { continue };
            for (address, _) in addresses.iter().zip(&states).filter(|(_, state)| !state.is_own()) {
                if let Some(id) = hunted.pages.remove(address) {
                    books.ledger.gone(id, now_ns);
                }
            }
            books.ledger.confirmed(now_ns);
        }
    }

    /// Compares the books with the kernel's map: frees that weren't told, and blocks that nobody knows.
    fn reconcile(&mut self) {
        let asked_ns = crate::kernel::now_ns();
        let entries = match self.live.entries() {
            Ok(entries) => entries,
            Err(error) => {
                tracing::debug!("{error}");
                return;
            }
        };
        // What was told before the walk is booked before the comparison.
        self.take_samples(usize::MAX);
        let known: HashSet<u64> = entries.iter().map(|(_, id)| *id).collect();
        let slots: HashMap<u32, u32> =
            self.processes.values().map(|hunted| (hunted.pid(), hunted.subject.slot)).collect();
        for books in self.books.iter_mut().filter(|books| books.source == Ok(Source::Allocator)) {
            for (id, pid, epoch, address, at_ns) in books.ledger.all_living() {
                if at_ns >= asked_ns || known.contains(&id) {
                    continue;
                }
                let Some(&slot) = slots.get(&pid) else { continue };
                let key = LiveKey { slot, epoch, address };
                if self.live.get(&key).is_ok_and(|there| there != Some(id)) {
                    books.ledger.gone(id, asked_ns);
                }
            }
            books.ledger.confirmed(asked_ns);
        }
        let booked: HashSet<u64> = self.books.iter().flat_map(|books| books.ledger.live_ids()).collect();
        for (key, id) in entries.iter().filter(|(_, id)| !booked.contains(id)) {
            if let Err(error) = self.live.remove(key, *id) {
                tracing::debug!("{error}");
            }
        }
    }

    /// Begins to look for what points to old blocks, in the process that has most of them.
    fn search(&mut self) {
        if self.searching || !self.settings.references {
            return;
        }
        let now_ns = crate::kernel::now_ns();
        let mut best: Option<(u32, Vec<_>, (u64, usize))> = None;
        for books in
            self.books.iter().filter(|books| books.source == Ok(Source::Allocator) && books.living > 0)
        {
            let mut by_pid: HashMap<u32, Vec<_>> = HashMap::new();
            for candidate in books.ledger.candidates(now_ns) {
                by_pid.entry(candidate.pid).or_default().push(candidate);
            }
            for (pid, candidates) in by_pid {
                let searched = self.searched.get(&pid).copied();
                let rank =
                    (searched.map_or(u64::MAX, |at: Instant| at.elapsed().as_secs()), candidates.len());
                if best.as_ref().is_none_or(|(_, _, known)| rank > *known) {
                    best = Some((pid, candidates, rank));
                }
            }
        }
        let Some((pid, candidates, _)) = best else { return };
        let Some(hunted) = self.processes.values().find(|hunted| hunted.pid() == pid) else { return };
        let handle = self.handle.clone();
        let begun =
            search::begin(Arc::clone(&hunted.subject.process), candidates, move |order| handle.tell(order));
        match begun {
            Ok(()) => self.searching = true,
            Err(error) => tracing::debug!("can't start a thread: {error}"),
        }
    }

    fn found(&mut self, found: &Found) {
        self.searching = false;
        self.searched.retain(|_, at| at.elapsed() < Duration::from_secs(3600));
        self.searched.insert(found.pid, Instant::now());
        self.due.search = Instant::now() + SEARCH.max(found.took * SEARCH_PACE);
        let group = self.processes.values().find(|hunted| hunted.pid() == found.pid);
        let Some(group) = group.map(|hunted| Arc::clone(&hunted.subject.group)) else { return };
        if let Some(books) = self.books.iter_mut().find(|books| books.name == group) {
            books.ledger.set_unreferenced(&found.looked, crate::kernel::now_ns());
            books.search_trouble.clone_from(&found.trouble);
        }
    }

    fn report_of(&mut self, index: usize, ended: Option<String>, naming: Duration) -> TargetReport {
        let now = this_moment();
        let name = Arc::clone(&self.books[index].name);
        let of_target = self.processes.values().filter(|hunted| hunted.subject.group == name);
        self.books[index].read_memory(of_target, now.1);
        let of_target = self.processes.values().filter(|hunted| hunted.subject.group == name);
        let processes = of_target.map(|hunted| Arc::clone(&hunted.subject.process)).collect();
        let mut tools = Tools {
            worker: &mut self.worker,
            files: &self.files,
            names: &mut self.names,
            sites: &self.sites,
            settings: &self.settings,
            processes,
            now,
            until: Instant::now() + naming,
        };
        match ended {
            Some(_) => self.books[index].report_now(&mut tools, ended),
            None => self.books[index].report(&mut tools),
        }
    }

    /// Makes a picture and hands it out.
    fn publish(&mut self, naming: Duration) -> Arc<Picture> {
        let until = Instant::now() + naming;
        let targets = (0..self.books.len())
            .map(|index| self.report_of(index, None, until.saturating_duration_since(Instant::now())))
            .collect();
        let picture = Arc::new(Picture { taken_at: this_moment().0, targets });
        *self.handle.worker.lock().unwrap_or_else(PoisonError::into_inner) = self.worker.figures();
        *self.handle.latest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&picture);
        picture
    }
}
