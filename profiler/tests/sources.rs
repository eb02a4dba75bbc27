//! Each process's samples come from where they can be had: its allocator, or its page faults.

mod common;

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use common::{
    LONG, Scratch, can_observe,
    child::{Guarded, Lines, run},
    has_program,
    helper::{Helper, compiled},
    profiler::profiler,
    skip, within,
};
use profiler::{
    kernel::{Facts, Kernel, Plan, Sizes, Wanted},
    leaks::{Picture, Source, TargetReport},
};
use profiler_common::sample::Sampling;

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const MIB: f64 = 1_048_576.0;

/// A program without any allocator that could be found: its own, and nothing says where.
fn without_allocator() -> Option<PathBuf> {
    compiled("grower.c", &["-static", "-s"])
}

/// The same, on the C library of this machine.
fn with_allocator() -> Option<PathBuf> {
    compiled("grower.c", &["-g"])
}

/// A hunt of so many seconds in a helper, which does its work meanwhile. What is said of it in the end.
fn hunt(helper: &mut Helper, seconds: u32, more: &[&str], work: impl FnOnce(&mut Helper)) -> TargetReport {
    let file = Scratch::name("picture.json");
    // Not --json, which says nothing of the beginning.
    let mut command = profiler(["leaks", "--for"]);
    command.arg(format!("{seconds}s")).args(["--pid", &helper.pid().to_string()]).args(more);
    command.arg("--report").arg(file.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Guarded(command.spawn().expect("profiler starts"));
    let mut stdout = child.0.stdout.take().expect("it is a pipe");
    let stdout = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is what there is.
        let _read = stdout.read_to_end(&mut bytes);
        bytes
    });
    let stderr = Lines::of(child.0.stderr.take().expect("it is a pipe"));
    let mut said = Vec::new();
    loop {
        let Some(line) = stderr.next(LONG) else { panic!("profiler ended at its start: {said:#?}") };
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.starts_with("profiler: watching") {
            break;
        }
        said.push(line);
    }
    work(helper);
    let status = child.wait(LONG);
    let complaints: Vec<_> =
        stderr.rest().iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    assert_eq!(status.code(), Some(0), "{complaints:#?}");
    let stdout = stdout.join().expect("a reader doesn't panic");
    let report = std::fs::read(file.path()).unwrap_or_default();
    let picture: Picture = serde_json::from_slice(&report)
        .unwrap_or_else(|error| panic!("{error}: {}\n{complaints:#?}", String::from_utf8_lossy(&stdout)));
    picture.targets.into_iter().next().expect("a target")
}

/// Says something and waits until it is done.
fn say(helper: &mut Helper, line: &str) {
    helper.tell(line);
    helper.answer();
}

/// The helper becomes another program, which gets ready.
fn exec(helper: &mut Helper, program: &Path) {
    helper.tell(&format!("exec {}", program.display()));
    helper.ready();
}

fn live_mib(report: &TargetReport) -> f64 {
    report.live_bytes.value / MIB
}

fn loss(report: &TargetReport, reason: &str) -> u64 {
    report.losses.iter().find(|(name, _)| name == reason).map_or(0, |(_, count)| *count)
}

#[test]
fn a_program_without_a_known_allocator_is_seen_to_grow_and_to_give_back() {
    let (_alone, true, Some(program)) = (alone(), can_observe(), without_allocator()) else { return };
    let mut helper = Helper::start::<&str>(&program, &[]);
    let report = hunt(&mut helper, 10, &[], |helper| {
        say(helper, "grow 64 1024");
        say(helper, "drop 768");
    });
    assert_eq!(report.source, Ok(Source::Growth), "{report:#?}");
    // 16 MiB stay: 256 samples, give or take 16.
    assert!((11.0..21.0).contains(&live_mib(&report)), "{} MiB: {:?}", live_mib(&report), report.losses);
    let allocated: f64 = report.sites.iter().map(|site| site.allocated_bytes.value / MIB).sum();
    assert!((50.0..78.0).contains(&allocated), "{allocated} MiB");
}

