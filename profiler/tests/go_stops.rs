//! Stops of a Go program's world, measured by probes: each is seen once, with its reason, and as long as the runtime says.
//! The program is unharmed, and keeps nothing of it.

mod common;

use std::{fs::File, os::unix::fs::FileExt as _};

use common::{
    LONG, can_observe,
    go::{
        outside::Outside,
        target::Target,
        toolchain::{Build, Toolchain},
    },
    profiler::Watching,
    within,
};
use serde_json::Value;

const CYCLES: u64 = 25;
const READINGS: u64 = 40;
/// So often it is tried whether lengths agree: on a busy machine, a thread may lose its processor between our clock and the
/// runtime's.
const TRIES: usize = 4;
/// What the two probes of a stop, and what the runtime does before it looks at its clock, may add.
const APART_NS: u64 = 30_000;

/// The runtime looks at its clock when it has woken the other processors, which takes a while on a busy machine; the probes
/// say how long the world stood until then.
fn agree((seen, ring): (u64, u64)) -> bool {
    seen <= ring + 2 * CYCLES * APART_NS && seen >= ring / 4
}

/// Count and nanoseconds of a reason.
fn stops(target: &Value, reason: &str) -> (u64, u64) {
    let all = target["go"]["stops"].as_array().expect("stops are measured");
    let Some(row) = all.iter().find(|row| row["reason"] == reason) else { return (0, 0) };
    (row["count"].as_u64().expect("a number"), (row["seconds"].as_f64().expect("a number") * 1e9) as u64)
}

fn since(now: (u64, u64), before: (u64, u64)) -> (u64, u64) {
    (now.0 - before.0, now.1 - before.1)
}

/// The first bytes of the two functions as the process has them, and where probes may be there.
fn code(pid: u32, outside: &Outside) -> Vec<u8> {
    let memory = File::open(format!("/proc/{pid}/mem")).expect("we may look");
    let (stop, start) = outside.image.runtime.as_ref().expect("known").worlds.expect("both are there");
    let mut bytes = vec![0; 64];
    let (one, other) = bytes.split_at_mut(32);
    memory.read_exact_at(one, stop.start).expect("it is mapped");
    memory.read_exact_at(other, start.start).expect("it is mapped");
    bytes
}

#[test]
fn every_stop_is_seen_once_with_its_reason_and_as_long_as_the_runtime_says() {
    if !can_observe() {
        return;
    }
    for toolchain in Toolchain::representative() {
        let tells_reason = toolchain.numbers() >= vec![1, 21];
        let reasons = if tells_reason {
            ["GC sweep termination", "GC mark termination", "read mem stats"]
        } else {
            ["unknown"; 3]
        };
        let version = &toolchain.version;
        let Some(program) = toolchain.program(Build::Default) else { return };
        let mut target = Target::start(&program, 2, &[]);
        target.ask("work 2000");
        // From here on it collects when it is told to.
        target.ask("gogc -1");
        let outside = Outside::of(target.pid(), &program).expect("it is understood");
        let before = code(target.pid(), &outside);
        let watching = Watching::with(target.pid(), &["--go-stops", "on"]);
        assert!(
            within(LONG, || !watching.now()["go"]["stops"].is_null()),
            "Go {version}: {:#}",
            watching.now()["go"]
        );
        let probed = code(target.pid(), &outside);
        assert_eq!(
            probed.iter().zip(&before).filter(|(one, other)| one != other).count(),
            2,
            "two breakpoints"
        );

        let mut apart = Vec::new();
        for _ in 0..TRIES {
            let earlier = watching.now();
            target.ask(&format!("gc {CYCLES}"));
            let later = watching.now();
            let pause = |at: &Value| at["go"]["figures"]["pause_total_ns"].as_u64().expect("a number");
            let ring = pause(&later) - pause(&earlier);
            let [first, second, _] =
                reasons.map(|reason| since(stops(&later, reason), stops(&earlier, reason)));
            let seen = if tells_reason {
                assert_eq!(
                    (first.0, second.0),
                    (CYCLES, CYCLES),
                    "Go {version}: each cycle stops the world twice"
                );
                first.1 + second.1
            } else {
                assert_eq!(first.0, 2 * CYCLES, "Go {version}: each cycle stops the world twice");
                first.1
            };
            eprintln!("Go {version}: {CYCLES} cycles: probes {seen} ns, ring {ring} ns");
            apart.push((seen, ring));
            if agree((seen, ring)) {
                break;
            }
        }
        assert!(apart.iter().copied().any(agree), "Go {version}: probes and ring, ns: {apart:?}");

        let earlier = watching.now();
        let took = target.ask(&format!("bench {READINGS}"));
        let later = watching.now();
        let (count, ns) = since(stops(&later, reasons[2]), stops(&earlier, reasons[2]));
        let calls: u64 = took["took_ns"].as_array().expect("a list").iter().filter_map(Value::as_u64).sum();
        assert_eq!(count, READINGS, "Go {version}: each ReadMemStats stops the world once");
        assert!(ns > 0 && ns < calls, "Go {version}: a stop is a part of its call: {ns} of {calls} ns");
        eprintln!("Go {version}: {READINGS} readings: {ns} ns of {calls} ns");

        let finished = watching.finish();
        let go = &finished.target()["go"];
        assert!(
            go["trouble"].as_array().is_none_or(|all| all.iter().all(|one| one["what"] != "stops")),
            "{go:#}"
        );
        assert!(
            within(LONG, || code(target.pid(), &outside) == before),
            "Go {version}: breakpoints are left"
        );
        target.ask("gc 3");
        target.end();
    }
}

#[test]
fn without_being_asked_nothing_is_probed() {
    if !can_observe() {
        return;
    }
    let Some(toolchain) = Toolchain::newest() else { return };
    let Some(program) = toolchain.program(Build::Default) else { return };
    let mut target = Target::start(&program, 2, &[]);
    let outside = Outside::of(target.pid(), &program).expect("it is understood");
    let before = code(target.pid(), &outside);
    let watching = Watching::process(target.pid());
    assert!(within(LONG, || !watching.now()["go"]["figures"].is_null()), "it is read");
    assert_eq!(code(target.pid(), &outside), before);
    assert!(watching.now()["go"]["stops"].is_null());
    target.ask("gc 2");
    watching.finish();
    target.end();
}
