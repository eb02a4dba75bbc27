//! `cargo xtask test go-matrix`: every Go that can be had, every way to build a program, few and many processors: what is read
//! from outside beside what the program says of itself. Writes docs/go-matrix.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{command, go_toolchains, setup, style, workspace};

/// What `cargo xtask test` is told to run this.
pub const NAME: &str = "go-matrix";
/// Where the test writes what came out, a line of JSON for each cell.
const RESULTS: &str = "PROFILER_GO_MATRIX";
/// Only versions that begin so, if it is set; the document isn't written then.
const ONLY: &str = "PROFILER_GO_MATRIX_ONLY";
/// Where the toolchains are, as `PATH` has directories; all that can be had are fetched if it isn't set.
const TOOLCHAINS: &str = "PROFILER_GO_TOOLCHAINS";
/// The document, below the repository.
const DOCUMENT: &str = "docs/go-matrix.md";
/// What is compared: key in the results, and heading.
const TALLIES: [(&str, &str); 4] = [
    ("figures", "figures"),
    ("goroutines", "goroutines"),
    ("stacks", "parked stacks"),
    ("heap", "heap records and names"),
];

/// Everything above the table.
const HEAD: &str = "# Go from outside, beside what programs say of themselves

`cargo xtask test go-matrix` made this. For each version of Go and each way to build, one program
(`profiler/tests/programs/go`) is led through eleven states with 2 and with 16 processors (`GOMAXPROCS`): allocation,
collection, parked goroutines of fifteen kinds, limits of memory, freed memory, more pauses than the runtime remembers. In each
state it says what it knows and stops itself, or stops itself and says it then, so that both sides read the same state:

- **figures**: every field of `runtime.MemStats` that there is to read, goroutines, threads, processors, `GOGC`, `GOMEMLIMIT`,
  all pauses with their ends, the quantiles of `debug.ReadGCStats`; against `ReadMemStats` before and behind the stop, and against
  `runtime/metrics`.
- **goroutines**: id, state or what it waits for, who made it; against its own dump (`pprof`, `debug=2`).
- **parked stacks**: functions, inlined ones too, with file and line; without the runtime's own, of which a dump hides some.
- **heap records and names**: counts, bytes, addresses and named frames of each record; against its own text (`debug=1`).

Each number is *equal / compared*, of both numbers of processors together. Between its answer and its stop the program's other
threads run on for some microseconds: a state that differs is tried again, nine times at most, and counts as different if it
differs each time.

";

/// Runs it all, and writes the document.
pub fn run(no_setup: bool) -> Result<()> {
    if !no_setup {
        setup::run()?;
    }
    let results = workspace::target_dir().join("go-matrix.jsonl");
    if results.exists() {
        std::fs::remove_file(&results)?;
    }
    let mut cargo = workspace::cargo();
    cargo.args(["test", "-p", "profiler", "--test", "go_matrix", "--", "--nocapture"]);
    if std::env::var_os(TOOLCHAINS).is_none() {
        let roots = go_toolchains::all()?;
        let roots: Vec<_> =
            roots.iter().map(|version| go_toolchains::toolchain(version)).collect::<Result<_>>()?;
        cargo.env(TOOLCHAINS, std::env::join_paths(roots)?);
    }
    cargo.env(RESULTS, &results).env("PROFILER_TESTS_MUST_RUN", "1");
    let ran = command::run(&mut cargo, "the cells that differ are listed above");
    let text = std::fs::read_to_string(&results).context("nothing was compared")?;
    let cells: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    if std::env::var_os(ONLY).is_none() {
        std::fs::write(workspace::root().join(DOCUMENT), document(&cells))?;
        style::say(&format!("{} {DOCUMENT}", style::mark(true)));
    }
    let failed: Vec<String> = cells.iter().filter(|cell| !is_equal(cell)).map(name).collect();
    if !failed.is_empty() {
        bail!("{} of {} cells differ: {}", failed.len(), cells.len(), failed.join("; "));
    }
    ran
}

fn name(cell: &Value) -> String {
    let text = |key: &str| cell[key].as_str().unwrap_or("?").to_owned();
    format!("Go {}, {}, {} processors", text("version"), text("build"), cell["procs"])
}

/// Equal and compared.
fn tally(cell: &Value, key: &str) -> (u64, u64) {
    (cell[key][0].as_u64().unwrap_or(0), cell[key][1].as_u64().unwrap_or(0))
}

fn is_equal(cell: &Value) -> bool {
    let whole = |(equal, of)| equal == of && of > 0;
    TALLIES.iter().all(|(key, _)| whole(tally(cell, key)))
}

/// The whole text.
fn document(cells: &[Value]) -> String {
    // In the order in which they ran: by version, then by build.
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut by_row: BTreeMap<(String, String), Vec<&Value>> = BTreeMap::new();
    for cell in cells {
        let text = |key: &str| cell[key].as_str().unwrap_or("?").to_owned();
        let row = (text("version"), text("build"));
        if !by_row.contains_key(&row) {
            rows.push(row.clone());
        }
        by_row.entry(row).or_default().push(cell);
    }
    let mut text = HEAD.to_owned();
    let headings: Vec<&str> = TALLIES.iter().map(|(_, heading)| *heading).collect();
    let _ = writeln!(text, "| Go | build | {} | read by |", headings.join(" | "));
    let _ = writeln!(text, "|---|---|{}---|", "---|".repeat(TALLIES.len()));
    for row in &rows {
        let cells = &by_row[row];
        let _ = write!(text, "| {} | {} |", row.0, row.1);
        for (key, _) in TALLIES {
            let (equal, of) = cells
                .iter()
                .map(|cell| tally(cell, key))
                .fold((0, 0), |(equal, of), next| (equal + next.0, of + next.1));
            let (open, close) = if equal == of && of > 0 { ("", "") } else { ("**", "**") };
            let _ = write!(text, " {open}{equal}/{of}{close} |");
        }
        let found = cells.first().and_then(|cell| cell["found"].as_str()).unwrap_or_default();
        let _ = writeln!(text, " {found} |");
    }
    let different: Vec<String> = cells
        .iter()
        .flat_map(|cell| {
            let lines = cell["different"].as_array().into_iter().flatten().filter_map(Value::as_str);
            lines.map(move |line| format!("- {}: {line}", name(cell)))
        })
        .collect();
    if !different.is_empty() {
        let _ = write!(text, "\n## What differed\n\n{}\n", different.join("\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cell(procs: u32, equal: u32) -> Value {
        json!({"version": "1.27.3", "build": "-s -w", "procs": procs, "found": "table 1.27.3", "figures": [equal, 9],
            "goroutines": [3, 3], "stacks": [2, 2], "heap": [5, 5], "different": if equal < 9 { vec!["sys: 1 and not 2"] } else { vec![] }})
    }

    #[test]
    fn a_row_is_a_version_and_a_build_with_all_its_processors() {
        let text = document(&[cell(2, 9), cell(16, 9)]);
        assert!(text.contains("| 1.27.3 | -s -w | 18/18 | 6/6 | 4/4 | 10/10 | table 1.27.3 |\n"), "{text}");
        assert!(!text.contains("What differed"));
    }

    #[test]
    fn what_differs_is_seen_in_the_table_and_listed() {
        let cells = [cell(2, 9), cell(16, 8)];
        assert_eq!(cells.each_ref().map(is_equal), [true, false]);
        let text = document(&cells);
        assert!(
            text.contains("| **17/18** |")
                && text.contains("- Go 1.27.3, -s -w, 16 processors: sys: 1 and not 2"),
            "{text}"
        );
    }
}