#[test]
fn a_huge_page_counts_as_what_it_is() {
    let (_alone, true, Some(program)) = (alone(), can_observe(), without_allocator()) else { return };
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    if setting.is_empty() || setting.contains("[never]") {
        return skip("no transparent huge pages");
    }
    let mut helper = Helper::start::<&str>(&program, &[]);
    let report = hunt(&mut helper, 6, &["--sample-bytes", "4096"], |helper| say(helper, "grow 131072 2"));
    assert_eq!(report.source, Ok(Source::Growth));
    // 128 faults, of which 63 % are chosen: 81, give or take 5.5.
    assert!((180.0..340.0).contains(&live_mib(&report)), "{} MiB: {report:#?}", live_mib(&report));
}

#[test]
fn a_program_with_an_allocator_is_sampled_there() {
    let (_alone, true, Some(program)) = (alone(), can_observe(), with_allocator()) else { return };
    let mut helper = Helper::start::<&str>(&program, &[]);
    let report = hunt(&mut helper, 5, &["--sample-bytes", "65536"], |helper| say(helper, "leak 1024"));
    assert_eq!(report.source, Ok(Source::Allocator));
    assert!((11.0..21.0).contains(&live_mib(&report)), "{} MiB", live_mib(&report));
}

#[test]
fn a_program_that_becomes_another_one_is_judged_again() {
    let (_alone, true) = (alone(), can_observe()) else { return };
    let (Some(without), Some(with)) = (without_allocator(), with_allocator()) else { return };
    let mut helper = Helper::start::<&str>(&without, &[]);
    let report = hunt(&mut helper, 6, &["--sample-bytes", "65536"], |helper| {
        say(helper, "grow 64 256");
        exec(helper, &with);
        std::thread::sleep(Duration::from_millis(200));
        say(helper, "leak 1024");
    });
    assert_eq!(report.source, Ok(Source::Allocator), "{report:#?}");
    assert!((11.0..21.0).contains(&live_mib(&report)), "{} MiB: {report:#?}", live_mib(&report));
    let mut helper = Helper::start::<&str>(&with, &[]);
    let report = hunt(&mut helper, 6, &["--sample-bytes", "65536"], |helper| {
        say(helper, "leak 256");
        exec(helper, &without);
        std::thread::sleep(Duration::from_millis(500));
        say(helper, "grow 64 256");
    });
    assert_eq!(report.source, Ok(Source::Growth), "{report:#?}");
    assert!((11.0..21.0).contains(&live_mib(&report)), "{} MiB: {report:#?}", live_mib(&report));
}

#[test]
fn a_script_that_ends_in_a_program_is_followed_there() {
    let (_alone, true, Some(program)) = (alone(), can_observe(), with_allocator()) else { return };
    let program = program.display().to_string();
    let script = format!("echo ready; read line; exec /bin/sh -c 'exec {program}'");
    let mut helper = Helper::spawn(Command::new("/bin/sh").args(["-c", &script]));
    let report = hunt(&mut helper, 6, &["--sample-bytes", "65536"], |helper| {
        helper.tell("go");
        helper.ready();
        // No allocation before the first look at a new program is sampled.
        std::thread::sleep(Duration::from_millis(200));
        say(helper, "leak 1024");
    });
    assert_eq!(report.source, Ok(Source::Allocator));
    assert!((11.0..21.0).contains(&live_mib(&report)), "{} MiB", live_mib(&report));
}

/// Where Debian has Go, which it puts in no path.
const GO: &str = "/usr/lib/go-1.19/bin/go";

