//! `cargo xtask dashboards`: dashboards, alerts and recording rules, made from the jsonnet files in `dashboards/`.
//!
//! What is made is committed beside its sources, so that who wants to import it needs no jsonnet. `--check` says whether
//! it is what the sources give, and whether every query asks for something that the profiler has (`profiler metrics`).

mod answers;
mod catalogue;
mod chronograf;
mod draw;
mod generated;
mod grafana;
mod influxql;
mod promql;
mod promtool;
mod questions;
mod rules;
mod run;
mod stage;
mod words;

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::{setup, style, workspace};
use catalogue::Catalogue;

/// What to do about each alert.
const RUNBOOK: &str = "docs/runbook.md";

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

/// Fails if a generated file differs from what its sources give, if a query asks for what the profiler doesn't have, if a
/// dashboard breaks a rule, or if an alert doesn't do what its tests say.
pub fn check() -> Result<()> {
    let evaluated = generated::evaluate()?;
    let mut catalogue = Catalogue::of_profiler()?;
    let mut found = generated::differences(&evaluated)?;
    found.extend(contents(&evaluated, &mut catalogue));
    let (alerts, rules) = (named(&evaluated, "alerts", "alert"), named(&evaluated, "rules", "record"));
    found.extend(rules::untested(&promtool::tests()?, &evaluated["alerts"], &rules));
    let runbook = std::fs::read_to_string(workspace::root().join(RUNBOOK)).unwrap_or_default();
    found.extend(rules::without_section(&runbook, &alerts));
    for finding in &found {
        println!("{finding}");
    }
    if !found.is_empty() {
        bail!(
            "{} findings in dashboards and rules, listed above; `cargo xtask dashboards` writes the generated files",
            found.len()
        );
    }
    promtool::run()?;
    style::say(&format!(
        "{} dashboards and rules are what their sources give, and ask for what exists",
        style::mark(true)
    ));
    Ok(())
}

/// What is wrong in the rules, then in the dashboards, which may use the rules.
fn contents(evaluated: &Value, catalogue: &mut Catalogue) -> Vec<String> {
    let mut found = rules::recording(&evaluated["rules"], catalogue);
    found.extend(rules::alerts(&evaluated["alerts"], catalogue));
    found.extend(grafana::check(&evaluated["grafana"], catalogue));
    found.extend(chronograf::check(&evaluated["chronograf"], catalogue));
    found
}

fn named<'a>(evaluated: &'a Value, key: &str, kind: &str) -> Vec<&'a str> {
    rules::named(&evaluated[key], kind)
}
