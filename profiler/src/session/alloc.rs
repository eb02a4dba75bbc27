//! A process's allocator probes, through its whole life: fork, `execve`, objects that come and go.

mod known;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use profiler_common::alloc::AllocCounts;

use super::{
    SessionError,
    images::{AnalysisError, FileId, Images},
    placed::{PlacedObject, PlacedSite, place_object},
    python::PythonWatch,
};
use crate::{
    binary::{Image, Layer},
    kernel::{AllocLink, Kernel, LoaderLink},
    snapshot::{AllocSnapshot, AllocState, FunctionCounts, LiveObjects, Unhooked},
    target::{MappedObject, Process, TargetError},
    text::clean,
};

/// So many names of libraries are told.
const NAMES_TOLD: usize = 3;
/// When a new program is looked at, counted from its start (`execve`): often at first, because its libraries are mapped
/// within about a millisecond; at the last look, probes whose file isn't mapped any more are taken away.
const LOOKS: [Duration; 6] = [
    Duration::from_millis(1),
    Duration::from_millis(4),
    Duration::from_millis(16),
    Duration::from_millis(64),
    Duration::from_millis(250),
    Duration::from_secs(1),
];
/// How long after an object was loaded or unloaded those that are gone are taken away.
const CLEAR_UP: Duration = Duration::from_secs(1);
/// How often the mapped files are looked at when nothing tells of changes: a process without a dynamic linker that we
/// know, or a mapping that passes it by.
const SLOW_LOOK: Duration = Duration::from_secs(30);
/// A reading during which the program was replaced is repeated at most this often.
const READ_TRIES: usize = 3;

/// A process's allocator probes.
pub(super) struct AllocWatch {
    slot: u32,
    state: AllocState,
    objects: Vec<PlacedObject>,
    loader: Option<(FileId, LoaderLink)>,
    /// What probes had counted that are gone: those of an earlier program, or of a library that was unloaded.
    earlier: Vec<FunctionCounts>,
    /// What the process had of its parent's live objects when it was forked; gone with the next `execve`.
    inherited: Vec<LiveObjects>,
    /// The kernel side's number of the program that was current at the last reading.
    epoch: u32,
    /// When the present program began, and how many of the looks at it have been made.
    looks: Option<(Instant, usize)>,
    next_slow_look: Instant,
    /// Nothing is counted for the time being.
    paused: bool,
    /// When what was unloaded is taken away: a while after it was told, for it may come again.
    clear_up: Option<Instant>,
    /// What was last complained of: a process that loads and unloads all the time must not fill the log.
    complaint: String,
    /// Mapped files that have nothing to hook.
    nothing_in: HashSet<FileId>,
    unhooked: Vec<Arc<Unhooked>>,
    python: PythonWatch,
    /// Since when the process runs without any probe; `None` while it is counted.
    uncounted_since: Option<Instant>,
    gap: Duration,
    /// Programs that came and went between two readings: what they left alive can't be told from their successor's.
    pub(super) programs_not_seen: u64,
}

/// Probes on their way out. Dropping them takes time; see [`super::Trash`].
pub(super) type Links = (Vec<AllocLink>, Option<LoaderLink>);

impl AllocWatch {
    /// Nothing was asked for.
    pub(super) fn off(slot: u32) -> Self {
        Self {
            slot,
            state: AllocState::Off,
            objects: Vec::new(),
            loader: None,
            earlier: Vec::new(),
            inherited: Vec::new(),
            epoch: 0,
            looks: None,
            next_slow_look: Instant::now() + SLOW_LOOK,
            paused: false,
            clear_up: None,
            complaint: String::new(),
            nothing_in: HashSet::new(),
            unhooked: Vec::new(),
            python: PythonWatch::default(),
            uncounted_since: None,
            gap: Duration::ZERO,
            programs_not_seen: 0,
        }
    }

