//! The tables of Go's runtime that are in the tree: whole, true to what is known of Go's sources and to what was measured by
//! other means than those that made them.

mod common;
#[path = "../examples/go_layout/table.rs"]
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use profiler::binary::go::layout::{Layout, Table, Tables};

/// Without these nothing can be read of a program that has no symbols.
const GLOBALS: [&str; 11] = [
    "runtime.memstats",
    "runtime.mheap_",
    "runtime.gcController",
    "runtime.sched",
    "runtime.allp",
    "runtime.allglen",
    "runtime.allgs",
    "runtime.gomaxprocs",
    "runtime.mbuckets",
    "runtime.mProfCycle",
    "runtime.MemProfileRate",
];

/// Every file by its name.
fn files() -> BTreeMap<String, Tables> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/binary/go/tables");
    let files = std::fs::read_dir(&dir).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let tables = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, tables)
    });
    files.collect()
}

/// Does something with each table, and how it may be called.
fn each(mut look: impl FnMut(&str, &Tables, &Table)) {
    let files = files();
    assert!(files.len() >= 16, "only {} files", files.len());
    for (name, tables) in &files {
        for (number, table) in tables.variants.iter().enumerate() {
            look(&format!("{name}, variant {number}"), tables, table);
        }
    }
}

fn field(table: &Table, structure: &str, field: &str) -> Option<(u32, u32)> {
    table.structs[structure].get(field).copied()
}

fn bytes(table: &Table, structure: &str, name: &str) -> u32 {
    field(table, structure, name).unwrap_or_else(|| panic!("no {name} of {structure}")).1
}

fn minor(tables: &Tables) -> u32 {
    tables.go.strip_prefix("1.").and_then(|minor| minor.parse().ok()).unwrap()
}

#[test]
fn every_version_has_a_table_on_both_machines_and_no_table_is_without_a_version() {
    let files = files();
    let mut versions: BTreeMap<&str, BTreeMap<&str, Vec<&String>>> = BTreeMap::new();
    for (name, tables) in &files {
        assert_eq!(*name, format!("{}-{}.json", tables.go, tables.arch));
        for version in tables.versions.keys() {
            let patch = version.strip_prefix(&tables.go).unwrap_or_else(|| panic!("{name} has {version}"));
            assert!(!patch.starts_with(|c: char| c.is_ascii_digit()), "{name} has {version}");
        }
        let used: BTreeSet<usize> = tables.versions.values().copied().collect();
        assert_eq!(used, (0..tables.variants.len()).collect(), "{name}: variants that versions have");
        for (number, table) in tables.variants.iter().enumerate() {
            assert!(!tables.variants[..number].contains(table), "{name}: variant {number} is there twice");
        }
        let machines = versions.entry(&tables.go).or_default();
        machines.insert(&tables.arch, tables.versions.keys().collect());
    }
    for (go, machines) in versions {
        assert_eq!(machines.keys().copied().collect::<Vec<_>>(), ["amd64", "arm64"], "Go {go}");
        assert_eq!(machines["amd64"], machines["arm64"], "Go {go}");
    }
}

#[test]
fn every_table_has_all_that_a_reader_needs() {
    each(|name, _, table| {
        let layout = Layout::of(table).unwrap_or_else(|lack| panic!("{name}: {lack}"));
        // Of these there is one or the other (Go 1.25 made a list of goroutines count itself).
        assert_ne!(layout.p.g_free_n.is_some(), layout.p.g_free_size.is_some(), "{name}");
        let lists = layout.sched.g_free_stack.is_some() && layout.sched.g_free_no_stack.is_some();
        assert_ne!(layout.sched.g_free_n.is_some(), lists, "{name}");
    });
}

#[test]
fn fields_lie_in_their_structures_and_not_in_each_other() {
    each(|name, _, table| {
        for (structure, fields) in &table.structs {
            let mut places: Vec<(u32, u32, &String)> =
                fields.iter().map(|(field, &(offset, bytes))| (offset, bytes, field)).collect();
            places.sort();
            let mut end = 0;
            for (offset, bytes, field) in places {
                assert!(
                    offset >= end && bytes > 0,
                    "{name}: {field} of {structure} at {offset}, after {end}"
                );
                end = offset + bytes;
            }
            assert!(end <= table.sizes[structure], "{name}: {structure}");
        }
    });
}

#[test]
fn sizes_are_those_of_the_declarations_in_gos_sources() {
    each(|name, tables, table| {
        let of = |structure, field| bytes(table, structure, field);
        let classes = u32::try_from(table.class_to_size.len()).unwrap();
        // mstats.go: `pause_ns [256]uint64`, `stats [3]heapStatsDelta` and two words, a counter per class.
        assert_eq!(of("runtime.mstats", "pause_ns"), 256 * 8, "{name}");
        assert_eq!(of("runtime.mstats", "pause_end"), 256 * 8, "{name}");
        let deltas = 3 * table.sizes["runtime.heapStatsDelta"];
        assert!((deltas..=deltas + 24).contains(&of("runtime.mstats", "heapStats")), "{name}");
        assert_eq!(of("runtime.heapStatsDelta", "smallAllocCount"), classes * 8, "{name}");
        assert_eq!(of("runtime.heapStatsDelta", "smallFreeCount"), classes * 8, "{name}");
        // mcache.go: a span for each class, with pointers and without.
        assert_eq!(of("runtime.mcache", "alloc"), 2 * classes * 8, "{name}");
        // mprof.go: `active memRecordCycle`, `future [3]memRecordCycle`.
        let cycle = table.sizes["runtime.memRecordCycle"];
        assert_eq!(of("runtime.memRecord", "active"), cycle, "{name}");
        assert_eq!(of("runtime.memRecord", "future"), 3 * cycle, "{name}");
        assert_eq!(cycle, if minor(tables) >= 27 { 16 } else { 32 }, "{name}");
        // mheap.go: both are allocators of fixed sizes.
        for allocator in ["spanalloc", "cachealloc"] {
            assert_eq!(of("runtime.mheap", allocator), table.sizes["runtime.fixalloc"], "{name}");
        }
        // sizeclasses.go, the same in all these versions.
        assert_eq!(table.class_to_size[..5], [0, 8, 16, 24, 32], "{name}");
        assert_eq!((classes, table.class_to_size.last()), (68, Some(&32768)), "{name}");
    });
}

