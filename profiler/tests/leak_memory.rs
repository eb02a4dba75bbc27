//! What a hunt itself takes, when it is offered more stacks than anybody can keep: its memory stays bounded, and what has
//! no place any more is counted.

mod common;

use std::time::{Duration, Instant};

use common::{
    can_observe,
    hunt::{Hunt, Planted, distance, report},
};

/// Daemon and worker together, as docs/leaks.md states it.
const MOST_BYTES: u64 = 256 << 20;

/// Resident memory of a process and its children.
fn resident_bytes(pid: u32) -> u64 {
    let own = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let own =
        own.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    // Any thread may have started them.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<u32> =
        children.flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<_>>()).collect();
    own.unwrap_or(0_u64) * 1024 + children.into_iter().map(resident_bytes).sum::<u64>()
}

/// Offers 2^depth stacks, so many a second, one sample in so many bytes to begin with.
fn offer(depth: u32, rate: u32, mean: &str) {
    let (depth_is, rate_is) = (format!("depth={depth}"), format!("rate={rate}"));
    let Some(program) = can_observe().then(|| Planted::start("stacks.c", &[&depth_is, &rate_is])).flatten()
    else {
        return;
    };
    let mut programs = [program];
    // On a busy machine it is slower.
    let length = Duration::from_secs(u64::from((1 << depth) / rate) * 3 / 2 + 10);
    let began = Instant::now();
    let mut hunt = Hunt::begin(&mut programs, length, &["--sample-bytes", mean]);
    let mut most = 0;
    while hunt.goes_on() && began.elapsed() < length - Duration::from_secs(4) {
        most = most.max(resident_bytes(hunt.pid()));
        std::thread::sleep(Duration::from_millis(50));
    }
    // What is under way arrives before the picture is taken.
    programs[0].tell("pause");
    let lost = hunt.lost("samples_full") + hunt.lost("live_samples_full");
    let picture = hunt.finish(&mut programs, Duration::from_secs(120));
    let report = report(&picture, &programs[0]);
    let offered = programs[0].last("many_stacks").allocated_objects;
    let live = programs[0].last("many_stacks").live_bytes();
    println!(
        "{offered} stacks offered, {live} bytes live: {} MiB at most; told {:?}; {} samples in no site; one per {} bytes; \
         {lost} samples lost before; losses {:?}",
        most >> 20,
        report.live_bytes,
        report.other.0,
        report.sample_bytes,
        report.losses
    );
    assert!(offered >= 1 << depth, "{offered} were offered");
    assert!(most < MOST_BYTES, "{} MiB", most >> 20);
    // Whatever had no place, has its share in the whole; twice the interval is no bad luck. What was lost before is told.
    assert!(
        distance(&report.live_bytes, live) <= 2.0 || lost > 0,
        "{live} bytes live, and not {:?}",
        report.live_bytes
    );
}

#[test]
fn many_stacks_stay_in_bounded_memory() {
    offer(17, 20_000, "256");
}

#[test]
fn a_million_stacks_stay_in_bounded_memory() {
    if std::env::var_os("PROFILER_LONG_TESTS").is_none() {
        println!("left out: set PROFILER_LONG_TESTS to run it");
        return;
    }
    // Every call is a sample, until that are too many.
    offer(20, 20_000, "1");
}
