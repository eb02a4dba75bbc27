//! Leak hunts in programs whose leaks are known: found, ranked first, measured, with the stacks that they really have;
//! and programs that don't leak aren't called leaking. How often each of it holds is counted in `leak_statistics.rs`.

mod common;

use std::time::Duration;

use common::{
    can_observe,
    hunt::{Planted, distance, has_callers, hunt, names, names_function, report},
};
use profiler::leaks::{Picture, TargetReport, Verdict};

/// An interval is to hold 95 of 100 times. One run can't tell that; it tells a defect from bad luck: twice the interval
/// is missed in one run of ten thousand.
const BAD_LUCK: f64 = 2.0;

/// What is planted in a program.
struct Leak {
    program: Planted,
    sites: &'static [Site],
}

/// A call site that leaks.
struct Site {
    /// How the program calls it where it tells the truth.
    name: &'static str,
    /// A function that only its stacks have.
    function: &'static str,
    /// Who calls whom there, innermost first.
    callers: &'static [&'static str],
}

const fn site(name: &'static str, function: &'static str, callers: &'static [&'static str]) -> Site {
    Site { name, function, callers }
}

/// Every kind of leak. Of what isn't the program's own (`operator new`), the name as the library has it.
fn leaks() -> Option<Vec<Leak>> {
    const LEAK: &[Site] = &[site(
        "leak_records",
        "leak_record",
        &["new_record", "leak_record", "leak_step", "converse", "main"],
    )];
    const RARE: &[Site] =
        &[site("handle_request", "read_request", &["read_request", "rare_step", "converse", "main"])];
    const DRIZZLE: &[Site] =
        &[site("drop_cookie", "drop_one_cookie", &["drop_one_cookie", "drizzle_step", "converse", "main"])];
    const SAWTOOTH: &[Site] =
        &[site("lose_job", "lose_one_job", &["lose_one_job", "sawtooth_step", "converse", "main"])];
    const OBJECTS: &[Site] = &[
        site("leak_object", "leak_one_object", &["operator new", "leak_one_object", "objects_step", "main"]),
        site(
            "leak_string",
            "leak_one_string",
            &["operator new", "string", "leak_one_string", "objects_step", "main"],
        ),
        site(
            "leak_vector",
            "leak_one_vector",
            &["operator new", "vector", "leak_one_vector", "objects_step", "main"],
        ),
    ];
    const FORGOTTEN: &[Site] = &[
        site("forget_vector", "forget_vector", &["alloc", "forget_vector", "forgotten_step", "main"]),
        site("leak_box", "leak_box", &["alloc", "leak_box", "forgotten_step", "main"]),
    ];
    const EXTENSION: &[Site] = &[
        site("leak_buffer", "leak_buffer", &["leak_buffer", "parse", "_PyEval_EvalFrameDefault"]),
        site(
            "leak_reference",
            "leak_reference",
            &["PyBytes_From", "leak_reference", "encode", "_PyEval_EvalFrameDefault"],
        ),
    ];
    let c = |arguments: &[&str]| Planted::start("leaks.c", arguments);
    let all = [
        (c(&["leak", "rate=500000"])?, LEAK),
        // Two blocks of 2 KiB per second, of 20,000.
        (c(&["rare", "rate=20000", "odds=10000", "size=2048"])?, RARE),
        (c(&["drizzle", "rate=10240", "churn=50e6"])?, DRIZZLE),
        (c(&["sawtooth", "rate=20000", "pool=4e6", "period=4"])?, SAWTOOTH),
        (Planted::start("objects.cpp", &["rate=600000"])?, OBJECTS),
        (Planted::start("forgotten.rs", &["rate=400000"])?, FORGOTTEN),
        (Planted::python(&["rate=400000"])?, EXTENSION),
    ];
    Some(all.into_iter().map(|(program, sites)| Leak { program, sites }).collect())
}

/// What to look at if something is wrong.
fn told(report: &TargetReport) -> String {
    let mut text = format!("{:?}; losses {:?}\n", report.judgement, report.losses);
    for site in &report.sites {
        text += &format!("{:?} live {:?} {:?}\n", names(&site.stack), site.live_bytes, site.judgement);
    }
    text
}

