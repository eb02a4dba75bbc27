//! Pages that are touched for the first time, and processes that are killed for memory: the families' programs.
//!
//! The events of page faults (`exceptions`) run for every fault of the machine, whoever makes it: 230 ns where a fault took
//! 1,600 (`tests/growth.rs`, on a virtual machine), and 430 for a target's. So nothing of this is loaded unless it was asked for.
//!
//! Limits. One fault may bring more than a page: 2 MiB where the kernel uses transparent huge pages
//! ([`crate::target::Pagemap::is_huge`] tells, if asked soon), and 16 KiB and more where its middle sizes are turned on, which
//! nothing tells. Not seen at all: pages that the kernel makes without a fault (`MAP_POPULATE`, `mlock`, `io_uring`, direct
//! I/O), copies after a `fork`, and pages of files that are read before they are written to. On machines with several memory
//! nodes and `kernel.numa_balancing`, pages fault again and again, so that a page belongs to whoever touched it last.

use std::io;

use aya::maps::{HashMap, MapData, MapError};
use profiler_common::sample::{LiveKey, Sampling, threshold};

use super::{Btf, Facts, Kernel, KernelError, Plan, Raw, loader::map_error};
use crate::target::PAGE;

/// The programs; each is named like its tracepoint.
pub(super) const GROWTH_TRACEPOINTS: [&str; 2] = ["page_fault_user", "page_fault_kernel"];
/// Likewise, for the ends that memory brings.
pub(super) const VICTIM_TRACEPOINTS: [&str; 1] = ["mark_victim"];

/// What the programs are told before they are loaded.
#[derive(Default)]
pub(super) struct GrowthKnobs {
    pub(super) threshold: u64,
    pub(super) pagefault_disabled: u64,
    pub(super) victim_is_task: u8,
}

impl GrowthKnobs {
    /// What the plan's programs need, and zero else.
    pub(super) fn find(plan: Plan) -> Result<Self, KernelError> {
        if plan.growth.is_none() && !plan.victims {
            return Ok(Self::default());
        }
        let bytes = std::fs::read(Facts::BTF_PATH)
            .map_err(|source: io::Error| KernelError::System { path: Facts::BTF_PATH.to_owned(), source })?;
        let btf = Btf::parse(&bytes)?;
        Ok(Self {
            threshold: plan.growth.map_or(0, |mean| threshold(PAGE, Sampling::with_mean(mean))),
            pagefault_disabled: btf.member("task_struct", "pagefault_disabled")?.byte_offset(),
            victim_is_task: u8::from(btf.tracepoint_arguments("mark_victim") == Some(2)),
        })
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

impl Kernel {
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
        let named = ["LIVE_PAGES", "GROWTH_THRESHOLD", "TASK_PAGEFAULT_DISABLED", "MARK_VICTIM_TELLS_TASK"];
        for name in GROWTH_TRACEPOINTS.into_iter().chain(VICTIM_TRACEPOINTS).chain(named) {
            assert!(names.contains(&name), "{name} is missing");
        }
    }
}
