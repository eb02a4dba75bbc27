//! A hunt that is told of a runtime's own profiles, and of nothing else: no rights are needed, nothing is sampled.

use std::{path::PathBuf, sync::Arc, time::Duration};

use profiler::{
    hunt::{Hunt, Order, OwnCalls, Settings, Subject},
    kernel::now_ns,
    leaks::{Picture, Source, Verdict},
    runtime::go::heap_profile::{HeapProfile, Record},
    target::Process,
    worker,
};

const SLOT: u32 = 3;
const EPOCH: u32 = 1;
const PATIENCE: Duration = Duration::from_secs(10);

#[inline(never)]
fn keeps_everything() -> u64 {
    std::hint::black_box(1)
}

#[inline(never)]
fn gives_everything_back() -> u64 {
    std::hint::black_box(2)
}

/// What a call within this function returns to.
fn within(function: fn() -> u64) -> u64 {
    function as usize as u64 + 2
}

fn hunt() -> Hunt {
    let settings = Settings {
        sample_bytes: 524_288,
        growth_bytes: 524_288,
        patience: Duration::from_secs(2),
        references: true,
        perf_map: false,
        interval: Duration::from_secs(1),
        targets: 1,
        worker: worker::Limits {
            program: PathBuf::from(env!("CARGO_BIN_EXE_profiler")),
            ..worker::Limits::default()
        },
    };
    Hunt::begin(None, OwnCalls::default(), settings, |_| {}).unwrap()
}

fn begin(hunt: &Hunt, source: Result<Source, String>) {
    let process = Arc::new(Process::open(std::process::id()).unwrap());
    hunt.handle().tell(Order::Begin(Subject {
        slot: SLOT,
        epoch: EPOCH,
        process,
        group: "shop".into(),
        source,
    }));
}

/// The profile after so many collections.
fn profile(cycle: u32) -> HeapProfile {
    let done = u64::from(cycle);
    let record = |function: fn() -> u64, (allocs, frees)| {
        let stack = vec![within(function), within(function), 1 << 46];
        Record { size: 1 << 20, stack, allocs, frees }
    };
    HeapProfile {
        rate: 524_288,
        cycle,
        records: vec![
            record(keeps_everything, (100 + done, 10)),
            record(gives_everything_back, (1000 + done * 50, 990 + done * 50)),
        ],
        left_out: 0,
    }
}

fn picture(hunt: &Hunt) -> Arc<Picture> {
    hunt.handle().fresh(PATIENCE)
}

#[test]
fn a_leak_that_only_the_runtime_knows_of_is_found_and_named() {
    let hunt = hunt();
    begin(&hunt, Ok(Source::Runtime));
    for cycle in 0..80 {
        hunt.handle().tell(Order::Profile(SLOT, EPOCH, Arc::new(profile(cycle)), now_ns()));
        std::thread::sleep(Duration::from_millis(50));
    }
    let picture = picture(&hunt);
    let target = &picture.targets[0];
    assert_eq!((target.source.clone(), target.sample_bytes), (Ok(Source::Runtime), 524_288));
    assert_eq!(target.judgement.verdict, Verdict::Leaking, "{:?}", target.judgement);
    assert_eq!(target.sites.len(), 2);
    let [leak, steady] = [&target.sites[0], &target.sites[1]];
    assert_eq!(leak.judgement.verdict, Verdict::Leaking, "{:?}", leak.judgement);
    assert!(leak.judgement.reason.contains("still referenced"), "{}", leak.judgement.reason);
    assert_ne!(steady.judgement.verdict, Verdict::Leaking, "{:?}", steady.judgement);
    // One object of 1 MiB every 50 ms, each of which stands for 1 / (1 - exp(-2)) of its kind.
    let (rate, truth) = (leak.judgement.rate.unwrap(), 20.0 * 1.156_518 * f64::from(1 << 20));
    assert!(rate.low <= truth && truth <= rate.high, "{rate:?} {truth}");
    let functions: Vec<_> = leak.stack.frames.iter().flat_map(|frame| frame.names()).collect();
    assert!(functions.len() == 2 && functions[0].contains("keeps_everything"), "{functions:?}");
    // 90 and 10 objects lived before, by the first profile; now there are 169 and 10.
    assert_eq!(leak.samples, (78, 169));
    assert!((target.live_bytes.value / (179.0 * 1.156_518 * f64::from(1 << 20)) - 1.0).abs() < 1e-4);
    let before = target.before.allocator_bytes.unwrap() as f64;
    assert!((before / (100.0 * 1.156_518 * f64::from(1 << 20)) - 1.0).abs() < 1e-4, "{before}");
    assert_eq!(target.explained, None);
    assert!(
        target.losses.iter().all(|(reason, count)| *count == 0 || reason == "cut_stacks"),
        "{:?}",
        target.losses
    );
}

#[test]
fn profiles_of_another_program_or_without_being_the_source_are_counted_and_not_booked() {
    let hunt = hunt();
    begin(&hunt, Err("the linker left the profile out".to_owned()));
    hunt.handle().tell(Order::Profile(SLOT, EPOCH, Arc::new(profile(1)), now_ns()));
    let missing = picture(&hunt);
    assert_eq!(missing.targets[0].source, Err("the linker left the profile out".to_owned()));
    assert_eq!(missing.targets[0].judgement.reason, "the linker left the profile out");
    hunt.handle().tell(Order::Source(SLOT, Ok(Source::Runtime), Vec::new()));
    hunt.handle().tell(Order::Profile(SLOT, EPOCH, Arc::new(profile(2)), now_ns()));
    hunt.handle().tell(Order::Replaced(SLOT, EPOCH + 1));
    hunt.handle().tell(Order::Profile(SLOT, EPOCH, Arc::new(profile(3)), now_ns()));
    let picture = picture(&hunt);
    let lost = |wanted: &str| {
        let mut losses = picture.targets[0].losses.iter();
        losses.find(|(reason, _)| reason == wanted).map(|(_, count)| *count)
    };
    assert_eq!((lost("other_source"), lost("late_samples")), (Some(1), Some(1)));
    assert!(picture.targets[0].live_bytes.value.abs() < 1.0, "what lived has gone with the program before");
}
