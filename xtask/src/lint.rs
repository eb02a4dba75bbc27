//! `cargo xtask lint`: the rules of the architecture which the compiler can't check.
//!
//! It reads text, not types: fast, without a build, and wrong in neither direction where the code is written in the
//! ordinary way. What is in comments and string literals doesn't count as code.

mod rules;
mod source;

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{command, style, workspace};

/// Something that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    file: String,
    line: usize,
    what: String,
}

/// Checks every file of the repository; prints each finding as `file:line: what, and what to do`.
pub fn run() -> Result<()> {
    let root = workspace::root();
    let mut findings = Vec::new();
    let mut checked = 0;
    for file in files(&root)? {
        // A file that is tracked and deleted is no longer there; one that isn't text has no lines.
        let Ok(text) = std::fs::read_to_string(root.join(&file)) else { continue };
        checked += 1;
        findings.extend(rules::check(&file, &text));
    }
    findings.sort();
    for Finding { file, line, what } in &findings {
        println!("{file}:{line}: {what}");
    }
    if !findings.is_empty() {
        bail!("the rules of the architecture are broken in {} places, listed above", findings.len());
    }
    style::say(&format!("{} {checked} files keep the rules of the architecture", style::mark(true)));
    Ok(())
}

/// What git tracks or would track; every file where this is no git checkout.
fn files(root: &Path) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
    if let Some(list) = command::ask(&mut git) {
        let mut files: Vec<String> =
            list.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        files.sort();
        files.dedup();
        return Ok(files);
    }
    let mut files = Vec::new();
    walk(root, "", &mut files)?;
    Ok(files)
}

fn walk(root: &Path, below: &str, files: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_file() {
            files.push(path);
        } else if kind.is_dir() && name != "target" && name != ".git" {
            walk(root, &path, files)?;
        }
    }
    Ok(())
}
