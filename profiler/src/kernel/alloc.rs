//! Allocator probes: placing them, switching them on, reading their counts.

use std::{
    num::NonZeroU32,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use aya::{
    maps::PerCpuValues,
    programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
};
use profiler_common::alloc::{AllocCounts, AllocSite};

use super::{Kernel, KernelError, Raw, loader::map_error, loader::sum_cpus};

/// Names a site in the kernel's maps; it is the probe's attach cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(u32);

/// One probe to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SitePlan {
    /// Where in the file.
    pub file_offset: u64,
    /// What the kernel side must know.
    pub site: AllocSite,
}

/// A probe in place. It goes away when this is dropped.
pub struct AllocLink {
    id: SiteId,
    /// Dropped to take the probe away.
    link: Option<UProbeLink>,
    freed: Arc<Mutex<Vec<SiteId>>>,
}

impl AllocLink {
    /// The site's name in the kernel's maps; stays valid after the probe is gone.
    pub const fn id(&self) -> SiteId {
        self.id
    }
}

impl Kernel {
    /// Places probes in a file, for one process only. They don't count before [`Kernel::count_calls`].
    ///
    /// # Errors
    ///
    /// If the kernel refuses one; those already in place are taken away again.
    pub fn attach_alloc(
        &mut self,
        pid: u32,
        file: &Path,
        plans: &[SitePlan],
    ) -> Result<Vec<AllocLink>, KernelError> {
        let mut links = Vec::with_capacity(plans.len());
        for plan in plans {
            links.push(self.attach_site(pid, file, plan)?);
        }
        Ok(links)
    }

    /// A site that isn't in use, with its counts at zero.
    fn take_site(&mut self) -> Result<SiteId, KernelError> {
        let freed = self.freed_sites.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(id) = freed {
            let cpus = aya::util::nr_cpus()
                .map_err(|(path, source)| KernelError::System { path: path.to_owned(), source })?;
            let zeroes = PerCpuValues::try_from(vec![Raw(AllocCounts::default()); cpus])
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

    fn attach_site(&mut self, pid: u32, file: &Path, plan: &SitePlan) -> Result<AllocLink, KernelError> {
        let id = self.take_site()?;
        self.alloc_sites.set(id.0, Raw(plan.site), 0).map_err(|source| map_error("ALLOC_SITES", source))?;
        let scope = scope(pid);
        let refused =
            |source| KernelError::Probe { pid, file_offset: plan.file_offset, source: Box::new(source) };
        let program = self.uprobe("alloc")?;
        let point = UProbeAttachPoint {
            location: UProbeAttachLocation::AbsoluteOffset(plan.file_offset),
            cookie: Some(u64::from(id.0)),
        };
        let link_id = program.attach(point, file, scope).map_err(refused)?;
        let link = program.take_link(link_id).map_err(refused)?;
        Ok(AllocLink { id, link: Some(link), freed: Arc::clone(&self.freed_sites) })
    }

    /// Lets all sites of a target count, or stops them: one write, one instant.
    ///
    /// # Errors
    ///
    /// If the map can't be written.
    pub fn count_calls(&mut self, slot: u32, on: bool) -> Result<(), KernelError> {
        self.counting.set(slot, u32::from(on), 0).map_err(|source| map_error("COUNTING", source))
    }

    /// What a site has counted while its target's calls were counted, over all CPUs.
    ///
    /// # Errors
    ///
    /// If the map can't be read.
    pub fn alloc_counts(&self, id: SiteId) -> Result<AllocCounts, KernelError> {
        let mut sum = AllocCounts::default();
        sum_cpus(&self.alloc_counts, "ALLOC_COUNTS", id.0, |counts| sum.add(counts))?;
        Ok(sum)
    }

    /// Places the program that does nothing: the yardstick of the benchmarks.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn attach_empty(
        &mut self,
        pid: u32,
        file: &Path,
        file_offset: u64,
    ) -> Result<UProbeLink, KernelError> {
        let program = self.uprobe("empty")?;
        let refused = |source| KernelError::Probe { pid, file_offset, source: Box::new(source) };
        if program.fd().is_err() {
            program.load().map_err(refused)?;
        }
        let scope = scope(pid);
        let link_id = program
            .attach(UProbeAttachLocation::AbsoluteOffset(file_offset), file, scope)
            .map_err(refused)?;
        program.take_link(link_id).map_err(refused)
    }
}

/// One process only, never all of them.
fn scope(pid: u32) -> UProbeScope {
    NonZeroU32::new(pid).map_or(UProbeScope::CallingProcess, UProbeScope::OneProcess)
}

impl Drop for AllocLink {
    fn drop(&mut self) {
        drop(self.link.take());
        // Only now can the site be used for another probe.
        self.freed.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
    }
}
