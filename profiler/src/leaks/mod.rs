//! Leaks: what the sampled blocks say of every call site. Pure: samples in, figures and verdicts out.
//!
//! `ledger` keeps the live samples and what each site has done, within a fixed bound; `estimate` makes figures with intervals
//! of weighted samples; `judge` says of each site and of the whole whether it leaks. docs/leaks.md has the method and its sources.

pub mod chance;
pub mod discovery;
pub mod form;
pub mod judge;
pub mod survival;
pub mod trend;
pub mod wording;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::stack::Stack;

pub mod estimate;
pub mod ledger;
mod lifetimes;
mod site;
mod windows;

/// An estimate with its interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The estimate itself, unbiased.
    #[serde(with = "form::number")]
    pub value: f64,
    /// Lower end of the 95 % interval.
    #[serde(with = "form::number")]
    pub low: f64,
    /// Upper end.
    #[serde(with = "form::number")]
    pub high: f64,
}

/// What is said of a site, or of all together. In the order of concern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It grows, doesn't slow down, and what it leaves is never given back.
    Leaking,
    /// It grows; whether it will level off can't be told yet (warm-up, a cache that fills).
    Growing,
    /// It doesn't grow.
    Steady,
    /// Too little is known; the reason says what is missing.
    #[default]
    Unjudged,
}

impl Verdict {
    /// Every verdict, in the order of concern.
    pub const ALL: [Self; 4] = [Self::Leaking, Self::Growing, Self::Steady, Self::Unjudged];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leaking => "leaking",
            Self::Growing => "growing",
            Self::Steady => "steady",
            Self::Unjudged => "unjudged",
        }
    }
}

/// A verdict and what it rests on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Bytes per second by which it grows (leaking: which are lost); `None` if unjudged.
    #[serde(rename = "bytes_per_second")]
    pub rate: Option<Estimate>,
    /// How sure the verdict is, 0 to 1: one minus the rate of false alarms at which it would just be given (after correction
    /// for the number of sites).
    #[serde(with = "form::number")]
    pub confidence: f64,
    /// Since when it grows, if it does.
    #[serde(with = "form::optional_moment")]
    pub since: Option<SystemTime>,
    /// Why, in one sentence for people; of an unjudged one, what is missing.
    pub reason: String,
}

/// Where samples come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Allocator calls.
    Allocator,
    /// Pages touched for the first time: whatever grows the process, in any language.
    Growth,
    /// The profile of the heap that Go's runtime keeps itself.
    #[serde(rename = "go")]
    Runtime,
}

impl Source {
    /// Every source; of two that would do, the one that comes first.
    pub const ALL: [Self; 3] = [Self::Allocator, Self::Runtime, Self::Growth];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allocator => "allocator",
            Self::Growth => "growth",
            Self::Runtime => "go",
        }
    }
}

/// One moment of one site's history.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// When.
    #[serde(with = "form::moment")]
    pub at: SystemTime,
    /// Estimated live bytes.
    #[serde(with = "form::number")]
    pub live_bytes: f64,
}

/// Anonymous memory at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnonPoint {
    /// When.
    #[serde(with = "form::moment")]
    pub at: SystemTime,
    /// Anonymous memory (`RssAnon`) of the target's living processes.
    pub anon_bytes: u64,
}

/// How old the live blocks are, by bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ages {
    /// Half of the bytes are older.
    #[serde(rename = "median_seconds", with = "form::seconds")]
    pub median: Duration,
    /// The oldest sampled block.
    #[serde(rename = "oldest_seconds", with = "form::seconds")]
    pub oldest: Duration,
}

