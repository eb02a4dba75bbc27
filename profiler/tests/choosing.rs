//! Processes are chosen by what they are, not by number: by name, program, control group, container or unit; those that are
//! there, those that come, those that change. Every process here has a name that nothing else on the machine has.

mod common;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use common::{
    family::{Family, Names, counted_processes, cpu_seconds, target, until},
    profiler::Watching,
    skip,
};
use serde_json::Value;

/// A control group that is removed again.
struct Group(PathBuf);

impl Group {
    /// `None` if there is no version 2 of control groups, or no right to make one.
    fn new(path: &str) -> Option<Self> {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let root = roots.into_iter().find(|root| Path::new(root).join("cgroup.controllers").exists());
        let made = root.map(|root| Path::new(root).join(path));
        match made.map(|path| std::fs::create_dir_all(&path).map(|()| Self(path))) {
            Some(Ok(group)) => Some(group),
            other => {
                skip(&format!("no control group can be made: {:?}", other.map(|result| result.err())));
                None
            }
        }
    }

    fn add(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("it can be moved");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes may still be ending. Directories above are of this test only as long as they are empty.
        common::within(Duration::from_secs(5), || std::fs::remove_dir(&self.0).is_ok());
        let mut above = self.0.parent();
        while let Some(path) = above.filter(|path| std::fs::remove_dir(path).is_ok()) {
            above = path.parent();
        }
    }
}

fn names_of(document: &Value) -> Vec<&str> {
    let targets = document["targets"].as_array().expect("a list");
    let mut names: Vec<_> = targets.iter().filter_map(|target| target["target"].as_str()).collect();
    names.sort_unstable();
    names
}

/// What profiler sees of so many processes, once it counts them.
fn observed(arguments: &[&str], processes: usize) -> (Watching, Value) {
    let watching = Watching::chosen_by(arguments);
    let document = until(&watching, &format!("{processes} by {arguments:?}"), |all| {
        all["targets"].as_array().expect("a list").iter().map(counted_processes).sum::<usize>() == processes
    });
    (watching, document)
}

#[test]
fn a_process_is_found_by_its_name_or_its_program_and_nothing_else_is() {
    let Some(names) = Names::new() else { return };
    let (Some(one), Some(other)) = (names.program("one", &[]), names.program("two", &[])) else { return };
    let (mut first, _second) = (Family::start(&one), Family::start(&other));
    let name = names.name("one");
    let path = format!("{}/on*", names.directory().display());
    for arguments in [["--comm", &format!("^{name}$")], ["--exe", &name], ["--exe", &path]] {
        let (watching, document) = observed(&arguments, 1);
        assert_eq!(names_of(&document), [name.as_str()], "{arguments:?}");
        let before = first.tell("report").allocations;
        let counts = first.tell("allocate 300");
        assert_eq!(watching.finish().target()["allocations"], counts.allocations - before, "{arguments:?}");
    }
}

#[test]
fn a_process_is_found_by_its_control_group_container_or_unit() {
    let Some(names) = Names::new() else { return };
    let Some(program) = names.program("one", &[]) else { return };
    let id = format!("{:0>64}", names.name("abc").replace(|c: char| !c.is_ascii_hexdigit(), "f"));
    let unit = format!("{}.service", names.name("unit"));
    let top = names.name("profiler-test-");
    let inside = [format!("{top}/docker/{id}"), format!("{top}/system.slice/{unit}"), format!("{top}/plain")];
    let mut groups = Vec::new();
    for path in &inside {
        let Some(group) = Group::new(path) else { return };
        groups.push(group);
    }
    let families: Vec<_> = groups.iter().map(|_| Family::start(&program)).collect();
    groups.iter().zip(&families).for_each(|(group, family)| group.add(family.pid()));
    let all = format!("/{top}");
    let cases = [
        (vec!["--container", &id], 0),
        (vec!["--container", &id[..60]], 0),
        (vec!["--unit", &unit], 1),
        (vec!["--cgroup", inside[2].as_str()], 2),
    ];
    for (arguments, which) in cases {
        let (watching, document) = observed(&arguments, 1);
        assert_eq!(document["targets"][0]["pid"], families[which].pid(), "{arguments:?}");
        drop(watching);
    }
    for (by, expected) in [
        ("container", vec![id[..12].to_owned(), names.name("one")]),
        ("unit", vec![unit.clone(), names.name("one")]),
        ("cgroup", inside.iter().map(|path| format!("/{path}")).collect()),
        ("comm", vec![names.name("one")]),
        ("exe", vec![program.display().to_string()]),
        ("pid", families.iter().map(|one| format!("{}:{}", names.name("one"), one.pid())).collect()),
    ] {
        let (watching, document) = observed(&["--cgroup", &all, "--group-by", by], 3);
        let mut expected = expected;
        expected.sort_unstable();
        assert_eq!(names_of(&document), expected, "--group-by {by}");
        drop(watching);
    }
    drop(families);
}