    /// Finds the allocators and places the probes. Nothing is counted before [`AllocWatch::start`]. `uncounted`: how long
    /// the process has run already since the moment from which its calls should be counted.
    pub(super) fn place(
        kernel: &mut Kernel,
        images: &mut Images,
        process: &Process,
        slot: u32,
        (uncounted, inherited): (Duration, Vec<LiveObjects>),
    ) -> Result<Self, SessionError> {
        let now = Instant::now();
        let mut watch = Self {
            inherited,
            uncounted_since: Some(now.checked_sub(uncounted).unwrap_or(now)),
            epoch: kernel.epoch(slot)?,
            ..Self::off(slot)
        };
        watch.look(kernel, images, process)?;
        if uncounted.is_zero() {
            // What ran before we came is no gap: nothing was promised for that.
            watch.gap = Duration::ZERO;
        } else {
            // A fork is often followed by an execve.
            watch.looks = Some((now, 0));
        }
        Ok(watch)
    }

    /// Lets all sites count, at one instant.
    pub(super) fn start(&mut self, kernel: &mut Kernel) -> Result<(), SessionError> {
        Ok(kernel.count_calls(self.slot, true)?)
    }

    /// Stops counting, at one instant. The probes stay until they are dropped.
    pub(super) fn stop(&self, kernel: &mut Kernel) {
        if let Err(error) = kernel.count_calls(self.slot, false) {
            tracing::warn!("{error}");
        }
    }

