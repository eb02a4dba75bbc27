//! Many processes at once, and many that come and go: nothing is lost silently, nothing leaks, samples are made on time.

mod common;

use std::time::{Duration, Instant};

use common::{
    BpfObject, LONG, alone, bpf_object_exists,
    family::{Family, Names, counted_processes, cpu_seconds, size_of, target, until},
    profiler::Watching,
    within,
};
use serde_json::Value;

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {value}"))
}

/// Ids of the kernel's objects that a process holds.
fn bpf_objects_of(pid: u32) -> Vec<(BpfObject, u32)> {
    let kinds =
        [("prog_id:", BpfObject::Program), ("map_id:", BpfObject::Map), ("link_id:", BpfObject::Link)];
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("its descriptors").flatten() {
        let info = std::fs::read_to_string(entry.path()).unwrap_or_default();
        for (key, kind) in kinds {
            let id = info.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
            objects.extend(id.map(|id| (kind, id)));
        }
    }
    objects
}

#[test]
fn two_hundred_targets_are_counted_exactly() {
    let Some(names) = Names::new() else { return };
    let Some(program) = names.program("one", &[]) else { return };
    let _alone = alone();
    let mut family = Family::start(&program);
    family.tell("spawn 199 50");
    let asked = Instant::now();
    let pattern = format!("^{}$", names.name("one"));
    let watching = Watching::chosen_by(&["--comm", &pattern, "--group-by", "pid"]);
    println!("200 targets are counted after {:?}", asked.elapsed());
    let all = until(&watching, "all are there", |all| all["targets"].as_array().map(Vec::len) == Some(200));
    assert!(all["targets"].as_array().expect("a list").iter().all(|one| counted_processes(one) == 1));
    family.tell("go");
    let asked = Instant::now();
    let all = watching.document();
    println!("a sample and its JSON: {:?}", asked.elapsed());
    let counted = |pid: u32| {
        let one = target(&all, &format!("{}:{pid}", names.name("one"))).expect("it is there");
        (number(one, "allocations"), number(one, "frees"))
    };
    for one in all["targets"].as_array().expect("a list") {
        let pid = number(one, "pid") as u32;
        assert_eq!(counted(pid), if pid == family.pid() { (0, 0) } else { (50, 25) });
    }
    let (descriptors, memory) = size_of(watching.pid());
    let (began, before) = (Instant::now(), cpu_seconds(watching.pid()));
    std::thread::sleep(Duration::from_secs(3));
    let idle = (cpu_seconds(watching.pid()) - before) / began.elapsed().as_secs_f64();
    let scrape = watching.get("/metrics");
    println!(
        "idle {:.1} % of a CPU; {descriptors} descriptors, {} MiB; a scrape of {} KiB in {:?}",
        idle * 100.0,
        memory >> 20,
        scrape.body.len() >> 10,
        scrape.took
    );
    // A process takes two for itself and three links: functions whose returns may be taken, others, the dynamic linker's.
    assert!(descriptors < 200 * 5 + 80 && memory < 200 << 20, "{descriptors} descriptors, {memory} bytes");
    let asked = Instant::now();
    family.tell("end");
    let mut left = 0;
    assert!(within(LONG, || {
        left = size_of(watching.pid()).0;
        left < 80
    }));
    println!("all have ended: {left} descriptors are left after {:?}", asked.elapsed());
    let finished = watching.finish();
    assert!(finished.status.success());
    assert_eq!(finished.report["targets"].as_array().map(Vec::len), Some(200));
}

#[test]
fn a_killed_profiler_of_many_targets_leaves_nothing() {
    let Some(names) = Names::new() else { return };
    let Some(program) = names.program("one", &[]) else { return };
    let mut family = Family::start(&program);
    family.tell("spawn 60 500");
    let watching = Watching::chosen_by(&["--comm", &format!("^{}$", names.name("one"))]);
    until(&watching, "all are there", |all| counted_processes(&all["targets"][0]) == 61);
    let objects = bpf_objects_of(watching.pid());
    assert!(objects.iter().filter(|(kind, _)| *kind == BpfObject::Link).count() >= 61);
    watching.kill();
    let mut left = Vec::new();
    within(Duration::from_secs(30), || {
        let exists = |(kind, id)| bpf_object_exists(kind, id).expect("the kernel answers");
        left = objects.iter().copied().filter(|&object| exists(object)).collect();
        left.is_empty()
    });
    assert_eq!(left, []);
    let counts = family.tell("go");
    assert_eq!((counts.allocations, counts.frees), (60 * 500, 60 * 250), "they run on");
    family.tell("end");
}

