//! Files are analysed in processes that may die of it: whoever asked goes on, and everything else is counted.
//!
//! No file is known that an analysis dies of. Builds for tests do what a file asks for with its last bytes.

mod common;

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use common::{
    Scratch, can_observe,
    helper::{Helper, compiled},
    profiler::{BINARY, Watching},
    root::parts_of,
    totals::{Totals, number, state},
};
use profiler::{
    binary,
    session::{AnalysisError, Images},
    target::Process,
    worker::{Analysed, Analyst, Limits, NoAnalysis},
};

fn limits() -> Limits {
    Limits { program: PathBuf::from(BINARY), ..Limits::for_analyses() }
}

fn analyse(analyst: &mut Analyst, path: &Path) -> Result<Analysed, NoAnalysis> {
    let file = File::open(path).expect("it can be read");
    let size = file.metadata().expect("it is a file").len();
    analyst.analyse(file.as_fd(), None, size, false)
}

/// A copy of a program that wants its analysis to end like this.
fn hostile(program: &Path, directory: &Scratch, wish: &str) -> PathBuf {
    let path = directory.path().join(wish);
    std::fs::copy(program, &path).expect("it can be copied");
    let mut file = OpenOptions::new().append(true).open(&path).expect("it can be written");
    file.write_all(format!("profiler's worker: {wish}").as_bytes()).expect("it can be written");
    path
}

#[test]
fn an_analysis_that_dies_hangs_or_fails_is_no_analysis_and_the_next_one_is() {
    let Some(program) = compiled("calls.c", &[]) else { return };
    let (libc, _) = parts_of(&program);
    let directory = Scratch::directory("analysis");
    let mut analyst = Analyst::new(Limits { analyse: Duration::from_secs(6), ..limits() });
    let ends = [
        ("abort", NoAnalysis::Crashed),
        ("hang", NoAnalysis::Late(Duration::from_secs(6))),
        ("panic", NoAnalysis::Failed),
    ];
    let truth = binary::analyse(&std::fs::read(&libc).expect("it can be read"), None).expect("an ELF file");
    for (wish, expected) in ends {
        let began = Instant::now();
        assert_eq!(analyse(&mut analyst, &hostile(&program, &directory, wish)), Err(expected), "{wish}");
        assert!(began.elapsed() < Duration::from_secs(8), "{wish}: {:?}", began.elapsed());
        let analysed = analyse(&mut analyst, &libc).expect("the process lives");
        assert_eq!(analysed.image.as_ref(), Ok(&truth), "{wish}");
    }
    assert_eq!(analyst.started(), 6, "a process for each");
    let plain = analyse(&mut analyst, &program).expect("it lives").image.expect("it can be analysed");
    assert!(plain.hooks.is_empty());
}