/// Everything that is told of one call site of one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteReport {
    /// Short and stable: the same stack has the same id everywhere (see `RawStack`). 12 hexadecimal digits.
    pub id: Arc<str>,
    /// Who calls.
    pub stack: Arc<Stack>,
    /// Where the samples come from.
    pub source: Source,
    /// Bytes that live. From a runtime's profile ([`Source::Runtime`]): also those that were there before.
    pub live_bytes: Estimate,
    /// Blocks that live; see [`Self::live_bytes`].
    pub live_objects: Estimate,
    /// Bytes allocated since attach.
    pub allocated_bytes: Estimate,
    /// Blocks allocated since attach.
    pub allocated_objects: Estimate,
    /// Bytes allocated per second, of late.
    #[serde(rename = "allocated_bytes_per_second", with = "form::number")]
    pub allocation_rate: f64,
    /// Bytes given back per second, of late.
    #[serde(rename = "freed_bytes_per_second", with = "form::number")]
    pub free_rate: f64,
    /// How old the live blocks are; zero if nobody knows, as of a runtime's profile.
    pub ages: Ages,
    /// The part of the blocks that is still alive after one second, ten, a hundred and so on (Kaplan and Meier's estimate);
    /// as far as blocks of that age were seen. Empty if nobody knows ages.
    #[serde(with = "form::survival")]
    pub survival: Vec<(Duration, f64)>,
    /// Samples that all of this rests on: drawn since attach, and alive (of a runtime's profile with those from before).
    #[serde(with = "form::samples")]
    pub samples: (u64, u64),
    /// Of the old live samples that were looked for, how many nothing in the process's memory points to: `(looked for,
    /// pointed to by nothing)`; `None` if nobody has looked.
    #[serde(with = "form::unreferenced")]
    pub unreferenced: Option<(u32, u32)>,
    /// The verdict.
    pub judgement: Judgement,
    /// Live bytes over time, at most 64 points, evenly spread.
    pub history: Vec<Point>,
}

/// What there was before anything was watched. No figure of sites has any of it, but for live bytes and objects that a
/// runtime's profile tells of ([`Source::Runtime`]); no verdict has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// Anonymous memory (`RssAnon`) of the processes when their observation began.
    pub anon_bytes: u64,
    /// What the allocator itself said it had in use, if that could be read: of a runtime's profile, what its first reading says
    /// lived (an estimate from its samples).
    pub allocator_bytes: Option<u64>,
}

/// Everything that is told of one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetReport {
    /// Value of the `target` label.
    pub target: Arc<str>,
    /// Its processes, those that have ended included.
    pub pids: Vec<u32>,
    /// Where the samples come from; `None` if there are none, and why.
    #[serde(with = "form::source")]
    pub source: Result<Source, String>,
    /// One sample per so many bytes, on average, at present.
    pub sample_bytes: u64,
    /// When watching began.
    #[serde(with = "form::moment")]
    pub since: SystemTime,
    /// For how long.
    #[serde(rename = "watched_seconds", with = "form::seconds")]
    pub watched: Duration,
    /// What was there already.
    pub before: Before,
    /// Anonymous memory now.
    pub anon_bytes: u64,
    /// Bytes that live, all sites together, `other` included.
    pub live_bytes: Estimate,
    /// How much of the growth of anonymous memory since the beginning the live bytes explain; `None` while it hasn't grown
    /// by enough to tell (1 MiB).
    pub explained: Option<Estimate>,
    /// The verdict on all together.
    pub judgement: Judgement,
    /// The sites: verdicts of concern first, then by rate, then by live bytes. Bounded.
    pub sites: Vec<SiteReport>,
    /// Sites that had no place any more, together: how many samples, and their live bytes.
    #[serde(with = "form::other")]
    pub other: (u64, Estimate),
    /// Samples that all of this rests on, those of sites that aren't listed included: drawn since attach, and alive.
    #[serde(with = "form::samples")]
    pub samples: (u64, u64),
    /// What was lost: reason and count, all reasons also at zero.
    #[serde(with = "form::counts")]
    pub losses: Vec<(String, u64)>,
    /// The process has ended, and how, if it has: this is the last picture of it.
    pub ended: Option<String>,
    /// Live bytes of all sites over time, at most 64 points, evenly spread.
    pub history: Vec<Point>,
    /// Anonymous memory over time, at most 64 points.
    pub anon_history: Vec<AnonPoint>,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// When.
    #[serde(with = "form::moment")]
    pub taken_at: SystemTime,
    /// The targets, in the order in which they came.
    pub targets: Vec<TargetReport>,
}

