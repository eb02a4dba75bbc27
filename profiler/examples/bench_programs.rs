//! What whole programs lose while profiler observes them: throughput, p99 latency, CPU time of their own per operation.
//!
//! Each program stays the same process for all its rounds; a round is every way of observing once, with profiler started, attached and
//! ended anew, between two turns without it. So the ways take turns, and a machine whose speed drifts disturbs all of them alike.
//! `cargo xtask bench programs` runs this; `cargo xtask bench switches` runs it with `--switches`, which measures context switches.

#[path = "bench/programs/child.rs"]
mod child;
#[path = "bench/programs/daemon.rs"]
mod daemon;
#[path = "bench/programs/load.rs"]
mod load;
#[path = "bench/programs/meters.rs"]
mod meters;
#[path = "bench/programs/own.rs"]
mod own;
#[path = "bench/programs/results.rs"]
mod results;
#[path = "bench/programs/servers/mod.rs"]
mod servers;
#[path = "bench/programs/statistics.rs"]
mod statistics;
#[path = "bench/programs/switches.rs"]
mod switches;
#[path = "bench/programs/ways.rs"]
mod ways;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use self::{
    child::Scratch,
    daemon::Profiler,
    load::{Load, Stage, WORKLOADS, Workload},
    meters::Cpu,
    results::{Results, Round, Told, Turn},
    ways::{WAYS, Way},
};

/// Rounds of a program, at least.
const ROUNDS: usize = 3;
/// After profiler has said that it counts, and after it has ended.
const SETTLE: Duration = Duration::from_millis(100);

/// What is asked for.
struct Asked {
    /// How long all takes, about; with --switches another default.
    seconds: Option<f64>,
    /// How long a turn takes.
    slice: f64,
    /// Programs; none: all.
    only: Vec<String>,
    switches: bool,
    /// The profiler, if it isn't the one that was built beside this.
    profiler: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some(own::WORK) => own::serve().map(|()| true),
        Some(switches::PING) => switches::ping(&arguments[1..]).map(|()| true),
        Some(switches::PONG) => switches::pong(&arguments[1..]).map(|()| true),
        Some(switches::IDLE) => switches::idle().map(|()| true),
        _ => Asked::by(arguments).and_then(|asked| bench(&asked)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench programs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Asked {
    fn by(arguments: Vec<String>) -> anyhow::Result<Self> {
        let mut asked = Self { seconds: None, slice: 1.0, only: Vec::new(), switches: false, profiler: None };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} wants a value"));
            match argument.as_str() {
                "--switches" => asked.switches = true,
                "--seconds" => asked.seconds = Some(value()?.parse().context("--seconds wants a number")?),
                "--slice" => asked.slice = value()?.parse().context("--slice wants a number of seconds")?,
                "--only" => asked.only.extend(value()?.split(',').map(str::to_owned)),
                "--profiler" => asked.profiler = Some(value()?.into()),
                other => bail!(
                    "{other} means nothing here: --seconds N, --slice N, --only NAME,..., --switches, --profiler FILE"
                ),
            }
        }
        if !(0.2..=20.0).contains(&asked.slice) {
            bail!("--slice wants 0.2 to 20 seconds");
        }
        if let Some(unknown) = asked.only.iter().find(|name| WORKLOADS.iter().all(|one| one.name != **name)) {
            let names: Vec<_> = WORKLOADS.iter().map(|workload| workload.name).collect();
            bail!("no program is named {unknown}: there are {}", names.join(", "));
        }
        Ok(asked)
    }
}

/// Measures; whether all limits are kept.
fn bench(asked: &Asked) -> anyhow::Result<bool> {
    child::end_in_order();
    // target/release/examples/bench_programs, beside target/release/profiler.
    let own = std::env::current_exe()?;
    let built = own.ancestors().nth(2).context("no directory of builds")?;
    let target = built.parent().context("no target directory")?;
    let binary = asked.profiler.clone().unwrap_or_else(|| built.join("profiler"));
    let scratch = Scratch::below(target)?;
    // The program that is measured alone on the last CPU, so that its throughput is what its own CPU gives, and nobody moves about.
    let [first, last] = child::cpus()?;
    let (target_cpu, client_cpu) = if first < last { (Some(last), Some(first)) } else { (None, None) };
    let profiler = Profiler::new(std::path::absolute(binary)?, client_cpu)?;
    if asked.switches {
        return switches::bench(&profiler, &scratch.room("switches")?, asked.seconds.unwrap_or(60.0));
    }
    let stage = Stage { scratch, target_cpu, client_cpu };
    programs(&profiler, &stage, asked)
}

