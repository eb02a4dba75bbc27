//! What it costs to get points to InfluxDB: making lines, keeping them on disk, sending them; beside a request per line, as Telegraf
//! is often set up, and beside requests without gzip. Then a backlog that is drained while new windows come.
//!
//! Against a real influxd that it starts itself. All ways take turns within one run, so that a machine whose speed drifts disturbs
//! all of them alike. `cargo xtask bench push` runs this.

#[path = "bench/push/backlog.rs"]
mod backlog;
#[path = "bench/push/influxd.rs"]
mod influxd;
#[path = "bench/push/meters.rs"]
mod meters;
#[path = "bench/push/moments.rs"]
mod moments;
#[path = "bench/push/relay.rs"]
mod relay;
#[path = "bench/push/ways.rs"]
mod ways;

use std::{process::ExitCode, str::FromStr};

use anyhow::{Context as _, bail};

/// What is asked for.
struct Wishes {
    /// How long the ways are compared.
    seconds: f64,
    /// Points that wait; 0: none.
    backlog: u64,
    /// Files of the spool that is opened; 0: none.
    files: u64,
}

fn main() -> ExitCode {
    match wishes().and_then(|wishes| bench(&wishes)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench push: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn wishes() -> anyhow::Result<Wishes> {
    fn number<T: FromStr>(text: Option<String>) -> anyhow::Result<T> {
        text.and_then(|text| text.parse().ok()).context("--seconds, --backlog and --files want a number")
    }
    let mut wishes = Wishes { seconds: 20.0, backlog: 1_000_000, files: 100_000 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seconds" => wishes.seconds = number(arguments.next())?,
            "--backlog" => wishes.backlog = number(arguments.next())?,
            "--files" => wishes.files = number(arguments.next())?,
            other => bail!("{other} means nothing here: --seconds N, --backlog N, --files N"),
        }
    }
    Ok(wishes)
}

fn bench(wishes: &Wishes) -> anyhow::Result<()> {
    // First, while memory is as at the beginning.
    if wishes.files > 0 {
        backlog::open(wishes.files)?;
    }
    let influxd = influxd::Influxd::start()?;
    if wishes.backlog > 0 {
        backlog::drain(&influxd, wishes.backlog)?;
    }
    if wishes.seconds > 0.0 {
        ways::compare(&influxd, wishes.seconds)?;
    }
    Ok(())
}
