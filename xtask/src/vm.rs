//! `cargo xtask vm`: the profiler on kernels that this machine doesn't run.
//!
//! Each kernel has its own verifier, its own structures and its own scheduler, so a program that one accepts another
//! may refuse. Debian's kernels for virtual machines are booted in an emulator (which needs no rights and no hardware
//! for it), with nothing but the profiler and a program that knows the truth about itself; what both say must agree.

mod console;
mod image;
mod kernel;
mod machine;
mod verdict;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use self::console::Console;
use self::verdict::Verdict;
use crate::{build, debian, style, workspace};

/// The kernels to try, oldest first: the long-term releases that Debian 12 and 13 run.
const SERIES: [&str; 2] = ["6.1", "6.12"];

/// The emulator, the machine's shell, what packs its files, and a compiler for the program in it.
const PACKAGES: [&str; 5] = ["qemu-system-x86", "busybox-static", "cpio", "gcc", "libc6-dev"];

/// How much of a console or a log is shown when something is wrong; the rest is in a file.
const TAIL: usize = 40;

#[derive(clap::Args)]
pub struct Args {
    /// Which kernel
    #[arg(value_name = "KERNEL", default_value = "all", value_parser = ["6.1", "6.12", "all"])]
    series: String,
    /// Try this profiler and don't build one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// One kernel that was tried.
struct Trial {
    release: String,
    run: machine::Run,
    verdict: Verdict,
    console: PathBuf,
}

/// Builds, boots each kernel in turn, says what came out, and fails if anything differs.
pub fn run(args: &Args) -> Result<()> {
    install_needs()?;
    let profiler = match &args.binary {
        Some(file) => file.canonicalize().with_context(|| format!("there is no {}", file.display()))?,
        None => {
            build::release()?;
            workspace::profiler_binary("release")
        }
    };
    let image = image::make(&profiler)?;
    let mut trials = Vec::new();
    for series in SERIES.into_iter().filter(|series| args.series == "all" || args.series == *series) {
        trials.push(trial(&kernel::obtain(series)?, &image)?);
    }
    println!("\n{}", table(&trials));
    let wrong: Vec<&Trial> = trials.iter().filter(|trial| !trial.is_good()).collect();
    for trial in &wrong {
        explain(trial);
    }
    if !wrong.is_empty() {
        let releases: Vec<&str> = wrong.iter().map(|trial| trial.release.as_str()).collect();
        bail!("the profiler doesn't do on Linux {} what it should; see above", releases.join(" and "));
    }
    style::say(&format!("{} the profiler and the program agree on every kernel", style::mark(true)));
    Ok(())
}

/// Where kernels, the machine's files and its consoles are kept.
fn dir() -> PathBuf {
    workspace::target_dir().join("vm")
}

fn install_needs() -> Result<()> {
    if !debian::is_here() {
        bail!("the kernels come from Debian's packages: run this on Debian, or in a container of it");
    }
    let missing = debian::missing(&PACKAGES);
    if missing.is_empty() {
        return Ok(());
    }
    let absent = debian::install(&missing)?;
    if !absent.is_empty() {
        bail!("no package source offers {}: add Debian's main section", absent.join(", "));
    }
    Ok(())
}

fn trial(kernel: &kernel::Kernel, image: &std::path::Path) -> Result<Trial> {
    let run = machine::run(&kernel.file, image)?;
    let console = dir().join(format!("{}.console", kernel.release));
    std::fs::write(&console, &run.console).with_context(|| format!("can't write {}", console.display()))?;
    let read = Console::read(&run.console);
    let release = read.release.clone().unwrap_or_else(|| kernel.release.clone());
    Ok(Trial { release, verdict: Verdict::of(&read), run, console })
}

impl Trial {
    fn is_good(&self) -> bool {
        self.run.in_time && self.verdict.is_good()
    }
}

/// The trials as a table for a terminal.
fn table(trials: &[Trial]) -> String {
    let mut lines = vec![format!(
        "  {:30}{:>14}{:>18}{:>18}{:>10}{:>9}{:>9}",
        "kernel", "doctor", "counts", "ledger", "end", "boot", "all"
    )];
    for Trial { release, run, verdict, .. } in trials {
        let boot = run.booted.map_or_else(|| "-".to_owned(), style::spoken);
        let [doctor, counts, ledger, end] = verdict.checks().map(|check| check.short());
        let took = style::spoken(run.took);
        let mark = style::mark(run.in_time && verdict.is_good());
        lines.push(format!(
            "{mark} {release:30}{doctor:>14}{counts:>18}{ledger:>18}{end:>10}{boot:>9}{took:>9}"
        ));
    }
    lines.join("\n")
}

/// What is wrong on a kernel, and the end of what was said there.
fn explain(trial: &Trial) {
    style::say(&format!("\n{} Linux {}", style::mark(false), trial.release));
    let read = Console::read(&trial.run.console);
    if !trial.run.in_time {
        style::say(&format!("  ended by force after {}", style::spoken(trial.run.took)));
    }
    for check in trial.verdict.checks() {
        for wrong in &check.wrong {
            style::say(&format!("  {}: {wrong}", check.what));
        }
    }
    for (name, text) in read.worth_showing(TAIL) {
        style::say(&style::dim(&format!("  -- the last lines of {name}")));
        for line in text {
            style::say(&format!("  {line}"));
        }
    }
    style::say(&format!("  everything is in {}", trial.console.display()));
}
