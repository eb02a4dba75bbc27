//! Programs of our own, which count and time what they do themselves: they answer a line with the milliseconds to work by one with
//! operations, seconds and the 99th percentile in nanoseconds.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    hint::black_box,
    io::{BufRead as _, Write as _},
    process::{ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use super::{
    child::{self, Lines, Running},
    load::{Done, Load, Stage, program},
};

/// Sources, as they are.
pub const MAPS: &str = include_str!("sources/maps.cpp");
pub const PAIRS: &str = include_str!("sources/pairs.c");
const LATENCIES: &str = include_str!("sources/latencies.h");
const DOCUMENTS: &str = include_str!("sources/documents.py");

/// How the bench is told to be the Rust program.
pub const WORK: &str = "--work";

/// What it may take longer than it was told.
const PATIENCE: Duration = Duration::from_secs(20);

struct Own {
    process: Running,
    input: ChildStdin,
    output: Lines,
    answer: String,
}

/// A program that is compiled here.
pub fn compiled(stage: &Stage, compiler: &str, name: &str, source: &str) -> anyhow::Result<Box<dyn Load>> {
    let room = stage.scratch.room("compiled")?;
    let (file, binary) = (room.join(name), room.join(format!("{name}.out")));
    fs::write(&file, source)?;
    fs::write(room.join("latencies.h"), LATENCIES)?;
    let mut command = Command::new(program(compiler)?);
    command.args(["-O2", "-o"]).arg(&binary).arg(&file);
    child::run(&mut command, compiler, Duration::from_secs(60), None)?;
    start(&mut Command::new(binary), name, stage)
}

/// CPython with its own allocator, as it is installed.
pub fn python(stage: &Stage) -> anyhow::Result<Box<dyn Load>> {
    let mut command = Command::new(program("python3")?);
    // Without what is set for other programs.
    command.args(["-I", "-c", DOCUMENTS]);
    start(&mut command, "python3", stage)
}

/// This program again, as a Rust program that allocates.
pub fn rust(stage: &Stage) -> anyhow::Result<Box<dyn Load>> {
    start(Command::new(std::env::current_exe()?).arg(WORK), "the Rust program", stage)
}

fn start(command: &mut Command, name: &str, stage: &Stage) -> anyhow::Result<Box<dyn Load>> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Running::start(command, name, Signal::KILL, stage.target_cpu)?;
    let (input, output) = (process.input()?, process.output()?);
    Ok(Box::new(Own { process, input, output, answer: String::new() }))
}

impl Load for Own {
    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn work(&mut self, time: Duration) -> anyhow::Result<()> {
        writeln!(self.input, "{}", time.as_millis())?;
        self.answer = self.output.next(time + PATIENCE)?.context("the program has ended")?;
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<Done> {
        let numbers: Vec<f64> =
            self.answer.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let [operations, seconds, p99_ns] = numbers[..] else {
            bail!("the program's answer is no answer: {}", self.answer);
        };
        Ok(Done { operations, seconds, p99_us: p99_ns / 1e3 })
    }
}

/// The Rust program: an order that is written, found again, and an old one that is thrown away; ends with its input.
pub fn serve() -> anyhow::Result<()> {
    let mut shop = Shop { random: 0x9e37_79b9_7f4a_7c15, ..Shop::default() };
    let mut latencies = Latencies::default();
    for line in std::io::stdin().lock().lines() {
        let time = Duration::from_millis(line?.trim().parse().context("no number of milliseconds")?);
        latencies.clear();
        let (mut operations, began) = (0_u64, Instant::now());
        let mut now = began;
        while now.duration_since(began) < time {
            shop.trade();
            let after = Instant::now();
            latencies.add(u64::try_from(after.duration_since(now).as_nanos())?);
            now = after;
            operations += 1;
        }
        let seconds = now.duration_since(began).as_secs_f64();
        println!("{operations} {seconds:.9} {}", latencies.p99(operations));
    }
    Ok(())
}

#[derive(Default)]
struct Shop {
    random: u64,
    orders: BTreeMap<String, Vec<String>>,
    customers: HashMap<String, String>,
}

impl Shop {
    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % end
    }

    fn customer(&mut self) -> String {
        format!("customer/{}/of this shop", self.below(2000))
    }

    fn trade(&mut self) {
        let customer = self.customer();
        let order = format!("{customer}/order/{}", self.below(4));
        let lines = (0..8).map(|_| {
            let article = format!("article {}", self.below(100_000));
            article + &".".repeat(usize::try_from(self.below(64)).unwrap_or_default())
        });
        let lines = black_box(lines.collect());
        self.orders.insert(order.clone(), lines);
        self.customers.insert(customer, order);
        let other = self.customer();
        if let Some(order) = self.customers.remove(&other) {
            self.orders.remove(&order);
        }
    }
}

/// Latencies in buckets, 128 for each power of two: to 0.8 %.
struct Latencies(Vec<u64>);

/// How many bits of a latency are kept behind its first.
const BITS: u32 = 7;
const PARTS: usize = 1 << BITS;

impl Default for Latencies {
    fn default() -> Self {
        Self(vec![0; PARTS * (u64::BITS - BITS + 1) as usize])
    }
}

impl Latencies {
    fn clear(&mut self) {
        self.0.fill(0);
    }

    fn add(&mut self, ns: u64) {
        let shift = (u64::BITS - ns.leading_zeros()).saturating_sub(BITS + 1);
        // Small ones have the first two rows for themselves, each latency its own bucket.
        let at = (ns >> shift) as usize + PARTS * shift as usize;
        if let Some(bucket) = self.0.get_mut(at) {
            *bucket += 1;
        }
    }

    fn p99(&self, operations: u64) -> u64 {
        let mut seen = 0;
        let found = self.0.iter().enumerate().rev().find(|(_, count)| {
            seen += **count;
            seen > operations / 100
        });
        let at = found.map_or(0, |(at, _)| at);
        let shift = (at / PARTS).saturating_sub(1);
        ((at - PARTS * shift) as u64) << shift
    }
}
