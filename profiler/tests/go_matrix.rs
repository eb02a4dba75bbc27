//! Every Go that is here, every way to build, few and many processors: `cargo xtask test go-matrix` runs this, and writes
//! docs/go-matrix.md from what it says.

mod common;

use std::{io::Write as _, time::Instant};

use common::{
    can_observe,
    go::{
        cell,
        toolchain::{Build, Toolchain},
    },
};
use serde_json::json;

/// A file to which each cell is added as a line of JSON.
const RESULTS: &str = "PROFILER_GO_MATRIX";
/// Only versions that begin so.
const ONLY: &str = "PROFILER_GO_MATRIX_ONLY";

#[test]
fn every_version_and_way_to_build() {
    // It takes many minutes; what is representative is in the other tests.
    let Some(path) = std::env::var_os(RESULTS) else {
        return println!("only by `cargo xtask test go-matrix`");
    };
    if !can_observe() {
        return;
    }
    let mut results =
        std::fs::File::options().append(true).create(true).open(path).expect("it can be written");
    let only = std::env::var(ONLY).unwrap_or_default();
    let toolchains: Vec<_> =
        Toolchain::all().into_iter().filter(|toolchain| toolchain.version.starts_with(&only)).collect();
    assert!(!toolchains.is_empty(), "there is no Go {only}");
    let mut failed = Vec::new();
    for toolchain in &toolchains {
        for build in Build::MATRIX {
            let Some(program) = toolchain.program(build) else { continue };
            for procs in [2, 16] {
                let began = Instant::now();
                // A program that can't be read must not take the others with it.
                let cell = std::panic::catch_unwind(|| cell::check(&program, procs)).unwrap_or_else(|_| {
                    let mut cell = cell::Cell::default();
                    cell.figures.fail("the comparison came to no end; see above");
                    cell
                });
                let what = format!("Go {}, {}, {procs} processors", toolchain.version, build.name());
                println!(
                    "{what}: figures {}, goroutines {}, stacks {}, heap {}; {} of {} moments repeated; {}; {:.1} s",
                    cell.figures,
                    cell.goroutines,
                    cell.stacks,
                    cell.heap,
                    cell.again,
                    cell.moments,
                    cell.found,
                    began.elapsed().as_secs_f64()
                );
                for different in cell.different().take(10) {
                    println!("    {different}");
                }
                let line = json!({
                    "version": toolchain.version, "build": build.name(), "procs": procs, "found": cell.found,
                    "figures": [cell.figures.equal, cell.figures.of],
                    "goroutines": [cell.goroutines.equal, cell.goroutines.of],
                    "stacks": [cell.stacks.equal, cell.stacks.of],
                    "heap": [cell.heap.equal, cell.heap.of],
                    "different": cell.different().take(10).collect::<Vec<_>>(),
                });
                writeln!(results, "{line}").expect("it can be written");
                if !cell.all_equal() {
                    failed.push(what);
                }
            }
        }
    }
    assert!(failed.is_empty(), "not all was equal in {} cells: {failed:#?}", failed.len());
}
