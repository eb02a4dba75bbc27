//! A server that is killed, stopped, emptied, busy.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime},
};

use profiler::push::spool::{Limits, Spool};

use crate::{
    DATABASE, MENDED,
    common::{
        LONG, Scratch,
        influxd::Influxd,
        lines::{Book, parse},
        relay::Relay,
        within,
    },
    follow_each_other, idle, long, metric, push,
    spooled::{Spooled, Watch},
    until_drained,
};

const INTERVAL: Duration = Duration::from_millis(200);

/// How long nobody is there.
fn outage() -> Duration {
    Duration::from_secs(if long() { 60 } else { 8 })
}

/// The moments of the windows that these lines are of, in their order.
fn windows(lines: &str) -> Vec<i64> {
    let of = lines.lines().filter(|line| line.starts_with("profiler_target,"));
    of.map(|line| parse(line).expect("profiler writes lines").2).collect()
}

/// Kills or stops the server while points come, and looks for every one of them afterwards.
fn survives(end: impl Fn(&mut Influxd)) {
    let Some(mut server) = Influxd::with_database("", DATABASE) else { return };
    let (target, directory) = (idle(), Scratch::name("spool"));
    let mut relay = Relay::to(server.address());
    let watch = Watch::over(directory.path());
    let watching = push(&target, &relay.url(), directory.path(), "200ms", &[]);
    assert!(within(LONG, || relay.count_acknowledged() >= 5), "points come");
    // First the server alone: requests that are under way break. Then nobody listens at all.
    end(&mut server);
    std::thread::sleep(Duration::from_millis(500));
    relay.down();
    let before = Spooled::now(directory.path());
    std::thread::sleep(outage());
    let waiting = Spooled::now(directory.path());
    let enough = outage().as_millis() / INTERVAL.as_millis() / 4;
    assert!(waiting.names.len() as u128 > enough, "windows go on: {:?}", waiting.names);
    assert!(before.names.is_subset(&waiting.names), "what waits stays as it is, and where it is");
    assert_eq!(metric(&watching, "profiler_influx_up"), 0.0);
    let requests = relay.written().len();
    server.restart();
    relay.up();
    until_drained(&watching, MENDED);
    let drained = relay.count_acknowledged();
    assert!(within(LONG, || relay.count_acknowledged() >= drained + 5), "new points flow");
    let missed = metric(&watching, "profiler_influx_windows_missed_total");
    assert_eq!(metric(&watching, "profiler_influx_quarantined_points_total"), 0.0);
    let finished = watching.finish();
    assert!(finished.status.success());
    assert!(
        finished.complaints.iter().any(|line| line.contains("takes points again")),
        "{:#?}",
        finished.complaints
    );
    let mut told = watch.end().book;
    told.extend(relay.acknowledged());
    let there = server.everything(DATABASE);
    there.has_all_of(&told);
    assert_eq!(there.points.len(), told.points.len(), "there are points that nobody sent");
    follow_each_other(&there.times("profiler_target"), INTERVAL, missed);
    // What is older than what was sent first afterwards comes in the order of its age.
    let after: Vec<_> =
        relay.written()[requests..].iter().filter(|one| one.status == Some(204)).cloned().collect();
    let first = windows(&after[0].lines)[0];
    let backlog: Vec<_> =
        after[1..].iter().flat_map(|one| windows(&one.lines)).filter(|time| *time < first).collect();
    println!(
        "{} points, {} of them in the spool when the server came back, {} requests after that; first fresh ones, then {} older windows",
        there.points.len(),
        waiting.book.points.len(),
        after.len(),
        backlog.len()
    );
    assert!(backlog.is_sorted(), "oldest first: {backlog:?}");
}

#[test]
fn a_server_that_is_killed_gets_everything_afterwards() {
    survives(Influxd::kill);
}

#[test]
fn a_server_that_is_stopped_gets_everything_afterwards() {
    survives(Influxd::stop);
}

