//! What is read of Go programs from outside is what they say of themselves at the same moment: each figure in both views,
//! goroutines and their stacks, the profile of the heap. The oldest and the newest Go that are here; all of them:
//! `cargo xtask test go-matrix`.

mod common;

use common::go::{
    cell::{self, Cell},
    toolchain::{Build, Toolchain},
};

fn check(build: Build, enough: impl Fn(&Cell) -> bool) {
    for toolchain in Toolchain::representative() {
        let Some(program) = toolchain.program(build) else { return };
        for procs in [2, 16] {
            let cell = cell::check(&program, procs);
            let what =
                format!("Go {}, {}, {procs} processors, {}", toolchain.version, build.name(), cell.found);
            let different: Vec<_> = cell.different().take(20).collect();
            assert!(cell.all_equal(), "{what}: {different:#?}");
            assert!(enough(&cell), "{what}: too little was compared: {cell:?}");
            // The machine may be busy; a reader that is right by chance would need more than these.
            assert!(
                cell.again * 3 <= cell.moments,
                "{what}: {} of {} had to be repeated",
                cell.again,
                cell.moments
            );
            println!(
                "{what}: figures {}, goroutines {}, stacks {}, heap {}, {} of {} repeated",
                cell.figures, cell.goroutines, cell.stacks, cell.heap, cell.again, cell.moments
            );
        }
    }
}

fn much(cell: &Cell) -> bool {
    cell.figures.of > 800 && cell.goroutines.of > 100 && cell.stacks.of > 100 && cell.heap.of > 100
}

#[test]
fn all_is_equal_in_a_program_with_symbols() {
    check(Build::Default, much);
}

#[test]
fn all_is_equal_in_a_stripped_program() {
    check(Build::Stripped, much);
}

#[test]
fn all_is_equal_in_a_program_that_is_mapped_anywhere() {
    check(Build::Pie, much);
    check(Build::PieStripped, much);
}
