//! What is found in programs that real toolchains have built. The truth is their symbol tables, and what Go's own tools say.

use std::collections::BTreeMap;

use super::super::analysis::analyse_with;
use super::super::image::{GoFile, Machine};
use super::super::layout::{Layout, Tables};
use super::super::pclntab::PcTable;
use super::super::references::code_table;
use super::super::tables::{Version, choose, embedded};
use super::super::{Found, GoImage, Places, analyse, moduledata, types};
use super::toolchain::{toolchains, without_sections, without_symbols};

fn image(file: &[u8]) -> GoImage {
    analyse(file).unwrap().expect("it is Go's")
}

fn places(file: &[u8]) -> Places {
    image(file).runtime.expect("there is a table for it")
}

/// Everything but how it was found; what isn't found for sure may be missing.
fn assert_same(real: &Places, recovered: &Places, what: &str) {
    let Found::References { same, of } = recovered.found else { panic!("{what}: {:?}", recovered.found) };
    assert!(same * 10 >= of * 8, "{what}: {same} of {of}");
    let mut expected = Places { found: recovered.found.clone(), ..real.clone() };
    // Tables that were made before its references were looked for don't know it.
    expected.globals.ncpu = expected.globals.ncpu.filter(|_| recovered.globals.ncpu.is_some());
    assert_eq!(*recovered, expected, "{what}");
}

const RACE: &[&str] = &["-race"];
const CGO: [(&str, &str); 1] = [("CGO_ENABLED", "1")];

#[test]
fn a_program_without_symbols_tells_the_same_as_with_them() {
    for go in toolchains() {
        for options in [&[][..], &["-buildmode=pie"], &["-ldflags=-w"], &["-trimpath"]] {
            let file = go.program(options, &[]);
            let what = format!("{} {options:?}", go.version);
            let real = places(&file);
            assert_eq!(real.found, Found::Symbols, "{what}");
            assert!(
                real.exact || embedded().iter().all(|t| !t.versions.contains_key(&go.version[2..])),
                "{what}"
            );
            assert!(real.globals.ncpu.is_some() && real.globals.mem_profile_rate.is_some(), "{what}");
            assert!(real.worlds.is_some() && !real.user_starts.is_empty(), "{what}");
            assert_same(&real, &places(&without_symbols(&file)), &what);
            assert_same(&real, &places(&without_sections(&file)), &format!("{what} without sections"));
        }
        for options in [&["-ldflags=-s -w"][..], &["-buildmode=pie", "-ldflags=-s -w"]] {
            let places = places(&go.program(options, &[]));
            assert!(
                matches!(places.found, Found::References { same, of } if same == of),
                "{:?}",
                places.found
            );
        }
    }
}

/// With C in it, the runtime's code doesn't begin the section.
#[test]
fn a_program_with_c_in_it_tells_the_same_without_symbols() {
    if std::process::Command::new("gcc").arg("--version").output().is_err() {
        return crate::test_support::skip("there is no gcc");
    }
    for go in toolchains() {
        for options in [RACE, &["-buildmode=pie", "-ldflags=-linkmode=external"]] {
            let file = go.program(options, &CGO);
            let (real, what) = (places(&file), format!("{} {options:?}", go.version));
            assert_eq!(real.found, Found::Symbols, "{what}");
            let [start] = GoFile::read(&file).unwrap().symbols(["runtime.text"]);
            assert_eq!(start.unwrap().0, real.text.start, "{what}");
            assert_same(&real, &places(&without_symbols(&file)), &what);
            assert_same(&real, &places(&without_sections(&file)), &format!("{what} without sections"));
        }
    }
}

