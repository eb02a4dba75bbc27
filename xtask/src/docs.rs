//! `cargo xtask docs`: documents which the program writes itself, so that they can't drift from it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{build, command, setup, style, workspace};

/// The table of all metrics, made by `profiler metrics --markdown`.
const METRICS: &str = "docs/metrics.md";

/// The table of all allocators, made by the test that tries each of them: what it expects is what the document says.
const MATRIX: &str = "docs/matrix.md";
const MATRIX_TEST: &str = "the_table_in_the_documents_is_what_is_tested_here";

/// Asks that test to write its table instead of comparing it.
const BLESS: &str = "PROFILER_BLESS";

#[derive(clap::Args)]
pub struct Args {
    /// Change nothing; fail if a document isn't what the program would write
    #[arg(long)]
    check: bool,
}

/// Writes or checks every such document.
pub fn run(args: &Args) -> Result<()> {
    setup::run()?;
    if args.check { check() } else { write() }
}

/// Fails if a document differs from what the program would write.
pub fn check() -> Result<()> {
    let wanted = metrics()?;
    let file = workspace::root().join(METRICS);
    let there = read(&file)?;
    if let Some(difference) = first_difference(&there, &wanted) {
        bail!("{METRICS}:{difference}: run `cargo xtask docs` and commit what it writes");
    }
    style::say(&format!("{} {METRICS} is what the program says", style::mark(true)));
    command::run(&mut matrix(), "run `cargo xtask docs` and commit what it writes")?;
    style::say(&format!("{} {MATRIX} is what the tests expect", style::mark(true)));
    Ok(())
}

fn matrix() -> Command {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "-q", "-p", "profiler", "--test", "matrix", "--", "--exact", MATRIX_TEST]);
    cargo
}

fn write() -> Result<()> {
    command::run(matrix().env(BLESS, "1"), build::WAY_OUT)?;
    style::say(&format!("{} wrote {MATRIX}", style::mark(true)));
    let wanted = metrics()?;
    let file = workspace::root().join(METRICS);
    if read(&file)? == wanted {
        style::say(&format!("{METRICS} is up to date"));
        return Ok(());
    }
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("can't create {}", dir.display()))?;
    }
    std::fs::write(&file, wanted).with_context(|| format!("can't write {}", file.display()))?;
    style::say(&format!("{} wrote {METRICS}", style::mark(true)));
    Ok(())
}

fn metrics() -> Result<String> {
    let mut cargo = workspace::cargo();
    cargo.args(["run", "-q", "-p", "profiler", "--", "metrics", "--markdown"]);
    command::output(&mut cargo, build::WAY_OUT)
}

/// A document's text; one that isn't there yet is empty.
fn read(file: &Path) -> Result<String> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("can't read {}", file.display())),
    }
}

/// The first line that differs, as `number: what the program would write there`.
fn first_difference(there: &str, wanted: &str) -> Option<String> {
    if there == wanted {
        return None;
    }
    let same = there.lines().zip(wanted.lines()).take_while(|(left, right)| left == right).count();
    Some(match wanted.lines().nth(same) {
        Some(line) => format!("{}: the program now says {line:?}", same + 1),
        None => format!("{}: the program says nothing from here on", same + 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named_by_its_line() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n").unwrap(), "2: the program now says \"c\"");
        assert_eq!(first_difference("a\nb\n", "a\n").unwrap(), "2: the program says nothing from here on");
        assert!(first_difference("", "a\n").unwrap().starts_with("1: "));
    }
}
