//! A process is followed through its whole life: children, other programs, libraries that come and go, the end. What is
//! true is counted by the processes themselves, in memory that they share.

mod common;

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use common::{
    LONG, Scratch,
    family::{Counts, Family, Names, counted_processes, of_function, size_of, target, until},
    helper::{Helper, compiled},
    profiler::Watching,
    root::parts_of,
    within,
};
use serde_json::Value;

fn totals(target: &Value) -> (u64, u64) {
    let number = |key: &str| target[key].as_u64().unwrap_or_else(|| panic!("no {key} in {target}"));
    (number("allocations"), number("frees"))
}

fn truth(counts: Counts) -> (u64, u64) {
    (counts.allocations, counts.frees)
}

fn live(target: &Value) -> i64 {
    target["live_objects"].as_i64().expect("a number")
}

fn gap(target: &Value) -> f64 {
    target["gap_seconds"].as_f64().expect("a number")
}

/// Waits until so many processes of the first target are counted; the target then.
fn until_counted(watching: &Watching, processes: usize) -> Value {
    let what = format!("{processes} processes are counted");
    until(watching, &what, |all| counted_processes(&all["targets"][0]) == processes)["targets"][0].clone()
}

#[test]
fn workers_that_come_and_go_are_one_target_whose_totals_never_sink() {
    let Some(mut family) = Family::observable() else { return };
    let watching = Watching::with(family.pid(), &["--children", "--interval", "200ms"]);
    family.tell("allocate 1000");
    let (mut before, mut seen, mut gaps) = ((0, 0), 1, 0.0);
    for round in 0..4 {
        family.tell("spawn 5 300");
        until_counted(&watching, 6);
        let counts = family.tell("go");
        let now = watching.now();
        let in_memory: Vec<_> = now["processes"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| (one["pid"].as_u64(), breakpoints(one["pid"].as_u64().expect("an id") as u32)))
            .collect();
        assert_eq!(totals(&now), truth(counts), "round {round}: breakpoints in {in_memory:?}");
        // Each child has what its parent had, and half of its own.
        assert_eq!(live(&now), 6 * 1000 + 5 * 150, "round {round}");
        seen += 5;
        assert_eq!(now["processes_seen"], seen);
        assert!(totals(&now) >= before && gap(&now) > gaps, "round {round}: {now:#}");
        (before, gaps) = (totals(&now), gap(&now));
        family.tell("end");
        let now = until_counted(&watching, 1);
        assert_eq!((totals(&now), live(&now)), (truth(counts), 1000), "round {round}");
        assert!(gap(&now) >= gaps);
    }
    println!("20 forks: {:.1} ms of gap each", gaps * 1000.0 / 20.0);
    // Seconds where everything else on the machine goes first.
    assert!(gaps < 20.0, "{gaps} s");
    let (counts, finished) = (family.tell("report"), watching.finish());
    assert_eq!(totals(finished.target()), truth(counts));
    assert_eq!(finished.report["processes_not_observed"]["failed"], 0);
}

#[test]
fn what_a_child_does_before_it_is_counted_is_within_the_gap() {
    let Some(mut family) = Family::observable() else { return };
    let watching = Watching::with(family.pid(), &["--children"]);
    family.tell("eager 1 400000");
    until_counted(&watching, 2);
    let counts = family.tell("go");
    let now = watching.now();
    let missing = counts.allocations - totals(&now).0;
    let uncounted_ns = counts.eager_ns as f64 * missing as f64 / counts.allocations as f64;
    println!(
        "{missing} of {} are missing, which took less than {:.1} ms; the gap is {:.1} ms",
        counts.allocations,
        uncounted_ns / 1e6,
        gap(&now) * 1e3
    );
    assert!(totals(&now).0 > 0 && gap(&now) > 0.0);
    // Before the probes came it was faster than on the average.
    assert!(uncounted_ns / 1e9 / 50.0 < gap(&now), "{now:#}");
    family.tell("end");
}

#[test]
fn children_that_nobody_asked_for_are_not_counted() {
    let Some(mut family) = Family::observable() else { return };
    let watching = Watching::process(family.pid());
    family.tell("spawn 3 500");
    family.tell("allocate 10");
    family.tell("go");
    family.tell("end");
    let finished = watching.finish();
    assert_eq!((totals(finished.target()), &finished.target()["processes_seen"]), ((10, 0), &Value::from(1)));
}

