//! A target's allocator probes.

use std::{collections::HashSet, sync::Arc};

use profiler_common::alloc::{AddressRange, AllocCounts, AllocFunction, AllocSite, INTERNAL_RANGES};

use super::SessionError;
use crate::{
    binary::{self, Hook, Image},
    kernel::{AllocLink, Kernel, SitePlan},
    snapshot::{AllocSnapshot, AllocState, SiteInfo, SiteSnapshot},
    target::{MappedObject, PinnedObject, Process},
    text::clean,
};

/// `int3`: what the kernel puts at a probe site.
const BREAKPOINT: u8 = 0xcc;
/// `call`: what newer kernels put at a 5-byte nop (arch/x86/kernel/uprobes.c, `uprobe_optimize`).
const OPTIMISED: u8 = 0xe8;

/// A target's allocator probes.
pub(super) struct AllocWatch {
    state: AllocState,
    links: Vec<AllocLink>,
    sites: Vec<Arc<SiteInfo>>,
    earlier: Vec<(AllocFunction, AllocCounts)>,
}

/// A mapped object with an allocator that we know.
struct Found {
    object: MappedObject,
    pinned: PinnedObject,
    image: Image,
}

impl AllocWatch {
    /// Nothing was asked for.
    pub(super) const fn off() -> Self {
        Self { state: AllocState::Off, links: Vec::new(), sites: Vec::new(), earlier: Vec::new() }
    }

    /// Finds the allocators and places the probes. Nothing is counted before [`AllocWatch::start`].
    pub(super) fn place(kernel: &mut Kernel, process: &Process) -> Result<Self, SessionError> {
        let (found, unknown) = find_allocators(process)?;
        let mut watch = Self::off();
        for one in &found {
            watch.attach(kernel, process, one)?;
        }
        watch.state = if watch.links.is_empty() {
            AllocState::NotCounting(why_nothing(&unknown))
        } else {
            if !unknown.is_empty() {
                tracing::warn!(
                    "process {}: also defines malloc, and isn't counted yet: {}",
                    process.pid(),
                    unknown.join(", ")
                );
            }
            AllocState::Counting
        };
        Ok(watch)
    }

    /// The process has replaced its program: what was counted stays in the sums, and the new program's allocator is
    /// looked for. Calls between the two are not counted.
    pub(super) fn begin_again(&mut self, kernel: &mut Kernel, process: &Process, name: &str) {
        if self.state == AllocState::Off {
            return;
        }
        self.stop(kernel);
        if let Ok(last) = self.read(kernel) {
            self.earlier = last.by_function();
        }
        let links = self.take_links();
        // Takes a second; nobody waits for it.
        std::thread::spawn(move || Kernel::detach_alloc(links));
        let earlier = std::mem::take(&mut self.earlier);
        let again = Self::place(kernel, process).and_then(|watch| watch.start(kernel).map(|()| watch));
        *self = again.unwrap_or_else(|error| Self {
            state: AllocState::NotCounting(format!("it has replaced its program, and then: {error}")),
            ..Self::off()
        });
        self.earlier = earlier;
        tracing::warn!("{name} has replaced its program (execve): its first allocations are not counted");
    }

    fn attach(&mut self, kernel: &mut Kernel, process: &Process, found: &Found) -> Result<(), SessionError> {
        let mut plans = Vec::new();
        let mut infos = Vec::new();
        for hook in &found.image.hooks {
            let Some(bias) = load_bias(&found.object, &found.image, hook) else {
                tracing::warn!(
                    "{}: {} is not mapped executable",
                    clean(&found.object.path),
                    hook.function.name()
                );
                continue;
            };
            plans.push(SitePlan { file_offset: hook.site.file_offset, site: kernel_site(hook, bias) });
            infos.push((hook, bias));
        }
        let links = kernel.attach_alloc(process.pid(), &found.pinned.path(), &plans)?;
        self.links.extend(links);
        for (hook, bias) in infos {
            let address = hook.address.wrapping_add(hook.site.offset).wrapping_add(bias);
            let in_place = process.byte_at(address).map(|byte| matches!(byte, BREAKPOINT | OPTIMISED));
            if in_place == Some(false) {
                tracing::warn!("the probe on {} has not reached the process's memory", hook.function.name());
            }
            self.sites.push(Arc::new(site_info(found, hook, in_place)));
        }
        Ok(())
    }

