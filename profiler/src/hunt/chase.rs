//! The thread of the hunt: orders and samples in, pictures out. `pages`: samples that are pages; `sources`: whose samples
//! are booked.

mod pages;
mod sources;

use std::{
    collections::HashMap,
    hash::RandomState,
    sync::{Arc, mpsc::Receiver},
    time::{Duration, Instant},
};

use profiler_common::sample::{LiveKey, SampleHeader};

use super::{
    Handle, Order, OwnCalls, Rings, Settings,
    books::Books,
    death::Death,
    files::Files,
    hunted::{Hunted, Subject},
    names::Names,
    pace::{Pace, QUIET},
    search::SEARCH,
    sites::{SiteNumber, Sites},
    this_moment,
    waiting::Waiting,
};
use crate::{
    kernel::{LivePages, LiveSamples, Sample, SampleControl, SampleReader},
    leaks::{
        Picture, Source,
        ledger::{NewSample, Placed, SiteIndex},
    },
    stack::{End, Place, RawStack},
    worker::{Code, RawFrame, RawUnwound, Worker},
};

/// Samples that are handled before orders and duties are looked at again.
const BATCH: usize = 256;
/// How often the books are compared with the kernel's map.
const RECONCILE: Duration = Duration::from_secs(30);
/// How often page samples are looked up.
const PAGES: Duration = Duration::from_secs(5);
/// A picture takes this part of the time at most: one twentieth of a CPU.
const PICTURE_PACE: u32 = 20;
/// For a picture, functions are named no longer than this.
const NAMING: Duration = Duration::from_millis(500);
/// For the last one.
const LAST_NAMING: Duration = Duration::from_secs(10);
/// Targets that have ended and are remembered.
const ENDED: usize = 64;

/// Called with the picture that holds a target's last report.
pub(super) type OnDeath = Box<dyn Fn(&Arc<Picture>) + Send>;

/// Everything that the thread has.
pub(super) struct Chase {
    pub(super) reader: Option<SampleReader>,
    pub(super) live: Option<LiveSamples>,
    pub(super) live_pages: Option<LivePages>,
    pub(super) control: Option<SampleControl>,
    pub(super) handle: Handle,
    pub(super) orders: Receiver<Order>,
    pub(super) own_calls: OwnCalls,
    pub(super) settings: Settings,
    pub(super) on_death: OnDeath,
    pub(super) worker: Worker,
    pub(super) files: Files,
    pub(super) names: Names,
    pub(super) sites: Sites,
    /// Names records of runtimes' profiles: nobody outside can make two alike.
    pub(super) record_names: RandomState,
    /// By slot.
    pub(super) processes: HashMap<u32, Hunted>,
    pub(super) books: Vec<Books>,
    pub(super) spaces: u64,
    pub(super) stopping: bool,
    pub(super) searching: bool,
    /// When each process's memory was searched last.
    pub(super) searched: HashMap<u32, Instant>,
    pub(super) due: Due,
    pub(super) pace: Pace,
    pub(super) waiting: Waiting,
}

/// When what is to be done next.
pub(super) struct Due {
    picture: Instant,
    reconcile: Instant,
    pages: Instant,
    pub(super) search: Instant,
    pace: Instant,
}

impl Due {
    fn next(&self) -> Instant {
        self.picture.min(self.reconcile).min(self.pages).min(self.search).min(self.pace)
    }
}