/// Bytes of a process's C library that aren't those of the file: code isn't relocated, so these are breakpoints.
fn breakpoints(pid: u32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let code =
        maps.lines().find(|line| line.contains("r-xp") && line.contains("/libc.so")).expect("a C library");
    let fields: Vec<&str> = code.split_whitespace().collect();
    let hex = |text| u64::from_str_radix(text, 16).expect("a number");
    let (start, end) = fields[0].split_once('-').expect("a range");
    let length = usize::try_from(hex(end) - hex(start)).expect("a length");
    let (mut is, mut should_be) = (vec![0; length], vec![0; length]);
    let memory = File::open(format!("/proc/{pid}/mem")).expect("its memory");
    memory.read_exact_at(&mut is, hex(start)).expect("its code");
    let file = File::open(fields[5]).expect("its file");
    let _length = file.read_at(&mut should_be, hex(fields[2])).expect("its file");
    is.iter().zip(&should_be).filter(|(is, should_be)| is != should_be).count()
}

#[test]
fn a_child_that_nobody_asked_for_is_freed_of_breakpoints_and_its_parent_is_not() {
    let Some(program) = compiled("forks.c", &[]).filter(|_| common::can_observe()) else { return };
    let mut helper = Helper::start::<&str>(&program, &[]);
    let watching = Watching::process(helper.pid());
    let own = breakpoints(helper.pid());
    assert!(own >= 8, "{own}");
    let child = helper.work()["child"].as_u64().expect("an id") as u32;
    let asked = Instant::now();
    assert!(within(LONG, || breakpoints(child) == 0), "{} are left", breakpoints(child));
    println!("without breakpoints after at most {:?}", asked.elapsed());
    assert_eq!(breakpoints(helper.pid()), own);
    watching.finish();
}

#[test]
fn a_grandchild_whose_parent_has_ended_at_once_is_still_of_the_family() {
    let Some(mut family) = Family::observable() else { return };
    let watching = Watching::with(family.pid(), &["--children", "--interval", "200ms"]);
    family.tell("allocate 1000");
    for round in 1..=5 {
        family.tell("daemon 200");
        until_counted(&watching, 2);
        let counts = family.tell("go");
        let now = watching.now();
        assert_eq!(totals(&now), truth(counts), "round {round}");
        assert_eq!(live(&now), 2 * 1000 + 100, "round {round}");
        family.tell("end");
        until_counted(&watching, 1);
    }
}

/// What a target has counted of a function when it has gone through these lines, each of which makes it another program that
/// does the same again before and after its first line.
fn through(lines: &[String], observed: &[&str]) -> Option<(Counts, Value)> {
    let mut family = Family::observable()?;
    let watching = Watching::with(family.pid(), observed);
    let mut counts = family.tell("allocate 7000");
    for line in lines {
        family.tell(line);
        let program = line.split_once(' ').expect("a path").1;
        until(&watching, program, |all| {
            let target = &all["targets"][0];
            let of_it = |site: &Value| site["object"] == program;
            let hooked =
                !line.contains("static") || target["sites"].as_array().expect("a list").iter().any(of_it);
            target["processes"][0]["exe"] == program && hooked && counted_processes(target) == 1
        });
        // It says so as soon as it knows what it was, and looks again for a while.
        std::thread::sleep(Duration::from_millis(50));
        until_counted(&watching, 1);
        counts = family.tell("allocate 500");
    }
    let finished = watching.finish();
    Some((counts, finished.target().clone()))
}

#[test]
fn programs_one_after_another_in_a_process_lose_nothing() {
    let Some(program) = compiled("family_tree.c", &[]) else { return };
    let lines = vec![format!("exec {}", program.display()); 6];
    let Some((counts, target)) = through(&lines, &[]) else { return };
    assert_eq!(counts.allocations, 7000 + 6 * 600);
    // What a program allocates before its main is in `malloc`, too, and is at least nothing.
    let malloc = of_function(&target, "malloc", "allocations");
    println!("{malloc} mallocs, the programs know of {}", counts.allocations);
    assert!((counts.allocations..counts.allocations + 60).contains(&malloc), "{malloc}: {counts:?}");
    assert!((600..640).contains(&live(&target)), "the last program's: {}", live(&target));
    assert_eq!(target["processes_seen"], 1);
}

