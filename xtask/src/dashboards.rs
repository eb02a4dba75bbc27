//! `cargo xtask dashboards`: dashboards, alerts and recording rules, made from the jsonnet files in `dashboards/`.
//!
//! What is made is committed beside its sources, so that who wants to import it needs no jsonnet. `--check` says whether
//! it is what the sources give, and whether every query asks for something that the profiler has (`profiler metrics`).

mod generated;

use anyhow::{Result, bail};

use crate::setup;

#[derive(clap::Args)]
pub struct Args {
    /// Change nothing; fail if a file isn't what its sources give, or a query asks for what doesn't exist
    #[arg(long)]
    check: bool,
}

/// Writes or checks dashboards, alerts and rules.
pub fn run(args: &Args) -> Result<()> {
    setup::run()?;
    if args.check { check() } else { generated::write() }
}

/// Fails if a generated file differs from what its sources give.
pub fn check() -> Result<()> {
    let evaluated = generated::evaluate()?;
    let found = generated::differences(&evaluated)?;
    for finding in &found {
        println!("{finding}");
    }
    if !found.is_empty() {
        bail!("{} findings in dashboards and rules, listed above", found.len());
    }
    Ok(())
}