impl Chase {
    pub fn new(
        rings: Option<Rings>,
        (handle, orders): (Handle, Receiver<Order>),
        own_calls: OwnCalls,
        settings: Settings,
        on_death: OnDeath,
    ) -> std::io::Result<Self> {
        let now = Instant::now();
        let (reader, live, live_pages, control) = match rings {
            Some((reader, live, pages, control)) => (Some(reader), Some(live), pages, Some(control)),
            None => (None, None, None, None),
        };
        Ok(Self {
            waiting: Waiting::new(reader.as_ref(), &*handle.wake)?,
            reader,
            live,
            live_pages,
            control,
            handle,
            orders,
            own_calls,
            on_death,
            worker: Worker::new(settings.worker.clone()),
            files: Files::default(),
            names: Names::default(),
            sites: Sites::default(),
            record_names: RandomState::new(),
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
                pace: now + QUIET,
            },
            pace: Pace::new(),
            settings,
        })
    }

    pub fn run(mut self) {
        while !self.stopping {
            self.waiting.wait(self.due.next());
            let mut counter = [0; 8];
            let _emptied = rustix::io::read(&*self.handle.wake, &mut counter);
            self.take_orders();
            self.take_samples(BATCH);
            self.do_what_is_due();
        }
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
                Order::Source(slot, source, not_sampled) => {
                    self.change_source(slot, source, &not_sampled);
                }
                Order::Profile(slot, epoch, profile, at_ns) => self.profile(slot, epoch, &profile, at_ns),
                Order::End(slot, death) => {
                    // What it did last has been told before.
                    self.take_samples(usize::MAX);
                    self.end(slot, death);
                }
                Order::Found(found) => self.found(&found),
                Order::Picture(answer) => {
                    self.take_samples(usize::MAX);
                    self.reconcile();
                    let picture = self.publish(LAST_NAMING);
                    // Whoever has stopped waiting has the one before.
                    let _taken = answer.try_send(picture);
                }
                Order::Stop => self.stopping = true,
            }
        }
    }

    fn begin(&mut self, subject: Subject) {
        let mean = self.settings.sample_bytes;
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
        self.books[index].enter(&hunted);
        self.processes.insert(hunted.subject.slot, hunted);
        self.settle_source(index);
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
        let before = self.processes.get(&slot).map_or(0, |hunted| hunted.before_bytes);
        if !last {
            self.books[index].forget_before(before);
        }
        self.books[index].last = report;
        self.names.forget(pid);
        self.forget_blocks(slot, pid, &group, None);
        self.forget_pages(slot);
        if let Some(mut hunted) = self.processes.remove(&slot) {
            hunted.leave(&mut self.worker, &mut self.files);
        }
        self.settle_source(index);
        if last && death.is_some() {
            let picture = self.publish(NAMING);
            (self.on_death)(&picture);
        }
    }

    /// Reads what is in the ring, and no more than so much.
    pub(super) fn take_samples(&mut self, most: usize) {
        for _ in 0..most {
            let Some(sample) = self.reader.as_mut().and_then(SampleReader::next) else {
                return self.waiting.read(true);
            };
            match sample {
                Sample::Allocated(header, stack) => self.allocated(&header, &stack),
                Sample::Page(header, stack) => self.page(&header, &stack),
                Sample::Freed(header) => {
                    if let Some(hunted) = self.processes.get_mut(&header.slot) {
                        hunted.forget_page(header.address, header.id);
                    }
                    if let Some(books) = self.books_of(header.slot) {
                        books.ledger.freed(header.id, header.at_ns);
                    }
                }
                Sample::OutOfMemory { pid, .. } => self.out_of_memory(pid),
            }
        }
        self.waiting.read(false);
    }

    pub(super) fn books_of(&mut self, slot: u32) -> Option<&mut Books> {
        let group = &self.processes.get(&slot)?.subject.group;
        self.books.iter_mut().find(|books| books.name == *group)
    }

    /// The process of a sample, looked at if need be; `None` if nobody is to know of it.
    fn hunted(&mut self, header: &SampleHeader) -> Option<()> {
        if self.processes.get(&header.slot).is_none_or(|hunted| hunted.subject.source.is_err()) {
            // What it is may be told a moment later than its first sample.
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
        let known = self.hunted(header).is_some();
        if known {
            self.keep_pace(header);
        }
        if !known || !self.book(header, stack, Source::Allocator) {
            // Nobody is to be told of its end.
            self.forget_block(&key, header.id);
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
        if books.source != Ok(source) || hunted.subject.source != books.source {
            books.lost.other_source += 1;
            return false;
        }
        let unwound = if stack.is_empty() {
            RawUnwound { frames: Vec::new(), end: End::LeftOut }
        } else {
            self.worker.unwind(hunted.space(), &header.registers, returned, stack)
        };
        match unwound.end {
            End::Failed => books.lost.failed_stacks += 1,
            End::Complete => (),
            End::LeftOut => books.lost.left_out += 1,
            End::Cut | End::TooDeep | End::Lost => books.lost.cut_stacks += 1,
        }
        let places = unwound.frames.iter().map(|frame| place(&self.worker, frame)).collect();
        let raw = RawStack { places, end: unwound.end };
        let Some(number) = number(&mut self.sites, books, &raw) else { return false };
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
        keep(&mut self.sites, number, held, placed);
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
            self.due.pace = now + QUIET;
            self.ease_pace();
        }
        if self.due.pages <= now {
            self.due.pages = now + PAGES;
            self.look_up_pages();
            // A picture may be long in coming.
            self.read_memory();
        }
        if self.due.reconcile <= now {
            self.due.reconcile = now + RECONCILE;
            self.reconcile();
        }
        if self.due.search <= now {
            // Another one is due when this one has come to its end.
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
}

/// Where a frame is, whatever the process.
pub(super) fn place(worker: &Worker, frame: &RawFrame) -> Place {
    let build = match frame.code {
        Code::File(key) => worker.build(key).cloned().unwrap_or_else(|| "[unknown]".into()),
        unnamed => unnamed.unnamed().unwrap_or("[unknown]").into(),
    };
    Place { build, offset: frame.offset }
}

/// The number of a stack's site. What has no place any more is one site: the stack that nobody knows.
pub(super) fn number(sites: &mut Sites, books: &mut Books, stack: &RawStack) -> Option<SiteNumber> {
    sites.number(stack).or_else(|| {
        books.lost.refused_stacks += 1;
        sites.number(&RawStack { places: Vec::new(), end: End::Failed })
    })
}

/// Keeps the stacks of the sites that are on the books, and no others. `held`: the books had it before.
pub(super) fn keep(sites: &mut Sites, number: SiteNumber, held: bool, placed: Placed) {
    if let Placed::Site(forgotten) = placed {
        if !held {
            sites.hold(number);
        }
        if let Some(forgotten) = forgotten {
            sites.release(SiteNumber(forgotten.0), true);
        }
    } else {
        sites.release(number, false);
    }
}
