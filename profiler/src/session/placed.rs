//! Probes in place, and what they count.

use std::{sync::Arc, time::Instant};

use profiler_common::alloc::{AllocCounts, AllocFunction, AllocSite, ONLY_COUNTED};

use super::{SessionError, hunted::harm_of_returns, images::FileId};
use crate::{
    binary::{Hook, Image, Layer, NotSampled, python::Bytes},
    kernel::{AllocLink, Kernel, Returns, SiteId, SitePlan},
    snapshot::{FunctionCounts, SiteInfo},
    target::{BREAKPOINT, MappedObject, PinnedObject, Process, ProgramCache},
    text::clean,
};

/// A mapped file with probes in it.
pub struct PlacedObject {
    pub id: FileId,
    pub placed: Instant,
    pub link: AllocLink,
    /// Where in the file.
    pub file_offsets: Vec<u64>,
    pub sites: Vec<PlacedSite>,
}

/// A function's probes.
pub struct PlacedSite {
    pub info: Arc<SiteInfo>,
    /// The one that all calls pass.
    own: SiteId,
    /// Those on the instructions by which the allocator calls the function itself.
    internal: Option<SiteId>,
    /// Where the bytes are known from.
    bytes: Bytes,
    /// The program's calls, by bank, at the last reading.
    pub last: [AllocCounts; 2],
    hits: u64,
    of_allocator: u64,
    /// What the present program's bank held when that program began.
    pub base: AllocCounts,
    /// It hands out blocks that nobody samples, there or below.
    pub blind: bool,
}

/// Whether the kernel's breakpoint is seen at a site; `None` if the process's memory can't be read.
pub fn in_place(process: &Process, address: u64, hook: &Hook) -> Option<bool> {
    let in_place = process.byte_at(address).map(|byte| byte == BREAKPOINT);
    if in_place == Some(false) {
        tracing::warn!("the probe on {} has not reached the process's memory", hook.function.name());
    }
    in_place
}

impl PlacedSite {
    /// Nothing was counted yet.
    pub fn new(info: Arc<SiteInfo>, own: SiteId, internal: Option<SiteId>, bytes: Bytes) -> Self {
        Self {
            info,
            own,
            internal,
            bytes,
            last: Default::default(),
            hits: 0,
            of_allocator: 0,
            base: AllocCounts::default(),
            blind: false,
        }
    }

    /// Reads what was counted.
    pub fn read(&mut self, kernel: &Kernel) -> Result<(), SessionError> {
        // In this order: a call of the allocator's own is counted where it is made before it is counted where it arrives. The other
        // way round, those that come between the two readings would be told as the program's, for good.
        let all = kernel.alloc_counts(self.own)?;
        let own = self.internal.map(|id| kernel.alloc_counts(id)).transpose()?.unwrap_or_default();
        self.hits = all.iter().chain(&own).map(AllocCounts::hits).sum();
        self.of_allocator = own.iter().map(AllocCounts::hits).sum();
        for ((mut counts, own), last) in all.into_iter().zip(own).zip(&mut self.last) {
            counts.subtract(&own);
            counts.bytes = self.bytes.of(&counts);
            // Calls of the allocator's own that had not arrived at the first reading make the difference too small for a moment, and
            // a counter must not sink.
            counts.raise_to(last);
            *last = counts;
        }
        Ok(())
    }

    /// Everything that was counted here so far.
    pub fn functions(&self) -> FunctionCounts {
        let mut counts = self.last[0];
        counts.add(&self.last[1]);
        let (layer, function): (Layer, AllocFunction) = (self.info.layer, self.info.function);
        FunctionCounts { layer, function, counts, hits: self.hits, internal: self.of_allocator }
    }
}

/// What is told of a function with one place.
pub fn site_info(object: &MappedObject, image: &Image, hook: &Hook, in_place: Option<bool>) -> SiteInfo {
    SiteInfo {
        layer: hook.layer,
        function: hook.function,
        names: hook.names.iter().map(|name| clean(name)).collect(),
        object: clean(&object.path),
        build_id: image.build_id.clone(),
        places: 1,
        offset: hook.site.offset,
        instruction: hook.site.instruction.clone(),
        kind: hook.site.kind,
        reason: hook.site.reason.clone(),
        internal_calls: hook.internal_calls.len(),
        notes: hook.caveats(),
        in_place,
    }
}

/// Places the probes of one file.
pub(super) fn place_object(
    kernel: &mut Kernel,
    process: &Process,
    (object, pinned, image): (&MappedObject, &PinnedObject, &Image),
    slot: u32,
) -> Result<PlacedObject, SessionError> {
    let mut plans = Vec::new();
    let mut hooks = Vec::new();
    // Where every return of a probed function is taken, and not only those that somebody chooses, it must be known before.
    let all_returns = *kernel.returns() == Returns::Probe;
    let harmless = !all_returns || harm_of_returns(process, &mut ProgramCache::default()).is_none();
    for hook in &image.hooks {
        let Some(address) = object.address_of(hook.site.file_offset) else {
            tracing::warn!("{}: {} is not mapped executable", clean(&object.path), hook.function.name());
            continue;
        };
        let site = AllocSite {
            op: hook.op as u8,
            registers: hook.registers.map(|register| register as u8),
            flags: hook.flags,
            slot,
            reserved: 0,
        };
        // The allocator's own calls first: one that is seen at the function only would be taken for the program's.
        if !hook.internal_calls.is_empty() {
            let file_offsets = hook.internal_calls.iter().map(|call| call.file_offset).collect();
            // There they stand where the function expects them, wherever they are at its site.
            let registers = hook.entry_registers.map(|register| register as u8);
            // What happens to the blocks is seen at the function itself.
            let site = AllocSite { registers, flags: site.flags | ONLY_COUNTED, ..site };
            plans.push(SitePlan { file_offsets, site, sampled: false });
        }
        let sampled = harmless
            && match hook.not_sampled {
                None => true,
                // A return can be taken there, at the risk that its exception ends the program.
                Some(NotSampled::Throws) => kernel.samples_throwing() && hook.site.at_entry_depth,
                Some(_) => false,
            };
        plans.push(SitePlan { file_offsets: vec![hook.site.file_offset], site, sampled });
        let blind = !sampled && !matches!(hook.not_sampled, Some(NotSampled::Frees | NotSampled::Layer));
        hooks.push((hook, address, blind));
    }
    let file_offsets = plans.iter().flat_map(|plan| &plan.file_offsets).copied().collect();
    let link = kernel.attach_alloc(process.pid(), &pinned.path(), &plans)?;
    let mut ids = link.sites().iter().copied();
    let mut sites = Vec::with_capacity(hooks.len());
    for (hook, address, blind) in hooks {
        let internal = if hook.internal_calls.is_empty() { None } else { ids.next() };
        let Some(own) = ids.next() else { break };
        let in_place = in_place(process, address, hook);
        let info = Arc::new(site_info(object, image, hook, in_place));
        sites.push(PlacedSite { blind, ..PlacedSite::new(info, own, internal, Bytes::Counted) });
    }
    Ok(PlacedObject { id: object.id(), placed: Instant::now(), link, file_offsets, sites })
}
