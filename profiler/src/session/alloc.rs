//! A target's allocator probes.

use std::{collections::HashSet, sync::Arc};

use profiler_common::alloc::{AllocCounts, AllocFunction, AllocSite};

use super::SessionError;
use crate::{
    binary::{self, Hook, Image},
    kernel::{AllocLink, Kernel, SiteId, SitePlan},
    snapshot::{AllocSnapshot, AllocState, FunctionCounts, SiteInfo, SiteSnapshot},
    target::{MappedObject, MappedRange, PinnedObject, Process, ProcessUsage, TargetError},
    text::clean,
};

/// Why nothing is counted, if there is nothing to count.
const WHY_NOTHING: &str = "no allocator is mapped: neither its program nor a library of it defines one (a stripped program, \
                           or a language with an allocator of its own)";
/// `int3`: what the kernel puts at a probe site.
const BREAKPOINT: u8 = 0xcc;
/// `call`: what newer kernels put at a 5-byte nop (arch/x86/kernel/uprobes.c, `uprobe_optimize`).
const OPTIMISED: u8 = 0xe8;

/// A target's allocator probes.
pub(super) struct AllocWatch {
    slot: u32,
    state: AllocState,
    links: Vec<AllocLink>,
    sites: Vec<Placed>,
    earlier: Vec<FunctionCounts>,
    /// The program that the probes belong to; see [`ProcessUsage::image`].
    image: Option<(u64, u64)>,
    /// Files that have been looked at in vain.
    seen: HashSet<FileId>,
}

/// A function's probes.
struct Placed {
    info: Arc<SiteInfo>,
    /// The one that all calls pass.
    own: SiteId,
    /// Those on the instructions by which the allocator calls the function itself.
    internal: Vec<SiteId>,
    last: AllocCounts,
}

/// A mapped object with an allocator that we know.
struct Found {
    object: MappedObject,
    pinned: PinnedObject,
    image: Image,
}

impl AllocWatch {
    /// Nothing was asked for.
    pub(super) fn off(slot: u32) -> Self {
        Self {
            slot,
            state: AllocState::Off,
            links: Vec::new(),
            sites: Vec::new(),
            earlier: Vec::new(),
            image: None,
            seen: HashSet::new(),
        }
    }

    /// Finds the allocators and places the probes. Nothing is counted before [`AllocWatch::start`].
    pub(super) fn place(kernel: &mut Kernel, process: &Process, slot: u32) -> Result<Self, SessionError> {
        let found = find_allocators(process)?;
        let mut watch = Self::off(slot);
        for one in &found {
            watch.attach(kernel, process, one)?;
        }
        watch.state = if watch.links.is_empty() {
            AllocState::NotCounting(WHY_NOTHING.to_owned())
        } else {
            AllocState::Counting
        };
        Ok(watch)
    }

    /// Keeps up with what the process does: another program (`execve`), an allocator that is mapped later, a main thread
    /// that ends.
    pub(super) fn keep_up(&mut self, kernel: &mut Kernel, process: &Process, usage: &ProcessUsage) {
        if self.state == AllocState::Off {
            return;
        }
        if usage.image.0 == 0 || usage.image.1 == 0 {
            // It has no memory any more: it is ending, or only its main thread has ended. The probes' filter goes by
            // that thread's memory (kernel/trace/trace_uprobe.c, uprobe_perf_filter).
            if process.lives_on_without_its_main_thread() {
                self.state = AllocState::NotCounting(
                    "its main thread has ended, and with it the kernel takes the probes away".to_owned(),
                );
            }
            return;
        }
        let before = *self.image.get_or_insert(usage.image);
        if before.1 != usage.image.1 {
            self.image = Some(usage.image);
            self.leave(kernel);
            tracing::warn!(
                "process {} has replaced its program (execve): its first allocations are not counted",
                process.pid()
            );
        }
        if matches!(self.state, AllocState::NotCounting(_)) && has_known_allocator(process, &mut self.seen) {
            self.place_again(kernel, process);
        }
    }

    /// The probes belong to a program that is gone: what they have counted stays in the sums.
    fn leave(&mut self, kernel: &mut Kernel) {
        self.stop(kernel);
        match self.read(kernel) {
            Ok(last) => self.earlier = last.by_function(),
            Err(error) => tracing::warn!("{error}"),
        }
        self.sites.clear();
        self.seen.clear();
        self.state = AllocState::NotCounting("it has replaced its program".to_owned());
        let links = std::mem::take(&mut self.links);
        // Takes a second; nobody waits for it. Without a thread to spare, here and now.
        let _thread = std::thread::Builder::new().spawn(move || drop(links));
    }

    fn place_again(&mut self, kernel: &mut Kernel, process: &Process) {
        let again =
            Self::place(kernel, process, self.slot).and_then(|watch| watch.start(kernel).map(|()| watch));
        let (earlier, image, seen) =
            (std::mem::take(&mut self.earlier), self.image, std::mem::take(&mut self.seen));
        *self = again.unwrap_or_else(|error| Self {
            state: AllocState::NotCounting(error.to_string()),
            ..Self::off(self.slot)
        });
        (self.earlier, self.image, self.seen) = (earlier, image, seen);
    }