#[test]
fn a_static_program_in_between_is_counted_as_well() {
    let Some(program) = compiled("family_tree.c", &[]) else { return };
    let Some(alone) = compiled("family_tree.c", &["-static", "-DSTATIC"]) else { return };
    let lines = [format!("exec {}", alone.display()), format!("exec {}", program.display())];
    let Some((counts, target)) = through(&lines, &[]) else { return };
    let malloc = of_function(&target, "malloc", "allocations");
    println!("{malloc} of {} in {} s of gap", counts.allocations, gap(&target));
    assert_eq!(counts.allocations, 7000 + 2 * 600);
    // The 100 that the static program begins with come before anybody can have looked at it: the gap says so.
    assert!((counts.allocations - 100..counts.allocations + 60).contains(&malloc), "{malloc}: {target:#}");
    assert!(gap(&target) > 0.0);
}

#[test]
fn a_program_started_by_another_thread_is_counted_after_a_gap() {
    let Some(program) = compiled("family_tree.c", &[]) else { return };
    let lines = vec![format!("thread {}", program.display()); 3];
    let Some((counts, target)) = through(&lines, &[]) else { return };
    assert_eq!(counts.allocations, 7000 + 3 * 600);
    let malloc = of_function(&target, "malloc", "allocations");
    println!("{malloc} of {} in {} s of gap", counts.allocations, gap(&target));
    assert!((counts.allocations - 300..counts.allocations + 60).contains(&malloc), "{malloc}: {target:#}");
    assert!(gap(&target) > 0.0);
    assert!((500..640).contains(&live(&target)), "the last program's: {}", live(&target));
}

#[test]
fn a_child_that_becomes_another_program_has_nothing_of_its_parents() {
    let Some(names) = Names::new() else { return };
    let (Some(parent), Some(child)) = (names.program("par", &[]), names.program("chi", &[])) else { return };
    let mut family = Family::start(&parent);
    let watching = Watching::with(family.pid(), &["--children", "--group-by", "comm", "--interval", "200ms"]);
    family.tell("allocate 5000");
    // The first becomes another program when it is observed already, the others as soon as they can.
    family.tell(&format!("become 1 {}", child.display()));
    let (par, chi) = (names.name("par"), names.name("chi"));
    let all =
        until(&watching, "the child", |all| target(all, &par).is_some_and(|one| counted_processes(one) == 2));
    assert_eq!(live(target(&all, &par).expect("it is there")), 10_000);
    family.tell("go");
    family.tell(&format!("become 0 {}", child.display()));
    family.tell(&format!("become 0 {}", child.display()));
    let all = until(&watching, "children under their new name", |all| {
        target(all, &chi).is_some_and(|one| counted_processes(one) == 3)
    });
    assert_eq!(live(target(&all, &par).expect("it is there")), 5000);
    let of_children = live(target(&all, &chi).expect("it is there"));
    // Each has allocated 100 blocks, at once: those that came before the probes are missing.
    assert!(
        (0..320).contains(&of_children),
        "{of_children} in {:#}",
        target(&all, &chi).expect("it is there")["processes"]
    );
    family.tell("end");
}

#[test]
fn the_last_totals_stay_when_all_have_ended() {
    let Some(names) = Names::new() else { return };
    let Some(program) = names.program("one", &[]) else { return };
    let pattern = format!("^{}$", names.name("one"));
    let mut family = Family::start(&program);
    let watching = Watching::chosen_by(&["--comm", &pattern, "--interval", "200ms"]);
    let counts = family.tell("allocate 777");
    assert!(family.0.end().success());
    let ended =
        until(&watching, "it has ended", |all| all["targets"][0]["up"] == false)["targets"][0].clone();
    assert_eq!((totals(&ended), live(&ended)), (truth(counts), 777));
    // Its place is free by now, its series are there.
    std::thread::sleep(Duration::from_millis(500));
    let page = watching.get("/metrics");
    let series = format!("profiler_target_up{{target=\"{}\"}} 0", names.name("one"));
    assert!(page.text().contains(&series), "{}", page.text());
    let mut next = Family::start(&program);
    until_counted(&watching, 1);
    let more = next.tell("allocate 23");
    let finished = watching.finish();
    assert_eq!(totals(finished.target()).0, counts.allocations + more.allocations);
    assert_eq!(finished.target()["processes_seen"], 2);
}

