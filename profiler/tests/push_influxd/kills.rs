//! profiler killed with SIGKILL at any moment, again and again.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{
    DATABASE, MENDED,
    common::{LONG, Scratch, influxd::Influxd, lines::Book, relay::Relay, within},
    idle, long, metric, push,
    spooled::{Spooled, Watch},
    until, until_drained,
};

/// How often.
fn kills() -> u64 {
    if long() { 100 } else { 20 }
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    i64::try_from(since.as_nanos()).expect("it is before 2262")
}

#[test]
fn what_was_spooled_or_acknowledged_survives_every_kill() {
    let Some(server) = Influxd::with_database("", DATABASE) else { return };
    let (target, directory) = (idle(), Scratch::name("spool"));
    let mut relay = Relay::to(server.address());
    relay.down();
    let mut told = Book::default();
    let mut late = Vec::new();
    let mut random: u64 = 88_172_645_463_325_252 ^ u64::from(std::process::id());
    let began = Instant::now();
    for _ in 0..kills() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Half of the time there is nobody to send to, so that everything has to be in the spool; else what was
        // acknowledged may be gone from it, or not yet.
        let up = random & 1 == 1;
        if up {
            relay.up();
        }
        let watch = Watch::over(directory.path());
        let watching = push(&target, &relay.url(), directory.path(), "100ms", &[]);
        let started = now_ns();
        std::thread::sleep(Duration::from_micros((random >> 20) % 700_000));
        watching.kill();
        let killed = now_ns();
        relay.down();
        // Also what is there now survives the next start.
        let left = Spooled::now(directory.path());
        told.extend(watch.end().book);
        told.extend(left.book.clone());
        let acknowledged = relay.acknowledged();
        let newest = |book: &Book| book.times("profiler_target").last().copied().unwrap_or(0);
        let last = newest(&left.book).max(newest(&acknowledged));
        // One that was killed before its first window says nothing.
        if last > started {
            late.push(Duration::from_nanos((killed - last).unsigned_abs()));
        }
    }
    told.extend(relay.acknowledged());
    let killed = began.elapsed();
    relay.up();
    let watching = push(&target, &relay.url(), directory.path(), "100ms", &[]);
    assert!(within(LONG, || relay.count_acknowledged() > 0), "points flow again");
    until_drained(&watching, MENDED);
    until(&watching, LONG, "profiler_influx_points_total", |points| points > 0.0);
    assert_eq!(metric(&watching, "profiler_influx_quarantined_points_total"), 0.0);
    for reason in ["spool_full", "expired", "corrupt", "memory_full", "quarantine_full"] {
        let series = format!("profiler_influx_dropped_points_total{{reason=\"{reason}\"}}");
        assert_eq!(metric(&watching, &series), 0.0, "{reason}");
    }
    assert!(watching.finish().status.success());
    let there = server.everything(DATABASE);
    there.has_all_of(&told);
    // Everything that the relay has ever seen acknowledged, too, and none of it with another value.
    there.has_all_of(&relay.acknowledged());
    late.sort_unstable();
    println!(
        "{} kills in {killed:?}: {} points of {} windows told, all there; the last window before a kill was {:?} old (median), {:?} (most)",
        kills(),
        told.points.len(),
        told.times("profiler_target").len(),
        late[late.len() / 2],
        late[late.len() - 1]
    );
    assert!(
        told.times("profiler_target").len() as u64 > kills(),
        "the kills came too early to tell anything"
    );
    // The window that isn't closed yet, and a machine that has other things to do.
    assert!(late[late.len() / 2] < Duration::from_millis(500), "windows that were closed are lost: {late:?}");
}