/// Measured on running programs of each version, and with another reader of debug information.
#[test]
fn offsets_are_the_measured_ones() {
    each(|name, tables, table| {
        let of = |structure, name| field(table, structure, name).map(|(offset, _)| offset);
        let minor = minor(tables);
        let since = |version, then, before| Some(if minor >= version { then } else { before });
        assert_eq!(of("runtime.mstats", "stacks_sys"), since(25, 3520, 3544), "{name}");
        assert_eq!(of("runtime.mstats", "numgc"), since(25, 7680, 7704), "{name}");
        assert_eq!(of("runtime.heapStatsDelta", "tinyAllocCount"), since(25, 40, 48), "{name}");
        assert_eq!(of("runtime.gcControllerState", "heapInUse"), since(21, 272, 304), "{name}");
        let mnext = if minor >= 26 { Some(72) } else { since(25, 56, 48) };
        assert_eq!(of("runtime.schedt", "mnext"), mnext, "{name}");
        assert_eq!(of("runtime.p", "mcache"), since(23, 56, 64), "{name}");
        assert_eq!(of("runtime.mcache", "alloc"), since(24, 48, 40), "{name}");
        if tables.arch == "amd64" {
            let spans = match minor {
                19 => 92224,
                21 => 92232,
                22..=24 => 92296,
                _ => 92320,
            };
            assert_eq!(of("runtime.mheap", "spanalloc"), Some(spans), "{name}");
        }
    });
}

#[test]
fn what_a_goroutine_waits_for_has_the_measured_number() {
    each(|name, tables, table| {
        let sleep = table.wait_reasons.iter().position(|reason| reason == "sleep");
        let measured = match minor(tables) {
            ..25 => 19,
            25 => 20,
            26.. => 14,
        };
        assert_eq!(sleep, Some(measured), "{name}");
        for reason in ["IO wait", "chan receive", "select", "semacquire", "GC worker (idle)"] {
            assert!(table.wait_reasons.iter().any(|known| known == reason), "{name}: {reason}");
        }
        assert!(table.wait_reasons.iter().skip(1).all(|reason| !reason.is_empty()), "{name}");
    });
}

#[test]
fn the_references_lead_to_every_global_and_stay_inside_of_it() {
    each(|name, _, table| {
        let known: Vec<(&str, i64)> = table
            .code
            .values()
            .flatten()
            .filter_map(|(_, global, at)| Some((global.as_deref()?, *at)))
            .collect();
        for global in GLOBALS {
            assert!(known.iter().any(|(to, _)| *to == global), "{name}: nothing leads to {global}");
        }
        for (global, structure) in [
            ("runtime.memstats", "runtime.mstats"),
            ("runtime.mheap_", "runtime.mheap"),
            ("runtime.gcController", "runtime.gcControllerState"),
            ("runtime.sched", "runtime.schedt"),
        ] {
            let size = i64::from(table.sizes[structure]);
            for (_, at) in known.iter().filter(|(to, _)| *to == global) {
                assert!((0..size).contains(at), "{name}: {at} of {global}");
            }
        }
        // (*mheap).init sets its allocators of fixed sizes up with the places of their figures, so it refers to memstats.
        let init = &table.code["runtime.(*mheap).init"];
        assert!(init.iter().any(|(_, global, _)| global.as_deref() == Some("runtime.memstats")), "{name}");
    });
}

/// What makes the tables has not changed since they were made.
#[test]
fn debians_go_has_the_tables_that_are_in_the_tree() {
    const GO: &str = "/usr/lib/go-1.19/bin/go";
    const VERSION: &str = "1.19.8";
    let said = Command::new(GO).arg("version").output().map(|said| said.stdout).unwrap_or_default();
    if !String::from_utf8_lossy(&said).starts_with(&format!("go version go{VERSION} ")) {
        return common::skip(&format!("{GO} isn't there, or not of Go {VERSION}"));
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go_tables");
    std::fs::create_dir_all(&dir).unwrap();
    let source = dir.join("main.go");
    std::fs::write(&source, "package main\n\nfunc main() {\n\tprintln(\"hi\")\n\tselect {}\n}\n").unwrap();
    let files = files();
    for machine in ["amd64", "arm64"] {
        let program = dir.join(machine);
        let mut build = Command::new(GO);
        build.args(["build", "-ldflags=-compressdwarf=false", "-o"]).arg(&program).arg(&source);
        for setting in ["GOFLAGS", "GOEXPERIMENT", "GOAMD64"] {
            build.env_remove(setting);
        }
        build.env("GOENV", "off").env("GO111MODULE", "off").env("GOCACHE", dir.join("cache"));
        build.env("CGO_ENABLED", "0").env("GOOS", "linux").env("GOARCH", machine);
        let built = build.output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let made = table::of(&std::fs::read(&program).unwrap()).unwrap();
        let tables = &files[&format!("1.19-{machine}.json")];
        let there = &tables.variants[tables.versions[VERSION]];
        assert!(made == *there, "make the tables again with `cargo xtask go-layouts`; now it is {made:?}");
    }
}
