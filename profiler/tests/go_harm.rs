//! Reading a Go program from outside stops nothing in it: nobody traces it, no thread of it is woken or switched away, and its own
//! count of stopped worlds stays as it was.

mod common;

use std::time::Duration;

use common::{
    can_observe,
    go::{
        exposition::fetch,
        outside::{Outside, View},
        target::Target,
        toolchain::{Build, Toolchain},
    },
    profiler::Watching,
};

/// A program at rest, with some goroutines and a heap worth reading.
fn resting(toolchain: &Toolchain) -> Option<(Target, std::path::PathBuf)> {
    let program = toolchain.program(Build::Default)?;
    let mut target = Target::start(&program, 4, &[("MEM_PROFILE_RATE", "4096")]);
    for command in ["work 3000", "gc", "exitg", "gogc -1", "stops"] {
        target.ask(command);
    }
    assert!(target.rests(), "it comes to rest");
    Some((target, program))
}

#[test]
fn a_thousand_readings_wake_nobody() {
    if !can_observe() {
        return;
    }
    for toolchain in Toolchain::representative() {
        let Some((mut target, program)) = resting(&toolchain) else { return };
        let stops = target.ask("stops");
        let outside = Outside::of(target.pid(), &program).expect("it is understood");
        assert!(target.rests(), "it comes to rest");
        let before = target.switches();
        for _ in 0..1000 {
            outside.figures(View::Metrics).expect("it can be read");
            outside.figures(View::MemStats).expect("it can be read");
        }
        for _ in 0..20 {
            let goroutines = outside.goroutines().expect("they can be read");
            assert!(!goroutines.is_empty());
            outside.heap().expect("it can be read");
            assert_eq!(target.tracer(), 0);
        }
        // The runtime's own watcher wakes now and then; had each reading woken a thread, there would be thousands.
        let switches = target.switches() - before;
        assert!(switches < 100, "Go {}: {switches} switches of its threads", toolchain.version);
        assert_eq!(target.ask("stops"), stops, "Go {}: stops of the world", toolchain.version);
        target.end();
    }
}

#[test]
fn a_session_with_scrapes_stops_no_world() {
    if !can_observe() {
        return;
    }
    let Some(toolchain) = Toolchain::newest() else { return };
    let Some((mut target, _)) = resting(&toolchain) else { return };
    let before = target.ask("stops");
    let watching = Watching::process(target.pid());
    let path = format!("/targets/{}/metrics", watching.now()["target"].as_str().expect("a name"));
    for _ in 0..50 {
        fetch(watching.address(), &path).expect("it answers");
        fetch(watching.address(), "/metrics").expect("it answers");
        assert_eq!(target.tracer(), 0);
        std::thread::sleep(Duration::from_millis(20));
    }
    watching.finish();
    assert_eq!(target.ask("stops"), before);
    target.end();
}
