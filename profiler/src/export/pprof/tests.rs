use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use flate2::read::GzDecoder;
use profiler_common::sched::{StallCause, ThreadState};
use prost::Message as _;

use super::*;
use crate::test_support::{
    picture::{self, TAKEN_AT},
    skip,
};

const HEAP: Wish<'static> = Wish { kind: Kind::Heap, target: Some("shop"), program: Some("/usr/bin/shop") };

/// Go's own reader, of which nothing here is.
const READER: &str = "/usr/lib/go-1.19/pkg/tool/linux_amd64/pprof";

/// What Go's reader says of profiles; `None` if it isn't there. The last profile is the one that is shown.
fn told(options: &[&str], profiles: &[(&str, &[u8])]) -> Option<String> {
    if !Path::new(READER).exists() {
        skip("Go's pprof isn't installed (golang-1.19-go)");
        return None;
    }
    let dir = std::env::temp_dir().join(format!(
        "profiler-pprof-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::create_dir_all(&dir).unwrap();
    let mut command = Command::new(READER);
    // It keeps profiles it has fetched in a home directory; names of files must not be looked up on this machine.
    command
        .env("HOME", &dir)
        .env("PPROF_TMPDIR", &dir)
        .env("PPROF_BINARY_PATH", &dir)
        .args(["-nodefraction=0"])
        .args(options);
    for (option, bytes) in profiles {
        let file: PathBuf = dir.join(format!("{}.pb.gz", if option.is_empty() { "shown" } else { "base" }));
        std::fs::write(&file, bytes).unwrap();
        command.arg(if option.is_empty() {
            file.display().to_string()
        } else {
            format!("{option}={}", file.display())
        });
    }
    let output = command.output().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let (text, complaints) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complaints}");
    Some(text.into_owned())
}

fn decoded(bytes: &[u8]) -> wire::Profile {
    let mut plain = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    wire::Profile::decode(plain.as_slice()).unwrap()
}

/// Flat value of a function in the table of `-top`.
fn flat(table: &str, function: &str) -> Option<String> {
    let line = table.lines().find(|line| line.ends_with(function))?;
    line.split_whitespace().next().map(str::to_owned)
}

#[test]
fn go_shows_live_bytes_by_function_with_inlined_ones() {
    let profile = heap(&picture::realistic(), &HEAP);
    let Some(table) = told(&["-top", "-unit=B"], &[("", &profile)]) else { return };
    assert!(table.contains("File: shop"), "{table}");
    assert!(table.contains("Type: inuse_space"), "{table}");
    assert_eq!(flat(&table, " Pool<Connection>::take").as_deref(), Some("8388608B"), "{table}");
    assert_eq!(flat(&table, " operator new(unsigned long)").as_deref(), Some("3686400B"), "{table}");
    assert_eq!(flat(&table, " plugin.so+0x4d20").as_deref(), Some("262144B"), "{table}");
    let inlined = table.lines().find(|line| line.contains("cache::Store::remember")).unwrap();
    assert!(inlined.trim_start().starts_with("0 "), "{inlined}");
    assert!(inlined.contains("3686400B") && !inlined.ends_with("(inline)"), "{inlined}");
    let callee = table.lines().find(|line| line.contains("std::map<std::string; int>::insert")).unwrap();
    assert!(callee.ends_with("(inline)"), "{callee}");
}

#[test]
fn go_finds_each_of_the_four_values_by_its_usual_name() {
    let profile = heap(&picture::realistic(), &HEAP);
    for (option, value) in [
        ("-inuse_space", "8388608"),
        ("-inuse_objects", "131072"),
        ("-alloc_space", "25165824"),
        ("-alloc_objects", "393216"),
    ] {
        let Some(table) = told(&["-top", "-unit=B", option], &[("", &profile)]) else { return };
        let flat = flat(&table, " Pool<Connection>::take").unwrap();
        assert_eq!(flat.trim_end_matches('B'), value, "{table}");
    }
    let allocs = heap(&picture::realistic(), &Wish { kind: Kind::Allocs, ..HEAP });
    let Some(table) = told(&["-top"], &[("", &allocs)]) else { return };
    assert!(table.contains("Type: alloc_space"), "{table}");
}

#[test]
fn go_reads_labels_build_ids_times_and_remarks() {
    let profile = heap(&picture::realistic(), &HEAP);
    let Some(raw) = told(&["-raw"], &[("", &profile)]) else { return };
    assert!(raw.contains("PeriodType: space bytes"), "{raw}");
    assert!(raw.contains("Period: 524288"), "{raw}");
    assert!(raw.contains("Time: 2026-01-02 03:04:05"), "{raw}");
    assert!(raw.contains("site:[3f0a9c51e27b]") && raw.contains("verdict:[leaking]"), "{raw}");
    assert!(raw.contains("target:[shop]") && raw.contains("pid:[4711]"), "{raw}");
    assert!(raw.contains("estimates made from samples"), "{raw}");
    let mappings = raw.split_once("\nMappings\n").unwrap().1;
    let first = mappings.lines().next().unwrap();
    assert!(
        first.contains("/usr/bin/shop") && first.contains("5ca1ab1e00000000000000000000000000000001"),
        "{first}"
    );
    assert!(mappings.contains("93ac6d7b00000000000000000000000000000002"), "{mappings}");
}

#[test]
fn go_can_filter_by_verdict() {
    let profile = heap(&picture::realistic(), &HEAP);
    let Some(table) = told(&["-top", "-unit=B", "-tagfocus=verdict=leaking"], &[("", &profile)]) else {
        return;
    };
    assert_eq!(flat(&table, " operator new(unsigned long)").as_deref(), Some("3686400B"), "{table}");
    assert_eq!(flat(&table, " Pool<Connection>::take"), None, "{table}");
}

#[test]
fn go_compares_two_profiles_and_agrees_with_our_own_difference() {
    let (before, after) = (picture::realistic(), picture::later(600));
    let (base, now) = (heap(&before, &HEAP), heap(&after, &HEAP));
    let ours = difference(&after, &before, &HEAP);
    let Some(theirs) = told(&["-top", "-unit=B"], &[("-diff_base", &base), ("", &now)]) else { return };
    let Some(ours) = told(&["-top", "-unit=B"], &[("", &ours)]) else { return };
    for (function, value) in [
        (" operator new(unsigned long)", "6144000B"),
        (" Pool<Connection>::take", "-4194304B"),
        (" plugin.so+0x4d20", "-262144B"),
        (" fresh", "1024B"),
    ] {
        assert_eq!(flat(&theirs, function).as_deref(), Some(value), "{theirs}");
        assert_eq!(flat(&ours, function).as_deref(), Some(value), "{ours}");
    }
    assert!(flat(&theirs, " strdup").is_none_or(|flat| flat.starts_with('0')), "{theirs}");
}

#[test]
fn go_reads_whatever_names_a_program_may_have() {
    let profile = heap(&picture::realistic(), &Wish { target: None, program: None, ..HEAP });
    let Some(table) = told(&["-top"], &[("", &profile)]) else { return };
    assert!(table.contains("<script>"), "{table}");
}

#[test]
fn go_shows_stalls_by_cause() {
    let mut ledger = LedgerSnapshot::default();
    ledger.ledger.spent_ns[ThreadState::Futex as usize] = 5_000_000_000;
    ledger.ledger.spent_ns[ThreadState::Sleeping as usize] = 9_000_000_000;
    ledger.stalls[StallCause::Futex as usize].total_ns = 3_000_000_000;
    ledger.stalls[StallCause::Futex as usize].buckets[4] = 7;
    let stalls = [Stalls { target: "shop", ledger: &ledger, earlier: None }];
    let profile = offcpu(&stalls, picture::at(TAKEN_AT), Duration::from_secs(60));
    let Some(table) = told(&["-top", "-unit=s"], &[("", &profile)]) else { return };
    assert_eq!(flat(&table, " [futex: stalls]").as_deref(), Some("3s"), "{table}");
    assert_eq!(flat(&table, " [futex: short or not over yet]").as_deref(), Some("2s"), "{table}");
    assert!(table.contains("Total samples = 5s"), "sleeping is not in it: {table}");
    let Some(table) = told(&["-top", "-sample_index=contentions"], &[("", &profile)]) else { return };
    assert_eq!(flat(&table, " [futex: stalls]").as_deref(), Some("7"), "{table}");
}

#[test]
fn stalls_of_an_interval_are_what_came_since_its_beginning() {
    let mut earlier = LedgerSnapshot::default();
    earlier.ledger.spent_ns[ThreadState::Disk as usize] = 1_000;
    let mut ledger = earlier;
    ledger.ledger.spent_ns[ThreadState::Disk as usize] = 1_500;
    let stalls = [Stalls { target: "shop", ledger: &ledger, earlier: Some(&earlier) }];
    let profile = decoded(&offcpu(&stalls, picture::at(TAKEN_AT), Duration::ZERO));
    assert_eq!(profile.sample.len(), 1);
    assert_eq!(profile.sample[0].value, [0, 500]);
}

#[test]
fn go_reads_our_text_as_well() {
    let picture = picture::realistic();
    let text = text(&picture, None, &HEAP);
    assert!(text.starts_with("heap profile: "), "{text}");
    assert!(text.contains("#\t0x3210\tcache::Store::remember\tsrc/cache.cc:44\n"), "{text}");
    let Some(table) = told(&["-top", "-unit=B"], &[("", text.as_bytes())]) else { return };
    assert!(table.contains("100% of 14245888B total"), "all but the other sites: {table}");
}

#[test]
fn a_target_that_nobody_knows_gives_an_empty_profile_that_go_can_read() {
    let wish = Wish { target: Some("nobody"), ..HEAP };
    let profile = heap(&picture::realistic(), &wish);
    assert!(decoded(&profile).sample.is_empty());
    assert!(told(&["-top"], &[("", &profile)]).is_none_or(|table| table.contains("inuse_space")));
}

#[test]
fn estimates_that_are_no_numbers_do_no_harm() {
    let mut picture = picture::realistic();
    let site = &mut picture.targets[0].sites[0];
    site.live_bytes.value = f64::NAN;
    site.live_objects.value = f64::INFINITY;
    let profile = decoded(&heap(&picture, &HEAP));
    let sample = &profile.sample[0];
    assert_eq!((sample.value[3], sample.value[2]), (0, i64::MAX));
}

#[test]
fn equal_places_are_one_place_and_every_reference_leads_somewhere() {
    let profile = decoded(&heap(&picture::realistic(), &Wish { target: None, ..HEAP }));
    assert_eq!(profile.string_table[0], "");
    let strings: std::collections::HashSet<_> = profile.string_table.iter().collect();
    assert_eq!(strings.len(), profile.string_table.len());
    let (locations, functions) = (profile.location.len() as u64, profile.function.len() as u64);
    for sample in &profile.sample {
        assert_eq!(sample.value.len(), profile.sample_type.len());
        assert!(sample.location_id.iter().all(|id| (1..=locations).contains(id)));
    }
    for line in profile.location.iter().flat_map(|location| &location.line) {
        assert!((1..=functions).contains(&line.function_id));
    }
    let mains = profile.location.iter().filter(|location| location.address == 0x1100).count();
    assert_eq!(mains, 1, "main is in many stacks");
}
