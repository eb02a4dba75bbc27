//! Families of Go's runtimes, and of what programs were built from.
//!
//! [`FIGURES`] are those that client_golang's Go collector exports of the program that it is in: names, kinds and help are its
//! own (prometheus/go_collector.go; those of `runtime/metrics` have the text of Go's src/runtime/metrics/description.go). Here
//! they have the target as label and `profiler_` before the name; the drop-in shows them as they are there.

use super::{Family, Influx, Kind, families, float, histogram, integer, summary, words};
use crate::{
    export::families::{Summary, Value},
    runtime::go::figures::Figures,
};

/// A figure of a Go runtime that client_golang exports, too.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// As `/metrics` has it.
    pub ours: Family,
    /// As client_golang has it.
    pub theirs: Family,
    /// Its value.
    pub value: fn(&Figures) -> Value,
}

/// The shares of the summary of pauses, as client_golang has them.
pub const QUANTILES: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// Where the figures of memory are in InfluxDB: fields have the names that gops prints, with underscores.
const MEMSTATS: &str = "profiler_go_memstats";

macro_rules! figures {
    ($($kind:ident $name:literal => $influx:expr, $help:literal $(or $own:literal)?, $value:expr;)*) => {
        /// All of them, by what they are about.
        pub const FIGURES: &[Figure] = &[$(Figure {
            ours: Family {
                name: concat!("profiler_", $name),
                kind: Kind::$kind,
                labels: &["target"],
                help: [$($own,)? $help][0],
                influx: $influx,
            },
            theirs: Family {
                name: $name,
                kind: Kind::$kind,
                labels: &[],
                help: $help,
                influx: Influx::NOWHERE,
            },
            value: $value,
        }),*];
    };
}

