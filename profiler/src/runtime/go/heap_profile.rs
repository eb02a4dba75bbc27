//! The profile of the heap that the runtime keeps itself (Go's src/runtime/mprof.go): a list of buckets, one for each call
//! path and size, with what was allocated and freed there.

mod buckets;

use std::{thread, time::Duration};

use serde::Serialize;

use super::GoError;
use crate::{
    binary::go::{Layout, Places},
    runtime::{Memory, u32_at, u64_at},
};

pub use buckets::BucketCache;
use buckets::PARTS;

/// How often a profile is read again that changed meanwhile.
const TRIES: u32 = 8;
/// The rest between tries while the runtime moves counts from one stage to the next: it does that bucket by bucket.
const REST: Duration = Duration::from_millis(2);
/// More objects than can ever have been sampled: what says so is no record.
const MOST_OBJECTS: u64 = 1 << 48;
/// Stages of the profile that are not over yet (`memRecord.future`).
const FUTURES: usize = 3;

/// One call path of the profile, as the runtime counted it: sampled, not scaled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Bytes of one object.
    pub size: u64,
    /// Addresses in the process that calls return to, innermost first. Each stands for one function, inlined or not: of what
    /// is inlined there, the innermost.
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

/// How many of a stack's innermost functions are the allocator's own, which pprof doesn't show; none if all are. From Go 1.24
/// parts of the runtime have a package of their own (src/runtime/pprof/protomem.go).
pub fn runtime_frames<'a>(names: impl IntoIterator<Item = &'a str>) -> usize {
    let is_own = |name: &str| name.starts_with("runtime.") || name.starts_with("internal/runtime/");
    // If all are, none is left out.
    names.into_iter().position(|name| !is_own(name)).unwrap_or(0)
}

/// Reads the profile. `bias` is what is added to the file's addresses; `cache` belongs to this process and program alone, and
/// makes that further profiles are read by one call per 1024 records.
///
/// # Errors
///
/// If the program keeps no profile, memory can't be read, what it holds contradicts itself, or it changes all the time.
pub fn read(
    memory: &impl Memory,
    places: &Places,
    bias: u64,
    cache: &mut BucketCache,
) -> Result<HeapProfile, GoError> {
    let at = Addresses::of(places, bias)?;
    let mut last = Err(GoError::Restless(TRIES));
    for _ in 0..TRIES {
        let (rate, before) = at.state(memory)?;
        if rate <= 0 {
            return Err(GoError::Unavailable(
                "the program's linker has left memory profiling out: nothing in it reaches runtime.MemProfile (import \
                 runtime/pprof or net/http/pprof to have it); or it has set runtime.MemProfileRate to 0"
                    .to_owned(),
            ));
        }
        let head = u64_at(&memory.read(&[(at.buckets, 8)])?, 0);
        cache.follow(memory, &places.layout, head)?;
        let counts = counts(memory, &places.layout, cache)?;
        if at.state(memory)? != (rate, before) {
            continue;
        }
        let (cycle, flushed) = (before >> 1, before & 1 == 1);
        let index = cycle as usize % FUTURES;
        // The mark is set first; then what is flushed is moved to the active stage, bucket by bucket.
        let moving = flushed && counts.iter().any(|counts| counts.future[index] != Stage::default());
        if moving {
            last = Err(GoError::Restless(TRIES));
            thread::sleep(REST);
            continue;
        }
        last = profile(cache, (rate.unsigned_abs(), cycle), &counts);
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Where the runtime keeps its profile, in the process.
struct Addresses {
    buckets: u64,
    cycle: u64,
    rate: u64,
}

impl Addresses {
    fn of(places: &Places, bias: u64) -> Result<Self, GoError> {
        let found = |address: Option<u64>, name: &str| {
            let address = address.ok_or_else(|| {
                GoError::Unavailable(format!(
                    "where the runtime keeps its heap profile isn't known: no runtime.{name}"
                ))
            })?;
            Ok::<_, GoError>(address.wrapping_add(bias))
        };
        Ok(Self {
            buckets: found(places.globals.mbuckets, "mbuckets")?,
            cycle: found(places.globals.mprof_cycle, "mProfCycle")?,
            rate: found(places.globals.mem_profile_rate, "MemProfileRate")?,
        })
    }

    /// `MemProfileRate` and `mProfCycle`.
    fn state(&self, memory: &impl Memory) -> Result<(i64, u32), GoError> {
        let bytes = memory.read(&[(self.rate, 8), (self.cycle, 4)])?;
        Ok((u64_at(&bytes, 0).cast_signed(), u32_at(&bytes, 8)))
    }
}

/// Objects allocated and freed in one stage of the profile (`memRecordCycle`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stage {
    allocs: u64,
    frees: u64,
}

impl Stage {
    fn add(&mut self, other: Self) {
        self.allocs = self.allocs.wrapping_add(other.allocs);
        self.frees = self.frees.wrapping_add(other.frees);
    }
}

/// The counts of a bucket (`memRecord`).
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    active: Stage,
    future: [Stage; FUTURES],
}

/// The counts of all buckets that are known, in their order.
fn counts(memory: &impl Memory, layout: &Layout, cache: &BucketCache) -> Result<Vec<Counts>, GoError> {
    // From Go 1.27 a stage is two words, not four.
    let (size, step) = (layout.record.size as usize, layout.cycle.size as usize);
    let (active, future) = (layout.record.active as usize, layout.record.future as usize);
    let mut all = Vec::with_capacity(cache.buckets().len());
    for batch in cache.buckets().chunks(PARTS) {
        let parts: Vec<_> = batch.iter().map(|bucket| (bucket.record, size)).collect();
        let bytes = memory.read(&parts)?;
        for record in bytes.chunks_exact(size) {
            let stage = |at: usize| Stage {
                allocs: u64_at(record, at + layout.cycle.allocs as usize),
                frees: u64_at(record, at + layout.cycle.frees as usize),
            };
            let future = [0, 1, 2].map(|index| stage(future + index * step));
            all.push(Counts { active: stage(active), future });
        }
    }
    Ok(all)
}

/// Adds up what belongs to the profile, exactly as `runtime.memProfileInternal` does: the stage of this cycle, which may not
/// be flushed yet; and all stages as long as there is nothing else, which is before the first garbage collection.
fn profile(
    cache: &BucketCache,
    (rate, cycle): (u64, u32),
    counts: &[Counts],
) -> Result<HeapProfile, GoError> {
    let index = cycle as usize % FUTURES;
    let flushed = counts.iter().map(|counts| {
        let mut sum = counts.active;
        sum.add(counts.future[index]);
        sum
    });
    let mut sums: Vec<Stage> = flushed.collect();
    if sums.iter().all(|sum| *sum == Stage::default()) {
        for (sum, counts) in sums.iter_mut().zip(counts) {
            counts.future.iter().for_each(|stage| sum.add(*stage));
        }
    }
    let mut records = Vec::new();
    for (bucket, sum) in cache.buckets().iter().zip(sums) {
        if sum.allocs > MOST_OBJECTS || sum.frees > sum.allocs {
            let Stage { allocs, frees } = sum;
            return Err(GoError::Contradiction(format!(
                "of {allocs} sampled objects of one call path {frees} were freed"
            )));
        }
        if sum.allocs > 0 {
            let stack = cache.stack(bucket).to_vec();
            records.push(Record { size: bucket.size, stack, allocs: sum.allocs, frees: sum.frees });
        }
    }
    Ok(HeapProfile { rate, cycle, records, left_out: cache.left_out() })
}