    fn attach(&mut self, kernel: &mut Kernel, process: &Process, found: &Found) -> Result<(), SessionError> {
        let path = found.pinned.path();
        for hook in &found.image.hooks {
            let Some(address) = address_in_process(&found.object, hook.site.file_offset) else {
                tracing::warn!(
                    "{}: {} is not mapped executable",
                    clean(&found.object.path),
                    hook.function.name()
                );
                continue;
            };
            let site = AllocSite {
                op: hook.op as u8,
                registers: hook.registers.map(|register| register as u8),
                flags: hook.flags,
                slot: self.slot,
                reserved: 0,
            };
            let offsets = hook.internal_calls.iter().map(|call| call.file_offset);
            // The allocator's own calls first: one that is seen at the function only would be taken for the program's.
            let plans: Vec<_> = offsets
                .chain([hook.site.file_offset])
                .map(|file_offset| SitePlan { file_offset, site })
                .collect();
            let links = kernel.attach_alloc(process.pid(), &path, &plans)?;
            let mut internal: Vec<_> = links.iter().map(AllocLink::id).collect();
            self.links.extend(links);
            let Some(own) = internal.pop() else { continue };
            let in_place = process.byte_at(address).map(|byte| matches!(byte, BREAKPOINT | OPTIMISED));
            if in_place == Some(false) {
                tracing::warn!("the probe on {} has not reached the process's memory", hook.function.name());
            }
            let info = Arc::new(site_info(found, hook, in_place));
            self.sites.push(Placed { info, own, internal, last: AllocCounts::default() });
        }
        Ok(())
    }

    /// Reads what was counted.
    pub(super) fn read(&mut self, kernel: &Kernel) -> Result<AllocSnapshot, SessionError> {
        let mut sites: Vec<_> = self.sites.iter_mut().collect();
        // Frees first: a block that is allocated and freed in between must not look as if it had been freed only.
        sites.sort_by_key(|placed| placed.info.function != AllocFunction::Free);
        let mut read = sites.into_iter().map(|placed| placed.read(kernel)).collect::<Result<Vec<_>, _>>()?;
        read.sort_by_key(|site| site.site.function);
        Ok(AllocSnapshot { sites: read, ..self.unread() })
    }

    /// The state alone, without counts.
    pub(super) fn unread(&self) -> AllocSnapshot {
        AllocSnapshot { state: self.state.clone(), sites: Vec::new(), earlier: self.earlier.clone() }
    }

    /// Lets all sites count, at one instant.
    pub(super) fn start(&self, kernel: &mut Kernel) -> Result<(), SessionError> {
        Ok(kernel.count_calls(self.slot, true)?)
    }

    /// Stops counting, at one instant. The probes stay until they are dropped.
    pub(super) fn stop(&self, kernel: &mut Kernel) {
        if let Err(error) = kernel.count_calls(self.slot, false) {
            tracing::warn!("{error}");
        }
    }
}

/// What a file is, whatever its name: device and inode.
pub type FileId = ((i32, i32), u64);

/// Whether a known allocator is mapped. `seen` holds the files that were looked at before, so that asking again is cheap.
pub fn has_known_allocator(process: &Process, seen: &mut HashSet<FileId>) -> bool {
    let mut found = false;
    for object in process.mapped_objects().unwrap_or_default() {
        if !seen.insert((object.device, object.inode)) {
            continue;
        }
        found |= look_at(process, &object).is_some_and(|(_, image)| !image.hooks.is_empty());
    }
    found
}

/// A mapped file and what the analysis says of it; `None` (and a line for the log) if either can't be had.
fn look_at(process: &Process, object: &MappedObject) -> Option<(PinnedObject, Image)> {
    let told = |error: &dyn std::fmt::Display| tracing::debug!("{}: {error}", clean(&object.path));
    let pinned = process.pin(object).inspect_err(|error| told(error)).ok()?;
    let bytes = pinned.read().inspect_err(|error| told(error)).ok()?;
    let image = binary::analyse(&bytes).inspect_err(|error| told(error)).ok()?;
    Some((pinned, image))
}

/// The mapped objects with an allocator.
fn find_allocators(process: &Process) -> Result<Vec<Found>, SessionError> {
    let mut found = Vec::new();
    for object in process.mapped_objects()? {
        let (pinned, image) = match look_at(process, &object) {
            Some(looked) => looked,
            None if !process.is_alive() => return Err(TargetError::Gone(process.pid()).into()),
            None => continue,
        };
        if !image.hooks.is_empty() {
            found.push(Found { object, pinned, image });
        }
    }
    Ok(found)
}

impl Placed {
    fn read(&mut self, kernel: &Kernel) -> Result<SiteSnapshot, SessionError> {
        let mut own = AllocCounts::default();
        for id in &self.internal {
            own.add(&kernel.alloc_counts(*id)?);
        }
        let all = kernel.alloc_counts(self.own)?;
        let mut counts = all;
        counts.subtract(&own);
        // A call of the allocator's own may have been counted where it is made and not yet where it arrives: the
        // difference is one too small for a moment, and a counter must not sink.
        counts.raise_to(&self.last);
        self.last = counts;
        let site = Arc::clone(&self.info);
        Ok(SiteSnapshot { site, counts, hits: all.hits() + own.hits(), internal: own.hits() })
    }
}

/// Where a place of the file is in the process.
fn address_in_process(object: &MappedObject, file_offset: u64) -> Option<u64> {
    let inside = |range: &&MappedRange| {
        file_offset
            .checked_sub(range.file_offset)
            .is_some_and(|at| at < range.end.saturating_sub(range.start))
    };
    let range = object.ranges.iter().find(inside)?;
    Some(range.start + (file_offset - range.file_offset))
}

fn site_info(found: &Found, hook: &Hook, in_place: Option<bool>) -> SiteInfo {
    SiteInfo {
        function: hook.function,
        names: hook.names.iter().map(|name| clean(name)).collect(),
        object: clean(&found.object.path),
        build_id: found.image.build_id.clone(),
        offset: hook.site.offset,
        instruction: hook.site.instruction.clone(),
        kind: hook.site.kind,
        reason: hook.site.reason.clone(),
        internal_calls: hook.internal_calls.len(),
        notes: hook.notes.clone(),
        in_place,
    }
}
