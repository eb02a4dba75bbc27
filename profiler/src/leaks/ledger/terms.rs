//! What the ledger is told, and what it answers.

/// What the outside calls a call site: any number, as long as it stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteIndex(pub u32);

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sites; samples of further ones are `other`.
    pub sites: usize,
    /// Live samples; further ones are refused. As the kernel's map.
    pub live: usize,
    /// Windows of all sites together; beyond, they become coarser.
    pub windows: usize,
    /// Records of runtimes' profiles; further ones are refused.
    pub records: usize,
    /// Buckets of ages of all sites together; beyond, a block is booked into the nearest one that its site has.
    pub buckets: usize,
    /// Length of a window at the beginning; it doubles when 64 are full.
    pub window_ns: u64,
    /// A site that has no live sample and did nothing for so long gives up its place when another needs it.
    pub idle_ns: u64,
    /// Frees of samples that aren't known (yet) that are remembered.
    pub early: usize,
    /// Live samples of this age are worth being looked for in memory.
    pub old_ns: u64,
    /// Samples named by [`Ledger::candidates`], at most.
    pub candidates: usize,
    /// Samples of one site among them, at most.
    pub candidates_of_site: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sites: 20_000,
            live: 65_536,
            windows: 200_000,
            records: 262_144,
            buckets: 200_000,
            window_ns: 1_000_000_000,
            idle_ns: 600_000_000_000,
            early: 4096,
            old_ns: 60_000_000_000,
            candidates: 4096,
            candidates_of_site: 128,
        }
    }
}

/// A block that was allocated and chosen.
#[derive(Clone, Copy, Debug)]
pub struct NewSample {
    /// Its name, see `SampleHeader::id`.
    pub id: u64,
    /// The process.
    pub pid: u32,
    /// `Switches::epoch` of the target's slot.
    pub epoch: u32,
    /// Who called.
    pub site: SiteIndex,
    /// Where it lies.
    pub address: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// The threshold of its draw.
    pub threshold: u64,
    /// When: nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

/// One record of the profile that a runtime keeps of its heap, as it stands now.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Names the record within its process: it is the same in every reading.
    pub record: u64,
    /// Bytes of one object.
    pub size: u64,
    /// What one sampled object stands for; as long as the rate stays the same, so does this.
    pub weight: f64,
    /// Sampled objects allocated since the program began.
    pub allocs: u64,
    /// Of those, freed.
    pub frees: u64,
}

/// Where a new sample went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// To its site; the site named gave up its place for it and is forgotten.
    Site(Option<SiteIndex>),
    /// There is no place for its site: to `other`.
    Other,
    /// Nowhere: too many live samples or records, or its id is known already.
    Refused,
}

/// What was seen of one block when the process's memory was searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The sample.
    pub id: u64,
    /// Something points to it.
    pub referenced: bool,
}

/// What could not be booked as it was told, and what was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ends of samples that aren't known: discarded or refused ones, and early ones.
    pub unknown: u64,
    /// Of those, the ones whose beginning was told later.
    pub early: u64,
    /// Samples refused because too many live, and readings of records that had no place.
    pub refused: u64,
    /// Samples with the id of one that lives.
    pub repeated: u64,
    /// Samples that went to `other`.
    pub other: u64,
    /// Samples whose end was not seen.
    pub gone: u64,
    /// Samples whose process ended.
    pub ended: u64,
    /// Idle sites that gave up their place.
    pub forgotten: u64,
}
