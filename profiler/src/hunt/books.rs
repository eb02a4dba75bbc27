//! The books of one target: its ledger, what belongs to it, and its report.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Settings,
    files::Files,
    hunted::Hunted,
    names::{Names, is_made},
    pace::Share,
    profiles::told_by_go,
    sites::{SiteNumber, Sites},
};
use crate::{
    leaks::{
        AnonPoint, Before, Circumstances, Evidence, Judgement, Point, SiteReport, Source, TargetReport,
        Verdict, estimate,
        judge::{judge, judge_whole},
        ledger::{Figures, Ledger, Limits, SiteIndex},
    },
    target::Process,
    worker::Worker,
};

/// Sites that are judged, at most: those where most lives.
const JUDGED: usize = 2_000;
/// Sites in a report, at most.
pub const REPORTED: usize = 200;
/// Readings of anonymous memory that are kept; every second one is dropped when there are more.
const READINGS: usize = 512;
/// Between two readings passes this much, at least.
const READING_NS: u64 = 500_000_000;
/// Processes of a target that are remembered: the latest.
const PIDS: usize = 256;
/// Points of a graph.
const POINTS: usize = 64;
/// Reasons for which samples, or what belongs to them, are lost.
pub const LOSSES: [&str; 12] = [
    "cut_stacks",
    "failed_stacks",
    "refused_stacks",
    "stacks_left_out",
    "sites_full",
    "samples_refused",
    "live_samples_full",
    "late_samples",
    "ends_not_seen",
    "other_source",
    "not_sampled_functions",
    "records_left_out",
];

/// The books of a target.
pub(super) struct Books {
    pub name: Arc<str>,
    pub ledger: Ledger,
    pub source: Result<Source, String>,
    /// What the samples on the books came from.
    pub booked: Option<Source>,
    pub since: (SystemTime, u64),
    /// Processes that belong or have belonged to it, the latest ones.
    pub pids: Vec<u32>,
    /// Living processes.
    pub living: usize,
    /// One sample per so many bytes, at present.
    pub mean: u64,
    pub share: Share,
    pub before: Before,
    anon: VecDeque<(u64, u64)>,
    /// Every so many readings are kept.
    stride: (u64, u64),
    /// When the oldest living process started: seconds since the epoch.
    oldest_start: f64,
    /// Samples that were not booked, by reason.
    pub lost: Lost,
    /// Functions that hand out blocks and aren't sampled.
    pub not_sampled: BTreeSet<&'static str>,
    /// Why the last search of memory said nothing.
    pub search_trouble: Option<String>,
    /// The last report, if it has ended.
    pub last: Option<TargetReport>,
    /// It was killed for memory.
    pub killed_for_memory: bool,
}

/// Samples of a target that were not booked, and stacks that are not whole.
#[derive(Clone, Copy, Default)]
pub(super) struct Lost {
    /// The allocator's own calls: not lost in truth.
    pub of_allocator: u64,
    /// Stacks that aren't known to their end.
    pub cut_stacks: u64,
    /// Stacks that the worker failed at.
    pub failed_stacks: u64,
    /// Stacks that had no place.
    pub refused_stacks: u64,
    /// Stacks that were left out, as too many samples were drawn at once.
    pub left_out: u64,
    /// Samples of a program that was replaced meanwhile.
    pub late: u64,
    /// Samples (or profiles) of processes whose source is another one than the target's.
    pub other_source: u64,
    /// Records of a runtime's profile that weren't read, as there are too many: at most so many at a time.
    pub records_left_out: u64,
}

/// What making a report needs.
pub(super) struct Tools<'a> {
    pub worker: &'a mut Worker,
    pub files: &'a Files,
    pub names: &'a mut Names,
    pub sites: &'a Sites,
    pub settings: &'a Settings,
    /// The target's processes that live, or have just ended.
    pub processes: Vec<Arc<Process>>,
    /// The kernel's map of live samples of this source is full, or nearly: new ones are refused.
    pub full: bool,
    /// This moment by both clocks.
    pub now: (SystemTime, u64),
    /// No more names are asked for after this.
    pub until: Instant,
}

