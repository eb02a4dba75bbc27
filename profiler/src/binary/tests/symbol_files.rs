//! Functions in real files: static, stripped, with compressed symbols, with a debug file.

use std::collections::BTreeSet;

use super::built::{Workshop, nm};
use super::library;
use crate::binary::SymbolSource::{self, DebugFile, Dynamic, MiniDebugInfo, SymbolTable};
use crate::binary::{BinaryError, DebugFileError, Function, Symbols, analyse, debug_files, symbols};

const NAMES: [&str; 7] = ["malloc", "free", "calloc", "realloc", "shown", "hidden", "main"];

fn look(image: &[u8], debug: Option<&[u8]>) -> Symbols {
    symbols(image, debug, &|name| NAMES.iter().any(|wanted| wanted.as_bytes() == name)).unwrap()
}

fn named<'a>(symbols: &'a Symbols, name: &str) -> Vec<&'a Function> {
    symbols.functions.iter().filter(|function| function.name == name).collect()
}

/// All functions are where `nm` says that the unstripped program has them, and come from there.
fn assert_true(workshop: &Workshop, symbols: &Symbols, source: SymbolSource, what: &str) {
    let mut some = 0;
    for name in NAMES {
        let truth = workshop.truth("program", name);
        let found = named(symbols, name);
        let found: BTreeSet<_> =
            found.iter().map(|function| (function.address, function.size, function.local)).collect();
        some += found.len();
        assert_eq!(found, truth, "{name} in {what}");
    }
    assert!(some > 2, "{what}: {symbols:?}");
    let elsewhere = symbols.functions.iter().find(|function| function.source != source);
    assert_eq!(elsewhere, None, "{what}");
    assert_eq!(symbols.problems, [], "{what}");
}

#[test]
fn functions_of_static_programs_are_found_as_long_as_anything_tells_of_them() {
    let Some(workshop) = Workshop::with(&["cc", "objcopy", "strip", "nm", "xz", "musl-gcc"]) else { return };
    for compiler in ["cc -static", "cc -static-pie", "musl-gcc -static"] {
        workshop.build(compiler);
        let whole = look(&workshop.read("program"), None);
        assert_true(&workshop, &whole, SymbolTable, compiler);
        assert!(!named(&whole, "malloc").is_empty(), "{compiler}");
        assert_eq!(
            (whole.is_static, whole.is_stripped, whole.interpreter),
            (true, false, None),
            "{compiler}"
        );

        let stripped = workshop.read("stripped");
        let bare = look(&stripped, None);
        assert_eq!((&bare.functions, &bare.problems), (&Vec::new(), &Vec::new()), "{compiler}");
        assert_eq!((bare.is_static, bare.is_stripped), (true, true), "{compiler}");
        assert_eq!(bare.sources.len(), usize::from(bare.sources.contains(&Dynamic)), "{compiler}");

        let debug = workshop.read("program.debug");
        let with_debug = look(&stripped, Some(&debug));
        assert_true(&workshop, &with_debug, DebugFile, &format!("{compiler} and debug file"));
        assert_eq!(with_debug.sources.last(), Some(&DebugFile), "{compiler}");
        assert!(with_debug.is_stripped, "the file itself is");

        workshop.add_mini_debug_info();
        let mini = look(&workshop.read("mini"), None);
        assert_eq!((mini.sources.last(), mini.is_stripped), (Some(&MiniDebugInfo), false), "{compiler}");
        // Weak symbols aren't among those that the recipe keeps.
        assert_eq!(mini.problems, [], "{compiler}");
        for function in &mini.functions {
            assert_eq!(function.source, MiniDebugInfo);
            let key = (function.address, function.size, function.local);
            assert!(workshop.truth("program", &function.name).contains(&key), "{compiler}: {function:?}");
        }
        for name in ["shown", "hidden", "main"] {
            assert_eq!(named(&mini, name).len(), 1, "{compiler}: {name}");
        }
    }
}

