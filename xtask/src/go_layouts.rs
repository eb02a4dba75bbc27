//! `cargo xtask go-layouts`: the tables by which Go's runtime is read from outside, made from real toolchains.
//!
//! A minimal program is built with each version for each machine, and the example `go_layout` of the profiler reads
//! structures and references out of it. Versions that don't differ share a table.

mod tables;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use self::tables::{Tables, minor};
use crate::{build, command, debian, go_toolchains, setup, style, workspace};

/// The machines whose programs we read, as Go names them.
const MACHINES: [&str; 2] = ["amd64", "arm64"];

/// All that is compared is in every program, so this one has all of it. It is not optimised away, and needs no package.
const PROGRAM: &str = "package main\n\nfunc main() {\n\tprintln(\"hi\")\n\tselect {}\n}\n";

/// Where the tables are, in the repository.
const TABLES: &str = "profiler/src/binary/go/tables";

/// The test that says whether they are whole.
const TEST: &str = "go_tables";

#[derive(clap::Args)]
pub struct Args {
    /// Exact versions (1.27.3); without any, all that Debian and the Python Package Index have
    #[arg(value_name = "VERSION")]
    versions: Vec<String>,
    /// Take the toolchain in this directory (what its `go env GOROOT` says)
    #[arg(long, value_name = "GOROOT", conflicts_with = "versions")]
    from: Option<PathBuf>,
    /// Make nothing; fail if a table isn't whole
    #[arg(long, conflicts_with_all = ["versions", "from"])]
    check: bool,
}

/// Makes tables, or checks those that are there.
pub fn run(args: &Args) -> Result<()> {
    if args.check {
        setup::run()?;
        return check();
    }
    if args.from.is_none() {
        install_needs()?;
    }
    setup::run()?;
    let mut cargo = workspace::cargo();
    command::run(cargo.args(["build", "-p", "profiler", "--example", "go_layout"]), build::WAY_OUT)?;
    if let Some(root) = &args.from {
        let root = root.canonicalize().with_context(|| format!("can't find {}", root.display()))?;
        make(&root)?;
        return check();
    }
    let versions = if args.versions.is_empty() { go_toolchains::all()? } else { args.versions.clone() };
    for version in &versions {
        make(&go_toolchains::toolchain(version)?)?;
    }
    check()
}

fn install_needs() -> Result<()> {
    if debian::is_here() {
        let missing = debian::missing(go_toolchains::PACKAGES);
        if !missing.is_empty() {
            let absent = debian::install(&missing)?;
            ensure!(absent.is_empty(), "this release of Debian lacks {}: install it", absent.join(", "));
        }
    }
    Ok(())
}

/// The part of the tests that looks at the tables.
fn check() -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "-q", "-p", "profiler", "--test", TEST]);
    command::run(&mut cargo, "make the tables again with `cargo xtask go-layouts`")?;
    style::say(&format!("{} the tables in {TABLES} are whole", style::mark(true)));
    Ok(())
}

/// Adds the tables of one toolchain to those that are there.
fn make(root: &Path) -> Result<()> {
    let version = go_toolchains::version(root)?;
    for machine in MACHINES {
        let file = workspace::root().join(TABLES).join(format!("{}-{machine}.json", minor(&version)?));
        let mut tables = Tables::read(&file, &version, machine)?;
        let table = command::output(
            Command::new(workspace::target_dir().join("debug/examples/go_layout"))
                .arg(program(root, machine)?),
            "this Go differs in more than numbers: compare its src/runtime with what the example reads",
        )?;
        tables.add(&version, serde_json::from_str(&table).context("the example wrote no JSON")?)?;
        fs::write(&file, tables.text()?).with_context(|| format!("can't write {}", file.display()))?;
        style::say(&format!("{} Go {version} for {machine}", style::mark(true)));
    }
    Ok(())
}

/// The minimal program.
fn program(root: &Path, machine: &str) -> Result<PathBuf> {
    let dir = workspace::target_dir().join("go/minimal");
    fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
    let source = dir.join("main.go");
    fs::write(&source, PROGRAM).with_context(|| format!("can't write {}", source.display()))?;
    let program = dir.join(format!("minimal-{machine}"));
    // Only changes the file's form: nothing has to be decompressed.
    let mut go = go_toolchains::go(root);
    go.current_dir(&dir).env("GOOS", "linux").env("GOARCH", machine);
    go.args(["build", "-ldflags=-compressdwarf=false", "-o"]).arg(&program).arg(&source);
    command::run(&mut go, "is this a whole toolchain, with its sources?")?;
    Ok(program)
}