fn is_found(picture: &Picture, leak: &Leak) -> Vec<String> {
    let report = report(picture, &leak.program);
    let mut wrong = Vec::new();
    if report.judgement.verdict != Verdict::Leaking {
        wrong.push(format!("the whole is {:?}", report.judgement.verdict));
    }
    for (rank, found) in report.sites.iter().enumerate() {
        let planted = leak.sites.iter().any(|site| names_function(found, site.function));
        if !planted && found.judgement.verdict == Verdict::Leaking {
            wrong.push(format!("{:?} is called leaking", names(&found.stack)));
        }
        if !planted && rank < leak.sites.len() {
            wrong.push(format!("{:?} is ranked {rank}", names(&found.stack)));
        }
    }
    for site in leak.sites {
        let function = site.function;
        let Some(found) = report.sites.iter().find(|found| names_function(found, function)) else {
            wrong.push(format!("{function} isn't there"));
            continue;
        };
        if found.judgement.verdict != Verdict::Leaking {
            wrong.push(format!("{function}: {:?}", found.judgement));
        }
        if !has_callers(&found.stack, site.callers) {
            wrong.push(format!("{function}: {:?}, {:?}", names(&found.stack), found.stack.end));
        }
        let live = leak.program.value_at(site.name, picture.taken_at, common::hunt::Deeds::live_bytes);
        if distance(&found.live_bytes, live) > BAD_LUCK {
            wrong.push(format!("{function}: {live} bytes live, and not {:?}", found.live_bytes));
        }
        let rate = leak.program.rate_lost(site.name, report.since, picture.taken_at);
        if found.judgement.rate.is_none_or(|told| distance(&told, rate) > BAD_LUCK) {
            wrong.push(format!("{function}: {rate} bytes per second, and not {:?}", found.judgement.rate));
        }
    }
    if !wrong.is_empty() {
        wrong.push(told(report));
    }
    wrong
}

#[test]
fn planted_leaks_are_found_ranked_first_and_measured() {
    let Some(mut leaks) = can_observe().then(leaks).flatten() else { return };
    let (mut programs, sites): (Vec<_>, Vec<_>) =
        leaks.drain(..).map(|leak| (leak.program, leak.sites)).unzip();
    let picture = hunt(&mut programs, Duration::from_secs(40), &["--sample-bytes", "16384"]);
    let mut wrong = Vec::new();
    for (program, sites) in programs.into_iter().zip(sites) {
        let leak = Leak { program, sites };
        let of_this = is_found(&picture, &leak);
        wrong.extend(of_this.into_iter().map(|text| format!("{}: {text}", leak.program.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn programs_that_do_not_leak_are_not_called_leaking() {
    if !can_observe() {
        return;
    }
    let steady = |arguments: &[&str]| Planted::start("steady.c", arguments);
    let all = [
        steady(&["cache", "capacity=8e6", "rate=1000"]),
        steady(&["arena", "arenas=200", "warm=15"]),
        steady(&["holes", "rate=8000", "period=3"]),
        steady(&["bursts", "period=3", "connections=300"]),
        steady(&["idle"]),
        // It grows without end, but everything can be reached: nobody can know so soon.
        Planted::start("leaks.c", &["kept", "rate=500000"]),
    ];
    let Some(mut programs) = all.into_iter().collect::<Option<Vec<_>>>() else { return };
    let picture = hunt(&mut programs, Duration::from_secs(40), &["--sample-bytes", "16384"]);
    for program in &programs {
        let report = report(&picture, program);
        let accused = report.sites.iter().find(|site| site.judgement.verdict == Verdict::Leaking);
        assert!(accused.is_none(), "{}: {}", program.name, told(report));
        assert_ne!(report.judgement.verdict, Verdict::Leaking, "{}: {}", program.name, told(report));
    }
    let [cache, _, _, _, idle, kept] = &programs[..] else { panic!("six programs") };
    let site = |program, function| {
        let report = report(&picture, program);
        let found = report.sites.iter().find(|site| names_function(site, function));
        found.unwrap_or_else(|| panic!("{function}: {}", told(report)))
    };
    assert_eq!(
        site(kept, "keep_one_entry").judgement.verdict,
        Verdict::Growing,
        "{}",
        told(report(&picture, kept))
    );
    assert_eq!(report(&picture, idle).sites.len(), 0, "{}", told(report(&picture, idle)));
    // Blocks that come and go are estimated as well as those that stay.
    let live = cache.value_at("cache_item", picture.taken_at, common::hunt::Deeds::live_bytes);
    let estimate = site(cache, "cache_one_item").live_bytes;
    assert!(distance(&estimate, live) <= BAD_LUCK, "{live} bytes live, and not {estimate:?}");
}

#[test]
fn growth_without_an_end_is_a_leak_when_patience_ends() {
    let Some(program) = can_observe().then(|| Planted::start("leaks.c", &["kept", "rate=500000"])).flatten()
    else {
        return;
    };
    let mut programs = [program];
    let more = ["--sample-bytes", "16384", "--patience", "15s"];
    let picture = hunt(&mut programs, Duration::from_secs(40), &more);
    let report = report(&picture, &programs[0]);
    let first = report.sites.first().unwrap_or_else(|| panic!("{}", told(report)));
    assert!(
        has_callers(&first.stack, &["keep_one_entry", "kept_step", "converse", "main"]),
        "{}",
        told(report)
    );
    assert_eq!(first.judgement.verdict, Verdict::Leaking, "{}", told(report));
}