#[test]
fn a_server_with_too_much_to_do_gets_everything_in_the_end() {
    let busy =
        "max-concurrent-write-limit = 1\nmax-enqueued-write-limit = 1\nenqueued-write-timeout = \"100ms\"";
    let Some(server) = Influxd::with_database(busy, DATABASE) else { return };
    server.ask("", "CREATE DATABASE others");
    let (target, directory) = (idle(), Scratch::name("spool"));
    let relay = Relay::to(server.address());
    let over = AtomicBool::new(false);
    let lines: String =
        (0..20_000).map(|number| format!("other,tag={number} field={number} {number}\n")).collect();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    server.write("others", &lines);
                }
            });
        }
        let watch = Watch::over(directory.path());
        let watching = push(&target, &relay.url(), directory.path(), "100ms", &[]);
        // Whatever happens here, they have to stop.
        let refused = within(LONG, || {
            relay.written().iter().filter(|one| one.status.is_some_and(|status| status >= 500)).count() >= 3
        });
        over.store(true, Ordering::Relaxed);
        assert!(refused, "the server had time for everybody");
        until_drained(&watching, MENDED);
        let missed = metric(&watching, "profiler_influx_windows_missed_total");
        assert!(watching.finish().status.success());
        let mut told = watch.end().book;
        told.extend(relay.acknowledged());
        let there = server.everything(DATABASE);
        there.has_all_of(&told);
        follow_each_other(&there.times("profiler_target"), Duration::from_millis(100), missed);
        let refused = relay.written().iter().filter(|one| one.status != Some(204)).count();
        println!("{} points, {refused} requests refused", there.points.len());
    });
}

/// Points that have waited since another time, more than go into a few requests.
#[test]
fn a_backlog_goes_oldest_first_and_not_too_fast_while_new_points_flow() {
    const FILES: i64 = 300;
    const POINTS: i64 = 200;
    let Some(server) = Influxd::with_database("", DATABASE) else { return };
    let (target, directory) = (idle(), Scratch::name("spool"));
    let mut told = Book::default();
    let limits = Limits { bytes: 1 << 30, age: Duration::from_secs(1 << 30) };
    let spool = Spool::open(directory.path(), limits).expect("a spool");
    for file in 0..FILES {
        let line = |point| format!("old,point={point} file={file}i {}\n", 1_700_000_000_000_000_000 + file);
        let lines: String = (0..POINTS).map(line).collect();
        told.read(&lines);
        spool.append(SystemTime::now(), POINTS as u32, &lines).expect("the disk has room");
    }
    drop(spool);
    let relay = Relay::to(server.address());
    let watching = push(&target, &relay.url(), directory.path(), "100ms", &[]);
    let began = Instant::now();
    until_drained(&watching, MENDED);
    let took = began.elapsed();
    assert!(watching.finish().status.success());
    let requests = relay.written();
    assert!(requests.iter().all(|one| one.status == Some(204) && one.lines.lines().count() <= 5_000));
    let old: Vec<_> = (0..requests.len()).filter(|at| requests[*at].lines.starts_with("old,")).collect();
    let lines = old.iter().flat_map(|at| requests[*at].lines.lines());
    let times: Vec<_> = lines.map(|line| parse(line).expect("a line").2).collect();
    assert_eq!(times.len() as i64, FILES * POINTS, "each once");
    assert!(times.is_sorted(), "oldest first");
    let between =
        requests[old[0]..old[old.len() - 1]].iter().filter(|one| !windows(&one.lines).is_empty()).count();
    println!(
        "{} old points in {} requests and {took:?}, {between} requests with new ones between",
        times.len(),
        old.len()
    );
    // 20,000 points a second; the first request waits for nothing.
    assert!(took > Duration::from_secs(2), "{took:?}");
    assert!(between >= 5, "new points flow meanwhile");
    server.everything(DATABASE).has_all_of(&told);
}