    /// When the mapped files should be looked at next.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.state == AllocState::Off {
            return None;
        }
        let look = self.looks.and_then(|(began, made)| Some(began + *LOOKS.get(made)?));
        Some([look, self.clear_up].into_iter().flatten().fold(self.next_slow_look, Instant::min))
    }

    /// More is known of files than at the last look.
    pub(super) fn look_again(&mut self) {
        self.nothing_in.clear();
        self.unhooked.clear();
        self.next_slow_look = Instant::now();
    }

    /// Looks at the mapped files if that is due.
    pub(super) fn keep_up(&mut self, kernel: &mut Kernel, images: &mut Images, process: &Process) -> Links {
        if self.due().is_none_or(|due| Instant::now() < due) {
            return (Vec::new(), None);
        }
        let made = self.looks.map(|(began, made)| (began, made + 1));
        self.looks = made.filter(|(_, made)| *made < LOOKS.len());
        self.clear_up = None;
        let mapped = self.renew(kernel, images, process);
        // What a new program hasn't mapped yet isn't gone.
        let settled = self.looks.is_none() && kernel.epoch(self.slot).is_ok_and(|epoch| epoch == self.epoch);
        if !settled || mapped.is_empty() {
            return (Vec::new(), None);
        }
        let loader = self.loader.take_if(|(id, _)| !mapped.contains(id)).map(|(_, link)| link);
        let (kept, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.objects).into_iter().partition(|object| mapped.contains(&object.id));
        self.objects = kept;
        (self.retire(kernel, gone), loader)
    }

    /// Objects were loaded or unloaded: hooks what is new at once, and takes away later what is gone.
    pub(super) fn loaded(&mut self, kernel: &mut Kernel, images: &mut Images, process: &Process) {
        self.renew(kernel, images, process);
        self.clear_up.get_or_insert_with(|| Instant::now() + CLEAR_UP);
    }

    /// Looks at the mapped files and places what is new; returns what is mapped, nothing if that can't be told.
    fn renew(&mut self, kernel: &mut Kernel, images: &mut Images, process: &Process) -> HashSet<FileId> {
        self.next_slow_look = Instant::now() + SLOW_LOOK;
        self.look(kernel, images, process).unwrap_or_else(|error| {
            let complaint = error.to_string();
            if process.is_alive() && complaint != self.complaint {
                tracing::warn!("process {}: {complaint}", process.pid());
                self.complaint = complaint;
            }
            HashSet::new()
        })
    }

    /// Keeps what these have counted, to the last call.
    fn retire(&mut self, kernel: &Kernel, mut gone: Vec<PlacedObject>) -> Vec<AllocLink> {
        let mut sums = AllocSnapshot { functions: std::mem::take(&mut self.earlier), ..Default::default() };
        for site in gone.iter_mut().flat_map(|object| &mut object.sites) {
            if let Err(error) = site.read(kernel) {
                tracing::warn!("{error}");
            }
            sums.add_functions(&[site.functions()]);
        }
        self.earlier = sums.functions;
        gone.into_iter().map(|object| object.link).collect()
    }

    /// The process has replaced its program so long ago, which a reading has noticed if it was watched then. Unless its main
    /// thread did that, the probes are dead: all of them come again with the next look.
    pub(super) fn began_anew(&mut self, kernel: &Kernel, by_main_thread: bool, ago: Duration) -> Links {
        self.inherited.clear();
        let now = Instant::now();
        let began = now.checked_sub(ago).unwrap_or(now);
        if by_main_thread || self.state == AllocState::Off {
            self.uncounted_since = self.uncounted_since.map(|_| began);
            return (Vec::new(), None);
        }
        self.uncounted_since = Some(began);
        self.looks = Some((now, 0));
        self.nothing_in.clear();
        self.leave(kernel)
    }

    /// The probes are dead, or of no more use: what they have counted stays.
    pub(super) fn leave(&mut self, kernel: &Kernel) -> Links {
        let objects = std::mem::take(&mut self.objects);
        (self.retire(kernel, objects), self.loader.take().map(|(_, link)| link))
    }

    /// Where probes are: the files, and places in them.
    pub(super) fn places(&self) -> Vec<(FileId, &[u64])> {
        self.objects.iter().map(|object| (object.id, object.file_offsets.as_slice())).collect()
    }

    /// A library was loaded so long ago: if probes were placed in it just now, its calls went uncounted meanwhile.
    pub(super) fn note_delay(&mut self, delay: Duration) {
        if self.objects.iter().any(|object| object.placed.elapsed() < delay) {
            self.gap += delay;
        }
    }

    /// Gives all probes away.
    pub(super) fn take_links(&mut self) -> Links {
        let loader = self.loader.take().map(|(_, link)| link);
        (std::mem::take(&mut self.objects).into_iter().map(|object| object.link).collect(), loader)
    }

    /// Places probes in whatever is mapped and has none; returns what is mapped.
    fn look(
        &mut self,
        kernel: &mut Kernel,
        images: &mut Images,
        process: &Process,
    ) -> Result<HashSet<FileId>, SessionError> {
        let objects = process.mapped_objects()?;
        let mapped: HashSet<FileId> = objects.iter().map(MappedObject::id).collect();
        if mapped.is_empty() {
            // It is ending or just beginning, or its main thread has ended and others go on: nothing is known.
            if self.state == AllocState::Off {
                self.state = AllocState::NotCounting("nothing is mapped yet".to_owned());
            }
            return Ok(mapped);
        }
        self.nothing_in.retain(|id| mapped.contains(id));
        if !self.unhooked.is_empty() {
            let paths: HashSet<String> = objects.iter().map(|object| clean(&object.path)).collect();
            self.unhooked.retain(|one| paths.contains(&one.object));
        }
        for object in &objects {
            let id = object.id();
            if self.nothing_in.contains(&id) || self.objects.iter().any(|placed| placed.id == id) {
                continue;
            }
            let looked = images.look_at(process, object);
            if looked.is_none() && !process.is_alive() {
                return Err(TargetError::Gone(process.pid()).into());
            }
            let analysis = looked.as_ref().map(|(pinned, analysis)| (pinned, analysis.as_ref().as_ref()));
            let (pinned, image) = match analysis {
                Some((pinned, Ok(image))) => (pinned, image),
                Some((_, Err(AnalysisError::Lost { why, again }))) => {
                    self.note(object, None, "", why.to_string());
                    if !again {
                        self.nothing_in.insert(id);
                    }
                    continue;
                }
                Some((_, Err(AnalysisError::File(_)))) | None => {
                    self.nothing_in.insert(id);
                    continue;
                }
            };
            self.note_unhooked(object, image);
            if let Some(loader) = image.loader.as_ref().filter(|_| self.loader.is_none()) {
                match kernel.attach_loader(process.pid(), &pinned.path(), loader.site.file_offset, self.slot)
                {
                    Ok(link) => self.loader = Some((id, link)),
                    Err(error) => tracing::warn!("process {}: {error}", process.pid()),
                }
            }
            if !image.hooks.is_empty() {
                match place_object(kernel, process, (object, pinned, image), self.slot) {
                    Ok(placed) => self.objects.push(placed),
                    Err(_) if !process.is_alive() => return Err(TargetError::Gone(process.pid()).into()),
                    Err(error) => {
                        // The others can be hooked all the same.
                        let (name, object, reason) = (String::new(), clean(&object.path), error.to_string());
                        tracing::warn!("process {}: {object}: {reason}", process.pid());
                        self.unhooked.push(Arc::new(Unhooked { layer: None, name, object, reason }));
                        self.nothing_in.insert(id);
                    }
                }
            }
            if let Some(python) = &image.python {
                let file = (object, pinned, image, python);
                self.objects.extend(self.python.place(kernel, process, file, self.slot));
            }
            if self.objects.iter().all(|placed| placed.id != id) {
                self.nothing_in.insert(id);
            }
        }
        self.python.look_again(process, &objects);
        self.judge(process, &mapped);
        Ok(mapped)
    }

    fn note(&mut self, object: &MappedObject, layer: Option<Layer>, name: &str, reason: String) {
        let (name, object) = (clean(name), clean(&object.path));
        let unhooked = Unhooked { layer, name, object, reason };
        if !self.unhooked.iter().any(|known| **known == unhooked) {
            self.unhooked.push(Arc::new(unhooked));
        }
    }

    fn note_unhooked(&mut self, object: &MappedObject, image: &Image) {
        // What was lost before has been found.
        let path = clean(&object.path);
        self.unhooked.retain(|one| one.layer.is_some() || one.object != path);
        let of_python = image.python.iter().flat_map(|python| &python.left_out);
        for left in image.left_out.iter().chain(of_python).filter(|left| left.reason.loses_calls()) {
            self.note(object, Some(left.layer), &left.name, left.reason.to_string());
        }
        if let Some(reason) = image.lacks_symbols() {
            self.note(object, None, "", reason.to_owned());
        }
    }

    /// Finds out whether calls are counted now, and ends a gap if they are.
    fn judge(&mut self, process: &Process, mapped: &HashSet<FileId>) {
        if self.paused {
            return;
        }
        let counts = |object: &&PlacedObject| {
            let of_allocator = |site: &PlacedSite| matches!(site.info.layer, Layer::Allocator(_));
            mapped.contains(&object.id) && object.sites.iter().any(of_allocator)
        };
        if let Some(placed) = self.objects.iter().filter(counts).map(|object| object.placed).min() {
            if let Some(since) = self.uncounted_since.take() {
                // Probes that were there before have counted from the start.
                self.gap += placed.saturating_duration_since(since);
            }
            let files: HashSet<&str> = self.unhooked.iter().map(|one| one.object.as_str()).collect();
            self.state = match (shortened(files), self.python.trouble()) {
                (_, Some(trouble)) => AllocState::Partly(trouble.to_owned()),
                (none, None) if none.is_empty() => AllocState::Counting,
                (some, None) => AllocState::Partly(format!(
                    "not every function could be probed ({some}): see profiler explain"
                )),
            };
        } else if process.is_alive() {
            self.uncounted_since.get_or_insert_with(Instant::now);
            let whole = self.unhooked.iter().find(|one| one.layer.is_none());
            self.state = AllocState::NotCounting(whole.map_or_else(
                || "no allocator is mapped: neither its program nor a library defines malloc".to_owned(),
                |one| format!("{}: {}", one.object, one.reason),
            ));
        }
    }

    /// Reads what was counted.
    pub(super) fn read(&mut self, kernel: &Kernel) -> Result<AllocSnapshot, SessionError> {
        let mut epoch = kernel.epoch(self.slot)?;
        for _ in 0..READ_TRIES {
            if epoch != self.epoch {
                let (bank, since, before) =
                    ((self.epoch & 1) as usize, self.uncounted_since, self.hits(|site| site.base));
                self.replaced(epoch);
                self.read_sites(kernel)?;
                if let Some(since) = since.filter(|_| self.hits(|site| site.last[bank]) == before) {
                    // Nobody has looked at the program that is gone, and no probes that were there have served it.
                    self.gap += since.elapsed();
                }
            } else {
                self.read_sites(kernel)?;
            }
            let now = kernel.epoch(self.slot)?;
            if now == epoch {
                break;
            }
            epoch = now;
        }
        let mut sums = AllocSnapshot {
            functions: self.earlier.clone(),
            live: self.inherited.clone(),
            unhooked: self.unhooked.clone(),
            gap: self.gap
                + self
                    .uncounted_since
                    .filter(|_| self.has_counted())
                    .map_or(Duration::ZERO, |since| since.elapsed()),
            ..Default::default()
        };
        let bank = (self.epoch & 1) as usize;
        for site in self.objects.iter().flat_map(|object| &object.sites) {
            sums.add_functions(&[site.functions()]);
            let mut live = site.last[bank];
            live.subtract(&site.base);
            let objects = 0_i64.wrapping_add_unsigned(live.allocated()).wrapping_sub_unsigned(live.freed());
            sums.add_live(&[LiveObjects { layer: site.info.layer, objects }]);
            if !sums.sites.iter().any(|known| Arc::ptr_eq(known, &site.info)) {
                sums.sites.push(Arc::clone(&site.info));
            }
        }
        sums.sites.sort_by_key(|site| (site.layer, site.function));
        Ok(sums)
    }

    /// Whether this process was ever counted: only then does time without probes make a gap.
    fn has_counted(&self) -> bool {
        !self.earlier.is_empty() || !self.objects.is_empty()
    }

    fn read_sites(&mut self, kernel: &Kernel) -> Result<(), SessionError> {
        let mut sites: Vec<_> = self.objects.iter_mut().flat_map(|object| &mut object.sites).collect();
        // Frees first: a block that is allocated and freed in between must not look as if it had been freed only.
        sites.sort_by_key(|site| site.info.function.allocates());
        sites.into_iter().try_for_each(|site| site.read(kernel))
    }

    fn hits(&self, of: impl Fn(&PlacedSite) -> AllocCounts) -> u64 {
        self.objects.iter().flat_map(|object| &object.sites).map(|site| of(site).hits()).sum()
    }

    /// The process has replaced its program: what it had is gone, and the other bank counts from now on.
    fn replaced(&mut self, epoch: u32) {
        let programs = epoch.wrapping_sub(self.epoch);
        self.programs_not_seen += u64::from(programs.saturating_sub(1));
        self.epoch = epoch;
        self.inherited.clear();
        self.nothing_in.clear();
        self.unhooked.clear();
        let bank = (epoch & 1) as usize;
        for site in self.objects.iter_mut().flat_map(|object| &mut object.sites) {
            // Nobody has written to that bank since its last reading, unless programs were missed.
            site.base = site.last[bank];
        }
        self.looks = Some((Instant::now(), 0));
        self.uncounted_since = Some(Instant::now());
    }

    pub(super) const fn state(&self) -> &AllocState {
        &self.state
    }

    /// Nothing is counted for the time being, because of this.
    pub(super) fn pause(&mut self, kernel: &mut Kernel, reason: &str) {
        if self.state != AllocState::Off {
            self.stop(kernel);
            self.paused = true;
            self.uncounted_since.get_or_insert_with(Instant::now);
            self.state = AllocState::NotCounting(reason.to_owned());
        }
    }

    /// The reason for a pause, if there was one, is gone.
    pub(super) fn go_on(&mut self, kernel: &mut Kernel) {
        if std::mem::take(&mut self.paused) {
            if let Err(error) = self.start(kernel) {
                tracing::warn!("{error}");
            }
            self.looks = Some((Instant::now(), 0));
        }
    }
}

/// The first few names: a target could map thousands, and a label must stay short.
fn shortened(names: HashSet<&str>) -> String {
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_unstable();
    let more = names.len().saturating_sub(NAMES_TOLD);
    let told = names[..names.len() - more].join(", ");
    if more > 0 { format!("{told} and {more} more") } else { told }
}
