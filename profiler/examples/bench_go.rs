//! What it costs to read a Go runtime's figures from outside: time, system calls, bytes; beside `runtime.ReadMemStats`, by which
//! the program asks itself and stops its world, in the same run. And what the program notices of being read: nothing.
//!
//! Both take turns, round after round, so that a machine whose speed drifts disturbs both alike. `cargo xtask bench go` runs this.

#[path = "bench/go/target.rs"]
mod target;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use profiler::runtime::go::{
    GoError,
    figures::{Cost, View},
};

use self::target::Target;

/// Processors of Go (`GOMAXPROCS`) that are compared.
const PROCS: [u32; 3] = [2, 16, 64];
/// Readings of each kind in a round.
const READINGS: usize = 200;
/// A scrape may cost so much at so many processors: what was promised.
const LIMIT: (u32, Duration) = (16, Duration::from_micros(50));

fn main() -> ExitCode {
    match Asked::by_arguments().and_then(bench) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench go: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is asked for.
struct Asked {
    seconds: f64,
    /// The `go` that makes the program.
    go: PathBuf,
}

impl Asked {
    fn by_arguments() -> anyhow::Result<Self> {
        let mut asked = Self { seconds: 12.0, go: "go".into() };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{argument} wants a value"))?;
            match argument.as_str() {
                "--seconds" => asked.seconds = value.parse().context("--seconds wants a number")?,
                "--go" => asked.go = value.into(),
                other => bail!("{other} means nothing here: --seconds N, --go PROGRAM"),
            }
        }
        Ok(asked)
    }
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Outside(View),
    /// The program itself, by `runtime.ReadMemStats`.
    Inside,
}

const WAYS: [(Way, &str); 3] = [
    (Way::Outside(View::Metrics), "from outside, as runtime/metrics"),
    (Way::Outside(View::MemStats), "from outside, as ReadMemStats"),
    (Way::Inside, "ReadMemStats, which stops the world"),
];

/// Measures; whether the limit is kept and nothing was stopped.
fn bench(asked: Asked) -> anyhow::Result<bool> {
    let program = target::build(&asked.go)?;
    println!(
        "a program made by {}, read while it is idle and while two goroutines allocate",
        program.version
    );
    let each = Duration::from_secs_f64(asked.seconds / (2 * PROCS.len()) as f64);
    let mut kept = true;
    for procs in PROCS {
        for busy in [false, true] {
            kept &= compare(&program, procs, busy, each)?;
        }
    }
    Ok(kept)
}

fn compare(program: &target::Program, procs: u32, busy: bool, time: Duration) -> anyhow::Result<bool> {
    let mut target = Target::start(program, procs)?;
    target.ask("work 3000")?;
    target.ask("gc")?;
    if busy {
        target.ask("busy 2")?;
    }
    let mut runtime = target.attach(program)?;
    let mut took: [Vec<Duration>; WAYS.len()] = Default::default();
    let mut costs = [Cost::default(); WAYS.len()];
    // Readings that were given up since the program changed all the time.
    let mut restless = [0; WAYS.len()];
    let begin = Instant::now();
    while begin.elapsed() < time {
        for (number, (way, _)) in WAYS.into_iter().enumerate() {
            match way {
                Way::Inside => took[number].extend(target.measure(READINGS)?),
                Way::Outside(view) => {
                    for _ in 0..READINGS {
                        let one = Instant::now();
                        match runtime.read(view) {
                            Ok(_) => costs[number] = runtime.cost(),
                            Err(GoError::Restless(_)) => restless[number] += 1,
                            Err(error) => return Err(error.into()),
                        }
                        took[number].push(one.elapsed());
                    }
                }
            }
        }
    }
    println!("\nGOMAXPROCS={procs}, {}", if busy { "two goroutines allocate" } else { "idle" });
    let mut kept = true;
    for (number, (way, name)) in WAYS.into_iter().enumerate() {
        let (median, late) = (quantile(&mut took[number], 0.5), quantile(&mut took[number], 0.99));
        let cost = match way {
            Way::Inside => String::new(),
            Way::Outside(_) => {
                let Cost { calls, bytes, .. } = costs[number];
                format!(
                    ", {calls} system calls, {bytes} bytes, {} of {} given up",
                    restless[number],
                    took[number].len()
                )
            }
        };
        println!("  {name:38} median {:>9} p99 {:>9}{cost}", micros(median), micros(late));
        if way == Way::Outside(View::Metrics) && procs <= LIMIT.0 && median > LIMIT.1 {
            println!("  FAILED: more than {}", micros(LIMIT.1));
            kept = false;
        }
    }
    if !busy {
        kept &= undisturbed(&mut target, &mut runtime)?;
    }
    target.end()?;
    Ok(kept)
}

/// Whether the program, at rest, notices nothing of a thousand readings: as far as its Go can tell.
fn undisturbed(target: &mut Target, runtime: &mut target::Runtime) -> anyhow::Result<bool> {
    target.ask("gogc -1")?;
    let before = target.stops()?;
    target.rest()?;
    let switches = target.switches()?;
    for _ in 0..1000 {
        runtime.read(View::Metrics)?;
    }
    let woken = target.switches()? - switches;
    println!("  1000 readings: switches of its threads {woken}");
    let stopped = match before.zip(target.stops()?) {
        Some((before, behind)) => {
            println!("  stops of its world before and behind: {before} {behind}");
            before != behind
        }
        None => {
            println!("  stops of its world: this Go doesn't count its stops");
            false
        }
    };
    Ok(woken == 0 && !stopped)
}

fn quantile(took: &mut [Duration], part: f64) -> Duration {
    took.sort_unstable();
    let at = (took.len() as f64 * part) as usize;
    took.get(at.min(took.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn micros(time: Duration) -> String {
    format!("{:.1} us", time.as_secs_f64() * 1e6)
}
