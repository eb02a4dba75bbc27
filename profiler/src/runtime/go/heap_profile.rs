//! The profile of the heap that the runtime keeps itself.

use serde::Serialize;

/// One call path of the profile, as the runtime counted it: sampled, not scaled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Bytes of one object.
    pub size: u64,
    /// Addresses in the process that calls return to, innermost first.
    pub stack: Vec<u64>,
    /// Sampled objects allocated.
    pub allocs: u64,
    /// Of those, freed.
    pub frees: u64,
}

/// The profile of one moment: of the end of the last completed garbage collection, as `runtime/pprof` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeapProfile {
    /// One sample per so many bytes on average (`runtime.MemProfileRate`).
    pub rate: u64,
    /// The runtime's count of profile cycles: as long as it stays the same, so does the profile.
    pub cycle: u32,
    /// All records with any allocation.
    pub records: Vec<Record>,
    /// Records that were left out because there are too many.
    pub left_out: u64,
}

impl HeapProfile {
    /// What one sampled object of a size stands for: the inverse of the chance that it is sampled, as pprof scales
    /// (Go's src/runtime/pprof/protomem.go, `scaleHeapSample`).
    pub fn weight(&self, size: u64) -> f64 {
        if self.rate <= 1 || size == 0 {
            return 1.0;
        }
        1.0 / -(-(size as f64) / self.rate as f64).exp_m1()
    }
}