figures! {
    Gauge "go_goroutines" => integer("profiler_go", "goroutines"),
        "Number of goroutines that currently exist.",
        |go| Value::Whole(go.goroutines);
    Gauge "go_threads" => integer("profiler_go", "threads"),
        "Number of OS threads created." or "Number of OS threads created by Go's runtime, without those that have ended.",
        |go| Value::Whole(go.threads);
    Gauge "go_sched_gomaxprocs_threads" => integer("profiler_go", "gomaxprocs"),
        "The current runtime.GOMAXPROCS setting, or the number of operating system threads that can execute user-level Go code simultaneously. Sourced from /sched/gomaxprocs:threads.",
        |go| Value::Whole(go.gomaxprocs);
    Gauge "go_gc_gogc_percent" => integer("profiler_go", "gogc_percent"),
        "Heap size target percentage configured by the user, otherwise 100. This value is set by the GOGC environment variable, and the runtime/debug.SetGCPercent function. Sourced from /gc/gogc:percent.",
        |go| Value::Whole(unsigned(go.gc_percent.into()));
    Gauge "go_gc_gomemlimit_bytes" => integer("profiler_go", "memory_limit_bytes"),
        "Go runtime memory limit configured by the user, otherwise math.MaxInt64. This value is set by the GOMEMLIMIT environment variable, and the runtime/debug.SetMemoryLimit function. Sourced from /gc/gomemlimit:bytes.",
        |go| Value::Whole(unsigned(go.memory_limit));
    Summary "go_gc_duration_seconds" => summary(MEMSTATS, "gc_pause_total"),
        "A summary of the wall-time pause (stop-the-world) duration in garbage collection cycles."
        or "A summary of the wall-time pause (stop-the-world) duration in garbage collection cycles: quantiles of the last 256 of each process, sum and count of all since it started.",
        |go| Value::Summary(pauses(go));
    Gauge "go_memstats_alloc_bytes" => integer(MEMSTATS, "alloc"),
        "Number of bytes allocated in heap and currently in use. Equals to /memory/classes/heap/objects:bytes.",
        |go| Value::Whole(go.alloc);
    Counter "go_memstats_alloc_bytes_total" => integer(MEMSTATS, "total_alloc"),
        "Total number of bytes allocated in heap until now, even if released already. Equals to /gc/heap/allocs:bytes.",
        |go| Value::Whole(go.total_alloc);
    Gauge "go_memstats_sys_bytes" => integer(MEMSTATS, "sys"),
        "Number of bytes obtained from system. Equals to /memory/classes/total:byte.",
        |go| Value::Whole(go.sys);
    Counter "go_memstats_lookups_total" => integer(MEMSTATS, "lookups"),
        "Total number of pointer lookups." or "Total number of pointer lookups: always 0, no Go counts them any more. For dashboards that still ask.",
        |_| Value::Whole(0);
    Counter "go_memstats_mallocs_total" => integer(MEMSTATS, "mallocs"),
        "Total number of heap objects allocated, both live and gc-ed. Semantically a counter version for go_memstats_heap_objects gauge. Equals to /gc/heap/allocs:objects + /gc/heap/tiny/allocs:objects.",
        |go| Value::Whole(go.mallocs);
    Counter "go_memstats_frees_total" => integer(MEMSTATS, "frees"),
        "Total number of heap objects frees. Equals to /gc/heap/frees:objects + /gc/heap/tiny/allocs:objects.",
        |go| Value::Whole(go.frees);
    Gauge "go_memstats_heap_alloc_bytes" => integer(MEMSTATS, "heap_alloc"),
        "Number of heap bytes allocated and currently in use, same as go_memstats_alloc_bytes. Equals to /memory/classes/heap/objects:bytes.",
        |go| Value::Whole(go.alloc);
    Gauge "go_memstats_heap_sys_bytes" => integer(MEMSTATS, "heap_sys"),
        "Number of heap bytes obtained from system. Equals to /memory/classes/heap/objects:bytes + /memory/classes/heap/unused:bytes + /memory/classes/heap/released:bytes + /memory/classes/heap/free:bytes.",
        |go| Value::Whole(go.heap_sys);
    Gauge "go_memstats_heap_idle_bytes" => integer(MEMSTATS, "heap_idle"),
        "Number of heap bytes waiting to be used. Equals to /memory/classes/heap/released:bytes + /memory/classes/heap/free:bytes.",
        |go| Value::Whole(go.heap_idle);
    Gauge "go_memstats_heap_inuse_bytes" => integer(MEMSTATS, "heap_in_use"),
        "Number of heap bytes that are in use. Equals to /memory/classes/heap/objects:bytes + /memory/classes/heap/unused:bytes"
        or "Number of heap bytes that are in use. Equals to /memory/classes/heap/objects:bytes + /memory/classes/heap/unused:bytes.",
        |go| Value::Whole(go.heap_inuse);
    Gauge "go_memstats_heap_released_bytes" => integer(MEMSTATS, "heap_released"),
        "Number of heap bytes released to OS. Equals to /memory/classes/heap/released:bytes.",
        |go| Value::Whole(go.heap_released);
    Gauge "go_memstats_heap_objects" => integer(MEMSTATS, "heap_objects"),
        "Number of currently allocated objects. Equals to /gc/heap/objects:objects.",
        |go| Value::Whole(go.heap_objects);
    Gauge "go_memstats_stack_inuse_bytes" => integer(MEMSTATS, "stack_in_use"),
        "Number of bytes obtained from system for stack allocator in non-CGO environments. Equals to /memory/classes/heap/stacks:bytes.",
        |go| Value::Whole(go.stack_inuse);
    Gauge "go_memstats_stack_sys_bytes" => integer(MEMSTATS, "stack_sys"),
        "Number of bytes obtained from system for stack allocator. Equals to /memory/classes/heap/stacks:bytes + /memory/classes/os-stacks:bytes.",
        |go| Value::Whole(go.stack_sys);
    Gauge "go_memstats_mspan_inuse_bytes" => integer(MEMSTATS, "mspan_in_use"),
        "Number of bytes in use by mspan structures. Equals to /memory/classes/metadata/mspan/inuse:bytes.",
        |go| Value::Whole(go.mspan_inuse);
    Gauge "go_memstats_mspan_sys_bytes" => integer(MEMSTATS, "mspan_sys"),
        "Number of bytes used for mspan structures obtained from system. Equals to /memory/classes/metadata/mspan/inuse:bytes + /memory/classes/metadata/mspan/free:bytes.",
        |go| Value::Whole(go.mspan_sys);
    Gauge "go_memstats_mcache_inuse_bytes" => integer(MEMSTATS, "mcache_in_use"),
        "Number of bytes in use by mcache structures. Equals to /memory/classes/metadata/mcache/inuse:bytes.",
        |go| Value::Whole(go.mcache_inuse);
    Gauge "go_memstats_mcache_sys_bytes" => integer(MEMSTATS, "mcache_sys"),
        "Number of bytes used for mcache structures obtained from system. Equals to /memory/classes/metadata/mcache/inuse:bytes + /memory/classes/metadata/mcache/free:bytes.",
        |go| Value::Whole(go.mcache_sys);
    Gauge "go_memstats_buck_hash_sys_bytes" => integer(MEMSTATS, "buck_hash_sys"),
        "Number of bytes used by the profiling bucket hash table. Equals to /memory/classes/profiling/buckets:bytes.",
        |go| Value::Whole(go.buck_hash_sys);
    Gauge "go_memstats_gc_sys_bytes" => integer(MEMSTATS, "gc_sys"),
        "Number of bytes used for garbage collection system metadata. Equals to /memory/classes/metadata/other:bytes.",
        |go| Value::Whole(go.gc_sys);
    Gauge "go_memstats_other_sys_bytes" => integer(MEMSTATS, "other_sys"),
        "Number of bytes used for other system allocations. Equals to /memory/classes/other:bytes.",
        |go| Value::Whole(go.other_sys);
    Gauge "go_memstats_next_gc_bytes" => integer(MEMSTATS, "next_gc"),
        "Number of heap bytes when next garbage collection will take place. Equals to /gc/heap/goal:bytes.",
        |go| Value::Whole(go.next_gc);
    Gauge "go_memstats_last_gc_time_seconds" => float(MEMSTATS, "last_gc"),
        "Number of seconds since 1970 of last garbage collection.",
        |go| Value::Real(seconds(go.last_gc));
    Gauge "go_memstats_gc_cpu_fraction" => float(MEMSTATS, "gc_cpu_fraction"),
        "The fraction of this program's available CPU time used by the GC since the program started.",
        |go| Value::Real(go.gc_cpu_fraction);
}