#[test]
fn no_return_is_taken_in_go_even_of_the_c_library() {
    let (_alone, true) = (alone(), can_observe()) else { return };
    if !Path::new(GO).exists() || !has_program("cc") {
        return skip(&format!("there is no {GO}"));
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
    std::fs::create_dir_all(&directory).expect("the build directory can be written");
    let program = directory.join("collector");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/collector.go");
    let mut build = Command::new(GO);
    build.args(["build", "-o"]).arg(&program).arg(source);
    build.env("GOCACHE", directory.join("cache")).env("GO111MODULE", "off").env("CGO_ENABLED", "1");
    let built = run(&mut build);
    assert!(built.status.success(), "{:#?}", built.complaints());
    let mut helper = Helper::start::<&str>(&program, &[]);
    let report = hunt(&mut helper, 6, &[], |helper| say(helper, "leak 1024"));
    assert_eq!(report.source, Ok(Source::Growth), "{report:#?}");
    assert!((8.0..32.0).contains(&live_mib(&report)), "{} MiB: {report:#?}", live_mib(&report));
    let report = hunt(&mut helper, 2, &["--leaks", "on"], |_| ());
    assert!(report.source.clone().is_err_and(|reason| reason.starts_with("Go ")), "{:?}", report.source);
}

#[test]
fn nothing_is_sampled_in_a_program_that_nobody_has_judged() {
    let (_alone, true, Some(program)) = (alone(), can_observe(), with_allocator()) else { return };
    let wanted = Wanted { alloc: true, samples: true, growth: Some(4096), ..Wanted::NOTHING };
    let plan = match Plan::decide(wanted, &Facts::gather()) {
        Ok(plan) => plan,
        Err(error) => return skip(&error.to_string()),
    };
    let sizes = Sizes { targets: 3, sites: 1 };
    let mut kernel = Kernel::load(plan, sizes, Duration::from_millis(1), false).expect("it loads");
    let mut helper = Helper::start::<&str>(&program, &[]);
    kernel.watch_process(helper.pid(), 1, false).expect("it can be followed");
    let (mean, off) = (Sampling::with_mean(4096), Sampling::default());
    for slot in [1, 2] {
        kernel.sample(slot, mean).expect("a slot");
    }
    let before = kernel.epoch(1).expect("a slot");
    exec(&mut helper, &program);
    assert!(within(LONG, || kernel.epoch(1).is_ok_and(|epoch| epoch == before + 1)));
    assert_eq!(kernel.sampling(1).expect("a slot").rate, off.rate);
    assert_eq!(kernel.sampling(2).expect("a slot"), mean, "nobody else's");
}

#[test]
fn faults_are_looked_at_only_while_somebody_is_to_be_seen_growing() {
    let (_alone, true) = (alone(), can_observe()) else { return };
    let wanted = Wanted { growth: Some(4096), ..Wanted::NOTHING };
    let plan = match Plan::decide(wanted, &Facts::gather()) {
        Ok(plan) => plan,
        Err(error) => return skip(&error.to_string()),
    };
    let sizes = Sizes { targets: 3, sites: 1 };
    let mut kernel = Kernel::load(plan, sizes, Duration::from_millis(1), false).expect("it loads");
    assert_eq!(kernel.obstacle_to_growth(), None);
    let mut seen = vec![kernel.looks_at_faults()];
    for (slot, mean) in [(0, Some(4096)), (2, Some(4096)), (0, None), (2, None), (2, Some(1)), (2, None)] {
        kernel.sample_pages(slot, mean).expect("it can be had");
        seen.push(kernel.looks_at_faults());
    }
    assert_eq!(seen, [false, true, true, true, false, true, false]);
}

#[test]
fn exceptions_get_out_of_operators_unless_it_was_asked_for_trouble() {
    let library = "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4";
    let (_alone, true, Some(program)) = (alone(), can_observe(), compiled("throws.cpp", &[])) else { return };
    if !Path::new(library).exists() {
        return skip(&format!("there is no {library}"));
    }
    let start = || Helper::spawn(Command::new(&program).env("LD_PRELOAD", library));
    let mut helper = start();
    let report = hunt(&mut helper, 3, &[], |helper| {
        helper.tell("go");
        assert_eq!(helper.answer()["caught"], 1);
    });
    assert_eq!(report.source, Ok(Source::Allocator));
    assert!(loss(&report, "not_sampled_functions") > 0, "{:?}", report.losses);
    assert!(report.judgement.reason.contains("operator new"), "{}", report.judgement.reason);
    helper.tell("go");
    assert_eq!(helper.answer()["caught"], 1);
    // This is what it is warned of: if it ever gets on well, such functions can always be sampled.
    let mut helper = start();
    let report = hunt(&mut helper, 3, &["--leaks", "on"], |helper| {
        helper.tell("go");
        assert_eq!(helper.last_words(), None, "std::terminate");
    });
    assert_eq!(loss(&report, "not_sampled_functions"), 0, "{:?}", report.losses);
}
