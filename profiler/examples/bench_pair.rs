//! What a `malloc`/`free` pair costs the target: without probes, with empty probes, with profiler counting; with `--leaks`,
//! with profiler sampling for a leak hunt, and with a script that does it as others do.
//!
//! A worker process runs `free(p[k]); p[k] = malloc(n)` in a loop and measures its own CPU time. The ways of probing
//! take turns within one run, round after round, so that a machine whose speed drifts disturbs all of them alike.
//! `cargo xtask bench pair` and `cargo xtask bench leaks` run this.

#[path = "bench/private.rs"]
mod private;
#[path = "bench/script.rs"]
mod script;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, ExitCode, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail};
use profiler::{
    binary,
    kernel::{Kernel, Plan, Returns, SitePlan, Sizes, Wanted},
    session::{Chosen, Images, Session},
    target::{PinnedObject, Process},
    worker as sandboxed,
};
use profiler_common::{
    alloc::{AllocFunction, AllocSite},
    sample::Sampling,
};

use self::{private::PrivateLibrary, script::Script};

/// Blocks that live at once.
const SLOTS: usize = 512;
/// How the worker tells itself from the bench.
const WORKER: &str = "--worker";

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == sandboxed::ARGUMENT) {
        return sandboxed::serve();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == WORKER) {
        worker();
        return ExitCode::SUCCESS;
    }
    let seconds = arguments
        .iter()
        .position(|argument| argument == "--seconds")
        .and_then(|at| arguments.get(at + 1))
        .and_then(|text| text.parse().ok())
        .unwrap_or(20.0);
    let leaks = arguments.iter().any(|argument| argument == "--leaks");
    match bench(if leaks { &LEAKS } else { &PAIR }, seconds) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench pair: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Answers every line `N` with the CPU nanoseconds per pair of N pairs; ends with its input.
fn worker() {
    let mut blocks = vec![std::ptr::null_mut(); SLOTS];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for line in std::io::stdin().lock().lines() {
        let Some(pairs) = line.ok().and_then(|line| line.trim().parse::<u64>().ok()) else { return };
        let began = cpu_ns();
        for _ in 0..pairs {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let slot = &mut blocks[(random % SLOTS as u64) as usize];
            // SAFETY: a slot holds null or a block of its own, which is not used again.
            unsafe {
                libc::free(*slot);
                *slot = libc::malloc(((random >> 32) % 1000 + 1) as usize);
            }
        }
        println!("{}", (cpu_ns() - began) as f64 / pairs as f64);
    }
}

/// CPU time of the calling process, which has one thread.
fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// A way of probing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    None,
    EmptySites,
    EmptySymbols,
    Counting,
    CountingAndStalls,
    Sampling,
    SamplingPairs,
    Script,
}

/// Ways that are compared, and what is to come out.
struct Suite {
    ways: &'static [Way],
    /// What the table compares with.
    base: Way,
    limits: &'static [Limit],
}

/// One way may cost so many times what another costs, at most (or at least).
struct Limit {
    of: Way,
    to: Way,
    at_least: bool,
    times: f64,
}

const PAIR: Suite = Suite {
    ways: &[Way::None, Way::EmptySites, Way::EmptySymbols, Way::Counting, Way::CountingAndStalls],
    base: Way::EmptySites,
    limits: &[],
};

const LEAKS: Suite = Suite {
    ways: &[Way::None, Way::Counting, Way::Sampling, Way::SamplingPairs, Way::Script],
    base: Way::Counting,
    limits: &[
        Limit { of: Way::Sampling, to: Way::Counting, at_least: false, times: 1.10 },
        Limit { of: Way::Script, to: Way::Sampling, at_least: true, times: 10.0 },
    ],
};

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "no probes",
            Self::EmptySites => "empty probes at our sites",
            Self::EmptySymbols => "empty probes at the symbols",
            Self::Counting => "profiler, counting",
            Self::CountingAndStalls => "profiler, counting and stalls",
            Self::Sampling => "profiler, counting and sampling",
            Self::SamplingPairs => "the same, every return taken (before Linux 6.13)",
            Self::Script => "bpftrace, with memleak's probes",
        }
    }

    /// Fewer pairs where each one is dear.
    const fn pairs(self) -> u64 {
        match self {
            Self::None => 4_000_000,
            Self::EmptySymbols | Self::Script => 15_000,
            Self::EmptySites
            | Self::Counting
            | Self::CountingAndStalls
            | Self::Sampling
            | Self::SamplingPairs => 150_000,
        }
    }
}

