//! What a Go program says of its memory, held against figures that were read from outside.

use serde_json::Value;

use super::Tally;

/// At which moment it spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It said what `ReadMemStats` says, and stopped: its caches are empty.
    Post,
    /// It stopped, and said then what `ReadMemStats` says: what its caches hold was in no book yet.
    Pre,
    /// It said what `runtime/metrics` says, and stopped.
    Metrics,
}

impl Moment {
    pub const ALL: [Self; 3] = [Self::Post, Self::Pre, Self::Metrics];

    /// What it is told.
    pub fn command(self) -> &'static str {
        match self {
            Self::Post => "post",
            Self::Pre => "pre",
            Self::Metrics => "rm",
        }
    }
}

/// Ours, and Go's.
const MEM_STATS: [(&str, &str); 24] = [
    ("alloc", "Alloc"),
    ("total_alloc", "TotalAlloc"),
    ("sys", "Sys"),
    ("mallocs", "Mallocs"),
    ("frees", "Frees"),
    ("heap_sys", "HeapSys"),
    ("heap_idle", "HeapIdle"),
    ("heap_inuse", "HeapInuse"),
    ("heap_released", "HeapReleased"),
    ("heap_objects", "HeapObjects"),
    ("stack_inuse", "StackInuse"),
    ("stack_sys", "StackSys"),
    ("mspan_inuse", "MSpanInuse"),
    ("mspan_sys", "MSpanSys"),
    ("mcache_inuse", "MCacheInuse"),
    ("mcache_sys", "MCacheSys"),
    ("buck_hash_sys", "BuckHashSys"),
    ("gc_sys", "GCSys"),
    ("other_sys", "OtherSys"),
    ("next_gc", "NextGC"),
    ("last_gc", "LastGC"),
    ("pause_total_ns", "PauseTotalNs"),
    ("num_gc", "NumGC"),
    ("num_forced_gc", "NumForcedGC"),
];

/// `ReadMemStats` itself takes memory for these when it empties the caches.
const MOVED_BY_ASKING: [&str; 3] = ["sys", "gc_sys", "other_sys"];

/// Ours, and the sums of `runtime/metrics` that it is (Go's own documentation of `runtime/metrics` and of `MemStats`).
const METRICS: [(&str, &[&str]); 20] = [
    ("alloc", &["/memory/classes/heap/objects:bytes"]),
    ("total_alloc", &["/gc/heap/allocs:bytes"]),
    ("sys", &["/memory/classes/total:bytes"]),
    ("mallocs", &["/gc/heap/allocs:objects", "/gc/heap/tiny/allocs:objects"]),
    ("frees", &["/gc/heap/frees:objects", "/gc/heap/tiny/allocs:objects"]),
    ("heap_inuse", &["/memory/classes/heap/objects:bytes", "/memory/classes/heap/unused:bytes"]),
    ("heap_released", &["/memory/classes/heap/released:bytes"]),
    ("heap_idle", &["/memory/classes/heap/released:bytes", "/memory/classes/heap/free:bytes"]),
    (
        "heap_sys",
        &[
            "/memory/classes/heap/objects:bytes",
            "/memory/classes/heap/unused:bytes",
            "/memory/classes/heap/released:bytes",
            "/memory/classes/heap/free:bytes",
        ],
    ),
    ("heap_objects", &["/gc/heap/objects:objects"]),
    ("stack_inuse", &["/memory/classes/heap/stacks:bytes"]),
    ("stack_sys", &["/memory/classes/heap/stacks:bytes", "/memory/classes/os-stacks:bytes"]),
    ("mspan_inuse", &["/memory/classes/metadata/mspan/inuse:bytes"]),
    (
        "mspan_sys",
        &["/memory/classes/metadata/mspan/inuse:bytes", "/memory/classes/metadata/mspan/free:bytes"],
    ),
    ("mcache_inuse", &["/memory/classes/metadata/mcache/inuse:bytes"]),
    (
        "mcache_sys",
        &["/memory/classes/metadata/mcache/inuse:bytes", "/memory/classes/metadata/mcache/free:bytes"],
    ),
    ("buck_hash_sys", &["/memory/classes/profiling/buckets:bytes"]),
    ("gc_sys", &["/memory/classes/metadata/other:bytes"]),
    ("other_sys", &["/memory/classes/other:bytes"]),
    ("next_gc", &["/gc/heap/goal:bytes"]),
];

/// A figure as `runtime/metrics` had it, by our name.
pub fn said(said: &Value, field: &str) -> Option<u64> {
    match METRICS.iter().find(|(name, _)| *name == field) {
        Some((_, sums)) => sums.iter().map(|name| said["metrics"][name].as_u64()).sum(),
        None => said[field].as_u64(),
    }
}

