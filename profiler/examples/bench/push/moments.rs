//! Made-up moments of one target that is looked at with everything, and the points that the profiler makes of them.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use profiler::{
    binary::{Allocator, Layer},
    export::{
        families::{Context, Families},
        line_protocol::{Encoder, Options},
        points::{self, Common},
    },
    leaks::{Before, Estimate, Judgement, Picture, SiteReport, Source, TargetReport, Verdict},
    snapshot::{
        AllocSnapshot, AllocState, FunctionCounts, LedgerSnapshot, LiveObjects, ProcessInfo, ProcessSnapshot,
        Snapshot, TargetSnapshot,
    },
    stack::{End, Frame, Function, Place, Stack},
    stalls::Ledger,
    target::{ProcessUsage, UsageDetail},
};
use profiler_common::{
    alloc::{AllocCounts, AllocFunction},
    mapping::{KINDS, MappingCounts},
    sched::{CAUSES, STALL_BOUNDS, STATES, StallCounts},
};

/// What points are made with; call sites as the push has them.
pub const CONTEXT: Context =
    Context { stall_threshold: Duration::from_millis(1), max_series: 10_000, top_sites: 25 };
/// Time between two moments.
pub const STEP: Duration = Duration::from_secs(10);
/// Different moments: after so many, the figures (but not the times) are those of before.
const DIFFERENT: u64 = 64;
/// Call sites that it has.
const SITES: u64 = 20;
const FUNCTIONS: [AllocFunction; 6] = [
    AllocFunction::Malloc,
    AllocFunction::Calloc,
    AllocFunction::Realloc,
    AllocFunction::PosixMemalign,
    AllocFunction::AlignedAlloc,
    AllocFunction::Free,
];
const LOSSES: [&str; 4] = ["threads_full", "events_full", "samples_full", "stacks_full"];

/// The points of one moment, as lines.
pub struct Window {
    pub time: SystemTime,
    pub points: u32,
    pub text: String,
}

/// One moment after the other, [`STEP`] apart.
pub struct Moments {
    different: Vec<Snapshot>,
    number: usize,
    next: SystemTime,
    common: Common,
    encoder: Encoder,
}

impl Moments {
    /// Their points have this tag `host`, and the first one this time.
    pub fn new(host: &str, first: SystemTime) -> Self {
        Self {
            different: (0..DIFFERENT).map(|number| snapshot(number, first)).collect(),
            number: 0,
            next: first,
            common: Common { prefix: String::new(), tags: vec![("host".to_owned(), host.to_owned())] },
            encoder: Encoder::new(Options::default()),
        }
    }

    /// The points of the next moment, made as the profiler makes them.
    pub fn window(&mut self) -> Window {
        let at = self.number % self.different.len();
        let snapshot = &mut self.different[at];
        snapshot.taken_at = self.next;
        self.number += 1;
        self.next += STEP;
        let families = Families::of(snapshot, CONTEXT);
        let mut window = Window { time: snapshot.taken_at, points: 0, text: String::new() };
        for point in points::points(&families, points::unix_ns(snapshot.taken_at), &self.common) {
            window.points += u32::from(self.encoder.encode(point, &mut window.text));
        }
        window
    }

    /// The next moment, which is now.
    pub fn now(&mut self) -> Snapshot {
        let at = self.number % self.different.len();
        self.number += 1;
        Snapshot { taken_at: SystemTime::now(), taken: Instant::now(), ..self.different[at].clone() }
    }
}

fn snapshot(number: u64, taken_at: SystemTime) -> Snapshot {
    Snapshot {
        taken_at,
        taken: Instant::now(),
        targets: vec![target(number)],
        losses: LOSSES.map(|reason| (reason, 0)).to_vec(),
        not_observed: vec![("max_targets", 0), ("no_memory", number)],
        forgotten: 0,
        held_back: Duration::ZERO,
        own: Some(usage(number / 9)),
        leaks: Some(Arc::new(picture(number, taken_at))),
        worker: None,
        history: None,
        push: None,
    }
}