struct Bench {
    _private: PrivateLibrary,
    worker: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pinned: PinnedObject,
    /// The library with the allocator, as the worker names it.
    library: String,
    /// File offsets of our sites, and of the symbols, for `malloc` and `free`.
    sites: [u64; 2],
    plans: Vec<SitePlan>,
    symbols: [u64; 2],
}

/// Measures, and says whether all limits are kept.
fn bench(suite: &Suite, seconds: f64) -> anyhow::Result<bool> {
    let mut bench = Bench::start()?;
    let mut results = Results { suite, values: vec![Vec::new(); suite.ways.len()] };
    let began = std::time::Instant::now();
    while results.rounds() < 3 || began.elapsed().as_secs_f64() < seconds {
        for (way, values) in suite.ways.iter().zip(&mut results.values) {
            values.push(bench.measure(*way)?);
        }
        eprint!("\rround {} ...", results.rounds());
    }
    eprint!("\r\x1b[K");
    Ok(results.report())
}

/// CPU nanoseconds per pair: a list for each way, with an entry for each round.
struct Results<'a> {
    suite: &'a Suite,
    values: Vec<Vec<f64>>,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

impl Results<'_> {
    fn rounds(&self) -> usize {
        self.values.last().map_or(0, Vec::len)
    }

    fn of(&self, way: Way) -> &[f64] {
        let at = self.suite.ways.iter().position(|other| *other == way);
        at.map_or(&[], |at| &self.values[at])
    }

    /// Ratios round by round: what disturbs a round disturbs both sides of it.
    fn ratio(&self, of: Way, to: Way) -> f64 {
        let ratios: Vec<f64> = self.of(of).iter().zip(self.of(to)).map(|(of, to)| of / to).collect();
        median(&ratios)
    }

    fn report(&self) -> bool {
        let base = self.suite.base;
        println!("CPU ns per malloc/free pair of the target, {} rounds in one run:\n", self.rounds());
        println!("| | median | least | most | times {} |", base.name());
        println!("|---|---|---|---|---|");
        for way in self.suite.ways {
            let values = self.of(*way);
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(0.0, f64::max);
            println!(
                "| {} | {:.0} | {least:.0} | {most:.0} | {:.2} |",
                way.name(),
                median(values),
                self.ratio(*way, base)
            );
        }
        println!();
        if self.suite.limits.is_empty() {
            println!(
                "counting is {:.2} times the empty probes at our sites, and 1/{:.1} of the empty probes at the symbols",
                self.ratio(Way::Counting, Way::EmptySites),
                1.0 / self.ratio(Way::Counting, Way::EmptySymbols)
            );
        }
        let mut kept = true;
        for Limit { of, to, at_least, times } in self.suite.limits {
            let ratio = self.ratio(*of, *to);
            let holds = if *at_least { ratio >= *times } else { ratio <= *times };
            kept &= holds;
            println!(
                "{} costs {ratio:.2} times {}: limit at {} {times:.2}, {}",
                of.name(),
                to.name(),
                if *at_least { "least" } else { "most" },
                if holds { "kept" } else { "BROKEN" }
            );
        }
        kept
    }
}

/// Probes of allocators and nothing else.
const PLAN: Plan = Plan {
    alloc: true,
    stalls: false,
    mappings: false,
    events: false,
    multi: true,
    samples: false,
    sessions: false,
    growth: None,
    victims: false,
    go_stops: false,
};