/// A small library with an allocator of its own, under prefixed names.
fn library_of_its_own() -> Option<(std::path::PathBuf, &'static str)> {
    // The name is a link; profiler tells the file's.
    if let Ok(path) = Path::new("/usr/lib/x86_64-linux-gnu/libmimalloc.so.2").canonicalize() {
        return Some((path, "mi_"));
    }
    common::skip("there is no libmimalloc.so.2");
    None
}

#[test]
fn an_allocator_that_is_loaded_later_is_counted_within_a_second() {
    let Some((library, prefix)) = library_of_its_own() else { return };
    let Some(mut family) = Family::observable() else { return };
    let watching = Watching::process(family.pid());
    let before = watching.now()["sites"].as_array().expect("a list").len();
    let asked = Instant::now();
    family.tell(&format!("load {} {prefix}", library.display()));
    let now = until(&watching, "it is hooked", |all| {
        all["targets"][0]["sites"].as_array().expect("a list").len() > before
    });
    println!("hooked after at most {:?}", asked.elapsed());
    let had = totals(&now["targets"][0]);
    family.tell("own 5000");
    let target = watching.now();
    let of_it = target["allocators"].as_array().expect("a list");
    println!("{of_it:?}");
    let (allocations, frees) = totals(&target);
    assert_eq!((allocations - had.0, frees - had.1), (5000, 5000), "{target:#}");
    assert!(of_it.len() >= 2, "{of_it:?}");
}

/// What allocators other than the C library's have counted, by function: allocations and frees.
fn of_others(target: &Value) -> BTreeMap<String, (u64, u64)> {
    let mut counted = BTreeMap::new();
    for one in
        target["functions"].as_array().expect("a list").iter().filter(|one| one["allocator"] != "glibc")
    {
        let numbers = totals(one);
        if numbers != (0, 0) {
            counted.insert(one["function"].as_str().expect("a name").to_owned(), numbers);
        }
    }
    counted
}

/// What so many times of a `mix` are.
fn mixes(times: u64) -> BTreeMap<String, (u64, u64)> {
    [("malloc", (1, 0)), ("calloc", (1, 0)), ("realloc", (1, 1)), ("free", (0, 2))]
        .map(|(name, (allocations, frees))| (name.to_owned(), (times * allocations, times * frees)))
        .into()
}

/// Whether there are probes in an object.
fn has_sites(all: &Value, object: &str) -> bool {
    all["targets"][0]["sites"].as_array().expect("a list").iter().any(|site| site["object"] == object)
}

/// One that unloads cleanly; most allocators never do.
fn library_that_goes() -> Option<String> {
    Some(compiled("own_allocator.c", &["-shared", "-fPIC"])?.to_str().expect("it is text").to_owned())
}

#[test]
fn loading_and_unloading_a_thousand_times_leaves_nothing() {
    let (Some((lasting, prefix)), Some(own)) = (library_of_its_own(), library_that_goes()) else { return };
    for (library, prefix) in [(own.as_str(), "je_"), (lasting.to_str().expect("it is text"), prefix)] {
        let Some(mut family) = Family::observable() else { return };
        let watching = Watching::process(family.pid());
        watching.now();
        for round in 1..=10 {
            family.tell(&format!("load {library} {prefix}"));
            until(&watching, "it is hooked", |all| has_sites(all, library));
            family.tell("mix 100");
            family.tell("unload");
            // By turns it comes again before anybody has cleared up, and after that.
            if round % 3 == 0 && prefix == "je_" {
                until(&watching, "it is gone", |all| !has_sites(all, library));
            }
            if prefix == "je_" {
                assert_eq!(of_others(&watching.now()), mixes(round * 100), "round {round}");
            }
        }
        // The hunt for leaks opens each file that a sampled stack leads through, once, and has a worker: what is left of that comes below.
        let (descriptors, memory) = size_of(watching.pid());
        const FIRST_SEEN: usize = 8;
        // Here some comes before the probes.
        family.tell("cycle 1000 2");
        let counted = watching.now();
        let mut left = 0;
        // Probes that are on their way out.
        within(Duration::from_secs(20), || {
            left = size_of(watching.pid()).0;
            left <= descriptors + FIRST_SEEN
        });
        let grown = size_of(watching.pid()).1.saturating_sub(memory);
        println!("{library}: {descriptors} descriptors, then {left}; {} KiB more", grown >> 10);
        assert!(
            left <= descriptors + FIRST_SEEN,
            "{library}: {descriptors} descriptors before, {left} after"
        );
        assert!(grown < 24 << 20, "{library}: {grown} bytes more");
        if prefix == "je_" {
            let (at_least, at_most) = (mixes(1000), mixes(3000));
            for (function, (allocations, frees)) in of_others(&counted) {
                let ((few, few_frees), (many, many_frees)) = (at_least[&function], at_most[&function]);
                let is_so = (few..=many).contains(&allocations) && (few_frees..=many_frees).contains(&frees);
                assert!(is_so, "{function}: {allocations}, {frees}");
            }
        }
        let finished = watching.finish();
        assert!(finished.complaints.iter().all(|line| !line.contains("WARN")), "{:#?}", finished.complaints);
        assert_eq!(finished.target()["alloc"]["state"], "counting", "{}", finished.target()["alloc"]);
    }
}

