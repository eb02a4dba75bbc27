//! First touches of pages are told with their stacks, end when the pages are given back, and cost little.

mod common;

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use common::{
    can_observe,
    helper::{Helper, compiled},
    skip,
};
use profiler::kernel::{Facts, Kernel, Plan, Sizes, Wanted};
use serde_json::Value;

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load(mean: u64) -> Option<Kernel> {
    if !can_observe() {
        return None;
    }
    let wanted = Wanted { alloc: false, stalls: false, mappings: false, samples: false, growth: Some(mean) };
    match Plan::decide(wanted, &Facts::gather()) {
        Ok(plan) => {
            let sizes = Sizes { targets: 3, sites: 1 };
            let kernel = Kernel::load(plan, sizes, Duration::from_millis(1), false);
            Some(kernel.unwrap_or_else(|error| panic!("{error}")))
        }
        Err(error) => {
            skip(&error.to_string());
            None
        }
    }
}

fn program() -> Option<PathBuf> {
    compiled("pages.c", &["-O2"])
}

fn say(helper: &mut Helper, line: &str) -> Value {
    helper.tell(line);
    helper.answer()
}

/// Prints; run by hand: what a fault costs with and without.
#[test]
#[ignore = "measures"]
fn what_a_fault_costs() {
    let _alone = alone();
    let Some(program) = program() else { return };
    let mut helper = Helper::start::<&str>(&program, &[]);
    let mut each = |what: &str| {
        let best = (0..9).map(|_| {
            let answer = say(&mut helper, "faults 400");
            answer["ns"].as_f64().expect("a number") / answer["done"].as_f64().expect("a number")
        });
        let mut all: Vec<f64> = best.collect();
        all.sort_by(f64::total_cmp);
        println!("{what}: {:.0} ns per fault (median), {:.0} at best", all[4], all[0]);
        helper.pid()
    };
    for _ in 0..2 {
        each("nothing loaded");
        let Some(mut kernel) = load(512 << 10) else { return };
        let pid = each("loaded, no target");
        kernel.watch_process(pid, 0, false).expect("it can be followed");
        each("a target");
        drop(kernel);
        let Some(mut kernel) = load(1) else { return };
        kernel.watch_process(pid, 0, false).expect("it can be followed");
        each("a target, every page, nobody reads");
    }
}