impl Bench {
    fn start() -> anyhow::Result<Self> {
        let private = PrivateLibrary::new()?;
        let mut worker = private
            .command()?
            .arg(WORKER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("can't start the worker")?;
        let (Some(input), Some(output)) = (worker.stdin.take(), worker.stdout.take()) else {
            bail!("the worker has no pipes");
        };
        let mut output = BufReader::new(output);
        let mut input = input;
        // Once, so that the worker is past its start and its allocator is warm.
        ask(&mut input, &mut output, 100_000)?;
        let process = Process::open(worker.id())?;
        for object in process.mapped_objects()? {
            let pinned = process.pin(&object)?;
            let bytes = pinned.read()?;
            let Ok(image) = binary::analyse(&bytes, None) else { continue };
            let hook = |function| image.hooks.iter().find(|hook| hook.function == function);
            if let (Some(malloc), Some(free)) = (hook(AllocFunction::Malloc), hook(AllocFunction::Free)) {
                let symbol =
                    |hook: &binary::Hook| image.file_offset_of(hook.address).context("no such address");
                let sites = [malloc.site.file_offset, free.site.file_offset];
                let symbols = [symbol(malloc)?, symbol(free)?];
                let plans = [malloc, free].map(plan).to_vec();
                let library = object.path.clone();
                return Ok(Self {
                    _private: private,
                    worker,
                    input,
                    output,
                    pinned,
                    library,
                    sites,
                    plans,
                    symbols,
                });
            }
        }
        bail!("the worker has no allocator that profiler knows");
    }

    fn measure(&mut self, way: Way) -> anyhow::Result<f64> {
        match way {
            Way::None => self.ask(way),
            Way::EmptySites => self.with_empty(way, self.sites),
            Way::EmptySymbols => self.with_empty(way, self.symbols),
            Way::Counting => self.with_session(way, wanted(false, false)),
            Way::CountingAndStalls => self.with_session(way, wanted(true, false)),
            Way::Sampling | Way::SamplingPairs => self.with_samples(way),
            Way::Script => self.with_script(way),
        }
    }

    fn with_script(&mut self, way: Way) -> anyhow::Result<f64> {
        let script = Script::start(self.worker.id(), &self.library)?;
        let result = self.ask(way)?;
        let seen = script.finish()?;
        if seen < way.pairs() {
            bail!("bpftrace has seen only {seen} of {} pairs", way.pairs());
        }
        Ok(result)
    }

    fn with_empty(&mut self, way: Way, offsets: [u64; 2]) -> anyhow::Result<f64> {
        let mut kernel = Kernel::load(PLAN, Sizes { targets: 1, sites: 1 }, Duration::from_millis(1), false)?;
        let mut links = Vec::new();
        for offset in offsets {
            links.push(kernel.attach_empty(self.worker.id(), &self.pinned.path(), offset)?);
        }
        self.ask(way)
    }

    /// As a session does it, with a reader that keeps up.
    fn with_samples(&mut self, way: Way) -> anyhow::Result<f64> {
        let sessions = way == Way::Sampling;
        let plan = Plan { samples: true, sessions, ..PLAN };
        let mut kernel = Kernel::load(plan, Sizes { targets: 1, sites: 4 }, Duration::from_millis(1), false)?;
        let expected = if sessions { Returns::Session } else { Returns::Probe };
        if *kernel.returns() != expected {
            bail!("this kernel can't: {:?}", kernel.returns());
        }
        let link = kernel.attach_alloc(self.worker.id(), &self.pinned.path(), &self.plans)?;
        let (mut reader, _live) = kernel.take_samples().context("no samples")?;
        kernel.sample(0, Sampling::with_mean(512 << 10))?;
        kernel.count_calls(0, true)?;
        let done = AtomicBool::new(false);
        let (result, told) = std::thread::scope(|scope| {
            let told = scope.spawn(|| {
                let mut told = 0;
                while !done.load(Ordering::Relaxed) {
                    while reader.next().is_some() {
                        told += 1;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                told
            });
            let result = self.ask(way);
            done.store(true, Ordering::Relaxed);
            (result, told.join().unwrap_or(0))
        });
        let counted = kernel.alloc_counts(link.sites()[0])?[0];
        if counted.allocations < way.pairs() || told < counted.bytes / (512 << 10) / 2 {
            bail!("of {counted:?}, {told} samples were told");
        }
        result
    }

    fn with_session(&mut self, way: Way, wanted: Wanted) -> anyhow::Result<f64> {
        let mut session =
            Session::open(wanted, 1, Duration::from_millis(1), false, Images::new(None, false)?)?;
        let process = Process::open(self.worker.id())?;
        session.attach(Chosen { process, group: "bench".into(), follow: false })?;
        let result = self.ask(way);
        let last = session.finish()?;
        let seen = last.targets.first().map_or(0, |target| target.alloc.total().allocated());
        if seen < way.pairs() {
            bail!("only {seen} of {} pairs were counted", way.pairs());
        }
        result
    }

    fn ask(&mut self, way: Way) -> anyhow::Result<f64> {
        ask(&mut self.input, &mut self.output, way.pairs())
    }
}

fn plan(hook: &binary::Hook) -> SitePlan {
    let registers = hook.registers.map(|register| register as u8);
    let site = AllocSite { op: hook.op as u8, registers, flags: hook.flags, slot: 0, reserved: 0 };
    SitePlan { file_offsets: vec![hook.site.file_offset], site, sampled: hook.not_sampled.is_none() }
}

fn ask(input: &mut ChildStdin, output: &mut BufReader<ChildStdout>, pairs: u64) -> anyhow::Result<f64> {
    writeln!(input, "{pairs}")?;
    let mut line = String::new();
    output.read_line(&mut line)?;
    line.trim().parse().context("the worker has ended")
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ended = self.worker.kill();
        let _reaped = self.worker.wait();
    }
}

const fn wanted(stalls: bool, samples: bool) -> Wanted {
    Wanted { alloc: true, stalls, samples, ..Wanted::NOTHING }
}
