//! Allocator probes: placing them, switching them on, reading their counts.

use std::{
    mem::offset_of,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use aya::maps::{MapData, PerCpuValues};
use profiler_common::{
    alloc::{AllocCounts, AllocSite, BANKS, SiteCounts},
    process::Switches,
    sample::Sampling,
};

use super::{
    Kernel, KernelError, Raw, Returns,
    loader::{map_error, sum_cpus},
    place::Probes,
    sys::{Point, SharedWords},
};

/// Names a site in the kernel's maps; it is the probe's attach cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(u32);

impl SiteId {
    /// As samples name it.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// Probes to be placed that count together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SitePlan {
    /// Where in the file.
    pub file_offsets: Vec<u64>,
    /// What the kernel side must know.
    pub site: AllocSite,
    /// Its calls may be sampled: the stack pointer is there as at the function's entry. To take a return at another depth
    /// would overwrite what the function keeps there.
    pub sampled: bool,
}

/// A file's probes in a process. They go away when this is dropped; [`super::detach_all`] does it for many at once.
pub struct AllocLink {
    /// Dropped to take the probes away; none if there was nothing to place.
    probes: Vec<Probes>,
    ids: Ids,
}

/// Sites in use, free again when this is dropped.
struct Ids {
    taken: Vec<SiteId>,
    freed: Arc<Mutex<Vec<SiteId>>>,
}

impl AllocLink {
    /// The sites' names in the kernel's maps, in the order of the plans.
    pub fn sites(&self) -> &[SiteId] {
        &self.ids.taken
    }
}

impl Kernel {
    /// Places probes in a file, for one process only, in the order of the plans. They don't count before
    /// [`Kernel::count_calls`].
    ///
    /// # Errors
    ///
    /// If the kernel refuses one, with the place in the file; those already in place are taken away again.
    pub fn attach_alloc(
        &mut self,
        pid: u32,
        file: &Path,
        plans: &[SitePlan],
    ) -> Result<AllocLink, KernelError> {
        let mut ids = Ids { taken: Vec::with_capacity(plans.len()), freed: Arc::clone(&self.freed_sites) };
        // One link for each program.
        let chosen: &[&'static str] = match self.returns {
            Returns::Session => &["alloc_session"],
            // The return first: nothing is noted that isn't seen.
            Returns::Probe => &["alloc_return", "alloc_entry"],
            Returns::None(_) => &["alloc"],
        };
        let (mut counted, mut sampled) = (Vec::new(), Vec::new());
        for plan in plans {
            let id = self.take_site()?;
            ids.taken.push(id);
            self.alloc_sites
                .set(id.0, Raw(plan.site), 0)
                .map_err(|source| map_error("ALLOC_SITES", source))?;
            let cookie = u64::from(id.0);
            let points = if plan.sampled { &mut sampled } else { &mut counted };
            points.extend(plan.file_offsets.iter().map(|&file_offset| Point { file_offset, cookie }));
        }
        if chosen == ["alloc"] {
            counted.append(&mut sampled);
        }
        // The allocator's own calls are among those that are only counted: they come first.
        let mut link = AllocLink { probes: Vec::new(), ids };
        if !counted.is_empty() {
            link.probes.push(self.place("alloc", pid, file, &counted)?);
        }
        if !sampled.is_empty() {
            for program in chosen {
                link.probes.push(self.place(program, pid, file, &sampled)?);
            }
        }
        Ok(link)
    }

    /// A site that isn't in use, with its counts at zero.
    fn take_site(&mut self) -> Result<SiteId, KernelError> {
        let freed = self.freed_sites.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(id) = freed {
            let zeroes = PerCpuValues::try_from(vec![Raw(SiteCounts::default()); self.cpus])
                .map_err(|source| KernelError::System { path: "the number of CPUs".to_owned(), source })?;
            self.alloc_counts.set(id.0, zeroes, 0).map_err(|source| map_error("ALLOC_COUNTS", source))?;
            return Ok(id);
        }
        if self.next_site >= self.sites {
            return Err(KernelError::Unsupported(format!("more than {} probe sites are needed", self.sites)));
        }
        self.next_site += 1;
        Ok(SiteId(self.next_site - 1))
    }

    /// Lets all sites of a target count, or stops them: one write, one instant.
    ///
    /// # Errors
    ///
    /// If the map can't be written.
    pub fn count_calls(&mut self, slot: u32, on: bool) -> Result<(), KernelError> {
        self.switches.of(slot)?.on.store(u32::from(on), Ordering::SeqCst);
        Ok(())
    }

    /// How often a process of this slot has replaced its program (`execve`) since the kernel side was loaded, counted in the
    /// kernel at that very moment. Calls are counted in bank `epoch & 1`. Stands still without [`Kernel::has_events`].
    ///
    /// # Errors
    ///
    /// If there is no such slot.
    pub fn epoch(&self, slot: u32) -> Result<u32, KernelError> {
        Ok(self.switches.of(slot)?.epoch.load(Ordering::SeqCst))
    }

    /// The process of this slot is not observed any more: what is left of it in the maps of samples can't be taken for the
    /// next one's. (By two: the bank of the counts stays the same.)
    ///
    /// # Errors
    ///
    /// If there is no such slot.
    pub fn retire_epoch(&mut self, slot: u32) -> Result<(), KernelError> {
        self.switches.of(slot)?.epoch.fetch_add(2, Ordering::SeqCst);
        Ok(())
    }

    /// The next [`super::Event::Loaded`] of this slot is wanted. To be called *before* looking at what is loaded.
    ///
    /// # Errors
    ///
    /// If there is no such slot.
    pub fn clear_loaded(&mut self, slot: u32) -> Result<(), KernelError> {
        self.switches.of(slot)?.loaded.store(0, Ordering::SeqCst);
        Ok(())
    }

    /// What a site has counted while its target's calls were counted, over all CPUs, by bank ([`Kernel::epoch`]).
    ///
    /// Never set back while its link is there: whoever wants to know what one program has counted subtracts what the bank
    /// held when that program began.
    ///
    /// # Errors
    ///
    /// If the map can't be read.
    pub fn alloc_counts(&self, id: SiteId) -> Result<[AllocCounts; BANKS], KernelError> {
        let mut sums = [AllocCounts::default(); BANKS];
        sum_cpus(&self.alloc_counts, "ALLOC_COUNTS", id.0, |counts| {
            sums.iter_mut().zip(&counts.banks).for_each(|(sum, bank)| sum.add(bank));
        })?;
        Ok(sums)
    }

    /// Places the program that does nothing: the yardstick of the benchmarks.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn attach_empty(&mut self, pid: u32, file: &Path, file_offset: u64) -> Result<Probes, KernelError> {
        self.place("empty", pid, file, &[Point { file_offset, cookie: 0 }])
    }
}

