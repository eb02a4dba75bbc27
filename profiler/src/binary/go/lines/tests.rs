use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use proptest::prelude::*;

use super::*;
use crate::{binary::go::layout::Tables, test_support::skip};

/// Where the toolchains are that there may be: Debian's, which it puts in no path, and others in a directory of theirs.
fn toolchains() -> Vec<PathBuf> {
    let own = std::env::var_os("PROFILER_GO_TOOLCHAINS").map(PathBuf::from);
    let debian = (19..40).map(|minor| PathBuf::from(format!("/usr/lib/go-1.{minor}")));
    let others = own.into_iter().flat_map(|directory| {
        std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path().join("go"))
    });
    debian.chain(others).map(|directory| directory.join("bin/go")).filter(|go| go.exists()).collect()
}

/// A program that says of itself what the runtime calls places in it.
fn built(go: &Path, options: &[&str]) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir();
    let program = directory.join(format!("profiler-test-lines-{}-{number}", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/lines.go");
    let mut build = Command::new(go);
    build.args(["build", "-p", "1"]).args(options).arg("-o").arg(&program).arg(source);
    build.env("GO111MODULE", "off").env("GOTOOLCHAIN", "local");
    if !options.contains(&"-linkmode=external") {
        build.env("CGO_ENABLED", "0");
    }
    if std::env::var_os("HOME").is_none() {
        build.env("GOCACHE", directory.join("profiler-test-go-cache"));
    }
    let built = build.output().unwrap();
    assert!(built.status.success(), "{go:?} {options:?}: {}", String::from_utf8_lossy(&built.stderr));
    program
}

/// What the program says: of each place, whether that is of a stack, and the functions.
struct Truth {
    bias: u64,
    places: Vec<(bool, u64, Vec<Function>)>,
}

fn truth(program: &Path, bytes: &[u8]) -> Truth {
    let output = Command::new(program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let mut truth = Truth { bias: 0, places: Vec::new() };
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        if fields[0] == "base" {
            let file = GoFile::read(bytes).unwrap();
            let lowest = file.segments.iter().map(|segment| segment.address).min().unwrap() & !0xfff;
            truth.bias = number(fields[1]) - lowest;
            continue;
        }
        let functions = fields[2..].chunks_exact(3).map(|function| Function {
            name: function[0].into(),
            file: Some(function[1].into()).filter(|file: &Arc<str>| &**file != "?"),
            line: function[2].parse().unwrap(),
        });
        truth.places.push((fields[0] == "stack", number(fields[1]) - truth.bias, functions.collect()));
    }
    truth
}

/// Compares what is told with the truth; how many functions were inlined.
fn compare(program: &Path) -> usize {
    let bytes = std::fs::read(program).unwrap();
    let lines = Lines::new(&bytes).expect("Go has made it");
    let truth = truth(program, &bytes);
    assert!(truth.places.len() > 10_000, "{}", truth.places.len());
    let mut inlined = 0;
    let mut wrong = Vec::new();
    for (stack, place, functions) in &truth.places {
        let told = lines.functions(*place);
        if functions.iter().any(|function| function.name.is_empty()) {
            // Old runtimes take the offset of the first name in the table for that of none.
            continue;
        }
        // Of places that aren't on a stack, old runtimes tell the innermost function only; and wrappers that the compiler
        // has made they hide, or name with the file of what is wrapped.
        let visible = told.iter().filter_map(|function| {
            let same = functions.iter().find(|known| known.name == function.name);
            match function.file.as_deref() {
                Some(COMPILER_MADE) => same,
                _ => Some(function),
            }
        });
        let visible: Vec<_> = visible.cloned().collect();
        let right = if *stack { visible == *functions } else { visible.starts_with(functions) };
        inlined += told.len().saturating_sub(1);
        if !right {
            wrong.push(format!("{place:#x}: {told:?}, not {functions:?}"));
        }
    }
    let all = truth.places.len();
    assert!(
        wrong.is_empty(),
        "{program:?}: {} of {all} wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(12)].join("\n")
    );
    let stacks = truth.places.iter().filter(|(stack, ..)| *stack);
    assert!(stacks.filter(|(.., functions)| functions.len() > 1).count() > 10, "nothing was inlined");
    inlined
}

const BUILDS: [&[&str]; 3] = [&[], &["-ldflags=-s -w"], &["-buildmode=pie", "-ldflags=-s -w"]];

#[test]
fn places_are_named_as_the_runtime_itself_names_them() {
    let toolchains = toolchains();
    if toolchains.is_empty() {
        return skip("there is no Go");
    }
    for go in toolchains {
        for options in BUILDS {
            let program = built(&go, options);
            let inlined = compare(&program);
            assert!(inlined > 1000, "{inlined}");
            std::fs::remove_file(program).unwrap();
        }
    }
}

/// The tables of a small program, and its code.
fn small() -> Option<(Lines, Vec<u64>)> {
    static SMALL: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let bytes = SMALL.get_or_init(|| {
        let program = built(toolchains().first()?, &["-ldflags=-s -w"]);
        let bytes = std::fs::read(&program).unwrap();
        std::fs::remove_file(program).unwrap();
        Some(bytes)
    });
    let lines = Lines::new(bytes.as_deref()?)?;
    let places = (lines.text.0..lines.text.1).step_by(997).collect();
    Some((lines, places))
}

#[test]
fn only_code_of_go_has_names() {
    let Some((lines, _)) = small() else { return skip("there is no Go") };
    let (start, end) = lines.text;
    assert!(!lines.functions(start).is_empty());
    for address in [0, 1, start - 1, end, u64::MAX] {
        assert_eq!(lines.functions(address), []);
    }
    assert!(Lines::new(b"").is_none());
    assert!(Lines::new(&std::fs::read(std::env::current_exe().unwrap()).unwrap()).is_none(), "it is of Rust");
}

#[test]
fn functions_that_are_inlined_into_themselves_end() {
    let Some((mut lines, places)) = small() else { return skip("there is no Go") };
    let inlined = places.into_iter().find(|place| lines.functions(*place).len() > 1).unwrap();
    // All entries of all trees: the first name, called at the first instruction, which is of the first inlined function.
    lines.trees.fill(0);
    let (table, size) = (lines.table().unwrap(), lines.table.len());
    let code = table.function_at(inlined - lines.text.0).unwrap();
    let record = Record::of(table, code).unwrap();
    let at = size - record.bytes.len() + record.tables + 4 * INLINE_INDEX as usize;
    // A table that says 0 for as far as one can count: it rises by one from -1, over 2^28 bytes.
    let values = size - table.records().len() - 16;
    let start = size - table.records().len() - table.values().len();
    lines.table[values..values + 6].copy_from_slice(&[2, 0xff, 0xff, 0xff, 0x7f, 0]);
    lines.table[at..at + 4].copy_from_slice(&((values - start) as u32).to_le_bytes());
    assert_eq!(lines.functions(inlined).len(), MAX_FUNCTIONS);
}

#[test]
fn tables_without_end_are_given_up() {
    // It goes one byte far, and then nowhere.
    let mut endless = vec![2, 1];
    endless.resize(2 * MAX_STEPS + 10, 2);
    endless.iter_mut().skip(3).step_by(2).for_each(|distance| *distance = 0x00);
    let mut budget = Budget(MAX_STEPS);
    assert_eq!(value(&endless, 1, 50, &mut budget), None);
    assert_eq!(budget.0, 0);
    assert_eq!(value(&endless, 1, 0, &mut Budget(1)), Some(0));
    assert_eq!(value(&endless[..9], 1, 50, &mut Budget(MAX_STEPS)), None, "it ends");
}

#[test]
fn names_are_printed_as_go_prints_them() {
    let names = [
        ("main.main", "main.main"),
        ("main.(*largest[go.shape.int]).take", "main.(*largest[...]).take"),
        ("slices.SortFunc[go.shape.[]int,go.shape.int].func1", "slices.SortFunc[...].func1"),
        ("odd]name[", "odd]name["),
    ];
    for (name, expected) in names {
        assert_eq!(printed(name), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_does_no_harm(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200),
        records in any::<bool>(),
    ) {
        let Some((mut lines, places)) = small() else { return Ok(()) };
        let behind = if records { lines.table.len() - lines.table().unwrap().records().len() } else { 0 };
        for (at, byte) in &damage {
            let at = behind + at.index(lines.table.len() - behind);
            lines.table[at] = *byte;
        }
        let size = lines.trees.len();
        damage.iter().for_each(|(at, byte)| lines.trees[at.index(size)] = *byte);
        for place in places {
            prop_assert!(lines.functions(place).len() <= MAX_FUNCTIONS);
        }
    }

    #[test]
    fn damaged_files_do_no_harm(damage in prop::collection::vec((0..1_usize << 14, any::<u8>()), 1..20)) {
        let Some(go) = toolchains().into_iter().next() else { return Ok(()) };
        static FILE: OnceLock<Vec<u8>> = OnceLock::new();
        let mut bytes = FILE.get_or_init(|| {
            let program = built(&go, &["-buildmode=pie"]);
            let bytes = std::fs::read(&program).unwrap();
            std::fs::remove_file(program).unwrap();
            bytes
        }).clone();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        if let Some(lines) = Lines::new(&bytes) {
            lines.functions(lines.text.0);
        }
    }
}

#[test]
fn what_is_read_without_tables_is_where_all_tables_have_it() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/binary/go/tables");
    for entry in std::fs::read_dir(directory).unwrap() {
        let text = std::fs::read(entry.unwrap().path()).unwrap();
        let tables: Tables = serde_json::from_slice(&text).unwrap();
        let minor: u32 = tables.go.strip_prefix("1.").unwrap().parse().unwrap();
        let [go118, go120, go127] = module::OF_FUNCTIONS;
        for table in &tables.variants {
            let at = |field: &str| u64::from(table.structs["runtime.moduledata"][field].0);
            assert_eq!(at("etext"), module::END_OF_TEXT, "{}", tables.go);
            let functions = if minor < 20 {
                go118
            } else if minor < 27 {
                go120
            } else {
                go127
            };
            assert_eq!(at("gofunc"), functions, "{}", tables.go);
            if minor >= 20 {
                assert_eq!(at("types"), module::TYPES, "{}", tables.go);
            }
        }
    }
}
