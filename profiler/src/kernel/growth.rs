//! Pages that are touched for the first time, and processes that are killed for memory: the families' programs.
//!
//! The events of page faults (`exceptions`) run for every fault of the machine, whoever makes it: 230 ns where a fault took
//! 1,600 (`tests/growth.rs`, on a virtual machine), and 430 for a target's. So they are attached while any target's pages are
//! sampled, and at no other time.
//!
//! Limits. One fault may bring more than a page: 2 MiB where the kernel uses transparent huge pages
//! ([`crate::target::Pagemap::is_huge`] tells, if asked soon), and 16 KiB and more where its middle sizes are turned on, which
//! nothing tells. Not seen at all: pages that the kernel makes without a fault (`MAP_POPULATE`, `mlock`, `io_uring`, direct
//! I/O), copies after a `fork`, and pages of files that are read before they are written to. On machines with several memory
//! nodes and `kernel.numa_balancing`, pages fault again and again, so that a page belongs to whoever touched it last.

use std::{collections::HashSet, sync::atomic::Ordering};

use aya::{
    maps::{HashMap, MapData, MapError},
    programs::tp_btf::BtfTracePointLinkId,
};
use profiler_common::sample::{LiveKey, Sampling, threshold};

use super::{
    Btf, Facts, Kernel, KernelError, Plan, Raw,
    loader::{map_error, refused},
};
use crate::target::PAGE;

/// The programs; each is named like its tracepoint.
pub(super) const GROWTH_TRACEPOINTS: [&str; 2] = ["page_fault_user", "page_fault_kernel"];
/// Likewise, for the ends that memory brings.
pub(super) const VICTIM_TRACEPOINTS: [&str; 1] = ["mark_victim"];

/// What the programs are told before they are loaded.
#[derive(Default)]
pub(super) struct GrowthKnobs {
    pub(super) pagefault_disabled: u64,
    pub(super) victim_is_task: u8,
}

impl GrowthKnobs {
    /// What the plan's programs need, and zero else.
    /// Beside them, why pages can't be sampled.
    pub(super) fn find(plan: Plan) -> Result<(Self, Option<String>), KernelError> {
        let not_asked_for = plan.growth.is_none().then(|| "not asked for".to_owned());
        if plan.growth.is_none() && !plan.victims {
            return Ok((Self::default(), not_asked_for));
        }
        let bytes = std::fs::read(Facts::BTF_PATH)
            .map_err(|source| KernelError::System { path: Facts::BTF_PATH.to_owned(), source })?;
        let btf = Btf::parse(&bytes)?;
        let victim_is_task = u8::from(btf.tracepoint_arguments("mark_victim") == Some(2));
        let (pagefault_disabled, lacking) = match btf.member("task_struct", "pagefault_disabled") {
            Ok(member) => (member.byte_offset(), None),
            Err(error) => (0, Some(KernelError::from(error).to_string())),
        };
        Ok((Self { pagefault_disabled, victim_is_task }, not_asked_for.or(lacking)))
    }
}

/// The sampled pages. One that has been given back stays among them until it is touched again: whoever finds out
/// ([`crate::target::Pagemap::states`]) removes it, as there is room for 65,536 only.
pub struct LivePages(HashMap<MapData, Raw<LiveKey>, u64>);

impl LivePages {
    pub(super) const fn new(map: HashMap<MapData, Raw<LiveKey>, u64>) -> Self {
        Self(map)
    }