#[test]
fn of_a_program_that_was_not_optimised_and_has_no_symbols_nothing_is_guessed() {
    for go in toolchains() {
        let file = go.program(&["-gcflags=all=-N -l"], &[]);
        assert_eq!(places(&file).found, Found::Symbols);
        let refused = image(&without_symbols(&file)).runtime.unwrap_err();
        assert!(refused.contains("-gcflags -N"), "{refused}");
        // The same without build information: its beginning is changed.
        let mut silent = without_symbols(&file);
        let at = silent.windows(14).position(|bytes| bytes == b"\xff Go buildinf:").unwrap();
        silent[at + 1] = b'g';
        let found = image(&silent);
        assert_eq!(found.version, go.version);
        let refused = found.runtime.unwrap_err();
        assert!(refused.contains("functions are as they should be"), "{refused}");
    }
}

#[test]
fn build_information_is_what_go_itself_prints() {
    for go in toolchains() {
        let (file, text) = go.information(&["-ldflags=-X 'main.a=b c' -X \"main.d=\te\""]);
        let found = image(&file);
        assert_eq!(found.version, go.version);
        let build = found.build.unwrap();
        let main = build.main.as_ref().unwrap();
        let mut printed =
            format!("\tpath\t{}\n\tmod\t{}\t{}\t{}\n", build.path, main.path, main.version, main.sum);
        for (key, value) in &build.settings {
            let quoted = value.contains([' ', '\t', '"', '\\', '`']) || value.is_empty();
            let plain = format!("\tbuild\t{key}={value}\n");
            printed +=
                &if quoted && !value.is_empty() { format!("\tbuild\t{key}={value:?}\n") } else { plain };
        }
        assert_eq!(printed, text, "{}", go.version);
    }
}

#[test]
fn without_build_information_the_version_is_found_in_the_program() {
    for go in toolchains() {
        for options in [&[][..], &["-buildmode=pie", "-ldflags=-s -w"]] {
            let mut file = go.program(options, &[]);
            let at = file.windows(14).position(|bytes| bytes == b"\xff Go buildinf:").unwrap();
            file[at + 1] = b'g';
            let found = image(&file);
            assert_eq!(found.version, go.version);
            assert_eq!(found.build.unwrap_err(), "the program has no build information");
            assert!(found.runtime.is_ok());
        }
    }
}

#[test]
fn what_a_program_says_of_its_structures_is_what_the_table_of_its_version_says() {
    for go in toolchains() {
        for options in [&[][..], &["-buildmode=pie"]] {
            let file = go.program(options, &[]);
            let Ok(chosen) = choose(embedded(), "amd64", &go.version) else { continue };
            let layout = Layout::of(chosen.table).unwrap();
            let image = GoFile::read(&file).unwrap();
            let table = PcTable::find(&image).unwrap();
            let module = moduledata::find(&image, &table).unwrap();
            let [symbol] = image.symbols(["runtime.firstmoduledata"]);
            assert_eq!(symbol.unwrap().0, module);
            let module = moduledata::read(&image, module, &layout.module_data).unwrap();
            // A wrong table is put right.
            let mut wrong = chosen.table.clone();
            for name in ["runtime.g", "runtime.m", "runtime.p", "runtime.mcache", "runtime.mspan"] {
                wrong.structs.get_mut(name).unwrap().values_mut().for_each(|(offset, _)| *offset += 8);
                *wrong.sizes.get_mut(name).unwrap() += 8;
            }
            assert_eq!(types::overrule(&image, &module, &mut wrong), 5, "{}", go.version);
            let mut right = Layout::of(&wrong).unwrap();
            // That isn't in every table.
            assert!(right.g.lockedm.is_some());
            right.g.lockedm = layout.g.lockedm;
            if chosen.exact {
                assert_eq!(right, layout, "{} {options:?}", go.version);
            }
            assert_eq!((right.g.stack_lo, right.g.stack_hi), (0, 8));
        }
    }
}

