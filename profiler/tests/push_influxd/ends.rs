//! How a push begins and ends, and a server that never answers.

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    DATABASE, MENDED, QUIET,
    common::{
        LONG, Scratch, alone,
        child::run,
        influxd::{Influxd, quiet_port},
        profiler::{Finished, Watching, profiler},
        relay::Relay,
        within,
    },
    idle, metric, options, push,
    spooled::{Spooled, Watch},
    until, until_drained,
};

/// What is said at the end of the points.
pub fn last_word(finished: &Finished) -> &str {
    let word = finished.complaints.iter().rev().find(|line| line.contains("points are stored at"));
    word.unwrap_or_else(|| panic!("nothing is said of points: {:#?}", finished.complaints))
}

/// The number before a word.
pub fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split(word).next().and_then(|before| before.split_whitespace().last());
    before
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no number before {word:?} in {text}"))
}

#[test]
fn two_profilers_dont_share_a_spool() {
    let Some(server) = Influxd::with_database("", DATABASE) else { return };
    let (target, spool) = (idle(), Scratch::name("spool"));
    let first = push(&target, &server.url(), spool.path(), "200ms", &[]);
    let url = server.url();
    let pid = target.pid().to_string();
    let mut second = profiler(["--pid", &pid, "--listen", "127.0.0.1:0"]);
    let ended = run(second.args(options(&url, spool.path(), "200ms")));
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let complaints = ended.complaints();
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    let holder = format!("pid {}", first.pid());
    assert!(
        complaints[0].contains("is used by another profiler") && complaints[0].contains(&holder),
        "{complaints:#?}"
    );
    // The first one doesn't mind.
    until(&first, LONG, "profiler_influx_points_total", |points| points > 20.0);
    assert!(first.finish().status.success());
}

#[test]
fn the_last_window_is_sent_however_it_ends() {
    let Some(server) = Influxd::with_database("", DATABASE) else { return };
    // An hour is never over here: the only window is the last one.
    for (number, end) in ["SIGTERM", "SIGINT", "the target"].into_iter().enumerate() {
        let (mut target, spool) = (idle(), Scratch::name("spool"));
        let mut watching =
            push(&target, &server.url(), spool.path(), "1h", &["--influx-tag", &format!("end={end}")]);
        match end {
            "SIGTERM" => watching.signal(libc::SIGTERM),
            "SIGINT" => watching.signal(libc::SIGINT),
            // It is ours.
            _ => target.signal(libc::SIGKILL),
        }
        let finished = watching.wait();
        assert!(finished.status.success(), "{end}: {:#?}", finished.complaints);
        let word = last_word(&finished);
        assert!(number_before(word, " points are stored") > 5 && !word.contains("wait"), "{end}: {word}");
        let book = server.points(DATABASE, "profiler_target");
        let with_end =
            |tags: &std::collections::BTreeMap<String, String>| tags.get("end").is_some_and(|tag| tag == end);
        let windows = book.points.keys().filter(|((_, tags), _)| with_end(tags)).count();
        assert_eq!((windows, book.points.len()), (1, number + 1), "{end}");
        assert!(Spooled::now(spool.path()).names.is_empty(), "{end}");
    }
}

#[test]
fn one_look_is_one_window() {
    let Some(server) = Influxd::with_database("", DATABASE) else { return };
    let (target, spool, url) = (idle(), Scratch::name("spool"), server.url());
    let pid = target.pid().to_string();
    let mut command = profiler(["--pid", &pid, "--once"]);
    let ended = run(command.args(options(&url, spool.path(), "1h")));
    assert!(ended.status.success(), "{ended:?}");
    let book = server.everything(DATABASE);
    assert_eq!(book.times("profiler_target").len(), 1);
    assert!(book.points.len() > 5, "{:?}", book.points.keys());
    assert!(
        ended.complaints().iter().any(|line| line.contains("points are stored at")),
        "{:#?}",
        ended.complaints()
    );
}

#[test]
fn gops_verb_pushes_as_well() {
    let Some(server) = Influxd::with_database("", DATABASE) else { return };
    let (mut target, spool) = (idle(), Scratch::name("spool"));
    let (pid, address) = (target.pid().to_string(), server.address().to_string());
    let mut command =
        profiler(["memstatexport", &pid, &address, DATABASE, "--influx-interval", "200ms", "--influx-spool"]);
    command.arg(spool.path()).args(QUIET);
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            let there = || server.measurements(DATABASE).iter().any(|name| name == "profiler_target");
            let came = within(LONG, || {
                there() || {
                    std::thread::sleep(Duration::from_millis(50));
                    false
                }
            });
            // The end of the process is the end of it.
            target.signal(libc::SIGKILL);
            assert!(came, "no point came");
        });
        run(&mut command)
    });
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.complaints().iter().any(|line| line.contains("points are stored at")), "{ended:?}");
}