#[test]
fn the_last_calls_into_a_library_are_counted_although_no_sample_was_made_since() {
    let (Some(library), Some(mut family)) = (library_that_goes(), Family::observable()) else { return };
    let watching = Watching::with(family.pid(), &["--interval", "60s"]);
    for round in 1..=2 {
        family.tell(&format!("load {library} je_"));
        until(&watching, "it is hooked", |all| has_sites(all, &library));
        family.tell("mix 1000");
        family.tell("unload");
        // It is cleared up after a second, and nobody asks until then.
        std::thread::sleep(Duration::from_secs(3));
        let now = watching.now();
        assert_eq!(of_others(&now), mixes(round * 1000), "round {round}");
        assert!(!now["sites"].as_array().expect("a list").iter().any(|site| site["object"] == *library));
    }
    assert_eq!(of_others(watching.finish().target()), mixes(2000));
}

#[test]
fn a_process_is_counted_until_its_main_thread_ends_and_from_then_on_it_is_told_that_it_is_not() {
    let Some(program) = compiled("headless.c", &[]).filter(|_| common::can_observe()) else { return };
    let mut helper = Helper::start::<&str>(&program, &[]);
    let watching = Watching::process(helper.pid());
    helper.work();
    assert!(within(LONG, || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", helper.pid())).expect("it is there");
        stat.contains(") Z ")
    }));
    let then = watching.now();
    assert!((1000..1010).contains(&of_function(&then, "malloc", "allocations")), "{then:#}");
    for _ in 0..3 {
        helper.tell("again");
        helper.answer();
        let target = watching.now();
        assert_eq!((&target["up"], &target["alloc"]["state"]), (&true.into(), &"not_counting".into()));
        let reason = target["alloc"]["reason"].as_str().expect("a reason");
        assert!(reason.contains("main thread"), "{reason}");
        assert_eq!((totals(&target), live(&target)), (totals(&then), live(&then)));
    }
    let finished = watching.finish();
    assert_eq!(totals(finished.target()), totals(&then));
    assert_eq!(finished.target()["alloc"]["state"], "not_counting");
}

/// A program that has a C library which no other process has, so that nobody else takes breakpoints out of it.
fn with_its_own_libc(program: &Path, arguments: &[&str]) -> (Scratch, Helper) {
    let (libc, linker) = parts_of(program);
    let directory = Scratch::directory("libc");
    let at = |name: &str| directory.path().join(name);
    std::fs::copy(libc, at("libc.so.6")).expect("it can be copied");
    let mut command = std::process::Command::new(linker);
    command.arg("--library-path").arg(directory.path()).arg(program).args(arguments);
    let helper = Helper::spawn(&mut command);
    (directory, helper)
}

#[test]
fn a_grandchild_that_nobody_asked_for_is_freed_of_breakpoints_although_its_parent_has_ended() {
    let Some(program) = compiled("forks.c", &[]).filter(|_| common::can_observe()) else { return };
    let (_directory, mut helper) = with_its_own_libc(&program, &["twice"]);
    let watching = Watching::process(helper.pid());
    let own = breakpoints(helper.pid());
    assert!(own >= 8, "{own}");
    let grandchild = helper.work()["child"].as_u64().expect("an id") as u32;
    let asked = Instant::now();
    let is_free = within(Duration::from_secs(3), || breakpoints(grandchild) == 0);
    assert!(is_free, "{} are left after {:?}", breakpoints(grandchild), asked.elapsed());
    println!("without breakpoints after at most {:?}", asked.elapsed());
    assert_eq!(breakpoints(helper.pid()), own);
    watching.finish();
}
