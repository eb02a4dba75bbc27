//! Counting calls that map memory: the family's programs, and what they have counted.
//!
//! A system call's event costs whoever makes *any* system call: while one is in use, the kernel takes the slow way in and
//! out for every task of the machine (`SYSCALL_WORK_SYSCALL_TRACEPOINT`). `getppid` took 261 ns instead of 173 where that
//! was measured (`examples/bench_mappings.rs`; 249 without the one event at a call's beginning). So nothing of this is
//! loaded or attached unless it was asked for. The other ways are no better here:
//!
//! * `raw_syscalls:sys_enter`/`sys_exit` put all tasks on the same slow way and run a program at every call besides.
//! * Programs at the kernel's own functions (`fentry`, kprobes) would cost only those who map memory, but kernels that
//!   are built or locked down without them refuse, and their names are no interface.
//! * The events of the memory's own code (`mmap:vm_unmapped_area`) don't tell a file from anonymous memory, nor any size
//!   that is given back.

use std::{io, os::fd::AsFd as _};

use aya::maps::PerCpuValues;
use profiler_common::mapping::{KINDS, MappingCounts, MappingKind};

use super::{
    Btf, BtfError, Facts, Kernel, KernelError, Raw,
    loader::map_error,
    loader::sum_cpus,
    tracefs::{self, Tracefs},
};

/// The programs and their events. A call's end comes first, so that no beginning is kept in vain.
const PROGRAMS: [(&str, &str); 5] = [
    ("mapping_mmap", "syscalls/sys_exit_mmap"),
    ("mapping_munmap", "syscalls/sys_exit_munmap"),
    ("mapping_mremap", "syscalls/sys_exit_mremap"),
    ("mapping_brk", "syscalls/sys_exit_brk"),
    ("mapping_brk_enter", "syscalls/sys_enter_brk"),
];

impl Kernel {
    /// Begins to count, for every process that is followed ([`Kernel::follow_process`]), until this value is dropped.
    /// From then on every system call of every process on the machine is a little dearer (module text).
    ///
    /// # Errors
    ///
    /// If the kernel has no such events, or refuses a program.
    pub(super) fn attach_mappings(&mut self) -> Result<(), KernelError> {
        let tracefs = Tracefs::open().map_err(|source| system("tracefs", source))?;
        for (name, event) in PROGRAMS {
            let number = tracefs.event(event).map_err(|source| system(event, source))?;
            let program = self.tracepoint(name)?;
            let fd = program.fd().map_err(|source| super::loader::refused("attach", name, source))?;
            let link = tracefs::attach(number, fd.as_fd())
                .map_err(|source| KernelError::Event { event: event.to_owned(), source })?;
            self.mapping_links.push(link);
        }
        Ok(())
    }

    /// What a target has mapped while it was followed, by kind, over all CPUs.
    ///
    /// # Errors
    ///
    /// If the map can't be read.
    pub fn mapping_counts(&self, slot: u32) -> Result<[MappingCounts; KINDS], KernelError> {
        let mut by_kind = [MappingCounts::default(); KINDS];
        for kind in MappingKind::ALL {
            let sum = &mut by_kind[kind as usize];
            sum_cpus(&self.mapping_counts, "MAPPING_COUNTS", key(slot, kind), |counts| sum.add(counts))?;
        }
        Ok(by_kind)
    }

    /// Sets a slot's counts to zero, for the next target in it.
    ///
    /// # Errors
    ///
    /// If the map can't be written.
    pub fn clear_mapping_counts(&mut self, slot: u32) -> Result<(), KernelError> {
        let cpus = aya::util::nr_cpus().map_err(|(path, source)| system(path, source))?;
        for kind in MappingKind::ALL {
            let zeroes = PerCpuValues::try_from(vec![Raw(MappingCounts::default()); cpus])
                .map_err(|source| system("the number of CPUs", source))?;
            self.mapping_counts
                .set(key(slot, kind), zeroes, 0)
                .map_err(|source| map_error("MAPPING_COUNTS", source))?;
        }
        Ok(())
    }

    /// How often the kernel left out one of the programs, because another program of that sort was at work on the CPU.
    /// Older kernels (before 6.7) leave them out without counting it.
    pub fn mapping_misses(&self) -> u64 {
        PROGRAMS.into_iter().filter_map(|(name, _)| self.misses(name)).sum()
    }
}

/// The names of the programs.
#[cfg(test)]
pub(super) fn programs() -> impl Iterator<Item = &'static str> {
    PROGRAMS.into_iter().map(|(name, _)| name)
}

const fn key(slot: u32, kind: MappingKind) -> u32 {
    slot * KINDS as u32 + kind as u32
}

fn system(path: &str, source: io::Error) -> KernelError {
    KernelError::System { path: path.to_owned(), source }
}

/// Where the running kernel keeps a process's program break.
#[derive(Default)]
pub(super) struct BreakOffsets {
    /// Of `mm` in `task_struct`.
    pub(super) task_mm: u64,
    /// Of `brk` in `mm_struct`.
    pub(super) mm_brk: u64,
}

impl BreakOffsets {
    pub(super) fn find() -> Result<Self, KernelError> {
        let bytes = std::fs::read(Facts::BTF_PATH).map_err(|source| system(Facts::BTF_PATH, source))?;
        Self::find_in(&bytes).map_err(|source| {
            KernelError::Unsupported(format!(
                "calls that map memory can't be counted on this kernel: {source}; use --mappings off"
            ))
        })
    }

    fn find_in(bytes: &[u8]) -> Result<Self, BtfError> {
        let btf = Btf::parse(bytes)?;
        Ok(Self {
            task_mm: btf.member("task_struct", "mm")?.byte_offset(),
            mm_brk: btf.member("mm_struct", "brk")?.byte_offset(),
        })
    }
}