/// What `profiler_go_unavailable_info` can be about (`GoSnapshot::trouble`).
pub const UNAVAILABLE: [&str; 3] = ["figures", "heap_profile", "stops"];
/// And why (`GoTrouble::kind`).
pub const GO_REASONS: [&str; 5] = ["memory", "contradiction", "restless", "unavailable", "late"];
/// What `profiler_target_description_unavailable_info` can be about (`ProgramTrouble::what`).
pub const UNDESCRIBED: [&str; 3] = ["program", "parts", "modules"];
/// And why (`ProgramTrouble::kind`).
pub const DESCRIPTION_REASONS: [&str; 6] =
    ["late", "unreadable", "refused", "failed", "damaged", "unavailable"];
/// Kinds of parts of a program (`ProgramPart::kind`).
pub const PARTS: [&str; 3] = ["rust", "python", "library"];

/// Nanoseconds as seconds.
pub const fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// As `runtime/metrics` shows a setting: below zero (`GOGC=off`) it becomes one of the largest numbers
/// (Go's src/runtime/metrics.go).
const fn unsigned(value: i64) -> u64 {
    value.cast_unsigned()
}

fn pauses(go: &Figures) -> Summary {
    let quantiles = QUANTILES.into_iter().zip(go.pause_quantiles().map(seconds)).collect();
    Summary { quantiles, count: go.num_gc.into(), sum: seconds(go.pause_total_ns) }
}

