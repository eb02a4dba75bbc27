//! The one door to the kernel's BPF side, and the only room that names `aya`.
//!
//! `support` gathers facts, `plan` decides from them (pure), `loader` acts, `place` places probes (with `sys` for what aya
//! can't do), `returns` finds out whether returns can be taken, `alloc`, `sched`, `mapping` and `stops` attach and read the probe
//! families, `sample` reads samples, `process` tells what happens to processes. Everything attached hangs on descriptors of this process: when it ends, however it ends, the
//! kernel takes every probe away.

mod alloc;
mod btf;
mod cpu_sample;
mod growth;
mod loader;
mod log;
mod mapping;
mod place;
mod plan;
mod process;
mod returns;
mod sample;
mod sched;
mod stops;
mod support;
mod sys;
mod tracefs;

use std::io;

use thiserror::Error;

pub use alloc::{AllocLink, SiteId, SitePlan};
pub use btf::{Btf, BtfError};
pub use cpu_sample::{CpuSample, sample_threads};
pub use growth::LivePages;
pub use loader::{Kernel, OBJECT, Sizes};
pub use log::KernelLog;
pub use place::{Placement, Probes, detach_all};
pub use plan::{Plan, Wanted};
pub use process::{Event, EventReader, EventScope, LoaderLink};
pub use returns::Returns;
pub use sample::{LiveSamples, Sample, SampleControl, SampleError, SampleReader};
pub use sched::{Followed, ThreadRow};
pub use stops::{StopPlaces, StopsLink};
pub use support::{Capability, Facts, SyscallTracepoints};

/// What can go wrong at the door.
#[derive(Debug, Error)]
pub enum KernelError {
    /// This machine, or our rights on it, don't allow what was asked for. One sentence with the way out.
    #[error("{0}")]
    Unsupported(String),
    /// The embedded object and this code disagree; a defect of the build.
    #[error("the embedded BPF object has no {kind} `{name}`")]
    Missing {
        /// Program or map.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// Loading the object (maps, type information) failed.
    #[error("can't load the BPF object: {0}")]
    Load(#[source] Box<aya::EbpfError>),
    /// A program was refused or couldn't be attached.
    #[error("can't {action} the BPF program `{program}`: {source}")]
    Program {
        /// Load or attach.
        action: &'static str,
        /// Its name.
        program: &'static str,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// A probe couldn't be placed.
    #[error("can't place a probe at offset {file_offset:#x} for process {pid}: {source}")]
    Probe {
        /// Target.
        pid: u32,
        /// Where in the file.
        file_offset: u64,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An event of the tracing system couldn't be used.
    #[error("can't count at the kernel's event {event}: {source}")]
    Event {
        /// Its name.
        event: String,
        /// Why.
        source: io::Error,
    },
    /// Reading or writing a map failed.
    #[error("BPF map `{map}`: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        source: Box<aya::maps::MapError>,
    },
    /// The kernel's type information lacks something.
    #[error("this kernel's type information lacks what the programs need: {0}; use --alloc off --stalls off")]
    Btf(#[from] BtfError),
    /// A file of the system can't be read.
    #[error("can't read {path}: {source}")]
    System {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// A record of `profiler-common`, as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
struct Raw<T>(T);

// SAFETY: `Record` promises exactly what `Pod` asks for (repr(C), no padding, every bit pattern valid, no pointers).
unsafe impl<T: profiler_common::Record> aya::Pod for Raw<T> {}

/// The clock of every timestamp that comes from the kernel side: nanoseconds of `CLOCK_MONOTONIC`.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