impl Books {
    pub fn new(
        name: Arc<str>,
        source: Result<Source, String>,
        now: (SystemTime, u64),
        limits: Limits,
        mean: u64,
    ) -> Self {
        Self {
            name,
            // How often it is sampled is told when it is known by what.
            ledger: Ledger::new(now.1, limits),
            source,
            booked: None,
            since: now,
            pids: Vec::new(),
            living: 0,
            mean,
            share: Share::default(),
            before: Before::default(),
            anon: VecDeque::new(),
            stride: (1, 0),
            oldest_start: f64::INFINITY,
            lost: Lost::default(),
            not_sampled: BTreeSet::new(),
            search_trouble: None,
            last: None,
            killed_for_memory: false,
        }
    }

    /// Nothing is booked any more, and these processes have what they have.
    pub fn begin_anew(&mut self, processes: &[Arc<Process>], now: (SystemTime, u64), limits: Limits) {
        self.ledger = Ledger::new(now.1, limits);
        self.since = now;
        let usages = processes.iter().filter_map(|process| process.usage().ok());
        self.before = Before {
            anon_bytes: usages.map(|usage| usage.anonymous_memory_bytes).sum(),
            ..Before::default()
        };
        self.anon.clear();
        self.stride = (1, 0);
        self.not_sampled.clear();
    }

    /// One more process belongs to it.
    pub fn enter(&mut self, hunted: &Hunted) {
        if !self.pids.contains(&hunted.pid()) {
            if self.pids.len() >= PIDS {
                self.pids.remove(0);
            }
            self.pids.push(hunted.pid());
        }
        self.living += 1;
        self.last = None;
        self.before.anon_bytes += hunted.before_bytes;
    }

    /// What a process had when it came has gone, with it or with its program.
    pub fn forget_before(&mut self, bytes: u64) {
        self.before.anon_bytes = self.before.anon_bytes.saturating_sub(bytes);
    }

