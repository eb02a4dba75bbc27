//! Symbols in files that are made to do harm: whatever the bytes, there is an answer, soon, and the rest still works.

use std::process::{Command, Stdio};
use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;

use super::built::Workshop;
use super::hostile::{soon, wild};
use super::{BASE, Object};
use crate::binary::SymbolSource::{Dynamic, MiniDebugInfo, SymbolTable};
use crate::binary::minidebug::{MAX_UNPACKED, unpack};
use crate::binary::{BinaryError, Symbols, symbols};

/// One section: name, type, flags, contents, which other it refers to, size of an entry.
struct Section<'a> {
    name: &'a str,
    kind: u32,
    contents: &'a [u8],
    link: u32,
    entry: u64,
}

/// A file with one function for the dynamic linker, and these sections behind the first, empty one. The names are in
/// the last.
fn with_sections(sections: &[Section]) -> Vec<u8> {
    let functions = &[("outer", BASE)];
    let mut file = Object { code: &[0x55, 0xc3], functions, build_id: &[1, 2], ..Object::default() }.build();
    let mut names = vec![0];
    let mut headers = vec![0; 64];
    let mut header = |name: usize, kind: u32, offset: usize, size: usize, link: u32, entry: u64| {
        headers.extend((name as u32).to_le_bytes());
        headers.extend(kind.to_le_bytes());
        for word in [0, 0, offset as u64, size as u64] {
            headers.extend(word.to_le_bytes());
        }
        headers.extend(link.to_le_bytes());
        headers.extend(0u32.to_le_bytes());
        headers.extend(8u64.to_le_bytes());
        headers.extend(entry.to_le_bytes());
    };
    for section in sections {
        header(names.len(), section.kind, file.len(), section.contents.len(), section.link, section.entry);
        names.extend(section.name.as_bytes());
        names.push(0);
        file.extend(section.contents);
    }
    header(0, 3, file.len(), names.len(), 0, 0);
    file.extend(names);
    let at = file.len() as u64;
    file.extend(headers);
    file[40..48].copy_from_slice(&at.to_le_bytes());
    file[58..60].copy_from_slice(&64u16.to_le_bytes());
    file[60..62].copy_from_slice(&(sections.len() as u16 + 2).to_le_bytes());
    file[62..64].copy_from_slice(&(sections.len() as u16 + 1).to_le_bytes());
    file
}

/// A symbol of a global function in the first section.
fn symbol(name: u32, address: u64) -> Vec<u8> {
    let mut bytes = name.to_le_bytes().to_vec();
    bytes.extend([0x12, 0, 1, 0]);
    bytes.extend(address.to_le_bytes());
    bytes.extend(7u64.to_le_bytes());
    bytes
}

const NAMES: &[u8] = b"\0inner\0other@OLD\0other@@NEW\0@only\0";

/// The sections of a symbol table, in this order, with the table at number 1 and the names at 2.
fn table(symbols: &[u8]) -> [Section<'_>; 2] {
    [
        Section { name: ".symtab", kind: 2, contents: symbols, link: 2, entry: 24 },
        Section { name: ".strtab", kind: 3, contents: NAMES, link: 0, entry: 0 },
    ]
}

fn all(file: &[u8]) -> Symbols {
    soon(|| symbols(file, None, &|_| true)).unwrap()
}

fn names(symbols: &Symbols) -> Vec<&str> {
    symbols.functions.iter().map(|function| function.name.as_str()).collect()
}

/// Compressed by the real thing. `None`, and a skipped test, if it isn't there.
fn xz(contents: &[u8], options: &[&str]) -> Option<Vec<u8>> {
    let workshop = Workshop::with(&["xz"])?;
    workshop.write("contents", contents);
    let file = std::fs::File::open(workshop.path("contents")).unwrap();
    let mut command = Command::new("xz");
    command.args(["--compress", "--stdout"]).args(options).stdin(Stdio::from(file));
    Some(command.output().unwrap().stdout)
}