    /// Reads what was counted.
    pub(super) fn read(&self, kernel: &Kernel) -> Result<AllocSnapshot, SessionError> {
        // Frees first: a block that is allocated and freed in between must not look as if it had been freed only.
        let mut order: Vec<usize> = (0..self.sites.len()).collect();
        order.sort_by_key(|i| self.sites[*i].function != AllocFunction::Free);
        let mut counts = vec![AllocCounts::default(); self.sites.len()];
        for i in order {
            counts[i] = kernel.alloc_counts(self.links[i].id())?;
        }
        let sites = self
            .sites
            .iter()
            .cloned()
            .zip(counts)
            .map(|(site, counts)| SiteSnapshot { site, counts })
            .collect();
        Ok(AllocSnapshot { sites, ..self.unread() })
    }

    /// The state alone, without counts.
    pub(super) fn unread(&self) -> AllocSnapshot {
        AllocSnapshot { state: self.state.clone(), sites: Vec::new(), earlier: self.earlier.clone() }
    }

    /// Lets all sites count, at one instant.
    pub(super) fn start(&self, kernel: &mut Kernel) -> Result<(), SessionError> {
        Ok(kernel.enable(&self.links, true)?)
    }

    /// Stops counting, at one instant. The probes stay until they are dropped.
    pub(super) fn stop(&self, kernel: &mut Kernel) {
        if let Err(error) = kernel.enable(&self.links, false) {
            tracing::warn!("{error}");
        }
    }

    /// Hands the probes over to be taken away; their counts can still be read.
    pub(super) fn take_links(&mut self) -> Vec<AllocLink> {
        std::mem::take(&mut self.links)
    }
}

/// Whether a known allocator is mapped. `seen` holds the files that were looked at before, so that asking again is cheap.
pub fn has_known_allocator(process: &Process, seen: &mut HashSet<((i32, i32), u64)>) -> bool {
    let mut found = false;
    for object in process.mapped_objects().unwrap_or_default() {
        if !seen.insert((object.device, object.inode)) {
            continue;
        }
        let image = process.pin(&object).ok().and_then(|pinned| binary::analyse(&pinned.read().ok()?).ok());
        found |= image.is_some_and(|image| !image.hooks.is_empty());
    }
    found
}

/// The mapped objects with an allocator that we know, and the names of those with one that we don't.
fn find_allocators(process: &Process) -> Result<(Vec<Found>, Vec<String>), SessionError> {
    let mut found = Vec::new();
    let mut unknown = Vec::new();
    for object in process.mapped_objects()? {
        let pinned = match process.pin(&object) {
            Ok(pinned) => pinned,
            Err(error) if error.is_gone() && !process.is_alive() => return Err(error.into()),
            Err(error) => {
                tracing::debug!("{}: {error}", clean(&object.path));
                continue;
            }
        };
        let image = match pinned.read().map(|bytes| binary::analyse(&bytes)) {
            Ok(Ok(image)) => image,
            Ok(Err(error)) => {
                tracing::debug!("{}: {error}", clean(&object.path));
                continue;
            }
            Err(error) => {
                tracing::debug!("{}: {error}", clean(&object.path));
                continue;
            }
        };
        if image.allocator.is_some() && !image.hooks.is_empty() {
            found.push(Found { object, pinned, image });
        } else if image.defines_malloc {
            unknown.push(clean(&object.path));
        }
    }
    Ok((found, unknown))
}

fn why_nothing(unknown: &[String]) -> String {
    if unknown.is_empty() {
        "no known allocator is mapped: neither its program nor a library of it exports malloc (a static or stripped \
         program, or a language with an allocator of its own)"
            .to_owned()
    } else {
        format!("its allocator is not known yet: {}", unknown.join(", "))
    }
}

/// What must be added to an address of the file to get the address in the process.
fn load_bias(object: &MappedObject, image: &Image, hook: &Hook) -> Option<u64> {
    let at = hook.site.file_offset;
    let range = object.ranges.iter().find(|range| {
        at >= range.file_offset && at - range.file_offset < range.end.saturating_sub(range.start)
    })?;
    image.segments.iter().find(|segment| {
        segment.executable && at >= segment.file_offset && at - segment.file_offset < segment.file_size
    })?;
    let address_in_process = range.start + (at - range.file_offset);
    Some(address_in_process.wrapping_sub(hook.address.wrapping_add(hook.site.offset)))
}

fn kernel_site(hook: &Hook, bias: u64) -> AllocSite {
    let mut internal = [AddressRange::default(); INTERNAL_RANGES];
    for (slot, callers) in internal.iter_mut().zip(&hook.internal_callers) {
        *slot = AddressRange {
            start: callers.start.wrapping_add(bias),
            length: callers.end.saturating_sub(callers.start),
        };
    }
    AllocSite {
        function: hook.function as u32,
        flags: hook.flags,
        return_address_at: hook.site.return_address_at,
        internal,
    }
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
        notes: hook.notes.clone(),
        in_place,
    }
}
