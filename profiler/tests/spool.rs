//! A spool on a real disk: one that is full, one that another process has, one whose writer is killed at any moment.

mod common;

use std::{
    collections::HashMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use common::{
    LONG, Scratch,
    child::{Guarded, Lines, run},
    skip,
};
use profiler::push::spool::{BatchId, Limits, Spool, SpoolError};

const WIDE: Limits = Limits { bytes: 1 << 30, age: Duration::MAX };

/// Says to this program, started once more, in which directory it is to write.
const DIRECTORY: &str = "PROFILER_TEST_SPOOL";
/// And how many batches.
const BATCHES: &str = "PROFILER_TEST_SPOOL_BATCHES";

/// No test but the program of a writer: appends batches and says each on a line of its own once it is safe.
#[test]
fn writes_if_asked_to() {
    let (Some(directory), Some(batches)) = (std::env::var_os(DIRECTORY), std::env::var(BATCHES).ok()) else {
        return;
    };
    let spool = Spool::open(Path::new(&directory), WIDE).expect("nobody else has it");
    // What the test harness has begun to say is on the line before.
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "\nready\n").expect("somebody listens");
    let pid = std::process::id();
    for number in 0..batches.parse().expect("a number") {
        let points = 1 + number % 300;
        let text: String = (0..points).map(|line| line_of(pid, number.into(), line)).collect();
        let id = spool.append(SystemTime::now(), points, &text).expect("there is room");
        writeln!(stdout, "{number} {points} {} {}", id.time_ns, id.sequence).expect("somebody listens");
    }
    // The spool stays locked until nobody speaks any more.
    let _end = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

fn line_of(pid: u32, batch: u64, line: u32) -> String {
    format!("m,pid={pid},batch={batch} line={line}i 1\n")
}

/// Starts a writer; it has the spool once this returns.
fn start(spool: &Path, batches: u32) -> (Guarded, Lines) {
    let mut command = Command::new(std::env::current_exe().expect("it runs"));
    command.args(["--exact", "writes_if_asked_to", "--nocapture"]);
    command.env(DIRECTORY, spool).env(BATCHES, batches.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Guarded(command.spawn().expect("it starts"));
    let lines = Lines::of(child.0.stdout.take().expect("it is a pipe"));
    while lines.next(LONG).expect("it gets ready") != b"ready" {}
    (child, lines)
}

/// A file system in memory, gone when it is dropped.
struct Mounted(Scratch);

impl Mounted {
    fn new(size: &str) -> Option<Self> {
        let scratch = Scratch::directory("tmpfs");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(scratch.path());
        let mounted = run(&mut mount);
        if mounted.status.success() {
            return Some(Self(scratch));
        }
        skip(&format!("nothing can be mounted: {:?}", mounted.complaints()));
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // One that is still there is seen by whoever looks at the build directory.
        let _gone = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Lines that hardly get smaller.
fn noise(number: u32, points: u32) -> String {
    let mut state = u64::from(number) + 1;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..points)
        .map(|_| format!("m a={}i,b={}i,c={}i 1\n", random() >> 1, random() >> 1, random() >> 1))
        .collect()
}

#[test]
fn a_full_disk_refuses_a_batch_and_takes_it_when_there_is_room() {
    let Some(mounted) = Mounted::new("256k") else { return };
    let directory = mounted.0.path().join("spool");
    let spool = Spool::open(&directory, WIDE).expect("it is empty");
    let mut kept = Vec::new();
    let error = loop {
        let number = u32::try_from(kept.len()).expect("a few");
        match spool.append(SystemTime::now(), 400, &noise(number, 400)) {
            Ok(id) => kept.push((id, noise(number, 400))),
            Err(error) => break error,
        }
        assert!(kept.len() < 100, "256 KiB are full some time");
    };
    assert!(error.is_no_space() && kept.len() > 2, "{error} after {}", kept.len());
    let files = || std::fs::read_dir(&directory).expect("it can be read").count();
    assert_eq!(files(), kept.len() + 1, "nothing is left of it");
    for _ in 0..3 {
        assert!(
            spool.append(SystemTime::now(), 400, &noise(77, 400)).is_err_and(|error| error.is_no_space())
        );
    }
    drop(spool);
    let spool = Spool::open(&directory, WIDE).expect("a full disk can be opened");
    let figures = spool.figures();
    assert_eq!((figures.batches, figures.points), (kept.len() as u64, 400 * kept.len() as u64));
    let (first, _) = kept.remove(0);
    spool.remove(first).expect("removing needs no room");
    let id = spool.append(SystemTime::now(), 400, &noise(77, 400)).expect("there is room again");
    kept.push((id, noise(77, 400)));
    for (id, text) in &kept {
        assert_eq!(spool.read(*id).expect("it can be read").as_ref(), Some(text));
    }
    let blocks = |path: PathBuf| std::os::unix::fs::MetadataExt::blocks(&path.metadata().expect("a file"));
    let entries = std::fs::read_dir(&directory).expect("it can be read");
    let batches = entries.map(|entry| entry.expect("an entry").path()).filter(|path| !path.ends_with("lock"));
    assert_eq!(spool.figures().bytes, batches.map(blocks).sum::<u64>() * 512);
}

#[test]
fn a_limit_below_the_size_of_the_disk_keeps_it_from_getting_full() {
    let Some(mounted) = Mounted::new("256k") else { return };
    let limits = Limits { bytes: 200 << 10, ..WIDE };
    let spool = Spool::open(&mounted.0.path().join("spool"), limits).expect("it is empty");
    for number in 0..100 {
        spool.append(SystemTime::now(), 400, &noise(number, 400)).expect("older ones make room");
        assert!(spool.figures().bytes <= limits.bytes);
    }
    let figures = spool.figures();
    assert_eq!(figures.points + figures.dropped_full, 40_000);
}

#[test]
fn a_spool_that_another_process_has_is_refused_until_that_one_is_killed() {
    let scratch = Scratch::name("spool");
    let (mut child, lines) = start(scratch.path(), 1);
    assert!(lines.next(LONG).is_some());
    let error = Spool::open(scratch.path(), WIDE).expect_err("it is locked");
    let SpoolError::Locked { path, pid } = &error else { panic!("{error}") };
    assert_eq!((path.as_path(), *pid), (scratch.path(), Some(child.0.id())));
    child.0.kill().expect("it is ours");
    child.wait(LONG);
    let spool = Spool::open(scratch.path(), WIDE).expect("SIGKILL gives it back");
    assert_eq!(spool.figures().batches, 1);
}

#[test]
fn every_batch_that_was_told_safe_is_there_and_whole_whenever_its_writer_is_killed() {
    let scratch = Scratch::name("killed");
    // One spool for all, so that each writer begins with what the one before it left.
    let mut safe: HashMap<BatchId, String> = HashMap::new();
    let mut untold = 0;
    for round in 0..20_u64 {
        let (mut child, lines) = start(scratch.path(), u32::MAX);
        let pid = child.0.id();
        // From nothing at all to many batches, at no particular point of any.
        let pause = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| u64::from(time.subsec_nanos())) % 7_000;
        std::thread::sleep(Duration::from_micros(round * 4_000 + pause));
        child.0.kill().expect("it is ours");
        child.wait(LONG);
        for line in lines.rest() {
            let line = String::from_utf8(line).expect("it speaks ASCII");
            let numbers: Vec<u64> = line.split(' ').map_while(|word| word.parse().ok()).collect();
            // A line may be cut.
            let [number, points, time_ns, sequence] = numbers[..] else { continue };
            let [points, sequence] =
                [points, sequence].map(|number| u32::try_from(number).expect("they are"));
            let text = (0..points).map(|line| line_of(pid, number, line));
            safe.insert(BatchId { sequence, time_ns, points }, text.collect());
        }
        let spool = Spool::open(scratch.path(), WIDE).expect("it can be opened after any end");
        let ids = spool.ids(usize::MAX);
        for (id, text) in &safe {
            assert_eq!(spool.read(*id).expect("it can be read").as_ref(), Some(text), "{id:?} was safe");
        }
        for id in &ids {
            assert!(spool.read(*id).expect("it can be read").is_some(), "{id:?} is torn");
        }
        untold = ids.len() - safe.len();
        assert!(untold as u64 <= round + 1, "at most one each time that nobody could tell of");
        let names = std::fs::read_dir(scratch.path()).expect("it can be read").count();
        assert_eq!(names, ids.len() + 1, "the lock, and nothing else");
        assert_eq!(spool.figures().dropped_corrupt, 0);
    }
    println!("{} batches were safe and are there, {untold} are there that nobody was told of", safe.len());
    assert!(safe.len() > 20, "{}", safe.len());
}