#[test]
fn each_function_is_told_once_and_by_the_first_that_knows_it() {
    let Some(workshop) = Workshop::with(&["cc", "objcopy", "strip", "nm", "xz"]) else { return };
    workshop.build("cc -rdynamic");
    workshop.add_mini_debug_info();
    let sources = |file: &str, debug: bool| {
        let debug = debug.then(|| workshop.read("program.debug"));
        let symbols = look(&workshop.read(file), debug.as_deref());
        assert!(symbols.interpreter.as_ref().is_some_and(|path| path.starts_with("/lib64")), "{symbols:?}");
        assert!(!symbols.is_static);
        assert_eq!(symbols.problems, []);
        assert_eq!(named(&symbols, "malloc").len(), 0, "an import");
        let one = |name| match named(&symbols, name)[..] {
            [function] => Some(function.source),
            [] => None,
            ref several => panic!("{several:?}"),
        };
        (one("shown"), one("hidden"))
    };
    assert_eq!(sources("program", false), (Some(Dynamic), Some(SymbolTable)));
    assert_eq!(sources("program", true), (Some(Dynamic), Some(SymbolTable)));
    assert_eq!(sources("stripped", false), (Some(Dynamic), None));
    assert_eq!(sources("mini", false), (Some(Dynamic), Some(MiniDebugInfo)));
    assert_eq!(sources("mini", true), (Some(Dynamic), Some(MiniDebugInfo)));
    assert_eq!(sources("stripped", true), (Some(Dynamic), Some(DebugFile)));
    // A program that only a dynamic linker started by hand can run.
    workshop.build("cc -Wl,--no-dynamic-linker");
    let symbols = look(&workshop.read("program"), None);
    assert_eq!((symbols.interpreter, symbols.is_static), (None, false));
}

#[test]
fn local_functions_of_the_same_name_are_all_found() {
    let Some(workshop) = Workshop::with(&["cc", "objcopy", "strip", "nm"]) else { return };
    let part = |number: usize| {
        format!(
            "__attribute__((noinline)) static int hidden(int n) {{ return n * {number}; }}\n\
             int part{number}(int n) {{ return hidden(n) + hidden(n + 1); }}\n"
        )
    };
    workshop.write("a.c", part(3).as_bytes());
    workshop.write("b.c", part(5).as_bytes());
    workshop
        .write("source.c", b"int part3(int), part5(int); int main(int n) { return part3(n) + part5(n); }");
    workshop.build("cc a.c b.c");
    let truth = workshop.truth("program", "hidden");
    assert_eq!(truth.len(), 2, "{truth:?}");
    let symbols = look(&workshop.read("program"), None);
    let found = named(&symbols, "hidden");
    assert!(found.iter().all(|function| function.local && function.default_version));
    assert_eq!(found.iter().map(|f| (f.address, f.size, f.local)).collect::<BTreeSet<_>>(), truth);
    assert!(named(&symbols, "main").iter().all(|function| !function.local));
}

#[test]
fn versions_are_no_part_of_a_name() {
    let Some(workshop) = Workshop::with(&["cc", "objcopy", "strip", "nm"]) else { return };
    workshop.write(
        "source.c",
        b"int first(void) { return 1; } int second(void) { return 2; }\n\
          __asm__(\".symver first,shown@OLD\"); __asm__(\".symver second,shown@@NEW\");\n",
    );
    workshop.write("versions", b"OLD { }; NEW { } OLD;");
    workshop.build("cc -shared -fPIC -Wl,--version-script=versions,-soname=libversions.so");
    for (file, debug) in [("program", false), ("stripped", false), ("stripped", true)] {
        let mut image = workshop.read(file);
        if debug {
            // Without its symbols for the dynamic linker, so that those of the debug file show.
            let at = image.windows(16).position(|entry| entry[..8] == 6u64.to_le_bytes() && entry[8] != 0);
            image[at.unwrap()] = 0x66;
        }
        let debug = debug.then(|| workshop.read("program.debug"));
        let symbols = look(&image, debug.as_deref());
        let shown: BTreeSet<_> =
            named(&symbols, "shown").iter().map(|f| (f.address, f.default_version)).collect();
        let at = |name| workshop.truth("program", name).first().unwrap().0;
        assert_eq!(shown, BTreeSet::from([(at("first"), false), (at("second"), true)]), "{file} {symbols:?}");
    }
}

