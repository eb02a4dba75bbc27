//! Every allocator, however a program comes to it, in every language: counts equal to the program's own, no call counted
//! twice. The cells are listed once, with what is found in each; `docs/matrix.md` is that list as a table.

mod common;

use common::{
    can_observe,
    helper::Helper,
    matrix::{Allocator, Language, Linking, Variant},
    profiler::Watching,
    totals::{Totals, number, state},
};
use serde_json::Value;

/// What is to be found in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Every number is the program's own.
    Exact,
    /// Every number is the program's own, without some bytes that it tells apart. The reason is for the reader.
    ExactBut(&'static str),
    /// Nothing is counted, and profiler says so, with this word among its reasons.
    Said(&'static str),
    /// The program's own allocator isn't seen, and nothing tells that there is one. The reason is for the reader.
    Unseen(&'static str),
}

/// One cell that exists, tested under its name.
struct Cell {
    variant: Variant,
    found: Found,
}

/// Declares the cells, each with a test of its own.
macro_rules! cells {
    ($($test:ident: $allocator:ident $linking:ident $language:ident => $found:expr,)*) => {
        const CELLS: &[Cell] = &[$(Cell {
            variant: Variant {
                allocator: Allocator::$allocator,
                linking: Linking::$linking,
                language: Language::$language,
            },
            found: $found,
        }),*];
        $(
            #[test]
            fn $test() {
                let variant = Variant {
                    allocator: Allocator::$allocator,
                    linking: Linking::$linking,
                    language: Language::$language,
                };
                is_counted_as_said(variant, $found);
            }
        )*
    };
}

use Found::{Exact, ExactBut, Said, Unseen};

const NO_SYMBOLS: Found = Said("without symbols");
const NOT_EXPORTED: Found =
    Unseen("its allocator's names are not exported, and the C library's are hooked instead");
const COPIES: Found = ExactBut(
    "the blocks of `mi_strdup` and its like are counted without their bytes: only the copied text tells how many",
);

cells! {
    glibc_shared_c: Glibc Shared C => Exact,
    glibc_shared_cpp: Glibc Shared Cpp => Exact,
    glibc_shared_rust: Glibc Shared Rust => Exact,
    glibc_static_c: Glibc Static C => Exact,
    glibc_static_cpp: Glibc Static Cpp => Exact,
    glibc_static_rust: Glibc Static Rust => Exact,
    glibc_static_stripped_c: Glibc StaticStripped C => NO_SYMBOLS,
    glibc_static_stripped_cpp: Glibc StaticStripped Cpp => NO_SYMBOLS,
    glibc_static_stripped_rust: Glibc StaticStripped Rust => NO_SYMBOLS,
    glibc_debug_file_c: Glibc DebugFile C => Exact,
    glibc_debug_file_cpp: Glibc DebugFile Cpp => Exact,
    glibc_debug_file_rust: Glibc DebugFile Rust => Exact,
    glibc_mini_debug_info_c: Glibc MiniDebugInfo C => Exact,
    glibc_mini_debug_info_cpp: Glibc MiniDebugInfo Cpp => Exact,
    glibc_mini_debug_info_rust: Glibc MiniDebugInfo Rust => Exact,

    musl_shared_c: Musl Shared C => Exact,
    musl_static_c: Musl Static C => Exact,
    musl_static_stripped_c: Musl StaticStripped C => NO_SYMBOLS,
    musl_debug_file_c: Musl DebugFile C => Exact,
    musl_mini_debug_info_c: Musl MiniDebugInfo C => Exact,

    jemalloc_shared_c: Jemalloc Shared C => Exact,
    jemalloc_shared_cpp: Jemalloc Shared Cpp => Exact,
    jemalloc_shared_rust: Jemalloc Shared Rust => Exact,
    jemalloc_preloaded_c: Jemalloc Preloaded C => Exact,
    jemalloc_preloaded_cpp: Jemalloc Preloaded Cpp => Exact,
    jemalloc_preloaded_rust: Jemalloc Preloaded Rust => Exact,
    jemalloc_linked_in_c: Jemalloc LinkedIn C => Exact,
    jemalloc_linked_in_cpp: Jemalloc LinkedIn Cpp => Exact,
    jemalloc_linked_in_rust: Jemalloc LinkedIn Rust => Exact,
    jemalloc_linked_in_stripped_c: Jemalloc LinkedInStripped C => Exact,
    jemalloc_linked_in_stripped_cpp: Jemalloc LinkedInStripped Cpp => Exact,
    jemalloc_linked_in_stripped_rust: Jemalloc LinkedInStripped Rust => NOT_EXPORTED,
    jemalloc_static_c: Jemalloc Static C => Exact,
    jemalloc_static_cpp: Jemalloc Static Cpp => Exact,
    jemalloc_static_rust: Jemalloc Static Rust => Exact,
    jemalloc_static_stripped_c: Jemalloc StaticStripped C => NO_SYMBOLS,
    jemalloc_static_stripped_cpp: Jemalloc StaticStripped Cpp => NO_SYMBOLS,
    jemalloc_static_stripped_rust: Jemalloc StaticStripped Rust => NO_SYMBOLS,
    jemalloc_debug_file_c: Jemalloc DebugFile C => Exact,
    jemalloc_debug_file_cpp: Jemalloc DebugFile Cpp => Exact,
    jemalloc_debug_file_rust: Jemalloc DebugFile Rust => Exact,
    jemalloc_mini_debug_info_c: Jemalloc MiniDebugInfo C => Exact,
    jemalloc_mini_debug_info_cpp: Jemalloc MiniDebugInfo Cpp => Exact,
    jemalloc_mini_debug_info_rust: Jemalloc MiniDebugInfo Rust => Exact,

    tcmalloc_shared_c: Tcmalloc Shared C => Exact,
    tcmalloc_shared_cpp: Tcmalloc Shared Cpp => Exact,
    tcmalloc_shared_rust: Tcmalloc Shared Rust => Exact,
    tcmalloc_preloaded_c: Tcmalloc Preloaded C => Exact,
    tcmalloc_preloaded_cpp: Tcmalloc Preloaded Cpp => Exact,
    tcmalloc_preloaded_rust: Tcmalloc Preloaded Rust => Exact,
    tcmalloc_linked_in_c: Tcmalloc LinkedIn C => Exact,
    tcmalloc_linked_in_cpp: Tcmalloc LinkedIn Cpp => Exact,
    tcmalloc_linked_in_rust: Tcmalloc LinkedIn Rust => Exact,
    tcmalloc_linked_in_stripped_c: Tcmalloc LinkedInStripped C => Exact,
    tcmalloc_linked_in_stripped_cpp: Tcmalloc LinkedInStripped Cpp => Exact,
    tcmalloc_linked_in_stripped_rust: Tcmalloc LinkedInStripped Rust => Exact,
    tcmalloc_static_c: Tcmalloc Static C => Exact,
    tcmalloc_static_cpp: Tcmalloc Static Cpp => Exact,
    tcmalloc_static_rust: Tcmalloc Static Rust => Exact,
    tcmalloc_static_stripped_c: Tcmalloc StaticStripped C => NO_SYMBOLS,
    tcmalloc_static_stripped_cpp: Tcmalloc StaticStripped Cpp => NO_SYMBOLS,
    tcmalloc_static_stripped_rust: Tcmalloc StaticStripped Rust => NO_SYMBOLS,
    tcmalloc_debug_file_c: Tcmalloc DebugFile C => Exact,
    tcmalloc_debug_file_cpp: Tcmalloc DebugFile Cpp => Exact,
    tcmalloc_debug_file_rust: Tcmalloc DebugFile Rust => Exact,
    tcmalloc_mini_debug_info_c: Tcmalloc MiniDebugInfo C => Exact,
    tcmalloc_mini_debug_info_cpp: Tcmalloc MiniDebugInfo Cpp => Exact,
    tcmalloc_mini_debug_info_rust: Tcmalloc MiniDebugInfo Rust => Exact,

    mimalloc_shared_c: Mimalloc Shared C => COPIES,
    mimalloc_shared_cpp: Mimalloc Shared Cpp => COPIES,
    mimalloc_shared_rust: Mimalloc Shared Rust => Exact,
    mimalloc_preloaded_c: Mimalloc Preloaded C => Exact,
    mimalloc_preloaded_cpp: Mimalloc Preloaded Cpp => Exact,
    mimalloc_preloaded_rust: Mimalloc Preloaded Rust => Exact,
    mimalloc_linked_in_rust: Mimalloc LinkedIn Rust => Exact,
    mimalloc_linked_in_stripped_rust: Mimalloc LinkedInStripped Rust => NOT_EXPORTED,
    mimalloc_static_rust: Mimalloc Static Rust => Exact,
    mimalloc_static_stripped_rust: Mimalloc StaticStripped Rust => NO_SYMBOLS,
    mimalloc_debug_file_rust: Mimalloc DebugFile Rust => Exact,
    mimalloc_mini_debug_info_rust: Mimalloc MiniDebugInfo Rust => Exact,
}

/// Why a cell that isn't listed can't be.
fn why_there_is_none(variant: Variant) -> Option<&'static str> {
    use {Allocator as A, Language as L, Linking as K};
    Some(match (variant.allocator, variant.linking, variant.language) {
        (A::Musl, _, L::Cpp) => "Debian has no C++ library for musl",
        (A::Musl, _, L::Rust) => "neither Debian nor the toolchain brings Rust's standard library for musl",
        (A::Glibc | A::Musl, K::Preloaded, _) => "it is the C library itself",
        (A::Glibc | A::Musl, K::LinkedIn | K::LinkedInStripped, _) => {
            "the C library is a shared one, or the program is static"
        }
        (A::Mimalloc, K::Shared | K::Preloaded, _) => return None,
        (A::Mimalloc, _, L::C | L::Cpp) => "Debian has no archive of mimalloc; Rust has a crate",
        _ => return None,
    })
}

/// One part of a program's work: what it has done, and what was seen of it.
struct Part {
    name: String,
    told: Totals,
    counted: Totals,
}

fn is_counted_as_said(variant: Variant, found: Found) {
    if !can_observe() {
        return;
    }
    let Some(program) = variant.program() else { return };
    let mut helper = Helper::spawn(&mut program.command());
    if let Some(library) = variant.maps() {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", helper.pid())).expect("its maps");
        assert!(maps.contains(&library), "{library} isn't mapped:\n{maps}");
    }
    let watching = Watching::process(helper.pid());
    let (parts, last) = observe(&mut helper, &watching);
    let finished = watching.finish();
    let target = finished.target();
    let (state, reason) = state(target);
    let (told, counted) = (told_by_arguments(&last), Totals::counted(target));
    match found {
        Exact | ExactBut(_) => {
            assert_eq!(copied(&last) > 0, found != Exact, "{last}");
            let wrong = wrong_parts(&parts);
            assert!(
                state == "counting" && wrong.is_empty() && told == counted,
                "{state} {reason}\ntold {told:?}\ncounted {counted:?}\n{}{:#}",
                wrong.join("\n"),
                target["functions"]
            );
        }
        Said(word) => {
            assert!(state != "counting" && reason.contains(word), "{state}: {reason}");
            assert_eq!(counted, Totals::default(), "{reason}");
        }
        Unseen(_) => {
            assert!(
                counted.allocations < told.allocations / 100,
                "{state} {reason}: {counted:?} of {told:?}"
            );
        }
    }
}

/// What a helper has counted, without the bytes that no argument of its calls has told.
fn told_by_arguments(answer: &Value) -> Totals {
    let told = Totals::told(answer);
    Totals { bytes: told.bytes - copied(answer), ..told }
}

/// The bytes that no argument has told; the helper in Rust makes no such calls.
fn copied(answer: &Value) -> u64 {
    answer["copied"].as_u64().unwrap_or(0)
}

/// Lets a helper work, part by part.
fn observe(helper: &mut Helper, watching: &Watching) -> (Vec<Part>, Value) {
    let (mut told, mut counted) = (Totals::default(), Totals::default());
    let mut parts = Vec::new();
    loop {
        let answer = helper.work();
        let (now_told, now_counted) = (told_by_arguments(&answer), Totals::counted(&watching.now()));
        let name = answer["part"].as_str().expect("a name").to_owned();
        parts.push(Part { name, told: now_told - told, counted: now_counted - counted });
        (told, counted) = (now_told, now_counted);
        assert!(number(&answer, "allocations") > 0, "{answer}");
        if answer["more"] == false {
            return (parts, answer);
        }
    }
}

/// What is wrong, part by part: all of it, since one cause often shows in several.
fn wrong_parts(parts: &[Part]) -> Vec<String> {
    let wrong = parts.iter().filter(|part| part.told != part.counted);
    wrong.map(|Part { name, told, counted }| format!("{name}: {}", told.differences(counted))).collect()
}

#[test]
fn every_combination_is_a_cell_or_there_is_a_reason_for_none() {
    for variant in all_variants() {
        let cells = CELLS.iter().filter(|cell| cell.variant == variant).count();
        let none = usize::from(why_there_is_none(variant).is_some());
        assert_eq!(cells + none, 1, "{variant:?}");
    }
}

fn all_variants() -> impl Iterator<Item = Variant> {
    Allocator::ALL.into_iter().flat_map(|allocator| {
        Language::ALL.into_iter().flat_map(move |language| {
            Linking::ALL.into_iter().map(move |linking| Variant { allocator, linking, language })
        })
    })
}

/// The document: what is found where, and why not.
fn table() -> String {
    let mut text = String::from(HEAD);
    let mut notes: Vec<&str> = Vec::new();
    let head: Vec<&str> = Linking::ALL.iter().map(|linking| linking.name()).collect();
    text += &format!("| | {} |\n|---|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for (at, variant) in all_variants().enumerate() {
        if at % Linking::ALL.len() == 0 {
            text += &format!("| {}, {} |", variant.allocator.name(), variant.language.name());
        }
        let cell = CELLS.iter().find(|cell| cell.variant == variant);
        let (word, reason) = match cell.map(|cell| cell.found) {
            Some(Exact) => ("exact", None),
            Some(ExactBut(why)) => ("exact", Some(why)),
            Some(Said(_)) => ("not hooked", Some(SAID)),
            Some(Unseen(why)) => ("not seen", Some(why)),
            None => ("–", why_there_is_none(variant)),
        };
        text += &match reason {
            Some(reason) => {
                let known = notes.iter().position(|note| *note == reason);
                let number = known.unwrap_or_else(|| {
                    notes.push(reason);
                    notes.len() - 1
                });
                format!(" {word} ({}) |", number + 1)
            }
            None => format!(" {word} |"),
        };
        if at % Linking::ALL.len() == Linking::ALL.len() - 1 {
            text += "\n";
        }
    }
    text += "\n";
    for (at, note) in notes.iter().enumerate() {
        text += &format!("{}. {}.\n", at + 1, capitalised(note));
    }
    text
}

fn capitalised(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map(|first| first.to_uppercase().chain(rest).collect()).unwrap_or_default()
}

const SAID: &str = "no symbol is left anywhere: profiler says that nothing is counted, and why";

const HEAD: &str = "\
<!-- Written by `cargo xtask docs` from profiler/tests/matrix.rs. Don't edit. -->

# Allocators

What profiler counts of a program, by its allocator, by how it comes to it, and by its language. Each cell is a test that
`cargo xtask test` runs: a program calls every function that the allocator has, in every way that allocators answer
differently, ends threads with full caches, and counts for itself.

- **exact**: allocations, frees, live objects and bytes are equal to the program's own, part by part, and nothing is
  counted twice, also where two allocators are mapped.
- **not hooked**: nothing is counted, and profiler says so.
- **not seen**: nothing tells that there is such an allocator.
- **–**: there is no such program here.

Versions: those of Debian 12 (glibc 2.36, musl 1.2.3, jemalloc 5.3.0, gperftools 2.10, mimalloc 2.0.9), and the crates
tikv-jemallocator 0.7.0 (names begin with `_rjem_`) and mimalloc 0.1.52. Debian's shared libraries are stripped: only the
names that they export are left.

";

/// Where `cargo xtask docs` wants the table written instead of compared.
const BLESS: &str = "PROFILER_BLESS";

#[test]
fn the_table_in_the_documents_is_what_is_tested_here() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/matrix.md");
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&file, table()).expect("the document can be written");
        return;
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = there.lines().zip(table().lines()).position(|(left, right)| left != right);
    assert!(
        there == table(),
        "docs/matrix.md:{}: run `cargo xtask docs` and commit what it writes",
        differs.map_or(there.lines().count(), |line| line) + 1
    );
}