    /// Reads how much anonymous memory its processes have.
    pub fn read_memory<'a>(&mut self, processes: impl Iterator<Item = &'a Hunted>, now_ns: u64) {
        if self.anon.back().is_some_and(|(last_ns, _)| now_ns.saturating_sub(*last_ns) < READING_NS) {
            return;
        }
        let usages: Vec<_> = processes.filter_map(|hunted| hunted.subject.process.usage().ok()).collect();
        // One that is ending has none any more, which isn't what it had.
        let living: Vec<_> = usages.iter().filter(|usage| usage.image.0 != 0).collect();
        if living.is_empty() {
            return;
        }
        self.oldest_start = living.iter().map(|usage| usage.start_time_seconds).fold(f64::INFINITY, f64::min);
        let bytes = living.iter().map(|usage| usage.anonymous_memory_bytes).sum();
        self.stride.1 += 1;
        if !self.stride.1.is_multiple_of(self.stride.0) && !self.anon.is_empty() {
            self.anon.pop_back();
        }
        self.anon.push_back((now_ns, bytes));
        if self.anon.len() > READINGS {
            let mut keep = false;
            self.anon.retain(|_| {
                keep = !keep;
                keep
            });
            self.stride = (self.stride.0 * 2, 0);
        }
    }

    /// The report at this moment; the last one if it has ended.
    pub fn report(&self, tools: &mut Tools<'_>) -> TargetReport {
        self.last.clone().unwrap_or_else(|| self.report_now(tools, None))
    }

    /// The report at this moment. `ended`: how it has ended, if it has.
    pub fn report_now(&self, tools: &mut Tools<'_>, ended: Option<String>) -> TargetReport {
        let (time, now_ns) = tools.now;
        let age =
            time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64() - self.oldest_start;
        let circumstances = Circumstances {
            now_ns,
            now: time,
            process_age: Duration::try_from_secs_f64(age).unwrap_or_default(),
            patience: tools.settings.patience,
        };
        let mut numbers: Vec<(SiteIndex, f64)> =
            self.ledger.sites().map(|(site, live)| (site, live.bytes)).collect();
        numbers.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
        numbers.truncate(JUDGED);
        let judged: Vec<(SiteIndex, Evidence)> = numbers
            .into_iter()
            .filter_map(|(site, _)| Some((site, self.ledger.evidence(site, now_ns)?)))
            .collect();
        let (indices, evidence): (Vec<_>, Vec<_>) = judged.into_iter().unzip();
        let mut judgements = judge(&evidence, &circumstances);
        let anon: Vec<(u64, u64)> = self.anon.iter().copied().collect();
        let total = self.ledger.evidence_of_all(now_ns);
        let mut whole = if self.source.is_ok() {
            judge_whole(&total, &judgements, &anon, &circumstances)
        } else {
            let mut whole = judge_whole(&Evidence::default(), &[], &anon, &circumstances);
            if whole.verdict == Verdict::Unjudged
                && let Err(reason) = &self.source
            {
                whole.reason.clone_from(reason);
            }
            whole
        };
        if whole.verdict == Verdict::Unjudged
            && let Some(names) = self.blind_to()
        {
            whole.reason.push_str(&names);
        }
        if tools.full {
            // What has come since isn't among the samples.
            judgements.iter_mut().chain([&mut whole]).for_each(blind);
        }
        let mut sites: Vec<(SiteIndex, Judgement, Figures)> = indices
            .into_iter()
            .zip(judgements)
            .filter_map(|(site, judgement)| Some((site, judgement, self.ledger.figures(site, now_ns)?)))
            .collect();
        sites.sort_by(by_concern);
        sites.truncate(REPORTED);
        let time_of = |at_ns: u64| time - Duration::from_nanos(now_ns.saturating_sub(at_ns));
        if tools.settings.perf_map {
            name_made_code(tools, sites.iter().map(|(site, _, _)| SiteNumber(site.0)));
        }
        let sites = sites.into_iter().filter_map(|(site, judgement, figures)| {
            let mut report = self.site(tools, SiteNumber(site.0), judgement)?;
            figures.put_into(&mut report, time_of);
            Some(report)
        });
        let sites = sites.collect();
        let (history, samples) = match self.source {
            Ok(_) => {
                let all = self.ledger.figures_of_all(now_ns);
                (all.history, all.samples)
            }
            Err(_) => (Vec::new(), (0, 0)),
        };
        let history =
            history.into_iter().map(|(at_ns, live_bytes)| Point { at: time_of(at_ns), live_bytes }).collect();
        let live_bytes = self.ledger.live_bytes();
        let anon_bytes = anon.last().map_or(0, |(_, bytes)| *bytes);
        TargetReport {
            target: Arc::clone(&self.name),
            pids: self.pids.clone(),
            source: self.source.clone(),
            sample_bytes: self.mean,
            since: self.since.0,
            watched: Duration::from_nanos(now_ns.saturating_sub(self.since.1)),
            before: self.before,
            anon_bytes,
            live_bytes,
            explained: self
                .source
                .as_ref()
                .ok()
                // A collector lets garbage grow beside what lives.
                .filter(|source| **source != Source::Runtime)
                .and_then(|_| estimate::explained(live_bytes, self.before.anon_bytes, anon_bytes)),
            judgement: whole,
            sites,
            other: self.ledger.other(),
            samples,
            losses: self.losses(tools.full),
            ended,
            history,
            anon_history: spread(&anon)
                .map(|(at_ns, anon_bytes)| AnonPoint { at: time_of(at_ns), anon_bytes })
                .collect(),
        }
    }

    fn site(&self, tools: &mut Tools<'_>, number: SiteNumber, judgement: Judgement) -> Option<SiteReport> {
        let raw = tools.sites.stack(number)?;
        let id = Arc::clone(tools.sites.id(number)?);
        let stack = tools.names.of((tools.worker, tools.files), &raw, &self.pids, tools.until);
        let source = *self.source.as_ref().ok()?;
        let stack = if source == Source::Runtime { told_by_go(&stack) } else { stack };
        Some(SiteReport {
            id,
            stack,
            source,
            live_bytes: Default::default(),
            live_objects: Default::default(),
            allocated_bytes: Default::default(),
            allocated_objects: Default::default(),
            allocation_rate: 0.0,
            free_rate: 0.0,
            ages: Default::default(),
            survival: Vec::new(),
            samples: (0, 0),
            unreferenced: None,
            judgement,
            history: Vec::new(),
        })
    }

    /// What is to be known where nothing was found.
    fn blind_to(&self) -> Option<String> {
        if self.not_sampled.is_empty() {
            return None;
        }
        let names: Vec<_> = self.not_sampled.iter().map(|name| name.replace('_', " ")).collect();
        Some(format!("; calls of {} are not sampled (--leaks on)", names.join(", ")))
    }

    fn losses(&self, full: bool) -> Vec<(String, u64)> {
        let counts = self.ledger.counts();
        let told = [
            self.lost.cut_stacks,
            self.lost.failed_stacks,
            self.lost.refused_stacks,
            self.lost.left_out,
            counts.other,
            counts.refused,
            u64::from(full),
            self.lost.late,
            counts.gone,
            self.lost.other_source,
            self.not_sampled.len() as u64,
            self.lost.records_left_out,
        ];
        LOSSES.into_iter().zip(told).map(|(reason, count)| (reason.to_owned(), count)).collect()
    }
}

