//! Profiles for `go tool pprof` and everything else that reads `profile.proto`.
//!
//! Places are named by file and offset and never by address, so that profiles of two runs, machines or moments have the same
//! places and `-diff_base` compares them.

mod builder;
pub mod go;
#[cfg(test)]
mod tests;
mod text;
mod wire;

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use profiler_common::sched::ThreadState;

use self::builder::Builder;
use crate::{
    leaks::{Picture, SiteReport, TargetReport},
    snapshot::LedgerSnapshot,
    stack::{End, Frame},
};

pub use text::text;

/// Which value is shown first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What lives.
    Heap,
    /// What was allocated since attach.
    Allocs,
}

/// What is shown, and how.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Which value is shown first.
    pub kind: Kind,
    /// Only this target; `None` for all.
    pub target: Option<&'a str>,
    /// Path of the target's program, if it is known: it becomes the first file.
    pub program: Option<&'a str>,
}

impl Wish<'_> {
    fn chooses(&self, target: &TargetReport) -> bool {
        self.target.is_none_or(|wanted| *wanted == *target.target)
    }
}

/// The four values of a heap profile, in the order that all readers expect.
const HEAP_TYPES: [(&str, &str); 4] = [
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
];

/// One line of a heap profile.
struct Row<'a> {
    target: &'a str,
    /// Empty for the sites that had no place.
    site: &'a str,
    verdict: &'static str,
    pid: Option<u32>,
    /// Innermost first.
    frames: &'a [Frame],
    end: End,
    /// In the order of [`HEAP_TYPES`].
    values: [f64; 4],
}

impl<'a> Row<'a> {
    fn of_site(target: &'a TargetReport, site: &'a SiteReport) -> Self {
        let values = [
            site.allocated_objects.value,
            site.allocated_bytes.value,
            site.live_objects.value,
            site.live_bytes.value,
        ];
        Self {
            target: &target.target,
            site: &site.id,
            verdict: site.judgement.verdict.name(),
            pid: only_pid(target),
            frames: &site.stack.frames,
            end: site.stack.end,
            values,
        }
    }

    /// What the sites without a place have together; of them only the live bytes are known.
    fn of_others(target: &'a TargetReport) -> Self {
        let values = [0.0, 0.0, 0.0, target.other.1.value];
        let pid = only_pid(target);
        Self { target: &target.target, site: "", verdict: "", pid, frames: &[], end: End::Complete, values }
    }

    fn rounded(&self) -> [i64; 4] {
        // What is no number becomes zero, what is too large the largest.
        self.values.map(|value| value.round() as i64)
    }
}

fn only_pid(target: &TargetReport) -> Option<u32> {
    match target.pids.as_slice() {
        [one] => Some(*one),
        _ => None,
    }
}

fn rows<'a>(picture: &'a Picture, wish: &Wish<'_>) -> Vec<Row<'a>> {
    let chosen = picture.targets.iter().filter(|target| wish.chooses(target));
    let of_target = |target: &'a TargetReport| {
        target.sites.iter().map(|site| Row::of_site(target, site)).chain(Some(Row::of_others(target)))
    };
    chosen.flat_map(of_target).collect()
}

/// What lives and what was allocated, by site.
pub fn heap(picture: &Picture, wish: &Wish<'_>) -> Vec<u8> {
    let watched = watched(picture, wish);
    encode(&rows(picture, wish), picture, watched, wish)
}

/// What has changed from one picture to a later one: values below zero where less lives than did, as `-diff_base` has them.
pub fn difference(later: &Picture, earlier: &Picture, wish: &Wish<'_>) -> Vec<u8> {
    let passed = later.taken_at.duration_since(earlier.taken_at).unwrap_or_default();
    encode(&changes(later, earlier, wish), later, passed, wish)
}

/// The rows of both, the earlier ones taken away.
fn changes<'a>(later: &'a Picture, earlier: &'a Picture, wish: &Wish<'_>) -> Vec<Row<'a>> {
    let mut rows = rows(later, wish);
    let mut places: HashMap<_, _> =
        rows.iter().enumerate().map(|(place, row)| ((row.target, row.site), place)).collect();
    for mut row in self::rows(earlier, wish) {
        row.values = row.values.map(|value| -value);
        match places.get(&(row.target, row.site)).copied().and_then(|place| rows.get_mut(place)) {
            Some(same) => same.values.iter_mut().zip(row.values).for_each(|(sum, value)| *sum += value),
            None => {
                places.insert((row.target, row.site), rows.len());
                rows.push(row);
            }
        }
    }
    rows
}

/// The longest that a chosen target has been watched.
fn watched(picture: &Picture, wish: &Wish<'_>) -> Duration {
    let chosen = picture.targets.iter().filter(|target| wish.chooses(target));
    chosen.map(|target| target.watched).max().unwrap_or_default()
}

