//! The files made from the jsonnet sources: writing them, and comparing them with what is committed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{command, debian, style, workspace};

/// The mixin, seen from the repository's root.
pub const SOURCES: &str = "dashboards";
/// The Debian package, which is named like its program.
const JSONNET: &str = "jsonnet";

/// Everything that the sources give: `files` by path below `dashboards/generated`, and the same as data by kind.
pub fn evaluate() -> Result<Value> {
    need(JSONNET, JSONNET)?;
    let mut jsonnet = Command::new(JSONNET);
    jsonnet.current_dir(workspace::root().join(SOURCES)).arg("generate.jsonnet");
    let json = command::output(&mut jsonnet, "mend the jsonnet file that it names")?;
    serde_json::from_str(&json).context("jsonnet's output can't be read")
}

/// Makes sure that a program is there; where Debian's packages are, by installing one.
pub fn need(program: &str, package: &str) -> Result<()> {
    if command::find(program).is_some() {
        return Ok(());
    }
    if debian::is_here() {
        debian::install(&[package])?;
    }
    if command::find(program).is_none() {
        bail!("there is no `{program}`: install it (Debian package `{package}`)");
    }
    Ok(())
}

/// Writes every generated file and removes those that the sources don't give any more.
pub fn write() -> Result<()> {
    let wanted = files(&evaluate()?)?;
    for name in committed(&root())? {
        if !wanted.iter().any(|(wanted, _)| *wanted == name) {
            std::fs::remove_file(root().join(&name)).with_context(|| format!("can't remove {name}"))?;
            style::say(&format!("removed {SOURCES}/generated/{name}"));
        }
    }
    for (name, text) in &wanted {
        let file = root().join(name);
        if std::fs::read_to_string(&file).is_ok_and(|there| there == *text) {
            continue;
        }
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("can't create {}", dir.display()))?;
        }
        std::fs::write(&file, text).with_context(|| format!("can't write {}", file.display()))?;
        style::say(&format!("{} wrote {SOURCES}/generated/{name}", style::mark(true)));
    }
    style::say(&format!("{} {} generated files are up to date", style::mark(true), wanted.len()));
    Ok(())
}

/// Says of each file that is not what the sources give, what is wrong with it.
pub fn differences(evaluated: &Value) -> Result<Vec<String>> {
    let wanted = files(evaluated)?;
    let mut found = Vec::new();
    let mut left = committed(&root())?;
    for (name, text) in &wanted {
        left.remove(name);
        match std::fs::read_to_string(root().join(name)) {
            Ok(there) if there == *text => {}
            Ok(_) => found.push(format!("{SOURCES}/generated/{name}: is not what its sources give")),
            Err(error) => found.push(format!("{SOURCES}/generated/{name}: {error}")),
        }
    }
    found.extend(left.iter().map(|name| format!("{SOURCES}/generated/{name}: no source gives it")));
    Ok(found)
}

fn root() -> PathBuf {
    workspace::root().join(SOURCES).join("generated")
}

/// Name and text of each file, in the order of names.
fn files(evaluated: &Value) -> Result<Vec<(String, String)>> {
    let files =
        evaluated.get("files").and_then(Value::as_object).context("generate.jsonnet gives no files")?;
    files
        .iter()
        .map(|(name, text)| {
            let text = text.as_str().with_context(|| format!("{name} is no text"))?;
            Ok((name.clone(), text.to_owned()))
        })
        .collect()
}

/// The files below `generated`, which is two levels deep.
fn committed(root: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for below in ["", "grafana", "chronograf"] {
        let Ok(entries) = std::fs::read_dir(root.join(below)) else { continue };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let name = entry.file_name().to_string_lossy().into_owned();
                names.insert(if below.is_empty() { name } else { format!("{below}/{name}") });
            }
        }
    }
    Ok(names)
}
