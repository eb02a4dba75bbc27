//! Pushing to a real InfluxDB 1: killed, stopped, emptied, busy, locked, narrow. What was true is told by a relay between
//! the two and by the files of the spool, never by profiler.

#[path = "../common/mod.rs"]
mod common;

mod amiss;
mod disk;
mod ends;
mod kills;
mod narrow;
mod outages;
mod page;
mod points;

mod spooled;

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use common::{child::Guarded, profiler::Watching, within};

/// The database that everything goes to.
const DATABASE: &str = "hunt";
/// No probes: what is pushed is what the kernel tells of any process.
const QUIET: [&str; 6] = ["--alloc", "off", "--stalls", "off", "--leaks", "off"];
/// A setting that was wrong is tried again after a minute.
const MENDED: Duration = Duration::from_secs(150);

/// Whether the long tests are wanted.
fn long() -> bool {
    std::env::var_os("PROFILER_LONG_TESTS").is_some()
}

/// A process that does nothing.
fn idle() -> Guarded {
    let mut command = Command::new("sleep");
    command.arg("900").stdin(Stdio::null()).stdout(Stdio::null());
    Guarded(command.spawn().expect("sleep starts"))
}

/// The options of a push.
fn options<'a>(url: &'a str, spool: &'a Path, interval: &'a str) -> Vec<&'a str> {
    let spool = spool.to_str().expect("a path of ours is text");
    let push =
        ["--influx", url, "--influx-db", DATABASE, "--influx-interval", interval, "--influx-spool", spool];
    [&QUIET[..], &push].concat()
}

/// A profiler that pushes what there is to tell of a process.
fn push(target: &Guarded, url: &str, spool: &Path, interval: &str, more: &[&str]) -> Watching {
    Watching::with(target.pid(), &[&options(url, spool, interval), more].concat())
}

/// A series of `/metrics` that is there.
fn metric(watching: &Watching, series: &str) -> f64 {
    let page = watching.get("/metrics");
    let line = page.text().lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {series} in {}", page.text()))
}

/// Waits until a series has a value that will do.
fn until(watching: &Watching, limit: Duration, series: &str, mut enough: impl FnMut(f64) -> bool) {
    let mut last = f64::NAN;
    let done = within(limit, || {
        last = metric(watching, series);
        enough(last) || {
            std::thread::sleep(Duration::from_millis(20));
            false
        }
    });
    let page = watching.get("/metrics");
    let others: Vec<_> = page.text().lines().filter(|line| line.starts_with("profiler_influx_")).collect();
    assert!(done, "{series} is {last} after {limit:?}: {others:#?}");
}

/// Waits until nothing waits any more. New points keep coming, so there is a moment without any.
fn until_drained(watching: &Watching, limit: Duration) {
    until(watching, limit, "profiler_influx_backlog_points", |points| points == 0.0);
}

/// Whether these moments follow each other at the interval, but for those that profiler says it has missed. More may have
/// been missed where a profiler was killed or ended.
fn follow_each_other(times: &[i64], interval: Duration, missed: f64) {
    let (Some(first), Some(last)) = (times.first(), times.last()) else { panic!("there is no window") };
    let expected = (last - first) as f64 / interval.as_nanos() as f64;
    let there = (times.len() - 1) as f64;
    println!("{} windows in {expected:.1} intervals, {missed} missed", times.len());
    assert!(there + missed >= expected.floor() - 2.0, "{there} of {expected} windows, {missed} missed");
}