#[test]
fn a_table_is_read_as_it_is_written() {
    let rows = [symbol(1, BASE), symbol(7, BASE + 1), symbol(17, BASE + 1), symbol(28, BASE)].concat();
    let symbols = all(&with_sections(&table(&rows)));
    assert_eq!(symbols.sources, [Dynamic, SymbolTable]);
    let found: Vec<_> =
        symbols.functions.iter().map(|f| (f.name.as_str(), f.address, f.size, f.default_version)).collect();
    let expected = [
        ("outer", BASE, 0, true),
        ("inner", BASE, 7, true),
        ("other", BASE + 1, 7, false),
        ("@only", BASE, 7, true),
    ];
    assert_eq!(found, expected);
}

#[test]
fn lying_section_headers_take_nothing_from_what_the_program_headers_say() {
    let row = symbol(1, BASE);
    let good = with_sections(&table(&row));
    assert_eq!(names(&all(&good)), ["outer", "inner"]);
    let headers = u64::from_le_bytes(good[40..48].try_into().unwrap()) as usize;
    let field = |section: usize, offset: usize| headers + 64 * section + offset;
    let problem = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        let symbols = all(&file);
        assert_eq!((names(&symbols), &symbols.sources[..]), (vec!["outer"], &[Dynamic][..]), "at {at}");
        symbols.problems.first().map(ToString::to_string).unwrap_or_default()
    };
    let (long, word, half) = (u64::MAX.to_le_bytes(), u32::MAX.to_le_bytes(), 0xfff0u16.to_le_bytes());
    for at in [40, 58, 60] {
        let bytes: &[u8] = if at == 40 { &long } else { &half };
        assert!(problem(at, bytes).contains("section headers are damaged"), "{at}");
    }
    let symtab = "the section .symtab is damaged or outside the file";
    assert_eq!(problem(field(1, 24), &long), symtab, "offset");
    assert_eq!(problem(field(1, 32), &long), symtab, "size");
    assert_eq!(problem(field(1, 56), &[25]), symtab, "size of an entry");
    assert_eq!(problem(field(1, 8), &0x800u64.to_le_bytes()), symtab, "compressed");
    let strtab = "the section .strtab is damaged or outside the file";
    assert_eq!(problem(field(1, 40), &word), strtab, "link");
    assert_eq!(problem(field(1, 40), &[1]), strtab, "link to what is no table of strings");
    assert_eq!(problem(field(2, 24), &long), strtab, "offset of the strings");
    assert_eq!(problem(field(2, 32), &long), strtab, "size of the strings");
    assert_eq!(problem(40, &[0; 8]), "", "no section headers at all");
    // More sections than 65,279 are counted in the first section header.
    let mut many = good.clone();
    many[60..62].copy_from_slice(&[0; 2]);
    many[field(0, 32)..][..8].copy_from_slice(&u64::from(u32::MAX).to_le_bytes());
    assert_eq!(names(&all(&many)), ["outer"]);
    // Nobody needs the names of sections to find the symbols.
    let mut nameless = good.clone();
    nameless[62..64].copy_from_slice(&half);
    assert_eq!(names(&all(&nameless)), ["outer", "inner"]);
    // The name of a symbol outside the strings, or without an end.
    for name in [u32::MAX, NAMES.len() as u32, NAMES.len() as u32 - 1] {
        assert_eq!(names(&all(&with_sections(&table(&symbol(name, BASE))))), ["outer"], "{name}");
    }
}

#[test]
fn huge_counts_are_bounded() {
    // A hundred thousand symbols, each with a name of its own length, all wanted, none at the same place.
    let rows: Vec<u8> =
        (0..100_000).flat_map(|index| symbol(1 + index % 5, BASE + u64::from(index))).collect();
    let found = all(&with_sections(&table(&rows)));
    assert_eq!(found.functions.len(), 1024);
    // The same place again and again.
    let rows = symbol(1, BASE).repeat(100_000);
    assert_eq!(names(&all(&with_sections(&table(&rows)))), ["outer", "inner"]);
    // A megabyte of strings in which no name ends.
    let endless = vec![b'x'; 1 << 20];
    let mut sections = table(&rows);
    sections[1].contents = &endless;
    assert_eq!(names(&all(&with_sections(&sections))), ["outer"]);
    // More symbols than are read. They lie behind everything else, in memory that nobody touches.
    let small = with_sections(&table(&[]));
    let mut file = vec![0; small.len() + (25 << 24)];
    file[..small.len()].copy_from_slice(&small);
    let section = u64::from_le_bytes(small[40..48].try_into().unwrap()) as usize + 64;
    file[section + 24..][..8].copy_from_slice(&(small.len() as u64).to_le_bytes());
    file[section + 32..][..8].copy_from_slice(&(25u64 << 24).to_le_bytes());
    let problems = all(&file).problems;
    assert!(matches!(problems[..], [BinaryError::TableTooLong { .. }]), "{problems:?}");
}