fn programs(profiler: &Profiler, stage: &Stage, asked: &Asked) -> anyhow::Result<bool> {
    let ways: Vec<&Way> = WAYS.iter().filter(|way| profiler.has_governor || !way.governed).collect();
    let asked_for =
        |workload: &&Workload| asked.only.is_empty() || asked.only.iter().any(|name| name == workload.name);
    let (there, lacking): (Vec<_>, Vec<_>) =
        WORKLOADS.iter().filter(asked_for).partition(|workload| workload.missing().is_empty());
    let each = asked.seconds.unwrap_or(600.0) / there.len().max(1) as f64;
    let mut all = Vec::new();
    let mut failed = Vec::new();
    for workload in there {
        let results = Results { workload, rounds: Vec::new() };
        let runner =
            Runner { profiler, stage, ways: &ways, slice: Duration::from_secs_f64(asked.slice), results };
        match runner.run(each) {
            Ok(results) => all.push(results),
            // One that can't be measured doesn't take the others with it.
            Err(error) => {
                child::go_on()?;
                failed.push((workload, error));
            }
        }
    }
    report(&all, &ways, target_words(stage));
    for workload in lacking {
        println!("left out: {}, as {} is missing", workload.name, workload.missing().join(", "));
    }
    let mut kept = failed.is_empty();
    for (workload, error) in failed {
        println!("FAILED: {}: {error:#}", workload.name);
    }
    println!();
    for results in &all {
        kept &= results.judge(&ways);
    }
    Ok(kept)
}

fn target_words(stage: &Stage) -> &'static str {
    match stage.target_cpu {
        Some(_) => "the last CPU has the program alone; clients and profiler are on the first",
        None => "the program, its clients and profiler share one CPU",
    }
}

fn report(all: &[Results<'_>], ways: &[&Way], placement: &str) {
    println!("Whole programs with profiler, by the same without it; {placement}.");
    println!(
        "Changes in %, as the median of the rounds and their range. Throughput and p99 (of latency) are what a client\n\
         sees; they say too little where the client, a lock or a disk is the bottleneck. CPU each is the CPU time of the\n\
         program's own processes per operation, by the kernel's clocks of them, which doesn't depend on that: limits,\n\
         ns per hit and what profiler tells of its cost are judged by it."
    );
    for way in ways {
        println!("  {:10} {}", way.name, way.about);
    }
    println!();
    results::head(ways);
    let told = all.iter().flat_map(|results| &results.rounds).flat_map(|round| &round.ways);
    let told = told.filter_map(|turn| turn.told).any(|told| told.overhead.is_some());
    for results in all {
        results.print(ways, told);
    }
    println!();
}

/// One program.
struct Runner<'a> {
    profiler: &'a Profiler,
    stage: &'a Stage,
    ways: &'a [&'a Way],
    slice: Duration,
    results: Results<'a>,
}

impl<'a> Runner<'a> {
    fn run(mut self, seconds: f64) -> anyhow::Result<Results<'a>> {
        let name = self.results.workload.name;
        let mut load = (self.results.workload.start)(self.stage)?;
        let scratch = self.stage.scratch.room("profiler")?;
        // Twice, so that everybody is warm and knows how much is a slice.
        for _ in 0..2 {
            self.turn(&mut *load, None, &scratch)?;
        }
        let began = Instant::now();
        while self.results.rounds.len() < ROUNDS || began.elapsed().as_secs_f64() < seconds {
            eprint!("\r\x1b[K{name}: round {} ...", self.results.rounds.len() + 1);
            let before = self.turn(&mut *load, None, &scratch)?;
            let mut turns = Vec::new();
            for way in self.ways {
                let turn = self.turn(&mut *load, Some(way), &scratch);
                turns.push(turn.with_context(|| format!("with {}", way.name))?);
            }
            let behind = self.turn(&mut *load, None, &scratch)?;
            self.results.rounds.push(Round { none: [before, behind], ways: turns });
        }
        eprint!("\r\x1b[K");
        Ok(self.results)
    }

    fn turn(&self, load: &mut dyn Load, way: Option<&Way>, scratch: &Path) -> anyhow::Result<Turn> {
        load.begin()?;
        let watching = match way {
            None => None,
            Some(way) => {
                let mut arguments = way.arguments(self.profiler.has_governor);
                if load.forks() {
                    arguments.push("--children");
                }
                Some(self.profiler.attach(&[load.pid()], &arguments, scratch)?)
            }
        };
        child::pause(SETTLE)?;
        let said_before = watching.as_ref().map(daemon::Watching::scrape).transpose()?;
        let cpu_before = Cpu::of(load.pid());
        load.work(self.slice)?;
        let cpu = Cpu::of(load.pid()).since(&cpu_before);
        let said = watching.as_ref().map(daemon::Watching::scrape).transpose()?;
        let done = load.end()?;
        if let Some(watching) = watching {
            watching.finish()?;
        }
        let told = said_before.zip(said).map(|(before, after)| {
            // What works on between the scrapes and the work is scaled to the work.
            let scale = match load.is_continuous() {
                true => done.seconds / (after.observed - before.observed),
                false => 1.0,
            };
            let overhead =
                after.overhead.zip(before.overhead).map(|(after, before)| (after - before) * scale);
            let lost = after.lost - before.lost;
            (
                Told {
                    hits: (after.hits - before.hits) * scale,
                    overhead,
                    own_cpu: after.own_cpu - before.own_cpu,
                },
                lost,
            )
        });
        if let (Some((told, lost)), Some(way)) = (told, way) {
            if way.counts && told.hits <= 0.0 {
                bail!("no call of the allocator was counted");
            }
            if lost > 0.0 {
                eprintln!(
                    "\r\x1b[K{}, {}: profiler has lost {lost} events",
                    self.results.workload.name, way.name
                );
            }
        }
        let load::Done { operations, seconds, p99_us } = done;
        Ok(Turn { operations, seconds, p99_us, cpu, told: told.map(|(told, _)| told) })
    }
}
