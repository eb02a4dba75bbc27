//! The threads of the push, on a spool that was left by another process.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use profiler::{
    config::Push as Wish,
    export::families::Context,
    push::{
        Pusher, Source,
        spool::{Limits, Spool},
    },
    snapshot::Snapshot,
};

use super::{
    fault_server::{Act, FaultServer, Play, Role},
    good, server,
};

const LIMITS: Limits = Limits { bytes: 16 << 20, age: Duration::from_secs(3600) };

/// Nobody can read it.
const BAD: &str = "m0,pid=3 v=oops 1000003";

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("profiler-push-{name}-{}", std::process::id())))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.0);
    }
}

/// Leaves batches of ten lines behind, as a process that was killed does.
fn leave(directory: &Path, lines: &[String]) {
    let spool = Spool::open(directory, LIMITS).unwrap();
    for batch in lines.chunks(10) {
        let text: String = batch.iter().map(|line| format!("{line}\n")).collect();
        spool.append(SystemTime::now(), batch.len() as u32, &text).unwrap();
    }
}

/// Begins to push what is there. No window is closed meanwhile.
fn push(directory: &Path, server_of: &FaultServer, play: Play) -> Pusher {
    let wish = Wish {
        server: server(server_of.url(), play),
        interval: Duration::from_secs(3600),
        tags: Vec::new(),
        prefix: String::new(),
        unsigned: false,
        spool: Some(directory.to_owned()),
        spool_bytes: LIMITS.bytes,
        spool_age: LIMITS.age,
    };
    let snapshot = Snapshot {
        taken_at: SystemTime::now(),
        taken: Instant::now(),
        targets: Vec::new(),
        losses: Vec::new(),
        not_observed: Vec::new(),
        forgotten: 0,
        held_back: Duration::ZERO,
        own: None,
        leaks: None,
        worker: None,
        history: None,
        push: None,
    };
    let (_end, latest) = tokio::sync::watch::channel(Arc::new(snapshot));
    let context = Context { stall_threshold: Duration::from_millis(1), max_series: 1000, top_sites: 10 };
    let pusher = Pusher::open(&wish).unwrap();
    pusher.begin(Source { latest, ask: Box::new(|| ()), context }).unwrap();
    pusher
}

fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_left_of_a_batch_goes_out_whole_with_the_next_one() {
    let (directory, play) = (Directory::new("rest"), Play::V1 { unsigned: false });
    let mut lines = good(30);
    lines[3] = BAD.to_owned();
    leave(&directory.0, &lines);
    let fault_server = FaultServer::start(Role::new(play));
    // The batches are refused for one line, a part of them is stored, and then the server is busy.
    let busy = || Act::Say(503, Vec::new(), "request throttled, queue full".to_owned());
    fault_server.plan([Act::Serve, Act::Serve, busy()]);
    let pusher = push(&directory.0, &fault_server, play);
    until("all is sent", || pusher.figures().backlog_points == 0);
    for line in lines.iter().filter(|line| line.as_str() != BAD) {
        assert!(fault_server.store(|store| store.has(line)), "lost: {line}");
    }
    assert_eq!(fault_server.store(|store| store.contradictions.clone()), Vec::<String>::new());
    let figures = pusher.figures();
    assert_eq!((figures.quarantined, figures.requests.busy), (1, 1), "{figures:?}");
    let quarantine = std::fs::read_to_string(directory.0.join("quarantine.lp")).unwrap();
    assert_eq!(quarantine.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(), [BAD]);
    assert_eq!(figures.retries, 1, "{figures:?}");
}

#[test]
fn a_damaged_file_and_one_that_is_gone_hold_up_nobody() {
    let (directory, play) = (Directory::new("damaged"), Play::V3);
    let lines = good(40);
    leave(&directory.0, &lines);
    let mut files: Vec<_> = std::fs::read_dir(&directory.0)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "gz"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 4);
    std::fs::write(&files[0], "no gzip at all").unwrap();
    let fault_server = FaultServer::start(Role::new(play));
    let pusher = push(&directory.0, &fault_server, play);
    until("all is sent", || pusher.figures().backlog_points == 0);
    for line in &lines[10..] {
        assert!(fault_server.store(|store| store.has(line)), "lost: {line}");
    }
    assert_eq!(pusher.figures().dropped.corrupt, 10);
}

#[test]
fn nobody_is_told_that_it_is_well_while_the_password_is_wrong() {
    let (directory, play) = (Directory::new("locked"), Play::V2);
    leave(&directory.0, &good(10));
    let fault_server = FaultServer::start(Role::new(play));
    fault_server.always(Act::Say(
        401,
        Vec::new(),
        r#"{"code":"unauthorized","message":"unauthorized access"}"#.to_owned(),
    ));
    let pusher = push(&directory.0, &fault_server, play);
    until("it is told", || pusher.figures().trouble.is_some());
    let figures = pusher.figures();
    assert!(!figures.up && figures.backlog_points == 10, "{figures:?}");
    let requests = fault_server.writes().len();
    std::thread::sleep(Duration::from_secs(2));
    assert!(fault_server.writes().len() <= requests + 1, "it isn't tried again and again");
}

#[test]
fn lines_on_which_the_server_fails_hold_up_no_others() {
    let (directory, play) = (Directory::new("poison"), Play::V1 { unsigned: false });
    let mut lines = good(40);
    for at in [3, 17, 31] {
        lines[at] = format!("poison,at={at} v=1i 1");
    }
    leave(&directory.0, &lines);
    let fault_server = FaultServer::start(Role::new(play));
    fault_server.poison_with("poison");
    let pusher = push(&directory.0, &fault_server, play);
    until("all but three are sent", || pusher.figures().backlog_points == 3);
    for line in lines.iter().filter(|line| !line.starts_with("poison")) {
        assert!(fault_server.store(|store| store.has(line)), "lost: {line}");
    }
    assert_eq!(pusher.figures().quarantined, 0, "it may still be the server's fault");
    let requests = fault_server.writes().len();
    std::thread::sleep(Duration::from_secs(3));
    assert!(fault_server.writes().len() <= requests + 1, "nobody tries them again at once");
}