#[test]
fn a_large_table_takes_little_time() {
    // 30 MB of symbols and 60 MB of names, as in a large browser.
    let count = 1_300_000;
    let mut strings = vec![0];
    let mut rows = Vec::new();
    for index in 0..count {
        rows.extend(symbol(strings.len() as u32, BASE + index));
        strings.extend(format!("_ZN7browser9component{index:08}4workEPKNS_7contextE").as_bytes());
        strings.push(0);
    }
    rows.extend(symbol(strings.len() as u32, BASE));
    strings.extend(b"malloc\0");
    let mut sections = table(&rows);
    sections[1].contents = &strings;
    let file = with_sections(&sections);
    let start = Instant::now();
    let symbols = symbols(&file, None, &|name| name == b"malloc" || name == b"free").unwrap();
    let took = start.elapsed();
    println!("{} MB of symbols and names: {took:?}", (rows.len() + strings.len()) >> 20);
    assert_eq!(names(&symbols), ["malloc"]);
    // Generous: tests run without optimisation, on a busy machine.
    assert!(took.as_secs() < 10, "{took:?}");
}

fn compressed(contents: &[u8]) -> Vec<u8> {
    let data = Section { name: ".gnu_debugdata", kind: 1, contents, link: 0, entry: 0 };
    with_sections(&[data])
}

#[test]
fn compressed_symbols_are_bounded() {
    let Some(bomb) = xz(&vec![0; MAX_UNPACKED + 1], &["-9"]) else { return };
    assert!(bomb.len() < 100_000);
    let symbols = all(&compressed(&bomb));
    assert_eq!(names(&symbols), ["outer"]);
    let [problem] = &symbols.problems[..] else { panic!("{symbols:?}") };
    assert_eq!(
        problem.to_string(),
        "the symbols in .gnu_debugdata can't be read: they grow to more than 67108864 bytes"
    );
    let Some(fits) = xz(&vec![0; MAX_UNPACKED], &["-0"]) else { return };
    assert_eq!(soon(|| unpack(&fits)).unwrap().len(), MAX_UNPACKED);
    // A window of more than a gigabyte, for a few bytes.
    let Some(window) = xz(b"few", &["--lzma2=dict=1536MiB"]) else { return };
    assert!(soon(|| unpack(&window)).unwrap_err().to_string().contains("memory"));
    let long = unpack(&vec![0; 17 << 20]).unwrap_err().to_string();
    assert!(long.contains("more than the 16777216 that are read"), "{long}");
    for (contents, what) in [(&b""[..], "nothing"), (b"\xfd7zXZ\0", "too little"), (&[0; 100], "zeroes")] {
        assert!(unpack(contents).is_err(), "{what}");
        assert_eq!(all(&compressed(contents)).problems.len(), 1, "{what}");
    }
    // What comes out may be anything, another file with compressed symbols, too: those aren't read.
    let row = symbol(1, BASE);
    let inner = with_sections(&table(&row));
    for (contents, found) in [(&b"#!/bin/sh"[..], 0), (&inner, 1), (&inner[..100], 0)] {
        let Some(data) = xz(contents, &["-0"]) else { return };
        let symbols = all(&compressed(&data));
        assert_eq!(symbols.functions.iter().filter(|f| f.source == MiniDebugInfo).count(), found);
        assert_eq!(symbols.problems.is_empty(), found > 0, "{symbols:?}");
    }
    let Some(nested) = xz(&compressed(&bomb), &["-0"]) else { return };
    assert_eq!(names(&all(&compressed(&nested))), ["outer"]);
}