/// Holds figures (of the view that belongs to the moment) against what the program said. With a limit of memory in force,
/// emptying the caches moves the goal.
pub fn compare(moment: Moment, limited: bool, ours: &Value, said: &Value) -> Tally {
    let mut tally = Tally::default();
    if moment == Moment::Metrics {
        for (field, _) in METRICS {
            tally.compare(field, &ours[field].as_u64(), &self::said(said, field));
        }
        let forced = said["metrics"]["/gc/cycles/forced:gc-cycles"].as_u64();
        tally.compare("num_forced_gc", &ours["num_forced_gc"].as_u64(), &forced);
    } else {
        let theirs = &said["memstats"];
        let left_out = |field| {
            moment == Moment::Pre && (MOVED_BY_ASKING.contains(&field) || limited && field == "next_gc")
        };
        for (field, name) in MEM_STATS.into_iter().filter(|(field, _)| !left_out(field)) {
            tally.compare(field, &ours[field].as_u64(), &theirs[name].as_u64());
        }
        let fraction = f64::from_bits(said["fraction_bits"].as_u64().unwrap_or(u64::MAX));
        // What a reader of JSON makes of the last digit isn't the question.
        let near =
            ours["gc_cpu_fraction"].as_f64().map(|ours| (ours - fraction).abs() <= fraction.abs() * 1e-15);
        if near == Some(true) {
            tally.compare("gc_cpu_fraction", &fraction, &fraction);
        } else {
            tally.compare("gc_cpu_fraction", &ours["gc_cpu_fraction"].as_f64(), &Some(fraction));
        }
        tally.compare("pauses", &pauses(ours), &ring(theirs));
    }
    for field in ["goroutines", "threads", "gomaxprocs"] {
        tally.compare(field, &ours[field].as_u64(), &said[field].as_u64());
    }
    for field in ["gc_percent", "memory_limit"] {
        tally.compare(field, &ours[field].as_i64(), &said[field].as_i64());
    }
    // Nothing depends on it but gops' `stats`: it may be unknown, and not wrong.
    if !ours["cpus"].is_null() {
        tally.compare("cpus", &ours["cpus"].as_u64(), &said["cpus"].as_u64());
    }
    // One that collects all the time may have done so once more between its two answers.
    if moment == Moment::Metrics || said["cycles"] == said["memstats"]["NumGC"] {
        tally.compare("num_gc of ReadGCStats", &ours["num_gc"].as_u64(), &said["cycles"].as_u64());
        tally.compare(
            "pause_total_ns of ReadGCStats",
            &ours["pause_total_ns"].as_u64(),
            &said["pause_sum"].as_u64(),
        );
        tally.compare("last_gc of ReadGCStats", &ours["last_gc"].as_u64(), &said["last_gc"].as_u64());
        let theirs: Option<Vec<u64>> =
            said["quantiles"].as_array().map(|list| list.iter().filter_map(Value::as_u64).collect());
        tally.compare("quantiles", &Some(quantiles(&pauses(ours))), &theirs);
    }
    tally
}

/// The pauses and their ends that were read, the newest last.
fn pauses(ours: &Value) -> Vec<(u64, u64)> {
    let pair = |pair: &Value| Some((pair[0].as_u64()?, pair[1].as_u64()?));
    ours["pauses"].as_array().into_iter().flatten().filter_map(pair).collect()
}

/// The same out of the program's own ring: the newest is at `(NumGC+255)%256` (documentation of `MemStats`).
fn ring(stats: &Value) -> Vec<(u64, u64)> {
    let cycles = stats["NumGC"].as_u64().unwrap_or(0);
    let at = |cycle: u64| {
        let slot = usize::try_from((cycle + 255) % 256).expect("it is small");
        (stats["PauseNs"][slot].as_u64().unwrap_or(0), stats["PauseEnd"][slot].as_u64().unwrap_or(0))
    };
    (cycles.saturating_sub(255).max(1)..=cycles).map(at).collect()
}

/// Minimum, quarters, maximum (documentation of `GCStats`).
fn quantiles(pauses: &[(u64, u64)]) -> Vec<u64> {
    let mut lengths: Vec<u64> = pauses.iter().map(|(length, _)| *length).collect();
    lengths.sort_unstable();
    let Some(last) = lengths.last() else { return vec![0; 5] };
    let mut quantiles: Vec<u64> = (0..4).map(|quarter| lengths[lengths.len() * quarter / 4]).collect();
    quantiles.push(*last);
    quantiles
}
