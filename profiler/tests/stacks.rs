//! Stacks of optimised programs without frame pointers are those that their sources say, inlined functions included.

#[path = "common/captured.rs"]
mod captured;

use std::path::{Path, PathBuf};

use captured::{Captured, build, capture, fresh, must, names};
use profiler::stack::End;

/// As the sampler copies, at most.
const COPIED: usize = 16 * 1024;
/// As released programs are compiled.
const RELEASED: [&str; 4] = ["-O2", "-g", "-fomit-frame-pointer", "-pthread"];

/// The callers in `chain.c`.
const CHAIN: [&str; 7] = [
    "allocates",
    "inlined_inner",
    "inlined_outer",
    "many_registers",
    "variable_frame",
    "aligned_frame",
    "deep",
];

fn no_debug_file(_: &Path) -> Option<PathBuf> {
    None
}

fn assert_chain(names: &[String], last: &str) {
    assert_eq!(names[..CHAIN.len()], CHAIN, "{names:#?}");
    assert_eq!(names[CHAIN.len()], last, "{names:#?}");
}

#[test]
fn a_c_program_without_frame_pointers() {
    let Some(program) = build("gcc", "chain.c", &RELEASED) else { return };
    let (names, end) = names(&capture(&program, &[], true, COPIED), &no_debug_file);
    assert_chain(&names, "main");
    assert_eq!(names.last().map(String::as_str), Some("_start"), "{names:#?}");
    assert_eq!(end, End::Complete);
}

#[test]
fn a_thread_of_a_c_program() {
    let Some(program) = build("gcc", "chain.c", &RELEASED) else { return };
    let (names, end) = names(&capture(&program, &["thread"], true, COPIED), &no_debug_file);
    assert_chain(&names, "in_thread");
    assert_eq!(end, End::Complete, "{names:#?}");
}

#[test]
fn a_program_at_a_fixed_address() {
    let options = ["-O2", "-g", "-fomit-frame-pointer", "-pthread", "-no-pie", "-fno-pic"];
    let Some(program) = build("gcc", "chain.c", &options) else { return };
    let (names, end) = names(&capture(&program, &[], true, COPIED), &no_debug_file);
    assert_chain(&names, "main");
    assert_eq!(end, End::Complete);
}

#[test]
fn a_statically_linked_program() {
    let options = [
        "-O2",
        "-g",
        "-fomit-frame-pointer",
        "-pthread",
        "-static",
        "-DSTATIC",
        "-Wl,--wrap=malloc",
        "hook.c",
    ];
    let Some(program) = build("gcc", "chain.c", &options) else { return };
    let (names, end) = names(&capture(&program, &[], false, COPIED), &no_debug_file);
    assert_chain(&names, "main");
    assert_eq!(names.last().map(String::as_str), Some("_start"), "{names:#?}");
    assert_eq!(end, End::Complete);
}

#[test]
fn what_was_not_copied_cuts_the_stack_and_what_is_too_deep_is_told() {
    let Some(program) = build("gcc", "chain.c", &RELEASED) else { return };
    let (part, end) = names(&capture(&program, &[], true, 512), &no_debug_file);
    assert_eq!(end, End::Cut, "{part:#?}");
    assert_eq!(part[..5], CHAIN[..5]);
    let (all, end) = names(&capture(&program, &["deep"], true, 65536), &no_debug_file);
    assert_eq!(end, End::TooDeep, "{all:#?}");
    assert_chain(&all, "deep");
}

fn stripped(program: &Path) -> (PathBuf, PathBuf) {
    let (bare, debug) = (fresh("stripped"), fresh("debug"));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    must("objcopy", &["--only-keep-debug", &text(program), &text(&debug)]);
    must("strip", &["-o", &text(&bare), &text(program)]);
    (bare, debug)
}

#[test]
fn a_stripped_program_with_its_debug_file_and_without() {
    let Some(program) = build("gcc", "chain.c", &RELEASED) else { return };
    let (bare, debug) = stripped(&program);
    let captured = capture(&bare, &[], true, COPIED);
    let (with, end) = names(&captured, &|path| (path == bare).then(|| debug.clone()));
    assert_chain(&with, "main");
    assert_eq!(end, End::Complete);
    let (without, end) = names(&captured, &no_debug_file);
    assert_eq!(end, End::Complete);
    assert!(without[..4].iter().all(|name| name.starts_with("stripped-")), "{without:#?}");
}

#[test]
fn cpp_through_libstdcxx() {
    let Some(program) = build("g++", "chain.cpp", &RELEASED) else { return };
    for (arguments, expected) in [
        (&[][..], &["shop::Order::grow", "shop::Order::place", "shop::by_string", "main"][..]),
        (&["vector"][..], &["shop::Cart<long>::add", "shop::by_vector", "main"][..]),
    ] {
        let (names, end) = names(&capture(&program, arguments, true, COPIED), &no_debug_file);
        assert_eq!(names[0], "operator new(unsigned long)", "{names:#?}");
        let own: Vec<&str> = names
            .iter()
            .map(|name| name.split('(').next().unwrap())
            .filter(|name| name.starts_with("shop::") || *name == "main")
            .collect();
        assert_eq!(own, expected, "{names:#?}");
        assert_eq!(end, End::Complete, "{names:#?}");
    }
}

#[test]
fn rust_with_inlined_functions_of_its_library() {
    let options = ["-O", "-g", "--edition=2024", "-Cforce-frame-pointers=no"];
    let Some(program) = build("rustc", "chain.rs", &options) else { return };
    let (names, end) = names(&capture(&program, &[], true, COPIED), &no_debug_file);
    let own: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix("chain::")).collect();
    let expected =
        ["shop::Order::reserve", "shop::Order::place", "shop::generic", "main::{{closure}}", "main"];
    assert_eq!(own, expected, "{names:#?}");
    // The innermost is the allocator's own caller, inlined down from `Vec`.
    assert!(names[0].starts_with("alloc::alloc::"), "{names:#?}");
    assert!(
        names.iter().any(|name| name.contains("Vec<") && name.ends_with("::reserve_exact")),
        "{names:#?}"
    );
    assert_eq!(end, End::Complete, "{names:#?}");
}

#[test]
fn a_stack_that_ends_in_nowhere_is_lost() {
    let Some(program) = build("gcc", "chain.c", &RELEASED) else { return };
    let captured = capture(&program, &[], true, COPIED);
    let everything_but_the_program = |line: &&str| !line.contains("chain.c-");
    let maps: Vec<&str> = captured.maps.lines().filter(everything_but_the_program).collect();
    let (_, end) = names(&Captured { maps: maps.join("\n"), ..captured }, &no_debug_file);
    assert_eq!(end, End::Lost);
}