#[test]
fn a_stream_of_tiny_blocks_is_given_up() {
    // `xz` makes a block of every byte: about 22 bytes each.
    let Some(blocks) = xz(&vec![b'x'; 50_000], &["-0", "--block-size=1", "--check=none"]) else { return };
    assert!(blocks.len() > 1_000_000);
    assert!(soon(|| unpack(&blocks)).unwrap_err().to_string().contains("longer than what is in it"));
    // Blocks of a usual size, and what can't be compressed, are nothing special.
    let mut state = 1u32;
    let noise: Vec<u8> = (0..3_000_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    let Some(blocks) = xz(&noise, &["-0", "--block-size=65536"]) else { return };
    assert!(blocks.len() > noise.len());
    assert!(soon(|| unpack(&blocks)).unwrap() == noise);
}

/// Bytes to change, words to replace, and the length.
type Damage = (Vec<(usize, u8)>, Vec<(usize, u64)>, usize);

#[test]
fn damaged_real_files() {
    let Some(workshop) = Workshop::with(&["cc", "objcopy", "strip", "nm", "xz"]) else { return };
    workshop.build("cc -static");
    workshop.add_mini_debug_info();
    let debug = workshop.read("program.debug");
    let files = [workshop.read("mini"), workshop.read("program")];
    // The ELF header, the program headers, and everything from the symbols on.
    let damage = |good: &[u8]| {
        let size = good.len();
        let tail = size - size.min(4096);
        let place = move || prop_oneof![0usize..0x200, tail..size, 0usize..size];
        let bytes = vec((place(), any::<u8>()), 0..10);
        let words = vec((place(), wild()), 0..4);
        (bytes, words, prop_oneof![4 => Just(usize::MAX), 1 => 0..size])
    };
    let apply = |good: &[u8], (bytes, words, length): Damage| {
        let mut file = good.to_vec();
        for (at, byte) in bytes {
            file[at] ^= byte;
        }
        for (at, word) in words {
            let at = (at & !7).min(file.len() - 8);
            file[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        file.truncate(length);
        file
    };
    let outcomes = std::cell::RefCell::new([0; 3]);
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() };
    for good in &files {
        let mut runner = proptest::test_runner::TestRunner::new(config.clone());
        let strategy = (damage(good), damage(&debug));
        let run = |(file, debug_damage)| {
            let (file, debug) = (apply(good, file), apply(&debug, debug_damage));
            let result = soon(|| symbols(&file, Some(&debug), &|name| name.ends_with(b"alloc")));
            let outcome = match result {
                Ok(symbols) if !symbols.functions.is_empty() => 0,
                Ok(_) => 1,
                Err(_) => 2,
            };
            outcomes.borrow_mut()[outcome] += 1;
            Ok(())
        };
        runner.run(&strategy, run).unwrap();
    }
    let [some, none, error] = outcomes.into_inner();
    println!("damaged files: {some} with functions, {none} without, {error} errors");
    assert!(some > 0 && error > 0, "the damages should do both");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_compressed_symbols(at in vec((0usize..400, any::<u8>()), 1..8), length in 1usize..500) {
        // Made by `xz` of "hello hello hello", so that this needs no program.
        let mut data = HELLO.repeat(4);
        for (at, byte) in at {
            let at = at % data.len();
            data[at] ^= byte;
        }
        data.truncate(length);
        let _ = soon(|| unpack(&data));
    }
}

/// `printf 'hello hello hello' | xz -0 --check=none`
const HELLO: &[u8] = &[
    0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x00, 0xff, 0x12, 0xd9, 0x41, 0x02, 0x00, 0x21, 0x01, 0x0c,
    0x00, 0x00, 0x00, 0x8f, 0x98, 0x41, 0x9c, 0xe0, 0x00, 0x10, 0x00, 0x0c, 0x5d, 0x00, 0x34, 0x19, 0x49,
    0xdb, 0x85, 0x5c, 0x67, 0x72, 0x2a, 0x61, 0x00, 0x00, 0x00, 0x00, 0x01, 0x20, 0x11, 0x7b, 0xb1, 0xb2,
    0xdf, 0x06, 0x72, 0x9e, 0x7a, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x59, 0x5a,
];