fn encode(rows: &[Row<'_>], picture: &Picture, lasted: Duration, wish: &Wish<'_>) -> Vec<u8> {
    let mut out = Builder::new();
    let shown = match wish.kind {
        Kind::Heap => "inuse_space",
        Kind::Allocs => "alloc_space",
    };
    out.values(&HEAP_TYPES, shown);
    let period = picture.targets.iter().find(|target| wish.chooses(target));
    out.period("space", "bytes", period.map_or(1, |target| target.sample_bytes));
    times(&mut out, picture.taken_at, lasted);
    if let Some((build, object)) = program(rows, wish.program) {
        out.mapping(build, object);
    }
    out.comment("values are estimates made from samples, rounded; /api/v1/leaks has their 95 % intervals");
    out.comment("what was allocated before profiler was there is not in it");
    for row in rows {
        let values = row.rounded();
        if values == [0; 4] {
            continue;
        }
        let mut stack: Vec<_> = row.frames.iter().map(|frame| out.location(frame)).collect();
        if row.site.is_empty() {
            stack.push(out.word("[other sites]"));
        } else if row.end != End::Complete || stack.is_empty() {
            stack.push(out.word(&format!("[{}]", row.end.name())));
        }
        let pid = row.pid.map(|pid| pid.to_string()).unwrap_or_default();
        let labels = [("target", row.target), ("site", row.site), ("verdict", row.verdict), ("pid", &pid)];
        out.sample(stack, values.to_vec(), &labels);
    }
    out.finish()
}

/// The program's own file, which readers take for the first one: as it is known, or else that of the outermost frames.
fn program<'a>(rows: &[Row<'a>], known: Option<&'a str>) -> Option<(&'a str, &'a str)> {
    let whole = || rows.iter().filter(|row| row.end == End::Complete).filter_map(|row| row.frames.last());
    let Some(known) = known else {
        let start = |frame: &&Frame| frame.functions.iter().any(|function| &*function.name == "_start");
        let frame = whole().find(start).or_else(|| whole().next())?;
        return Some((&frame.place.build, &frame.object));
    };
    let frame = rows.iter().flat_map(|row| row.frames).find(|frame| &*frame.object == known);
    Some(frame.map_or((known, known), |frame| (&*frame.place.build, &*frame.object)))
}

fn times(out: &mut Builder<'_>, at: SystemTime, lasted: Duration) {
    let nanoseconds = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    out.profile.time_nanos = nanoseconds(at.duration_since(UNIX_EPOCH).unwrap_or_default());
    out.profile.duration_nanos = nanoseconds(lasted);
}

/// A target's stalls: its name, its thread time and how long it has been observed.
#[derive(Clone, Copy, Debug)]
pub struct Stalls<'a> {
    /// Name of the target.
    pub target: &'a str,
    /// Its thread time.
    pub ledger: &'a LedgerSnapshot,
    /// Its thread time at an earlier moment, to be taken away; nothing for the whole time.
    pub earlier: Option<&'a LedgerSnapshot>,
}

/// Where threads stood still, by cause. There are no stacks of them: each cause is a word, and under it what was long enough
/// to be a stall, and the rest. Sleeping isn't in it.
pub fn offcpu(targets: &[Stalls<'_>], taken_at: SystemTime, lasted: Duration) -> Vec<u8> {
    let mut out = Builder::new();
    out.values(&[("contentions", "count"), ("delay", "nanoseconds")], "delay");
    out.period("contentions", "count", 1);
    times(&mut out, taken_at, lasted);
    out.comment("exact; causes instead of stacks; sleeping by a thread's own wish is not in it");
    for target in targets {
        for (cause, stalled, count, waited) in causes(target) {
            let root = out.word(&format!("[{cause}]"));
            let rest = waited.saturating_sub(stalled).max(0);
            for (name, count, delay) in [("stalls", count, stalled), ("short or not over yet", 0, rest)] {
                if (count, delay) == (0, 0) {
                    continue;
                }
                let leaf = out.word(&format!("[{cause}: {name}]"));
                out.sample(
                    vec![leaf, root],
                    vec![count, delay],
                    &[("target", target.target), ("cause", cause)],
                );
            }
        }
    }
    out.finish()
}

/// By cause: nanoseconds in stalls, how many stalls, and nanoseconds in that state altogether.
fn causes(target: &Stalls<'_>) -> impl Iterator<Item = (&'static str, i64, i64, i64)> {
    let nothing = LedgerSnapshot::default();
    let (now, before) = (*target.ledger, target.earlier.copied().unwrap_or(nothing));
    ThreadState::ALL.into_iter().filter_map(move |state| {
        let cause = state.stall()?;
        let (stalls, earlier) = (&now.stalls[cause as usize], &before.stalls[cause as usize]);
        let since = |now: u64, before: u64| i64::try_from(now.saturating_sub(before)).unwrap_or(i64::MAX);
        Some((
            cause.name(),
            since(stalls.total_ns, earlier.total_ns),
            since(stalls.count(), earlier.count()),
            since(now.ledger.spent_ns[state as usize], before.ledger.spent_ns[state as usize]),
        ))
    })
}