#[test]
fn without_a_spool_memory_does_and_what_is_lost_is_said() {
    let Some(server) = Influxd::with_database("", DATABASE) else { return };
    let target = idle();
    let mut relay = Relay::to(server.address());
    let watching = push(&target, &relay.url(), Path::new("none"), "100ms", &[]);
    until(&watching, LONG, "profiler_influx_points_total", |points| points > 20.0);
    relay.down();
    until(&watching, LONG, "profiler_influx_memory_bytes", |bytes| bytes > 20_000.0);
    relay.up();
    until_drained(&watching, MENDED);
    let missed = metric(&watching, "profiler_influx_windows_missed_total");
    relay.down();
    until(&watching, LONG, "profiler_influx_backlog_points", |points| points > 20.0);
    let finished = watching.finish();
    assert!(finished.status.success());
    let word = last_word(&finished);
    assert!(number_before(word, " are lost") > 20, "{word}");
    let there = server.everything(DATABASE);
    there.has_all_of(&relay.acknowledged());
    crate::follow_each_other(&there.times("profiler_target"), Duration::from_millis(100), missed);
}

/// Ends while nothing is taken; what waits is all there, and the next start sends it.
fn waits_for_the_next_start(nobody_listens: bool) {
    let Some(server) = Influxd::start("") else { return };
    let (target, directory) = (idle(), Scratch::name("spool"));
    let mut relay = Relay::to(server.address());
    if nobody_listens {
        relay.down();
    }
    let watch = Watch::over(directory.path());
    let watching = push(&target, &relay.url(), directory.path(), "100ms", &[]);
    let failed = if nobody_listens { "unreachable" } else { "misconfigured" };
    let failed = format!("profiler_influx_requests_total{{outcome=\"{failed}\"}}");
    until(&watching, LONG, &failed, |count| count >= 1.0);
    until(&watching, LONG, "profiler_influx_backlog_points", |points| points > 100.0);
    let finished = watching.finish();
    assert!(finished.status.success());
    let word = last_word(&finished);
    let waiting = Spooled::now(directory.path());
    assert_eq!(number_before(word, " wait in"), waiting.book.points.len() as u64, "{word}");
    assert!(word.contains(&directory.path().display().to_string()), "{word}");
    assert!(!directory.path().join("append.tmp").exists(), "it ended while it wrote");
    // The last window is the report's.
    let taken = finished.report["taken_at"].as_f64().expect("a time");
    let last = *waiting.book.times("profiler_target").last().expect("a window");
    assert!((last as f64 / 1e9 - taken).abs() < 0.001, "{last} isn't {taken}");
    server.ask("", &format!("CREATE DATABASE {DATABASE}"));
    relay.up();
    let next = push(&target, &relay.url(), directory.path(), "1h", &[]);
    until_drained(&next, LONG);
    assert!(next.finish().status.success());
    let there = server.everything(DATABASE);
    there.has_all_of(&watch.end().book);
    there.has_all_of(&waiting.book);
}

#[test]
fn what_waits_because_nobody_listens_is_sent_by_the_next_start() {
    waits_for_the_next_start(true);
}

/// Then nothing is tried again before the end: it comes at once, but not before the disk has the last window.
#[test]
fn what_waits_because_the_database_is_missing_is_sent_by_the_next_start() {
    waits_for_the_next_start(false);
}

/// Listens, takes everything, never says anything.
struct Silent {
    port: u16,
    stop: Arc<AtomicBool>,
}

impl Silent {
    fn start() -> Self {
        let port = quiet_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("nobody has the port");
        listener.set_nonblocking(true).expect("it can be told");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            let held: Mutex<Vec<TcpStream>> = Mutex::default();
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => held.lock().expect("nobody panics here").push(stream),
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Self { port, stop }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn median_scrape(watching: &Watching) -> Duration {
    let mut times: Vec<_> = (0..40).map(|_| watching.get("/metrics").took).collect();
    times.sort_unstable();
    times[20]
}

#[test]
fn a_server_that_never_answers_holds_up_nobody() {
    let _alone = alone();
    let (target, directory) = (idle(), Scratch::name("spool"));
    let silent = Silent::start();
    let url = format!("http://127.0.0.1:{}", silent.port);
    let plain = Watching::with(target.pid(), &QUIET);
    let hanging = push(&target, &url, directory.path(), "100ms", &[]);
    until(&hanging, LONG, "profiler_influx_backlog_points", |points| points > 50.0);
    let (began, before) = (Instant::now(), Spooled::now(directory.path()).names.len());
    let (without, with) = (median_scrape(&plain), median_scrape(&hanging));
    println!("median scrape {without:?} without a push, {with:?} with one that hangs");
    assert!(with < without * 3 + Duration::from_millis(20), "{with:?}, and without {without:?}");
    // Sooner than a request is given up, after 30 s.
    let more = within(Duration::from_secs(20), || Spooled::now(directory.path()).names.len() >= before + 30);
    println!("30 windows in {:?}", began.elapsed());
    assert!(more, "windows go on");
    let began = Instant::now();
    assert!(hanging.finish().status.success());
    assert!(began.elapsed() < Duration::from_secs(20), "the end takes {:?}", began.elapsed());
    assert!(plain.finish().status.success());
}
