//! The figures of one moment.

mod caches;
mod check;
mod counters;
mod formulas;
mod pauses;
mod raw;
mod read;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use counters::{Counters, HeldBack};
pub use formulas::Rules;
pub use pauses::{NewPauses, PauseFollower};
pub use raw::Plan;
pub use read::{Cost, Processors};

/// Pauses that the runtime remembers (`mstats.pause_ns` in Go's src/runtime/mstats.go).
pub const RING: usize = 256;

/// Which of two answers to the same question is given: they differ by what the caches of the processors (`P`) hold back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum View {
    /// What `runtime/metrics` says, and therefore Prometheus' client library: without what the caches hold back.
    #[default]
    Metrics,
    /// What `runtime.ReadMemStats` says, after stopping the world: with it.
    MemStats,
}

/// What the runtime says of itself at one moment. Names are those of `runtime.MemStats` (Go's src/runtime/mstats.go), where
/// their meaning is told; sizes are bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// `runtime.NumGoroutine`.
    pub goroutines: u64,
    /// Threads that the runtime has created and not ended.
    pub threads: u64,
    /// `GOMAXPROCS`.
    pub gomaxprocs: u64,
    /// `runtime.NumCPU`, if it is known where.
    pub cpus: Option<u64>,
    /// `Alloc`, which is `HeapAlloc`: bytes of heap objects.
    pub alloc: u64,
    /// `TotalAlloc`: only grows.
    pub total_alloc: u64,
    /// `Sys`.
    pub sys: u64,
    /// `Mallocs`: only grows.
    pub mallocs: u64,
    /// `Frees`: only grows.
    pub frees: u64,
    /// `HeapSys`.
    pub heap_sys: u64,
    /// `HeapIdle`.
    pub heap_idle: u64,
    /// `HeapInuse`.
    pub heap_inuse: u64,
    /// `HeapReleased`.
    pub heap_released: u64,
    /// `HeapObjects`.
    pub heap_objects: u64,
    /// `StackInuse`.
    pub stack_inuse: u64,
    /// `StackSys`.
    pub stack_sys: u64,
    /// `MSpanInuse`.
    pub mspan_inuse: u64,
    /// `MSpanSys`.
    pub mspan_sys: u64,
    /// `MCacheInuse`.
    pub mcache_inuse: u64,
    /// `MCacheSys`.
    pub mcache_sys: u64,
    /// `BuckHashSys`.
    pub buck_hash_sys: u64,
    /// `GCSys`.
    pub gc_sys: u64,
    /// `OtherSys`.
    pub other_sys: u64,
    /// `NextGC`.
    pub next_gc: u64,
    /// `LastGC`: nanoseconds since the unix epoch; zero before the first.
    pub last_gc: u64,
    /// `PauseTotalNs`: only grows.
    pub pause_total_ns: u64,
    /// `NumGC`: only grows.
    pub num_gc: u32,
    /// `NumForcedGC`: only grows.
    pub num_forced_gc: u32,
    /// `GCCPUFraction`.
    pub gc_cpu_fraction: f64,
    /// `GOGC`; below zero if it is off.
    pub gc_percent: i32,
    /// `GOMEMLIMIT`; the largest number if there is none.
    pub memory_limit: i64,
    /// `PauseNs` and `PauseEnd` of the cycles that are remembered (at most [`RING`]), the newest last: nanoseconds, and when
    /// it ended in nanoseconds since the unix epoch.
    pub pauses: Vec<(u64, u64)>,
}

impl Figures {
    /// The five quantiles of the remembered pauses, in nanoseconds, as `debug.ReadGCStats` has them: least, quarters, most.
    pub fn pause_quantiles(&self) -> [u64; 5] {
        let mut sorted: Vec<u64> = self.pauses.iter().map(|(length, _)| *length).collect();
        sorted.sort_unstable();
        let Some(last) = sorted.last().copied() else { return [0; 5] };
        let at = |quarter: usize| sorted.get(sorted.len() * quarter / 4).copied().unwrap_or(last);
        [at(0), at(1), at(2), at(3), last]
    }
}