families! { OWN:
    GO_INFO: Gauge "profiler_go_info" ["target", "version"]
        => words("profiler_go", &["version"]),
        "The version of Go that a program of the target was built with. This and all families of Go only for Go programs. Always 1.";
    GO_UNAVAILABLE: Gauge "profiler_go_unavailable_info" ["target", "what", "reason"]
        => words("profiler_go_unavailable", &["reason"]),
        "What can't be told of a target's Go runtime (figures, heap_profile, stops), and why: memory (it can't be read), contradiction (the table doesn't fit), restless (it changed whenever it was read), late (its memory doesn't answer), unavailable. Its series are absent then, never guessed; /api/v1/targets has the reason in words. Always 1.";
    GO_TABLE: Gauge "profiler_go_table_info" ["target", "table", "exact"]
        => words("profiler_go", &["table", "exact"]),
        "A table of the runtime's structures by which the figures are read, and whether it is that of the program's exact version (true) or of its nearest neighbour (false). One, unless the target's processes run programs of several versions. Always 1.";
    GO_PROCESSES: Gauge "profiler_go_processes" ["target"]
        => integer("profiler_go", "processes"),
        "Processes of the target whose Go runtimes the figures are of, together.";
    GO_CPUS: Gauge "profiler_go_cpus" ["target"]
        => integer("profiler_go", "cpus"),
        "What runtime.NumCPU says: CPUs that the program could use when it started.";
    GO_CYCLES: Counter "profiler_go_gc_cycles_total" ["target"]
        => integer(MEMSTATS, "num_gc"),
        "Completed cycles of garbage collection since the program started.";
    GO_FORCED_CYCLES: Counter "profiler_go_gc_forced_cycles_total" ["target"]
        => integer(MEMSTATS, "num_forced_gc"),
        "Those of profiler_go_gc_cycles_total that the program asked for by runtime.GC.";
    GO_LAST_PAUSE: Gauge "profiler_go_gc_last_pause_seconds" ["target"]
        => float(MEMSTATS, "gc_pause"),
        "For how long the last cycle stopped the world. Absent before the first.";
    GO_LAST_PAUSE_END: Gauge "profiler_go_gc_last_pause_end_time_seconds" ["target"]
        => float(MEMSTATS, "gc_pause_end"),
        "When the pause of the last cycle ended, in seconds since the unix epoch. Absent before the first.";
    GO_PAUSES_MISSED: Counter "profiler_go_pauses_missed_total" ["target"]
        => integer("profiler_go", "pauses_missed"),
        "Cycles whose pause was overwritten before it was read: they are in no stall of cause gc. The runtime remembers 256.";
    GO_READINGS_REPEATED: Counter "profiler_go_readings_repeated_total" ["target"]
        => integer("profiler_go", "readings_repeated"),
        "Readings of the figures that were made again at once, as a counter went back or jumped further than any can. This and the next two also while there are no figures.";
    GO_COUNTERS_HELD_BACK: Counter "profiler_go_counters_held_back_total" ["target"]
        => integer("profiler_go", "counters_held_back"),
        "Counters that were less in the second reading, too, and are shown as they had been before, so that they don't go back. Anything above zero says that a table doesn't fit.";
    GO_READERS_LOST: Counter "profiler_go_readers_lost_total" ["target"]
        => integer("profiler_go", "readers_lost"),
        "Threads of ours that were left behind because reading the target's memory took more than a quarter of a second: it waits for a file system or a handler of page faults that doesn't answer. Such a thread ends once it has its answer, at the target's end at the latest.";
    GO_STOPS: Counter "profiler_go_stops_total" ["target", "reason"]
        => integer("profiler_go_stop", "stops"),
        "Times that the runtime stopped the world, by reason: each single stop, where a cycle of garbage collection has two. Only if asked for, as it takes probes.";
    GO_STOP_SECONDS: Histogram "profiler_go_stop_seconds" ["target", "reason"]
        => histogram("profiler_go_stop", "seconds"),
        "Length of the stops in profiler_go_stops_total, in seconds.";
    GO_READ_SECONDS: Gauge "profiler_go_read_seconds" ["target"]
        => float("profiler_go", "read_seconds"),
        "How long the last reading of the figures from the target's memory took us: it is not stopped for that.";
    GO_MOD_INFO: Gauge "profiler_go_mod_info" ["target", "name", "version", "program", "replaces", "sum"]
        => Influx::NOWHERE,
        "A module that a Go program of the target was built from. Of a replaced module what was taken in its place, and in replaces that for which it was taken, as path@version. sum is as in go.sum. Always 1.";
    TARGET_BUILD_INFO: Gauge "profiler_target_build_info" ["target", "program", "path", "main_version", "go_version", "vcs", "revision", "time", "modified", "race", "goarch", "goos", "cgo"]
        => words("profiler_target_build", &["path", "main_version", "go_version", "vcs", "revision", "time", "modified", "race", "goarch", "goos", "cgo"]),
        "What a Go program of the target was built from and how, as its linker has written it; empty where it doesn't say. Always 1.";
    TARGET_PART_INFO: Gauge "profiler_target_part_info" ["target", "kind", "name", "version", "build_id"]
        => Influx::NOWHERE,
        "What else a program of the target was built from or has loaded, by kind: rust (a crate, if built with cargo-auditable), python (an installed distribution), library (a mapped file). Always 1.";
    TARGET_PARTS_LEFT_OUT: Gauge "profiler_target_parts_left_out" ["target"]
        => integer("profiler_target", "parts_left_out"),
        "Libraries and installed distributions that are missing in profiler_target_part_info because there are too many, at least: 2,048 of each kind and program are told; a directory of which not all is looked at counts as one. Once a program of the target is described.";
    TARGET_DESCRIPTION_UNAVAILABLE: Gauge "profiler_target_description_unavailable_info" ["target", "what", "reason"]
        => words("profiler_target_description_unavailable", &["reason"]),
        "What can't be told of how a program of the target was made: program (nothing of its file), parts (some of what its file says), modules (Go's); and why: late (no answer in time), unreadable, refused (too many wait or hang), failed (its analysis), damaged, unavailable (the linker wrote nothing of it, or more than is read). /api/v1/targets has the reason in words. Always 1.";
}