// ---- between `ledger` and `judge` ----

/// A sample that lives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LiveSample {
    /// When it was allocated: nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// What it stands for (`profiler_common::sample::weight`): at least 1.
    pub weight: f64,
}

/// Objects of one size that a runtime's profile has counted: they came between two readings, and at least so many that came
/// then or later live, whatever order they were freed in (docs/leaks.md, "What a runtime tells").
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stay {
    /// Not before this (`CLOCK_MONOTONIC`).
    pub from_ns: u64,
    /// Not after this.
    pub to_ns: u64,
    /// Sampled objects.
    pub n: u64,
    /// Bytes of each.
    pub size: u64,
    /// What each of them stands for.
    pub weight: f64,
}

/// Sums of weighted samples; adding and taking away keep all of them exact enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sum {
    /// Samples.
    pub n: u64,
    /// Sum of weights: blocks.
    pub objects: f64,
    /// Sum of weight times size: bytes.
    pub bytes: f64,
    /// Sum of weight times (weight - 1): the variance of `objects` (Horvitz and Thompson, for independent draws).
    pub objects_variance: f64,
    /// Sum of size squared times weight times (weight - 1): the variance of `bytes`.
    pub bytes_variance: f64,
    /// Sum of size times (weight - 1): the part of `bytes` beyond the sampled blocks themselves. Only this part is uncertain.
    pub unseen_bytes: f64,
}

/// What a site did in one window of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    /// From here (`CLOCK_MONOTONIC`).
    pub begin_ns: u64,
    /// To here.
    pub end_ns: u64,
    /// Blocks allocated in it.
    pub allocated: Sum,
    /// Those of them that still live.
    pub surviving: Sum,
    /// Blocks freed in it, whenever they were allocated.
    pub freed: Sum,
    /// The least of what lived at any moment of it: robust against teeth of a saw.
    pub floor: Sum,
    /// What lived at its end.
    pub live_at_end: Sum,
}

/// How old blocks were when they were given back: one bucket for each power of two of nanoseconds (bucket `b`: at least
/// `2^b`, below `2^(b+1)`; bucket 0 also what is younger, and all that lived less than `2^20` ns, about a millisecond).
#[derive(Clone, Debug, PartialEq)]
pub struct Lifetimes {
    /// By bucket.
    pub freed: [Sum; 64],
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { freed: [Sum::default(); 64] }
    }
}

/// What is known of one site, for the judge.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// Windows of equal length from the beginning of the watch to now, at most 64; the last one may be shorter.
    pub windows: Vec<Window>,
    /// Everything that lives.
    pub live: Vec<LiveSample>,
    /// How old blocks were when freed.
    pub lifetimes: Lifetimes,
    /// See [`SiteReport::unreferenced`]; only blocks that were old enough and found so twice.
    pub unreferenced: Option<(u32, u32)>,
    /// A runtime with a garbage collector has told this, up to the end of the last window: nobody knows which object was freed,
    /// and what lives is still pointed to. Then `live` is empty, `stays` isn't, and `lifetimes` are the shortest there can be.
    pub collected: bool,
    /// See there.
    pub stays: Vec<Stay>,
}

/// What all sites of a target have in common, for the judge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Circumstances {
    /// Now: nanoseconds of `CLOCK_MONOTONIC`.
    pub now_ns: u64,
    /// Now, by the wall clock.
    pub now: SystemTime,
    /// How old the oldest living process of the target is.
    pub process_age: Duration,
    /// Growth of blocks that the process still points to is called leaking only after it has gone on, without slowing
    /// down, for this long: nobody can tell a cache that fills from a collection that is never emptied any sooner.
    pub patience: Duration,
}
