//! Prometheus' own tool on the generated rules: whether they load, and whether each alert fires when it must.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::generated::{self, SOURCES};
use crate::{command, workspace};

/// The tool, and the Debian package that has it.
const PROMTOOL: &str = "promtool";
const PACKAGE: &str = "prometheus";

/// Loads the committed rules and runs all cases of `dashboards/tests`.
pub fn run() -> Result<()> {
    generated::need(PROMTOOL, PACKAGE)?;
    let root = workspace::root().join(SOURCES);
    let mut check = Command::new(PROMTOOL);
    check.current_dir(&root).args(["check", "rules", "generated/alerts.yaml", "generated/rules.yaml"]);
    command::run(&mut check, "mend the rule that it names")?;
    let mut test = Command::new(PROMTOOL);
    test.current_dir(&root).args(["test", "rules"]).args(files()?);
    command::run(&mut test, "mend the alert or rule whose test failed above, or the test")
}

/// The texts of all test files.
pub fn tests() -> Result<Vec<String>> {
    let read = |file: PathBuf| {
        std::fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))
    };
    files()?.into_iter().map(read).collect()
}

fn files() -> Result<Vec<PathBuf>> {
    let dir = workspace::root().join(SOURCES).join("tests");
    let entries = std::fs::read_dir(&dir).with_context(|| format!("can't read {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "yaml"));
    files.sort();
    Ok(files)
}
