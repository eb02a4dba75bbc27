//! `cargo xtask dashboards`: dashboards, alerts and recording rules, made from the jsonnet files in `dashboards/`.
//!
//! What is made is committed beside its sources, so that who wants to import it needs no jsonnet. `--check` says whether
//! it is what the sources give, and whether every query asks for something that the profiler has (`profiler metrics`).

mod answers;
mod draw;
mod generated;
mod questions;
mod run;
mod stage;

use std::time::Duration;

use anyhow::{Result, bail};

use crate::setup;

#[derive(clap::Args)]
pub struct Args {
    /// Change nothing; fail if a file isn't what its sources give, or a query asks for what doesn't exist
    #[arg(long, conflicts_with_all = ["run", "again"])]
    check: bool,
    /// Observe programs, fill a Prometheus and an InfluxDB, ask them every query, and draw the pictures in docs/images
    #[arg(long)]
    run: bool,
    /// Like --run, with what the last run has left in the databases
    #[arg(long)]
    again: bool,
    /// How many seconds the programs are observed
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 170, value_parser = clap::value_parser!(u16).range(20..=3600))]
    length: u16,
}

/// Writes or checks dashboards, alerts and rules.
pub fn run(args: &Args) -> Result<()> {
    setup::run()?;
    if args.run || args.again {
        let length = Duration::from_secs(u64::from(args.length));
        return run::run(&run::Run { length, again: args.again, pictures: true });
    }
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