#[test]
fn an_analysis_has_so_much_memory_and_no_more() {
    let Some(program) = compiled("calls.c", &[]) else { return };
    let directory = Scratch::directory("analysis");
    let large = directory.path().join("large");
    std::fs::copy(&program, &large).expect("it can be copied");
    let file = OpenOptions::new().write(true).open(&large).expect("it can be written");
    file.set_len(600 << 20).expect("holes take no room");
    let mut analyst = Analyst::new(Limits { memory: 512 << 20, ..limits() });
    let before = resident();
    assert_eq!(analyse(&mut analyst, &large), Err(NoAnalysis::Crashed));
    assert!(resident().saturating_sub(before) < 50 << 20, "it is not ours");
    assert!(analyse(&mut analyst, &program).is_ok());
    file.set_len((1 << 30) + 1).expect("holes take no room");
    let refused = analyse(&mut analyst, &large).expect("the process lives").image;
    assert_eq!(refused.unwrap_err(), "1073741825 bytes are more than we read (1 GiB)");
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("our own status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its resident size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Looks at a process's program. Whether it was lost, and is worth another look.
fn look(images: &mut Images, helper: &Helper) -> Option<(NoAnalysis, bool)> {
    let process = Process::open(helper.pid()).expect("it runs");
    let program = std::fs::read_link(format!("/proc/{}/exe", helper.pid())).expect("it runs");
    let objects = process.mapped_objects().expect("they can be read");
    let object = objects.iter().find(|object| Path::new(&object.path) == program).expect("it is mapped");
    let (_, analysis) = images.look_at(&process, object).expect("it can be had");
    match analysis.as_ref() {
        Ok(_) => None,
        Err(AnalysisError::Lost { why, again }) => Some((why.clone(), *again)),
        Err(AnalysisError::File(words)) => panic!("{words}"),
    }
}

#[test]
fn a_file_gets_a_second_chance_and_no_third() {
    let Some(program) = compiled("calls.c", &[]) else { return };
    let directory = Scratch::directory("analysis");
    let helper = Helper::start(&hostile(&program, &directory, "hang"), &["1", "1"]);
    let limits = Limits { analyse: Duration::from_secs(2), ..limits() };
    let late = NoAnalysis::Late(limits.analyse);
    let mut images = Images::new(None, true).expect("no address").with_limits(limits);
    assert_eq!(look(&mut images, &helper), Some((late.clone(), true)));
    assert_eq!(look(&mut images, &helper), Some((late.clone(), false)));
    let began = Instant::now();
    assert_eq!(look(&mut images, &helper), Some((late, false)));
    assert!(began.elapsed() < Duration::from_secs(1), "nobody asked");
}

#[test]
fn what_no_process_could_be_started_for_is_asked_again_any_time() {
    let Some(program) = compiled("calls.c", &[]) else { return };
    let helper = Helper::start(&program, &["1", "1"]);
    let nobody = Limits { program: PathBuf::from("/nonexistent/profiler"), ..limits() };
    let mut images = Images::new(None, true).expect("no address").with_limits(nobody);
    for _ in 0..5 {
        let lost = look(&mut images, &helper);
        assert!(matches!(lost, Some((NoAnalysis::Unstartable(_), true))), "{lost:?}");
    }
    let mut images = images.with_limits(limits());
    assert_eq!(look(&mut images, &helper), None);
}

#[test]
fn a_program_that_no_analysis_survives_is_not_counted_and_the_others_are() {
    let programs =
        if can_observe() { [&["-static"][..], &[]].map(|how| compiled("calls.c", how)) } else { return };
    let [Some(alone), Some(usual)] = programs else { return };
    let directory = Scratch::directory("analysis");
    let hostile = Helper::start(&hostile(&alone, &directory, "abort"), &["5", "2000"]);
    let mut honest = Helper::start(&usual, &["5", "2000"]);
    let pids = [hostile.pid(), honest.pid()].map(|pid| pid.to_string());
    let watching = Watching::chosen_by(&["--pid", &pids[0], "--pid", &pids[1]]);
    let counts = honest.work();
    let document = watching.document();
    let of = |pid: u32| {
        let targets = document["targets"].as_array().expect("a list");
        targets.iter().find(|target| number(target, "pid") == u64::from(pid))
    };
    let lost = of(hostile.pid()).unwrap_or_else(|| panic!("{document:#}"));
    let (word, reason) = state(lost);
    assert_eq!(word, "not_counting", "{lost:#}");
    assert!(
        reason.ends_with("abort: the process that analysed it has crashed or was out of memory"),
        "{reason}"
    );
    let counted = of(honest.pid()).unwrap_or_else(|| panic!("{document:#}"));
    assert_eq!(state(counted), ("counting", ""), "{counted:#}");
    let functions = counts["functions"].as_object().expect("a list");
    let told: u64 = functions.values().map(|function| number(function, "allocations")).sum();
    assert_eq!(Totals::counted(counted).allocations, told);
    assert!(watching.finish().status.success());
}