#[test]
fn every_function_that_the_symbol_table_has_is_in_the_table_of_functions() {
    for go in toolchains() {
        let file = go.program(&[], &[]);
        let image = GoFile::read(&file).unwrap();
        let table = PcTable::find(&image).unwrap();
        let start = places(&file).text.start;
        let mut known = BTreeMap::new();
        for (name, address, size) in image.all_symbols().filter(|(name, ..)| name.starts_with(b"runtime.")) {
            let end = name.iter().position(|&byte| byte == 0).unwrap();
            known.insert(address, (std::str::from_utf8(&name[..end]).unwrap(), size));
        }
        let mut seen = 0;
        for function in table.functions() {
            let Some(&(name, size)) = known.get(&(start + function.entry)) else { continue };
            // Marks like `runtime.text` share an address with a function.
            if size == 0 || name == "runtime.text" {
                continue;
            }
            seen += 1;
            assert_eq!(table.name_of(&function), Some(name.trim_end_matches(".abi0")));
            assert!(function.end - function.entry >= size);
            for offset in [function.entry, function.entry + size - 1] {
                assert_eq!(table.function_at(offset), Some(function), "{name}");
            }
        }
        assert!(seen > 500, "{seen}");
        assert_eq!(table.function_at(u64::MAX), None);
    }
}

/// A table for arm64, if there is one yet; else the references from this very version's program and the offsets of amd64,
/// which is enough here, where nothing is read by them.
fn arm64_tables(version: &str, reference: &[u8]) -> Option<Vec<Tables>> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/binary/go/tables");
    let minor = format!("1.{}", Version::parse(version).unwrap().minor);
    if let Ok(text) = std::fs::read(directory.join(format!("{minor}-arm64.json"))) {
        return Some(vec![serde_json::from_slice(&text).unwrap()]);
    }
    let mut tables = embedded().iter().find(|tables| tables.go == minor)?.clone();
    tables.arch = "arm64".to_owned();
    let code = code_table(reference).unwrap();
    tables.variants.iter_mut().for_each(|table| table.code.clone_from(&code));
    Some(vec![tables])
}

#[test]
fn a_program_for_arm64_tells_the_same_without_symbols() {
    let arm64 = [("GOARCH", "arm64")];
    for go in toolchains() {
        let file = go.program(&[], &arm64);
        assert_eq!(GoFile::read(&file).unwrap().machine, Machine::Arm64);
        let Some(tables) = arm64_tables(&go.version, &file) else { continue };
        for options in [&[][..], &["-buildmode=pie"]] {
            let file = go.program(options, &arm64);
            let what = format!("{} arm64 {options:?}", go.version);
            let places = |file: &[u8]| analyse_with(file, &tables).unwrap().unwrap().runtime.unwrap();
            let real = places(&file);
            assert_eq!(real.found, Found::Symbols, "{what}");
            let recovered = analyse_with(&without_symbols(&file), &tables).unwrap().unwrap().runtime;
            // Up to Go 1.20, position-independent code for arm64 is made in another way, and the table is of the usual.
            if !options.is_empty() && Version::parse(&go.version).unwrap().minor < 21 {
                assert!(recovered.is_err_and(|refused| refused.contains("functions are as they should be")));
                continue;
            }
            assert_same(&real, &recovered.unwrap(), &what);
            assert_same(&real, &places(&without_sections(&file)), &format!("{what} without sections"));
        }
    }
}

#[test]
fn the_references_of_a_program_are_those_in_the_table_of_its_version() {
    for go in toolchains() {
        let Some(chosen) = choose(embedded(), "amd64", &go.version).ok().filter(|chosen| chosen.exact) else {
            continue;
        };
        let made = code_table(&go.program(&[], &[])).unwrap();
        for (function, known) in &chosen.table.code {
            let made = &made[function];
            assert_eq!(made.len(), known.len(), "{function}");
            for (made, known) in made.iter().zip(known) {
                assert_eq!(made.0, known.0, "{function}");
                assert!(
                    known.1.is_none() || (&made.1, made.2) == (&known.1, known.2),
                    "{function}: {made:?} {known:?}"
                );
            }
        }
    }
}