/// The switches of all targets, in our memory.
#[derive(Clone)]
pub(super) struct Switchboard(Arc<SharedWords>);

/// The members of [`Switches`], as they lie in the map.
struct Slot<'a> {
    on: &'a AtomicU32,
    epoch: &'a AtomicU32,
    loaded: &'a AtomicU32,
}

/// The members of [`Switches::sampling`].
pub(super) struct SamplingWords<'a> {
    pub rate: &'a AtomicU64,
    pub certain: &'a AtomicU64,
}

impl Switchboard {
    /// Maps the map, which has at least so many slots.
    pub(super) fn map(map: &MapData, slots: u32) -> Result<Self, KernelError> {
        let bytes = slots as usize * size_of::<Switches>();
        let words = SharedWords::map(map.fd(), bytes)
            .map_err(|source| KernelError::System { path: "the BPF map `SWITCHES`".to_owned(), source })?;
        Ok(Self(Arc::new(words)))
    }

    fn at(&self, slot: u32, member: usize) -> Result<&AtomicU32, KernelError> {
        let offset = slot as usize * size_of::<Switches>() + member;
        self.0.word(offset).ok_or_else(|| KernelError::Unsupported(format!("there is no slot {slot}")))
    }

    pub(super) fn growth(&self, slot: u32) -> Result<&AtomicU32, KernelError> {
        self.at(slot, offset_of!(Switches, growth))
    }

    pub(super) fn sampling(&self, slot: u32) -> Result<SamplingWords<'_>, KernelError> {
        let at = |member: usize| {
            let offset = slot as usize * size_of::<Switches>() + offset_of!(Switches, sampling) + member;
            self.0.long(offset).ok_or_else(|| KernelError::Unsupported(format!("there is no slot {slot}")))
        };
        Ok(SamplingWords {
            rate: at(offset_of!(Sampling, rate))?,
            certain: at(offset_of!(Sampling, certain))?,
        })
    }

    fn of(&self, slot: u32) -> Result<Slot<'_>, KernelError> {
        let at = |member| self.at(slot, member);
        Ok(Slot {
            on: at(offset_of!(Switches, on))?,
            epoch: at(offset_of!(Switches, epoch))?,
            loaded: at(offset_of!(Switches, loaded))?,
        })
    }
}

impl Drop for AllocLink {
    fn drop(&mut self) {
        // Only then can the sites be used for other probes: the members are dropped in the order of their declaration, but
        // this says so.
        super::detach_all(self.probes.drain(..));
    }
}

impl Drop for Ids {
    fn drop(&mut self) {
        self.freed.lock().unwrap_or_else(PoisonError::into_inner).append(&mut self.taken);
    }
}