#[test]
fn only_new_ones_and_only_existing_ones() {
    let Some(names) = Names::new() else { return };
    let Some(program) = names.program("one", &[]) else { return };
    let pattern = format!("^{}$", names.name("one"));
    let mut old = Family::start(&program);
    let existing = Watching::chosen_by(&["--comm", &pattern, "--existing"]);
    let new = Watching::chosen_by(&["--comm", &pattern, "--new"]);
    let both = Watching::chosen_by(&["--comm", &pattern]);
    let asked = Instant::now();
    let mut young = Family::start(&program);
    let seen = |watching: &Watching| {
        let all = until(watching, "one is counted", |all| counted_processes(&all["targets"][0]) >= 1);
        all["targets"][0]["pid"].as_u64()
    };
    assert_eq!(seen(&new), Some(u64::from(young.pid())));
    println!("taken up after at most {:?}", asked.elapsed());
    // Long before the next look through /proc.
    assert!(asked.elapsed() < Duration::from_secs(8));
    until(&both, "both are counted", |all| counted_processes(&all["targets"][0]) == 2);
    assert_eq!(seen(&existing), Some(u64::from(old.pid())));
    old.tell("allocate 50");
    young.tell("allocate 7");
    let allocations = |watching: Watching| watching.finish().target()["allocations"].as_u64();
    assert_eq!((allocations(existing), allocations(both)), (Some(50), Some(57)));
    assert_eq!(allocations(new), Some(7));
}

#[test]
fn what_becomes_a_match_is_taken_up_and_what_is_none_any_more_is_let_go() {
    let Some(names) = Names::new() else { return };
    let (Some(one), Some(other)) = (names.program("one", &[]), names.program("two", &[])) else { return };
    let name = names.name("one");
    let mut family = Family::start(&other);
    let watching = Watching::chosen_by(&["--comm", &format!("^{name}$"), "--interval", "200ms"]);
    assert_eq!(names_of(&watching.document()), Vec::<&str>::new());
    for round in 1..=3_u64 {
        family.tell(&format!("exec {}", one.display()));
        let all = until(&watching, "taken up", |all| {
            target(all, &name).is_some_and(|one| counted_processes(one) == 1)
        });
        let before = target(&all, &name).expect("it is there")["allocations"].as_u64().expect("a number");
        family.tell("allocate 400");
        family.tell(&format!("exec {}", other.display()));
        let all = until(&watching, "let go", |all| {
            target(all, &name).is_some_and(|one| one["up"] == false || counted_processes(one) == 0)
        });
        let had = target(&all, &name).expect("it stays");
        // What the next program does at its start may be counted still: it is the one that isn't meant.
        let counted = had["allocations"].as_u64().expect("a number") - before;
        assert!((400..=510).contains(&counted), "round {round}: {counted}");
        assert_eq!(had["processes_seen"], round);
        family.tell("allocate 1000");
        std::thread::sleep(Duration::from_millis(300));
        let all = watching.document();
        assert_eq!(
            target(&all, &name).expect("it stays")["allocations"],
            had["allocations"],
            "round {round}"
        );
    }
}