#[test]
fn a_debug_file_of_another_build_is_refused() {
    let Some(workshop) = Workshop::with(&["cc", "objcopy", "strip", "nm"]) else { return };
    workshop.build("cc -static");
    let (image, debug) = (workshop.read("stripped"), workshop.read("program.debug"));
    let problem = |image: &[u8], debug: &[u8]| {
        let symbols = look(image, Some(debug));
        assert_eq!((symbols.functions.len(), symbols.sources.len()), (0, 0));
        let [BinaryError::DebugFile(problem)] = &symbols.problems[..] else {
            panic!("{:?}", symbols.problems)
        };
        problem.clone()
    };
    let id = analyse(&image, None).unwrap().build_id.unwrap();

    workshop.build("cc -static -DX=1 -Wl,-z,norelro");
    let other = problem(&image, &workshop.read("program.debug"));
    let DebugFileError::OtherBuild { expected, found: Some(found) } = &other else { panic!("{other}") };
    assert!(*expected == id && *found != id);
    assert_eq!(other.to_string(), format!("its build id is {found}, not {id}"));

    workshop.run("objcopy --remove-section=.note.gnu.build-id program.debug without");
    let without = problem(&image, &workshop.read("without"));
    assert_eq!(without.to_string(), format!("its build id is missing, not {id}"));
    workshop.build("cc -static -Wl,--build-id=none");
    assert_eq!(problem(&workshop.read("stripped"), &debug), DebugFileError::NoBuildId);
    assert_eq!(problem(&image, b"#!/bin/sh"), DebugFileError::OtherKind);
    assert_eq!(problem(&image, b""), DebugFileError::OtherKind);
    let mut foreign = debug.clone();
    foreign[18] = 183;
    assert_eq!(problem(&image, &foreign), DebugFileError::OtherKind);
    assert_eq!(problem(&image, &image), DebugFileError::NoSymbols);
    assert!(matches!(problem(&image, &debug[..debug.len() / 2]), DebugFileError::Damaged(_)));
}

#[test]
fn debug_files_are_where_distributions_put_them() {
    let paths = |id| debug_files(id).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    assert_eq!(paths("abcdef0123"), ["/usr/lib/debug/.build-id/ab/cdef0123.debug"]);
    for wrong in ["", "a", "ab", "abc", "../../etc", "ABCD", "ab/cdef", "ab\0def", &"ab".repeat(65)] {
        assert_eq!(paths(wrong), [""; 0], "{wrong:?}");
    }
}

#[test]
fn the_function_by_which_a_dynamic_linker_tells_debuggers_is_found() {
    for path in ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"] {
        let Some(image) = library(path) else { continue };
        let symbols = symbols(&image, None, &|name| name == b"_dl_debug_state").unwrap();
        let [function] = &symbols.functions[..] else { panic!("{path}: {symbols:?}") };
        assert_eq!(
            (function.source, function.default_version, function.local),
            (Dynamic, true, false),
            "{path}"
        );
        assert!(!symbols.is_static && symbols.interpreter.is_none(), "{path}");
        // `nm` reads the same table, by the section headers.
        let output = std::process::Command::new("nm").args(["-D", path]).output();
        if let Ok(output) = output {
            let output = String::from_utf8(output.stdout).unwrap();
            let line = output.lines().find(|line| line.contains(" _dl_debug_state")).unwrap();
            assert_eq!(u64::from_str_radix(&line[..16], 16).unwrap(), function.address, "{path}");
        }
    }
    assert!(nm(std::path::Path::new("/nonexistent"), "x").is_empty());
}