    /// The sample that is known of a page.
    ///
    /// # Errors
    ///
    /// If the map can't be read.
    pub fn get(&self, key: &LiveKey) -> Result<Option<u64>, KernelError> {
        match self.0.get(&Raw(*key), 0) {
            Ok(id) => Ok(Some(id)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(map_error("LIVE_PAGES", source)),
        }
    }

    /// Forgets a sample, if it is still that one.
    ///
    /// # Errors
    ///
    /// If the map can't be read or written.
    pub fn remove(&mut self, key: &LiveKey, id: u64) -> Result<(), KernelError> {
        if self.get(key)? != Some(id) {
            return Ok(());
        }
        match self.0.remove(&Raw(*key)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(source) => Err(map_error("LIVE_PAGES", source)),
        }
    }
}

/// `Switches::growth` for one page in so many bytes.
pub(super) fn page_threshold(mean: u64) -> u32 {
    u32::try_from(threshold(PAGE, Sampling::with_mean(mean))).unwrap_or(u32::MAX)
}

/// Whether pages can be sampled, and whose are.
pub(super) struct Growth {
    obstacle: Option<String>,
    slots: HashSet<u32>,
    /// The programs are attached while there are any.
    links: Vec<(&'static str, BtfTracePointLinkId)>,
}

impl Growth {
    pub(super) fn new(obstacle: Option<String>) -> Self {
        Self { obstacle, slots: HashSet::new(), links: Vec::new() }
    }

    pub(super) const fn is_possible(&self) -> bool {
        self.obstacle.is_none()
    }
}

impl Kernel {
    /// Why pages can't be sampled, if so.
    pub fn obstacle_to_growth(&self) -> Option<&str> {
        self.growth.obstacle.as_deref()
    }

    /// Whether every page fault of the machine is looked at now.
    pub fn looks_at_faults(&self) -> bool {
        !self.growth.links.is_empty()
    }

    /// Chooses how first touches of a target's pages are sampled from now on: one in so many bytes on average; `None` ends it.
    /// The first target whose pages are sampled makes every page fault of the machine a little dearer, until the last one's
    /// aren't any more.
    ///
    /// # Errors
    ///
    /// If that can't be done here, or there is no such slot.
    pub fn sample_pages(&mut self, slot: u32, mean: Option<u64>) -> Result<(), KernelError> {
        if mean.is_some() {
            if let Some(obstacle) = &self.growth.obstacle {
                return Err(KernelError::Unsupported(obstacle.clone()));
            }
            self.attach_growth()?;
        }
        let word = mean.map_or(0, page_threshold);
        self.switches.growth(slot)?.store(word, Ordering::SeqCst);
        match mean {
            Some(_) => _ = self.growth.slots.insert(slot),
            None => _ = self.growth.slots.remove(&slot),
        }
        if self.growth.slots.is_empty() {
            self.detach_growth();
        }
        Ok(())
    }

    fn attach_growth(&mut self) -> Result<(), KernelError> {
        if self.looks_at_faults() {
            return Ok(());
        }
        for name in GROWTH_TRACEPOINTS {
            match self.btf_tracepoint(name)?.attach() {
                Ok(link) => self.growth.links.push((name, link)),
                Err(source) => {
                    self.detach_growth();
                    return Err(refused("attach", name, source));
                }
            }
        }
        Ok(())
    }

    fn detach_growth(&mut self) {
        for (name, link) in std::mem::take(&mut self.growth.links) {
            let detached = self
                .btf_tracepoint(name)
                .and_then(|program| program.detach(link).map_err(|source| refused("detach", name, source)));
            if let Err(error) = detached {
                tracing::warn!("{error}");
            }
        }
    }

    /// The sampled pages, once, for whatever thread wants to keep them. `None` the second time, or if growth isn't planned.
    pub fn take_pages(&mut self) -> Option<LivePages> {
        self.live_pages.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::loader::OBJECT;
    use object::{Object as _, ObjectSymbol as _};

    #[test]
    fn the_embedded_object_has_what_the_loader_names() {
        let file = object::File::parse(OBJECT).unwrap();
        let names: Vec<&str> = file.symbols().filter_map(|symbol| symbol.name().ok()).collect();
        let named = ["LIVE_PAGES", "TASK_PAGEFAULT_DISABLED", "MARK_VICTIM_TELLS_TASK"];
        for name in GROWTH_TRACEPOINTS.into_iter().chain(VICTIM_TRACEPOINTS).chain(named) {
            assert!(names.contains(&name), "{name} is missing");
        }
    }
}