/// Who can't see what is new must not say that nothing is.
fn blind(judgement: &mut Judgement) {
    if matches!(judgement.verdict, Verdict::Steady | Verdict::Unjudged) {
        let reason =
            "too many sampled blocks live, so that new ones are refused: use a larger --sample-bytes"
                .to_owned();
        *judgement = Judgement { reason, ..Judgement::default() };
    }
}

/// Learns the names of code that was made at run time, of all these sites at once: a perf map is read from end to end.
fn name_made_code(tools: &mut Tools<'_>, sites: impl Iterator<Item = SiteNumber>) {
    let stacks = sites.filter_map(|site| tools.sites.stack(site));
    let addresses: HashSet<u64> = stacks
        .flat_map(|stack| {
            stack.places.iter().filter(|place| is_made(place)).map(|place| place.offset).collect::<Vec<_>>()
        })
        .collect();
    tools.names.ask_made(tools.worker, tools.processes.iter().map(|process| &**process), &addresses);
}

/// At most [`POINTS`] of the readings, the last one among them.
fn spread(readings: &[(u64, u64)]) -> impl Iterator<Item = (u64, u64)> {
    let step = readings.len().div_ceil(POINTS).max(1);
    let last = readings.len().saturating_sub(1);
    readings
        .iter()
        .enumerate()
        .filter(move |(at, _)| (last - at).is_multiple_of(step))
        .map(|(_, reading)| *reading)
}

/// Verdicts of concern first, then by rate, then by what lives.
fn by_concern(one: &(SiteIndex, Judgement, Figures), other: &(SiteIndex, Judgement, Figures)) -> Ordering {
    let rate = |judgement: &Judgement| judgement.rate.map_or(0.0, |rate| rate.value);
    let worry = |verdict: Verdict| !matches!(verdict, Verdict::Leaking | Verdict::Growing);
    let rank = |verdict: Verdict| if worry(verdict) { 2 } else { verdict as u8 };
    rank(one.1.verdict)
        .cmp(&rank(other.1.verdict))
        .then_with(|| match worry(one.1.verdict) {
            true => Ordering::Equal,
            false => rate(&other.1).total_cmp(&rate(&one.1)),
        })
        .then_with(|| other.2.live_bytes.value.total_cmp(&one.2.live_bytes.value))
        .then_with(|| one.0.cmp(&other.0))
}