fn target(number: u64) -> TargetSnapshot {
    let layer = Layer::Allocator(Allocator::Glibc);
    let function = |(at, function): (usize, &AllocFunction)| {
        let calls = 1_234_567 + number * 98_765 / (at as u64 + 1);
        let counts =
            AllocCounts { allocations: calls, frees: calls - 512, bytes: calls * 173, ..Default::default() };
        FunctionCounts { layer, function: *function, counts, hits: calls + 17, internal: 17 }
    };
    let mut stalls = [StallCounts::default(); CAUSES];
    for (cause, stall) in stalls.iter_mut().enumerate() {
        stall.total_ns = 1_234_567_891 * (cause as u64 + 1) + number * 7_654_321;
        stall.buckets = std::array::from_fn(|at| (STALL_BOUNDS - at) as u64 * (37 + number));
    }
    let spent_ns: [u64; STATES] =
        std::array::from_fn(|at| 987_654_321_012 / (at as u64 + 1) + number * 9_999_888_777);
    let mappings: [MappingCounts; KINDS] = std::array::from_fn(|at| MappingCounts {
        calls: 311 * (at as u64 + 1) + number,
        bytes: (311 * (at as u64 + 1) + number) << 16,
        failed: 0,
    });
    let info = Arc::new(ProcessInfo {
        pid: 4711,
        comm: "shop".to_owned(),
        exe: Some("/usr/lib/shop/bin/shop".to_owned()),
    });
    let detail = UsageDetail {
        memory: None,
        voluntary_switches: 54_321 + number * 311,
        involuntary_switches: 1_234 + number * 7,
        memory_limit_bytes: None,
    };
    TargetSnapshot {
        name: "shop".into(),
        processes: vec![ProcessSnapshot { info, up: true, alloc: AllocState::Counting }],
        processes_seen: 1,
        observed: STEP * u32::try_from(number).unwrap_or(u32::MAX),
        cpu_seconds: 1234.56 + number as f64 * 9.87,
        faults: (123_456 + number * 321, 12),
        usage: Some(usage(number)),
        detail: Some((detail, Instant::now())),
        alloc: AllocSnapshot {
            functions: FUNCTIONS.iter().enumerate().map(function).collect(),
            live: vec![LiveObjects { layer, objects: 543_210 + number as i64 * 3 }],
            ..Default::default()
        },
        ledger: Some(LedgerSnapshot { ledger: Ledger { spent_ns, living: 12, ended: 3 }, stalls }),
        mappings: Some(mappings),
        go: None,
        programs: Vec::new(),
    }
}

fn usage(number: u64) -> ProcessUsage {
    ProcessUsage {
        cpu_seconds: 1234.56 + number as f64 * 9.87,
        open_fds: Some(57 + number % 5),
        max_fds: Some(1024),
        virtual_memory_bytes: 1_234_567_168,
        virtual_memory_max_bytes: None,
        resident_memory_bytes: 123_456_512 + number * 40_960,
        start_time_seconds: 1_767_323_045.12,
        threads: 12,
        anonymous_memory_bytes: 98_765_312 + number * 40_960,
        swap_bytes: 0,
        minor_faults: 123_456 + number * 321,
        major_faults: 12,
        image: (0, 0),
    }
}

fn about(value: f64) -> Estimate {
    Estimate { value, low: value * 0.871, high: value * 1.129 }
}

fn judged(verdict: Verdict, rate: f64) -> Judgement {
    let reason = "it goes up and down and doesn't grow".to_owned();
    Judgement { verdict, rate: Some(about(rate)), confidence: 0.8, since: None, reason }
}

fn picture(number: u64, taken_at: SystemTime) -> Picture {
    let sites: Vec<_> = (0..SITES).map(|site| self::site(site, number)).collect();
    let live = sites.iter().map(|site| site.live_bytes.value).sum();
    let report = TargetReport {
        target: "shop".into(),
        pids: vec![4711],
        source: Ok(Source::Allocator),
        sample_bytes: 524_288,
        since: taken_at,
        watched: Duration::from_secs(3780),
        before: Before { anon_bytes: 52_428_800, allocator_bytes: Some(41_943_040) },
        anon_bytes: 68_157_440 + number * 4096,
        live_bytes: about(live),
        explained: Some(Estimate { value: 0.91, low: 0.84, high: 0.99 }),
        judgement: judged(Verdict::Steady, 12.3 + number as f64),
        sites,
        other: (4, about(132_096.0)),
        samples: (0, 0),
        losses: vec![("samples_full".to_owned(), 0), ("ring_full".to_owned(), 12)],
        ended: None,
        history: Vec::new(),
        anon_history: Vec::new(),
    };
    Picture { taken_at, targets: vec![report] }
}

fn site(site: u64, number: u64) -> SiteReport {
    let function = Function {
        name: format!("shop::cache::Store<Item{site}>::remember").into(),
        file: Some("src/cache.cc".into()),
        line: 44,
    };
    let place = Place { build: "5ca1ab1e00000000000000000000000000000001".into(), offset: 0x3210 + site };
    let frame = Frame { place, object: "/usr/lib/shop/bin/shop".into(), functions: vec![function] };
    let live = 1_000_003.7 * (site + 1) as f64 + 12_345.6 * (number % 9) as f64;
    SiteReport {
        id: format!("{:012x}", 0x3f0a_9c51_e27b_u64 + site * 0x1_2345_6789).into(),
        stack: Arc::new(Stack { frames: vec![frame], end: End::Complete }),
        source: Source::Allocator,
        live_bytes: about(live),
        live_objects: about(live / 64.0),
        allocated_bytes: about(live * 3.0),
        allocated_objects: about(live * 3.0 / 64.0),
        allocation_rate: live / 100.0,
        free_rate: live / 200.0,
        ages: Default::default(),
        survival: Vec::new(),
        samples: (300 + number, 100),
        unreferenced: None,
        judgement: judged(Verdict::Steady, 3.21 * site as f64),
        history: Vec::new(),
    }
}
