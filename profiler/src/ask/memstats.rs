//! `profiler stats` and `profiler memstats`: what gops' agent says of them, in its words.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use serde::Serialize;

use super::{ask, go_program, print, print_json};
use crate::runtime::go::figures::{Figures, View};

/// gops' units (its agent/agent.go, `formatBytes`).
const UNITS: [&str; 6] = ["bytes", "KB", "MB", "GB", "TB", "PB"];

#[derive(Serialize)]
struct Answer {
    pid: u32,
    version: String,
    view: View,
    figures: Figures,
    /// Whose table the runtime was read by, if not that of the exact version.
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
}

fn answer(pid: u32, view: View) -> anyhow::Result<Answer> {
    ask(pid, move || {
        let mut program = go_program(pid)?;
        let figures = program.runtime.read(view)?;
        let places = program.image.runtime.as_ref().ok();
        let table = places.filter(|places| !places.exact).map(|places| places.table.clone());
        Ok(Answer { pid, version: program.image.version.clone(), view, figures, table })
    })
}

/// Prints how many goroutines and threads there are.
///
/// # Errors
///
/// If the process is no Go program, or its runtime can't be read.
pub fn stats(pid: u32, json: bool) -> anyhow::Result<ExitCode> {
    let answer = answer(pid, View::Metrics)?;
    if json {
        return print_json(&answer);
    }
    let figures = &answer.figures;
    let mut text = format!(
        "goroutines: {}\nOS threads: {}\nGOMAXPROCS: {}\n",
        figures.goroutines, figures.threads, figures.gomaxprocs
    );
    if let Some(cpus) = figures.cpus {
        // Writing to a string can't fail.
        let _infallible = writeln!(text, "num CPU: {cpus}");
    }
    Ok(print(&text))
}

/// Prints what Go's memory allocator and garbage collector say of themselves.
///
/// # Errors
///
/// As [`stats`].
pub fn memstats(pid: u32, view: View, json: bool) -> anyhow::Result<ExitCode> {
    let answer = answer(pid, view)?;
    if json { print_json(&answer) } else { Ok(print(&text(&answer.figures))) }
}

/// In the order and by the names of gops. `lookups` is always zero in Go; `enable-gc` and `debug-gc` are constants there, too.
fn text(figures: &Figures) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string can't fail.
        let _infallible = writeln!(text, "{name}: {value}");
    };
    let f = figures;
    line("alloc", bytes(f.alloc));
    line("total-alloc", bytes(f.total_alloc));
    line("sys", bytes(f.sys));
    line("lookups", "0".to_owned());
    line("mallocs", f.mallocs.to_string());
    line("frees", f.frees.to_string());
    for (name, value) in [
        ("heap-alloc", f.alloc),
        ("heap-sys", f.heap_sys),
        ("heap-idle", f.heap_idle),
        ("heap-in-use", f.heap_inuse),
        ("heap-released", f.heap_released),
    ] {
        line(name, bytes(value));
    }
    line("heap-objects", f.heap_objects.to_string());
    for (name, value) in [
        ("stack-in-use", f.stack_inuse),
        ("stack-sys", f.stack_sys),
        ("mspan-in-use", f.mspan_inuse),
        ("mspan-sys", f.mspan_sys),
        ("mcache-in-use", f.mcache_inuse),
        ("mcache-sys", f.mcache_sys),
        ("buck-hash-sys", f.buck_hash_sys),
        ("other-sys", f.other_sys),
        ("gc-sys", f.gc_sys),
    ] {
        line(name, bytes(value));
    }
    line("next-gc", format!("when heap-alloc >= {}", bytes(f.next_gc)));
    line("last-gc", if f.last_gc == 0 { "-".to_owned() } else { moment(f.last_gc) });
    line("gc-pause-total", time(f.pause_total_ns));
    let (pause, end) = f.pauses.last().copied().unwrap_or_default();
    line("gc-pause", pause.to_string());
    line("gc-pause-end", end.to_string());
    line("num-gc", f.num_gc.to_string());
    line("num-forced-gc", f.num_forced_gc.to_string());
    line("gc-cpu-fraction", f.gc_cpu_fraction.to_string());
    line("enable-gc", "true".to_owned());
    line("debug-gc", "false".to_owned());
    text
}

/// `1.50MB (1572864 bytes)`
fn bytes(value: u64) -> String {
    let unit = UNITS.iter().enumerate().skip(1).rev().find(|(power, _)| value >= 1 << (10 * power));
    match unit {
        Some((power, name)) => {
            format!("{:.2}{name} ({value} bytes)", value as f64 / (1_u64 << (10 * power)) as f64)
        }
        None => format!("{value} bytes"),
    }
}

/// A length of time as Go writes it, roughly: `1.234567ms`.
fn time(nanoseconds: u64) -> String {
    format!("{:?}", Duration::from_nanos(nanoseconds))
}

fn moment(nanoseconds: u64) -> String {
    let at = std::time::UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds));
    at.map_or_else(|| nanoseconds.to_string(), |at| humantime::format_rfc3339_nanos(at).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_as_gops_tells_them() {
        for (value, told) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.00KB (1024 bytes)"),
            (1_572_864, "1.50MB (1572864 bytes)"),
            (5 << 40, "5.00TB (5497558138880 bytes)"),
        ] {
            assert_eq!(bytes(value), told);
        }
    }

    #[test]
    fn every_line_of_gops_is_there_in_its_order() {
        let text = text(&Figures { last_gc: 1_700_000_000_000_000_001, num_gc: 3, ..Figures::default() });
        let names: Vec<_> = text.lines().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(names.len(), 31);
        assert_eq!(names[..3], ["alloc", "total-alloc", "sys"]);
        assert!(text.contains("last-gc: 2023-11-14T22:13:20.000000001Z"), "{text}");
    }
}