/// Many children that live for an instant; what is said of them has to add up.
fn storm(choose: &[&str], family: &mut Family, name: &str, life_ms: u32, events_only: bool) {
    let watching = Watching::chosen_by(&[choose, &["--interval", "200ms"]].concat());
    until(&watching, "it begins", |all| target(all, name).is_some_and(|one| counted_processes(one) == 1));
    let descriptors = size_of(watching.pid()).0;
    let before = family.tell("report");
    family.0.tell(&format!("storm 1500 1000 {life_ms}"));
    let (mut slowest, mut times) = (Duration::ZERO, 0);
    let began = Instant::now();
    // While it goes on, it answers.
    while began.elapsed() < Duration::from_secs(2) {
        let asked = Instant::now();
        watching.document();
        (slowest, times) = (slowest.max(asked.elapsed()), times + 1);
        std::thread::sleep(Duration::from_millis(100));
    }
    let answer = family.0.answer();
    let forks = number(&answer, "forks") - before.forks;
    let took = began.elapsed();
    let sum = |all: &Value| {
        let missed = &all["processes_not_observed"];
        let missed = ["max_targets", "ended_before", "failed"].map(|reason| number(missed, reason));
        (number(target(all, name).expect("it is there"), "processes_seen") - 1, missed)
    };
    // Events may wait for their turn.
    let mut last = (0, [0; 3]);
    let all = until(&watching, "all is over", |all| {
        let now = sum(all);
        let still = now == last && counted_processes(target(all, name).expect("it is there")) == 1;
        last = now;
        std::thread::sleep(Duration::from_millis(700));
        still
    });
    let (seen, missed) = sum(&all);
    println!(
        "{forks} forks in {took:?}: {seen} observed, not observed {missed:?} (no place, ended, failed); {times} answers, the \
         slowest after {slowest:?}; gap {} s",
        target(&all, name).expect("it is there")["gap_seconds"]
    );
    assert_eq!(forks, 1500);
    if events_only {
        assert_eq!(seen + missed.iter().sum::<u64>(), forks, "every fork is accounted for");
    }
    assert!(seen > 0 && seen <= forks);
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    let mut left = 0;
    within(Duration::from_secs(20), || {
        left = size_of(watching.pid()).0;
        left <= descriptors + 1
    });
    assert!(left <= descriptors + 1, "{descriptors} descriptors before, {left} after");
    // And the one that is left is counted as before.
    let counted = number(target(&watching.document(), name).expect("it is there"), "allocations");
    family.tell("allocate 90");
    let finished = watching.finish();
    assert!(finished.status.success());
    let now = number(target(&finished.report, name).expect("it is there"), "allocations");
    assert_eq!(now - counted, 90);
    for (reason, count) in finished.report["events_lost"].as_object().expect("a list") {
        println!("  {reason} {count}");
    }
}

#[test]
fn a_storm_of_children_is_survived_and_adds_up() {
    let Some(names) = Names::new() else { return };
    let Some(program) = names.program("one", &[]) else { return };
    let name = names.name("one");
    let mut family = Family::start(&program);
    let pid = family.pid().to_string();
    for life_ms in [0, 100] {
        storm(&["--pid", &pid, "--children"], &mut family, &name, life_ms, true);
    }
}

#[test]
fn a_storm_of_processes_of_one_name_is_survived() {
    let Some(names) = Names::new() else { return };
    let Some(program) = names.program("one", &[]) else { return };
    let name = names.name("one");
    let mut family = Family::start(&program);
    // One that has ended before it was looked at has no name any more.
    storm(&["--comm", &format!("^{name}$")], &mut family, &name, 20, false);
}

#[test]
fn one_among_five_hundred_is_found_within_a_second() {
    let Some(names) = Names::new() else { return };
    let (Some(crowd), Some(one)) = (names.program("many", &[]), names.program("one", &[])) else { return };
    let _alone = alone();
    let mut many = Family::start(&crowd);
    many.tell("spawn 499 1");
    let _one = Family::start(&one);
    let mut times = Vec::new();
    for _ in 0..3 {
        let asked = Instant::now();
        let watching = Watching::chosen_by(&["--comm", &format!("^{}$", names.name("one"))]);
        times.push((asked.elapsed(), cpu_seconds(watching.pid())));
        assert_eq!(counted_processes(&watching.document()["targets"][0]), 1);
    }
    println!("to the first answer, and CPU seconds: {times:?}");
    // What it needs, whoever else is at work.
    let least = times.iter().map(|(_, cpu)| *cpu).fold(f64::MAX, f64::min);
    assert!(least < 1.0, "{times:?}");
    many.tell("go");
    many.tell("end");
}

#[test]
fn an_idle_process_whose_calls_are_not_counted_costs_nothing_after_half_a_minute_either() {
    let Some(family) = Family::observable() else { return };
    let watching = Watching::with(family.pid(), &["--alloc", "off"]);
    // What is looked at again every 30 s must be over by then, too.
    std::thread::sleep(Duration::from_secs(31));
    let (began, before) = (Instant::now(), cpu_seconds(watching.pid()));
    std::thread::sleep(Duration::from_secs(5));
    let idle = (cpu_seconds(watching.pid()) - before) / began.elapsed().as_secs_f64();
    println!("{:.1} % of a CPU", idle * 100.0);
    assert!(idle < 0.05, "{:.1} % of a CPU", idle * 100.0);
}