#[test]
fn what_is_too_much_is_left_out_and_told() {
    let Some(names) = Names::new() else { return };
    let Some(program) = names.program("one", &[]) else { return };
    let pattern = format!("^{}$", names.name("one"));
    let families: Vec<_> = (0..4).map(|_| Family::start(&program)).collect();
    let (watching, document) =
        observed(&["--comm", &pattern, "--max-targets", "2", "--interval", "200ms"], 2);
    assert_eq!(document["processes_not_observed"]["max_targets"], 2);
    let observed_ones: Vec<u64> = document["targets"][0]["processes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["pid"].as_u64())
        .collect();
    // A place that gets free is used by one that comes.
    let (mut kept, mut gone): (Vec<_>, Vec<_>) =
        families.into_iter().partition(|one| u64::from(one.pid()) != observed_ones[0]);
    assert!(gone.pop().expect("one of them").0.end().success());
    until(&watching, "one has ended", |all| counted_processes(&all["targets"][0]) <= 1);
    until(&watching, "another is observed", |all| {
        if counted_processes(&all["targets"][0]) < 2 && kept.len() < 12 {
            kept.push(Family::start(&program));
        }
        counted_processes(&all["targets"][0]) == 2
    });
    drop(watching);
    let watching = Watching::chosen_by(&["--comm", &pattern, "--group-by", "pid", "--max-series", "400"]);
    let page = watching.get("/metrics");
    let left_out: usize = page
        .text()
        .lines()
        .find_map(|line| line.strip_prefix("profiler_targets_left_out "))
        .and_then(|rest| rest.parse().ok())
        .expect("the gauge");
    let shown = page.text().lines().filter(|line| line.starts_with("profiler_target_up{")).count();
    println!("{shown} shown, {left_out} left out");
    assert_eq!(shown + left_out, kept.len());
    assert!(shown >= 1 && left_out >= 1, "{shown} shown, {left_out} left out");
}

#[test]
fn ended_targets_are_kept_until_there_are_too_many() {
    let Some(names) = Names::new() else { return };
    let Some(program) = names.program("one", &[]) else { return };
    let pattern = format!("^{}$", names.name("one"));
    let arguments = ["--comm", &pattern, "--group-by", "pid", "--max-targets", "2", "--interval", "100ms"];
    let watching = Watching::chosen_by(&arguments);
    for n in 1..=5_usize {
        let mut family = Family::start(&program);
        let name = format!("{}:{}", names.name("one"), family.pid());
        until(&watching, "it is counted", |all| {
            target(all, &name).is_some_and(|one| counted_processes(one) == 1)
        });
        family.tell("allocate 10");
        assert!(family.0.end().success());
        let all =
            until(&watching, "it has ended", |all| target(all, &name).is_some_and(|one| one["up"] == false));
        let all = if n > 2 {
            until(&watching, "forgotten", |all| all["targets"].as_array().map(Vec::len) == Some(2))
        } else {
            all
        };
        assert_eq!(target(&all, &name).expect("it stays")["allocations"], 10);
        assert_eq!(all["targets_forgotten"], n.saturating_sub(2));
    }
}

#[test]
fn a_target_is_shown_as_long_as_one_of_its_processes_lives() {
    let Some(names) = Names::new() else { return };
    let short_names = ["oa", "ob", "oc", "od"];
    let others = short_names.map(|name| names.name(name));
    let pattern = format!("^({}|{})$", names.name("one"), others.join("|"));
    let Some(program) = names.program("one", &[]) else { return };
    let mut first = Family::start(&program);
    let arguments = ["--comm", &pattern, "--max-targets", "2", "--interval", "100ms"];
    let (watching, _) = observed(&arguments, 1);
    let mut second = Family::start(&program);
    until(&watching, "both are counted", |all| counted_processes(&all["targets"][0]) == 2);
    let counts = [first.tell("allocate 11"), second.tell("allocate 70")].map(|counts| counts.allocations);
    // The one that was observed first.
    first.0.signal(libc::SIGKILL);
    let name = names.name("one");
    let up =
        |all: &Value| target(all, &name).is_some_and(|one| one["up"] == true && counted_processes(one) == 1);
    until(&watching, "one is left", up);
    let seconds = |all: &Value| {
        target(all, &name).expect("it is shown")["observed_seconds"].as_f64().expect("a number")
    };
    let (before, began) = (seconds(&watching.document()), Instant::now());
    // Others take the place that is free, one after another, until the first of them is forgotten.
    for (short, other) in short_names.into_iter().zip(&others) {
        let Some(program) = names.program(short, &[]) else { return };
        let family = Family::start(&program);
        until(&watching, "another is counted", |all| {
            target(all, other).is_some_and(|one| counted_processes(one) == 1)
        });
        assert!(family.0.end().success());
        let all =
            until(&watching, "it has ended", |all| target(all, other).is_some_and(|one| one["up"] == false));
        assert!(up(&all), "after {other}: {all:#}");
    }
    let all = until(&watching, "two are forgotten", |all| all["targets_forgotten"] == 2);
    assert!(up(&all), "{all:#}");
    let passed = began.elapsed().as_secs_f64();
    let more = seconds(&watching.document()) - before;
    assert!(more >= passed * 0.9, "{more} s more after {passed} s");
    second.tell("allocate 5");
    let all = watching.document();
    let one = target(&all, &name).expect("it is shown");
    assert_eq!((&one["allocations"], &one["up"]), (&(counts.iter().sum::<u64>() + 5).into(), &true.into()));
}

#[test]
fn who_is_left_out_is_counted_once_however_often_it_is_found() {
    let Some(names) = Names::new() else { return };
    let Some(program) = names.program("one", &[]) else { return };
    let pattern = format!("^{}$", names.name("one"));
    let _families: Vec<_> = (0..3).map(|_| Family::start(&program)).collect();
    let (watching, document) = observed(&["--comm", &pattern, "--max-targets", "1"], 1);
    let left_out = |all: &Value| all["processes_not_observed"]["max_targets"].clone();
    assert_eq!(left_out(&document), 2);
    // They are found again every 10 s.
    std::thread::sleep(Duration::from_secs(23));
    assert_eq!(left_out(&watching.document()), 2);
    let _another = Family::start(&program);
    until(&watching, "another is left out", |all| left_out(all) == 3);
}

#[test]
fn every_target_has_its_own_share_of_a_process_that_goes_to_and_fro() {
    let Some(names) = Names::new() else { return };
    let (Some(one), Some(two)) = (names.program("one", &[]), names.program("two", &[])) else { return };
    let pattern = format!("^({}|{})$", names.name("one"), names.name("two"));
    let mut family = Family::start(&one);
    let (watching, _) = observed(&["--comm", &pattern, "--interval", "200ms"], 1);
    // What was last told of each.
    let mut shares = [0.0, 0.0];
    for round in 0..6 {
        let (path, name) = if round % 2 == 0 { (&one, names.name("one")) } else { (&two, names.name("two")) };
        if round > 0 {
            family.tell(&format!("exec {}", path.display()));
        }
        until(&watching, "it is taken up", |all| {
            target(all, &name).is_some_and(|one| counted_processes(one) == 1)
        });
        family.tell("burn 300");
        let all = watching.document();
        for (share, name) in shares.iter_mut().zip(["one", "two"]) {
            let told = target(&all, &names.name(name)).and_then(|one| one["process"]["cpu_seconds"].as_f64());
            *share = told.unwrap_or(*share);
        }
    }
    let truth = cpu_seconds(family.pid());
    println!("{shares:?} of {truth} s");
    assert!(truth >= 1.7, "{truth}");
    assert!(shares.iter().sum::<f64>() <= truth * 1.1, "{shares:?} of {truth} s");
    // Half of it each.
    assert!(shares.iter().all(|share| *share >= truth * 0.4), "{shares:?} of {truth} s");
}
